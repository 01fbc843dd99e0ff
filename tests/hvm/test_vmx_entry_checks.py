"""Checks before a VM entry: every row of the table is reached, and the kernel agrees with the oracle."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.vmx import BIT
from tests.oracle.vmx_entry import CHECKS, Processor, failure_of, first_failure
from tests.oracle.vmx_machine import EPT12, GOOD_VMCS12, L1_BYTES, VMCS12, VmxMachine
from workbench.arch import vmcs, vmx
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.vmx import controls as vmx_controls

NOT_OFFERED = {"SHADOW_VMCS", "VIRTUAL_NMIS", "ENABLE_PML"}
"""By an L0 without deviations; two of them come with features that are off here."""
L1_CONTROLS = {group: names - NOT_OFFERED for group, names in vmx_controls.HARDWARE.items()}
WORD = (1 << 64) - 1
WIDTH = {r["name"]: {"16": 16, "32": 32}.get(r["width"], 64) for r in rows("vmcs_fields")}
REVISION_PAGE, SHADOW_PAGE = 0x24000, 0x25000
"""Pages of L1 that begin with the VMCS revision, without and with the shadow indicator."""
ENTRY, EXIT = GOOD_VMCS12["VM_ENTRY_CONTROLS"], GOOD_VMCS12["VM_EXIT_CONTROLS"]
PRIMARY = GOOD_VMCS12["CPU_BASED_VM_EXEC_CONTROL"]
NO_64 = {
    "VM_ENTRY_CONTROLS": ENTRY & ~(1 << 9),
    "GUEST_IA32_EFER": 0,
    "GUEST_CS_AR_BYTES": 0xC09B,
    "GUEST_CR4": 0x2000,
}
"""A 32-bit protected-mode guest with two-level paging."""
V86_REGISTERS = {"GUEST_RFLAGS": 1 << 17 | 2} | {
    f"GUEST_{s}_{kind}": value
    for s in ("ES", "CS", "SS", "DS", "FS", "GS")
    for kind, value in (("AR_BYTES", 0xF3), ("LIMIT", 0xFFFF), ("BASE", 0), ("SELECTOR", 0))
}  # fmt: skip
V86 = NO_64 | V86_REGISTERS
INTERRUPT, NMI = 1 << 31 | 0x20, 1 << 31 | 2 << 8 | 2


def event(kind: int, vector: int, error: bool = False) -> int:
    """VM-entry interruption information."""
    return 1 << 31 | (1 << 11 if error else 0) | kind << 8 | vector


REACHED: dict[str, dict[str, int]] = {
    "PIN_RESERVED": {"PIN_BASED_VM_EXEC_CONTROL": 0},
    "CPU_RESERVED": {"CPU_BASED_VM_EXEC_CONTROL": 0},
    "CPU2_RESERVED": {"SECONDARY_VM_EXEC_CONTROL": 1 << 14 | 2},
    "CR3_TARGET_COUNT": {"CR3_TARGET_COUNT": 5},
    "IO_BITMAP_ADDRESS": {"IO_BITMAP_B": 0x23008},
    "MSR_BITMAP_ADDRESS": {"MSR_BITMAP": 1 << 40},
    "NMI_WINDOW_NEEDS_VIRTUAL_NMIS": {"CPU_BASED_VM_EXEC_CONTROL": PRIMARY | 1 << 22},
    "VPID_ZERO": {"SECONDARY_VM_EXEC_CONTROL": 2 | 1 << 5},
    "EPTP_MEMORY_TYPE": {"EPT_POINTER": EPT12 | 0x18 | 1},
    "EPTP_WALK_LENGTH": {"EPT_POINTER": EPT12 | 0x20 | 6},
    "EPTP_ACCESSED_DIRTY": {"EPT_POINTER": EPT12 | 1 << 6 | 0x1E},
    "EPTP_RESERVED": {"EPT_POINTER": EPT12 | 1 << 7 | 0x1E},
    "UNRESTRICTED_GUEST_NEEDS_EPT": {"SECONDARY_VM_EXEC_CONTROL": 1 << 7},
    "EXIT_RESERVED": {"VM_EXIT_CONTROLS": 0},
    "SAVE_TIMER_WITHOUT_TIMER": {"VM_EXIT_CONTROLS": EXIT | 1 << 22},
    "EXIT_STORE_AREA": {"VM_EXIT_MSR_STORE_COUNT": 1, "VM_EXIT_MSR_STORE_ADDR": 8},
    "EXIT_LOAD_AREA": {"VM_EXIT_MSR_LOAD_COUNT": 2, "VM_EXIT_MSR_LOAD_ADDR": (1 << 40) - 16},
    "ENTRY_RESERVED": {"VM_ENTRY_CONTROLS": ENTRY | 1 << 10},
    "EVENT_TYPE": {"VM_ENTRY_INTR_INFO_FIELD": event(1, 3)},
    "EVENT_VECTOR": {"VM_ENTRY_INTR_INFO_FIELD": event(2, 3)},
    "EVENT_ERROR_CODE_VALID": {"VM_ENTRY_INTR_INFO_FIELD": event(3, 13)},
    "EVENT_RESERVED": {"VM_ENTRY_INTR_INFO_FIELD": event(3, 6) | 1 << 12},
    "EVENT_ERROR_CODE": {
        "VM_ENTRY_INTR_INFO_FIELD": event(3, 13, True),
        "VM_ENTRY_EXCEPTION_ERROR_CODE": 1 << 16,
    },
    "EVENT_LENGTH": {"VM_ENTRY_INTR_INFO_FIELD": event(6, 3)},
    "ENTRY_LOAD_AREA": {"VM_ENTRY_MSR_LOAD_COUNT": 1, "VM_ENTRY_MSR_LOAD_ADDR": 1 << 40},
    "BITMAP_PAGE_EXISTS": {"MSR_BITMAP": 1 << 39},
    "HOST_CR0": {"HOST_CR0": 0x31},
    "HOST_CR4": {"HOST_CR4": 0x20},
    "HOST_CR3": {"HOST_CR3": 1 << 40},
    "HOST_SYSENTER": {"HOST_IA32_SYSENTER_EIP": 1 << 47},
    "HOST_PAT": {"VM_EXIT_CONTROLS": EXIT | 1 << 19, "HOST_IA32_PAT": 2},
    "HOST_EFER": {"HOST_IA32_EFER": 0x501 | 1 << 1},
    "HOST_SELECTOR_RPL_TI": {"HOST_DS_SELECTOR": 0x13},
    "HOST_CS_TR_NULL": {"HOST_TR_SELECTOR": 0},
    "HOST_SS_NULL": {
        "VM_EXIT_CONTROLS": EXIT & ~(1 << 9), "HOST_IA32_EFER": 0, "HOST_SS_SELECTOR": 0,
    },
    "HOST_BASES": {"HOST_IDTR_BASE": 1 << 60},
    "HOST_ADDRESS_SPACE_SIZE": {"VM_EXIT_CONTROLS": EXIT & ~(1 << 9), "HOST_IA32_EFER": 0},
    "HOST_PAE": {"HOST_CR4": 0x2000},
    "HOST_RIP": {"HOST_RIP": 1 << 47},
    "GUEST_CR0": {"GUEST_CR0": 0x80000011},
    "GUEST_CR0_PG_NEEDS_PE": {"SECONDARY_VM_EXEC_CONTROL": 0x82, "GUEST_CR0": 0x80000020},
    "GUEST_CR4": {"GUEST_CR4": 0x2020 | 1 << 30},
    "GUEST_DEBUGCTL": {"VM_ENTRY_CONTROLS": ENTRY | 4, "GUEST_IA32_DEBUGCTL": 1 << 5},
    "GUEST_IA32E_NEEDS_PAGING": {"GUEST_CR4": 0x2000},
    "GUEST_PCIDE": NO_64 | {"GUEST_CR4": 0x22000},
    "GUEST_CR3": {"GUEST_CR3": 1 << 63},
    "GUEST_DR7": {"VM_ENTRY_CONTROLS": ENTRY | 4, "GUEST_DR7": 1 << 32},
    "GUEST_SYSENTER": {"GUEST_SYSENTER_ESP": 1 << 47},
    "GUEST_PAT": {"VM_ENTRY_CONTROLS": ENTRY | 1 << 14, "GUEST_IA32_PAT": 8 << 56},
    "GUEST_EFER_RESERVED": {"GUEST_IA32_EFER": 0xD03},
    "GUEST_EFER_LMA": {"GUEST_IA32_EFER": 0x100},
    "GUEST_TR_SELECTOR_TI": {"GUEST_TR_SELECTOR": 0x2C},
    "GUEST_LDTR_SELECTOR_TI": {"GUEST_LDTR_AR_BYTES": 0x82, "GUEST_LDTR_SELECTOR": 4},
    "GUEST_SS_CS_RPL": {"GUEST_SS_SELECTOR": 3},
    "GUEST_V86_BASE": V86 | {"GUEST_DS_BASE": 16},
    "GUEST_BASE_CANONICAL": {"GUEST_FS_BASE": 1 << 47},
    "GUEST_BASE_32_BIT": {"GUEST_CS_BASE": 1 << 32},
    "GUEST_V86_LIMIT": V86 | {"GUEST_ES_LIMIT": 0xFFFFF},
    "GUEST_V86_RIGHTS": V86 | {"GUEST_SS_AR_BYTES": 0x93},
    "GUEST_CS_TYPE": {"GUEST_CS_AR_BYTES": 0xA093},
    "GUEST_SS_TYPE": {"GUEST_SS_AR_BYTES": 0xC09B},
    "GUEST_DATA_TYPE": {"GUEST_FS_AR_BYTES": 0xC092},
    "GUEST_SEGMENT_S": {"GUEST_DS_AR_BYTES": 0xC083},
    "GUEST_CS_DPL": {"GUEST_CS_AR_BYTES": 0xA0FB},
    "GUEST_SS_DPL": {"GUEST_SS_AR_BYTES": 0xC0F3, "GUEST_CS_AR_BYTES": 0xA0FB},
    "GUEST_DATA_DPL": {"GUEST_ES_SELECTOR": 3},
    "GUEST_SEGMENT_P": {"GUEST_GS_AR_BYTES": 0xC013},
    "GUEST_SEGMENT_RESERVED": {"GUEST_DS_AR_BYTES": 0xC193},
    "GUEST_CS_DB": {"GUEST_CS_AR_BYTES": 0xE09B},
    "GUEST_SEGMENT_G": {"GUEST_SS_LIMIT": 0xFFFF0000},
    "GUEST_TR_RIGHTS": {"GUEST_TR_AR_BYTES": 0x89},
    "GUEST_LDTR_RIGHTS": {"GUEST_LDTR_AR_BYTES": 0x83},
    "GUEST_TABLE_BASE": {"GUEST_IDTR_BASE": 1 << 47},
    "GUEST_TABLE_LIMIT": {"GUEST_GDTR_LIMIT": 1 << 16},
    "GUEST_RIP": {"GUEST_RIP": 1 << 48},
    "GUEST_RFLAGS_RESERVED": {"GUEST_RFLAGS": 0},
    "GUEST_RFLAGS_VM": V86_REGISTERS,
    "GUEST_RFLAGS_IF": {"VM_ENTRY_INTR_INFO_FIELD": INTERRUPT},
    "ACTIVITY_SUPPORTED": {"GUEST_ACTIVITY_STATE": 4},
    "ACTIVITY_HLT_DPL": {
        "GUEST_ACTIVITY_STATE": 1, "GUEST_SS_SELECTOR": 3, "GUEST_CS_SELECTOR": 3,
        "GUEST_SS_AR_BYTES": 0xC0F3, "GUEST_CS_AR_BYTES": 0xA0FB,
    },
    "ACTIVITY_BLOCKING": {"GUEST_ACTIVITY_STATE": 1, "GUEST_INTERRUPTIBILITY_INFO": 2},
    "ACTIVITY_EVENT": {"GUEST_ACTIVITY_STATE": 3, "VM_ENTRY_INTR_INFO_FIELD": NMI},
    "INTERRUPTIBILITY_RESERVED": {"GUEST_INTERRUPTIBILITY_INFO": 32},
    "INTERRUPTIBILITY_BOTH": {"GUEST_INTERRUPTIBILITY_INFO": 3},
    "INTERRUPTIBILITY_STI_IF": {"GUEST_INTERRUPTIBILITY_INFO": 1},
    "INTERRUPTIBILITY_INTERRUPT": {
        "GUEST_INTERRUPTIBILITY_INFO": 2, "GUEST_RFLAGS": 0x202,
        "VM_ENTRY_INTR_INFO_FIELD": INTERRUPT,
    },
    "INTERRUPTIBILITY_NMI_MOV_SS": {
        "GUEST_INTERRUPTIBILITY_INFO": 2, "VM_ENTRY_INTR_INFO_FIELD": NMI,
    },
    "INTERRUPTIBILITY_SMI": {"GUEST_INTERRUPTIBILITY_INFO": 4},
    "INTERRUPTIBILITY_NMI_STI": {
        "GUEST_INTERRUPTIBILITY_INFO": 1, "GUEST_RFLAGS": 0x202, "VM_ENTRY_INTR_INFO_FIELD": NMI,
    },
    "INTERRUPTIBILITY_ENCLAVE": {"GUEST_INTERRUPTIBILITY_INFO": 16},
    "PENDING_DEBUG_RESERVED": {"GUEST_PENDING_DBG_EXCEPTIONS": 1 << 4},
    "PENDING_DEBUG_BS": {"GUEST_INTERRUPTIBILITY_INFO": 2, "GUEST_RFLAGS": 0x102},
    "LINK_POINTER_ADDRESS": {"VMCS_LINK_POINTER": 0x24004},
    "LINK_POINTER_REVISION": {"VMCS_LINK_POINTER": 0x26000},
    "LINK_POINTER_SHADOW": {"VMCS_LINK_POINTER": SHADOW_PAGE},
    "LINK_POINTER_CURRENT": {"VMCS_LINK_POINTER": VMCS12},
    "PDPTE_RESERVED": NO_64 | {"GUEST_CR4": 0x2020, "GUEST_PDPTR2": 3},
}  # fmt: skip
"""A change of a good vmcs12 that fails just this check."""

ELSEWHERE = {
    "MSR_LOAD": "found while the area is walked (test_vmx_msr_lists.py)",
}
BEHIND_CONTROL = {
    "VIRTUAL_APIC_ADDRESS": ("cpu", "TPR_SHADOW"),
    "TPR_THRESHOLD_RESERVED": ("cpu", "TPR_SHADOW"),
    "TPR_THRESHOLD_VTPR": ("cpu", "TPR_SHADOW"),
    "VIRTUAL_NMIS_NEED_NMI_EXITING": ("pin", "VIRTUAL_NMIS"),
    "APIC_ACCESS_ADDRESS": ("sec", "VIRTUALIZE_APIC_ACCESSES"),
    "APIC_VIRTUALIZATION_NEEDS_TPR_SHADOW": ("sec", "VIRTUALIZE_X2APIC_MODE"),
    "X2APIC_WITH_APIC_ACCESS": ("sec", "VIRTUALIZE_X2APIC_MODE"),
    "VIRTUAL_INTERRUPTS_NEED_EXITING": ("sec", "VIRTUAL_INTR_DELIVERY"),
    "POSTED_INTERRUPTS": ("pin", "POSTED_INTR"),
    "PML_NEEDS_EPT": ("sec", "ENABLE_PML"),
    "PML_ADDRESS": ("sec", "ENABLE_PML"),
    "SHADOW_BITMAP_ADDRESS": ("sec", "SHADOW_VMCS"),
    "INTERRUPTIBILITY_VIRTUAL_NMI": ("pin", "VIRTUAL_NMIS"),
}
"""Checks that L1 cannot reach while L0 does not offer the control they ask about."""


@cache
def machine() -> VmxMachine:
    made = VmxMachine(l0=layout.L0_MANUAL)
    made.enter_vmx_operation()
    made.words(made.l1(REVISION_PAGE))[0] = vmcs.REVISION
    made.words(made.l1(SHADOW_PAGE))[0] = vmcs.REVISION | 1 << 31
    return made


def prepare(**changes: int) -> VmxMachine:
    """The machine with a good vmcs12 that was changed; what it does not name is zero."""
    made = machine()
    for slot in range(vmcs.N_SLOTS):
        made.put(12, vmcs.field_name(slot), 0)
    made.fill_vmcs12(**changes)
    return made


def l1_memory(address: int) -> int | None:
    """First 32-bit word at an address of L1's."""
    made = machine()
    if address < 0x40000000:
        ok, offset = address < L1_BYTES, made.l1(address)
    else:
        ok, offset = address < 0x40000000 + L1_BYTES, made.base[2] + address - 0x40000000
    if not ok:
        return 0xFFFFFFFF if address < 0x80000000 else None
    return int(made.ram[offset & ~3 : (offset & ~3) + 4].view("<u4")[0])


