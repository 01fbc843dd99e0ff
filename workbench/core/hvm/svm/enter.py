"""Entering L2: what L0 does for VMRUN after the exit handler asked for it (nsvm_vcpu_vmrun).

vmcb02 is built from vmcb01 (what L0 needs) and vmcb12 (what L1 wants): vmcb02_merge.csv, column xen
(for Xen, and for an L0 without deviations) or kvm.  FS, GS, TR, LDTR and the system-call MSRs are
not touched: L1 has loaded them into the processor with VMLOAD.

Xen reads vmcb12 in L1's memory as it goes along; KVM copies it first, so that nothing can change
between the checks and the merge, and honours clean bits of the state-save area only.

Not modelled: lazy FPU.
"""

from __future__ import annotations

from ....arch import deviations, svm, vmcb
from ...cpu.nmi import V_NMI_STATE
from ...jit import inner, unit
from ...layout import L0_KVM, ST_OK, Machine
from ...ledger import F_TLB_CONTROL, NS_HOST_SAVE, P_ENTRY, P_EXIT, count_copy, count_field
from ...mmu.physical import host_of
from ...structs import i64
from ...timeline import refuse
from ...words import copy_bytes, count_trailing_zeros, ld8, ld32, ld64, lshr, st32, st64
from ..memory_map import VMCX01_MA, VMCX02_MA
from ..msr_map_copy import copy_msr_map, keeps_msr_map_copy
from ..nested_state import (
    hap_enabled,
    host_cr3,
    host_save,
    icpt,
    last_vmcx12_addr,
    set_guest_cr3,
    set_guest_tag,
    set_hap_enabled,
    set_host_cr3,
    set_icpt,
    set_iopm,
    set_msrpm,
    set_rflagsif,
    set_vintrmask,
    set_vmswitch_in_progress,
    state_has,
    tag_changed,
    vmcx12,
    vmcx12_addr,
)
from ..nested_vcpu import enter_n2_guest
from ..np2m import np2m_note_vmrun, np2m_select
from ..tags import N2, tags_renew
from .checks import F_ASID, F_NCR3, NP_ENABLE, REPLACED_BY_L0, VALID, svm_vmcb_faults
from .clean import (
    CLEAN_DR,
    CLEAN_DT,
    CLEAN_INTERCEPTS,
    CLEAN_LBR,
    CLEAN_NP,
    CLEAN_SEG,
    CLEAN_TPR,
    touch,
)
from .common import (
    EFER_SVME,
    STGI_CLGI_BITS,
    V_IRQ,
    VINTR_BIT,
    VMLOAD_VMSAVE_BITS,
    request_virtual_exit,
    set_gif,
    trap_behind_vmrun,
)
from .decode import svm_next_rip
from .exit import svm_abandon_entry
from .hw import LBR_ENABLE, V_INTR_MASKING
from .instructions import V_GIF, V_GIF_ENABLE, VIRT_EXT_VMLOAD_VMSAVE
from .maps import MSRPM_BYTES, svm_choose_iopm, svm_merge_msrpm
from .vmcb import copy8, copy32, copy64, copy128

RFLAGS_IF = 1 << 9
DR6_FIXED_1, DR7_FIXED_1 = 0xFFFF_0FF0, 0x400
"""Bits of the debug registers that read as 1."""
CLEAN_SAVE_AREA = CLEAN_SEG | CLEAN_DT | CLEAN_DR
"""Clean bits of vmcb12 that KVM honours."""
FAILED = 1

HOST_SAVE_BYTES = 6 * 8
SAVE_AREA, SAVE_AREA_BYTES = 0x400, 0x298
"""State-save area of a VMCB (APM vol. 2, table B-2), as far as the model knows it."""
CONTROL_BYTES = 6 * 4 + 8 + 4 + 3 * 8 + 2 * 8 + 8 + 8 + 4
INTERCEPT_BYTES, TPR_BYTES, SEG_BYTES, DT_BYTES, DR_BYTES, NP_BYTES, LBR_BYTES = (
    5 * 4, 8, 4 * 16 + 1, 2 * 16, 2 * 8, 8, 5 * 8,
)  # fmt: skip
STATE_BYTES = 9 * 8
SNAPSHOT_BYTES = 6 * 4 + 3 * 8 + 1 + 4 + 3 * 4 + 4 * 8 + 2 * 8 + 4 * 8 + 8 + 6 * 8
"""What KVM copies of vmcb12 before it checks it: the control area and six registers."""
CR8_WRITE_BIT = 1 << svm.INTERCEPT_CR8_WRITE
VMMCALL_BIT = 1 << (svm.INTERCEPT_VMMCALL & 31)
KVM_INT_CTL = (
    0xF | V_IRQ | 15 << svm.INT_CTL_V_INTR_PRIO | 1 << svm.INT_CTL_V_IGN_TPR | V_GIF | V_GIF_ENABLE
)
"""What KVM takes of vmcb12's interrupt control."""


