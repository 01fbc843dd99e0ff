"""Interrupts and NMIs for L1 and L2 under VMX: what Xen does before each entry (vmx_intr_assist).

An event that cannot be delivered now waits; L0 then asks for an interrupt-window or NMI-window exit
(for TPR it need not: CR8 accesses exit).  An event for L1 that arrives while L2 runs becomes a
virtual exit when L1 asked for it (pin-based controls), otherwise L2 gets it.
"""

from __future__ import annotations

from ....arch import deviations, vmcs, vmx
from ...cpu.apic import (
    NO_BLOCK,
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
from ...cpu.sources import take_signals
from ...jit import inner, unit
from ...layout import Machine
from ...ledger import (
    BLOCK_RFLAGS_IE,
    BLOCK_SVM_GIF,
    BLOCK_TPR,
    E_L0_EVENT_INJECTED,
    NS_GIF,
    P_ROUTING,
    count,
)
from ...structs import i64
from ..memory_map import VMCX01_MA
from ..nested_state import (
    gif,
    is_n2_guest,
    state_has,
    vmentry_pending,
    vmexit_pending,
    vmswitch_in_progress,
)
from ..virtual_exit import record_vmx_exit
from .checks import BLOCK_MOV_SS, BLOCK_STI, RFLAGS_IF
from .vmcs import get, get_vvmcs, own_base, put, settle, vmread, vmwrite, vvmcs_base

INTR_VALID = 1 << vmx.INTR_VALID
BLOCK_NMI = 8
"""Interruptibility state: blocking by NMI."""
CPU_SLOT = vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL


# ---------------------------------------------------------------- blocked?


@inner
def _event_busy(m):
    return vmread(m, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD) & INTR_VALID


@unit(Machine)
def vmx_nested_blocked(m):
    """The nested part of the check (Xen, nvmx_intr_blocked): BLOCK_*, or NO_BLOCK."""
    if state_has(m, NS_GIF) and gif(m) == 0:
        return (
            BLOCK_SVM_GIF  # only a layout with GIF in its generic part asks, and never finds it 0
        )
    if is_n2_guest(m):
        if vmexit_pending(m) or vmswitch_in_progress(m) or _event_busy(m):
            return BLOCK_RFLAGS_IE
    elif vmentry_pending(m):
        return BLOCK_RFLAGS_IE
    return NO_BLOCK


@unit(Machine, i64, i64)
def vmx_interrupt_blocked(m, source, vector):
    """Why the event is not delivered to the current guest (Xen, hvm_interrupt_blocked)."""
    reason = vmx_nested_blocked(m)
    if reason != NO_BLOCK:
        return reason
    state = vmread(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO)
    return blocked_by(
        source,
        vector,
        vmread(m, vmcs.SLOT_GUEST_RFLAGS) & RFLAGS_IF,
        state & (BLOCK_STI | BLOCK_MOV_SS),
        state & BLOCK_NMI,
        m.apic.tpr,
    )


# ---------------------------------------------------------------- windows


@inner
def _own_control(m):
    return own_base(m, VMCX01_MA)


@inner
def _block_nmi_by_mov_ss(m):
    """Blocking by STI becomes blocking by MOV SS (Xen, vmx_enable_intr_window).

    The former does not hold the NMI window's exit back (SDM vol. 3, 26.2): no instruction would come.
    """
    state = vmread(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO)
    if state & BLOCK_STI:
        vmwrite(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO, (state & ~BLOCK_STI) | BLOCK_MOV_SS)


@unit(Machine, i64)
def vmx_enable_intr_window(m, source):
    """Ask for an exit as soon as the current guest could take the event."""
    control = vmx.CPU_INTR_WINDOW_EXITING
    if source == SOURCE_NMI:
        _block_nmi_by_mov_ss(m)
        control = vmx.CPU_NMI_WINDOW_EXITING
    own = _own_control(m)
    word = get(own, CPU_SLOT)
    # KVM's vmcs02 does not take the window from vmcs01
    if word & get(own_base(m, m.hw.vmcx), CPU_SLOT) & control:
        return 0
    put(own, CPU_SLOT, word | control)
    current = vmread(m, CPU_SLOT)
    vmwrite(m, CPU_SLOT, current | control)
    return 0


@inner
def vmx_close_window(m, control):
    """The window exit came: stop asking, but for what L1 wants of L2."""
    own = _own_control(m)
    put(own, CPU_SLOT, get(own, CPU_SLOT) & ~control)
    word = vmread(m, CPU_SLOT) & ~control
    if is_n2_guest(m):
        word |= get_vvmcs(m, vvmcs_base(m), CPU_SLOT, P_ROUTING) & control
    vmwrite(m, CPU_SLOT, word)


# ---------------------------------------------------------------- delivery


@inner
def _inject(m, kind, vector):
    info = vector | (kind << vmx.INTR_TYPE) | INTR_VALID
    vmwrite(m, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD, info)
    count(m, E_L0_EVENT_INJECTED, 1)


@inner
def _request_exit(m, reason, info):
    e = m.exit
    e.code = reason
    e.info1 = 0
    e.intr_info = info
    e.intr_error = 0
    record_vmx_exit(m)


@inner
def _nested_interrupt(m, vector):
    """An interrupt for L1 while L2 runs (Xen, nvmx_intr_intercept); 1: dealt with."""
    v = vvmcs_base(m)
    pin = get_vvmcs(m, v, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL, P_ROUTING)
    if pin & vmx.PIN_EXT_INTR == 0:
        return 0
    note_blocked(m, NO_BLOCK)
    controls = get_vvmcs(m, v, vmcs.SLOT_VM_EXIT_CONTROLS, P_ROUTING)
    if controls & vmx.EXIT_CTL_ACK_INTR_ON_EXIT:
        info = vector | (KIND_INTERRUPT << vmx.INTR_TYPE) | INTR_VALID
        _request_exit(m, vmx.EXIT_EXTERNAL_INTERRUPT, info)
        apic_acknowledge(m, vector, 1)
        more = pending_source(m)
        if more:
            vmx_enable_intr_window(m, more)
    else:
        _request_exit(m, vmx.EXIT_EXTERNAL_INTERRUPT, 0)
        vmx_enable_intr_window(m, 0)
    return 1


@inner
def _deliver_nmi(m):
    """NMI: L2's run ends when L1 has NMI exiting, else the current guest gets it."""
    if is_n2_guest(m):
        pin = get_vvmcs(m, vvmcs_base(m), vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL, P_ROUTING)
        if pin & vmx.PIN_NMI_EXITING:
            take_nmi(m, 1)
            _request_exit(m, vmx.EXIT_EXCEPTION_NMI, NMI | (KIND_NMI << vmx.INTR_TYPE) | INTR_VALID)
            return
    take_nmi(m, m.level)
    _inject(m, KIND_NMI, NMI)


@inner
def _defers(m):
    """L2 has not begun to run, and L0 (KVM) begins with it before it looks at an event for L1.

    Not where L1 has vmcs02's preemption timer.
    """
    if m.feat.deviations & deviations.DEV_EVENT_BEHIND_ENTRY == 0 or not is_n2_guest(m):
        return False
    if vmread(m, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL) & vmx.PIN_VMX_PREEMPTION_TIMER:
        return False
    return vmexit_pending(m) == 0 and (vmswitch_in_progress(m) != 0 or _event_busy(m) != 0)


@unit(Machine)
def vmx_ask_immediate_exit(m):
    """vmcs02's preemption timer runs out before L2's first instruction (KVM, vmx_update_hv_timer)."""
    m.nv.immediate_exit = 1
    pin = vmread(m, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL)
    vmwrite(m, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL, pin | vmx.PIN_VMX_PREEMPTION_TIMER)
    vmwrite(m, vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE, 0)
    return 0


@unit(Machine)
def vmx_end_immediate_exit(m):
    """It has happened, or another exit came before it."""
    m.nv.immediate_exit = 0
    pin = vmread(m, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL)
    vmwrite(m, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL, pin & ~vmx.PIN_VMX_PREEMPTION_TIMER)
    return 0


@unit(Machine)
def vmx_nested_timer(m):
    """L0's timer in the place of vmcs12's: 1 when it has run out and L2's run ends by it."""
    if not is_n2_guest(m) or m.ledger.time < m.irq.nested_deadline or vmexit_pending(m):
        return 0
    if _defers(m):
        return vmx_ask_immediate_exit(m)
    if _event_busy(m):
        return 0  # what L1 injected comes first; the signal comes again
    _request_exit(m, vmx.EXIT_PREEMPTION_TIMER, 0)
    return 1


@inner
def _assist(m):
    if m.nv.immediate_exit:
        vmx_end_immediate_exit(m)
    if m.irq.nested_deadline and vmx_nested_timer(m):
        return
    if m.nv.immediate_exit:
        return  # L2 leaves at once, and then there is time for what waits
    source = pending_source(m)
    if source == SOURCE_NONE:
        note_blocked(m, NO_BLOCK)
        return
    if m.nv.activity > vmx.INTR_ACTIVITY_HLT and (
        source != SOURCE_NMI or m.nv.activity == vmx.INTR_ACTIVITY_WAIT_SIPI
    ):
        return  # that state lets no such event through
    vector = apic_pending(m)
    nested = vmx_nested_blocked(m)
    # 1. L2 runs, or an entry to it is on its way
    if nested != NO_BLOCK:
        note_blocked(m, nested)
        if _defers(m) and beats_tpr(m, source, vector):
            vmx_ask_immediate_exit(m)
            return
        vmx_enable_intr_window(m, source)
        return
    if is_n2_guest(m) and source != SOURCE_NMI:
        if m.apic.tpr >> 4 >= vector >> 4:
            note_blocked(m, BLOCK_TPR)
            return
        if _nested_interrupt(m, vector):
            return
    # 2. the current guest
    reason = vmx_interrupt_blocked(m, source, vector)
    if reason == BLOCK_TPR:
        note_blocked(m, reason)
        return
    if reason != NO_BLOCK or _event_busy(m):
        if reason != NO_BLOCK:
            note_blocked(m, reason)
        vmx_enable_intr_window(m, source)
        return
    # 3. acknowledge and inject
    note_blocked(m, NO_BLOCK)
    if source == SOURCE_NMI:
        _deliver_nmi(m)
    else:
        apic_acknowledge(m, vector, m.level)
        _inject(m, KIND_INTERRUPT, vector)
    more = pending_source(m)
    if more:
        vmx_enable_intr_window(m, more)


@unit(Machine)
def vmx_intr_assist(m):
    """Before the hardware entry: deliver what waits for the guest, or arrange to be told."""
    take_signals(m)
    _assist(m)
    settle(m)
    return 0
