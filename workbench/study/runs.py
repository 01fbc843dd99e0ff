"""Several runs at once: scenarios side by side, and one scenario with settings varied."""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import simulate
from ..errors import ResultError, ScenarioError, WorkbenchError, did_you_mean, one_line
from ..frozen import FrozenMap
from ..measure.frames import without_boot
from ..result import Result
from ..scenario import Scenario
from . import crews
from .comparison import Comparison
from .crews import Crew
from .effects import FACTORIAL, ONE_AT_A_TIME, Effects, Toggles, factors, full_factorial
from .effects import one_at_a_time as single_changes
from .point_store import PointStore
from .points import Point, Settings, draws, expand
from .sweep_table import CANCELLED, FAILED, Measures, SweepTable, build, measure


def compare(
    scenarios: Mapping[str, Scenario | Result],
    progress: simulate.ProgressCallback | None = None,
) -> Comparison:
    """Run scenarios side by side and say what differs; charts and ``to_text`` take it, too.

    Parameters
    ----------
    scenarios : mapping of str to Scenario or Result
        Label -> what to run; a result is kept as it is.

    Returns
    -------
    Comparison
        A mapping label -> result, with what differs as frames (``settings``, ``counts``,
        ``exits``, ``cycles``, ``flushes``), as reasons (``explain``) and as text (``print``).
    """
    if not isinstance(scenarios, Mapping) or not scenarios:
        hint = 'a mapping of labels and scenarios: compare({"SVM": a, "VMX": b})'
        raise ScenarioError(f"cannot compare {scenarios!r}", hint)
    results = {
        str(label): item if isinstance(item, Result) else simulate.run(item, progress)
        for label, item in scenarios.items()
    }
    return Comparison(results)


def sweep(
    base: Scenario,
    settings: Settings,
    repeats: int = 1,
    *,
    progress: simulate.ProgressCallback | None = None,
    cancel: threading.Event | None = None,
    executor: Any = None,
    workers: int | None = None,
    store: PointStore | str | Path | bool = True,
    measures: Measures | None = None,
) -> SweepTable:
    """Run every point of a grid, or every sample, and measure each.

    Parameters
    ----------
    base : Scenario
        What stays the same.
    settings : mapping of str to iterable, or iterable of mappings, or DataFrame
        A grid: setting, dotted for an entry, and the values to go through, the last one fastest,
        such as ``{"features.vmcs_shadowing": [False, True], "l2_params.work": [0, 100]}``.
        Or samples: one mapping, or row of a DataFrame, for each point.  ``backend`` may be among
        them; what belongs to the other vendor alone is then dropped from the base.
    repeats : int
        Runs are deterministic: a repeat is the same point with the next seed.  Points whose L2
        program draws nothing from the seed are run once, with a warning.
    progress : callable, optional
        Called with a :class:`workbench.simulate.Progress` whose steps are points.
    cancel : threading.Event, optional
        Set it from another thread to stop; points that are not finished get status ``cancelled``.
    executor : {"auto", "threads", "processes"} or dask.distributed.Client or Executor, optional
        Who runs the points: by default threads or processes of this machine, whichever the first
        points show to be faster.  The workers of a Client need the same version installed, and
        find guests and price files in files under the same paths.
    workers : int, optional
        How many on this machine; by default the number of processors.
    store : path, PointStore or bool
        Where finished points are kept and found again: by default in the user's cache.  False
        keeps nothing.
    measures : mapping of str to callable, optional
        Further columns: name -> function of a :class:`Result`.

    Returns
    -------
    SweepTable
        A DataFrame with columns ``point`` (label), the settings, with repeats ``repeat`` and
        ``seed``; ``status`` and ``error`` (a point that could not be run has status ``error``, and
        no measures); then the columns of :meth:`Result.summary` that do not depend on wall time,
        and ``measures``.  ``table.results`` has the results by label.

    Raises
    ------
    WorkbenchError
        No point at all can be run, or an argument cannot be used.
    """
    points = expand(base, settings, repeats)
    if repeats > 1:
        _warn_of_single_runs(points)
    place = _place(store)
    folder = str(place.folder) if place is not None else None
    crew, keep = crews.make_crew(executor, workers, folder, crews.Stop(cancel))
    return _Sweep(base, points, place, measures or {}, progress).run(crew, keep)


def factorial(
    base: Scenario,
    toggles: Toggles | None = None,
    measure: str = "cycles_per_operation",
    **how: Any,
) -> Effects:
    """Run all combinations of some toggles; main effects and interactions of pairs.

    Parameters
    ----------
    base : Scenario
    toggles : sequence of str, or mapping of str to (low, high), optional
        Features, or other settings by dotted name, such as ``["virtual_gif", "nrip_save"]`` or
        ``{"np2m_flush": ("eager", "generation")}``; by default all switches of the back-end.
    measure : str
        Column of the sweep's table.
    **how
        As for :func:`sweep`: progress, cancel, executor, workers, store, measures.

    Returns
    -------
    Effects
        ``main``, ``interactions`` and ``table`` as frames, ``sentences()`` in words; a chart is
        ``charts.effects``.
    """
    return _design(FACTORIAL, base, toggles, measure, how)


def one_at_a_time(
    base: Scenario,
    toggles: Toggles | None = None,
    measure: str = "cycles_per_operation",
    **how: Any,
) -> Effects:
    """Run the base, then each toggle changed alone; parameters as for :func:`factorial`."""
    return _design(ONE_AT_A_TIME, base, toggles, measure, how)


