"""L0's shadow tables after random edits of guest page tables and faults, against their oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.runs import BACKENDS
from tests.oracle import shadow as oracle
from workbench.arch import vmcb, vmcs
from workbench.core import layout as lay
from workbench.core.hvm import memory_map as mm
from workbench.core.hvm.shadow.l0 import SF_EMULATE, SF_FATAL, SF_HANDLED, SF_INJECT
from workbench.core.units import entry
from workbench.scenario import Scenario
from workbench.simulate import build

TABLES = 0x200000
"""Where the guest's random tables lie (n1p): so many pages, each used at any level."""
N_TABLES = 7
DATA = 0x300000
P, W, U, A, D, PS, NX = oracle.P, oracle.W, oracle.U, oracle.A, oracle.D, oracle.PS, oracle.NX
VA_BITS = [0, 1, 2, 511]


class Guest:
    """L1 stopped at an exit, with page tables of its own; what L0's units do to it."""

    def __init__(self, backend: str, limit: int = 0):
        scenario = Scenario(
            backend=backend, l1="shadow", l1_memory_mb=8, l2_memory_mb=4,
            features={"paging": "sos"},
        )  # fmt: skip
        self.built = build(scenario)
        self.m = self.built.record
        self.built.start_l1()
        if limit:
            self.m["sh"]["limit"] = limit
        entry("shadow_after_exit")(self.built.address)
        self.set_cr3(TABLES)
        self.enter_and_exit()

    def set_cr3(self, cr3: int) -> None:
        self.m["cpu"]["cr3"] = cr3
        base = mm.VMCX01_MA
        slot = vmcb.CR3 if self.built.backend == "svm" else None
        offset = slot if slot is not None else vmcs.DATA_OFFSET + vmcs.SLOT_GUEST_CR3 * 8
        self.built.words[base + offset >> 3] = cr3

    def enter_and_exit(self, check: bool = True) -> None:
        assert entry("shadow_before_entry")(self.built.address) == lay.ST_OK
        assert int(self.m["sh"]["flush"][0]) == 0
        if check:
            cr3 = int(self.m["sh"]["cr3"][0])
            oracle.check(self.built, cr3, int(self.m["sh"]["roots"][0, 0]))
        entry("shadow_after_exit")(self.built.address)

    def write(self, table: int, index: int, value: int, check: bool = True) -> None:
        """A store to an entry of a table, noted as L0 notes what it emulates."""
        n1p = TABLES + table * lay.PAGE + index * 8
        start = self.built.bank_offset(1) + n1p
        self.built.words[start >> 3] = np.uint64(value).astype(np.int64)
        s = self.m["sh"]
        s["written"][0, 0] = (start >> 12, n1p & 0xFFF, (n1p & 0xFFF) + 7)
        s["n_written"] = 1
        self.enter_and_exit(check)

    def entry_at(self, table: int, index: int) -> int:
        start = self.built.bank_offset(1) + TABLES + table * lay.PAGE + index * 8
        return int(self.built.words[start >> 3])

    def fault(self, va: int, error: int) -> int:
        outcome = entry("shadow_fault")(self.built.address, va, error)
        self.m["pending"] = 0
        return outcome


def targets():
    table = st.integers(0, N_TABLES - 1).map(lambda i: TABLES + i * lay.PAGE)
    data = st.integers(0, 3).map(lambda i: DATA + i * lay.PAGE)
    large = st.sampled_from([0, 0x200000, 0x400000, 0x4000_0000])
    return table | data | large | st.sampled_from([1 << 41, 0x7FFF_F000, 0x800_000])


def flags():
    bits = st.sampled_from([0, W, W | U, U, W | U | A | D, W | A | D, A, U | A, NX | W | A | D])
    return st.tuples(bits, st.sampled_from([P, P, P, P, P | PS, 0])).map(lambda f: f[0] | f[1])


def edits():
    index = st.sampled_from(VA_BITS)
    return st.tuples(st.just("write"), st.integers(0, N_TABLES - 1), index, targets(), flags())


