"""L0 serves a hardware exit itself: the exit of L1, or one of L2 that L1 did not ask for.

Model: Xen, svm_vmexit_handler.  Handlers of VMRUN and of injected faults only request the switch
(``vmentry_pending``, ``vmexit_pending``); hvm/nested.py carries it out before the hardware entry.
"""

from __future__ import annotations

import numpy as np

from ....arch import deviations, svm, vmcb
from ...jit import inner, unit
from ...layout import (
    FATAL_HOST_STOPPED,
    FATAL_N1P_UNMAPPED,
    FATAL_UNHANDLED_EXIT,
    RCX,
    ST_FATAL,
    ST_HALT,
    ST_OK,
    ST_SHUTDOWN,
    ST_VMEXIT,
    Machine,
)
from ...ledger import (
    E_L0_EVENT_INJECTED,
    E_L0_FLUSH_EXECUTED,
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_HOST_INTERRUPT_HANDLED,
    E_L0_VMLOAD,
    E_L0_VMSAVE,
    F_INVLPGA,
    count,
)
from ...mmu.physical import host_of, note_code_written
from ...mmu.tlb import flush_address
from ...mmu.walk import ACC_READ, ACC_WRITE, nested_walk
from ...words import ld32, ld64, lshr, st32, st64
from ..mmio import svm_apic_mmio
from ..nested_fault import NP_HANDLED, NP_INJECT, NP_MISCONFIG, NP_MMIO, np2m_fault
from ..nested_state import (
    beyond_limit,
    guest_tag,
    hap_enabled,
    hsave_pa,
    is_n2_guest,
    n2_tag,
    set_vmcx12,
    set_vmcx12_addr,
    set_vmentry_pending,
    vmcx12,
    vmcx12_addr,
)
from ..nested_vcpu import nestedhvm_is_enabled
from ..np2m import np2m_invalidate_current
from ..p2m import n1p_to_l0m, p2m_resolve
from ..shadow.svm import svm_handle_invlpg, svm_shadow_fault
from ..tags import one_tag_for_both
from .checks import EVENT_VALID
from .clean import CLEAN_INTERCEPTS, CLEAN_TPR, touch
from .common import (
    STGI_BIT,
    V_IRQ,
    VINTR_BIT,
    inject_gp,
    inject_ud,
    request_virtual_exit,
    set_gif,
    skip_instruction,
    svm_inject,
)
from .current import current_vmcb
from .emulate import (
    svm_emulate_cpuid,
    svm_emulate_cr,
    svm_emulate_dr,
    svm_emulate_io,
    svm_emulate_msr,
)
from .instructions import V_GIF, V_GIF_ENABLE
from .intr import svm_close_window, svm_iret, take_virtual_tpr
from .state import svm_load_state, svm_save_state
from .tables import N_INDEXES, code_index, stops_host

ENOSYS, EPERM = 38, 1
PAGE_MASK = 0xFFF
ICEBP_VECTOR = 1
VECTORS_WITH_ERROR = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21
NPF_WRITE_BIT, NPF_FETCH_BIT = 1, 4
"""Bit positions in EXITINFO1 of an NPF (svm_npf_exitinfo1.csv: RW, ID)."""
NPF_PRESENT, NPF_RESERVED = 1, 8

(
    H_NONE, H_CPUID, H_VMRUN, H_NPF, H_IOIO, H_MSR, H_VMLOAD, H_GIF, H_CR, H_DR, H_HLT, H_EXCEPTION,
    H_SKIP, H_INVLPGA, H_VMMCALL, H_UD, H_SHUTDOWN, H_ICEBP, H_NOTHING, H_VINTR, H_IRET, H_GP, H_INVLPG,
) = range(23)  # fmt: skip

