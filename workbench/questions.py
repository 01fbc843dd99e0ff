"""Questions of a design discussion as experiments: what is run, what is claimed, what came out.

An experiment is a file of ``data/experiments``.  Its claim says that one alternative of a setting
is better (its measure is lower) than another; the verdict is computed from the runs and holds for
the prices' values.  The bounds of the prices are in the frame and on the chart.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from . import charts
from .charts.sizes import wrapped
from .charts.style import reading
from .errors import WorkbenchError, did_you_mean
from .paths import data_dir
from .result import Result
from .scenario import Scenario
from .simulate import ProgressCallback
from .study import sweep

SUPPORTED, REFUTED, DEPENDS = "supported", "refuted", "depends"
MAIL_COLUMNS = 72
_KEYS: dict[str, type] = {
    "title": str, "question": str, "claim": str, "refuted_if": str, "sources": list,
    "base": dict, "axis": dict, "alternatives": dict, "measure": dict, "verdict": dict,
}  # fmt: skip
_TABLES: dict[str, dict[str, type]] = {
    "axis": {"setting": str, "label": str, "values": list},
    "alternatives": {"setting": str, "label": str, "values": dict},
    "measure": {"column": str, "label": str},
    "verdict": {"better": str, "than": str, "tolerance": float},
}


# ---------------------------------------------------------------- what can be measured


def _per_kinstr(column: str) -> Callable[[Result], float]:
    def measure(result: Result) -> float:
        row = result.summary().iloc[0]
        return float(row[column] * 1000 / row["l2_instructions"])

    return measure


def _latency(result: Result) -> float:
    taken = result.deliveries
    total = taken["taken"].sum()
    return float((taken["latency_cycles"] * taken["taken"]).sum() / total) if total else 0.0


def _refills(result: Result) -> float:
    return float(result.tlb["refills"].sum() / max(result.l2_operations, 1))


MEASURES: dict[str, Callable[[Result], float]] = {
    "event_latency": _latency,
    "refills_per_operation": _refills,
    "cycles_per_l2_kinstr": _per_kinstr("cycles"),
    "cycles_low_per_l2_kinstr": _per_kinstr("cycles_low"),
    "cycles_high_per_l2_kinstr": _per_kinstr("cycles_high"),
}
"""Measures beside the columns of a result's summary.

Cycles per 1000 instructions of L2 compare runs of the same program even where one setting makes it
exit more often; cycles per operation, which are per exit of L2, do not.
"""


# ---------------------------------------------------------------- the files


@dataclass(frozen=True)
class Experiment:
    """One file of ``data/experiments``; ``run`` computes it."""

    name: str
    title: str
    question: str
    claim: str
    refuted_if: str
    sources: list[str]
    base: Mapping[str, Mapping[str, Any]]
    axis: Mapping[str, Any]
    alternatives: Mapping[str, Any]
    measure: Mapping[str, Any]
    verdict: Mapping[str, Any]

    def run(self, progress: ProgressCallback | None = None) -> Outcome:
        """Run every point and judge the claim."""
        parts: list[pd.DataFrame] = []
        results: dict[str, Result] = {}
        column = self.measure["column"]
        for backend, values in self.base.items():
            scenario = Scenario.from_dict({"backend": backend, **values}, self.name)
            grid = {
                self.axis["setting"]: self.axis["values"],
                self.alternatives["setting"]: self.alternatives["values"][backend],
            }
            table = sweep(scenario, grid, progress=progress, measures=MEASURES)
            if len(table.failed):
                bad = table.failed.iloc[0]
                raise WorkbenchError(f"experiment {self.name}, {bad['point']}: {bad['error']}")
            _check_ends(self.name, table)
            if column not in table:
                raise WorkbenchError(
                    f"experiment {self.name}: no measure called {column!r}",
                    did_you_mean(column, table.columns),
                )
            results |= {f"{backend}, {label}": table.results[label] for label in table.results}
            parts.append(_tidy(self, backend, table))
        return Outcome(self, pd.concat(parts, ignore_index=True), results)


def _check_ends(name: str, table: pd.DataFrame) -> None:
    """A run that ends early measures something else."""
    odd = table[table["status"] != "stopped"]
    if len(odd):
        message = f"experiment {name}, {odd['point'].iloc[0]}: ended with {odd['status'].iloc[0]}"
        raise WorkbenchError(message, "choose programs that take the events and reach their end")


def _tidy(experiment: Experiment, backend: str, table: pd.DataFrame) -> pd.DataFrame:
    column = experiment.measure["column"]
    bounds = [column.replace("cycles", f"cycles_{side}", 1) for side in ("low", "high")]
    low, high = bounds if column.startswith("cycles") else (column, column)
    return pd.DataFrame(
        {
            "backend": backend,
            "axis": table[experiment.axis["setting"]],
            "alternative": table[experiment.alternatives["setting"]].map(_plain),
            "value": table[column].astype(float),
            "low": table[low].astype(float),
            "high": table[high].astype(float),
        }
    )


def _plain(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted((data_dir() / "experiments").glob("*.toml"))}


def load(path: Path) -> Experiment:
    """The experiment of a file.

    Raises
    ------
    WorkbenchError
        No TOML, or a key is missing, unknown or of the wrong type; names file and key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as problem:
        raise WorkbenchError(f"{path}: {problem}", "an experiment is a TOML file") from None
    _check(values, _KEYS, str(path))
    for table, keys in _TABLES.items():
        _check(values[table], keys, f"{path}, [{table}]")
    _check_alternatives(values, path)
    return Experiment(name=path.stem, **values)


