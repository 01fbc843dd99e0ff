"""The processor's VM entry and VM exit (SDM vol. 3, chapters 27 and 28).

Hardware only: what moves between the processor and the VMCS in use, whichever VMCS that is.  L0's
software decides which one, in ``entry`` and ``leave``.  The VPID in effect (``m.hw.tag``)
is chosen by ``hvm/tags``.

Not modelled: the host's own state (L0 is not executed code), machine checks, SMM.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...cpu.debug import (
    DR6_BS,
    MOV_SS,
    PENDING_ENABLED,
    debug_enter,
    debug_leave,
    forget_resume,
    resume_image,
)
from ...cpu.exceptions import DF
from ...cpu.flags import RF, get_rflags, set_rflags
from ...jit import inner, unit
from ...layout import FATAL_NOT_64_BIT, RSP, SS, ST_FAULT, ST_OK, Machine
from ...structs import i64
from ...words import address, copy_bytes, lshr
from .check_guest import runs_64_bit_code
from .check_util import TYPE_OTHER
from .checked import vmx_check_entry
from .checks import FAILURE, QUALIFICATION, refuse
from .intercepts import merge_owned
from .msr_lists import hw_entry_msrs, hw_exit_load_msrs, hw_exit_msrs
from .timer import MTF_PENDING, start_timer, stop_timer
from .vapic import vapic_load, vapic_save
from .vmcs import current_base, get, put

EIGHT = 64
"""Bytes of eight slots: one word per segment register."""
EPTP_AD = 1 << 6
EPTP_ADDRESS = 0x000F_FFFF_FFFF_F000
DR7_FIXED = 0x400
SOFTWARE_EXCEPTION = 6
EVENT_VALID = 1 << vmx.INTR_VALID
NMI_UNBLOCKED = 1 << vmx.INTR_NMI_UNBLOCK_IRET
DOUBLE_FAULT = vmx.INTR_TYPE_HW_EXCEPTION << 8 | 8
ENTRY_FAILED = 1 << 31
"""Bit of the exit reason: the VM entry failed."""

_SEGMENT_ARRAYS = ("SELECTOR", "LIMIT", "AR_BYTES", "BASE")
for _kind in _SEGMENT_ARRAYS:
    _slots = [
        getattr(vmcs, f"SLOT_GUEST_{s}_{_kind}")
        for s in ("ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR")
    ]
    if _slots != list(range(_slots[0], _slots[0] + 8)):
        raise ValueError(f"vmcs_fields.csv: the segment {_kind} fields are not in manual order")


# ---------------------------------------------------------------- VM exit


@inner
def save_guest_state(m, base):
    """Guest state into the VMCS (SDM 28.3)."""
    c = m.cpu
    # 1. control registers, debug registers, MSRs
    # (bits that the host owns cannot have changed since the entry)
    cr0 = merge_owned(get(base, vmcs.SLOT_GUEST_CR0), m.hw.cr0_mask, c.cr0)
    cr4 = merge_owned(get(base, vmcs.SLOT_GUEST_CR4), m.hw.cr4_mask, c.cr4)
    put(base, vmcs.SLOT_GUEST_CR0, cr0)
    put(base, vmcs.SLOT_GUEST_CR3, c.cr3)
    put(base, vmcs.SLOT_GUEST_CR4, cr4)
    put(base, vmcs.SLOT_GUEST_SYSENTER_CS, c.sysenter_cs & 0xFFFF_FFFF)
    put(base, vmcs.SLOT_GUEST_SYSENTER_ESP, c.sysenter_esp)
    put(base, vmcs.SLOT_GUEST_SYSENTER_EIP, c.sysenter_eip)
    controls = m.hw.exit_ctl
    if controls & vmx.EXIT_CTL_SAVE_DEBUG_CONTROLS:
        put(base, vmcs.SLOT_GUEST_DR7, c.dr[7])
        put(base, vmcs.SLOT_GUEST_IA32_DEBUGCTL, c.debugctl)
    if controls & vmx.EXIT_CTL_SAVE_IA32_PAT:
        put(base, vmcs.SLOT_GUEST_IA32_PAT, c.pat)
    if controls & vmx.EXIT_CTL_SAVE_IA32_EFER:
        put(base, vmcs.SLOT_GUEST_IA32_EFER, c.efer)
    # 2. segment registers and descriptor tables
    put_eight(base, vmcs.SLOT_GUEST_ES_SELECTOR, address(c.seg_sel))
    put_eight(base, vmcs.SLOT_GUEST_ES_LIMIT, address(c.seg_limit))
    put_eight(base, vmcs.SLOT_GUEST_ES_AR_BYTES, address(c.seg_attr))
    put_eight(base, vmcs.SLOT_GUEST_ES_BASE, address(c.seg_base))
    put(base, vmcs.SLOT_GUEST_GDTR_BASE, c.gdtr_base)
    put(base, vmcs.SLOT_GUEST_GDTR_LIMIT, c.gdtr_limit)
    put(base, vmcs.SLOT_GUEST_IDTR_BASE, c.idtr_base)
    put(base, vmcs.SLOT_GUEST_IDTR_LIMIT, c.idtr_limit)
    # 3. RIP, RSP, RFLAGS and what is not in registers
    put(base, vmcs.SLOT_GUEST_RIP, c.rip)
    put(base, vmcs.SLOT_GUEST_RSP, c.gpr[RSP])
    put(base, vmcs.SLOT_GUEST_RFLAGS, get_rflags(m))
    put(base, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO, (c.shadow & 3) | ((c.nmi_blocked & 1) << 3))


@inner
def put_eight(base, slot, source):
    copy_bytes(base + slot * 8, source, EIGHT)


@inner
def get_eight(base, slot, target):
    copy_bytes(target, base + slot * 8, EIGHT)


@inner
def _note_nmi_unblocking(m):
    """The exit is by a fault of an IRET, which has unblocked NMIs (SDM 28.2.3)."""
    e = m.exit
    m.nmi_unblocked = 0
    if e.vectoring & EVENT_VALID:
        return
    if e.code == vmx.EXIT_EPT_VIOLATION or e.code == vmx.EXIT_PML_FULL:
        e.info1 |= NMI_UNBLOCKED
    elif e.code == vmx.EXIT_EXCEPTION_NMI and e.intr_info & 0xFF != DF:
        e.intr_info |= NMI_UNBLOCKED


@inner
def _vectoring(e):
    """IDT-vectoring information: none for a triple fault, nor for a #DF that exits (28.2.4)."""
    if e.code == vmx.EXIT_TRIPLE_FAULT:
        return 0
    if e.code == vmx.EXIT_EXCEPTION_NMI and e.intr_info & 0x7FF == DOUBLE_FAULT:
        return 0
    return e.vectoring


