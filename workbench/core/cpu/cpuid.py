"""CPUID of the simulated processor (SDM vol. 2, CPUID; APM vol. 3, appendix E).

Only what the machine executes is announced: no x87, no SSE.  Vendor and virtualization extension
follow the hardware back-end.  What a hypervisor changes in these answers is its own business.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import BACKEND_SVM, BACKEND_VMX, Machine
from ..structs import i64

INTEL = (0x756E6547, 0x6C65746E, 0x49656E69)
AMD = (0x68747541, 0x444D4163, 0x69746E65)
"""Vendor strings as EBX, ECX, EDX."""

SIGNATURE_INTEL = 0x000106A5
SIGNATURE_AMD = 0x00800F12
MAX_BASIC, MAX_EXTENDED = 7, 0x8000000A

# leaf 1: DE PSE TSC MSR PAE CX8 APIC SEP PGE CMOV PAT PSE36 CLFSH
FEATURES_EDX = 0x00000004 | 8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x800 | 0x2000 | 0x8000
FEATURES_EDX |= 0x10000 | 0x20000 | 0x80000
VMX_BIT, CX16_BIT, PCID_BIT, POPCNT_BIT = 1 << 5, 1 << 13, 1 << 17, 1 << 23
X2APIC_BIT, TSC_DEADLINE_BIT = 1 << 21, 1 << 24
SMEP_SMAP, INVPCID_BIT = (1 << 7) | (1 << 20), 1 << 10
# leaf 0x80000001: SYSCALL NX PAGE1GB RDTSCP LM; LAHF, SVM, ABM
EXTENDED_EDX = (1 << 11) | (1 << 20) | (1 << 26) | (1 << 27) | (1 << 29)
LAHF_BIT, SVM_BIT, ABM_BIT = 1, 1 << 2, 1 << 5
ADDRESS_BITS = 40 | (48 << 8)
SVM_NP, SVM_NRIPS, SVM_FLUSH_BY_ASID, SVM_DECODE_ASSISTS = 1, 1 << 3, 1 << 6, 1 << 7
SVM_VMCB_CLEAN = 1 << 5
SVM_PAUSE_FILTER = 1 << 10 | 1 << 12
"""With its threshold."""
SVM_VIRTUAL_VMLOAD_VMSAVE, SVM_VIRTUAL_GIF = 1 << 15, 1 << 16


@inner
def _answer(m, eax, ebx, ecx, edx):
    m.cpuid[0] = eax
    m.cpuid[1] = ebx
    m.cpuid[2] = ecx
    m.cpuid[3] = edx


@inner
def _vendor(m, eax):
    if m.hw.backend == BACKEND_SVM:
        _answer(m, eax, AMD[0], AMD[1], AMD[2])
    else:
        _answer(m, eax, INTEL[0], INTEL[1], INTEL[2])


@inner
def _svm_features(m):
    edx = SVM_NP
    if m.feat.nrip_save:
        edx |= SVM_NRIPS
    if m.feat.decode_assists:
        edx |= SVM_DECODE_ASSISTS
    if m.feat.vmcb_clean_bits:
        edx |= SVM_VMCB_CLEAN
    if m.feat.pause_filter:
        edx |= SVM_PAUSE_FILTER
    if m.feat.flush_by_asid:
        edx |= SVM_FLUSH_BY_ASID
    if m.feat.virtual_vmload_vmsave:
        edx |= SVM_VIRTUAL_VMLOAD_VMSAVE
    if m.feat.virtual_gif:
        edx |= SVM_VIRTUAL_GIF
    return edx


@unit(Machine, i64, i64)
def cpuid_leaf(m, leaf, subleaf):
    """Answer of one leaf, written to ``m.cpuid`` (EAX, EBX, ECX, EDX)."""
    leaf &= 0xFFFFFFFF
    svm = m.hw.backend == BACKEND_SVM
    _answer(m, 0, 0, 0, 0)
    if leaf == 0:
        _vendor(m, MAX_BASIC)
    elif leaf == 1:
        ecx = CX16_BIT | PCID_BIT | POPCNT_BIT | X2APIC_BIT | TSC_DEADLINE_BIT
        if m.hw.backend == BACKEND_VMX:
            ecx |= VMX_BIT
        _answer(m, SIGNATURE_AMD if svm else SIGNATURE_INTEL, 0x10800, ecx, FEATURES_EDX)
    elif leaf == 7:
        if subleaf & 0xFFFFFFFF == 0:
            _answer(m, 0, SMEP_SMAP | INVPCID_BIT, 0, 0)
    elif leaf == 0x80000000:
        _vendor(m, MAX_EXTENDED)
    elif leaf == 0x80000001:
        _answer(m, 0, 0, LAHF_BIT | ABM_BIT | (SVM_BIT if svm else 0), EXTENDED_EDX)
    elif leaf == 0x80000008:
        _answer(m, ADDRESS_BITS, 0, 0, 0)
    elif leaf == 0x8000000A and svm:
        _answer(m, 1, m.feat.max_tag + 1, 0, _svm_features(m))
    return 0
