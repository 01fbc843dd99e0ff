"""Comparing stretches of memory, many words at a time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .emit import POINTER, WORD, check_address, offset_pointer
from .structs import i64

LANES = 4
_VECTOR = ir.VectorType(WORD, LANES)


@intrinsic
def words_differ(typingctx: Any, a: Any, b: Any, runs: Any) -> Any:
    """Zero when the words at addresses ``a`` and ``b`` are equal in all ``runs``.

    ``runs`` is a tuple of numbers known at compile time: first word and word behind the last one,
    and so on.
    """
    if not isinstance(runs, types.UniTuple) or runs.count % 2:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bounds = cgutils.unpack_tuple(builder, args[2], runs.count)
        wide = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None))
        single = cgutils.alloca_once_value(builder, ir.Constant(WORD, 0))
        for first, stop in zip(bounds[::2], bounds[1::2], strict=True):
            words = builder.sub(stop, first)
            pair = [_at(builder, base, first, words) for base in args[:2]]
            many = builder.and_(words, ir.Constant(WORD, -LANES))
            _gather(builder, pair, wide, _VECTOR, ir.Constant(WORD, 0), many, LANES)
            _gather(builder, pair, single, WORD, many, words, 1)
        lanes = builder.icmp_unsigned("!=", builder.load(wide), ir.Constant(_VECTOR, None))
        which = builder.zext(builder.bitcast(lanes, ir.IntType(LANES)), WORD)
        return builder.or_(builder.load(single), which)

    return i64(i64, i64, runs), codegen


def _at(builder: Any, base: Any, first: Any, words: Any) -> Any:
    """Pointer to word ``first`` of an address, of which ``words`` will be read."""
    three = ir.Constant(WORD, 3)
    start = builder.add(base, builder.shl(first, three))
    return builder.inttoptr(check_address(builder, start, builder.shl(words, three)), POINTER)


def _gather(
    builder: Any, pair: list[Any], total: Any, kind: ir.Type, start: Any, stop: Any, step: int
) -> None:
    """OR into ``total`` in what two stretches differ from word ``start`` up to word ``stop``."""
    with cgutils.for_range_slice(builder, start, stop, ir.Constant(WORD, step), WORD) as (index, _):
        offset = builder.shl(index, ir.Constant(WORD, 3))
        one, other = (
            builder.load(
                builder.bitcast(offset_pointer(builder, pointer, offset), kind.as_pointer()),
                align=1,
            )
            for pointer in pair
        )
        builder.store(builder.or_(builder.load(total), builder.xor(one, other)), total)
