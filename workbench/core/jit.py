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
  An edit recompiles the units that it reaches (``fingerprint``).  ``object_code`` does the work.

This module knows no x86.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core.typing.templates import signature

from ..paths import cache_dir, write_atomically
from .fingerprint import unit_digest
from .object_code import linker, object_code
from .structs import i64


def kernel_cache() -> Path:
    """Folder of the compiled units, of this version of the core and of a few before it."""
    path = cache_dir() / "kernels"
    path.mkdir(parents=True, exist_ok=True)
    return path


inner = numba.njit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
"""Decorator for a helper that LLVM may inline into its callers."""


DIGEST_BYTES = 32
"""SHA-256 behind each object file of the cache: a damaged one would end the process when linked."""


class Unit:
    """A separately compiled function of the core, known to its callers by ``symbol`` alone."""

    def __init__(self, function: Callable, args: tuple[types.Type, ...]):
        self.name = function.__name__
        self.symbol = f"workbench_{self.name}"
        self.function = function
        self.signature = signature(i64, *args)
        self.address = 0
        """Of its machine code; 0 before :func:`load_units`."""

    @cached_property
    def stem(self) -> str:
        """Name of its file in the cache, without the ending."""
        return f"{self.name}-{unit_digest(self.function, self.signature.args)}"

    @property
    def file(self) -> Path:
        """Its object file in the cache."""
        return kernel_cache() / f"{self.stem}.o"

    def is_cached(self) -> bool:
        """Is its machine code in the cache?"""
        return self.file.exists()

    @property
    def external(self) -> types.ExternalFunction:
        return types.ExternalFunction(self.symbol, self.signature)

    def compile(self) -> bytes:
        """Machine code of the unit, as an object file; compiled unless it is in the cache, whole."""
        with contextlib.suppress(FileNotFoundError):
            kept = self.file.read_bytes()
            made = kept[:-DIGEST_BYTES]
            if kept[-DIGEST_BYTES:] == sha256(made).digest():
                return made
        made = object_code(self.function, self.signature, self.symbol)
        write_atomically(self.file, made + sha256(made).digest())
        return made

    def entry(self) -> Callable[..., int]:
        """The unit as a Python callable on addresses; releases the GIL while it runs."""
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64 for _ in self.signature.args])
        return prototype(self.address)


UNITS: dict[str, Unit] = {}


def unit(*args: types.Type) -> Callable[[Callable], types.ExternalFunction]:
    """Decorator: compile the function on its own; it takes ``args`` and returns a 64-bit word."""

    def register(function: Callable) -> types.ExternalFunction:
        made = Unit(function, args)
        UNITS[made.name] = made
        return made.external

    return register


def load_units() -> None:
    """Load every registered unit that is not loaded yet, compiling what is not in the cache."""
    link([made for made in UNITS.values() if not made.address])


def link(units: list[Unit]) -> None:
    """Put machine code into memory side by side, so that it takes few pages, and link it."""
    engine = linker()
    for made in units:
        engine.add_object_file(llvm.ObjectFileRef.from_data(made.compile()))
    engine.finalize_object()
    for made in units:
        made.address = engine.get_function_address(made.symbol)