def fields_of(which: int) -> dict[str, int]:
    """Every field of a VMCS, cut to its width."""
    made = machine()
    return {
        vmcs.field_name(i): made.get(which, vmcs.field_name(i)) & (1 << WIDTH[vmcs.field_name(i)]) - 1
        for i in range(vmcs.N_SLOTS)
    }  # fmt: skip


def checked(which: int) -> str:
    """Name of the first check that a VMCS fails, by the kernel's units."""
    made = machine()
    offset = {12: made.l1(VMCS12), 1: memory_map.VMCX01_MA}[which]
    base = made.ram.ctypes.data + offset + vmcs.DATA_OFFSET
    view = 1 if which == 12 else 0
    number = made.call("vmx_check_controls", base, view)
    if not number and view:
        number = made.call("vmx_check_own", base)
    number = number or made.call("vmx_check_host", base)
    current = VMCS12 if view else memory_map.VMCX01_MA
    number = number or made.call("vmx_check_guest", base, view, current)
    return vmx.check_name(number) if number else ""


L1_SEES = Processor(
    L1_CONTROLS, cr3_targets=4, activities=frozenset(range(4)), current=VMCS12, own=True,
    memory=l1_memory,
)  # fmt: skip
HARDWARE = Processor(
    {
        g: names | vmx_controls.LENT.get(g, frozenset())
        for g, names in vmx_controls.HARDWARE.items()
    },
    cr3_targets=4,
    current=memory_map.VMCX01_MA,
    memory=lambda a: int(machine().ram[a : a + 4].view("<u4")[0]) if a < 0x1000000 else 0xFFFFFFFF,
)

