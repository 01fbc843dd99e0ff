"""Interrupts and NMIs for L1 and L2 under SVM: what Xen does before each VMRUN (svm_intr_assist).

An event that cannot be delivered now waits; L0 then lets the processor exit when the guest becomes
ready, by a V_IRQ of its own with the VINTR intercept.  An event that arrives for L1 while L2 runs
ends L2's run (virtual exit INTR or NMI) when L1 intercepts it, otherwise L2 gets it.

Two deliberate differences from Xen: with virtual GIF an event that finds GIF clear is not left to
some later exit, because no STGI would come: for an interrupt a window is opened, which the processor
holds back until V_GIF is set; for an NMI, which RFLAGS.IF must not hold back, STGI is made to exit
(KVM, svm_enable_nmi_window).  And a window is never laid over a V_IRQ that L1 gave to L2.

KVM does not turn back at an event that finds L2 being entered: it sends itself an interrupt, which
ends L2's run before the first instruction, and looks again (a deviation).
"""

from __future__ import annotations

from ....arch import deviations, svm, vmcb
from ...cpu.apic import (
    NO_BLOCK,
    SOURCE_LAPIC,
    SOURCE_NMI,
    SOURCE_NONE,
    apic_acknowledge,
    apic_pending,
    beats_tpr,
    blocked_by,
    note_blocked,
    pending_source,
    take_nmi,
)
from ...cpu.exceptions import KIND_INTERRUPT, KIND_NMI, NMI
from ...cpu.nmi import V_NMI, V_NMI_ENABLE, V_NMI_MASK, V_NMI_STATE
from ...cpu.sources import take_signals
from ...jit import inner, unit
from ...layout import PHYS_TICK, Machine
from ...ledger import (
    BLOCK_NMI_IRET,
    BLOCK_RFLAGS_IE,
    BLOCK_SHADOW,
    BLOCK_SVM_GIF,
    E_L0_EVENT_INJECTED,
    count,
)
from ...structs import i64
from ...words import ld8, ld32, ld64, st8, st32
from ..memory_map import VMCX01_MA, VMCX02_MA
from ..nested_state import (
    gif,
    is_n2_guest,
    rflagsif,
    vintrmask,
    vmentry_pending,
    vmexit_pending,
)
from .checks import EVENT_VALID
from .clean import CLEAN_INTERCEPTS, CLEAN_TPR, touch
from .common import STGI_BIT, V_IRQ, VINTR_BIT, request_virtual_exit
from .current import current_vmcb
from .instructions import V_GIF, V_GIF_ENABLE
from .route import l1_intercepts

RFLAGS_IF = 1 << 9
V_IGN_TPR = 1 << svm.INT_CTL_V_IGN_TPR
PRIO_SHIFT = svm.INT_CTL_V_INTR_PRIO
PRIO_MASK = 15 << PRIO_SHIFT
IRET_BIT = 1 << (svm.INTERCEPT_IRET & 31)
WINDOW_01, WINDOW_02 = 1, 2
SELF_IPI = PHYS_TICK
"""L0's interrupt to itself: a signal like that of its tick, which it tells from it by the vector."""
INTACK_LAPIC, INTACK_NMI = 4, 1
"""Numbers of Xen's interrupt sources, which it leaves in EXITINFO1 of the virtual exit."""


# ---------------------------------------------------------------- TPR and GIF


@inner
def take_virtual_tpr(m):
    """L1 may have moved to CR8 without an exit: V_TPR is the class of its TPR."""
    v_tpr = ld8(m.ram + VMCX01_MA + vmcb.INT_CTL) & 15
    if v_tpr != m.apic.tpr >> 4:
        m.apic.tpr = v_tpr << 4


@inner
def _give_virtual_tpr(m):
    st8(m.ram + VMCX01_MA + vmcb.INT_CTL, (m.apic.tpr >> 4) & 15)


@inner
def svm_gif(m):
    """L1's GIF: in vmcb01 when virtualized, else L0's variable."""
    int_ctl = ld32(m.ram + VMCX01_MA + vmcb.INT_CTL)
    if int_ctl & V_GIF_ENABLE:
        return 1 if int_ctl & V_GIF else 0
    return gif(m)


# ---------------------------------------------------------------- blocked?


@unit(Machine)
def svm_nested_blocked(m):
    """The nested part of the check (Xen, nsvm_intr_blocked): BLOCK_*, or NO_BLOCK."""
    if svm_gif(m) == 0:
        return BLOCK_SVM_GIF
    if is_n2_guest(m):
        if vintrmask(m) and rflagsif(m) == 0:
            return BLOCK_RFLAGS_IE
        interrupted = ld32(m.ram + VMCX02_MA + vmcb.EXIT_INT_INFO) & EVENT_VALID
        if interrupted and vmexit_pending(m) == 0:
            return BLOCK_SHADOW
    if vmexit_pending(m) or vmentry_pending(m):
        return BLOCK_RFLAGS_IE
    return NO_BLOCK


