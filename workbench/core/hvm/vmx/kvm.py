"""How KVM keeps vmcs12: a copy in its own memory, a shadow VMCS beside it, and rarely moved fields.

VMPTRLD copies L1's whole page; VMCLEAR, VMPTRLD of another VMCS and VMXOFF write it back, so that
between the two L1's memory does not follow.  With VMCS shadowing the processor serves L1 from a VMCS
of L0's own that holds a few fields (column kvm_shadowed of vmcs_fields.csv): they are copied to the
copy before each nested entry, and back after each nested exit.  Guest-state fields that L1 rarely
touches move to vmcs02 only when the copy is dirty, and back only when L1 asks for one of them
(before 5.3, feature ``full_vmcs_switch``: back at every nested exit).
Source: Linux 6.12, kvm/vmx/nested.c.

The hardware is taken to have every field of the lists (KVM drops those it does not find).
"""

from __future__ import annotations

import numpy as np

from ....arch import deviations, vmcs
from ...jit import inner, unit
from ...layout import BARRIER_VIRTUAL_EXIT, BARRIER_VMCS_SWITCH, L0_KVM, PAGE, Machine
from ...ledger import (
    E_L0_BRANCH_BARRIER,
    E_L0_BYTE_COPIED,
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_HOST_STATE_SWITCHED,
    E_L0_SHADOW_VMCS_SYNCED,
    E_L0_VIRTUAL_ENTRY,
    E_L0_VIRTUAL_EXIT,
    E_L0_VMCLEAR,
    E_L0_VMPTRLD,
    count,
    count_copy,
)
from ...mmu.physical import host_of, note_code_written
from ...words import copy_bytes, fill_bytes, ld8, st8, st32
from ..memory_map import (
    KVM_SHADOW_MA,
    KVM_VMCS12_MA,
    VMCX02_MA,
    VMREAD_BITMAP_MA,
    VMWRITE_BITMAP_MA,
)
from .vmcs import READS, SHADOW_INDICATOR, WRITES, get, own_base, put

_SHADOWED = vmcs.column("kvm_shadowed")
SHADOW_RW = np.array([i for i, kind in enumerate(_SHADOWED) if kind == "RW"], np.int64)
SHADOW_RO = np.array([i for i, kind in enumerate(_SHADOWED) if kind == "RO"], np.int64)
N_RW, N_RO = len(SHADOW_RW), len(SHADOW_RO)
IS_SHADOWED = np.array([1 if kind else 0 for kind in _SHADOWED], np.int64)
EXISTS = np.array([1 if has == "y" else 0 for has in vmcs.column("kvm_vmcs12")], np.int64)
"""Does the field exist in KVM's vmcs12?"""

_ALWAYS_MOVED = {
    "GUEST_CS_AR_BYTES", "GUEST_SS_AR_BYTES", "GUEST_INTERRUPTIBILITY_INFO", "GUEST_RFLAGS",
    "GUEST_DR7", "GUEST_IA32_DEBUGCTL", "GUEST_IA32_PAT", "GUEST_IA32_EFER", "VMCS_LINK_POINTER",
    "GUEST_IA32_PERF_GLOBAL_CTRL", "VMX_PREEMPTION_TIMER_VALUE",
}  # fmt: skip
_COPIED = [i for i, group in enumerate(vmcs.column("xen_vvmx_group")) if group == "guest_copy"]
MOVED = np.array([i for i in _COPIED if vmcs.field_name(i) in _ALWAYS_MOVED], np.int64)
"""Guest-state fields that move at every nested entry and exit, beside those handled one by one."""
RARE = np.array([i for i in _COPIED if vmcs.field_name(i) not in _ALWAYS_MOVED], np.int64)
"""Guest-state fields that do not."""
N_MOVED, N_RARE = len(MOVED), len(RARE)
IS_RARE = np.zeros(vmcs.N_SLOTS, np.int64)
IS_RARE[RARE] = 1

FIRST_AR, LAST_AR = vmcs.SLOT_GUEST_ES_AR_BYTES, vmcs.SLOT_GUEST_TR_AR_BYTES
AR_BITS = 0x1F0FF
"""Bits of a segment's access rights that are not reserved."""
KVM_SHADOW_ACTIVE = 2
"""Value of ``shadow_active``: L1 reaches a VMCS of L0's own; 1 is Xen's way, L1's page itself."""


# ---------------------------------------------------------------- bitmaps


@inner
def _clear_bit(m, map_ma, encoding):
    host = m.ram + map_ma + (encoding >> 3)
    st8(host, ld8(host) & ~(1 << (encoding & 7)))


@inner
def _open_field(m, map_ma, slot):
    _clear_bit(m, map_ma, vmcs.ENCODINGS[slot])
    _clear_bit(m, map_ma, vmcs.ENCODINGS[slot] | 1)


@unit(Machine)
def kvm_prepare_bitmaps(m):
    """VMREAD and VMWRITE bitmaps: only the shadowed fields do not exit."""
    fill_bytes(m.ram + VMREAD_BITMAP_MA, PAGE, 0xFF)
    fill_bytes(m.ram + VMWRITE_BITMAP_MA, PAGE, 0xFF)
    for i in range(N_RW):
        _open_field(m, VMREAD_BITMAP_MA, SHADOW_RW[i])
        _open_field(m, VMWRITE_BITMAP_MA, SHADOW_RW[i])
    for i in range(N_RO):
        _open_field(m, VMREAD_BITMAP_MA, SHADOW_RO[i])
    return 0


# ---------------------------------------------------------------- the shadow VMCS


