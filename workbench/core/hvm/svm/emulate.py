"""L0 emulates for a guest: CPUID, MSRs, port I/O, control and debug registers (Xen, svm.c, hvm.c).

The guest is L1, or L2 for an exit that L1 did not ask for.  Registers are in the current VMCB (RAX,
RSP, RIP, control registers) and in ``m.cpu`` (the rest).
"""

from __future__ import annotations

from ....arch import deviations, msr, vmcb
from ...cpu.cpuid import INVPCID_BIT, cpuid_leaf
from ...cpu.devices import port_in, port_out
from ...cpu.msr import msr_read, msr_write
from ...jit import inner, unit
from ...layout import RBX, RCX, RDI, RDX, RSI, ST_FAULT, ST_OK, ST_VMEXIT, Machine
from ...ledger import (
    E_L0_CR_EMULATED,
    E_L0_DEVICE_EMULATED,
    E_L0_INSTRUCTION_EMULATED,
    E_L0_MSR_EMULATED,
    F_CR_WRITE,
    count,
)
from ...mmu.access import load, store
from ...structs import i64
from ...words import ld64, lshr, st32, st64
from ..nested_state import hsave_pa, is_n2_guest, set_hsave_pa
from ..shadow.svm import svm_emulate_cr3
from ..tags import N1, N2, tags_renew
from .checks import CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, CR4_RESERVED
from .clean import CLEAN_CR, CLEAN_INTERCEPTS, CLEAN_LBR, CLEAN_NP, touch
from .common import (
    EFER_SVME,
    VM_CR_LOCK,
    VM_CR_SVMDIS,
    inject_gp,
    inject_ud,
    skip_instruction,
    svm_inject,
    svm_set_efer,
)
from .current import current_vmcb, read_gpr, write_gpr
from .decode import CLTS, GROUP_7, LMSW, MOV_FROM_CR, MOV_TO_CR, SMSW, l0_decode
from .offer import svm_offer_to_l1

LOW32 = 0xFFFFFFFF
CPUID_SVM = 0x8000000A
EDX_VMCB_CLEAN, EDX_V_NMI = 1 << 5, 1 << 25
EDX_NESTED_PAGING = 1
ECX_PCID = 1 << 17
TSC_RATIO_ONE = 1 << 32
VM_CR_KNOWN = 0x1F
"""DPD, R_INIT, DIS_A20M, LOCK, SVMDIS."""
IOIO_IN, IOIO_STRING, IOIO_REP = 1, 4, 8
CR0_TS, CR0_ET = 1 << 3, 1 << 4
CR4_PCIDE = 1 << 17
CR4_FLUSHING = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 17 | 1 << 20
"""CR4 bits whose change drops translations: PSE, PAE, PGE, PCIDE, SMEP."""


# ---------------------------------------------------------------- CPUID


@inner
def _adjust_svm_leaves(m, leaf):
    """What L0 adds to the processor's answer, as it honours clean bits of vmcb12, and takes away."""
    if leaf == CPUID_SVM:
        if m.feat.vmcb_clean_bits:
            m.cpuid[3] |= EDX_VMCB_CLEAN
        if m.feat.virtual_nmi:
            m.cpuid[3] |= EDX_V_NMI
        if m.sh.active:
            m.cpuid[3] &= ~EDX_NESTED_PAGING
        svm_offer_to_l1(m)
    elif leaf == 1 and m.sh.active:
        m.cpuid[2] &= ~ECX_PCID
    elif leaf == 7 and m.sh.active:
        m.cpuid[1] &= ~INVPCID_BIT


@unit(Machine)
def svm_emulate_cpuid(m):
    """CPUID."""
    h = current_vmcb(m)
    leaf = ld64(h + vmcb.RAX) & LOW32
    cpuid_leaf(m, leaf, m.cpu.gpr[RCX] & LOW32)
    _adjust_svm_leaves(m, leaf)
    st64(h + vmcb.RAX, m.cpuid[0] & LOW32)
    m.cpu.gpr[RBX] = m.cpuid[1] & LOW32
    m.cpu.gpr[RCX] = m.cpuid[2] & LOW32
    m.cpu.gpr[RDX] = m.cpuid[3] & LOW32
    return skip_instruction(m, h)


# ---------------------------------------------------------------- MSRs


@inner
def _read_msr(m, number):
    """Value in ``m.result``; ST_FAULT when the MSR does not exist."""
    if number == msr.EFER:
        m.result = m.nv.guest_efer
    elif number == msr.VM_CR:
        m.result = m.nv.vm_cr
    elif number == msr.VM_HSAVE_PA:
        m.result = hsave_pa(m)
    elif number == msr.TSC_RATIO:
        m.result = TSC_RATIO_ONE
    else:
        return msr_read(m, number)
    return ST_OK


