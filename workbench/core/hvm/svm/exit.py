"""Leaving L2 for L1: Xen's nsvm_vmcb_prepare4vmexit, nsvm_vcpu_hostrestore and vmexit_inject.

L2's state and the exit go from vmcb02 to vmcb12 in L1's memory; L1 continues behind its VMRUN with
what vmcb01 has kept.  Not written back: ASID, intercepts, maps, TSC offset; by KVM also not the
nested-paging controls, TLB_CONTROL, the vector of V_IRQ, G_PAT, and LBR state unless L1 virtualizes
it (nested_svm_vmexit).
"""

from __future__ import annotations

from ....arch import deviations, vmcb
from ...cpu.nmi import V_NMI, V_NMI_ENABLE, V_NMI_MASK
from ...jit import inner, unit
from ...layout import L0_KVM, PAGE, ST_OK, Machine
from ...ledger import E_L0_VMSAVE, NS_HOST_SAVE, P_EXIT, count, count_copy, count_field
from ...mmu.physical import host_of, note_code_written
from ...words import copy_bytes, ld32, ld64, st8, st32, st64
from ..memory_map import VMCX01_MA, VMCX02_MA
from ..nested_state import (
    hap_enabled,
    host_cr3,
    host_save,
    set_last_vmcx12_addr,
    set_vmswitch_in_progress,
    state_has,
    vintrmask,
    vmcx12,
    vmcx12_addr,
)
from ..nested_vcpu import enter_n2_guest
from ..virtual_exit import exit_code, exit_info1, exit_info2
from .checks import EFER_SVME, EVENT_VALID
from .common import V_IRQ, inject_ud, set_gif, trap_behind_vmrun
from .hw import DR7_ONES, LBR_ENABLE, V_INTR_MASKING
from .instructions import V_GIF, V_GIF_ENABLE
from .intr import svm_drop_virtual_window
from .state import svm_save_state
from .vmcb import copy8, copy32, copy64, copy128

CR0_PE = 1
CR4_TO_RIP = vmcb.RIP + 8 - vmcb.CR4
CONTROL_BYTES = 4 + 4 + 4 + 3 * 8 + 8 + 8 + 1 + 2 * 8 + 8 + 16
KVM_CONTROL_BYTES = 4 + 4 + 3 * 8 + 8 + 8 + 8
STATE_BYTES = 6 * 16 + 1 + 11 * 8
PAT_BYTES = 8
KVM_INT_CTL_BACK = 0xF | V_IRQ
"""What KVM takes back of the interrupt control, beside virtual GIF and NMIs that L1 uses for L2."""
LBR_BYTES = 5 * 8
RESTORE_BYTES = 6 * 8


@inner
def _write_exit(m, h12, h02):
    """Exit code and information; an event that was not delivered yet goes back to L1."""
    st64(h12 + vmcb.EXIT_CODE, exit_code(m))
    st64(h12 + vmcb.EXIT_INFO_1, exit_info1(m))
    st64(h12 + vmcb.EXIT_INFO_2, exit_info2(m))
    count_field(m, vmcb.FIELD_EXIT_CODE, P_EXIT, 1)
    count_field(m, vmcb.FIELD_EXIT_INFO_1, P_EXIT, 1)
    count_field(m, vmcb.FIELD_EXIT_INFO_2, P_EXIT, 1)
    event = ld64(h02 + vmcb.EVENT_INJ)
    if event & EVENT_VALID == 0:
        event = ld64(h02 + vmcb.EXIT_INT_INFO)
    st64(h12 + vmcb.EXIT_INT_INFO, event)
    st64(h12 + vmcb.EVENT_INJ, 0)
    st32(h02 + vmcb.EVENT_INJ, 0)
    st64(h02 + vmcb.EXIT_INT_INFO, 0)
    count_field(m, vmcb.FIELD_EXIT_INT_INFO, P_EXIT, 1)
    count_field(m, vmcb.FIELD_EVENT_INJ, P_EXIT, 1)


