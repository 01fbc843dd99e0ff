"""How much each toggle matters for what a result costs: its scenario run again with each of them.

Every toggle is changed alone; what two of them do together is a sweep (``study.sweep``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from .. import simulate
from ..errors import FeatureError, WorkbenchError, did_you_mean
from ..features import applicable, value_text
from ..measure import frames
from ..result import Result

ToggleProgress = Callable[[str, int, int], None]
"""Called with what runs next, how many are done, and how many there are."""
CANCELLED = "cancelled"


@dataclass(frozen=True)
class ToggleRun:
    """A scenario run again with one toggle set otherwise.

    Attributes
    ----------
    toggle, value : str
    status : str
        How the run ended, or why this scenario cannot have the value.
    counts : ndarray or None
        Events counted after the set-up, shape (N_EVENTS,); None without a run.
    """

    toggle: str
    value: str
    status: str
    counts: np.ndarray | None = field(default=None, repr=False)


def toggle_sensitivity(
    result: Result,
    toggles: Sequence[str] | None = None,
    progress: ToggleProgress | None = None,
    cancel: simulate.Cancel | None = None,
) -> pd.DataFrame:
    """What each toggle matters: the scenario run again with each of them set to each other value.

    Parameters
    ----------
    result : Result
        Its scenario is the starting point, its prices hold for all runs.
    toggles : sequence of str, optional
        Names of features; by default all that apply to the back-end.
    progress : callable, optional
        Called before each run.
    cancel : threading.Event, optional
        Set it from another thread to stop; runs that were not finished have status ``cancelled``.

    Returns
    -------
    DataFrame
        toggle, value, status, per_operation [cycles per operation of L2 that ``result`` had], base [the same of
        ``result``], swing (their difference), sources (keys behind the row's cycles); largest swing
        first.  A value that this scenario cannot have gets a row without numbers, with the reason
        in ``status``.
    """
    return toggle_table(result, run_toggles(result, toggles, progress, cancel))


def run_toggles(
    result: Result,
    toggles: Sequence[str] | None = None,
    progress: ToggleProgress | None = None,
    cancel: simulate.Cancel | None = None,
) -> list[ToggleRun]:
    """The runs behind :func:`toggle_sensitivity`; :func:`toggle_table` prices them."""
    todo = list(other_values(result, toggles))
    found = []
    for done, (name, value) in enumerate(todo):
        shown = value_text(value)
        if cancel is not None and cancel.is_set():
            found.append(ToggleRun(name, shown, CANCELLED))
            continue
        if progress is not None:
            progress(f"{name}={shown}", done, len(todo))
        found.append(_run_with(result, name, value, cancel))
    if progress is not None:
        progress("", len(todo), len(todo))
    return found


def toggle_table(result: Result, runs: Sequence[ToggleRun]) -> pd.DataFrame:
    """Runs of :func:`run_toggles` as the table of :func:`toggle_sensitivity`, at ``result``'s prices."""
    running = frames.without_boot(result.raw).sum(axis=0)
    base = _cost(result, running)
    rows = []
    for run in runs:
        cost = float(np.nan) if run.counts is None else _cost(result, run.counts)
        sources = () if run.counts is None else result.preset.sources_for(run.counts)
        rows.append((run.toggle, run.value, run.status, cost, base, cost - base, " ".join(sources)))
    columns = ["toggle", "value", "status", "per_operation", "base", "swing", "sources"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["provenance"] = _provenance(result)
    table.attrs["sources"] = result.preset.sources_for(running)
    order = table["swing"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _provenance(result: Result) -> str:
    """Version, scenario and prices, for the footer of a chart."""
    version = result.provenance["versions"]["workbench"]
    scenario = result.provenance["scenario_hash"][:8]
    return f"workbench {version}; scenario {scenario}; prices {result.preset.name}"


def _cost(result: Result, counts: np.ndarray) -> float:
    """Cycles after the set-up per operation; NaN without one.

    The operations are those of the starting point in every run: a toggle that adds cheap exits of
    L2 must not look as if it made an operation cheaper.
    """
    operations = result.l2_operations
    return float(result.preset.vector() @ counts) / operations if operations else float(np.nan)


def other_values(result: Result, toggles: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
    """Toggle and value for each run that :func:`run_toggles` makes."""
    now = result.scenario.all_features
    known = {f.id: f for f in applicable(result.scenario.backend)}
    for name in known if toggles is None else toggles:
        if name not in known:
            raise FeatureError(f"no toggle called {name!r} here", did_you_mean(name, known))
        for value in known[name].values_on(result.scenario.backend):
            if value != now[name]:
                yield name, value


def _run_with(result: Result, name: str, value: Any, cancel: simulate.Cancel | None) -> ToggleRun:
    changed = dict(result.scenario.features) | {name: value}
    try:
        found = simulate.run(result.scenario.replace(features=changed), cancel=cancel)
    except WorkbenchError as problem:
        return ToggleRun(name, value_text(value), problem.message)
    if found.status == CANCELLED:
        return ToggleRun(name, value_text(value), CANCELLED)
    counts = frames.without_boot(found.raw).sum(axis=0)
    return ToggleRun(name, value_text(value), found.status, counts)
