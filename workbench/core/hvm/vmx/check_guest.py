"""Checks on the guest-state area (SDM vol. 3, 27.3.1), in the manual's order.

All modes of a guest are checked, though only 64-bit code can then run (:func:`runs_64_bit_code`).
Not checked: what belongs to CET, SGX, MPX, Processor Trace, protection keys and SMM.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...jit import inner, unit
from ...layout import Machine
from ...mmu.physical import host_of
from ...structs import i64
from ...words import ld32, lshr
from .check_controls import secondary
from .check_segments import vmx_check_segments
from .check_util import (
    ADDRESS_BITS,
    BLOCK_ENCLAVE,
    BLOCK_MOV_SS,
    BLOCK_NMI,
    BLOCK_SMI,
    BLOCK_STI,
    CR4_PAE,
    CR4_PCIDE,
    DEBUGCTL_EXISTS,
    EFER_EXISTS,
    EFER_LMA,
    EFER_LME,
    INTR_VALID,
    L1_VIEW,
    RFLAGS_IF,
    RFLAGS_TF,
    RFLAGS_VM,
    TYPE_EXCEPTION,
    TYPE_INTERRUPT,
    TYPE_NMI,
    TYPE_OTHER,
    beyond_width,
    machine_address,
    not_canonical,
    page_wrong,
    pat_wrong,
    word,
)
from .controls import CR0_FIXED0, CR0_FIXED1, CR4_FIXED0, CR4_SUPPORTED
from .offer import l1_may_be
from .vmcs import SHADOW_INDICATOR

CR0_PE, CR0_PG = 1, 1 << 31
RFLAGS_RESERVED = ~0x3F_FFFF | 1 << 15 | 1 << 5 | 1 << 3
AR_L, AR_DPL = 1 << 13, 3 << 5
DB, MC = 1, 18
PENDING_BS, PENDING_RESERVED = 1 << 14, ~0x500F
BTF = 2
PDPTE_RESERVED = ~((1 << ADDRESS_BITS) - 1) | 0x1E6


@inner
def injected(base):
    """The injected event's interruption information, -1 when none is valid."""
    info = word(base, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD)
    return info if info & INTR_VALID else -1


@inner
def _injects(base, kind):
    info = injected(base)
    return info != -1 and lshr(info, 8) & 7 == kind


# ---------------------------------------------------------------- control registers and MSRs


@inner
def _cr3(base):
    return vmx.CHECK_GUEST_CR3 if beyond_width(word(base, vmcs.SLOT_GUEST_CR3)) else 0


@inner
def _control_registers(base, ia32e, unrestricted):
    cr0 = word(base, vmcs.SLOT_GUEST_CR0)
    fixed = CR0_FIXED0 & ~(CR0_PE | CR0_PG) if unrestricted else CR0_FIXED0
    if cr0 & fixed != fixed or cr0 & ~CR0_FIXED1:
        return vmx.CHECK_GUEST_CR0
    if cr0 & CR0_PG and cr0 & CR0_PE == 0:
        return vmx.CHECK_GUEST_CR0_PG_NEEDS_PE
    cr4 = word(base, vmcs.SLOT_GUEST_CR4)
    if cr4 & CR4_FIXED0 != CR4_FIXED0 or cr4 & ~CR4_SUPPORTED:
        return vmx.CHECK_GUEST_CR4
    entry = word(base, vmcs.SLOT_VM_ENTRY_CONTROLS)
    debug = entry & vmx.ENTRY_CTL_LOAD_DEBUG_CONTROLS
    if debug and word(base, vmcs.SLOT_GUEST_IA32_DEBUGCTL) & ~DEBUGCTL_EXISTS:
        return vmx.CHECK_GUEST_DEBUGCTL
    if ia32e:
        if cr0 & CR0_PG == 0 or cr4 & CR4_PAE == 0:
            return vmx.CHECK_GUEST_IA32E_NEEDS_PAGING
    elif cr4 & CR4_PCIDE:
        return vmx.CHECK_GUEST_PCIDE
    check = _cr3(base)
    if check:
        return check
    if debug and lshr(word(base, vmcs.SLOT_GUEST_DR7), 32):
        return vmx.CHECK_GUEST_DR7
    return 0


