"""What an experiment can measure of a run: counts of the model, and cycles.

Cycles are counts x prices: a priced measure gives the counts behind one unit of work, so that
two runs can be compared at the same prices, whatever these are within their bounds.  Cycles per
1000 instructions of L2 compare runs of the same program even where one setting makes it exit more
often; cycles per operation, which are per exit of L2, do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..core.ledger import CAUSES, EVENTS
from ..errors import WorkbenchError, did_you_mean
from ..measure.frames import without_boot
from ..result import Result

_LOOKUP = EVENTS.index("PERMISSION_MAP_LOOKUP")
_RUN = CAUSES.index("RUN")


_NO_INSTRUCTION = (
    "BOOT", "RUN", "NESTED_PAGE_FAULT", "PAGE_FAULT", "EXCEPTION", "INTERRUPT", "INTERRUPT_WINDOW",
    "SHUTDOWN", "ENTRY_FAILURE", "APIC_ACCESS", "OTHER",
)  # fmt: skip
_EMULATED = [CAUSES.index(cause) for cause in CAUSES if cause not in _NO_INSTRUCTION]


def instructions(result: Result) -> int:
    """Instructions that L2 got done: those it retired, and those for which it exited.

    The same for the same program, however many of its instructions a setting makes exit.
    """
    exits = result.raw.exits[result.guest_level].sum(axis=(0, 1))
    return int(result.l2_instructions + exits[_EMULATED].sum())


def accesses(result: Result) -> int:
    """Random accesses of the L2 program ``workset``, which has them as a parameter."""
    return int(result.scenario.l2_params.get("accesses", 0))


def _after_boot(result: Result) -> np.ndarray:
    return without_boot(result.raw).sum(axis=0)


def _per_kinstr(result: Result) -> np.ndarray:
    counts: np.ndarray = _after_boot(result) * (1000 / max(instructions(result), 1))
    return counts


def _per_operation(result: Result) -> np.ndarray:
    counts: np.ndarray = _after_boot(result) / max(result.l2_operations, 1)
    return counts


def _per_transition(result: Result) -> np.ndarray:
    counts: np.ndarray = _after_boot(result) / max(result.facts["virtual_exits"], 1)
    return counts


def _per_access(result: Result) -> np.ndarray:
    counts: np.ndarray = _after_boot(result) / max(accesses(result), 1)
    return counts


PRICED: dict[str, Callable[[Result], np.ndarray]] = {
    "cycles": _after_boot,
    "cycles_per_l2_kinstr": _per_kinstr,
    "cycles_per_operation": _per_operation,
    "cycles_per_access": _per_access,
    "cycles_per_transition": _per_transition,
}
"""Name -> events counted for one unit of work, shape (N_EVENTS,), without the set-up before the
first entry to L2."""


def _refills(result: Result) -> float:
    return float(result.tlb["refills"].sum() / max(result.l2_operations, 1))


def _flushes(result: Result) -> float:
    return float(result.raw.flushes.sum() / max(result.l2_operations, 1))


def _accesses(result: Result) -> float:
    """Accesses of L2 that the processor looked up in a permission map, per virtual exit."""
    return float(result.raw.counts[_RUN, _LOOKUP] / max(result.facts["virtual_exits"], 1))


def _between(result: Result) -> float:
    return float(instructions(result) / max(result.facts["virtual_exits"], 1))


COUNTED: dict[str, Callable[[Result], float]] = {
    "refills_per_operation": _refills,
    "flushes_per_operation": _flushes,
    "accesses_per_transition": _accesses,
    "instructions_per_transition": _between,
}
"""Measures that no price moves, beside the columns of a result's summary."""


def _latency(result: Result) -> tuple[float, float]:
    """Mean wait of all events and its standard error [cycles]."""
    taken = result.deliveries.dropna()
    total = float(taken["taken"].sum())
    if not total:
        return 0.0, 0.0
    mean = float((taken["latency_cycles"] * taken["taken"]).sum() / total)
    bins = result.latency
    middle = (bins["from_cycles"] + bins["below_cycles"]) / 2
    variance = float(((middle - mean) ** 2 * bins["count"]).sum() / total)
    return mean, float(np.sqrt(variance / total))


SAMPLED: dict[str, Callable[[Result], tuple[float, float]]] = {"event_latency": _latency}
"""Means over events that come at arbitrary moments, with their standard errors: the bounds are two
of these to either side."""


@dataclass(frozen=True)
class Reading:
    """One measure of one run; ``counts`` where prices make it.

    ``low`` and ``high`` are bounds of the prices, or of a sample of events.
    """

    value: float
    low: float
    high: float
    counts: np.ndarray | None = None


def read(result: Result, column: str) -> Reading:
    """A measure of a run.

    Raises
    ------
    WorkbenchError
        No measure of that name.
    """
    if column in PRICED:
        counts = PRICED[column](result)
        spread = result.preset.spread(counts)
        value, low, high = (float(spread[f"cycles{end}"]) for end in ("", "_low", "_high"))
        return Reading(value, low, high, counts)
    if column in SAMPLED:
        value, error = SAMPLED[column](result)
        return Reading(value, value - 2 * error, value + 2 * error)
    if column in COUNTED:
        value = COUNTED[column](result)
    else:
        row = result.summary().iloc[0]
        numbers = [str(name) for name in row.index if not isinstance(row[name], str)]
        if column not in numbers or column.startswith("cycles"):
            known = (*PRICED, *COUNTED, *SAMPLED, *numbers)
            raise WorkbenchError(f"no measure called {column!r}", did_you_mean(column, known))
        value = float(row[column])
    return Reading(value, value, value)


def gain(than: Result, better: Result, column: str) -> tuple[float, float, float]:
    """How much lower a measure is in ``better``, and the least and most that its bounds make of it.

    Both runs are priced alike: a price that is low for one is low for the other.  Only where the
    two have different price lists, as two back-ends do, their bounds are taken apart.
    """
    old, new = read(than, column), read(better, column)
    value = old.value - new.value
    alike = than.preset.hash == better.preset.hash
    if old.counts is not None and new.counts is not None and alike:
        return than.preset.spread_of_difference(old.counts, new.counts)
    below = np.hypot(old.value - old.low, new.high - new.value)
    above = np.hypot(old.high - old.value, new.value - new.low)
    return value, float(value - below), float(value + above)
