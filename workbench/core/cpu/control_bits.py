"""Bits of CR0, CR4 and EFER, and the rules for writing them (SDM vol. 3, 2.5; APM vol. 2, 3.1).

Not modelled: leaving long mode (clearing PG or PAE, or LME while paging, raises #GP).
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import BACKEND_SVM, BACKEND_VMX, ST_OK, Machine
from ..ledger import F_CR_WRITE
from ..mmu.generation import flush_tag, new_context
from ..structs import i64
from ..words import lshr
from .exceptions import raise_gp0

CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = 1, 2, 4, 8, 16, 32
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31
CR0_KNOWN = 0x3F | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG

CR4_PAE, CR4_PGE, CR4_PCE, CR4_UMIP, CR4_VMXE = 1 << 5, 1 << 7, 1 << 8, 1 << 11, 1 << 13
CR4_TSD, CR4_DE, CR4_PSE, CR4_PCIDE = 1 << 2, 1 << 3, 1 << 4, 1 << 17
CR4_SMEP, CR4_SMAP = 1 << 20, 1 << 21
CR4_KNOWN = 0x7FF | CR4_PCIDE | CR4_SMEP | CR4_SMAP
CR4_TLB = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP

EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE, EFER_SVME = 1, 1 << 8, 1 << 10, 1 << 11, 1 << 12
EFER_KNOWN = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE


@inner
def write_cr0(m, value):
    """CR0 by MOV, LMSW or CLTS: ST_OK or #GP."""
    c = m.cpu
    if lshr(value, 32) != 0:
        return raise_gp0(m)
    value = (value & CR0_KNOWN) | CR0_ET
    if value & CR0_PG == 0 or value & CR0_PE == 0:
        return raise_gp0(m)
    if value & CR0_NW and value & CR0_CD == 0:
        return raise_gp0(m)
    changed = value ^ c.cr0
    c.cr0 = value
    if changed & (CR0_PG | CR0_PE):
        flush_tag(m, m.hw.tag, F_CR_WRITE)
    elif changed & CR0_WP:
        new_context(m)
    return ST_OK


@inner
def _cr4_allowed(m):
    return CR4_KNOWN | (CR4_VMXE if m.hw.backend == BACKEND_VMX else 0)


@unit(Machine, i64)
def write_cr4(m, value):
    """CR4 by MOV: ST_OK or #GP."""
    c = m.cpu
    if value & ~_cr4_allowed(m) or value & CR4_PAE == 0:
        return raise_gp0(m)
    turns_on = value & ~c.cr4
    if turns_on & CR4_PCIDE and c.cr3 & 0xFFF:
        return raise_gp0(m)
    changed = value ^ c.cr4
    c.cr4 = value
    # SDM vol. 3, 4.10.4.1: PGE either way, PCIDE off and SMEP on flush everything of the tag
    if (
        changed & (CR4_PGE | CR4_PAE | CR4_PSE)
        or changed & ~value & CR4_PCIDE
        or turns_on & CR4_SMEP
    ):
        flush_tag(m, m.hw.tag, F_CR_WRITE)
    elif changed & CR4_TLB:
        new_context(m)
    return ST_OK


@inner
def write_efer(m, value):
    """EFER by WRMSR: ST_OK or #GP."""
    c = m.cpu
    known = EFER_KNOWN | (EFER_SVME if m.hw.backend == BACKEND_SVM else 0)
    if value & ~known or (value ^ c.efer) & EFER_LME:
        return raise_gp0(m)
    value = (value & ~EFER_LMA) | (c.efer & EFER_LMA)
    if (value ^ c.efer) & EFER_NXE:
        flush_tag(m, m.hw.tag, F_CR_WRITE)
    c.efer = value
    return ST_OK
