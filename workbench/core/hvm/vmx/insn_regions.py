"""VMXON, VMXOFF, VMCLEAR, VMPTRLD and VMPTRST of L1: its VMX regions, and which VMCS is current.

With VMCS shadowing, the current VMCS is served by the processor from VMPTRLD on.  That Xen does not
look at CR0 in VMXON is a deviation.  L1 that is offered VMCS shadowing may make a shadow VMCS of
its own current; Xen's way of shadowing leaves such a page alone.  The launch state of a VMCS is kept in its own region (byte 8),
where Xen keeps a list.
"""

from __future__ import annotations

from ....arch import deviations, vmcs, vmx
from ...cpu.exceptions import GP
from ...cpu.flags import CF
from ...cpu.operands import write_memory
from ...jit import inner, unit
from ...layout import L0_KVM, PAGE, ST_OK, Machine
from ...ledger import (
    E_L0_BYTE_COPIED,
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_VMCLEAR,
    E_L0_VMPTRLD,
    count,
)
from ...mmu.physical import host_of
from ...words import copy_bytes, ld32, lshr, st32
from ..memory_map import (
    KVM_SHADOW_MA,
    KVM_VMCS12_MA,
    VMCX01_MA,
    VMCX02_MA,
    VMREAD_BITMAP_MA,
    VMWRITE_BITMAP_MA,
)
from ..nested_state import (
    beyond_limit,
    set_vmcx12,
    set_vmcx12_addr,
    set_vmxon_addr,
    vmcx12,
    vmcx12_addr,
    vmxon,
    vmxon_addr,
)
from ..p2m import n1p_to_l0m
from .common import inject_exception
from .controls import CR0_FIXED0
from .insn_results import (
    NONE,
    fail,
    finish,
    has_current,
    load_operand,
    operand_address,
    operand_fault,
)
from .kvm import KVM_SHADOW_ACTIVE, kvm_flush_vmcs12, kvm_load_vmcs12, kvm_start_shadowing
from .offer import CPU2, l1_may
from .vmcs import (
    CLEAR,
    SHADOW_INDICATOR,
    XEN_SHADOW_ACTIVE,
    get,
    own_base,
    set_launch_state,
    settle,
    vmread,
    vmwrite,
)

ADDRESS_BITS = 40

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
    if has_current(m):
        if m.feat.l0 == L0_KVM:
            kvm_flush_vmcs12(m)
        if nv.shadow_active:
            _stop_shadowing(m)
        set_vmcx12_addr(m, NONE)
        set_vmcx12(m, NONE)
    return ST_OK


@inner
def _region(m, n1p):
    """Machine address of the VMX region at ``n1p``, -1 when the pointer is not valid."""
    if n1p & (PAGE - 1) or lshr(n1p, ADDRESS_BITS) or beyond_limit(m, n1p):
        return -1
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    ma = n1p_to_l0m(m, n1p)
    return ma if ma >= 0 and host_of(m, ma) != 0 else -1


# ---------------------------------------------------------------- VMXON, VMXOFF


@inner
def emulate_vmxon(m):
    """VMXON: the region, and vmcs02 for the guests to come."""
    pointer = load_operand(m, operand_address(m))
    if m.pending:
        return operand_fault(m)
    if vmxon(m):
        return fail(m, vmx.ERROR_VMXON_IN_VMX_ROOT_OPERATION)
    cr0 = vmread(m, vmcs.SLOT_CR0_READ_SHADOW)
    if cr0 & CR0_FIXED0 != CR0_FIXED0 and (
        m.feat.deviations & deviations.DEV_VMXON_IGNORES_CR0 == 0
    ):
        return inject_exception(m, GP, 0, 1)
    ma = _region(m, pointer)
    if ma < 0 or ld32(host_of(m, ma)) != vmcs.REVISION:
        return finish(m, CF)
    set_vmxon_addr(m, pointer)
    set_vmcx12_addr(m, NONE)
    set_vmcx12(m, NONE)
    # vmcs02 starts as a copy of vmcs01
    count(m, E_L0_VMCLEAR, 1)
    count(m, E_L0_BYTE_COPIED, PAGE)
    count(m, E_L0_VMPTRLD, 1)
    copy_bytes(m.ram + VMCX02_MA, m.ram + VMCX01_MA, PAGE)
    return finish(m, 0)


@inner
def emulate_vmxoff(m):
    """VMXOFF: no VMCS is current, and no region in use."""
    vmx_drop_vvmcs(m)
    set_vmxon_addr(m, NONE)
    return finish(m, 0)


# ---------------------------------------------------------------- VMCLEAR, VMPTRLD, VMPTRST


@inner
def emulate_vmclear(m):
    """VMCLEAR: the VMCS is clear, and no longer current if it was."""
    pointer = load_operand(m, operand_address(m))
    if m.pending:
        return operand_fault(m)
    if pointer == vmxon_addr(m):
        return fail(m, vmx.ERROR_VMCLEAR_VMXON_POINTER)
    ma = _region(m, pointer)
    if ma < 0:
        return fail(m, vmx.ERROR_VMCLEAR_INVALID_ADDRESS)
    if pointer == vmcx12_addr(m):
        vmx_drop_vvmcs(m)
    set_launch_state(m, ma, CLEAR)
    return finish(m, 0)


@inner
def emulate_vmptrld(m):
    """VMPTRLD: another VMCS is current; with VMCS shadowing the processor serves it."""
    pointer = load_operand(m, operand_address(m))
    if m.pending:
        return operand_fault(m)
    if pointer == vmxon_addr(m):
        return fail(m, vmx.ERROR_VMPTRLD_VMXON_POINTER)
    ma = _region(m, pointer)
    if ma < 0:
        return fail(m, vmx.ERROR_VMPTRLD_INVALID_ADDRESS)
    if pointer == vmcx12_addr(m):
        return finish(m, 0)
    revision = ld32(host_of(m, ma))
    is_shadow = revision & SHADOW_INDICATOR != 0
    if is_shadow and l1_may(m, CPU2) & vmx.CPU2_SHADOW_VMCS:
        revision &= ~SHADOW_INDICATOR
    if revision != vmcs.REVISION:
        return fail(m, vmx.ERROR_VMPTRLD_INCORRECT_VMCS_REVISION_ID)
    vmx_drop_vvmcs(m)
    set_vmcx12_addr(m, pointer)
    if m.feat.l0 == L0_KVM:
        m.kvm.page = ma
        set_vmcx12(m, KVM_VMCS12_MA)
        kvm_load_vmcs12(m)
    else:
        set_vmcx12(m, ma)
    if m.feat.vmcs_shadowing and (m.feat.l0 == L0_KVM or not is_shadow):
        _start_shadowing(m)
    return finish(m, 0)


@inner
def emulate_vmptrst(m):
    """VMPTRST: the pointer to the current VMCS into L1's memory."""
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    count(m, E_L0_BYTE_COPIED, 8)
    if write_memory(m, operand_address(m), 3, vmcx12_addr(m)):
        return operand_fault(m)
    return finish(m, 0)
