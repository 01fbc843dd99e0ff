"""Paging modes: each against each other, and what the processor and L0 do for an access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from ..core.ledger import EVENTS
from ..measure.frames import without_boot
from ..result import Result
from .measures import accesses, gain, read
from .runs import Run

SHORT = {"nested on nested": "NoN", "shadow on nested": "SoN", "shadow on shadow": "SoS"}
_WALKS = [EVENTS.index(f"WALK_FROM_{place}") for place in ("L1_CACHE", "L2_CACHE", "LLC", "MEMORY")]


def _lines(
    runs: Sequence[Run], number: int, at: object, value: Callable[[Result], float]
) -> pd.DataFrame:
    """A count over axis ``number``, where the other one has the value ``at``."""
    lines = []
    for run in runs:
        if run.place[1 - number] == at:
            found = value(run.measured)
            lines.append({"panel": run.backend.upper(), "series": run.alternative,
                          "x": run.place[number], "value": found, "low": found, "high": found})  # fmt: skip
    return pd.DataFrame(lines)


def pairs(runs: Sequence[Run]) -> pd.DataFrame:
    """Cycles saved by one mode over another [%], each pair of modes: panel, x, y, value, mark.

    A panel is called by the back-end and the modes, as in ``SVM: NoN over SoS``.
    """
    found: dict[tuple[str, object, object], dict[str, Result]] = {}
    for run in runs:
        where = (run.backend.upper(), *run.place)
        found.setdefault(where, {})[run.alternative] = run.measured
    names = list(dict.fromkeys(run.alternative for run in runs))
    lines = []
    for better, than in combinations(names, 2):
        for (backend, x, y), modes in found.items():
            old = read(modes[than], "cycles_per_access").value
            saved, low, high = gain(modes[than], modes[better], "cycles_per_access")
            panel = f"{backend}: {SHORT.get(better, better)} over {SHORT.get(than, than)}"
            lines.append({"panel": panel, "x": x, "y": y,
                          "value": 100 * saved / old,
                          "mark": "open" if low < 0 < high else ""})  # fmt: skip
    frame = pd.DataFrame(lines)
    return frame.sort_values("panel", kind="stable", ignore_index=True)


def _references(result: Result) -> float:
    counts: np.ndarray = without_boot(result.raw).sum(axis=0)
    return float(counts[_WALKS].sum() / accesses(result))


def _exits(result: Result) -> float:
    return float(1000 * result.raw.exits.sum() / accesses(result))


def _flushes(result: Result) -> float:
    return float(1000 * result.raw.flushes.sum() / accesses(result))


def paging(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """pairs; walks: references of page walks per access over the working set without changes;
    exits and flushes per 1000 accesses over the rate of changes, in the largest set."""
    still = min(run.place[0] for run in runs)
    largest = max(run.place[1] for run in runs)
    return {
        "pairs": pairs(runs),
        "walks": _lines(runs, 1, still, _references),
        "exits": _lines(runs, 0, largest, _exits),
        "flushes": _lines(runs, 0, largest, _flushes),
    }
