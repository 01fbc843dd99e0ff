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
  An edit recompiles the units that it reaches (``fingerprint``).

This module knows no x86.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.typing.templates import signature

from ..paths import cache_dir
from .fingerprint import unit_digest
from .structs import i64


def kernel_cache() -> Path:
    """Folder of the compiled units, of this version of the core and of a few before it."""
    path = cache_dir() / "kernels"
    path.mkdir(parents=True, exist_ok=True)
    return path


class _UnitCache(FunctionCache):
    """Numba's cache of one function, in a file whose name says what the code depends on."""

    def __init__(self, function: Callable, stem: str, digest: str):
        before = config.CACHE_DIR
        config.CACHE_DIR = str(kernel_cache())
        try:
            super().__init__(function)
        finally:
            config.CACHE_DIR = before
        self._impl.locator._cache_path = self._cache_path = str(kernel_cache())
        self._cache_file = IndexDataCacheFile(self._cache_path, stem, digest)


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

    @cached_property
    def stem(self) -> str:
        """Name of its files in the cache, without their endings."""
        return f"{self.name}-{unit_digest(self.function, self.signature.args)}"

    def is_cached(self) -> bool:
        """Is its machine code in the cache?"""
        return (kernel_cache() / f"{self.stem}.nbi").exists()

    @property
    def external(self) -> types.ExternalFunction:
        return types.ExternalFunction(self.symbol, self.signature)

    def compile(self) -> bool:
        """Compile or load from the cache; True when it was in the cache.

        Units that this one calls must have been compiled before (``core/units.py``).
        """
        if self.compiled is None:
            made = CFunc(self.function, (self.signature.args, i64), {}, {"error_model": "numpy"})
            made._cache = _UnitCache(self.function, self.stem, self.stem)
            made.compile()
            self.compiled = made
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
