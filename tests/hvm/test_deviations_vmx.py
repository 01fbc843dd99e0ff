"""Each deviation of an L0 on VMX: what L1 or L2 sees with it, and what without."""

from __future__ import annotations

import pytest

from tests.hvm.test_vmx_kvm import KvmMachine
from tests.oracle.vmx_machine import CARRY, GOOD_VMCS12, OPERAND, VMXON12, ZERO, VmxMachine
from workbench.arch import deviations, msr, vmcs, vmx
from workbench.core import layout
from workbench.core.hvm import memory_map

MEMORY = {"flags": layout.UF_SRC_MEM, "disp": OPERAND}
GP = 1 << 31 | 1 << 11 | 3 << 8 | 13
BOTH = pytest.mark.parametrize("on", [False, True], ids=["manual", "deviating"])


def machine_with(name: str, on: bool, **features: int) -> VmxMachine:
    """A machine whose L0 has one deviation, or none."""
    return VmxMachine(deviations=deviations.MASKS[name] if on else 0, **features)


def in_operation(name: str, on: bool, **features: int) -> VmxMachine:
    made = machine_with(name, on, **features)
    made.enter_vmx_operation()
    return made


def running_l2(name: str, on: bool, l0: int = layout.L0_XEN, **changes: int) -> VmxMachine:
    made = machine_with(name, on, l0=l0)
    assert made.launch(**changes) == layout.ST_OK
    assert made.state["vmexit_pending"] == 0
    assert made.call("vmx_hw_enter") == layout.ST_OK
    return made


def goes_to_l1(made: VmxMachine, reason: int, **info: int) -> bool:
    made.hardware_exit(reason, **info)
    return made.call("vmx_route") == 1


def error(made: VmxMachine) -> int:
    return made.get(12, "VM_INSTRUCTION_ERROR") if made.flags == ZERO else 0


# ---------------------------------------------------------------- exits of L2


@BOTH
def test_wbinvd_kept_by_l0(on):
    sec = GOOD_VMCS12["SECONDARY_VM_EXEC_CONTROL"] | vmx.CPU2_WBINVD_EXITING
    made = in_operation("wbinvd_kept_by_l0", on)
    made.fill_vmcs12(SECONDARY_VM_EXEC_CONTROL=sec)
    made.state["n2_guest"] = 1
    made.m["exit"]["code"] = vmx.EXIT_WBINVD
    assert made.call("vmx_route") == (not on)


@BOTH
def test_unlisted_reason_ends_domain(on):
    sec = GOOD_VMCS12["SECONDARY_VM_EXEC_CONTROL"] | vmx.CPU2_RDRAND_EXITING
    made = in_operation("unlisted_reason_ends_domain", on)
    made.fill_vmcs12(SECONDARY_VM_EXEC_CONTROL=sec)
    made.state["n2_guest"] = 1
    made.m["exit"]["code"] = vmx.EXIT_RDRAND
    assert made.call("vmx_route") == (not on)
    if on:
        assert made.call("vmx_handle") == layout.ST_FATAL
        assert made.m["fatal"][0] == layout.FATAL_UNHANDLED_EXIT


@BOTH
def test_mov_dr_after_l0(on):
    cpu = GOOD_VMCS12["CPU_BASED_VM_EXEC_CONTROL"] | vmx.CPU_MOV_DR_EXITING
    made = running_l2("mov_dr_after_l0", on, CPU_BASED_VM_EXEC_CONTROL=cpu)
    assert goes_to_l1(made, vmx.EXIT_DR_ACCESS, info1=7, insn_len=3) == (not on)
    if on:  # the debug registers are loaded, the instruction runs again
        assert made.call("vmx_handle") == layout.ST_OK
        assert made.call("vmx_hw_enter") == layout.ST_OK
        assert goes_to_l1(made, vmx.EXIT_DR_ACCESS, info1=7, insn_len=3)


@BOTH
@pytest.mark.parametrize(("kind", "vector"), [(6, 3), (6, 4), (5, 1), (3, 6)])
def test_software_exceptions_kept_by_l0(on, kind, vector):
    made = running_l2("software_exceptions_kept_by_l0", on, EXCEPTION_BITMAP=1 << vector)
    info = 1 << 31 | kind << 8 | vector
    expected = not on or kind == 3
    assert goes_to_l1(made, vmx.EXIT_EXCEPTION_NMI, intr_info=info, insn_len=1) == expected


# ---------------------------------------------------------------- VM entry


