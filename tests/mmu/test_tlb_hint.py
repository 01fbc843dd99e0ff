"""Where a page was found last only shortens the search: a TLB that never remembers counts the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.mmu.machines import load, mapped_machine, pending, words_of
from workbench.core import layout as lay
from workbench.core.units import entry
from workbench.machine import TABLES

PCIDE, GLOBAL = 1 << 17, 1 << 8
KEEP = -(1 << 63)

operations = st.one_of(
    st.tuples(st.sampled_from(["load", "load", "store", "invlpg", "global"]), st.integers(0, 90)),
    st.tuples(st.sampled_from(["tag", "flush_tag", "pcid"]), st.integers(1, 3)),
    st.tuples(st.just("flush_all"), st.just(0)),
)


def step(made, name, value):
    """One operation on the machine; pages lie so that several share what is remembered."""
    page = 0x200 + (value % 7) * 64 + value // 30
    if name == "load":
        load(made, page << 12)
    elif name == "store":
        entry("store_slow")(made.address, page << 12, 3, 0, 1)
    elif name == "invlpg":
        entry("invlpg")(made.address, page << 12)
    elif name == "flush_tag":
        entry("flush_tag")(made.address, value, 0)
    elif name == "flush_all":
        entry("flush_all")(made.address, 0)
    elif name == "global":  # from the next walk on
        made.record["cpu"]["cr4"] |= 1 << 7
        words_of(made, leaf_of(made, page), 1)[0] ^= GLOBAL
    elif name == "pcid":  # as MOV to CR3 that keeps translations
        cr3 = int(made.record["cpu"]["cr3"][0]) & ~0xFFF
        entry("mov_cr3")(made.address, (cr3 | value) + KEEP)
    else:
        made.record["hw"]["tag"] = value
        made.record["tlb"]["fast_context"] += 8
    assert pending(made) == 0


def leaf_of(made, page):
    """Machine address of the guest's last-level entry for a page."""
    table = lay.L1_BANK_MA + TABLES
    for shift in (27, 18, 9):
        entry_word = int(words_of(made, table + (page >> shift & 511) * 8, 1)[0])
        table = lay.L1_BANK_MA + (entry_word & 0xF_FFFF_FFFF_F000)
    return table + (page & 511) * 8


def state(made):
    """Ledger and TLB, all but what is remembered."""
    ledger, tlb = made.record["ledger"], made.record["tlb"]
    parts = [ledger[name] for name in ("counts", "refills", "flushes", "dropped", "time")]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in (*parts, tlb["entries"]))


@pytest.mark.parametrize("geometry", ["Nehalem", "wide"])
@settings(max_examples=40, deadline=None)
@given(program=st.lists(operations, max_size=60))
@example(program=[("load", 1), ("tag", 2), ("load", 1), ("tag", 1), ("store", 1), ("load", 1)])
def test_a_tlb_without_memory_of_places_counts_the_same(geometry, program):
    machines = [mapped_machine("svm") for _ in range(2)]
    for made in machines:
        made.record["cpu"]["cr4"] |= PCIDE
        if geometry == "wide":  # one set of 64 ways, as several processors have it
            made.record["tlb"]["sets"][0, 0], made.record["tlb"]["ways"][0, 0] = 1, 64
    for name, value in program:
        for made in machines:
            step(made, name, value)
        machines[1].record["tlb_hint"] = 0
    assert state(machines[0]) == state(machines[1])


def test_places_are_remembered_at_all():
    made = mapped_machine("svm")
    for _ in range(2):
        load(made, 0x200000)
    assert made.record["tlb_hint"].any()
