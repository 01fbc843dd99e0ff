"""Raw counts as long tables and back. Names are stored, not numbers: a ledger that grows by an
event or a cause still reads older results."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.ledger import (
    BLOCK_REASONS,
    CAUSES,
    EVENTS,
    FIELD_PHASES,
    FLUSH_REASONS,
    FLUSH_SCOPES,
    STATE_EVENTS,
    STATE_FIELDS,
)
from ..errors import ResultError
from .counts import SHAPES, TIMELINE_COLUMNS, RawCounts

TIMELINE = "timeline.parquet"
_ACCESS = tuple(f"{phase}/{how}" for phase in FIELD_PHASES for how in ("read", "write"))
_STATE_ACCESS = tuple(f"{field}/{how}" for field in STATE_FIELDS for how in ("read", "write"))
_KINDS = ("interrupt", "nmi")
_AXES: dict[str, tuple[tuple[str, tuple[str, ...] | None], ...]] = {
    "counts": (("cause", CAUSES), ("event", EVENTS)),
    "exits": (("from_level", None), ("place", None), ("handler", None), ("cause", CAUSES)),
    "flushes": (("reason", FLUSH_REASONS), ("scope", FLUSH_SCOPES)),
    "dropped": (("reason", FLUSH_REASONS), ("scope", FLUSH_SCOPES)),
    "refills": (("reason", FLUSH_REASONS),),
    "refill_references": (("reason", FLUSH_REASONS),),
    "refill_walks": (("cause", CAUSES), ("found", ("l1_cache", "l2_cache", "llc", "memory"))),
    "fields": (("field", None), ("access", _ACCESS)),
    "state": (("event", STATE_EVENTS), ("access", _STATE_ACCESS)),
    "blocked": (("reason", BLOCK_REASONS),),
    "blocked_time": (("reason", BLOCK_REASONS),),
    "delivered": (("level", None), ("kind", _KINDS)),
    "latency": (("level", None), ("kind", _KINDS), ("quarter_octave", None)),
    "latency_time": (("level", None), ("kind", _KINDS)),
}
"""Axes of each array: name, and the names of its places (None = the number itself)."""
_LATER = ("state", "blocked", "blocked_time", "delivered", "latency", "latency_time")
"""Arrays that the oldest stored results do not have: they counted none of it."""


def raw_tables(raw: RawCounts) -> dict[str, pd.DataFrame]:
    """File name -> table of the non-zero counts, and the timeline as it is."""
    tables = {f"{name}.parquet": _table(name, getattr(raw, name)) for name in _AXES}
    tables[TIMELINE] = pd.DataFrame(raw.timeline, columns=list(TIMELINE_COLUMNS))
    return tables


def nonzero_columns(raw: RawCounts) -> dict[str, dict[str, np.ndarray]]:
    """Array of the counts -> its non-zero counts as columns: one per axis, then ``count``."""
    return {name: _columns(name, getattr(raw, name)) for name in _AXES}


def _columns(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    places = np.nonzero(array)
    columns = {}
    for (axis, names), index in zip(_AXES[name], places, strict=True):
        columns[axis] = index if names is None else np.array([names[i] for i in index], object)
    return columns | {"count": array[places]}


def _table(name: str, array: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(_columns(name, array))


def parse_tables(files: dict[str, bytes], place: Path) -> RawCounts:
    """The raw counts of a result's files (name -> content)."""
    arrays = {}
    for name in (*_AXES, "timeline"):
        file = f"{name}.parquet"
        if file not in files and name in _LATER:
            arrays[name] = np.zeros(SHAPES[name], np.int64)
            continue
        if file not in files:
            hint = "restore the directory from a copy, or run the scenario again"
            raise ResultError(f"{file} is not listed in the manifest", hint)
        table = pd.read_parquet(io.BytesIO(files[file]))
        arrays[name] = _timeline(table) if file == TIMELINE else _array(name, table)
    return RawCounts(**arrays)


def axis_columns() -> dict[str, tuple[str, ...]]:
    """Array of the counts -> the names of its axes."""
    return {name: tuple(axis for axis, _ in axes) for name, axes in _AXES.items()}


def parse_frames(tables: dict[str, pd.DataFrame]) -> RawCounts:
    """The raw counts of tables by array; no timeline means that none was recorded."""
    none = np.zeros((0, len(TIMELINE_COLUMNS)), np.int64)
    timeline = _timeline(tables["timeline"]) if "timeline" in tables else none
    arrays = {name: _array(name, tables[name]) for name in _AXES}
    return RawCounts(**arrays, timeline=timeline)


def _timeline(table: pd.DataFrame) -> np.ndarray:
    return table[list(TIMELINE_COLUMNS)].to_numpy(np.int64).reshape(-1, len(TIMELINE_COLUMNS))


def _array(name: str, table: pd.DataFrame) -> np.ndarray:
    array = np.zeros(SHAPES[name], np.int64)
    index = tuple(_index(axis, names, table[axis]) for axis, names in _AXES[name])
    if any((i < 0).any() or (i >= n).any() for i, n in zip(index, array.shape, strict=True)):
        raise ResultError(f"{name}.parquet counts something out of range", "update the workbench")
    array[index] = table["count"]
    return array


def _index(axis: str, names: tuple[str, ...] | None, cells: pd.Series) -> np.ndarray:
    if names is None:
        return cells.to_numpy(np.int64)
    number = {name: i for i, name in enumerate(names)}
    unknown = sorted(set(cells) - set(number))
    if unknown:
        hint = "it comes from another version of the workbench: update this one"
        raise ResultError(f"no {axis} called {unknown[0]!r} is known", hint)
    return np.array([number[name] for name in cells], np.int64)