_HANDLERS = {
    "CPUID": H_CPUID, "VMRUN": H_VMRUN, "NPF": H_NPF, "IOIO": H_IOIO, "MSR": H_MSR,
    "VMLOAD": H_VMLOAD, "VMSAVE": H_VMLOAD, "STGI": H_GIF, "CLGI": H_GIF, "HLT": H_HLT,
    "INVD": H_SKIP, "WBINVD": H_SKIP, "PAUSE": H_SKIP, "INVLPGA": H_INVLPGA,
    "VMMCALL": H_VMMCALL, "MONITOR": H_UD, "MWAIT": H_UD, "XSETBV": H_UD, "SKINIT": H_UD,
    "RDPRU": H_UD, "INVPCID": H_UD, "RDPMC": H_GP, "SHUTDOWN": H_SHUTDOWN, "ICEBP": H_ICEBP, "CR0_SEL_WRITE": H_CR,
    "INTR": H_NOTHING, "NMI": H_NOTHING, "SMI": H_NOTHING, "INIT": H_NOTHING,
    "VINTR": H_VINTR, "IRET": H_IRET, "INVLPG": H_INVLPG,
}  # fmt: skip

HANDLER = np.full(N_INDEXES, H_NONE, np.int64)
"""Which handler serves an exit, by code index; H_NONE: L0 gives up."""
for _index in range(N_INDEXES):
    _name = svm.exit_name(_index)
    if _name.startswith("EXCP_"):
        HANDLER[_index] = H_EXCEPTION
    elif _index < 0x20:
        HANDLER[_index] = H_CR
    elif _index < 0x40:
        HANDLER[_index] = H_DR
    else:
        HANDLER[_index] = _HANDLERS.get(_name, H_NONE)


@inner
def give_up(m, why, code):
    """Xen's domain_crash."""
    m.fatal = why
    m.fatal_code = code
    return ST_FATAL


# ---------------------------------------------------------------- SVM instructions of L1


@unit(Machine)
def svm_handle_vmrun(m):
    """VMRUN: map vmcb12 and ask for the virtual entry (Xen, svm_vmexit_do_vmrun)."""
    if not nestedhvm_is_enabled(m) or is_n2_guest(m):
        return inject_ud(m)
    n1p = ld64(current_vmcb(m) + vmcb.RAX)
    if n1p & PAGE_MASK or beyond_limit(m, n1p):
        return inject_gp(m)
    if hsave_pa(m) == 0 and m.feat.deviations & deviations.DEV_HSAVE_PA_REQUIRED:
        return inject_gp(m)
    if n1p != vmcx12_addr(m) or vmcx12(m) < 0:
        set_vmcx12_addr(m, n1p)
        set_vmcx12(m, n1p_to_l0m(m, n1p))
        count(m, E_L0_GUEST_PAGE_MAPPED, 1)
        if vmcx12(m) < 0 or host_of(m, vmcx12(m)) == 0:
            set_vmcx12_addr(m, -1)
            set_vmcx12(m, -1)
            return inject_gp(m)
    set_vmentry_pending(m, 1)
    return ST_OK


@unit(Machine)
def svm_handle_vmload(m):
    """VMLOAD and VMSAVE: done by L0's own on the page behind RAX (svm_vmexit_do_vmload).

    L2's RAX is translated by its nested table.
    """
    h = current_vmcb(m)
    is_save = m.exit.code == svm.VMEXIT_VMSAVE
    if not nestedhvm_is_enabled(m):
        return inject_ud(m)
    address = ld64(h + vmcb.RAX)
    if address & PAGE_MASK:
        return inject_gp(m)
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    if is_n2_guest(m) and m.hw.hap_root:
        ma = nested_walk(m, address, address, ACC_WRITE if is_save else ACC_READ, 0)
        m.pending = 0
        if ma < 0:
            return ST_VMEXIT
    else:
        ma = n1p_to_l0m(m, address)
    host = 0 if ma < 0 else host_of(m, ma)
    if host == 0:
        return inject_gp(m)
    if is_save:
        svm_save_state(m, host)
        note_code_written(m, host, 4096)
        count(m, E_L0_VMSAVE, 1)
    else:
        svm_load_state(m, host)
        count(m, E_L0_VMLOAD, 1)
    return skip_instruction(m, h)


