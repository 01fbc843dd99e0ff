"""The local APIC: requests, priorities, timer, errors (SDM vol. 3, chapter 11).

One record holds it: on the bare machine the processor's own, under L0 the one that L0 emulates for
L1.  L2 has what L1 emulates; L2's accesses that L1 does not ask for reach L1's, as in Xen.  Timer
and time-stamp counter run at the rate of simulated time.  Its registers are in ``apic_registers``.

Not modelled: level-triggered interrupts, other processors (an IPI that does not reach this one is
dropped), interrupts by LINT pins; the spurious vector is kept but never delivered, for a request
that the processor has seen is not withdrawn.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import Machine
from ..ledger import (
    BLOCK_NMI_IRET,
    BLOCK_RFLAGS_IE,
    BLOCK_SHADOW,
    BLOCK_TPR,
    note_latency,
)
from ..words import count_leading_zeros, lshr

BASE_EXTD, BASE_ENABLE = 1 << 10, 1 << 11
BASE_ADDRESS = 0xF_FFFF_F000
SVR_ENABLE = 1 << 8
LVT_MASKED = 1 << 16
LVT_ERROR_INDEX = 5
LOWEST_VECTOR = 16
"""Vectors below are illegal for interrupts."""
ERROR_SEND_VECTOR, ERROR_RECEIVE_VECTOR, ERROR_REGISTER = 1 << 5, 1 << 6, 1 << 7
"""Bits of the error status register (SDM figure 11-9)."""
MODE_ONE_SHOT, MODE_PERIODIC, MODE_TSC_DEADLINE = range(3)
TIME_SHIFT = 10
MAX_WAIT = 1 << 50
"""Longest wait of a timer, in cycles."""
NO_BLOCK = -1
SOURCE_NONE, SOURCE_NMI, SOURCE_LAPIC = range(3)


@inner
def read_tsc(m):
    """The time-stamp counter: simulated time in cycles, with the guest's offsets."""
    m.ledger.clock_used = 1
    offset = m.hw.tsc_offset if m.hw.guest else 0
    return lshr(m.ledger.time, TIME_SHIFT) + m.cpu.tsc_adjust + offset


# ---------------------------------------------------------------- vectors and priorities


@inner
def highest_vector(words):
    """Highest vector whose bit is set in a 256-bit register, -1 none."""
    for i in range(3, -1, -1):
        if words[i]:
            return i * 64 + 63 - count_leading_zeros(words[i])
    return -1


@inner
def processor_priority(m):
    """PPR: the higher class of TPR and of the interrupt in service (SDM 11.8.3.1)."""
    tpr = m.apic.tpr
    service = highest_vector(m.apic.isr)
    if service < 0 or tpr >> 4 >= service >> 4:
        return tpr
    return service & 0xF0


@inner
def apic_pending(m):
    """Highest requested vector above those in service, -1 none; the TPR is not looked at."""
    if m.apic.svr & SVR_ENABLE == 0:
        return -1
    wanted = highest_vector(m.apic.irr)
    return wanted if wanted >> 4 > highest_vector(m.apic.isr) >> 4 else -1


@inner
def apic_acknowledge(m, vector, level):
    """``vector`` is taken by the guest of ``level`` (0: the bare processor): requested to in service."""
    note_latency(m, level, 0, m.apic.raised[vector & 0xFF])
    bit = 1 << (vector & 63)
    m.apic.irr[(vector >> 6) & 3] &= ~bit
    m.apic.isr[(vector >> 6) & 3] |= bit


@inner
def apic_request(m, vector, when):
    """An interrupt arrives; it was raised at ledger time ``when``."""
    bit = 1 << (vector & 63)
    if m.apic.irr[(vector >> 6) & 3] & bit == 0:
        m.apic.raised[vector & 0xFF] = when
    m.apic.irr[(vector >> 6) & 3] |= bit
    m.irq.active = 1
    m.irq.attention = 1


@inner
def raise_nmi(m, when):
    """An NMI arrives for the guest of level 0 or 1."""
    if m.irq.nmi_pending == 0:
        m.irq.nmi_raised = when
    m.irq.nmi_pending = 1
    m.irq.active = 1
    m.irq.attention = 1


@inner
def take_nmi(m, level):
    """The NMI that waits is taken by the guest of ``level``."""
    m.irq.nmi_pending = 0
    note_latency(m, level, 1, m.irq.nmi_raised)


@inner
def apic_error(m, bits):
    """Errors for the status register; a new one requests the interrupt of LVT error (SDM 11.5.3)."""
    apic = m.apic
    fresh = bits & ~apic.errors
    apic.errors |= bits
    entry = apic.lvt[LVT_ERROR_INDEX]
    if (
        fresh
        and entry & LVT_MASKED == 0
        and apic.svr & SVR_ENABLE
        and entry & 0xFF >= LOWEST_VECTOR
    ):
        apic_request(m, entry & 0xFF, m.ledger.time)


