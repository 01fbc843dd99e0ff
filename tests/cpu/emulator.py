"""The reference: unicorn, and a comparison of one instruction on both machines."""

from __future__ import annotations

import random
from dataclasses import dataclass

from unicorn import UC_ARCH_X86, UC_HOOK_INTR, UC_MODE_64, Uc, UcError
from unicorn import x86_const as ux

from workbench.core import layout as lay

from .bare import CODE, DATA, MASK64, MEGABYTE, STACK, STATUS, Bare

REGISTERS = [
    getattr(ux, f"UC_X86_REG_{n}")
    for n in "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15".split()
]
WINDOW = 0x4000
"""Bytes around ``DATA`` and ``STACK`` that are compared."""


@dataclass(frozen=True)
class Template:
    """One instruction form: its bytes, flags that are undefined, registers to preset."""

    name: str
    code: bytes
    undefined: int = 0
    preset: tuple[tuple[int, int], ...] = ()
    steps: int = 1
    repeated: bool = False
    """Let the reference run until the instruction has ended, however many iterations that is."""


class Pair:
    """The simulated machine and the reference, with the same memory."""

    def __init__(self) -> None:
        self.bare = Bare()
        self.reference = Uc(UC_ARCH_X86, UC_MODE_64)
        self.reference.mem_map(0, 8 * MEGABYTE)
        self.reference.hook_add(UC_HOOK_INTR, self._note_interrupt)
        for name, segment, base in (("FS", lay.FS, DATA + 0x40), ("GS", lay.GS, DATA + 0x800)):
            self.reference.reg_write(getattr(ux, f"UC_X86_REG_{name}_BASE"), base)
            self.bare.cpu["seg_base"][0, segment] = base
        self.fresh = self.reference.context_save()
        self.interrupted = False
        self.next_code = CODE

    def _note_interrupt(self, uc: Uc, number: int, _data: object) -> None:
        self.interrupted = True
        uc.emu_stop()

    def place(self, code: bytes) -> int:
        """Put code somewhere fresh on both machines."""
        at = self.next_code
        self.next_code += 32
        self.bare.write(at, code + b"\xf4")
        self.reference.mem_write(at, code + b"\xf4")
        return at

    def randomise(self, rng: random.Random, template: Template) -> list[int]:
        values = [rng.choice(INTERESTING)(rng) & MASK64 for _ in range(16)]
        values[lay.RSP] = STACK + 0x1000
        values[lay.RBP] = STACK + 0x1800
        values[lay.RBX] = DATA + 0x1000 + rng.randrange(64)
        values[lay.RSI] = DATA + 0x1800 + rng.randrange(64)
        values[lay.RDI] = DATA + 0x2000 + rng.randrange(64)
        values[9] = rng.randrange(-8, 8) & MASK64
        for register, value in template.preset:
            values[register] = value & MASK64
        return values

    def compare(self, rng: random.Random, template: Template, at: int) -> None:
        """Run the instruction at ``at`` on random state; raises AssertionError on a difference."""
        values = self.randomise(rng, template)
        flags = rng.randrange(1 << 12) & STATUS | 2 | rng.choice((0, 0x400))
        memory = rng.randbytes(WINDOW)
        bare, uc = self.bare, self.reference
        uc.context_restore(self.fresh)  # it would remember an earlier exception
        for base in (DATA, STACK):
            bare.write(base, memory)
            uc.mem_write(base, memory)
        for register, value in enumerate(values):
            bare.set(register, value)
            uc.reg_write(REGISTERS[register], value)
        bare.flags = flags
        uc.reg_write(ux.UC_X86_REG_EFLAGS, flags)
        bare.rip = at
        self.interrupted = failed = False
        try:
            if template.repeated:
                uc.emu_start(at, at + len(template.code))
            else:
                uc.emu_start(at, 0, count=template.steps)
        except UcError:
            failed = True
        failed |= self.interrupted
        outcome = bare.run(template.steps)
        context = f"{template.name} {template.code.hex()} flags {flags:#x} " + " ".join(
            f"{v:x}" for v in values
        )
        if failed or outcome == lay.ST_SHUTDOWN:
            assert failed and outcome == lay.ST_SHUTDOWN, f"{failed} {outcome} {context}"
            return
        assert outcome == lay.ST_OK, f"outcome {outcome}: {context}"
        got = [bare.get(r) for r in range(16)]
        want = [uc.reg_read(r) for r in REGISTERS]
        assert [f"{v:x}" for v in got] == [f"{v:x}" for v in want], context
        assert bare.rip == uc.reg_read(ux.UC_X86_REG_RIP), context
        known = ~template.undefined & (STATUS | 0x400)
        mine, theirs = bare.flags & known, uc.reg_read(ux.UC_X86_REG_EFLAGS) & known
        assert mine == theirs, f"flags {mine:#x} != {theirs:#x}: {context}"
        for base in (DATA, STACK):
            assert bare.read(base, WINDOW) == uc.mem_read(base, WINDOW), context


def _corner(rng: random.Random) -> int:
    bits = rng.choice((8, 16, 32, 64))
    return rng.choice((0, 1, -1, 1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << bits) - 1))


INTERESTING = (
    lambda rng: rng.getrandbits(64),
    lambda rng: rng.getrandbits(rng.randrange(1, 65)),
    _corner,
)