@inner
def _write_vm_cr(m, value):
    """VM_CR: once LOCK is set, it and SVMDIS stay; SVM in use cannot be disabled (15.30.1)."""
    if m.feat.deviations & deviations.DEV_VM_CR_READ_ONLY:
        return ST_OK
    if value & ~VM_CR_KNOWN:
        return ST_FAULT
    if m.nv.vm_cr & VM_CR_LOCK:
        value = (value & ~(VM_CR_LOCK | VM_CR_SVMDIS)) | (m.nv.vm_cr & (VM_CR_LOCK | VM_CR_SVMDIS))
    if value & VM_CR_SVMDIS and m.nv.guest_efer & EFER_SVME:
        return ST_FAULT
    m.nv.vm_cr = value
    return ST_OK


@inner
def _write_msr(m, h, number, value):
    """ST_FAULT when the write deserves #GP."""
    if number == msr.EFER:
        return ST_FAULT if svm_set_efer(m, value) else ST_OK
    if number == msr.VM_CR:
        return _write_vm_cr(m, value)
    if number == msr.VM_HSAVE_PA:
        if value & 0xFFF or lshr(value, 52):
            return ST_FAULT
        set_hsave_pa(m, value)
        return ST_OK
    if number == msr.TSC_RATIO:
        return ST_OK if value == TSC_RATIO_ONE else ST_FAULT
    status = msr_write(m, number, value)
    # these live in the VMCB while L0 works
    st64(h + vmcb.G_PAT, m.cpu.pat)
    st64(h + vmcb.DBGCTL, m.cpu.debugctl)
    touch(h, CLEAN_NP | CLEAN_LBR)
    return status


@unit(Machine)
def svm_emulate_msr(m):
    """RDMSR (EXITINFO1 = 0) and WRMSR (1)."""
    h = current_vmcb(m)
    number = m.cpu.gpr[RCX] & LOW32
    if m.exit.info1 & 1:
        value = (ld64(h + vmcb.RAX) & LOW32) | (m.cpu.gpr[RDX] << 32)
        if _write_msr(m, h, number, value) != ST_OK:
            return inject_gp(m)
    else:
        if _read_msr(m, number) != ST_OK:
            return inject_gp(m)
        st64(h + vmcb.RAX, m.result & LOW32)
        m.cpu.gpr[RDX] = lshr(m.result, 32)
    count(m, E_L0_MSR_EMULATED, 1)
    return skip_instruction(m, h)


# ---------------------------------------------------------------- port I/O


@inner
def _merge_rax(old, value, lg):
    """RAX after IN of ``1 << lg`` bytes."""
    if lg == 2:
        return value & LOW32
    mask = (1 << (8 << lg)) - 1
    return (old & ~mask) | (value & mask)


@inner
def _string_step(m, info1, lg, port):
    """One element of INS or OUTS; returns ST_OK, ST_STOP, or ``m.pending`` of a failed access."""
    c = m.cpu
    size = 1 << lg
    step = -size if c.sysflags & 0x400 else size
    segment = lshr(info1, 10) & 7
    base = c.seg_base[segment] if segment == 4 or segment == 5 else 0
    if info1 & IOIO_IN:
        value = port_in(m, port, lg)
        status = store(m, c.gpr[RDI], lg, value)
        if status == ST_OK:
            c.gpr[RDI] += step
        return status
    value = load(m, base + c.gpr[RSI], lg)
    if m.pending:
        return m.pending
    c.gpr[RSI] += step
    return port_out(m, port, lg, value)


@unit(Machine, i64, i64, i64)
def svm_emulate_string_io(m, info1, lg, port):
    """INS or OUTS: one element per exit; a repeated one exits again until RCX is 0.

    A page fault of the guest's is injected; on a nested page fault ST_VMEXIT tells the caller that
    ``m.exit`` now holds that fault.
    """
    h = current_vmcb(m)
    repeated = info1 & IOIO_REP
    if repeated and m.cpu.gpr[RCX] == 0:
        return skip_instruction(m, h)
    status = _string_step(m, info1, lg, port)
    m.pending = 0
    if status == ST_FAULT:
        return svm_inject(m, m.exc.vector, m.exc.error, m.exc.has_error)
    if status == ST_VMEXIT:
        return status
    if repeated:
        m.cpu.gpr[RCX] -= 1
    if repeated == 0 or m.cpu.gpr[RCX] == 0:
        skip_instruction(m, h)
    else:
        count(m, E_L0_INSTRUCTION_EMULATED, 1)
    return status


@unit(Machine)
def svm_emulate_io(m):
    """IN, OUT, INS, OUTS through the machine's devices. May return ST_STOP."""
    h = current_vmcb(m)
    info1 = m.exit.info1
    port = lshr(info1, 16) & 0xFFFF
    count(m, E_L0_DEVICE_EMULATED, 1)
    lg = 0 if info1 & 16 else 1 if info1 & 32 else 2
    if info1 & IOIO_STRING:
        return svm_emulate_string_io(m, info1, lg, port)
    rax = ld64(h + vmcb.RAX)
    status = ST_OK
    if info1 & IOIO_IN:
        st64(h + vmcb.RAX, _merge_rax(rax, port_in(m, port, lg), lg))
    else:
        status = port_out(m, port, lg, rax & ((1 << (8 << lg)) - 1))
    skip_instruction(m, h)
    return status


# ---------------------------------------------------------------- control and debug registers


