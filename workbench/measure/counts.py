"""The kernel's counters as plain arrays, taken out of the machine record and never changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np

from ..core.ledger import (
    CAUSES,
    EVENTS,
    N_BLOCK_REASONS,
    N_CAUSES,
    N_EVENTS,
    N_EXIT_CODES,
    N_FIELDS,
    N_LATENCY_BINS,
    N_PHASES,
    N_REASONS,
    N_SCOPES,
    N_STATE,
    N_STATE_EVENTS,
)

BOOT = CAUSES.index("BOOT")
TIMELINE_COLUMNS = (
    "step",
    "time",
    "code",
    "info",
    "rip",
    "from_level",
    "to_level",
    "kind",
    "cause",
)

SHAPES = {
    "counts": (N_CAUSES, N_EVENTS),
    "exits": (3, N_EXIT_CODES, 2, N_CAUSES),
    "flushes": (N_REASONS, N_SCOPES),
    "dropped": (N_REASONS, N_SCOPES),
    "refills": (N_REASONS,),
    "refill_references": (N_REASONS,),
    "refill_walks": (N_CAUSES, 4),
    "fields": (N_FIELDS, N_PHASES * 2),
    "state": (N_STATE_EVENTS, N_STATE * 2),
    "blocked": (N_BLOCK_REASONS,),
    "blocked_time": (N_BLOCK_REASONS,),
    "delivered": (3, 2),
    "latency": (3, 2, N_LATENCY_BINS),
    "latency_time": (3, 2),
}


@dataclass(frozen=True, eq=False)
class RawCounts:
    """What one run counted; every array is int64 and read-only.

    Attributes
    ----------
    counts : [cause, event]
    exits : [from level, place in the exit table, handler 0 = L0 1 = L1, cause]
    flushes, dropped : [reason, scope]
        Flush operations, and TLB entries they dropped.
    refills, refill_references : [reason]
        TLB misses on what a flush had dropped, and the walk references they took.
    refill_walks : [cause, 0 = first-level cache 1 = second 2 = last 3 = memory]
        The same references by cause and where they hit.
    fields : [field, phase * 2 + write]
        Accesses to fields of vmcx12.
    state : [event, field * 2 + write]
        Accesses to the per-vcpu nested state, by what L0 was doing.
    blocked, blocked_time : [reason]
        Interrupts and NMIs that had to wait, and how long in 1/1024 cycle.
    delivered : [level, 0 = interrupt 1 = NMI]
        Handlers of interrupts and NMIs entered.
    latency, latency_time : [level, 0 = interrupt 1 = NMI, bin], [level, kind]
        Interrupts and NMIs taken, by cycles from raise to taking: bin 0 counts those of less than
        one cycle, bin 1 + 4*k + q those in quarter q of 2**k up to 2**(k+1) cycles; and the sum
        in 1/1024 cycle.
    timeline : [entry, column]
        Columns as in :data:`TIMELINE_COLUMNS`; time in 1/1024 cycle.
    """

    counts: np.ndarray
    exits: np.ndarray
    flushes: np.ndarray
    dropped: np.ndarray
    refills: np.ndarray
    refill_references: np.ndarray
    refill_walks: np.ndarray
    fields: np.ndarray
    state: np.ndarray
    blocked: np.ndarray
    blocked_time: np.ndarray
    delivered: np.ndarray
    latency: np.ndarray
    latency_time: np.ndarray
    timeline: np.ndarray

    def __post_init__(self) -> None:
        for item in fields(self):
            array = np.array(getattr(self, item.name), np.int64)
            array.flags.writeable = False
            object.__setattr__(self, item.name, array)

    @classmethod
    def from_ledger(cls, ledger: np.void) -> RawCounts:
        """Copy the counters out of ``machine["ledger"][0]``."""
        return cls(**{name: ledger[name] for name in SHAPES}, timeline=_timeline(ledger))

    def event(self, name: str) -> int:
        """How often an event was counted, over all causes."""
        return int(self.counts[:, EVENTS.index(name)].sum())

    def digest(self) -> str:
        """SHA-256 over everything counted and the order of events; simulated time left out."""
        total = hashlib.sha256()
        for name in SHAPES:
            total.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        kept = [i for i, column in enumerate(TIMELINE_COLUMNS) if column != "time"]
        total.update(np.ascontiguousarray(self.timeline[:, kept]).tobytes())
        return total.hexdigest()


def _timeline(ledger: np.void) -> np.ndarray:
    ring = ledger["timeline"]
    recorded = int(ledger["timeline_next"])
    kept = min(recorded, int(ledger["timeline_limit"]) or recorded, len(ring))
    return np.stack([ring[name][:kept].astype(np.int64) for name in TIMELINE_COLUMNS], axis=1)
