"""What the layouts of nested state come to in the runs of an experiment.

Which events touch which fields of the patch's structure, and which fields nobody reads; bytes and
cache lines; and what a layout that does not remember has to do again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ..core.ledger import STATE_EVENTS
from ..measure.layout_tables import layout_totals, layout_traffic, layouts, lines_touched
from ..nested_layouts import BEHIND_ARCH, LAYOUTS, places
from ..result import Result
from .runs import Run

PATCH = BEHIND_ARCH
"""The layout of the patch under review; its shared structure is what was argued about."""
FETCHING = "minimal-2010"
_SHARED = "nestedhvm"
_HOT = ("L2_EXIT_ROUTED", "L2_EXIT_TO_L1", "VMENTRY", "HW_ENTRY")
_EVENTS = {
    "VMENTRY": "virtual entry", "L2_EXIT_ROUTED": "whose exit?", "L2_EXIT_KEPT": "exit kept by L0",
    "L2_EXIT_TO_L1": "exit to L1", "L2_CR3_WRITE": "CR3 write of L2", "L1_EXIT": "exit of L1",
    "HW_ENTRY": "hardware entry", "P2M_CHANGE": "change of p2m",
}  # fmt: skip
_STATUSES = ("consensus", "neutral", "disputed")


def frames(runs: Sequence[Run]) -> Mapping[str, pd.DataFrame]:
    """``fields``, ``sizes`` and ``forgets``, see the functions; runs differ in ``state_layout``."""
    return {"fields": fields(runs), "sizes": sizes(runs), "forgets": forgets(runs)}


def _results(runs: Sequence[Run], backend: str, layout: str) -> list[Result]:
    return [run.result for run in runs if (run.backend, run.alternative) == (backend, layout)]


def _backends(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.backend for run in runs))


def _switches(results: Sequence[Result]) -> float:
    return float(sum(result.facts["virtual_exits"] for result in results) or 1)


# ---------------------------------------------------------------- fields by event


def fields(runs: Sequence[Run]) -> pd.DataFrame:
    """Accesses to the shared structure of the patch, by field and event.

    Returns
    -------
    DataFrame
        panel (back-end), group (status in the review), y (field), x (event), reads, writes, value
        (their sum) per switch from L2 to L1 and back; mark: ``unused`` where no event but RESET
        reads the field in any of the runs, ``stale`` where an event after the virtual entry reads a
        field that is a copy of what vmcx12 had at that entry.
    """
    table = layouts()
    table = table[(table["layout"] == PATCH) & (table["struct"] == _SHARED)]
    lines = []
    for backend in _backends(runs):
        results = _results(runs, backend, PATCH)
        seen = pd.concat([result.fields for result in results])
        seen = seen[seen["place"] == "generic"]
        counts = seen.pivot_table(["reads", "writes"], ["field", "event"], aggfunc="sum")
        counts /= _switches(results)
        lines += _rows(backend, table[table["backend"] == backend], counts)
    frame = pd.DataFrame(lines)
    touched = frame.groupby("x")["value"].sum()
    frame = frame[frame["x"].map(touched) > 0]
    standing = frame["group"].map(_STATUSES.index)
    order = frame.assign(standing=standing).sort_values(["panel", "standing"], kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def _rows(backend: str, table: pd.DataFrame, counts: pd.DataFrame) -> list[dict[str, object]]:
    copies = {name for name, place in places(FETCHING, backend).items() if place == "fetched"}
    copies.add("msrpm")  # a full copy on both back-ends, though only SVM has its place in vmcx12
    events = [event for event in STATE_EVENTS if event != "RESET"]
    lines: list[dict[str, object]] = []
    for row in table.to_dict("records"):
        found = [counts.loc[key] if (key := (row["field"], event)) in counts.index else None
                 for event in events]  # fmt: skip
        unused = not any(cell is not None and cell["reads"] for cell in found)
        for event, cell in zip(events, found, strict=True):
            reads, writes = (0.0, 0.0) if cell is None else (cell["reads"], cell["writes"])
            stale = bool(reads) and row["field"] in copies and event != "VMENTRY"
            lines.append(
                {
                    "panel": backend.upper(), "group": row["status"], "y": row["name"],
                    "x": _EVENTS.get(event, event.lower().replace("_", " ")),
                    "reads": reads, "writes": writes, "value": reads + writes,
                    "mark": "unused" if unused else "stale" if stale else "",
                }
            )  # fmt: skip
    return lines


# ---------------------------------------------------------------- bytes, lines, what is forgotten


def sizes(runs: Sequence[Run]) -> pd.DataFrame:
    """Bytes and cache lines by layout, and what the hot path touches of them.

    Returns
    -------
    DataFrame
        panel (what, with its unit), x (layout), series (back-end), value.
    """
    totals = layout_totals()
    lines = []
    for backend in _backends(runs):
        for layout in LAYOUTS:
            mine = totals[(totals["layout"] == layout) & (totals["backend"] == backend)]
            results = _results(runs, backend, layout)
            traffic = pd.concat([layout_traffic(result) for result in results])
            hot = traffic[traffic["event"].isin(_HOT)]
            switches = _switches(results)
            told = {
                "bytes per vcpu": int(mine["bytes"].iloc[0]),
                "cache lines per vcpu": int(mine["lines"].iloc[0]),
                "cache lines of the hot path": max(lines_touched(r, _HOT) for r in results),
                "bytes accessed per switch to L1": float(hot["bytes"].sum()) / switches,
            }
            lines += [(what, layout, backend.upper(), n) for what, n in told.items()]
    return _sorted(pd.DataFrame(lines, columns=["panel", "x", "series", "value"]))


def forgets(runs: Sequence[Run]) -> pd.DataFrame:
    """What each layout fetches, and does again because it does not remember.

    Returns
    -------
    DataFrame
        panel (what, per switch from L2 to L1 and back), x (layout), series (back-end), value.
    """
    lines = []
    for backend in _backends(runs):
        for layout in LAYOUTS:
            results = _results(runs, backend, layout)
            fetches = sum(int(layout_traffic(result)["fetches"].sum()) for result in results)
            told = {
                "fetches from vmcx12": fetches,
                "tags renewed": _events(results, "L0_TAG_ALLOCATED"),
                "nested p2m emptied": _events(results, "L0_NP2M_FLUSHED"),
                "nested p2m entries made": _events(results, "L0_NP2M_INSTALLED"),
            }
            switches = _switches(results)
            lines += [(what, layout, backend.upper(), n / switches) for what, n in told.items()]
    return _sorted(pd.DataFrame(lines, columns=["panel", "x", "series", "value"]))


def _events(results: Sequence[Result], name: str) -> int:
    return sum(result.raw.event(name) for result in results)


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    order = list(dict.fromkeys(frame["panel"]))
    frame = frame.sort_values("panel", key=lambda p: p.map(order.index), kind="stable")
    return frame.assign(low=frame["value"], high=frame["value"]).reset_index(drop=True)
