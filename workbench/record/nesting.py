"""Deeper nesting: what an operation costs at level 3, 4, ..., by recursion over measured matrices.

Two levels are simulated; deeper ones are arithmetic on what those runs counted.  Not modelled: that
each hypervisor between also passes the exit on, copying state as L0 does, and that L0 cannot offer
every assist at every depth.  So the figures beyond level 2 are lower bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from .. import simulate
from ..errors import ResultError, did_you_mean
from ..measure.frames import rows
from ..result import Result
from ..scenario import Scenario
from ..study.point_store import PointStore

MAX_LEVELS = 8


@dataclass(frozen=True)
class _Measured:
    """What the runs say: of an operation at level 1 and 2, and of the exits of L1 behind it."""

    at_1: float
    at_2: float
    own: float
    traps: dict[str, float]
    price: dict[str, float]


def depth(
    scenario: Scenario, levels: int = 4, cause: str | None = None, *,
    progress: simulate.ProgressCallback | None = None, store: PointStore | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Cycles and hardware exits of one operation, by the level of the guest that does it.

    With ``C(k, x)`` the cycles of operation ``x`` done by a guest at level k, and ``X(k, x)`` its
    hardware exits::

        C(1, x) = measured: L0 handles it
        C(k, o) = own(o) + sum over p of M[o, p] * C(k-1, p)                   k >= 2
        C(k, p) = C(k, o) + max(0, C(1, p) - C(1, o))                          k >= 2
        X(1, x) = 1,  X(k, x) = 1 + sum over p of M[o, p] * X(k-1, p)

    ``o`` is the operation of the scenario, ``p`` runs over the instructions of its handler that
    exit (VMREAD, VMRESUME, STGI, ...), ``M[o, p]`` says how often the handler executes each (the
    matrix of level 2), and ``own(o)`` is the rest: the exit itself, the virtual exit, and the
    handler's plain instructions.  ``C(1, o)`` comes from the single-level run of the same program.
    The third line is an assumption: an instruction ``p`` of a deeper hypervisor is served by a
    handler like that of ``o``, and by as much more software as it needs at level 1.

    Parameters
    ----------
    scenario : Scenario
        A nested one; its single-level twin is run as well.
    levels : int
        From 2 to 8.
    cause : str, optional
        The operation; by default the most frequent of L2.

    Returns
    -------
    DataFrame
        level, cycles, exits, ratio (cycles over those of the level below), simulated (cycles that
        the simulation itself found at levels 1 and 2, missing beyond); ``attrs["sources"]`` has the
        keys of the sources of the prices.

    Raises
    ------
    ResultError
        A single-level scenario, too many levels, or an operation that does not occur.
    """
    if scenario.single_level:
        raise ResultError("depth needs a nested scenario", 'give l1 a hypervisor instead of "none"')
    if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= MAX_LEVELS:
        raise ResultError(f"levels is {levels!r}", f"a whole number from 2 to {MAX_LEVELS}")
    store = PointStore() if store is None else store
    nested = _run(scenario.replace(timeline=16_384), store, progress)
    alone = _run(scenario.replace(l1="none", l1_params={}), store, progress)
    found = _measure(nested, alone, cause)
    table = [{"level": 1, "cycles": found.at_1, "exits": 1.0, "simulated": found.at_1}]
    cost, exits = dict(found.price), dict.fromkeys(found.price, 1.0)
    for level in range(2, levels + 1):
        cycles = found.own + sum(n * cost[p] for p, n in found.traps.items())
        count = 1 + sum(n * exits[p] for p, n in found.traps.items())
        simulated = found.at_2 if level == 2 else math.nan
        table.append({"level": level, "cycles": cycles, "exits": count, "simulated": simulated})
        cost = {p: cycles + max(0.0, found.price[p] - found.at_1) for p in cost}
        exits = dict.fromkeys(exits, count)
    frame = pd.DataFrame(table)
    frame.attrs["sources"] = tuple(dict.fromkeys((*alone.sources, *nested.sources)))
    frame.insert(3, "ratio", frame["cycles"] / frame["cycles"].shift())
    return frame


def _run(
    scenario: Scenario, store: PointStore, progress: simulate.ProgressCallback | None
) -> Result:
    result = store.get(scenario)
    if result is None:
        result = simulate.run(scenario, progress)
        store.put(result)
    return result


def _measure(nested: Result, alone: Result, cause: str | None) -> _Measured:
    operations = nested.operations.set_index("cause")
    if cause is None:
        cause = str(operations["operations"].idxmax())
    deep, flat = operations, alone.operations.set_index("cause")
    for table, where in ((deep, "nested"), (flat, "single-level")):
        if cause not in table.index:
            hint = did_you_mean(cause, table.index) or "its exits do not occur without L1"
            raise ResultError(f"the {where} run has no operation {cause!r}", hint)
    traps, price, own = _spans(nested, cause)
    at_1, at_2 = (
        float(table.loc[[cause], "cycles_per_operation"].iloc[0]) for table in (flat, deep)
    )
    return _Measured(at_1, at_2, own, traps, price)


def _spans(result: Result, cause: str) -> tuple[dict[str, float], dict[str, float], float]:
    """From the timeline: exits of L1 per operation, cycles of each, and cycles between them."""
    steps = result.timeline
    steps = steps[steps["kind"].isin(["hw_exit", "hw_entry"])]
    counts: dict[str, int] = {}
    cycles: dict[str, float] = {}
    operations, total, inside = 0, 0.0, False
    begin = left = 0.0
    reason = ""
    seen: list[tuple[str, float]] = []
    for step in rows(steps):
        if step.kind == "hw_exit" and step.from_level == "L2":
            inside, begin, seen, reason = step.cause == cause, step.cycles, [], ""
        elif step.kind == "hw_exit":
            reason, left = str(step.reason), step.cycles
        elif reason:  # an entry that ends an exit of L1
            seen.append((reason, step.cycles - left))
            reason = ""
        if inside and step.kind == "hw_entry" and step.to_level == "L2":
            operations, inside = operations + 1, False
            total += step.cycles - begin
            for name, span in seen:
                counts[name] = counts.get(name, 0) + 1
                cycles[name] = cycles.get(name, 0.0) + span
    if not operations:
        hint = "fewer iterations, so that the timeline holds an operation"
        raise ResultError(f"the timeline has no whole {cause}", hint)
    traps = {name: n / operations for name, n in counts.items()}
    price = {name: cycles[name] / n for name, n in counts.items()}
    return traps, price, (total - sum(cycles.values())) / operations
