"""Moves and conversions of any operand size: family MOVE."""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import RAX, RBX, RDX, ST_OK, UF_SRC_MEM, Machine, Uop
from ..words import lshr
from .flags import condition, extend, truncate
from .operands import (
    NO_SEGMENT,
    effective_address,
    effective_offset,
    read_memory,
    read_reg,
    read_source,
    write_destination,
    write_memory,
    write_reg,
)
from .ops import (
    BSWAP,
    CBW,
    CMOVCC,
    CWD,
    LEA,
    MOV,
    MOV_FROM_OFFSET,
    MOV_TO_OFFSET,
    MOVSX,
    MOVZX,
    SETCC,
)


@inner
def swap_bytes(value):
    """The 8 bytes of a word in reverse order."""
    v = lshr(value, 32) | (value << 32)
    v = (lshr(v, 16) & 0x0000FFFF0000FFFF) | ((v & 0x0000FFFF0000FFFF) << 16)
    return (lshr(v, 8) & 0x00FF00FF00FF00FF) | ((v & 0x00FF00FF00FF00FF) << 8)


@inner
def _segment_base(m, u):
    return m.cpu.seg_base[u.seg & 7] if u.seg != NO_SEGMENT else 0


@unit(Machine, Uop)
def _exec_widen(m, u):
    """MOVZX and MOVSX (MOVSXD): the source's size is in ``imm``."""
    c = m.cpu
    if u.flags & UF_SRC_MEM:
        value = read_memory(m, effective_address(m, u), u.imm)
        if m.pending:
            return m.pending
    else:
        value = read_reg(c, u.src, u.imm)
    if u.op == MOVSX:
        value = extend(value, u.imm)
    write_reg(c, u.dst, u.lg, value)
    return ST_OK


@unit(Machine, Uop)
def exec_move(m, u):
    """Family MOVE."""
    c = m.cpu
    op = u.op
    lg = u.lg
    if op == MOV:
        value = read_source(m, u)
        if m.pending:
            return m.pending
        return write_destination(m, u, value)
    if op == MOVZX or op == MOVSX:
        return _exec_widen(m, u)
    if op == LEA:
        write_reg(c, u.dst, lg, effective_offset(m, u))
    elif op == SETCC:
        return write_destination(m, u, condition(c, u.cond))
    elif op == CMOVCC:
        value = read_source(m, u)
        if m.pending:
            return m.pending
        if condition(c, u.cond) == 0:
            value = read_reg(c, u.dst, lg)
        write_reg(c, u.dst, lg, value)
    elif op == BSWAP:
        swapped = swap_bytes(read_reg(c, u.dst, lg))
        write_reg(c, u.dst, lg, swapped if lg == 3 else lshr(swapped, 32) if lg == 2 else 0)
    elif op == CBW:
        write_reg(c, 0, lg, extend(c.gpr[RAX], lg - 1))
    elif op == CWD:
        write_reg(c, RDX << (3 - lg), lg, extend(c.gpr[RAX], lg) >> 63)
    elif op == MOV_FROM_OFFSET:
        value = read_memory(m, u.imm + _segment_base(m, u), lg)
        if m.pending:
            return m.pending
        write_reg(c, 0, lg, value)
    elif op == MOV_TO_OFFSET:
        return write_memory(m, u.imm + _segment_base(m, u), lg, truncate(c.gpr[RAX], lg))
    else:  # XLAT
        va = c.gpr[RBX] + c.gpr8[0]
        if u.asize:
            va &= 0xFFFFFFFF
        value = read_memory(m, va + _segment_base(m, u), 0)
        if m.pending:
            return m.pending
        c.gpr8[0] = value
    return ST_OK
