"""Whose exit is it: the table-driven decision against the oracle's reading of Xen's rules."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import svm as oracle
from tests.oracle.svm_machine import IOPM12, MSRPM12, VMCB12, SvmMachine
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.hvm.svm import tables as svm_tables

from .test_svm_maps import MSRS, random_map

NAMES = [row["name"].removeprefix("VMEXIT_") for row in rows("svm_exitcodes")]
CODES = {row["name"].removeprefix("VMEXIT_"): int(row["value"], 0) for row in rows("svm_exitcodes")}
CODES["INVALID"] = -1
PATTERNS = [0, 0xFFFFFFFF, 0x55555555, 0xAAAAAAAA]


@pytest.fixture(scope="module")
def machine() -> SvmMachine:
    made = SvmMachine()
    made.state["vmcx12"] = layout.L1_BANK_MA + VMCB12
    made.state["iopm"] = IOPM12
    return made


@settings(max_examples=500, deadline=None)
@given(
    name=st.one_of(st.sampled_from(NAMES), st.sampled_from(["MSR", "IOIO", "CPUID", "EXCP_PF"])),
    words=st.lists(st.sampled_from(PATTERNS), min_size=5, max_size=5),
    hap=st.booleans(),
    msr=MSRS,
    write=st.booleans(),
    port=st.integers(0, 0xFFFF),
    lg=st.integers(0, 2),
    seed=st.integers(0, 2),
)
def test_routing_agrees_with_the_oracle(machine, name, words, hap, msr, write, port, lg, seed):
    msrpm, iopm = random_map(seed, 0x2000), bytes(x & 0x11 for x in random_map(seed + 5, 0x3000))
    machine.write(machine.l1(MSRPM12), msrpm)
    machine.give_msr_map(MSRPM12)
    machine.write(machine.l1(IOPM12), iopm)
    m = machine.m
    machine.set_intercepts(*words)
    machine.state["hap_enabled"] = hap
    m["cpu"]["gpr"][0][layout.RCX] = msr
    info1 = 0
    if name == "MSR":
        info1 = int(write)
    elif name == "IOIO":
        info1 = 16 << lg | port << 16
    m["exit"]["code"], m["exit"]["info1"], m["exit"]["info2"] = CODES[name], info1, 77
    expected = oracle.goes_to_l1(name, words, hap, (msrpm, msr, write), (iopm, port, 1 << lg))
    assert machine.call("svm_route") == expected
    if expected:
        state = machine.state
        assert (state["exitcode"], state["exitinfo1"], state["exitinfo2"]) == (
            CODES[name], info1, 77,
        )  # fmt: skip


def test_a_code_that_no_manual_lists_counts_as_invalid(machine):
    machine.m["exit"]["code"] = 0x7777
    machine.set_intercepts(0, 0, 0, 0, 0)
    assert machine.call("svm_route") == 1


def test_an_unknown_text_stops_the_import():
    with pytest.raises(ValueError, match="no routing rule"):
        svm_tables.parse_route("L1 on Sundays")
    with pytest.raises(ValueError, match="no default"):
        svm_tables.parse_default("perhaps")


def test_l0_default_intercepts_are_xens_with_hap():
    def is_set(name: str) -> bool:
        row = next(r for r in rows("svm_intercepts") if r["name"] == name)
        return bool(svm_tables.L0_INTERCEPTS[int(row["word"])] >> int(row["bit"]) & 1)

    assert all(map(is_set, ["CPUID", "HLT", "VMRUN", "VMLOAD", "STGI", "CR0_WRITE", "DR3_READ"]))
    assert not any(map(is_set, ["CR3_WRITE", "INVLPG", "EXCP_PF", "VINTR", "PAUSE", "RDTSC"]))
