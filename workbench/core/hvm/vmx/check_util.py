"""What the VM-entry checks share: capability words of both views, addresses, small predicates.

A check is made by the processor on the VMCS it enters with (view ``HARDWARE_VIEW``: what the modelled
processor can do, machine addresses), or by L0 on vmcs12 (view ``L1_VIEW``: what L0 offers L1,
L1-physical addresses).  The rules are the same; numbers of checks: vmx_entry_checks.csv.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmx
from ...jit import inner
from ...words import lshr
from ..p2m import n1p_to_l0m
from .controls import CAPABILITIES_HARDWARE
from .offer import (
    CPU,
    CPU2,
    ENTRY,
    EPT_AD,
    EXIT,
    PIN,
    l1_cr3_targets,
    l1_ept_vpid,
    l1_may,
    l1_must,
)
from .vmcs import MASKS, get

__all__ = ["CPU", "CPU2", "ENTRY", "EXIT", "PIN"]

HARDWARE_VIEW, L1_VIEW = range(2)
_GROUPS = ("pin", "cpu", "sec", "exit", "entry")
MUST = np.array([CAPABILITIES_HARDWARE[g][0] for g in _GROUPS], np.int64)
MAY = np.array([CAPABILITIES_HARDWARE[g][1] for g in _GROUPS], np.int64)
"""Control bits that the processor itself wants and allows to be 1, by group (PIN, CPU, ...)."""
CR3_TARGETS_HARDWARE = 4
"""CR3-target values that the processor has."""

ADDRESS_BITS = 40
"""Physical-address width."""
CR4_PAE, CR4_PCIDE = 1 << 5, 1 << 17
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
EFER_EXISTS = 0xD01
DEBUGCTL_EXISTS = 3
RFLAGS_TF, RFLAGS_IF, RFLAGS_VM = 1 << 8, 1 << 9, 1 << 17
BLOCK_STI, BLOCK_MOV_SS, BLOCK_SMI, BLOCK_NMI, BLOCK_ENCLAVE = 1, 2, 4, 8, 16
INTR_VALID = 1 << vmx.INTR_VALID
INTR_ERROR = 1 << vmx.INTR_ERRCODE_VALID
TYPE_INTERRUPT, TYPE_RESERVED, TYPE_NMI, TYPE_EXCEPTION = 0, 1, 2, 3
TYPE_SOFTWARE, TYPE_OTHER = 4, 7
PUSHES_ERROR = 1 << 8 | 0x1F << 10 | 1 << 17
"""Exceptions that push an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC."""


@inner
def may_be_one(m, view, group):
    """Control bits of a group that may be 1."""
    return l1_may(m, group) if view == L1_VIEW else MAY[group]


@inner
def outside(m, value, view, group):
    """Is a control word not within the capabilities of its view?"""
    must = l1_must(m, group) if view == L1_VIEW else MUST[group]
    return value & must != must or value & ~may_be_one(m, view, group) != 0


@inner
def cr3_targets(m, view):
    """How many CR3-target values there are (IA32_VMX_MISC bits 24:16)."""
    return l1_cr3_targets(m) if view == L1_VIEW else CR3_TARGETS_HARDWARE


@inner
def ept_can(m, view, capability):
    """Has EPT a capability (EPT_*)?  The processor has those that the model knows."""
    if view == L1_VIEW:
        return l1_ept_vpid(m) & capability != 0
    return capability != EPT_AD or m.feat.ept_ad != 0


@inner
def word(base, slot):
    """A field, cut to its width; ``base`` is the host address of slot 0."""
    return get(base, slot) & MASKS[slot]


@inner
def not_canonical(address):
    """Is ``address`` outside of the 48-bit linear address space?"""
    return (address << 16) >> 16 != address


@inner
def beyond_width(address):
    """Does a physical address set bits that the processor does not have?"""
    return lshr(address, ADDRESS_BITS) != 0


@inner
def page_wrong(address):
    """Is it no address of a 4 KB page?"""
    return address & 0xFFF != 0 or beyond_width(address)


@inner
def area_wrong(address, count):
    """Is an MSR area of ``count`` entries not 16-byte aligned, or not all within the width?"""
    if count == 0:
        return False
    return address & 15 != 0 or beyond_width(address) or beyond_width(address + 16 * count - 1)


@inner
def pat_wrong(pat):
    """Is one of the eight bytes no memory type?"""
    for i in range(8):
        kind = lshr(pat, 8 * i) & 0xFF
        if kind > 7 or kind == 2 or kind == 3:
            return True
    return False


@inner
def machine_address(m, view, address):
    """Where a physical address of the view lies in the machine, -1 where there is no memory."""
    return n1p_to_l0m(m, address) if view == L1_VIEW else address
