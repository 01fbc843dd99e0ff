"""Control, debug and segment registers, and INVPCID: family REGISTER.

What debug registers do is in ``debug``.  Not modelled: XCR0 (XSETBV raises #UD).
"""

from __future__ import annotations

from ..hvm.insn import I_XSETBV
from ..hvm.intercepts import cr_exit, dr_exit, effective_cr, insn_exit, read_cr
from ..hvm.vmx.vapic import vapic_write_tpr
from ..jit import inner, unit
from ..layout import (
    BACKEND_VMX,
    CS,
    SS,
    ST_BRANCH,
    ST_OK,
    ST_VMEXIT,
    UF_DST_MEM,
    Machine,
    Uop,
)
from ..mmu.tlb import mov_cr3
from ..structs import i64
from ..words import lshr
from .control_bits import CR0_TS, CR4_DE, CR4_PCIDE, CR4_UMIP, write_cr0, write_cr4
from .debug import DR6_BD, DR7_GD, note_debug_state, raise_debug
from .exceptions import raise_gp0, raise_ud
from .invpcid import exec_invpcid
from .operands import effective_address, read_source, write_memory, write_reg
from .ops import (
    CLTS,
    INVPCID,
    LMSW,
    MOV_FROM_CR,
    MOV_FROM_DR,
    MOV_FROM_SEG,
    MOV_TO_CR,
    MOV_TO_DR,
    MOV_TO_SEG,
    SMSW,
    XSETBV,
)
from .segments import load_data_segment

CR3_RESERVED = ~((1 << 52) - 1)
CR3_KEEP = -(1 << 63)
LMSW_BITS = 0xF
SHADOW_MOV_SS = 2
DR6_FIXED, DR6_BITS = 0xFFFF0FF0, 0xE00F
DR7_FIXED, DR7_BITS = 0x400, 0xFFFF2BFF


@unit(Machine, i64)
def control_register(m, number):
    """Control register as held by the processor."""
    c = m.cpu
    if number == 0:
        return c.cr0
    if number == 2:
        return c.cr2
    if number == 3:
        return c.cr3
    if number == 4:
        return c.cr4
    return c.cr8


@unit(Machine, i64, i64)
def write_control_register(m, number, value):
    """MOV to a control register past all intercepts: ST_OK or #GP."""
    c = m.cpu
    if number == 0:
        return write_cr0(m, value)
    if number == 4:
        return write_cr4(m, value)
    if number == 2:
        c.cr2 = value
    elif number == 3:
        keep = CR3_KEEP if c.cr4 & CR4_PCIDE else 0
        if value & CR3_RESERVED & ~keep:
            return raise_gp0(m)
        mov_cr3(m, value)
    else:
        if value & ~0xF:
            return raise_gp0(m)
        if m.hw.vapic >= 0:
            return vapic_write_tpr(m, value)
        c.cr8 = value
        if m.hw.guest == 0:
            m.apic.tpr = value << 4
    return ST_OK


@unit(Machine, Uop)
def exec_control_register(m, u):
    """MOV to and from CR0, CR2, CR3, CR4, CR8; CLTS; LMSW.  ``imm`` is the register's number."""
    c = m.cpu
    op = u.op
    if c.cpl != 0:
        return raise_gp0(m)
    number = u.imm
    register = u.src
    if op == MOV_FROM_CR:
        if m.hw.guest:
            if cr_exit(m, u, number, u.dst, 0, 0):
                return ST_VMEXIT
            c.gpr[u.dst] = read_cr(m, number)
            return ST_OK
        c.gpr[u.dst] = control_register(m, number)
        return ST_OK
    if op == MOV_TO_CR:
        value = c.gpr[u.src]
    elif op == CLTS:
        number = 0
        value = c.cr0 & ~CR0_TS
    else:  # LMSW cannot clear PE
        number = 0
        word = read_source(m, u)
        if m.pending:
            return m.pending
        value = (c.cr0 & ~LMSW_BITS) | (word & LMSW_BITS) | (c.cr0 & 1)
        register = word
    if m.hw.guest:
        if cr_exit(m, u, number, register, 1, value):
            return ST_VMEXIT
        value = effective_cr(m, number, value)
    status = write_control_register(m, number, value)
    return ST_BRANCH if status == ST_OK else status


