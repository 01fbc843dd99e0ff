"""Shifts and rotates of any operand size: family SHIFT.

OF is defined for counts of one only; for other counts it gets what the same formula gives.  AF is
cleared (undefined in the manuals).  A masked count of 0 changes no flag.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import RCX, UF_SRC_IMM, Machine, Uop
from ..words import lshr
from .flags import extend, set_carry_overflow, set_result, truncate
from .operands import read_destination, read_reg, write_destination
from .ops import RCL, RCR, ROL, ROR, SAR, SHLD, SHR


@inner
def _top(value, bits):
    """Most significant bit of a ``bits`` wide value."""
    return lshr(value, bits - 1) & 1


@inner
def _shift(c, op, a, n, bits, lg):
    """SHL, SHR, SAR by ``n`` >= 1; ``a`` zero-extended."""
    if op == SAR:
        wide = extend(a, lg)
        last = wide >> min(n - 1, 63)
        r = wide >> min(n, 63)
        carry = last & 1
        overflow = 0
    elif op == SHR:
        last = lshr(a, n - 1)
        r = lshr(last, 1)
        carry = last & 1
        overflow = _top(last, bits) ^ _top(r, bits)
    else:
        last = a << (n - 1)
        r = last << 1
        carry = _top(last, bits)
        overflow = carry ^ _top(r, bits)
    set_carry_overflow(c, carry, overflow)
    set_result(c, r, lg)
    return r


@inner
def _rotate(c, op, a, n, bits):
    """ROL and ROR; the count is already taken modulo ``bits``."""
    if op == ROR:
        n = bits - n
    n &= bits - 1
    r = a if n == 0 else (a << n) | lshr(a, bits - n)
    carry = r & 1 if op == ROL else _top(r, bits)
    other = _top(r, bits) if op == ROL else lshr(r, bits - 2) & 1
    old = c.lf_carry & 8
    set_carry_overflow(c, carry, carry ^ other)
    c.lf_carry |= old
    return r


@inner
def _rotate_through_carry(c, op, a, n, bits, lg):
    """RCL and RCR, bit by bit."""
    carry = lshr(c.lf_carry, 63)
    old = c.lf_carry & 8
    for _ in range(n):
        if op == RCL:
            out = _top(a, bits)
            a = (a << 1) | carry
        else:
            out = a & 1
            a = lshr(truncate(a, lg), 1) | (carry << (bits - 1))
        carry = out
    overflow = carry ^ _top(a, bits)
    if op == RCR:
        overflow = _top(a, bits) ^ (lshr(a, bits - 2) & 1)
    set_carry_overflow(c, carry, overflow)
    c.lf_carry |= old
    return a


@inner
def _double_shift(c, op, a, b, n, bits, lg):
    """SHLD and SHRD by 1 <= ``n`` < 64."""
    if lg == 1:  # 16-bit operands: counts above 16 shift in the destination again
        wide = (a << 32) | (b << 16) | a
        if op == SHLD:
            r = lshr(wide, 32 - n) if n <= 32 else 0
            carry = lshr(wide, 48 - n) & 1
        else:
            wide = (a << 32) | (b << 16) | a
            r = lshr(wide, n)
            carry = lshr(wide, n - 1) & 1
    elif op == SHLD:
        r = (a << n) | lshr(b, bits - n)
        carry = lshr(a, bits - n) & 1
    else:
        r = lshr(a, n) | (b << (bits - n))
        carry = lshr(a, n - 1) & 1
    set_carry_overflow(c, carry, _top(r, bits) ^ _top(a, bits))
    set_result(c, r, lg)
    return r


@unit(Machine, Uop)
def exec_shift(m, u):
    """Family SHIFT; the count is ``imm`` or CL."""
    c = m.cpu
    op = u.op
    lg = u.lg
    bits = 8 << lg
    n = u.imm if u.flags & UF_SRC_IMM else c.gpr[RCX]
    n &= 63 if lg == 3 else 31
    a = read_destination(m, u)
    if m.pending:
        return m.pending
    if (op == RCL or op == RCR) and lg < 2:
        n %= bits + 1
    if n == 0:
        return write_destination(m, u, a)
    if op >= SHLD:
        r = _double_shift(c, op, a, read_reg(c, u.src, lg), n, bits, lg)
    elif op == ROL or op == ROR:
        r = _rotate(c, op, a, n & (bits - 1), bits)
    elif op == RCL or op == RCR:
        r = _rotate_through_carry(c, op, a, n, bits, lg)
    else:
        r = _shift(c, op, a, n, bits, lg)
    return write_destination(m, u, r)
