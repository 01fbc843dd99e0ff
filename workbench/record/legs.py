"""What one leg of a nested exit consists of: the run is stepped, and the ledger read before and after.

An exit of L2 that goes to L1, or L1's VMRESUME or VMRUN, is served by L0 within one step of the
machine; what the ledger gains in that step is the leg.  Guest instructions are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core.ledger import CAUSES, EVENTS
from ..errors import ResultError
from ..simulate import Run, prepare

if TYPE_CHECKING:
    from ..scenario import Scenario

LEGS = {"exit_leg": (2, 1), "handling_leg": (2, 1), "entry_leg": (1, 2)}
"""Measure -> the level that is left, and the one that is entered."""
_SWITCHES = ("HW_EXIT", "HW_ENTRY")
_GUESTS = [EVENTS.index(name) for name in EVENTS if name.endswith("_INSTRUCTION")]
_FIRST, _LEGS_TAKEN = 3, 4
"""The first legs touch pages for the first time."""


def leg_counts(scenario: Scenario, kind: str, cause: str) -> np.ndarray:
    """Events of one leg, float64, shape (N_EVENTS,): the mean of a few.

    Parameters
    ----------
    kind : {"exit_leg", "handling_leg", "entry_leg"}
        From L2's exit to the entry of L1, the same without the hardware's exit and entry, or from
        L1's VMRESUME or VMRUN to the entry of L2.
    cause : str
        The ledger's cause of the operation.

    Raises
    ------
    ResultError
        No such leg, or the run has none of this cause.
    """
    if kind not in LEGS:
        raise ResultError(f"no leg called {kind!r}", f"there are: {', '.join(LEGS)}")
    legs = _legs(scenario, LEGS[kind], CAUSES.index(cause))
    counts = np.mean(legs, axis=0)
    counts[_GUESTS] = 0
    if kind == "handling_leg":
        counts[[EVENTS.index(name) for name in _SWITCHES]] = 0
    return counts


def _legs(scenario: Scenario, wanted: tuple[int, int], cause: int) -> list[np.ndarray]:
    prepare()
    running = Run(scenario)
    record = running.machine.record
    seen: list[np.ndarray] = []
    level, counts = int(record["level"][0]), record["ledger"]["counts"][0, cause].copy()
    while running.advance(1) and len(seen) < _FIRST + _LEGS_TAKEN:
        entered, gained = int(record["level"][0]), record["ledger"]["counts"][0, cause].copy()
        if (level, entered) == wanted and (gained != counts).any():
            seen.append(gained - counts)
        level, counts = entered, gained
    if len(seen) <= _FIRST:
        message = f"the run has {len(seen)} legs of {CAUSES[cause]}"
        raise ResultError(message, "more iterations give more of them")
    return seen[_FIRST:]
