"""Multiplication and division of any operand size: family MULDIV.

SF, ZF, PF and AF are undefined after a multiplication (here: of the low half, as emulators do) and
all flags after a division (here: unchanged).
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import RAX, RDX, ST_OK, UF_SRC_MEM, Machine, Uop
from ..words import lshr, smulh, udiv, ule, ult, umulh, urem
from .exceptions import DE, raise_exception
from .flags import extend, set_carry_overflow, set_result, truncate
from .operands import effective_address, read_memory, read_reg, write_reg
from .ops import DIV, IDIV, IMUL2, MUL


@inner
def _divide_wide(high, low, divisor):
    """Quotient of the unsigned 128-bit ``high:low`` by ``divisor`` > ``high``."""
    if high == 0:
        return udiv(low, divisor)
    quotient = 0
    rest = high
    for i in range(64):
        top = rest < 0
        rest = (rest << 1) | (lshr(low, 63 - i) & 1)
        quotient <<= 1
        if top or ule(divisor, rest):
            rest -= divisor
            quotient |= 1
    return quotient


@inner
def _source(m, u):
    if u.flags & UF_SRC_MEM:
        return read_memory(m, effective_address(m, u), u.lg)
    return read_reg(m.cpu, u.src, u.lg)


@inner
def _write_pair(c, lg, low, high):
    """The double-width result: AX for bytes, else rDX:rAX."""
    if lg == 0:
        c.gpr16[RAX] = (low & 0xFF) | ((high & 0xFF) << 8)
    else:
        write_reg(c, 0, lg, low)
        write_reg(c, RDX << (3 - lg), lg, high)


@unit(Machine, Uop)
def exec_multiply(m, u):
    """MUL, one-operand IMUL, and IMUL with two or three operands."""
    c = m.cpu
    op = u.op
    lg = u.lg
    bits = 8 << lg
    b = _source(m, u)
    if m.pending:
        return m.pending
    a = c.gpr[RAX]
    if op == IMUL2:
        a = u.imm if u.cond else read_reg(c, u.dst, lg)
    if op == MUL:
        a = truncate(a, lg)
        low = a * b
        high = umulh(a, b) if lg == 3 else lshr(low, bits)
        spill = 1 if truncate(high, lg) != 0 else 0
    else:
        a = extend(a, lg)
        b = extend(b, lg)
        low = a * b
        high = smulh(a, b) if lg == 3 else low >> bits
        spill = 1 if high != extend(low, lg) >> 63 else 0
    if op == IMUL2:
        write_reg(c, u.dst, lg, low)
    else:
        _write_pair(c, lg, low, high)
    set_carry_overflow(c, spill, spill)
    set_result(c, low, lg)
    return ST_OK


@inner
def _dividend_high(c, lg):
    return c.gpr8[1] if lg == 0 else truncate(c.gpr[RDX], lg)


@unit(Machine, Uop)
def exec_divide(m, u):
    """DIV: #DE when the quotient does not fit."""
    c = m.cpu
    lg = u.lg
    divisor = _source(m, u)
    if m.pending:
        return m.pending
    high = _dividend_high(c, lg)
    low = truncate(c.gpr[RAX], lg)
    if ule(divisor, high):
        return raise_exception(m, DE, 0, 0)
    if lg == 3:
        quotient = _divide_wide(high, low, divisor)
        rest = low - quotient * divisor
    else:
        whole = (high << (8 << lg)) | low
        quotient = udiv(whole, divisor)
        rest = urem(whole, divisor)
    _write_pair(c, lg, quotient, rest)
    return ST_OK


@unit(Machine, Uop)
def exec_divide_signed(m, u):
    """IDIV, as division of magnitudes: #DE when the quotient does not fit."""
    c = m.cpu
    lg = u.lg
    divisor = extend(_source(m, u), lg)
    if m.pending:
        return m.pending
    high = extend(_dividend_high(c, lg), lg)
    low = truncate(c.gpr[RAX], lg)
    negative = high < 0
    magnitude = -divisor if divisor < 0 else divisor
    if lg < 3:
        high = (high << (8 << lg)) | low
        low = -high if negative else high
        high = 0
        if magnitude == 0:
            return raise_exception(m, DE, 0, 0)
    elif negative:
        high = -high if low == 0 else ~high
        low = -low
    if ule(magnitude, high) and lg == 3:
        return raise_exception(m, DE, 0, 0)
    quotient = _divide_wide(high, low, magnitude)
    rest = low - quotient * magnitude
    # largest magnitude that fits: one more on the negative side
    limit = (1 << ((8 << lg) - 1)) - 1
    if negative != (divisor < 0):
        limit += 1
    if ult(limit, quotient):
        return raise_exception(m, DE, 0, 0)
    if negative != (divisor < 0):
        quotient = -quotient
    _write_pair(c, lg, quotient, -rest if negative else rest)
    return ST_OK


@inner
def exec_muldiv(m, u):
    """Family MULDIV."""
    if u.op == DIV:
        return exec_divide(m, u)
    if u.op == IDIV:
        return exec_divide_signed(m, u)
    return exec_multiply(m, u)
