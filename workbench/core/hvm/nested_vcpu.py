"""The generic part of the nested vcpu: which guest it runs, and its state at reset.

Names as the review of 2010 settled them: ``n2_guest``, ``is_n2_guest``, ``enter_n2_guest``.
"""

from __future__ import annotations

from ..jit import inner
from ..layout import BACKEND_SVM
from ..ledger import NS_ARCH
from .memory_map import NESTED_STATE_MA, VENDOR_RECORD, VMCX01_MA, VMCX02_MA
from .nested_state import (
    BYTES_8,
    NONE,
    n1_vmcx,
    n2_vmcx,
    set_n1_vmcx,
    set_n2_guest,
    set_n2_vmcx,
    set_vmcx12,
    set_vmcx12_addr,
    set_vmentry_pending,
    set_vmexit_pending,
    set_vmswitch_in_progress,
    state_write,
    vmxon,
)

HANDLED_BY_L0, REFLECT_TO_L1 = 0, 1
"""Outcomes of routing an exit of L2."""

EFER_SVME = 1 << 12


@inner
def enter_n2_guest(m, on):
    """The vcpu runs L2 (``on``) or L1 from the next hardware entry on, with vmcx02 or vmcx01."""
    set_n2_guest(m, on)
    m.level = 2 if on else 1
    m.hw.vmcx = n2_vmcx(m) if on else n1_vmcx(m)


@inner
def nestedhvm_is_enabled(m):
    """Has L1 switched virtualization on? SVM: EFER.SVME; VMX: it is in VMX operation."""
    if m.hw.backend == BACKEND_SVM:
        return m.nv.guest_efer & EFER_SVME != 0
    return vmxon(m)


@inner
def reset_nested_vcpu(m):
    """The common part of a reset; the back-ends reset their own fields after it."""
    state_write(m, NS_ARCH, BYTES_8, NESTED_STATE_MA + VENDOR_RECORD)
    set_n1_vmcx(m, VMCX01_MA)
    set_n2_vmcx(m, VMCX02_MA)
    enter_n2_guest(m, 0)
    set_vmentry_pending(m, 0)
    set_vmexit_pending(m, 0)
    set_vmswitch_in_progress(m, 0)
    set_vmcx12_addr(m, NONE)
    set_vmcx12(m, NONE)
