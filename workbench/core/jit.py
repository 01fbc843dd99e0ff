"""How the core is compiled: struct types, memory intrinsics, and separately compiled units.

What the rest of the core needs to know:

* Every integer in a kernel is a signed 64-bit word (mixing signedness makes numba promote to
  float64).  Loads from narrower fields zero- or sign-extend by the field's dtype, stores truncate.
  Where signedness matters there is a helper: :func:`lshr`, :func:`ult`, :func:`udiv` ...
* Simulator state lives in one numpy structured array.  :func:`struct` turns its dtype into a numba
  type whose fields are reached by attribute (``m.cpu.rip``); a field access is one load or store.
* ``@inner`` marks a small helper: compiled into each caller, free to be inlined by LLVM.
* ``@unit`` marks a separately compiled function: it has its own cached machine code and an
  exported symbol, and callers only link against that symbol.  A unit compiles once, however many
  callers it has, and units can compile in parallel; this is what keeps the cold start short.

Not modelled here: nothing; this module knows no x86.
"""

from __future__ import annotations

import ctypes
import hashlib
import operator
import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, lower_builtin, models, register_model
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)

from ..paths import cache_dir, data_dir

i64 = types.int64
_I64 = ir.IntType(64)
_I8P = ir.IntType(8).as_pointer()


# --------------------------------------------------------------------------------------------
# Struct types over numpy dtypes
# --------------------------------------------------------------------------------------------


class StructType(types.Type):
    """Pointer to one record of ``dtype`` in simulator memory."""

    def __init__(self, name: str, dtype: np.dtype):
        self.dtype = dtype
        super().__init__(name=f"Struct({name})")

    @property
    def mangling_args(self) -> tuple[str, tuple]:
        return self.name, ()


class FieldArray(types.Type):
    """Pointer to an array field of static shape inside a struct."""

    def __init__(self, name: str, dtype: np.dtype, shape: tuple[int, ...]):
        self.dtype = dtype
        self.shape = shape
        super().__init__(name=f"FieldArray({name})")


_structs: dict[np.dtype, StructType] = {}


def struct(name: str, dtype: np.dtype) -> StructType:
    """Register ``dtype`` as a numba struct type called ``name``; nested dtypes first."""
    made = _structs[dtype] = StructType(name, dtype)
    return made


def _field_type(owner: str, attr: str, dtype: np.dtype) -> types.Type:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return FieldArray(f"{owner}.{attr}", base, shape)
    if dtype.names is not None:
        return _structs[dtype]
    return types.float64 if dtype.kind == "f" else i64


@register_model(StructType)
@register_model(FieldArray)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: types.Type):
        super().__init__(dmm, fe_type, _I8P)


@infer_getattr
class _StructAttribute(AttributeTemplate):
    key = StructType

    def generic_resolve(self, typ: StructType, attr: str) -> types.Type | None:
        field = (typ.dtype.fields or {}).get(attr)
        return None if field is None else _field_type(typ.name, attr, field[0])


def _offset(builder: Any, pointer: Any, offset: Any) -> Any:
    if isinstance(offset, int):
        if offset == 0:
            return pointer
        offset = ir.Constant(_I64, offset)
    return builder.gep(pointer, [offset], source_etype=ir.IntType(8)) if _OPAQUE else builder.gep(
        pointer, [offset]
    )


_OPAQUE = "source_etype" in ir.IRBuilder.gep.__code__.co_varnames


def _llvm_scalar(dtype: np.dtype) -> ir.Type:
    return ir.DoubleType() if dtype.kind == "f" else ir.IntType(dtype.itemsize * 8)


def _load(builder: Any, pointer: Any, dtype: np.dtype) -> Any:
    kind = _llvm_scalar(dtype)
    value = builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)
    if dtype.kind == "f" or dtype.itemsize == 8:
        return value
    return builder.sext(value, _I64) if dtype.kind == "i" else builder.zext(value, _I64)


def _store(builder: Any, value: Any, pointer: Any, dtype: np.dtype) -> None:
    kind = _llvm_scalar(dtype)
    if dtype.kind != "f" and dtype.itemsize < 8:
        value = builder.trunc(value, kind)
    builder.store(value, builder.bitcast(pointer, kind.as_pointer()), align=1)


@lower_getattr_generic(StructType)
def _struct_getattr(context: Any, builder: Any, typ: StructType, val: Any, attr: str) -> Any:
    dtype, offset = typ.dtype.fields[attr][:2]  # type: ignore[index]
    pointer = _offset(builder, val, offset)
    if dtype.subdtype is not None or dtype.names is not None:
        return pointer
    return _load(builder, pointer, dtype)