# ---------------------------------------------------------------- every row


def test_the_table_has_a_section_a_text_and_a_known_failure_for_each_check():
    for name, row in CHECKS.items():
        assert row["demand"] and row["section"]
        assert row["failure"] in ("7", "8", "33", "34")
        assert vmx.check_text(int(row["value"])).startswith(f"{name}: ")


def test_every_check_is_reached_or_said_why_not():
    for name in set(CHECKS) - set(REACHED) - set(ELSEWHERE):
        group, control = BEHIND_CONTROL[name]
        assert control not in L1_CONTROLS[group], f"L1 can reach {name} now"


@pytest.mark.parametrize("name", REACHED)
def test_a_check_of_vmcs12_fails_as_the_table_says(name):
    made = prepare(**REACHED[name])
    made.m["check"] = made.state["vmentry_pending"] = 0
    before = int(made.m["checks_failed"][0])
    assert made.l1_executes("VMLAUNCH") == layout.ST_OK
    failure, qualification = failure_of(name)
    if failure in (7, 8):
        assert made.state["vmentry_pending"] == 0
        assert made.get(12, "VM_INSTRUCTION_ERROR") == failure
    else:
        assert made.state["vmentry_pending"] == 1
        made.state["vmentry_pending"] = 0
        made.call("vmx_enter_n2")
        assert made.state["vmexit_pending"] == 1
        made.call("vmx_exit_n2")
        made.state["vmexit_pending"] = 0
        assert made.get(12, "VM_EXIT_REASON") == failure | 1 << 31
        assert made.get(12, "EXIT_QUALIFICATION") == qualification
        assert made.call("vmx_hw_enter") == layout.ST_OK
    assert vmx.check_name(int(made.m["check"][0])) == name
    assert made.m["checks_failed"][0] == before + 1


