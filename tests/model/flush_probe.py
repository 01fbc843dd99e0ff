"""What one event does to cached translations: a pair of small guests is stepped over it.

L1 and L2 are lists of calls (``stepping``).  Before the event both have translations cached; after it
the probe waits until each level has run again and looks which of its translations are still in use.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tests.model.stepping import FOLDER, MEMORY_MB, PAGES, Machine
from workbench.core.ledger import FLUSH_REASONS, FLUSH_SCOPES
from workbench.core.mmu.records import TR_GLOBAL
from workbench.scenario import Scenario

LIMIT = 4_000
EVENTS = ("L0_TAG_ALLOCATED", "L0_FLUSH_EXECUTED", "L0_NP2M_FLUSHED", "L0_NP2M_ENTRY_ZAPPED")


@dataclass
class Effect:
    """What a window of a run did.

    ``kept`` has, by level, the share of the cached translations that survived; ``flushes`` counts by
    (reason, scope); the others are events of L0.
    """

    kept: dict[int, set[int]] = field(default_factory=dict)
    lost: dict[int, set[int]] = field(default_factory=dict)
    flushes: Counter = field(default_factory=Counter)
    tags: int = 0
    executed: int = 0
    tables_emptied: int = 0
    entries_zapped: int = 0

    def fate(self, level: int) -> str:
        """Of a level's translations: ``kept``, ``gone``, or ``one gone``."""
        if not self.lost[level]:
            return "kept"
        return "some gone" if self.kept[level] else "gone"


class Probe:
    """A machine that is stepped from mark to mark."""

    def __init__(self, backend: str, l1: list[tuple], l2: list[tuple], **fields) -> None:
        scenario = Scenario(
            backend=backend, l1=str(FOLDER / f"steps-{backend}.S"), l2=str(FOLDER / "steps-l2.S"),
            l1_memory_mb=MEMORY_MB, l2_memory_mb=MEMORY_MB, l2_page_size="4k",
            max_instructions=200_000, **fields,
        )  # fmt: skip
        self.machine = Machine(scenario, l1, l2)
        self.m = self.machine.m
        self.cached: dict[int, set[int]] = {1: set(), 2: set()}
        self.note()

    # ------------------------------------------------------------ looking

    def usable(self) -> set[int]:
        """Pages whose translations the running guest may use."""
        tlb, tag = self.m["tlb"][0], int(self.m["hw"]["tag"][0])
        e = tlb["entries"]
        e = e[(e["shift"] > 0) & (e["tag"] == tag)]
        base = int(tlb["all_generation"]) << 32
        current = np.where(
            (e["rights"] & TR_GLOBAL) != 0,
            base | int(tlb["global_generation"][tag]),
            base | int(tlb["tag_generation"][tag]),
        )
        return set(e["page"][e["generation"] == current].tolist())

    def note(self) -> None:
        self.cached[self.machine.level] = self.usable()

    def counters(self) -> tuple[np.ndarray, list[int]]:
        return self.m["ledger"]["flushes"][0].copy(), [self.machine.count(e) for e in EVENTS]

    # ------------------------------------------------------------ stepping

    def step(self) -> None:
        assert not self.machine.run.status, self.machine.run.status
        self.machine.run.advance(1)

    def until(self, reached) -> None:
        """Step until ``reached()`` holds."""
        for _ in range(LIMIT):
            if reached():
                return
            self.step()
            self.note()
        raise AssertionError(f"the mark was not reached (rip {self.machine.rip:#x})")

    def at(self, label: str, times: int = 1, level: int = 1, skip: int = 0) -> None:
        """Step to ``skip`` bytes behind a label of L1's or L2's program, for the n-th time."""
        program = self.machine.l1 if level == 1 else self.machine.l2
        place = level, program.symbol(label) + skip
        for n in range(times):
            if n:
                self.step()
                self.note()
            self.until(lambda: (self.machine.level, self.machine.rip) == place)

    def over(self) -> Effect:
        """Step over one instruction and what L0 does about it; then on until both levels have run.

        Flushes and events are those of the first step.
        """
        flushes, events = self.counters()
        before = {level: set(pages) for level, pages in self.cached.items()}
        effect = Effect()
        self.step()
        after, counts = self.counters()
        for _ in range(LIMIT):
            level = self.machine.level
            if level not in effect.kept:
                now = self.usable()
                effect.kept[level] = before[level] & now
                effect.lost[level] = before[level] - now
            if len(effect.kept) == 2:
                break
            self.step()
        changed = after - flushes
        for reason, scope in zip(*np.nonzero(changed), strict=True):
            effect.flushes[FLUSH_REASONS[reason], FLUSH_SCOPES[scope]] = int(changed[reason, scope])
        effect.tags, effect.executed, effect.tables_emptied, effect.entries_zapped = (
            b - a for a, b in zip(events, counts, strict=True)
        )
        return effect


L2_LOOP = [("l2_load", PAGES[0]), ("l2_load", PAGES[1]), ("l2_cpuid",)] * 8
"""L2 touches two pages and exits."""
