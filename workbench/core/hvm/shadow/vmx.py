"""L0 shadow paging under VMX: #PF, CR3 and INVLPG exits, and the end of an emulated instruction."""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...cpu.exceptions import DF, GP, PF, combined
from ...cpu.flags import RF
from ...jit import inner, unit
from ...layout import FATAL_N1P_UNMAPPED, ST_OK, Machine
from ...ledger import E_L0_EVENT_INJECTED, F_CR3_WRITE, P_ROUTING, count
from ...words import lshr
from ..nested_state import is_n2_guest
from ..tags import tags_renew
from ..virtual_exit import record_vmx_exit
from ..vmx.common import (
    INTR_ERROR,
    INTR_VALID,
    TYPE_EXCEPTION,
    complete_instruction,
    fatal,
    inject_exception,
    inject_pending,
    set_gpr,
)
from ..vmx.vmcs import get_vvmcs, own_base, put, vmread, vmwrite, vvmcs_base
from .l0 import (
    SF_FATAL,
    SF_HANDLED,
    SF_INJECT,
    current_tags,
    shadow_emulate,
    shadow_fault,
    shadow_invlpg,
)
from .pages import shadow_drop_all

CR3_WIDTH = 52
PAGE_FAULT = PF | (TYPE_EXCEPTION << vmx.INTR_TYPE) | INTR_VALID | INTR_ERROR
ERROR_SLOT = vmcs.SLOT_VM_EXIT_INTR_ERROR_CODE


@inner
def _l1_wants(m, error):
    """Does L1 intercept a #PF of L2 with this error code (SDM vol. 3, 26.2)?"""
    v = vvmcs_base(m)
    wanted = lshr(get_vvmcs(m, v, vmcs.SLOT_EXCEPTION_BITMAP, P_ROUTING), PF) & 1
    mask = get_vvmcs(m, v, vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MASK, P_ROUTING)
    match = get_vvmcs(m, v, vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MATCH, P_ROUTING)
    return wanted == (1 if error & mask == match else 0)


@inner
def _page_fault_for_l1(m):
    """The exit becomes L1's, with the error code that L2's walk gives."""
    e = m.exit
    base = own_base(m, m.hw.vmcx)
    e.code = vmx.EXIT_EXCEPTION_NMI
    e.info1 = m.exc.address
    e.intr_info = PAGE_FAULT
    e.intr_error = m.exc.error
    put(base, vmcs.SLOT_VM_EXIT_REASON, e.code)
    put(base, vmcs.SLOT_EXIT_QUALIFICATION, e.info1)
    put(base, vmcs.SLOT_VM_EXIT_INTR_INFO, e.intr_info)
    put(base, ERROR_SLOT, e.intr_error)
    record_vmx_exit(m)
    return ST_OK


@inner
def _drop_resume_flag(m):
    """The exit has saved RF for the #PF (SDM 28.3.3); the frame of another event is without it."""
    vmwrite(m, vmcs.SLOT_GUEST_RFLAGS, vmread(m, vmcs.SLOT_GUEST_RFLAGS) & ~RF)


@unit(Machine)
def vmx_shadow_inject(m):
    """The exception in ``m.exc`` is the guest's own."""
    x = m.exc
    if x.vector != PF:
        return inject_pending(m)
    if is_n2_guest(m) and _l1_wants(m, x.error):
        return _page_fault_for_l1(m)
    first = m.exit.vectoring
    if first & INTR_VALID and lshr(first, vmx.INTR_TYPE) & 7 == TYPE_EXCEPTION:
        if combined(first & 31, PF) == DF:
            _drop_resume_flag(m)
            return inject_exception(m, DF, 0, 1)
    m.cpu.cr2 = x.address
    vmwrite(m, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD, PAGE_FAULT)
    vmwrite(m, vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE, x.error)
    count(m, E_L0_EVENT_INJECTED, 1)
    return ST_OK


@inner
def _deliver_again(m):
    """The event whose delivery the exit interrupted (Xen, nvmx_idtv_handling)."""
    info = m.exit.vectoring
    if info & INTR_VALID == 0:
        return ST_OK
    vmwrite(m, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD, info & ~(1 << vmx.INTR_NMI_UNBLOCK_IRET))
    if lshr(info, vmx.INTR_TYPE) & 7 != TYPE_EXCEPTION or info & 0xFF == DF:
        _drop_resume_flag(m)
    if info & INTR_ERROR:
        vmwrite(m, vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE, m.exit.vectoring_error)
    if lshr(info, vmx.INTR_TYPE) & 7 >= vmx.INTR_TYPE_SW_INTR:
        length = vmread(m, vmcs.SLOT_VM_EXIT_INSTRUCTION_LEN)
        vmwrite(m, vmcs.SLOT_VM_ENTRY_INSTRUCTION_LEN, length)
    count(m, E_L0_EVENT_INJECTED, 1)
    return ST_OK


@unit(Machine)
def vmx_shadow_fault(m):
    """#PF exit: the qualification is the address."""
    outcome = shadow_fault(m, m.exit.info1, m.exit.intr_error)
    if outcome == SF_HANDLED:
        return _deliver_again(m)
    if outcome == SF_INJECT:
        return vmx_shadow_inject(m)
    if outcome == SF_FATAL:
        return fatal(m, FATAL_N1P_UNMAPPED, m.sh.gpa)
    if m.exit.vectoring & INTR_VALID:
        shadow_drop_all(m)  # no instruction wrote there but the delivery of an event
        return _deliver_again(m)
    return shadow_emulate(m)


@inner
def vmx_emulate_cr3(m, gpr, is_write):
    """MOV to and from CR3."""
    if not is_write:
        set_gpr(m, gpr, vmread(m, vmcs.SLOT_GUEST_CR3))
        return complete_instruction(m)
    value = m.cpu.gpr[gpr]
    if lshr(value, CR3_WIDTH):
        return inject_exception(m, GP, 0, 1)
    vmwrite(m, vmcs.SLOT_GUEST_CR3, value)
    tags_renew(m, current_tags(m), F_CR3_WRITE)
    return complete_instruction(m)


@inner
def vmx_handle_invlpg(m):
    """INVLPG; its address is the qualification."""
    shadow_invlpg(m, m.exit.info1)
    return complete_instruction(m)