@BOTH
def test_entry_checks_left_to_hardware(on):
    made = in_operation("entry_checks_left_to_hardware", on)
    made.fill_vmcs12(GUEST_RFLAGS=0)
    assert made.l1_executes("VMLAUNCH") == layout.ST_OK
    state = made.state
    assert state["vmentry_pending"] == 1
    state["vmentry_pending"] = 0
    assert made.call("vmx_enter_n2") == layout.ST_OK
    if on:
        assert state["vmexit_pending"] == 0
        assert made.call("enter_guest") == layout.ST_FATAL
        assert made.m["fatal"][0] == layout.FATAL_BAD_VMCX02
    else:
        assert state["vmexit_pending"] == 1
        assert made.m["exit"]["code"][0] == 1 << 31 | vmx.EXIT_INVALID_STATE


@BOTH
@pytest.mark.parametrize(
    ("change", "number"),
    [({"VM_ENTRY_INTR_INFO_FIELD": 1 << 31 | 1 << 8}, 7), ({"HOST_RIP": 1 << 60}, 8),
     ({"MSR_BITMAP": 1 << 40}, 7)],
)  # fmt: skip
def test_entry_checks_left_to_hardware_give_no_errors(on, change, number):
    made = in_operation("entry_checks_left_to_hardware", on)
    made.fill_vmcs12(**change)
    assert made.l1_executes("VMLAUNCH") == layout.ST_OK
    mapped = "MSR_BITMAP" not in change  # the one thing that Xen looks at
    assert made.state["vmentry_pending"] == (on and mapped)
    assert error(made) == (0 if on and mapped else number)


@BOTH
def test_efer_of_l2_from_l1(on):
    made = running_l2("efer_of_l2_from_l1", on, GUEST_IA32_EFER=0x500)
    assert made.m["cpu"]["efer"][0] == (0xD01 if on else 0x500)


@BOTH
def test_saves_ignore_exit_controls(on):
    controls = GOOD_VMCS12["VM_EXIT_CONTROLS"] & ~(1 << 20 | 1 << 2)
    made = running_l2("saves_ignore_exit_controls", on, layout.L0_MANUAL, VM_EXIT_CONTROLS=controls)
    made.put(2, "GUEST_IA32_EFER", 0xD00)
    made.put(2, "GUEST_DR7", 0x455)
    assert goes_to_l1(made, vmx.EXIT_CPUID, insn_len=2)
    made.put(2, "GUEST_IA32_EFER", 0xD00)
    made.put(2, "GUEST_DR7", 0x455)
    made.call("vmx_exit_n2")
    assert made.get(12, "GUEST_IA32_EFER") == (0xD00 if on else 0xD01)
    assert made.get(12, "GUEST_DR7") == (0x455 if on else 0x400)


@BOTH
def test_cr0_ne_clearable(on):
    made = in_operation("cr0_ne_clearable", on)
    made.gpr[0] = 0x80010013
    made.hardware_exit(vmx.EXIT_CR_ACCESS, info1=0, insn_len=3)
    assert made.call("vmx_handle") == layout.ST_OK
    assert made.get(1, "VM_ENTRY_INTR_INFO_FIELD") == (0 if on else GP)
    assert bool(made.get(1, "CR0_READ_SHADOW") & 0x20) == (not on)


# ---------------------------------------------------------------- VMX instructions


@BOTH
def test_vmwrite_to_read_only_fields(on):
    made = in_operation("vmwrite_to_read_only_fields", on)
    made.gpr[layout.RDX], made.gpr[layout.RAX] = vmcs.VM_EXIT_REASON, 0x77
    assert made.l1_executes("VMWRITE", dst=layout.RDX, src=layout.RAX) == layout.ST_OK
    assert error(made) == (0 if on else vmx.ERROR_VMWRITE_READ_ONLY_VMCS_COMPONENT)
    assert made.get(12, "VM_EXIT_REASON") == (0x77 if on else 0)


@BOTH
@pytest.mark.parametrize("operand", [(0, 0), (1 << 20, 0), (1, 1 << 60)])
def test_invvpid_operand_ignored(on, operand):
    made = in_operation("invvpid_operand_ignored", on)
    made.words(made.l1(OPERAND))[:2] = operand
    made.gpr[layout.RCX] = 0
    assert made.l1_executes("INVVPID", dst=layout.RCX, **MEMORY) == layout.ST_OK
    assert error(made) == (0 if on else vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID)
    made.gpr[layout.RCX] = 4
    assert made.l1_executes("INVVPID", dst=layout.RCX, **MEMORY) == layout.ST_OK
    assert error(made) == vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID


@BOTH
def test_vmxon_ignores_cr0(on):
    made = machine_with("vmxon_ignores_cr0", on)
    made.gpr[0] = 0x2020
    made.hardware_exit(vmx.EXIT_CR_ACCESS, info1=4, insn_len=3)
    made.call("vmx_handle")
    made.call("vmx_hw_enter")
    made.gpr[0] = 0x80010013  # NE clear
    made.hardware_exit(vmx.EXIT_CR_ACCESS, info1=0, insn_len=3)
    made.call("vmx_handle")
    made.call("vmx_hw_enter")
    made.page(made.l1(VMXON12)).view("u4")[0] = vmcs.REVISION
    made.words(made.l1(OPERAND))[0] = VMXON12
    assert made.l1_executes("VMXON", **MEMORY) == (layout.ST_OK if on else layout.ST_FAULT)
    assert (made.state["vmxon_addr"] == VMXON12) == on
    assert made.flags & CARRY == 0


