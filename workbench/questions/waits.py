"""How long events wait, for what reason, and what a deferred virtual exit costs beside time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from ..charts.distribution import PERCENTILES
from ..charts.interrupts import REASONS
from ..measure.frames import BOUNDS, latency_quantiles
from ..result import Result
from .runs import Run

RECORD = ("vmexit_pending", "exitcode", "exitinfo1", "exitinfo2")
"""The nested state's part of a virtual exit that is on its way: forcevmexit of 2010."""
WINDOWS = {
    "VINTR": "interrupt window", "INTERRUPT_WINDOW": "interrupt window",
    "NMI_WINDOW": "NMI window",
}  # fmt: skip
"""Exits that L0 takes in order to deliver an event that had to wait."""
GIF_MOVES = {"STGI": "STGI", "CLGI": "CLGI"}
_ORDER = ("svm_gif", "rflags_ie", "nmi_iret", "tpr", "shadow")
_KINDS = {"interrupt": "interrupts", "nmi": "NMIs"}


def _groups(runs: Sequence[Run]) -> Iterable[tuple[str, str, list[Result]]]:
    """Back-end, alternative and its runs at all points."""
    found: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        found.setdefault((run.backend.upper(), run.alternative), []).append(run.result)
    return [(*key, results) for key, results in found.items()]


def waits(runs: Sequence[Run]) -> pd.DataFrame:
    """Cumulative distribution of the waits of L1's events, the runs of all points together.

    Columns: panel (back-end and kind of event), series (alternative), x and x_end (bounds of a bin
    [cycles]), events, value (share of events below ``x_end`` [%]).
    """
    lines = []
    for backend, alternative, results in _groups(runs):
        for (kind,), rows in _latency(results).groupby(["kind"]):
            bins = rows.groupby(["from_cycles", "below_cycles"], as_index=False)["count"].sum()
            share = 100 * bins["count"].cumsum() / bins["count"].sum()
            lines.append(
                pd.DataFrame(
                    {
                        "panel": f"{backend}, {_KINDS[str(kind)]}", "series": alternative,
                        "x": bins["from_cycles"], "x_end": bins["below_cycles"],
                        "events": bins["count"], "value": share,
                    }
                )
            )  # fmt: skip
    return _by_panel(pd.concat(lines, ignore_index=True))


def percentiles(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean and percentiles of the same waits: panel, series, x (p50 ...), value [cycles]."""
    lines = []
    for backend, alternative, results in _groups(runs):
        for (kind,), rows in _latency(results).groupby(["kind"]):
            panel = f"{backend}, {_KINDS[str(kind)]}"
            taken = pd.concat([result.deliveries for result in results])
            taken = taken[(taken["level"] == "L1") & (taken["kind"] == kind) & (taken["taken"] > 0)]
            mean = (taken["latency_cycles"] * taken["taken"]).sum() / taken["taken"].sum()
            found = latency_quantiles(rows, [share / 100 for share in PERCENTILES])
            names = ["mean", *(f"p{share}" for share in PERCENTILES)]
            for name, value in zip(names, (mean, *found), strict=True):
                lines.append(_line(panel, alternative, name, value))
    return _by_panel(pd.DataFrame(lines))


def _latency(results: Sequence[Result]) -> pd.DataFrame:
    every = pd.concat([result.latency for result in results], ignore_index=True)
    return every[every["level"] == "L1"]


def _line(panel: str, series: str, x: str, value: float) -> dict[str, object]:
    return {"panel": panel, "series": series, "x": x, "value": value, "low": value, "high": value}


def _by_panel(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("panel", kind="stable", ignore_index=True)


def blocked(runs: Sequence[Run]) -> pd.DataFrame:
    """What L1's events waited for: panel, x (alternative), series (reason), value [cycles per event]."""
    lines = []
    for backend, alternative, results in _groups(runs):
        table = pd.concat([result.interrupts for result in results])
        events = sum(int(result.deliveries["taken"].sum()) for result in results)
        cycles = table.groupby("reason")["cycles"].sum()
        for reason in _ORDER:
            share = cycles[reason] / events
            lines.append(_line(backend, REASONS[reason], alternative, share))
    return pd.DataFrame(lines)


def _per_virtual_exit(
    runs: Sequence[Run], counts: Callable[[Result], dict[str, int]]
) -> pd.DataFrame:
    lines = []
    for backend, alternative, results in _groups(runs):
        exits = sum(result.facts["virtual_exits"] for result in results)
        every = [counts(result) for result in results]
        for name in every[0]:
            total = sum(found[name] for found in every)
            lines.append(_line(backend, alternative, name, total / exits))
    return pd.DataFrame(lines)


def record(runs: Sequence[Run]) -> pd.DataFrame:
    """Reads and writes of the record of a pending exit, per virtual exit, by field."""

    def accesses(result: Result) -> dict[str, int]:
        table = result.fields
        table = table[table["event"] != "RESET"]
        both = (table["reads"] + table["writes"]).groupby(table["field"]).sum()
        return {name: int(both.get(name, 0)) for name in RECORD}

    return _per_virtual_exit(runs, accesses)


def served(runs: Sequence[Run], names: Mapping[str, str]) -> pd.DataFrame:
    """Exits per 1000 virtual exits, by name and level that exited; ``names``: exit -> what it is
    called.  Those that never happened are left out."""

    def exits(result: Result) -> dict[str, int]:
        table = result.exits
        called = table["exit"].map(names)
        return {
            f"{level} {name}": int(table.loc[(called == name) & (table["from_level"] == level),
                                              "count"].sum())
            for name in dict.fromkeys(names.values())
            for level in ("L1", "L2")
        }  # fmt: skip

    frame = _per_virtual_exit(runs, exits)
    columns = ["value", "low", "high"]
    frame[columns] *= 1000
    used = frame.groupby(["panel", "x"])["value"].transform("max") > 0
    return frame[used].reset_index(drop=True)


def cost(runs: Sequence[Run]) -> pd.DataFrame:
    """Cycles (without the set-up) and hardware exits per virtual exit, over the runs of all points."""
    lines = []
    for backend, alternative, results in _groups(runs):
        virtual = sum(result.facts["virtual_exits"] for result in results)
        exits = sum(int(result.raw.exits.sum()) for result in results)
        cycles = sum(result.parts.loc["all", list(BOUNDS)] for result in results) / virtual
        bounds = {name: cycles[column] for column, name in BOUNDS.items()}
        lines.append(_line(f"{backend}: cycles", "", alternative, 0) | bounds)
        lines.append(_line(f"{backend}: hardware exits", "", alternative, exits / virtual))
    return _by_panel(pd.DataFrame(lines))


def delivery(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """For deferred and immediate exits: waits, percentiles, reasons, record, window exits."""
    return event_frames(runs) | {"record": record(runs), "windows": served(runs, WINDOWS)}


def event_frames(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """For any experiment with events: waits, percentiles, reasons, cycles and exits."""
    return {
        "waits": waits(runs), "percentiles": percentiles(runs), "blocked": blocked(runs),
        "cost": cost(runs),
    }  # fmt: skip


def gif(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """For emulated and virtual GIF: waits, percentiles, reasons, exits that deliver or move GIF."""
    return event_frames(runs) | {"exits": served(runs, WINDOWS | GIF_MOVES)}