# ---------------------------------------------------------------- the merge, part by part


@inner
def _read32(m, h12, offset, field):
    count_field(m, field, P_ENTRY, 0)
    return ld32(h12 + offset)


@inner
def _read64(m, h12, offset, field):
    count_field(m, field, P_ENTRY, 0)
    return ld64(h12 + offset)


@inner
def _cache_intercepts(m, h12):
    """L1's own intercept words, kept for routing."""
    set_icpt(m, 0, _read32(m, h12, vmcb.INTERCEPT_WORD0, vmcb.FIELD_INTERCEPT_WORD0))
    set_icpt(m, 1, _read32(m, h12, vmcb.INTERCEPT_WORD1, vmcb.FIELD_INTERCEPT_WORD1))
    set_icpt(m, 2, _read32(m, h12, vmcb.INTERCEPT_WORD2, vmcb.FIELD_INTERCEPT_WORD2))
    set_icpt(m, 3, _read32(m, h12, vmcb.INTERCEPT_WORD3, vmcb.FIELD_INTERCEPT_WORD3))
    set_icpt(m, 4, _read32(m, h12, vmcb.INTERCEPT_WORD4, vmcb.FIELD_INTERCEPT_WORD4))
    set_icpt(m, 5, 0)
    if m.feat.deviations & deviations.DEV_GENERAL3_NOT_MERGED == 0:
        set_icpt(m, 5, _read32(m, h12, vmcb.INTERCEPT_WORD5, vmcb.FIELD_INTERCEPT_WORD5))
    count_copy(m, INTERCEPT_BYTES)


@inner
def _recalculate_intercepts(m, h12, h02, h01):
    """Where KVM does not simply OR (recalc_intercepts)."""
    if ld32(h12 + vmcb.INT_CTL) & V_INTR_MASKING:
        # L2 has a task priority of its own, and L0's window for L1 need not open while L2 runs
        st32(h02 + vmcb.INTERCEPT_WORD0, ld32(h02 + vmcb.INTERCEPT_WORD0) & ~CR8_WRITE_BIT)
        if ld64(h01 + vmcb.RFLAGS) & RFLAGS_IF == 0 and icpt(m, 3) & VINTR_BIT == 0:
            st32(h02 + vmcb.INTERCEPT_WORD3, ld32(h02 + vmcb.INTERCEPT_WORD3) & ~VINTR_BIT)
    word4 = ld32(h02 + vmcb.INTERCEPT_WORD4)
    if icpt(m, 4) & VMMCALL_BIT == 0:
        word4 &= ~VMMCALL_BIT
    if _nested_vls(m, h12) == 0:
        word4 |= VMLOAD_VMSAVE_BITS
    st32(h02 + vmcb.INTERCEPT_WORD4, word4)


@inner
def _nested_vls(m, h12):
    """VIRT_EXT bit of virtual VMLOAD/VMSAVE if KVM lets L2 have it."""
    if m.feat.virtual_vmload_vmsave and hap_enabled(m):
        return ld64(h12 + vmcb.VIRT_EXT) & VIRT_EXT_VMLOAD_VMSAVE
    return 0