@pytest.mark.parametrize("changes", [NO_64, V86, {"GUEST_CS_AR_BYTES": 0xC09B}])
def test_a_guest_outside_of_64_bit_mode_is_valid_but_stops_the_machine(changes):
    made = VmxMachine()
    made.launch(**changes)
    assert made.state["vmexit_pending"] == 0
    assert made.call("vmx_hw_enter") == -1
    assert made.m["fatal"][0] == layout.FATAL_NOT_64_BIT
    assert made.m["checks_failed"][0] == 0


# ---------------------------------------------------------------- against the oracle


def values_of(name: str) -> st.SearchStrategy[int]:
    """Values near a good one and at the borders of a field."""
    good = GOOD_VMCS12.get(name, 0)
    flips = st.integers(0, WIDTH[name] - 1).map(lambda bit: good ^ 1 << bit)
    borders = [0, 1, 3, 0x2B, 0x93, 0xFFFF, 1 << 12, 1 << 31, (1 << 47) - 1, 1 << 47, -1 << 47,
               1 << 39, -1, VMCS12, REVISION_PAGE, SHADOW_PAGE, INTERRUPT, NMI, event(3, 14, True),
               event(6, 3), event(7, 0)]  # fmt: skip
    return st.one_of(flips, st.sampled_from(borders), st.integers(0, WORD))


