"""L0's emulation of the VMX instructions for L1 (Xen, vvmx.c; SDM vol. 3, chapter 31).

Every one of them exits when L1 executes it (VMREAD and VMWRITE only where VMCS shadowing does not
serve them).  Results are given as the manual says: VMsucceed clears the status flags, VMfailInvalid
sets CF, VMfailValid sets ZF and leaves the error number in vmcs12.

Where Xen checks less than the manual (errors 7 and 8 for invalid controls and host state, error 13
for VMWRITE to a read-only field, INVVPID's operand, CR0 at VMXON) is a deviation each.  VMCALL of
L1 is a hypercall to L0 (none exists: RAX = -ENOSYS).

The launch state of a VMCS is kept in its own region (byte 8), where Xen keeps a list.
"""

from __future__ import annotations

from ...arch import deviations, vmcs, vmx
from ..cpu.exceptions import GP, UD
from ..cpu.flags import CF, STATUS_FLAGS, ZF
from ..cpu.operands import read_memory, write_memory
from ..jit import inner, unit
from ..layout import (
    FATAL_N1P_UNMAPPED,
    L0_KVM,
    PAGE,
    POLICY_KVM,
    RAX,
    ST_OK,
    ST_VMEXIT,
    Machine,
)
from ..ledger import (
    E_L0_BYTE_COPIED,
    E_L0_FLUSH_EXECUTED,
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_VMCLEAR,
    E_L0_VMPTRLD,
    F_INVEPT,
    F_INVVPID,
    P_EMULATION,
    count,
)
from ..mmu.physical import host_of
from ..structs import i64
from ..timeline import l1_field_access
from ..words import copy_bytes, ld32, lshr, st32
from .memory_map import (
    KVM_SHADOW_MA,
    KVM_VMCS12_MA,
    VMCX01_MA,
    VMCX02_MA,
    VMREAD_BITMAP_MA,
    VMWRITE_BITMAP_MA,
)
from .nested_state import (
    set_vmcx12,
    set_vmcx12_addr,
    set_vmentry_pending,
    set_vmxon_addr,
    vmcx12,
    vmcx12_addr,
    vmxon,
    vmxon_addr,
)
from .np2m import np2m_invalidate_all, np2m_invalidate_root
from .p2m import n1p_to_l0m, p2m_resolve
from .tags import N2, has_fixed_vpids, tags_invvpid_address, tags_renew
from .vmcs import (
    CLEAR,
    LAUNCHED,
    SHADOW_INDICATOR,
    VV_READS,
    VV_WRITES,
    XEN_SHADOW_ACTIVE,
    field_slot,
    get,
    launch_state,
    own_base,
    read_encoded,
    set_launch_state,
    set_vvmcs,
    settle,
    vmread,
    vmwrite,
    vvmcs_base,
    write_encoded,
)
from .vmx_checks import (
    BLOCK_MOV_SS,
    controls_wrong,
    host_state_wrong,
    not_canonical,
    refuse,
)
from .vmx_common import complete_instruction, fatal, inject_exception, inject_pending, set_gpr
from .vmx_controls import CR0_FIXED0
from .vmx_kvm import EXISTS as KVM_HAS
from .vmx_kvm import (
    KVM_SHADOW_ACTIVE,
    kvm_before_access,
    kvm_flush_vmcs12,
    kvm_load_vmcs12,
    kvm_note_write,
    kvm_shadow_to_vmcs12,
    kvm_start_shadowing,
)
from .vmx_operands import REGISTER_FORM, decoded_address, first_register, second_register

NONE = -1
"""No current VMCS, no VMXON region."""
ENOSYS = 38
ADDRESS_BITS = 40
CR4_VMXE = 0x2000
INVEPT_SINGLE, INVEPT_ALL = 1, 2
INVVPID_ADDRESS, INVVPID_ALL, INVVPID_NON_GLOBAL = 0, 2, 3
QUALIFICATION_WRITE = 2
TYPE_READ_ONLY = 1
"""Field type (encoding bits 11:10) of the exit-information fields."""


# ---------------------------------------------------------------- results


@inner
def _finish(m, flags):
    """Status flags of a VMX instruction, and step over it."""
    word = vmread(m, vmcs.SLOT_GUEST_RFLAGS) & ~STATUS_FLAGS
    vmwrite(m, vmcs.SLOT_GUEST_RFLAGS, word | flags)
    return complete_instruction(m)


