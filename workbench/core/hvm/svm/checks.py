"""What VMRUN demands of a VMCB: APM vol. 2, 15.5.1, 15.20 and 15.25.4 (svm_vmrun_checks.csv).

Each check has a number; ``BAD_<id>`` is that of a row of the table.  All checks are made, so that a
VMCB with several faults shows them all; the processor reports no more than exit code INVALID, but a
result names the first one.  Physical addresses have 52 bits in registers, 40 bits of memory
exist (CPUID 0x80000008).

Not modelled: what shadow stacks, AVIC and SEV demand; guests outside of 64-bit mode (check MODE).
"""

from __future__ import annotations

from ....arch import svm, vmcb
from ...cpu.cpuid import ADDRESS_BITS
from ...cpu.nmi import V_NMI_ENABLE
from ...jit import inner, unit
from ...layout import Machine
from ...structs import i64
from ...words import ld8, ld32, ld64, lshr, ult

EFER_LME, EFER_SVME = 1 << 8, 1 << 12
EFER_RESERVED = ~0xFD01
"""EFER bits that must be zero: all but SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE."""
CR0_PE, CR0_NW, CR0_CD, CR0_PG = 1, 1 << 29, 1 << 30, 1 << 31
CR4_PAE = 1 << 5
CR4_RESERVED = ~0x3707FF
CS_L, CS_L_D = 2, 6
"""Bits of the high attribute byte of CS: long mode, and with it the default size."""
PHYSICAL_LIMIT_BITS = 52
MEMORY_END = 1 << (ADDRESS_BITS & 0xFF)
MSRPM_BYTES, IOPM_BYTES = 0x2000, 0x3000
EVENT_VALID = 1 << svm.EVENTINJ_V
NP_ENABLE = 1
NMI_BIT = 1 << (svm.INTERCEPT_NMI & 31)
VALID = 0

globals().update({f"BAD_{name}": number for number, name in svm.VMRUN_CHECKS.items()})


def __getattr__(name: str) -> int:  # the constants made above, for type checkers
    raise AttributeError(name)


_BIT = {name: 1 << number for number, name in svm.VMRUN_CHECKS.items()}
F_SVME, F_CD_NW, F_CR0_HIGH, F_CR3, F_CR4, F_DR6, F_DR7, F_EFER = (
    _BIT[name] for name in ("SVME", "CD_NW", "CR0_HIGH", "CR3", "CR4", "DR6", "DR7", "EFER")
)
F_LME_PAE, F_LME_PE, F_CS_L_D, F_VMRUN_INTERCEPT, F_MSRPM, F_IOPM, F_ASID = (
    _BIT[name]
    for name in ("LME_PAE", "LME_PE", "CS_L_D", "VMRUN_INTERCEPT", "MSRPM", "IOPM", "ASID")
)
F_EVENT_TYPE, F_EVENT_VECTOR, F_NCR3, F_G_PAT, F_V_NMI, F_MODE = (
    _BIT[name] for name in ("EVENT_TYPE", "EVENT_VECTOR", "NCR3", "G_PAT", "V_NMI", "MODE")
)
REPLACED_BY_L0 = F_MSRPM | F_IOPM | F_ASID | F_NCR3 | F_V_NMI
"""Checks of what L0 puts values of its own for into vmcb02; Xen leaves them out."""


@inner
def _registers(h):
    efer = ld64(h + vmcb.EFER)
    cr0 = ld64(h + vmcb.CR0)
    cr4 = ld64(h + vmcb.CR4)
    found = 0
    if efer & EFER_SVME == 0:
        found |= F_SVME
    if cr0 & CR0_CD == 0 and cr0 & CR0_NW:
        found |= F_CD_NW
    if lshr(cr0, 32):
        found |= F_CR0_HIGH
    if lshr(ld64(h + vmcb.CR3), PHYSICAL_LIMIT_BITS):
        found |= F_CR3
    if cr4 & CR4_RESERVED:
        found |= F_CR4
    if lshr(ld64(h + vmcb.DR6), 32):
        found |= F_DR6
    if lshr(ld64(h + vmcb.DR7), 32):
        found |= F_DR7
    if efer & EFER_RESERVED:
        found |= F_EFER
    return found


@inner
def _mode(h):
    """Long mode's demands, and this machine's own."""
    cr0 = ld64(h + vmcb.CR0)
    if ld64(h + vmcb.EFER) & EFER_LME == 0 or cr0 & CR0_PG == 0:
        return F_MODE
    code = ld8(h + vmcb.CS + 3) & CS_L_D
    found = 0
    if cr0 & CR0_PE == 0:
        found |= F_LME_PE
    if ld64(h + vmcb.CR4) & CR4_PAE == 0:
        found |= F_LME_PAE
    elif code == CS_L_D:
        found |= F_CS_L_D
    if code != CS_L:
        found |= F_MODE
    return found


@inner
def _beyond_memory(base, size):
    start = base & ~0xFFF
    return ult(MEMORY_END - size, start)


@inner
def _controls(h):
    found = 0
    if ld32(h + vmcb.INTERCEPT_WORD4) & 1 == 0:
        found |= F_VMRUN_INTERCEPT
    if _beyond_memory(ld64(h + vmcb.MSRPM_BASE_PA), MSRPM_BYTES):
        found |= F_MSRPM
    if _beyond_memory(ld64(h + vmcb.IOPM_BASE_PA), IOPM_BYTES):
        found |= F_IOPM
    if ld32(h + vmcb.ASID) == 0:
        found |= F_ASID
    if ld32(h + vmcb.INT_CTL) & V_NMI_ENABLE and ld32(h + vmcb.INTERCEPT_WORD3) & NMI_BIT == 0:
        found |= F_V_NMI
    return found


@inner
def _event(event):
    """EVENTINJ: type 0, 2, 3 or 4; an exception's vector is below 32 and not 2 (15.20)."""
    if event & EVENT_VALID == 0:
        return 0
    kind = lshr(event, svm.EVENTINJ_TYPE) & 7
    if kind == 1 or kind > 4:
        return F_EVENT_TYPE
    vector = event & 0xFF
    return F_EVENT_VECTOR if kind == 3 and (vector > 31 or vector == 2) else 0


@inner
def _nested_paging(h):
    if ld64(h + vmcb.NESTED_CTL) & NP_ENABLE == 0:
        return 0
    found = 0
    if lshr(ld64(h + vmcb.NESTED_CR3), PHYSICAL_LIMIT_BITS):
        found |= F_NCR3
    # a type is 0, 1, 4, 5, 6 or 7 (7.8.2): bits 7:3 are zero, and bit 1 needs bit 2
    pat = ld64(h + vmcb.G_PAT)
    if pat & -0x0707070707070708 or pat & 0x0202020202020202 & ~(lshr(pat, 1)):
        found |= F_G_PAT
    return found


@unit(Machine, i64)
def svm_vmcb_faults(m, h):
    """All checks of VMRUN on the VMCB at host address ``h``: bit BAD_* of each that fails."""
    return (
        _registers(h)
        | _mode(h)
        | _controls(h)
        | _event(ld32(h + vmcb.EVENT_INJ))
        | (_nested_paging(h))
    )
