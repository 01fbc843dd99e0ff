"""VMRUN and #VMEXIT as the processor does them: APM vol. 2, 15.5 and 15.6.

The physical layer: it knows a VMCB and the processor, not whose VMCB it is.  L0 itself is not
executed code, so the processor's host state needs no save area.  Guests run in 64-bit mode only.

Delivery of V_IRQ is in cpu/events.  Features nrip_save and decode_assists say what the processor
tells about an intercepted instruction (15.7.1, 15.8.4).  Not modelled: SMM, AVIC, SEV, shadow
stacks; last-branch records are only carried along: DBGCTL is loaded and stored, no branch recorded.
"""

from __future__ import annotations

from ....arch import svm, vmcb
from ...cpu.debug import debug_enter, debug_leave
from ...cpu.exceptions import KIND_NMI
from ...cpu.flags import get_rflags, set_rflags
from ...cpu.nmi import V_NMI_ENABLE, V_NMI_MASK
from ...jit import inner, unit
from ...layout import CS, DS, ES, PAGE, RAX, RSP, SS, ST_FAULT, ST_OK, Machine
from ...ledger import C_ENTRY_FAILURE
from ...mmu.generation import flush_all, flush_tag, flush_tag_nonglobal
from ...structs import i64
from ...timeline import refuse
from ...words import (
    copy_bytes,
    count_trailing_zeros,
    ld8,
    ld16,
    ld32,
    ld64,
    lshr,
    st8,
    st32,
    st64,
)
from .checks import EVENT_VALID, NP_ENABLE, svm_vmcb_faults
from .clean import CLEAN_ASID, held_copy, svm_load_vmcb, touch
from .leave import leave
from .vmcb import bit, load_segment, save_segment

V_TPR_MASK = 0xF
V_INTR_MASKING = 1 << svm.INT_CTL_V_INTR_MASKING
TYPE_MASK = 7 << svm.EVENTINJ_TYPE
TYPE_EXCEPTION = 3 << svm.EVENTINJ_TYPE
"""SVM knows no type of its own for INT1 and INT3: they count as exceptions."""
LBR_ENABLE = 1
DR6_ONES, DR7_ONES = 0xFFFF0FF0, 0x400
PAGE_MASK = PAGE - 1
INSTRUCTION_BYTES = 15


# ---------------------------------------------------------------- #VMEXIT


@inner
def _save_instruction_bytes(m, h):
    """Decode assists: the instruction that made the faulting data access (15.8.4).

    Up to 15 bytes, as far as they lie in the page of its first one; none for a fault of the fetch
    itself or of an event's delivery.
    """
    rip = m.cpu.rip
    fetched = lshr(m.exit.info1, svm.NPF_ID) & 1
    if m.feat.decode_assists == 0 or fetched or m.exit.vectoring or m.code_page != rip & ~PAGE_MASK:
        return
    length = min(PAGE - (rip & PAGE_MASK), INSTRUCTION_BYTES)
    st8(h + vmcb.INSN_LEN, length)
    copy_bytes(h + vmcb.INSN_BYTES, m.ram + m.code_host + (rip & PAGE_MASK), length)


@inner
def _save_controls(m, h):
    """Exit information, and the controls that the processor writes back."""
    e = m.exit
    st64(h + vmcb.EXIT_CODE, e.code)
    st64(h + vmcb.EXIT_INFO_1, e.info1)
    st64(h + vmcb.EXIT_INFO_2, e.info2)
    vectoring = e.vectoring
    if lshr(vectoring, svm.EVENTINJ_TYPE) & 7 > 4:
        vectoring = (vectoring & ~TYPE_MASK) | TYPE_EXCEPTION
    st32(h + vmcb.EXIT_INT_INFO, vectoring)
    st32(h + vmcb.EXIT_INT_INFO_ERR, e.vectoring_error)
    st64(h + vmcb.NEXT_RIP, m.cpu.rip + e.insn_len if e.insn_len and m.feat.nrip_save else 0)
    st32(h + vmcb.EVENT_INJ, ld32(h + vmcb.EVENT_INJ) & ~EVENT_VALID)
    st64(h + vmcb.INSN_LEN, 0)
    st64(h + vmcb.INSN_LEN + 8, 0)
    if e.code == svm.VMEXIT_NPF or e.code == svm.VMEXIT_EXCP_PF:
        _save_instruction_bytes(m, h)
    int_ctl = m.hw.int_ctl
    if int_ctl & V_INTR_MASKING:
        int_ctl = (int_ctl & ~0xFF) | (m.cpu.cr8 & V_TPR_MASK)
    st32(h + vmcb.INT_CTL, int_ctl)
    st64(h + vmcb.INT_STATE, 1 if m.cpu.shadow else 0)


