"""Virtual entry and exit: what vmcs02 becomes, and what comes back to vmcs12 and vmcs01."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import vmx as oracle
from tests.oracle.vmx_machine import (
    GOOD_VMCS12,
    IO_BITMAP12,
    L2_CR3,
    MSR_BITMAP12,
    VMCS12,
    VmxMachine,
)
from workbench.arch import vmcs, vmx
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.ledger import EVENTS, FIELD_PHASES

words32 = st.integers(0, 0xFFFFFFFF)
words64 = st.integers(0, (1 << 64) - 1)
CONTROLS = (
    "PIN_BASED_VM_EXEC_CONTROL", "CPU_BASED_VM_EXEC_CONTROL", "SECONDARY_VM_EXEC_CONTROL",
    "VM_EXIT_CONTROLS", "VM_ENTRY_CONTROLS", "EXCEPTION_BITMAP", "PAGE_FAULT_ERROR_CODE_MASK",
    "PAGE_FAULT_ERROR_CODE_MATCH",
)  # fmt: skip


@functools.cache
def machine() -> VmxMachine:
    made = VmxMachine()
    made.enter_vmx_operation()
    made.fill_vmcs12()
    return made


def enter(made: VmxMachine) -> None:
    """A virtual entry as L0 makes it, whatever vmcs12 holds."""
    made.state["n2_guest"] = made.state["vmexit_pending"] = 0
    made.call("vmx_enter_n2")


def count_of(made: VmxMachine, event: str) -> int:
    return int(made.m["ledger"]["counts"][0][:, EVENTS.index(event)].sum())


def group(name: str) -> list[str]:
    return [vmcs.field_name(i) for i, g in enumerate(vmcs.column("xen_vvmx_group")) if g == name]


# ---------------------------------------------------------------- controls


@settings(max_examples=100, deadline=None)
@given(l1=st.fixed_dictionaries({name: words32 for name in CONTROLS}),
       registers=st.tuples(*[words64] * 6), msr_map=st.sampled_from([0, 1, 2]))  # fmt: skip
def test_merged_controls(l1, registers, msr_map):
    made = machine()
    made.m["feat"]["msr_map"] = msr_map
    names = ("GUEST_CR0", "CR0_GUEST_HOST_MASK", "CR0_READ_SHADOW", "GUEST_CR4",
             "CR4_GUEST_HOST_MASK", "CR4_READ_SHADOW")  # fmt: skip
    l1 = {**l1, **dict(zip(names, registers, strict=True))}
    for name, value in l1.items():
        made.put(12, name, value)
    l0 = {name: made.get(1, name) for name in CONTROLS}
    enter(made)
    text = ("merged", "intercept_all", "none")[msr_map]
    expected = oracle.merged_controls(l0, oracle.without_apic_virtualization(l1), text)
    assert {name: made.get(2, name) for name in expected} == expected


@pytest.mark.parametrize("msr_map", ["merged", "intercept_all"])
def test_msr_bitmap_of_l2(msr_map):
    made = VmxMachine(msr_map=("merged", "intercept_all").index(msr_map))
    made.page(made.l1(MSR_BITMAP12))[:] = np.random.default_rng(3).integers(0, 256, 4096)
    made.launch()
    l0, l1 = (bytes(made.page(at)) for at in (memory_map.L0_MSRPM_MA, made.l1(MSR_BITMAP12)))
    l2 = bytes(made.page(memory_map.L2_MSRPM_MA))
    if msr_map == "merged":
        assert l2 == oracle.merged_msr_bitmap(l0, l1)
        assert count_of(made, "L0_MAP_BYTE_MERGED") == 4096
    else:
        assert l2 == b"\xff" * 4096
        assert count_of(made, "L0_MAP_BYTE_MERGED") == 0
    assert made.get(2, "MSR_BITMAP") == memory_map.L2_MSRPM_MA


@pytest.mark.parametrize("port_80", [0, 1])
@pytest.mark.parametrize("port_ed", [0, 1])
def test_io_bitmap_of_l2_is_one_of_four(port_80, port_ed):
    made = VmxMachine()
    l1 = made.page(made.l1(IO_BITMAP12))
    l1[0x80 // 8] = port_80
    l1[0xED // 8] = port_ed << 0xED % 8
    made.launch()
    assert made.get(2, "IO_BITMAP_A") == memory_map.L2_IOPM_MA
    at = memory_map.L2_IOPM_MA
    open_ports = [p for p in range(0x10000) if not made.ram[at + p // 8] >> p % 8 & 1]
    expected = [p for p, bit in ((0x80, port_80), (0xED, port_ed)) if not bit]
    assert open_ports == expected


def test_without_io_exits_l2_uses_l0s_own_bitmap():
    made = VmxMachine()
    made.launch(CPU_BASED_VM_EXEC_CONTROL=GOOD_VMCS12["CPU_BASED_VM_EXEC_CONTROL"] & ~(1 << 25))
    assert made.get(2, "IO_BITMAP_A") == memory_map.L0_IOPM_MA


# ---------------------------------------------------------------- guest state


def test_l2_starts_in_the_state_of_vmcs12():
    made = VmxMachine()
    assert made.launch() == layout.ST_OK
    assert made.state["vmexit_pending"] == 0
    assert (made.m["level"][0], made.state["n2_guest"]) == (2, 1)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    c = made.m["cpu"]
    assert (c["rip"][0], c["cr3"][0], made.gpr[layout.RSP]) == (0x100000, L2_CR3, 0x90000)
    assert made.get(2, "EPT_POINTER") == int(made.state["n2p_to_l0m"]) | 0x1E
    for name in group("guest_copy"):
        if name not in ("VMCS_LINK_POINTER", "GUEST_IA32_PAT"):
            assert made.get(2, name) == made.get(12, name), name


def test_without_load_efer_l2_runs_with_l1s_efer():
    entry = GOOD_VMCS12["VM_ENTRY_CONTROLS"] & ~(1 << 15)
    made = VmxMachine()
    made.launch(VM_ENTRY_CONTROLS=entry, GUEST_IA32_EFER=0)
    assert made.get(2, "GUEST_IA32_EFER") == 0xD01


@pytest.mark.parametrize(
    ("changes", "qualification"),
    [
        ({"GUEST_RFLAGS": 0}, 0),
        ({"GUEST_RIP": 1 << 60}, 0),
        ({"GUEST_CR0": 0x11}, 0),
        ({"GUEST_CR4": 0x20}, 0),
        ({"GUEST_CS_AR_BYTES": 0xC093}, 0),
        ({"GUEST_TR_AR_BYTES": 0x89}, 0),
        ({"GUEST_ACTIVITY_STATE": 1}, 0),
        ({"GUEST_IA32_EFER": 0x100}, 0),
        ({"GUEST_SS_AR_BYTES": 0x1FFFF_FFFF}, 0),
        ({"VMCS_LINK_POINTER": 0}, 4),
    ],
)
def test_invalid_guest_state_is_exit_reason_33(changes, qualification):
    made = VmxMachine()
    made.launch(**changes)
    assert made.state["vmexit_pending"] == 1
    made.call("vmx_exit_n2")
    assert made.get(12, "VM_EXIT_REASON") == 0x80000021
    assert made.get(12, "EXIT_QUALIFICATION") == qualification
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["cpu"]["rip"][0] == GOOD_VMCS12["HOST_RIP"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_any_bytes_in_vmcs12_are_safe(seed):
    made = machine()
    rng = np.random.default_rng(seed)
    page = made.words(made.l1(VMCS12))
    good = page.copy()
    where = rng.random(512) < rng.random()
    page[where] = rng.integers(-(1 << 63), (1 << 63) - 1, int(where.sum()))
    enter(made)
    made.call("vmx_hw_enter")
    made.hardware_exit(vmx.EXIT_CPUID, insn_len=2)
    made.call("vmx_route")
    made.call("vmx_exit_n2")
    made.call("vmx_hw_enter")
    page[:] = good


# ---------------------------------------------------------------- virtual exit


def test_a_virtual_exit_writes_back_l2_and_loads_l1s_host_state():
    made = VmxMachine()
    made.launch()
    made.call("vmx_hw_enter")
    c = made.m["cpu"]
    c["rip"], c["cr3"], c["cr4"] = 0x123456, 0x12000, 0x20A0
    made.gpr[layout.RSP], made.gpr[layout.RAX] = 0x7777, 42
    c["seg_base"][0, layout.FS] = 0xABCDE
    made.hardware_exit(vmx.EXIT_CPUID, insn_len=2, info1=9, linear=5)
    assert made.call("vmx_route") == 1
    made.call("vmx_exit_n2")
    # 1. vmcs12: exit information and L2's state
    expected = {
        "VM_EXIT_REASON": 10, "EXIT_QUALIFICATION": 9, "VM_EXIT_INSTRUCTION_LEN": 2,
        "GUEST_LINEAR_ADDRESS": 5, "GUEST_RIP": 0x123456, "GUEST_RSP": 0x7777,
        "GUEST_CR3": 0x12000, "GUEST_CR4": 0x20A0, "GUEST_FS_BASE": 0xABCDE,
    }  # fmt: skip
    assert {name: made.get(12, name) for name in expected} == expected
    # 2. vmcs01: L1 after its VMLAUNCH
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert (made.m["level"][0], c["rip"][0], c["cr3"][0]) == (1, 0x100ABC, 0x10000)
    assert made.gpr[layout.RSP] == 0x8FF00
    assert made.gpr[layout.RAX] == 42
    assert list(c["seg_sel"][0]) == [0x10, 8, 0x10, 0x10, 0x10, 0, 0, 0x28]
    assert list(c["seg_attr"][0]) == [
        0xC093, 0xA09B, 0xC093, 0xC093, 0xC093, 1 << 16, 1 << 16, 0x8B,
    ]  # fmt: skip
    assert list(c["seg_base"][0]) == [0, 0, 0, 0, 0x1234, 0x5678, 0, 0x7000]
    assert c["gdtr_limit"][0] == c["idtr_limit"][0] == 0xFFFF
    assert c["dr"][0, 7] == 0x400
    assert made.get(1, "GUEST_RFLAGS") == 2


def test_bits_of_cr4_that_l1_owns_are_not_written_back():
    made = VmxMachine()
    made.launch(CR4_GUEST_HOST_MASK=0x2080)
    made.call("vmx_hw_enter")
    made.m["cpu"]["cr4"] = 0x20E4
    made.hardware_exit(vmx.EXIT_CPUID)
    made.call("vmx_exit_n2")
    assert made.get(12, "GUEST_CR4") == 0x2024


def test_an_injected_event_is_delivered_once():
    made = VmxMachine()
    made.launch(VM_ENTRY_INTR_INFO_FIELD=1 << 31 | 3 << 8 | 6)
    assert made.call("vmx_hw_enter") == layout.ST_FAULT
    x = made.m["exc"]
    assert (x["vector"][0], x["kind"][0], x["has_error"][0], x["injected"][0]) == (6, 3, 0, 1)
    made.hardware_exit(vmx.EXIT_CPUID)
    made.call("vmx_exit_n2")
    assert made.get(12, "VM_ENTRY_INTR_INFO_FIELD") >> 31 == 0


# ---------------------------------------------------------------- nested faults


@pytest.mark.parametrize(("rights", "expected"), [(0, 0), (1, 1), (5, 5)])
def test_an_ept_violation_of_l1s_own_table_is_injected(rights, expected):
    made = VmxMachine()
    for level, at in enumerate((0x30000, 0x31000, 0x32000)):
        made.words(made.l1(at))[0] = at + 0x1000 | 7 if level < 3 else 0
    made.words(made.l1(0x33000))[5] = 0x40005000 | rights
    made.launch()
    made.call("vmx_hw_enter")
    # a write at n2p 0x5000, as the processor reports it: its own table has nothing there yet
    made.hardware_exit(vmx.EXIT_EPT_VIOLATION, info1=2 | 1 << 7 | 1 << 8, info2=0x5000)
    assert made.call("vmx_route") == 0
    assert made.call("vmx_handle") == layout.ST_OK
    assert made.state["vmexit_pending"] == 1
    made.call("vmx_exit_n2")
    assert made.get(12, "VM_EXIT_REASON") == 48
    assert made.get(12, "EXIT_QUALIFICATION") == 2 | expected << 3 | 1 << 7 | 1 << 8
    assert made.get(12, "GUEST_PHYSICAL_ADDRESS") == 0x5000


def test_a_misconfigured_entry_of_l1_is_exit_reason_49():
    made = VmxMachine()
    made.words(made.l1(0x30000))[0] = 2
    made.launch()
    made.hardware_exit(vmx.EXIT_EPT_VIOLATION, info1=1, info2=0x5000)
    made.call("vmx_handle")
    made.call("vmx_exit_n2")
    assert made.get(12, "VM_EXIT_REASON") == 49


def test_an_interrupted_delivery_is_resumed_after_l0_filled_the_table():
    made = VmxMachine()
    for at in (0x30000, 0x31000, 0x32000):
        made.words(made.l1(at))[0] = at + 0x1000 | 7
    made.words(made.l1(0x33000))[5] = 0x40005000 | 0x37
    made.launch()
    event = 1 << 31 | 1 << 11 | 3 << 8 | 13
    made.hardware_exit(
        vmx.EXIT_EPT_VIOLATION, info1=2, info2=0x5000, vectoring=event, vectoring_error=7
    )
    made.call("vmx_handle")
    assert made.get(2, "VM_ENTRY_INTR_INFO_FIELD") == event
    assert made.get(2, "VM_ENTRY_EXCEPTION_ERROR_CODE") == 7


# ---------------------------------------------------------------- what it costs


def test_shadowing_changes_how_l0_reaches_vmcs12():
    plain, shadow = VmxMachine(), VmxMachine(vmcs_shadowing=1)
    counts = []
    for made in (plain, shadow):
        made.enter_vmx_operation()
        made.fill_vmcs12()
        before = {e: count_of(made, e) for e in EVENTS}
        enter(made)
        counts.append({e: count_of(made, e) - before[e] for e in EVENTS})
    assert counts[0]["L0_VMPTRLD"] == 1
    assert counts[1]["L0_VMPTRLD"] > 40
    assert counts[0]["L0_BYTE_COPIED"] == 8 * (counts[1]["L0_VMREAD"] - counts[0]["L0_VMREAD"])
    instructions = sum(counts[1][f"L0_{e}"] for e in ("VMREAD", "VMWRITE", "VMPTRLD", "VMCLEAR"))
    assert 200 < instructions < 320


def test_fields_touched_are_counted_by_phase():
    made = machine()
    made.fill_vmcs12()
    fields = made.m["ledger"]["fields"][0]
    before = fields.copy()
    enter(made)
    entry = FIELD_PHASES.index("ENTRY")
    grown = (fields - before)[:, 2 * entry]
    assert grown[vmcs.SLOT_GUEST_RIP] == 1
    assert grown[vmcs.SLOT_EPT_POINTER] == 1
    assert (grown[: vmcs.N_SLOTS] > 0).sum() > 70