@inner
def nmi_masked(m, h):
    """Is the guest between an NMI and its IRET?  The processor knows, or L0 by its IRET intercept."""
    int_ctl = ld32(h + vmcb.INT_CTL)
    if int_ctl & V_NMI_ENABLE:
        return int_ctl & V_NMI_MASK
    return ld32(h + vmcb.INTERCEPT_WORD3) & IRET_BIT


@inner
def _nested_reason(m, source):
    """The same for one event: what L1 masked with RFLAGS.IF does not hold an NMI."""
    reason = svm_nested_blocked(m)
    if reason != BLOCK_RFLAGS_IE or source != SOURCE_NMI:
        return reason
    if m.feat.deviations & deviations.DEV_NMI_HELD_WITH_INTERRUPTS:
        return reason
    interrupted = ld32(m.ram + VMCX02_MA + vmcb.EXIT_INT_INFO) & EVENT_VALID
    if is_n2_guest(m) and interrupted and vmexit_pending(m) == 0:
        return BLOCK_SHADOW
    return reason if vmexit_pending(m) or vmentry_pending(m) else NO_BLOCK


@unit(Machine, i64, i64)
def svm_interrupt_blocked(m, source, vector):
    """Why the event is not delivered to the current guest (Xen, hvm_interrupt_blocked)."""
    reason = _nested_reason(m, source)
    if reason != NO_BLOCK:
        return reason
    h = current_vmcb(m)
    return blocked_by(
        source,
        vector,
        ld64(h + vmcb.RFLAGS) & RFLAGS_IF,
        ld32(h + vmcb.INT_STATE) & 1,
        nmi_masked(m, h),
        m.apic.tpr,
    )


# ---------------------------------------------------------------- windows


@inner
def _which(m):
    return WINDOW_02 if is_n2_guest(m) else WINDOW_01


@unit(Machine, i64, i64)
def svm_enable_intr_window(m, source, vector):
    """Ask for an exit as soon as the current guest could take the event."""
    h = current_vmcb(m)
    word3 = ld32(h + vmcb.INTERCEPT_WORD3)
    if source == SOURCE_NMI and word3 & IRET_BIT:
        return 0  # the IRET exits
    int_ctl = ld32(h + vmcb.INT_CTL)
    if int_ctl & V_IRQ and m.irq.window & _which(m) == 0:
        return 0  # L1's own, for L2
    int_ctl = (int_ctl & ~(PRIO_MASK | V_IGN_TPR)) | V_IRQ
    if source == SOURCE_LAPIC:
        int_ctl |= ((vector >> 4) & 15) << PRIO_SHIFT
    else:
        int_ctl |= V_IGN_TPR
    st32(h + vmcb.INT_CTL, int_ctl)
    st32(h + vmcb.INT_VECTOR, 0)
    st32(h + vmcb.INTERCEPT_WORD3, word3 | VINTR_BIT)
    m.irq.window |= _which(m)
    return 0


@unit(Machine)
def svm_close_window(m):
    """Take L0's V_IRQ out of the current VMCB; one of L1's for L2 stays."""
    h = current_vmcb(m)
    if m.irq.window & _which(m):
        st32(h + vmcb.INT_CTL, ld32(h + vmcb.INT_CTL) & ~V_IRQ)
        m.irq.window &= ~_which(m)
    word3 = ld32(h + vmcb.INTERCEPT_WORD3)
    if not is_n2_guest(m) or l1_intercepts(m, svm.INTERCEPT_VINTR) == 0:
        st32(h + vmcb.INTERCEPT_WORD3, word3 & ~VINTR_BIT)
    return 0


@inner
def svm_iret(m, h):
    """IRET after an NMI: NMIs may come again, but not before the IRET itself is done."""
    st32(h + vmcb.INTERCEPT_WORD3, ld32(h + vmcb.INTERCEPT_WORD3) & ~IRET_BIT)
    st32(h + vmcb.INT_STATE, 1)


# ---------------------------------------------------------------- delivery


@inner
def _inject(m, kind, vector):
    h = current_vmcb(m)
    st32(h + vmcb.EVENT_INJ, vector | (kind << svm.EVENTINJ_TYPE) | EVENT_VALID)
    st32(h + vmcb.EVENT_INJ_ERR, 0)
    count(m, E_L0_EVENT_INJECTED, 1)


@inner
def _deliver(m, source, vector):
    """Acknowledge and inject through EVENTINJ."""
    note_blocked(m, NO_BLOCK)
    if source == SOURCE_NMI and _has_virtual_nmi(m):
        _give_nmi(m)
    elif source == SOURCE_NMI:
        h = current_vmcb(m)
        take_nmi(m, m.level)
        _inject(m, KIND_NMI, NMI)
        st32(h + vmcb.INTERCEPT_WORD3, ld32(h + vmcb.INTERCEPT_WORD3) | IRET_BIT)
    else:
        apic_acknowledge(m, vector, m.level)
        _inject(m, KIND_INTERRUPT, vector)
    more = pending_source(m)
    if more:
        svm_enable_intr_window(m, more, apic_pending(m))


