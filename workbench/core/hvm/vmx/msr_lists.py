"""MSR areas of VM entry and VM exit, walked entry by entry in memory (SDM vol. 3, 27.4, 28.4, 28.6).

An area is an array of 16-byte entries: MSR number, reserved word, value.  The processor walks those
of the VMCS it enters or leaves; L0 walks those of vmcs12 in software.  An entry that cannot be
loaded at entry makes it fail with its number, one at exit is a VMX abort: the indicator goes into
the VMCS region and the processor shuts down (for L1: it, as a guest, does).

Feature ``msr_switch`` = lists: L0 gives vmcs01 and vmcs02 areas for the system-call MSRs and
KERNEL_GS_BASE.  One area holds the guest's values, stored at every exit and loaded at every entry;
L1 and L2 share it, for VMX switches none of these MSRs between a hypervisor and its guest.  Another
holds L0's own, loaded at every exit.  Guests may then use these MSRs without an exit.

A list longer than 512 entries fails at entry 513, as KVM has it (the manual leaves it open).
"""

from __future__ import annotations

import numpy as np

from ....arch import msr, vmcs
from ...cpu.msr import msr_read, msr_write
from ...jit import inner, unit
from ...layout import FS, GS, ST_OK, Machine
from ...ledger import (
    E_HW_MSR_LOADED,
    E_HW_MSR_STORED,
    E_L0_BYTE_COPIED,
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_MSR_SWITCHED,
    count,
)
from ...mmu.physical import host_of, ma_ld64, ma_st64
from ...structs import i64
from ...words import ld64, lshr, st32, st64
from ..memory_map import GUEST_MSRS_MA, HOST_MSRS_MA
from .caps import is_vmx_msr, vmx_capability
from .check_util import L1_VIEW, machine_address, word
from .vmcs import get, put

ENTRY_BYTES = 16
MAX_ENTRIES = 512
ABORT_OFFSET = 4
"""Place of the VMX-abort indicator in a VMCS region."""

SWITCHED = np.array([msr.STAR, msr.LSTAR, msr.CSTAR, msr.SFMASK, msr.KERNEL_GS_BASE], np.int64)
N_SWITCHED = len(SWITCHED)
"""What L0 has in its lists: MSRs that it and its guests both use, and that are no VMCS fields."""
L0_VALUES = np.array([0xE008 << 32, -(1 << 47) + 0x1000, -(1 << 47) + 0x2000, 0x47700, 0], np.int64)
"""L0's own values of these; nothing runs with them, for L0 is not executed code."""


# ---------------------------------------------------------------- one entry


@inner
def _x2apic(number):
    return lshr(number, 8) == 8


@inner
def _load(m, number, value):
    """One MSR from an area: ST_OK, or anything else when it must not or cannot be loaded."""
    if number == msr.FS_BASE or number == msr.GS_BASE or _x2apic(number) or is_vmx_msr(number):
        return -1
    return msr_write(m, number, value)


@inner
def _store(m, number):
    """One MSR for an area, into ``m.result``: ST_OK, or anything else when it cannot be stored."""
    if _x2apic(number):
        return -1
    if is_vmx_msr(number):
        return vmx_capability(m, number)
    return msr_read(m, number)


@inner
def _count_entry(m, view, event):
    if view == L1_VIEW:
        count(m, E_L0_MSR_SWITCHED, 1)
        count(m, E_L0_BYTE_COPIED, ENTRY_BYTES)
    else:
        count(m, event, 1)


# ---------------------------------------------------------------- an area


