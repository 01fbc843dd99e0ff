"""Numba types for records and their fields, made from numpy dtypes.

``m.cpu.rip`` in a kernel is one load: a struct is a pointer, a field a constant offset.
"""

from __future__ import annotations

import operator
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)
from numba.extending import lower_builtin, models, register_model

from .emit import POINTER, WORD, check_index, load, offset_pointer, store

i64 = types.int64


class StructType(types.Type):
    """Pointer to one record of ``dtype`` in simulator memory."""

    def __init__(self, name: str, dtype: np.dtype):
        self.dtype = dtype
        super().__init__(name=f"Struct({name})")

    def place(self, attr: str) -> str:
        """Name of the bytes of a field for ``emit``."""
        return f"{self.name}.{_overlay(self.dtype, attr)}"

    @property
    def mangling_args(self) -> tuple[str, tuple]:
        return self.name, ()


class FieldArray(types.Type):
    """Pointer to an array field of static shape inside a struct."""

    def __init__(self, name: str, dtype: np.dtype, shape: tuple[int, ...], place: str):
        self.dtype = dtype
        self.shape = shape
        self.place = place
        super().__init__(name=f"FieldArray({name})")


_structs: dict[np.dtype, StructType] = {}


def struct(name: str, dtype: np.dtype) -> StructType:
    """Register ``dtype`` as a numba struct type called ``name``; nested dtypes first."""
    made = _structs[dtype] = StructType(name, dtype)
    return made


def registered() -> tuple[StructType, ...]:
    """Every struct type there is."""
    return tuple(_structs.values())


@cache
def _overlay(dtype: np.dtype, attr: str) -> str:
    """Name shared by the fields that lie on the same bytes as ``attr``: that of the first one."""
    spans = {n: (f[1], f[1] + f[0].itemsize) for n, f in (dtype.fields or {}).items()}
    first, last = spans[attr]
    while True:
        names = [n for n, (low, high) in spans.items() if low < last and first < high]
        wider = min(spans[n][0] for n in names), max(spans[n][1] for n in names)
        if wider == (first, last):
            return names[0]
        first, last = wider


def _field_type(owner: str, attr: str, dtype: np.dtype, place: str) -> types.Type:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return FieldArray(f"{owner}.{attr}", base, shape, place)
    if dtype.names is not None:
        return _structs[dtype]
    return _scalar(dtype)


def _scalar(dtype: np.dtype) -> types.Type:
    return types.float64 if dtype.kind == "f" else i64


@register_model(StructType)
@register_model(FieldArray)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: types.Type):
        super().__init__(dmm, fe_type, POINTER)


@infer_getattr
class _StructAttribute(AttributeTemplate):
    key = StructType

    def generic_resolve(self, typ: StructType, attr: str) -> types.Type | None:
        field = (typ.dtype.fields or {}).get(attr)
        if field is None:
            return None
        return _field_type(typ.name, attr, field[0], typ.place(attr))


@lower_getattr_generic(StructType)
def _struct_getattr(context: Any, builder: Any, typ: StructType, val: Any, attr: str) -> Any:
    dtype, offset = typ.dtype.fields[attr][:2]  # type: ignore[index]
    pointer = offset_pointer(builder, val, offset)
    if dtype.subdtype is not None or dtype.names is not None:
        return pointer
    return load(builder, pointer, dtype, typ.place(attr))


@lower_setattr_generic(StructType)
def _struct_setattr(context: Any, builder: Any, sig: Any, args: Any, attr: str) -> None:
    typ = sig.args[0]
    dtype, offset = typ.dtype.fields[attr][:2]
    store(builder, args[1], offset_pointer(builder, args[0], offset), dtype, typ.place(attr))


@infer_global(operator.getitem)
class _FieldArrayGetitem(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if not isinstance(args[0], FieldArray):
            return None
        array = args[0]
        index = types.UniTuple(i64, len(array.shape)) if len(array.shape) > 1 else i64
        element = _structs[array.dtype] if array.dtype.names else _scalar(array.dtype)
        return signature(element, array, index)


@infer_global(operator.setitem)
class _FieldArraySetitem(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if not isinstance(args[0], FieldArray):
            return None
        array = args[0]
        index = types.UniTuple(i64, len(array.shape)) if len(array.shape) > 1 else i64
        return signature(types.void, array, index, _scalar(array.dtype))


def _element(builder: Any, array: FieldArray, pointer: Any, index: Any) -> Any:
    if len(array.shape) == 1:
        flat = check_index(builder, index, array.shape[0])
    else:
        flat = ir.Constant(WORD, 0)
        for axis, part in enumerate(cgutils.unpack_tuple(builder, index, len(array.shape))):
            size = array.shape[axis]
            flat = builder.add(
                builder.mul(flat, ir.Constant(WORD, size)), check_index(builder, part, size)
            )
    return offset_pointer(
        builder, pointer, builder.mul(flat, ir.Constant(WORD, array.dtype.itemsize))
    )


@lower_builtin(operator.getitem, FieldArray, types.Integer)
@lower_builtin(operator.getitem, FieldArray, types.UniTuple)
def _fieldarray_getitem(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    array = sig.args[0]
    pointer = _element(builder, array, args[0], args[1])
    return pointer if array.dtype.names else load(builder, pointer, array.dtype, array.place)


@lower_builtin(operator.setitem, FieldArray, types.Integer, types.Any)
@lower_builtin(operator.setitem, FieldArray, types.UniTuple, types.Any)
def _fieldarray_setitem(context: Any, builder: Any, sig: Any, args: Any) -> None:
    array = sig.args[0]
    pointer = _element(builder, array, args[0], args[1])
    store(builder, args[2], pointer, array.dtype, array.place)
