"""What L0 does itself for a guest of VMX: CPUID, MSRs, I/O, control registers, nested faults.

The same code serves L1, and L2 where L0 keeps the exit; the guest's state is in the VMCS in use.
"""

from __future__ import annotations

from ....arch import deviations, msr, vmcs, vmx
from ...cpu.control_bits import write_cr0, write_cr4
from ...cpu.cpuid import INVPCID_BIT, cpuid_leaf
from ...cpu.debug import note_debug_exception
from ...cpu.devices import port_in, port_out
from ...cpu.exceptions import DB, GP
from ...cpu.msr import msr_read, msr_write
from ...cpu.operands import read_memory, write_memory
from ...jit import inner, unit
from ...layout import (
    FATAL_N1P_UNMAPPED,
    FATAL_UNHANDLED_EXIT,
    FS,
    GS,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    ST_OK,
    ST_VMEXIT,
    Machine,
)
from ...ledger import (
    E_L0_CR_EMULATED,
    E_L0_DEVICE_EMULATED,
    E_L0_MSR_EMULATED,
    E_L0_MSR_SWITCHED,
    P_EMULATION,
    count,
)
from ...structs import i64
from ...words import lshr
from ..memory_map import VMCX01_MA
from ..mmio import vmx_apic_mmio
from ..nested_fault import NP_HANDLED, NP_INJECT, NP_LOG_FULL, NP_MISCONFIG, NP_MMIO, np2m_fault
from ..nested_state import hap_enabled, is_n2_guest, vmxon
from ..p2m import p2m_resolve
from ..shadow.vmx import vmx_emulate_cr3, vmx_shadow_fault
from ..virtual_exit import record_vmx_exit
from .caps import is_vmx_msr, vmx_capability
from .common import complete_instruction, fatal, inject_exception, inject_pending, set_gpr
from .controls import CR0_FIXED0, CR4_FIXED0
from .intercepts import CR_CLTS, CR_FROM, CR_LMSW
from .merge import merged_shadow
from .msr_lists import guests_msrs_in, guests_msrs_out, is_switched
from .operands import address_mask
from .reinject import reinject
from .vmcs import get, get_vvmcs, own_base, put, set_vvmcs, vmread, vmwrite, vvmcs_base

PAGE_FAULT = 14 | vmx.INTR_TYPE_HW_EXCEPTION << vmx.INTR_TYPE
DEBUG_EXCEPTION = DB | vmx.INTR_TYPE_HW_EXCEPTION << vmx.INTR_TYPE
ECX_PCID = 1 << 17
CR0_NE = 0x20
CR0_TS = 8
CR4_VMXE, CR4_PCIDE = 0x2000, 1 << 17
EVENT_VALID = 1 << vmx.INTR_VALID
IO_IN, IO_STRING, IO_REP = 8, 0x10, 0x20
RFLAGS_DF = 1 << 10
QUALIFICATION_ACCESS, QUALIFICATION_RIGHTS = 7, 0x3F
QUALIFICATION_UNBLOCKED = 1 << vmx.QUAL_NMI_UNBLOCK
ACCESS_WRITE, ACCESS_FETCH = 2, 4
"""Bits of the EPT-violation qualification (ept_violation_qual.csv)."""


# ---------------------------------------------------------------- CPUID and MSRs


@inner
def emulate_cpuid(m):
    """CPUID with what L0 shows of the processor."""
    c = m.cpu
    leaf = c.gpr[RAX] & 0xFFFF_FFFF
    cpuid_leaf(m, leaf, c.gpr[RCX])
    c.gpr[RAX] = m.cpuid[0]
    c.gpr[RBX] = m.cpuid[1]
    c.gpr[RCX] = m.cpuid[2]
    if m.sh.active and leaf == 1:
        c.gpr[RCX] &= ~ECX_PCID
    elif m.sh.active and leaf == 7:
        c.gpr[RBX] &= ~INVPCID_BIT
    c.gpr[RDX] = m.cpuid[3]
    return complete_instruction(m)


