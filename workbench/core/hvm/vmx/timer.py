"""The VMX-preemption timer and the monitor trap flag (SDM vol. 3, 26.5.1, 26.5.2).

The timer counts down once per 2^5 cycles of the time-stamp counter while the guest runs, and causes
an exit when it reaches zero; the monitor trap flag causes one behind every instruction of the guest.

While L2 is inactive, and always under KVM, a timer of L0's own stands in for the one that vmcs12 asks
for (``m.irq.nested_deadline``): it signals as L0's other timers do, by an external interrupt.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...cpu.apic import TIME_SHIFT
from ...jit import inner, unit
from ...layout import ST_OK, Machine
from ...ledger import C_INTERRUPT, C_OTHER
from ...structs import i64
from ...words import lshr
from .check_util import word
from .exits import fill_exit
from .vmcs import put

RATE = 5
"""IA32_VMX_MISC bits 4:0: log2 of the cycles per tick."""
MTF_OFF, MTF_ARMED, MTF_PENDING = range(3)


@inner
def _ticks(m):
    return lshr(m.ledger.time, TIME_SHIFT + RATE)


@inner
def start_timer(m, base):
    """VM entry: when the timer will have run out, in ledger time; 0 while it is not active."""
    h = m.hw
    h.timer_deadline = 0
    h.mtf = MTF_ARMED if h.proc & vmx.CPU_MONITOR_TRAP_FLAG else MTF_OFF
    if h.mtf:
        h.mtf_from = m.steps
        m.irq.active = 1
    if h.pin & vmx.PIN_VMX_PREEMPTION_TIMER:
        value = word(base, vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE)
        h.timer_deadline = (_ticks(m) + value) << (TIME_SHIFT + RATE)
        if h.timer_deadline == 0:
            h.timer_deadline = 1
        m.ledger.clock_used = 1
        m.irq.active = 1


@inner
def stop_timer(m, base):
    """VM exit: what is left of the timer, if the VM-exit controls ask for it."""
    h = m.hw
    if h.timer_deadline == 0:
        return
    if h.exit_ctl & vmx.EXIT_CTL_SAVE_VMX_PREEMPTION_TIMER:
        left = lshr(h.timer_deadline, TIME_SHIFT + RATE) - _ticks(m)
        put(base, vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE, left if left > 0 else 0)
    h.timer_deadline = 0


@unit(Machine, i64)
def start_nested_timer(m, value):
    """L0's own timer stands in for vmcs12's: it runs out after ``value`` ticks, whoever runs."""
    deadline = (_ticks(m) + (value & 0xFFFF_FFFF)) << (TIME_SHIFT + RATE)
    m.irq.nested_deadline = deadline if deadline else 1
    m.ledger.clock_used = 1
    m.irq.active = 1
    return ST_OK


@inner
def nested_ticks_left(m):
    """What is left of it."""
    left = lshr(m.irq.nested_deadline, TIME_SHIFT + RATE) - _ticks(m)
    return left if left > 0 else 0


@inner
def is_timed(m):
    """Must the processor watch the time, or single-step, while this guest runs?"""
    return m.hw.timer_deadline != 0 or m.hw.mtf != MTF_OFF


@inner
def trap_flag_exit(m):
    """Between two instructions: has the monitor trap flag an exit for us?"""
    h = m.hw
    if h.mtf == MTF_PENDING or (h.mtf == MTF_ARMED and m.steps != h.mtf_from):
        return fill_exit(m, vmx.EXIT_MONITOR_TRAP_FLAG, 0, 0, C_OTHER)
    return ST_OK


@inner
def timer_exit(m):
    """Between two instructions: has the preemption timer run out? Debug traps come first."""
    if m.ledger.time >= m.hw.timer_deadline:
        return fill_exit(m, vmx.EXIT_PREEMPTION_TIMER, 0, 0, C_INTERRUPT)
    return ST_OK
