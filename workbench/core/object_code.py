"""From a Python function to an object file with one exported symbol, and from object files to memory.

Numba compiles the function; what it would add for Python's sake is left out.  Numba exports every
helper and wraps the function for C; here helpers are hidden, so that LLVM inlines or drops them and
sees that none of them raises, and the code that would pass an exception on goes away.

All units lie in one engine of their own, one behind the other: pages of their own for each would
cost the processor's instruction caches and its TLB more than the code itself does.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target
from numba.core.typing.templates import Signature


def processor() -> str:
    """What machine code is made for: platform, processor and its features."""
    return repr(cpu_target.target_context.codegen().magic_tuple())


def object_code(function: Callable, signature: Signature, symbol: str) -> bytes:
    """Compile ``function``; the object file exports ``symbol`` and nothing else."""
    arguments = (signature.args, signature.return_type)
    with _no_machine_code():
        made = CFunc(function, arguments, {}, {"error_model": "numpy"})._compile_uncached()
    library, module = made.library, made.library._final_module
    for linked in dict.fromkeys(library._linking_libraries):
        module.link_in(linked._get_module_for_linking(), preserve=True)
    module.link_in(llvm.parse_assembly(str(_exported(made, symbol))))
    for item in (*module.functions, *module.global_variables):
        if not item.is_declaration and item.name != symbol:
            item.linkage = "internal"
    library._optimize_final_module()
    module.verify()
    return library._codegen._tm.emit_object(module)


class _NoEngine:
    """Stands in for numba's engine, which would make machine code of every helper on its own."""

    def __init__(self) -> None:
        self.environment = ctypes.c_void_p()

    def add_module(self, module: Any) -> None:
        """Keep the module as what it is, bitcode to link with."""

    def finalize_object(self) -> None:
        """Nothing was added."""

    def is_symbol_defined(self, name: str) -> bool:
        """There is no machine code."""
        return False

    def get_global_value_address(self, name: str) -> int:
        """Where numba may put the address of a function's environment."""
        return ctypes.addressof(self.environment)


@contextlib.contextmanager
def _no_machine_code() -> Iterator[None]:
    codegen = cpu_target.target_context.codegen()
    engine, codegen._engine = codegen._engine, _NoEngine()
    try:
        yield
    finally:
        codegen._engine = engine


def _exported(made: Any, symbol: str) -> ir.Module:
    """A module with the function ``symbol``: that of numba's, without its status."""
    context = made.target_context
    module = context.create_module("exported")
    described = made.fndesc
    inside = context.call_conv.get_function_type(described.restype, described.argtypes)
    callee = ir.Function(module, inside, described.llvm_func_name)
    kinds = [context.get_value_type(kind) for kind in described.argtypes]
    function_type = ir.FunctionType(context.get_value_type(described.restype), kinds)
    function = ir.Function(module, function_type, symbol)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _, value = context.call_conv.call_function(
        builder, callee, described.restype, described.argtypes, function.args
    )
    builder.ret(value)
    return module


@cache
def linker() -> llvm.ExecutionEngine:
    """The engine that all units are loaded into."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