@inner
def _handle_gif(m, h):
    """STGI and CLGI. CLGI needs SVME and also drops a pending window (Xen, svm_vmexit_do_clgi)."""
    if m.exit.code == svm.VMEXIT_STGI:
        may = nestedhvm_is_enabled(m) or m.feat.deviations & deviations.DEV_STGI_WITHOUT_SVME
        if not may:
            return inject_ud(m)
        set_gif(m, 1)
        if ld32(h + vmcb.INT_CTL) & V_GIF_ENABLE:  # an NMI waited for it
            st32(h + vmcb.INT_CTL, ld32(h + vmcb.INT_CTL) | V_GIF)
            st32(h + vmcb.INTERCEPT_WORD4, ld32(h + vmcb.INTERCEPT_WORD4) & ~STGI_BIT)
            touch(h, CLEAN_TPR | CLEAN_INTERCEPTS)
    else:
        if not nestedhvm_is_enabled(m):
            return inject_ud(m)
        set_gif(m, 0)
        st32(h + vmcb.INT_CTL, ld32(h + vmcb.INT_CTL) & ~V_IRQ)
        st32(h + vmcb.INTERCEPT_WORD3, ld32(h + vmcb.INTERCEPT_WORD3) & ~VINTR_BIT)
        touch(h, CLEAN_TPR | CLEAN_INTERCEPTS)
        m.irq.window = 0
    return skip_instruction(m, h)


@inner
def _handle_invlpga(m, h):
    """INVLPGA: ASID 0 is L1's own, the one of vmcb12 L2's; no other has translations.

    Xen takes every ASID but 0 for L2's, KVM every one for the tag that L1 and L2 share (deviations).
    What L1 takes away from L2 may still be in the nested p2m, which L1 knows only as a TLB; Xen
    leaves it there (np2m_flush = generation).
    """
    if not nestedhvm_is_enabled(m):
        return inject_ud(m)
    nv = m.nv
    asid = m.cpu.gpr[RCX] & 0xFFFFFFFF
    own = asid == 0 or m.feat.deviations & deviations.DEV_INVLPGA_IS_INVLPG != 0
    if own or asid == guest_tag(m) or m.feat.deviations & deviations.DEV_INVLPGA_ANY_ASID_IS_L2S:
        tag = nv.n1_tag if own or one_tag_for_both(m) else n2_tag(m)
        count(m, E_L0_FLUSH_EXECUTED, 1)
        flush_address(m, tag, ld64(h + vmcb.RAX), F_INVLPGA)
        if not own:
            np2m_invalidate_current(m, F_INVLPGA)
    return skip_instruction(m, h)


@inner
def _handle_vmmcall(m, h):
    """A hypercall to L0, which knows none; L2 has no business with L0."""
    if is_n2_guest(m):
        return inject_ud(m)
    st64(h + vmcb.RAX, -EPERM if m.cpu.cpl else -ENOSYS)
    return skip_instruction(m, h)


# ---------------------------------------------------------------- faults


@inner
def _reinject(m, code):
    """An exception that L0 intercepts for itself is the guest's after all."""
    vector = code & 31
    m.exc.address = m.exit.info2
    return svm_inject(m, vector, m.exit.info1, lshr(VECTORS_WITH_ERROR, vector) & 1)


@unit(Machine)
def svm_handle_npf(m):
    """Nested page fault: L2's goes to the nested p2m; L1's is a page that L0 took, or one that L1
    does not have."""
    gpa = m.exit.info2
    info1 = m.exit.info1
    if not is_n2_guest(m) or hap_enabled(m) == 0:
        if p2m_resolve(m, gpa, lshr(info1, NPF_WRITE_BIT) & 1):
            return ST_OK
        return ST_OK if svm_apic_mmio(m, gpa) else give_up(m, FATAL_N1P_UNMAPPED, gpa)
    access = (lshr(info1, NPF_WRITE_BIT) & 1) | ((lshr(info1, NPF_FETCH_BIT) & 1) << 1)
    outcome = np2m_fault(m, gpa, access)
    if outcome == NP_HANDLED:
        return ST_OK
    if outcome == NP_INJECT or outcome == NP_MISCONFIG:
        info1 = (info1 & ~(NPF_PRESENT | NPF_RESERVED)) | (NPF_PRESENT if m.np_present else 0)
        if outcome == NP_MISCONFIG:
            info1 |= NPF_RESERVED
        request_virtual_exit(m, svm.VMEXIT_NPF, info1, gpa)
        return ST_OK
    if outcome == NP_MMIO and svm_apic_mmio(m, m.device):
        return ST_OK
    return give_up(m, FATAL_N1P_UNMAPPED, gpa)