@inner
def _or_intercepts(m, h12, h02, h01):
    """vmcb02 intercepts what L0 or L1 wants.

    STGI and CLGI must not reach the physical GIF: without a V_GIF of its own L2 exits for them.
    That L0 waits for an STGI of L1 does not concern L2.
    """
    for k in range(5):
        word = _read32(m, h12, vmcb.INTERCEPT_WORD0 + 4 * k, vmcb.FIELD_INTERCEPT_WORD0 + k)
        ours = ld32(h01 + vmcb.INTERCEPT_WORD0 + 4 * k)
        if k == 4:
            ours &= ~STGI_CLGI_BITS
        st32(h02 + vmcb.INTERCEPT_WORD0 + 4 * k, word | ours)
    if m.feat.deviations & deviations.DEV_GENERAL3_NOT_MERGED == 0:
        st32(h02 + vmcb.INTERCEPT_WORD5, icpt(m, 5) | ld32(h01 + vmcb.INTERCEPT_WORD5))
    if m.feat.l0 == L0_KVM:
        _recalculate_intercepts(m, h12, h02, h01)
    if ld32(h02 + vmcb.INT_CTL) & V_GIF_ENABLE == 0:
        st32(h02 + vmcb.INTERCEPT_WORD4, ld32(h02 + vmcb.INTERCEPT_WORD4) | STGI_CLGI_BITS)


@inner
def _merge_interrupts(m, h12, h02):
    """V_INTR of vmcb12, with V_INTR_MASKING forced: L0 needs it."""
    int_ctl = _read32(m, h12, vmcb.INT_CTL, vmcb.FIELD_INT_CTL)
    if m.feat.virtual_gif == 0:
        int_ctl &= ~(V_GIF | V_GIF_ENABLE)
    if m.feat.virtual_nmi == 0:
        int_ctl &= ~V_NMI_STATE
    if m.feat.l0 == L0_KVM:
        int_ctl &= KVM_INT_CTL | V_NMI_STATE
    st32(h02 + vmcb.INT_CTL, int_ctl | V_INTR_MASKING)
    copy32(m, h02, h12, vmcb.INT_VECTOR, vmcb.FIELD_INT_VECTOR, P_ENTRY, 0)
    count_copy(m, TPR_BYTES)


@inner
def _merged_pause_filter(m, h12, h01):
    """Threshold and count in one word: L0's, with L1's count if that is less and L1 wants PAUSE.

    KVM, which intercepts PAUSE itself, takes of L1 only that one of the two is to be off (a deviation).
    """
    own = ld32(h01 + vmcb.PAUSE_FILTER_THRESH)
    if m.feat.pause_filter == 0 or lshr(icpt(m, 3), svm.INTERCEPT_PAUSE & 31) & 1 == 0:
        return own
    l1 = _read32(m, h12, vmcb.PAUSE_FILTER_THRESH, vmcb.FIELD_PAUSE_FILTER_COUNT)
    if m.feat.deviations & deviations.DEV_PAUSE_COUNT_OF_L0:
        threshold = own & 0xFFFF if l1 & 0xFFFF else 0
        return threshold | (own & ~0xFFFF if l1 & ~0xFFFF else 0)
    return own if lshr(own, 16) <= lshr(l1, 16) else (own & 0xFFFF) | (l1 & ~0xFFFF)


@inner
def _note_msrpm(m, n1p):
    """L1's MSR map: a copy of it, or where it is."""
    if keeps_msr_map_copy(m):
        copy_msr_map(m, n1p, MSRPM_BYTES)
    else:
        set_msrpm(m, n1p)


