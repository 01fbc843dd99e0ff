"""Comparing stretches of memory, many words at a time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from .emit import POINTER, WORD, check_address, offset_pointer
from .structs import i64

LANES = 4
_VECTOR = ir.VectorType(WORD, LANES)


@intrinsic
def words_differ(typingctx: Any, a: Any, b: Any, first: Any, last: Any) -> Any:
    """Zero when the words ``first`` to ``last`` at addresses ``a`` and ``b`` are equal."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = builder.shl(args[2], ir.Constant(WORD, 3))
        words = builder.add(builder.sub(args[3], args[2]), ir.Constant(WORD, 1))
        size = builder.shl(words, ir.Constant(WORD, 3))
        bases = [
            builder.inttoptr(check_address(builder, builder.add(base, start), size), POINTER)
            for base in args[:2]
        ]
        # eight bytes at a time, and before that as many lanes at a time as fit
        many = builder.and_(words, ir.Constant(WORD, -LANES))
        wide = _differences(builder, bases, _VECTOR, ir.Constant(WORD, 0), many, LANES)
        found = _differences(builder, bases, WORD, many, words, 1)
        for lane in range(LANES):
            part = builder.extract_element(wide, ir.Constant(ir.IntType(32), lane))
            found = builder.or_(found, part)
        return found

    return i64(i64, i64, i64, i64), codegen


def _differences(
    builder: Any, bases: list[Any], kind: ir.Type, start: Any, stop: Any, step: int
) -> Any:
    """OR of the XORs of what two pointers see from word ``start`` up to word ``stop``."""
    total = cgutils.alloca_once_value(builder, ir.Constant(kind, None))
    with cgutils.for_range_slice(builder, start, stop, ir.Constant(WORD, step), WORD) as (index, _):
        offset = builder.shl(index, ir.Constant(WORD, 3))
        one, other = (
            builder.load(
                builder.bitcast(offset_pointer(builder, base, offset), kind.as_pointer()), align=1
            )
            for base in bases
        )
        builder.store(builder.or_(builder.load(total), builder.xor(one, other)), total)
    return builder.load(total)