@inner
def _save_guest(m, h):
    """The guest state that VMRUN and #VMEXIT switch."""
    c = m.cpu
    save_segment(m, h, vmcb.ES, ES)
    save_segment(m, h, vmcb.CS, CS)
    save_segment(m, h, vmcb.SS, SS)
    save_segment(m, h, vmcb.DS, DS)
    st32(h + vmcb.GDTR + 4, c.gdtr_limit)
    st64(h + vmcb.GDTR + 8, c.gdtr_base)
    st32(h + vmcb.IDTR + 4, c.idtr_limit)
    st64(h + vmcb.IDTR + 8, c.idtr_base)
    st8(h + vmcb.CPL, c.cpl)
    st64(h + vmcb.EFER, c.efer)
    st64(h + vmcb.CR4, c.cr4)
    st64(h + vmcb.CR3, c.cr3)
    st64(h + vmcb.CR2, c.cr2)
    st64(h + vmcb.CR0, c.cr0)
    st64(h + vmcb.DR7, c.dr[7])
    st64(h + vmcb.DR6, c.dr[6])
    st64(h + vmcb.RFLAGS, get_rflags(m))
    st64(h + vmcb.RIP, c.rip)
    st64(h + vmcb.RSP, c.gpr[RSP])
    st64(h + vmcb.RAX, c.gpr[RAX])
    st64(h + vmcb.G_PAT, c.pat)
    if m.hw.virt_ext & LBR_ENABLE:
        st64(h + vmcb.DBGCTL, c.debugctl)


@unit(Machine, i64)
def svm_store_vmcb(m, h):
    """Guest state and exit information into the VMCB at host address ``h``."""
    _save_controls(m, h)
    _save_guest(m, h)
    return ST_OK


@unit(Machine)
def svm_store_guest(m):
    """L0 has changed the processor's state for the guest: into the VMCB in use."""
    h = m.ram + m.hw.vmcx
    _save_guest(m, h)
    touch(h, -1)
    st64(h + vmcb.INT_STATE, 0)
    return ST_OK


@unit(Machine)
def svm_hw_exit(m):
    """#VMEXIT with the exit in ``m.exit``, RIP at the intercepted instruction. APM vol. 2, 15.6."""
    h = m.ram + m.hw.vmcx
    # 1. GIF is cleared, so that L0 is not interrupted
    m.hw.gif = 0
    # 2. guest state and exit information into the VMCB
    svm_store_vmcb(m, h)
    if m.feat.vmcb_clean_bits:
        copy = held_copy(m)
        if copy:
            svm_store_vmcb(m, copy)
    if m.debug.armed:
        debug_leave(m)
    # 3. vectoring belongs to one exit only
    m.exit.vectoring = 0
    m.exit.vectoring_error = 0
    return ST_OK


# ---------------------------------------------------------------- VMRUN


@inner
def _load_controls(m, h):
    hw = m.hw
    hw.icpt[0] = ld32(h + vmcb.INTERCEPT_WORD0)
    hw.icpt[1] = ld32(h + vmcb.INTERCEPT_WORD1)
    hw.icpt[2] = ld32(h + vmcb.INTERCEPT_WORD2)
    hw.icpt[3] = ld32(h + vmcb.INTERCEPT_WORD3)
    hw.icpt[4] = ld32(h + vmcb.INTERCEPT_WORD4)
    hw.icpt[5] = ld32(h + vmcb.INTERCEPT_WORD5)
    hw.iopm = ld64(h + vmcb.IOPM_BASE_PA) & ~0xFFF
    hw.msrpm = ld64(h + vmcb.MSRPM_BASE_PA) & ~0xFFF
    hw.tsc_offset = ld64(h + vmcb.TSC_OFFSET)
    hw.int_ctl = ld32(h + vmcb.INT_CTL)
    hw.int_vector = ld32(h + vmcb.INT_VECTOR) & 0xFF
    hw.virt_ext = ld64(h + vmcb.VIRT_EXT)
    hw.pause_threshold = ld16(h + vmcb.PAUSE_FILTER_THRESH)
    hw.pause_filter = ld16(h + vmcb.PAUSE_FILTER_COUNT)
    hw.pause_left = hw.pause_filter
    hw.pause_last = m.ledger.time
    hw.hap_root = ld64(h + vmcb.NESTED_CR3) if ld64(h + vmcb.NESTED_CTL) & NP_ENABLE else 0


