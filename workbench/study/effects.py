"""Designs over toggles and what they show: main effects and two-way interactions of features.

A design varies toggles between two values each, their base value and another one.  *One at a time*
changes each alone; a *full factorial* runs all 2^k combinations, and so also shows which toggle
helps only with which other.  Effects are differences of means (Box, Hunter, Hunter); the model is
deterministic, so what they range over is the other toggles, not noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..errors import ScenarioError, did_you_mean
from ..features import applicable, catalogue, value_text
from ..result import Result
from ..scenario import Scenario

FACTORIAL, ONE_AT_A_TIME = "factorial", "one at a time"
MAX_FACTORS = 12
"""2^12 points are the most that a full factorial may ask for."""
NEGLIGIBLE = 0.001
"""An effect below this part of the largest main effect counts as none."""
ALIKE = 0.05
"""Two effects that differ by less than this part of the larger one count as the same; and one
smaller than this part of the other as none beside it."""

Toggles = Sequence[str] | Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Factor:
    """One toggle of a design: ``low`` is the value of the base scenario, ``high`` the other one."""

    name: str
    low: Any
    high: Any

    @property
    def label(self) -> str:
        """Without ``features.``, and with the values unless they are off and on."""
        short = self.name.removeprefix("features.")
        if (self.low, self.high) == (False, True):
            return short
        if (self.low, self.high) == (True, False):
            return f"{short} off"
        return f"{short} {value_text(self.low)} → {value_text(self.high)}"


def factors(base: Scenario, toggles: Toggles | None = None) -> tuple[Factor, ...]:
    """The factors of a design.

    Parameters
    ----------
    base : Scenario
    toggles : sequence of str, or mapping of str to (low, high), optional
        Features, with or without ``features.`` before them, or other settings by dotted name.  A
        switch goes from its base value to the opposite; what has more values needs both given.
        By default all switches of the back-end.

    Raises
    ------
    ScenarioError
        No such feature or setting, or not two values.
    """
    if isinstance(toggles, Mapping):
        return tuple(_factor(base, name, values) for name, values in toggles.items())
    switches = [feature.id for feature in applicable(base.backend) if feature.is_switch]
    return tuple(_factor(base, name, None) for name in (switches if toggles is None else toggles))


def _factor(base: Scenario, given: str, values: Any) -> Factor:
    name = given if "." in given or given not in catalogue() else f"features.{given}"
    head, dot, entry = name.partition(".")
    now = base.resolved().get(head)
    if dot:
        if not isinstance(now, Mapping) or entry not in now:
            known = now if isinstance(now, Mapping) else base.resolved()
            raise ScenarioError(f"no setting called {name!r}", did_you_mean(entry, known))
        now = now[entry]
    elif head not in base.resolved():
        names = [*base.resolved(), *base.all_features]
        raise ScenarioError(f"no setting or feature called {given!r}", did_you_mean(given, names))
    if values is None:
        if not isinstance(now, bool):
            hint = f'give its two values: {{"{name}": ({now!r}, ...)}}'
            raise ScenarioError(f"{name} is no switch", hint)
        return Factor(name, now, not now)
    pair = tuple(values) if isinstance(values, (list, tuple)) else ()
    if len(pair) != 2 or pair[0] == pair[1]:
        raise ScenarioError(f"{name} has the values {values!r}", "give two different ones")
    return Factor(name, *pair)


def one_at_a_time(chosen: Sequence[Factor]) -> list[dict[str, Any]]:
    """Samples: all factors low, then each alone high; k + 1 points."""
    low = {factor.name: factor.low for factor in chosen}
    return [low, *({**low, factor.name: factor.high} for factor in chosen)]


def full_factorial(chosen: Sequence[Factor]) -> list[dict[str, Any]]:
    """Samples: every combination, the last factor fastest; 2^k points."""
    if len(chosen) > MAX_FACTORS:
        hint = f"choose at most {MAX_FACTORS}, or vary them one at a time"
        raise ScenarioError(f"{len(chosen)} toggles have {2 ** len(chosen)} combinations", hint)
    names = [factor.name for factor in chosen]
    pairs = itertools.product(*((factor.low, factor.high) for factor in chosen))
    return [dict(zip(names, values, strict=True)) for values in pairs]


@dataclass(frozen=True, eq=False)
class Effects:
    """What a design showed about one measure.

    Attributes
    ----------
    design : {"factorial", "one at a time"}
    measure : str
        Column of the table.
    factors : tuple of Factor
    table : DataFrame
        The sweep's table.
    result : Result or None
        One of the runs, for the provenance of a chart.
    sources : tuple of str
        Keys of the sources behind the cycles of all runs.
    """

    design: str
    measure: str
    factors: tuple[Factor, ...]
    table: pd.DataFrame
    result: Result | None = field(default=None, repr=False)
    sources: tuple[str, ...] = ()

    @property
    def main(self) -> pd.DataFrame:
        """feature, low, high, effect, smallest, largest, relative; the largest effect first.

        ``effect``: mean difference of the measure when the feature goes from low to high, over all
        settings of the others; ``smallest`` and ``largest``: over which single ones it ranges;
        ``relative``: the effect beside the mean where the feature is low.
        """
        rows = []
        for i, factor in enumerate(self.factors):
            change, before = self._changes(i)
            mean = float(np.mean(change)) if len(change) else np.nan
            below = float(np.mean(before)) if len(before) else np.nan
            ends = (change.min(), change.max()) if len(change) else (np.nan, np.nan)
            rows.append((factor.label, factor.low, factor.high, mean, *ends,
                         mean / below if below else np.nan))  # fmt: skip
        columns = ["feature", "low", "high", "effect", "smallest", "largest", "relative"]
        found = pd.DataFrame(rows, columns=columns)
        order = found["effect"].abs().sort_values(ascending=False, kind="stable").index
        return found.loc[order].reset_index(drop=True)

    @property
    def interactions(self) -> pd.DataFrame:
        """first, second, alone, together, interaction, relation: one row per pair of features.

        ``alone``: effect of the first while the second is low; ``together``: while it is high (means
        over all other features).  ``interaction``: half of their difference, which is the same
        for both orders.  ``relation`` says what this means for the first feature.
        """
        if self.design != FACTORIAL:
            hint = "use wb.factorial: it runs all combinations"
            raise ScenarioError("one toggle at a time shows no interactions", hint)
        scale = max((abs(v) for v in self.main["effect"] if v == v), default=0.0)
        rows = []
        for i, j in itertools.permutations(range(len(self.factors)), 2):
            alone, together = self._effect_where(i, j, 0), self._effect_where(i, j, 1)
            relation = _relation(alone, together, NEGLIGIBLE * scale)
            half = (together - alone) / 2
            rows.append((self.factors[i].label, self.factors[j].label, alone, together,
                         0.0 if abs(half) <= self._noise else half, relation))  # fmt: skip
        columns = ["first", "second", "alone", "together", "interaction", "relation"]
        found = pd.DataFrame(rows, columns=columns)
        order = found["interaction"].abs().sort_values(ascending=False, kind="stable").index
        return found.loc[order].reset_index(drop=True)

    def sentences(self) -> list[str]:
        """The pairs that matter, in words, the strongest first."""
        said = {
            "only with": "{0} has an effect only with {1}",
            "only without": "{0} has an effect only without {1}",
            "reversed by": "{1} turns the effect of {0} round",
            "strengthened by": "{1} strengthens the effect of {0}",
            "weakened by": "{1} weakens the effect of {0}",
        }
        pairs = self.interactions
        return [
            said[relation].format(first, second)
            for first, second, relation in zip(
                pairs["first"], pairs["second"], pairs["relation"], strict=True
            )
            if relation in said
        ]

    # ---------------------------------------------------------------- arithmetic

    def _cube(self) -> np.ndarray:
        """Measure by combination, one axis of two places per factor; NaN where no run ended well."""
        cube = np.full((2,) * len(self.factors), np.nan)
        values = pd.to_numeric(self.table[self.measure], errors="coerce").to_numpy(float)
        columns = [self.table[factor.name].tolist() for factor in self.factors]
        for value, settings in zip(values, zip(*columns, strict=True), strict=True):
            place = tuple(int(s == f.high) for s, f in zip(settings, self.factors, strict=True))
            cube[place] = value
        return cube

    @property
    def _noise(self) -> float:
        """What sums of floating-point numbers of this size may be off by."""
        values = pd.to_numeric(self.table[self.measure], errors="coerce").abs()
        return 1e-12 * float(values.max())

    def _changes(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Change of the measure by factor ``i`` at every setting of the others, and what it was."""
        cube = np.moveaxis(self._cube(), i, 0)
        known = ~np.isnan(cube[0]) & ~np.isnan(cube[1])
        return (cube[1] - cube[0])[known], cube[0][known]

    def _effect_where(self, i: int, j: int, level: int) -> float:
        cube = np.moveaxis(self._cube(), (i, j), (0, 1))[:, level]
        change = cube[1] - cube[0]
        known = change[~np.isnan(change)]
        return float(known.mean()) if known.size else np.nan


def _relation(alone: float, together: float, floor: float) -> str:
    if not (np.isfinite(alone) and np.isfinite(together)):
        return "unknown"
    larger = max(abs(alone), abs(together))
    if larger <= floor:
        return "no effect"
    if abs(together - alone) <= ALIKE * larger:
        return "independent of"
    if abs(alone) <= ALIKE * larger:
        return "only with"
    if abs(together) <= ALIKE * larger:
        return "only without"
    if alone * together < 0:
        return "reversed by"
    return "strengthened by" if abs(together) > abs(alone) else "weakened by"
