"""The families of micro-ops that the run loop does not execute itself, each to its ``exec_<family>``."""

from __future__ import annotations

from ..hvm.intercepts import virt_instruction
from ..jit import unit
from ..layout import Machine, Uop
from . import ops
from .alu import exec_alu, exec_flag
from .bits import exec_bits
from .control import exec_control
from .exceptions import raise_ud
from .move import exec_move
from .muldiv import exec_muldiv
from .register import exec_register
from .shift import exec_shift
from .stack import exec_stack
from .string import exec_string
from .system import exec_system
from .table import exec_table


@unit(Machine, Uop)
def exec_slow(m, u):
    """Families that ask the system: SYSTEM and above."""
    family = u.op >> 4
    if family == ops.FAMILY_SYSTEM:
        return exec_system(m, u)
    if family == ops.FAMILY_CONTROL:
        return exec_control(m, u)
    if family == ops.FAMILY_REGISTER:
        return exec_register(m, u)
    if family == ops.FAMILY_TABLE:
        return exec_table(m, u)
    if m.hw.guest == 0:
        return raise_ud(m)
    return virt_instruction(m, u)


@unit(Machine, Uop)
def exec_generic(m, u):
    """Families of any operand size, dispatched; see ``ops``."""
    family = u.op >> 4
    if family == ops.FAMILY_ALU:
        return exec_alu(m, u)
    if family == ops.FAMILY_MOVE:
        return exec_move(m, u)
    if family == ops.FAMILY_SHIFT:
        return exec_shift(m, u)
    if family == ops.FAMILY_MULDIV:
        return exec_muldiv(m, u)
    if family == ops.FAMILY_BITS:
        return exec_bits(m, u)
    if family == ops.FAMILY_STACK:
        return exec_stack(m, u)
    if family == ops.FAMILY_FLAG:
        return exec_flag(m, u)
    return exec_string(m, u)