def _check(values: Mapping[str, Any], keys: Mapping[str, type], where: str) -> None:
    for key in values:
        if key not in keys:
            raise WorkbenchError(f"{where}: unknown key {key!r}", did_you_mean(key, keys))
    for key, kind in keys.items():
        if key not in values:
            raise WorkbenchError(f"{where}: no {key!r}", f"give it as {kind.__name__}")
        if not isinstance(values[key], kind):
            hint = f"it is of type {kind.__name__}"
            raise WorkbenchError(f"{where}: {key} cannot be {values[key]!r}", hint)


def _check_alternatives(values: Mapping[str, Any], path: Path) -> None:
    if not values["base"]:
        raise WorkbenchError(f"{path}: no back-end in [base]", "add [base.svm] or [base.vmx]")
    for backend in values["base"]:
        known = [_plain(value) for value in values["alternatives"]["values"].get(backend, [])]
        for role in ("better", "than"):
            wanted = values["verdict"][role]
            if wanted not in known:
                message = f"{path}: {role} = {wanted!r} is no alternative on {backend}"
                raise WorkbenchError(message, did_you_mean(wanted, known))


def experiments() -> pd.DataFrame:
    """The experiments: name, title, question, claim."""
    found = [load(path) for path in _files().values()]
    return pd.DataFrame(
        [(e.name, e.title, e.question, e.claim) for e in found],
        columns=["name", "title", "question", "claim"],
    )


def find(name: str) -> Experiment:
    """The experiment of a name."""
    files = _files()
    if name not in files:
        raise WorkbenchError(f"no experiment called {name!r}", did_you_mean(name, files))
    return load(files[name])


def experiment(name: str, progress: ProgressCallback | None = None) -> Outcome:
    """Run an experiment: an :class:`Outcome` with frame, verdict, figure and text.

    Raises
    ------
    WorkbenchError
        No such experiment, its file has a mistake, or a point cannot be run.
    """
    return find(name).run(progress)


# ---------------------------------------------------------------- the verdict


def judge(frame: pd.DataFrame, better: str, than: str, tolerance: float) -> str:
    """Is the alternative ``better`` below ``than``?

    Differences within ``tolerance`` (a share of ``than``) decide nothing.  ``supported``: some
    points say so and none the contrary; ``refuted``: none says so; ``depends``: both occur, or the
    back-ends differ.
    """
    if frame["backend"].nunique() > 1:
        each = {judge(part, better, than, tolerance) for _, part in frame.groupby("backend")}
        return each.pop() if len(each) == 1 else DEPENDS
    wide = frame.pivot_table(index=["backend", "axis"], columns="alternative", values="value")
    gain = wide[than] - wide[better]
    margin = tolerance * wide[than].abs()
    wins, losses = bool((gain > margin).any()), bool((-gain > margin).any())
    if not wins:
        return REFUTED
    return DEPENDS if losses else SUPPORTED


