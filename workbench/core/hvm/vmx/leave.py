"""Virtual VM exit: L2 stops, L1 goes on at its HOST_RIP (Xen, virtual_vmexit; SDM vol. 3, 28.5).

What L0 decided about the exit (a nested fault that L1 is to see, an exception found by L0) is in
``m.exit`` and replaces what the hardware left in vmcs02.  After a failed entry (reason with bit 31)
only reason and qualification are written (SDM 27.8).
"""

from __future__ import annotations

import numpy as np

from ....arch import deviations, vmcs, vmx
from ...jit import inner, unit
from ...layout import L0_KVM, ST_OK, Machine
from ...ledger import E_L0_VMCLEAR, P_EXIT, count, count_field
from ...structs import i64
from ...words import lshr
from ..memory_map import VMCX01_MA, VMCX02_MA
from ..nested_state import vmcx12
from ..nested_vcpu import enter_n2_guest
from .activity import vmx_save_activity
from .apicv import apicv_sync
from .check_util import word
from .controls import CR4_FIXED0
from .entry import EFER_LMA_LME, GUEST_COPY, N_GUEST_COPY
from .hw import ENTRY_FAILED
from .kvm import KVM_SHADOW_ACTIVE, MOVED, N_MOVED, count_vmcs_switch, kvm_vmcs12_to_shadow
from .l2_shadow import shadows_for_l2, store_l2_shadow
from .merge import merged_shadow, own_word
from .msr_lists import (
    ABORT_LOAD_MSR,
    ABORT_SAVE_MSR,
    abort,
    vmx_load_l1_list,
    vmx_store_l1_list,
)
from .offer import l1_cr3_targets
from .timer import nested_ticks_left
from .vmcs import (
    MASKS,
    READS,
    WRITES,
    count_bulk,
    get,
    get_vvmcs,
    own_base,
    put,
    set_vvmcs,
    settle,
    vmread,
    vmwrite,
    vvmcs_base,
)

_GROUP = vmcs.column("xen_vvmx_group")
RO_COPY = np.array([i for i, g in enumerate(_GROUP) if g == "ro_copy"], np.int64)
"""Slots of the exit information."""
N_RO_COPY = len(RO_COPY)
_HOST = [i for i, g in enumerate(_GROUP) if g == "h2g"]
HOST_FROM = np.array(_HOST, np.int64)
GUEST_TO = np.array(
    [
        getattr(
            vmcs,
            "SLOT_"
            + vmcs.field_name(i)
            .replace("HOST_IA32_SYSENTER", "GUEST_SYSENTER")
            .replace("HOST_", "GUEST_"),
        )
        for i in _HOST
    ],
    np.int64,
)
"""Host-state fields of vmcs12 and the guest-state fields of vmcs01 that they become."""
N_HOST = len(_HOST)

FLAT_CODE, FLAT_DATA, BUSY_TSS, UNUSABLE = 0xA09B, 0xC093, 0x8B, 1 << 16
"""Access rights that VM exit gives to L1's segments: 64-bit code, data, TSS (SDM 28.5.2)."""
LIMIT_4G, LIMIT_TSS, LIMIT_TABLE = 0xFFFF_FFFF, 0x67, 0xFFFF
DR7_RESET = 0x400
RFLAGS_RESET = 2

FIXED_SLOTS = np.array(
    [
        *range(vmcs.SLOT_GUEST_ES_LIMIT, vmcs.SLOT_GUEST_GS_LIMIT + 1),
        vmcs.SLOT_GUEST_LDTR_SELECTOR,
        vmcs.SLOT_GUEST_LDTR_AR_BYTES,
        vmcs.SLOT_GUEST_ES_BASE,
        vmcs.SLOT_GUEST_CS_BASE,
        vmcs.SLOT_GUEST_SS_BASE,
        vmcs.SLOT_GUEST_DS_BASE,
        vmcs.SLOT_GUEST_LDTR_BASE,
        vmcs.SLOT_GUEST_TR_LIMIT,
        vmcs.SLOT_GUEST_TR_AR_BYTES,
        vmcs.SLOT_GUEST_CS_AR_BYTES,
        vmcs.SLOT_GUEST_GDTR_LIMIT,
        vmcs.SLOT_GUEST_IDTR_LIMIT,
        vmcs.SLOT_GUEST_DR7,
        vmcs.SLOT_GUEST_IA32_DEBUGCTL,
        vmcs.SLOT_GUEST_RFLAGS,
        vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO,
        vmcs.SLOT_GUEST_PENDING_DBG_EXCEPTIONS,
    ],
    np.int64,
)
FIXED_VALUES = np.array(
    [
        *[LIMIT_4G] * 6, 0, UNUSABLE, 0, 0, 0, 0, 0, LIMIT_TSS, BUSY_TSS, FLAT_CODE, LIMIT_TABLE,
        LIMIT_TABLE, DR7_RESET, 0, RFLAGS_RESET, 0, 0,
    ],
    np.int64,
)  # fmt: skip
"""What VM exit sets to a constant."""
N_FIXED = len(FIXED_SLOTS)
if len(FIXED_VALUES) != N_FIXED:
    raise ValueError("fixed state of VM exit: slots and values do not match")
