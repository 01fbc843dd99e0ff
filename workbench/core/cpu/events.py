"""Recognising external events between two instructions, as the processor does.

On the bare machine: NMI, then the local APIC's interrupt, if the processor takes them.  In a guest:
an NMI or interrupt signal leaves to L0 (both vendors' L0 ask for that); then what the control
structure asks the processor to wait for: a virtual NMI or interrupt (V_NMI, V_IRQ, APM vol. 2, 15.21),
an interrupt or NMI window (SDM vol. 3, 26.2), a virtual interrupt of the virtual-APIC page (30.2).
Before all these come the monitor trap flag, debug traps (``debug``) and the VMX-preemption timer
(``hvm/vmx/timer``); behind them instruction breakpoints.
"""

from __future__ import annotations

from ...arch import svm, vmx
from ..hvm.intercepts import exception_exit
from ..hvm.svm.leave import intercepted, leave
from ..hvm.vmx.exits import fill_exit
from ..hvm.vmx.timer import timer_exit, trap_flag_exit
from ..hvm.vmx.vapic import vapic_after_write, vapic_deliver
from ..jit import inner, unit
from ..layout import BACKEND_SVM, DEBUG_ON, PHYS_NMI, ST_FAULT, ST_OK, ST_VMEXIT, Machine
from ..ledger import C_INTERRUPT_WINDOW, fold_steps, note_latency
from ..mmu.access import fold_hits
from ..words import lshr
from .apic import (
    NO_BLOCK,
    SOURCE_NMI,
    SOURCE_NONE,
    apic_acknowledge,
    apic_pending,
    blocked_by,
    note_blocked,
    pending_source,
    take_nmi,
)
from .debug import debug_boundary, debug_fault, debug_trap
from .exceptions import KIND_INTERRUPT, KIND_NMI, NMI
from .flags import IF
from .nmi import V_NMI, V_NMI_MASK, V_NMI_READY, V_NMI_STATE
from .sources import advance, schedule, take_signals

HOST_VECTOR = 0xF0
"""Vector of L0's own interrupts (Xen's local timer is in this range)."""
V_IRQ = 1 << svm.INT_CTL_V_IRQ
V_GIF = 1 << svm.INT_CTL_V_GIF
V_GIF_ENABLE = 1 << svm.INT_CTL_V_GIF_ENABLE
V_IGN_TPR = 1 << svm.INT_CTL_V_IGN_TPR
MOV_SS = 2
WINDOWS = vmx.CPU_INTR_WINDOW_EXITING | vmx.CPU_NMI_WINDOW_EXITING


@inner
def _raise(m, kind, vector, injected):
    e = m.exc
    e.vector = vector
    e.kind = kind
    e.error = 0
    e.has_error = 0
    e.length = 0
    e.injected = injected
    return ST_FAULT


# ---------------------------------------------------------------- the bare machine


@inner
def _bare_event(m):
    c = m.cpu
    take_signals(m)
    source = pending_source(m)
    if source == SOURCE_NONE:
        note_blocked(m, NO_BLOCK)
        return ST_OK
    vector = apic_pending(m)
    reason = blocked_by(source, vector, c.sysflags & IF, c.shadow, c.nmi_blocked, m.apic.tpr)
    note_blocked(m, reason)
    if reason != NO_BLOCK:
        m.irq.attention = 1
        return ST_OK
    # another may wait behind this one
    m.irq.attention = 1
    if source == SOURCE_NMI:
        take_nmi(m, 0)
        return _raise(m, KIND_NMI, NMI, 1)
    apic_acknowledge(m, vector, 0)
    return _raise(m, KIND_INTERRUPT, vector, 1)


# ---------------------------------------------------------------- a guest