@inner
def _resumes(m, e):
    """RF as the frame has it of the event that exits, or during whose delivery it is (28.3.3)."""
    if e.code == vmx.EXIT_EXCEPTION_NMI:
        return resume_image(m.exc)
    return m.debug.image if e.vectoring & EVENT_VALID else 0


@unit(Machine)
def vmx_store_guest(m):
    """L0 has changed the processor's state for the guest: into the VMCS in use."""
    save_guest_state(m, current_base(m))
    return ST_OK


@unit(Machine)
def vmx_hw_exit(m):
    """VM exit: exit information, guest state and MSRs into the VMCS in use (SDM 28.2 to 28.6)."""
    base = current_base(m)
    e = m.exit
    if m.nmi_unblocked:
        _note_nmi_unblocking(m)
    put(base, vmcs.SLOT_VM_EXIT_REASON, e.code)
    put(base, vmcs.SLOT_EXIT_QUALIFICATION, e.info1)
    put(base, vmcs.SLOT_GUEST_PHYSICAL_ADDRESS, e.info2)
    put(base, vmcs.SLOT_GUEST_LINEAR_ADDRESS, e.linear)
    put(base, vmcs.SLOT_VM_EXIT_INTR_INFO, e.intr_info)
    put(base, vmcs.SLOT_VM_EXIT_INTR_ERROR_CODE, e.intr_error)
    put(base, vmcs.SLOT_VM_EXIT_INSTRUCTION_LEN, e.insn_len)
    put(base, vmcs.SLOT_VMX_INSTRUCTION_INFO, e.insn_info)
    put(base, vmcs.SLOT_IDT_VECTORING_INFO_FIELD, _vectoring(e))
    put(base, vmcs.SLOT_IDT_VECTORING_ERROR_CODE, e.vectoring_error)
    save_guest_state(m, base)
    if _resumes(m, e):
        put(base, vmcs.SLOT_GUEST_RFLAGS, get(base, vmcs.SLOT_GUEST_RFLAGS) | RF)
    if m.hw.vapic >= 0:
        vapic_save(m, base)
    event = get(base, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD)
    put(base, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD, event & ~EVENT_VALID)
    stop_timer(m, base)
    if m.debug.armed:
        put(base, vmcs.SLOT_GUEST_PENDING_DBG_EXCEPTIONS, debug_leave(m))
    if m.hw.pml:
        put(base, vmcs.SLOT_GUEST_PML_INDEX, m.hw.pml_index)
    hw_exit_msrs(m, base)
    return ST_OK


# ---------------------------------------------------------------- VM entry