DATA_SEGMENTS = np.array([0, 2, 3, 4, 5], np.int64)
"""ES, SS, DS, FS, GS: unusable when their host selector is null (SS may be null)."""


# ---------------------------------------------------------------- vmcs02 -> vmcs12


@inner
def _sync_read_only(m, v, n2):
    """Exit information (Xen, sync_vvmcs_ro)."""
    for i in range(N_RO_COPY):
        slot = RO_COPY[i]
        put(v, slot, get(n2, slot) & MASKS[slot])
        count_field(m, slot, P_EXIT, 1)
    count_bulk(m, 0, N_RO_COPY)
    m.vmcs_work[READS] += N_RO_COPY
    # what L0 decided instead
    e = m.exit
    if e.code != get(n2, vmcs.SLOT_VM_EXIT_REASON) or e.info1 != get(
        n2, vmcs.SLOT_EXIT_QUALIFICATION
    ):
        set_vvmcs(m, v, vmcs.SLOT_VM_EXIT_REASON, e.code, P_EXIT)
        set_vvmcs(m, v, vmcs.SLOT_EXIT_QUALIFICATION, e.info1, P_EXIT)
    if e.intr_info != get(n2, vmcs.SLOT_VM_EXIT_INTR_INFO):
        set_vvmcs(m, v, vmcs.SLOT_VM_EXIT_INTR_INFO, e.intr_info, P_EXIT)
        set_vvmcs(m, v, vmcs.SLOT_VM_EXIT_INTR_ERROR_CODE, e.intr_error, P_EXIT)


@inner
def _sync_cr0(v, n2, owned):
    """Bits of CR0 that L2 has changed without an exit (KVM, vmcs12_guest_cr0)."""
    owned &= ~get(v, vmcs.SLOT_CR0_GUEST_HOST_MASK)
    slot = vmcs.SLOT_GUEST_CR0
    put(v, slot, merged_shadow(get(n2, slot), ~owned, get(v, slot)))