@unit(Machine, Uop)
def exec_debug_register(m, u):
    """MOV to and from DR0..DR7; ``imm`` is the register's number."""
    c = m.cpu
    named = u.imm & 7
    number = named
    write = 1 if u.op == MOV_TO_DR else 0
    vmx = m.hw.guest != 0 and m.hw.backend == BACKEND_VMX
    if vmx:  # comes before the checks (SDM vol. 3, 26.1.3)
        if dr_exit(m, u, named, u.src if write else u.dst, write):
            return ST_VMEXIT
    if number == 4 or number == 5:
        if c.cr4 & CR4_DE:
            return raise_ud(m)
        number += 2
    if c.cpl != 0:
        return raise_gp0(m)
    if m.hw.guest and not vmx:
        if dr_exit(m, u, named, u.src if write else u.dst, write):
            return ST_VMEXIT
    if c.dr[7] & DR7_GD:
        return raise_debug(m, DR6_BD, 1)
    if write == 0:
        c.gpr[u.dst] = c.dr[number]
        return ST_OK
    value = c.gpr[u.src]
    if number >= 6:
        if lshr(value, 32):
            return raise_gp0(m)
        if number == 6:
            value = (value & DR6_BITS) | DR6_FIXED
        else:
            value = (value & DR7_BITS) | DR7_FIXED
    c.dr[number] = value
    note_debug_state(m)
    return ST_BRANCH if m.irq.attention else ST_OK


@inner
def _smsw(m, u):
    c = m.cpu
    if c.cr4 & CR4_UMIP and c.cpl != 0:
        return raise_gp0(m)
    value = c.cr0
    if m.hw.guest:
        # SVM counts SMSW as a read of CR0 (APM vol. 2, 15.9); on VMX it never exits
        if cr_exit(m, u, 0, 0, 0, 0):
            return ST_VMEXIT
        value = read_cr(m, 0)
    if u.flags & UF_DST_MEM:
        return write_memory(m, effective_address(m, u), 1, value)
    write_reg(c, u.dst, u.lg, value)
    return ST_OK


@inner
def _from_segment(m, u):
    """MOV from a segment register; a register destination is zero-extended."""
    c = m.cpu
    selector = c.seg_sel[u.src & 7] & 0xFFFF
    if u.flags & UF_DST_MEM:
        return write_memory(m, effective_address(m, u), 1, selector)
    write_reg(c, u.dst, u.lg, selector)
    return ST_OK


@inner
def _to_segment(m, u):
    c = m.cpu
    index = u.dst & 7
    if index == CS:
        return raise_ud(m)
    value = read_source(m, u)
    if m.pending:
        return m.pending
    status = load_data_segment(m, index, value, c.cpl)
    if status == ST_OK and index == SS:
        c.shadow = SHADOW_MOV_SS
        return ST_BRANCH
    return status


@unit(Machine, Uop)
def exec_register(m, u):
    """Family REGISTER."""
    op = u.op
    if op == MOV_FROM_CR or op == MOV_TO_CR or op == CLTS or op == LMSW:
        return exec_control_register(m, u)
    if op == MOV_FROM_DR or op == MOV_TO_DR:
        return exec_debug_register(m, u)
    if op == SMSW:
        return _smsw(m, u)
    if op == MOV_FROM_SEG:
        return _from_segment(m, u)
    if op == MOV_TO_SEG:
        return _to_segment(m, u)
    if op == INVPCID:
        return exec_invpcid(m, u)
    if op == XSETBV and m.hw.guest and m.cpu.cpl == 0:
        if insn_exit(m, u, I_XSETBV, 0):
            return ST_VMEXIT
    return raise_ud(m)
