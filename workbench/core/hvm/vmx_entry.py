"""Virtual VM entry: vmcs01 and vmcs12 are merged into vmcs02, and L2 runs (Xen, virtual_vmentry).

The rules are those of vmcs02_merge.csv, column ``xen``.  L2's EFER and PAT come from vmcs12 when its
VM-entry controls say so (a deviation of Xen's: L2 has L1's EFER but for LMA and LME).  The
guest-state checks of the manual are made on vmcs12, and a failure is exit reason 33 for L1; Xen
leaves them to the processor (another deviation).  vmcs12's MSR areas are walked in software; Xen
ignores them, and lets the preemption timer start anew at every entry (two more).
"""

from __future__ import annotations

import numpy as np

from ...arch import deviations, vmcs, vmx
from ..jit import inner, unit
from ..layout import (
    IO_MAP_INTERCEPT_ALL,
    IO_MAP_MERGED,
    L0_KVM,
    MSR_MAP_INTERCEPT_ALL,
    MSR_MAP_NONE,
    PAGE,
    ST_OK,
    Machine,
)
from ..ledger import (
    C_ENTRY_FAILURE,
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_MAP_BYTE_MERGED,
    E_L0_MAP_BYTE_READ,
    E_L0_VMCLEAR,
    E_L0_VMPTRLD,
    F_L1_WITHOUT_VPID,
    F_TAG_RENEWED,
    P_ENTRY,
    count,
    count_field,
)
from ..mmu.physical import host_of, ma_ld8
from ..structs import i64
from ..words import fill_bytes, or_bytes
from .memory_map import L0_IOPM_MA, L0_MSRPM_MA, L2_IOPM_MA, L2_MSRPM_MA, VMCX01_MA
from .nested_state import (
    set_guest_cr3,
    set_guest_tag,
    set_hap_enabled,
    set_host_cr3,
    set_vmswitch_in_progress,
    tag_changed,
    vmcx12,
)
from .nested_vcpu import enter_n2_guest
from .np2m import EPTP_AD, np2m_select
from .p2m import n1p_to_l0m
from .tags import N2, has_fixed_vpids, tags_renew
from .virtual_exit import record_vmx_exit
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
from .vmx_apicv import apicv_merge
from .vmx_check_util import word as field_of
from .vmx_checks import QUALIFICATION, guest_state_wrong, refuse
from .vmx_controls import CR4_FIXED0, CR4_L0_MASK
from .vmx_hw import ENTRY_FAILED
from .vmx_kvm import MOVED, N_MOVED, kvm_sync_rare
from .vmx_kvm_merge import kvm_merge_msr_bitmap, kvm_merged_cpu, kvm_merged_cpu2
from .vmx_msr_lists import vmx_load_l1_list
from .vmx_route import secondary_of

EPT_WRITE_BACK_4_LEVELS = 6 | (3 << 3)
EFER_LMA_LME = (1 << 10) | (1 << 8)
CR0_L0_MASK = -1

PIN_DROPPED = vmx.PIN_POSTED_INTR
CPU2_DROPPED = (
    vmx.CPU2_APIC_REGISTER_VIRT
    | vmx.CPU2_VIRTUAL_INTR_DELIVERY
    | vmx.CPU2_VIRTUALIZE_X2APIC_MODE
    | vmx.CPU2_SHADOW_VMCS
    | vmx.CPU2_ENABLE_VPID
    | vmx.CPU2_ENABLE_PML
)
"""Secondary controls that vmcs02 never takes from L1; whether it uses a VPID is L0's policy.
L1's page-modification log L0 writes itself."""
CPU_IO = vmx.CPU_UNCOND_IO_EXITING | vmx.CPU_USE_IO_BITMAPS
MSR_BITMAPS = vmx.CPU_USE_MSR_BITMAPS
EXIT_DROPPED = (
    vmx.EXIT_CTL_SAVE_DEBUG_CONTROLS
    | vmx.EXIT_CTL_LOAD_IA32_PAT
    | vmx.EXIT_CTL_LOAD_IA32_EFER
    | vmx.EXIT_CTL_LOAD_IA32_PERF_GLOBAL_CTRL
)
ENTRY_DROPPED = (
    vmx.ENTRY_CTL_LOAD_IA32_PAT
    | vmx.ENTRY_CTL_LOAD_IA32_EFER
    | vmx.ENTRY_CTL_LOAD_IA32_PERF_GLOBAL_CTRL
)
ENTRY_OWN = vmx.ENTRY_CTL_LOAD_IA32_PAT | vmx.ENTRY_CTL_LOAD_IA32_EFER
"""What L0 itself needs loaded when L2 starts."""

