"""TLB geometry of a processor core, from data/tlb_geometry.csv.

The model indexes sets with a mask, so the number of sets is a power of two: where entries / ways
is not one, the number of entries is kept and the ways are adjusted.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import PriceError, did_you_mean
from .tables import data_table


@dataclass(frozen=True)
class TlbGeometry:
    """Data TLB of one core; ``*_large`` is the separate array for large pages (0 = none)."""

    core: str
    sets1: int
    ways1: int
    sets1_large: int
    ways1_large: int
    sets2: int
    ways2: int
    large_in_l2: bool
    confidence: str


def _shape(entries: int, ways: int) -> tuple[int, int]:
    sets = 1 << max(0, (entries // ways).bit_length() - 1)
    return sets, entries // sets


def list_cores() -> tuple[str, ...]:
    """Names of the cores whose TLB geometry is known."""
    return tuple(row["core"] for row in data_table("tlb_geometry").rows)


def load_tlb_geometry(core: str) -> TlbGeometry:
    """Geometry of ``core`` (a name of :func:`list_cores`).

    Raises
    ------
    PriceError
        The core is not in the table.
    """
    for row in data_table("tlb_geometry").rows:
        if row["core"] == core:
            break
    else:
        raise PriceError(f"no TLB geometry for core {core!r}", did_you_mean(core, list_cores()))
    large = int(row["l1_dtlb_2m"] or 0)
    sets1, ways1 = _shape(int(row["l1_dtlb_entries"]), int(row["l1_dtlb_ways"]))
    sets2, ways2 = _shape(int(row["l2_tlb_entries"]), int(row["l2_tlb_ways"]))
    sets1_large, ways1_large = _shape(large, min(4, large)) if large else (0, 0)
    return TlbGeometry(
        core, sets1, ways1, sets1_large, ways1_large, sets2, ways2,
        row["l2_holds_2m"] == "y", row["confidence"],
    )  # fmt: skip
