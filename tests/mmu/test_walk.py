"""Page walks: reference counts of the manual, agreement with the oracle, accessed/dirty bits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mmu.machines import GUEST_TABLES, events, load, mapped_machine, pending, words_of
from tests.oracle.paging import NestedFault, PageFault, Walker
from workbench.core import layout as lay
from workbench.core.hvm import memory_map as mm
from workbench.core.units import entry

BACKENDS = ("none", "svm", "vmx")
TABLE_AREAS = [(0, mm.HAP_TABLES_MA + 0x100000), (1, GUEST_TABLES + 0x80000)]
"""Bank and bytes from its start in which page tables lie."""


def references(made) -> int:
    counted = events(made)
    return counted.get("WALK_REFERENCE_GUEST", 0) + counted.get("WALK_REFERENCE_NESTED", 0)


@pytest.mark.parametrize(
    ("backend", "guest_shift", "nested_shift", "expected"),
    [
        ("none", 12, 12, 4),
        ("none", 21, 12, 3),
        ("none", 30, 12, 2),
        ("svm", 12, 12, 24),
        ("vmx", 12, 12, 24),
        ("svm", 21, 21, 15),
        ("vmx", 21, 21, 15),
        ("svm", 12, 21, 19),
        ("vmx", 21, 12, 19),
        ("svm", 30, 30, 8),
    ],
)
def test_a_miss_costs_the_references_of_the_manual(backend, guest_shift, nested_shift, expected):
    made = mapped_machine(backend, guest_shift, nested_shift)
    load(made, 0x201008)
    assert pending(made) == 0
    assert references(made) == expected
    assert events(made)["TLB_MISS"] == 1
    load(made, 0x201010)
    assert references(made) == expected, "the second access hits"


@pytest.mark.parametrize("backend", BACKENDS)
def test_paging_structure_caches_shorten_the_second_walk_only(backend):
    made = mapped_machine(backend, caches=True)
    plain = mapped_machine(backend)
    for machine in (made, plain):
        load(machine, 0x300000)
    first = references(made)
    assert first <= references(plain)
    load(made, 0x301000)
    assert references(made) - first < (4 if backend == "none" else 24)
    assert events(made)["PSC_HIT"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_store_sets_accessed_and_dirty_in_the_guest_table(backend):
    made = mapped_machine(backend)
    bank = 0 if backend == "none" else 1
    va = 0x345000
    table = GUEST_TABLES
    base = lay.L1_BANK_MA if bank else 0
    for shift in (39, 30, 21):
        table = int(words_of(made, base + table, 512)[(va >> shift) & 511]) & ~0xFFF
    slot = words_of(made, base + table, 512)
    index = (va >> 12) & 511
    assert slot[index] & 0x60 == 0
    load(made, va)
    assert slot[index] & 0x60 == 0x20
    assert entry("store_slow")(made.address, va, 3, 7, 1) == 0
    assert slot[index] & 0x60 == 0x60


flags = st.sampled_from([0, 1 << 0, 1 << 1, 1 << 2, 1 << 41, -(1 << 63)])


def _damage(made, base: int, root: int, address: int, level: int, mask: int) -> bool:
    """Flip one flag in the entry that translates ``address`` at ``level`` (0 = PML4)."""
    table = root
    for i, shift in enumerate((39, 30, 21, 12)):
        words = words_of(made, base + table, 512)
        index = (address >> shift) & 511
        if i == level:
            words[index] ^= mask
            return True
        if words[index] & 0x80 and shift < 39:
            return False
        table = int(words[index]) & 0x000F_FFFF_FFFF_F000
    return False


@settings(max_examples=150, deadline=None)
@given(
    backend=st.sampled_from(BACKENDS),
    guest_shift=st.sampled_from([12, 21]),
    nested_shift=st.sampled_from([12, 21]),
    guest_damage=st.tuples(st.integers(0, 3), flags),
    nested_damage=st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 3, 4])),
    access=st.sampled_from([0, 1, 2]),
    user=st.booleans(),
    write_protect=st.booleans(),
    page=st.integers(0x200, 0x3FFF),
)
def test_walks_agree_with_the_oracle(
    backend,
    guest_shift,
    nested_shift,
    guest_damage,
    nested_damage,
    access,
    user,
    write_protect,
    page,
):
    made = mapped_machine(backend, guest_shift, nested_shift)
    record = made.record
    va = page << 12 | 0x120
    base = 0 if backend == "none" else lay.L1_BANK_MA
    _damage(made, base, GUEST_TABLES, va, *guest_damage)
    if backend != "none":
        _damage(made, 0, mm.HAP_TABLES_MA, va, *nested_damage)
    record["cpu"]["cpl"] = 3 if user else 0
    record["cpu"]["cr0"] = 0x80000033 | (0x10000 if write_protect else 0)
    memory = {}
    tables = [(0, mm.HAP_TABLES_MA + 0x100000)] if backend == "none" else TABLE_AREAS
    for bank, size in tables:
        start, limit = made.bank_offset(bank) >> 3, size >> 3
        for i in made.words[start : start + limit].nonzero()[0]:
            word = int(made.words[start + i]) & 0xFFFF_FFFF_FFFF_FFFF
            memory[(bank << lay.BANK_SHIFT) + int(i) * 8] = word
    oracle = Walker(
        memory,
        GUEST_TABLES,
        mm.HAP_TABLES_MA if backend != "none" else 0,
        "ept" if backend == "vmx" else "npt",
        write_protect,
    )
    reserved_nested = (
        backend == "vmx" and nested_damage[1] == 1
    )  # write without read: misconfigured
    outcome = entry("walk")(made.address, va, access)
    walk = record["walk"]
    try:
        ma, shift = oracle.walk(va, access == 1, access == 2, user)
    except PageFault as fault:
        assert outcome == lay.ST_FAULT
        assert record["exc"]["vector"][0] == 14
        assert record["exc"]["error"][0] == fault.error
        assert record["exc"]["address"][0] == va
    except NestedFault as fault:
        assert outcome == lay.ST_VMEXIT
        assert record["exit"]["info2"][0] == fault.gpa
        if not reserved_nested:
            in_table = 33 if backend == "svm" else None
            if in_table:
                assert (record["exit"]["info1"][0] >> 33) & 1 == fault.in_table
            else:
                assert (record["exit"]["info1"][0] >> 8) & 1 == (not fault.in_table)
    else:
        assert outcome == lay.ST_OK
        assert walk["frame"][0] == ma & ~((1 << int(walk["shift"][0])) - 1)
        if backend != "none" or shift < 30:
            assert walk["shift"][0] == min(shift, guest_shift)
        assert events(made).get("WALK_REFERENCE_GUEST", 0) == oracle.guest_references
        assert events(made).get("WALK_REFERENCE_NESTED", 0) == oracle.nested_references