@inner
def _has_current(m):
    return vmcx12_addr(m) != NONE


@inner
def _fail(m, error):
    """VMfailValid with ``error`` if there is a current VMCS, else VMfailInvalid."""
    if not _has_current(m):
        return _finish(m, CF)
    set_vvmcs(m, vvmcs_base(m), vmcs.SLOT_VM_INSTRUCTION_ERROR, error, P_EMULATION)
    return _finish(m, ZF)


# ---------------------------------------------------------------- operands


@inner
def _operand_address(m):
    """Linear address of the memory operand."""
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    return decoded_address(m, info, vmread(m, vmcs.SLOT_EXIT_QUALIFICATION))


@inner
def _load_operand(m, va):
    """8 bytes of L1's memory; check ``m.pending``."""
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    count(m, E_L0_BYTE_COPIED, 8)
    return read_memory(m, va, 3)


@inner
def _operand_fault(m):
    """An operand of L1 could not be accessed: its fault, or memory that it does not have."""
    status = m.pending
    m.pending = 0
    if status == ST_VMEXIT:
        if p2m_resolve(m, m.exit.info2, m.exit.info1 & QUALIFICATION_WRITE):
            return ST_OK  # L1 executes the instruction again
        return fatal(m, FATAL_N1P_UNMAPPED, m.exit.info2)
    return inject_pending(m)


@inner
def _region(m, n1p):
    """Machine address of the VMX region at ``n1p``, -1 when the pointer is not valid."""
    if n1p & (PAGE - 1) or lshr(n1p, ADDRESS_BITS):
        return -1
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    ma = n1p_to_l0m(m, n1p)
    return ma if ma >= 0 and host_of(m, ma) != 0 else -1


# ---------------------------------------------------------------- the current VMCS


@inner
def _set_secondary(m, mask, on):
    slot = vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL
    word = get(own_base(m, VMCX01_MA), slot)
    vmwrite(m, slot, word | mask if on else word & ~mask)


@inner
def _start_shadowing(m):
    """The processor serves L1's VMREAD and VMWRITE: under Xen L1's page itself becomes a real shadow
    VMCS (nvmx_set_vmcs_pointer), KVM has one of its own."""
    _set_secondary(m, vmx.CPU2_SHADOW_VMCS, True)
    vmwrite(m, vmcs.SLOT_VMREAD_BITMAP, VMREAD_BITMAP_MA)
    vmwrite(m, vmcs.SLOT_VMWRITE_BITMAP, VMWRITE_BITMAP_MA)
    if m.feat.l0 == L0_KVM:
        vmwrite(m, vmcs.SLOT_VMCS_LINK_POINTER, KVM_SHADOW_MA)
        m.nv.shadow_active = KVM_SHADOW_ACTIVE
        kvm_start_shadowing(m)
        return
    host = host_of(m, vmcx12(m))
    count(m, E_L0_VMCLEAR, 1)
    st32(host, ld32(host) | SHADOW_INDICATOR)
    vmwrite(m, vmcs.SLOT_VMCS_LINK_POINTER, vmcx12(m))
    m.nv.shadow_active = XEN_SHADOW_ACTIVE


@inner
def _stop_shadowing(m):
    settle(m)
    if m.nv.shadow_active == XEN_SHADOW_ACTIVE:
        host = host_of(m, vmcx12(m))
        count(m, E_L0_VMCLEAR, 1)
        st32(host, ld32(host) & ~SHADOW_INDICATOR)
    m.nv.shadow_active = 0
    _set_secondary(m, vmx.CPU2_SHADOW_VMCS, False)
    vmwrite(m, vmcs.SLOT_VMCS_LINK_POINTER, -1)


@unit(Machine)
def vmx_drop_vvmcs(m):
    """No VMCS of L1 is current any more (Xen, nvmx_purge_vvmcs)."""
    nv = m.nv
    if _has_current(m):
        if m.feat.l0 == L0_KVM:
            kvm_flush_vmcs12(m)
        if nv.shadow_active:
            _stop_shadowing(m)
        set_vmcx12_addr(m, NONE)
        set_vmcx12(m, NONE)
    return ST_OK


