"""What a run counted after another one ended: the first part of the same run, such as its warm-up.

A run whose program stops early executes the same as the beginning of one that goes on.  What the
longer one counted beyond it is its steady state, without first touches and set-up.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..errors import ResultError
from ..frozen import FrozenMap
from ..measure.counts import SHAPES
from ..result import Result

_COUNTED_FACTS = (
    "steps", "bare_instructions", "l1_instructions", "l2_instructions", "simulated_cycles",
    "virtual_entries", "virtual_exits", "host_ticks", "refused_entries", "unknown_count",
)  # fmt: skip


def since(result: Result, start: Result) -> Result:
    """The counts of ``result`` less those of ``start``; the timeline stays empty.

    How both end, a few exits, cancels but for what the caches hold then: a count of what happened
    nowhere else, such as walks that found memory only, can be just below 0.

    Raises
    ------
    ResultError
        ``start`` executed more of the L2 program: it is not the beginning of ``result``.
    """
    before, after = start.raw, result.raw
    if start.l2_instructions > result.l2_instructions:
        message = "the run that is taken off executed more instructions of L2"
        raise ResultError(message, "take off a run that is the beginning of the other one")
    counts = {name: getattr(after, name) - getattr(before, name) for name in SHAPES}
    none = np.zeros((0, after.timeline.shape[1]), np.int64)
    raw = dataclasses.replace(after, **counts, timeline=none)
    facts = dict(result.facts)
    facts |= {name: facts[name] - start.facts[name] for name in _COUNTED_FACTS}
    return dataclasses.replace(result, raw=raw, facts=FrozenMap(facts))
