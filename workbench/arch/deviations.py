"""What the modelled L0s do differently from the manuals: one bit of a word each.

``DEV_<ID>`` is the mask of a row of data/deviations.csv, in the order of the file; the word
``m.feat.deviations`` says which are on.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable

from ..paths import data_dir


def _read() -> tuple[dict[str, str], ...]:
    with open(data_dir() / "deviations.csv", newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(line for line in file if not line.startswith("#")))


ROWS = _read()
"""Rows of the table as text."""
IDS = tuple(row["id"] for row in ROWS)
MASKS = {name: 1 << place for place, name in enumerate(IDS)}
"""Bit of each deviation, by id."""
if len(IDS) > 62:
    raise ValueError("data/deviations.csv has more rows than a word has bits")

globals().update({f"DEV_{name.upper()}": mask for name, mask in MASKS.items()})


def __getattr__(name: str) -> int:  # the constants made above, for type checkers
    raise AttributeError(name)


def word(ids: Iterable[str]) -> int:
    """The word with the bits of the named deviations."""
    return sum(MASKS[name] for name in ids)


def of(l0: str, backend: str) -> tuple[str, ...]:
    """Ids of the deviations that a personality of L0 has on a back-end."""
    return tuple(
        r["id"] for r in ROWS if l0 in r["l0"].split() and r["backends"] in (backend, "both")
    )
