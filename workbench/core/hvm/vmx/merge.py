"""Controls of vmcs02, merged from vmcs01 and vmcs12 (Xen, load_shadow_control).

The rules are those of vmcs02_merge.csv, column ``xen``, with KVM's where it differs.  That Xen lets
the preemption timer start anew at every entry, and leaves to L2 what only L0 has enabled, is a
deviation each.
"""

from __future__ import annotations

import numpy as np

from ....arch import deviations, vmcs, vmx
from ...jit import inner, unit
from ...layout import (
    IO_MAP_INTERCEPT_ALL,
    IO_MAP_MERGED,
    L0_KVM,
    MSR_MAP_INTERCEPT_ALL,
    MSR_MAP_NONE,
    PAGE,
    Machine,
)
from ...ledger import (
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_MAP_BYTE_MERGED,
    E_L0_MAP_BYTE_READ,
    P_ENTRY,
    count,
    count_field,
)
from ...mmu.physical import host_of, ma_ld8
from ...structs import i64
from ...words import fill_bytes, or_bytes
from ..memory_map import L0_IOPM_MA, L0_MSRPM_MA, L2_IOPM_MA, L2_MSRPM_MA, VMCX01_MA
from ..msr_map_copy import copy_msr_map, keeps_msr_map_copy
from ..nested_state import msrpm
from ..p2m import n1p_to_l0m
from .apicv import APICV_CPU, apicv_merge
from .check_util import CR3_TARGETS_HARDWARE
from .kvm_merge import kvm_merge_msr_bitmap, kvm_merged_cpu, kvm_merged_cpu2
from .offer import APICV_CPU2, l1_cr3_targets
from .route import secondary_of
from .timer import start_nested_timer
from .vmcs import MASKS, count_bulk, get, get_vvmcs, own_base, vmwrite

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
CPU2_ENABLES = (
    vmx.CPU2_ENABLE_RDTSCP
    | vmx.CPU2_ENABLE_INVPCID
    | vmx.CPU2_ENABLE_XSAVES
    | vmx.CPU2_ENABLE_USR_WAIT_PAUSE
)
"""Secondary controls that give a guest instructions: L2 has them from L1 only."""
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
EVENT_FIELDS = np.array(
    [
        vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD,
        vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE,
        vmcs.SLOT_VM_ENTRY_INSTRUCTION_LEN,
    ],
    np.int64,
)
PAGE_FAULT = 1 << 14
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
    ma = msrpm(m) if keeps_msr_map_copy(m) else _l1_page(m, v, vmcs.SLOT_MSR_BITMAP)
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


@unit(Machine, i64, i64)
def _load_timer(m, v, pin):
    """The preemption timer: vmcs02's, or a timer of L0's own (KVM).  Returns the pin controls that
    go on into vmcs02."""
    slot = vmcs.SLOT_VMX_PREEMPTION_TIMER_VALUE
    value = get_vvmcs(m, v, slot, P_ENTRY)
    if m.feat.deviations & deviations.DEV_PREEMPTION_TIMER_BY_SOFTWARE:
        start_nested_timer(m, value)
        return pin & ~vmx.PIN_VMX_PREEMPTION_TIMER
    vmwrite(m, slot, value)
    return pin


@unit(Machine, i64)
def _load_cr3_targets(m, v):
    """L1's CR3 targets: loading one of these values into CR3 does not exit."""
    for i in range(1 + CR3_TARGETS_HARDWARE):
        slot = vmcs.SLOT_CR3_TARGET_COUNT if i == 0 else vmcs.SLOT_CR3_TARGET_VALUE0 + i - 1
        vmwrite(m, slot, get_vvmcs(m, v, slot, P_ENTRY))
    return 0


@inner
def _load_bitmaps(m, v, l1_cpu):
    """Merge the permission maps; returns whether L0 uses an MSR bitmap for L2."""
    io = _select_io_bitmap(m, v, l1_cpu)
    vmwrite(m, vmcs.SLOT_IO_BITMAP_A, io)
    vmwrite(m, vmcs.SLOT_IO_BITMAP_B, io + PAGE)
    if l1_cpu & vmx.CPU_USE_MSR_BITMAPS and keeps_msr_map_copy(m):
        copy_msr_map(m, get_vvmcs(m, v, vmcs.SLOT_MSR_BITMAP, P_ENTRY), PAGE)
    if m.feat.msr_map == MSR_MAP_NONE:
        return False
    if l1_cpu & vmx.CPU_USE_MSR_BITMAPS:
        _merge_msr_bitmap(m, v)
        vmwrite(m, vmcs.SLOT_MSR_BITMAP, L2_MSRPM_MA)
    return True


