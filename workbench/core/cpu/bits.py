"""Bit tests, bit scans and the double-width compare-and-exchange: family BITS."""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import RAX, RBX, RCX, RDX, ST_OK, UF_DST_MEM, UF_SRC_IMM, Machine, Uop
from ..words import count_leading_zeros, count_trailing_zeros, popcount
from .exceptions import raise_gp0
from .flags import ZF, extend, get_rflags, set_carry, set_result, set_status, truncate
from .operands import (
    effective_address,
    read_memory,
    read_memory_update,
    read_reg,
    read_source,
    write_memory,
    write_reg,
)
from .ops import BSF, BSR, BT, BTC, BTR, CMPXCHG8B, CMPXCHG16B, POPCNT, TZCNT


@unit(Machine, Uop)
def _exec_bit_test(m, u):
    """BT, BTS, BTR, BTC; a register index reaches beyond the memory operand."""
    c = m.cpu
    lg = u.lg
    bits = 8 << lg
    in_memory = u.flags & UF_DST_MEM
    bit = u.imm if u.flags & UF_SRC_IMM else extend(read_reg(c, u.src, lg), lg)
    va = 0
    if in_memory:
        va = effective_address(m, u)
        if u.flags & UF_SRC_IMM == 0:
            va += (bit >> (3 + lg)) << lg
        a = read_memory(m, va, lg) if u.op == BT else read_memory_update(m, va, lg)
        if m.pending:
            return m.pending
    else:
        a = read_reg(c, u.dst, lg)
    mask = 1 << (bit & (bits - 1))
    set_carry(c, 1 if a & mask else 0)
    if u.op == BT:
        return ST_OK
    r = a | mask
    if u.op == BTR:
        r = a & ~mask
    elif u.op == BTC:
        r = a ^ mask
    if in_memory:
        return write_memory(m, va, lg, r)
    write_reg(c, u.dst, lg, r)
    return ST_OK


@inner
def _set_zero(c, zero):
    """ZF as given, the other flags clear."""
    c.lf_carry = 0
    c.lf_sign = 1
    c.lf_zero = 0 if zero else 1


@unit(Machine, Uop)
def _exec_scan(m, u):
    """BSF, BSR (destination unchanged for 0), POPCNT, TZCNT, LZCNT."""
    c = m.cpu
    op = u.op
    lg = u.lg
    bits = 8 << lg
    a = read_source(m, u)
    if m.pending:
        return m.pending
    if op == BSF or op == BSR:
        r = read_reg(c, u.dst, lg)
        if a != 0:
            r = count_trailing_zeros(a) if op == BSF else 63 - count_leading_zeros(a)
        write_reg(c, u.dst, lg, r)
        c.lf_carry = 0
        set_result(c, a, lg)
        return ST_OK
    if op == POPCNT:
        r = popcount(a)
        _set_zero(c, a == 0)
    else:
        r = bits
        if a != 0 and op == TZCNT:
            r = count_trailing_zeros(a)
        elif a != 0:
            r = count_leading_zeros(a) - (64 - bits)
        _set_zero(c, r == 0)
        set_carry(c, 1 if a == 0 else 0)
    write_reg(c, u.dst, lg, r)
    return ST_OK


@unit(Machine, Uop)
def _exec_cmpxchg_wide(m, u):
    """CMPXCHG8B and CMPXCHG16B (the latter wants 16-byte alignment)."""
    c = m.cpu
    lg = 2 if u.op == CMPXCHG8B else 3
    va = effective_address(m, u)
    if lg == 3 and va & 15:
        return raise_gp0(m)
    low = read_memory_update(m, va, lg)
    if m.pending:
        return m.pending
    high = read_memory_update(m, va + (1 << lg), lg)
    if m.pending:
        return m.pending
    equal = low == truncate(c.gpr[RAX], lg) and high == truncate(c.gpr[RDX], lg)
    flags = get_rflags(m) & ~ZF
    if equal:
        write_memory(m, va, lg, truncate(c.gpr[RBX], lg))
        write_memory(m, va + (1 << lg), lg, truncate(c.gpr[RCX], lg))
        flags |= ZF
    else:
        c.gpr[RAX] = low
        c.gpr[RDX] = high
    set_status(c, flags)
    return ST_OK


@inner
def exec_bits(m, u):
    """Family BITS."""
    if u.op <= BTC:
        return _exec_bit_test(m, u)
    if u.op == CMPXCHG8B or u.op == CMPXCHG16B:
        return _exec_cmpxchg_wide(m, u)
    return _exec_scan(m, u)
