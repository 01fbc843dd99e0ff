"""Guests made of calls, on a machine to be run one instruction at a time.

L1 and L2 are lists of calls of small functions (``guests/steps-*.S``); the test draws the lists.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from workbench.core import layout as lay
from workbench.core.ledger import EVENTS, TIME_SCALE
from workbench.guests.image import Image
from workbench.guests.load import load_image
from workbench.machine import TABLES
from workbench.scenario import Scenario
from workbench.simulate import Run, build

FOLDER = Path(__file__).parent / "guests"
MEGABYTE = 1 << 20
MEMORY_MB = 4
ROOTS = tuple(0x200000 + i * 0x8000 for i in range(2))
"""n1p of L1's nested roots; the tables of one lie one behind the other."""
PAGES = tuple(0x200000 + i * 0x1000 for i in range(3))
"""Pages of L2 whose mappings change, by L2's table and by L1's."""
PTES = TABLES + 0x3000
SECOND_CR3 = 0x2F0000
"""n2p of a second root of L2, whose tables are those of the first."""
EXECUTE_CODE = b"\xc3"
MASK64 = (1 << 64) - 1
SET_UP_STEPS = 30_000
FAR_AWAY = 1 << 61
SOONER_BALLOONS = 38
"""Sooner than a scenario may ask for, but no sooner than the pages of one event need exits: with 4
exits between changes of L0's table L2 may never get to its next instruction."""


@cache
def image(name: str) -> Image:
    return load_image(FOLDER / f"{name}.S")


def calls(program: Image, steps: list[tuple]) -> bytes:
    """Machine code of a list of (function, operands ...); ends where the last call returns to."""
    code = b""
    for name, *operands in steps:
        for prefix, value in zip((b"\x48\xbf", b"\x48\xbe", b"\x48\xba"), operands, strict=False):
            code += prefix + struct.pack("<Q", value & MASK64)
        code += b"\xb8" + struct.pack("<I", program.symbol(name)) + b"\xff\xd0"
    return code


def listing(program: Image, steps: list[tuple]) -> str:
    """The list as assembly text."""
    lines = []
    for name, *operands in steps:
        for register, value in zip(("rdi", "rsi", "rdx"), operands, strict=False):
            lines.append(f"        mov     {register}, {value & MASK64:#x}")
        lines.append(f"        call    {name}")
    return "\n".join(lines)


def words(address: int, values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *[v & MASK64 for v in values])


@dataclass
class Machine:
    """L1's and L2's lists on a machine, ready to be stepped."""

    scenario: Scenario
    l1_steps: list[tuple]
    l2_steps: list[tuple]
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        self.svm = self.scenario.backend == "svm"
        self.l1, self.l2 = image(f"steps-{self.scenario.backend}"), image("steps-l2")
        self.built = build(self.scenario)
        self.m = self.built.record
        self.direct = self.scenario.all_features["paging"] != "non"
        self._l2_tables()
        leaf = 7 if self.svm else 0x37
        for root in ROOTS:
            tables = [root + 0x1000 | 7, root + 0x2000 | 7]
            self.built.write(1, root, words(0, tables[:1]))
            self.built.write(1, root + 0x1000, words(0, tables[1:]))
            leaves = [root + 0x3000 + 0x1000 * i | 7 for i in range(MEMORY_MB // 2)]
            self.built.write(1, root + 0x2000, words(0, leaves))
            pages = range(0, MEMORY_MB * MEGABYTE, 0x1000)
            self.built.write(
                1, root + 0x3000, words(0, [lay.L2_BANK_N1P + p | leaf for p in pages])
            )
        for page in PAGES:
            self.built.write(2, page, EXECUTE_CODE)
        self._interrupt_table(1, self.l1, {2: "nmi"}, "fault")
        self._interrupt_table(2, self.l2, {0x40: "interrupt", 2: "interrupt"}, "fault")
        end = [("load", self.l1.symbol("go"))]
        code = calls(self.l1, [*self.l1_steps, *end])
        stop = b"\xb0\x00\xe6\xf4\xf4"  # mov al, 0; out 0xf4, al; hlt
        self.built.write(1, self.l1.symbol("script"), code + stop)
        self.built.write(2, self.l2.symbol("script"), calls(self.l2, [*self.l2_steps, ("l2_end",)]))
        irq = self.m["irq"]
        irq["nmi_next"] = irq["host_next"] = FAR_AWAY  # L1 is not ready for them
        self.run = Run(self.scenario, self.built)
        self.run.advance(SET_UP_STEPS)
        assert not self.run.status, self.run.status
        self.built.write(1, self.l1.symbol("go"), b"\x01")
        for name in ("nmi", "host"):
            irq[f"{name}_next"] = self.m["ledger"]["time"] + irq[f"{name}_period"] * TIME_SCALE
        irq["attention"] = irq["active"]
        if self.m["p2m_countdown"][0]:
            self.m["p2m_period"] = self.m["p2m_countdown"] = (
                self.scenario.balloon_period - SOONER_BALLOONS
            )

    def _l2_tables(self) -> None:
        """L2's tables as L1 leaves them: without a nested table with L1-physical addresses."""
        start = self.built.bank_offset(2) >> 3
        words = self.built.words[start : start + (MEMORY_MB * MEGABYTE >> 3)]
        tables = [TABLES]
        for level in range(4 if self.direct else 0):
            below = []
            for table in tables:
                entries = words[table >> 3 : (table >> 3) + 512]
                used = (entries & 1) != 0
                if level < 3:
                    below += [
                        int(e) & 0xFFFFFFFFFF000 for e in entries[used & (entries & 0x80 == 0)]
                    ]
                entries[used] += lay.L2_BANK_N1P
            tables = below
        words[SECOND_CR3 >> 3 : (SECOND_CR3 >> 3) + 512] = words[TABLES >> 3 : (TABLES >> 3) + 512]

    def _interrupt_table(self, bank: int, program: Image, special: dict, other: str) -> None:
        table = b""
        for vector in range(256):
            target = program.symbol(special.get(vector, other))
            low = target & 0xFFFF | 8 << 16 | 0x8E << 40 | (target >> 16 & 0xFFFF) << 48
            table += struct.pack("<QQ", low, target >> 32)
        self.built.write(bank, program.symbol("idt"), table)

    # ------------------------------------------------------------ looking

    def word(self, bank: int, address: int) -> int:
        return int(self.built.words[self.built.bank_offset(bank) + address >> 3]) & MASK64

    @property
    def level(self) -> int:
        return int(self.m["level"][0])

    @property
    def rip(self) -> int:
        return int(self.m["cpu"]["rip"][0])

    def register(self, number: int) -> int:
        return int(self.m["cpu"]["gpr"][0, number]) & MASK64

    def state(self, field: str) -> int:
        """A field of the nested state; 0 where the layout has none."""
        try:
            return self.built.state[field]
        except KeyError:
            return 0

    def count(self, event: str) -> int:
        return int(self.m["ledger"]["counts"][0, :, EVENTS.index(event)].sum())

    def __str__(self) -> str:
        return (
            f"\n{self.scenario.backend} {dict(self.scenario.features)}"
            f"\nL1:\n{listing(self.l1, self.l1_steps)}\nL2:\n{listing(self.l2, self.l2_steps)}\n"
        )
