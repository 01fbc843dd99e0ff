"""The counts of a stored point as one Parquet table, and its timeline as another.

Rows are the non-zero counts; the column ``array`` says which array of the counts a row belongs to,
the other columns name its place there and are null where the array has no such axis.
"""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .counts import RawCounts
from .errors import ResultError
from .store_tables import TIMELINE, axis_columns, parse_frames, raw_tables

COUNTS_FILE, TIMELINE_FILE = "counts", "timeline"


def write_entry(raw: RawCounts) -> dict[str, bytes]:
    """``counts``, and ``timeline`` unless it is empty, each as the content of a Parquet file."""
    tables = raw_tables(raw)
    timeline = tables.pop(TIMELINE)
    stems = {name.removesuffix(".parquet"): table for name, table in tables.items()}
    parts = [table.assign(array=stem) for stem, table in stems.items() if len(table)]
    together = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"array": []})
    files = {COUNTS_FILE: _parquet(_schema_order(together))}
    if len(timeline):
        files[TIMELINE_FILE] = _parquet(pa.Table.from_pandas(timeline, preserve_index=False))
    return files


def _schema_order(frame: pd.DataFrame) -> pa.Table:
    """``array`` first, ``count`` last; whole numbers stay whole beside nulls."""
    axes = [name for name in frame.columns if name not in ("array", "count")]
    columns = {}
    for name in ["array", *axes, "count"]:
        cells = frame.get(name, pd.Series(dtype="int64"))
        text = cells.dtype == object or isinstance(cells.dtype, pd.StringDtype)
        columns[name] = pa.array(cells, pa.string() if text else pa.int64(), from_pandas=True)
    return pa.table(columns)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_statistics=False)
    return buffer.getvalue()


def read_entry(files: dict[str, bytes], place: Path) -> RawCounts:
    """The counts of an entry's files."""
    if COUNTS_FILE not in files:
        raise ResultError(f"{place} lists no counts", "run the point again")
    together = pq.read_table(io.BytesIO(files[COUNTS_FILE])).to_pandas()
    groups = dict(iter(together.groupby("array", sort=False)))
    frames = {}
    for name, axes in axis_columns().items():
        part = groups.get(name)
        frames[name] = pd.DataFrame(
            {c: part[c] if part is not None else [] for c in (*axes, "count")}
        )
    if TIMELINE_FILE in files:
        frames["timeline"] = pq.read_table(io.BytesIO(files[TIMELINE_FILE])).to_pandas()
    return parse_frames(frames)
