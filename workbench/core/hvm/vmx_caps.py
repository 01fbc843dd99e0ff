"""The VMX MSRs as L1 reads them: feature control and the capability MSRs (SDM vol. 3, appendix A).

The words are the modelled hardware's, filtered as Xen does (vvmx.c, nvmx_msr_read_intercept): no
activity states and no CR3 targets in MISC, no VM functions.  EPT accessed and dirty bits appear only
with the feature ``ept_ad``, retaining-globals INVVPID only when L0 tags as KVM does
(``l2_tag_policy``), VPID only with ``vpid_for_l1``.  MISC says that
VMWRITE may write any field exactly when VMCS shadowing is on: both came with the same processors.
"""

from __future__ import annotations

import numpy as np

from ...arch import msr, vmcs, vmx
from ...arch.table import rows
from ..jit import inner, unit
from ..layout import L0_KVM, POLICY_KVM, ST_FAULT, ST_OK, Machine
from ..structs import i64
from .vmx_apicv import apicv_cpu, apicv_cpu2, virtual_nmi_pin
from .vmx_controls import (
    CAPABILITIES,
    CR0_FIXED0,
    CR0_FIXED1,
    CR4_FIXED0,
    CR4_SUPPORTED,
    TRUE_CAPABILITIES,
    invpcid_cpu2,
)
from .vmx_timer import RATE

REGION_BYTES = 4096
MEMORY_WRITE_BACK = 6
BASIC = vmcs.REVISION | (REGION_BYTES << 32) | (MEMORY_WRITE_BACK << 50) | (1 << 54) | (1 << 55)
"""Revision, size, write-back, INS/OUTS information, TRUE capability MSRs."""
MISC_STORES_LMA = 1 << 5
MISC_VMWRITE_ANY = 1 << 29
FEATURE_CONTROL = 1 | (1 << 2)
"""IA32_FEATURE_CONTROL: locked, VMX allowed outside of SMX."""

_EPT_BITS = {
    r["name"]: 1 << int(r["value"], 0) for r in rows("invept_invvpid") if "CAP_" in r["name"]
}
EPT_CAPABILITIES = sum(
    bit
    for name, bit in _EPT_BITS.items()
    if name.removeprefix("CAP_EPT.")
    in {"EXEC_ONLY", "PWL4", "UC", "WB", "2M", "1G", "INVEPT", "INVEPT_SINGLE", "INVEPT_ALL"}
)
EPT_AD_CAPABILITY = _EPT_BITS["CAP_EPT.AD"]
CPU2_NEEDS_EPT = vmx.CPU2_ENABLE_EPT | vmx.CPU2_UNRESTRICTED_GUEST | vmx.CPU2_ENABLE_PML
VPID_RETAINING_GLOBALS = _EPT_BITS["CAP_VPID.SINGLE_NONGLOBAL"]
VPID_CAPABILITIES = sum(
    bit
    for name, bit in _EPT_BITS.items()
    if name.removeprefix("CAP_VPID.") in {"INVVPID", "ADDR", "SINGLE", "ALL"}
)

FIRST, COUNT = msr.VMX_BASIC, 32


