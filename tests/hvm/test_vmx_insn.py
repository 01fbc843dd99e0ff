"""L0's emulation of the VMX instructions, and VMCS shadowing by the processor."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracle.vmx_machine import (
    CARRY,
    EPT12,
    GOOD_VMCS12,
    OPERAND,
    VMCS12,
    VMXON12,
    ZERO,
    VmxMachine,
)
from workbench.arch import vmcs, vmx
from workbench.core import layout
from workbench.core.ledger import EVENTS, FIELD_PHASES

MEMORY = {"flags": layout.UF_SRC_MEM, "disp": OPERAND}
GP, UD = 1 << 31 | 1 << 11 | 3 << 8 | 13, 1 << 31 | 3 << 8 | 6
L1_ACCESS = 2 * FIELD_PHASES.index("L1_ACCESS")


def in_vmx_operation(**features: int) -> VmxMachine:
    made = VmxMachine(**features)
    made.enter_vmx_operation()
    return made


def error(made: VmxMachine) -> int:
    """VM-instruction error number after VMfailValid, else 0."""
    return made.get(12, "VM_INSTRUCTION_ERROR") if made.flags == ZERO else 0


def count_of(made: VmxMachine, event: str) -> int:
    return int(made.m["ledger"]["counts"][0][:, EVENTS.index(event)].sum())


def vmwrite(made: VmxMachine, encoding: int, value: int) -> int:
    made.gpr[layout.RDX], made.gpr[layout.RAX] = encoding, value
    assert made.l1_executes("VMWRITE", dst=layout.RDX, src=layout.RAX) == layout.ST_OK
    return made.flags


def vmread(made: VmxMachine, encoding: int) -> int:
    made.gpr[layout.RDX] = encoding
    assert made.l1_executes("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_OK
    return int(made.gpr[layout.RBX]) & (1 << 64) - 1


# ---------------------------------------------------------------- permission


@pytest.mark.parametrize("name", ["VMXOFF", "VMREAD", "VMWRITE", "VMLAUNCH", "VMRESUME"])
def test_vmx_instructions_are_undefined_outside_of_vmx_operation(name):
    made = VmxMachine()
    assert made.l1_executes(name) == layout.ST_FAULT
    assert made.m["exc"]["vector"][0] == 6
    assert made.get(1, "GUEST_RIP") == 0x100000


def test_vmxon_needs_cr4_vmxe_as_l1_sees_it():
    made = VmxMachine()
    made.words(made.l1(OPERAND))[0] = VMXON12
    assert made.l1_executes("VMXON", **MEMORY) == layout.ST_FAULT
    assert made.m["exc"]["vector"][0] == 6


def test_user_mode_gets_a_general_protection_fault():
    made = in_vmx_operation()
    made.m["cpu"]["cpl"] = 3
    made.execute("VMREAD", dst=0, src=1)
    made.call("vmx_hw_exit")
    made.call("vmx_handle")
    assert made.get(1, "VM_ENTRY_INTR_INFO_FIELD") == GP


def test_an_operand_that_is_not_mapped_faults_in_l1():
    made = in_vmx_operation()
    operand = {**MEMORY, "base": layout.RBX}
    made.gpr[layout.RBX] = 3 << 30
    assert made.l1_executes("VMPTRLD", **operand) == layout.ST_FAULT
    x = made.m["exc"]
    assert (x["vector"][0], x["error"][0]) == (14, 0)
    assert made.m["cpu"]["cr2"][0] == (3 << 30) + OPERAND


def test_an_operand_in_memory_that_l1_does_not_have_ends_l1():
    made = in_vmx_operation()
    made.words(made.l1(0x11000))[2] = 0x80000000 | 0xE7
    made.execute("VMPTRLD", flags=layout.UF_SRC_MEM, base=layout.RBX)
    made.gpr[layout.RBX] = 2 << 30
    made.call("vmx_hw_exit")
    assert made.call("vmx_handle") == layout.ST_FATAL
    assert made.m["fatal"][0] == layout.FATAL_N1P_UNMAPPED


# ---------------------------------------------------------------- regions


@pytest.mark.parametrize("pointer", [VMXON12 + 8, 1 << 41, 0x5000_0000_0000_0000, 0x7FF00000])
def test_bad_pointers(pointer):
    made = in_vmx_operation()
    made.l1_uses_pointer("VMCLEAR", pointer)
    assert error(made) == vmx.ERROR_VMCLEAR_INVALID_ADDRESS
    made.l1_uses_pointer("VMPTRLD", pointer)
    assert error(made) == vmx.ERROR_VMPTRLD_INVALID_ADDRESS


def test_the_vmxon_region_is_no_vmcs():
    made = in_vmx_operation()
    made.l1_uses_pointer("VMCLEAR", VMXON12)
    assert error(made) == vmx.ERROR_VMCLEAR_VMXON_POINTER
    made.l1_uses_pointer("VMPTRLD", VMXON12)
    assert error(made) == vmx.ERROR_VMPTRLD_VMXON_POINTER
    made.l1_uses_pointer("VMXON", VMXON12)
    assert error(made) == vmx.ERROR_VMXON_IN_VMX_ROOT_OPERATION


def test_the_revision_must_be_right():
    made = in_vmx_operation()
    assert made.l1_uses_pointer("VMPTRLD", 0x25000) == ZERO
    assert error(made) == vmx.ERROR_VMPTRLD_INCORRECT_VMCS_REVISION_ID
    fresh = VmxMachine()
    fresh.gpr[0] = 0x2020
    fresh.hardware_exit(vmx.EXIT_CR_ACCESS, info1=4)
    fresh.call("vmx_handle")
    fresh.call("vmx_hw_enter")
    assert fresh.l1_uses_pointer("VMXON", VMXON12) == CARRY


def test_failures_without_a_current_vmcs_have_no_number():
    made = in_vmx_operation()
    assert made.l1_uses_pointer("VMCLEAR", VMCS12) == 0
    assert made.l1_uses_pointer("VMPTRLD", 0x123) == CARRY
    assert made.l1_executes("VMLAUNCH") == layout.ST_OK
    assert made.flags == CARRY
    made.gpr[layout.RDX] = vmcs.GUEST_RIP
    made.l1_executes("VMREAD", dst=layout.RBX, src=layout.RDX)
    assert made.flags == CARRY


def test_vmptrst_stores_the_pointer():
    made = in_vmx_operation()
    made.l1_executes("VMPTRST", flags=layout.UF_DST_MEM, disp=OPERAND + 8)
    assert made.words(made.l1(OPERAND))[1] == VMCS12
    made.l1_uses_pointer("VMCLEAR", VMCS12)
    made.l1_executes("VMPTRST", flags=layout.UF_DST_MEM, disp=OPERAND + 8)
    assert made.words(made.l1(OPERAND))[1] == -1


def test_vmxoff_leaves_vmx_operation():
    made = in_vmx_operation(vmcs_shadowing=1)
    made.l1_executes("VMXOFF")
    assert made.flags == 0
    assert (made.state["vmxon_addr"], made.m["nv"]["shadow_active"][0]) == (-1, 0)
    assert made.get(1, "SECONDARY_VM_EXEC_CONTROL") & vmx.CPU2_SHADOW_VMCS == 0
    assert made.l1_executes("VMXOFF") == layout.ST_FAULT


# ---------------------------------------------------------------- VMREAD and VMWRITE


def test_every_field_holds_what_was_written_in_its_width():
    made = in_vmx_operation()
    value = 0x1122_3344_5566_7788
    for slot, encoding in enumerate(vmcs.ENCODINGS.tolist()):
        read_only = encoding >> 10 & 3 == 1
        assert vmwrite(made, encoding, value) == (ZERO if read_only else 0)
        if read_only:
            assert error(made) == vmx.ERROR_VMWRITE_READ_ONLY_VMCS_COMPONENT
            continue
        mask = (1 << 8 * int(vmcs.WIDTHS[slot])) - 1
        assert vmread(made, encoding) == value & mask
        if encoding >> 13 & 3 == 1:
            assert vmread(made, encoding | 1) == value >> 32
            assert vmwrite(made, encoding | 1, 0xABCD) == 0
            assert vmread(made, encoding) == 0xABCD_5566_7788


@pytest.mark.parametrize("encoding", [0x0A00, 0x6C01, 0x4001, 0x1_0000, -1, 0x7FFF, 0x5000])
def test_encodings_that_do_not_exist(encoding):
    made = in_vmx_operation()
    vmwrite(made, encoding, 1)
    assert error(made) == vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT
    made.gpr[layout.RBX] = 77
    vmread(made, encoding)
    assert error(made) == vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT
    assert made.gpr[layout.RBX] == 77


def test_operands_in_memory():
    made = in_vmx_operation()
    made.words(made.l1(OPERAND))[0] = 0x5555
    made.gpr[layout.RDX] = vmcs.GUEST_RIP
    made.l1_executes("VMWRITE", dst=layout.RDX, **MEMORY)
    assert made.get(12, "GUEST_RIP") == 0x5555
    made.l1_executes("VMREAD", src=layout.RDX, flags=layout.UF_DST_MEM, disp=OPERAND + 8)
    assert made.words(made.l1(OPERAND))[1] == 0x5555


def test_vmread_into_rsp():
    made = in_vmx_operation()
    made.put(12, "HOST_RSP", 0x8888)
    made.gpr[layout.RDX] = vmcs.HOST_RSP
    made.l1_executes("VMREAD", dst=layout.RSP, src=layout.RDX)
    assert made.gpr[layout.RSP] == 0x8888


def test_accesses_of_l1_are_counted_per_field():
    made = in_vmx_operation()
    vmwrite(made, vmcs.GUEST_RIP, 1)
    vmread(made, vmcs.GUEST_RIP)
    fields = made.m["ledger"]["fields"][0][vmcs.SLOT_GUEST_RIP]
    assert (fields[L1_ACCESS], fields[L1_ACCESS + 1]) == (1, 1)


# ---------------------------------------------------------------- shadowing


def test_shadowed_accesses_do_not_exit():
    made = in_vmx_operation(vmcs_shadowing=1)
    made.gpr[layout.RDX], made.gpr[layout.RAX] = vmcs.GUEST_RIP, 0x4242
    assert made.execute("VMWRITE", dst=layout.RDX, src=layout.RAX) == layout.ST_OK
    assert made.execute("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_OK
    assert made.gpr[layout.RBX] == made.get(12, "GUEST_RIP") == 0x4242
    assert (count_of(made, "VMREAD_SHADOWED"), count_of(made, "VMWRITE_SHADOWED")) == (1, 1)
    fields = made.m["ledger"]["fields"][0][vmcs.SLOT_GUEST_RIP]
    assert (fields[L1_ACCESS], fields[L1_ACCESS + 1]) == (1, 1)


@pytest.mark.parametrize("field", ["IO_BITMAP_A", "IO_BITMAP_B", "MSR_BITMAP"])
def test_shadowing_leaves_writes_of_bitmap_addresses_to_l0(field):
    made = in_vmx_operation(vmcs_shadowing=1)
    for high in (0, 1):
        made.gpr[layout.RDX] = getattr(vmcs, field) | high
        assert made.execute("VMWRITE", dst=layout.RDX, src=layout.RAX) == layout.ST_VMEXIT
        assert made.execute("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_OK


def test_shadowed_errors_are_found_by_the_processor():
    made = in_vmx_operation(vmcs_shadowing=1)
    made.gpr[layout.RDX] = 0x0A00
    assert made.execute("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_OK
    assert made.get(12, "VM_INSTRUCTION_ERROR") == vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT
    made.gpr[layout.RDX] = 1 << 15
    assert made.execute("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_VMEXIT
    made.m["cpu"]["cpl"] = 3
    made.gpr[layout.RDX] = vmcs.GUEST_RIP
    assert made.execute("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_FAULT


def test_the_region_is_a_shadow_vmcs_only_while_current():
    made = in_vmx_operation(vmcs_shadowing=1)
    revision = made.page(made.l1(VMCS12)).view(np.uint32)
    assert revision[0] == vmcs.REVISION | 1 << 31
    assert made.get(1, "VMCS_LINK_POINTER") == layout.L1_BANK_MA + VMCS12
    assert made.l1_uses_pointer("VMPTRLD", VMCS12) == 0
    assert made.l1_uses_pointer("VMCLEAR", VMCS12) == 0
    assert revision[0] == vmcs.REVISION
    assert made.get(1, "VMCS_LINK_POINTER") == (1 << 64) - 1


def test_without_shadowing_nothing_is_shadowed():
    made = in_vmx_operation()
    made.gpr[layout.RDX] = vmcs.GUEST_RIP
    assert made.execute("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_VMEXIT
    assert count_of(made, "VMREAD_SHADOWED") == 0


# ---------------------------------------------------------------- VMLAUNCH and VMRESUME


def launch_error(made: VmxMachine, name: str = "VMLAUNCH") -> int:
    """Error number of an entry, 0 when it is accepted."""
    made.l1_executes(name)
    pending = int(made.state["vmentry_pending"])
    made.state["vmentry_pending"] = 0
    return 0 if pending else error(made)


def test_launch_state():
    made = in_vmx_operation()
    made.fill_vmcs12()
    assert launch_error(made, "VMRESUME") == vmx.ERROR_VMRESUME_NONLAUNCHED_VMCS
    assert launch_error(made) == 0
    made.call("vmx_enter_n2")
    made.call("vmx_exit_n2")
    made.call("vmx_hw_enter")
    assert launch_error(made) == vmx.ERROR_VMLAUNCH_NONCLEAR_VMCS
    assert launch_error(made, "VMRESUME") == 0


def test_a_failed_entry_leaves_the_vmcs_clear():
    made = in_vmx_operation()
    made.fill_vmcs12(GUEST_RFLAGS=0)
    for _ in range(2):
        assert launch_error(made) == 0
        made.call("vmx_enter_n2")
        made.call("vmx_exit_n2")
        assert made.get(12, "VM_EXIT_REASON") == 0x80000021
        made.call("vmx_hw_enter")


def test_entry_is_refused_behind_mov_ss():
    made = in_vmx_operation()
    made.fill_vmcs12()
    made.m["cpu"]["shadow"] = 2
    assert launch_error(made) == vmx.ERROR_ENTRY_EVENTS_BLOCKED_BY_MOV_SS


@pytest.mark.parametrize(
    "changes",
    [
        {"PIN_BASED_VM_EXEC_CONTROL": 0},
        {"PIN_BASED_VM_EXEC_CONTROL": 0x16 | vmx.PIN_POSTED_INTR},
        {"CPU_BASED_VM_EXEC_CONTROL": 0},
        {"SECONDARY_VM_EXEC_CONTROL": 2 | vmx.CPU2_SHADOW_VMCS},
        {"SECONDARY_VM_EXEC_CONTROL": 2 | vmx.CPU2_ENABLE_VPID},
        {"VM_ENTRY_CONTROLS": 0},
        {"VM_EXIT_CONTROLS": 0},
        {"CR3_TARGET_COUNT": 1},
        {"IO_BITMAP_A": 0x123},
        {"IO_BITMAP_B": 1 << 39},
        {"MSR_BITMAP": 1 << 39},
        {"EPT_POINTER": EPT12},
        {"EPT_POINTER": EPT12 | 0x5E},
        {"EPT_POINTER": EPT12 | 0x18 | 3},
        {"EPT_POINTER": -1},
        {"VM_ENTRY_INTR_INFO_FIELD": 1 << 31 | 1 << 8 | 3},
        {"VM_ENTRY_INTR_INFO_FIELD": 1 << 31 | 1 << 11 | 3 << 8 | 6},
        {"VM_ENTRY_INTR_INFO_FIELD": 1 << 31 | 3 << 8 | 14},
        {"VM_ENTRY_INTR_INFO_FIELD": 1 << 31 | 4 << 8 | 0x80},
    ],
)
def test_invalid_controls_are_error_7(changes):
    made = in_vmx_operation()
    made.fill_vmcs12(**changes)
    assert launch_error(made) == vmx.ERROR_ENTRY_INVALID_CONTROL_FIELD


@pytest.mark.parametrize(
    "changes",
    [
        {"HOST_CR0": 0x31}, {"HOST_CR4": 0x20}, {"HOST_CR3": 1 << 45}, {"HOST_RIP": 1 << 50},
        {"HOST_CS_SELECTOR": 0}, {"HOST_TR_SELECTOR": 0}, {"HOST_SS_SELECTOR": 0x13},
        {"HOST_FS_BASE": 1 << 60}, {"HOST_IA32_EFER": 0xD03},
        {"VM_EXIT_CONTROLS": GOOD_VMCS12["VM_EXIT_CONTROLS"] & ~(1 << 9)},
    ],
)  # fmt: skip
def test_invalid_host_state_is_error_8(changes):
    made = in_vmx_operation()
    made.fill_vmcs12(**changes)
    assert launch_error(made) == vmx.ERROR_ENTRY_INVALID_HOST_STATE_FIELD


# ---------------------------------------------------------------- INVEPT, INVVPID, VMCALL


def invalidate(made: VmxMachine, name: str, kind: int, first: int, second: int = 0) -> int:
    made.words(made.l1(OPERAND))[:2] = (first, second)
    made.gpr[layout.RCX] = kind
    made.l1_executes(name, dst=layout.RCX, **MEMORY)
    return error(made)


def test_invept_empties_the_nested_p2m_of_that_root():
    made = in_vmx_operation(np2m_flush=1)
    made.fill_vmcs12()
    made.l1_executes("VMLAUNCH")
    made.call("vmx_enter_n2")
    made.call("vmx_exit_n2")
    made.call("vmx_hw_enter")
    assert invalidate(made, "INVEPT", 1, 0x99000 | 0x1E) == 0
    assert count_of(made, "L0_NP2M_FLUSHED") == 0
    assert invalidate(made, "INVEPT", 1, EPT12 | 0x1E) == 0
    assert count_of(made, "L0_NP2M_FLUSHED") == 1
    assert invalidate(made, "INVEPT", 2, 0) == 0
    assert count_of(made, "L0_NP2M_FLUSHED") == 2
    wrong = vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID
    assert [invalidate(made, "INVEPT", kind, 0) for kind in (0, 3, -1)] == [wrong] * 3


@pytest.mark.parametrize(
    ("kind", "vpid", "address", "good"),
    [
        (0, 1, 0x1000, True), (0, 1, 1 << 60, False), (0, 0, 0, False), (1, 1, 0, True),
        (1, 0, 0, False), (2, 0, 0, True), (3, 1, 0, False), (1, 1 << 16, 0, False),
        (-1, 1, 0, False),
    ],
)  # fmt: skip
def test_invvpid_operands(kind, vpid, address, good):
    made = in_vmx_operation()
    expected = 0 if good else vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID
    assert invalidate(made, "INVVPID", kind, vpid, address) == expected


def test_without_vpid_for_l1_invvpid_is_undefined():
    made = in_vmx_operation(vpid_for_l1=0)
    made.gpr[layout.RCX] = 1
    assert made.l1_executes("INVVPID", dst=layout.RCX, **MEMORY) == layout.ST_FAULT
    assert made.m["exc"]["vector"][0] == 6


def test_a_changed_vpid_and_no_vpid_make_l2_start_with_a_new_tag():
    for changes, renewed in (
        ({"SECONDARY_VM_EXEC_CONTROL": 2}, "L1_WITHOUT_VPID"),
        ({"SECONDARY_VM_EXEC_CONTROL": 0x22, "VIRTUAL_PROCESSOR_ID": 7}, "TAG_RENEWED"),
    ):
        from workbench.core.ledger import FLUSH_REASONS

        made = VmxMachine()
        made.state["n2_tag"], made.state["n2_tag_generation"] = 9, 1
        made.launch(**changes)
        assert made.state["n2_tag_generation"] == 0
        flushes = made.m["ledger"]["flushes"][0].sum(axis=1)
        assert flushes[FLUSH_REASONS.index(renewed)] == 1


def test_a_hypercall_of_l1_finds_nothing():
    made = VmxMachine()
    made.l1_executes("VMCALL")
    assert made.gpr[layout.RAX] == -38
    assert made.get(1, "GUEST_RIP") == 0x100003
