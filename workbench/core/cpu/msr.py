"""The processor's own MSRs.

Not here: the MSRs of SVM and VMX, which the virtualization model answers for (core/hvm); on the
bare machine they raise #GP.  Machine checks, MTRRs and performance counters do not exist, except
that reading the usual MTRR and microcode registers gives 0.
"""

from __future__ import annotations

from ...arch import msr
from ..jit import inner, unit
from ..layout import FS, GS, ST_OK, Machine
from ..structs import i64
from ..words import lshr
from .apic import read_tsc
from .apic_registers import apic_base_write, apic_read, apic_write
from .control_bits import write_efer
from .exceptions import raise_gp0

MISC_ENABLE_FAST_STRINGS = 1
APIC_BASE_DEFAULT = 0xFEE00900


@inner
def is_canonical(va):
    """48-bit linear addresses: bits 63..47 all equal."""
    return (va << 16) >> 16 == va


@inner
def _answer(m, value):
    m.result = value
    return ST_OK


@inner
def _read_misc(m, number):
    c = m.cpu
    if number == msr.IA32_SYSENTER_CS:
        return _answer(m, c.sysenter_cs)
    if number == msr.IA32_SYSENTER_ESP:
        return _answer(m, c.sysenter_esp)
    if number == msr.IA32_SYSENTER_EIP:
        return _answer(m, c.sysenter_eip)
    if number == msr.IA32_PAT:
        return _answer(m, c.pat)
    if number == msr.IA32_APIC_BASE:
        return _answer(m, c.apic_base)
    if number == msr.IA32_DEBUGCTL:
        return _answer(m, c.debugctl)
    if number == msr.IA32_MISC_ENABLE:
        return _answer(m, MISC_ENABLE_FAST_STRINGS)
    if number == msr.IA32_TSC_ADJUST:
        return _answer(m, c.tsc_adjust)
    if number == msr.IA32_TSC_DEADLINE or msr.X2APIC_FIRST <= number <= msr.X2APIC_LAST:
        return apic_read(m, number)
    if number == msr.IA32_MTRRCAP or number == msr.IA32_MTRR_DEF_TYPE:
        return _answer(m, 0)
    return raise_gp0(m)


@unit(Machine, i64)
def msr_read(m, number):
    """RDMSR of the processor's own MSR: ST_OK with ``m.result``, or #GP pending."""
    c = m.cpu
    number &= 0xFFFFFFFF
    if number == msr.EFER:
        return _answer(m, c.efer)
    if number == msr.STAR:
        return _answer(m, c.star)
    if number == msr.LSTAR:
        return _answer(m, c.lstar)
    if number == msr.CSTAR:
        return _answer(m, c.cstar)
    if number == msr.SFMASK:
        return _answer(m, c.sfmask)
    if number == msr.FS_BASE:
        return _answer(m, c.seg_base[FS])
    if number == msr.GS_BASE:
        return _answer(m, c.seg_base[GS])
    if number == msr.KERNEL_GS_BASE:
        return _answer(m, c.kernel_gs_base)
    if number == msr.TSC_AUX:
        return _answer(m, c.tsc_aux)
    if number == msr.IA32_TSC:
        return _answer(m, read_tsc(m))
    return _read_misc(m, number)


@inner
def _valid_pat(value):
    for i in range(8):
        kind = lshr(value, 8 * i) & 0xFF
        if kind > 7 or kind == 2 or kind == 3:
            return False
    return True


@inner
def _write_misc(m, number, value):
    c = m.cpu
    if number == msr.IA32_SYSENTER_CS:
        c.sysenter_cs = value & 0xFFFFFFFF
    elif number == msr.IA32_SYSENTER_ESP and is_canonical(value):
        c.sysenter_esp = value
    elif number == msr.IA32_SYSENTER_EIP and is_canonical(value):
        c.sysenter_eip = value
    elif number == msr.IA32_PAT and _valid_pat(value):
        c.pat = value
    elif number == msr.IA32_APIC_BASE:
        return apic_base_write(m, value)
    elif number == msr.IA32_TSC_DEADLINE or msr.X2APIC_FIRST <= number <= msr.X2APIC_LAST:
        return apic_write(m, number, value)
    elif number == msr.IA32_DEBUGCTL and value & ~3 == 0:
        c.debugctl = value
    elif number == msr.IA32_TSC:
        c.tsc_adjust += value - read_tsc(m)
    elif number == msr.IA32_TSC_ADJUST:
        c.tsc_adjust = value
    elif number == msr.IA32_MISC_ENABLE or number == msr.IA32_MTRR_DEF_TYPE:
        return ST_OK
    else:
        return raise_gp0(m)
    return ST_OK


@unit(Machine, i64, i64)
def msr_write(m, number, value):
    """WRMSR of the processor's own MSR: ST_OK, or #GP pending."""
    c = m.cpu
    number &= 0xFFFFFFFF
    if number == msr.EFER:
        return write_efer(m, value)
    if number == msr.STAR:
        c.star = value
    elif number == msr.SFMASK:
        c.sfmask = value & 0xFFFFFFFF
    elif number == msr.TSC_AUX:
        c.tsc_aux = value & 0xFFFFFFFF
    elif number == msr.LSTAR and is_canonical(value):
        c.lstar = value
    elif number == msr.CSTAR and is_canonical(value):
        c.cstar = value
    elif number == msr.FS_BASE and is_canonical(value):
        c.seg_base[FS] = value
    elif number == msr.GS_BASE and is_canonical(value):
        c.seg_base[GS] = value
    elif number == msr.KERNEL_GS_BASE and is_canonical(value):
        c.kernel_gs_base = value
    else:
        return _write_misc(m, number, value)
    return ST_OK