@inner
def _split(m, value):
    m.cpu.gpr[RAX] = value & 0xFFFF_FFFF
    m.cpu.gpr[RDX] = lshr(value, 32)


@inner
def _store_msr_state(m, number):
    """Put the MSRs that are VMCS fields where the next entry loads them from."""
    c = m.cpu
    base = own_base(m, m.hw.vmcx)
    put(base, vmcs.SLOT_GUEST_IA32_EFER, c.efer)
    put(base, vmcs.SLOT_GUEST_IA32_PAT, c.pat)
    put(base, vmcs.SLOT_GUEST_IA32_DEBUGCTL, c.debugctl)
    put(base, vmcs.SLOT_GUEST_SYSENTER_CS, c.sysenter_cs)
    put(base, vmcs.SLOT_GUEST_SYSENTER_ESP, c.sysenter_esp)
    put(base, vmcs.SLOT_GUEST_SYSENTER_EIP, c.sysenter_eip)
    put(base, vmcs.SLOT_GUEST_FS_BASE, c.seg_base[FS])
    vmwrite(m, vmcs.SLOT_GUEST_GS_BASE, c.seg_base[GS])
    copied = m.feat.deviations & deviations.DEV_SAVES_IGNORE_EXIT_CONTROLS
    if copied and number == msr.EFER and is_n2_guest(m):
        set_vvmcs(m, vvmcs_base(m), vmcs.SLOT_GUEST_IA32_EFER, c.efer, P_EMULATION)


@unit(Machine)
def emulate_rdmsr(m):
    """RDMSR: VMX MSRs from L0's filter, the others from the processor."""
    number = m.cpu.gpr[RCX] & 0xFFFF_FFFF
    if is_vmx_msr(number):
        if vmx_capability(m, number) != ST_OK:
            return inject_exception(m, GP, 0, 1)
    else:
        if is_switched(number):
            guests_msrs_in(m)
            count(m, E_L0_MSR_SWITCHED, 1)
        if msr_read(m, number) != ST_OK:
            return inject_pending(m)
    _split(m, m.result)
    count(m, E_L0_MSR_EMULATED, 1)
    return complete_instruction(m)


@unit(Machine)
def emulate_wrmsr(m):
    """WRMSR; the VMX MSRs cannot be written (feature control is locked)."""
    number = m.cpu.gpr[RCX] & 0xFFFF_FFFF
    if is_vmx_msr(number):
        return inject_exception(m, GP, 0, 1)
    value = (m.cpu.gpr[RDX] << 32) | (m.cpu.gpr[RAX] & 0xFFFF_FFFF)
    if is_switched(number):
        guests_msrs_in(m)
        count(m, E_L0_MSR_SWITCHED, 1)
    if msr_write(m, number, value) != ST_OK:
        return inject_pending(m)
    if is_switched(number):
        guests_msrs_out(m)
    _store_msr_state(m, number)
    count(m, E_L0_MSR_EMULATED, 1)
    return complete_instruction(m)


# ---------------------------------------------------------------- nested page faults of L2

RESOLVED = -1
"""Outcome of :func:`nested_fault_of_l2`: L2 executes the instruction again."""


@inner
def _inject_violation(m, qualification):
    """L1's own table forbids the access: an EPT violation for L1."""
    e = m.exit
    e.code = vmx.EXIT_EPT_VIOLATION
    e.info1 = (
        (qualification & ~QUALIFICATION_RIGHTS)
        | (qualification & QUALIFICATION_ACCESS)
        | ((m.np_rights & 7) << 3)
    )
    record_vmx_exit(m)
    return ST_OK