def faults():
    index = st.sampled_from(VA_BITS)
    error = st.sampled_from([0, 2, 16, 4, 6, 20, 1, 3])
    return st.tuples(st.just("fault"), st.tuples(index, index, index, index), error)


def linear(indexes) -> int:
    va = 0
    for i in indexes:
        va = va << 9 | i
    va <<= 12
    return va - (1 << 48) if va >> 47 else va


def connected(guest: Guest) -> None:
    """A first set of tables in which every index leads somewhere."""
    for level in range(3):
        for i, index in enumerate(VA_BITS):
            below = TABLES + (level + 1 + (i & 1) * 3) % N_TABLES * lay.PAGE
            guest.write(level, index, below | P | W | U, check=False)
    for table in (3, 6):
        for i, index in enumerate(VA_BITS):
            guest.write(table, index, DATA + i * lay.PAGE | P | W | U, check=False)


@pytest.mark.parametrize("limit", [0, 12])
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(steps=st.lists(edits() | faults() | faults(), min_size=5, max_size=50))
def test_the_shadow_is_the_composition_of_guest_tables_and_p2m(backend, limit, steps):
    guest = Guest(backend, limit)
    connected(guest)
    for step in steps:
        if step[0] == "write":
            _, table, index, target, flag = step
            guest.write(table, index, target | flag)
        else:
            va = linear(step[1])
            outcome = guest.fault(va, step[2])
            assert outcome in (SF_HANDLED, SF_INJECT, SF_EMULATE, SF_FATAL)
            guest.enter_and_exit()
            expected = oracle.Machine(guest.built).guest_walk(TABLES, va)
            if outcome == SF_HANDLED:
                assert expected is not None
            if outcome == SF_INJECT:
                error = int(guest.m["exc"]["error"][0])
                assert (error & 1 == 0) == (not _present(guest, va)), "present bit of the error"


def _present(guest: Guest, va: int) -> bool:
    """Are the guest's entries for ``va`` present on all levels (a reserved bit counts as present)?"""
    machine, table = oracle.Machine(guest.built), TABLES
    for shift in (39, 30, 21, 12):
        at = machine.p2m(table)
        if at is None:
            return True
        entry_ = machine.word(at + (va >> shift & 511) * 8)
        if not entry_ & P:
            return False
        if entry_ & (oracle.RESERVED | PS) and shift > 12:
            return True
        table = entry_ & oracle.ADDRESS
    return True


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_page_that_becomes_a_table_cannot_be_written_any_more(backend):
    guest = Guest(backend)
    connected(guest)
    va = linear((0, 0, 0, 0))
    assert guest.fault(va, 2) == SF_HANDLED
    guest.enter_and_exit()
    frame = oracle.Machine(guest.built).frame(lay.L1_BANK_MA + DATA)
    assert int(guest.m["sh"]["writable"][0, frame]) == 1
    guest.write(2, 1, DATA | P | W | U)  # the data page is a page table, too
    guest.built.words[guest.built.bank_offset(1) + DATA >> 3] = (DATA + lay.PAGE) | P
    assert guest.fault(linear((0, 0, 1, 0)), 0) == SF_HANDLED
    assert int(guest.m["sh"]["writable"][0, frame]) == 0
    assert int(guest.m["sh"]["flush"][0]) == 1, "translations that allow writes must go"
    guest.enter_and_exit()
    assert guest.fault(va, 3) == SF_EMULATE


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_guests_accessed_and_dirty_bits_are_set_by_l0s_walk(backend):
    guest = Guest(backend)
    connected(guest)
    va = linear((0, 0, 0, 0))
    guest.fault(va, 0)
    assert guest.entry_at(3, 0) & (A | D) == A
    guest.fault(va, 2)
    assert guest.entry_at(3, 0) & (A | D) == A | D
    assert all(guest.entry_at(level, 0) & A for level in range(3))
