"""Tables as files that other tools open."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import WorkbenchError
from ..paths import write_atomically

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".parquet", ".json")


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, Parquet or JSON, by the name's ending; all or nothing."""
    if path.suffix == ".csv":
        data = table.to_csv(index=False, lineterminator="\n").encode()
    elif path.suffix == ".json":
        data = (table.to_json(orient="records", indent=1, double_precision=15) + "\n").encode()
    else:
        buffer = io.BytesIO()
        mixed = [name for name in table if table[name].dtype == object]
        kinds = {name: str for name in mixed if len(set(map(type, table[name]))) > 1}
        table.astype(kinds).to_parquet(buffer, index=False)
        data = buffer.getvalue()
    try:
        write_atomically(path, data)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise WorkbenchError(f"{path}: cannot be written: {reason}", "check the path") from None
    return path
