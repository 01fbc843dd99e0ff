"""The generic part of the nested vcpu: which guest it runs, and its state at reset.

Names as the review of 2010 settled them: ``n2_guest``, ``is_n2_guest``, ``enter_n2_guest``.
"""

from __future__ import annotations

from ..jit import inner
from ..layout import BACKEND_SVM
from .memory_map import VMCX01_MA, VMCX02_MA

HANDLED_BY_L0, REFLECT_TO_L1 = 0, 1
"""Outcomes of routing an exit of L2."""

EFER_SVME = 1 << 12

NONE = -1
"""No address: no vmcx12 is mapped."""


@inner
def is_n2_guest(m):
    """Does the vcpu run L2?"""
    return m.nv.n2_guest != 0


@inner
def enter_n2_guest(m, on):
    """The vcpu runs L2 (``on``) or L1 from the next hardware entry on, with vmcx02 or vmcx01."""
    nv = m.nv
    nv.n2_guest = on
    m.level = 2 if on else 1
    m.hw.vmcx = nv.n2_vmcx_ma if on else nv.n1_vmcx_ma


@inner
def nestedhvm_is_enabled(m):
    """Has L1 switched virtualization on? SVM: EFER.SVME; VMX: it is in VMX operation."""
    if m.hw.backend == BACKEND_SVM:
        return m.nv.guest_efer & EFER_SVME != 0
    return m.nv.vmxon != 0


@inner
def reset_nested_vcpu(m):
    """The common part of a reset; the back-ends reset their own fields after it."""
    nv = m.nv
    nv.n1_vmcx_ma = VMCX01_MA
    nv.n2_vmcx_ma = VMCX02_MA
    enter_n2_guest(m, 0)
    nv.vmentry_pending = 0
    nv.vmexit_pending = 0
    nv.vmswitch_in_progress = 0
    nv.n1_vmcx12_addr = NONE
    nv.vmcx12_ma = NONE
