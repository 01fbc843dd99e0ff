"""VMCS shadowing that L1 gives L2, itself a hypervisor (SDM vol. 3, 25.6.21, 26.1.2 and 31.3).

No VMCS of L0's has the processor serve L2: every VMREAD and VMWRITE of L2 exits to L0.  Where vmcs12
has the control and the field's bit in L1's VMREAD or VMWRITE bitmap is clear (``route``), L0 serves
the instruction from its copy of the VMCS at vmcs12's link pointer, taken when L2 is entered and
written back when L2 exits to L1 (KVM, nested_cache_shadow_vmcs12).  All others are exits for L1.

That KVM reports an unknown field in vmcs12 and not in the VMCS that L2 sees is a deviation.  Error 13
is never due: whoever offers L1 the control lets VMWRITE write any field.
"""

from __future__ import annotations

from ....arch import deviations, vmcs, vmx
from ...cpu.exceptions import GP
from ...cpu.flags import CF, ZF
from ...cpu.operands import read_memory, write_memory
from ...jit import inner, unit
from ...layout import L0_XEN, PAGE, ST_OK, Machine
from ...ledger import E_L0_BYTE_COPIED, E_L0_GUEST_PAGE_MAPPED, P_EMULATION, count
from ...mmu.physical import host_of, note_code_written
from ...structs import i64
from ...words import copy_bytes
from ..memory_map import SHADOW_VMCS12_MA
from ..p2m import n1p_to_l0m
from .common import inject_exception, set_gpr
from .emulate import access_fault
from .insn import slot_for_l1
from .insn_results import NONE, finish
from .kvm import stored_value
from .operands import REGISTER_FORM, decoded_address, first_register, second_register
from .vmcs import (
    get,
    get_vvmcs,
    own_base,
    put,
    read_encoded,
    set_vvmcs,
    vmread,
    vvmcs_base,
    write_encoded,
)

# ---------------------------------------------------------------- the copy


@inner
def shadows_for_l2(m, v):
    """Has vmcs12 VMCS shadowing, under an L0 that offers it?"""
    if m.feat.l0 == L0_XEN:
        return False
    cpu = get(v, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    if cpu & vmx.CPU_ACTIVATE_SECONDARY_CONTROLS == 0:
        return False
    return get(v, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL) & vmx.CPU2_SHADOW_VMCS != 0


@inner
def _page(m, v):
    """Host address of the page at vmcs12's link pointer, 0 when there is none."""
    link = get_vvmcs(m, v, vmcs.SLOT_VMCS_LINK_POINTER, P_EMULATION)
    if link == NONE:
        return 0
    ma = n1p_to_l0m(m, link & ~(PAGE - 1))
    return host_of(m, ma) if ma >= 0 else 0


@inner
def _count_copy(m):
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    count(m, E_L0_BYTE_COPIED, PAGE)


@unit(Machine, i64)
def load_l2_shadow(m, v):
    """Virtual entry: L2's VMCS as it is in L1's memory."""
    host = _page(m, v)
    if host:
        copy_bytes(m.ram + SHADOW_VMCS12_MA, host, PAGE)
        _count_copy(m)
    return ST_OK


@unit(Machine, i64)
def store_l2_shadow(m, v):
    """Virtual exit: what L2 wrote reaches L1's memory."""
    host = _page(m, v)
    if host:
        copy_bytes(host, m.ram + SHADOW_VMCS12_MA, PAGE)
        note_code_written(m, host, PAGE)
        _count_copy(m)
    return ST_OK


# ---------------------------------------------------------------- VMREAD and VMWRITE of L2


@inner
def _fail(m, shadow, error):
    slot = vmcs.SLOT_VM_INSTRUCTION_ERROR
    if m.feat.deviations & deviations.DEV_SHADOW_ERROR_IN_VMCS12:
        set_vvmcs(m, vvmcs_base(m), slot, error, P_EMULATION)
    else:
        put(shadow, slot, error)
    return finish(m, ZF)


@inner
def _operand_address(m, info):
    return decoded_address(m, info, vmread(m, vmcs.SLOT_EXIT_QUALIFICATION))


@inner
def _read(m, info, value):
    if info & REGISTER_FORM:
        set_gpr(m, first_register(info), value)
    elif write_memory(m, _operand_address(m, info), 3, value):
        return access_fault(m)
    return finish(m, 0)


@unit(Machine, i64)
def l2_field_access(m, is_write):
    """VMREAD or VMWRITE of L2 that L1 does not want to see."""
    if m.cpu.cpl:
        return inject_exception(m, GP, 0, 1)
    if get_vvmcs(m, vvmcs_base(m), vmcs.SLOT_VMCS_LINK_POINTER, P_EMULATION) == NONE:
        return finish(m, CF)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    value = 0
    if is_write and info & REGISTER_FORM:
        value = m.cpu.gpr[first_register(info)]
    elif is_write:
        value = read_memory(m, _operand_address(m, info), 3)
        if m.pending:
            return access_fault(m)
    encoding = m.cpu.gpr[second_register(info)]
    slot = slot_for_l1(m, encoding)
    shadow = own_base(m, SHADOW_VMCS12_MA)
    if slot < 0:
        return _fail(m, shadow, vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT)
    if is_write:
        write_encoded(shadow, slot, encoding, stored_value(m, slot, value))
        return finish(m, 0)
    return _read(m, info, read_encoded(shadow, slot, encoding))
