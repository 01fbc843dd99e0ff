"""The three layouts of nested state as tables, and what a run touched of them.

Bytes and cache lines follow from the table of offsets; which fields an event touches comes from a
result.  A cache line has 64 bytes, and every structure starts on one.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from ..nested_layouts import LAYOUTS, rows
from ..result import Result
from .frames import rows as tuples

LINE = 64
BACKENDS = ("svm", "vmx")
_COLUMNS = ["layout", "backend", "struct", "field", "name", "c_type", "offset", "size", "bit"]
_TEXTS = ["place", "status", "in_xen", "note", "source"]
_UNION = "nestedvcpu"
"""A structure with its vendor part inside: one object, whatever the name says after the dot."""


def _structure(name: str) -> str:
    return _UNION if name.startswith(_UNION) else name


def layouts() -> pd.DataFrame:
    """Every field of every layout of the per-vcpu nested state, on both back-ends.

    Returns
    -------
    DataFrame
        layout, backend, struct, field (the model's name, empty where the model has no such state),
        name and c_type (the design's), offset and size in bytes and bit (nullable integers; a
        fetched field has none), first_line and lines (cache lines of 64 bytes from the start of
        the structure), place (``generic``, ``vendor``, ``fetched``), status in the review of 2010
        (``consensus``, ``neutral``, ``disputed``), in_xen (where it went; ``dropped`` if nowhere),
        note, source.
    """
    lines = [
        {**row, "backend": backend}
        for layout in LAYOUTS
        for backend in BACKENDS
        for row in rows(layout, backend)
    ]
    frame = pd.DataFrame(lines)[[*_COLUMNS, *_TEXTS]]
    for name in ("offset", "size", "bit"):
        frame[name] = pd.to_numeric(frame[name].replace("", np.nan)).astype("Int64")
    frame["first_line"] = frame["offset"] // LINE
    frame["lines"] = (frame["offset"] + frame["size"] - 1) // LINE - frame["first_line"] + 1
    return frame


def layout_totals() -> pd.DataFrame:
    """Bytes and cache lines per vcpu: layout, backend, place, bytes, lines, kept, fetched.

    ``bytes`` runs from the first to the last field of what is allocated; ``kept`` and ``fetched``
    count the model's fields.  The union of merged-2011 is one object with its generic part.
    """
    frame = layouts()
    frame["object"] = frame["struct"].map(_structure)
    kept = frame[frame["place"] != "fetched"]
    end = (kept["offset"] + kept["size"]).groupby(
        [kept["layout"], kept["backend"], kept["object"]]
    ).max()  # fmt: skip
    sizes = ((end + 7) // 8 * 8).where(end > 1, end).rename("bytes").reset_index()
    sizes["lines"] = (sizes["bytes"] + LINE - 1) // LINE
    totals = sizes.groupby(["layout", "backend"], as_index=False)[["bytes", "lines"]].sum()
    named = frame[frame["field"] != ""]
    fetched = (named["place"] == "fetched").groupby([named["layout"], named["backend"]])
    counts = fetched.agg(["sum", "size"]).reset_index()
    totals["fetched"] = counts["sum"].astype(int)
    totals["kept"] = (counts["size"] - counts["sum"]).astype(int)
    return totals.astype({"bytes": int, "lines": int})


def layout_traffic(result: Result) -> pd.DataFrame:
    """What a run touched of its nested state, by event.

    Returns
    -------
    DataFrame
        layout, event, reads, writes, bytes (of all accesses to kept fields), fields and lines
        (different ones, each counted once), fetches (reads that went to vmcx12).
    """
    scenario = result.scenario
    seen = _seen(result)
    lines = []
    for event, part in seen.groupby("event", sort=False):
        kept = part[part["place"] != "fetched"]
        accesses = kept["reads"] + kept["writes"]
        touched = _lines(kept)
        lines.append(
            {
                "layout": str(scenario.all_features["state_layout"]),
                "event": event,
                "reads": int(part["reads"].sum()),
                "writes": int(part["writes"].sum()),
                "bytes": int((accesses * kept["size"]).sum()),
                "fields": len(part),
                "lines": len(touched),
                "fetches": int(part.loc[part["place"] == "fetched", "reads"].sum()),
            }
        )
    names = ["layout", "event", "reads", "writes", "bytes", "fields", "lines", "fetches"]
    return pd.DataFrame(lines, columns=names)


def lines_touched(result: Result, events: Collection[str]) -> int:
    """Different cache lines of the nested state that some events touched, each counted once."""
    seen = _seen(result)
    return len(_lines(seen[seen["event"].isin(events) & seen["place"].ne("fetched")]))


def _seen(result: Result) -> pd.DataFrame:
    """The accesses to fields of the nested state, with where the layout has them."""
    frame = layouts()
    scenario = result.scenario
    mine = frame["layout"].eq(str(scenario.all_features["state_layout"]))
    table = frame[mine & frame["backend"].eq(scenario.backend) & frame["field"].ne("")]
    seen = result.fields.merge(table, on="field", suffixes=("", "_of"))
    return seen[seen["place"] == seen["place_of"]]


def _lines(kept: pd.DataFrame) -> set[tuple[str, int]]:
    return {
        (_structure(row.struct), line)
        for row in tuples(kept)
        for line in range(int(row.first_line), int(row.first_line) + int(row.lines))
    }