# ---------------------------------------------------------------- VMXON, VMXOFF


@inner
def _vmxon(m):
    pointer = _load_operand(m, _operand_address(m))
    if m.pending:
        return _operand_fault(m)
    if vmxon(m):
        return _fail(m, vmx.ERROR_VMXON_IN_VMX_ROOT_OPERATION)
    cr0 = vmread(m, vmcs.SLOT_CR0_READ_SHADOW)
    if cr0 & CR0_FIXED0 != CR0_FIXED0 and (
        m.feat.deviations & deviations.DEV_VMXON_IGNORES_CR0 == 0
    ):
        return inject_exception(m, GP, 0, 1)
    ma = _region(m, pointer)
    if ma < 0 or ld32(host_of(m, ma)) != vmcs.REVISION:
        return _finish(m, CF)
    set_vmxon_addr(m, pointer)
    set_vmcx12_addr(m, NONE)
    set_vmcx12(m, NONE)
    # vmcs02 starts as a copy of vmcs01
    count(m, E_L0_VMCLEAR, 1)
    count(m, E_L0_BYTE_COPIED, PAGE)
    count(m, E_L0_VMPTRLD, 1)
    copy_bytes(m.ram + VMCX02_MA, m.ram + VMCX01_MA, PAGE)
    return _finish(m, 0)


@inner
def _vmxoff(m):
    vmx_drop_vvmcs(m)
    set_vmxon_addr(m, NONE)
    return _finish(m, 0)


# ---------------------------------------------------------------- VMCLEAR, VMPTRLD, VMPTRST


@inner
def _vmclear(m):
    pointer = _load_operand(m, _operand_address(m))
    if m.pending:
        return _operand_fault(m)
    if pointer == vmxon_addr(m):
        return _fail(m, vmx.ERROR_VMCLEAR_VMXON_POINTER)
    ma = _region(m, pointer)
    if ma < 0:
        return _fail(m, vmx.ERROR_VMCLEAR_INVALID_ADDRESS)
    if pointer == vmcx12_addr(m):
        vmx_drop_vvmcs(m)
    set_launch_state(m, ma, CLEAR)
    return _finish(m, 0)


@inner
def _vmptrld(m):
    pointer = _load_operand(m, _operand_address(m))
    if m.pending:
        return _operand_fault(m)
    if pointer == vmxon_addr(m):
        return _fail(m, vmx.ERROR_VMPTRLD_VMXON_POINTER)
    ma = _region(m, pointer)
    if ma < 0:
        return _fail(m, vmx.ERROR_VMPTRLD_INVALID_ADDRESS)
    if pointer == vmcx12_addr(m):
        return _finish(m, 0)
    if ld32(host_of(m, ma)) != vmcs.REVISION:
        return _fail(m, vmx.ERROR_VMPTRLD_INCORRECT_VMCS_REVISION_ID)
    vmx_drop_vvmcs(m)
    set_vmcx12_addr(m, pointer)
    if m.feat.l0 == L0_KVM:
        m.kvm.page = ma
        set_vmcx12(m, KVM_VMCS12_MA)
        kvm_load_vmcs12(m)
    else:
        set_vmcx12(m, ma)
    if m.feat.vmcs_shadowing:
        _start_shadowing(m)
    return _finish(m, 0)


@inner
def _vmptrst(m):
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    count(m, E_L0_BYTE_COPIED, 8)
    if write_memory(m, _operand_address(m), 3, vmcx12_addr(m)):
        return _operand_fault(m)
    return _finish(m, 0)


# ---------------------------------------------------------------- VMREAD, VMWRITE


@inner
def _slot_for_l1(m, encoding):
    """Slot of a field that L1 may name, -1 when there is no such field."""
    slot = field_slot(encoding)
    if slot >= 0 and m.feat.l0 == L0_KVM and KVM_HAS[slot] == 0:
        return -1
    return slot