GUEST_COPY = np.array(
    [i for i, group in enumerate(vmcs.column("xen_vvmx_group")) if group == "guest_copy"], np.int64
)
"""Slots of the guest state that is copied as it is, both ways."""
N_GUEST_COPY = len(GUEST_COPY)
EVENT_FIELDS = np.array(
    [
        vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD,
        vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE,
        vmcs.SLOT_VM_ENTRY_INSTRUCTION_LEN,
    ],
    np.int64,
)
X2APIC_BYTE, X2APIC_BYTES, WRITE_HALF = 0x800 // 8, 0x100 // 8, 0x800
PORT_80_BYTE, PORT_80_BIT = 0x80 // 8, 1 << (0x80 % 8)
PORT_ED_BYTE, PORT_ED_BIT = 0xED // 8, 1 << (0xED % 8)


# ---------------------------------------------------------------- merging control words


@inner
def merged_pin(l0, l1):
    """Pin-based controls of vmcs02."""
    return l0 | (l1 & ~PIN_DROPPED)


@inner
def merged_cpu(l0, l1, l0_msr_bitmap):
    """Primary controls of vmcs02; ``l0_msr_bitmap``: L0 uses an MSR bitmap for L2."""
    word = (l0 | l1) & ~(CPU_IO | vmx.CPU_USE_MSR_BITMAPS)
    # I/O: unconditional if that is all L1 asked for, else one of L0's bitmaps
    if l1 & CPU_IO == vmx.CPU_UNCOND_IO_EXITING:
        word |= vmx.CPU_UNCOND_IO_EXITING
    else:
        word |= vmx.CPU_USE_IO_BITMAPS
    if l0_msr_bitmap and l0 & l1 & vmx.CPU_USE_MSR_BITMAPS:
        word |= vmx.CPU_USE_MSR_BITMAPS
    return word


@inner
def merged_cpu2(l0, l1):
    """Secondary controls of vmcs02."""
    return (l0 & ~vmx.CPU2_SHADOW_VMCS) | (l1 & ~CPU2_DROPPED)


@inner
def merged_exit(l0, l1):
    """VM-exit controls of vmcs02."""
    return (l1 & ~EXIT_DROPPED) | l0


@inner
def merged_entry(l1):
    """VM-entry controls of vmcs02."""
    return (l1 & ~ENTRY_DROPPED) | ENTRY_OWN


@inner
def merged_shadow(guest, mask, shadow):
    """Read shadow of CR0 or CR4: L1's where L1 owns the bit, else L2's register."""
    return (guest & ~mask) | (shadow & mask)


# ---------------------------------------------------------------- permission maps


@inner
def _l1_page(m, v, slot):
    """Machine address of a bitmap of L1, -1 when L1 has no memory there."""
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    return n1p_to_l0m(m, get_vvmcs(m, v, slot, P_ENTRY) & ~(PAGE - 1))


@inner
def _merge_msr_bitmap(m, v):
    """MSR bitmap of vmcs02: L0's OR L1's, x2APIC registers always trapped."""
    if m.feat.msr_map == MSR_MAP_INTERCEPT_ALL:
        return  # the map was filled with ones once and for all
    target = m.ram + L2_MSRPM_MA
    ma = _l1_page(m, v, vmcs.SLOT_MSR_BITMAP)
    host = host_of(m, ma) if ma >= 0 else 0
    if host == 0:
        fill_bytes(target, PAGE, 0xFF)
        return
    if m.feat.l0 == L0_KVM:
        kvm_merge_msr_bitmap(m, host)
        return
    count(m, E_L0_MAP_BYTE_READ, PAGE)
    count(m, E_L0_MAP_BYTE_MERGED, PAGE)
    or_bytes(target, m.ram + L0_MSRPM_MA, host, PAGE)
    fill_bytes(target + X2APIC_BYTE, X2APIC_BYTES, 0xFF)
    fill_bytes(target + WRITE_HALF + X2APIC_BYTE, X2APIC_BYTES, 0xFF)


