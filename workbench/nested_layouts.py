"""The layouts of the per-vcpu nested state, read from data/nested_layouts.csv.

Three designs of the same state: ``generic-2010`` (the patch under review), ``minimal-2010`` (the
counter-proposal), ``merged-2011`` (what Xen took).  Here the table becomes what the kernel uses,
the address and shape of each field, and a view of the state's bytes for inspection.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .core.hvm.memory_map import NESTED_STATE_MA, VENDOR_RECORD
from .core.layout import BACKEND_SVM, BACKEND_VMX
from .core.ledger import N_STATE, STATE_FIELDS
from .tables import data_table

LAYOUTS = ("generic-2010", "minimal-2010", "merged-2011")
DEFAULT_LAYOUT = "merged-2011"
BEHIND_ARCH = "generic-2010"
"""The layout whose vendor record lies behind a pointer of the generic structure (nh_arch)."""

ABSENT, BYTES, BIT, IN_ARCH, FETCHED = 0, {1: 1, 2: 2, 4: 3, 8: 4}, 32, 64, 128
"""Shapes, as core/hvm/nested_state.py reads them: bytes -> shape, and what is added."""
_EMBEDDED = "nestedvcpu"
"""The structure whose vendor part is a union inside it: offsets count from its start."""


def rows(layout: str, backend: str) -> list[dict[str, str]]:
    """The table's rows of one layout on one back-end, in the order of the table."""
    return [
        row
        for row in data_table("nested_layouts").rows
        if row["layout"] == layout and row["backend"] in ("both", backend)
    ]


@cache
def places(layout: str, backend: str) -> dict[str, str]:
    """Field of the model -> ``generic``, ``vendor`` or ``fetched``."""
    return {row["field"]: row["place"] for row in rows(layout, backend) if row["field"]}


def _shape(row: dict[str, str], layout: str) -> int:
    if row["place"] == "fetched":
        return FETCHED
    shape = BIT + int(row["bit"]) if row["bit"] else BYTES[int(row["size"])]
    return shape + (IN_ARCH if row["place"] == "vendor" and layout == BEHIND_ARCH else 0)


def _offset(row: dict[str, str]) -> int:
    """Offset in the state's page; a vendor record of its own starts in the middle of the page."""
    apart = row["place"] == "vendor" and not row["struct"].startswith(_EMBEDDED)
    return int(row["offset"] or 0) + (VENDOR_RECORD if apart else 0)


@cache
def kernel_table(layout: str, backend: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in the state's page and shapes by field number, shape (N_STATE,) each.

    A field behind ``nh_arch`` has its offset in the record that the pointer leads to.
    """
    offsets, shapes = np.zeros(N_STATE, np.int64), np.zeros(N_STATE, np.int64)
    for row in rows(layout, backend):
        if row["field"]:
            number = STATE_FIELDS.index(row["field"])
            offsets[number], shapes[number] = _offset(row), _shape(row, layout)
    return offsets, shapes


def install(machine: np.ndarray, layout: str = DEFAULT_LAYOUT) -> None:
    """Put a layout into a machine record; its RAM must be known and its back-end chosen.

    Before L0 initialises: what the state holds is not carried over.
    """
    backend = {BACKEND_SVM: "svm", BACKEND_VMX: "vmx"}.get(int(machine["hw"]["backend"][0]))
    if backend is None:
        return
    offsets, shapes = kernel_table(layout, backend)
    page = int(machine["ram"][0]) + NESTED_STATE_MA
    behind = (shapes & IN_ARCH) != 0
    machine["state"]["shape"][0] = shapes
    machine["state"]["host"][0] = np.where(behind, offsets - VENDOR_RECORD, page + offsets)


class NestedState:
    """The bytes of the nested state in a machine's RAM, by field name, for tests and inspection.

    Reading a field that the layout does not keep raises KeyError; accesses are not counted.
    """

    def __init__(self, machine: np.ndarray, ram: np.ndarray):
        self.machine, self.ram = machine, ram

    def _where(self, field: str) -> tuple[np.ndarray, int]:
        number = STATE_FIELDS.index(field)
        shape = int(self.machine["state"]["shape"][0, number])
        if shape in (ABSENT, FETCHED):
            raise KeyError(f"this layout does not keep {field}")
        at = int(self.machine["state"]["host"][0, number])
        if shape & IN_ARCH:
            at += NESTED_STATE_MA + VENDOR_RECORD
        else:
            at -= int(self.machine["ram"][0])
        shape &= ~IN_ARCH
        size = 4 if shape >= BIT else {v: k for k, v in BYTES.items()}[shape]
        word = self.ram[at : at + size].view(f"u{size}" if size < 8 else "i8")
        return word, shape - BIT if shape >= BIT else -1

    def __getitem__(self, field: str) -> int:
        word, bit = self._where(field)
        return int(word[0]) if bit < 0 else int(word[0]) >> bit & 1

    def __setitem__(self, field: str, value: int) -> None:
        word, bit = self._where(field)
        if bit < 0:
            word[0] = value & (1 << 8 * word.itemsize) - 1 if word.dtype.kind == "u" else value
        else:
            word[0] = (int(word[0]) & ~(1 << bit)) | (bool(value) << bit)
