"""L0's other exit handlers on VMX, the processor's entry and exit, and the control words."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracle.vmx_machine import VmxMachine
from workbench.arch import msr, vmcs, vmx
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.vmx import controls as vmx_controls

GP = 1 << 31 | 1 << 11 | 3 << 8 | 13


def handle(made: VmxMachine, reason: int, **info: int) -> int:
    made.hardware_exit(reason, insn_len=2, **info)
    return made.call("vmx_handle")


def rdmsr(made: VmxMachine, number: int) -> int:
    made.gpr[layout.RCX] = number
    assert handle(made, vmx.EXIT_MSR_READ) == layout.ST_OK
    made.call("vmx_hw_enter")
    return int(made.gpr[layout.RAX]) | int(made.gpr[layout.RDX]) << 32


def wrmsr(made: VmxMachine, number: int, value: int) -> int:
    made.gpr[layout.RCX] = number
    made.gpr[layout.RAX], made.gpr[layout.RDX] = value & 0xFFFFFFFF, value >> 32
    assert handle(made, vmx.EXIT_MSR_WRITE) == layout.ST_OK
    return made.call("vmx_hw_enter")


# ---------------------------------------------------------------- the processor


def test_exit_and_entry_keep_the_guests_state():
    made = VmxMachine()
    c = made.m["cpu"]
    made.gpr[:16] = np.arange(16) * 0x1111
    c["cr3"], c["rip"], c["sysenter_eip"], c["shadow"] = 0x5000, 0x123456, 0x9999, 2
    c["seg_base"][0, layout.GS], c["idtr_base"], c["idtr_limit"] = 0xAAAA, 0x4000, 0xFFF
    before = made.m["cpu"].copy()
    made.hardware_exit(vmx.EXIT_CPUID)
    for name in ("cr0", "cr3", "cr4", "rip", "sysenter_eip", "idtr_base", "shadow"):
        c[name] = -1
    c["seg_base"], c["seg_attr"] = -1, -1
    made.gpr[layout.RSP] = 0
    assert made.call("vmx_hw_enter") == layout.ST_OK
    for name in layout.CPU.names:
        if name not in ("gpr32", "gpr16", "gpr8", "lf_zero", "lf_sign", "lf_carry"):
            assert (made.m["cpu"][name] == before[name]).all(), name


def test_a_guest_cannot_change_control_register_bits_of_the_host():
    made = VmxMachine()
    made.m["cpu"]["cr0"] &= ~0x20
    made.m["cpu"]["cr4"] &= ~0x2000
    made.hardware_exit(vmx.EXIT_CPUID)
    assert made.get(1, "GUEST_CR0") & 0x20
    assert made.get(1, "GUEST_CR4") & 0x2000


def test_entry_with_bad_guest_state_fails():
    made = VmxMachine()
    made.put(1, "GUEST_RFLAGS", 0)
    assert made.call("vmx_hw_enter") == -1


# ---------------------------------------------------------------- MSRs


def test_capability_msrs_pair_what_must_and_what_may_be_set():
    made = VmxMachine()
    for plain, true in (("PINBASED_CTLS", "TRUE_PINBASED"), ("PROCBASED_CTLS", "TRUE_PROCBASED"),
                        ("EXIT_CTLS", "TRUE_EXIT"), ("ENTRY_CTLS", "TRUE_ENTRY")):  # fmt: skip
        word, true_word = (rdmsr(made, getattr(msr, f"VMX_{n}")) for n in (plain, true))
        assert word >> 32 == true_word >> 32
        assert true_word & word & 0xFFFFFFFF == true_word & 0xFFFFFFFF
        for w in (word, true_word):
            assert w & 0xFFFFFFFF & ~(w >> 32) == 0
    assert rdmsr(made, msr.IA32_FEATURE_CONTROL) == 5
    basic = rdmsr(made, msr.VMX_BASIC)
    assert basic & 0x7FFFFFFF == vmcs.REVISION
    assert basic >> 32 & 0x1FFF == 4096


def test_vpid_appears_only_with_its_feature():
    shown, hidden = VmxMachine(vpid_for_l1=1), VmxMachine(vpid_for_l1=0)
    for made, present in ((shown, True), (hidden, False)):
        secondary = rdmsr(made, msr.VMX_PROCBASED_CTLS2) >> 32
        assert bool(secondary & vmx.CPU2_ENABLE_VPID) == present
        assert secondary & vmx.CPU2_ENABLE_EPT
        assert bool(rdmsr(made, msr.VMX_EPT_VPID_CAP) >> 32 & 1) == present


def test_misc_allows_writing_any_field_exactly_with_shadowing():
    for shadowing in (0, 1):
        made = VmxMachine(vmcs_shadowing=shadowing)
        assert rdmsr(made, msr.VMX_MISC) >> 29 & 1 == shadowing


@pytest.mark.parametrize("number", [msr.IA32_FEATURE_CONTROL, msr.VMX_BASIC, 0x12345])
def test_msrs_that_cannot_be_written(number):
    made = VmxMachine()
    assert wrmsr(made, number, 5) == layout.ST_FAULT
    assert made.m["exc"]["vector"][0] == 13
    assert made.get(1, "GUEST_RIP") == 0x100000


def test_missing_vmx_msrs_fault():
    made = VmxMachine()
    made.gpr[layout.RCX] = msr.VMX_VMFUNC
    handle(made, vmx.EXIT_MSR_READ)
    assert made.get(1, "VM_ENTRY_INTR_INFO_FIELD") == GP


def test_msrs_that_are_vmcs_fields_survive_the_next_entry():
    made = VmxMachine()
    assert wrmsr(made, msr.EFER, 0x501) == layout.ST_OK
    assert made.m["cpu"]["efer"][0] == 0x501
    assert wrmsr(made, msr.FS_BASE, 0x7000) == layout.ST_OK
    assert made.m["cpu"]["seg_base"][0, layout.FS] == 0x7000


def test_l0s_msr_bitmap_lets_through_what_the_table_says():
    made = VmxMachine()
    bitmap = made.page(memory_map.L0_MSRPM_MA)
    clear = {int(b) for b in np.flatnonzero(np.unpackbits(bitmap, bitorder="little") == 0)}
    direct = {0xC0000100, 0xC0000101, 0xC0000102, 0x174, 0x175, 0x176, 0x277}
    expected = {
        (n & 0x1FFF) + (0x2000 if n >> 31 else 0) + write for n in direct for write in (0, 0x4000)
    }
    assert clear == expected


# ---------------------------------------------------------------- control and debug registers


def test_cr4_as_l1_sees_it_has_its_own_vmxe():
    made = VmxMachine()
    assert made.call("vmx_read_cr", 4) == 0x20
    assert made.m["cpu"]["cr4"][0] == 0x2020
    made.gpr[layout.RBX] = 0x20A0
    handle(made, vmx.EXIT_CR_ACCESS, info1=4 | layout.RBX << 8)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.call("vmx_read_cr", 4) == 0x20A0


@pytest.mark.parametrize(
    ("register", "value"), [(0, 0x11), (0, 1 << 40 | 0x80000031), (4, 0), (4, 1 << 30 | 0x20)]
)
def test_bad_control_register_values_fault(register, value):
    made = VmxMachine()
    made.gpr[layout.RBX] = value
    handle(made, vmx.EXIT_CR_ACCESS, info1=register | layout.RBX << 8)
    assert made.get(1, "VM_ENTRY_INTR_INFO_FIELD") == GP


def test_cr0_write_of_l2_that_l0_keeps_reaches_vmcs12():
    made = VmxMachine()
    made.launch(CR0_GUEST_HOST_MASK=0x20, CR0_READ_SHADOW=0)
    made.call("vmx_hw_enter")
    # L2 sees CR0 without NE; it sets MP and TS, which L1 does not own
    made.gpr[layout.RBX] = 0x8001001B
    made.hardware_exit(vmx.EXIT_CR_ACCESS, info1=layout.RBX << 8, insn_len=3)
    assert made.call("vmx_route") == 0
    assert made.call("vmx_handle") == layout.ST_OK
    assert made.get(12, "GUEST_CR0") & 0x3F == 0x3B
    assert made.get(2, "CR0_READ_SHADOW") & 0x3F == 0x1B
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["cpu"]["cr0"][0] & 0x3F == 0x3B


def test_first_use_of_debug_registers_exits_once():
    made = VmxMachine()
    assert made.get(1, "CPU_BASED_VM_EXEC_CONTROL") & vmx.CPU_MOV_DR_EXITING
    handle(made, vmx.EXIT_DR_ACCESS)
    assert made.get(1, "CPU_BASED_VM_EXEC_CONTROL") & vmx.CPU_MOV_DR_EXITING == 0
    assert made.get(1, "GUEST_RIP") == 0x100000


def test_cr8_is_emulated():
    made = VmxMachine()
    made.gpr[layout.RBX] = 7
    handle(made, vmx.EXIT_CR_ACCESS, info1=8 | layout.RBX << 8)
    handle(made, vmx.EXIT_CR_ACCESS, info1=8 | 1 << 4 | layout.RSP << 8)
    assert made.get(1, "GUEST_RSP") == 7


# ---------------------------------------------------------------- the rest


def test_cpuid_shows_vmx_to_l1():
    made = VmxMachine()
    made.gpr[layout.RAX] = 1
    assert handle(made, vmx.EXIT_CPUID) == layout.ST_OK
    assert made.gpr[layout.RCX] >> 5 & 1
    assert made.get(1, "GUEST_RIP") == 0x100002


def test_serial_output_and_the_debug_exit():
    made = VmxMachine()
    made.gpr[layout.RAX] = 0x141
    assert handle(made, vmx.EXIT_IO_INSTRUCTION, info1=0x3F8 << 16) == layout.ST_OK
    assert (made.m["serial_count"][0], made.m["serial"][0, 0]) == (1, 0x41)
    assert handle(made, vmx.EXIT_IO_INSTRUCTION, info1=0xF4 << 16) == layout.ST_STOP
    assert made.m["stop_code"][0] == 0x41


@pytest.mark.parametrize(("size", "expected"), [(1, 0x12FF), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_in_changes_only_its_part_of_rax(size, expected):
    made = VmxMachine()
    made.gpr[layout.RAX] = 0x1234
    handle(made, vmx.EXIT_IO_INSTRUCTION, info1=size - 1 | 8 | 0x60 << 16)
    assert made.gpr[layout.RAX] == expected


def test_string_output_goes_byte_by_byte():
    made = VmxMachine()
    made.ram[made.l1(0x9000) : made.l1(0x9002)] = (0x48, 0x69)
    made.gpr[layout.RSI], made.gpr[layout.RCX] = 0x9000, 2
    for left in (1, 0):
        source = int(made.gpr[layout.RSI])
        handle(made, vmx.EXIT_IO_INSTRUCTION, info1=0x30 | 0x3F8 << 16, linear=source)
        made.call("vmx_hw_enter")
        assert made.gpr[layout.RCX] == left
        assert made.m["cpu"]["rip"][0] == (0x100000 if left else 0x100002)
    assert bytes(made.m["serial"][0, :2]) == b"Hi"


def test_hlt_stops_and_memory_that_l1_lacks_ends_it():
    assert handle(VmxMachine(), vmx.EXIT_HLT) == layout.ST_HALT
    made = VmxMachine()
    assert handle(made, vmx.EXIT_EPT_VIOLATION, info2=3 << 30) == layout.ST_FATAL
    assert made.m["fatal"][0] == layout.FATAL_N1P_UNMAPPED
    assert handle(VmxMachine(), vmx.EXIT_TRIPLE_FAULT) == layout.ST_SHUTDOWN


@pytest.mark.parametrize("name", ["INIT_SIGNAL", "RDRAND", "XSAVES", "INVALID_STATE"])
def test_exits_that_xen_does_not_handle_end_l1(name):
    made = VmxMachine()
    assert handle(made, getattr(vmx, f"EXIT_{name}")) == layout.ST_FATAL
    assert made.m["fatal"][0] == layout.FATAL_UNHANDLED_EXIT


def test_an_exception_l0_finds_for_l2_goes_to_l1_if_l1_wants_it():
    for bitmap, pending in ((0, 0), (1 << 13, 1)):
        made = VmxMachine()
        made.launch(EXCEPTION_BITMAP=bitmap)
        made.call("vmx_hw_enter")
        made.gpr[layout.RCX] = msr.VMX_VMFUNC
        handle(made, vmx.EXIT_MSR_READ)
        assert made.state["vmexit_pending"] == pending
        if pending:
            made.call("vmx_exit_n2")
            assert made.get(12, "VM_EXIT_REASON") == vmx.EXIT_EXCEPTION_NMI
            assert made.get(12, "VM_EXIT_INTR_INFO") == GP
        else:
            assert made.get(2, "VM_ENTRY_INTR_INFO_FIELD") == GP


# ---------------------------------------------------------------- control words


def test_l0_asks_only_for_what_the_hardware_has_and_vmx_demands():
    groups = {"pin": "PIN", "cpu": "CPU", "sec": "CPU2", "exit": "EXIT", "entry": "ENTRY"}
    for group, name in groups.items():
        word = getattr(vmx_controls, f"L0_{name}")
        for row in rows("vmx_controls"):
            if row["group"] == group and word >> int(row["value"], 0) & 1:
                assert row["name"] in vmx_controls.HARDWARE[group]
        must = vmx_controls.CAPABILITIES_HARDWARE[group][0]
        assert word & must == must


def test_every_text_of_the_defaults_is_used():
    texts = {r[f"{l0}_L0_default"] for r in rows("vmx_controls") if r["group"] in
             vmx_controls.HARDWARE for l0 in ("xen", "kvm")}  # fmt: skip
    assert texts == set(vmx_controls.XEN_DEFAULT)
    names = {(r["group"], r["name"]) for r in rows("vmx_controls")}
    for group, controls in vmx_controls.HARDWARE.items():
        assert {(group, c) for c in controls} <= names


def test_hlt_io_and_ept_are_on_and_cr3_exits_off():
    assert vmx_controls.L0_CPU & vmx.CPU_HLT_EXITING
    assert vmx_controls.L0_CPU & vmx.CPU_USE_IO_BITMAPS
    assert vmx_controls.L0_CPU2 & vmx.CPU2_ENABLE_EPT
    assert vmx_controls.L0_CPU & (vmx.CPU_CR3_LOAD_EXITING | vmx.CPU_INVLPG_EXITING) == 0
    assert vmx_controls.L0_CPU2 & vmx.CPU2_SHADOW_VMCS == 0
