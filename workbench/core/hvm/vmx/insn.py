"""L0's emulation of the VMX instructions for L1 (Xen, vvmx.c; SDM vol. 3, chapter 31).

Every one of them exits when L1 executes it (VMREAD and VMWRITE only where VMCS shadowing does not
serve them).  Here are the dispatch, VMREAD and VMWRITE, VMLAUNCH and VMRESUME; the others are in
``insn_regions`` and ``insn_flush``.

Where Xen checks less than the manual (errors 7 and 8 for invalid controls and host state, error 13
for VMWRITE to a read-only field) is a deviation each.  So is that VMCALL of L1 is a hypercall to L0
in Xen and KVM (none exists: RAX = -ENOSYS).
"""

from __future__ import annotations

from ....arch import deviations, vmcs, vmx
from ...cpu.exceptions import GP, UD
from ...cpu.flags import CF
from ...cpu.operands import write_memory
from ...jit import inner, unit
from ...layout import L0_KVM, PAGE, RAX, ST_OK, Machine
from ...ledger import E_L0_BYTE_COPIED, E_L0_GUEST_PAGE_MAPPED, count
from ...mmu.physical import host_of
from ...structs import i64
from ...timeline import l1_field_access
from ...words import ld32
from ..nested_state import set_vmentry_pending, vmcx12, vmxon
from ..p2m import n1p_to_l0m
from .checks import BLOCK_MOV_SS, FAILURE, controls_wrong, refuse
from .common import complete_instruction, inject_exception, set_gpr
from .insn_flush import emulate_invept, emulate_invvpid
from .insn_regions import (
    emulate_vmclear,
    emulate_vmptrld,
    emulate_vmptrst,
    emulate_vmxoff,
    emulate_vmxon,
)
from .insn_results import fail, finish, has_current, load_operand, operand_fault
from .kvm import EXISTS as KVM_HAS
from .kvm import (
    KVM_SHADOW_ACTIVE,
    kvm_before_access,
    kvm_note_write,
    kvm_shadow_to_vmcs12,
    stored_value,
)
from .offer import l1_vmwrites_any_field
from .operands import REGISTER_FORM, decoded_address, first_register, second_register
from .vmcs import (
    LAUNCHED,
    SHADOW_INDICATOR,
    VV_READS,
    VV_WRITES,
    XEN_SHADOW_ACTIVE,
    field_slot,
    get,
    launch_state,
    read_encoded,
    vmread,
    vvmcs_base,
    write_encoded,
)

ENOSYS = 38
CR4_VMXE = 0x2000
TYPE_READ_ONLY = 1
"""Field type (encoding bits 11:10) of the exit-information fields."""


# ---------------------------------------------------------------- VMREAD, VMWRITE


@inner
def slot_for_l1(m, encoding):
    """Slot of a field that L1 may name, -1 when there is no such field."""
    slot = field_slot(encoding)
    if slot >= 0 and m.feat.l0 == L0_KVM and KVM_HAS[slot] == 0:
        return -1
    return slot


@inner
def _vmread(m):
    if not has_current(m):
        return finish(m, CF)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    encoding = m.cpu.gpr[second_register(info)]
    slot = slot_for_l1(m, encoding)
    if slot < 0:
        return fail(m, vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT)
    kvm_before_access(m, slot)
    m.vmcs_work[VV_READS] += 1
    value = read_encoded(vvmcs_base(m), slot, encoding)
    l1_field_access(m, slot, 0, value, 0)
    if info & REGISTER_FORM:
        set_gpr(m, first_register(info), value)
        return finish(m, 0)
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    count(m, E_L0_BYTE_COPIED, 8)
    va = decoded_address(m, info, vmread(m, vmcs.SLOT_EXIT_QUALIFICATION))
    if write_memory(m, va, 3, value):
        return operand_fault(m)
    return finish(m, 0)


@inner
def _is_read_only(m, encoding):
    if m.feat.deviations & deviations.DEV_VMWRITE_TO_READ_ONLY_FIELDS:
        return False
    return not l1_vmwrites_any_field(m) and (encoding >> 10) & 3 == TYPE_READ_ONLY