def crossovers(frame: pd.DataFrame, better: str, than: str) -> dict[str, list[float]]:
    """Back-end -> axis values where the two meet, by linear interpolation between points."""
    if not pd.api.types.is_numeric_dtype(frame["axis"]):
        return {}
    found = {}
    for backend, part in frame.groupby("backend"):
        wide = part.pivot_table(index="axis", columns="alternative", values="value").sort_index()
        gain = (wide[than] - wide[better]).tolist()
        places = [float(place) for place in wide.index]
        found[str(backend)] = [
            places[i] + (places[i + 1] - places[i]) * gain[i] / (gain[i] - gain[i + 1])
            for i in range(len(gain) - 1)
            if gain[i] * gain[i + 1] < 0
        ]
    return found


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of an experiment.

    Attributes
    ----------
    experiment : Experiment
    frame : DataFrame
        backend, axis, alternative, value, low, high; the last two are the bounds of the prices.
    results : mapping of str to Result
    """

    experiment: Experiment
    frame: pd.DataFrame
    results: Mapping[str, Result]

    @property
    def verdict(self) -> str:
        """``supported``, ``refuted`` or ``depends``, from the frame."""
        rule = self.experiment.verdict
        return judge(self.frame, rule["better"], rule["than"], rule["tolerance"])

    @property
    def crossovers(self) -> dict[str, list[float]]:
        """Where the two alternatives of the claim meet, by back-end."""
        rule = self.experiment.verdict
        return crossovers(self.frame, rule["better"], rule["than"])

    @cached_property
    def figure(self) -> Figure:
        """The chart at the text width of a page: a panel for each back-end."""
        return self.draw("paper")

    def draw(self, size: str) -> Figure:
        """The chart at a size of ``charts.SIZES``."""
        runs = list(self.results.items())
        first = {result.scenario.backend: result for _, result in reversed(runs)}
        versions = next(iter(self.results.values())).provenance["versions"]["workbench"]
        hashes = ", ".join(f"{b} {result.scenario.hash[:8]}" for b, result in sorted(first.items()))
        presets = ", ".join(sorted({r.preset.name for r in self.results.values()}))
        note = (
            f"{self.said} workbench {versions}; experiment {self.experiment.name}, "
            f"{len(self.results)} runs, the first: {hashes}; prices {presets}; sources "
            f"{', '.join(self.sources)}"
        )
        return charts.experiment(
            self.frame, self.experiment.title, self.experiment.axis["label"],
            self.experiment.measure["label"], wrapped(note, size), runs, size,
        )  # fmt: skip

    @property
    def sources(self) -> tuple[str, ...]:
        """Bibliography keys: of the question, and of the prices that met a count."""
        counted = (key for result in self.results.values() for key in result.sources)
        return tuple(dict.fromkeys([*self.experiment.sources, *counted]))

    @property
    def said(self) -> str:
        """The verdict in words, by back-end where they differ, with the crossovers."""
        met = [f"{b.upper()} {place:.3g}" for b, all_ in self.crossovers.items() for place in all_]
        where = f" Crossover: {', '.join(met)}." if met else ""
        rule = self.experiment.verdict
        each = {
            str(backend).upper(): judge(part, rule["better"], rule["than"], rule["tolerance"])
            for backend, part in self.frame.groupby("backend")
        }
        differ = len(set(each.values())) > 1
        apart = f" {', '.join(f'{b} {v}' for b, v in each.items())}." if differ else ""
        return f"Claim {self.verdict}.{apart}{where}"

    @property
    def text(self) -> str:
        """Question, claim, table and verdict in 72 columns."""
        spec = self.experiment
        parts = [
            f"Question: {spec.question}",
            f"Claim: {spec.claim}",
            f"Refuted if: {spec.refuted_if}",
            f"Rows: {spec.axis['label']}. Values: {spec.measure['label']}; in brackets the "
            "bounds of the prices, where they matter.",
        ]
        lines = [spec.title, "=" * len(spec.title), ""]
        for part in parts:
            lines += [*textwrap.wrap(part, MAIL_COLUMNS), ""]
        lines += [_line(row) for row in self.frame.to_dict("records")]
        lines += ["", *textwrap.wrap(f"Verdict: {self.said}", MAIL_COLUMNS), ""]
        lines += textwrap.wrap(
            f"Sources: {', '.join(self.sources)}", MAIL_COLUMNS, break_on_hyphens=False
        )
        return "\n".join(lines) + "\n"


def _line(row: Mapping[Any, Any]) -> str:
    low, value, high = (reading(row[name]) for name in ("low", "value", "high"))
    bounds = f"  [{low}, {high}]" if low != high else ""
    return f"{row['backend']:5}{row['axis']!s:>10}  {row['alternative']:16}{value:>8}{bounds}"