@inner
def _take_up_event(m, h):
    """An event whose delivery the exit interrupted is injected again, unless INT n redoes it.

    That an INT n was injected shows in EVENTINJ, where #VMEXIT clears the valid bit only.
    """
    event = ld32(h + vmcb.EXIT_INT_INFO)
    again = lshr(event, svm.EVENTINJ_TYPE) & 7 != 4
    if m.feat.deviations & deviations.DEV_INJECTED_INT_N_LOST == 0:
        again = again or ld32(h + vmcb.EVENT_INJ) | EVENT_VALID == event
    if event & EVENT_VALID and again:
        st32(h + vmcb.EVENT_INJ, event)
        st32(h + vmcb.EVENT_INJ_ERR, ld32(h + vmcb.EXIT_INT_INFO_ERR))
        count(m, E_L0_EVENT_INJECTED, 1)


# ---------------------------------------------------------------- dispatch


@inner
def _handle_rare(m, h, which):
    if which == H_CR:
        return svm_emulate_cr(m)
    if which == H_DR:
        return svm_emulate_dr(m)
    if which == H_HLT:
        skip_instruction(m, h)
        return ST_HALT
    if which == H_EXCEPTION:
        if m.sh.active and m.exit.code == svm.VMEXIT_EXCP_PF:
            return svm_shadow_fault(m)
        return _reinject(m, m.exit.code)
    if which == H_INVLPG:
        return svm_handle_invlpg(m, h)
    if which == H_SKIP:
        return skip_instruction(m, h)
    if which == H_INVLPGA:
        return _handle_invlpga(m, h)
    if which == H_VMMCALL:
        return _handle_vmmcall(m, h)
    if which == H_UD:
        return inject_ud(m)
    if which == H_GP:
        return inject_gp(m)
    if which == H_SHUTDOWN:
        return ST_SHUTDOWN
    if which == H_ICEBP:
        skip_instruction(m, h)
        return svm_inject(m, ICEBP_VECTOR, 0, 0)
    if which == H_NOTHING:
        if m.exit.code == svm.VMEXIT_INTR:
            count(m, E_L0_HOST_INTERRUPT_HANDLED, 1)
        return ST_OK
    if which == H_VINTR:
        return svm_close_window(m)
    if which == H_IRET:
        svm_iret(m, h)
        return ST_OK
    return give_up(m, FATAL_UNHANDLED_EXIT, m.exit.code)


@unit(Machine)
def svm_handle(m):
    """L0 handles the exit in ``m.exit``.

    Returns ST_OK, or why the machine stops: ST_HALT, ST_STOP, ST_SHUTDOWN, ST_FATAL.
    """
    h = current_vmcb(m)
    if not is_n2_guest(m):
        take_virtual_tpr(m)
    if ld32(h + vmcb.EXIT_INT_INFO) & EVENT_VALID:
        _take_up_event(m, h)
    which = HANDLER[code_index(m.exit.code)]
    if stops_host(m, m.exit.code):
        return give_up(m, FATAL_HOST_STOPPED, m.exit.code)
    if which == H_CPUID:
        return svm_emulate_cpuid(m)
    if which == H_VMRUN:
        return svm_handle_vmrun(m)
    if which == H_GIF:
        return _handle_gif(m, h)
    status = ST_OK
    if which == H_VMLOAD:
        status = svm_handle_vmload(m)
    elif which == H_NPF:
        return svm_handle_npf(m)
    elif which == H_MSR:
        return svm_emulate_msr(m)
    elif which == H_IOIO:
        status = svm_emulate_io(m)
    else:
        status = _handle_rare(m, h, which)
    if status == ST_VMEXIT:  # L0's own access to guest memory met a nested page fault
        return svm_handle_npf(m)
    return status
