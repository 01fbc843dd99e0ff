"""Virtual VM entry: vmcs01 and vmcs12 are merged into vmcs02, and L2 runs (Xen, virtual_vmentry).

Guest state, nested paging and the tag; the controls are merged in ``merge``.  L2's EFER and PAT come from vmcs12 when its
VM-entry controls say so (a deviation of Xen's: L2 has L1's EFER but for LMA and LME).  The
guest-state checks of the manual are made on vmcs12, and a failure is exit reason 33 for L1; Xen
leaves them to the processor (another deviation).  vmcs12's MSR areas are walked in software; Xen
ignores them (one more).
"""

from __future__ import annotations

import numpy as np

from ....arch import deviations, vmcs, vmx
from ...jit import inner, unit
from ...layout import L0_KVM, ST_OK, Machine
from ...ledger import (
    C_ENTRY_FAILURE,
    E_L0_VMCLEAR,
    F_L1_WITHOUT_VPID,
    F_TAG_RENEWED,
    P_ENTRY,
    count,
    count_field,
)
from ...structs import i64
from ..nested_state import (
    set_guest_cr3,
    set_guest_tag,
    set_hap_enabled,
    set_host_cr3,
    set_vmswitch_in_progress,
    tag_changed,
    vmcx12,
)
from ..nested_vcpu import enter_n2_guest
from ..np2m import EPTP_AD, np2m_select
from ..tags import N2, has_fixed_vpids, tags_renew
from ..virtual_exit import record_vmx_exit
from .activity import vmx_enter_inactive
from .check_util import word as field_of
from .checks import QUALIFICATION, guest_state_wrong, refuse
from .controls import CR4_FIXED0
from .hw import ENTRY_FAILED
from .kvm import MOVED, N_MOVED, count_vmcs_switch, kvm_sync_rare
from .l2_shadow import load_l2_shadow, shadows_for_l2
from .merge import merged_shadow, own_word, vmx_load_shadow_control
from .msr_lists import vmx_load_l1_list
from .vmcs import (
    LAUNCHED,
    MASKS,
    WRITES,
    count_bulk,
    get,
    get_vvmcs,
    own_base,
    put,
    set_launch_state,
    settle,
    vmwrite,
    vvmcs_base,
)

EPT_WRITE_BACK_4_LEVELS = 6 | (3 << 3)
EFER_LMA_LME = (1 << 10) | (1 << 8)


GUEST_COPY = np.array(
    [i for i, group in enumerate(vmcs.column("xen_vvmx_group")) if group == "guest_copy"], np.int64
)
"""Slots of the guest state that is copied as it is, both ways."""
N_GUEST_COPY = len(GUEST_COPY)


# ---------------------------------------------------------------- load_shadow_guest_state


@inner
def _copy_moved_fields(m, v, n2):
    """KVM: what moves at every entry; the rest of L2's state has stayed in vmcs02."""
    for i in range(N_MOVED):
        slot = MOVED[i]
        put(n2, slot, get(v, slot) & MASKS[slot])
        count_field(m, slot, P_ENTRY, 0)
    count_bulk(m, N_MOVED, 0)
    m.vmcs_work[WRITES] += N_MOVED


@inner
def _copy_guest_fields(m, v, n2):
    if m.feat.l0 == L0_KVM:
        if m.kvm.dirty == 0:
            _copy_moved_fields(m, v, n2)
            return
        kvm_sync_rare(m)
        m.kvm.dirty = 0
    for i in range(N_GUEST_COPY):
        slot = GUEST_COPY[i]
        put(n2, slot, get(v, slot) & MASKS[slot])
        count_field(m, slot, P_ENTRY, 0)
    count_bulk(m, N_GUEST_COPY, 0)
    m.vmcs_work[WRITES] += N_GUEST_COPY


@inner
def _load_efer_and_pat(m, v):
    entry = get_vvmcs(m, v, vmcs.SLOT_VM_ENTRY_CONTROLS, P_ENTRY)
    if entry & vmx.ENTRY_CTL_LOAD_IA32_EFER == 0 or (
        m.feat.deviations & deviations.DEV_EFER_OF_L2_FROM_L1
    ):
        # L1's, with LMA and LME as the IA-32e mode control says
        efer = own_word(m, vmcs.SLOT_GUEST_IA32_EFER) & ~EFER_LMA_LME
        if entry & vmx.ENTRY_CTL_IA32E_MODE:
            efer |= EFER_LMA_LME
        vmwrite(m, vmcs.SLOT_GUEST_IA32_EFER, efer)
    if entry & vmx.ENTRY_CTL_LOAD_IA32_PAT == 0:
        vmwrite(m, vmcs.SLOT_GUEST_IA32_PAT, own_word(m, vmcs.SLOT_GUEST_IA32_PAT))


