"""Instruction forms, encoded by hand: the table that the comparison with unicorn walks through."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.core import layout as lay

from .bare import AF, CF, DATA, OF, PF, SF, ZF
from .emulator import Template

ARITHMETIC = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
LOGIC = ("or", "and", "xor")
SHIFTS = ("rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar")
SIZES = ((0, b""), (1, b"\x66"), (2, b""), (3, b"\x48"))
# ModRM and SIB bytes for reg field n: registers, [rbx+disp8], [rsi+r9*4+disp32], rip+disp32
RIP_DISP = 0


def modrm(reg: int, form: str, length_after: int = 0) -> bytes:
    """ModRM (and SIB, displacement) bytes of an operand form."""
    if form == "reg":
        return bytes((0xC0 | reg << 3 | lay.RDX,))
    if form == "same":
        return bytes((0xC0 | reg << 3 | reg,))
    if form == "mem":
        return bytes((0x43 | reg << 3, 0x11))
    return bytes((0x84 | reg << 3, 0xBE)) + (-0x123).to_bytes(4, "little", signed=True)


FORMS = ("reg", "mem", "sib")


def _op(size: int, opcode: int) -> bytes:
    return bytes((opcode | (1 if size else 0),))


def _flags_of(name: str) -> int:
    return AF if name in (*LOGIC, "test") else 0


def arithmetic() -> Iterator[Template]:
    """add..cmp, test, inc, dec, neg, not in every size and operand form."""
    for number, name in enumerate(ARITHMETIC):
        for size, prefix in SIZES:
            undefined = _flags_of(name)
            for form in FORMS:
                for direction in (0, 2):
                    code = prefix + _op(size, number * 8 + direction) + modrm(lay.RAX, form)
                    yield Template(f"{name}{size} {form} {direction}", code, undefined)
                immediate = (
                    b"\x85" if size == 0 else b"\x85\x91" if size == 1 else b"\x85\x91\x72\xf3"
                )
                code = prefix + _op(size, 0x80) + modrm(number, form) + immediate
                yield Template(f"{name}{size} {form} imm", code, undefined)
                if size:
                    code = prefix + b"\x83" + modrm(number, form) + b"\x85"
                    yield Template(f"{name}{size} {form} imm8", code, undefined)
            code = prefix + _op(size, number * 8 + 4) + immediate
            yield Template(f"{name}{size} accumulator", code, undefined)
            yield Template(
                f"{name}{size} same", prefix + _op(size, number * 8) + modrm(1, "same"), undefined
            )
    for size, prefix in SIZES:
        for form in FORMS:
            yield Template(f"test{size} {form}", prefix + _op(size, 0x84) + modrm(0, form), AF)
            immediate = bytes((0x85, 0x91, 0x72, 0xF3))[: min(1 << size, 4)]
            yield Template(
                f"test{size} {form} imm", prefix + _op(size, 0xF6) + modrm(0, form) + immediate, AF
            )
            for number, name in ((2, "not"), (3, "neg")):
                yield Template(
                    f"{name}{size} {form}", prefix + _op(size, 0xF6) + modrm(number, form)
                )
            for number, name in ((0, "inc"), (1, "dec")):
                yield Template(
                    f"{name}{size} {form}", prefix + _op(size, 0xFE) + modrm(number, form)
                )
        for opcode, name in ((0xC0, "xadd"), (0xB0, "cmpxchg")):
            for form in (*FORMS, "same"):
                code = prefix + b"\x0f" + _op(size, opcode) + modrm(1, form)
                yield Template(f"{name}{size} {form}", code)
                if form in ("mem", "sib"):
                    yield Template(f"lock {name}{size} {form}", b"\xf0" + code)
        code = prefix + b"\x0f" + _op(size, 0xB0) + modrm(1, "reg")
        yield Template(f"cmpxchg{size} equal", code, 0, ((lay.RAX, 0x1234), (lay.RDX, 0x1234)))
        for form in FORMS:
            yield Template(f"xchg{size} {form}", prefix + _op(size, 0x86) + modrm(0, form))
    yield Template("xchg [rbx], rbx", b"\x48\x87\x1b")
    yield Template("xadd [rbx], rbx", b"\x48\x0f\xc1\x1b")
    yield Template("high bytes", b"\x00\xe5")
    yield Template("high bytes", b"\x28\xf0")
    yield Template("xchg ah,al", b"\x86\xe0")
    yield Template("cmpxchg8b", b"\x0f\xc7\x4b\x10")
    yield Template("cmpxchg16b", b"\x48\x0f\xc7\x0c\x25" + DATA.to_bytes(4, "little"))


def shifts() -> Iterator[Template]:
    """Shifts, rotates and double shifts, by one, by immediates and by CL."""
    for number, name in enumerate(SHIFTS):
        rotates = number < 4
        for size, prefix in SIZES:
            bits = 8 << size
            for form in FORMS:
                undefined = 0 if rotates else AF
                yield Template(
                    f"{name}{size} {form} 1",
                    prefix + _op(size, 0xD0) + modrm(number, form),
                    undefined,
                )
                for count in (0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63):
                    masked = count & (63 if size == 3 else 31)
                    extra = OF if masked != 1 and masked else 0
                    if not rotates and masked > bits:
                        extra |= CF
                    code = prefix + _op(size, 0xC0) + modrm(number, form) + bytes((count,))
                    yield Template(f"{name}{size} {form} {count}", code, undefined | extra)
                yield Template(
                    f"{name}{size} {form} cl", prefix + _op(size, 0xD2) + modrm(number, form),
                    undefined | OF | (CF if not rotates and size < 2 else 0),
                )  # fmt: skip
    for opcode, name in ((0xA4, "shld"), (0xAC, "shrd")):
        for _size, prefix in SIZES[1:]:
            for form in FORMS:
                for count in (0, 1, 5, 15, 31) if prefix != b"\x66" else (0, 1, 5, 15):
                    extra = OF if count > 1 else 0
                    code = prefix + b"\x0f" + bytes((opcode,)) + modrm(0, form) + bytes((count,))
                    yield Template(f"{name} {form} {count}", code, AF | extra)
                if prefix != b"\x66":
                    code = prefix + b"\x0f" + bytes((opcode + 1,)) + modrm(0, form)
                    yield Template(f"{name} {form} cl", code, AF | OF)


def multiply_divide() -> Iterator[Template]:
    """mul, imul (one, two and three operands), div, idiv."""
    product = SF | ZF | AF | PF
    everything = product | CF | OF
    for size, prefix in SIZES:
        for form in FORMS:
            for number, name in ((4, "mul"), (5, "imul"), (6, "div"), (7, "idiv")):
                code = prefix + _op(size, 0xF6) + modrm(number, form)
                undefined = product if number < 6 else everything
                yield Template(f"{name}{size} {form}", code, undefined, repeated=True)
            if size:
                yield Template(
                    f"imul2 {size} {form}", prefix + b"\x0f\xaf" + modrm(0, form), product
                )
                yield Template(
                    f"imul3 {size} {form}", prefix + b"\x6b" + modrm(0, form) + b"\xb3", product
                )
                immediate = b"\x85\x91" if size == 1 else b"\x85\x91\x72\xf3"
                yield Template(
                    f"imul3w {size} {form}", prefix + b"\x69" + modrm(0, form) + immediate, product
                )
    for high in (0, 1, 5, -1, -3, 0x7FFF):
        for low in (0, 1, -1, 1 << 63, 12345678901234567):
            for divisor in (7, -7, 1 << 62, -1, 1, (1 << 64) - 5):
                preset = ((lay.RDX, high), (lay.RAX, low), (lay.RCX, divisor))
                for number in (6, 7):
                    code = b"\x48\xf7" + bytes((0xC0 | number << 3 | lay.RCX,))
                    yield Template(
                        f"div 128 {high} {low} {divisor}", code, everything, preset, repeated=True
                    )


def bits() -> Iterator[Template]:
    """Bit tests (also reaching beyond the memory operand), scans and counts."""
    undefined = OF | SF | AF | PF
    near = tuple((lay.RAX, n) for n in (5, 17, 70, -3, -200))
    for opcode, number, name in (
        (0xA3, 4, "bt"),
        (0xAB, 5, "bts"),
        (0xB3, 6, "btr"),
        (0xBB, 7, "btc"),
    ):
        for size, prefix in SIZES[1:]:
            for form in FORMS:
                code = prefix + b"\x0f" + bytes((opcode,)) + modrm(0, form)
                for preset in near:
                    yield Template(f"{name}{size} {form} r", code, undefined, (preset,))
                code = prefix + b"\x0f\xba" + modrm(number, form) + b"\xcd"
                yield Template(f"{name}{size} {form} imm", code, undefined)
    for size, prefix in SIZES[1:]:
        for form in FORMS:
            for opcode, name in ((0xBC, "bsf"), (0xBD, "bsr")):
                yield Template(
                    f"{name}{size} {form}", prefix + b"\x0f" + bytes((opcode,)) + modrm(0, form),
                    CF | OF | SF | AF | PF,
                )  # fmt: skip
            rep = prefix if prefix == b"\x66" else b""
            rex = prefix if prefix != b"\x66" else b""
            yield Template(
                f"popcnt{size} {form}", rep + b"\xf3" + rex + b"\x0f\xb8" + modrm(0, form)
            )


def moves() -> Iterator[Template]:
    """Moves, conversions, stack, flags, string instructions."""
    for size, prefix in SIZES:
        for form in FORMS:
            for opcode in (0x88, 0x8A):
                yield Template(f"mov{size} {form}", prefix + _op(size, opcode) + modrm(0, form))
            immediate = bytes((0x85, 0x91, 0x72, 0xF3))[: min(1 << size, 4)]
            code = prefix + _op(size, 0xC6) + modrm(0, form) + immediate
            yield Template(f"mov{size} {form} imm", code)
            if size:
                for opcode in (0xB6, 0xB7, 0xBE, 0xBF):
                    code = prefix + b"\x0f" + bytes((opcode,)) + modrm(0, form)
                    yield Template(f"movx{opcode:x} {size} {form}", code)
                for cond in range(16):
                    code = prefix + b"\x0f" + bytes((0x40 | cond,)) + modrm(0, form)
                    yield Template(f"cmov{cond} {size} {form}", code)
        if size:
            yield Template(f"lea{size}", prefix + b"\x8d" + modrm(0, "sib"))
            yield Template(f"lea{size} a32", b"\x67" + prefix + b"\x8d" + modrm(0, "sib"))
            yield Template(f"cbw{size}", prefix + b"\x98")
            yield Template(f"cwd{size}", prefix + b"\x99")
    for form in FORMS:
        yield Template(f"movsxd {form}", b"\x48\x63" + modrm(0, form))
        for cond in range(16):
            yield Template(f"set{cond} {form}", b"\x0f" + bytes((0x90 | cond,)) + modrm(0, form))
        yield Template(
            f"movnti {form}", b"\x48\x0f\xc3" + modrm(0, form) if form != "reg" else b"\x90"
        )
    yield Template("mov imm64", b"\x48\xb8" + bytes(range(0x81, 0x89)))
    yield Template("mov ah, imm", b"\xb4\x85")
    yield Template("movzx from ah", b"\x0f\xb6\xc4")
    yield Template("mov rax, moffs", b"\x48\xa1" + (DATA + 5).to_bytes(8, "little"))
    yield Template("mov moffs, al", b"\xa2" + (DATA + 5).to_bytes(8, "little"))
    yield Template("rip relative", b"\x48\x8b\x05" + (0x1000).to_bytes(4, "little"))
    yield from _addressing()
    yield Template("bswap", b"\x0f\xc8")
    yield Template("bswap64", b"\x48\x0f\xc9")
    yield Template("xlat", b"\xd7")
    for code, name in ((b"\xf5", "cmc"), (b"\xf8", "clc"), (b"\xf9", "stc"), (b"\xfc", "cld"),
                       (b"\xfd", "std"), (b"\x9e", "sahf"), (b"\x9f", "lahf"), (b"\x90", "nop"),
                       (b"\x0f\x1f\x43\x10", "nopw"), (b"\xf3\x90", "pause"),
                       (b"\xf3\x0f\x1e\xfa", "endbr"), (b"\x0f\xae\xf0", "mfence")):  # fmt: skip
        yield Template(name, code)


def _addressing() -> Iterator[Template]:
    """High registers, 32-bit addresses, FS and GS, RIP-relative with an immediate behind it."""
    r12 = ((12, DATA + 0x100),)
    high_half = ((lay.RBX, DATA + 0x100 | 1 << 40),)
    yield Template("mov r8, [r12+0x10]", b"\x4d\x8b\x44\x24\x10", 0, r12)
    yield Template("mov [r12+r9*8], r15", b"\x4f\x89\x3c\xcc", 0, r12)
    yield Template("add r15, r8", b"\x4d\x01\xc7")
    yield Template("sub r10d, r11d", b"\x45\x29\xda")
    yield Template("cmp r10b, r11b", b"\x45\x38\xda")
    yield Template("mov dil, sil", b"\x40\x88\xf7")
    yield Template("add sil, [rbx+1]", b"\x40\x02\x73\x01")
    yield Template("movzx r14, sil", b"\x4c\x0f\xb6\xf6")
    yield Template("mov eax, [ebx+0x11]", b"\x67\x8b\x43\x11", 0, high_half)
    yield Template("mov [ebx+0x11], rax", b"\x67\x48\x89\x43\x11", 0, high_half)
    yield Template("mov rax, [abs32]", b"\x48\x8b\x04\x25" + (DATA + 3).to_bytes(4, "little"))
    yield Template("mov rax, [a32 abs]", b"\x67\x48\x8b\x04\x25" + (DATA + 3).to_bytes(4, "little"))
    small = ((lay.RBX, 0x40), (lay.RSI, 0x80))
    for prefix in (b"\x64", b"\x65"):
        yield Template("mov rax, seg:[rbx]", prefix + b"\x48\x8b\x03", 0, small)
        yield Template("add seg:[rbx], cl", prefix + b"\x00\x0b", 0, small)
        yield Template("lea rax, seg:[rbx]", prefix + b"\x48\x8d\x03", 0, small)
        yield Template("lodsq seg", prefix + b"\x48\xad", 0, small)
        yield Template("movsb seg", prefix + b"\xa4", 0, small)
        yield Template("xlat seg", prefix + b"\xd7", 0, small)
        yield Template("push seg:[rbx]", prefix + b"\xff\x33", 0, small)
    yield Template("mov [rip], imm", b"\x48\xc7\x05\x00\x10\x00\x00\x85\x91\x72\xf3")
    yield Template("cmp [rip], imm8", b"\x83\x3d\x00\x10\x00\x00\x85")
    yield Template("lea rip", b"\x48\x8d\x05\x00\x10\x00\x00")
    yield Template("a32 movsb", b"\x67\xa4")
    yield Template("push r12", b"\x41\x54")
    yield Template("pop r13", b"\x41\x5d")
    yield Template("push rsp", b"\x54")
    yield Template("pop rsp", b"\x5c")


def stack_and_branches() -> Iterator[Template]:
    """push, pop, pushf, popf, enter, leave, near branches, loops."""
    for register in (0, 3, 4, 5):
        yield Template("push", bytes((0x50 | register,)))
        yield Template("pushw", bytes((0x66, 0x50 | register)))
        yield Template("pop", bytes((0x58 | register,)))
        yield Template("popw", bytes((0x66, 0x58 | register)))
    for form in FORMS:
        yield Template(f"push {form}", b"\xff" + modrm(6, form))
        yield Template(f"pushw {form}", b"\x66\xff" + modrm(6, form))
        yield Template(f"pop {form}", b"\x8f" + modrm(0, form))
        yield Template(f"popw {form}", b"\x66\x8f" + modrm(0, form))
    yield Template("pop [rsp+8]", b"\x8f\x44\x24\x08")
    yield Template("push imm8", b"\x6a\x85")
    yield Template("push imm32", b"\x68\x85\x91\x72\xf3")
    yield Template("push imm16", b"\x66\x68\x85\x91")
    yield Template("pushf", b"\x9c")
    yield Template("pushf, pop", b"\x9c\x58", steps=2)
    yield Template("leave", b"\xc9")
    yield Template("leavew", b"\x66\xc9")
    for level in (0, 1, 2, 5):
        yield Template(f"enter {level}", b"\xc8\x20\x00" + bytes((level,)))
    for cond in range(16):
        yield Template(f"j{cond}", bytes((0x70 | cond, 0x10)))
        yield Template(f"j{cond} near", bytes((0x0F, 0x80 | cond)) + b"\x10\xff\xff\xff")
    yield Template("jmp short", b"\xeb\x85")
    yield Template("jmp near", b"\xe9\x85\x00\x00\x00")
    yield Template("call", b"\xe8\x85\x00\x00\x00")
    yield Template("jmp rsi", b"\xff\xe6")
    yield Template("call rsi", b"\xff\xd6")
    for preset in ((lay.RCX, 0), (lay.RCX, 1), (lay.RCX, 1 << 32), (lay.RCX, (1 << 32) + 1)):
        for opcode in (0xE0, 0xE1, 0xE2, 0xE3):
            yield Template(f"loop {opcode:x}", bytes((opcode, 0x10)), 0, (preset,))
            yield Template(f"loop {opcode:x} a32", bytes((0x67, opcode, 0x10)), 0, (preset,))


def strings() -> Iterator[Template]:
    """String instructions, single and repeated."""
    for size, prefix in SIZES:
        for opcode, name in (
            (0xA4, "movs"),
            (0xAA, "stos"),
            (0xAC, "lods"),
            (0xA6, "cmps"),
            (0xAE, "scas"),
        ):
            code = prefix + _op(size, opcode)
            yield Template(f"{name}{size}", code)
            for rep in (b"\xf3", b"\xf2"):
                whole = (rep + code) if prefix != b"\x48" else rep + prefix + _op(size, opcode)
                for count in (0, 1, 5, 600):
                    yield Template(
                        f"rep {name}{size} {count}", whole, 0, ((lay.RCX, count),), 1, True
                    )


def all_forms() -> list[Template]:
    """Every template."""
    made: list[Template] = []
    for family in (arithmetic, shifts, multiply_divide, bits, moves, stack_and_branches, strings):
        made.extend(family())
    return made
