"""What each L0 offers L1: every row of l1_capabilities.csv as L1 reads it, and as vmcs12 is checked."""

from __future__ import annotations

import functools

import pytest

from tests.oracle.svm_machine import SvmMachine
from tests.oracle.vmx_machine import GOOD_VMCS12, VMCS12, VmxMachine
from workbench.arch import deviations, l1_capabilities, msr, vmcs, vmx
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.hvm.vmx.controls import HARDWARE, LENT
from workbench.personality import L0S

ROWS = rows("l1_capabilities")
ALL_ON = {
    "apicv": 1, "pml": 1, "ept_ad": 1, "virtual_nmi": 1, "vmcs_shadowing": 1,
    "l2_tag_policy": layout.POLICY_KVM,
}  # fmt: skip
SVM_ON = {
    "virtual_gif": 1, "virtual_vmload_vmsave": 1, "virtual_nmi": 1, "pause_filter": 1,
    "vmcb_clean_bits": 1,
}  # fmt: skip
TRUE = {
    "pin": msr.VMX_TRUE_PINBASED, "cpu": msr.VMX_TRUE_PROCBASED, "sec": msr.VMX_PROCBASED_CTLS2,
    "exit": msr.VMX_TRUE_EXIT, "entry": msr.VMX_TRUE_ENTRY,
}  # fmt: skip
FIELD = {
    "pin": "PIN_BASED_VM_EXEC_CONTROL", "cpu": "CPU_BASED_VM_EXEC_CONTROL",
    "sec": "SECONDARY_VM_EXEC_CONTROL", "exit": "VM_EXIT_CONTROLS", "entry": "VM_ENTRY_CONTROLS",
}  # fmt: skip
RESERVED = {
    "pin": vmx.CHECK_PIN_RESERVED, "cpu": vmx.CHECK_CPU_RESERVED, "sec": vmx.CHECK_CPU2_RESERVED,
    "exit": vmx.CHECK_EXIT_RESERVED, "entry": vmx.CHECK_ENTRY_RESERVED,
}  # fmt: skip
PLAIN_WORDS = {
    "ept_vpid": msr.VMX_EPT_VPID_CAP, "misc": msr.VMX_MISC, "cr0_fixed0": msr.VMX_CR0_FIXED0,
}  # fmt: skip
NAMES = [f"{r['group']}.{r['name']}" for r in ROWS]
L1_VIEW = 1


@functools.cache
def vmx_machine(l0: str, **off: int) -> VmxMachine:
    made = VmxMachine(l0=L0S.index(l0), deviations=0, **{**ALL_ON, **off})
    made.enter_vmx_operation()
    return made


def capability(made: VmxMachine, number: int) -> int:
    assert made.call("vmx_capability", number) == layout.ST_OK
    return int(made.m["result"][0]) & (1 << 64) - 1


def checked(made: VmxMachine) -> int:
    """Number of the first check on the controls of vmcs12 that fails."""
    base = made.ram.ctypes.data + made.l1(VMCS12) + vmcs.DATA_OFFSET
    return made.call("vmx_check_controls", base, L1_VIEW)


def exists(row: dict[str, str]) -> bool:
    group = row["group"]
    return group not in HARDWARE or row["name"] in HARDWARE[group] | LENT.get(group, frozenset())


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize("row", [r for r in ROWS if r["group"] in TRUE], ids=lambda r: r["name"])
def test_a_control_reads_as_the_table_says(row, l0):
    word = capability(vmx_machine(l0), TRUE[row["group"]])
    bit = 1 << l1_capabilities.position(row)
    state = row[l0] if exists(row) else "no"
    assert (word >> 32 & bit != 0, word & bit != 0) == {
        "free": (True, False), "one": (True, True), "no": (False, False),
    }[state]  # fmt: skip


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize("row", [r for r in ROWS if r["group"] in TRUE], ids=lambda r: r["name"])
def test_vmcs12_may_have_what_is_offered_and_nothing_else(row, l0):
    """The checks of controls, which Xen itself leaves to the processor, use the same words."""
    made = vmx_machine(l0)
    group, bit = row["group"], 1 << l1_capabilities.position(row)
    must = capability(made, TRUE[group]) & 0xFFFFFFFF
    for value in (0, 1):
        controls = {g: capability(made, TRUE[g]) & 0xFFFFFFFF for g in TRUE}
        controls["cpu"] |= vmx.CPU_ACTIVATE_SECONDARY_CONTROLS
        controls[group] = controls[group] | bit if value else controls[group] & ~bit
        if bit == vmx.CPU_ACTIVATE_SECONDARY_CONTROLS and group == "cpu":
            continue
        for g, word in controls.items():
            made.put(12, FIELD[g], word)
        check = checked(made)
        state = row[l0] if exists(row) else "no"
        refused = (state == "no" and value == 1) or (must & bit != 0 and value == 0)
        assert (check == RESERVED[group]) == refused, (row["name"], value)


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize(
    "row", [r for r in ROWS if r["group"] in PLAIN_WORDS], ids=lambda r: r["name"]
)
def test_a_capability_reads_as_the_table_says(row, l0):
    word = capability(vmx_machine(l0), PLAIN_WORDS[row["group"]])
    wanted = row[l0] == "one" if row["group"] == "cr0_fixed0" else row[l0] != "no"
    assert word >> l1_capabilities.position(row) & 1 == wanted


