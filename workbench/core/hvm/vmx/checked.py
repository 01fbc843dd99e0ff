"""Which checks of a VM entry need not be made again: those whose fields are as they were when they held.

A check is a function of fields, of the features, and for a few of memory.  Of each VMCS the values
of its last good entry are kept, and every entry compares.  No write to a VMCS can be missed, whoever
makes it (VMWRITE, the processor at an exit, a guest that stores into a region): what counts is not
that a field was written but that it has another value.

Checked at every entry: the fields that change at nearly every exit, and what depends on memory.
Kept apart are the segment registers, which change with the privilege level.
"""

from __future__ import annotations

from ....arch import vmcs
from ...compare import words_differ
from ...jit import inner, unit
from ...layout import N_FEATURES, Machine
from ...structs import i64
from ...words import address, copy_bytes
from ..memory_map import VMCX02_MA
from ..nested_state import vmcx12_addr
from .check_controls import check_changing_controls, vmx_check_controls, vmx_check_own
from .check_guest import check_changing_guest, vmx_check_guest
from .check_host import vmx_check_host
from .check_util import HARDWARE_VIEW, L1_VIEW, RFLAGS_VM
from .vmcs import get

OF_VMCS01, OF_VMCS02, CONTROLS_OF_VMCS12, GUEST_OF_VMCS12 = range(4)
"""Places in ``m.checked``."""
NOTHING, SEGMENTS, ANYTHING = range(3)
"""What has changed."""


def _runs(*fields: str) -> tuple[int, ...]:
    """First and past-last slot of each stretch of fields, named ``first:last`` or by one name."""
    found: list[int] = []
    for names in fields:
        slots = [getattr(vmcs, f"SLOT_{name}") for name in names.split(":")]
        found += [slots[0], slots[-1] + 1]
    return tuple(found)


CONTROL_RUNS = _runs(
    "VIRTUAL_PROCESSOR_ID:POSTED_INTR_NV",
    "HOST_ES_SELECTOR:EPT_POINTER",
    "VMREAD_BITMAP:VMWRITE_BITMAP",
    "GUEST_IA32_DEBUGCTL:GUEST_PDPTR3",
    "HOST_IA32_PAT:HOST_IA32_EFER",
    "PIN_BASED_VM_EXEC_CONTROL:VM_ENTRY_MSR_LOAD_COUNT",
    "SECONDARY_VM_EXEC_CONTROL",
    "GUEST_GDTR_LIMIT:GUEST_IDTR_LIMIT",
    "GUEST_CR0",
    "GUEST_CR4",
    "GUEST_GDTR_BASE:GUEST_DR7",
    "GUEST_SYSENTER_ESP:GUEST_SYSENTER_EIP",
    "HOST_CR0:HOST_RIP",
)
"""Controls, host state, and the guest's control registers, MSRs and tables.

Fields between those that are checked count as well where they seldom change.
"""
SEGMENT_RUNS = _runs(
    "GUEST_ES_SELECTOR:GUEST_TR_SELECTOR",
    "GUEST_ES_LIMIT:GUEST_TR_LIMIT",
    "GUEST_ES_AR_BYTES:GUEST_TR_AR_BYTES",
    "GUEST_ES_BASE:GUEST_TR_BASE",
)
FEATURE_RUNS = (0, N_FEATURES)


@inner
def _changed(m, place, base):
    """What is not as it was when the checks held: NOTHING, SEGMENTS or ANYTHING."""
    k = m.checked[place]
    kept = address(k.words)
    if (
        k.passed == 0
        or k.shadow_paging != m.sh.active
        or words_differ(address(m.feat), address(k.features), FEATURE_RUNS)
        or words_differ(base, kept, CONTROL_RUNS)
        or get(base, vmcs.SLOT_GUEST_RFLAGS) & RFLAGS_VM  # other rules for segments
    ):
        return ANYTHING
    return SEGMENTS if words_differ(base, kept, SEGMENT_RUNS) else NOTHING


@inner
def _keep(m, place, base):
    """All checks of a VMCS hold."""
    if get(base, vmcs.SLOT_GUEST_RFLAGS) & RFLAGS_VM:
        return
    k = m.checked[place]
    copy_bytes(address(k.words), base, 8 * vmcs.N_SLOTS)
    copy_bytes(address(k.features), address(m.feat), 8 * N_FEATURES)
    k.shadow_paging = m.sh.active
    k.passed = 1


# ---------------------------------------------------------------- by the processor


@unit(Machine, i64, i64)
def vmx_check_all(m, base, place):
    """Every check of the processor, in the manual's order."""
    check = vmx_check_controls(m, base, HARDWARE_VIEW)
    if check == 0:
        check = vmx_check_host(m, base)
    if check == 0:
        check = vmx_check_guest(m, base, HARDWARE_VIEW, m.hw.vmcx)
    if check == 0:
        _keep(m, place, base)
    return check


@unit(Machine, i64)
def vmx_check_entry(m, base):
    """Number of the first check that the VMCS in use fails, 0 when all hold (27.2, 27.3)."""
    place = OF_VMCS02 if m.hw.vmcx == VMCX02_MA else OF_VMCS01
    changed = _changed(m, place, base)
    if changed == ANYTHING:
        return vmx_check_all(m, base, place)
    check = check_changing_controls(m, base, HARDWARE_VIEW)
    if check == 0:
        check = check_changing_guest(m, base, HARDWARE_VIEW, m.hw.vmcx, changed)
    if check == 0 and changed == SEGMENTS:
        _keep(m, place, base)
    return check


# ---------------------------------------------------------------- by L0, on vmcs12


@unit(Machine, i64)
def vmx_check_vmcs12_controls(m, v):
    """Number of the first check that vmcs12's controls or host state fail, 0 when all hold."""
    anything = _changed(m, CONTROLS_OF_VMCS12, v) == ANYTHING
    if anything:
        check = vmx_check_controls(m, v, L1_VIEW)
    else:
        check = check_changing_controls(m, v, L1_VIEW)
    if check == 0:
        check = vmx_check_own(m, v)
    if check == 0 and anything:
        check = vmx_check_host(m, v)
        if check == 0:
            _keep(m, CONTROLS_OF_VMCS12, v)
    return check


@unit(Machine, i64)
def vmx_check_vmcs12_guest(m, v):
    """Number of the first check that vmcs12's guest state fails, 0 when all hold."""
    changed = _changed(m, GUEST_OF_VMCS12, v)
    if changed == ANYTHING:
        check = vmx_check_guest(m, v, L1_VIEW, vmcx12_addr(m))
    else:
        check = check_changing_guest(m, v, L1_VIEW, vmcx12_addr(m), changed)
    if check == 0 and changed != NOTHING:
        _keep(m, GUEST_OF_VMCS12, v)
    return check