@inner
def _vmwrite(m):
    if not has_current(m):
        return finish(m, CF)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    if info & REGISTER_FORM:
        value = m.cpu.gpr[first_register(info)]
    else:
        va = decoded_address(m, info, vmread(m, vmcs.SLOT_EXIT_QUALIFICATION))
        value = load_operand(m, va)
        if m.pending:
            return operand_fault(m)
    encoding = m.cpu.gpr[second_register(info)]
    slot = slot_for_l1(m, encoding)
    if slot < 0:
        return fail(m, vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT)
    if _is_read_only(m, encoding):
        return fail(m, vmx.ERROR_VMWRITE_READ_ONLY_VMCS_COMPONENT)
    kvm_before_access(m, slot)
    m.vmcs_work[VV_WRITES] += 1
    l1_field_access(m, slot, 1, value, 0)
    write_encoded(vvmcs_base(m), slot, encoding, stored_value(m, slot, value))
    if m.feat.l0 == L0_KVM:
        kvm_note_write(m, slot)
    return finish(m, 0)


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
def _is_shadow_vmcs(m):
    """Has L1 made a shadow VMCS current?  One that L0 has marked for the processor is none of L1's."""
    if m.nv.shadow_active == XEN_SHADOW_ACTIVE:
        return False
    return ld32(host_of(m, vmcx12(m))) & SHADOW_INDICATOR != 0


@inner
def _enter(m, launch):
    """VMLAUNCH or VMRESUME: check, then ask for the virtual entry."""
    if not has_current(m) or _is_shadow_vmcs(m):
        return finish(m, CF)
    if m.nv.shadow_active == KVM_SHADOW_ACTIVE:
        kvm_shadow_to_vmcs12(m)
    if vmread(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO) & BLOCK_MOV_SS:
        return fail(m, vmx.ERROR_ENTRY_EVENTS_BLOCKED_BY_MOV_SS)
    launched = launch_state(m, vmcx12(m)) == LAUNCHED
    if launch and launched:
        return fail(m, vmx.ERROR_VMLAUNCH_NONCLEAR_VMCS)
    if not launch and not launched:
        return fail(m, vmx.ERROR_VMRESUME_NONLAUNCHED_VMCS)
    if m.feat.deviations & deviations.DEV_ENTRY_CHECKS_LEFT_TO_HARDWARE:
        if _map_missing(m):
            return fail(m, vmx.ERROR_ENTRY_INVALID_CONTROL_FIELD)
        set_vmentry_pending(m, 1)
        return ST_OK
    check = controls_wrong(m)
    if check:
        refuse(m, check, 1)
        return fail(m, FAILURE[check])
    set_vmentry_pending(m, 1)
    return ST_OK


# ---------------------------------------------------------------- VMCALL and the dispatch


@inner
def _region_instruction(m, reason):
    if reason == vmx.EXIT_VMCLEAR:
        return emulate_vmclear(m)
    if reason == vmx.EXIT_VMPTRLD:
        return emulate_vmptrld(m)
    if reason == vmx.EXIT_VMPTRST:
        return emulate_vmptrst(m)
    if reason == vmx.EXIT_VMOFF:
        return emulate_vmxoff(m)
    if reason == vmx.EXIT_INVEPT:
        return emulate_invept(m)
    return emulate_invvpid(m)


@inner
def _not_allowed(m, reason):
    """#UD outside of VMX operation, #GP(0) outside of CPL 0: the exception's vector, or 0."""
    if reason == vmx.EXIT_VMON:
        if vmread(m, vmcs.SLOT_CR4_READ_SHADOW) & CR4_VMXE == 0:
            return UD
    elif not vmxon(m):
        return UD
    return GP if m.cpu.cpl else 0


@inner
def _vmcall(m):
    """VMCALL in root operation has no monitor of SMM to call; for Xen and KVM it is a hypercall."""
    if m.feat.deviations & deviations.DEV_VMCALL_IS_HYPERCALL:
        set_gpr(m, RAX, -ENOSYS)
        return complete_instruction(m)
    vector = _not_allowed(m, vmx.EXIT_VMCALL)
    if vector:
        return inject_exception(m, vector, 0, 1 if vector == GP else 0)
    return fail(m, vmx.ERROR_VMCALL_IN_VMX_ROOT_OPERATION)


@unit(Machine, i64)
def vmx_region_instruction(m, reason):
    """The rarer VMX instructions: VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, INVEPT, INVVPID."""
    if reason == vmx.EXIT_VMON:
        return emulate_vmxon(m)
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
