"""What a chart is given: one result or several, with a label each, and their provenance line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import PriceError
from ..features import defaults
from ..measure.frames import without_boot
from ..prices import PricePreset
from ..result import Result
from .sizes import wrapped

_PROGRAMS = ("l1", "l2")
Results = Result | Mapping[str, Result] | Iterable[Result]


def labelled(results: Results) -> list[tuple[str, Result]]:
    """Label and result, in the order given; a list gets labels from what differs."""
    results = getattr(results, "results", results)  # of a sweep's table
    if isinstance(results, Result):
        return [(results.scenario.backend.upper(), results)]
    if isinstance(results, Mapping):
        pairs = [(str(label), result) for label, result in results.items()]
    else:
        plain = list(results)
        pairs = list(zip(_labels(plain), plain, strict=True))
    for label, result in pairs:
        if not isinstance(result, Result):
            raise TypeError(f"{label}: a chart takes Results, not {type(result).__name__}")
    if not pairs:
        raise ValueError("a chart needs at least one Result")
    return pairs


def _labels(results: list[Result]) -> list[str]:
    flat = [_flat(result) for result in results if isinstance(result, Result)]
    if len(flat) != len(results):
        return [f"run {i + 1}" for i in range(len(results))]
    names = sorted({name for values in flat for name in values if _varies(name, flat)})
    labels = []
    for values in flat:
        words = [_word(name, values[name]) for name in names if name in values]
        if len(words) > 1:  # several toggles: name only those that are set otherwise than usual
            usual = defaults(values["backend"])
            words = [w for n, w in zip(filter(values.__contains__, names), words, strict=True)
                     if n not in usual or values[n] != usual[n]]  # fmt: skip
        labels.append(", ".join([values["backend"].upper(), *words]))
    return [
        label if labels.count(label) == 1 else f"{label} ({labels[: i + 1].count(label)})"
        for i, label in enumerate(labels)
    ]


def _flat(result: Result) -> dict[str, Any]:
    scenario = result.scenario
    values = {"backend": scenario.backend, "l1": scenario.l1, "l2": scenario.l2}
    values |= {"l2_page_size": scenario.l2_page_size, "prices": result.preset.name}
    for table in ("l1_params", "l2_params"):
        values |= getattr(scenario, table)
    return values | scenario.all_features


def _varies(name: str, flat: list[dict[str, Any]]) -> bool:
    """True when results of the same back-end differ in it (a back-end implies its own features).

    Programs are named wherever they differ: no reader expects two of them side by side.
    """
    if name == "backend":
        return False
    if name in _PROGRAMS:
        return len({values[name] for values in flat}) > 1
    for backend in ("svm", "vmx"):
        same = [values.get(name) for values in flat if values["backend"] == backend]
        if len(set(map(repr, same))) > 1:
            return True
    return False


def _word(name: str, value: Any) -> str:
    return f"{name} {'on' if value else 'off'}" if isinstance(value, bool) else f"{name} {value}"


def footer(
    pairs: list[tuple[str, Result]],
    size: str,
    prices: bool,
    note: str = "",
    *,
    clock: bool = False,
    set_up: bool = False,
    sources: Iterable[str] = (),
) -> str:
    """Provenance in small print: version, scenarios, prices and their sources where used.

    Parameters
    ----------
    pairs : list of (str, Result)
    size : {"panel", "paper"}
    prices : bool
        Do the numbers shown rest on prices?
    note : str
        What is said before.
    clock : bool
        They rest on the run's own clock: the prices it was simulated with, not those of the result.
    set_up : bool
        They hold the set-up before the first entry to L2, which most charts leave out.
    sources : iterable of str
        Further keys: of runs that are not among ``pairs``.
    """
    version = pairs[0][1].provenance["versions"]["workbench"]
    scenarios = ", ".join(
        f"{label} {result.provenance['scenario_hash'][:8]}" for label, result in pairs
    )
    parts = [f"{note} " if note else "", f"workbench {version}; scenario {scenarios}"]
    if prices:
        used = [
            (result, _simulated_with(result) if clock else result.preset) for _, result in pairs
        ]
        names = dict.fromkeys(preset.name for _, preset in used)
        keys = dict.fromkeys(
            key for result, preset in used for key in preset.sources_for(_counts(result, set_up))
        )
        keys |= dict.fromkeys(sources)
        parts.append(f"; prices {', '.join(names)}; sources {', '.join(keys)}")
    return wrapped("".join(parts), size)


def _counts(result: Result, set_up: bool) -> np.ndarray:
    return (result.raw.counts if set_up else without_boot(result.raw)).sum(axis=0)


def _simulated_with(result: Result) -> PricePreset:
    """The prices of the run's own clock; of a result from elsewhere, those it came with."""
    try:
        return result.scenario.preset
    except PriceError:
        return result.preset