@unit(Machine, i64)
def svm_merge_controls(m, h12):
    """Control area of vmcb02 from vmcb01 and vmcb12."""
    h01 = m.ram + VMCX01_MA
    h02 = m.ram + VMCX02_MA
    clean = _read32(m, h12, vmcb.CLEAN, vmcb.FIELD_CLEAN)
    if m.feat.vmcb_clean_bits == 0 or last_vmcx12_addr(m) != vmcx12_addr(m):
        clean = 0
    if m.feat.l0 == L0_KVM:
        clean &= CLEAN_SAVE_AREA
        count_copy(m, SNAPSHOT_BYTES)
    # 1. intercepts
    if clean & CLEAN_TPR == 0:
        _merge_interrupts(m, h12, h02)
    if clean & CLEAN_INTERCEPTS == 0:
        _cache_intercepts(m, h12)
    _or_intercepts(m, h12, h02, h01)
    st32(h02 + vmcb.CLEAN, 0)
    st32(h02 + vmcb.PAUSE_FILTER_THRESH, _merged_pause_filter(m, h12, h01))
    # 2. TSC offset
    st64(
        h02 + vmcb.TSC_OFFSET,
        ld64(h01 + vmcb.TSC_OFFSET) + _read64(m, h12, vmcb.TSC_OFFSET, vmcb.FIELD_TSC_OFFSET),
    )
    # 3. permission maps
    _note_msrpm(m, _read64(m, h12, vmcb.MSRPM_BASE_PA, vmcb.FIELD_MSRPM_BASE_PA))
    set_iopm(m, _read64(m, h12, vmcb.IOPM_BASE_PA, vmcb.FIELD_IOPM_BASE_PA))
    st64(h02 + vmcb.MSRPM_BASE_PA, svm_merge_msrpm(m))
    st64(h02 + vmcb.IOPM_BASE_PA, svm_choose_iopm(m))
    # 4. interrupt shadow, the event that L1 injects, exit information (meaningless until the exit)
    copy32(m, h02, h12, vmcb.INT_STATE, vmcb.FIELD_INT_STATE, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.EXIT_CODE, vmcb.FIELD_EXIT_CODE, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.EXIT_INFO_1, vmcb.FIELD_EXIT_INFO_1, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.EXIT_INFO_2, vmcb.FIELD_EXIT_INFO_2, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.EXIT_INT_INFO, vmcb.FIELD_EXIT_INT_INFO, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.EVENT_INJ, vmcb.FIELD_EVENT_INJ, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.NEXT_RIP, vmcb.FIELD_NEXT_RIP, P_ENTRY, 0)
    # 5. LBR virtualization and virtual VMLOAD/VMSAVE
    virt_ext = _read64(m, h12, vmcb.VIRT_EXT, vmcb.FIELD_VIRT_EXT)
    if m.feat.l0 == L0_KVM:
        st64(h02 + vmcb.VIRT_EXT, (virt_ext & LBR_ENABLE) | _nested_vls(m, h12))
    else:
        st64(h02 + vmcb.VIRT_EXT, virt_ext | ld64(h01 + vmcb.VIRT_EXT))
    count_copy(m, CONTROL_BYTES)
    return clean


@inner
def _merge_paging(m, h02, h01):
    """Nested paging of L2: the combined table, or L1's own when L1 shadows L2's tables."""
    st64(h02 + vmcb.NESTED_CTL, NP_ENABLE)
    if hap_enabled(m) and m.sh.active == 0:
        st64(h02 + vmcb.NESTED_CR3, np2m_select(m, host_cr3(m)))
    else:
        st64(h02 + vmcb.NESTED_CR3, ld64(h01 + vmcb.NESTED_CR3))


@inner
def svm_set_hap_root(m, root):
    """L2's nested table is another one now, or was emptied, while L2 is current."""
    st64(m.ram + VMCX02_MA + vmcb.NESTED_CR3, root)
    touch(m.ram + VMCX02_MA, CLEAN_NP)


@inner
def _merge_control_registers(m, h12, h02):
    """EFER, CR4, CR0, CR2, CR3: through the ordinary emulation in Xen, hence never 'clean'."""
    efer = _read64(m, h12, vmcb.EFER, vmcb.FIELD_EFER)
    m.nv.guest_efer = efer
    st64(h02 + vmcb.EFER, efer | EFER_SVME)
    copy64(m, h02, h12, vmcb.CR4, vmcb.FIELD_CR4, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.CR0, vmcb.FIELD_CR0, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.CR2, vmcb.FIELD_CR2, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.CR3, vmcb.FIELD_CR3, P_ENTRY, 0)