@unit(Machine, i64, i64, i64)
def vmx_load_msrs(m, address, entries, view):
    """Load an area of ``entries`` MSRs; 0, or the number (from 1) of the entry that failed."""
    if view == L1_VIEW and entries:
        count(m, E_L0_GUEST_PAGE_MAPPED, 1 + ((address & 0xFFF) + 16 * entries - 1) // 4096)
    for i in range(entries):
        if i >= MAX_ENTRIES:
            return i + 1
        ma = machine_address(m, view, address + ENTRY_BYTES * i)
        head = ma_ld64(m, ma) if ma >= 0 else -1
        if lshr(head, 32) or _load(m, head & 0xFFFF_FFFF, ma_ld64(m, ma + 8)) != ST_OK:
            return i + 1
        _count_entry(m, view, E_HW_MSR_LOADED)
    return 0


@unit(Machine, i64, i64, i64)
def vmx_store_msrs(m, address, entries, view):
    """Store into an area of ``entries`` MSRs; 0, or the number (from 1) of the entry that failed."""
    if view == L1_VIEW and entries:
        count(m, E_L0_GUEST_PAGE_MAPPED, 1 + ((address & 0xFFF) + 16 * entries - 1) // 4096)
    for i in range(entries):
        if i >= MAX_ENTRIES:
            return i + 1
        ma = machine_address(m, view, address + ENTRY_BYTES * i)
        head = ma_ld64(m, ma) if ma >= 0 else -1
        if lshr(head, 32) or _store(m, head & 0xFFFF_FFFF) != ST_OK:
            return i + 1
        ma_st64(m, ma + 8, m.result)
        _count_entry(m, view, E_HW_MSR_STORED)
    return 0


# ---------------------------------------------------------------- by the processor


@inner
def hw_entry_msrs(m, base):
    """VM-entry MSR-load area of the VMCS in use; 0, or the number of the entry that failed."""
    entries = word(base, vmcs.SLOT_VM_ENTRY_MSR_LOAD_COUNT)
    if entries == 0:
        return 0
    return vmx_load_msrs(m, get(base, vmcs.SLOT_VM_ENTRY_MSR_LOAD_ADDR), entries, 0)


@inner
def abort(m, vmcs_ma, indicator):
    """VMX abort: the indicator goes into the region, and nothing is entered any more."""
    m.vmx_abort = indicator
    host = host_of(m, vmcs_ma)
    if host:
        st32(host + ABORT_OFFSET, indicator)


@inner
def hw_exit_msrs(m, base):
    """VM-exit MSR-store area, then MSR-load area, of the VMCS in use."""
    entries = word(base, vmcs.SLOT_VM_EXIT_MSR_STORE_COUNT)
    if entries and vmx_store_msrs(m, get(base, vmcs.SLOT_VM_EXIT_MSR_STORE_ADDR), entries, 0):
        abort(m, m.hw.vmcx, ABORT_SAVE_MSR)
    hw_exit_load_msrs(m, base)


@inner
def hw_exit_load_msrs(m, base):
    """VM-exit MSR-load area of the VMCS in use."""
    entries = word(base, vmcs.SLOT_VM_EXIT_MSR_LOAD_COUNT)
    if entries and vmx_load_msrs(m, get(base, vmcs.SLOT_VM_EXIT_MSR_LOAD_ADDR), entries, 0):
        abort(m, m.hw.vmcx, ABORT_LOAD_MSR)


ABORT_SAVE_MSR, ABORT_LOAD_MSR = 1, 4
"""VMX-abort indicators (vmx_abort.csv)."""


# ---------------------------------------------------------------- L0's own areas


@inner
def _write_area(m, area_ma, own):
    c = m.cpu
    for i in range(N_SWITCHED):
        host = m.ram + area_ma + ENTRY_BYTES * i
        st64(host, SWITCHED[i])
        st64(host + 8, L0_VALUES[i] if own else 0)
    if own == 0:
        _put_values(m, c.star, c.lstar, c.cstar, c.sfmask, c.kernel_gs_base)


@inner
def _put_values(m, star, lstar, cstar, sfmask, kernel_gs_base):
    host = m.ram + GUEST_MSRS_MA + 8
    st64(host, star)
    st64(host + ENTRY_BYTES, lstar)
    st64(host + 2 * ENTRY_BYTES, cstar)
    st64(host + 3 * ENTRY_BYTES, sfmask)
    st64(host + 4 * ENTRY_BYTES, kernel_gs_base)


@inner
def write_own_areas(m, base):
    """Give the VMCS at ``base`` the areas of L0's own (``msr_switch`` = lists)."""
    _write_area(m, GUEST_MSRS_MA, 0)
    _write_area(m, HOST_MSRS_MA, 1)
    put(base, vmcs.SLOT_VM_ENTRY_MSR_LOAD_ADDR, GUEST_MSRS_MA)
    put(base, vmcs.SLOT_VM_ENTRY_MSR_LOAD_COUNT, N_SWITCHED)
    put(base, vmcs.SLOT_VM_EXIT_MSR_STORE_ADDR, GUEST_MSRS_MA)
    put(base, vmcs.SLOT_VM_EXIT_MSR_STORE_COUNT, N_SWITCHED)
    put(base, vmcs.SLOT_VM_EXIT_MSR_LOAD_ADDR, HOST_MSRS_MA)
    put(base, vmcs.SLOT_VM_EXIT_MSR_LOAD_COUNT, N_SWITCHED)


@inner
def guests_msrs_in(m):
    """L0 works on the guest's MSRs: with lists their values are in the area, not in the processor."""
    if m.feat.msr_switch:
        c = m.cpu
        host = m.ram + GUEST_MSRS_MA + 8
        c.star = ld64(host)
        c.lstar = ld64(host + ENTRY_BYTES)
        c.cstar = ld64(host + 2 * ENTRY_BYTES)
        c.sfmask = ld64(host + 3 * ENTRY_BYTES)
        c.kernel_gs_base = ld64(host + 4 * ENTRY_BYTES)


@inner
def guests_msrs_out(m):
    """L0 is done with the guest's MSRs: back into the area with them."""
    if m.feat.msr_switch:
        c = m.cpu
        _put_values(m, c.star, c.lstar, c.cstar, c.sfmask, c.kernel_gs_base)


@inner
def is_switched(number):
    """Is the MSR one of those that ``msr_switch`` is about?"""
    return msr.STAR <= number <= msr.SFMASK or number == msr.KERNEL_GS_BASE


# ---------------------------------------------------------------- by L0, for L1


@inner
def _msrs_from(m, base):
    """MSRs that are fields of a VMCS, from there into the processor's record."""
    c = m.cpu
    c.efer = get(base, vmcs.SLOT_GUEST_IA32_EFER)
    c.pat = get(base, vmcs.SLOT_GUEST_IA32_PAT)
    c.debugctl = get(base, vmcs.SLOT_GUEST_IA32_DEBUGCTL)
    c.sysenter_cs = get(base, vmcs.SLOT_GUEST_SYSENTER_CS)
    c.sysenter_esp = get(base, vmcs.SLOT_GUEST_SYSENTER_ESP)
    c.sysenter_eip = get(base, vmcs.SLOT_GUEST_SYSENTER_EIP)
    c.seg_base[FS] = get(base, vmcs.SLOT_GUEST_FS_BASE)
    c.seg_base[GS] = get(base, vmcs.SLOT_GUEST_GS_BASE)
    guests_msrs_in(m)


@inner
def _msrs_to(m, base):
    c = m.cpu
    put(base, vmcs.SLOT_GUEST_IA32_EFER, c.efer)
    put(base, vmcs.SLOT_GUEST_IA32_PAT, c.pat)
    put(base, vmcs.SLOT_GUEST_IA32_DEBUGCTL, c.debugctl)
    put(base, vmcs.SLOT_GUEST_SYSENTER_CS, c.sysenter_cs)
    put(base, vmcs.SLOT_GUEST_SYSENTER_ESP, c.sysenter_esp)
    put(base, vmcs.SLOT_GUEST_SYSENTER_EIP, c.sysenter_eip)
    guests_msrs_out(m)


@unit(Machine, i64, i64, i64)
def vmx_load_l1_list(m, base, address, entries):
    """An area of vmcs12's into the guest of the VMCS at ``base``; 0, or the entry that failed."""
    _msrs_from(m, base)
    failed = vmx_load_msrs(m, address, entries, L1_VIEW)
    _msrs_to(m, base)
    return failed


@unit(Machine, i64, i64, i64)
def vmx_store_l1_list(m, base, address, entries):
    """MSRs of the guest of the VMCS at ``base`` into an area of vmcs12's; 0, or what failed."""
    _msrs_from(m, base)
    return vmx_store_msrs(m, address, entries, L1_VIEW)