@inner
def _load_control_registers(m, v):
    cr4 = get_vvmcs(m, v, vmcs.SLOT_GUEST_CR4, P_ENTRY)
    mask4 = get_vvmcs(m, v, vmcs.SLOT_CR4_GUEST_HOST_MASK, P_ENTRY)
    shadow4 = get_vvmcs(m, v, vmcs.SLOT_CR4_READ_SHADOW, P_ENTRY)
    vmwrite(m, vmcs.SLOT_GUEST_CR4, cr4 | CR4_FIXED0)
    own4 = own_word(m, vmcs.SLOT_CR4_GUEST_HOST_MASK)
    vmwrite(m, vmcs.SLOT_CR4_GUEST_HOST_MASK, own4 | mask4)
    vmwrite(m, vmcs.SLOT_CR4_READ_SHADOW, merged_shadow(cr4, mask4, shadow4))
    cr0 = get_vvmcs(m, v, vmcs.SLOT_GUEST_CR0, P_ENTRY)
    mask0 = get_vvmcs(m, v, vmcs.SLOT_CR0_GUEST_HOST_MASK, P_ENTRY)
    shadow0 = get_vvmcs(m, v, vmcs.SLOT_CR0_READ_SHADOW, P_ENTRY)
    vmwrite(m, vmcs.SLOT_GUEST_CR0, cr0)
    own0 = own_word(m, vmcs.SLOT_CR0_GUEST_HOST_MASK)
    vmwrite(m, vmcs.SLOT_CR0_GUEST_HOST_MASK, own0 | mask0)
    vmwrite(m, vmcs.SLOT_CR0_READ_SHADOW, merged_shadow(cr0, mask0, shadow0))
    cr3 = get_vvmcs(m, v, vmcs.SLOT_GUEST_CR3, P_ENTRY)
    set_guest_cr3(m, cr3)
    vmwrite(m, vmcs.SLOT_GUEST_CR3, cr3)


@unit(Machine, i64)
def vmx_load_shadow_guest_state(m, v):
    """Guest state of vmcs02 (Xen, load_shadow_guest_state)."""
    _copy_guest_fields(m, v, own_base(m, m.hw.vmcx))
    _load_efer_and_pat(m, v)
    _load_control_registers(m, v)
    vmwrite(m, vmcs.SLOT_GUEST_RSP, get_vvmcs(m, v, vmcs.SLOT_GUEST_RSP, P_ENTRY))
    vmwrite(m, vmcs.SLOT_GUEST_RIP, get_vvmcs(m, v, vmcs.SLOT_GUEST_RIP, P_ENTRY))
    vmwrite(m, vmcs.SLOT_VMCS_LINK_POINTER, -1)
    return ST_OK


# ---------------------------------------------------------------- the entry


@inner
def own_eptp(m, root):
    """EPTP with which L0 uses a table of its own."""
    return root | EPT_WRITE_BACK_4_LEVELS | (EPTP_AD if m.feat.ept_ad else 0)


@inner
def _load_nested_paging(m, v, cpu2):
    """EPTP = root of the nested p2m for L1's EPT pointer (Xen, nvmx_eptp_update).

    L0's own table when L1 shadows L2's tables: L2's guest-physical addresses then are L1's.
    """
    root = m.l1_hap_root
    hap = 1 if cpu2 & vmx.CPU2_ENABLE_EPT else 0
    set_hap_enabled(m, hap)
    if hap:
        eptp = get_vvmcs(m, v, vmcs.SLOT_EPT_POINTER, P_ENTRY)
        set_host_cr3(m, eptp)
        root = np2m_select(m, eptp)
    vmwrite(m, vmcs.SLOT_EPT_POINTER, own_eptp(m, root))


