"""The counts of a stored point as one Parquet table, and its timeline as another.

Rows are the non-zero counts; the column ``array`` says which array of the counts a row belongs to,
the other columns name its place there and are null where the array has no such axis.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ResultError
from ..measure.counts import TIMELINE_COLUMNS, RawCounts
from ..measure.store_tables import axis_columns, nonzero_columns, parse_frames

COUNTS_FILE, TIMELINE_FILE = "counts", "timeline"


def write_entry(raw: RawCounts) -> dict[str, bytes]:
    """``counts``, and ``timeline`` unless it is empty, each as the content of a Parquet file."""
    parts = [_rows(name, columns) for name, columns in nonzero_columns(raw).items()]
    together = pa.concat_tables(parts, promote_options="default")
    order = [name for name in together.column_names if name != "count"]
    files = {COUNTS_FILE: _parquet(together.select([*order, "count"]))}
    if len(raw.timeline):
        columns = {name: raw.timeline[:, i] for i, name in enumerate(TIMELINE_COLUMNS)}
        files[TIMELINE_FILE] = _parquet(pa.table(columns))
    return files


def _rows(name: str, columns: dict[str, np.ndarray]) -> pa.Table:
    """The rows of one array, its name in the first column."""
    cells = {"array": pa.array([name] * len(columns["count"]), pa.string())}
    for axis, values in columns.items():
        cells[axis] = pa.array(values, pa.string() if values.dtype == object else pa.int64())
    return pa.table(cells)


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
