"""What every SVM handler of L0 needs: the current VMCB, skipping, injecting, GIF, EFER."""

from __future__ import annotations

from ....arch import deviations, svm, vmcb
from ...cpu.debug import DR6_BS
from ...cpu.exceptions import DB, KIND_EXCEPTION, KIND_NMI, NMI, combined
from ...cpu.flags import TF
from ...jit import inner, unit
from ...layout import ST_OK, Machine
from ...ledger import (
    AT_RESET,
    E_L0_EVENT_INJECTED,
    E_L0_INSTRUCTION_EMULATED,
    F_NP2M_CHANGED,
    count,
)
from ...mmu.physical import host_of
from ...structs import i64
from ...words import ld8, ld32, ld64, lshr, st8, st32, st64
from ..memory_map import VMCX01_MA, VMCX02_MA
from ..nested_state import (
    at_event,
    gif,
    icpt,
    is_n2_guest,
    set_guest_cr3,
    set_guest_tag,
    set_hap_enabled,
    set_host_cr3,
    set_hsave_pa,
    set_icpt,
    set_last_vmcx12_addr,
    set_rflagsif,
    set_vintrmask,
    set_vmcx12,
    set_vmcx12_addr,
    set_vmentry_pending,
    set_vmexit_pending,
    vmcx12,
    write_gif,
)
from ..np2m import np2m_reset
from ..virtual_exit import record_exit
from .checks import CR0_PG, EFER_LME, EFER_RESERVED, EFER_SVME, EVENT_VALID
from .clean import CLEAN_CR, CLEAN_CR2, CLEAN_DR, CLEAN_INTERCEPTS, CLEAN_TPR, touch
from .current import current_vmcb
from .decode import svm_next_rip
from .instructions import V_GIF, V_GIF_ENABLE, VIRT_EXT_VMLOAD_VMSAVE

EFER_LMA = 1 << 10
VM_CR_LOCK, VM_CR_SVMDIS = 1 << 3, 1 << 4
UD, DF, GP, PF = 6, 8, 13, 14
V_IRQ = 1 << svm.INT_CTL_V_IRQ
VINTR_BIT = 1 << (svm.INTERCEPT_VINTR & 31)
VMLOAD_VMSAVE_BITS = 1 << (svm.INTERCEPT_VMLOAD & 31) | 1 << (svm.INTERCEPT_VMSAVE & 31)
STGI_BIT = 1 << (svm.INTERCEPT_STGI & 31)
STGI_CLGI_BITS = STGI_BIT | 1 << (svm.INTERCEPT_CLGI & 31)


@inner
def skip_instruction(m, h):
    """Continue behind the intercepted instruction; the interrupt shadow ends."""
    st64(h + vmcb.RIP, svm_next_rip(m, h))
    st32(h + vmcb.INT_STATE, 0)
    count(m, E_L0_INSTRUCTION_EMULATED, 1)
    if ld64(h + vmcb.RFLAGS) & TF:
        _trap_behind(m, h)
    return ST_OK


# ---------------------------------------------------------------- events


@inner
def request_virtual_exit(m, code, info1, info2):
    """A virtual exit to L1, which L0 decided on (feature ``vmexit_delivery`` says when it happens)."""
    record_exit(m, code, info1, info2)


@unit(Machine, i64, i64, i64)
def svm_inject(m, vector, error, has_error):
    """Raise an exception in the guest that exited; one that L1 intercepts in L2 goes to L1.

    For #PF the faulting address is ``m.exc.address``.
    """
    h = current_vmcb(m)
    info2 = m.exc.address if vector == PF else 0
    if is_n2_guest(m) and lshr(icpt(m, 2), vector & 31) & 1:
        request_virtual_exit(
            m, svm.VMEXIT_EXCP_DE + (vector & 31), error if has_error else 0, info2
        )
        return ST_OK
    kind = KIND_NMI if vector == NMI else KIND_EXCEPTION
    waiting = ld32(h + vmcb.EVENT_INJ)
    if waiting & EVENT_VALID and lshr(waiting, svm.EVENTINJ_TYPE) & 7 == KIND_EXCEPTION:
        vector = combined(waiting & 31, vector & 31)
        if vector == DF:
            error = 0
            has_error = 1
    event = (vector & 0xFF) | (kind << svm.EVENTINJ_TYPE) | (1 << svm.EVENTINJ_V)
    if has_error:
        event |= 1 << svm.EVENTINJ_EV
    st32(h + vmcb.EVENT_INJ, event)
    st32(h + vmcb.EVENT_INJ_ERR, error)
    if vector == PF:
        st64(h + vmcb.CR2, info2)
        touch(h, CLEAN_CR2)
    count(m, E_L0_EVENT_INJECTED, 1)
    return ST_OK


@inner
def _trap_behind(m, h):
    """The guest single-steps, and L0 has stepped over an instruction for it (Xen, __update_guest_eip)."""
    st64(h + vmcb.DR6, ld64(h + vmcb.DR6) | DR6_BS)
    touch(h, CLEAN_DR)
    svm_inject(m, DB, 0, 0)


@inner
def trap_behind_vmrun(m, h):
    """For L1 VMRUN is one instruction: when L1 single-steps it traps behind the #VMEXIT (APM 15.5.1)."""
    if ld64(h + vmcb.RFLAGS) & TF and m.feat.deviations & deviations.DEV_VMRUN_STEP_TRAP_LATE == 0:
        _trap_behind(m, h)


