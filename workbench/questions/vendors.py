"""SVM beside VMX in the runs of an experiment: cycles with bounds, cost by part, TLB flushes.

Instructions of L2 are the common unit: both back-ends run the same binary of L2.  Prices of the two
are those of two machines; what they differ in says as much about these as about the interfaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from ..prices import PARTS
from ..result import Result
from . import measures
from .runs import Run

CYCLES = "cycles_per_l2_kinstr"
_TLB = {"flushes": "flushes", "entries dropped": "entries_dropped", "refills": "refills"}


def frames(runs: Sequence[Run]) -> Mapping[str, pd.DataFrame]:
    """``cycles``, ``parts`` (of the last L2 program) and ``tlb``, per 1000 instructions of L2.

    Places of the runs are (L1 program, L2 program).
    """
    last = runs[-1].place[1]
    chosen = [run for run in runs if run.place[1] == last]
    return {"cycles": cycles(runs), "parts": parts(chosen), "tlb": tlb(runs)}


def cycles(runs: Sequence[Run]) -> pd.DataFrame:
    """panel (L2 program), x (L1 program), series (alternative), value, low, high."""
    lines = []
    for run in runs:
        reading = measures.read(run.result, CYCLES)
        bounds = reading.value, reading.low, reading.high
        lines.append((run.place[1], run.place[0], run.alternative, *bounds))
    return _tidy(lines)


def parts(runs: Sequence[Run]) -> pd.DataFrame:
    """panel (L1 program), x (alternative), series (part of the work, and ``all``) and values."""
    lines = []
    for run in runs:
        table = run.result.parts * (1000 / max(measures.instructions(run.result), 1))
        for part in (*PARTS, "all"):
            ends = ("cycles", "cycles_low", "cycles_high")
            values = [float(table[end].to_dict()[part]) for end in ends]
            if values[0]:
                lines.append((run.place[0], run.alternative, part, *values))
    return _tidy(lines)


def tlb(runs: Sequence[Run]) -> pd.DataFrame:
    """panel (what, per 1000 instructions of L2), x (alternative), y (L2 program), value.

    Over all L1 programs together.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        groups.setdefault((run.alternative, run.place[1]), []).append(run.result)
    return pd.DataFrame(
        [
            {"panel": what, "x": alternative, "y": program, "value": _rate(results, column)}
            for what, column in _TLB.items()
            for (alternative, program), results in groups.items()
        ]
    )


def _rate(results: Sequence[Result], column: str) -> float:
    count = sum(int(result.tlb[column].sum()) for result in results)
    return count * 1000 / max(sum(measures.instructions(result) for result in results), 1)


def _tidy(lines: Iterable[tuple[object, ...]]) -> pd.DataFrame:
    columns = ["panel", "x", "series", "value", "low", "high"]
    return pd.DataFrame(list(lines), columns=columns)