def _pair(words: tuple[int, int]) -> int:
    must, may = words
    word = must | (may << 32)
    return word - (1 << 64) if word >> 63 else word


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Value of each MSR from VMX_BASIC on, and whether it exists; shape (32,) each."""
    highest = int((vmcs.ENCODINGS >> 1 & 0x1FF).max())
    words = {
        msr.VMX_BASIC: BASIC,
        msr.VMX_PINBASED_CTLS: _pair(CAPABILITIES["pin"]),
        msr.VMX_PROCBASED_CTLS: _pair(CAPABILITIES["cpu"]),
        msr.VMX_EXIT_CTLS: _pair(CAPABILITIES["exit"]),
        msr.VMX_ENTRY_CTLS: _pair(CAPABILITIES["entry"]),
        msr.VMX_MISC: MISC_STORES_LMA | RATE,
        msr.VMX_CR0_FIXED0: CR0_FIXED0,
        msr.VMX_CR0_FIXED1: CR0_FIXED1,
        msr.VMX_CR4_FIXED0: CR4_FIXED0,
        msr.VMX_CR4_FIXED1: CR4_SUPPORTED,
        msr.VMX_VMCS_ENUM: highest << 1,
        msr.VMX_PROCBASED_CTLS2: _pair(CAPABILITIES["sec"]),
        msr.VMX_EPT_VPID_CAP: EPT_CAPABILITIES | VPID_CAPABILITIES,
        msr.VMX_TRUE_PINBASED: _pair(TRUE_CAPABILITIES["pin"]),
        msr.VMX_TRUE_PROCBASED: _pair(TRUE_CAPABILITIES["cpu"]),
        msr.VMX_TRUE_EXIT: _pair(TRUE_CAPABILITIES["exit"]),
        msr.VMX_TRUE_ENTRY: _pair(TRUE_CAPABILITIES["entry"]),
    }
    values = np.zeros(COUNT, np.int64)
    exists = np.zeros(COUNT, np.int64)
    for number, word in words.items():
        values[number - FIRST] = word
        exists[number - FIRST] = 1
    return values, exists


VALUE, EXISTS = _table()


@inner
def is_vmx_msr(number):
    """Does L0 answer for this MSR itself?"""
    return number == msr.IA32_FEATURE_CONTROL or FIRST <= number < FIRST + COUNT


@unit(Machine, i64)
def vmx_capability(m, number):
    """Value of a VMX MSR into ``m.result``: ST_OK, or ST_FAULT where there is no such MSR."""
    if number == msr.IA32_FEATURE_CONTROL:
        m.result = m.nv.feature_control
        return ST_OK
    index = (number - FIRST) & (COUNT - 1)
    if EXISTS[index] == 0:
        return ST_FAULT
    value = VALUE[index]
    if number == msr.VMX_MISC and m.feat.vmcs_shadowing:
        value |= MISC_VMWRITE_ANY
    if number == msr.VMX_EPT_VPID_CAP:
        if m.feat.ept_ad:
            value |= EPT_AD_CAPABILITY
        if m.feat.l2_tag_policy == POLICY_KVM:
            value |= VPID_RETAINING_GLOBALS
    if number == msr.VMX_PROCBASED_CTLS or number == msr.VMX_TRUE_PROCBASED:
        value |= apicv_cpu(m) << 32
    elif number == msr.VMX_PROCBASED_CTLS2:
        value |= (apicv_cpu2(m) | invpcid_cpu2(m)) << 32
    elif number == msr.VMX_PINBASED_CTLS or number == msr.VMX_TRUE_PINBASED:
        value |= virtual_nmi_pin(m) << 32
    stale = (
        m.feat.l0 == L0_KVM and m.feat.vmcs_shadowing
    )  # L1 would not see the index that L0 moves
    if number == msr.VMX_PROCBASED_CTLS2 and m.feat.pml and m.feat.ept_ad and stale == 0:
        value |= vmx.CPU2_ENABLE_PML << 32
    if m.feat.vpid_for_l1 == 0:
        if number == msr.VMX_PROCBASED_CTLS2:
            value &= ~(vmx.CPU2_ENABLE_VPID << 32)
        elif number == msr.VMX_EPT_VPID_CAP:
            value &= ~(VPID_CAPABILITIES | VPID_RETAINING_GLOBALS)
    if m.sh.active:  # no nested paging for L1 without L0's own
        if number == msr.VMX_PROCBASED_CTLS2:
            value &= ~(CPU2_NEEDS_EPT << 32)
        elif number == msr.VMX_EPT_VPID_CAP:
            value &= ~(EPT_CAPABILITIES | EPT_AD_CAPABILITY)
    m.result = value
    return ST_OK
