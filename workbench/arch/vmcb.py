"""VMCB layout: byte offsets (``RIP``) and field numbers (``FIELD_RIP``), from vmcb_fields.csv."""

from __future__ import annotations

from .table import identifier, rows

_ROWS = rows("vmcb_fields")
globals().update({identifier(r["name"]): int(r["offset"], 0) for r in _ROWS})
globals().update({f"FIELD_{identifier(r['name'])}": i for i, r in enumerate(_ROWS)})


def field_name(number: int) -> str:
    """Name of a field by its number (its row in vmcb_fields.csv)."""
    return _ROWS[number]["name"] if number < len(_ROWS) else f"field {number}"


def __getattr__(name: str) -> int:
    raise AttributeError(f"no VMCB field called {name} in data/arch/vmcb_fields.csv")
