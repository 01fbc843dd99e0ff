"""VMCS shadowing that L1 gives L2: whose VMREAD and VMWRITE exits are, and the copy that serves them."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hvm.test_vmx_kvm import KvmMachine
from tests.oracle.vmx_machine import GOOD_VMCS12, VmxMachine
from workbench.arch import deviations, vmcs, vmx
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.ledger import EVENTS

READ_BITMAP, WRITE_BITMAP, SHADOW = 0x50000, 0x51000, 0x52000
"""n1p of what L1 prepares; the pages lie apart, and none is used otherwise."""
INFO = layout.RDX << 28 | layout.RBX << 3 | 1 << 10
"""Instruction information: RDX names the field, RBX is the other operand."""
CONTROLS = {
    "CPU_BASED_VM_EXEC_CONTROL": GOOD_VMCS12["CPU_BASED_VM_EXEC_CONTROL"]
    | vmx.CPU_ACTIVATE_SECONDARY_CONTROLS,
    "SECONDARY_VM_EXEC_CONTROL": vmx.CPU2_ENABLE_EPT | vmx.CPU2_SHADOW_VMCS,
    "VMREAD_BITMAP": READ_BITMAP,
    "VMWRITE_BITMAP": WRITE_BITMAP,
    "VMCS_LINK_POINTER": SHADOW,
}


def entered(l0: int, **changes: int) -> VmxMachine:
    """L2 runs, with a VMCS of its own in L1's memory."""
    kind = KvmMachine if l0 == layout.L0_KVM else VmxMachine
    made = kind(l0=l0, deviations=0, vmcs_shadowing=l0 == layout.L0_MANUAL)
    page = made.words(made.l1(SHADOW))
    page[:] = 0
    page[0] = vmcs.REVISION | 1 << 31
    page[vmcs.DATA_OFFSET // 8 + vmcs.SLOT_GUEST_RSP] = 0x1234
    made.launch(**{**CONTROLS, **changes})
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["level"][0] == 2
    return made


@functools.cache
def kept(l0: int) -> VmxMachine:
    return entered(l0)


def asks(made: VmxMachine, reason: int, encoding: int, value: int = 0) -> bool:
    """L2 executes VMREAD or VMWRITE and exits: does L1 get it?"""
    made.gpr.view("u8")[[layout.RDX, layout.RBX]] = encoding, value
    made.hardware_exit(reason, insn_len=3)
    made.m["exit"]["insn_info"] = INFO
    made.put(2, "VMX_INSTRUCTION_INFO", INFO)
    return made.call("vmx_route") == 1


@settings(max_examples=400, deadline=None)
@given(
    l0=st.sampled_from([layout.L0_KVM, layout.L0_MANUAL]),
    encoding=st.one_of(
        st.sampled_from([int(e) for e in vmcs.ENCODINGS]), st.integers(0, 0xFFFF),
        st.integers(0, (1 << 64) - 1),
    ),
    write=st.booleans(), bit=st.booleans(), others=st.booleans(), control=st.booleans(),
)  # fmt: skip
def test_the_bit_of_the_field_decides(l0, encoding, write, bit, others, control):
    made = kept(l0)
    for n1p, is_writes in ((READ_BITMAP, False), (WRITE_BITMAP, True)):
        bitmap = made.page(made.l1(n1p))
        bitmap[:] = 0xFF if others else 0
        if encoding < 1 << 15:
            mask = 1 << encoding % 8
            keep = int(bitmap[encoding // 8]) & ~mask
            bitmap[encoding // 8] = keep | (mask if bit == (is_writes == write) else 0)
    wanted = vmx.CPU2_ENABLE_EPT | (vmx.CPU2_SHADOW_VMCS if control else 0)
    made.put(12, "SECONDARY_VM_EXEC_CONTROL", wanted)
    reason = vmx.EXIT_VMWRITE if write else vmx.EXIT_VMREAD
    assert asks(made, reason, encoding) == (not control or encoding >= 1 << 15 or bit)


def test_under_xen_every_access_is_an_exit_for_l1():
    made = entered(layout.L0_XEN, SECONDARY_VM_EXEC_CONTROL=2, VMCS_LINK_POINTER=-1)
    made.put(12, "SECONDARY_VM_EXEC_CONTROL", 2 | vmx.CPU2_SHADOW_VMCS)
    assert asks(made, vmx.EXIT_VMREAD, vmcs.GUEST_RSP)
    assert asks(made, vmx.EXIT_VMWRITE, vmcs.GUEST_RSP)


def copied_bytes(made: VmxMachine) -> int:
    return int(made.m["ledger"]["counts"][0][:, EVENTS.index("L0_BYTE_COPIED")].sum())


@pytest.mark.parametrize("l0", [layout.L0_KVM, layout.L0_MANUAL], ids=["kvm", "manual"])
def test_l2_works_on_a_copy_that_returns_at_the_exit_to_l1(l0):
    made = entered(l0)
    page = made.words(made.l1(SHADOW))[vmcs.DATA_OFFSET // 8 :]
    assert not asks(made, vmx.EXIT_VMREAD, vmcs.GUEST_RSP)
    assert made.call("vmx_handle") == layout.ST_OK
    assert made.gpr[layout.RBX] == 0x1234
    made.call("vmx_hw_enter")
    assert not asks(made, vmx.EXIT_VMWRITE, vmcs.GUEST_RSP, 0x5678)
    assert made.call("vmx_handle") == layout.ST_OK
    assert page[vmcs.SLOT_GUEST_RSP] == 0x1234, "L1's memory follows at the exit"
    copy = made.words(memory_map.SHADOW_VMCS12_MA)[vmcs.DATA_OFFSET // 8 :]
    assert copy[vmcs.SLOT_GUEST_RSP] == 0x5678
    made.call("vmx_hw_enter")
    made.hardware_exit(vmx.EXIT_CPUID, insn_len=2)
    before = copied_bytes(made)
    made.call("vmx_exit_n2")
    assert page[vmcs.SLOT_GUEST_RSP] == 0x5678
    assert copied_bytes(made) - before >= 4096
    assert made.get(12, "VMCS_LINK_POINTER") == SHADOW


def test_an_entry_that_fails_brings_nothing_back():
    made = entered(layout.L0_KVM)
    page = made.words(made.l1(SHADOW))
    made.words(memory_map.SHADOW_VMCS12_MA)[100] = 77
    made.m["exit"]["code"] = 1 << 31 | vmx.EXIT_INVALID_STATE
    made.call("vmx_exit_n2")
    assert page[100] == 0


def test_kvm_stores_access_rights_without_their_reserved_bits():
    made = entered(layout.L0_KVM)
    made.m["feat"]["deviations"] = deviations.DEV_ACCESS_RIGHTS_CUT
    assert not asks(made, vmx.EXIT_VMWRITE, vmcs.GUEST_ES_AR_BYTES, 0xFFFFFFFF)
    made.call("vmx_handle")
    copy = made.words(memory_map.SHADOW_VMCS12_MA)[vmcs.DATA_OFFSET // 8 :]
    assert copy[vmcs.SLOT_GUEST_ES_AR_BYTES] == 0x1F0FF