@inner
def _sync_guest_state(m, v, n2):
    """L2's state (Xen, sync_vvmcs_guest_state)."""
    efer = get(v, vmcs.SLOT_GUEST_IA32_EFER)
    pat = get(v, vmcs.SLOT_GUEST_IA32_PAT)
    dr7 = get(v, vmcs.SLOT_GUEST_DR7)
    debugctl = get(v, vmcs.SLOT_GUEST_IA32_DEBUGCTL)
    timer = get(v, vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE)
    link = get(v, vmcs.SLOT_VMCS_LINK_POINTER)
    if m.feat.l0 == L0_KVM and m.feat.full_vmcs_switch == 0:
        m.kvm.rare_in_02 = 1
        for i in range(N_MOVED):
            slot = MOVED[i]
            put(v, slot, get(n2, slot))
            count_field(m, slot, P_EXIT, 1)
        count_bulk(m, 0, N_MOVED)
        m.vmcs_work[READS] += N_MOVED
    else:
        for i in range(N_GUEST_COPY):
            slot = GUEST_COPY[i]
            put(v, slot, get(n2, slot))
            count_field(m, slot, P_EXIT, 1)
        count_bulk(m, 0, N_GUEST_COPY)
        m.vmcs_work[READS] += N_GUEST_COPY
    if m.feat.deviations & deviations.DEV_SAVES_IGNORE_EXIT_CONTROLS == 0:
        controls = get(v, vmcs.SLOT_VM_EXIT_CONTROLS)
        if controls & vmx.EXIT_CTL_SAVE_IA32_EFER == 0:
            put(v, vmcs.SLOT_GUEST_IA32_EFER, efer)
        if controls & vmx.EXIT_CTL_SAVE_IA32_PAT == 0:
            put(v, vmcs.SLOT_GUEST_IA32_PAT, pat)
        if controls & vmx.EXIT_CTL_SAVE_DEBUG_CONTROLS == 0:
            put(v, vmcs.SLOT_GUEST_DR7, dr7)
            put(v, vmcs.SLOT_GUEST_IA32_DEBUGCTL, debugctl)
    put(v, vmcs.SLOT_VMCS_LINK_POINTER, link)  # no exit changes it; that of vmcs02 is L0's
    # the timer is saved only if L1 asked for that
    if word(v, vmcs.SLOT_VM_EXIT_CONTROLS) & vmx.EXIT_CTL_SAVE_VMX_PREEMPTION_TIMER:
        timer = get(n2, vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE)
        if m.irq.nested_deadline:
            timer = nested_ticks_left(m)
    put(v, vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE, timer)
    set_vvmcs(m, v, vmcs.SLOT_GUEST_RIP, vmread(m, vmcs.SLOT_GUEST_RIP), P_EXIT)
    set_vvmcs(m, v, vmcs.SLOT_GUEST_RSP, vmread(m, vmcs.SLOT_GUEST_RSP), P_EXIT)
    # CR3 can only have changed behind L1's back when L1 does not intercept it
    cpu = get_vvmcs(m, v, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL, P_EXIT)
    if cpu & vmx.CPU_CR3_LOAD_EXITING == 0 or l1_cr3_targets(m):
        set_vvmcs(m, v, vmcs.SLOT_GUEST_CR3, vmread(m, vmcs.SLOT_GUEST_CR3), P_EXIT)
    # CR4 likewise, bit by bit
    mask = get_vvmcs(m, v, vmcs.SLOT_CR4_GUEST_HOST_MASK, P_EXIT)
    if ~mask:
        old = get_vvmcs(m, v, vmcs.SLOT_GUEST_CR4, P_EXIT)
        new = vmread(m, vmcs.SLOT_GUEST_CR4)
        set_vvmcs(m, v, vmcs.SLOT_GUEST_CR4, (old & mask) | (new & ~mask), P_EXIT)
    # CR0, where L0 leaves bits to its guests and L1 does too
    owned = ~own_word(m, vmcs.SLOT_CR0_GUEST_HOST_MASK)
    if owned:
        _sync_cr0(v, n2, owned)
    # an injected event has been delivered, or is in the IDT-vectoring information
    event = get_vvmcs(m, v, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD, P_EXIT)
    if lshr(event, vmx.INTR_VALID):
        slot = vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD
        set_vvmcs(m, v, slot, event & ~(1 << vmx.INTR_VALID), P_EXIT)


@unit(Machine, i64)
def vmx_sync_vvmcs(m, v):
    """Write back into vmcs12 what L2 left in vmcs02."""
    if m.exit.code & ENTRY_FAILED:
        set_vvmcs(m, v, vmcs.SLOT_VM_EXIT_REASON, m.exit.code, P_EXIT)
        set_vvmcs(m, v, vmcs.SLOT_EXIT_QUALIFICATION, m.exit.info1, P_EXIT)
        return ST_OK
    n2 = own_base(m, VMCX02_MA)
    _sync_read_only(m, v, n2)
    _sync_guest_state(m, v, n2)
    if m.nv.activity or get(v, vmcs.SLOT_GUEST_ACTIVITY_STATE):
        vmx_save_activity(m, v)
    if m.feat.apicv:
        apicv_sync(m, v)
    return ST_OK


# ---------------------------------------------------------------- vmcs12 -> vmcs01


@inner
def _load_host_segments(m, v, n1):
    for i in range(N_HOST):
        slot = HOST_FROM[i]
        put(n1, GUEST_TO[i], get(v, slot) & MASKS[slot])
        count_field(m, slot, P_EXIT, 0)
    count_bulk(m, N_HOST, 0)
    for i in range(N_FIXED):
        put(n1, FIXED_SLOTS[i], FIXED_VALUES[i])
    for i in range(5):
        segment = DATA_SEGMENTS[i]
        null = get(n1, vmcs.SLOT_GUEST_ES_SELECTOR + segment) == 0
        put(n1, vmcs.SLOT_GUEST_ES_AR_BYTES + segment, UNUSABLE if null else FLAT_DATA)
    m.vmcs_work[WRITES] += N_HOST + N_FIXED + 5


@inner
def _load_host_registers(m, v):
    cr4 = get_vvmcs(m, v, vmcs.SLOT_HOST_CR4, P_EXIT)
    vmwrite(m, vmcs.SLOT_GUEST_CR4, cr4 | CR4_FIXED0)
    vmwrite(m, vmcs.SLOT_CR4_READ_SHADOW, cr4)
    cr0 = get_vvmcs(m, v, vmcs.SLOT_HOST_CR0, P_EXIT)
    vmwrite(m, vmcs.SLOT_GUEST_CR0, cr0)
    vmwrite(m, vmcs.SLOT_CR0_READ_SHADOW, cr0)
    vmwrite(m, vmcs.SLOT_GUEST_CR3, get_vvmcs(m, v, vmcs.SLOT_HOST_CR3, P_EXIT))
    vmwrite(m, vmcs.SLOT_GUEST_RIP, get_vvmcs(m, v, vmcs.SLOT_HOST_RIP, P_EXIT))
    vmwrite(m, vmcs.SLOT_GUEST_RSP, get_vvmcs(m, v, vmcs.SLOT_HOST_RSP, P_EXIT))