@inner
def put_byte(m, offset, value):
    """Set one byte of the I/O bitmap for L2."""
    fill_bytes(m.ram + L2_IOPM_MA + offset, 1, value & 0xFF)


@inner
def _select_io_bitmap(m, v, l1_cpu):
    """Machine address of the I/O bitmaps of vmcs02 (A; B follows).

    L0's own when L1 asks for no I/O exits.  Otherwise one of the four that L0 has prepared:
    everything exits, but for ports 0x80 and 0xED where L1 lets them pass.  The model keeps a single
    such map and sets the two bits.  Feature ``io_map``: ``merged`` reads and merges both of L1's
    pages, with the same outcome, as L0's own map has no other port open; ``intercept_all`` lets
    every access exit whatever L1 says.
    """
    if m.feat.io_map == IO_MAP_INTERCEPT_ALL:
        put_byte(m, PORT_80_BYTE, 0xFF)
        put_byte(m, PORT_ED_BYTE, 0xFF)
        return L2_IOPM_MA
    if l1_cpu & vmx.CPU_USE_IO_BITMAPS == 0 or m.feat.l0 == L0_KVM:
        return L0_IOPM_MA
    ma = _l1_page(m, v, vmcs.SLOT_IO_BITMAP_A)
    if m.feat.io_map == IO_MAP_MERGED:
        _l1_page(m, v, vmcs.SLOT_IO_BITMAP_B)
        count(m, E_L0_MAP_BYTE_READ, 2 * PAGE)
        count(m, E_L0_MAP_BYTE_MERGED, 2 * PAGE)
    else:
        count(m, E_L0_MAP_BYTE_READ, 2)
    port_80 = port_ed = 0xFF
    if ma >= 0:
        port_80 = ma_ld8(m, ma + PORT_80_BYTE)
        port_ed = ma_ld8(m, ma + PORT_ED_BYTE)
    put_byte(m, PORT_80_BYTE, port_80 | ~PORT_80_BIT)
    put_byte(m, PORT_ED_BYTE, port_ed | ~PORT_ED_BIT)
    return L2_IOPM_MA


# ---------------------------------------------------------------- load_shadow_control


@inner
def _load_bitmaps(m, v, l1_cpu):
    """Merge the permission maps; returns whether L0 uses an MSR bitmap for L2."""
    io = _select_io_bitmap(m, v, l1_cpu)
    vmwrite(m, vmcs.SLOT_IO_BITMAP_A, io)
    vmwrite(m, vmcs.SLOT_IO_BITMAP_B, io + PAGE)
    if m.feat.msr_map == MSR_MAP_NONE:
        return False
    if l1_cpu & vmx.CPU_USE_MSR_BITMAPS:
        _merge_msr_bitmap(m, v)
        vmwrite(m, vmcs.SLOT_MSR_BITMAP, L2_MSRPM_MA)
    return True


@inner
def _own(m, slot):
    """A word of vmcs01: L0 keeps copies of its control words, so this is no VMREAD."""
    return get(own_base(m, VMCX01_MA), slot)


@inner
def _write_control(m, slot, word):
    """A control word of vmcs02; KVM remembers what it wrote last and writes changes only."""
    if m.feat.l0 != L0_KVM or get(own_base(m, m.hw.vmcx), slot) != word:
        vmwrite(m, slot, word)


