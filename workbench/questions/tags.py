"""Tag policies: cycles beside refills, and what L0 does to the TLB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ..result import Result
from .measures import gain, read
from .runs import Run

_DONE = {
    "flushes executed": "L0_FLUSH_EXECUTED",
    "new tags": "L0_TAG_ALLOCATED",
}
_SHOWN = 600
"""Pages of the bars."""
_THAN = "shared, flushed"


def _line(run: Run, panel: str, x: object, value: float) -> dict[str, object]:
    return {"panel": panel, "series": run.alternative, "x": x, "value": value,
            "low": value, "high": value}  # fmt: skip


def cycles(runs: Sequence[Run]) -> pd.DataFrame:
    """Cycles per access over the working set, with the bounds of the prices."""
    lines = []
    for run in runs:
        if run.place[1] == _most(runs):
            found = read(run.measured, "cycles_per_access")
            lines.append(_line(run, run.backend.upper(), run.place[0], found.value)
                         | {"low": found.low, "high": found.high})  # fmt: skip
    return pd.DataFrame(lines)


def saved(runs: Sequence[Run]) -> pd.DataFrame:
    """Cycles per exit of L2 that a policy saves over the shared tag, by number of tags."""
    base: Mapping[tuple[object, ...], Result] = {
        (run.backend, *run.place): run.measured for run in runs if run.alternative == _THAN
    }
    lines = []
    for run in runs:
        if run.alternative == _THAN:
            continue
        than, mine = base[run.backend, *run.place], run.measured
        each = [found / mine.l2_operations for found in gain(than, mine, "cycles")]
        panel = f"{run.backend.upper()}, {run.place[1]} tags"
        lines.append(_line(run, panel, run.place[0], each[0]) | {"low": each[1], "high": each[2]})
    return pd.DataFrame(lines)


def flushes(runs: Sequence[Run]) -> pd.DataFrame:
    """Flushes executed and tags taken per exit of L2, by number of tags."""
    lines = []
    for run in runs:
        if run.place[0] != _SHOWN or run.place[1] not in (_least(runs), _most(runs)):
            continue
        for name, event in _DONE.items():
            value = run.measured.raw.event(event) / run.measured.l2_operations
            panel = f"{run.backend.upper()}: {name}"
            lines.append(_line(run, panel, f"{run.place[1]} tags", value))
    frame = pd.DataFrame(lines)
    return frame.sort_values("panel", kind="stable", ignore_index=True)


def _most(runs: Sequence[Run]) -> int:
    return int(max(run.place[1] for run in runs))


def _least(runs: Sequence[Run]) -> int:
    return int(min(run.place[1] for run in runs))


def tags(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """cycles, saved (over the working set), flushes (by policy and number of tags)."""
    return {"cycles": cycles(runs), "saved": saved(runs), "flushes": flushes(runs)}
