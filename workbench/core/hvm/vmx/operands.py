"""Operands of VMX instructions in exit information: written by the processor, decoded by L0.

On an exit by an instruction with operands the processor describes them in the VM-exit instruction
information, and leaves the displacement in the exit qualification (SDM vol. 3, 28.2.5, tables 28-8
to 28-14).  L0 finds the operands from these two words and the guest's registers.
"""

from __future__ import annotations

from ....arch import vmcs
from ...cpu.operands import NO_SEGMENT
from ...jit import inner
from ...layout import RBP, REG_RIP, REG_ZERO, RSP, UF_DST_MEM, UF_SRC_MEM
from ...words import lshr
from .vmcs import vmread

SCALE_MASK = 3
ADDRESS_SIZE = 7
ADDRESS_32, ADDRESS_64 = 1, 2
REGISTER_FORM = 1 << 10
SEGMENT = 15
SEG_SS, SEG_DS, SEG_FS, SEG_GS = 2, 3, 4, 5
INDEX, INDEX_INVALID = 18, 1 << 22
BASE, BASE_INVALID = 23, 1 << 27
REG1, REG2 = 3, 28
"""Bit positions and masks of the instruction information."""


# ---------------------------------------------------------------- the processor's side


@inner
def has_memory(u):
    """Is one operand in memory?"""
    return u.flags & (UF_DST_MEM | UF_SRC_MEM) != 0


@inner
def memory_info(u):
    """Instruction information of a memory operand."""
    info = u.scale & SCALE_MASK
    info |= (ADDRESS_32 if u.asize else ADDRESS_64) << ADDRESS_SIZE
    segment = SEG_DS
    if u.base == RSP or u.base == RBP:
        segment = SEG_SS
    if u.seg == SEG_FS or u.seg == SEG_GS:
        segment = u.seg
    info |= segment << SEGMENT
    info |= INDEX_INVALID if u.index >= REG_ZERO else u.index << INDEX
    info |= BASE_INVALID if u.base >= REG_ZERO else u.base << BASE
    return info


@inner
def displacement(m, u):
    """Exit qualification of a memory operand: the displacement, plus RIP when relative to it."""
    return u.disp + (m.cpu.gpr[REG_RIP] if u.base == REG_RIP else 0)


@inner
def operand_info(u, register, other):
    """Instruction information of one operand in register or memory, and ``other`` in Reg2."""
    if has_memory(u):
        return memory_info(u) | (other << REG2)
    return REGISTER_FORM | (register << REG1) | (other << REG2)


@inner
def table_operand(m, u, index, identity):
    """Displacement and operand of a descriptor-table instruction into ``m.exit`` (28.2.1, 28.2.5).

    ``index`` is the register operand as micro-ops count it: in registers of the operand's size.
    """
    m.exit.insn_info = operand_info(u, (index >> (3 - (u.lg & 3))) & 15, identity)
    if has_memory(u):
        m.exit.info1 = displacement(m, u)


@inner
def string_info(u, is_in):
    """Instruction information of INS and OUTS (table 28-8); INS always uses ES and names none."""
    info = (ADDRESS_32 if u.asize else ADDRESS_64) << ADDRESS_SIZE
    if is_in:
        return info
    return info | ((SEG_DS if u.seg == NO_SEGMENT else u.seg & 7) << SEGMENT)


# ---------------------------------------------------------------- L0's side


@inner
def second_register(info):
    """Number of the register operand in Reg2."""
    return lshr(info, REG2) & 15


@inner
def first_register(info):
    """Number of the register operand in Reg1 (when the operand is not in memory)."""
    return lshr(info, REG1) & 15


@inner
def address_mask(info):
    """Bits of a register that an instruction of this address size uses."""
    return 0xFFFF_FFFF if lshr(info, ADDRESS_SIZE) & 7 == ADDRESS_32 else -1


@inner
def decoded_address(m, info, qualification):
    """Linear address of the memory operand, as L0 computes it from the exit information."""
    va = qualification
    if info & BASE_INVALID == 0:
        va += m.cpu.gpr[lshr(info, BASE) & 15]
    if info & INDEX_INVALID == 0:
        va += m.cpu.gpr[lshr(info, INDEX) & 15] << (info & SCALE_MASK)
    va &= address_mask(info)
    segment = lshr(info, SEGMENT) & 7
    if segment == SEG_FS:
        va += vmread(m, vmcs.SLOT_GUEST_FS_BASE)
    elif segment == SEG_GS:
        va += vmread(m, vmcs.SLOT_GUEST_GS_BASE)
    return va
