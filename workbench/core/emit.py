"""Emitting loads, stores and address arithmetic, with the optional bounds check.

With NUMBA_BOUNDSCHECK=1 every array index and every address is checked: an access outside is
counted in :data:`OUT_OF_RANGE` and moved inside, so that a test can run on and then fail.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import config

WORD = ir.IntType(64)
POINTER = ir.IntType(8).as_pointer()


def offset_pointer(builder: Any, pointer: Any, offset: Any) -> Any:
    if isinstance(offset, int):
        if offset == 0:
            return pointer
        offset = ir.Constant(WORD, offset)
    return (
        builder.gep(pointer, [offset], source_etype=ir.IntType(8))
        if _OPAQUE
        else builder.gep(pointer, [offset])
    )


BY_ADDRESS = "memory"
"""What is reached by a host address alone, never as a field of a record."""

_OPAQUE = "source_etype" in ir.IRBuilder.gep.__code__.co_varnames


def _llvm_scalar(dtype: np.dtype) -> ir.Type:
    return ir.DoubleType() if dtype.kind == "f" else ir.IntType(dtype.itemsize * 8)


def _say_what(builder: Any, access: Any, place: str) -> None:
    """Type-based alias analysis: accesses with different names never touch the same bytes.

    What they name by the compiler's rule is a scalar type; here each field of a record is one, and
    so is all memory that is reached by address.  Copies of whole stretches carry no name and may
    touch anything.
    """
    module = builder.module
    root = module.add_metadata([ir.MetaDataString(module, "workbench")])
    zero = ir.Constant(WORD, 0)
    kind = module.add_metadata([ir.MetaDataString(module, place), root, zero])
    access.set_metadata("tbaa", module.add_metadata([kind, kind, zero]))


def load(builder: Any, pointer: Any, dtype: np.dtype, place: str) -> Any:
    """Load a word of ``dtype``; ``place`` as in :func:`_say_what`."""
    kind = _llvm_scalar(dtype)
    value = builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)
    _say_what(builder, value, place)
    if dtype.kind == "f" or dtype.itemsize == 8:
        return value
    return builder.sext(value, WORD) if dtype.kind == "i" else builder.zext(value, WORD)


def store(builder: Any, value: Any, pointer: Any, dtype: np.dtype, place: str) -> None:
    """Store a word as ``dtype``; ``place`` as in :func:`_say_what`."""
    kind = _llvm_scalar(dtype)
    if dtype.kind != "f" and dtype.itemsize < 8:
        value = builder.trunc(value, kind)
    _say_what(
        builder, builder.store(value, builder.bitcast(pointer, kind.as_pointer()), align=1), place
    )


OUT_OF_RANGE = np.zeros(1, np.int64)
"""Count of array accesses outside their field, kept only when NUMBA_BOUNDSCHECK is set."""
llvm.add_symbol("workbench_out_of_range", OUT_OF_RANGE.ctypes.data)


CHECKED_RANGES = np.zeros(4, np.int64)
"""With NUMBA_BOUNDSCHECK: first and past-last address of the RAM and of the machine record."""
llvm.add_symbol("workbench_checked_ranges", CHECKED_RANGES.ctypes.data)


def _global(builder: Any, name: str, kind: ir.Type) -> Any:
    """The external variable ``name`` in the module being built."""
    try:
        return builder.module.get_global(name)
    except KeyError:
        made = ir.GlobalVariable(builder.module, kind, name)
        made.linkage = "external"
        return made


def _count_unless(builder: Any, good: Any) -> None:
    counter = _global(builder, "workbench_out_of_range", WORD)
    bad = builder.zext(builder.not_(good), WORD)
    builder.store(builder.add(builder.load(counter), bad), counter)


def check_index(builder: Any, index: Any, length: int) -> Any:
    """With bounds checking on: count an index outside ``length`` and use 0 in its place."""
    if not config.BOUNDSCHECK:
        return index
    good = builder.icmp_unsigned("<", index, ir.Constant(WORD, length))
    _count_unless(builder, good)
    return builder.select(good, index, ir.Constant(WORD, 0))


def check_address(builder: Any, address: Any, size: Any) -> Any:
    """With bounds checking on: count an access outside simulator memory and move it inside."""
    if not config.BOUNDSCHECK:
        return address
    ranges = _global(builder, "workbench_checked_ranges", ir.ArrayType(WORD, 4))
    end = builder.add(address, size)
    inside = []
    first = None
    for i in (0, 2):
        low, high = (
            builder.load(builder.gep(ranges, [ir.Constant(WORD, 0), ir.Constant(WORD, i + k)]))
            for k in (0, 1)
        )
        first = low if first is None else first
        above = builder.icmp_unsigned(">=", address, low)
        inside.append(builder.and_(above, builder.icmp_unsigned("<=", end, high)))
    good = builder.or_(*inside)
    _count_unless(builder, good)
    return builder.select(good, address, first)