@inner
def vmx_set_hap_root(m, root):
    """L2's nested table is another one now, or was emptied, while L2 is current."""
    vmwrite(m, vmcs.SLOT_EPT_POINTER, own_eptp(m, root))
    settle(m)


@inner
def _load_vpid(m, v, cpu2):
    """A changed VPID is a new address space; without VPID nothing may survive the entry."""
    vpid = 0
    if cpu2 & vmx.CPU2_ENABLE_VPID:
        vpid = get_vvmcs(m, v, vmcs.SLOT_VIRTUAL_PROCESSOR_ID, P_ENTRY)
    changed = tag_changed(m, vpid)
    set_guest_tag(m, vpid)
    if has_fixed_vpids(m):
        return  # KVM's rules are those of the tag's choice
    if vpid == 0:
        tags_renew(m, N2, F_L1_WITHOUT_VPID)
    elif changed:
        tags_renew(m, N2, F_TAG_RENEWED)


@inner
def vmx_set_vpid(m):
    """The tag chosen for this entry is the VPID of the current VMCS; without one there is none."""
    base = own_base(m, m.hw.vmcx)
    if m.hw.tag:
        put(base, vmcs.SLOT_VIRTUAL_PROCESSOR_ID, m.hw.tag)
    else:
        slot = vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL
        put(base, slot, get(base, slot) & ~vmx.CPU2_ENABLE_VPID)


@inner
def _load_l1_msrs(m, v):
    """vmcs12's VM-entry MSR-load area; the entry that failed, into ``m.result`` too, or 0."""
    entries = field_of(v, vmcs.SLOT_VM_ENTRY_MSR_LOAD_COUNT)
    if entries == 0 or m.feat.deviations & deviations.DEV_MSR_AREAS_IGNORED:
        return 0
    address = get_vvmcs(m, v, vmcs.SLOT_VM_ENTRY_MSR_LOAD_ADDR, P_ENTRY)
    m.result = vmx_load_l1_list(m, own_base(m, m.hw.vmcx), address, entries)
    settle(m)
    return m.result


@inner
def _fail_entry(m, reason, qualification):
    """The virtual entry failed after the point of no return: an exit to L1 at once (27.8)."""
    m.exit.code = ENTRY_FAILED | reason
    m.exit.info1 = qualification
    m.exit.cause = C_ENTRY_FAILURE
    record_vmx_exit(m)


@unit(Machine)
def vmx_enter_n2(m):
    """Virtual VM entry: from vmcs01 to vmcs02, whose guest is L2.  ST_OK.

    When the guest state fails its checks, an exit to L1 with reason 33 is requested at once.
    """
    nv = m.nv
    v = vvmcs_base(m)
    # 1. VMCLEAR vmcs01 (and the shadow VMCS), VMPTRLD vmcs02; KVM keeps both loaded on the processor
    if m.feat.l0 != L0_KVM:
        count(m, E_L0_VMCLEAR, 1 + nv.shadow_active)
    count_vmcs_switch(m, 0)
    set_vmswitch_in_progress(m, 1)
    enter_n2_guest(m, 1)
    # 2. merge
    cpu2 = vmx_load_shadow_control(m, v)
    vmx_load_shadow_guest_state(m, v)
    # 3. nested paging, then the tag
    _load_nested_paging(m, v, cpu2)
    _load_vpid(m, v, cpu2)
    settle(m)
    # 4. checks on guest state, then vmcs12's MSR-load area
    check = 0
    if m.feat.deviations & deviations.DEV_ENTRY_CHECKS_LEFT_TO_HARDWARE == 0:
        check = guest_state_wrong(m)
    if check:
        refuse(m, check, 1)
        _fail_entry(m, vmx.EXIT_INVALID_STATE, QUALIFICATION[check])
    elif _load_l1_msrs(m, v):
        refuse(m, vmx.CHECK_MSR_LOAD, 1)
        _fail_entry(m, vmx.EXIT_MSR_LOAD_FAIL, m.result)
    else:
        set_launch_state(m, vmcx12(m), LAUNCHED)
        if cpu2 & vmx.CPU2_SHADOW_VMCS and shadows_for_l2(m, v):
            load_l2_shadow(m, v)
        state = field_of(v, vmcs.SLOT_GUEST_ACTIVITY_STATE)
        if state:
            vmx_enter_inactive(m, v, state)
    return ST_OK
