"""Fields of a micro-op, and how iced-x86's operands fill them.

The conventions are those of ``core/cpu/ops.py``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from iced_x86 import Code, Instruction, MemorySizeExt, Mnemonic, OpKind, Register, RegisterExt

from ..core.layout import REG_RIP, REG_ZERO, UF_DST_MEM, UF_SRC_IMM, UF_SRC_MEM

UOP_FORMAT = struct.Struct("<H12B2xiiqq")
"""``layout.UOP`` as bytes."""
NO_SEGMENT = 0xFF


def enum_values(kind: Any) -> dict[str, Any]:
    """Names and numbers of one of iced's enumerations."""
    return {n: v for n, v in vars(kind).items() if isinstance(v, int) and n[0] != "_"}


MNEMONICS = enum_values(Mnemonic)
CODE_NAMES = {v: n for n, v in enum_values(Code).items()}
_LG = {1: 0, 2: 1, 4: 2, 8: 3}
ZERO_REGISTER = tuple(REG_ZERO << (3 - lg) for lg in range(4))
SEGMENTS = {
    Register.ES: 0, Register.CS: 1, Register.SS: 2, Register.DS: 3, Register.FS: 4, Register.GS: 5,
}  # fmt: skip
_HIGH_BYTES = {Register.AH: 1, Register.CH: 9, Register.DH: 17, Register.BH: 25}


def _registers() -> dict[int, tuple[int, int]]:
    """iced register -> (size lg, index into the overlay of that size)."""
    table: dict[int, tuple[int, int]] = {}
    for register in enum_values(Register).values():
        if register in _HIGH_BYTES:
            table[register] = (0, _HIGH_BYTES[register])
        elif RegisterExt.is_gpr(register):
            lg = _LG[RegisterExt.size(register)]
            table[register] = (
                lg,
                (RegisterExt.number(RegisterExt.full_register(register))) << (3 - lg),
            )
    return table


REGISTERS = _registers()
_ADDRESS = {r: index >> (3 - lg) for r, (lg, index) in REGISTERS.items() if lg >= 2}
_ADDRESS |= {Register.NONE: REG_ZERO, Register.RIP: REG_RIP, Register.EIP: REG_RIP}
_NARROW_ADDRESS = {r for r, (lg, _) in REGISTERS.items() if lg == 2} | {Register.EIP}
REGISTER_NAMES = {v: n for n, v in enum_values(Register).items()}
NARROW_STRINGS = {
    OpKind.MEMORY_SEG_SI, OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_SEG_DI, OpKind.MEMORY_SEG_EDI,
    OpKind.MEMORY_ESDI, OpKind.MEMORY_ESEDI,
}  # fmt: skip


def signed(value: int, lg: int = 3) -> int:
    """The low ``8 << lg`` bits of ``value`` as a signed number."""
    bits = 8 << lg
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


@dataclass(slots=True)
class Fields:
    """The fields of a micro-op under construction; see ``layout.UOP``."""

    op: int = 0
    lg: int = 3
    dst: int = REG_ZERO
    src: int = REG_ZERO
    base: int = REG_ZERO
    index: int = REG_ZERO
    scale: int = 0
    seg: int = NO_SEGMENT
    asize: int = 0
    rep: int = 0
    cond: int = 0
    flags: int = 0
    disp: int = 0
    imm: int = 0
    target: int | None = None

    def pack(self, length: int, fetch: int, next_index: int = -1) -> bytes:
        """The micro-op as it lies in ``m.code.uops``."""
        return UOP_FORMAT.pack(
            self.op, self.lg, length, self.dst, self.src, self.base, self.index, self.scale,
            self.seg, self.asize, self.rep, self.cond, self.flags, self.disp, next_index,
            self.imm, fetch,
        )  # fmt: skip

    def plain_memory(self) -> bool:
        """Can the fast path compute the address (no segment base, 64 bits)?"""
        return self.seg == NO_SEGMENT and not self.asize


# ---------------------------------------------------------------- operands


def memory_operand(i: Instruction, f: Fields) -> None:
    f.base = _ADDRESS[i.memory_base]
    f.index = _ADDRESS.get(i.memory_index, REG_ZERO)
    f.scale = i.memory_index_scale.bit_length() - 1
    displacement = i.memory_displacement
    if f.base == REG_RIP:
        displacement -= i.next_ip
    f.disp = signed(displacement, 2)
    narrow = i.memory_base in _NARROW_ADDRESS or i.memory_index in _NARROW_ADDRESS
    nothing = i.memory_base == Register.NONE and i.memory_index == Register.NONE
    f.asize = int(narrow or (nothing and i.memory_displ_size == 4))
    segment = i.memory_segment
    f.seg = SEGMENTS[segment] if segment in (Register.FS, Register.GS) else NO_SEGMENT


def operand_lg(i: Instruction, number: int) -> int:
    """Operand size from a register operand, or from the memory operand."""
    if i.op_kind(number) == OpKind.REGISTER:
        return REGISTERS[i.op_register(number)][0]
    return _LG.get(MemorySizeExt.size(i.memory_size), 3)


def destination(i: Instruction, f: Fields, number: int = 0) -> None:
    if i.op_kind(number) == OpKind.REGISTER:
        f.dst = REGISTERS[i.op_register(number)][1]
    else:
        memory_operand(i, f)
        f.flags |= UF_DST_MEM


def source(i: Instruction, f: Fields, number: int = 1) -> None:
    kind = i.op_kind(number)
    f.src = ZERO_REGISTER[f.lg]
    if kind == OpKind.REGISTER:
        f.src = REGISTERS[i.op_register(number)][1]
    elif kind == OpKind.MEMORY:
        memory_operand(i, f)
        f.flags |= UF_SRC_MEM
    else:
        f.imm = signed(i.immediate(number), f.lg)
        f.flags |= UF_SRC_IMM