def _design(
    kind: str, base: Scenario, toggles: Toggles | None, measure: str, how: Mapping[str, Any]
) -> Effects:
    chosen = factors(base, toggles)
    if not chosen:
        raise ScenarioError("a design needs a toggle", "name one: workbench list features")
    points = full_factorial(chosen) if kind == FACTORIAL else single_changes(chosen)
    table = sweep(base, points, **how)
    if measure not in table or table[measure].dtype == object:
        numbers = [name for name in table.columns if table[name].dtype != object]
        raise ScenarioError(f"no measure called {measure!r}", did_you_mean(measure, numbers))
    example = next(iter(table.results.values()), None)
    return Effects(kind, measure, chosen, table, example, table.sources)


class _Sweep:
    """One sweep while it runs: what is known of each point, and where its result is."""

    def __init__(
        self, base: Scenario, points: list[Point], store: PointStore | None, measures: Measures,
        progress: simulate.ProgressCallback | None,
    ) -> None:  # fmt: skip
        self.base, self.points, self.store, self.measures = base, points, store, measures
        self.rows: dict[int, dict[str, Any]] = {}
        self.readers: dict[str, Callable[[], Result]] = {}
        self.sources: dict[str, tuple[str, ...]] = {}
        self._progress = progress

    def run(self, crew: Crew, keep: bool) -> SweepTable:
        """Run what is not known; ``keep``: put results into the store, the crew has not done so."""
        todo = [i for i, point in enumerate(self.points) if not self._known(i, point)]
        self._report()
        if todo:
            simulate.prepare(self._progress)
        while todo:
            groups = self._groups(todo)
            leaders = list(groups)
            todo = []
            for number, outcome in crew([self._scenario(i) for i in leaders]):
                first, *others = groups[leaders[number]]
                self._take(first, outcome, keep)
                for other in others:
                    todo += self._share(other, outcome)
                self._report()
            todo.sort()
        rows = [self.rows[i] for i in range(len(self.points))]
        labels = [point.label for point in self.points if point.label in self.readers]
        readers = {label: self.readers[label] for label in labels}
        sources = dict.fromkeys(key for label in labels for key in self.sources[label])
        return build(self.base, self.points, rows, readers, tuple(sources))

    def _scenario(self, index: int) -> Scenario:
        scenario = self.points[index].scenario
        assert scenario is not None
        return scenario

    def _known(self, index: int, point: Point) -> bool:
        """Is there nothing to run: no valid scenario, or its result is in the store?"""
        if point.scenario is None:
            self.rows[index] = _no_result(FAILED, point.error)
            return True
        try:
            found = self.store.get(point.scenario, _report_damage) if self.store else None
            if found is not None:
                self._take(index, found, False)
        except WorkbenchError as problem:
            self.rows[index] = _no_result(FAILED, one_line(problem))
        return index in self.rows

    def _groups(self, todo: list[int]) -> dict[int, list[int]]:
        """First point -> all points that differ from it in prices alone."""
        first: dict[str, int] = {}
        groups: dict[int, list[int]] = {}
        for index in todo:
            leader = first.setdefault(self._scenario(index).core_hash, index)
            groups.setdefault(leader, []).append(index)
        return groups

    def _take(self, index: int, outcome: crews.Outcome, keep: bool) -> None:
        """Note what came of a point."""
        try:
            self.rows[index] = self._row(index, outcome, keep)
        except Exception as problem:  # a measure of the caller, or the store
            self.rows[index] = _no_result(FAILED, one_line(problem))

    def _row(self, index: int, outcome: crews.Outcome, keep: bool) -> dict[str, Any]:
        if isinstance(outcome, crews.Cancelled):
            return _no_result(CANCELLED, "")
        if isinstance(outcome, BaseException):
            return _no_result(FAILED, one_line(outcome))
        if outcome.status == CANCELLED:
            return _no_result(CANCELLED, "")
        row = {"status": outcome.status, "error": ""} | measure(outcome, self.measures)
        if keep and self.store is not None:
            self.store.put(outcome)
        label = self.points[index].label
        self.sources[label] = outcome.preset.sources_for(without_boot(outcome.raw).sum(axis=0))
        self.readers[label] = self._reader(index, outcome)
        return row

    def _reader(self, index: int, result: Result) -> Callable[[], Result]:
        if self.store is None:
            return lambda: result
        return partial(_read, self.store, self._scenario(index))

    def _share(self, index: int, outcome: crews.Outcome) -> list[int]:
        """Take the counts of a point with other prices; the index again if they are not the same."""
        if isinstance(outcome, Result) and outcome.status != CANCELLED:
            if outcome.depends_on_prices:
                return [index]
            scenario = self._scenario(index)
            origin = dict(outcome.provenance) | {"scenario_hash": scenario.hash}
            outcome = dataclasses.replace(
                outcome, scenario=scenario, preset=scenario.preset, provenance=FrozenMap(origin)
            )
        self._take(index, outcome, False)
        return []

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(simulate.Progress("points", len(self.rows), len(self.points)))


def _no_result(status: str, error: str) -> dict[str, Any]:
    return {"status": status, "error": error}


def _read(store: PointStore, scenario: Scenario) -> Result:
    found = store.get(scenario, _report_damage)
    if found is None:
        raise ResultError("the point is no longer in the store", "run the sweep again")
    return found


def _report_damage(message: str) -> None:
    warnings.warn(f"{message}; the point is run again", stacklevel=2)


def _place(store: PointStore | str | Path | bool) -> PointStore | None:
    if isinstance(store, PointStore):
        return store
    if isinstance(store, bool):
        return PointStore() if store else None
    return PointStore(store)


def _warn_of_single_runs(points: list[Point]) -> None:
    programs = {p.scenario.l2 for p in points if p.scenario is not None and not draws(p.scenario)}
    if programs:
        names = ", ".join(sorted(programs))
        warnings.warn(f"{names}: nothing is drawn from the seed, so each point is run once",
                      stacklevel=3)  # fmt: skip
