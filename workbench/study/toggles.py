"""How much each toggle matters for what a result costs: its scenario run again with each of them.

Every toggle is changed alone; what two of them do together is a sweep (``study.sweep``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from .. import simulate
from ..errors import FeatureError, WorkbenchError, did_you_mean
from ..features import applicable
from ..measure import frames
from ..result import Result

ToggleProgress = Callable[[str, int, int], None]
"""Called with what runs next, how many are done, and how many there are."""


def toggle_sensitivity(
    result: Result, toggles: list[str] | None = None, progress: ToggleProgress | None = None
) -> pd.DataFrame:
    """What each toggle matters: the scenario run again with each of them set to each other value.

    Parameters
    ----------
    result : Result
        Its scenario is the starting point, its prices hold for all runs.
    toggles : list of str, optional
        Names of features; by default all that apply to the back-end.
    progress : callable, optional
        Called before each run.

    Returns
    -------
    DataFrame
        toggle, value, status, per_operation [cycles per operation of L2 that ``result`` had], base [the same of
        ``result``], swing (their difference); largest first.  A value that this scenario cannot
        have gets a row without numbers, with the reason in ``status``.
    """
    base = _cost(result, result.l2_operations)
    todo = list(_other_values(result, toggles))
    rows = []
    for done, (name, value) in enumerate(todo):
        if progress is not None:
            progress(f"{name}={_shown(value)}", done, len(todo))
        status, cost = _run_with(result, name, value)
        rows.append((name, _shown(value), status, cost, base, cost - base))
    if progress is not None:
        progress("", len(todo), len(todo))
    columns = ["toggle", "value", "status", "per_operation", "base", "swing"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["provenance"] = _provenance(result)
    order = table["swing"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _provenance(result: Result) -> str:
    """Version, scenario, prices and their sources, for the footer of a chart."""
    sources = ", ".join(result.preset.sources_for(frames.without_boot(result.raw).sum(axis=0)))
    version = result.provenance["versions"]["workbench"]
    scenario = result.provenance["scenario_hash"][:8]
    return (
        f"workbench {version}; scenario {scenario}; prices {result.preset.name}; sources {sources}"
    )


def _cost(result: Result, operations: int) -> float:
    """Cycles after the set-up per operation; NaN without one.

    ``operations`` are those of the starting point in every run: a toggle that adds cheap exits of
    L2 must not look as if it made an operation cheaper.
    """
    running = float(result.preset.vector() @ frames.without_boot(result.raw).sum(axis=0))
    return running / operations if operations else float(np.nan)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _other_values(result: Result, toggles: list[str] | None) -> Iterator[tuple[str, Any]]:
    now = result.scenario.all_features
    known = {f.id: f for f in applicable(result.scenario.backend)}
    for name in known if toggles is None else toggles:
        if name not in known:
            raise FeatureError(f"no toggle called {name!r} here", did_you_mean(name, known))
        for value in known[name].values_on(result.scenario.backend):
            if value != now[name]:
                yield name, value


def _run_with(result: Result, name: str, value: Any) -> tuple[str, float]:
    try:
        changed = dict(result.scenario.features) | {name: value}
        found = simulate.run(result.scenario.replace(features=changed))
    except WorkbenchError as problem:
        return problem.message, float(np.nan)
    return found.status, _cost(found.reprice(result.preset), result.l2_operations)