@inner
def _merge_clean_groups(m, h12, h02, h01, clean):
    """What L1 may declare unchanged: segments, descriptor tables, debug registers, PAT, LBR."""
    if clean & CLEAN_SEG == 0:
        copy128(m, h02, h12, vmcb.ES, vmcb.FIELD_ES, P_ENTRY, 0)
        copy128(m, h02, h12, vmcb.CS, vmcb.FIELD_CS, P_ENTRY, 0)
        copy128(m, h02, h12, vmcb.SS, vmcb.FIELD_SS, P_ENTRY, 0)
        copy128(m, h02, h12, vmcb.DS, vmcb.FIELD_DS, P_ENTRY, 0)
        copy8(m, h02, h12, vmcb.CPL, vmcb.FIELD_CPL, P_ENTRY, 0)
        count_copy(m, SEG_BYTES)
    if clean & CLEAN_DT == 0:
        copy128(m, h02, h12, vmcb.GDTR, vmcb.FIELD_GDTR, P_ENTRY, 0)
        copy128(m, h02, h12, vmcb.IDTR, vmcb.FIELD_IDTR, P_ENTRY, 0)
        count_copy(m, DT_BYTES)
    if clean & CLEAN_DR == 0:
        copy64(m, h02, h12, vmcb.DR7, vmcb.FIELD_DR7, P_ENTRY, 0)
        copy64(m, h02, h12, vmcb.DR6, vmcb.FIELD_DR6, P_ENTRY, 0)
        if m.feat.l0 == L0_KVM:
            st64(h02 + vmcb.DR7, ld64(h02 + vmcb.DR7) | DR7_FIXED_1)
            st64(h02 + vmcb.DR6, ld64(h02 + vmcb.DR6) | DR6_FIXED_1)
        count_copy(m, DR_BYTES)
    if m.feat.deviations & deviations.DEV_G_PAT_OF_L1:
        st64(h02 + vmcb.G_PAT, ld64(h01 + vmcb.G_PAT))
    elif clean & CLEAN_NP == 0:
        copy64(m, h02, h12, vmcb.G_PAT, vmcb.FIELD_G_PAT, P_ENTRY, 0)
        count_copy(m, NP_BYTES)
    if m.feat.l0 == L0_KVM and ld64(h12 + vmcb.VIRT_EXT) & LBR_ENABLE == 0:
        st64(h02 + vmcb.DBGCTL, ld64(h01 + vmcb.DBGCTL))
    elif clean & CLEAN_LBR == 0:
        copy64(m, h02, h12, vmcb.DBGCTL, vmcb.FIELD_DBGCTL, P_ENTRY, 0)
        copy64(m, h02, h12, vmcb.BR_FROM, vmcb.FIELD_BR_FROM, P_ENTRY, 0)
        copy64(m, h02, h12, vmcb.BR_TO, vmcb.FIELD_BR_TO, P_ENTRY, 0)
        copy64(m, h02, h12, vmcb.LAST_EXCP_FROM, vmcb.FIELD_LAST_EXCP_FROM, P_ENTRY, 0)
        copy64(m, h02, h12, vmcb.LAST_EXCP_TO, vmcb.FIELD_LAST_EXCP_TO, P_ENTRY, 0)
        count_copy(m, LBR_BYTES)


@inner
def _merge_state(m, h12, h02, h01, clean):
    """State-save area of vmcb02."""
    _merge_clean_groups(m, h12, h02, h01, clean)
    _merge_control_registers(m, h12, h02)
    _merge_paging(m, h02, h01)
    copy64(m, h02, h12, vmcb.RFLAGS, vmcb.FIELD_RFLAGS, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.RIP, vmcb.FIELD_RIP, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.RSP, vmcb.FIELD_RSP, P_ENTRY, 0)
    copy64(m, h02, h12, vmcb.RAX, vmcb.FIELD_RAX, P_ENTRY, 0)
    count_copy(m, STATE_BYTES)


# ---------------------------------------------------------------- VMRUN


@inner
def _note_paging(m, h12):
    """Roots, ASID and TLB_CONTROL of vmcb12.

    Any TLB_CONTROL and a new ASID concern the nested p2m (``np2m_flush``), and L2 takes a new tag;
    L1's TLB_CONTROL itself never reaches the hardware.
    """
    set_guest_cr3(m, _read64(m, h12, vmcb.CR3, vmcb.FIELD_CR3))
    set_host_cr3(m, _read64(m, h12, vmcb.NESTED_CR3, vmcb.FIELD_NESTED_CR3))
    set_hap_enabled(m, _read64(m, h12, vmcb.NESTED_CTL, vmcb.FIELD_NESTED_CTL) & NP_ENABLE)
    tlb_control = ld8(h12 + vmcb.TLB_CTL)
    count_field(m, vmcb.FIELD_TLB_CTL, P_ENTRY, 0)
    asid = _read32(m, h12, vmcb.ASID, vmcb.FIELD_ASID)
    if tlb_control or tag_changed(m, asid):
        set_guest_tag(m, asid)
        np2m_note_vmrun(m, tlb_control, host_cr3(m), F_TLB_CONTROL)
        tags_renew(m, N2, F_TLB_CONTROL)


