"""The table of a sweep: one row per point, its settings as columns, then what was measured.

Only what is deterministic is measured, so that a sweep that was interrupted and resumed ends with
the same table; the wall time of a run is with its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ..errors import ResultError, did_you_mean
from ..result import Result
from ..scenario import Scenario
from .points import Point

FAILED, CANCELLED = "error", "cancelled"
Measures = Mapping[str, Callable[[Result], Any]]
_NOT_MEASURED = ("backend", "l1", "l2", "status", "run_seconds", "mips")
"""Columns of a summary that are settings, or differ from run to run."""


def measure(result: Result, measures: Measures) -> dict[str, Any]:
    """The measures of one run: its summary without wall time, and what the caller adds."""
    row = {name: v for name, v in result.totals().items() if name not in _NOT_MEASURED}
    return row | {name: function(result) for name, function in measures.items()}


class Results(Mapping[str, Result]):
    """Label of a point -> its result, read from the store when it is asked for."""

    def __init__(self, readers: Mapping[str, Callable[[], Result]]):
        self._readers = dict(readers)

    def __getitem__(self, label: str) -> Result:
        if label not in self._readers:
            hint = did_you_mean(label, self._readers)
            raise ResultError(f"no finished point is called {label!r}", hint)
        return self._readers[label]()

    def __contains__(self, label: object) -> bool:
        return label in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class SweepTable(pd.DataFrame):
    """A DataFrame that also knows the results behind its rows.

    Attributes
    ----------
    settings : tuple of str
        Columns that are settings.
    results : Results
        Mapping of the finished points' labels (column ``point``) to their results; charts and
        ``charts.to_text`` take the table itself, too.
    sources : tuple of str
        Keys of the sources behind the cycles after the set-up, over all finished points.

    Selecting or changing rows gives a plain DataFrame.
    """

    _metadata = ["settings", "results", "sources"]
    settings: tuple[str, ...]
    results: Results
    sources: tuple[str, ...]

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of points without a result: their settings, status and error."""
        rows = self.loc[self["status"].isin([FAILED, CANCELLED])]
        return rows[["point", *self.settings, "status", "error"]]


def build(
    base: Scenario,
    points: Sequence[Point],
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[str, Callable[[], Result]],
    sources: tuple[str, ...] = (),
) -> SweepTable:
    """The table of points and what was found: status, error, key, measures."""
    names = list(dict.fromkeys(name for point in points for name in point.settings))
    repeated = any(point.repeat for point in points)
    lines = []
    for point, row in zip(points, rows, strict=True):
        head: dict[str, Any] = {"point": point.label}
        head |= {name: setting(base, point, name) for name in names}
        if repeated:
            seed = point.scenario.seed if point.scenario is not None else None
            head |= {"repeat": point.repeat, "seed": seed}
        lines.append(head | dict(row))
    table = SweepTable(pd.DataFrame(lines))
    table.settings = tuple(names)
    table.results = Results(results)
    table.sources = sources
    return table


def setting(base: Scenario, point: Point, name: str) -> Any:
    """A point's value of a setting: as given, else what its scenario, or the base, has."""
    if name in point.settings:
        return point.settings[name]
    head, dot, entry = name.partition(".")
    value = (point.scenario or base).resolved().get(head)
    return value.get(entry) if dot and isinstance(value, Mapping) else value
