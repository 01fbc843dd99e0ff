"""INVPCID in a guest: whether it exists there, and its exit (SDM vol. 3, 26.1.3, 26.3; APM vol. 2, 15.9).

VMX: #UD without 'enable INVPCID', before any other check; with it the control 'INVLPG exiting'
decides.  SVM: an intercept of its own, after the privilege check; EXITINFO1 has the linear address
of the descriptor, EXITINFO2 the register operand (as KVM reads them).
"""

from __future__ import annotations

from ...arch import svm, vmx
from ..cpu.operands import effective_address
from ..jit import inner
from ..layout import BACKEND_SVM, ST_OK
from ..ledger import C_INVLPG
from .svm.leave import intercepted, leave
from .vmx.exits import fill_exit
from .vmx.operands import REG2, displacement, memory_info


@inner
def invpcid_exists(m):
    """May the running guest know INVPCID?"""
    h = m.hw
    if h.guest == 0 or h.backend == BACKEND_SVM:
        return True
    return h.proc2 & vmx.CPU2_ENABLE_INVPCID != 0


@inner
def _svm_exit(m, u):
    if not intercepted(m, svm.INTERCEPT_INVPCID):
        return ST_OK
    operand = m.cpu.gpr[u.dst]
    return leave(m, svm.VMEXIT_INVPCID, effective_address(m, u), operand, u.len, C_INVLPG)


@inner
def _vmx_exit(m, u):
    if m.hw.proc & vmx.CPU_INVLPG_EXITING == 0:
        return ST_OK
    status = fill_exit(m, vmx.EXIT_INVPCID, displacement(m, u), u.len, C_INVLPG)
    m.exit.insn_info = memory_info(u) | (u.dst & 15) << REG2
    return status


@inner
def invpcid_exit(m, u):
    """Does INVPCID of a guest exit?"""
    return _svm_exit(m, u) if m.hw.backend == BACKEND_SVM else _vmx_exit(m, u)
