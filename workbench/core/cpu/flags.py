"""Arithmetic flags, kept lazily as three words (see ``layout.CPU``).

``lf_zero`` is zero when ZF is set; ``lf_sign`` has SF in bit 63 and PF as the parity of its low
byte; ``lf_carry`` has CF in bit 63, OF as bit 63 xor bit 62, AF in bit 3.  Narrow results are
stored sign-extended.  Flags that the manuals leave undefined get the value that common emulators
give (mostly 0).  Source: SDM vol. 1, 3.4.3 and appendix A.
"""

from __future__ import annotations

from ..jit import inner
from ..words import lshr, popcount

CF, PF, AF, ZF, SF, TF, IF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
IOPL, NT, RF, VM, AC, VIF, VIP, ID = (
    0x3000, 0x4000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000,
)  # fmt: skip
STATUS_FLAGS = CF | PF | AF | ZF | SF | OF
FIXED_ONE = 2
WRITABLE = TF | IF | DF | IOPL | NT | RF | AC | VIF | VIP | ID
"""Bits of RFLAGS that exist besides the status flags (VM cannot be set in long mode)."""

SIGN = -(1 << 63)
BIT62 = 1 << 62


@inner
def get_rflags(m):
    """The whole RFLAGS word."""
    c = m.cpu
    carry = c.lf_carry
    word = (c.sysflags & ~STATUS_FLAGS) | FIXED_ONE
    word |= lshr(carry, 63) | ((carry & 8) << 1) | (lshr(carry ^ (carry << 1), 63) << 11)
    word |= (lshr(c.lf_sign, 63) << 7) | (((popcount(c.lf_sign & 0xFF) & 1) ^ 1) << 2)
    if c.lf_zero == 0:
        word |= ZF
    return word


@inner
def set_status(c, value):
    """Set CF, PF, AF, ZF, SF and OF from a flags word."""
    carry = value & 1
    overflow = (value >> 11) & 1
    c.lf_carry = (carry << 63) | ((carry ^ overflow) << 62) | ((value >> 1) & 8)
    c.lf_sign = (((value >> 7) & 1) << 63) | (((value >> 2) & 1) ^ 1)
    c.lf_zero = (value & ZF) ^ ZF


@inner
def set_rflags(m, value):
    """Load the whole RFLAGS word; reserved bits get their fixed values."""
    m.cpu.sysflags = (value & WRITABLE) | FIXED_ONE
    set_status(m.cpu, value)


@inner
def set_carry(c, carry):
    """Replace CF (0 or 1), keep OF."""
    old = c.lf_carry
    overflow = old ^ (old << 1)
    high = carry << 63
    c.lf_carry = high | lshr((high ^ overflow) & SIGN, 1) | (old & 8)


@inner
def set_carry_overflow(c, carry, overflow):
    """Replace CF and OF (0 or 1 each) and clear AF."""
    c.lf_carry = (carry << 63) | ((carry ^ overflow) << 62)


@inner
def truncate(value, lg):
    """The low ``8 << lg`` bits, zero-extended."""
    shift = 64 - (8 << lg)
    return lshr(value << shift, shift)


@inner
def extend(value, lg):
    """The low ``8 << lg`` bits, sign-extended."""
    shift = 64 - (8 << lg)
    return (value << shift) >> shift


@inner
def set_result(c, value, lg):
    """SF, ZF and PF of a result of size ``lg``."""
    wide = extend(value, lg)
    c.lf_zero = wide
    c.lf_sign = wide


@inner
def set_carries(c, carries, lg):
    """CF, OF and AF from the vector of carries out of each bit."""
    c.lf_carry = ((carries << (64 - (8 << lg))) & (SIGN | BIT62)) | (carries & 8)


@inner
def add_carries(a, b, r):
    """Carries out of every bit of ``a + b (+ carry) = r``."""
    return (a & b) | ((a | b) & ~r)


@inner
def sub_carries(a, b, r):
    """Borrows out of every bit of ``a - b (- borrow) = r``."""
    return (~a & b) | ((~a | b) & r)


@inner
def keep_carry(old, carries):
    """``lf_carry`` for INC and DEC: OF and AF from ``carries``, CF from ``old``."""
    carry = old & SIGN
    overflow = (carries ^ (carries << 1)) & SIGN
    return carry | lshr(carry ^ overflow, 1) | (carries & 8)


@inner
def condition(c, code):
    """Whether condition code 0..15 (as in Jcc) holds: 1 or 0."""
    carry = c.lf_carry
    kind = code >> 1
    if kind == 0:
        truth = lshr(carry ^ (carry << 1), 63)
    elif kind == 1:
        truth = lshr(carry, 63)
    elif kind == 2:
        truth = 1 if c.lf_zero == 0 else 0
    elif kind == 3:
        truth = 1 if c.lf_zero == 0 or carry < 0 else 0
    elif kind == 4:
        truth = lshr(c.lf_sign, 63)
    elif kind == 5:
        truth = (popcount(c.lf_sign & 0xFF) & 1) ^ 1
    elif kind == 6:
        truth = lshr(c.lf_sign ^ carry ^ (carry << 1), 63)
    else:
        truth = 1 if c.lf_zero == 0 or (c.lf_sign ^ carry ^ (carry << 1)) < 0 else 0
    return truth ^ (code & 1)
