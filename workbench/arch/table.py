"""Read one table of the manuals' constants from data/arch."""

from __future__ import annotations

import csv
from functools import cache

from ..paths import data_dir


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """Rows of ``data/arch/<name>.csv``; lines starting with # are provenance."""
    with open(data_dir() / "arch" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(line for line in file if not line.startswith("#")))


def identifier(name: str) -> str:
    """The manual's name as an identifier: upper case, words joined by ``_``."""
    return "".join(c if c.isalnum() else "_" for c in name).upper()


def values(name: str, prefix: str = "") -> dict[str, int]:
    """``{prefix + NAME: value}`` of a table with ``name`` and ``value`` columns; rows without a number are left out."""
    return {
        prefix + identifier(r["name"]): int(r["value"], 0)
        for r in rows(name)
        if r["value"][:1].isdigit()
    }