@BOTH
def test_vmcall_is_hypercall(on):
    made = machine_with("vmcall_is_hypercall", on)
    made.gpr[layout.RAX] = 1
    assert made.l1_executes("VMCALL") == (layout.ST_OK if on else layout.ST_FAULT)
    assert (made.gpr[layout.RAX] == -38) == on
    made = in_operation("vmcall_is_hypercall", on)
    assert made.l1_executes("VMCALL") == layout.ST_OK
    assert error(made) == (0 if on else vmx.ERROR_VMCALL_IN_VMX_ROOT_OPERATION)


@BOTH
def test_invept_operand_ignored(on):
    made = in_operation("invept_operand_ignored", on)
    made.words(made.l1(OPERAND))[:2] = (GOOD_VMCS12["EPT_POINTER"] | 7, 0)
    made.gpr[layout.RCX] = 1
    assert made.l1_executes("INVEPT", dst=layout.RCX, **MEMORY) == layout.ST_OK
    assert error(made) == (0 if on else vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID)
    made.words(made.l1(OPERAND))[:2] = (GOOD_VMCS12["EPT_POINTER"], 0)
    assert made.l1_executes("INVEPT", dst=layout.RCX, **MEMORY) == layout.ST_OK
    assert error(made) == 0


@BOTH
def test_instructions_of_l0_for_l2(on):
    made = running_l2("instructions_of_l0_for_l2", on)
    assert (int(made.m["hw"]["proc2"][0]) & vmx.CPU2_ENABLE_RDTSCP != 0) == on


# ---------------------------------------------------------------- MSR areas, preemption timer


@BOTH
def test_msr_areas_ignored(on):
    made = machine_with("msr_areas_ignored", on)
    words = made.words(made.l1(0x50000))
    words[:4] = (msr.STAR, 0x22, msr.LSTAR, 0x33)
    made.m["cpu"]["star"] = 0x11
    changes = {
        f"VM_{area}_{field}": value
        for area in ("ENTRY_MSR_LOAD", "EXIT_MSR_STORE")
        for field, value in (("ADDR", 0x50000), ("COUNT", 2))
    }
    made.launch(**changes)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["cpu"]["star"][0] == (0x11 if on else 0x22)
    made.m["cpu"]["lstar"] = 0x44
    made.hardware_exit(vmx.EXIT_CPUID)
    made.call("vmx_exit_n2")
    assert words[3] == (0x33 if on else 0x44)


@BOTH
def test_preemption_timer_by_software(on):
    pin = GOOD_VMCS12["PIN_BASED_VM_EXEC_CONTROL"] | vmx.PIN_VMX_PREEMPTION_TIMER
    exit_ = GOOD_VMCS12["VM_EXIT_CONTROLS"] | vmx.EXIT_CTL_SAVE_VMX_PREEMPTION_TIMER
    made = running_l2(
        "preemption_timer_by_software",
        on,
        PIN_BASED_VM_EXEC_CONTROL=pin,
        VM_EXIT_CONTROLS=exit_,
        VMX_PREEMPTION_TIMER_VALUE=100,
    )
    assert bool(made.get(2, "PIN_BASED_VM_EXEC_CONTROL") & vmx.PIN_VMX_PREEMPTION_TIMER) == (not on)
    made.m["ledger"]["time"] += 60 * 32 * 1024
    assert made.call("attend") == layout.ST_OK
    made.m["ledger"]["time"] += 50 * 32 * 1024
    assert made.call("attend") == layout.ST_VMEXIT
    reason = vmx.EXIT_EXTERNAL_INTERRUPT if on else vmx.EXIT_PREEMPTION_TIMER
    assert made.m["exit"]["code"] == reason
    # either way L1 gets the timer's exit, and the timer has run out
    assert made.call("l0_exit") == layout.ST_BRANCH
    assert (made.m["level"][0], made.get(12, "VM_EXIT_REASON")) == (1, vmx.EXIT_PREEMPTION_TIMER)
    assert made.get(12, "VMX_PREEMPTION_TIMER_VALUE") == 0
    assert made.m["irq"]["nested_deadline"][0] == 0