CHECKED = sorted(name for name in WIDTH if not name.startswith(("HOST_IA32_FRED", "GUEST_IA32_FRED"))
                 and getattr(vmcs, f"SLOT_{name}", None) is not None)  # fmt: skip
DAMAGES = st.lists(
    st.sampled_from(CHECKED).flatmap(lambda n: st.tuples(st.just(n), values_of(n))), max_size=2
).map(dict)
STARTS = st.sampled_from([{}, {}, {}, NO_64, V86, {"SECONDARY_VM_EXEC_CONTROL": 0x82},
                          {"GUEST_RFLAGS": 0x302}])  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(STARTS, DAMAGES)
def test_l0_finds_the_check_that_the_oracle_finds(start, damages):
    prepare(**(start | damages))
    assert checked(12) == first_failure(fields_of(12), L1_SEES)


@settings(max_examples=600, deadline=None)
@given(DAMAGES)
def test_the_processor_finds_the_check_that_the_oracle_finds(damages):
    made = machine()
    kept = {name: made.get(1, name) for name in damages}
    for name, value in damages.items():
        made.put(1, name, value)
    expected = first_failure(fields_of(1), HARDWARE)
    assert checked(1) == expected
    if expected:
        made.m["fatal"] = made.m["check"] = 0
        assert made.call("vmx_hw_enter") == -1
        assert vmx.check_name(int(made.m["check"][0])) == expected
        failure, qualification = failure_of(expected)
        if failure in (7, 8):
            assert made.get(1, "VM_INSTRUCTION_ERROR") == failure
        else:
            assert made.get(1, "VM_EXIT_REASON") == failure | 1 << 31
            assert made.get(1, "EXIT_QUALIFICATION") == qualification
    for name, value in kept.items():
        made.put(1, name, value)


def test_the_controls_of_l1_are_a_part_of_the_hardwares():
    for group, names in L1_CONTROLS.items():
        assert names <= vmx_controls.HARDWARE[group]
        assert all((group, name) in BIT for name in names)