@inner
def inject_ud(m):
    """#UD into the guest."""
    return svm_inject(m, UD, 0, 0)


@inner
def inject_gp(m):
    """#GP(0) into the guest."""
    return svm_inject(m, GP, 0, 1)


# ---------------------------------------------------------------- GIF


@inner
def set_gif(m, value):
    """L1's GIF: in vmcb01 when virtualized, else a variable of L0's."""
    h01 = m.ram + VMCX01_MA
    int_ctl = ld32(h01 + vmcb.INT_CTL)
    if int_ctl & V_GIF_ENABLE:
        st32(h01 + vmcb.INT_CTL, (int_ctl & ~V_GIF) | (V_GIF if value else 0))
        touch(h01, CLEAN_TPR)
    write_gif(m, value)


# ---------------------------------------------------------------- TPR


@inner
def take_tpr_of_l2(m):
    """L2 without V_INTR_MASKING writes V_TPR and L1's own task priority when it writes CR8."""
    v_tpr = ld8(m.ram + VMCX02_MA + vmcb.INT_CTL) & 15
    if v_tpr != ld8(host_of(m, vmcx12(m)) + vmcb.INT_CTL) & 15:
        m.apic.tpr = v_tpr << 4
        st8(m.ram + VMCX01_MA + vmcb.INT_CTL, v_tpr)


# ---------------------------------------------------------------- EFER


@inner
def _assist(m, h01):
    """EFER.SVME set by L1: hardware takes over what the features allow."""
    word4 = ld32(h01 + vmcb.INTERCEPT_WORD4)
    if m.feat.virtual_vmload_vmsave and m.sh.active == 0:
        st64(h01 + vmcb.VIRT_EXT, ld64(h01 + vmcb.VIRT_EXT) | VIRT_EXT_VMLOAD_VMSAVE)
        word4 &= ~VMLOAD_VMSAVE_BITS
    int_ctl = ld32(h01 + vmcb.INT_CTL)
    if m.feat.virtual_gif and int_ctl & V_GIF_ENABLE == 0:
        st32(h01 + vmcb.INT_CTL, int_ctl | V_GIF_ENABLE | (V_GIF if gif(m) else 0))
        word4 &= ~STGI_CLGI_BITS
    st32(h01 + vmcb.INTERCEPT_WORD4, word4)


@inner
def _stop_assist(m, h01):
    """EFER.SVME cleared by L1: everything is intercepted again."""
    word4 = ld32(h01 + vmcb.INTERCEPT_WORD4)
    st32(h01 + vmcb.INTERCEPT_WORD4, word4 | VMLOAD_VMSAVE_BITS | STGI_CLGI_BITS)
    st64(h01 + vmcb.VIRT_EXT, ld64(h01 + vmcb.VIRT_EXT) & ~VIRT_EXT_VMLOAD_VMSAVE)
    int_ctl = ld32(h01 + vmcb.INT_CTL)
    if int_ctl & V_GIF_ENABLE:
        write_gif(m, 1 if int_ctl & V_GIF else 0)
    st32(h01 + vmcb.INT_CTL, int_ctl & ~(V_GIF | V_GIF_ENABLE))


@unit(Machine)
def svm_nested_features_on_efer_update(m):
    """Set or drop virtual GIF and virtual VMLOAD/VMSAVE as L1's EFER.SVME says (Xen, svm.c)."""
    h01 = m.ram + VMCX01_MA
    touch(h01, CLEAN_INTERCEPTS | CLEAN_TPR)
    if m.nv.guest_efer & EFER_SVME:
        _assist(m, h01)
    else:
        _stop_assist(m, h01)
    return 0


@inner
def reset_nested(m):
    """L1 left SVM: forget its vmcx12 and what was built for L2 (Xen, nestedhvm_vcpu_reset)."""
    doing = m.state.event
    at_event(m, AT_RESET)
    np2m_reset(m, F_NP2M_CHANGED)
    set_vmentry_pending(m, 0)
    set_vmexit_pending(m, 0)
    set_vmcx12_addr(m, -1)
    set_vmcx12(m, -1)
    set_last_vmcx12_addr(m, -1)
    set_guest_tag(m, 0)
    set_hap_enabled(m, 0)
    set_guest_cr3(m, 0)
    set_host_cr3(m, 0)
    set_rflagsif(m, 0)
    set_vintrmask(m, 0)
    if m.feat.deviations & deviations.DEV_HSAVE_PA_RESET:
        set_hsave_pa(m, 0)
    write_gif(m, 1)
    for i in range(6):
        set_icpt(m, i, 0)
    at_event(m, doing)


@unit(Machine, i64)
def svm_set_efer(m, value):
    """EFER written by the guest that exited; returns 1 when it deserves #GP."""
    nv = m.nv
    h = current_vmcb(m)
    old = nv.guest_efer
    if value & EFER_RESERVED:
        return 1
    if (value ^ old) & EFER_LME and ld64(h + vmcb.CR0) & CR0_PG:
        return 1
    if value & EFER_SVME and nv.vm_cr & VM_CR_SVMDIS:
        return 1
    value = (value & ~EFER_LMA) | (old & EFER_LMA)
    nv.guest_efer = value
    st64(h + vmcb.EFER, value | EFER_SVME)
    touch(h, CLEAN_CR)
    if not is_n2_guest(m) and (value ^ old) & EFER_SVME:
        svm_nested_features_on_efer_update(m)
        if value & EFER_SVME == 0:
            reset_nested(m)
    return 0
