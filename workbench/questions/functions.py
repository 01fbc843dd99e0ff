"""Functions that an experiment's file may name: what they compute from its runs.

Each gives tidy frames for the chart kinds (:mod:`workbench.charts.kinds`), by the names listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from . import np2m, paging, state_layouts, tags, vendors, waits
from .runs import Run

Frames = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Function:
    """``make`` gives the ``frames``, by name, from the runs of an experiment."""

    make: Callable[[Sequence[Run]], Frames]
    frames: tuple[str, ...]


FUNCTIONS: dict[str, Function] = {
    "delivery": Function(
        waits.delivery, ("waits", "percentiles", "blocked", "cost", "record", "windows")
    ),
    "gif": Function(waits.gif, ("waits", "percentiles", "blocked", "cost", "exits")),
    "np2m": Function(np2m.np2m, ("emptied", "filled", "bill")),
    "paging": Function(paging.paging, ("pairs", "walks", "exits", "flushes")),
    "state_layouts": Function(state_layouts.frames, ("fields", "sizes", "forgets")),
    "tags": Function(tags.tags, ("cycles", "saved", "flushes")),
    "vendors": Function(vendors.frames, ("cycles", "parts", "tlb")),
}
"""Name in a file -> function."""