@inner
def _efer(base, ia32e):
    efer = word(base, vmcs.SLOT_GUEST_IA32_EFER)
    if efer & ~EFER_EXISTS:
        return vmx.CHECK_GUEST_EFER_RESERVED
    lma = efer & EFER_LMA != 0
    paging = word(base, vmcs.SLOT_GUEST_CR0) & CR0_PG
    if lma != (ia32e != 0) or (paging and lma != (efer & EFER_LME != 0)):
        return vmx.CHECK_GUEST_EFER_LMA
    return 0


@inner
def _msrs(base, ia32e):
    entry = word(base, vmcs.SLOT_VM_ENTRY_CONTROLS)
    if not_canonical(word(base, vmcs.SLOT_GUEST_SYSENTER_ESP)) or not_canonical(
        word(base, vmcs.SLOT_GUEST_SYSENTER_EIP)
    ):
        return vmx.CHECK_GUEST_SYSENTER
    if entry & vmx.ENTRY_CTL_LOAD_IA32_PAT and pat_wrong(word(base, vmcs.SLOT_GUEST_IA32_PAT)):
        return vmx.CHECK_GUEST_PAT
    return _efer(base, ia32e) if entry & vmx.ENTRY_CTL_LOAD_IA32_EFER else 0


# ---------------------------------------------------------------- tables, RIP, RFLAGS


@inner
def _tables(base):
    if not_canonical(word(base, vmcs.SLOT_GUEST_GDTR_BASE)) or not_canonical(
        word(base, vmcs.SLOT_GUEST_IDTR_BASE)
    ):
        return vmx.CHECK_GUEST_TABLE_BASE
    limits = word(base, vmcs.SLOT_GUEST_GDTR_LIMIT) | word(base, vmcs.SLOT_GUEST_IDTR_LIMIT)
    return vmx.CHECK_GUEST_TABLE_LIMIT if lshr(limits, 16) else 0


@inner
def _rip_and_flags(base, ia32e):
    rip = word(base, vmcs.SLOT_GUEST_RIP)
    if ia32e and word(base, vmcs.SLOT_GUEST_CS_AR_BYTES) & AR_L:
        high = rip >> 48
        if high != 0 and high != -1:
            return vmx.CHECK_GUEST_RIP
    elif lshr(rip, 32):
        return vmx.CHECK_GUEST_RIP
    flags = word(base, vmcs.SLOT_GUEST_RFLAGS)
    if flags & RFLAGS_RESERVED or flags & 2 == 0:
        return vmx.CHECK_GUEST_RFLAGS_RESERVED
    if flags & RFLAGS_VM and (ia32e or word(base, vmcs.SLOT_GUEST_CR0) & CR0_PE == 0):
        return vmx.CHECK_GUEST_RFLAGS_VM
    if flags & RFLAGS_IF == 0 and _injects(base, TYPE_INTERRUPT):
        return vmx.CHECK_GUEST_RFLAGS_IF
    return 0


# ---------------------------------------------------------------- what is not in registers


@inner
def _held_back(info, state):
    """Would an inactive processor not take the injected event?  (SDM 25.4.2, 27.3.1.5)"""
    kind = lshr(info, 8) & 7
    vector = info & 0xFF
    machine_check = kind == TYPE_EXCEPTION and vector == MC
    if state == vmx.INTR_ACTIVITY_HLT:
        debug = kind == TYPE_EXCEPTION and vector == DB
        other = kind == TYPE_OTHER and vector == 0
        return not (kind == TYPE_INTERRUPT or kind == TYPE_NMI or debug or machine_check or other)
    if state == vmx.INTR_ACTIVITY_SHUTDOWN:
        return kind != TYPE_NMI and not machine_check
    return True


