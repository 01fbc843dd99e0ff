"""The timeline: what happened in which order, until its limit is reached."""

from __future__ import annotations

from .jit import inner
from .layout import TIMELINE_LENGTH


@inner
def record(m, kind, code, info, from_level, to_level):
    """One line of the timeline, until its limit is reached."""
    led = m.ledger
    n = led.timeline_next
    if n >= led.timeline_limit or n >= TIMELINE_LENGTH:
        return
    led.timeline_next = n + 1
    e = led.timeline[n]
    e.step = m.steps
    e.time = led.time
    e.code = code
    e.info = info
    e.rip = m.cpu.rip
    e.kind = kind
    e.from_level = from_level
    e.to_level = to_level
    e.cause = led.cause
