"""L0 on VMX: the operations that the generic nested code calls.

``vmx_initialise`` prepares vmcs01, the permission maps and the capability words; ``vmx_handle``
serves an exit of L1, or of L2 when L0 keeps it.  ``vmx_route``, ``vmx_enter_n2`` and
``vmx_exit_n2`` are in modules of their own.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmcs, vmx
from ....arch.table import rows
from ...cpu.exceptions import GP, UD
from ...jit import inner, unit
from ...layout import (
    BACKEND_VMX,
    FATAL_UNHANDLED_EXIT,
    L0_KVM,
    L0_XEN,
    PAGE,
    ST_HALT,
    ST_OK,
    ST_SHUTDOWN,
    Machine,
)
from ...ledger import E_L0_HOST_INTERRUPT_HANDLED, NS_MERGED_MSRPM_SIZE, count
from ...words import fill_bytes, ld8, st8, st32
from ..memory_map import (
    L0_IOPM_MA,
    L0_MSRPM_MA,
    L2_IOPM_MA,
    L2_MSRPM_MA,
    VMCX01_MA,
    VMCX02_MA,
    VMREAD_BITMAP_MA,
    VMWRITE_BITMAP_MA,
)
from ..msr_map_copy import reset_msr_map_copy
from ..nested_state import (
    BYTES_8,
    is_n2_guest,
    set_exitcode,
    set_guest_tag,
    set_vmxon_addr,
    state_write,
    vmexit_pending,
)
from ..nested_vcpu import reset_nested_vcpu
from ..shadow.vmx import vmx_handle_invlpg
from ..tags import tags_initialise
from ..virtual_exit import ask_exit
from .activity import vmx_become_inactive
from .caps import FEATURE_CONTROL
from .common import INTR_VALID, complete_instruction, count_common, fatal, inject_exception
from .controls import (
    CR0_FIXED0,
    CR0_L0_MASK,
    CR4_FIXED0,
    CR4_L0_MASK,
    CR4_PGE,
    KVM_CPU,
    KVM_CPU2,
    KVM_CR0_GUEST,
    KVM_CR4_GUEST,
    KVM_ENTRY,
    KVM_EXCEPTIONS,
    KVM_EXIT,
    KVM_PIN,
    L0_CPU,
    L0_CPU2,
    L0_ENTRY,
    L0_EXCEPTIONS,
    L0_EXIT,
    L0_PIN,
)
from .emulate import (
    emulate_cpuid,
    emulate_cr_access,
    emulate_dr_access,
    emulate_io,
    emulate_rdmsr,
    emulate_wrmsr,
    nested_page_fault,
    reflect_exception,
)
from .entry import own_eptp, vmx_enter_n2, vmx_set_hap_root, vmx_set_vpid
from .host_area import write_host_area
from .hw import save_guest_state
from .insn import vmx_instruction
from .insn_results import NONE
from .intercepts import msr_bit
from .intr import vmx_close_window
from .kvm import kvm_prepare_bitmaps
from .l2_shadow import l2_field_access
from .leave import vmx_exit_n2
from .msr_lists import N_SWITCHED, SWITCHED, write_own_areas
from .reinject import restore_nmi_blocking, resume_delivery
from .route import N_REASONS, ends_domain, vmx_prepare_routes, vmx_route
from .vmcs import own_base, put, settle

__all__ = [
    "vmx_enter_n2", "vmx_exit_n2", "vmx_handle", "vmx_initialise", "vmx_route", "vmx_set_hap_root",
    "vmx_set_vpid",
]  # fmt: skip


# ---------------------------------------------------------------- initialise


def _passthrough(by_both: bool) -> np.ndarray:
    """Bits of L0's MSR bitmap that are clear: what guests use directly under Xen and KVM, or what
    they do under Xen alone, with HAP (the PAT, which KVM's VM exits would not save)."""
    bits = []
    for row in rows("vmx_msr_passthrough"):
        words = row["notes"].replace(",", " ").replace(";", " ").split()
        wanted = words[:2] == ["xen", "kvm"] if by_both else row["notes"] == "xen with HAP"
        if wanted and row["value"].startswith("0x") and "/" not in row["value"]:
            number = int(row["value"], 0)
            for write in (0, 0x800 * 8):
                high = 0x400 * 8 if number >= 0xC000_0000 else 0
                bits.append((number & 0x1FFF) + high + write)
    return np.array(sorted(bits), np.int64)


PASSTHROUGH_BITS, XEN_BITS = _passthrough(True), _passthrough(False)
N_PASSTHROUGH, N_XEN_BITS = len(PASSTHROUGH_BITS), len(XEN_BITS)

TRAPPED_WRITES = np.array(
    [
        encoding | high
        for encoding in (vmcs.IO_BITMAP_A, vmcs.IO_BITMAP_B, vmcs.MSR_BITMAP)
        for high in (0, 1)
    ],
    np.int64,
)
"""Fields whose VMWRITE exits even with VMCS shadowing: L0 keeps those pages of L1 mapped."""
N_TRAPPED = len(TRAPPED_WRITES)
OPEN_PORTS = np.array([0x80, 0xED], np.int64)
"""Ports that L0 lets its guests use directly (Xen, hvm_io_bitmap)."""


@inner
def _set_bit(m, map_ma, bit, value):
    host = m.ram + map_ma + (bit >> 3)
    mask = 1 << (bit & 7)
    st8(host, ld8(host) | mask if value else ld8(host) & ~mask)


@unit(Machine)
def vmx_prepare_maps(m):
    """L0's permission maps: MSR and I/O bitmaps, VMREAD and VMWRITE bitmaps."""
    fill_bytes(m.ram + L0_MSRPM_MA, PAGE, 0xFF)
    for i in range(N_PASSTHROUGH):
        _set_bit(m, L0_MSRPM_MA, PASSTHROUGH_BITS[i], 0)
    if m.feat.l0 != L0_KVM:
        for i in range(N_XEN_BITS):
            _set_bit(m, L0_MSRPM_MA, XEN_BITS[i], 0)
    if m.feat.msr_switch:
        for i in range(N_SWITCHED):
            for write in range(2):
                _set_bit(m, L0_MSRPM_MA, msr_bit(SWITCHED[i], write), 0)
    fill_bytes(m.ram + L2_MSRPM_MA, PAGE, 0xFF)
    fill_bytes(m.ram + L0_IOPM_MA, 2 * PAGE, 0xFF)
    for i in range(2):
        _set_bit(m, L0_IOPM_MA, OPEN_PORTS[i], 0)
    fill_bytes(m.ram + L2_IOPM_MA, 2 * PAGE, 0xFF)
    fill_bytes(m.ram + VMREAD_BITMAP_MA, PAGE, 0)
    fill_bytes(m.ram + VMWRITE_BITMAP_MA, PAGE, 0)
    for i in range(N_TRAPPED):
        _set_bit(m, VMWRITE_BITMAP_MA, TRAPPED_WRITES[i], 1)
    if m.feat.l0 == L0_KVM:
        kvm_prepare_bitmaps(m)
    return ST_OK


@inner
def _reset_nested_vcpu(m):
    reset_nested_vcpu(m)
    reset_msr_map_copy(m, PAGE)
    state_write(m, NS_MERGED_MSRPM_SIZE, BYTES_8, PAGE)
    nv = m.nv
    set_guest_tag(m, 0)
    set_vmxon_addr(m, NONE)
    set_exitcode(m, -1)
    nv.feature_control = FEATURE_CONTROL
    nv.activity = 0
    nv.immediate_exit = 0
    nv.shadow_active = 0


@inner
def _write_controls(m, base):
    kvm = m.feat.l0 == L0_KVM
    put(base, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL, KVM_PIN if kvm else L0_PIN)
    put(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL, KVM_CPU if kvm else L0_CPU)
    secondary = KVM_CPU2 if kvm else L0_CPU2
    if m.feat.tlb_tagging == 0:
        secondary &= ~vmx.CPU2_ENABLE_VPID
    put(base, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL, secondary)
    put(base, vmcs.SLOT_VIRTUAL_PROCESSOR_ID, 1)  # until a tag is chosen
    put(base, vmcs.SLOT_VM_EXIT_CONTROLS, KVM_EXIT if kvm else L0_EXIT)
    put(base, vmcs.SLOT_VM_ENTRY_CONTROLS, KVM_ENTRY if kvm else L0_ENTRY)
    put(base, vmcs.SLOT_EXCEPTION_BITMAP, KVM_EXCEPTIONS if kvm else L0_EXCEPTIONS)
    put(base, vmcs.SLOT_IO_BITMAP_A, L0_IOPM_MA)
    put(base, vmcs.SLOT_IO_BITMAP_B, L0_IOPM_MA + PAGE)
    put(base, vmcs.SLOT_MSR_BITMAP, L0_MSRPM_MA)
    put(base, vmcs.SLOT_EPT_POINTER, own_eptp(m, m.l1_hap_root))
    put(base, vmcs.SLOT_VMCS_LINK_POINTER, -1)
    put(base, vmcs.SLOT_CR0_GUEST_HOST_MASK, ~KVM_CR0_GUEST if kvm else CR0_L0_MASK)
    mask4 = ~KVM_CR4_GUEST if kvm else CR4_L0_MASK
    put(base, vmcs.SLOT_CR4_GUEST_HOST_MASK, mask4 | CR4_PGE if m.sh.active else mask4)
    write_host_area(base)
    if m.feat.msr_switch:
        write_own_areas(m, base)


@inner
def _write_boot_state(m, base):
    """Guest state of vmcs01: L1 as it boots."""
    c = m.cpu
    m.hw.exit_ctl = L0_EXIT
    m.hw.cr0_mask = 0
    m.hw.cr4_mask = 0
    save_guest_state(m, base)
    put(base, vmcs.SLOT_GUEST_IA32_EFER, c.efer)
    put(base, vmcs.SLOT_GUEST_IA32_PAT, c.pat)
    put(base, vmcs.SLOT_GUEST_CR0, c.cr0 | CR0_FIXED0)
    put(base, vmcs.SLOT_CR0_READ_SHADOW, c.cr0)
    put(base, vmcs.SLOT_GUEST_CR4, c.cr4 | CR4_FIXED0)
    put(base, vmcs.SLOT_CR4_READ_SHADOW, c.cr4)


@unit(Machine)
def vmx_initialise(m):
    """Prepare L0's VMCSs and maps for an L1 whose boot state is in ``m.cpu``."""
    vmx_prepare_maps(m)
    vmx_prepare_routes(m)
    fill_bytes(m.ram + VMCX01_MA, PAGE, 0)
    fill_bytes(m.ram + VMCX02_MA, PAGE, 0)
    st32(m.ram + VMCX01_MA, vmcs.REVISION)
    st32(m.ram + VMCX02_MA, vmcs.REVISION)
    _reset_nested_vcpu(m)
    base = own_base(m, VMCX01_MA)
    _write_boot_state(m, base)
    _write_controls(m, base)
    m.hw.backend = BACKEND_VMX
    tags_initialise(m)
    m.hw.guest = 1
    m.hw.vmcx = VMCX01_MA
    m.level = 1
    for i in range(4):
        m.vmcs_work[i] = 0
    return ST_OK


# ---------------------------------------------------------------- exits that L0 serves


@inner
def _is_vmx_instruction(reason):
    return (
        vmx.EXIT_VMCALL <= reason <= vmx.EXIT_VMON
        or reason == vmx.EXIT_INVEPT
        or reason == vmx.EXIT_INVVPID
    )


@inner
def _rare(m, reason):
    """Exits that need little or nothing."""
    if reason == vmx.EXIT_HLT:
        complete_instruction(m)
        if is_n2_guest(m):
            return vmx_become_inactive(m, vmx.INTR_ACTIVITY_HLT)
        return ST_HALT
    if reason == vmx.EXIT_WBINVD or reason == vmx.EXIT_INVD:
        return complete_instruction(m)
    if reason == vmx.EXIT_PAUSE_INSTRUCTION:
        return complete_instruction(m)
    if reason == vmx.EXIT_MONITOR_INSTRUCTION or reason == vmx.EXIT_MWAIT_INSTRUCTION:
        return inject_exception(m, UD, 0, 0)
    if reason == vmx.EXIT_XSETBV:
        return inject_exception(m, GP, 0, 1)
    if reason == vmx.EXIT_TRIPLE_FAULT:
        return ST_SHUTDOWN
    if reason == vmx.EXIT_EXTERNAL_INTERRUPT:
        count(m, E_L0_HOST_INTERRUPT_HANDLED, 1)
        return ST_OK
    if reason == vmx.EXIT_MONITOR_TRAP_FLAG and is_n2_guest(m):
        # injected by L1, which did not set the control; Xen then takes it for its own
        if m.feat.l0 != L0_XEN:
            ask_exit(m)
        return ST_OK
    if reason == vmx.EXIT_PREEMPTION_TIMER and is_n2_guest(m):
        if m.nv.immediate_exit == 0:  # else L0 wanted it, for an event that waits
            ask_exit(m)
        return ST_OK
    if reason == vmx.EXIT_INVPCID:
        return inject_exception(m, UD, 0, 0)  # L1 has not enabled it for L2
    if reason == vmx.EXIT_INTERRUPT_WINDOW:
        vmx_close_window(m, vmx.CPU_INTR_WINDOW_EXITING)
        return ST_OK
    if reason == vmx.EXIT_NMI_WINDOW:
        vmx_close_window(m, vmx.CPU_NMI_WINDOW_EXITING)
        return ST_OK
    return fatal(m, FATAL_UNHANDLED_EXIT, reason)


@inner
def _serve(m, reason):
    if reason == vmx.EXIT_INVLPG and m.sh.active:
        return vmx_handle_invlpg(m)
    if _is_vmx_instruction(reason) and not is_n2_guest(m):
        return vmx_instruction(m, reason)
    if reason == vmx.EXIT_VMREAD or reason == vmx.EXIT_VMWRITE:
        return l2_field_access(m, reason == vmx.EXIT_VMWRITE)
    if reason == vmx.EXIT_EPT_VIOLATION or reason == vmx.EXIT_EPT_MISCONFIG:
        return nested_page_fault(m, reason)
    if reason == vmx.EXIT_CPUID:
        return emulate_cpuid(m)
    if reason == vmx.EXIT_MSR_READ:
        return emulate_rdmsr(m)
    if reason == vmx.EXIT_MSR_WRITE:
        return emulate_wrmsr(m)
    if reason == vmx.EXIT_IO_INSTRUCTION:
        return emulate_io(m)
    if reason == vmx.EXIT_CR_ACCESS:
        return emulate_cr_access(m)
    if reason == vmx.EXIT_DR_ACCESS:
        return emulate_dr_access(m)
    if reason == vmx.EXIT_EXCEPTION_NMI:
        return reflect_exception(m)
    return _rare(m, reason)


@unit(Machine)
def vmx_handle(m):
    """L0 serves the exit in ``m.exit``; it may request a virtual entry or a virtual exit."""
    if not is_n2_guest(m):
        count_common(m)
    if ends_domain(m, m.exit.code):
        return fatal(m, FATAL_UNHANDLED_EXIT, m.exit.code)
    reason = m.exit.code & (N_REASONS - 1)
    vectoring = m.exit.vectoring
    error = m.exit.vectoring_error
    restore_nmi_blocking(m, reason)
    outcome = _serve(m, reason)
    # L0's shadow paging goes on with the event itself
    resumes = vectoring & INTR_VALID and m.sh.active == 0
    if resumes and outcome == ST_OK and vmexit_pending(m) == 0:
        outcome = resume_delivery(m, vectoring, error)
    settle(m)
    return outcome
