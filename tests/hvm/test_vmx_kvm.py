"""KVM's copy of vmcs12: what L1's memory holds, the shadow VMCS, the rarely moved fields."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracle import vmx as oracle
from tests.oracle.vmx_machine import GOOD_VMCS12, MSR_BITMAP12, VMCS12, ZERO, VmxMachine
from workbench.arch import vmcs, vmx
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.vmx import kvm as vmx_kvm
from workbench.core.ledger import EVENTS

KVM = {"l0": layout.L0_KVM, "deviations": 0}


class KvmMachine(VmxMachine):
    """L0 is KVM; ``get`` and ``put`` of 12 reach its copy, of 112 L1's page."""

    def __init__(self, **features: int):
        super().__init__(**{**KVM, **features})

    def _slots(self, which: int):
        offset = {12: memory_map.KVM_VMCS12_MA, 112: self.l1(VMCS12),
                  3: memory_map.KVM_SHADOW_MA}.get(which)  # fmt: skip
        if offset is None:
            return super()._slots(which)
        return self.words(offset)[vmcs.DATA_OFFSET // 8 :]

    def fill_vmcs12(self, **changes: int) -> None:
        """As L1 would: what is shadowed goes into the shadow VMCS."""
        super().fill_vmcs12(**changes)
        for slot in vmx_kvm.SHADOW_RW:
            name = vmcs.field_name(slot)
            self.put(3, name, self.get(12, name))


def count_of(made: VmxMachine, event: str) -> int:
    return int(made.m["ledger"]["counts"][0][:, EVENTS.index(event)].sum())


def vmwrite(made: VmxMachine, name: str, value: int) -> int:
    made.gpr[layout.RDX], made.gpr[layout.RAX] = getattr(vmcs, name), value
    assert made.l1_executes("VMWRITE", dst=layout.RDX, src=layout.RAX) == layout.ST_OK
    return made.flags


def vmread(made: VmxMachine, name: str) -> int:
    made.gpr[layout.RDX] = getattr(vmcs, name)
    assert made.l1_executes("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_OK
    return int(made.gpr[layout.RBX])


def l2_exits(made: VmxMachine, reason: int = vmx.EXIT_CPUID, **info: int) -> None:
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.hardware_exit(reason, insn_len=2, **info)
    assert made.call("vmx_route") == 1
    made.call("vmx_exit_n2")
    assert made.call("vmx_hw_enter") == layout.ST_OK


def resume(made: VmxMachine) -> None:
    assert made.l1_executes("VMRESUME") == layout.ST_OK
    assert made.state["vmentry_pending"] == 1
    made.state["vmentry_pending"] = 0
    assert made.call("vmx_enter_n2") == layout.ST_OK


def test_l1s_page_follows_only_when_the_vmcs_is_no_longer_current():
    made = KvmMachine()
    made.enter_vmx_operation()
    assert vmwrite(made, "TSC_OFFSET", 0x1234) == 0
    assert (made.get(12, "TSC_OFFSET"), made.get(112, "TSC_OFFSET")) == (0x1234, 0)
    assert made.l1_uses_pointer("VMCLEAR", VMCS12) == 0
    assert made.get(112, "TSC_OFFSET") == 0x1234
    assert made.l1_uses_pointer("VMPTRLD", VMCS12) == 0
    assert vmread(made, "TSC_OFFSET") == 0x1234


def test_fields_that_kvm_does_not_have_do_not_exist_for_l1():
    made = KvmMachine()
    made.enter_vmx_operation()
    absent = vmcs.column("kvm_vmcs12").index("")
    made.gpr[layout.RDX] = int(vmcs.ENCODINGS[absent])
    assert made.l1_executes("VMREAD", dst=layout.RBX, src=layout.RDX) == layout.ST_OK
    assert made.flags == ZERO
    assert made.get(12, "VM_INSTRUCTION_ERROR") == vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT


def test_rarely_moved_fields_stay_in_vmcs02_until_l1_asks():
    made = KvmMachine()
    assert made.launch() == layout.ST_OK
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.m["cpu"]["idtr_base"] = 0x7777
    made.m["cpu"]["rip"] = 0x100010
    made.hardware_exit(vmx.EXIT_CPUID, insn_len=2)
    made.call("vmx_route")
    made.call("vmx_exit_n2")
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert (made.get(12, "GUEST_RIP"), made.get(12, "GUEST_IDTR_BASE")) == (0x100010, 0)
    before = count_of(made, "L0_VMPTRLD")
    assert vmread(made, "GUEST_IDTR_BASE") == 0x7777
    assert count_of(made, "L0_VMPTRLD") == before + 2
    assert vmread(made, "GUEST_IDTR_LIMIT") >= 0
    assert count_of(made, "L0_VMPTRLD") == before + 2, "once is enough"


@pytest.mark.parametrize(("field", "rare"), [("GUEST_GDTR_BASE", True), ("TSC_OFFSET", True),
                                             ("GUEST_RIP", False)])  # fmt: skip
def test_a_write_of_l1_that_is_not_shadowed_moves_the_rare_fields_once(field, rare):
    made = KvmMachine()
    assert made.launch() == layout.ST_OK
    l2_exits(made)
    vmwrite(made, field, 0x100000)
    writes = []
    for _ in range(2):
        before = count_of(made, "L0_VMWRITE")
        resume(made)
        writes.append(count_of(made, "L0_VMWRITE") - before)
        l2_exits(made)
    assert writes[0] - writes[1] in ((len(vmx_kvm.RARE), len(vmx_kvm.RARE) + 1) if rare else (0,))
    assert made.get(12, field) == 0x100000


def test_l2_keeps_rarely_moved_state_over_exits_that_l1_handles():
    made = KvmMachine()
    assert made.launch() == layout.ST_OK
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.m["cpu"]["gdtr_base"] = 0x4444
    made.hardware_exit(vmx.EXIT_CPUID, insn_len=2)
    made.call("vmx_route")
    made.call("vmx_exit_n2")
    assert made.call("vmx_hw_enter") == layout.ST_OK
    vmwrite(made, "TSC_OFFSET", 5)  # dirty: everything is written anew
    resume(made)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["cpu"]["gdtr_base"][0] == 0x4444


def test_the_shadow_vmcs_holds_the_listed_fields_after_each_exit():
    made = KvmMachine(vmcs_shadowing=1)
    assert made.launch() == layout.ST_OK
    assert made.get(1, "VMCS_LINK_POINTER") == memory_map.KVM_SHADOW_MA
    l2_exits(made)
    for slot in (*vmx_kvm.SHADOW_RW, *vmx_kvm.SHADOW_RO):
        name = vmcs.field_name(slot)
        assert made.get(3, name) == made.get(12, name), name
    assert made.get(3, "VM_EXIT_REASON") == vmx.EXIT_CPUID


def test_what_l1_writes_into_the_shadow_vmcs_reaches_l2():
    made = KvmMachine(vmcs_shadowing=1)
    assert made.launch() == layout.ST_OK
    l2_exits(made)
    made.gpr[layout.RDX], made.gpr[layout.RAX] = vmcs.GUEST_RIP, 0x100055
    assert made.execute("VMWRITE", dst=layout.RDX, src=layout.RAX) == layout.ST_OK, "no exit"
    assert made.get(12, "GUEST_RIP") != 0x100055
    resume(made)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["cpu"]["rip"][0] == 0x100055


def test_an_emulated_write_of_a_read_only_field_reaches_the_shadow_vmcs():
    made = KvmMachine(vmcs_shadowing=1)
    made.enter_vmx_operation()
    assert vmwrite(made, "EXIT_QUALIFICATION", 0x99) == 0
    assert made.get(3, "EXIT_QUALIFICATION") == made.get(12, "EXIT_QUALIFICATION") == 0x99


@pytest.mark.parametrize("field", ["GUEST_RIP", "EXIT_QUALIFICATION", "GUEST_GS_BASE"])
@pytest.mark.parametrize("name", ["VMREAD", "VMWRITE"])
def test_which_accesses_exit_with_shadowing(field, name):
    made = KvmMachine(vmcs_shadowing=1)
    made.enter_vmx_operation()
    made.gpr[layout.RDX] = getattr(vmcs, field)
    operands = {"dst": layout.RBX, "src": layout.RDX} if name == "VMREAD" else {"dst": layout.RDX}
    kind = vmcs.column("kvm_shadowed")[getattr(vmcs, f"SLOT_{field}")]
    served = kind == "RW" or (kind == "RO" and name == "VMREAD")
    assert made.execute(name, **operands) == (layout.ST_OK if served else layout.ST_VMEXIT)


def test_controls_of_vmcs02_are_those_of_the_table():
    made = KvmMachine()
    assert made.launch() == layout.ST_OK
    names = ("PIN_BASED_VM_EXEC_CONTROL", "CPU_BASED_VM_EXEC_CONTROL", "EXCEPTION_BITMAP",
             "SECONDARY_VM_EXEC_CONTROL", "VM_EXIT_CONTROLS", "VM_ENTRY_CONTROLS")  # fmt: skip
    l0 = {name: made.get(1, name) for name in names}
    l1 = {name: GOOD_VMCS12.get(name, 0) for name in names}
    expected = oracle.kvm_merged_controls(l0, l1)
    assert {name: made.get(2, name) for name in expected} == expected
    assert made.get(2, "CPU_BASED_VM_EXEC_CONTROL") & vmx.CPU_UNCOND_IO_EXITING


@pytest.mark.parametrize("seed", range(5))
def test_msr_bitmap_of_l2_opens_three_msrs_at_most(seed):
    made = KvmMachine()
    made.page(made.l1(MSR_BITMAP12))[:] = np.random.default_rng(seed).integers(0, 256, 4096)
    l1 = bytes(made.page(made.l1(MSR_BITMAP12)))
    assert made.launch() == layout.ST_OK
    l2 = bytes(made.page(memory_map.L2_MSRPM_MA))
    for number in (*range(0xC0000000, 0xC0002000), *range(0x2000)):
        for write in (False, True):
            may = number in (0xC0000100, 0xC0000101, 0xC0000102)
            expected = not may or oracle.msr_exits(l1, number, write)
            assert oracle.msr_exits(l2, number, write) == expected