@unit(Machine, i64, i64)
def nested_fault_of_l2(m, gpa, qualification):
    """By way of the nested p2m: RESOLVED, or an EPT violation or misconfiguration for L1."""
    access = 1 if qualification & ACCESS_WRITE else 0
    if qualification & ACCESS_FETCH:
        access |= 2
    outcome = np2m_fault(m, gpa, access)
    if outcome == NP_INJECT:
        return _inject_violation(m, qualification)
    if outcome == NP_MISCONFIG:
        m.exit.code = vmx.EXIT_EPT_MISCONFIG
        m.exit.info1 = 0
        record_vmx_exit(m)
        return ST_OK
    if outcome == NP_LOG_FULL:
        m.exit.code = vmx.EXIT_PML_FULL
        m.exit.info1 = qualification & QUALIFICATION_UNBLOCKED
        record_vmx_exit(m)
        return ST_OK
    if outcome == NP_HANDLED:
        return RESOLVED
    if outcome == NP_MMIO and vmx_apic_mmio(m, m.device):
        return ST_OK
    return fatal(m, FATAL_N1P_UNMAPPED, gpa)


# ---------------------------------------------------------------- I/O


@inner
def _merge_rax(m, value, lg):
    """The result of IN: AL, AX, or EAX with the upper half cleared."""
    old = m.cpu.gpr[RAX]
    if lg == 0:
        m.cpu.gpr[RAX] = (old & ~0xFF) | (value & 0xFF)
    elif lg == 1:
        m.cpu.gpr[RAX] = (old & ~0xFFFF) | (value & 0xFFFF)
    else:
        m.cpu.gpr[RAX] = value & 0xFFFF_FFFF


@inner
def _advance_string(m, register, lg, rep):
    """One iteration of INS or OUTS is done; ST_OK to step over it, 1 to repeat it."""
    step = 1 << lg
    if vmread(m, vmcs.SLOT_GUEST_RFLAGS) & RFLAGS_DF:
        step = -step
    mask = address_mask(vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO))
    m.cpu.gpr[register] = (m.cpu.gpr[register] + step) & mask
    if rep:
        m.cpu.gpr[RCX] = (m.cpu.gpr[RCX] - 1) & mask
        return 1 if m.cpu.gpr[RCX] else ST_OK
    return ST_OK


@inner
def access_fault(m):
    """What L0 emulates needs memory that the guest cannot access: its fault, or a nested one."""
    status = m.pending
    m.pending = 0
    if status == ST_VMEXIT:
        if is_n2_guest(m) and hap_enabled(m):
            # where L1's exit information comes from, as if the processor had found the fault
            vmwrite(m, vmcs.SLOT_GUEST_PHYSICAL_ADDRESS, m.exit.info2)
            vmwrite(m, vmcs.SLOT_GUEST_LINEAR_ADDRESS, m.exit.linear)
            status = nested_fault_of_l2(m, m.exit.info2, m.exit.info1)
            return ST_OK if status == RESOLVED else status
        if p2m_resolve(m, m.exit.info2, m.exit.info1 & ACCESS_WRITE):
            return ST_OK  # the guest executes the instruction again
        return fatal(m, FATAL_N1P_UNMAPPED, m.exit.info2)
    return inject_pending(m)


@inner
def _string_io(m, port, lg, is_in, rep):
    """INS or OUTS, one iteration per exit, at the linear address that the processor saved."""
    outcome = ST_OK
    va = vmread(m, vmcs.SLOT_GUEST_LINEAR_ADDRESS)
    if is_in:
        if write_memory(m, va, lg, port_in(m, port, lg)):
            return access_fault(m)
        again = _advance_string(m, RDI, lg, rep)
    else:
        value = read_memory(m, va, lg)
        if m.pending:
            return access_fault(m)
        outcome = port_out(m, port, lg, value)
        again = _advance_string(m, RSI, lg, rep)
    if again == 0:
        complete_instruction(m)
    return outcome


@unit(Machine)
def emulate_io(m):
    """IN, OUT, INS, OUTS on L0's devices."""
    qualification = vmread(m, vmcs.SLOT_EXIT_QUALIFICATION)
    port = lshr(qualification, 16) & 0xFFFF
    count(m, E_L0_DEVICE_EMULATED, 1)
    size = (qualification & 7) + 1
    lg = 0 if size == 1 else (1 if size == 2 else 2)
    is_in = qualification & IO_IN
    if qualification & IO_STRING:
        return _string_io(m, port, lg, is_in, qualification & IO_REP)
    if is_in:
        _merge_rax(m, port_in(m, port, lg), lg)
        return complete_instruction(m)
    outcome = port_out(m, port, lg, m.cpu.gpr[RAX] & ((1 << (8 << lg)) - 1))
    complete_instruction(m)
    return outcome