@inner
def _keep_msr(m, slot, value):
    """An MSR that the exit does not load is L1's as L2 left it (28.5.1)."""
    if get(own_base(m, VMCX01_MA), slot) != value:
        vmwrite(m, slot, value)


@inner
def _load_host_msrs(m, v):
    controls = get_vvmcs(m, v, vmcs.SLOT_VM_EXIT_CONTROLS, P_EXIT)
    if controls & vmx.EXIT_CTL_LOAD_IA32_EFER:
        efer = get_vvmcs(m, v, vmcs.SLOT_HOST_IA32_EFER, P_EXIT)
        vmwrite(m, vmcs.SLOT_GUEST_IA32_EFER, efer | EFER_LMA_LME)
    else:
        _keep_msr(m, vmcs.SLOT_GUEST_IA32_EFER, m.cpu.efer | EFER_LMA_LME)
    if controls & vmx.EXIT_CTL_LOAD_IA32_PAT:
        vmwrite(m, vmcs.SLOT_GUEST_IA32_PAT, get_vvmcs(m, v, vmcs.SLOT_HOST_IA32_PAT, P_EXIT))
    else:
        _keep_msr(m, vmcs.SLOT_GUEST_IA32_PAT, m.cpu.pat)


@unit(Machine, i64)
def vmx_load_vvmcs_host_state(m, v):
    """vmcs12's host state becomes the guest state of vmcs01 (Xen, load_vvmcs_host_state)."""
    _load_host_segments(m, v, own_base(m, VMCX01_MA))
    _load_host_registers(m, v)
    _load_host_msrs(m, v)
    return ST_OK


@inner
def _entries(m, v, slot):
    """Length of an MSR area of vmcs12, as far as L0 looks at it."""
    if m.feat.deviations & deviations.DEV_MSR_AREAS_IGNORED:
        return 0
    return word(v, slot)


@inner
def _store_l1_msrs(m, v):
    """vmcs12's VM-exit MSR-store area."""
    entries = _entries(m, v, vmcs.SLOT_VM_EXIT_MSR_STORE_COUNT)
    if entries and m.exit.code & ENTRY_FAILED == 0:
        address = get_vvmcs(m, v, vmcs.SLOT_VM_EXIT_MSR_STORE_ADDR, P_EXIT)
        if vmx_store_l1_list(m, own_base(m, VMCX02_MA), address, entries):
            abort(m, vmcx12(m), ABORT_SAVE_MSR)


@inner
def _load_l1_msrs(m, v):
    """vmcs12's VM-exit MSR-load area, after the rest of the host state."""
    entries = _entries(m, v, vmcs.SLOT_VM_EXIT_MSR_LOAD_COUNT)
    if entries:
        address = get_vvmcs(m, v, vmcs.SLOT_VM_EXIT_MSR_LOAD_ADDR, P_EXIT)
        if vmx_load_l1_list(m, own_base(m, VMCX01_MA), address, entries):
            abort(m, vmcx12(m), ABORT_LOAD_MSR)


@unit(Machine)
def vmx_exit_n2(m):
    """Virtual VM exit: from vmcs02 back to vmcs01, whose guest is L1.

    An MSR area of vmcs12 that cannot be walked is a VMX abort: L1 is not entered any more.
    """
    nv = m.nv
    v = vvmcs_base(m)
    # 1. what L2 left
    vmx_sync_vvmcs(m, v)
    if m.exit.code & ENTRY_FAILED == 0 and shadows_for_l2(m, v):
        store_l2_shadow(m, v)
    _store_l1_msrs(m, v)
    # 2. VMCLEAR vmcs02 (and the shadow VMCS), VMPTRLD vmcs01; KVM keeps both loaded on the processor
    if m.feat.l0 != L0_KVM:
        count(m, E_L0_VMCLEAR, 1 + nv.shadow_active)
    count_vmcs_switch(m, 1)
    enter_n2_guest(m, 0)
    m.irq.nested_deadline = 0
    # 3. L1's host state
    vmx_load_vvmcs_host_state(m, v)
    _load_l1_msrs(m, v)
    if nv.shadow_active == KVM_SHADOW_ACTIVE:
        kvm_vmcs12_to_shadow(m)
    settle(m)
    return ST_OK
