"""One function per shape of instruction: what its operands are.

Each takes the instruction and the micro-op under construction, whose ``op`` is the generic one of
its mnemonic; a few mnemonics have several ops and choose here.
"""

from __future__ import annotations

from collections.abc import Callable

from iced_x86 import Instruction, Mnemonic, OpKind, Register

from ..core.cpu.ops import OPS
from ..core.layout import UF_DST_MEM, UF_SRC_IMM, UF_SRC_MEM
from .uop_fields import (
    CODE_NAMES,
    NARROW_STRINGS,
    NO_SEGMENT,
    REGISTER_NAMES,
    REGISTERS,
    SEGMENTS,
    ZERO_REGISTER,
    Fields,
    destination,
    memory_operand,
    operand_lg,
    signed,
    source,
)

Builder = Callable[[Instruction, Fields], None]


def nothing(i: Instruction, f: Fields) -> None:
    """No explicit operands."""


def binary(i: Instruction, f: Fields) -> None:
    """Destination and source of one size; the source may be an immediate."""
    f.lg = operand_lg(i, 0)
    destination(i, f)
    source(i, f)


def unary(i: Instruction, f: Fields) -> None:
    """One operand that is read and written."""
    f.lg = operand_lg(i, 0)
    f.src = ZERO_REGISTER[f.lg]
    destination(i, f)


def unary_source(i: Instruction, f: Fields) -> None:
    """One operand that is only read."""
    f.lg = operand_lg(i, 0)
    source(i, f, 0)


def shift(i: Instruction, f: Fields) -> None:
    """Shifts and rotates: count in an immediate or in CL; SHLD and SHRD have a register between."""
    f.lg = operand_lg(i, 0)
    destination(i, f)
    f.src = ZERO_REGISTER[f.lg]
    last = i.op_count - 1
    if last == 2:
        f.src = REGISTERS[i.op_register(1)][1]
    if i.op_kind(last) != OpKind.REGISTER:
        f.imm = i.immediate(last) & 0xFF
        f.flags |= UF_SRC_IMM


def bit(i: Instruction, f: Fields) -> None:
    """Bit tests: the immediate is an unsigned byte."""
    binary(i, f)
    if f.flags & UF_SRC_IMM:
        f.imm = i.immediate(1) & 0xFF


def widen(i: Instruction, f: Fields) -> None:
    """MOVZX, MOVSX: ``imm`` is the size of the source."""
    f.lg = operand_lg(i, 0)
    destination(i, f)
    source(i, f)
    f.imm = operand_lg(i, 1)


def conditional(i: Instruction, f: Fields) -> None:
    """SETcc and CMOVcc."""
    f.cond = i.condition_code - 1
    if i.op_count == 1:
        unary(i, f)
    else:
        binary(i, f)


def imul(i: Instruction, f: Fields) -> None:
    """IMUL with one, two or three operands (``cond`` is 1 with an immediate)."""
    if i.op_count == 1:
        unary_source(i, f)
        return
    f.op = OPS["IMUL2"]
    f.lg = operand_lg(i, 0)
    destination(i, f)
    source(i, f)
    if i.op_count == 3:
        f.imm = signed(i.immediate(2), f.lg)
        f.cond = 1


def sized(lg: int) -> Builder:
    """No explicit operands, but an operand size."""

    def build(i: Instruction, f: Fields) -> None:
        f.lg = lg

    return build


def branch(i: Instruction, f: Fields) -> None:
    """Direct near branch."""
    f.imm = signed(i.near_branch_target - i.next_ip)
    f.target = f.imm


def loop(i: Instruction, f: Fields) -> None:
    """LOOPcc and JrCXZ; ``asize`` when ECX counts."""
    branch(i, f)
    f.asize = int("_ECX" in CODE_NAMES[i.code] or i.mnemonic == Mnemonic.JECXZ)


