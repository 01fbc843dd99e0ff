"""Instructions that ask the processor or the platform: family SYSTEM."""

from __future__ import annotations

from ...arch import vmx
from ..hvm.insn import (
    I_CPUID,
    I_HLT,
    I_INVD,
    I_INVLPG,
    I_MONITOR,
    I_MWAIT,
    I_RDPMC,
    I_RDTSC,
    I_RDTSCP,
    I_WBINVD,
)
from ..hvm.intercepts import insn_exit, msr_exit
from ..hvm.vmx.vapic import NOT_VIRTUAL, vapic_rdmsr, vapic_wrmsr
from ..jit import inner, unit
from ..layout import (
    RAX,
    RBX,
    RCX,
    RDX,
    ST_BRANCH,
    ST_HALT,
    ST_OK,
    ST_VMEXIT,
    Machine,
    Uop,
)
from ..ledger import fold_steps
from ..mmu.access import fold_hits
from ..mmu.tlb import invlpg
from ..words import lshr
from .control_bits import CR4_PCE, CR4_TSD
from .cpuid import cpuid_leaf
from .exceptions import raise_gp0, raise_ud
from .io import exec_in_out
from .msr import is_canonical, msr_read, msr_write, read_tsc
from .operands import effective_address
from .ops import (
    CPUID,
    HLT,
    IN,
    INVD,
    INVLPG,
    MONITOR,
    MWAIT,
    OUT,
    RDMSR,
    RDPMC,
    RDTSC,
    RDTSCP,
    UNKNOWN,
    WBINVD,
    WRMSR,
)


@inner
def _split(c, value):
    """A 64-bit value to EDX:EAX."""
    c.gpr[RAX] = value & 0xFFFFFFFF
    c.gpr[RDX] = lshr(value, 32)


@unit(Machine, Uop)
def exec_cpuid(m, u):
    """CPUID."""
    c = m.cpu
    if m.hw.guest:
        if insn_exit(m, u, I_CPUID, 0):
            return ST_VMEXIT
    cpuid_leaf(m, c.gpr[RAX], c.gpr[RCX])
    c.gpr[RAX] = m.cpuid[0]
    c.gpr[RBX] = m.cpuid[1]
    c.gpr[RCX] = m.cpuid[2]
    c.gpr[RDX] = m.cpuid[3]
    return ST_OK


@inner
def _virtual_x2apic(m, number, write):
    """An MSR of the virtual APIC (VMX): outcome of the instruction, or NOT_VIRTUAL."""
    c = m.cpu
    if write:
        value = (c.gpr[RDX] << 32) | (c.gpr[RAX] & 0xFFFFFFFF)
        status = vapic_wrmsr(m, number, value)
        return ST_BRANCH if status == ST_OK else status
    status = vapic_rdmsr(m, number)
    if status == ST_OK:
        _split(c, m.result)
    return status


@unit(Machine, Uop)
def exec_msr(m, u):
    """RDMSR and WRMSR."""
    c = m.cpu
    if c.cpl != 0:
        return raise_gp0(m)
    number = c.gpr[RCX] & 0xFFFFFFFF
    write = 1 if u.op == WRMSR else 0
    if m.hw.guest:
        if msr_exit(m, u, number, write):
            return ST_VMEXIT
    fold_steps(m)
    fold_hits(m)
    if m.hw.proc2 & vmx.CPU2_VIRTUALIZE_X2APIC_MODE:
        status = _virtual_x2apic(m, number, write)
        if status != NOT_VIRTUAL:
            return status
    if write:
        status = msr_write(m, number, (c.gpr[RDX] << 32) | (c.gpr[RAX] & 0xFFFFFFFF))
        return ST_BRANCH if status == ST_OK else status
    status = msr_read(m, number)
    if status == ST_OK:
        _split(c, m.result)
    return status


@unit(Machine, Uop)
def exec_time(m, u):
    """RDTSC, RDTSCP, RDPMC (there are no counters: #GP)."""
    c = m.cpu
    op = u.op
    if op == RDPMC:
        if c.cpl != 0 and c.cr4 & CR4_PCE == 0:
            return raise_gp0(m)
    elif c.cpl != 0 and c.cr4 & CR4_TSD:
        return raise_gp0(m)
    if m.hw.guest:
        what = I_RDTSC
        if op == RDTSCP:
            what = I_RDTSCP
        elif op == RDPMC:
            what = I_RDPMC
        status = insn_exit(m, u, what, 0)
        if status:
            return status
    if op == RDPMC:
        return raise_gp0(m)
    fold_steps(m)
    fold_hits(m)
    _split(c, read_tsc(m))
    if op == RDTSCP:
        c.gpr[RCX] = c.tsc_aux & 0xFFFFFFFF
    return ST_OK


@unit(Machine, Uop)
def exec_unknown(m, u):
    """UD2 and what the machine does not know: #UD; the latter leaves its name."""
    if u.op == UNKNOWN:
        m.unknown_rip = m.cpu.rip - u.len
        m.unknown_bytes = u.fetch
        m.unknown_count += 1
    return raise_ud(m)


@unit(Machine, Uop)
def exec_privileged(m, u):
    """HLT, INVLPG, WBINVD, INVD, MONITOR, MWAIT (the last two do not exist: #UD)."""
    op = u.op
    if m.cpu.cpl != 0:
        return raise_ud(m) if op == MONITOR or op == MWAIT else raise_gp0(m)
    info = 0
    what = I_HLT
    if op == INVLPG:
        what = I_INVLPG
        info = effective_address(m, u)
    elif op == WBINVD:
        what = I_WBINVD
    elif op == INVD:
        what = I_INVD
    elif op == MONITOR:
        what = I_MONITOR
    elif op == MWAIT:
        what = I_MWAIT
    if m.hw.guest:
        if insn_exit(m, u, what, info):
            return ST_VMEXIT
    if op == HLT:
        return ST_HALT
    if op == INVLPG:
        if is_canonical(info):
            invlpg(m, info)
        return ST_BRANCH
    if op == MONITOR or op == MWAIT:
        return raise_ud(m)
    return ST_OK


@inner
def exec_system(m, u):
    """Family SYSTEM."""
    op = u.op
    if op == CPUID:
        return exec_cpuid(m, u)
    if op == RDMSR or op == WRMSR:
        return exec_msr(m, u)
    if op == IN or op == OUT:
        return exec_in_out(m, u)
    if op == RDTSC or op == RDTSCP or op == RDPMC:
        return exec_time(m, u)
    if op == HLT or op == INVLPG or op == WBINVD or op == INVD or op == MONITOR or op == MWAIT:
        return exec_privileged(m, u)
    return exec_unknown(m, u)
