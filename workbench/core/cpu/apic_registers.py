"""The local APIC's registers: as MSRs in x2APIC mode, in a page of memory in xAPIC mode (SDM 11.4, 11.12).

A register has one number in both modes: MSR number - 0x800, or offset in the page / 16.  What is no
register raises #GP as an MSR, and sets a bit of the error status register in the page.

Not modelled: accesses to the page that are not 32 bits wide and aligned (narrow reads get the bytes
asked for, wide ones zeros above; writes use the low 32 bits), remote reads, INIT and SIPI.
"""

from __future__ import annotations

from ...arch import msr
from ..jit import inner, unit
from ..layout import ST_OK, Machine
from ..structs import i64
from ..words import lshr
from .apic import (
    BASE_ENABLE,
    BASE_EXTD,
    ERROR_REGISTER,
    ERROR_SEND_VECTOR,
    LOWEST_VECTOR,
    LVT_MASKED,
    MODE_TSC_DEADLINE,
    SVR_ENABLE,
    apic_error,
    apic_request,
    arm_tsc_deadline,
    current_count,
    end_of_interrupt,
    processor_priority,
    raise_nmi,
    start_timer,
    timer_mode,
)
from .exceptions import raise_gp0

BASE_WRITABLE = 0xF_FFFF_FD00
(
    ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR, ISR, TMR, IRR, ESR, ICR, ICR_HIGH, LVT_TIMER,
    LVT_ERROR, INITIAL_COUNT, CURRENT_COUNT, DIVIDE, SELF_IPI,
) = (
    0x02, 0x03, 0x08, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F, 0x10, 0x18, 0x20, 0x28, 0x30, 0x31, 0x32,
    0x37, 0x38, 0x39, 0x3E, 0x3F,
)  # fmt: skip
VERSION_WORD = 0x0005_0014
X2APIC_LDR = 1
"""Logical number of processor 0: cluster 0, first member."""
RESET_SVR, RESET_DFR = 0xFF, 0xFFFF_FFFF
N_LVT = 6
ICR_FIXED, ICR_LOWEST, ICR_NMI = 0, 1, 4
ICR_LOGICAL, ICR_STATUS = 1 << 11, 1 << 12
SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL = 0, 1, 2
BROADCAST, XAPIC_BROADCAST = 0xFFFF_FFFF, 0xFF


@inner
def is_vector_table(register):
    return LVT_TIMER <= register <= LVT_ERROR


# ---------------------------------------------------------------- switching modes


@inner
def _reset(m):
    apic = m.apic
    apic.tpr = 0
    apic.svr = RESET_SVR
    apic.icr = 0
    apic.divide = 0
    apic.initial = 0
    apic.deadline = 0
    apic.tsc_deadline = 0
    apic.ldr = 0
    apic.dfr = RESET_DFR
    apic.esr = 0
    apic.errors = 0
    for i in range(4):
        apic.irr[i] = 0
        apic.isr[i] = 0
    for i in range(N_LVT):
        apic.lvt[i] = LVT_MASKED
    if m.hw.guest == 0:
        m.cpu.cr8 = 0


@unit(Machine, i64)
def apic_base_write(m, value):
    """IA32_APIC_BASE: the transitions of SDM figure 11-27; switching off resets the local APIC."""
    c = m.cpu
    mode = value & (BASE_ENABLE | BASE_EXTD)
    before = c.apic_base & (BASE_ENABLE | BASE_EXTD)
    if mode == BASE_EXTD or (before == 0 and mode & BASE_EXTD):
        return raise_gp0(m)
    if before & BASE_EXTD and mode == BASE_ENABLE:
        return raise_gp0(m)
    if before and mode == 0:
        _reset(m)
    c.apic_base = value & BASE_WRITABLE
    return ST_OK


# ---------------------------------------------------------------- reading


@inner
def _read_bits(words, index):
    """One of the eight 32-bit parts of IRR or ISR."""
    return lshr(words[(index >> 1) & 3], 32 * (index & 1)) & 0xFFFF_FFFF


@unit(Machine, i64, i64)
def apic_register(m, register, extended):
    """A register's value in ``m.result``: 1, or 0 where there is none; ``extended``: x2APIC mode."""
    apic = m.apic
    m.result = 0
    if register == VERSION:
        m.result = VERSION_WORD
    elif register == TPR:
        m.result = apic.tpr
    elif register == PPR:
        m.result = processor_priority(m)
    elif register == LDR:
        m.result = X2APIC_LDR if extended else apic.ldr
    elif register == SVR:
        m.result = apic.svr
    elif register == ESR:
        m.result = apic.esr
    elif register == ICR:
        m.result = apic.icr if extended else apic.icr & 0xFFFF_FFFF
    elif register == INITIAL_COUNT:
        m.result = apic.initial
    elif register == CURRENT_COUNT:
        m.result = current_count(m)
    elif register == DIVIDE:
        m.result = apic.divide
    elif is_vector_table(register):
        m.result = apic.lvt[(register - LVT_TIMER) & 7]
    elif ISR <= register < ISR + 8:
        m.result = _read_bits(apic.isr, register)
    elif IRR <= register < IRR + 8:
        m.result = _read_bits(apic.irr, register)
    elif register == ICR_HIGH and extended == 0:
        m.result = lshr(apic.icr, 32)
    elif register == DFR and extended == 0:
        m.result = apic.dfr
    elif register == EOI and extended == 0:
        return 1
    elif not (register == ID or TMR <= register < TMR + 8):
        return 0
    return 1


