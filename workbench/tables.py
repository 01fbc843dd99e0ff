"""Reading the product's hand-kept tables: CSV with a commented header, and the bibliography.

A line that starts with ``#`` is provenance; ``# key: value`` lines are also returned as metadata.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .paths import data_dir

_META = re.compile(r"#\s*([a-z_]+):\s*(.*)")


@dataclass(frozen=True)
class Table:
    """Rows of one CSV file as text, and its ``# key: value`` header lines."""

    meta: dict[str, str]
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]


def parse_table(text: str) -> Table:
    """Read a CSV with a commented header from ``text``; missing cells become empty strings.

    Raises
    ------
    ValueError
        A row has more cells than there are columns.
    """
    lines = text.splitlines()
    meta = {m[1]: m[2] for m in map(_META.fullmatch, lines) if m}
    body = io.StringIO("\n".join(line for line in lines if not line.startswith("#")))
    reader = csv.DictReader(body, restval="")
    found = list(reader)
    for row in found:
        if None in row:
            first = next(iter(row.values()))
            raise ValueError(f"the row {first!r} has more cells than there are columns")
    rows = tuple({k: (v or "").strip() for k, v in row.items() if k} for row in found)
    return Table(meta, tuple(reader.fieldnames or ()), rows)


def read_table(path: Path) -> Table:
    """Read a CSV with a commented header from a file."""
    return parse_table(path.read_text(encoding="utf-8"))


@cache
def data_table(name: str) -> Table:
    """A table of the ``data`` folder by its name without ``.csv``, for example ``features``."""
    return read_table(data_dir() / f"{name}.csv")


def source_key(source: str) -> str:
    """The bibliography key of a source cell such as ``amd-apm2 15.16 TLB Control``."""
    return source.split()[0] if source.split() else ""


def source_keys(source: str) -> tuple[str, ...]:
    """The bibliography keys of a cell that names several sources separated by ``;``."""
    return tuple(key for key in map(source_key, source.split(";")) if key)


@cache
def bibliography() -> dict[str, dict[str, str]]:
    """Every entry of ``data/sources.bib``: key -> its fields, and its text under ``bibtex``."""
    text = (data_dir() / "sources.bib").read_text(encoding="utf-8")
    entries = {}
    for line in filter(lambda part: part.startswith("@"), text.splitlines()):
        kind, key = re.match(r"@(\w+)\{([^,]+),", line).groups()  # type: ignore[union-attr]
        fields = dict(re.findall(r"(\w+)=\{((?:[^{}]|\{[^{}]*\})*)\}", line))
        entries[key] = {"kind": kind, **fields, "bibtex": line}
    return entries


def reference(key: str) -> str:
    """One source in one line: authors, title, where, year; of a key of the user's own, just that."""
    entry = bibliography().get(key)
    if entry is None:
        what = "prices set by hand" if key == "user" else "as a price file of one's own says"
        return f"[{key}] {what}"
    place = entry.get("booktitle") or entry.get("note", "")
    parts = (entry.get("author", "").replace(" and ", "; "), entry["title"], place)
    return f"[{key}] " + ", ".join(filter(None, (*parts, entry.get("year", ""))))
