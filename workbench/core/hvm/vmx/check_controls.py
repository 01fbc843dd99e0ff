"""Checks on the VMX controls (SDM vol. 3, 27.2.1), in the manual's order.

:func:`vmx_check_controls` returns the number of the first check that fails (vmx_entry_checks.csv), 0
when all hold.  Controls that the processor does not have are refused as reserved bits.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...jit import inner, unit
from ...layout import Machine
from ...mmu.physical import ma_ld8
from ...structs import i64
from ...words import lshr
from ..p2m import n1p_to_l0m
from .check_util import (
    CPU,
    CPU2,
    ENTRY,
    EXIT,
    INTR_ERROR,
    INTR_VALID,
    PIN,
    PUSHES_ERROR,
    TYPE_EXCEPTION,
    TYPE_NMI,
    TYPE_OTHER,
    TYPE_RESERVED,
    TYPE_SOFTWARE,
    area_wrong,
    beyond_width,
    cr3_targets,
    ept_can,
    machine_address,
    may_be_one,
    outside,
    page_wrong,
    word,
)
from .offer import EPT_AD, EPT_UC

VTPR = 0x80
"""Offset of the virtual task-priority register in the virtual-APIC page."""
EPTP_AD, EPTP_LOW_RESERVED, WALK_4, UNCACHEABLE, WRITE_BACK = 1 << 6, 0xF80, 3, 0, 6
APIC_VIRTUALIZATION = (
    vmx.CPU2_VIRTUALIZE_X2APIC_MODE | vmx.CPU2_APIC_REGISTER_VIRT | vmx.CPU2_VIRTUAL_INTR_DELIVERY
)
EVENT_RESERVED = 0x7FFF_F000
CR0_PE = 1


@inner
def secondary(base, cpu):
    """The secondary controls, 0 while they are not activated."""
    if cpu & vmx.CPU_ACTIVATE_SECONDARY_CONTROLS == 0:
        return 0
    return word(base, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL)


# ---------------------------------------------------------------- VM-execution controls


@inner
def _execution_words(m, base, view, pin, cpu, cpu2):
    if outside(m, pin, view, PIN):
        return vmx.CHECK_PIN_RESERVED
    if outside(m, cpu, view, CPU):
        return vmx.CHECK_CPU_RESERVED
    if cpu2 & ~may_be_one(m, view, CPU2):
        return vmx.CHECK_CPU2_RESERVED
    if word(base, vmcs.SLOT_CR3_TARGET_COUNT) > cr3_targets(m, view):
        return vmx.CHECK_CR3_TARGET_COUNT
    return 0


@inner
def _bitmaps(base, cpu):
    if cpu & vmx.CPU_USE_IO_BITMAPS and (
        page_wrong(word(base, vmcs.SLOT_IO_BITMAP_A))
        or page_wrong(word(base, vmcs.SLOT_IO_BITMAP_B))
    ):
        return vmx.CHECK_IO_BITMAP_ADDRESS
    if cpu & vmx.CPU_USE_MSR_BITMAPS and page_wrong(word(base, vmcs.SLOT_MSR_BITMAP)):
        return vmx.CHECK_MSR_BITMAP_ADDRESS
    return 0


@inner
def _vtpr(m, base, view):
    """Bits 7:4 of VTPR; 0 where there is no virtual-APIC page, so that nothing is below it."""
    page = machine_address(m, view, word(base, vmcs.SLOT_VIRTUAL_APIC_PAGE_ADDR))
    return lshr(ma_ld8(m, page + VTPR), 4) & 15 if page >= 0 else 0


@inner
def _tpr_shadow(m, base, view, cpu, cpu2):
    if cpu & vmx.CPU_TPR_SHADOW == 0:
        return 0
    if page_wrong(word(base, vmcs.SLOT_VIRTUAL_APIC_PAGE_ADDR)):
        return vmx.CHECK_VIRTUAL_APIC_ADDRESS
    if cpu2 & vmx.CPU2_VIRTUAL_INTR_DELIVERY:
        return 0
    threshold = word(base, vmcs.SLOT_TPR_THRESHOLD)
    if threshold & ~15:
        return vmx.CHECK_TPR_THRESHOLD_RESERVED
    if cpu2 & vmx.CPU2_VIRTUALIZE_APIC_ACCESSES == 0 and threshold > _vtpr(m, base, view):
        return vmx.CHECK_TPR_THRESHOLD_VTPR
    return 0


@inner
def _nmi(pin, cpu):
    if pin & vmx.PIN_NMI_EXITING == 0 and pin & vmx.PIN_VIRTUAL_NMIS:
        return vmx.CHECK_VIRTUAL_NMIS_NEED_NMI_EXITING
    if pin & vmx.PIN_VIRTUAL_NMIS == 0 and cpu & vmx.CPU_NMI_WINDOW_EXITING:
        return vmx.CHECK_NMI_WINDOW_NEEDS_VIRTUAL_NMIS
    return 0


@inner
def _apic_words(base, pin, cpu, cpu2):
    if cpu2 & vmx.CPU2_VIRTUALIZE_APIC_ACCESSES and page_wrong(
        word(base, vmcs.SLOT_APIC_ACCESS_ADDR)
    ):
        return vmx.CHECK_APIC_ACCESS_ADDRESS
    if cpu & vmx.CPU_TPR_SHADOW == 0 and cpu2 & APIC_VIRTUALIZATION:
        return vmx.CHECK_APIC_VIRTUALIZATION_NEEDS_TPR_SHADOW
    both = vmx.CPU2_VIRTUALIZE_X2APIC_MODE | vmx.CPU2_VIRTUALIZE_APIC_ACCESSES
    if cpu2 & both == both:
        return vmx.CHECK_X2APIC_WITH_APIC_ACCESS
    if cpu2 & vmx.CPU2_VIRTUAL_INTR_DELIVERY and pin & vmx.PIN_EXT_INTR == 0:
        return vmx.CHECK_VIRTUAL_INTERRUPTS_NEED_EXITING
    return 0


@inner
def _posted_interrupts(base, pin, cpu2):
    if pin & vmx.PIN_POSTED_INTR == 0:
        return 0
    descriptor = word(base, vmcs.SLOT_POSTED_INTR_DESC_ADDR)
    if (
        cpu2 & vmx.CPU2_VIRTUAL_INTR_DELIVERY == 0
        or word(base, vmcs.SLOT_VM_EXIT_CONTROLS) & vmx.EXIT_CTL_ACK_INTR_ON_EXIT == 0
        or word(base, vmcs.SLOT_POSTED_INTR_NV) & ~0xFF != 0
        or descriptor & 63 != 0
        or beyond_width(descriptor)
    ):
        return vmx.CHECK_POSTED_INTERRUPTS
    return 0


@inner
def eptp_wrong(m, view, eptp):
    """0, or what a VM entry finds wrong with an EPT pointer (SDM 27.2.1.1)."""
    memory_type = eptp & 7
    uncacheable = memory_type == UNCACHEABLE and ept_can(m, view, EPT_UC)
    if memory_type != WRITE_BACK and not uncacheable:
        return vmx.CHECK_EPTP_MEMORY_TYPE
    if lshr(eptp, 3) & 7 != WALK_4:
        return vmx.CHECK_EPTP_WALK_LENGTH
    if eptp & EPTP_AD and not ept_can(m, view, EPT_AD):
        return vmx.CHECK_EPTP_ACCESSED_DIRTY
    if eptp & EPTP_LOW_RESERVED or beyond_width(eptp):
        return vmx.CHECK_EPTP_RESERVED
    return 0


@inner
def _secondary_features(m, base, view, cpu2):
    if cpu2 & vmx.CPU2_ENABLE_VPID and word(base, vmcs.SLOT_VIRTUAL_PROCESSOR_ID) == 0:
        return vmx.CHECK_VPID_ZERO
    ept = cpu2 & vmx.CPU2_ENABLE_EPT
    if ept:
        check = eptp_wrong(m, view, word(base, vmcs.SLOT_EPT_POINTER))
        if check:
            return check
    if cpu2 & vmx.CPU2_ENABLE_PML:
        if ept == 0:
            return vmx.CHECK_PML_NEEDS_EPT
        if page_wrong(word(base, vmcs.SLOT_PML_ADDRESS)):
            return vmx.CHECK_PML_ADDRESS
    if cpu2 & vmx.CPU2_UNRESTRICTED_GUEST and ept == 0:
        return vmx.CHECK_UNRESTRICTED_GUEST_NEEDS_EPT
    if cpu2 & vmx.CPU2_SHADOW_VMCS and (
        page_wrong(word(base, vmcs.SLOT_VMREAD_BITMAP))
        or page_wrong(word(base, vmcs.SLOT_VMWRITE_BITMAP))
    ):
        return vmx.CHECK_SHADOW_BITMAP_ADDRESS
    return 0


@unit(Machine, i64, i64)
def vmx_check_execution(m, base, view):
    """Checks of the VM-execution control fields (27.2.1.1)."""
    pin = word(base, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL)
    cpu = word(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    cpu2 = secondary(base, cpu)
    check = _execution_words(m, base, view, pin, cpu, cpu2)
    if check == 0:
        check = _bitmaps(base, cpu)
    if check == 0:
        check = _tpr_shadow(m, base, view, cpu, cpu2)
    if check == 0:
        check = _nmi(pin, cpu)
    if check == 0:
        check = _apic_words(base, pin, cpu, cpu2)
    if check == 0:
        check = _posted_interrupts(base, pin, cpu2)
    if check == 0:
        check = _secondary_features(m, base, view, cpu2)
    return check


# ---------------------------------------------------------------- VM-exit and VM-entry controls


@inner
def _exit_fields(m, base, view):
    controls = word(base, vmcs.SLOT_VM_EXIT_CONTROLS)
    if outside(m, controls, view, EXIT):
        return vmx.CHECK_EXIT_RESERVED
    pin = word(base, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL)
    saves_timer = controls & vmx.EXIT_CTL_SAVE_VMX_PREEMPTION_TIMER
    if saves_timer and pin & vmx.PIN_VMX_PREEMPTION_TIMER == 0:
        return vmx.CHECK_SAVE_TIMER_WITHOUT_TIMER
    if area_wrong(
        word(base, vmcs.SLOT_VM_EXIT_MSR_STORE_ADDR),
        word(base, vmcs.SLOT_VM_EXIT_MSR_STORE_COUNT),
    ):
        return vmx.CHECK_EXIT_STORE_AREA
    if area_wrong(
        word(base, vmcs.SLOT_VM_EXIT_MSR_LOAD_ADDR), word(base, vmcs.SLOT_VM_EXIT_MSR_LOAD_COUNT)
    ):
        return vmx.CHECK_EXIT_LOAD_AREA
    return 0


@inner
def _is_protected(base):
    """Will the guest run with CR0.PE?  Only an unrestricted guest can do without."""
    cpu = word(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    if secondary(base, cpu) & vmx.CPU2_UNRESTRICTED_GUEST == 0:
        return True
    return word(base, vmcs.SLOT_GUEST_CR0) & CR0_PE != 0


@inner
def _vector_wrong(kind, vector):
    if kind == TYPE_NMI:
        return vector != 2
    if kind == TYPE_EXCEPTION:
        return vector > 31
    return kind == TYPE_OTHER and vector != 0


@inner
def check_event(m, base, view):
    """Checks of VM-entry event injection (27.2.1.3, second item)."""
    info = word(base, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD)
    if info & INTR_VALID == 0:
        return 0
    kind = lshr(info, 8) & 7
    vector = info & 0xFF
    no_other = may_be_one(m, view, CPU) & vmx.CPU_MONITOR_TRAP_FLAG == 0
    if kind == TYPE_RESERVED or (kind == TYPE_OTHER and no_other):
        return vmx.CHECK_EVENT_TYPE
    if _vector_wrong(kind, vector):
        return vmx.CHECK_EVENT_VECTOR
    pushes = kind == TYPE_EXCEPTION and lshr(PUSHES_ERROR, vector) & 1 != 0
    if (info & INTR_ERROR != 0) != (pushes and _is_protected(base)):
        return vmx.CHECK_EVENT_ERROR_CODE_VALID
    if info & EVENT_RESERVED:
        return vmx.CHECK_EVENT_RESERVED
    if info & INTR_ERROR and lshr(word(base, vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE), 16):
        return vmx.CHECK_EVENT_ERROR_CODE
    length = word(base, vmcs.SLOT_VM_ENTRY_INSTRUCTION_LEN)
    if TYPE_SOFTWARE <= kind < TYPE_OTHER and (length == 0 or length > 15):
        return vmx.CHECK_EVENT_LENGTH
    return 0


@inner
def _entry_fields(m, base, view):
    controls = word(base, vmcs.SLOT_VM_ENTRY_CONTROLS)
    if outside(m, controls, view, ENTRY):
        return vmx.CHECK_ENTRY_RESERVED
    check = check_event(m, base, view)
    if check:
        return check
    if area_wrong(
        word(base, vmcs.SLOT_VM_ENTRY_MSR_LOAD_ADDR), word(base, vmcs.SLOT_VM_ENTRY_MSR_LOAD_COUNT)
    ):
        return vmx.CHECK_ENTRY_LOAD_AREA
    return 0


@unit(Machine, i64, i64)
def vmx_check_controls(m, base, view):
    """Number of the first check on the controls that fails, 0 when all hold (27.2.1)."""
    check = vmx_check_execution(m, base, view)
    if check == 0:
        check = _exit_fields(m, base, view)
    if check == 0:
        check = _entry_fields(m, base, view)
    return check


@inner
def check_changing_controls(m, base, view):
    """The checks on controls that may fail though no other field has changed: TPR shadow, event."""
    cpu = word(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    check = _tpr_shadow(m, base, view, cpu, secondary(base, cpu))
    return check if check else check_event(m, base, view)


# ---------------------------------------------------------------- what is L0's own


@inner
def _page_missing(m, base, slot):
    return n1p_to_l0m(m, word(base, slot)) < 0


@unit(Machine, i64)
def vmx_check_own(m, base):
    """What L0 demands of vmcs12 beyond the manual: pages in memory that L1 has (Xen, for bitmaps)."""
    cpu = word(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    missing = False
    if cpu & vmx.CPU_USE_IO_BITMAPS:
        missing = _page_missing(m, base, vmcs.SLOT_IO_BITMAP_A) or _page_missing(
            m, base, vmcs.SLOT_IO_BITMAP_B
        )
    if cpu & vmx.CPU_USE_MSR_BITMAPS and not missing:
        missing = _page_missing(m, base, vmcs.SLOT_MSR_BITMAP)
    if cpu & vmx.CPU_TPR_SHADOW and not missing:
        missing = _page_missing(m, base, vmcs.SLOT_VIRTUAL_APIC_PAGE_ADDR)
    if secondary(base, cpu) & vmx.CPU2_VIRTUALIZE_APIC_ACCESSES and not missing:
        missing = _page_missing(m, base, vmcs.SLOT_APIC_ACCESS_ADDR)
    if missing:
        return vmx.CHECK_BITMAP_PAGE_EXISTS
    return 0
