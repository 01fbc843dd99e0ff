"""L0's software for SVM: what hvm/nested.py calls, and vmcb01 as L0 makes it at start.

The parts: ``route`` (whose exit), ``handle`` (L0 serves it), ``enter`` and ``exit``
(virtual VMRUN and #VMEXIT).  The processor's side is ``hw`` and ``intercepts``.
"""

from __future__ import annotations

from ....arch import svm, vmcb
from ...cpu.nmi import V_NMI_ENABLE
from ...jit import inner, unit
from ...layout import L0_MANUAL, L0_XEN, PAGE, Machine
from ...ledger import NS_MERGED_MSRPM_SIZE
from ...words import fill_bytes, ld32, st32, st64
from ..memory_map import L0_IOPM_MA, L0_MSRPM_MA, VMCX01_MA, VMCX02_MA
from ..msr_map_copy import reset_msr_map_copy
from ..nested_state import (
    BYTES_8,
    set_guest_tag,
    set_hap_enabled,
    set_hsave_pa,
    set_icpt,
    set_last_vmcx12_addr,
    state_write,
    write_gif,
)
from ..nested_vcpu import reset_nested_vcpu
from .checks import EFER_SVME, NP_ENABLE
from .common import svm_nested_features_on_efer_update
from .enter import svm_enter_n2, svm_set_hap_root
from .exit import svm_exit_n2
from .handle import svm_handle
from .hw import V_INTR_MASKING, svm_hw_exit
from .maps import MSRPM_BYTES, svm_build_maps
from .route import svm_route
from .state import svm_save_state
from .tables import L0_INTERCEPTS, svm_prepare_routes

__all__ = [
    "svm_enter_n2", "svm_exit_n2", "svm_handle", "svm_initialise", "svm_route", "svm_set_hap_root",
]  # fmt: skip

PAUSE_COUNT, PAUSE_THRESHOLD = 4000, 1000
"""L0's pause filter: exits per that many PAUSEs, not more than so many cycles apart (Xen)."""


@inner
def _reset_nested_vcpu(m):
    reset_nested_vcpu(m)
    set_last_vmcx12_addr(m, -1)
    set_guest_tag(m, 0)
    set_hap_enabled(m, 0)
    write_gif(m, 1)
    set_hsave_pa(m, 0)
    reset_msr_map_copy(m, MSRPM_BYTES)
    state_write(m, NS_MERGED_MSRPM_SIZE, BYTES_8, MSRPM_BYTES)
    m.nv.vm_cr = 0
    for i in range(5):
        set_icpt(m, i, 0)


@inner
def _write_vmcb01_controls(m, h):
    own = 6 * m.feat.l0 if L0_XEN <= m.feat.l0 <= L0_MANUAL else 0
    for i in range(6):
        st32(h + vmcb.INTERCEPT_WORD0 + 4 * i, L0_INTERCEPTS[own + i])
    if m.feat.pause_filter:
        word3 = ld32(h + vmcb.INTERCEPT_WORD3)
        st32(h + vmcb.INTERCEPT_WORD3, word3 | 1 << (svm.INTERCEPT_PAUSE & 31))
        st32(h + vmcb.PAUSE_FILTER_THRESH, PAUSE_THRESHOLD | PAUSE_COUNT << 16)
    st64(h + vmcb.IOPM_BASE_PA, L0_IOPM_MA)
    st64(h + vmcb.MSRPM_BASE_PA, L0_MSRPM_MA)
    st32(h + vmcb.ASID, 1)
    st32(h + vmcb.INT_CTL, V_INTR_MASKING | (V_NMI_ENABLE if m.feat.virtual_nmi else 0))
    st64(h + vmcb.NESTED_CTL, NP_ENABLE)
    st64(h + vmcb.NESTED_CR3, m.l1_hap_root)


@unit(Machine)
def svm_initialise(m):
    """Make vmcb01, an empty vmcb02 and L0's maps from the boot state in ``m.cpu``.

    L0's table for L1 (``m.l1_hap_root``) must exist.  L1 then starts by a hardware entry with
    ``m.hw.vmcx``.
    """
    h = m.ram + VMCX01_MA
    fill_bytes(h, PAGE, 0)
    fill_bytes(m.ram + VMCX02_MA, PAGE, 0)
    svm_build_maps(m)
    svm_prepare_routes(m)
    _reset_nested_vcpu(m)
    # 1. L1's state as an exit would have stored it
    m.hw.vmcx = VMCX01_MA
    m.hw.int_ctl = V_INTR_MASKING
    m.hw.virt_ext = 0
    m.exit.insn_len = 0
    svm_hw_exit(m)
    svm_save_state(m, h)
    # 2. controls; the hardware needs SVME, which L1 does not see set
    _write_vmcb01_controls(m, h)
    m.nv.guest_efer = m.cpu.efer & ~EFER_SVME
    st64(h + vmcb.EFER, m.cpu.efer | EFER_SVME)
    svm_nested_features_on_efer_update(m)
    return 0