@inner
def _count_visit(m):
    """VMPTRLD the shadow VMCS, VMCLEAR it, VMPTRLD the current one."""
    count(m, E_L0_SHADOW_VMCS_SYNCED, 1)
    count(m, E_L0_VMPTRLD, 2)
    count(m, E_L0_VMCLEAR, 1)


@unit(Machine)
def kvm_shadow_to_vmcs12(m):
    """What L1 wrote into the shadow VMCS reaches the copy (copy_shadow_to_vmcs12)."""
    copy, shadow = own_base(m, KVM_VMCS12_MA), own_base(m, KVM_SHADOW_MA)
    for i in range(N_RW):
        put(copy, SHADOW_RW[i], get(shadow, SHADOW_RW[i]))
    _count_visit(m)
    m.vmcs_work[READS] += N_RW
    count_copy(m, 8 * N_RW)
    return 0


@unit(Machine)
def kvm_vmcs12_to_shadow(m):
    """L1 is to find the copy's fields in the shadow VMCS (copy_vmcs12_to_shadow)."""
    copy, shadow = own_base(m, KVM_VMCS12_MA), own_base(m, KVM_SHADOW_MA)
    for i in range(N_RW):
        put(shadow, SHADOW_RW[i], get(copy, SHADOW_RW[i]))
    for i in range(N_RO):
        put(shadow, SHADOW_RO[i], get(copy, SHADOW_RO[i]))
    _count_visit(m)
    m.vmcs_work[WRITES] += N_RW + N_RO
    count_copy(m, 8 * (N_RW + N_RO))
    return 0


@inner
def kvm_start_shadowing(m):
    """The shadow VMCS takes the fields of the VMCS that has become current."""
    st32(m.ram + KVM_SHADOW_MA, vmcs.REVISION | SHADOW_INDICATOR)
    kvm_vmcs12_to_shadow(m)


@inner
def kvm_note_write(m, slot):
    """L1's VMWRITE was emulated: the shadow VMCS follows, or the copy is dirty."""
    if IS_SHADOWED[slot] == 0:
        m.kvm.dirty = 1
    elif m.feat.vmcs_shadowing:
        put(own_base(m, KVM_SHADOW_MA), slot, get(own_base(m, KVM_VMCS12_MA), slot))
        _count_visit(m)
        m.vmcs_work[WRITES] += 1


@inner
def stored_value(m, slot, value):
    """What L0's VMWRITE keeps of a value: KVM's loses the reserved bits of access rights."""
    cuts = m.feat.deviations & deviations.DEV_ACCESS_RIGHTS_CUT
    if cuts and FIRST_AR <= slot <= LAST_AR:
        return value & AR_BITS
    return value


# ---------------------------------------------------------------- rarely moved fields


@unit(Machine)
def kvm_sync_rare(m):
    """Bring the rarely moved fields of L2 from vmcs02 into the copy (sync_vmcs02_to_vmcs12_rare)."""
    if m.kvm.rare_in_02:
        m.kvm.rare_in_02 = 0
        copy, n2 = own_base(m, KVM_VMCS12_MA), own_base(m, VMCX02_MA)
        for i in range(N_RARE):
            put(copy, RARE[i], get(n2, RARE[i]))
        count(m, E_L0_VMPTRLD, 2)
        m.vmcs_work[READS] += N_RARE
        count_copy(m, 8 * N_RARE)
    return 0


@inner
def kvm_before_access(m, slot):
    """L1's VMREAD or VMWRITE of a field is emulated."""
    if m.feat.l0 == L0_KVM and IS_RARE[slot]:
        kvm_sync_rare(m)


# ---------------------------------------------------------------- switching the VMCS


@inner
def count_vmcs_switch(m, exiting):
    """Another of vmcs01 and vmcs02 becomes current; ``exiting`` 1: L2 -> L1.

    Besides VMPTRLD and the fields: KVM before 5.3 also put the guest's state away and loaded the
    host's (``full_vmcs_switch``); 4.16 to 5.7 executed a branch-prediction barrier at each switch,
    since 6.2 it does at a virtual exit of an L1 that has IBRS (``branch_barrier``).
    """
    count(m, E_L0_VMPTRLD, 1)
    count(m, E_L0_VIRTUAL_EXIT if exiting else E_L0_VIRTUAL_ENTRY, 1)
    if m.feat.l0 == L0_KVM:
        if m.feat.full_vmcs_switch:
            count(m, E_L0_HOST_STATE_SWITCHED, 1)
        barrier = m.feat.branch_barrier
        if barrier == BARRIER_VMCS_SWITCH or (barrier == BARRIER_VIRTUAL_EXIT and exiting):
            count(m, E_L0_BRANCH_BARRIER, 1)


# ---------------------------------------------------------------- the copy


@unit(Machine)
def kvm_load_vmcs12(m):
    """VMPTRLD: copy L1's page, whose machine address is ``m.kvm.page``."""
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    count(m, E_L0_BYTE_COPIED, PAGE)
    copy_bytes(m.ram + KVM_VMCS12_MA, host_of(m, m.kvm.page), PAGE)
    m.kvm.dirty = 1
    m.kvm.rare_in_02 = 0
    return 0


@unit(Machine)
def kvm_flush_vmcs12(m):
    """The VMCS is no longer current: its page in L1's memory gets what the copy holds."""
    if m.feat.vmcs_shadowing:
        kvm_shadow_to_vmcs12(m)
    kvm_sync_rare(m)
    host = host_of(m, m.kvm.page)
    if host:
        copy_bytes(host, m.ram + KVM_VMCS12_MA, PAGE)
        note_code_written(m, host, PAGE)
        count(m, E_L0_GUEST_PAGE_MAPPED, 1)
        count(m, E_L0_BYTE_COPIED, PAGE)
    return 0
