"""One x86 instruction, as iced-x86 decodes it, to the fields of one micro-op.

The conventions are those of ``core/cpu/ops.py``: a generic micro-op is built first, then replaced
by a specialised fast one where its operands allow.  What is not in the tables here becomes
``UNKNOWN`` and raises #UD in the guest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from iced_x86 import Code, FlowControl, Instruction, MemorySizeExt, Mnemonic, OpKind, Register, RegisterExt

from workbench.core.cpu.ops import OPS
from workbench.core.layout import (
    REG_RIP,
    REG_ZERO,
    UF_DST_MEM,
    UF_LOCK,
    UF_SRC_IMM,
    UF_SRC_MEM,
)

UOP_FORMAT = struct.Struct("<H12B2xiiqq")
"""``layout.UOP`` as bytes."""
NO_SEGMENT = 0xFF


def _enum(kind: type) -> dict[str, int]:
    return {n: v for n, v in vars(kind).items() if isinstance(v, int) and n[0] != "_"}


_CODE = _enum(Code)
_MNEMONIC = _enum(Mnemonic)
_MNEMONIC_NAMES = {v: n for n, v in _MNEMONIC.items()}
_CODE_NAMES = {v: n for n, v in _CODE.items()}
_LG = {1: 0, 2: 1, 4: 2, 8: 3}
_ZERO = tuple(REG_ZERO << (3 - lg) for lg in range(4))
_SEGMENTS = {
    Register.ES: 0, Register.CS: 1, Register.SS: 2, Register.DS: 3, Register.FS: 4, Register.GS: 5,
}  # fmt: skip
_HIGH_BYTES = {Register.AH: 1, Register.CH: 9, Register.DH: 17, Register.BH: 25}


def _registers() -> dict[int, tuple[int, int]]:
    """iced register -> (size lg, index into the overlay of that size)."""
    table: dict[int, tuple[int, int]] = {}
    for register in _enum(Register).values():
        if register in _HIGH_BYTES:
            table[register] = (0, _HIGH_BYTES[register])
        elif RegisterExt.is_gpr(register):
            lg = _LG[RegisterExt.size(register)]
            table[register] = (lg, (RegisterExt.number(RegisterExt.full_register(register))) << (3 - lg))
    return table


_REGISTERS = _registers()
_ADDRESS = {r: index >> (3 - lg) for r, (lg, index) in _REGISTERS.items() if lg >= 2}
_ADDRESS |= {Register.NONE: REG_ZERO, Register.RIP: REG_RIP, Register.EIP: REG_RIP}
_NARROW_ADDRESS = {r for r, (lg, _) in _REGISTERS.items() if lg == 2} | {Register.EIP}
_STRING_ASIZE = {
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


def _memory(i: Instruction, f: Fields) -> None:
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
    f.seg = _SEGMENTS[segment] if segment in (Register.FS, Register.GS) else NO_SEGMENT


def _operand_lg(i: Instruction, number: int) -> int:
    """Operand size from a register operand, or from the memory operand."""
    if i.op_kind(number) == OpKind.REGISTER:
        return _REGISTERS[i.op_register(number)][0]
    return _LG.get(MemorySizeExt.size(i.memory_size), 3)


def _destination(i: Instruction, f: Fields, number: int = 0) -> None:
    if i.op_kind(number) == OpKind.REGISTER:
        f.dst = _REGISTERS[i.op_register(number)][1]
    else:
        _memory(i, f)
        f.flags |= UF_DST_MEM


def _source(i: Instruction, f: Fields, number: int = 1) -> None:
    kind = i.op_kind(number)
    f.src = _ZERO[f.lg]
    if kind == OpKind.REGISTER:
        f.src = _REGISTERS[i.op_register(number)][1]
    elif kind == OpKind.MEMORY:
        _memory(i, f)
        f.flags |= UF_SRC_MEM
    else:
        f.imm = signed(i.immediate(number), f.lg)
        f.flags |= UF_SRC_IMM


# ---------------------------------------------------------------- builders, one per shape


Builder = Callable[[Instruction, Fields], None]


def _nothing(i: Instruction, f: Fields) -> None:
    pass


def _binary(i: Instruction, f: Fields) -> None:
    f.lg = _operand_lg(i, 0)
    _destination(i, f)
    _source(i, f)


def _unary(i: Instruction, f: Fields) -> None:
    f.lg = _operand_lg(i, 0)
    f.src = _ZERO[f.lg]
    _destination(i, f)


def _unary_source(i: Instruction, f: Fields) -> None:
    f.lg = _operand_lg(i, 0)
    _source(i, f, 0)


def _shift(i: Instruction, f: Fields) -> None:
    f.lg = _operand_lg(i, 0)
    _destination(i, f)
    f.src = _ZERO[f.lg]
    last = i.op_count - 1
    if last == 2:
        f.src = _REGISTERS[i.op_register(1)][1]
    if i.op_kind(last) != OpKind.REGISTER:
        f.imm = i.immediate(last) & 0xFF
        f.flags |= UF_SRC_IMM


def _bit(i: Instruction, f: Fields) -> None:
    _binary(i, f)
    if f.flags & UF_SRC_IMM:
        f.imm = i.immediate(1) & 0xFF


def _widen(i: Instruction, f: Fields) -> None:
    f.lg = _operand_lg(i, 0)
    _destination(i, f)
    _source(i, f)
    f.imm = _operand_lg(i, 1)


def _conditional(i: Instruction, f: Fields) -> None:
    f.cond = i.condition_code - 1
    if i.op_count == 1:
        _unary(i, f)
    else:
        _binary(i, f)


def _imul(i: Instruction, f: Fields) -> None:
    if i.op_count == 1:
        _unary_source(i, f)
        return
    f.op = OPS["IMUL2"]
    f.lg = _operand_lg(i, 0)
    _destination(i, f)
    _source(i, f)
    if i.op_count == 3:
        f.imm = signed(i.immediate(2), f.lg)
        f.cond = 1


def _sized(lg: int) -> Builder:
    def build(i: Instruction, f: Fields) -> None:
        f.lg = lg

    return build


def _branch(i: Instruction, f: Fields) -> None:
    f.imm = signed(i.near_branch_target - i.next_ip)
    f.target = f.imm


def _loop(i: Instruction, f: Fields) -> None:
    _branch(i, f)
    f.asize = int("_ECX" in _CODE_NAMES[i.code] or i.mnemonic == Mnemonic.JECXZ)


def _jump(i: Instruction, f: Fields) -> None:
    is_call = i.mnemonic == Mnemonic.CALL
    if i.is_jmp_far_indirect or i.is_call_far_indirect:
        f.op = OPS["FAR_CALL" if is_call else "FAR_JMP"]
        f.lg = _far_lg(i)
        _source(i, f, 0)
    elif i.op_kind(0) in (OpKind.REGISTER, OpKind.MEMORY):
        f.op = OPS["CALL_INDIRECT" if is_call else "JMP_INDIRECT"]
        _source(i, f, 0)
    else:
        _branch(i, f)


def _far_lg(i: Instruction) -> int:
    name = _CODE_NAMES[i.code]
    return 1 if name.endswith("1616") else 2 if name.endswith("1632") else 3


def _return(i: Instruction, f: Fields) -> None:
    if i.op_count:
        f.op = OPS["RET_IMM"]
        f.imm = i.immediate(0) & 0xFFFF


def _far_return(i: Instruction, f: Fields) -> None:
    f.lg = {"W": 1, "D": 2, "Q": 3}[_CODE_NAMES[i.code][4]]
    f.imm = i.immediate(0) & 0xFFFF if i.op_count else 0


def _stack_lg(i: Instruction) -> int:
    return 1 if abs(i.stack_pointer_increment) == 2 else 3


def _push(i: Instruction, f: Fields) -> None:
    f.lg = _stack_lg(i)
    if i.op_kind(0) == OpKind.REGISTER and i.op_register(0) in _SEGMENTS:
        f.op = OPS["PUSH_SEG"]
        f.src = _SEGMENTS[i.op_register(0)]
    else:
        _source(i, f, 0)


def _pop(i: Instruction, f: Fields) -> None:
    f.lg = _stack_lg(i)
    if i.op_kind(0) == OpKind.REGISTER and i.op_register(0) in _SEGMENTS:
        f.op = OPS["POP_SEG"]
        f.dst = _SEGMENTS[i.op_register(0)]
    else:
        _destination(i, f)


def _enter(i: Instruction, f: Fields) -> None:
    f.lg = 1 if "ENTERW" in _CODE_NAMES[i.code] else 3
    f.imm = i.immediate(0) & 0xFFFF | (i.immediate(1) & 31) << 16


def _leave(i: Instruction, f: Fields) -> None:
    f.lg = 1 if _CODE_NAMES[i.code] == "LEAVEW" else 3


def _string(lg: int) -> Builder:
    def build(i: Instruction, f: Fields) -> None:
        f.lg = lg
        kinds = {i.op_kind(n) for n in range(i.op_count)}
        f.asize = int(bool(kinds & _STRING_ASIZE))
        segment = i.memory_segment
        f.seg = _SEGMENTS[segment] if segment in (Register.FS, Register.GS) else NO_SEGMENT
        if i.has_repne_prefix:
            f.rep = 2 if f.op in (OPS["CMPS"], OPS["SCAS"]) else 1
        elif i.has_rep_prefix:
            f.rep = 1

    return build


def _xlat(i: Instruction, f: Fields) -> None:
    f.asize = int(i.memory_base == Register.EBX)
    segment = i.memory_segment
    f.seg = _SEGMENTS[segment] if segment in (Register.FS, Register.GS) else NO_SEGMENT


def _in(i: Instruction, f: Fields) -> None:
    f.lg = _REGISTERS[i.op_register(0)][0]
    if i.op_kind(1) != OpKind.REGISTER:
        f.imm = i.immediate(1) & 0xFF
        f.flags |= UF_SRC_IMM


def _out(i: Instruction, f: Fields) -> None:
    f.lg = _REGISTERS[i.op_register(1)][0]
    if i.op_kind(0) != OpKind.REGISTER:
        f.imm = i.immediate(0) & 0xFF
        f.flags |= UF_SRC_IMM


def _int(i: Instruction, f: Fields) -> None:
    f.imm = i.immediate(0) & 0xFF


def _special_number(register: int) -> tuple[str, int]:
    name = _REGISTER_NAMES[register]
    return name[:2], int(name[2:])


_REGISTER_NAMES = {v: n for n, v in _enum(Register).items()}


def _mov(i: Instruction, f: Fields) -> None:
    if "MOFFS" in _CODE_NAMES[i.code]:
        to_memory = i.op_kind(0) == OpKind.MEMORY
        f.op = OPS["MOV_TO_OFFSET" if to_memory else "MOV_FROM_OFFSET"]
        f.lg = _REGISTERS[i.op_register(1 if to_memory else 0)][0]
        f.imm = signed(i.memory_displacement)
        segment = i.memory_segment
        f.seg = _SEGMENTS[segment] if segment in (Register.FS, Register.GS) else NO_SEGMENT
        return
    for number in (0, 1):
        if i.op_kind(number) == OpKind.REGISTER:
            register = i.op_register(number)
            if register in _SEGMENTS:
                _mov_segment(i, f, number, _SEGMENTS[register])
                return
            if register not in _REGISTERS:
                _mov_special(i, f, number)
                return
    _binary(i, f)


def _mov_segment(i: Instruction, f: Fields, number: int, segment: int) -> None:
    if number == 0:
        f.op = OPS["MOV_TO_SEG"]
        f.lg = 1
        f.dst = segment
        if i.op_kind(1) == OpKind.REGISTER:
            lg, index = _REGISTERS[i.op_register(1)]
            f.src = index >> (3 - lg) << 2
        else:
            _source(i, f)
    else:
        f.op = OPS["MOV_FROM_SEG"]
        f.lg = _operand_lg(i, 0)
        _destination(i, f)
        f.src = segment


def _mov_special(i: Instruction, f: Fields, number: int) -> None:
    kind, index = _special_number(i.op_register(number))
    if kind not in ("CR", "DR") or (kind == "CR" and index not in (0, 2, 3, 4, 8)) or index > 8:
        f.op = OPS["UD"]
        return
    f.op = OPS[f"MOV_{'TO' if number == 0 else 'FROM'}_{kind}"]
    f.imm = index
    other = _REGISTERS[i.op_register(1 - number)][1]
    if number == 0:
        f.src = other
    else:
        f.dst = other


def _far_pointer(i: Instruction, f: Fields) -> None:
    f.lg = _REGISTERS[i.op_register(0)][0]
    f.dst = _REGISTERS[i.op_register(0)][1]
    _source(i, f)


def _lea(i: Instruction, f: Fields) -> None:
    f.lg = _operand_lg(i, 0)
    _destination(i, f)
    _source(i, f)
    f.seg = NO_SEGMENT


def _memory_source(i: Instruction, f: Fields) -> None:
    _memory(i, f)
    f.flags |= UF_SRC_MEM


def _memory_destination(i: Instruction, f: Fields) -> None:
    _memory(i, f)
    f.flags |= UF_DST_MEM


def _word_source(i: Instruction, f: Fields) -> None:
    f.lg = 1
    if i.op_kind(0) == OpKind.REGISTER:
        lg, index = _REGISTERS[i.op_register(0)]
        f.src = index >> (3 - lg) << 2
    else:
        _source(i, f, 0)


def _virt_address(i: Instruction, f: Fields) -> None:
    f.asize = int(_CODE_NAMES[i.code].endswith("D"))


def _virt_pair(i: Instruction, f: Fields) -> None:
    _destination(i, f)
    _source(i, f)


# ---------------------------------------------------------------- the table


def _table() -> dict[int, tuple[int, Builder]]:
    table: dict[int, tuple[int, Builder]] = {}

    def add(names: str, build: Builder, op: str | None = None) -> None:
        for name in names.split():
            if name in _MNEMONIC:
                table[_MNEMONIC[name]] = (OPS[op or name], build)

    add("ADD OR ADC SBB AND SUB XOR CMP TEST XADD XCHG CMPXCHG POPCNT BSF BSR TZCNT LZCNT", _binary)
    add("INC DEC NEG NOT", _unary)
    add("MOV", _mov)
    add("MOVNTI", _binary, "MOV")
    add("MOVZX MOVSX", _widen)
    add("MOVSXD", _widen, "MOVSX")
    add("LEA", _lea)
    add("BSWAP", _unary)
    add("ROL ROR RCL RCR SHL SHR SAL SAR SHLD SHRD", _shift)
    add("MUL DIV IDIV", _unary_source)
    add("IMUL", _imul)
    add("BT BTS BTR BTC", _bit)
    add("CMPXCHG8B CMPXCHG16B", _memory_destination)
    for cond in "O NO B AE E NE BE A S NS P NP L GE LE G".split():
        add(f"J{cond}", _branch)
        add(f"SET{cond}", _conditional, "SETCC")
        add(f"CMOV{cond}", _conditional, "CMOVCC")
    add("JMP CALL", _jump)
    add("RET", _return)
    add("RETF", _far_return, "FAR_RET")
    add("LOOP LOOPE LOOPNE JRCXZ", _loop)
    add("JECXZ", _loop, "JRCXZ")
    add("PUSH", _push)
    add("POP", _pop)
    add("ENTER", _enter)
    add("LEAVE", _leave)
    for suffix, lg in (("", 1), ("Q", 3)):
        add(f"PUSHF{suffix}", _sized(lg), "PUSHF")
        add(f"POPF{suffix}", _sized(lg), "POPF")
    for lg, suffix in enumerate("BWDQ"):
        for op in ("MOVS", "STOS", "CMPS", "SCAS", "LODS", "INS", "OUTS"):
            add(f"{op}{suffix}", _string(lg), op)
    for lg, (narrow, wide) in enumerate((("CBW", "CWD"), ("CWDE", "CDQ"), ("CDQE", "CQO")), 1):
        add(narrow, _sized(lg), "CBW")
        add(wide, _sized(lg), "CWD")
    add("XLATB", _xlat, "XLAT")
    add("CMC STC CLC STD CLD LAHF SAHF CLI STI PAUSE", _nothing)
    add("NOP ENDBR64 ENDBR32 LFENCE MFENCE SFENCE CLFLUSH PREFETCH PREFETCHW PREFETCHWT1 "
        "PREFETCHNTA PREFETCHT0 PREFETCHT1 PREFETCHT2", _nothing, "NOP")  # fmt: skip
    add("CPUID HLT RDTSC RDTSCP RDMSR WRMSR WBINVD INVD RDPMC MONITOR MWAIT", _nothing)
    add("UD0 UD1 UD2", _nothing, "UD")
    add("IN", _in)
    add("OUT", _out)
    add("INVLPG", _memory_source)
    add("INT", _int)
    add("INT3 INT1 SYSCALL SWAPGS CLTS XSETBV XGETBV", _nothing)
    for suffix, lg in (("", 1), ("D", 2), ("Q", 3)):
        add(f"IRET{suffix}", _sized(lg), "IRET")
    add("SYSRET", _sized(2))
    add("SYSRETQ", _sized(3), "SYSRET")
    add("LMSW LLDT LTR", _word_source)
    add("SMSW SLDT STR", _unary)
    add("LGDT LIDT", _memory_source)
    add("SGDT SIDT", _memory_destination)
    add("LFS LGS LSS", _far_pointer)
    add_virtualization(add)
    return table


def add_virtualization(add: Callable[[str, Builder, str | None], None]) -> None:
    """The instructions of SVM and VMX."""
    for name in "VMRUN VMLOAD VMSAVE INVLPGA".split():
        add(name, _virt_address, f"VIRT_{name}")
    for name in ("STGI CLGI VMMCALL SKINIT VMXOFF VMLAUNCH VMRESUME VMCALL VMFUNC").split():
        add(name, _nothing, f"VIRT_{name}")
    for name in "VMXON VMCLEAR VMPTRLD".split():
        add(name, _memory_source, f"VIRT_{name}")
    add("VMPTRST", _memory_destination, "VIRT_VMPTRST")
    for name in "VMREAD VMWRITE INVEPT INVVPID".split():
        add(name, _virt_pair, f"VIRT_{name}")


# ---------------------------------------------------------------- specialised micro-ops


_FAST_BINARY = {OPS[n]: n for n in ("ADD", "SUB", "CMP", "TEST", "AND", "OR", "XOR", "MOV")}
_FAST_UNARY = {OPS[n]: n for n in ("INC", "DEC")}
_FAST_SHIFT = {OPS["SHL"]: OPS["SHL64"], OPS["SAL"]: OPS["SHL64"],
               OPS["SHR"]: OPS["SHR64"], OPS["SAR"]: OPS["SAR64"]}  # fmt: skip
_LOADS = {3: OPS["LOAD64"], 2: OPS["LOAD32"]}
_STORES = {3: OPS["STORE64"], 2: OPS["STORE32"], 0: OPS["STORE8"]}


def _specialise_binary(f: Fields) -> int:
    """Fast op for a two-operand instruction, or its generic one."""
    name = _FAST_BINARY[f.op]
    in_memory = f.flags & (UF_SRC_MEM | UF_DST_MEM)
    if not in_memory:
        return OPS.get(f"{name}{8 << f.lg}", f.op)
    if not f.plain_memory():
        return f.op
    if name == "MOV":
        table = _STORES if f.flags & UF_DST_MEM else _LOADS
        return table.get(f.lg, f.op)
    if f.flags & UF_SRC_MEM and f.lg == 3:
        return OPS.get(f"{name}64M", f.op)
    return f.op


def _specialise(f: Fields) -> None:
    """Replace the generic op by a fast one where operands and size allow."""
    op = f.op
    registers = not f.flags & (UF_SRC_MEM | UF_DST_MEM)
    if op in _FAST_BINARY:
        f.op = _specialise_binary(f)
    elif op in _FAST_UNARY and registers and f.lg >= 2:
        f.op = OPS[f"{_FAST_UNARY[op]}{8 << f.lg}"]
    elif op == OPS["LEA"] and not f.asize and f.lg >= 2:
        f.op = OPS["LEA64" if f.lg == 3 else "LEA32"]
    elif op in _FAST_SHIFT and registers and f.lg == 3 and f.flags & UF_SRC_IMM and f.imm & 63:
        f.op = _FAST_SHIFT[op]
        f.imm &= 63
    elif op == OPS["MOVZX"] and f.imm == 0 and f.lg >= 2:
        if registers:
            f.op = OPS["MOVZX8"]
        elif f.plain_memory():
            f.op = OPS["LOAD8"]
        if f.op != op:
            f.dst >>= 3 - f.lg
    elif op == OPS["PUSH"] and f.lg == 3 and not f.flags & UF_SRC_MEM:
        f.op = OPS["PUSH64"]
    elif op == OPS["POP"] and f.lg == 3 and registers:
        f.op = OPS["POP64"]
    elif op == OPS["IMUL2"] and f.lg == 3 and registers and not f.cond:
        f.op = OPS["IMUL64"]


_TABLE = _table()
_UNKNOWN = (OPS["UNKNOWN"], _nothing)
_LINEAR = {FlowControl.NEXT, FlowControl.CONDITIONAL_BRANCH}
_ENDING = {OPS[n] for n in ("HLT", "UD", "UNKNOWN", "SYSCALL", "SYSRET")}


def translate(i: Instruction) -> tuple[Fields, bool]:
    """Micro-op fields of an instruction, and whether control never falls through it."""
    op, build = _TABLE.get(i.mnemonic, _UNKNOWN)
    f = Fields(op=op)
    name = _CODE_NAMES[i.code]
    if name.startswith(("MOVSD_XMM", "CMPSD_XMM", "MOVSD_XMMM")):
        f.op = OPS["UNKNOWN"]
    else:
        build(i, f)
    if i.has_lock_prefix:
        f.flags |= UF_LOCK
    _specialise(f)
    linear = i.flow_control in _LINEAR or f.op >= OPS["VIRT_VMRUN"]
    return f, not linear or f.op in _ENDING


def mnemonic_name(i: Instruction) -> str:
    """Lower-case mnemonic."""
    return _MNEMONIC_NAMES[i.mnemonic].lower()


__all__ = ["Fields", "mnemonic_name", "signed", "translate"]