@lower_setattr_generic(StructType)
def _struct_setattr(context: Any, builder: Any, sig: Any, args: Any, attr: str) -> None:
    dtype, offset = sig.args[0].dtype.fields[attr][:2]
    _store(builder, args[1], _offset(builder, args[0], offset), dtype)


@infer_global(operator.getitem)
class _FieldArrayGetitem(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if not isinstance(args[0], FieldArray):
            return None
        array = args[0]
        index = types.UniTuple(i64, len(array.shape)) if len(array.shape) > 1 else i64
        element = _structs[array.dtype] if array.dtype.names else _field_type("", "", array.dtype)
        return signature(element, array, index)


@infer_global(operator.setitem)
class _FieldArraySetitem(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if not isinstance(args[0], FieldArray):
            return None
        array = args[0]
        index = types.UniTuple(i64, len(array.shape)) if len(array.shape) > 1 else i64
        return signature(types.void, array, index, _field_type("", "", array.dtype))


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
    counter = _global(builder, "workbench_out_of_range", _I64)
    bad = builder.zext(builder.not_(good), _I64)
    builder.store(builder.add(builder.load(counter), bad), counter)


def _checked(builder: Any, index: Any, length: int) -> Any:
    """With bounds checking on: count an index outside ``length`` and use 0 in its place."""
    if not config.BOUNDSCHECK:
        return index
    good = builder.icmp_unsigned("<", index, ir.Constant(_I64, length))
    _count_unless(builder, good)
    return builder.select(good, index, ir.Constant(_I64, 0))


def _checked_address(builder: Any, address: Any, size: Any) -> Any:
    """With bounds checking on: count an access outside simulator memory and move it inside."""
    if not config.BOUNDSCHECK:
        return address
    ranges = _global(builder, "workbench_checked_ranges", ir.ArrayType(_I64, 4))
    end = builder.add(address, size)
    inside = []
    first = None
    for i in (0, 2):
        low, high = (
            builder.load(builder.gep(ranges, [ir.Constant(_I64, 0), ir.Constant(_I64, i + k)]))
            for k in (0, 1)
        )
        first = low if first is None else first
        above = builder.icmp_unsigned(">=", address, low)
        inside.append(builder.and_(above, builder.icmp_unsigned("<=", end, high)))
    good = builder.or_(*inside)
    _count_unless(builder, good)
    return builder.select(good, address, first)


def _element(builder: Any, array: FieldArray, pointer: Any, index: Any) -> Any:
    if len(array.shape) == 1:
        flat = _checked(builder, index, array.shape[0])
    else:
        flat = ir.Constant(_I64, 0)
        for axis, part in enumerate(cgutils.unpack_tuple(builder, index, len(array.shape))):
            size = array.shape[axis]
            flat = builder.add(
                builder.mul(flat, ir.Constant(_I64, size)), _checked(builder, part, size)
            )
    return _offset(
        builder, pointer, builder.mul(flat, ir.Constant(_I64, array.dtype.itemsize))
    )


@lower_builtin(operator.getitem, FieldArray, types.Integer)
@lower_builtin(operator.getitem, FieldArray, types.UniTuple)
def _fieldarray_getitem(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    array = sig.args[0]
    pointer = _element(builder, array, args[0], args[1])
    return pointer if array.dtype.names else _load(builder, pointer, array.dtype)


@lower_builtin(operator.setitem, FieldArray, types.Integer, types.Any)
@lower_builtin(operator.setitem, FieldArray, types.UniTuple, types.Any)
def _fieldarray_setitem(context: Any, builder: Any, sig: Any, args: Any) -> None:
    array = sig.args[0]
    _store(builder, args[2], _element(builder, array, args[0], args[1]), array.dtype)


# --------------------------------------------------------------------------------------------
# Memory and word intrinsics
# --------------------------------------------------------------------------------------------


def _memory_load(dtype: str) -> Any:
    kind = np.dtype(dtype)

    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address = _checked_address(builder, args[0], ir.Constant(_I64, kind.itemsize))
            return _load(builder, builder.inttoptr(address, _I8P), kind)

        return i64(i64), codegen

    return load


def _memory_store(dtype: str) -> Any:
    kind = np.dtype(dtype)

    @intrinsic
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address = _checked_address(builder, args[0], ir.Constant(_I64, kind.itemsize))
            _store(builder, args[1], builder.inttoptr(address, _I8P), kind)
            return context.get_dummy_value()

        return types.void(i64, i64), codegen

    return store


ld8, ld16, ld32, ld64 = (_memory_load(t) for t in ("u1", "u2", "u4", "i8"))
st8, st16, st32, st64 = (_memory_store(t) for t in ("u1", "u2", "u4", "i8"))


@intrinsic
def address(typingctx: Any, pointer: Any) -> Any:
    """Address of a struct or array field as a 64-bit word."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], _I64)

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
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), _I64)

    return _binary(build)


lshr = _binary(lambda b, x, n: b.lshr(x, b.and_(n, ir.Constant(_I64, 63))))
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
            builder.inttoptr(_checked_address(builder, args[0], args[2]), _I8P),
            builder.inttoptr(_checked_address(builder, args[1], args[2]), _I8P),
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
            builder.inttoptr(_checked_address(builder, args[0], args[1]), _I8P),
            args[1],
            builder.trunc(args[2], ir.IntType(8)),
        )
        return context.get_dummy_value()

    return types.void(i64, i64, i64), codegen


@intrinsic
def or_bytes(typingctx: Any, target: Any, a: Any, b: Any, length: Any) -> Any:
    """``target[i] = a[i] | b[i]`` over ``length`` bytes (a multiple of 64) at three addresses."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        block = ir.VectorType(_I64, 8)

        def at(base: Any, index: Any) -> Any:
            moved = builder.add(base, builder.shl(index, ir.Constant(_I64, 6)))
            return builder.inttoptr(moved, block.as_pointer())

        to, one, other = (_checked_address(builder, base, args[3]) for base in args[:3])
        blocks = builder.lshr(args[3], ir.Constant(_I64, 6))
        with cgutils.for_range(builder, blocks) as loop:
            both = builder.or_(
                builder.load(at(one, loop.index), align=1),
                builder.load(at(other, loop.index), align=1),
            )
            builder.store(both, at(to, loop.index), align=1)
        return context.get_dummy_value()

    return types.void(i64, i64, i64, i64), codegen


# --------------------------------------------------------------------------------------------
# Inner functions and units
# --------------------------------------------------------------------------------------------



@cache
def kernel_hash() -> str:
    """Hash of everything the compiled code depends on.

    Numba looks only at the file of a function, not at those it calls, so the core's sources and
    constants all go into the name of the cache folder.
    """
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    sources = [*(package / "core").rglob("*.py"), *(package / "arch").glob("*.py")]
    for path in sorted(sources) + sorted((data_dir() / "arch").glob("*.csv")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version)
    digest.update(repr((*versions, platform.machine(), bool(config.BOUNDSCHECK))).encode())
    return digest.hexdigest()[:16]


@cache
def kernel_cache() -> Path:
    """Folder of the compiled units of exactly this version of the core."""
    path = cache_dir() / "kernels" / kernel_hash()
    path.mkdir(parents=True, exist_ok=True)
    return path


inner = numba.njit(
    cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy"
)
"""Decorator for a helper that LLVM may inline into its callers."""


class Unit:
    """A separately compiled function of the core, known to its callers by ``symbol`` alone."""

    def __init__(self, function: Callable, args: tuple[types.Type, ...]):
        self.name = function.__name__
        self.symbol = f"workbench_{self.name}"
        self.function = function
        self.signature = signature(i64, *args)
        self.compiled: Any = None

    @property
    def external(self) -> types.ExternalFunction:
        return types.ExternalFunction(self.symbol, self.signature)

    def compile(self) -> bool:
        """Compile or load from the cache; True when it was in the cache.

        Units that this one calls must have been compiled before (``core/units.py``).
        """
        if self.compiled is None:
            before = config.CACHE_DIR
            config.CACHE_DIR = str(kernel_cache())
            try:
                options = {"cache": True, "error_model": "numpy"}
                self.compiled = numba.cfunc(self.signature, **options)(self.function)
            finally:
                config.CACHE_DIR = before
            llvm.add_symbol(self.symbol, self.compiled.address)
        return bool(self.compiled.cache_hits)

    def entry(self) -> Callable[..., int]:
        """The unit as a Python callable on addresses; releases the GIL while it runs."""
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_int64, *[ctypes.c_int64 for _ in self.signature.args]
        )
        return prototype(self.compiled.address)


UNITS: dict[str, Unit] = {}


def unit(*args: types.Type) -> Callable[[Callable], types.ExternalFunction]:
    """Decorator: compile the function on its own; it takes ``args`` and returns a 64-bit word."""

    def register(function: Callable) -> types.ExternalFunction:
        made = Unit(function, args)
        UNITS[made.name] = made
        return made.external

    return register



def load_units() -> None:
    """Compile or load every registered unit; callees are registered before their callers."""
    for made in UNITS.values():
        made.compile()