def jump(i: Instruction, f: Fields) -> None:
    """JMP and CALL: direct, indirect or far."""
    is_call = i.mnemonic == Mnemonic.CALL
    if i.is_jmp_far_indirect or i.is_call_far_indirect:
        f.op = OPS["FAR_CALL" if is_call else "FAR_JMP"]
        f.lg = _far_lg(i)
        source(i, f, 0)
    elif i.op_kind(0) in (OpKind.REGISTER, OpKind.MEMORY):
        f.op = OPS["CALL_INDIRECT" if is_call else "JMP_INDIRECT"]
        source(i, f, 0)
    else:
        branch(i, f)


def _far_lg(i: Instruction) -> int:
    name = CODE_NAMES[i.code]
    return 1 if name.endswith("1616") else 2 if name.endswith("1632") else 3


def near_return(i: Instruction, f: Fields) -> None:
    """RET; with bytes to drop it is a generic op."""
    if i.op_count:
        f.op = OPS["RET_IMM"]
        f.imm = i.immediate(0) & 0xFFFF


def far_return(i: Instruction, f: Fields) -> None:
    """RETF; ``imm`` is the number of bytes to drop."""
    f.lg = {"W": 1, "D": 2, "Q": 3}[CODE_NAMES[i.code][4]]
    f.imm = i.immediate(0) & 0xFFFF if i.op_count else 0


def _stack_lg(i: Instruction) -> int:
    return 1 if abs(i.stack_pointer_increment) == 2 else 3


def push(i: Instruction, f: Fields) -> None:
    """PUSH of a register, immediate, memory operand or segment register."""
    f.lg = _stack_lg(i)
    if i.op_kind(0) == OpKind.REGISTER and i.op_register(0) in SEGMENTS:
        f.op = OPS["PUSH_SEG"]
        f.src = SEGMENTS[i.op_register(0)]
    else:
        source(i, f, 0)


def pop(i: Instruction, f: Fields) -> None:
    """POP to a register, memory operand or segment register."""
    f.lg = _stack_lg(i)
    if i.op_kind(0) == OpKind.REGISTER and i.op_register(0) in SEGMENTS:
        f.op = OPS["POP_SEG"]
        f.dst = SEGMENTS[i.op_register(0)]
    else:
        destination(i, f)


def enter(i: Instruction, f: Fields) -> None:
    """ENTER: frame size and nesting level in ``imm``."""
    f.lg = 1 if "ENTERW" in CODE_NAMES[i.code] else 3
    f.imm = i.immediate(0) & 0xFFFF | (i.immediate(1) & 31) << 16


def leave(i: Instruction, f: Fields) -> None:
    """LEAVE."""
    f.lg = 1 if CODE_NAMES[i.code] == "LEAVEW" else 3


def string(lg: int) -> Builder:
    """String instruction of element size ``lg``."""

    def build(i: Instruction, f: Fields) -> None:
        f.lg = lg
        kinds = {i.op_kind(n) for n in range(i.op_count)}
        f.asize = int(bool(kinds & NARROW_STRINGS))
        segment = i.memory_segment
        f.seg = SEGMENTS[segment] if segment in (Register.FS, Register.GS) else NO_SEGMENT
        if i.has_repne_prefix:
            f.rep = 2 if f.op in (OPS["CMPS"], OPS["SCAS"]) else 1
        elif i.has_rep_prefix:
            f.rep = 1

    return build


def xlat(i: Instruction, f: Fields) -> None:
    """XLAT: only segment and address size can vary."""
    f.asize = int(i.memory_base == Register.EBX)
    segment = i.memory_segment
    f.seg = SEGMENTS[segment] if segment in (Register.FS, Register.GS) else NO_SEGMENT


def port_in(i: Instruction, f: Fields) -> None:
    """IN from an immediate port or DX."""
    f.lg = REGISTERS[i.op_register(0)][0]
    if i.op_kind(1) != OpKind.REGISTER:
        f.imm = i.immediate(1) & 0xFF
        f.flags |= UF_SRC_IMM


def port_out(i: Instruction, f: Fields) -> None:
    """OUT to an immediate port or DX."""
    f.lg = REGISTERS[i.op_register(1)][0]
    if i.op_kind(0) != OpKind.REGISTER:
        f.imm = i.immediate(0) & 0xFF
        f.flags |= UF_SRC_IMM