@unit(Machine, i64, i64, i64)
def vmx_check_inactive(m, base, view, state):
    """The activity state is another than active: only L0 has those, for L1 (hvm/vmx/activity)."""
    if view != L1_VIEW or not l1_may_be(m, state):
        return vmx.CHECK_ACTIVITY_SUPPORTED
    if state == vmx.INTR_ACTIVITY_HLT and word(base, vmcs.SLOT_GUEST_SS_AR_BYTES) & AR_DPL:
        return vmx.CHECK_ACTIVITY_HLT_DPL
    blocked = word(base, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO)
    if blocked & (BLOCK_STI | BLOCK_MOV_SS):
        return vmx.CHECK_ACTIVITY_BLOCKING
    info = injected(base)
    if info != -1 and _held_back(info, state):
        return vmx.CHECK_ACTIVITY_EVENT
    return 0


@inner
def _activity(m, base, view):
    state = word(base, vmcs.SLOT_GUEST_ACTIVITY_STATE)
    return vmx_check_inactive(m, base, view, state) if state else 0


@inner
def _interruptibility(base, virtual_nmis):
    blocked = word(base, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO)
    if blocked & ~31:
        return vmx.CHECK_INTERRUPTIBILITY_RESERVED
    if blocked & BLOCK_STI and blocked & BLOCK_MOV_SS:
        return vmx.CHECK_INTERRUPTIBILITY_BOTH
    if blocked & BLOCK_STI and word(base, vmcs.SLOT_GUEST_RFLAGS) & RFLAGS_IF == 0:
        return vmx.CHECK_INTERRUPTIBILITY_STI_IF
    if blocked & (BLOCK_STI | BLOCK_MOV_SS) and _injects(base, TYPE_INTERRUPT):
        return vmx.CHECK_INTERRUPTIBILITY_INTERRUPT
    nmi = _injects(base, TYPE_NMI)
    if blocked & BLOCK_MOV_SS and nmi:
        return vmx.CHECK_INTERRUPTIBILITY_NMI_MOV_SS
    if blocked & BLOCK_SMI:
        return vmx.CHECK_INTERRUPTIBILITY_SMI
    if blocked & BLOCK_STI and nmi:
        return vmx.CHECK_INTERRUPTIBILITY_NMI_STI
    if blocked & BLOCK_NMI and nmi and virtual_nmis:
        return vmx.CHECK_INTERRUPTIBILITY_VIRTUAL_NMI
    return vmx.CHECK_INTERRUPTIBILITY_ENCLAVE if blocked & BLOCK_ENCLAVE else 0


@inner
def _pending_debug(base):
    pending = word(base, vmcs.SLOT_GUEST_PENDING_DBG_EXCEPTIONS)
    if pending & PENDING_RESERVED:
        return vmx.CHECK_PENDING_DEBUG_RESERVED
    held = word(base, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO) & (BLOCK_STI | BLOCK_MOV_SS)
    if held or word(base, vmcs.SLOT_GUEST_ACTIVITY_STATE) == vmx.INTR_ACTIVITY_HLT:
        steps = word(base, vmcs.SLOT_GUEST_RFLAGS) & RFLAGS_TF != 0
        branches = word(base, vmcs.SLOT_GUEST_IA32_DEBUGCTL) & BTF != 0
        if (pending & PENDING_BS != 0) != (steps and not branches):
            return vmx.CHECK_PENDING_DEBUG_BS
    return 0


@inner
def _link_pointer(m, base, view, current, shadowing):
    link = word(base, vmcs.SLOT_VMCS_LINK_POINTER)
    if link == -1:
        return 0
    if page_wrong(link):
        return vmx.CHECK_LINK_POINTER_ADDRESS
    page = machine_address(m, view, link)
    host = host_of(m, page) if page >= 0 else 0
    revision = ld32(host) if host else 0xFFFF_FFFF
    if revision & ~SHADOW_INDICATOR != vmcs.REVISION:
        return vmx.CHECK_LINK_POINTER_REVISION
    if (revision & SHADOW_INDICATOR != 0) != (shadowing != 0):
        return vmx.CHECK_LINK_POINTER_SHADOW
    return vmx.CHECK_LINK_POINTER_CURRENT if link == current else 0


