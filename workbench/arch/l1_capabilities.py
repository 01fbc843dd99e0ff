"""What each L0 offers L1, from data/arch/l1_capabilities.csv (its head says what the words mean)."""

from __future__ import annotations

from .table import rows

L0S = ("xen", "kvm", "manual")
"""In the order of the personalities' numbers in the machine record."""
CONTROL_GROUPS = ("pin", "cpu", "sec", "exit", "entry")


def _bits(table: str, group: str) -> dict[str, int]:
    own = (r for r in rows(table) if r.get("group", group) == group)
    return {r["name"]: int(r["value"], 0) for r in own if r["value"][:1].isdigit()}


def position(row: dict[str, str]) -> int:
    """Bit of a row in its word; ValueError when no table knows the name."""
    if row["bit"]:
        return int(row["bit"])
    table = "vmx_controls" if row["group"] in CONTROL_GROUPS else "invept_invvpid"
    try:
        return _bits(table, row["group"])[row["name"]]
    except KeyError:
        where = f"l1_capabilities.csv, {row['group']} {row['name']}"
        raise ValueError(f"{where}: {table}.csv has no such bit") from None


def word(group: str, l0: str, *states: str) -> int:
    """The bits of a group that are in one of ``states`` (free, one, no) under ``l0``."""
    return sum(
        1 << position(r) for r in rows("l1_capabilities") if r["group"] == group and r[l0] in states
    )


def offered(group: str, l0: str) -> int:
    """The bits of a group that L1 may find or set."""
    return word(group, l0, "free", "one")