def interrupt(i: Instruction, f: Fields) -> None:
    """INT n."""
    f.imm = i.immediate(0) & 0xFF


def _special_number(register: int) -> tuple[str, int]:
    name = REGISTER_NAMES[register]
    return name[:2], int(name[2:])


def mov(i: Instruction, f: Fields) -> None:
    """MOV: general, from or to an absolute address, segment, control and debug registers."""
    if "MOFFS" in CODE_NAMES[i.code]:
        to_memory = i.op_kind(0) == OpKind.MEMORY
        f.op = OPS["MOV_TO_OFFSET" if to_memory else "MOV_FROM_OFFSET"]
        f.lg = REGISTERS[i.op_register(1 if to_memory else 0)][0]
        f.imm = signed(i.memory_displacement)
        segment = i.memory_segment
        f.seg = SEGMENTS[segment] if segment in (Register.FS, Register.GS) else NO_SEGMENT
        return
    for number in (0, 1):
        if i.op_kind(number) == OpKind.REGISTER:
            register = i.op_register(number)
            if register in SEGMENTS:
                _mov_segment(i, f, number, SEGMENTS[register])
                return
            if register not in REGISTERS:
                _mov_special(i, f, number)
                return
    binary(i, f)


def _mov_segment(i: Instruction, f: Fields, number: int, segment: int) -> None:
    if number == 0:
        f.op = OPS["MOV_TO_SEG"]
        f.lg = 1
        f.dst = segment
        if i.op_kind(1) == OpKind.REGISTER:
            lg, index = REGISTERS[i.op_register(1)]
            f.src = index >> (3 - lg) << 2
        else:
            source(i, f)
    else:
        f.op = OPS["MOV_FROM_SEG"]
        f.lg = operand_lg(i, 0)
        destination(i, f)
        f.src = segment


def _mov_special(i: Instruction, f: Fields, number: int) -> None:
    kind, index = _special_number(i.op_register(number))
    if kind not in ("CR", "DR") or (kind == "CR" and index not in (0, 2, 3, 4, 8)) or index > 8:
        f.op = OPS["UD"]
        return
    f.op = OPS[f"MOV_{'TO' if number == 0 else 'FROM'}_{kind}"]
    f.imm = index
    other = REGISTERS[i.op_register(1 - number)][1]
    if number == 0:
        f.src = other
    else:
        f.dst = other


def far_pointer(i: Instruction, f: Fields) -> None:
    """LFS, LGS, LSS."""
    f.lg = REGISTERS[i.op_register(0)][0]
    f.dst = REGISTERS[i.op_register(0)][1]
    source(i, f)


def lea(i: Instruction, f: Fields) -> None:
    """LEA: an address without segment base."""
    f.lg = operand_lg(i, 0)
    destination(i, f)
    source(i, f)
    f.seg = NO_SEGMENT


def memory_source(i: Instruction, f: Fields) -> None:
    """A memory operand that is read by the instruction in its own way."""
    memory_operand(i, f)
    f.flags |= UF_SRC_MEM


def memory_destination(i: Instruction, f: Fields) -> None:
    """A memory operand that is written by the instruction in its own way."""
    memory_operand(i, f)
    f.flags |= UF_DST_MEM


def word_source(i: Instruction, f: Fields) -> None:
    """A 16-bit source: LMSW, LLDT, LTR."""
    f.lg = 1
    if i.op_kind(0) == OpKind.REGISTER:
        lg, index = REGISTERS[i.op_register(0)]
        f.src = index >> (3 - lg) << 2
    else:
        source(i, f, 0)


def virt_address(i: Instruction, f: Fields) -> None:
    """VMRUN and its kind: the address is in rAX."""
    f.asize = int(CODE_NAMES[i.code].endswith("D"))


def virt_pair(i: Instruction, f: Fields) -> None:
    """VMREAD, VMWRITE, INVEPT, INVVPID, INVPCID."""
    destination(i, f)
    source(i, f)
