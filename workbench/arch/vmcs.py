"""VMCS fields: encodings (``GUEST_RIP``) and slots (``SLOT_GUEST_RIP``), from vmcs_fields.csv.

The layout of a VMCS in memory is private to whoever implements VMX.  Here: the revision identifier
at byte 0, the abort indicator at byte 4, the launch state at byte 8, and every field in a 64-bit
slot from :data:`DATA_OFFSET` on, in the order of the table.
"""

from __future__ import annotations

import numpy as np

from .table import identifier, rows

REVISION = 0x0000_11E5
DATA_OFFSET = 64
_ROWS = tuple(r for r in rows("vmcs_fields") if int(r["value"], 0) % 2 == 0)
N_SLOTS = len(_ROWS)
if DATA_OFFSET + 8 * N_SLOTS > 4096:
    raise ValueError("the VMCS fields no longer fit into one page")

ENCODINGS = np.array([int(r["value"], 0) for r in _ROWS], np.int64)
"""Encoding of each slot, shape (N_SLOTS,)."""
WIDTHS = np.array([{"16": 2, "32": 4, "64": 8, "natural": 8}[r["width"]] for r in _ROWS], np.int64)
"""Bytes of each slot's field, shape (N_SLOTS,)."""
SLOT_OF = np.full(1 << 14, -1, np.int64)
"""Slot by ``encoding >> 1`` (access bit dropped), -1 where no field exists; shape (16384,)."""
SLOT_OF[ENCODINGS >> 1] = np.arange(N_SLOTS)

globals().update({identifier(r["name"]): int(r["value"], 0) for r in _ROWS})
globals().update({f"SLOT_{identifier(r['name'])}": i for i, r in enumerate(_ROWS)})


def field_name(slot: int) -> str:
    """Name of the field in a slot."""
    return _ROWS[slot]["name"] if slot < N_SLOTS else f"slot {slot}"


def column(name: str) -> tuple[str, ...]:
    """A column of the table, one string per slot."""
    return tuple(r[name] for r in _ROWS)


def __getattr__(name: str) -> int:
    raise AttributeError(f"no VMCS field called {name} in data/arch/vmcs_fields.csv")
