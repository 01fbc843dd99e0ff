"""TLB and cache geometry of a processor core, from data/tlb_geometry.csv and cache_geometry.csv.

The model indexes sets with a mask, so the number of sets is a power of two: where entries / ways
is not one, the number of entries is kept and the ways are adjusted.
"""

from __future__ import annotations

from dataclasses import dataclass

from .core.mmu.records import MAX_CACHE_LINES
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


def load_cache_geometry(core: str) -> tuple[tuple[int, int], ...]:
    """Sets and ways of the first, second and last data cache of ``core``, in lines of 64 bytes.

    Raises
    ------
    PriceError
        The core is not in the table, or its caches are larger than the model has room for.
    """
    rows = {row["core"]: row for row in data_table("cache_geometry").rows}
    if core not in rows:
        raise PriceError(f"no cache geometry for core {core!r}", did_you_mean(core, rows))
    shapes = []
    for level, room in zip(("l1d", "l2", "llc"), MAX_CACHE_LINES, strict=True):
        lines, ways = int(rows[core][f"{level}_kb"]) * 16, int(rows[core][f"{level}_ways"])
        if lines > room:
            raise PriceError(f"{level} of {core} is too large", f"at most {room // 16} KB")
        shapes.append(_shape(lines, ways))
    return tuple(shapes)