@inner
def _nested_interrupt(m, source, vector):
    """L2 was running when the event came (Xen, nestedsvm_vcpu_interrupt); 1: dealt with."""
    reason = _nested_reason(m, source)
    if reason != NO_BLOCK:
        note_blocked(m, reason)
        return 1
    is_nmi = source == SOURCE_NMI
    code = svm.VMEXIT_NMI if is_nmi else svm.VMEXIT_INTR
    if l1_intercepts(m, svm.INTERCEPT_NMI if is_nmi else svm.INTERCEPT_INTR) == 0:
        return 0
    note_blocked(m, NO_BLOCK)
    # both stay pending until L1 sets GIF
    info1 = info2 = 0
    if m.feat.deviations & deviations.DEV_INTR_EXIT_NAMES_SOURCE:
        info1 = INTACK_NMI if is_nmi else INTACK_LAPIC
        info2 = NMI if is_nmi else vector
    request_virtual_exit(m, code, info1, info2)
    m.exit.code = code
    return 1


@inner
def _has_virtual_nmi(m):
    return ld32(current_vmcb(m) + vmcb.INT_CTL) & V_NMI_ENABLE != 0


@inner
def _give_nmi(m):
    """Virtual NMI: the processor delivers it as soon as the guest's IRET lets it."""
    h = current_vmcb(m)
    int_ctl = ld32(h + vmcb.INT_CTL)
    m.irq.nmi_pending = 0
    st32(h + vmcb.INT_CTL, int_ctl | V_NMI)
    count(m, E_L0_EVENT_INJECTED, 1)
    note_blocked(m, BLOCK_NMI_IRET if int_ctl & V_NMI_MASK else NO_BLOCK)


@inner
def _recall_nmi(m):
    """L2 runs with an NMI still waiting in vmcb01: L0 decides again (KVM, nested_vmcb02_prepare_control)."""
    h = m.ram + VMCX01_MA
    int_ctl = ld32(h + vmcb.INT_CTL)
    if int_ctl & V_NMI:
        st32(h + vmcb.INT_CTL, int_ctl & ~V_NMI)
        m.irq.nmi_pending = 1


@inner
def _given_nmi_blocked(m):
    """Does an NMI that was given to the current guest still wait for IRET?"""
    return ld32(current_vmcb(m) + vmcb.INT_CTL) & V_NMI_STATE == V_NMI_STATE


@inner
def _await_virtual_gif(m, source, vector):
    """Be told when L1 sets its virtual GIF."""
    if source != SOURCE_NMI:
        svm_enable_intr_window(m, source, vector)
        return
    h = current_vmcb(m)
    st32(h + vmcb.INTERCEPT_WORD4, ld32(h + vmcb.INTERCEPT_WORD4) | STGI_BIT)


@inner
def _assist(m):
    entering = m.nv.immediate_exit
    m.nv.immediate_exit = 0
    if m.feat.virtual_nmi and is_n2_guest(m):
        _recall_nmi(m)
    source = pending_source(m)
    if source == SOURCE_NONE:
        note_blocked(m, BLOCK_NMI_IRET if _given_nmi_blocked(m) else NO_BLOCK)
        return
    vector = apic_pending(m)
    if entering and beats_tpr(m, source, vector):
        note_blocked(m, BLOCK_RFLAGS_IE)
        m.irq.physical |= SELF_IPI
        return
    reason = svm_interrupt_blocked(m, source, vector)
    if reason == BLOCK_SVM_GIF:
        note_blocked(m, reason)
        if not is_n2_guest(m) and ld32(current_vmcb(m) + vmcb.INT_CTL) & V_GIF_ENABLE:
            _await_virtual_gif(m, source, vector)
        return
    if is_n2_guest(m) and _nested_interrupt(m, source, vector):
        return
    if reason == BLOCK_NMI_IRET and _has_virtual_nmi(m):
        _give_nmi(m)
        return
    if reason != NO_BLOCK or ld32(current_vmcb(m) + vmcb.EVENT_INJ) & EVENT_VALID:
        if reason != NO_BLOCK:
            note_blocked(m, reason)
        if vmentry_pending(m) == 0:
            svm_enable_intr_window(m, source, vector)
        return
    _deliver(m, source, vector)


@unit(Machine)
def svm_intr_assist(m):
    """Before the hardware entry: deliver what waits for the guest, or arrange to be told."""
    take_signals(m)
    _assist(m)
    _give_virtual_tpr(m)
    # V_INTR and the window's intercepts may have changed, here or by the exit's handler
    touch(m.ram + VMCX01_MA, CLEAN_TPR | CLEAN_INTERCEPTS)
    touch(m.ram + VMCX02_MA, CLEAN_TPR | CLEAN_INTERCEPTS)
    return 0


@unit(Machine)
def svm_drop_virtual_window(m):
    """Virtual exit: vmcb12 must not get the V_IRQ that L0 laid over L2."""
    if m.irq.window & WINDOW_02:
        h = m.ram + VMCX02_MA
        st32(h + vmcb.INT_CTL, ld32(h + vmcb.INT_CTL) & ~V_IRQ)
        m.irq.window &= ~WINDOW_02
    return 0
