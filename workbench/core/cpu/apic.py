"""The local APIC in x2APIC mode: registers, timer, priorities (SDM vol. 3, chapter 11).

One record holds it: on the bare machine the processor's own, under L0 the one that L0 emulates for
L1.  L2 has what L1 emulates; L2's accesses that L1 does not ask for reach L1's, as in Xen.  Timer
and time-stamp counter run at the rate of simulated time.

Not modelled: the MMIO page of xAPIC mode, level-triggered interrupts, other processors (an IPI that
does not reach this one is dropped), the error status register, interrupts by LINT pins.
"""

from __future__ import annotations

from ...arch import msr
from ..jit import inner, unit
from ..layout import ST_OK, Machine
from ..ledger import BLOCK_NMI_IRET, BLOCK_RFLAGS_IE, BLOCK_SHADOW, BLOCK_TPR
from ..structs import i64
from ..words import count_leading_zeros, lshr
from .exceptions import raise_gp0

BASE_EXTD, BASE_ENABLE = 1 << 10, 1 << 11
BASE_WRITABLE = 0xF_FFFF_FD00
(
    ID, VERSION, TPR, PPR, EOI, LDR, SVR, ISR, TMR, IRR, ESR, ICR, LVT_TIMER, LVT_ERROR,
    INITIAL_COUNT, CURRENT_COUNT, DIVIDE, SELF_IPI,
) = (
    0x02, 0x03, 0x08, 0x0A, 0x0B, 0x0D, 0x0F, 0x10, 0x18, 0x20, 0x28, 0x30, 0x32, 0x37, 0x38, 0x39,
    0x3E, 0x3F,
)  # fmt: skip
"""Registers: MSR number - 0x800."""
VERSION_WORD = 0x0005_0014
SVR_ENABLE = 1 << 8
LVT_MASKED = 1 << 16
MODE_ONE_SHOT, MODE_PERIODIC, MODE_TSC_DEADLINE = range(3)
ICR_FIXED, ICR_NMI = 0, 4
SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL = 0, 1, 2
BROADCAST = 0xFFFF_FFFF
TIME_SHIFT = 10
MAX_WAIT = 1 << 50
"""Longest wait of a timer, in cycles."""
NO_BLOCK = -1
SOURCE_NONE, SOURCE_NMI, SOURCE_LAPIC = range(3)


@inner
def read_tsc(m):
    """The time-stamp counter: simulated time in cycles, with the guest's offsets."""
    offset = m.hw.tsc_offset if m.hw.guest else 0
    return lshr(m.ledger.time, TIME_SHIFT) + m.cpu.tsc_adjust + offset


# ---------------------------------------------------------------- vectors and priorities


@inner
def _highest(words):
    """Highest vector whose bit is set in a 256-bit register, -1 none."""
    for i in range(3, -1, -1):
        if words[i]:
            return i * 64 + 63 - count_leading_zeros(words[i])
    return -1


@inner
def processor_priority(m):
    """PPR: the higher class of TPR and of the interrupt in service (SDM 11.8.3.1)."""
    tpr = m.apic.tpr
    service = _highest(m.apic.isr)
    if service < 0 or tpr >> 4 >= service >> 4:
        return tpr
    return service & 0xF0


@inner
def apic_pending(m):
    """Highest requested vector above those in service, -1 none; the TPR is not looked at."""
    if m.apic.svr & SVR_ENABLE == 0:
        return -1
    wanted = _highest(m.apic.irr)
    return wanted if wanted >> 4 > _highest(m.apic.isr) >> 4 else -1


@inner
def apic_acknowledge(m, vector):
    """The processor takes ``vector``: from requested to in service."""
    bit = 1 << (vector & 63)
    m.apic.irr[(vector >> 6) & 3] &= ~bit
    m.apic.isr[(vector >> 6) & 3] |= bit


@inner
def apic_request(m, vector):
    """An interrupt arrives."""
    m.apic.irr[(vector >> 6) & 3] |= 1 << (vector & 63)
    m.irq.active = 1
    m.irq.attention = 1


@inner
def _end_of_interrupt(m):
    vector = _highest(m.apic.isr)
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
def _timer_mode(m):
    return lshr(m.apic.lvt[0], 17) & 3


@inner
def _divisor_shift(m):
    """The divide configuration register: 2, 4 ... 128, then 1 (SDM figure 11-10)."""
    code = (m.apic.divide & 3) | (lshr(m.apic.divide, 1) & 4)
    return (code + 1) & 7


@inner
def _start_timer(m):
    apic = m.apic
    apic.deadline = 0
    if _timer_mode(m) < MODE_TSC_DEADLINE and apic.initial:
        apic.deadline = m.ledger.time + ((apic.initial << _divisor_shift(m)) << TIME_SHIFT)


@inner
def _arm_tsc_deadline(m, value):
    apic = m.apic
    if _timer_mode(m) != MODE_TSC_DEADLINE:
        return
    apic.tsc_deadline = value
    apic.deadline = 0
    if value:
        wait = value - read_tsc(m)
        wait = 1 if wait < 1 else wait
        wait = MAX_WAIT if wait > MAX_WAIT else wait
        apic.deadline = m.ledger.time + (wait << TIME_SHIFT)


@inner
def _current_count(m):
    apic = m.apic
    if apic.deadline == 0 or _timer_mode(m) == MODE_TSC_DEADLINE:
        return 0
    left = apic.deadline - m.ledger.time
    return lshr(left, TIME_SHIFT + _divisor_shift(m)) if left > 0 else 0


