"""The VMX MSRs as L1 reads them: feature control and the capability MSRs (SDM vol. 3, appendix A).

What L0 offers differs by its personality and features: hvm/vmx/offer.py.  The same for all: region size and
memory type, CR4's fixed bits, and no VM functions.
"""

from __future__ import annotations

import numpy as np

from ....arch import msr, vmcs
from ...jit import inner, unit
from ...layout import ST_FAULT, ST_OK, Machine
from ...structs import i64
from .controls import CR0_FIXED1, CR4_FIXED0, CR4_SUPPORTED
from .offer import (
    CPU,
    CPU2,
    CR0_FIXED0_FOR_L1,
    ENTRY,
    EXIT,
    PIN,
    PLAIN_MUST,
    l1_ept_vpid,
    l1_may,
    l1_misc,
    l1_must,
)
from .timer import RATE

REGION_BYTES = 4096
MEMORY_WRITE_BACK = 6
BASIC = vmcs.REVISION | (REGION_BYTES << 32) | (MEMORY_WRITE_BACK << 50) | (1 << 54) | (1 << 55)
"""Revision, size, write-back, INS/OUTS information, TRUE capability MSRs."""
FEATURE_CONTROL = 1 | (1 << 2)
"""IA32_FEATURE_CONTROL: locked, VMX allowed outside of SMX."""

FIRST, COUNT = msr.VMX_BASIC, 32


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Value of each MSR from VMX_BASIC on, and whether it exists; shape (32,) each."""
    highest = int((vmcs.ENCODINGS >> 1 & 0x1FF).max())
    words = {
        msr.VMX_BASIC: BASIC,
        msr.VMX_CR0_FIXED1: CR0_FIXED1,
        msr.VMX_CR4_FIXED0: CR4_FIXED0,
        msr.VMX_CR4_FIXED1: CR4_SUPPORTED,
        msr.VMX_VMCS_ENUM: highest << 1,
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


@inner
def _word(m, group, plain):
    """Capability word of a group: what must be 1, and above it what may be."""
    must = PLAIN_MUST[group] if plain else l1_must(m, group)
    m.result = must | (l1_may(m, group) | must) << 32
    return ST_OK


@inner
def _controls(m, number):
    """The MSRs of the controls, plain and TRUE."""
    if number == msr.VMX_PINBASED_CTLS or number == msr.VMX_TRUE_PINBASED:
        return _word(m, PIN, number == msr.VMX_PINBASED_CTLS)
    if number == msr.VMX_PROCBASED_CTLS or number == msr.VMX_TRUE_PROCBASED:
        return _word(m, CPU, number == msr.VMX_PROCBASED_CTLS)
    if number == msr.VMX_EXIT_CTLS or number == msr.VMX_TRUE_EXIT:
        return _word(m, EXIT, number == msr.VMX_EXIT_CTLS)
    if number == msr.VMX_ENTRY_CTLS or number == msr.VMX_TRUE_ENTRY:
        return _word(m, ENTRY, number == msr.VMX_ENTRY_CTLS)
    if number == msr.VMX_PROCBASED_CTLS2:
        return _word(m, CPU2, False)
    return ST_FAULT


@unit(Machine, i64)
def vmx_capability(m, number):
    """Value of a VMX MSR into ``m.result``: ST_OK, or ST_FAULT where there is no such MSR."""
    if number == msr.IA32_FEATURE_CONTROL:
        m.result = m.nv.feature_control
        return ST_OK
    if number == msr.VMX_MISC:
        m.result = l1_misc(m) | RATE
    elif number == msr.VMX_EPT_VPID_CAP:
        m.result = l1_ept_vpid(m)
    elif number == msr.VMX_CR0_FIXED0:
        m.result = CR0_FIXED0_FOR_L1[m.feat.l0]
    else:
        index = (number - FIRST) & (COUNT - 1)
        if EXISTS[index] == 0:
            return _controls(m, number)
        m.result = VALUE[index]
    return ST_OK
