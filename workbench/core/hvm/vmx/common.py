"""What L0's VMX exit handlers share: registers, instruction completion, event injection.

While L0 works the guest's RSP, RIP, RFLAGS and control registers are in the current VMCS; the other
general registers, and copies of everything, are in ``m.cpu``.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...cpu.debug import DR6_BS
from ...cpu.exceptions import PF
from ...cpu.flags import TF
from ...jit import inner
from ...layout import L0_KVM, RSP, ST_FATAL, ST_OK
from ...ledger import E_L0_EVENT_INJECTED, E_L0_INSTRUCTION_EMULATED, P_EMULATION, count
from ...words import lshr
from ..nested_state import is_n2_guest
from ..virtual_exit import exit_asked, record_vmx_exit
from .checks import BLOCK_MOV_SS, BLOCK_STI
from .vmcs import READS, WRITES, current_base, get, get_vvmcs, vmread, vmwrite, vvmcs_base

INTR_VALID = 1 << vmx.INTR_VALID
INTR_ERROR = 1 << vmx.INTR_ERRCODE_VALID
TYPE_EXCEPTION = vmx.INTR_TYPE_HW_EXCEPTION
COMMON_READS, COMMON_WRITES = 8, 3
"""VMREADs and VMWRITEs that Xen makes around every exit, whatever it was (l1_profiles.csv,
xen-4.2x): RIP, RSP, RFLAGS, CS attributes, CR4, CR3, reason, IDT-vectoring; RIP, RSP, RFLAGS."""
KVM_COMMON_READS = 2
"""KVM reads the reason and the IDT-vectoring information, and writes nothing."""


@inner
def count_common(m):
    """What L0 reads and writes of its VMCS around every exit."""
    if m.feat.l0 == L0_KVM:
        m.vmcs_work[READS] += KVM_COMMON_READS
    else:
        m.vmcs_work[READS] += COMMON_READS
        m.vmcs_work[WRITES] += COMMON_WRITES


@inner
def fatal(m, why, code):
    """L0 gives up on L1."""
    m.fatal = why
    m.fatal_code = code
    return ST_FATAL


@inner
def set_gpr(m, register, value):
    """Write a general register of the stopped guest."""
    m.cpu.gpr[register] = value
    if register == RSP:
        vmwrite(m, vmcs.SLOT_GUEST_RSP, value)


@inner
def complete_instruction(m):
    """Step the guest over the instruction that L0 emulated."""
    count(m, E_L0_INSTRUCTION_EMULATED, 1)
    if m.feat.l0 == L0_KVM:
        m.vmcs_work[READS] += 1  # RFLAGS, for a trap flag
    length = vmread(m, vmcs.SLOT_VM_EXIT_INSTRUCTION_LEN)
    vmwrite(m, vmcs.SLOT_GUEST_RIP, vmread(m, vmcs.SLOT_GUEST_RIP) + length)
    blocked = vmread(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO)
    if blocked & (BLOCK_STI | BLOCK_MOV_SS):
        vmwrite(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO, blocked & ~(BLOCK_STI | BLOCK_MOV_SS))
    if get(current_base(m), vmcs.SLOT_GUEST_RFLAGS) & TF:
        pending = vmread(m, vmcs.SLOT_GUEST_PENDING_DBG_EXCEPTIONS)
        vmwrite(m, vmcs.SLOT_GUEST_PENDING_DBG_EXCEPTIONS, pending | DR6_BS)
    return ST_OK


@inner
def _l1_wants(m, vector, error):
    """Does an exception of L2 exit to L1?  For #PF the error code has a say (SDM vol. 3, 26.2)."""
    v = vvmcs_base(m)
    wanted = lshr(get_vvmcs(m, v, vmcs.SLOT_EXCEPTION_BITMAP, P_EMULATION), vector) & 1
    if vector != PF:
        return wanted != 0
    mask = get_vvmcs(m, v, vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MASK, P_EMULATION)
    match = get_vvmcs(m, v, vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MATCH, P_EMULATION)
    return wanted == (1 if error & mask == match else 0)


@inner
def inject_exception(m, vector, error, has_error):
    """Give the guest an exception found by L0.

    For L2 the exception goes to L1 when L1's exception bitmap asks for it (Xen,
    nhvm_vcpu_vmexit_event); the virtual exit's information replaces that in ``m.exit``.
    """
    info = vector | (TYPE_EXCEPTION << vmx.INTR_TYPE) | INTR_VALID
    if has_error:
        info |= INTR_ERROR
    if is_n2_guest(m):
        if _l1_wants(m, vector, error):
            m.exit.code = vmx.EXIT_EXCEPTION_NMI
            m.exit.info1 = m.exc.address if vector == PF else 0
            m.exit.intr_info = info
            m.exit.intr_error = error
            record_vmx_exit(m)
            return ST_OK
    vmwrite(m, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD, info)
    if has_error:
        vmwrite(m, vmcs.SLOT_VM_ENTRY_EXCEPTION_ERROR_CODE, error)
    count(m, E_L0_EVENT_INJECTED, 1)
    return ST_OK


@inner
def inject_pending(m):
    """Give the guest the exception that an emulation step left in ``m.exc``."""
    m.pending = 0
    x = m.exc
    outcome = inject_exception(m, x.vector & 31, x.error, x.has_error)
    if x.vector == PF and exit_asked(m) == 0:
        m.cpu.cr2 = x.address  # an exit says the address itself
    return outcome
