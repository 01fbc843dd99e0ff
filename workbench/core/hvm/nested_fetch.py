"""Fetching from vmcx12 what a layout of the nested state does not keep.

SVM: a field of vmcb12 at its APM offset, 8 bytes or less of L1's memory, which L0 keeps mapped.
VMX: a field of vmcs12 as L0 reads it, by memory access or, with VMCS shadowing, by VMPTRLD, VMREAD,
VMCLEAR and VMPTRLD (``vmcs.get_vvmcs``).  What is read is what stands there now: L1, or an L2 that
can write to that page, may have changed it since the entry.
"""

from __future__ import annotations

import numpy as np

from ...arch import svm, vmcb, vmcs, vmx
from ..jit import inner, unit
from ..layout import BACKEND_SVM, Machine
from ..ledger import (
    AT_L2_EXIT_ROUTED,
    AT_L2_EXIT_TO_L1,
    AT_VMENTRY,
    E_L0_BYTE_COPIED,
    E_L0_VMCLEAR,
    E_L0_VMPTRLD,
    E_L0_VMREAD,
    N_STATE,
    N_STATE_EVENTS,
    NS_GUEST_CR3,
    NS_GUEST_TAG,
    NS_HAP_ENABLED,
    NS_HOST_CR3,
    NS_ICPT_CR,
    NS_IOPM,
    NS_MSRPM,
    NS_RFLAGSIF,
    NS_VINTRMASK,
    P_EMULATION,
    P_ENTRY,
    P_EXIT,
    P_ROUTING,
    count,
    count_field,
)
from ..mmu.physical import host_of
from ..structs import i64
from ..words import ld32, ld64, lshr
from .memory_map import VMCX01_MA

RFLAGS_IF_BIT = 9
FIELD, OFFSET, BYTES, SHIFT, MASK = range(5)
_VMCB = {
    NS_GUEST_CR3: ("CR3", 8, 0, -1),
    NS_HOST_CR3: ("NESTED_CR3", 8, 0, -1),
    NS_HAP_ENABLED: ("NESTED_CTL", 8, 0, 1),
    NS_GUEST_TAG: ("ASID", 4, 0, -1),
    NS_VINTRMASK: ("INT_CTL", 4, svm.INT_CTL_V_INTR_MASKING, 1),
    NS_MSRPM: ("MSRPM_BASE_PA", 8, 0, -1),
    NS_IOPM: ("IOPM_BASE_PA", 8, 0, -1),
} | {NS_ICPT_CR + i: (f"INTERCEPT_WORD{i}", 4, 0, -1) for i in range(5)}

FROM_VMCB = np.zeros((N_STATE, 5), np.int64)
"""By field: number and offset of the VMCB's field, its bytes (0: not there), shift and mask."""
for _field, (_name, _bytes, _shift, _mask) in _VMCB.items():
    _number, _offset = getattr(vmcb, f"FIELD_{_name}"), getattr(vmcb, _name)
    FROM_VMCB[_field] = (_number, _offset, _bytes, _shift, _mask)

PHASE = np.full(N_STATE_EVENTS, P_EMULATION, np.int64)
"""In which phase of vmcx12's own counters an event of the nested state belongs."""
PHASE[AT_VMENTRY] = P_ENTRY
PHASE[AT_L2_EXIT_ROUTED] = P_ROUTING
PHASE[AT_L2_EXIT_TO_L1] = P_EXIT


# ---------------------------------------------------------------- vmcb12


@inner
def _from_vmcb12(m, field, host):
    size = FROM_VMCB[field, BYTES]
    if size == 0:
        return 0
    count_field(m, FROM_VMCB[field, FIELD], PHASE[m.state.event], 0)
    count(m, E_L0_BYTE_COPIED, size)
    at = host + FROM_VMCB[field, OFFSET]
    word = ld64(at) if size == 8 else ld32(at)
    return lshr(word, FROM_VMCB[field, SHIFT]) & FROM_VMCB[field, MASK]


# ---------------------------------------------------------------- vmcs12


@inner
def _vmread12(m, host, slot):
    """One field of vmcs12; the price of ``vmcs.get_vvmcs``, settled at once."""
    count_field(m, slot, PHASE[m.state.event], 0)
    if m.nv.shadow_active:
        count(m, E_L0_VMPTRLD, 2)
        count(m, E_L0_VMREAD, 1)
        count(m, E_L0_VMCLEAR, 1)
    else:
        count(m, E_L0_BYTE_COPIED, 8)
    return ld64(host + vmcs.DATA_OFFSET + slot * 8)


@inner
def _secondary12(m, host):
    cpu = _vmread12(m, host, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    if cpu & vmx.CPU_ACTIVATE_SECONDARY_CONTROLS == 0:
        return 0
    return _vmread12(m, host, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL)


@inner
def _from_vmcs12(m, field, host):
    if field == NS_GUEST_CR3:
        return _vmread12(m, host, vmcs.SLOT_GUEST_CR3)
    if field == NS_HOST_CR3:
        return _vmread12(m, host, vmcs.SLOT_EPT_POINTER)
    if field == NS_HAP_ENABLED:
        return 1 if _secondary12(m, host) & vmx.CPU2_ENABLE_EPT else 0
    if field == NS_GUEST_TAG:
        if _secondary12(m, host) & vmx.CPU2_ENABLE_VPID == 0:
            return 0
        return _vmread12(m, host, vmcs.SLOT_VIRTUAL_PROCESSOR_ID) & 0xFFFF
    return 0


@unit(Machine, i64, i64)
def fetch_from_vmcx12(m, field, vmcx12_ma):
    """A field (NS_*) of the vmcx12 at ``vmcx12_ma``, or of vmcb01; 0 while there is none."""
    if field == NS_RFLAGSIF:
        count(m, E_L0_BYTE_COPIED, 8)
        return lshr(ld64(m.ram + VMCX01_MA + vmcb.RFLAGS), RFLAGS_IF_BIT) & 1
    host = host_of(m, vmcx12_ma)
    if host == 0:
        return 0
    if m.hw.backend == BACKEND_SVM:
        return _from_vmcb12(m, field, host)
    return _from_vmcs12(m, field, host)
