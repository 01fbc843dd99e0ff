"""Integer arithmetic and logic of any operand size: families ALU and FLAG.

Sources: SDM vol. 2 / APM vol. 3, the instructions' own pages.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import (
    RAX,
    ST_BRANCH,
    ST_OK,
    UF_DST_MEM,
    Machine,
    Uop,
)
from ..words import lshr
from .exceptions import raise_gp0
from .flags import AF as FLAG_AF
from .flags import CF as FLAG_CF
from .flags import (
    DF,
    IF,
    IOPL,
    add_carries,
    get_rflags,
    keep_carry,
    set_carries,
    set_carry,
    set_result,
    set_status,
    sub_carries,
    truncate,
)
from .flags import PF as FLAG_PF
from .flags import SF as FLAG_SF
from .flags import ZF as FLAG_ZF
from .operands import (
    effective_address,
    read_destination,
    read_memory,
    read_reg,
    read_source,
    write_destination,
    write_reg,
)
from .ops import (
    ADC,
    ADD,
    AND,
    CLC,
    CLD,
    CLI,
    CMC,
    CMP,
    CMPXCHG,
    DEC,
    INC,
    LAHF,
    NEG,
    NOT,
    OR,
    SAHF,
    SBB,
    STC,
    STD,
    STI,
    SUB,
    TEST,
    XADD,
    XOR,
)

SHADOW_STI = 1


@inner
def _compare(c, a, b, lg):
    r = a - b
    set_carries(c, sub_carries(a, b, r), lg)
    set_result(c, r, lg)


@unit(Machine, Uop)
def _exec_test(m, u):
    """CMP and TEST: no write, so a memory operand needs read access only."""
    c = m.cpu
    lg = u.lg
    b = read_source(m, u)
    if m.pending:
        return m.pending
    if u.flags & UF_DST_MEM:
        a = read_memory(m, effective_address(m, u), lg)
        if m.pending:
            return m.pending
    else:
        a = read_reg(c, u.dst, lg)
    if u.op == CMP:
        _compare(c, a, b, lg)
    else:
        c.lf_carry = 0
        set_result(c, a & b, lg)
    return ST_OK


@unit(Machine, Uop)
def _exec_exchange(m, u):
    """XADD, XCHG, CMPXCHG."""
    c = m.cpu
    lg = u.lg
    b = read_reg(c, u.src, lg)
    a = read_destination(m, u)
    if m.pending:
        return m.pending
    if u.op != CMPXCHG:
        r = b
        if u.op == XADD:
            r = a + b
            set_carries(c, add_carries(a, b, r), lg)
            set_result(c, r, lg)
        if u.flags & UF_DST_MEM:  # first: the source may be part of the address
            write_destination(m, u, r)
        write_reg(c, u.src, lg, a)
        if u.flags & UF_DST_MEM == 0:
            write_reg(c, u.dst, lg, r)
        return ST_OK
    accumulator = truncate(c.gpr[RAX], lg)
    _compare(c, accumulator, a, lg)
    if truncate(accumulator - a, lg) == 0:
        return write_destination(m, u, b)
    write_destination(m, u, a)
    write_reg(c, 0, lg, a)
    return ST_OK


@unit(Machine, Uop)
def exec_alu(m, u):
    """Family ALU."""
    c = m.cpu
    op = u.op
    lg = u.lg
    if op == CMP or op == TEST:
        return _exec_test(m, u)
    if op > NOT:
        return _exec_exchange(m, u)
    b = read_source(m, u)
    if m.pending:
        return m.pending
    a = read_destination(m, u)
    if m.pending:
        return m.pending
    r = 0
    if op == ADD:
        r = a + b
        set_carries(c, add_carries(a, b, r), lg)
    elif op == SUB:
        r = a - b
        set_carries(c, sub_carries(a, b, r), lg)
    elif op == ADC:
        r = a + b + lshr(c.lf_carry, 63)
        set_carries(c, add_carries(a, b, r), lg)
    elif op == SBB:
        r = a - b - lshr(c.lf_carry, 63)
        set_carries(c, sub_carries(a, b, r), lg)
    elif op == AND:
        r = a & b
        c.lf_carry = 0
    elif op == OR:
        r = a | b
        c.lf_carry = 0
    elif op == XOR:
        r = a ^ b
        c.lf_carry = 0
    elif op == INC:
        r = a + 1
        old = c.lf_carry
        set_carries(c, add_carries(a, 1, r), lg)
        c.lf_carry = keep_carry(old, c.lf_carry)
    elif op == DEC:
        r = a - 1
        old = c.lf_carry
        set_carries(c, sub_carries(a, 1, r), lg)
        c.lf_carry = keep_carry(old, c.lf_carry)
    elif op == NEG:
        r = -a
        set_carries(c, sub_carries(0, a, r), lg)
    else:
        r = ~a
    if op != NOT:
        set_result(c, r, lg)
    return write_destination(m, u, r)


@inner
def _may_change_if(m):
    return m.cpu.cpl <= lshr(m.cpu.sysflags & IOPL, 12)


@unit(Machine, Uop)
def exec_flag(m, u):
    """Family FLAG: single flags, LAHF/SAHF, CLI/STI."""
    c = m.cpu
    op = u.op
    if op == CMC:
        set_carry(c, lshr(c.lf_carry, 63) ^ 1)
    elif op == STC:
        set_carry(c, 1)
    elif op == CLC:
        set_carry(c, 0)
    elif op == STD:
        c.sysflags |= DF
    elif op == CLD:
        c.sysflags &= ~DF
    elif op == LAHF:
        c.gpr8[1] = get_rflags(m) & 0xFF
    elif op == SAHF:
        low = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF
        set_status(c, (get_rflags(m) & ~low) | (c.gpr8[1] & low))
    elif op == CLI:
        if not _may_change_if(m):
            return raise_gp0(m)
        c.sysflags &= ~IF
    elif op == STI:
        if not _may_change_if(m):
            return raise_gp0(m)
        if c.sysflags & IF == 0:
            c.shadow = SHADOW_STI
        c.sysflags |= IF
        return ST_BRANCH  # so that the run loop sees the shadow
    return ST_OK
