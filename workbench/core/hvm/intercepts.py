"""Which instruction or event of a guest leaves to L0: the processor's checks, by back-end.

The instruction handlers of core/cpu ask here when a guest runs (``m.hw.guest``).  Each function
returns ST_OK (go on) or ST_VMEXIT with the exit in ``m.exit``.
"""

from __future__ import annotations

from ..jit import inner
from ..layout import BACKEND_SVM
from .svm.intercepts import (
    svm_cr_exit,
    svm_dr_exit,
    svm_exception_exit,
    svm_insn_exit,
    svm_io_exit,
    svm_msr_exit,
    svm_read_cr,
    svm_shutdown_exit,
    svm_virt_instruction,
)
from .vmx.intercepts import (
    vmx_cr_exit,
    vmx_dr_exit,
    vmx_effective_cr,
    vmx_exception_exit,
    vmx_insn_exit,
    vmx_io_exit,
    vmx_msr_exit,
    vmx_read_cr,
    vmx_shutdown_exit,
)
from .vmx.virt import vmx_virt_instruction


@inner
def insn_exit(m, u, what, info):
    """Instruction ``what`` (I_*); ``info`` is the linear address of INVLPG, the vector of INT n."""
    if m.hw.backend == BACKEND_SVM:
        return svm_insn_exit(m, u, what, info)
    return vmx_insn_exit(m, u, what, info)


@inner
def msr_exit(m, u, number, write):
    """RDMSR or WRMSR of ``number``."""
    if m.hw.backend == BACKEND_SVM:
        return svm_msr_exit(m, u, number, write)
    return vmx_msr_exit(m, u, number, write)


@inner
def io_exit(m, u, port, lg, is_in, is_string, is_rep):
    """IN, OUT, INS or OUTS of ``1 << lg`` bytes at ``port``."""
    if m.hw.backend == BACKEND_SVM:
        return svm_io_exit(m, u, port, lg, is_in, is_string, is_rep)
    return vmx_io_exit(m, u, port, lg, is_in, is_string, is_rep)


@inner
def cr_exit(m, u, cr, gpr, write, value):
    """MOV to or from control register ``cr``; ``value`` is what would be written."""
    if m.hw.backend == BACKEND_SVM:
        return svm_cr_exit(m, u, cr, gpr, write, value)
    return vmx_cr_exit(m, u, cr, gpr, write, value)


@inner
def effective_cr(m, number, value):
    """What a write that does not exit puts into a control register (VMX: only the guest's bits)."""
    if m.hw.backend == BACKEND_SVM:
        return value
    return vmx_effective_cr(m, number, value)


@inner
def dr_exit(m, u, dr, gpr, write):
    """MOV to or from debug register ``dr``."""
    if m.hw.backend == BACKEND_SVM:
        return svm_dr_exit(m, u, dr, gpr, write)
    return vmx_dr_exit(m, u, dr, gpr, write)


@inner
def exception_exit(m):
    """The exception pending in ``m.exc``."""
    if m.hw.backend == BACKEND_SVM:
        return svm_exception_exit(m)
    return vmx_exception_exit(m)


@inner
def shutdown_exit(m):
    """Triple fault of a guest."""
    if m.hw.backend == BACKEND_SVM:
        return svm_shutdown_exit(m)
    return vmx_shutdown_exit(m)


@inner
def virt_instruction(m, u):
    """An SVM or VMX instruction executed by a guest."""
    if m.hw.backend == BACKEND_SVM:
        return svm_virt_instruction(m, u)
    return vmx_virt_instruction(m, u)


@inner
def read_cr(m, number):
    """What a guest reads from a control register (VMX read shadows)."""
    if m.hw.backend == BACKEND_SVM:
        return svm_read_cr(m, number)
    return vmx_read_cr(m, number)
