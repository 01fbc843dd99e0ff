"""Every VM-instruction error number: reached by an instruction of L1, or listed with why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oracle.vmx_machine import CARRY, OPERAND, VMCS12, VMXON12, ZERO, VmxMachine
from workbench.arch import vmcs
from workbench.arch.table import rows
from workbench.core import layout

ERRORS = {r["name"]: r for r in rows("vmx_insn_errors")}
MEMORY = {"flags": layout.UF_SRC_MEM, "disp": OPERAND}


def pointer(name: str, address: int) -> Callable[[VmxMachine], None]:
    return lambda made: made.l1_uses_pointer(name, address)


def launch(*names: str, **changes: int) -> Callable[[VmxMachine], None]:
    """Fill vmcs12 and execute the instructions; entries that are accepted end with an exit."""

    def do(made: VmxMachine) -> None:
        made.fill_vmcs12(**changes)
        for name in names:
            made.l1_executes(name)
            if made.state["vmentry_pending"]:
                made.state["vmentry_pending"] = 0
                made.call("vmx_enter_n2")
                made.call("vmx_exit_n2")
                made.call("vmx_hw_enter")

    return do


def vmwrite(encoding: int) -> Callable[[VmxMachine], None]:
    def do(made: VmxMachine) -> None:
        made.gpr[layout.RDX] = encoding
        made.l1_executes("VMWRITE", dst=layout.RDX, src=layout.RAX)

    return do


def behind_mov_ss(made: VmxMachine) -> None:
    made.fill_vmcs12()
    made.m["cpu"]["shadow"] = 2
    made.l1_executes("VMLAUNCH")


def invept(made: VmxMachine) -> None:
    made.gpr[layout.RCX] = 3
    made.l1_executes("INVEPT", dst=layout.RCX, **MEMORY)


def vmcall(made: VmxMachine) -> None:
    made.m["feat"]["deviations"] = 0
    made.l1_executes("VMCALL")


REACHED: dict[str, Callable[[VmxMachine], None]] = {
    "VMCALL_IN_VMX_ROOT_OPERATION": vmcall,
    "VMCLEAR_INVALID_ADDRESS": pointer("VMCLEAR", VMCS12 + 8),
    "VMCLEAR_VMXON_POINTER": pointer("VMCLEAR", VMXON12),
    "VMLAUNCH_NONCLEAR_VMCS": launch("VMLAUNCH", "VMLAUNCH"),
    "VMRESUME_NONLAUNCHED_VMCS": launch("VMRESUME"),
    "ENTRY_INVALID_CONTROL_FIELD": launch("VMLAUNCH", CR3_TARGET_COUNT=5),
    "ENTRY_INVALID_HOST_STATE_FIELD": launch("VMLAUNCH", HOST_CS_SELECTOR=0),
    "VMPTRLD_INVALID_ADDRESS": pointer("VMPTRLD", 1 << 40),
    "VMPTRLD_VMXON_POINTER": pointer("VMPTRLD", VMXON12),
    "VMPTRLD_INCORRECT_VMCS_REVISION_ID": pointer("VMPTRLD", 0x26000),
    "UNSUPPORTED_VMCS_COMPONENT": vmwrite(0x7FFF),
    "VMWRITE_READ_ONLY_VMCS_COMPONENT": vmwrite(vmcs.VM_EXIT_REASON),
    "VMXON_IN_VMX_ROOT_OPERATION": pointer("VMXON", VMXON12),
    "ENTRY_EVENTS_BLOCKED_BY_MOV_SS": behind_mov_ss,
    "INVALID_OPERAND_TO_INVEPT_INVVPID": invept,
}


def test_every_number_is_reached_or_said_why_not():
    numbers = {n: r for n, r in ERRORS.items() if r["value"].isdigit()}
    never = {name for name, row in numbers.items() if row["here"].startswith("never: ")}
    assert never == set(numbers) - set(REACHED)
    assert all(row["here"] for row in ERRORS.values())


@pytest.mark.parametrize("name", REACHED)
def test_an_instruction_of_l1_gets_its_number(name):
    made = VmxMachine()
    made.enter_vmx_operation()
    REACHED[name](made)
    assert made.flags == ZERO
    assert made.get(12, "VM_INSTRUCTION_ERROR") == int(ERRORS[name]["value"])


def test_without_a_current_vmcs_there_is_no_number():
    made = VmxMachine()
    made.enter_vmx_operation()
    made.l1_uses_pointer("VMCLEAR", VMCS12)
    made.l1_executes("VMLAUNCH")
    assert made.flags == CARRY


def test_success_clears_the_flags_and_leaves_the_number():
    made = VmxMachine()
    made.enter_vmx_operation()
    made.l1_uses_pointer("VMXON", VMXON12)
    assert made.flags == ZERO
    made.l1_uses_pointer("VMPTRLD", VMCS12)
    assert made.flags == 0
    assert made.get(12, "VM_INSTRUCTION_ERROR") == 15
