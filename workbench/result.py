"""What a run found: immutable counts, priced on demand, with the scenario and its provenance.

A result never runs the model.  Other prices make another view of the same counts
(:meth:`Result.reprice`); simulated time inside the run, as RDTSC shows it, stays what it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import provenance
from .arch import check_text, svm
from .core.layout import BACKEND_VMX, FATAL
from .core.ledger import CAUSES, TIME_SCALE
from .errors import ResultError, did_you_mean
from .frozen import FrozenMap
from .guests.decode import describe_unknown
from .measure import frames, store
from .measure.counts import RawCounts
from .prices import PricePreset
from .scenario import Scenario


@dataclass(frozen=True, eq=False)
class Result:
    """One finished run.

    Attributes
    ----------
    scenario : Scenario
    preset : PricePreset
        The prices that the cycles of the frames rest on.
    status : str
        How the run ended: ``stopped``, ``halted``, ``shutdown``, ``fatal``, ``budget``, ``cancelled``.
    raw : RawCounts
    facts : mapping
        Single values of the machine: stop_code, steps, l1_instructions, l2_instructions,
        bare_instructions, simulated_cycles, serial, fatal, unknown_count, unknown (the last
        instruction that raised #UD because the machine lacks it), virtual_entries, virtual_exits,
        host_ticks, clock_used (a guest read the time, or a timer ran), refused_entries (VM entries and VMRUNs that failed a check), refused_by (the
        last such check: what it demands and where the manual says so), vmx_abort (VMX-abort
        indicator, 0 none), stale_vmcb_groups (groups of a VMCB that were called unchanged but were
        not).
    run_seconds : float
        Wall time of the kernel.
    provenance : mapping
        versions, data_hash, core_hash, scenario_hash, created.
    """

    scenario: Scenario
    preset: PricePreset
    status: str
    raw: RawCounts
    facts: Mapping[str, Any]
    run_seconds: float
    provenance: Mapping[str, Any]

    @classmethod
    def from_machine(
        cls, scenario: Scenario, machine: np.ndarray, preset: PricePreset,
        wall_seconds: float, status: str,
    ) -> Result:  # fmt: skip
        """Copy what a machine counted.

        Parameters
        ----------
        machine : ndarray
            One record of ``core.layout.MACHINE``; it may be used again afterwards.
        """
        raw = RawCounts.from_ledger(machine["ledger"][0])
        origin = provenance.collect() | {"scenario_hash": scenario.hash}
        facts = FrozenMap(machine_facts(machine))
        return cls(scenario, preset, status, raw, facts, float(wall_seconds), FrozenMap(origin))

    # ---------------------------------------------------------------- tables

    @property
    def counts(self) -> pd.DataFrame:
        """cause, event, category, count, cycles, cycles_low, cycles_high."""
        return frames.counts_frame(self.raw, self.preset, self.guest_level)

    @property
    def exits(self) -> pd.DataFrame:
        """exit, code, from_level, handled_by, cause, count, per_l2_kinstr, cycles and bounds.

        The cycles are those of the exit itself: count x (HW_EXIT + HW_ENTRY + L0_EXIT_DISPATCH).
        """
        level = self.guest_level
        return frames.exits_frame(self.raw, self.scenario.backend, self.preset, level)

    @property
    def costs(self) -> pd.DataFrame:
        """category, cause, count, cycles, cycles_low, cycles_high; adds up to :attr:`cycles`.

        Low and high are of each row alone; :meth:`PricePreset.spread` says how they come about.
        """
        return frames.costs_frame(self.raw, self.preset, self.guest_level)

    @property
    def parts(self) -> pd.DataFrame:
        """cycles, cycles_low, cycles_high by part of the work, and of 'all', without the set-up."""
        return frames.parts_frame(self.raw, self.preset, self.guest_level)

    @property
    def tlb(self) -> pd.DataFrame:
        """reason, scope, flushes, entries_dropped, refills, refill_references."""
        return frames.tlb_frame(self.raw)

    @property
    def fields(self) -> pd.DataFrame:
        """layout, field, place, event, reads, writes."""
        layout = str(self.scenario.all_features["state_layout"])
        return frames.fields_frame(self.raw, self.scenario.backend, layout)

    @property
    def interrupts(self) -> pd.DataFrame:
        """reason, blocked, cycles: deliveries to L1 or L2 that had to wait, and for how long."""
        return frames.interrupts_frame(self.raw)

    @property
    def deliveries(self) -> pd.DataFrame:
        """level, kind, delivered, taken, latency_cycles.

        ``delivered``: handlers entered through the IDT.  ``taken``: acknowledged by the guest's
        processor, or by L0 for its guest; the mean latency is of those, from raise to taking.
        """
        return frames.deliveries_frame(self.raw)

    @property
    def latency(self) -> pd.DataFrame:
        """level, kind, from_cycles, below_cycles, count, share: events by how long they waited.

        From the moment an interrupt or NMI is raised until the guest's processor, or L0 for its
        guest, takes it; four bins for each power of two.  Counts add up to ``taken`` of
        :attr:`deliveries`; ``share`` runs up to 1 for each level and kind.
        """
        return frames.latency_frame(self.raw)

    def latency_quantiles(
        self, shares: Sequence[float] = (0.5, 0.95, 0.99), level: str = "", kind: str = ""
    ) -> np.ndarray:
        """Cycles that the given shares of events waited no longer than, shape (len(shares),).

        Parameters
        ----------
        shares : sequence of float
            From 0 to 1: the median, and the 95th and 99th percentile unless told.
        level, kind : str
            ``L1`` or ``L2``, ``interrupt`` or ``nmi``; all of them when empty.

        Raises
        ------
        ResultError
            A share that is none.
        """
        if any(not 0 <= share <= 1 for share in shares):
            raise ResultError(f"no share of events: {list(shares)}", "from 0 to 1")
        rows = self.latency
        for column, wanted in (("level", level), ("kind", kind)):
            if wanted:
                rows = rows[rows[column] == wanted]
        return frames.latency_quantiles(rows, shares)

    @property
    def operations(self) -> pd.DataFrame:
        """cause, operations, exits_per_operation, cycles_per_operation and bounds."""
        return frames.operations_frame(self.raw, self.preset, self.guest_level)

    @cached_property
    def _timeline(self) -> pd.DataFrame:
        return frames.timeline_frame(self.raw, self.scenario.backend)

    @property
    def timeline(self) -> pd.DataFrame:
        """step, cycles, from_level, to_level, kind, reason, cause, info, rip."""
        return self._timeline.copy()

    # ---------------------------------------------------------------- totals

    @property
    def cycles(self) -> float:
        """All cycles of the run: counts @ prices."""
        return float(self.raw.counts.sum(axis=0) @ self.preset.vector())

    @property
    def guest_level(self) -> int:
        """Level at which the L2 program ran: 2, or 1 in a single-level run."""
        return 1 if self.scenario.single_level else 2

    @property
    def l2_instructions(self) -> int:
        """Instructions that the L2 program retired."""
        return frames.guest_instructions(self.raw, self.guest_level)

    @property
    def l2_operations(self) -> int:
        """Exits of the L2 program, whoever handled them: what costs more than instructions."""
        return int(self.raw.exits[self.guest_level].sum())

    @property
    def stop_code(self) -> int:
        """What the guest wrote to the debug-exit port."""
        return int(self.facts["stop_code"])

    @property
    def serial(self) -> str:
        """What the guests wrote to the serial port."""
        return str(self.facts["serial"])

    def summary(self) -> pd.DataFrame:
        """One row: what ran, instructions, exits, cycles, flushes and wall time.

        ``cycles`` and ``exits`` per operation leave out the set-up before the first entry to L2.
        """
        return pd.DataFrame([self.totals()])

    def totals(self) -> dict[str, Any]:
        """The row of :meth:`summary` as a dict, which takes a fraction of the frame's time."""
        raw, after_boot = self.raw, frames.without_boot(self.raw)
        operations, kinstr = self.l2_operations or np.nan, (self.l2_instructions or np.nan) / 1000
        by_handler = raw.exits.sum(axis=1)  # from level, handler, cause
        exits = by_handler.sum(axis=1)
        boot = frames.CAUSES.index("BOOT")
        running = float(exits.sum() - exits[:, boot].sum())
        row: dict[str, Any] = {
            "backend": self.scenario.backend, "l1": self.scenario.l1, "l2": self.scenario.l2,
            "status": self.status, "stop_code": self.stop_code,
            "l1_instructions": 0 if self.guest_level == 1 else raw.event("L1_INSTRUCTION"),
            "l2_instructions": self.l2_instructions,
            "exits": int(exits.sum()),
            "exits_from_l1": int(exits[1].sum()), "exits_from_l2": int(exits[2].sum()),
            "reflected_to_l1": int(by_handler[:, 1].sum()),
            "exits_per_l2_kinstr": running / kinstr,
            "exits_per_operation": running / operations,
        }  # fmt: skip
        totals = self.preset.spread(raw.counts.sum(axis=0))
        running_totals = self.preset.spread(after_boot.sum(axis=0))
        row |= {name: float(cycles) for name, cycles in totals.items()}
        row |= {f"{n}_per_operation": float(c) / operations for n, c in running_totals.items()}
        row |= {
            "flushes": int(raw.flushes.sum()), "entries_dropped": int(raw.dropped.sum()),
            "refills": int(raw.refills.sum()), "run_seconds": self.run_seconds,
            "mips":
                self.facts["steps"] / 1e6 / self.run_seconds if self.run_seconds else np.nan,
        }  # fmt: skip
        return row

    def explain(self, cause: str) -> str:
        """The bill of one L2 operation: events x price = cycles, with the source of each price."""
        if cause not in CAUSES:
            raise ResultError(f"no cause called {cause!r}", did_you_mean(cause, CAUSES))
        from .measure.bill import bill

        return bill(self, cause)

    # ---------------------------------------------------------------- identity and other prices

    def reprice(self, preset: PricePreset) -> Result:
        """The same counts at other prices; nothing is run again."""
        if preset.backend not in ("", self.scenario.backend):
            message = f"prices {preset.name!r} are for {preset.backend}"
            raise ResultError(message, f"this result is of {self.scenario.backend}")
        return dataclasses.replace(self, preset=preset)

    @property
    def depends_on_prices(self) -> bool:
        """Could other prices give other counts?

        True when simulated time, which is the sum of the prices, was read by a guest, ran a timer
        or a scripted event, or measured how long an interrupt waited.
        """
        scripted = self.scenario.host_tick_cycles or self.scenario.nmi_cycles
        waited = self.raw.latency.any() or self.raw.blocked_time.any()
        return bool(self.facts.get("clock_used", True) or scripted or waited)

    def fingerprint(self) -> str:
        """SHA-256 over what is deterministic: counts, status and guests' output; no wall time."""
        facts = {k: v for k, v in self.facts.items() if k != "simulated_cycles"}
        text = json.dumps([self.status, facts, self.raw.digest()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def sources(self) -> tuple[str, ...]:
        """Bibliography keys behind the cycles of this result: of each price that met a count."""
        return self.preset.sources_for(self.raw.counts.sum(axis=0))

    def cite(self) -> str:
        """The sources behind the cycles of this result, one per line."""
        from .tables import reference

        return "\n".join(reference(key) for key in self.sources)

    # ---------------------------------------------------------------- keeping

    def save(self, directory: str | Path, overwrite: bool = False) -> Path:
        """Write the result into a new directory, all or nothing; returns its path."""
        return store.save(self, Path(directory), overwrite)

    @classmethod
    def load(cls, directory: str | Path) -> Result:
        """Read a result that :meth:`save` wrote; ResultError says what is wrong with it."""
        return cls(**store.load(Path(directory)))


def _backend(machine: np.ndarray) -> str:
    return "vmx" if machine["hw"]["backend"][0] == BACKEND_VMX else "svm"


def machine_facts(machine: np.ndarray) -> dict[str, Any]:
    """The single values of a machine record that belong to a result."""
    written = min(int(machine["serial_count"][0]), machine["serial"].shape[1])
    reason = int(machine["fatal"][0])
    levels = machine["level_steps"][0]
    ledger = machine["ledger"]
    return {
        "stop_code": int(machine["stop_code"][0]),
        "steps": int(machine["steps"][0]),
        "bare_instructions": int(levels[0]),
        "l1_instructions": int(levels[1]),
        "l2_instructions": int(levels[2]),
        "simulated_cycles": int(ledger["time"][0]) / TIME_SCALE,
        "virtual_entries": int(ledger["virtual_entries"][0]),
        "virtual_exits": int(ledger["virtual_exits"][0]),
        "host_ticks": int(ledger["host_ticks"][0]),
        "clock_used": bool(ledger["clock_used"][0]),
        "serial": bytes(machine["serial"][0][:written]).decode("latin-1"),
        "fatal": FATAL[reason] if reason < len(FATAL) else f"reason {reason}",
        "fatal_code": int(machine["fatal_code"][0]),
        "vmx_abort": int(machine["vmx_abort"][0]),
        "refused_entries": int(machine["checks_failed"][0]),
        "refused_by": check_text(_backend(machine), int(machine["check"][0])),
        "stale_vmcb_groups": svm.clean_groups(int(machine["stale_groups"][0])),
        "unknown_count": int(machine["unknown_count"][0]),
        "unknown": describe_unknown(machine),
    }
