"""VMRUN and #VMEXIT, physical and virtual: the bytes of the three VMCBs against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import svm as oracle
from tests.oracle.svm_machine import HAP_ROOT, L2_NCR3, MSRPM12, VMCB12, SvmMachine
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.svm import checks
from workbench.core.ledger import EVENTS

VMCB01, VMCB02 = memory_map.VMCX01_MA, memory_map.VMCX02_MA
FREE_FIELDS = (
    "rip", "rsp", "rax", "cr2", "tsc_offset", "es", "ds", "gdtr", "idtr", "br_from", "br_to",
    "next_rip", "int_state", "int_vector", "exit_info_1", "exit_info_2",
)  # fmt: skip


def test_physical_exit_stores_the_state_at_the_manuals_offsets():
    machine = SvmMachine()
    c = machine.m["cpu"]
    c["gpr"][0][:2] = 0x1111, 0x2222
    c["cr2"], c["rip"], c["cpl"] = 0x5555, 0x100010, 3
    c["seg_sel"][0][layout.CS] = 0x23
    machine.l1_exits(0x72, 2)
    page = machine.page(VMCB01)
    assert oracle.get(page, "exit_code") == 0x72
    assert (oracle.get(page, "rip"), oracle.get(page, "next_rip")) == (0x100010, 0x100012)
    assert (oracle.get(page, "rax"), oracle.get(page, "rsp")) == (0x1111, 0x90000)
    assert oracle.get(page, "cs") & 0xFFFFFFFF == 0x23 | 0xA9B << 16
    assert (page[0x4CB], oracle.get(page, "cr2")) == (3, 0x5555)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_exit_and_entry_restore_the_processor(seed):
    machine = SvmMachine()
    random = np.random.default_rng(seed)
    c = machine.m["cpu"]
    c["pat"] = 0x0504010007060100
    for name in ("cr2", "rip", "gdtr_base", "idtr_base", "star", "kernel_gs_base"):
        c[name] = random.integers(-(1 << 63), 1 << 63)
    c["gpr"][0][:16] = random.integers(-(1 << 63), 1 << 63, 16)
    c["seg_base"][0][:] = random.integers(-(1 << 63), 1 << 63, 8)
    c["lf_zero"], c["lf_sign"] = random.integers(0, 2, 2)
    before = machine.m["cpu"].copy()
    machine.l1_exits(0x72, 2)
    for name in ("rip", "cr2", "cr3", "efer", "gdtr_base", "idtr_base", "pat"):
        c[name] = 0
    c["gpr"][0][0] = c["gpr"][0][4] = 0
    assert machine.call("svm_hw_enter") == layout.ST_OK
    for name in layout.CPU.names:
        if name not in ("lf_zero", "lf_sign", "lf_carry"):
            assert np.array_equal(c[name], before[name]), name


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("efer", 0x500, checks.BAD_SVME),
        ("cr0", 0xA0000011, checks.BAD_CD_NW),
        ("cr0", 1 << 40 | 0x80000011, checks.BAD_CR0_HIGH),
        ("cr3", 1 << 52, checks.BAD_CR3),
        ("cr4", 1 << 31 | 0x20, checks.BAD_CR4),
        ("dr6", 1 << 32, checks.BAD_DR6),
        ("dr7", 1 << 32, checks.BAD_DR7),
        ("efer", 0x1502, checks.BAD_EFER),
        ("cr4", 0, checks.BAD_LME_PAE),
        ("cr0", 0x80000010, checks.BAD_LME_PE),
        ("cs", 0x6 << 24, checks.BAD_CS_L_D),
        ("intercept_word4", 2, checks.BAD_VMRUN_INTERCEPT),
        ("asid", 0, checks.BAD_ASID),
        ("msrpm_base_pa", 1 << 52, checks.BAD_MSRPM),
        ("event_inj", 1 << 31 | 3 << 8 | 2, checks.BAD_EVENT_VECTOR),
        ("event_inj", 1 << 31 | 5 << 8 | 3, checks.BAD_EVENT_TYPE),
        ("nested_cr3", 1 << 52, checks.BAD_NCR3),
        ("cs", 0xC9B << 16, checks.BAD_MODE),
        ("iopm_base_pa", (1 << 40) - 0x2000, checks.BAD_IOPM),
        ("g_pat", 0x0007040600070402, checks.BAD_G_PAT),
        ("cr0", 0x11, checks.BAD_MODE),
        ("efer", 0x1000, checks.BAD_MODE),
        ("rip", 0, checks.VALID),
    ],
)
def test_vmrun_refuses_an_illegal_state(field, value, reason):
    machine = SvmMachine()
    page = machine.good_vmcb12()
    oracle.put(page, field, value)
    machine.write(VMCB02, bytes(page))
    host = int(machine.m["ram"][0]) + VMCB02
    faults = machine.call("svm_vmcb_faults", host)
    assert (faults & -faults).bit_length() - 1 == (reason or -1)
    # L1 sees the exit code INVALID, and continues behind VMRUN
    outcome = machine.start_vmrun(page)
    assert outcome == (1 if reason else layout.ST_OK)
    if reason:
        assert machine.state["vmexit_pending"] == 1
        machine.call("svm_exit_n2")
        assert oracle.get(machine.page(machine.l1(VMCB12)), "exit_code") == (1 << 64) - 1
        assert machine.m["level"][0] == 1
        assert machine.field(VMCB01, "rip") == 0x100003


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    clean=st.integers(0, 0xFFF),
    same=st.booleans(),
    virtual_gif=st.booleans(),
)
def test_merge_and_write_back_agree_with_the_oracle(seed, clean, same, virtual_gif):
    machine = SvmMachine(virtual_gif=int(virtual_gif), vmcb_clean_bits=1)
    random = np.random.default_rng(seed)
    page = machine.good_vmcb12()
    for name in FREE_FIELDS:
        size = oracle.VMCB_FIELDS[name][1]
        oracle.put(page, name, int.from_bytes(random.bytes(size), "little"))
    for word in range(5):
        value = int(random.integers(0, 1 << 32)) | (1 if word == 4 else 0)
        oracle.put(page, f"intercept_word{word}", value)
    oracle.put(page, "int_ctl", int(random.integers(0, 1 << 32)) & 0x0310011F)
    oracle.put(page, "clean", clean)
    machine.write(VMCB02, machine.page(VMCB02)[:0x400] + random.bytes(0x300) + bytes(0x900))
    stale = bytearray(machine.page(VMCB02))
    oracle.put(stale, "int_ctl", 1 << 24)
    for name in ("cs", "dr6", "dr7", "g_pat"):  # what L1 calls unchanged was sound before
        oracle.put(stale, name, oracle.get(page, name))
    machine.write(VMCB02, bytes(stale))
    machine.state["last_vmcx12_addr"] = VMCB12 if same else -1
    machine.set_intercepts(0, 0, 0, 0, 0)

    assert machine.start_vmrun(page) == layout.ST_OK
    vmcb02 = bytearray(machine.page(VMCB02))
    expected = oracle.merge_vmcb02(machine.page(VMCB01), page, bytes(stale), same, virtual_gif)
    for name in ("msrpm_base_pa", "iopm_base_pa", "nested_cr3"):
        oracle.put(expected, name, oracle.get(vmcb02, name))
    assert vmcb02 == expected
    assert oracle.get(vmcb02, "msrpm_base_pa") == memory_map.L2_MSRPM_MA
    assert oracle.get(vmcb02, "nested_cr3") == machine.state["n2p_to_l0m"] != HAP_ROOT

    # the exit: L2 changed something, then left
    oracle.put(vmcb02, "rip", 0xABCDEF)
    oracle.put(vmcb02, "event_inj", int(random.integers(0, 1 << 32)))
    oracle.put(vmcb02, "exit_int_info", 1 << 31 | 0x30E)
    machine.write(VMCB02, bytes(vmcb02))
    state = machine.state
    state["exitcode"], state["exitinfo1"], state["exitinfo2"] = 0x7B, 0x12345, 0x6789
    machine.call("svm_exit_n2")
    back = oracle.write_back(bytes(vmcb02), bytes(page), 0x7B, 0x12345, 0x6789)
    assert machine.page(machine.l1(VMCB12)) == bytes(back)


def test_virtual_exit_resumes_l1_behind_vmrun_with_gif_clear():
    machine = SvmMachine()
    machine.m["cpu"]["gpr"][0][3] = 0x33
    assert machine.start_vmrun(machine.good_vmcb12()) == layout.ST_OK
    assert machine.state["gif"] == 1
    assert machine.call("svm_hw_enter") == layout.ST_OK
    assert machine.m["hw"]["hap_root"][0] == machine.state["n2p_to_l0m"]
    assert machine.m["cpu"]["gpr"][0][0] == 0x1234
    machine.m["cpu"]["gpr"][0][3] = 0x44
    machine.l1_exits(0x72, 2)
    assert machine.call("svm_route") == 1
    machine.call("svm_exit_n2")
    assert machine.call("svm_hw_enter") == layout.ST_OK
    c = machine.m["cpu"]
    assert (c["rip"][0], c["gpr"][0][0], c["gpr"][0][3]) == (0x100003, VMCB12, 0x44)
    assert machine.state["gif"] == 0
    assert machine.m["hw"]["hap_root"][0] == HAP_ROOT
    assert machine.m["nv"]["guest_efer"][0] == 0x1500


def test_event_that_l1_injects_reaches_l2_and_is_not_intercepted():
    machine = SvmMachine()
    page = machine.good_vmcb12()
    oracle.put(page, "event_inj", 1 << 31 | 1 << 11 | 3 << 8 | 13)
    oracle.put(page, "event_inj_err", 0x18)
    oracle.put(page, "intercept_word2", 0xFFFFFFFF)
    machine.start_vmrun(page)
    assert machine.call("svm_hw_enter") == layout.ST_FAULT
    exc = machine.m["exc"]
    assert (exc["vector"][0], exc["error"][0], exc["kind"][0]) == (13, 0x18, 3)
    assert machine.call("svm_exception_exit") == layout.ST_OK
    exc["injected"] = 0
    assert machine.call("svm_exception_exit") == layout.ST_VMEXIT
    assert machine.m["exit"]["code"][0] == 0x4D


def test_merging_costs_a_map_of_8_kb_and_two_hundred_bytes_of_vmcb():
    machine = SvmMachine()
    machine.start_vmrun(machine.good_vmcb12())
    counts = dict(zip(EVENTS, machine.m["ledger"]["counts"][0].sum(axis=0), strict=False))
    assert counts["L0_MAP_BYTE_READ"] == 2 * 8192 + 2
    assert 300 < counts["L0_BYTE_COPIED"] < 700
    fields = machine.m["ledger"]["fields"][0]
    assert fields.sum() > 50


@pytest.mark.parametrize("rax", [VMCB12 + 8, 0x3000_0000, -4096, 1 << 52])
def test_vmrun_on_memory_that_l1_does_not_have_is_a_general_protection_fault(rax):
    machine = SvmMachine()
    machine.m["cpu"]["gpr"][0][0] = rax
    machine.l1_exits(0x80, 3)
    assert machine.call("svm_handle") == layout.ST_OK
    assert machine.state["vmentry_pending"] == 0
    assert machine.field(VMCB01, "event_inj") == 1 << 31 | 1 << 11 | 3 << 8 | 13


def test_l2_sees_no_msr_map_of_another_vmcb():
    machine = SvmMachine()
    page = machine.good_vmcb12()
    machine.write(machine.l1(MSRPM12), bytes(range(256)) * 32)
    machine.start_vmrun(page)
    assert machine.page(machine.state["msrpm"], 0x2000) == bytes(range(256)) * 32
    assert machine.state["host_cr3"] == L2_NCR3
