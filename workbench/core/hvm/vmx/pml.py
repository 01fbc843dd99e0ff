"""Page-modification logging for L1, by L0 (SDM vol. 3, 29.3.6; KVM, nested page-table walk).

The processor's own log is in ``mmu/walk``.  L0 never gives L1's log to it: L0 marks pages of L2 dirty
in L1's table itself, and writes the address into L1's log then.  A full log is an exit to L1.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...jit import inner
from ...layout import BACKEND_SVM, PAGE
from ...ledger import E_L0_BYTE_COPIED, E_L0_GUEST_PAGE_MAPPED, P_EMULATION, count
from ...mmu.physical import ma_st64
from ..p2m import n1p_to_l0m
from .offer import CPU2, l1_may
from .vmcs import get_vvmcs, set_vvmcs, vvmcs_base

ENTRIES = 512
"""Entries of a log; the index counts down from the last."""


@inner
def _l1_logs(m, v):
    cpu = get_vvmcs(m, v, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL, P_EMULATION)
    if cpu & vmx.CPU_ACTIVATE_SECONDARY_CONTROLS == 0:
        return False
    cpu2 = get_vvmcs(m, v, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL, P_EMULATION)
    return cpu2 & vmx.CPU2_ENABLE_PML != 0


@inner
def log_write_for_l1(m, gpa):
    """The page at ``gpa`` becomes dirty in L1's table: log it if L1 logs; False when its log is full."""
    if m.hw.backend == BACKEND_SVM or l1_may(m, CPU2) & vmx.CPU2_ENABLE_PML == 0:
        return True
    v = vvmcs_base(m)
    if not _l1_logs(m, v):
        return True
    index = get_vvmcs(m, v, vmcs.SLOT_GUEST_PML_INDEX, P_EMULATION)
    if index >= ENTRIES:
        return False
    page = n1p_to_l0m(m, get_vvmcs(m, v, vmcs.SLOT_PML_ADDRESS, P_EMULATION))
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    if page >= 0:
        ma_st64(m, page + 8 * index, gpa & ~(PAGE - 1))
        count(m, E_L0_BYTE_COPIED, 8)
    set_vvmcs(m, v, vmcs.SLOT_GUEST_PML_INDEX, index - 1, P_EMULATION)
    return True
