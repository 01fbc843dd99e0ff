"""The runs of an experiment, and the tidy frame of what they measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import WorkbenchError
from ..result import Result
from ..scenario import Scenario
from ..simulate import ProgressCallback
from ..study.runs import sweep
from . import measures
from .steady import since

if TYPE_CHECKING:
    from .spec import Experiment

BOTH = "both"
"""The back-end column of an experiment whose alternatives are the back-ends."""


@dataclass(frozen=True, eq=False)
class Run:
    """One point of an experiment: its place on the axes, its alternative and its result.

    ``start`` is the run that is taken off before anything is measured (``after`` in the file).
    """

    backend: str
    place: tuple[Any, ...]
    alternative: str
    result: Result
    start: Result | None = None

    @cached_property
    def measured(self) -> Result:
        """What is measured: the result, without its warm-up where the experiment says so."""
        return since(self.result, self.start) if self.start is not None else self.result

    @property
    def label(self) -> str:
        """Unique in its experiment."""
        where = ", ".join(f"{value:g}" if isinstance(value, float) else str(value)
                          for value in self.place)  # fmt: skip
        return f"{self.backend}, {where}, {self.alternative}"


def run_all(spec: Experiment, progress: ProgressCallback | None = None) -> list[Run]:
    """Run every point.

    Raises
    ------
    WorkbenchError
        A point cannot be run, or ends before its program does.
    """
    found = []
    for backend, values in spec.base.items():
        scenario = Scenario.from_dict({"backend": backend, **values}, spec.name)
        scenario = scenario.replace(**spec.changes)
        axes = [spec.points(name).items() for name in spec.axes]
        points = [
            (tuple(value for value, _ in place), name, _merged([s for _, s in place], settings))
            for place in itertools.product(*axes)
            for name, settings in spec.choices(backend).items()
        ]
        results = _results(spec, scenario, [settings for _, _, settings in points], progress)
        starts: Sequence[Result | None] = [None] * len(points)
        if "after" in spec.measure:
            short = [settings | spec.measure["after"] for _, _, settings in points]
            starts = _results(spec, scenario, short, progress)
        for (place, name, _), result, start in zip(points, results, starts, strict=True):
            found.append(Run(backend, place, name, result, start))
    return found


def _results(
    spec: Experiment, scenario: Scenario, points: Sequence[Mapping[str, Any]],
    progress: ProgressCallback | None,
) -> list[Result]:  # fmt: skip
    """The result of each point; points that are the same run once."""
    keys = [tuple(sorted(point.items())) for point in points]
    single = list(dict.fromkeys(keys))
    table = sweep(scenario, [dict(key) for key in single], progress=progress)
    if len(table.failed):
        bad = table.failed.iloc[0]
        raise WorkbenchError(f"experiment {spec.name}, {bad['point']}: {bad['error']}")
    check_ends(spec.name, table)
    found = dict(zip(single, (table.results[label] for label in table["point"]), strict=True))
    return [found[key] for key in keys]


def _merged(axes: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    return dict(itertools.chain(*(given.items() for given in (*axes, settings))))


def check_ends(name: str, table: pd.DataFrame) -> None:
    """A run that ends early measures something else."""
    odd = table[table["status"] != "stopped"]
    if len(odd):
        message = f"experiment {name}, {odd['point'].iloc[0]}: ended with {odd['status'].iloc[0]}"
        raise WorkbenchError(message, "choose programs that take the events and reach their end")


def frame(spec: Experiment, runs: Sequence[Run]) -> pd.DataFrame:
    """What the runs measured, one row each.

    Returns
    -------
    DataFrame
        backend, axis, axis2 (of an experiment with two), alternative, value, low, high; gain,
        gain_low, gain_high: how much lower the value is than with the verdict's ``than`` at the
        same point and the same prices.  Bounds are those of the prices, or of a sample of events.
    """
    column, than = spec.measure["column"], spec.verdict["than"]
    base = {_point(spec, run): run.measured for run in runs if run.alternative == than}
    shown = [_shown(spec, name, number, runs) for number, name in enumerate(spec.axes)]
    order = list(dict.fromkeys(_point(spec, run) for run in runs))
    lines = []
    for run in sorted(runs, key=lambda run: order.index(_point(spec, run))):
        reading = measures.read(run.measured, column)
        point = _point(spec, run)
        gain = measures.gain(base[point], run.measured, column)
        line: dict[str, Any] = {"backend": point[0]}
        for number, name in enumerate(spec.axes):
            line[name] = shown[number].get((point[0], run.place[number]), run.place[number])
        line |= {"alternative": run.alternative, "value": reading.value}
        line |= {"low": reading.low, "high": reading.high}
        lines.append(line | dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True)))
    return pd.DataFrame(lines)


def _point(spec: Experiment, run: Run) -> tuple[Any, ...]:
    return (BOTH if spec.across else run.backend, *run.place)


def _shown(
    spec: Experiment, name: str, number: int, runs: Sequence[Run]
) -> dict[tuple[str, Any], float]:
    """(back-end, value of the setting) -> the count that stands for it: the median of the runs."""
    count = getattr(spec, name).get("shown")
    if count is None:
        return {}
    found: dict[tuple[str, Any], list[float]] = {}
    for run in runs:
        if run.alternative == spec.verdict["than"]:
            key = _point(spec, run)[0], run.place[number]
            found.setdefault(key, []).append(measures.COUNTED[count](run.measured))
    return {key: float(f"{median(counts):.3g}") for key, counts in found.items()}
