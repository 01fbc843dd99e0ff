"""Permission maps: look-ups by hardware and by L0, and the merged map, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import svm as oracle
from tests.oracle.svm_machine import IOPM12, MSRPM12, SvmMachine
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.svm import maps as svm_maps
from workbench.core.ledger import EVENTS

UOP = np.zeros(1, layout.UOP)
MSRS = st.one_of(
    st.integers(0, 0x2001),
    st.integers(0xBFFFFFFE, 0xC0002001),
    st.integers(0xC000FFFE, 0xC0012001),
    st.integers(0, 0xFFFFFFFF),
)


@pytest.fixture(scope="module")
def machine() -> SvmMachine:
    return SvmMachine()


def random_map(seed: int, length: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8).tobytes()


def sparse_map(seed: int, length: int) -> bytes:
    pairs = zip(random_map(seed, length), random_map(seed + 9, length), strict=True)
    return bytes(a & b for a, b in pairs)


@settings(max_examples=300, deadline=None)
@given(number=MSRS, write=st.booleans(), seed=st.integers(0, 3))
def test_rdmsr_and_wrmsr_exit_as_the_map_says(machine, number, write, seed):
    bitmap = random_map(seed, 0x2000)
    machine.write(memory_map.L2_MSRPM_MA, bitmap)
    m = machine.m
    m["hw"]["icpt"][0][3] = 1 << 28
    m["hw"]["msrpm"] = memory_map.L2_MSRPM_MA
    status = machine.call("svm_msr_exit", UOP.ctypes.data, number, int(write))
    assert (status == layout.ST_VMEXIT) == oracle.msr_intercepted(bitmap, number, write)
    if status:
        assert (m["exit"]["code"][0], m["exit"]["info1"][0]) == (0x7C, write)


@settings(max_examples=300, deadline=None)
@given(
    port=st.one_of(st.integers(0, 0xFFFF), st.integers(0xFFF8, 0xFFFF)),
    lg=st.integers(0, 2),
    is_in=st.booleans(),
    seed=st.integers(0, 3),
)
def test_port_access_exits_when_a_bit_of_any_byte_is_set(machine, port, lg, is_in, seed):
    bitmap = sparse_map(seed, 0x3000)
    machine.write(memory_map.L2_IOPM_MA, bitmap)
    m = machine.m
    m["hw"]["icpt"][0][3] = 1 << 27
    m["hw"]["iopm"] = memory_map.L2_IOPM_MA
    status = machine.call("svm_io_exit", UOP.ctypes.data, port, lg, int(is_in), 0, 0)
    assert (status == layout.ST_VMEXIT) == oracle.io_intercepted(bitmap, port, 1 << lg)
    if status:
        info = int(m["exit"]["info1"][0])
        assert info == int(is_in) | 16 << lg | 1 << 9 | port << 16


def test_without_the_intercept_no_map_is_read(machine):
    m = machine.m
    m["hw"]["icpt"][0][3] = 0
    before = m["ledger"]["counts"][0].sum()
    assert machine.call("svm_msr_exit", UOP.ctypes.data, 0x12345678, 0) == layout.ST_OK
    assert machine.call("svm_io_exit", UOP.ctypes.data, 0x80, 0, 1, 0, 0) == layout.ST_OK
    assert m["ledger"]["counts"][0].sum() == before


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_merged_map_is_the_or_of_both(seed):
    machine = SvmMachine()
    l1_map = random_map(seed, 0x2000)
    machine.write(machine.l1(MSRPM12), l1_map)
    machine.give_msr_map(MSRPM12 | 0x123)
    machine.m["ledger"]["counts"] = 0
    machine.call("svm_merge_msrpm")
    l0_map = machine.page(memory_map.L0_MSRPM_MA, 0x2000)
    assert machine.page(memory_map.L2_MSRPM_MA, 0x2000) == oracle.merged_msrpm(l0_map, l1_map)
    counts = dict(zip(EVENTS, machine.m["ledger"]["counts"][0].sum(axis=0), strict=False))
    assert counts["L0_MAP_BYTE_READ"] == counts["L0_MAP_BYTE_MERGED"] == 8192


def test_l0_map_opens_only_the_listed_msrs(machine):
    bitmap = machine.page(memory_map.L0_MSRPM_MA, 0x2000)
    open_msrs = {int(n) for n in svm_maps.PASSED_THROUGH_MSRS}
    for number in [*range(0x2000), *range(0xC0000000, 0xC0002000), *range(0xC0010000, 0xC0012000)]:
        for write in (False, True):
            assert oracle.msr_intercepted(bitmap, number, write) == (number not in open_msrs)


@pytest.mark.parametrize("n1p", [0x3000_0000, 0xFFFF_FFFF_F000, (1 << 63) - 4096, 0x8_0000_0000])
def test_map_that_l1_does_not_own_intercepts_everything(n1p):
    machine = SvmMachine()
    machine.give_msr_map(n1p)
    machine.state["iopm"] = n1p
    machine.call("svm_merge_msrpm")
    assert set(machine.page(memory_map.L2_MSRPM_MA, 0x2000)) == {0xFF}
    chosen = machine.call("svm_choose_iopm")
    assert set(machine.page(chosen, 0x3000)) == {0xFF}


def test_intercept_all_ignores_l1s_map():
    machine = SvmMachine(msr_map=layout.MSR_MAP_INTERCEPT_ALL)
    machine.give_msr_map(MSRPM12)
    machine.m["ledger"]["counts"] = 0
    machine.call("svm_merge_msrpm")
    assert set(machine.page(memory_map.L2_MSRPM_MA, 0x2000)) == {0xFF}
    assert machine.m["ledger"]["counts"][0].sum() == 0


@pytest.mark.parametrize("a", [False, True])
@pytest.mark.parametrize("b", [False, True])
def test_io_map_of_l2_follows_l1_on_the_two_open_ports(a, b):
    machine = SvmMachine()
    bitmap = bytearray(0x3000)
    bitmap[0x80 // 8] |= a << (0x80 % 8)
    bitmap[0xED // 8] |= b << (0xED % 8)
    machine.write(machine.l1(IOPM12), bytes(bitmap))
    machine.state["iopm"] = IOPM12
    chosen = machine.page(machine.call("svm_choose_iopm"), 0x3000)
    for port in range(0, 0x10000):
        expected = a if port == 0x80 else b if port == 0xED else True
        assert oracle.io_intercepted(chosen, port, 1) == expected
