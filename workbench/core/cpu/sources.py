"""Sources of events in simulated time: L0's tick, scripted NMIs, the local APIC's timer.

:func:`advance` turns time that has passed into signals at the processor (``m.irq.physical``) and
requests in the local APIC; :func:`schedule` tells the run loop after how many instructions to look
again.  A source that came due several times meanwhile signals once.  What comes due while L0 works is
taken there and then, without an exit; L0's own work for its tick has no price.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import DEBUG_ON, PHYS_NMI, PHYS_TICK, PHYS_TIMER, Machine
from ..ledger import (
    E_BARE_INSTRUCTION,
    E_IDLE_CYCLE,
    E_L1_INSTRUCTION,
    E_L2_INSTRUCTION,
    count,
)
from ..structs import i64
from .apic import LVT_MASKED, TIME_SHIFT, apic_advance, apic_pending
from .flags import IF

FAR = 1 << 62
"""A time that never comes."""
FAR_BUDGET = 1 << 40
MAX_BUDGET = 1024
"""Instructions between two looks at the time, at most, while a source is on."""
MAX_IDLE_ROUNDS = 64


@inner
def advance(m):
    """Signals and requests that have come due."""
    irq = m.irq
    now = m.ledger.time
    if irq.host_period and now >= irq.host_next:
        period = irq.host_period << TIME_SHIFT
        irq.host_next += period * (1 + (now - irq.host_next) // period)
        irq.physical |= PHYS_TICK
        m.ledger.host_ticks += 1
    if irq.nmi_period and now >= irq.nmi_next:
        period = irq.nmi_period << TIME_SHIFT
        if irq.physical & PHYS_NMI == 0 and irq.nmi_pending == 0:
            irq.nmi_raised = irq.nmi_next
        irq.nmi_next += period * (1 + (now - irq.nmi_next) // period)
        irq.physical |= PHYS_NMI
    if m.apic.deadline and apic_advance(m):
        irq.physical |= PHYS_TIMER
    if irq.nested_deadline and now >= irq.nested_deadline:
        irq.physical |= PHYS_TIMER


@inner
def take_signals(m):
    """Whoever runs on the bare processor has taken the signals: an NMI goes on to its guest."""
    advance(m)
    if m.irq.physical & PHYS_NMI:
        m.irq.nmi_pending = 1
    m.irq.physical = 0


@inner
def _earliest(m, host):
    """Ledger time of the next event; L0's own ones only with ``host``."""
    irq = m.irq
    first = FAR
    if host and irq.host_period:
        first = irq.host_next
    if irq.nmi_period and irq.nmi_next < first:
        first = irq.nmi_next
    if irq.nested_deadline and irq.nested_deadline < first:
        first = irq.nested_deadline
    if host and m.hw.timer_deadline and m.hw.timer_deadline < first:
        first = m.hw.timer_deadline
    deadline = m.apic.deadline
    if deadline and deadline < first and (host or m.apic.lvt[0] & LVT_MASKED == 0):
        first = deadline
    return first


@inner
def schedule(m):
    """Steps until the next look: never later than the event if instructions were all that cost."""
    irq = m.irq
    irq.budget = FAR_BUDGET
    if irq.active == 0:
        return
    if m.hw.mtf or m.debug.armed == DEBUG_ON:
        irq.budget = 1
        return
    first = _earliest(m, 1)
    if first == FAR:
        return
    event = E_BARE_INSTRUCTION
    if m.level == 1:
        event = E_L1_INSTRUCTION
    elif m.level == 2:
        event = E_L2_INSTRUCTION
    price = m.ledger.price[event]
    budget = MAX_BUDGET
    if price > 0:
        budget = (first - m.ledger.time) // price
    budget = MAX_BUDGET if budget > MAX_BUDGET else budget
    irq.budget = 1 if budget < 1 else budget


@unit(Machine, i64)
def wait(m, interrupts):
    """Let time pass until an event comes: an NMI, an interrupt if ``interrupts``, or the end of the
    timer that L0 keeps for L2; 0 when none ever will.  L0's own ticks come and go meanwhile.
    """
    irq = m.irq
    for _ in range(MAX_IDLE_ROUNDS):
        take_signals(m)
        if irq.nmi_pending or (interrupts and apic_pending(m) >> 4 > m.apic.tpr >> 4):
            return 1
        if irq.nested_deadline and m.ledger.time >= irq.nested_deadline:
            return 1
        if interrupts == 0 and irq.nmi_period == 0 and irq.nested_deadline == 0:
            return 0
        first = _earliest(m, 0)
        if first == FAR:
            return 0
        if first > m.ledger.time:
            count(m, E_IDLE_CYCLE, ((first - m.ledger.time) >> TIME_SHIFT) + 1)
    return 0


@inner
def idle(m):
    """A halted guest: wait for what wakes it; 0 when nothing ever will.  With interrupts off only an
    NMI does.
    """
    return wait(m, 1 if m.cpu.sysflags & IF != 0 or m.level == 2 else 0)