@inner
def _current_tags(m):
    return N2 if is_n2_guest(m) else N1


@inner
def _set_cr0(m, h, value):
    """ST_FAULT for #GP (hvm_set_cr0). Paging stays on: only 64-bit mode has a model."""
    value |= CR0_ET
    if lshr(value, 32) or (value & CR0_NW and value & CR0_CD == 0):
        return ST_FAULT
    if value & CR0_PE == 0 or value & CR0_PG == 0:
        return ST_FAULT
    st64(h + vmcb.CR0, value)
    return ST_OK


@inner
def _set_cr4(m, h, value):
    """ST_FAULT for #GP (hvm_set_cr4)."""
    old = ld64(h + vmcb.CR4)
    if value & CR4_RESERVED or value & CR4_PAE == 0:
        return ST_FAULT
    if value & CR4_PCIDE and m.sh.active:
        return ST_FAULT
    if value & ~old & CR4_PCIDE and ld64(h + vmcb.CR3) & 0xFFF:
        return ST_FAULT
    st64(h + vmcb.CR4, value)
    if (value ^ old) & CR4_FLUSHING:
        tags_renew(m, _current_tags(m), F_CR_WRITE)
    return ST_OK


@inner
def _write_cr(m, h, cr, value):
    status = _set_cr0(m, h, value) if cr == 0 else _set_cr4(m, h, value)
    touch(h, CLEAN_CR)
    return skip_instruction(m, h) if status == ST_OK else inject_gp(m)


@inner
def _mov_cr(m, h, cr, is_write, register):
    if is_write:
        return _write_cr(m, h, cr, read_gpr(m, h, register))
    write_gpr(m, h, register, ld64(h + vmcb.CR0) if cr == 0 else ld64(h + vmcb.CR4))
    return skip_instruction(m, h)


@inner
def _memory_fault(m, status):
    """L0's access to an operand faulted: the guest's fault, or ST_VMEXIT for a nested one."""
    m.pending = 0
    if status == ST_FAULT:
        return svm_inject(m, m.exc.vector, m.exc.error, m.exc.has_error)
    return status


@inner
def _lmsw(m, h):
    """LMSW sets PE, MP, EM, TS; it cannot clear PE."""
    word = read_gpr(m, h, m.insn.rm)
    if m.insn.is_memory:
        word = load(m, m.insn.address, 1)
        if m.pending:
            return _memory_fault(m, m.pending)
    cr0 = ld64(h + vmcb.CR0)
    return _write_cr(m, h, 0, (cr0 & ~0xF) | (word & 0xF) | (cr0 & CR0_PE))


@inner
def _smsw(m, h):
    cr0 = ld64(h + vmcb.CR0)
    if m.insn.is_memory:
        status = store(m, m.insn.address, 1, cr0)
        if status:
            return _memory_fault(m, status)
    else:
        value = cr0 if m.insn.lg == 3 else cr0 & LOW32
        if m.insn.lg == 1:
            value = (read_gpr(m, h, m.insn.rm) & ~0xFFFF) | (cr0 & 0xFFFF)
        write_gpr(m, h, m.insn.rm, value)
    return skip_instruction(m, h)


@unit(Machine)
def svm_emulate_decoded_cr(m):
    """An access to CR0 or CR4 of which the exit does not say everything: L0 reads the instruction."""
    h = current_vmcb(m)
    if l0_decode(m) == 0:
        return inject_gp(m)
    x = m.insn
    if x.opcode == MOV_FROM_CR or x.opcode == MOV_TO_CR:
        return _mov_cr(m, h, x.reg, x.opcode == MOV_TO_CR, x.rm)
    if x.opcode == CLTS:
        return _write_cr(m, h, 0, ld64(h + vmcb.CR0) & ~CR0_TS)
    if x.opcode == GROUP_7 and x.reg & 7 == LMSW:
        return _lmsw(m, h)
    if x.opcode == GROUP_7 and x.reg & 7 == SMSW:
        return _smsw(m, h)
    return inject_gp(m)


@unit(Machine)
def svm_emulate_cr(m):
    """MOV to and from CR0 and CR4, CLTS, LMSW, SMSW; Xen intercepts no other that exists.

    Decode assists name the register of a MOV.  May return ST_VMEXIT: see :func:`svm_handle`.
    """
    code = m.exit.code
    cr = 0 if code >= 32 else code & 15
    if cr == 3 and m.sh.active:
        return svm_emulate_cr3(m, current_vmcb(m), code >= 16)
    if cr != 0 and cr != 4:
        return inject_ud(m)
    count(m, E_L0_CR_EMULATED, 1)
    if m.exit.info1 < 0:
        return _mov_cr(m, current_vmcb(m), cr, code >= 16, m.exit.info1)
    return svm_emulate_decoded_cr(m)


@unit(Machine)
def svm_emulate_dr(m):
    """First use of a debug register: Xen loads the guest's and stops intercepting them."""
    h = current_vmcb(m)
    st32(h + vmcb.INTERCEPT_WORD1, 0)
    touch(h, CLEAN_INTERCEPTS)
    return ST_OK