@inner
def _save_host(m, h01):
    """L1's context stays in vmcb01; it will continue behind its VMRUN (hostsave)."""
    nv = m.nv
    m.vmrun_rip = ld64(h01 + vmcb.RIP)
    st64(h01 + vmcb.RIP, svm_next_rip(m, h01))
    st32(h01 + vmcb.INT_STATE, 0)
    set_rflagsif(m, 1 if ld64(h01 + vmcb.RFLAGS) & RFLAGS_IF else 0)
    nv.host_efer = nv.guest_efer
    count_copy(m, HOST_SAVE_BYTES)
    if state_has(m, NS_HOST_SAVE):
        copy_bytes(m.ram + host_save(m) + SAVE_AREA, h01 + SAVE_AREA, SAVE_AREA_BYTES)
        count_copy(m, SAVE_AREA_BYTES)


@inner
def _refused(m, h12):
    """Does L0 refuse this vmcb12?  Xen looks at less than the processor would."""
    faults = svm_vmcb_faults(m, h12)
    if m.feat.deviations & deviations.DEV_VMRUN_CHECKS_INCOMPLETE:
        faults &= ~REPLACED_BY_L0
    if m.sh.active and ld64(h12 + vmcb.NESTED_CTL) & NP_ENABLE:
        faults |= F_NCR3  # no nested paging for L1 without L0's own
    return refuse(m, count_trailing_zeros(faults), 1) if faults else VALID


@inner
def _refuse(m, h12, h01):
    """VMRUN fails before anything is loaded: L1 goes on behind it with VMEXIT_INVALID."""
    m.exit.code = svm.VMEXIT_INVALID
    st64(h12 + vmcb.EXIT_CODE, svm.VMEXIT_INVALID)
    st64(h12 + vmcb.EXIT_INFO_1, 0)
    st64(h12 + vmcb.EXIT_INFO_2, 0)
    count_field(m, vmcb.FIELD_EXIT_CODE, P_EXIT, 1)
    st64(h01 + vmcb.RIP, svm_next_rip(m, h01))
    st32(h01 + vmcb.INT_STATE, 0)
    set_gif(m, 0)
    trap_behind_vmrun(m, h01)
    return FAILED


@unit(Machine)
def svm_enter_n2(m):
    """Virtual entry: L1's VMRUN takes effect. ST_OK; FAILED: L1 goes on, perhaps by a virtual exit
    that is requested."""
    h01 = m.ram + VMCX01_MA
    h02 = m.ram + VMCX02_MA
    h12 = host_of(m, vmcx12(m))
    late = m.feat.deviations & deviations.DEV_VMRUN_CHECKED_AFTER_LOADING
    if late == 0 and _refused(m, h12):
        return _refuse(m, h12, h01)
    set_vmswitch_in_progress(m, 1)
    # 1. what the tags and the nested p2m depend on
    _note_paging(m, h12)
    set_vintrmask(m, lshr(ld32(h12 + vmcb.INT_CTL), svm.INT_CTL_V_INTR_MASKING) & 1)
    # 2. L1's own context
    _save_host(m, h01)
    # 3. vmcb02 becomes the current VMCB (also when the checks fail: the virtual exit unwinds it)
    enter_n2_guest(m, 1)
    clean = svm_merge_controls(m, h12)
    _merge_state(m, h12, h02, h01, clean)
    # 4. GIF is set
    set_gif(m, 1)
    set_vmswitch_in_progress(m, 0)
    # 5. Xen's consistency checks
    if late and _refused(m, h12):
        m.exit.code = svm.VMEXIT_INVALID
        request_virtual_exit(m, svm.VMEXIT_INVALID, 0, 0)
        return FAILED
    if clean:  # L1 may have called something unchanged that was never sound
        faults = svm_vmcb_faults(m, h02) & ~F_ASID  # L0 chooses the ASID later
        if faults:
            refuse(m, count_trailing_zeros(faults), 0)
            svm_abandon_entry(m)
            return FAILED
    if m.irq.active and m.feat.deviations & deviations.DEV_EVENT_BEHIND_ENTRY:
        m.nv.immediate_exit = 1  # should an event be waiting
    return ST_OK
