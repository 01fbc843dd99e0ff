"""The timeline: what happened in which order, until its limit is reached."""

from __future__ import annotations

from .jit import inner
from .ledger import (
    P_L1_ACCESS,
    TIMELINE_LENGTH,
    TL_ENTRY_REFUSED,
    TL_FIELD_READ,
    TL_FIELD_WRITE,
    count_field,
)


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


@inner
def refuse(m, check, level):
    """Note that an entry of ``level``'s (0: L0's own, 1: L1's) failed ``check``; returns it."""
    m.check = check
    m.checks_failed += 1
    record(m, TL_ENTRY_REFUSED, check, 0, level, level)
    return check


@inner
def l1_field_access(m, slot, write, value, to_level):
    """L1's VMREAD or VMWRITE reached a field: served by L0 (``to_level`` 0) or by hardware (1)."""
    count_field(m, slot, P_L1_ACCESS, write)
    record(m, TL_FIELD_WRITE if write else TL_FIELD_READ, slot, value, 1, to_level)
