"""A bare machine (level 0) for the processor's tests: 8 MB, identity 2 MB pages, user accessible."""

from __future__ import annotations

import struct

import numpy as np

from workbench.core import layout as lay
from workbench.core.units import entry
from workbench.geometry import load_tlb_geometry
from workbench.guests.decode import Decoder
from workbench.machine import GDT, TABLES, TSS, SimulatedMachine

MEGABYTE = 1 << 20
CODE, DATA, HANDLERS, IDT, STACK = 0x100000, 0x200000, 0x180000, 0x5000, 0x300000
CF, PF, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800
STATUS = CF | PF | AF | ZF | SF | OF
MASK64 = (1 << 64) - 1


def signed(value: int) -> int:
    """A 64-bit word as numpy's int64 takes it."""
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value


class Bare:
    """The machine, its decoder and what tests do with them."""

    def __init__(self, megabytes: int = 8, page_shift: int = 21):
        self.machine = SimulatedMachine(
            "none", megabytes * MEGABYTE, 0, load_tlb_geometry("Nehalem")
        )
        self.record = self.machine.record
        self.ram = self.machine.ram
        self.machine.build_boot_environment(0, megabytes * MEGABYTE, page_shift)
        self.machine.set_boot_processor(CODE, 0)
        self.decoder = Decoder(self.record, self.ram)
        self._run = entry("run")

    @property
    def cpu(self) -> np.ndarray:
        return self.record["cpu"]

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into RAM behind the machine's back (before anything there was decoded)."""
        self.ram[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, address: int, length: int) -> bytes:
        return self.ram[address : address + length].tobytes()

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def get(self, register: int) -> int:
        return int(self.cpu["gpr"][0, register]) & MASK64

    def set(self, register: int, value: int) -> None:
        self.cpu["gpr"][0, register] = signed(value)

    @property
    def rip(self) -> int:
        return int(self.cpu["rip"][0]) & MASK64

    @rip.setter
    def rip(self, value: int) -> None:
        self.cpu["rip"][0] = signed(value)

    @property
    def flags(self) -> int:
        """RFLAGS, worked out from the lazy words."""
        c = self.cpu
        carry = int(c["lf_carry"][0]) & MASK64
        sign = int(c["lf_sign"][0]) & MASK64
        word = int(c["sysflags"][0]) & ~STATUS | 2
        word |= carry >> 63 | (carry >> 3 & 1) << 4 | ((carry >> 63) ^ (carry >> 62 & 1)) << 11
        word |= (sign >> 63) << 7 | (bin(sign & 0xFF).count("1") & 1 ^ 1) << 2
        return word | (ZF if int(c["lf_zero"][0]) == 0 else 0)

    @flags.setter
    def flags(self, value: int) -> None:
        c = self.cpu
        carry, overflow = value & 1, value >> 11 & 1
        c["lf_carry"][0] = signed(carry << 63 | (carry ^ overflow) << 62 | (value >> 4 & 1) << 3)
        c["lf_sign"][0] = signed((value >> 7 & 1) << 63 | (value >> 2 & 1 ^ 1))
        c["lf_zero"][0] = value & ZF ^ ZF
        c["sysflags"][0] = value & ~STATUS | 2

    def run(self, steps: int) -> int:
        """Run up to ``steps`` steps, decoding on demand; returns the outcome."""
        for _ in range(10_000):
            before = int(self.record["steps"][0])
            outcome = self._run(self.machine.address, steps)
            if outcome != lay.ST_DECODE:
                return outcome
            steps -= int(self.record["steps"][0]) - before
            self.decoder.service()
        raise AssertionError("decodes without end")

    def execute(self, code: bytes, steps: int = 1 << 20) -> int:
        """Load ``code`` at ``CODE`` and run it from there."""
        self.write(CODE, code)
        self.rip = CODE
        return self.run(steps)

    # ------------------------------------------------------------ exceptions

    def set_gate(
        self, vector: int, target: int, ist: int = 0, dpl: int = 0, kind: int = 0xE
    ) -> None:
        """Write an IDT gate to CPL 0 code at ``target``."""
        low = target & 0xFFFF | 0x08 << 16 | ist << 32 | (0x80 | dpl << 5 | kind) << 40
        low |= (target >> 16 & 0xFFFF) << 48
        self.write(IDT + vector * 16, struct.pack("<QQ", low & MASK64, target >> 32))
        self.cpu["idtr_base"], self.cpu["idtr_limit"] = IDT, 0xFFF

    def halt_handlers(self) -> None:
        """Every vector's handler is a HLT of its own, at ``HANDLERS + 16 * vector``."""
        for vector in range(256):
            self.set_gate(vector, HANDLERS + 16 * vector)
            self.write(HANDLERS + 16 * vector, b"\xf4")

    def vector_taken(self) -> int:
        """After a halt in :meth:`halt_handlers`: which vector it was."""
        return (self.rip - HANDLERS) >> 4

    def frame(self) -> tuple[int, ...]:
        """The 6 words on the stack."""
        rsp = self.get(lay.RSP)
        return tuple(self.word(rsp + 8 * i) for i in range(6))


__all__ = ["Bare", "CODE", "DATA", "GDT", "HANDLERS", "IDT", "STACK", "TABLES", "TSS"]