@inner
def is_apic_page(m, address):
    """Is the page at this physical address that of the local APIC in xAPIC mode?"""
    base = m.cpu.apic_base
    if base & (BASE_ENABLE | BASE_EXTD) != BASE_ENABLE:
        return False
    return (address ^ base) & BASE_ADDRESS == 0 and lshr(address, 52) == 0


@inner
def end_of_interrupt(m):
    vector = highest_vector(m.apic.isr)
    if vector >= 0:
        m.apic.isr[(vector >> 6) & 3] &= ~(1 << (vector & 63))
    m.irq.attention = 1


# ---------------------------------------------------------------- what may be delivered


@inner
def pending_source(m):
    """What waits for the guest: an NMI comes before the local APIC (SOURCE_*)."""
    if m.irq.nmi_pending:
        return SOURCE_NMI
    return SOURCE_LAPIC if apic_pending(m) >= 0 else SOURCE_NONE


@inner
def beats_tpr(m, source, vector):
    """Would the task priority let the event through?  It does not concern an NMI."""
    return source == SOURCE_NMI or vector >> 4 > m.apic.tpr >> 4


@inner
def blocked_by(source, vector, interrupt_flag, shadow, nmi_blocked, tpr):
    """Why the processor does not take an event: BLOCK_*, or NO_BLOCK.

    The order is Xen's (hvm_interrupt_blocked), after the check of GIF.
    """
    if source != SOURCE_NMI and interrupt_flag == 0:
        return BLOCK_RFLAGS_IE
    if shadow:
        return BLOCK_SHADOW
    if source == SOURCE_NMI:
        return BLOCK_NMI_IRET if nmi_blocked else NO_BLOCK
    return BLOCK_TPR if tpr >> 4 >= vector >> 4 else NO_BLOCK


@inner
def note_blocked(m, reason):
    """Keep the account of what waits: ``reason`` is BLOCK_* from now on, or NO_BLOCK."""
    led = m.ledger
    irq = m.irq
    if irq.blocked_reason:
        led.blocked_time[irq.blocked_reason - 1] += led.time - irq.blocked_since
    irq.blocked_since = led.time
    if reason >= 0 and irq.blocked_reason != reason + 1:
        led.blocked[reason] += 1
    irq.blocked_reason = reason + 1


# ---------------------------------------------------------------- the timer


@inner
def timer_mode(m):
    return lshr(m.apic.lvt[0], 17) & 3


@inner
def divisor_shift(m):
    """The divide configuration register: 2, 4 ... 128, then 1 (SDM figure 11-10)."""
    code = (m.apic.divide & 3) | (lshr(m.apic.divide, 1) & 4)
    return (code + 1) & 7


@inner
def start_timer(m):
    apic = m.apic
    apic.deadline = 0
    if timer_mode(m) < MODE_TSC_DEADLINE and apic.initial:
        m.ledger.clock_used = 1
        apic.deadline = m.ledger.time + ((apic.initial << divisor_shift(m)) << TIME_SHIFT)


@inner
def arm_tsc_deadline(m, value):
    apic = m.apic
    if timer_mode(m) != MODE_TSC_DEADLINE:
        return
    apic.tsc_deadline = value
    apic.deadline = 0
    if value:
        wait = value - read_tsc(m)
        wait = 1 if wait < 1 else wait
        wait = MAX_WAIT if wait > MAX_WAIT else wait
        apic.deadline = m.ledger.time + (wait << TIME_SHIFT)


@inner
def current_count(m):
    apic = m.apic
    if apic.deadline == 0 or timer_mode(m) == MODE_TSC_DEADLINE:
        return 0
    left = apic.deadline - m.ledger.time
    return lshr(left, TIME_SHIFT + divisor_shift(m)) if left > 0 else 0


@unit(Machine)
def apic_advance(m):
    """Let the timer fire when its time has come; 1 when it requested an interrupt."""
    apic = m.apic
    now = m.ledger.time
    due = apic.deadline
    if due == 0 or now < due:
        return 0
    if timer_mode(m) == MODE_PERIODIC and apic.initial:
        period = (apic.initial << divisor_shift(m)) << TIME_SHIFT
        apic.deadline += period * (1 + (now - apic.deadline) // period)
    else:
        apic.deadline = 0
        apic.tsc_deadline = 0
    if apic.lvt[0] & LVT_MASKED or apic.svr & SVR_ENABLE == 0:
        return 0
    vector = apic.lvt[0] & 0xFF
    if vector < LOWEST_VECTOR:
        apic_error(m, ERROR_RECEIVE_VECTOR)
        return 0
    apic_request(m, vector, due)
    return 1
