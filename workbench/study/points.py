"""What a sweep runs: the points of a grid or of samples, each a scenario or the reason it is none.

A run is deterministic, so a repeat means another seed: it is a run of its own only where the L2
program draws something from the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ..errors import ScenarioError, WorkbenchError, one_line
from ..features import value_text
from ..guests import catalogue
from ..scenario import Scenario

Settings = Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]] | pd.DataFrame


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes
    ----------
    label : str
        Its settings in words, unique in its sweep.
    settings : mapping of str to value
        What it changes in the base scenario, by dotted name.
    repeat : int
        0, 1, ...: the seed is that of the scenario plus this.
    scenario : Scenario or None
        None when the settings are no valid scenario; ``error`` says why.
    """

    label: str
    settings: Mapping[str, Any]
    repeat: int = 0
    scenario: Scenario | None = None
    error: str = ""


def expand(base: Scenario, settings: Settings, repeats: int = 1) -> list[Point]:
    """The points of a sweep, in the order of its table.

    Parameters
    ----------
    base : Scenario
        What stays the same.
    settings : mapping of str to iterable, or iterable of mappings, or DataFrame
        A grid: setting -> values, the last one fastest.  Or samples: one mapping, or row, each.
    repeats : int
        How many seeds to run a point with, where its L2 program draws anything from the seed.

    Raises
    ------
    ScenarioError
        Nothing to run, or no point is a valid scenario.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ScenarioError(f"repeats is {repeats!r}", "a whole number from 1 up")
    points: list[Point] = []
    for chosen in samples(settings):
        point = _point(base, chosen)
        drawn = repeats > 1 and point.scenario is not None and draws(point.scenario)
        points += [_repeat(point, i) for i in range(repeats)] if drawn else [point]
    if not points:
        raise ScenarioError("there is no point to run", "give each setting at least one value")
    if all(point.scenario is None for point in points):
        raise ScenarioError(f"no point can be run: {points[0].error}", "correct the settings")
    return _unique(points)


def samples(settings: Settings) -> list[dict[str, Any]]:
    """The settings of each point: a grid's combinations, or the samples as they are."""
    if isinstance(settings, pd.DataFrame):
        rows = settings.astype(object).to_dict("records")
        return [{str(k): _plain(v) for k, v in row.items() if not _missing(v)} for row in rows]
    if isinstance(settings, Mapping):
        axes = [list(map(_plain, _values(name, values))) for name, values in settings.items()]
        return [dict(zip(settings, chosen, strict=True)) for chosen in itertools.product(*axes)]
    found = list(settings)
    for sample in found:
        if not isinstance(sample, Mapping):
            hint = 'a grid {"features.x": [False, True]}, a list of mappings, or a DataFrame'
            raise ScenarioError(f"cannot sweep over {sample!r}", hint)
    return [{str(k): _plain(v) for k, v in sample.items()} for sample in found]


def _values(name: str, values: Any) -> Iterable[Any]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ScenarioError(f"{name} has no list of values", f'write "{name}": [{values!r}]')
    return values


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own number or bool."""
    return value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value


def _missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _point(base: Scenario, chosen: Mapping[str, Any]) -> Point:
    changes = dict(chosen)
    try:
        there = base.for_backend(changes.pop("backend", base.backend))
        return Point(label(chosen), chosen, scenario=there.replace(**changes))
    except (WorkbenchError, TypeError, ValueError) as problem:
        return Point(label(chosen), chosen, error=one_line(problem))


def draws(scenario: Scenario) -> bool:
    """Does the L2 program find anything in its memory that depends on the seed?"""
    guest = catalogue.find(2, scenario.l2, scenario.backend)
    values = scenario.all_params(2)
    return guest.blobs(values, scenario.seed) != guest.blobs(values, scenario.seed + 1)


def _repeat(point: Point, number: int) -> Point:
    assert point.scenario is not None
    seed = point.scenario.seed + number
    return replace(
        point, label=f"{point.label}, seed={seed}".lstrip(", "), repeat=number,
        scenario=point.scenario.replace(seed=seed),
    )  # fmt: skip


def label(chosen: Mapping[str, Any]) -> str:
    """Settings in words: ``vmcs_shadowing=on, work=0``."""
    return ", ".join(f"{name.rpartition('.')[2]}={value_text(v)}" for name, v in chosen.items())


def _unique(points: Sequence[Point]) -> list[Point]:
    seen: dict[str, int] = {}
    for point in points:
        seen[point.label] = seen.get(point.label, 0) + 1
    again: dict[str, int] = {}
    named = []
    for point in points:
        number = again[point.label] = again.get(point.label, 0) + 1
        doubled = seen[point.label] > 1
        named.append(replace(point, label=f"{point.label} ({number})") if doubled else point)
    return named