@unit(Machine, i64)
def apic_read(m, number):
    """RDMSR of an x2APIC register or of the TSC deadline: ``m.result``, or #GP."""
    if number == msr.IA32_TSC_DEADLINE:
        m.result = m.apic.tsc_deadline if m.apic.deadline else 0
        return ST_OK
    if m.cpu.apic_base & BASE_EXTD == 0 or apic_register(m, number - msr.X2APIC_FIRST, 1) == 0:
        return raise_gp0(m)
    return ST_OK


@unit(Machine, i64)
def xapic_read(m, offset):
    """The 32-bit register at ``offset`` of the page."""
    if apic_register(m, lshr(offset, 4) & 0xFF, 0) == 0:
        apic_error(m, ERROR_REGISTER)
    return m.result


# ---------------------------------------------------------------- writing


@inner
def _is_target(m, value, extended):
    """Is this processor, number 0, among the receivers of an interrupt command?"""
    shorthand = lshr(value, 18) & 3
    if shorthand != SHORTHAND_NONE:
        return shorthand == SHORTHAND_SELF or shorthand == SHORTHAND_ALL
    target = lshr(value, 32) if extended else lshr(value, 56)
    if target == (BROADCAST if extended else XAPIC_BROADCAST):
        return True
    if value & ICR_LOGICAL == 0:
        return target == 0
    if extended:
        return lshr(target, 16) == 0 and target & X2APIC_LDR != 0
    return target & lshr(m.apic.ldr, 24) != 0


@inner
def _send(m, value, extended):
    """Interrupt command: only this processor is there to receive."""
    kind = lshr(value, 8) & 7
    fixed = kind == ICR_FIXED or kind == ICR_LOWEST
    if fixed and value & 0xFF < LOWEST_VECTOR:
        apic_error(m, ERROR_SEND_VECTOR)
    elif _is_target(m, value, extended):
        if fixed:
            apic_request(m, value & 0xFF, m.ledger.time)
        elif kind == ICR_NMI:
            raise_nmi(m, m.ledger.time)


@inner
def _write_vector_table(m, index, value):
    apic = m.apic
    if index == 0 and (value ^ apic.lvt[0]) & (3 << 17):
        apic.deadline = 0
    if apic.svr & SVR_ENABLE == 0:
        value |= LVT_MASKED
    apic.lvt[index & 7] = value & 0x7_17FF


@inner
def _write_svr(m, value):
    """Switched off by software: all vector-table entries are masked (SDM 11.4.7.2)."""
    apic = m.apic
    apic.svr = value & 0x1FF
    if value & SVR_ENABLE == 0:
        for i in range(N_LVT):
            apic.lvt[i] |= LVT_MASKED


@inner
def _write_timer(m, register, value):
    apic = m.apic
    if register == INITIAL_COUNT:
        apic.initial = value & 0xFFFF_FFFF
        start_timer(m)
        return
    apic.divide = value & 0xB
    if apic.deadline and timer_mode(m) < MODE_TSC_DEADLINE:
        start_timer(m)


@inner
def _write_xapic_only(m, register, value):
    """Registers that exist in the page alone; 0 where there is none."""
    apic = m.apic
    if register == ICR_HIGH:
        apic.icr = (apic.icr & 0xFFFF_FFFF) | ((value & 0xFF00_0000) << 32)
    elif register == LDR:
        apic.ldr = value & 0xFF00_0000
    elif register == DFR:
        apic.dfr = value | 0x0FFF_FFFF
    else:
        return 0
    return 1


@unit(Machine, i64, i64, i64)
def apic_register_write(m, register, value, extended):
    """Write a register: 1, or 0 where none can be written."""
    apic = m.apic
    m.irq.active = 1
    m.irq.attention = 1
    if register == EOI:
        end_of_interrupt(m)
    elif register == TPR:
        apic.tpr = value & 0xFF
        if m.hw.guest == 0:
            m.cpu.cr8 = lshr(value & 0xFF, 4)
    elif register == SVR:
        _write_svr(m, value)
    elif register == ICR:
        if extended == 0:
            value |= apic.icr & ~0xFFFF_FFFF
        apic.icr = value & ~ICR_STATUS
        _send(m, value, extended)
    elif register == SELF_IPI and extended:
        if value & 0xFF < LOWEST_VECTOR:
            apic_error(m, ERROR_SEND_VECTOR)
        else:
            apic_request(m, value & 0xFF, m.ledger.time)
    elif register == INITIAL_COUNT or register == DIVIDE:
        _write_timer(m, register, value)
    elif is_vector_table(register):
        _write_vector_table(m, register - LVT_TIMER, value)
    elif register == ESR:
        apic.esr = apic.errors
        apic.errors = 0
    elif extended == 0:
        return _write_xapic_only(m, register, value)
    else:
        return 0
    return 1


@unit(Machine, i64, i64)
def apic_write(m, number, value):
    """WRMSR of an x2APIC register or of the TSC deadline: ST_OK, or #GP pending."""
    if number == msr.IA32_TSC_DEADLINE:
        m.irq.active = 1
        m.irq.attention = 1
        arm_tsc_deadline(m, value)
        return ST_OK
    register = number - msr.X2APIC_FIRST
    if m.cpu.apic_base & BASE_EXTD == 0 or (register != ICR and lshr(value, 32)):
        return raise_gp0(m)
    if (register == EOI or register == ESR) and value:
        return raise_gp0(m)
    if register == TPR and value & ~0xFF:
        return raise_gp0(m)
    if apic_register_write(m, register, value, 1) == 0:
        return raise_gp0(m)
    return ST_OK


@unit(Machine, i64, i64)
def xapic_write(m, offset, value):
    """Write the 32-bit register at ``offset`` of the page."""
    if apic_register_write(m, lshr(offset, 4) & 0xFF, value & 0xFFFF_FFFF, 0) == 0:
        apic_error(m, ERROR_REGISTER)
    return ST_OK
