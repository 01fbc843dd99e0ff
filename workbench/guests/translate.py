"""One x86 instruction, as iced-x86 decodes it, to one micro-op.

A generic micro-op is built first (``uop_shapes``), then replaced by a specialised fast one where
its operands allow.  What is not in the table here becomes ``UNKNOWN`` and raises #UD in the guest.
"""

from __future__ import annotations

from collections.abc import Callable

from iced_x86 import FlowControl, Instruction

from ..core.cpu.ops import OPS
from ..core.layout import UF_DST_MEM, UF_LOCK, UF_SRC_IMM, UF_SRC_MEM
from . import uop_shapes as shapes
from .uop_fields import CODE_NAMES, MNEMONICS, Fields


def _table() -> dict[int, tuple[int, shapes.Builder]]:
    table: dict[int, tuple[int, shapes.Builder]] = {}

    def add(names: str, build: shapes.Builder, op: str | None = None) -> None:
        for name in names.split():
            if name in MNEMONICS:
                table[MNEMONICS[name]] = (OPS[op or name], build)

    add(
        "ADD OR ADC SBB AND SUB XOR CMP TEST XADD XCHG CMPXCHG POPCNT BSF BSR TZCNT LZCNT",
        shapes.binary,
    )
    add("INC DEC NEG NOT", shapes.unary)
    add("MOV", shapes.mov)
    add("MOVNTI", shapes.binary, "MOV")
    add("MOVZX MOVSX", shapes.widen)
    add("MOVSXD", shapes.widen, "MOVSX")
    add("LEA", shapes.lea)
    add("BSWAP", shapes.unary)
    add("ROL ROR RCL RCR SHL SHR SAL SAR SHLD SHRD", shapes.shift)
    add("MUL DIV IDIV", shapes.unary_source)
    add("IMUL", shapes.imul)
    add("BT BTS BTR BTC", shapes.bit)
    add("CMPXCHG8B CMPXCHG16B", shapes.memory_destination)
    for cond in "O NO B AE E NE BE A S NS P NP L GE LE G".split():
        add(f"J{cond}", shapes.branch)
        add(f"SET{cond}", shapes.conditional, "SETCC")
        add(f"CMOV{cond}", shapes.conditional, "CMOVCC")
    add("JMP CALL", shapes.jump)
    add("RET", shapes.near_return)
    add("RETF", shapes.far_return, "FAR_RET")
    add("LOOP LOOPE LOOPNE JRCXZ", shapes.loop)
    add("JECXZ", shapes.loop, "JRCXZ")
    add("PUSH", shapes.push)
    add("POP", shapes.pop)
    add("ENTER", shapes.enter)
    add("LEAVE", shapes.leave)
    for suffix, lg in (("", 1), ("Q", 3)):
        add(f"PUSHF{suffix}", shapes.sized(lg), "PUSHF")
        add(f"POPF{suffix}", shapes.sized(lg), "POPF")
    for lg, suffix in enumerate("BWDQ"):
        for op in ("MOVS", "STOS", "CMPS", "SCAS", "LODS", "INS", "OUTS"):
            add(f"{op}{suffix}", shapes.string(lg), op)
    for lg, (narrow, wide) in enumerate((("CBW", "CWD"), ("CWDE", "CDQ"), ("CDQE", "CQO")), 1):
        add(narrow, shapes.sized(lg), "CBW")
        add(wide, shapes.sized(lg), "CWD")
    add("XLATB", shapes.xlat, "XLAT")
    add("CMC STC CLC STD CLD LAHF SAHF CLI STI PAUSE RDPRU", shapes.nothing)
    add("NOP ENDBR64 ENDBR32 LFENCE MFENCE SFENCE CLFLUSH PREFETCH PREFETCHW PREFETCHWT1 "
        "PREFETCHNTA PREFETCHT0 PREFETCHT1 PREFETCHT2", shapes.nothing, "NOP")  # fmt: skip
    add("CPUID HLT RDTSC RDTSCP RDMSR WRMSR WBINVD INVD RDPMC MONITOR MWAIT", shapes.nothing)
    add("UD0 UD1 UD2", shapes.nothing, "UD")
    add("IN", shapes.port_in)
    add("OUT", shapes.port_out)
    add("INVLPG", shapes.memory_source)
    add("INVPCID", shapes.virt_pair)
    add("INT", shapes.interrupt)
    add("INT3 INT1 SYSCALL SWAPGS CLTS XSETBV XGETBV", shapes.nothing)
    for suffix, lg in (("", 1), ("D", 2), ("Q", 3)):
        add(f"IRET{suffix}", shapes.sized(lg), "IRET")
    add("SYSRET", shapes.sized(2))
    add("SYSRETQ", shapes.sized(3), "SYSRET")
    add("LMSW LLDT LTR", shapes.word_source)
    add("SMSW SLDT STR", shapes.unary)
    add("LGDT LIDT", shapes.memory_source)
    add("SGDT SIDT", shapes.memory_destination)
    add("LFS LGS LSS", shapes.far_pointer)
    add_virtualization(add)
    return table


def add_virtualization(add: Callable[[str, shapes.Builder, str | None], None]) -> None:
    """The instructions of SVM and VMX."""
    for name in "VMRUN VMLOAD VMSAVE INVLPGA".split():
        add(name, shapes.virt_address, f"VIRT_{name}")
    for name in ("STGI CLGI VMMCALL SKINIT VMXOFF VMLAUNCH VMRESUME VMCALL VMFUNC").split():
        add(name, shapes.nothing, f"VIRT_{name}")
    for name in "VMXON VMCLEAR VMPTRLD".split():
        add(name, shapes.memory_source, f"VIRT_{name}")
    add("VMPTRST", shapes.memory_destination, "VIRT_VMPTRST")
    for name in "VMREAD VMWRITE INVEPT INVVPID".split():
        add(name, shapes.virt_pair, f"VIRT_{name}")


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
    if f.flags & UF_SRC_MEM:
        return OPS.get(f"{name}{8 << f.lg}M", f.op)
    return OPS.get(f"{name}M", f.op)


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
_UNKNOWN = (OPS["UNKNOWN"], shapes.nothing)
_LINEAR = {FlowControl.NEXT, FlowControl.CONDITIONAL_BRANCH}
_ENDING = {OPS[n] for n in ("HLT", "UD", "UNKNOWN", "SYSCALL", "SYSRET")}


def translate(i: Instruction) -> tuple[Fields, bool]:
    """Micro-op fields of an instruction, and whether control never falls through it."""
    op, build = _TABLE.get(i.mnemonic, _UNKNOWN)
    f = Fields(op=op)
    name = CODE_NAMES[i.code]
    if name.startswith(("MOVSD_XMM", "CMPSD_XMM", "MOVSD_XMMM")):
        f.op = OPS["UNKNOWN"]
    else:
        build(i, f)
    if i.has_lock_prefix:
        f.flags |= UF_LOCK
    _specialise(f)
    linear = i.flow_control in _LINEAR or f.op >= OPS["VIRT_VMRUN"]
    return f, not linear or f.op in _ENDING
