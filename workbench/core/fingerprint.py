"""What the machine code of a unit depends on, as one hash: the name of its place in the cache.

Numba looks only at the file of a function, not at what it calls or reads.  Here the unit's own code
counts, the helpers that it inlines, the constants that both name, the offsets of the fields that
they touch, the signatures of the units that they call, and the compiler with its support code.
What a unit calls through a symbol does not count: an edit recompiles the units that it reaches and
no others.  An object of an unknown kind makes the hash depend on all sources of the core.
"""

from __future__ import annotations

import builtins
import hashlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core import config
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic

from . import structs
from .object_code import processor

_CORE = Path(__file__).resolve().parent
_COMPILER = ("emit.py", "fingerprint.py", "jit.py", "object_code.py", "structs.py", "words.py")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, np.generic)


def unit_digest(function: Callable, args: tuple[types.Type, ...]) -> str:
    """Hash of all that the compiled code of ``function`` depends on (20 hexadecimal digits)."""
    digest = hashlib.sha256(_compiler())
    digest.update(repr(args).encode())
    digest.update(_function(function).encode())
    return digest.hexdigest()[:20]


@cache
def _compiler() -> bytes:
    digest = hashlib.sha256()
    for name in _COMPILER:
        digest.update((_CORE / name).read_bytes())
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version)
    digest.update(repr((*versions, processor(), bool(config.BOUNDSCHECK))).encode())
    return digest.digest()


@cache
def _all_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(_CORE.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def _fields() -> dict[str, str]:
    """Field name -> where it lies in every struct that has one of that name."""
    places: dict[str, list[str]] = {}
    for struct in structs.registered():
        for name, (dtype, offset, *_) in (struct.dtype.fields or {}).items():
            base, shape = dtype.subdtype or (dtype, ())
            kind = "struct" if base.names else base.str
            place = f"{struct.name} {offset} {kind} {base.itemsize} {shape}"
            places.setdefault(name, []).append(place)
    return {name: repr(sorted(found)) for name, found in places.items()}


_done: dict[Callable, str] = {}


def _function(function: Callable) -> str:
    """Hash of a function; "" for one that is being read, which a field of its name can lead to."""
    if function not in _done:
        _done[function] = ""
        _done[function] = _read(function)
    return _done[function]


def _read(function: Callable) -> str:
    code, names = function.__code__, function.__globals__
    digest = hashlib.sha256()
    for cell in function.__closure__ or ():
        digest.update(_value(cell.cell_contents).encode())
    digest.update(repr(function.__defaults__).encode())
    _code(digest, code, names, function.__doc__)
    return digest.hexdigest()


def _code(digest: Any, code: CodeType, names: dict[str, Any], doc: str | None = None) -> None:
    digest.update(code.co_code)
    for i, constant in enumerate(code.co_consts):
        if isinstance(constant, CodeType):
            _code(digest, constant, names)
        elif not (i == 0 and doc is not None and constant == doc):
            digest.update(repr(constant).encode())
    read = [names[name] for name in code.co_names if name in names]
    for value in read:
        digest.update(_value(value).encode())
    modules = [value for value in read if isinstance(value, ModuleType)]
    fields = _fields()
    for name in code.co_names:
        digest.update(f"{name} {fields.get(name, '')}".encode())
        for module in modules:
            constant = getattr(module, name, _code)
            if not isinstance(constant, FunctionType):  # kernels take constants from modules
                digest.update(_value(constant).encode())


def _value(value: Any) -> str:
    """What a kernel sees of an object that it names."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_value(k)}:{_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, Dispatcher):
        return _function(value.py_func)
    if isinstance(value, types.ExternalFunction):
        return f"{value.symbol} {value.sig}"
    if isinstance(value, types.Type):
        return str(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, BuiltinFunctionType) or value in vars(builtins).values():
        return f"{value.__module__}.{value.__name__}"
    if isinstance(value, _Intrinsic):
        return _made_here(value._defn, value._name)
    return _made_here(value, repr(value)) if isinstance(value, FunctionType) else _all_sources()


def _made_here(function: FunctionType, name: str) -> str:
    """Code for the compiler itself: the file it stands in, the support files being in every hash."""
    here = Path(function.__code__.co_filename)
    if here.parent == _CORE and here.name in _COMPILER:
        return name
    return _file(here) if here.is_relative_to(_CORE) else _all_sources()


@cache
def _file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