@unit(Machine)
def apic_advance(m):
    """Let the timer fire when its time has come; 1 when it requested an interrupt."""
    apic = m.apic
    now = m.ledger.time
    if apic.deadline == 0 or now < apic.deadline:
        return 0
    if _timer_mode(m) == MODE_PERIODIC and apic.initial:
        period = (apic.initial << _divisor_shift(m)) << TIME_SHIFT
        apic.deadline += period * (1 + (now - apic.deadline) // period)
    else:
        apic.deadline = 0
        apic.tsc_deadline = 0
    if apic.lvt[0] & LVT_MASKED or apic.svr & SVR_ENABLE == 0:
        return 0
    apic_request(m, apic.lvt[0] & 0xFF)
    return 1


# ---------------------------------------------------------------- registers


@inner
def _is_vector_table(register):
    return LVT_TIMER <= register <= LVT_ERROR


@unit(Machine, i64)
def apic_base_write(m, value):
    """IA32_APIC_BASE; leaving x2APIC mode resets the timer and what is pending."""
    c = m.cpu
    if value & BASE_EXTD and value & BASE_ENABLE == 0:
        return raise_gp0(m)
    if c.apic_base & BASE_EXTD and value & BASE_EXTD == 0:
        apic = m.apic
        apic.deadline = 0
        for i in range(4):
            apic.irr[i] = 0
            apic.isr[i] = 0
    elif c.apic_base & BASE_EXTD == 0 and value & BASE_EXTD:
        m.apic.svr = 0xFF
        for i in range(6):
            m.apic.lvt[i] = LVT_MASKED
    c.apic_base = value & BASE_WRITABLE
    return ST_OK


@unit(Machine, i64)
def apic_read(m, number):
    """RDMSR of an x2APIC register or of the TSC deadline: ``m.result``, or #GP."""
    apic = m.apic
    if number == msr.IA32_TSC_DEADLINE:
        m.result = apic.tsc_deadline if apic.deadline else 0
        return ST_OK
    register = number - msr.X2APIC_FIRST
    if m.cpu.apic_base & BASE_EXTD == 0:
        return raise_gp0(m)
    m.result = 0
    if register == VERSION:
        m.result = VERSION_WORD
    elif register == TPR:
        m.result = apic.tpr
    elif register == PPR:
        m.result = processor_priority(m)
    elif register == LDR:
        m.result = 1
    elif register == SVR:
        m.result = apic.svr
    elif register == ICR:
        m.result = apic.icr
    elif register == INITIAL_COUNT:
        m.result = apic.initial
    elif register == CURRENT_COUNT:
        m.result = _current_count(m)
    elif register == DIVIDE:
        m.result = apic.divide
    elif _is_vector_table(register):
        m.result = apic.lvt[register - LVT_TIMER]
    elif ISR <= register < ISR + 8:
        m.result = lshr(apic.isr[(register >> 1) & 3], 32 * (register & 1)) & 0xFFFF_FFFF
    elif IRR <= register < IRR + 8:
        m.result = lshr(apic.irr[(register >> 1) & 3], 32 * (register & 1)) & 0xFFFF_FFFF
    elif not (register == ID or register == ESR or TMR <= register < TMR + 8):
        return raise_gp0(m)
    return ST_OK


@inner
def _send(m, value):
    """Interrupt command: only this processor (number 0) is there to receive."""
    shorthand = lshr(value, 18) & 3
    target = lshr(value, 32)
    here = shorthand == SHORTHAND_SELF or shorthand == SHORTHAND_ALL
    if shorthand == SHORTHAND_NONE and (target == 0 or target == BROADCAST):
        here = True
    if not here:
        return
    kind = lshr(value, 8) & 7
    if kind == ICR_FIXED and value & 0xFF >= 16:
        apic_request(m, value & 0xFF)
    elif kind == ICR_NMI:
        m.irq.nmi_pending = 1


@inner
def _write_timer_register(m, register, value):
    apic = m.apic
    if register == INITIAL_COUNT:
        apic.initial = value & 0xFFFF_FFFF
        _start_timer(m)
    elif register == DIVIDE:
        apic.divide = value & 0xB
        if apic.deadline and _timer_mode(m) < MODE_TSC_DEADLINE:
            _start_timer(m)
    else:
        index = register - LVT_TIMER
        if index == 0 and (value ^ apic.lvt[0]) & (3 << 17):
            apic.deadline = 0
        apic.lvt[index & 7] = value & 0x7_17FF


@unit(Machine, i64, i64)
def apic_write(m, number, value):
    """WRMSR of an x2APIC register or of the TSC deadline: ST_OK, or #GP pending."""
    apic = m.apic
    m.irq.active = 1
    m.irq.attention = 1
    if number == msr.IA32_TSC_DEADLINE:
        _arm_tsc_deadline(m, value)
        return ST_OK
    register = number - msr.X2APIC_FIRST
    if m.cpu.apic_base & BASE_EXTD == 0 or (register != ICR and lshr(value, 32)):
        return raise_gp0(m)
    if register == EOI:
        if value:
            return raise_gp0(m)
        _end_of_interrupt(m)
    elif register == TPR:
        if value & ~0xFF:
            return raise_gp0(m)
        apic.tpr = value
        if m.hw.guest == 0:
            m.cpu.cr8 = value >> 4
    elif register == SVR:
        apic.svr = value & 0x1FF
    elif register == ICR:
        apic.icr = value & ~(1 << 12)
        _send(m, value)
    elif register == SELF_IPI:
        if value & 0xFF >= 16:
            apic_request(m, value & 0xFF)
    elif register == INITIAL_COUNT or register == DIVIDE or _is_vector_table(register):
        _write_timer_register(m, register, value)
    elif register != ESR:
        return raise_gp0(m)
    return ST_OK
