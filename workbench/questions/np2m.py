"""What emptying a nested p2m costs: how often tables are emptied, and filling them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from ..result import Result
from .runs import Run

_EMPTYING = ("L0_NP2M_FLUSHED", "L0_NP2M_ENTRY_ZAPPED")
_INVALIDATION = {"svm": "INVLPGA", "vmx": "INVEPT"}
_SHOWN = 8
"""Pages at once of the bill."""


def batches(run: Run) -> float:
    """How often L1 took pages away: it invalidates once for each of them."""
    exits = run.result.exits
    done = exits.loc[exits["exit"] == _INVALIDATION[run.backend], "count"].sum()
    return max(float(done) / run.place[0], 1.0)


def _emptied(run: Run) -> float:
    return run.result.raw.event("L0_NP2M_FLUSHED") / batches(run)


def _filled(run: Run) -> float:
    return run.result.raw.event("L0_NP2M_INSTALLED") / batches(run)


def _lines(runs: Sequence[Run], value: Callable[[Run], float]) -> pd.DataFrame:
    lines = []
    for run in runs:
        found = value(run)
        lines.append({"panel": f"{run.backend.upper()}, {run.place[1]}", "series": run.alternative,
                      "x": run.place[0], "value": found, "low": found, "high": found})  # fmt: skip
    return pd.DataFrame(lines)


def _cycles(result: Result) -> dict[str, float]:
    table = result.counts
    emptying = table["event"].isin(_EMPTYING)
    fault = (table["cause"] == "NESTED_PAGE_FAULT") & ~emptying
    return {
        "emptying tables": float(table.loc[emptying, "cycles"].sum()),
        "nested page faults": float(table.loc[fault, "cycles"].sum()),
    }


def bill(runs: Sequence[Run]) -> pd.DataFrame:
    """Cycles per batch of eight pages: panel, x (policy), series (what for), value."""
    lines = []
    for run in runs:
        if run.place[0] != _SHOWN:
            continue
        for name, cycles in _cycles(run.result).items():
            value = cycles / batches(run)
            lines.append({"panel": f"{run.backend.upper()}, {run.place[1]}", "series": name,
                          "x": run.alternative, "value": value, "low": value, "high": value})  # fmt: skip
    return pd.DataFrame(lines)


def np2m(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """emptied, filled: tables emptied and entries filled per batch of L1; bill: their cycles."""
    return {"emptied": _lines(runs, _emptied), "filled": _lines(runs, _filled), "bill": bill(runs)}