@inner
def _pdptes(base):
    for i in range(4):
        entry = word(base, vmcs.SLOT_GUEST_PDPTR0 + i)
        if entry & 1 and entry & PDPTE_RESERVED:
            return vmx.CHECK_PDPTE_RESERVED
    return 0


# ---------------------------------------------------------------- all of them


@inner
def _segments(base, ia32e, unrestricted):
    v86 = word(base, vmcs.SLOT_GUEST_RFLAGS) & RFLAGS_VM
    real = 0 if word(base, vmcs.SLOT_GUEST_CR0) & CR0_PE else 1
    return vmx_check_segments(base, v86, unrestricted, real, ia32e)


@unit(i64, i64, i64)
def vmx_check_registers(base, ia32e, unrestricted):
    """Checks of registers and MSRs (27.3.1.1 to 27.3.1.4)."""
    check = _control_registers(base, ia32e, unrestricted)
    if check == 0:
        check = _msrs(base, ia32e)
    if check == 0:
        check = _segments(base, ia32e, unrestricted)
    if check == 0:
        check = _tables(base)
    if check == 0:
        check = _rip_and_flags(base, ia32e)
    return check


@inner
def _not_in_registers(m, base, view, current, cpu2):
    """Checks of 27.3.1.5 but for the PDPTEs."""
    pin = word(base, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL)
    check = _activity(m, base, view)
    if check == 0:
        check = _interruptibility(base, pin & vmx.PIN_VIRTUAL_NMIS)
    if check == 0:
        check = _pending_debug(base)
    if check == 0:
        check = _link_pointer(m, base, view, current, cpu2 & vmx.CPU2_SHADOW_VMCS)
    return check


@unit(Machine, i64, i64, i64)
def vmx_check_guest(m, base, view, current):
    """Number of the first check on the guest state that fails, 0 when all hold.

    ``base``: host address of slot 0; ``current``: address of that VMCS in the space of ``view``.
    """
    ia32e = word(base, vmcs.SLOT_VM_ENTRY_CONTROLS) & vmx.ENTRY_CTL_IA32E_MODE
    cpu2 = secondary(base, word(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL))
    check = vmx_check_registers(base, ia32e, cpu2 & vmx.CPU2_UNRESTRICTED_GUEST)
    if check == 0:
        check = _not_in_registers(m, base, view, current, cpu2)
    if check == 0 and ia32e == 0:
        cr0 = word(base, vmcs.SLOT_GUEST_CR0)
        if cr0 & CR0_PG and word(base, vmcs.SLOT_GUEST_CR4) & CR4_PAE:
            check = _pdptes(base)
    return check


@inner
def check_changing_guest(m, base, view, current, segments):
    """The checks on guest state that may fail though only RIP, RSP, RFLAGS, CR3, what is not in
    registers and, with ``segments``, segment registers have changed."""
    ia32e = word(base, vmcs.SLOT_VM_ENTRY_CONTROLS) & vmx.ENTRY_CTL_IA32E_MODE
    cpu2 = secondary(base, word(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL))
    check = _cr3(base)
    if check == 0 and segments:
        check = _segments(base, ia32e, cpu2 & vmx.CPU2_UNRESTRICTED_GUEST)
    if check == 0:
        check = _rip_and_flags(base, ia32e)
    if check == 0:
        check = _not_in_registers(m, base, view, current, cpu2)
    return check


@inner
def runs_64_bit_code(base):
    """Will the guest run 64-bit code?  Nothing else is modelled."""
    ia32e = word(base, vmcs.SLOT_VM_ENTRY_CONTROLS) & vmx.ENTRY_CTL_IA32E_MODE
    return ia32e != 0 and word(base, vmcs.SLOT_GUEST_CS_AR_BYTES) & AR_L != 0