@inner
def _virtual_interrupt(m):
    """V_IRQ of SVM: taken when the guest's own IF, shadow and TPR allow, or intercepted."""
    c = m.cpu
    int_ctl = m.hw.int_ctl
    m.irq.attention = 1
    if c.sysflags & IF == 0 or c.shadow:
        return ST_OK
    if int_ctl & V_GIF_ENABLE and int_ctl & V_GIF == 0:
        return ST_OK
    if int_ctl & V_IGN_TPR == 0 and lshr(int_ctl, svm.INT_CTL_V_INTR_PRIO) & 15 <= c.cr8 & 15:
        return ST_OK
    if intercepted(m, svm.INTERCEPT_VINTR):
        return leave(m, svm.VMEXIT_VINTR, 0, 0, 0, C_INTERRUPT_WINDOW)
    m.hw.int_ctl = int_ctl & ~V_IRQ
    m.irq.attention = 0
    return _raise(m, KIND_INTERRUPT, m.hw.int_vector & 0xFF, 1)


@inner
def _virtual_nmi(m):
    """V_NMI of SVM that is not masked (APM vol. 2, 15.21.10): it masks itself until IRET."""
    int_ctl = m.hw.int_ctl
    m.irq.attention = 1
    if m.cpu.shadow or (int_ctl & V_GIF_ENABLE and int_ctl & V_GIF == 0):
        return ST_OK
    m.hw.int_ctl = (int_ctl & ~V_NMI) | V_NMI_MASK
    note_blocked(m, NO_BLOCK)
    note_latency(m, m.level, 1, m.irq.nmi_raised)
    return _raise(m, KIND_NMI, NMI, 1)


@inner
def _window(m):
    """Interrupt-window and NMI-window exits of VMX."""
    c = m.cpu
    m.irq.attention = 1
    if m.hw.proc & vmx.CPU_NMI_WINDOW_EXITING and c.nmi_blocked == 0 and c.shadow & MOV_SS == 0:
        return fill_exit(m, vmx.EXIT_NMI_WINDOW, 0, 0, C_INTERRUPT_WINDOW)
    if m.hw.proc & vmx.CPU_INTR_WINDOW_EXITING and c.sysflags & IF and c.shadow == 0:
        return fill_exit(m, vmx.EXIT_INTERRUPT_WINDOW, 0, 0, C_INTERRUPT_WINDOW)
    return ST_OK


@inner
def _virtual_delivery(m):
    """A recognized virtual interrupt of VMX is delivered as soon as the guest is interruptible."""
    m.irq.attention = 1
    if m.cpu.sysflags & IF == 0 or m.cpu.shadow:
        return ST_OK
    return vapic_deliver(m)


@inner
def _guest_event(m):
    if m.hw.timer_deadline and timer_exit(m):
        return ST_VMEXIT
    signals = m.irq.physical
    if signals:
        is_nmi = signals & PHYS_NMI
        _raise(m, KIND_NMI if is_nmi else KIND_INTERRUPT, NMI if is_nmi else HOST_VECTOR, 0)
        if exception_exit(m):
            return ST_VMEXIT
    if m.hw.backend == BACKEND_SVM:
        if m.hw.int_ctl & V_NMI_STATE == V_NMI_READY:
            status = _virtual_nmi(m)
            if status:
                return status
        return _virtual_interrupt(m) if m.hw.int_ctl & V_IRQ else ST_OK
    if m.hw.proc & WINDOWS:
        status = _window(m)
        if status:
            return status
    return _virtual_delivery(m) if m.hw.vint else ST_OK


@unit(Machine)
def attend(m):
    """Look for events before the next instruction: ST_OK, ST_FAULT (deliver) or ST_VMEXIT."""
    if m.sh.emulating:
        return ST_OK
    fold_steps(m)
    fold_hits(m)
    m.irq.attention = 0
    advance(m)
    if m.debug.armed == DEBUG_ON:
        debug_boundary(m)
    status = vapic_after_write(m) if m.irq.apic_write else ST_OK
    if status == ST_OK and m.hw.mtf and m.hw.guest:
        status = trap_flag_exit(m)
    if status == ST_OK and m.debug.armed:
        status = debug_trap(m)
    if status == ST_OK:
        status = _guest_event(m) if m.hw.guest else _bare_event(m)
    if status == ST_OK and m.debug.armed == DEBUG_ON:
        status = debug_fault(m)
    schedule(m)
    return status
