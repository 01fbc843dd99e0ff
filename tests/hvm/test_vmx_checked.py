"""A check that is not made again must not hide anything: whatever changes after a good entry is found.

The units that remember are compared with the checks themselves, made in full on the same VMCS.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hvm.test_vmx_entry_checks import (
    INTERRUPT,
    NMI,
    REACHED,
    REVISION_PAGE,
    SHADOW_PAGE,
    WIDTH,
)
from tests.oracle.vmx_entry import failure_of
from tests.oracle.vmx_machine import GOOD_VMCS12, VMCS12, VmxMachine
from workbench.arch import vmcs, vmx
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.vmx.checked import GUEST_OF_VMCS12, OF_VMCS01

FIELDS = tuple(vmcs.field_name(slot) for slot in range(vmcs.N_SLOTS))
PLACES = {1: memory_map.VMCX01_MA, 2: memory_map.VMCX02_MA}
BORDERS = (0, 1, 3, 0x2B, 0x93, 0xC0F3, 0x202, 0xFFFF, 1 << 16, 1 << 31, 1 << 40, 1 << 47, -1,
           1 << 17 | 2, INTERRUPT, NMI, VMCS12, REVISION_PAGE)  # fmt: skip


class Checked:
    """A machine, and the checks on its VMCSs: as they are made at an entry, and in full."""

    def __init__(self) -> None:
        self.machine = made = VmxMachine()
        made.m["feat"]["l0"] = layout.L0_MANUAL  # which offers L1 activity states
        made.enter_vmx_operation()
        made.words(made.l1(REVISION_PAGE))[0] = vmcs.REVISION
        made.words(made.l1(SHADOW_PAGE))[0] = vmcs.REVISION | 1 << 31
        made.words(PLACES[2])[:] = made.words(PLACES[1])
        self.good = {which: self.words(which).copy() for which in (1, 2)}
        made.fill_vmcs12()
        self.good[12] = self.words(12).copy()

    def words(self, which: int):
        """The slots of a VMCS, as they lie in memory."""
        return self.machine._slots(which)[: vmcs.N_SLOTS]

    def repair(self, which: int) -> None:
        self.words(which)[:] = self.good[which]

    def at_entry(self, which: int) -> str:
        made, base = self.machine, self.words(which).ctypes.data
        if which == 12:
            number = made.call("vmx_check_vmcs12_controls", base)
            number = number or made.call("vmx_check_vmcs12_guest", base)
        else:
            made.m["hw"]["vmcx"] = PLACES[which]
            number = made.call("vmx_check_entry", base)
        return vmx.check_name(number) if number else ""

    def in_full(self, which: int) -> str:
        made, base = self.machine, self.words(which).ctypes.data
        view, current = (1, VMCS12) if which == 12 else (0, PLACES[which])
        number = made.call("vmx_check_controls", base, view)
        if which == 12:
            number = number or made.call("vmx_check_own", base)
        number = number or made.call("vmx_check_host", base)
        number = number or made.call("vmx_check_guest", base, view, current)
        return vmx.check_name(number) if number else ""


@cache
def checked() -> Checked:
    return Checked()


def values(name: str, good: int) -> list[int]:
    flips = [good ^ 1 << bit for bit in range(WIDTH[name])]
    return [
        v - (1 << 64) if v >> 63 else v for v in {v & (1 << 64) - 1 for v in (*flips, *BORDERS)}
    ]


def found_after_an_entry(which: int) -> set[str]:
    """The checks that fail when one field of a good VMCS changes, each found at the next entry."""
    c = checked()
    found = set()
    for slot, name in enumerate(FIELDS):
        good = int(c.words(which)[slot])
        for value in values(name, good):
            assert c.at_entry(which) == ""
            c.words(which)[slot] = value
            expected = c.in_full(which)
            assert c.at_entry(which) == expected, f"{name} = {value:#x}"
            found.add(expected)
            c.words(which)[slot] = good
    return found


@pytest.mark.parametrize("which", [1, 2, 12])
def test_a_change_of_one_field_after_a_good_entry_is_found(which):
    checked().repair(which)
    assert len(found_after_an_entry(which)) > 45, "too few checks were reached to prove anything"


def test_a_change_is_found_where_a_control_makes_the_field_count():
    c = checked()
    c.repair(1)
    for name, bits in {
        "CPU_BASED_VM_EXEC_CONTROL": vmx.CPU_TPR_SHADOW,
        "SECONDARY_VM_EXEC_CONTROL": vmx.CPU2_SHADOW_VMCS
        | vmx.CPU2_ENABLE_PML
        | vmx.CPU2_VIRTUALIZE_APIC_ACCESSES,
        "VM_EXIT_CONTROLS": vmx.EXIT_CTL_LOAD_IA32_PAT,
        "VM_ENTRY_CONTROLS": vmx.ENTRY_CTL_LOAD_IA32_PAT | vmx.ENTRY_CTL_LOAD_DEBUG_CONTROLS,
        "VM_ENTRY_MSR_LOAD_COUNT": 1,
        "VM_EXIT_MSR_LOAD_COUNT": 1,
        "VM_EXIT_MSR_STORE_COUNT": 1,
    }.items():
        c.machine.put(1, name, c.machine.get(1, name) | bits)
    found = found_after_an_entry(1)
    assert found >= {
        "SHADOW_BITMAP_ADDRESS", "PML_ADDRESS", "VIRTUAL_APIC_ADDRESS", "APIC_ACCESS_ADDRESS",
        "TPR_THRESHOLD_RESERVED", "ENTRY_LOAD_AREA", "EXIT_LOAD_AREA", "EXIT_STORE_AREA",
        "HOST_PAT", "GUEST_PAT", "GUEST_DEBUGCTL", "GUEST_DR7",
    }  # fmt: skip


CHANGES = st.lists(
    st.sampled_from(FIELDS).flatmap(
        lambda n: st.tuples(st.just(n), st.sampled_from([GOOD_VMCS12.get(n, 0), *BORDERS]))
    ),
    max_size=8,
)
STARTS = st.sampled_from([name for name in REACHED if len(REACHED[name]) > 1] + [""])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([1, 2, 12]), STARTS, CHANGES)
def test_changes_that_stay_are_judged_as_if_every_check_were_made(which, start, changes):
    c = checked()
    c.repair(which)
    for name, value in (*REACHED.get(start, {}).items(), *changes):
        c.machine.put(which, name, value)
        assert c.at_entry(which) == c.in_full(which)


@pytest.mark.parametrize("name", REACHED)
def test_a_region_that_l1_stores_into_after_a_good_entry_is_refused(name):
    c = checked()
    c.repair(12)
    assert c.at_entry(12) == ""
    for field, value in REACHED[name].items():
        c.machine.put(12, field, value)  # plain stores into the page, no VMWRITE
    assert c.at_entry(12) == name
    c.repair(12)
    assert c.at_entry(12) == ""


# ---------------------------------------------------------------- what is not a field


def entered() -> VmxMachine:
    made = VmxMachine()
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["checked"][0, OF_VMCS01]["passed"] == 1
    return made


def refused(made: VmxMachine, name: str) -> bool:
    assert made.call("vmx_hw_enter") == -1
    failure, qualification = failure_of(name)
    if failure in (7, 8):
        assert made.get(1, "VM_INSTRUCTION_ERROR") == failure
    else:
        assert made.get(1, "VM_EXIT_REASON") == failure | 1 << 31
        assert made.get(1, "EXIT_QUALIFICATION") == qualification
    return vmx.check_name(int(made.m["check"][0])) == name


def test_a_virtual_tpr_that_sinks_below_the_threshold_is_found():
    made = entered()
    page = 0x30000
    controls = made.get(1, "CPU_BASED_VM_EXEC_CONTROL")
    made.put(1, "CPU_BASED_VM_EXEC_CONTROL", controls | vmx.CPU_TPR_SHADOW)
    made.put(1, "VIRTUAL_APIC_PAGE_ADDR", page)
    made.put(1, "TPR_THRESHOLD", 3)
    made.page(page)[0x80] = 0x30
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.page(page)[0x80] = 0x20
    assert refused(made, "TPR_THRESHOLD_VTPR")


def test_a_linked_vmcs_that_loses_its_revision_is_found():
    made = entered()
    page = 0x30000
    made.words(page)[0] = vmcs.REVISION
    made.put(1, "VMCS_LINK_POINTER", page)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.words(page)[0] = vmcs.REVISION | 1 << 31
    assert refused(made, "LINK_POINTER_SHADOW")


def test_a_feature_that_is_taken_away_is_found():
    made = VmxMachine(ept_ad=1)
    assert made.get(1, "EPT_POINTER") & 1 << 6
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.m["feat"]["ept_ad"] = 0
    assert refused(made, "EPTP_ACCESSED_DIRTY")


def test_what_l0_offers_is_looked_at_again():
    c = checked()
    c.repair(12)
    c.machine.put(12, "SECONDARY_VM_EXEC_CONTROL", vmx.CPU2_ENABLE_EPT)
    assert c.at_entry(12) == ""
    c.machine.m["sh"]["active"] = 1
    try:
        assert c.at_entry(12) == "CPU2_RESERVED"
    finally:
        c.machine.m["sh"]["active"] = 0


@pytest.mark.parametrize(
    ("register", "index", "value", "name"),
    [
        ("rip", (), 1 << 48, "GUEST_RIP"),
        ("cr3", (), 1 << 45, "GUEST_CR3"),
        ("seg_base", (layout.FS,), 1 << 47, "GUEST_BASE_CANONICAL"),
        ("seg_attr", (layout.TR,), 0x89, "GUEST_TR_RIGHTS"),
        ("gdtr_limit", (), 1 << 16, "GUEST_TABLE_LIMIT"),
        ("sysenter_eip", (), 1 << 47, "GUEST_SYSENTER"),
        ("shadow", (), 3, "INTERRUPTIBILITY_BOTH"),
    ],
)
def test_state_that_an_exit_saves_is_checked_at_the_next_entry(register, index, value, name):
    made = entered()
    made.hardware_exit(vmx.EXIT_CPUID)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.m["cpu"][register][(0, *index)] = value
    made.hardware_exit(vmx.EXIT_CPUID)
    assert refused(made, name)


def test_virtual_8086_mode_has_checks_of_its_own_each_time():
    c = checked()
    c.repair(12)
    assert c.at_entry(12) == ""
    for field, value in REACHED["GUEST_V86_BASE"].items():
        c.machine.put(12, field, value)
    c.machine.put(12, "GUEST_DS_BASE", 0)
    assert c.at_entry(12) == ""
    c.machine.put(12, "GUEST_DS_BASE", 16)
    assert c.at_entry(12) == "GUEST_V86_BASE"
    kept = c.machine.m["checked"][0, GUEST_OF_VMCS12]["words"]
    assert kept[vmcs.SLOT_GUEST_RFLAGS] & 1 << 17 == 0