@inner
def _kvm_int_ctl_back(m, old):
    """The bits that L2 may have changed (KVM, nested_sync_control_from_vmcb02)."""
    back = KVM_INT_CTL_BACK
    if m.feat.virtual_gif and old & V_GIF_ENABLE:
        back |= V_GIF
    if m.feat.virtual_nmi and old & V_NMI_ENABLE:
        back |= V_NMI | V_NMI_MASK
    return back


@inner
def _write_controls(m, h12, h02):
    # 1. interrupts: V_INTR_MASKING is L1's own again
    int_ctl = ld32(h02 + vmcb.INT_CTL)
    old = ld32(h12 + vmcb.INT_CTL)
    if vintrmask(m) == 0:
        int_ctl &= ~V_INTR_MASKING
    if m.feat.l0 == L0_KVM:
        back = _kvm_int_ctl_back(m, old)
        int_ctl = (old & ~back) | (int_ctl & back)
    st32(h12 + vmcb.INT_CTL, int_ctl)
    count_field(m, vmcb.FIELD_INT_CTL, P_EXIT, 1)
    copy32(m, h12, h02, vmcb.INT_STATE, vmcb.FIELD_INT_STATE, P_EXIT, 1)
    # 2. exit
    _write_exit(m, h12, h02)
    if m.feat.l0 == L0_KVM:
        copy64(m, h12, h02, vmcb.NEXT_RIP, vmcb.FIELD_NEXT_RIP, P_EXIT, 1)
        count_copy(m, KVM_CONTROL_BYTES)
        return
    copy32(m, h12, h02, vmcb.INT_VECTOR, vmcb.FIELD_INT_VECTOR, P_EXIT, 1)
    # 3. TLB_CONTROL is done; nested paging as L1 had it
    if m.feat.deviations & deviations.DEV_TLB_CONTROL_CLEARED:
        st8(h12 + vmcb.TLB_CTL, 0)
    st64(h12 + vmcb.NESTED_CTL, hap_enabled(m))
    st64(h12 + vmcb.NESTED_CR3, host_cr3(m))
    count_field(m, vmcb.FIELD_TLB_CTL, P_EXIT, 1)
    count_field(m, vmcb.FIELD_NESTED_CTL, P_EXIT, 1)
    count_field(m, vmcb.FIELD_NESTED_CR3, P_EXIT, 1)
    # 4. decode assists
    copy64(m, h12, h02, vmcb.NEXT_RIP, vmcb.FIELD_NEXT_RIP, P_EXIT, 1)
    copy128(m, h12, h02, vmcb.INSN_LEN, vmcb.FIELD_INSN_LEN, P_EXIT, 1)
    count_copy(m, CONTROL_BYTES)


@inner
def _write_state(m, h12, h02):
    copy128(m, h12, h02, vmcb.ES, vmcb.FIELD_ES, P_EXIT, 1)
    copy128(m, h12, h02, vmcb.CS, vmcb.FIELD_CS, P_EXIT, 1)
    copy128(m, h12, h02, vmcb.SS, vmcb.FIELD_SS, P_EXIT, 1)
    copy128(m, h12, h02, vmcb.DS, vmcb.FIELD_DS, P_EXIT, 1)
    copy128(m, h12, h02, vmcb.GDTR, vmcb.FIELD_GDTR, P_EXIT, 1)
    copy128(m, h12, h02, vmcb.IDTR, vmcb.FIELD_IDTR, P_EXIT, 1)
    copy8(m, h12, h02, vmcb.CPL, vmcb.FIELD_CPL, P_EXIT, 1)
    st64(h12 + vmcb.EFER, m.nv.guest_efer)
    count_field(m, vmcb.FIELD_EFER, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.CR4, vmcb.FIELD_CR4, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.CR3, vmcb.FIELD_CR3, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.CR0, vmcb.FIELD_CR0, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.CR2, vmcb.FIELD_CR2, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.DR7, vmcb.FIELD_DR7, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.DR6, vmcb.FIELD_DR6, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.RFLAGS, vmcb.FIELD_RFLAGS, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.RIP, vmcb.FIELD_RIP, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.RSP, vmcb.FIELD_RSP, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.RAX, vmcb.FIELD_RAX, P_EXIT, 1)
    count_copy(m, STATE_BYTES)
    if m.feat.l0 != L0_KVM:
        copy64(m, h12, h02, vmcb.G_PAT, vmcb.FIELD_G_PAT, P_EXIT, 1)
        count_copy(m, PAT_BYTES)
    elif ld64(h12 + vmcb.VIRT_EXT) & LBR_ENABLE == 0:
        return
    copy64(m, h12, h02, vmcb.DBGCTL, vmcb.FIELD_DBGCTL, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.BR_FROM, vmcb.FIELD_BR_FROM, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.BR_TO, vmcb.FIELD_BR_TO, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.LAST_EXCP_FROM, vmcb.FIELD_LAST_EXCP_FROM, P_EXIT, 1)
    copy64(m, h12, h02, vmcb.LAST_EXCP_TO, vmcb.FIELD_LAST_EXCP_TO, P_EXIT, 1)
    count_copy(m, LBR_BYTES)


