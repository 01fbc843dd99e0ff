"""Events whose delivery an exit interrupted, for exits that L0 keeps (Xen, nvmx_idtv_handling).

The processor reports the event in the IDT-vectoring information; unless L0 tells L1 about the exit,
the guest must get it again.  When L0's handler has found an exception meanwhile, the two merge as on
hardware: to #DF, or to a triple fault when the event was a #DF (SDM vol. 3, 6.15, table 6-5);
otherwise the new exception takes the event's place.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...cpu.exceptions import CONTRIBUTORY_VECTORS, DF, PF, combined
from ...jit import inner
from ...layout import ST_OK, ST_SHUTDOWN
from ...ledger import E_L0_EVENT_INJECTED, count
from ...words import lshr
from ..nested_state import is_n2_guest
from ..virtual_exit import record_vmx_exit
from .check_util import BLOCK_NMI, INTR_ERROR, INTR_VALID, TYPE_EXCEPTION, TYPE_NMI
from .vmcs import current_base, get, vmread, vmwrite

UNBLOCKED = 1 << vmx.INTR_NMI_UNBLOCK_IRET
EVENT_SLOT = vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD
STATE_SLOT = vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO


@inner
def kind_of(info):
    """Interruption type."""
    return lshr(info, vmx.INTR_TYPE) & 7


@inner
def reinject(m, info, error):
    """Give the guest an event again, with the instruction length of a software event."""
    vmwrite(m, EVENT_SLOT, info & ~UNBLOCKED)
    if info & INTR_ERROR:
        vmwrite(m, vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE, error)
    if kind_of(info) >= vmx.INTR_TYPE_SW_INTR:
        length = vmread(m, vmcs.SLOT_VM_EXIT_INSTRUCTION_LEN)
        vmwrite(m, vmcs.SLOT_VM_ENTRY_INSTRUCTION_LEN, length)
    count(m, E_L0_EVENT_INJECTED, 1)
    return ST_OK


@inner
def _triple_fault(m):
    """#DF could not be delivered: L1 hears of L2's, and L1's own ends it."""
    if not is_n2_guest(m):
        return ST_SHUTDOWN
    m.exit.code = vmx.EXIT_TRIPLE_FAULT
    m.exit.info1 = 0
    m.exit.intr_info = 0
    record_vmx_exit(m)
    return ST_OK


@inner
def resume_delivery(m, info, error):
    """The guest goes on after an exit during the delivery of ``info``, valid vectoring information."""
    found = get(current_base(m), EVENT_SLOT)
    if found & INTR_VALID == 0:
        if kind_of(info) == TYPE_NMI:
            vmwrite(m, STATE_SLOT, vmread(m, STATE_SLOT) & ~BLOCK_NMI)
        return reinject(m, info, error)
    if kind_of(info) != TYPE_EXCEPTION or kind_of(found) != TYPE_EXCEPTION:
        return ST_OK
    second = found & 31
    grave = lshr(CONTRIBUTORY_VECTORS, second) & 1 or second == PF
    if info & 0xFF == DF and grave:
        return _triple_fault(m)
    if combined(info & 31, second) == DF:
        vmwrite(m, EVENT_SLOT, DF | TYPE_EXCEPTION << vmx.INTR_TYPE | INTR_ERROR | INTR_VALID)
        vmwrite(m, vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE, 0)
    return ST_OK


@inner
def restore_nmi_blocking(m, reason):
    """An exit by a fault of IRET, which has unblocked NMIs and will be executed again (Xen,
    undo_nmis_unblocked_by_iret)."""
    told = 0
    if reason == vmx.EXIT_EPT_VIOLATION or reason == vmx.EXIT_PML_FULL:
        told = m.exit.info1 & UNBLOCKED
    elif reason == vmx.EXIT_EXCEPTION_NMI:
        told = m.exit.intr_info & UNBLOCKED
    if told and m.exit.vectoring & INTR_VALID == 0:
        vmwrite(m, STATE_SLOT, vmread(m, STATE_SLOT) | BLOCK_NMI)