@BOTH
@pytest.mark.parametrize("enabled", [0, 1 << 9], ids=["if_clear", "if_set"])
def test_event_behind_entry(on, enabled):
    """An interrupt waits when L1 enters L2."""
    pin = GOOD_VMCS12["PIN_BASED_VM_EXEC_CONTROL"] | vmx.PIN_EXT_INTR
    made = KvmMachine(deviations=deviations.MASKS["event_behind_entry"] if on else 0)
    made.enter_vmx_operation()
    made.fill_vmcs12(PIN_BASED_VM_EXEC_CONTROL=pin, GUEST_RFLAGS=2 | enabled)
    made.m["apic"]["svr"], made.m["apic"]["irr"][0][0] = 0x1FF, 1 << 0x31
    made.m["irq"]["active"] = 1
    made.m["ledger"]["time"] = 1 << 30
    made.execute("VMLAUNCH")
    assert made.call("l0_exit") == layout.ST_BRANCH
    assert made.m["level"][0] == 2
    if not on:
        return
    assert made.m["nv"]["immediate_exit"][0] == 1
    assert made.get(2, "PIN_BASED_VM_EXEC_CONTROL") & vmx.PIN_VMX_PREEMPTION_TIMER
    assert made.call("attend") == layout.ST_VMEXIT
    assert made.m["exit"]["code"] == vmx.EXIT_PREEMPTION_TIMER
    assert made.call("l0_exit") == layout.ST_BRANCH
    assert (made.m["level"][0], made.get(12, "VM_EXIT_REASON")) == (1, vmx.EXIT_EXTERNAL_INTERRUPT)
    assert made.get(12, "GUEST_RIP") == GOOD_VMCS12["GUEST_RIP"], "before the first instruction"
    assert not made.get(2, "PIN_BASED_VM_EXEC_CONTROL") & vmx.PIN_VMX_PREEMPTION_TIMER


@BOTH
def test_shadow_error_in_vmcs12(on):
    """L2, whose VMREADs do not exit to L1, names a field that does not exist."""
    made = KvmMachine(deviations=deviations.MASKS["shadow_error_in_vmcs12"] if on else 0)
    region = made.words(made.l1(0x52000))
    region[0] = vmcs.REVISION | 1 << 31
    made.launch(
        SECONDARY_VM_EXEC_CONTROL=vmx.CPU2_ENABLE_EPT | vmx.CPU2_SHADOW_VMCS,
        VMREAD_BITMAP=0x50000,
        VMWRITE_BITMAP=0x51000,
        VMCS_LINK_POINTER=0x52000,
    )
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.gpr[layout.RDX] = 0x7FFE
    made.hardware_exit(vmx.EXIT_VMREAD, insn_len=3)
    made.m["exit"]["insn_info"] = layout.RDX << 28 | 1 << 10
    assert made.call("vmx_route") == 0
    made.put(2, "VMX_INSTRUCTION_INFO", layout.RDX << 28 | 1 << 10)
    assert made.call("vmx_handle") == layout.ST_OK
    shadow = made.words(memory_map.SHADOW_VMCS12_MA)[vmcs.DATA_OFFSET // 8 :]
    assert made.get(12, "VM_INSTRUCTION_ERROR") == (12 if on else 0)
    assert shadow[vmcs.SLOT_VM_INSTRUCTION_ERROR] == (0 if on else 12)
    assert made.get(2, "GUEST_RFLAGS") & 0x8D5 == 0x40


@BOTH
def test_access_rights_cut(on):
    made = machine_with("access_rights_cut", on)
    made.enter_vmx_operation()
    for name, kept in (("GUEST_CS_AR_BYTES", 0x1F0FF), ("GUEST_RFLAGS", 0xFFFFFFFF)):
        made.gpr[layout.RDX], made.gpr[layout.RAX] = getattr(vmcs, name), 0xFFFFFFFF
        made.l1_executes("VMWRITE", dst=layout.RDX, src=layout.RAX)
        assert made.get(12, name) == (kept if on else 0xFFFFFFFF)


@BOTH
def test_preemption_timer_restarts(on):
    pin = GOOD_VMCS12["PIN_BASED_VM_EXEC_CONTROL"] | vmx.PIN_VMX_PREEMPTION_TIMER
    made = running_l2(
        "preemption_timer_restarts",
        on,
        PIN_BASED_VM_EXEC_CONTROL=pin,
        VMX_PREEMPTION_TIMER_VALUE=100,
    )
    made.m["ledger"]["time"] += 60 * 32 * 1024
    made.hardware_exit(vmx.EXIT_EXTERNAL_INTERRUPT)
    assert made.call("vmx_route") == 0
    assert made.call("vmx_handle") == layout.ST_OK
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.m["ledger"]["time"] += 50 * 32 * 1024
    assert made.call("attend") == (layout.ST_OK if on else layout.ST_VMEXIT)
    # L1 did not ask for the value, so it finds its own
    made.hardware_exit(vmx.EXIT_CPUID)
    made.call("vmx_exit_n2")
    assert made.get(12, "VMX_PREEMPTION_TIMER_VALUE") == 100