# ---------------------------------------------------------------- control and debug registers


@inner
def _commit_cr(m, real_slot, shadow_slot, mask_slot, real, seen):
    """A control register that L0 changed for the guest.

    ``seen`` is the guest's view, ``real`` what the processor runs with.  For L2 the register in
    vmcs12 changes too, except in bits that L1 owns (Xen, nvmx CR handling).
    """
    vmwrite(m, real_slot, real)
    if is_n2_guest(m):
        v = vvmcs_base(m)
        mask = get_vvmcs(m, v, mask_slot, P_EMULATION)
        old = get_vvmcs(m, v, real_slot, P_EMULATION)
        new = (seen & ~mask) | (old & mask)
        set_vvmcs(m, v, real_slot, new, P_EMULATION)
        seen = merged_shadow(new, mask, get_vvmcs(m, v, shadow_slot, P_EMULATION))
    vmwrite(m, shadow_slot, seen)
    return complete_instruction(m)


@inner
def _l1_kept(m, real_slot, mask_slot, value):
    """For L2: ``value`` with the bits that L1 owns as they are; for L1: ``value``."""
    if not is_n2_guest(m):
        return value
    v = vvmcs_base(m)
    mask = get(v, mask_slot)
    return (value & ~mask) | (get(v, real_slot) & mask)


@inner
def _in_vmx_operation(m):
    """Is L1 in VMX operation, and does L0 hold it to the control-register bits of that?"""
    if is_n2_guest(m) or vmxon(m) == 0:
        return False
    return m.feat.deviations & deviations.DEV_CR0_NE_CLEARABLE == 0


@inner
def _set_cr0(m, value):
    if value & CR0_NE == 0 and _in_vmx_operation(m):
        return inject_exception(m, GP, 0, 1)
    real = _l1_kept(m, vmcs.SLOT_GUEST_CR0, vmcs.SLOT_CR0_GUEST_HOST_MASK, value) | CR0_NE
    if write_cr0(m, real) != ST_OK:
        return inject_pending(m)
    seen = (m.cpu.cr0 & ~CR0_NE) | (value & CR0_NE)
    return _commit_cr(
        m,
        vmcs.SLOT_GUEST_CR0,
        vmcs.SLOT_CR0_READ_SHADOW,
        vmcs.SLOT_CR0_GUEST_HOST_MASK,
        m.cpu.cr0 | CR0_FIXED0,
        seen,
    )


@inner
def _set_cr4(m, value):
    if not is_n2_guest(m) and vmxon(m) and value & CR4_VMXE == 0:
        return inject_exception(m, GP, 0, 1)
    if value & CR4_PCIDE and m.sh.active:
        return inject_exception(m, GP, 0, 1)
    real = _l1_kept(m, vmcs.SLOT_GUEST_CR4, vmcs.SLOT_CR4_GUEST_HOST_MASK, value) | CR4_VMXE
    if write_cr4(m, real) != ST_OK:
        return inject_pending(m)
    return _commit_cr(
        m,
        vmcs.SLOT_GUEST_CR4,
        vmcs.SLOT_CR4_READ_SHADOW,
        vmcs.SLOT_CR4_GUEST_HOST_MASK,
        real | CR4_FIXED0,
        value,
    )