@inner
def _load_controls(m, base):
    h = m.hw
    h.pin = get(base, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL)
    h.proc = get(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    h.proc2 = 0
    if h.proc & vmx.CPU_ACTIVATE_SECONDARY_CONTROLS:
        h.proc2 = get(base, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL)
    h.exit_ctl = get(base, vmcs.SLOT_VM_EXIT_CONTROLS)
    h.entry_ctl = get(base, vmcs.SLOT_VM_ENTRY_CONTROLS)
    h.exc_bitmap = get(base, vmcs.SLOT_EXCEPTION_BITMAP)
    h.pf_mask = get(base, vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MASK)
    h.pf_match = get(base, vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MATCH)
    h.io_bitmap_a = get(base, vmcs.SLOT_IO_BITMAP_A)
    h.io_bitmap_b = get(base, vmcs.SLOT_IO_BITMAP_B)
    h.msr_bitmap = get(base, vmcs.SLOT_MSR_BITMAP)
    h.vmread_bitmap = get(base, vmcs.SLOT_VMREAD_BITMAP)
    h.vmwrite_bitmap = get(base, vmcs.SLOT_VMWRITE_BITMAP)
    h.link_pointer = get(base, vmcs.SLOT_VMCS_LINK_POINTER)
    h.cr0_mask = get(base, vmcs.SLOT_CR0_GUEST_HOST_MASK)
    h.cr0_shadow = get(base, vmcs.SLOT_CR0_READ_SHADOW)
    h.cr4_mask = get(base, vmcs.SLOT_CR4_GUEST_HOST_MASK)
    h.cr4_shadow = get(base, vmcs.SLOT_CR4_READ_SHADOW)
    h.cr3_target_count = get(base, vmcs.SLOT_CR3_TARGET_COUNT)
    for i in range(4):
        h.cr3_targets[i] = get(base, vmcs.SLOT_CR3_TARGET_VALUE0 + i)
    h.hap_root = 0
    h.ept_ad = 0
    if h.proc2 & vmx.CPU2_ENABLE_EPT:
        eptp = get(base, vmcs.SLOT_EPT_POINTER)
        h.hap_root = eptp & EPTP_ADDRESS
        h.ept_ad = eptp & EPTP_AD
    h.vapic = -1
    h.apic_access = -1
    h.vint = 0
    if h.proc2 & vmx.CPU2_VIRTUALIZE_APIC_ACCESSES:
        h.apic_access = get(base, vmcs.SLOT_APIC_ACCESS_ADDR)
    if h.proc & vmx.CPU_TPR_SHADOW:
        vapic_load(m, base)
    h.pml = 1 if h.proc2 & vmx.CPU2_ENABLE_PML else 0
    if h.pml:
        h.pml_address = get(base, vmcs.SLOT_PML_ADDRESS)
        h.pml_index = get(base, vmcs.SLOT_GUEST_PML_INDEX) & 0xFFFF
    h.tsc_offset = 0
    if h.proc & vmx.CPU_USE_TSC_OFFSETTING:
        h.tsc_offset = get(base, vmcs.SLOT_TSC_OFFSET)


@inner
def _load_guest_state(m, base):
    """Guest state from the VMCS (SDM 27.3.2)."""
    c = m.cpu
    controls = m.hw.entry_ctl
    # 1. control registers, debug registers, MSRs
    c.cr0 = get(base, vmcs.SLOT_GUEST_CR0)
    c.cr3 = get(base, vmcs.SLOT_GUEST_CR3)
    c.cr4 = get(base, vmcs.SLOT_GUEST_CR4)
    c.sysenter_cs = get(base, vmcs.SLOT_GUEST_SYSENTER_CS)
    c.sysenter_esp = get(base, vmcs.SLOT_GUEST_SYSENTER_ESP)
    c.sysenter_eip = get(base, vmcs.SLOT_GUEST_SYSENTER_EIP)
    if controls & vmx.ENTRY_CTL_LOAD_DEBUG_CONTROLS:
        c.dr[7] = (get(base, vmcs.SLOT_GUEST_DR7) & 0xFFFF_FFFF) | DR7_FIXED
        c.debugctl = get(base, vmcs.SLOT_GUEST_IA32_DEBUGCTL)
    if controls & vmx.ENTRY_CTL_LOAD_IA32_PAT:
        c.pat = get(base, vmcs.SLOT_GUEST_IA32_PAT)
    if controls & vmx.ENTRY_CTL_LOAD_IA32_EFER:
        c.efer = get(base, vmcs.SLOT_GUEST_IA32_EFER)
    # 2. segment registers and descriptor tables
    get_eight(base, vmcs.SLOT_GUEST_ES_SELECTOR, address(c.seg_sel))
    get_eight(base, vmcs.SLOT_GUEST_ES_LIMIT, address(c.seg_limit))
    get_eight(base, vmcs.SLOT_GUEST_ES_AR_BYTES, address(c.seg_attr))
    get_eight(base, vmcs.SLOT_GUEST_ES_BASE, address(c.seg_base))
    c.cpl = lshr(c.seg_attr[SS], 5) & 3
    c.gdtr_base = get(base, vmcs.SLOT_GUEST_GDTR_BASE)
    c.gdtr_limit = get(base, vmcs.SLOT_GUEST_GDTR_LIMIT)
    c.idtr_base = get(base, vmcs.SLOT_GUEST_IDTR_BASE)
    c.idtr_limit = get(base, vmcs.SLOT_GUEST_IDTR_LIMIT)
    # 3. RIP, RSP, RFLAGS and what is not in registers
    c.rip = get(base, vmcs.SLOT_GUEST_RIP)
    c.gpr[RSP] = get(base, vmcs.SLOT_GUEST_RSP)
    set_rflags(m, get(base, vmcs.SLOT_GUEST_RFLAGS))
    blocked = get(base, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO)
    c.shadow = blocked & 3
    c.nmi_blocked = lshr(blocked, 3) & 1


@inner
def _inject_event(m, base, info):
    """Event injection (SDM 27.6): make the event pending."""
    if m.hw.mtf or lshr(info, 8) & 7 == TYPE_OTHER:
        m.hw.mtf = MTF_PENDING
        m.irq.active = 1
    if lshr(info, 8) & 7 == TYPE_OTHER:
        return ST_OK  # a monitor-trap-flag exit, before the first instruction
    x = m.exc
    x.vector = info & 0xFF
    x.kind = lshr(info, 8) & 7
    x.has_error = lshr(info, vmx.INTR_ERRCODE_VALID) & 1
    x.error = get(base, vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE)
    x.length = 0
    if x.kind >= vmx.INTR_TYPE_SW_INTR:
        x.length = get(base, vmcs.SLOT_VM_ENTRY_INSTRUCTION_LEN)
    x.address = m.cpu.cr2
    x.injected = 1
    return ST_FAULT


@inner
def _pending_debug(m, base, info):
    """Traps that the entry finds pending, unless the event that it injects ends them (SDM 27.7.3)."""
    pending = get(base, vmcs.SLOT_GUEST_PENDING_DBG_EXCEPTIONS)
    if pending & (DR6_BS | PENDING_ENABLED) == 0:
        return 0
    kind = lshr(info, vmx.INTR_TYPE) & 7
    if info & EVENT_VALID and kind != TYPE_OTHER:
        software = kind == vmx.INTR_TYPE_SW_INTR or kind == SOFTWARE_EXCEPTION
        if not software or m.cpu.shadow & MOV_SS == 0:
            return 0
    return pending


@unit(Machine, i64, i64)
def vmx_refuse_entry(m, base, check):
    """The VMCS in use fails ``check``; reported as the manual says (27.2, 27.8)."""
    if FAILURE[check] == vmx.EXIT_INVALID_STATE:
        put(base, vmcs.SLOT_VM_EXIT_REASON, ENTRY_FAILED | vmx.EXIT_INVALID_STATE)
        put(base, vmcs.SLOT_EXIT_QUALIFICATION, QUALIFICATION[check])
    else:  # VMfailValid
        put(base, vmcs.SLOT_VM_INSTRUCTION_ERROR, FAILURE[check])
    refuse(m, check, 0)
    return -1


@unit(Machine)
def vmx_hw_enter(m):
    """VM entry with the VMCS in use: ST_OK, ST_FAULT (an event to deliver), -1 (it failed).

    A guest that the manual allows but this machine cannot run fails with ``m.fatal`` set.
    """
    base = current_base(m)
    # 1. checks
    if m.vmx_abort:
        return -1
    check = vmx_check_entry(m, base)
    if check:
        return vmx_refuse_entry(m, base, check)
    if not runs_64_bit_code(base):
        m.fatal = FATAL_NOT_64_BIT
        return -1
    # 2. controls, then guest state
    _load_controls(m, base)
    _load_guest_state(m, base)
    m.exit.vectoring = 0
    m.exit.vectoring_error = 0
    # 3. MSRs
    failed = hw_entry_msrs(m, base)
    if failed:
        put(base, vmcs.SLOT_VM_EXIT_REASON, ENTRY_FAILED | vmx.EXIT_MSR_LOAD_FAIL)
        put(base, vmcs.SLOT_EXIT_QUALIFICATION, failed)
        refuse(m, vmx.CHECK_MSR_LOAD, 0)
        hw_exit_load_msrs(m, base)
        return -1
    # 4. timer and event injection
    start_timer(m, base)
    info = get(base, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD)
    debug_enter(m, _pending_debug(m, base, info))
    if info & EVENT_VALID:
        return _inject_event(m, base, info)
    forget_resume(m.cpu)
    return ST_OK