@unit(Machine, i64)
def vmx_load_shadow_control(m, v):
    """Controls of vmcs02 (Xen, load_shadow_control); returns vmcs12's secondary controls."""
    # 1. pin-based, primary, secondary
    pin = get_vvmcs(m, v, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL, P_ENTRY)
    slot = vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL
    _write_control(m, slot, merged_pin(_own(m, slot), pin))
    cpu = get_vvmcs(m, v, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL, P_ENTRY)
    slot = vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL
    use_map = _load_bitmaps(m, v, cpu)
    if m.feat.l0 == L0_KVM:
        word = kvm_merged_cpu(_own(m, slot) & (-1 if use_map else ~MSR_BITMAPS), cpu)
    else:
        word = merged_cpu(_own(m, slot), cpu, use_map)
    _write_control(m, slot, word)
    cpu2 = secondary_of(m, v, cpu, P_ENTRY)
    slot = vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL
    if m.feat.l0 == L0_KVM:
        word = kvm_merged_cpu2(_own(m, slot), cpu2)
    else:
        word = merged_cpu2(_own(m, slot), cpu2)
    _write_control(m, slot, word)
    # 2. exit and entry
    slot = vmcs.SLOT_VM_EXIT_CONTROLS
    word = _own(m, slot)
    if m.feat.l0 != L0_KVM:
        word = merged_exit(word, get_vvmcs(m, v, slot, P_ENTRY))
    if pin & vmx.PIN_VMX_PREEMPTION_TIMER:
        if m.feat.deviations & deviations.DEV_PREEMPTION_TIMER_RESTARTS == 0:
            word |= vmx.EXIT_CTL_SAVE_VMX_PREEMPTION_TIMER  # it goes on after L0's own exits
        timer = vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE
        vmwrite(m, timer, get_vvmcs(m, v, timer, P_ENTRY))
    _write_control(m, slot, word)
    entry = get_vvmcs(m, v, vmcs.SLOT_VM_ENTRY_CONTROLS, P_ENTRY)
    _write_control(m, vmcs.SLOT_VM_ENTRY_CONTROLS, merged_entry(entry))
    # 3. exceptions
    slot = vmcs.SLOT_EXCEPTION_BITMAP
    vmwrite(m, slot, _own(m, slot) | get_vvmcs(m, v, slot, P_ENTRY))
    slot = vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MASK
    vmwrite(m, slot, get_vvmcs(m, v, slot, P_ENTRY))
    slot = vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MATCH
    vmwrite(m, slot, get_vvmcs(m, v, slot, P_ENTRY))
    # 4. events that L1 injects
    for i in range(3):
        vmwrite(m, EVENT_FIELDS[i], get(v, EVENT_FIELDS[i]) & MASKS[EVENT_FIELDS[i]])
        count_field(m, EVENT_FIELDS[i], P_ENTRY, 0)
    count_bulk(m, 3, 0)
    # 5. time-stamp counter
    offset = _own(m, vmcs.SLOT_TSC_OFFSET)
    if cpu & vmx.CPU_USE_TSC_OFFSETTING:
        offset += get_vvmcs(m, v, vmcs.SLOT_TSC_OFFSET, P_ENTRY)
    vmwrite(m, vmcs.SLOT_TSC_OFFSET, offset)
    # 6. the virtual APIC
    if m.feat.apicv:
        apicv_merge(m, v, cpu, cpu2)
    return cpu2


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
        efer = _own(m, vmcs.SLOT_GUEST_IA32_EFER) & ~EFER_LMA_LME
        if entry & vmx.ENTRY_CTL_IA32E_MODE:
            efer |= EFER_LMA_LME
        vmwrite(m, vmcs.SLOT_GUEST_IA32_EFER, efer)
    if entry & vmx.ENTRY_CTL_LOAD_IA32_PAT == 0:
        vmwrite(m, vmcs.SLOT_GUEST_IA32_PAT, _own(m, vmcs.SLOT_GUEST_IA32_PAT))


@inner
def _load_control_registers(m, v):
    cr4 = get_vvmcs(m, v, vmcs.SLOT_GUEST_CR4, P_ENTRY)
    mask4 = get_vvmcs(m, v, vmcs.SLOT_CR4_GUEST_HOST_MASK, P_ENTRY)
    shadow4 = get_vvmcs(m, v, vmcs.SLOT_CR4_READ_SHADOW, P_ENTRY)
    vmwrite(m, vmcs.SLOT_GUEST_CR4, cr4 | CR4_FIXED0)
    vmwrite(m, vmcs.SLOT_CR4_GUEST_HOST_MASK, CR4_L0_MASK | mask4)
    vmwrite(m, vmcs.SLOT_CR4_READ_SHADOW, merged_shadow(cr4, mask4, shadow4))
    cr0 = get_vvmcs(m, v, vmcs.SLOT_GUEST_CR0, P_ENTRY)
    mask0 = get_vvmcs(m, v, vmcs.SLOT_CR0_GUEST_HOST_MASK, P_ENTRY)
    shadow0 = get_vvmcs(m, v, vmcs.SLOT_CR0_READ_SHADOW, P_ENTRY)
    vmwrite(m, vmcs.SLOT_GUEST_CR0, cr0)
    vmwrite(m, vmcs.SLOT_CR0_GUEST_HOST_MASK, CR0_L0_MASK)
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
    count(m, E_L0_VMPTRLD, 1)
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
    return ST_OK
