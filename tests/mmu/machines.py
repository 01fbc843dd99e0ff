"""Small machines for the address-translation tests."""

from __future__ import annotations

import numpy as np

from workbench.core import layout as lay
from workbench.core.hvm import memory_map as mm
from workbench.core.ledger import EVENTS
from workbench.core.units import entry
from workbench.geometry import load_tlb_geometry
from workbench.machine import TABLES, SimulatedMachine

MEGABYTE = 1 << 20


def mapped_machine(
    backend: str, guest_shift: int = 12, nested_shift: int = 12, caches: bool = False
) -> SimulatedMachine:
    """A machine whose guest (bank 1, or the bare machine) has identity tables over its memory."""
    made = SimulatedMachine(backend, 64 * MEGABYTE, 4 * MEGABYTE, load_tlb_geometry("Nehalem"))
    record = made.record
    record["feat"]["paging_structure_caches"] = caches
    record["feat"]["tlb_tagging"] = 1
    record["feat"]["l0_page_shift"] = nested_shift
    bank = 0 if backend == "none" else 1
    made.build_boot_environment(bank, max(64 * MEGABYTE, 1 << guest_shift), guest_shift)
    made.set_boot_processor(0x100000, 0 if backend == "none" else 1)
    if backend != "none":
        made.build_l1_memory()
        record["hw"]["hap_root"] = mm.HAP_TABLES_MA
        record["hw"]["tag"] = 1
        record["hw"]["guest"] = 1
    return made


def events(made: SimulatedMachine) -> dict[str, int]:
    """Events counted so far, all causes together, zeros left out."""
    totals = made.record["ledger"]["counts"][0].sum(axis=0)
    return {name: int(totals[i]) for i, name in enumerate(EVENTS) if totals[i]}


def load(made: SimulatedMachine, va: int, lg: int = 3) -> int:
    """Load past the fast path; check ``pending(made)`` afterwards."""
    return entry("load_slow")(made.address, va, lg, 0)


def pending(made: SimulatedMachine) -> int:
    """The pending outcome, cleared."""
    value = int(made.record["pending"][0])
    made.record["pending"] = 0
    return value


def words_of(made: SimulatedMachine, ma: int, count: int) -> np.ndarray:
    """RAM words at a machine address, shape (count,), int64."""
    bank, offset = ma >> lay.BANK_SHIFT, ma & lay.BANK_MASK
    start = (made.bank_offset(bank) + offset) >> 3
    return made.words[start : start + count]


GUEST_TABLES = TABLES