@inner
def _vmread(m):
    if not _has_current(m):
        return _finish(m, CF)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    encoding = m.cpu.gpr[second_register(info)]
    slot = _slot_for_l1(m, encoding)
    if slot < 0:
        return _fail(m, vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT)
    kvm_before_access(m, slot)
    m.vmcs_work[VV_READS] += 1
    value = read_encoded(vvmcs_base(m), slot, encoding)
    l1_field_access(m, slot, 0, value, 0)
    if info & REGISTER_FORM:
        set_gpr(m, first_register(info), value)
        return _finish(m, 0)
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    count(m, E_L0_BYTE_COPIED, 8)
    va = decoded_address(m, info, vmread(m, vmcs.SLOT_EXIT_QUALIFICATION))
    if write_memory(m, va, 3, value):
        return _operand_fault(m)
    return _finish(m, 0)


@inner
def _is_read_only(m, encoding):
    if m.feat.deviations & deviations.DEV_VMWRITE_TO_READ_ONLY_FIELDS:
        return False
    return m.feat.vmcs_shadowing == 0 and (encoding >> 10) & 3 == TYPE_READ_ONLY


@inner
def _vmwrite(m):
    if not _has_current(m):
        return _finish(m, CF)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    if info & REGISTER_FORM:
        value = m.cpu.gpr[first_register(info)]
    else:
        va = decoded_address(m, info, vmread(m, vmcs.SLOT_EXIT_QUALIFICATION))
        value = _load_operand(m, va)
        if m.pending:
            return _operand_fault(m)
    encoding = m.cpu.gpr[second_register(info)]
    slot = _slot_for_l1(m, encoding)
    if slot < 0:
        return _fail(m, vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT)
    if _is_read_only(m, encoding):
        return _fail(m, vmx.ERROR_VMWRITE_READ_ONLY_VMCS_COMPONENT)
    kvm_before_access(m, slot)
    m.vmcs_work[VV_WRITES] += 1
    l1_field_access(m, slot, 1, value, 0)
    write_encoded(vvmcs_base(m), slot, encoding, value)
    if m.feat.l0 == L0_KVM:
        kvm_note_write(m, slot)
    return _finish(m, 0)


# ---------------------------------------------------------------- VMLAUNCH, VMRESUME