@inner
def _load_guest(m, h):
    c = m.cpu
    load_segment(m, h, vmcb.ES, ES)
    load_segment(m, h, vmcb.CS, CS)
    load_segment(m, h, vmcb.SS, SS)
    load_segment(m, h, vmcb.DS, DS)
    c.gdtr_limit = ld32(h + vmcb.GDTR + 4)
    c.gdtr_base = ld64(h + vmcb.GDTR + 8)
    c.idtr_limit = ld32(h + vmcb.IDTR + 4)
    c.idtr_base = ld64(h + vmcb.IDTR + 8)
    c.cpl = ld8(h + vmcb.CPL) & 3
    c.efer = ld64(h + vmcb.EFER)
    c.cr4 = ld64(h + vmcb.CR4)
    c.cr3 = ld64(h + vmcb.CR3)
    c.cr2 = ld64(h + vmcb.CR2)
    c.cr0 = ld64(h + vmcb.CR0) | 0x10
    c.dr[7] = ld64(h + vmcb.DR7) | DR7_ONES
    c.dr[6] = ld64(h + vmcb.DR6) | DR6_ONES
    set_rflags(m, ld64(h + vmcb.RFLAGS))
    c.rip = ld64(h + vmcb.RIP)
    c.gpr[RSP] = ld64(h + vmcb.RSP)
    c.gpr[RAX] = ld64(h + vmcb.RAX)
    c.pat = ld64(h + vmcb.G_PAT)
    if m.hw.virt_ext & LBR_ENABLE:
        c.debugctl = ld64(h + vmcb.DBGCTL)
    if m.hw.int_ctl & V_INTR_MASKING:
        c.cr8 = m.hw.int_ctl & V_TPR_MASK
    c.shadow = ld32(h + vmcb.INT_STATE) & 1


@inner
def _flush_tlb(m, h):
    """TLB_CONTROL (15.16.1): 1 everything, 3 this ASID, 7 this ASID but for global pages."""
    control = ld8(h + vmcb.TLB_CTL)
    if control:
        if control == svm.TLB_FLUSH_ALL_ASID:
            flush_all(m, m.hw.tlb_reason)
        elif control == svm.TLB_FLUSH_ASID:
            flush_tag(m, m.hw.tag, m.hw.tlb_reason)
        elif control == svm.TLB_FLUSH_ASID_NONGLOBAL:
            flush_tag_nonglobal(m, m.hw.tag, m.hw.tlb_reason)
        m.hw.tlb_control = svm.TLB_DO_NOTHING


@inner
def _inject(m, h, event):
    """EVENTINJ: the event is delivered before the guest's first instruction (15.20)."""
    x = m.exc
    x.vector = event & 0xFF
    x.kind = lshr(event, svm.EVENTINJ_TYPE) & 7
    x.has_error = bit(event, svm.EVENTINJ_EV)
    x.error = ld32(h + vmcb.EVENT_INJ_ERR) if x.has_error else 0
    x.length = 0
    soft = x.kind == 4 or (x.kind == 3 and (x.vector == 3 or x.vector == 4))
    if soft and m.feat.nrip_save:
        next_rip = ld64(h + vmcb.NEXT_RIP)
        if next_rip:
            x.length = next_rip - m.cpu.rip
    x.address = m.cpu.cr2
    x.injected = 1
    if x.kind == KIND_NMI and m.hw.int_ctl & V_NMI_ENABLE:
        m.hw.int_ctl |= V_NMI_MASK
    return ST_FAULT


@inner
def _write_choice(m, h):
    """The ASID and TLB_CONTROL that L0 has chosen, written to the VMCB (Xen, svm_asid_handle_vmrun)."""
    if ld32(h + vmcb.ASID) != m.hw.tag:
        st32(h + vmcb.ASID, m.hw.tag)
        touch(h, CLEAN_ASID)
    st8(h + vmcb.TLB_CTL, m.hw.tlb_control)


@unit(Machine)
def svm_hw_enter(m):
    """VMRUN of the VMCB at ``m.hw.vmcx``. APM vol. 2, 15.5.

    L0 has chosen the ASID (``m.hw.tag``) and TLB_CONTROL (``m.hw.tlb_control``).
    Returns ST_OK, ST_FAULT with an injected event in ``m.exc``, or -1 when the checks fail (exit
    code INVALID).
    """
    h = m.ram + m.hw.vmcx
    _write_choice(m, h)
    if m.feat.vmcb_clean_bits:
        h = svm_load_vmcb(m, h)
        m.hw.tag = ld32(h + vmcb.ASID)
    # 1. consistency checks
    faults = svm_vmcb_faults(m, h)
    if faults:
        refuse(m, count_trailing_zeros(faults), 0)
        leave(m, svm.VMEXIT_INVALID, 0, 0, 0, C_ENTRY_FAILURE)
        st64(m.ram + m.hw.vmcx + vmcb.EXIT_CODE, svm.VMEXIT_INVALID)
        return -1
    # 2. TLB_CONTROL, controls, guest state
    _flush_tlb(m, h)
    _load_controls(m, h)
    _load_guest(m, h)
    debug_enter(m, 0)
    # 3. GIF is set
    m.hw.gif = 1
    # 4. event injection
    event = ld32(h + vmcb.EVENT_INJ)
    if event & EVENT_VALID:
        return _inject(m, h, event)
    return ST_OK
