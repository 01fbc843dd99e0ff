"""Memory access by address, and the unsigned and bit operations that Python's integers lack.

Addresses are host addresses as 64-bit words; the callers have checked them.  What ``ld64`` and
its like reach is never accessed as a field of a record as well (``emit``); copies may be of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .emit import BY_ADDRESS, POINTER, WORD, check_address, load, store
from .structs import i64


def _memory_load(dtype: str) -> Any:
    kind = np.dtype(dtype)

    @intrinsic
    def load_at(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address = check_address(builder, args[0], ir.Constant(WORD, kind.itemsize))
            return load(builder, builder.inttoptr(address, POINTER), kind, BY_ADDRESS)

        return i64(i64), codegen

    return load_at


def _memory_store(dtype: str) -> Any:
    kind = np.dtype(dtype)

    @intrinsic
    def store_at(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address = check_address(builder, args[0], ir.Constant(WORD, kind.itemsize))
            store(builder, args[1], builder.inttoptr(address, POINTER), kind, BY_ADDRESS)
            return context.get_dummy_value()

        return types.void(i64, i64), codegen

    return store_at


ld8, ld16, ld32, ld64 = (_memory_load(t) for t in ("u1", "u2", "u4", "i8"))
st8, st16, st32, st64 = (_memory_store(t) for t in ("u1", "u2", "u4", "i8"))


@intrinsic
def address(typingctx: Any, pointer: Any) -> Any:
    """Address of a struct or array field as a 64-bit word."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], WORD)

    return i64(pointer), codegen


def _binary(build: Callable[[Any, Any, Any], Any]) -> Any:
    @intrinsic
    def op(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return build(builder, args[0], args[1])

        return i64(i64, i64), codegen

    return op


def _compare(predicate: str) -> Any:
    @intrinsic
    def op(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.icmp_unsigned(predicate, args[0], args[1])

        return types.boolean(i64, i64), codegen

    return op


def _high_half(extend: str) -> Any:
    def build(builder: Any, a: Any, b: Any) -> Any:
        wide = ir.IntType(128)
        grow = getattr(builder, extend)
        product = builder.mul(grow(a, wide), grow(b, wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), WORD)

    return _binary(build)


lshr = _binary(lambda b, x, n: b.lshr(x, b.and_(n, ir.Constant(WORD, 63))))
"""Logical shift right; the count is taken modulo 64."""
udiv = _binary(lambda b, x, y: b.udiv(x, y))
"""Unsigned division; the caller excludes a zero divisor."""
urem = _binary(lambda b, x, y: b.urem(x, y))
"""Unsigned remainder; the caller excludes a zero divisor."""
umulh = _high_half("zext")
"""High 64 bits of the unsigned 128-bit product."""
smulh = _high_half("sext")
"""High 64 bits of the signed 128-bit product."""
ult = _compare("<")
"""Unsigned less-than."""
ule = _compare("<=")
"""Unsigned less-or-equal."""


def _unary(name: str, with_flag: bool) -> Any:
    @intrinsic
    def op(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            if with_flag:
                return getattr(builder, name)(args[0], ir.Constant(ir.IntType(1), 0))
            return getattr(builder, name)(args[0])

        return i64(i64), codegen

    return op


popcount = _unary("ctpop", False)
"""Number of one bits."""
count_leading_zeros = _unary("ctlz", True)
"""Leading zero bits; 64 for 0."""
count_trailing_zeros = _unary("cttz", True)
"""Trailing zero bits; 64 for 0."""


@intrinsic
def copy_bytes(typingctx: Any, target: Any, source: Any, length: Any) -> Any:
    """Copy ``length`` bytes between two non-overlapping addresses (int64 each)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cgutils.raw_memcpy(
            builder,
            builder.inttoptr(check_address(builder, args[0], args[2]), POINTER),
            builder.inttoptr(check_address(builder, args[1], args[2]), POINTER),
            args[2],
            1,
        )
        return context.get_dummy_value()

    return types.void(i64, i64, i64), codegen


@intrinsic
def fill_bytes(typingctx: Any, target: Any, length: Any, value: Any) -> Any:
    """Set ``length`` bytes at an address to ``value`` (int64 each)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cgutils.memset(
            builder,
            builder.inttoptr(check_address(builder, args[0], args[1]), POINTER),
            args[1],
            builder.trunc(args[2], ir.IntType(8)),
        )
        return context.get_dummy_value()

    return types.void(i64, i64, i64), codegen


@intrinsic
def or_bytes(typingctx: Any, target: Any, a: Any, b: Any, length: Any) -> Any:
    """``target[i] = a[i] | b[i]`` over ``length`` bytes (a multiple of 64) at three addresses."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        block = ir.VectorType(WORD, 8)

        def at(base: Any, index: Any) -> Any:
            moved = builder.add(base, builder.shl(index, ir.Constant(WORD, 6)))
            return builder.inttoptr(moved, block.as_pointer())

        to, one, other = (check_address(builder, base, args[3]) for base in args[:3])
        blocks = builder.lshr(args[3], ir.Constant(WORD, 6))
        with cgutils.for_range(builder, blocks) as loop:
            both = builder.or_(
                builder.load(at(one, loop.index), align=1),
                builder.load(at(other, loop.index), align=1),
            )
            builder.store(both, at(to, loop.index), align=1)
        return context.get_dummy_value()

    return types.void(i64, i64, i64, i64), codegen
