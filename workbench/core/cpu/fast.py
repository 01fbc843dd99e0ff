"""Small pieces of the run loop's inline micro-ops: addresses and flags of fixed sizes."""

from __future__ import annotations

from ..jit import inner
from ..words import lshr
from .flags import BIT62, SIGN, add_carries, keep_carry, sub_carries


@inner
def address_of(c, u, rip):
    """Memory operand without segment base; ``rip`` is the next instruction's address."""
    c.gpr[17] = rip
    return c.gpr[u.base] + (c.gpr[u.index] << u.scale) + u.disp


@inner
def flags_logic(c, r):
    c.lf_zero = r
    c.lf_sign = r
    c.lf_carry = 0


@inner
def flags_add(c, a, b, r):
    c.lf_zero = r
    c.lf_sign = r
    c.lf_carry = add_carries(a, b, r)


@inner
def flags_sub(c, a, b, r):
    c.lf_zero = r
    c.lf_sign = r
    c.lf_carry = sub_carries(a, b, r)


@inner
def flags_narrow(c, r, carries, shift):
    """Flags of a result ``shift`` bits narrower than a word."""
    wide = (r << shift) >> shift
    c.lf_zero = wide
    c.lf_sign = wide
    c.lf_carry = ((carries << shift) & (SIGN | BIT62)) | (carries & 8)


@inner
def flags_inc(c, a, r):
    c.lf_zero = r
    c.lf_sign = r
    c.lf_carry = keep_carry(c.lf_carry, add_carries(a, 1, r))


@inner
def flags_dec(c, a, r):
    c.lf_zero = r
    c.lf_sign = r
    c.lf_carry = keep_carry(c.lf_carry, sub_carries(a, 1, r))


@inner
def flags_inc32(c, a, r, carries):
    old = c.lf_carry
    flags_narrow(c, r, carries, 32)
    c.lf_carry = keep_carry(old, c.lf_carry)


@inner
def flags_shift_left(c, last, r):
    """``last`` is the value before the final one-bit shift."""
    c.lf_zero = r
    c.lf_sign = r
    c.lf_carry = (last & SIGN) | lshr(r & SIGN, 1)


@inner
def flags_shift_right(c, last, r):
    c.lf_zero = r
    c.lf_sign = r
    carry = last << 63
    c.lf_carry = carry | lshr((carry ^ last ^ r) & SIGN, 1)


@inner
def alu64(c, k, a, b):
    """Result of member ``k`` of ADD, SUB, CMP, AND, OR, XOR (as in ADD64M..XOR64M), with flags."""
    r = 0
    if k == 0:
        r = a + b
        flags_add(c, a, b, r)
    elif k == 1 or k == 2:
        r = a - b
        flags_sub(c, a, b, r)
    else:
        if k == 3:
            r = a & b
        elif k == 4:
            r = a | b
        else:
            r = a ^ b
        flags_logic(c, r)
    return r


@inner
def alu32(c, k, a, b):
    """As :func:`alu64` for 32-bit operands (zero-extended)."""
    r = 0
    carries = 0
    if k == 0:
        r = a + b
        carries = add_carries(a, b, r)
    elif k == 1 or k == 2:
        r = a - b
        carries = sub_carries(a, b, r)
    elif k == 3:
        r = a & b
    elif k == 4:
        r = a | b
    else:
        r = a ^ b
    flags_narrow(c, r, carries, 32)
    return r & 0xFFFFFFFF
