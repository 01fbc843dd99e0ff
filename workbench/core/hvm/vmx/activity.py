"""Activity states of L2 other than active: HLT, shutdown, wait-for-SIPI (SDM vol. 3, 25.4.2, 27.7.2).

While L2 is inactive the processor does not enter it: L0 itself waits, until an event wakes L2 or is
an exit for L1 (KVM, nested_vmx_run and vcpu_block).  So no VMCS of L0's own ever holds another state
than active; the state is in ``m.nv.activity``, from vmcs12 at a virtual entry or since a HLT of L2's
that L0 served, and it goes into vmcs12 at the virtual exit.

=============  =========================================================================
HLT            ends by an interrupt or an NMI, the preemption timer, a window, an injection
shutdown       ends by an NMI, the preemption timer, an injection
wait-for-SIPI  never ends: there is one processor, and nobody sends it a SIPI
=============  =========================================================================

Not modelled: the processor's own inactive states; machine checks, INIT and SMI.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...cpu.sources import wait
from ...jit import inner, unit
from ...layout import ST_HALT, ST_OK, Machine
from ...ledger import P_EXIT, P_ROUTING
from ...structs import i64
from ..memory_map import VMCX02_MA
from ..nested_state import set_vmswitch_in_progress
from .check_util import INTR_VALID, RFLAGS_IF, word
from .offer import l1_may_be
from .timer import nested_ticks_left, start_nested_timer
from .vmcs import get_vvmcs, own_base, put, set_vvmcs, settle, vmread, vvmcs_base

PIN_SLOT, TIMER_SLOT = vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL, vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE
WINDOWS = vmx.CPU_INTR_WINDOW_EXITING | vmx.CPU_NMI_WINDOW_EXITING


@unit(Machine, i64)
def vmx_become_inactive(m, state):
    """L2 is in ``state`` from now on.  vmcs02's preemption timer, if any, goes on in software."""
    m.nv.activity = state
    set_vmswitch_in_progress(m, 0)
    n2 = own_base(m, VMCX02_MA)
    if word(n2, PIN_SLOT) & vmx.PIN_VMX_PREEMPTION_TIMER and m.irq.nested_deadline == 0:
        start_nested_timer(m, word(n2, TIMER_SLOT))
    if state == vmx.INTR_ACTIVITY_WAIT_SIPI:
        m.irq.nested_deadline = 0  # the timer does not end this state (26.5.1)
    return ST_OK


@unit(Machine, i64, i64)
def vmx_enter_inactive(m, v, state):
    """vmcs12 starts L2 in ``state``; an L0 that does not offer the state does not look at it."""
    if l1_may_be(m, state):
        vmx_become_inactive(m, state)
    return ST_OK


@inner
def _become_active(m):
    m.nv.activity = 0
    n2 = own_base(m, VMCX02_MA)
    if m.nv.immediate_exit:
        return  # vmcs02's timer is L0's for once
    if m.irq.nested_deadline and word(n2, PIN_SLOT) & vmx.PIN_VMX_PREEMPTION_TIMER:
        put(n2, TIMER_SLOT, nested_ticks_left(m))  # the processor's goes on
        m.irq.nested_deadline = 0


@inner
def _window_open(m, v, interrupts):
    """Does a window exit that L1 asked for wake L2?"""
    windows = get_vvmcs(m, v, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL, P_ROUTING) & WINDOWS
    if windows & vmx.CPU_INTR_WINDOW_EXITING and interrupts == 0:
        windows &= ~vmx.CPU_INTR_WINDOW_EXITING
    return windows != 0


@unit(Machine)
def vmx_wait_inactive(m):
    """Wait once: ST_OK when L2 is active again or an event has come, ST_HALT when none ever will."""
    v = vvmcs_base(m)
    halted = m.nv.activity == vmx.INTR_ACTIVITY_HLT
    enabled = vmread(m, vmcs.SLOT_GUEST_RFLAGS) & RFLAGS_IF
    injects = vmread(m, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD) & INTR_VALID
    if injects or (halted and _window_open(m, v, enabled)):
        _become_active(m)
        settle(m)
        return ST_OK
    settle(m)
    if m.nv.activity == vmx.INTR_ACTIVITY_WAIT_SIPI or m.irq.active == 0:
        return ST_HALT
    pin = word(v, PIN_SLOT)
    wakes = 1 if halted and (enabled or pin & vmx.PIN_EXT_INTR) else 0
    return ST_OK if wait(m, wakes) else ST_HALT


@unit(Machine, i64)
def vmx_save_activity(m, v):
    """The virtual exit stores L2's activity state, where L1 is told that there are several."""
    if l1_may_be(m, vmx.INTR_ACTIVITY_HLT):
        set_vvmcs(m, v, vmcs.SLOT_GUEST_ACTIVITY_STATE, m.nv.activity, P_EXIT)
    m.nv.activity = 0
    return ST_OK
