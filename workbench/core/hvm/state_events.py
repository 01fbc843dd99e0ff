"""What L0 is about to do after a hardware exit, as the counters of nested state know it (AT_*).

The exit tells: a nested page fault, an interrupt, an entry that L1 asks for, an invalidation.  Any
other exit of L2 is first routed, and then kept or passed to L1 (hvm/nested.py says which).
"""

from __future__ import annotations

import numpy as np

from ...arch import svm, vmx
from ..jit import inner
from ..layout import BACKEND_SVM
from ..ledger import (
    AT_INTERRUPT,
    AT_INVALIDATION,
    AT_L1_EXIT,
    AT_L2_CR3_WRITE,
    AT_L2_EXIT_KEPT,
    AT_L2_EXIT_ROUTED,
    AT_NESTED_PAGE_FAULT,
    AT_VMENTRY,
    N_EXIT_CODES,
)

CR_NUMBER, CR_KIND = 15, 3 << 4
"""Exit qualification of a control-register access: the register, and what is done to it."""


def _svm_table() -> np.ndarray:
    """AT_* by level of the guest (1 L1, 2 L2) and code index, shape (3, N_EXIT_CODES)."""
    table = np.full((3, N_EXIT_CODES), AT_L1_EXIT, np.int64)
    table[2] = AT_L2_EXIT_ROUTED
    table[2, svm.NPF_INDEX] = AT_NESTED_PAGE_FAULT
    table[2, svm.VMEXIT_CR0_WRITE + 3] = AT_L2_CR3_WRITE
    for code in (svm.VMEXIT_INTR, svm.VMEXIT_NMI, svm.VMEXIT_VINTR):
        table[2, code] = AT_INTERRUPT
    table[1, svm.VMEXIT_VMRUN] = AT_VMENTRY
    table[1, svm.VMEXIT_INVLPGA] = AT_INVALIDATION
    return table


def _vmx_table() -> np.ndarray:
    """The same by basic exit reason."""
    table = np.full((3, N_EXIT_CODES), AT_L1_EXIT, np.int64)
    table[2] = AT_L2_EXIT_ROUTED
    for reason in (vmx.EXIT_EPT_VIOLATION, vmx.EXIT_EPT_MISCONFIG):
        table[2, reason] = AT_NESTED_PAGE_FAULT
    windows = (vmx.EXIT_INTERRUPT_WINDOW, vmx.EXIT_NMI_WINDOW)
    for reason in (vmx.EXIT_EXTERNAL_INTERRUPT, *windows):
        table[2, reason] = AT_INTERRUPT
    table[1, vmx.EXIT_VMLAUNCH] = table[1, vmx.EXIT_VMRESUME] = AT_VMENTRY
    table[1, vmx.EXIT_INVEPT] = table[1, vmx.EXIT_INVVPID] = AT_INVALIDATION
    return table


SVM_EVENT, VMX_EVENT = _svm_table(), _vmx_table()


@inner
def begin_event(m, level, place):
    """A guest of ``level`` has exited; ``place``: its exit's place in the ledger's table."""
    if m.hw.backend == BACKEND_SVM:
        m.state.event = SVM_EVENT[level, place]
    elif place == vmx.EXIT_CR_ACCESS and level == 2 and m.exit.info1 & (CR_NUMBER | CR_KIND) == 3:
        m.state.event = AT_L2_CR3_WRITE
    else:
        m.state.event = VMX_EVENT[level, place]


@inner
def keep_event(m):
    """L0 serves the exit of L2 itself."""
    if m.state.event == AT_L2_EXIT_ROUTED:
        m.state.event = AT_L2_EXIT_KEPT
