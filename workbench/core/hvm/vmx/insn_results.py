"""What the VMX instructions that L0 emulates share: operands in L1's memory, and results.

Results are given as the manual says (SDM vol. 3, 31.2): VMsucceed clears the status flags,
VMfailInvalid sets CF, VMfailValid sets ZF and leaves the error number in vmcs12.
"""

from __future__ import annotations

from ....arch import vmcs
from ...cpu.flags import CF, STATUS_FLAGS, ZF
from ...cpu.operands import read_memory
from ...jit import inner
from ...layout import FATAL_N1P_UNMAPPED, ST_OK, ST_VMEXIT
from ...ledger import E_L0_BYTE_COPIED, E_L0_GUEST_PAGE_MAPPED, P_EMULATION, count
from ..nested_state import vmcx12_addr
from ..p2m import p2m_resolve
from .common import complete_instruction, fatal, inject_pending
from .operands import decoded_address
from .vmcs import set_vvmcs, vmread, vmwrite, vvmcs_base

NONE = -1
"""No current VMCS, no VMXON region."""
QUALIFICATION_WRITE = 2

# ---------------------------------------------------------------- results


@inner
def finish(m, flags):
    """Status flags of a VMX instruction, and step over it."""
    word = vmread(m, vmcs.SLOT_GUEST_RFLAGS) & ~STATUS_FLAGS
    vmwrite(m, vmcs.SLOT_GUEST_RFLAGS, word | flags)
    return complete_instruction(m)


@inner
def has_current(m):
    return vmcx12_addr(m) != NONE


@inner
def fail(m, error):
    """VMfailValid with ``error`` if there is a current VMCS, else VMfailInvalid."""
    if not has_current(m):
        return finish(m, CF)
    set_vvmcs(m, vvmcs_base(m), vmcs.SLOT_VM_INSTRUCTION_ERROR, error, P_EMULATION)
    return finish(m, ZF)


# ---------------------------------------------------------------- operands


@inner
def operand_address(m):
    """Linear address of the memory operand."""
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    return decoded_address(m, info, vmread(m, vmcs.SLOT_EXIT_QUALIFICATION))


@inner
def load_operand(m, va):
    """8 bytes of L1's memory; check ``m.pending``."""
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    count(m, E_L0_BYTE_COPIED, 8)
    return read_memory(m, va, 3)


@inner
def operand_fault(m):
    """An operand of L1 could not be accessed: its fault, or memory that it does not have."""
    status = m.pending
    m.pending = 0
    if status == ST_VMEXIT:
        if p2m_resolve(m, m.exit.info2, m.exit.info1 & QUALIFICATION_WRITE):
            return ST_OK  # L1 executes the instruction again
        return fatal(m, FATAL_N1P_UNMAPPED, m.exit.info2)
    return inject_pending(m)
