"""Several runs at once: scenarios side by side, and one scenario with settings varied.

Runs follow each other in this process; nothing is drawn at random, so their order does not matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from . import simulate
from .errors import ScenarioError
from .result import Result
from .scenario import Scenario


def compare(
    scenarios: Mapping[str, Scenario | Result],
    progress: simulate.ProgressCallback | None = None,
) -> dict[str, Result]:
    """Run scenarios side by side; charts and ``to_text`` take what comes back.

    Parameters
    ----------
    scenarios : mapping of str to Scenario or Result
        Label -> what to run; a result is kept as it is.

    Returns
    -------
    dict of str to Result
    """
    if not isinstance(scenarios, Mapping) or not scenarios:
        hint = 'a mapping of labels and scenarios: compare({"SVM": a, "VMX": b})'
        raise ScenarioError(f"cannot compare {scenarios!r}", hint)
    return {
        str(label): item if isinstance(item, Result) else simulate.run(item, progress)
        for label, item in scenarios.items()
    }


def sweep(
    base: Scenario,
    settings: Mapping[str, Iterable[Any]],
    progress: simulate.ProgressCallback | None = None,
) -> dict[str, Result]:
    """Run every combination of settings.

    Parameters
    ----------
    base : Scenario
        What stays the same.
    settings : mapping of str to iterable
        Setting, dotted for an entry, and the values to go through, for example
        ``{"features.vmcs_shadowing": [False, True], "l2_params.work": [0, 100]}``.

    Returns
    -------
    dict of str to Result
        Label, such as ``vmcs_shadowing=on, work=0``, -> result, the last setting fastest.

    Raises
    ------
    WorkbenchError
        A combination that is no valid scenario; nothing has been run then.
    """
    names = list(settings)
    combinations = [
        dict(zip(names, values, strict=True)) for values in itertools.product(*settings.values())
    ]
    scenarios = {_label(chosen): base.replace(**chosen) for chosen in combinations}
    return compare(scenarios, progress)


def _label(chosen: Mapping[str, Any]) -> str:
    def word(value: Any) -> str:
        return ("off", "on")[value] if isinstance(value, bool) else str(value)

    return ", ".join(f"{name.rpartition('.')[2]}={word(v)}" for name, v in chosen.items())
