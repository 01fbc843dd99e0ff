"""How the core is compiled: small inner functions, and separately compiled units.

What the rest of the core needs to know:

* Every integer in a kernel is a signed 64-bit word (mixing signedness makes numba promote to
  float64).  Loads from narrower fields zero- or sign-extend by the field's dtype, stores truncate.
  Where signedness matters there is a helper in ``words``: ``lshr``, ``ult``, ``udiv`` ...
* Simulator state lives in one numpy structured array.  ``structs`` turns its dtype into a numba type
  whose fields are reached by attribute (``m.cpu.rip``); a field access is one load or store.
* ``@inner`` marks a small helper: compiled into each caller, free to be inlined by LLVM.
* ``@unit`` marks a separately compiled function: it has its own cached machine code and an
  exported symbol, and callers only link against that symbol.  A unit compiles once, however many
  callers it has, and units can compile in parallel; this is what keeps the cold start short.

This module knows no x86.
"""

from __future__ import annotations

import ctypes
import hashlib
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
from numba import types
from numba.core import config
from numba.core.typing.templates import signature

from ..paths import cache_dir, data_dir
from .structs import i64


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


inner = numba.njit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
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
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64 for _ in self.signature.args])
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