@inner
def own_word(m, slot):
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
    if pin & vmx.PIN_VMX_PREEMPTION_TIMER:
        pin = _load_timer(m, v, pin)
    _write_control(m, slot, merged_pin(own_word(m, slot), pin))
    cpu = get_vvmcs(m, v, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL, P_ENTRY)
    if m.feat.apicv == 0:
        cpu &= ~APICV_CPU  # not lent: vmcs02 has no page of L1 for it
    slot = vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL
    use_map = _load_bitmaps(m, v, cpu)
    if m.feat.l0 == L0_KVM:
        word = kvm_merged_cpu(own_word(m, slot) & (-1 if use_map else ~MSR_BITMAPS), cpu)
    else:
        word = merged_cpu(own_word(m, slot), cpu, use_map)
    _write_control(m, slot, word)
    cpu2 = secondary_of(m, v, cpu, P_ENTRY)
    if m.feat.apicv == 0:
        cpu2 &= ~APICV_CPU2
    slot = vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL
    if m.feat.l0 == L0_KVM:
        word = kvm_merged_cpu2(own_word(m, slot), cpu2)
    else:
        own = own_word(m, slot)
        if m.feat.deviations & deviations.DEV_INSTRUCTIONS_OF_L0_FOR_L2 == 0:
            own &= ~CPU2_ENABLES
        word = merged_cpu2(own, cpu2)
    _write_control(m, slot, word)
    # 2. exit and entry
    slot = vmcs.SLOT_VM_EXIT_CONTROLS
    word = own_word(m, slot)
    if m.feat.l0 != L0_KVM:
        word = merged_exit(word, get_vvmcs(m, v, slot, P_ENTRY))
    if pin & vmx.PIN_VMX_PREEMPTION_TIMER:
        if m.feat.deviations & deviations.DEV_PREEMPTION_TIMER_RESTARTS == 0:
            word |= vmx.EXIT_CTL_SAVE_VMX_PREEMPTION_TIMER  # it goes on after L0's own exits
    elif m.irq.nested_deadline and m.feat.l0 != L0_KVM:
        word &= ~vmx.EXIT_CTL_SAVE_VMX_PREEMPTION_TIMER  # vmcs02 has none to save
    _write_control(m, slot, word)
    entry = get_vvmcs(m, v, vmcs.SLOT_VM_ENTRY_CONTROLS, P_ENTRY)
    _write_control(m, vmcs.SLOT_VM_ENTRY_CONTROLS, merged_entry(entry))
    # 3. exceptions
    slot = vmcs.SLOT_EXCEPTION_BITMAP
    own = own_word(m, slot)
    vmwrite(m, slot, own | get_vvmcs(m, v, slot, P_ENTRY))
    # KVM wants every #PF if it wants any
    taken = 0 if m.feat.l0 == L0_KVM and own & PAGE_FAULT else -1
    slot = vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MASK
    vmwrite(m, slot, get_vvmcs(m, v, slot, P_ENTRY) & taken)
    slot = vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MATCH
    vmwrite(m, slot, get_vvmcs(m, v, slot, P_ENTRY) & taken)
    # 4. events that L1 injects
    for i in range(3):
        vmwrite(m, EVENT_FIELDS[i], get(v, EVENT_FIELDS[i]) & MASKS[EVENT_FIELDS[i]])
        count_field(m, EVENT_FIELDS[i], P_ENTRY, 0)
    count_bulk(m, 3, 0)
    # 5. time-stamp counter
    offset = own_word(m, vmcs.SLOT_TSC_OFFSET)
    if cpu & vmx.CPU_USE_TSC_OFFSETTING:
        offset += get_vvmcs(m, v, vmcs.SLOT_TSC_OFFSET, P_ENTRY)
    vmwrite(m, vmcs.SLOT_TSC_OFFSET, offset)
    if l1_cr3_targets(m):
        _load_cr3_targets(m, v)
    # 6. the virtual APIC
    if m.feat.apicv:
        apicv_merge(m, v, cpu, cpu2)
    return cpu2
