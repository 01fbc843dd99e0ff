"""VMX instructions executed by a guest, and VMCS shadowing (SDM vol. 3, 26.1.2, 26.1.3, 25.10).

In a guest every VMX instruction exits, whatever the privilege level; who may use it is for L0 to
say.  The exceptions are VMREAD and VMWRITE with VMCS shadowing: where the field's bit in the VMREAD
or VMWRITE bitmap is clear, the processor itself accesses the VMCS at the link pointer.
VMFUNC raises #UD: no VM function is modelled.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmcs, vmx
from ...cpu import ops
from ...cpu.exceptions import raise_gp0, raise_ud
from ...cpu.flags import CF, STATUS_FLAGS, ZF, get_rflags, set_status
from ...cpu.operands import effective_address, read_memory, write_memory
from ...jit import inner, unit
from ...layout import ST_OK, ST_VMEXIT, UF_DST_MEM, UF_SRC_MEM, Machine, Uop
from ...ledger import (
    C_HYPERCALL,
    C_VMX_INSTRUCTION,
    E_PERMISSION_MAP_LOOKUP,
    E_VMREAD_SHADOWED,
    E_VMWRITE_SHADOWED,
    count,
)
from ...mmu.physical import host_of, ma_ld8
from ...timeline import l1_field_access
from ...words import lshr
from .exits import fill_exit
from .operands import displacement, has_memory, memory_info, operand_info
from .vmcs import DATA_OFFSET, field_slot, put, read_encoded, write_encoded

FORM_PLAIN, FORM_MEMORY, FORM_READ, FORM_WRITE, FORM_INVALIDATE, FORM_UNDEFINED = range(6)

_INSTRUCTIONS = {
    "VIRT_VMXON": (vmx.EXIT_VMON, FORM_MEMORY),
    "VIRT_VMXOFF": (vmx.EXIT_VMOFF, FORM_PLAIN),
    "VIRT_VMCLEAR": (vmx.EXIT_VMCLEAR, FORM_MEMORY),
    "VIRT_VMPTRLD": (vmx.EXIT_VMPTRLD, FORM_MEMORY),
    "VIRT_VMPTRST": (vmx.EXIT_VMPTRST, FORM_MEMORY),
    "VIRT_VMREAD": (vmx.EXIT_VMREAD, FORM_READ),
    "VIRT_VMWRITE": (vmx.EXIT_VMWRITE, FORM_WRITE),
    "VIRT_VMLAUNCH": (vmx.EXIT_VMLAUNCH, FORM_PLAIN),
    "VIRT_VMRESUME": (vmx.EXIT_VMRESUME, FORM_PLAIN),
    "VIRT_VMCALL": (vmx.EXIT_VMCALL, FORM_PLAIN),
    "VIRT_VMFUNC": (vmx.EXIT_VMFUNC, FORM_UNDEFINED),
    "VIRT_INVEPT": (vmx.EXIT_INVEPT, FORM_INVALIDATE),
    "VIRT_INVVPID": (vmx.EXIT_INVVPID, FORM_INVALIDATE),
}
REASON = np.zeros(16, np.int64)
FORM = np.full(16, FORM_UNDEFINED, np.int64)
for _name, (_reason, _form) in _INSTRUCTIONS.items():
    REASON[ops.OPS[_name] & 15] = _reason
    FORM[ops.OPS[_name] & 15] = _form


# ---------------------------------------------------------------- VMCS shadowing


@inner
def _shadowed(m, bitmap, encoding):
    """Does the processor serve this VMREAD or VMWRITE itself?"""
    if m.hw.proc2 & vmx.CPU2_SHADOW_VMCS == 0 or lshr(encoding, 15):
        return False
    count(m, E_PERMISSION_MAP_LOOKUP, 1)
    return lshr(ma_ld8(m, bitmap + (encoding >> 3)), encoding & 7) & 1 == 0


@inner
def _shadow_base(m):
    """Host address of slot 0 of the VMCS at the link pointer, 0 when there is none."""
    page = host_of(m, m.hw.link_pointer & ~0xFFF) if m.hw.link_pointer != -1 else 0
    return page + DATA_OFFSET if page else 0


@inner
def _finish(m, flags):
    """VMsucceed, or VMfailInvalid / VMfailValid by ``flags`` (SDM 31.2)."""
    set_status(m.cpu, (get_rflags(m) & ~STATUS_FLAGS) | flags)
    return ST_OK


@inner
def _fail_unsupported(m, base):
    put(base, vmcs.SLOT_VM_INSTRUCTION_ERROR, vmx.ERROR_UNSUPPORTED_VMCS_COMPONENT)
    return _finish(m, ZF)


@unit(Machine, Uop)
def vmx_shadow_read(m, u):
    """VMREAD served from the VMCS at the link pointer."""
    if m.cpu.cpl:
        return raise_gp0(m)
    encoding = m.cpu.gpr[u.src]
    base = _shadow_base(m)
    if base == 0:
        return _finish(m, CF)
    slot = field_slot(encoding)
    if slot < 0:
        return _fail_unsupported(m, base)
    value = read_encoded(base, slot, encoding)
    if u.flags & UF_DST_MEM:
        if write_memory(m, effective_address(m, u), 3, value):
            return m.pending
    else:
        m.cpu.gpr[u.dst] = value
    count(m, E_VMREAD_SHADOWED, 1)
    l1_field_access(m, slot, 0, value, 1)
    return _finish(m, 0)


@unit(Machine, Uop)
def vmx_shadow_write(m, u):
    """VMWRITE served into the VMCS at the link pointer."""
    if m.cpu.cpl:
        return raise_gp0(m)
    encoding = m.cpu.gpr[u.dst]
    value = m.cpu.gpr[u.src]
    if u.flags & UF_SRC_MEM:
        value = read_memory(m, effective_address(m, u), 3)
        if m.pending:
            return m.pending
    base = _shadow_base(m)
    if base == 0:
        return _finish(m, CF)
    slot = field_slot(encoding)
    if slot < 0:
        return _fail_unsupported(m, base)
    write_encoded(base, slot, encoding, value)
    count(m, E_VMWRITE_SHADOWED, 1)
    l1_field_access(m, slot, 1, value, 1)
    return _finish(m, 0)


# ---------------------------------------------------------------- exits


@inner
def _exit(m, u, index):
    """The exit of VMX instruction ``index``, with its operands in the instruction information."""
    reason = REASON[index]
    form = FORM[index]
    cause = C_HYPERCALL if reason == vmx.EXIT_VMCALL else C_VMX_INSTRUCTION
    qualification = 0
    info = 0
    if form != FORM_PLAIN and has_memory(u):
        qualification = displacement(m, u)
        info = memory_info(u)
    if form == FORM_READ:
        info = operand_info(u, u.dst & 15, u.src & 15)
    elif form == FORM_WRITE:
        info = operand_info(u, u.src & 15, u.dst & 15)
    elif form == FORM_INVALIDATE:
        info |= (u.dst & 15) << 28
    fill_exit(m, reason, qualification, u.len, cause)
    m.exit.insn_info = info
    return ST_VMEXIT


@unit(Machine, Uop)
def vmx_virt_instruction(m, u):
    """An SVM or VMX instruction executed by a guest of VMX."""
    if u.op >> 4 != ops.FAMILY_VIRT_VMX or m.hw.guest == 0:
        return raise_ud(m)
    index = u.op & 15
    form = FORM[index]
    if form == FORM_UNDEFINED:
        return raise_ud(m)
    if form == FORM_READ and _shadowed(m, m.hw.vmread_bitmap, m.cpu.gpr[u.src]):
        return vmx_shadow_read(m, u)
    if form == FORM_WRITE and _shadowed(m, m.hw.vmwrite_bitmap, m.cpu.gpr[u.dst]):
        return vmx_shadow_write(m, u)
    return _exit(m, u, index)