@inner
def _map_missing(m):
    """The one look that Xen takes at vmcs12: can it map L1's permission maps?"""
    v = vvmcs_base(m)
    cpu = get(v, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    if cpu & vmx.CPU_USE_IO_BITMAPS and (
        n1p_to_l0m(m, get(v, vmcs.SLOT_IO_BITMAP_A) & ~(PAGE - 1)) < 0
        or n1p_to_l0m(m, get(v, vmcs.SLOT_IO_BITMAP_B) & ~(PAGE - 1)) < 0
    ):
        return True
    if cpu & vmx.CPU_USE_MSR_BITMAPS == 0:
        return False
    return n1p_to_l0m(m, get(v, vmcs.SLOT_MSR_BITMAP) & ~(PAGE - 1)) < 0


@inner
def _enter(m, launch):
    """VMLAUNCH or VMRESUME: check, then ask for the virtual entry."""
    if not _has_current(m):
        return _finish(m, CF)
    if m.nv.shadow_active == KVM_SHADOW_ACTIVE:
        kvm_shadow_to_vmcs12(m)
    if vmread(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO) & BLOCK_MOV_SS:
        return _fail(m, vmx.ERROR_ENTRY_EVENTS_BLOCKED_BY_MOV_SS)
    launched = launch_state(m, vmcx12(m)) == LAUNCHED
    if launch and launched:
        return _fail(m, vmx.ERROR_VMLAUNCH_NONCLEAR_VMCS)
    if not launch and not launched:
        return _fail(m, vmx.ERROR_VMRESUME_NONLAUNCHED_VMCS)
    if m.feat.deviations & deviations.DEV_ENTRY_CHECKS_LEFT_TO_HARDWARE:
        if _map_missing(m):
            return _fail(m, vmx.ERROR_ENTRY_INVALID_CONTROL_FIELD)
        set_vmentry_pending(m, 1)
        return ST_OK
    check = controls_wrong(m)
    error = vmx.ERROR_ENTRY_INVALID_CONTROL_FIELD
    if check == 0:
        check = host_state_wrong(m)
        error = vmx.ERROR_ENTRY_INVALID_HOST_STATE_FIELD
    if check:
        refuse(m, check, 1)
        return _fail(m, error)
    set_vmentry_pending(m, 1)
    return ST_OK


# ---------------------------------------------------------------- INVEPT, INVVPID


@inner
def _invept(m):
    if m.sh.active:
        return inject_exception(m, UD, 0, 0)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    va = _operand_address(m)
    eptp = _load_operand(m, va)
    if m.pending == 0:
        _load_operand(m, va + 8)
    if m.pending:
        return _operand_fault(m)
    kind = m.cpu.gpr[second_register(info)]
    if kind == INVEPT_SINGLE:
        np2m_invalidate_root(m, eptp, F_INVEPT)
    elif kind == INVEPT_ALL:
        np2m_invalidate_all(m, F_INVEPT)
        count(m, E_L0_FLUSH_EXECUTED, 1)
    else:
        return _fail(m, vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID)
    return _finish(m, 0)


@inner
def _invvpid_wrong(m, kind, vpid, address):
    """The operand's checks; Xen does not offer type 3 (retaining globals), KVM does."""
    highest = INVVPID_NON_GLOBAL if m.feat.l2_tag_policy == POLICY_KVM else INVVPID_ALL
    if kind < INVVPID_ADDRESS or kind > highest:
        return True
    if m.feat.deviations & deviations.DEV_INVVPID_OPERAND_IGNORED:
        return False
    if lshr(vpid, 16):
        return True
    if kind != INVVPID_ALL and vpid == 0:
        return True
    return kind == INVVPID_ADDRESS and not_canonical(address)


@inner
def _invvpid(m):
    if m.feat.vpid_for_l1 == 0:
        return inject_exception(m, UD, 0, 0)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    va = _operand_address(m)
    vpid = _load_operand(m, va)
    address = 0
    if m.pending == 0:
        address = _load_operand(m, va + 8)
    if m.pending:
        return _operand_fault(m)
    kind = m.cpu.gpr[second_register(info)]
    if _invvpid_wrong(m, kind, vpid, address):
        return _fail(m, vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID)
    # one address in KVM; else, and in Xen always, all of L2's translations go
    if kind == INVVPID_ADDRESS and has_fixed_vpids(m):
        tags_invvpid_address(m, address, F_INVVPID)
    else:
        tags_renew(m, N2, F_INVVPID)
    return _finish(m, 0)


# ---------------------------------------------------------------- VMCALL and the dispatch


@inner
def _vmcall(m):
    """A hypercall of L1 to L0; L0 knows none."""
    set_gpr(m, RAX, -ENOSYS)
    return complete_instruction(m)


@inner
def _region_instruction(m, reason):
    if reason == vmx.EXIT_VMCLEAR:
        return _vmclear(m)
    if reason == vmx.EXIT_VMPTRLD:
        return _vmptrld(m)
    if reason == vmx.EXIT_VMPTRST:
        return _vmptrst(m)
    if reason == vmx.EXIT_VMOFF:
        return _vmxoff(m)
    if reason == vmx.EXIT_INVEPT:
        return _invept(m)
    return _invvpid(m)


@inner
def _not_allowed(m, reason):
    """#UD outside of VMX operation, #GP(0) outside of CPL 0: the exception's vector, or 0."""
    if reason == vmx.EXIT_VMON:
        if vmread(m, vmcs.SLOT_CR4_READ_SHADOW) & CR4_VMXE == 0:
            return UD
    elif not vmxon(m):
        return UD
    return GP if m.cpu.cpl else 0


@unit(Machine, i64)
def vmx_region_instruction(m, reason):
    """The rarer VMX instructions: VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, INVEPT, INVVPID."""
    if reason == vmx.EXIT_VMON:
        return _vmxon(m)
    return _region_instruction(m, reason)


@unit(Machine, i64)
def vmx_instruction(m, reason):
    """Emulate the VMX instruction of L1 whose exit reason is ``reason``."""
    if reason == vmx.EXIT_VMCALL:
        return _vmcall(m)
    vector = _not_allowed(m, reason)
    if vector:
        return inject_exception(m, vector, 0, 1 if vector == GP else 0)
    if reason == vmx.EXIT_VMREAD:
        return _vmread(m)
    if reason == vmx.EXIT_VMWRITE:
        return _vmwrite(m)
    if reason == vmx.EXIT_VMRESUME:
        return _enter(m, False)
    if reason == vmx.EXIT_VMLAUNCH:
        return _enter(m, True)
    return vmx_region_instruction(m, reason)