@inner
def _restore_saved(m, h01, saved):
    """L1's state out of the host-save area (only in the layout that has one)."""
    copy_bytes(h01 + vmcb.ES, saved + vmcb.ES, 4 * 16)
    copy_bytes(h01 + vmcb.GDTR, saved + vmcb.GDTR, 16)
    copy_bytes(h01 + vmcb.IDTR, saved + vmcb.IDTR, 16)
    copy_bytes(h01 + vmcb.CR4, saved + vmcb.CR4, CR4_TO_RIP)
    st64(h01 + vmcb.RSP, ld64(saved + vmcb.RSP))
    st64(h01 + vmcb.RAX, ld64(saved + vmcb.RAX))
    st64(h01 + vmcb.CR2, ld64(saved + vmcb.CR2))
    count_copy(m, 4 * 16 + 2 * 16 + CR4_TO_RIP + 3 * 8)


@inner
def _restore_host(m, h01):
    """L1 as #VMEXIT leaves it: CPL 0, protected mode, no breakpoints (hostrestore)."""
    nv = m.nv
    if state_has(m, NS_HOST_SAVE):
        _restore_saved(m, h01, m.ram + host_save(m))
    nv.guest_efer = nv.host_efer
    st64(h01 + vmcb.EFER, nv.host_efer | EFER_SVME)
    st64(h01 + vmcb.CR0, ld64(h01 + vmcb.CR0) | CR0_PE)
    st64(h01 + vmcb.DR7, DR7_ONES)
    st8(h01 + vmcb.CPL, 0)
    st32(h01 + vmcb.CLEAN, 0)
    count_copy(m, RESTORE_BYTES)


@inner
def svm_abandon_entry(m):
    """vmcb12 is sound but vmcb02 is not: L1's VMRUN did not happen, it raises #UD (Xen)."""
    h01 = m.ram + VMCX01_MA
    enter_n2_guest(m, 0)
    _restore_host(m, h01)
    st64(h01 + vmcb.RIP, m.vmrun_rip)
    inject_ud(m)


@unit(Machine)
def svm_exit_n2(m):
    """Virtual exit with the code and information asked for; L1 is current after it."""
    h01 = m.ram + VMCX01_MA
    h02 = m.ram + VMCX02_MA
    h12 = host_of(m, vmcx12(m))
    set_vmswitch_in_progress(m, 1)
    if m.irq.window:
        svm_drop_virtual_window(m)
    # 1. FS, GS, TR, LDTR and the system-call MSRs are common to both VMCBs
    if m.feat.l0 != L0_KVM:  # KVM has done so at the hardware exit
        svm_save_state(m, h01)
        count(m, E_L0_VMSAVE, 1)
    # 2. L2's state and the exit into vmcb12
    _write_controls(m, h12, h02)
    _write_state(m, h12, h02)
    note_code_written(m, h12, PAGE)
    set_last_vmcx12_addr(m, vmcx12_addr(m))
    # 3. L1's context
    enter_n2_guest(m, 0)
    _restore_host(m, h01)
    # 4. GIF is cleared
    set_gif(m, 0)
    set_vmswitch_in_progress(m, 0)
    trap_behind_vmrun(m, h01)
    return ST_OK