@pytest.mark.parametrize("l0", L0S)
def test_features_that_are_off_take_their_part_away(l0):
    for feature, group, bits in (
        ("apicv", "sec", 0x311), ("apicv", "cpu", 1 << 21), ("pml", "sec", 1 << 17),
        ("ept_ad", "sec", 1 << 17), ("vpid_for_l1", "sec", 1 << 5), ("virtual_nmi", "pin", 1 << 5),
    ):  # fmt: skip
        made = vmx_machine(l0, **{feature: 0})
        assert capability(made, TRUE[group]) >> 32 & bits == 0
    assert capability(vmx_machine(l0, ept_ad=0), msr.VMX_EPT_VPID_CAP) >> 21 & 1 == 0
    assert capability(vmx_machine(l0, vpid_for_l1=0), msr.VMX_EPT_VPID_CAP) >> 32 == 0
    misc = capability(vmx_machine(l0, vmcs_shadowing=0), msr.VMX_MISC)
    assert misc >> 29 & 1 == (l0 == "kvm")


@pytest.mark.parametrize("l0", L0S)
def test_plain_msrs_say_that_default1_controls_must_be_set(l0):
    plain = {
        msr.VMX_PINBASED_CTLS: 0x16, msr.VMX_PROCBASED_CTLS: 0x0401E172,
        msr.VMX_EXIT_CTLS: 0x36DFF, msr.VMX_ENTRY_CTLS: 0x11FF,
    }  # fmt: skip
    for number, must in plain.items():
        word = capability(vmx_machine(l0), number)
        assert word & 0xFFFFFFFF == must and word >> 32 & must == must


def test_kvm_refuses_an_uncacheable_ept_root():
    for l0 in L0S:
        made = vmx_machine(l0)
        for name, value in GOOD_VMCS12.items():
            made.put(12, name, value)
        made.put(12, "EPT_POINTER", GOOD_VMCS12["EPT_POINTER"] & ~7)
        check = checked(made)
        assert (check == vmx.CHECK_EPTP_MEMORY_TYPE) == (l0 == "kvm"), l0


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize("row", [r for r in ROWS if r["group"] == "svm"], ids=lambda r: r["name"])
def test_cpuid_announces_what_the_table_says(row, l0):
    _, ebx, edx = svm_leaf(l0, **SVM_ON)
    assert edx >> int(row["bit"]) & 1 == (row[l0] != "no")
    assert ebx == (8 if l0 == "kvm" else 64)


@functools.cache
def svm_leaf(l0: str, **features: int) -> tuple[int, int, int]:
    machine = SvmMachine(l0=L0S.index(l0), deviations=deviations.word(()), **features)
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[0] = 0x8000000A
    machine.l1_exits(0x72, 2)
    machine.call("svm_handle")
    return int(gpr[0]), int(gpr[3]), int(gpr[2])


def test_every_row_has_a_source_and_a_known_state():
    assert len(set(NAMES)) == len(NAMES)
    for row in ROWS:
        assert row["source"] and {row[l0] for l0 in L0S} <= {"free", "one", "no"}
        l1_capabilities.position(row)


def test_a_name_that_no_table_knows_is_refused():
    with pytest.raises(ValueError, match=r"vmx_controls\.csv has no such bit"):
        l1_capabilities.position({"group": "pin", "name": "EXT_INTERRUPTS", "bit": ""})