@unit(Machine)
def emulate_cr_access(m):
    """MOV to CR0 or CR4, MOV to or from CR8, CLTS, LMSW.  CR3 is the guest's own business."""
    qualification = vmread(m, vmcs.SLOT_EXIT_QUALIFICATION)
    cr = qualification & 15
    kind = lshr(qualification, 4) & 3
    count(m, E_L0_CR_EMULATED, 1)
    gpr = lshr(qualification, 8) & 15
    if kind == CR_CLTS or kind == CR_LMSW:
        base = own_base(m, m.hw.vmcx)
        owned = get(base, vmcs.SLOT_CR0_GUEST_HOST_MASK)
        shadow = vmread(m, vmcs.SLOT_CR0_READ_SHADOW)
        seen = merged_shadow(get(base, vmcs.SLOT_GUEST_CR0), owned, shadow)
        if kind == CR_CLTS:
            return _set_cr0(m, seen & ~CR0_TS)
        return _set_cr0(m, (seen & ~0xE) | (lshr(qualification, 16) & 0xF))
    if cr == 8:
        if kind == CR_FROM:
            set_gpr(m, gpr, m.apic.tpr >> 4)
        elif m.cpu.gpr[gpr] & ~0xF:
            return inject_exception(m, GP, 0, 1)
        else:
            m.cpu.cr8 = m.cpu.gpr[gpr]
            m.apic.tpr = m.cpu.cr8 << 4
        return complete_instruction(m)
    if cr == 3 and m.sh.active:
        return vmx_emulate_cr3(m, gpr, kind != CR_FROM)
    if kind == CR_FROM or (cr != 0 and cr != 4):
        return fatal(m, FATAL_UNHANDLED_EXIT, vmx.EXIT_CR_ACCESS)
    value = m.cpu.gpr[gpr]
    return _set_cr0(m, value) if cr == 0 else _set_cr4(m, value)


@inner
def emulate_dr_access(m):
    """First use of debug registers: give them to the guest and let it try again (Xen)."""
    slot = vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL
    n1 = own_base(m, VMCX01_MA)
    put(n1, slot, get(n1, slot) & ~vmx.CPU_MOV_DR_EXITING)
    word = vmread(m, slot) & ~vmx.CPU_MOV_DR_EXITING
    if is_n2_guest(m):
        v = vvmcs_base(m)
        word |= get_vvmcs(m, v, slot, P_EMULATION) & vmx.CPU_MOV_DR_EXITING
    vmwrite(m, slot, word)
    return ST_OK


# ---------------------------------------------------------------- events and nested faults


@inner
def _complete_debug_exception(m):
    """A #DB that exits leaves DR6 and DR7 alone; its handler is to find them as without the exit."""
    m.exc.address = vmread(m, vmcs.SLOT_EXIT_QUALIFICATION)
    note_debug_exception(m)
    vmwrite(m, vmcs.SLOT_GUEST_DR7, m.cpu.dr[7])


@inner
def reflect_exception(m):
    """An exception that L0 intercepts for its own reasons: the guest gets it."""
    info = vmread(m, vmcs.SLOT_VM_EXIT_INTR_INFO)
    if m.sh.active and info & 0x7FF == PAGE_FAULT:
        return vmx_shadow_fault(m)
    if info & EVENT_VALID == 0 or lshr(info, vmx.INTR_TYPE) & 7 == vmx.INTR_TYPE_NMI:
        return ST_OK  # an NMI is L0's own; it waits in m.irq for L1
    if info & 0x7FF == DEBUG_EXCEPTION:
        _complete_debug_exception(m)
    return reinject(m, info, vmread(m, vmcs.SLOT_VM_EXIT_INTR_ERROR_CODE))


@unit(Machine, i64)
def nested_page_fault(m, reason):
    """EPT violation: of L2 by way of the nested p2m; of L1, a page that L0 took or L1 never had."""
    gpa = vmread(m, vmcs.SLOT_GUEST_PHYSICAL_ADDRESS)
    if not is_n2_guest(m) or hap_enabled(m) == 0:
        if not p2m_resolve(m, gpa, m.exit.info1 & ACCESS_WRITE):
            if vmx_apic_mmio(m, gpa):
                return ST_OK
            return fatal(m, FATAL_N1P_UNMAPPED, gpa)
        return ST_OK
    if reason == vmx.EXIT_EPT_MISCONFIG:
        return fatal(m, FATAL_UNHANDLED_EXIT, reason)
    qualification = vmread(m, vmcs.SLOT_EXIT_QUALIFICATION)
    status = nested_fault_of_l2(m, gpa, qualification)
    return ST_OK if status == RESOLVED else status
