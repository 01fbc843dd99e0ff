"""What came of an experiment: verdict, figures, frames, and the text for a mail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from .. import charts
from ..charts import style
from ..charts.sizes import wrapped
from ..result import Result
from . import verdict
from .functions import FUNCTIONS
from .runs import BOTH, Run
from .spec import MAIN, Experiment, Settings
from .words import mail, said

_WHISKERS = "Whiskers or bands: how far prices, alike for both, move the difference. "


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of an experiment.

    Attributes
    ----------
    experiment : Experiment
    runs : sequence of Run
    frame : DataFrame
        backend, axis, axis2 (with two axes), alternative, value, low, high, gain, gain_low,
        gain_high: see :func:`workbench.questions.runs.frame`.
    """

    experiment: Experiment
    runs: Sequence[Run]
    frame: pd.DataFrame

    @property
    def results(self) -> Mapping[str, Result]:
        """Label of each run -> its result."""
        return {run.label: run.result for run in self.runs}

    @cached_property
    def frames(self) -> Mapping[str, pd.DataFrame]:
        """``main``, which is :attr:`frame`, and what the experiment's function computed."""
        name = self.experiment.function
        return {MAIN: self.frame} | (dict(FUNCTIONS[name].make(self.runs)) if name else {})

    # ---------------------------------------------------------------- verdict

    @property
    def verdict(self) -> str:
        """``supported``, ``refuted`` or ``depends``, from the frame."""
        rule = self.experiment.verdict
        return verdict.judge(self.frame, rule["better"], rule["tolerance"])

    @property
    def calls(self) -> pd.DataFrame:
        """The points of the claim: the frame's rows of ``better`` with ``call``."""
        rule = self.experiment.verdict
        rows = self.frame[self.frame["alternative"] == rule["better"]]
        return rows.assign(call=verdict.calls(rows, rule["tolerance"]))

    @cached_property
    def crossovers(self) -> pd.DataFrame:
        """backend, axis2, crossover, low, high: where the two alternatives of the claim meet.

        Only lines of points of which at least one tells the alternatives apart have any.
        """
        calls = self.calls
        groups = [name for name in ("backend", "axis2") if name in calls]
        apart = calls["call"].isin([verdict.WIN, verdict.LOSS])
        told = apart.groupby([calls[name] for name in groups]).transform("any")
        return verdict.crossovers(calls[told], self.experiment.verdict["better"])

    @property
    def said(self) -> str:
        """The verdict in words: points, back-ends where they differ, crossovers."""
        return said(self.experiment, self.verdict, self.calls, self.crossovers)

    @property
    def sources(self) -> tuple[str, ...]:
        """Bibliography keys: of the question, and of the prices that met a count."""
        counted = (key for run in self.runs for key in run.result.sources)
        return tuple(dict.fromkeys([*self.experiment.sources, *counted]))

    @property
    def text(self) -> str:
        """Question, claim, tables and verdict in 72 columns; distributions are left to the files."""
        rule = self.experiment.verdict
        marks = verdict.calls(self.frame, rule["tolerance"])
        marks[self.frame["alternative"] != rule["better"]] = ""
        frame = self.frame.assign(call=marks)
        titles = {f.get("of", MAIN): f for f in self.experiment.figures}
        parts = [
            (titles.get(name, {}), part)
            for name, part in self.frames.items()
            if name != MAIN and titles.get(name, {}).get("plot") != "distribution"
        ]
        return mail(self.experiment, frame, parts, self.said, self.sources)

    # ---------------------------------------------------------------- figures

    @property
    def figure(self) -> Figure:
        """The first figure."""
        return next(iter(self.figures.values()))

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """Name, empty for the first one that needs none, -> figure at a page's text width."""
        return self.sized("paper")

    def sized(self, size: str) -> Mapping[str, Figure]:
        """The same figures at a size of ``charts.SIZES``."""
        return {figure.get("name", ""): self.draw(figure, size) for figure in self._plans()}

    def _plans(self) -> Sequence[Settings]:
        if self.experiment.figures:
            return self.experiment.figures
        numeric = pd.api.types.is_numeric_dtype(self.frame["axis"])
        return [{"plot": "lines" if numeric else "bars"}]

    def draw(self, plan: Settings, size: str = "paper") -> Figure:
        """One figure as the experiment's file plans it, at a size of ``charts.SIZES``."""
        spec = self.experiment
        kind, main = plan["plot"], plan.get("of", MAIN) == MAIN
        gains = main and kind == "heat"
        percent = f"saved by {spec.verdict['better']} over {spec.verdict['than']}, in percent"
        labels = charts.Labels(
            self._title(plan),
            plan.get("x", spec.axis["label"]),
            plan.get("y", spec.axis2.get("label", "")),
            plan.get("value", percent if gains else self._measured(plan)),
            wrapped(_WHISKERS + self._note if plan.get("relative") else self._note, size),
        )
        frame = self._drawn(plan) if main else self.frames[plan["of"]]
        crossings = self._crossings if gains else None
        level = 100.0 if plan.get("relative") else None
        pairs = list(self.results.items())
        return charts.experiment(frame, kind, labels, pairs, size, crossings, level)

    def _measured(self, plan: Settings) -> str:
        label = str(self.experiment.measure["label"])
        than = self.experiment.verdict["than"]
        return f"{label}, % of {than}" if plan.get("relative") else label

    @property
    def _note(self) -> str:
        first = {run.backend: run.result for run in reversed(self.runs)}
        hashes = ", ".join(f"{b} {result.scenario.hash[:8]}" for b, result in sorted(first.items()))
        versions = self.runs[0].result.provenance["versions"]["workbench"]
        presets = ", ".join(sorted({run.result.preset.name for run in self.runs}))
        return (
            f"{self.experiment.what_if}{self.said} workbench {versions}; experiment {self.experiment.name}, "
            f"{len(self.runs)} runs, the first: {hashes}; prices {presets}; sources "
            f"{', '.join(self.sources)}"
        )

    def _drawn(self, plan: Settings) -> pd.DataFrame:
        """The main frame with the columns that a kind of chart takes."""
        if plan["plot"] == "heat":
            rows = self.calls
            share = 100 * rows["gain"] / (rows["value"] + rows["gain"])
            return pd.DataFrame({"panel": _panel(rows), "x": rows["axis"], "y": rows["axis2"],
                                 "value": share, "mark": rows["call"].where(rows["call"] == "open", "")})  # fmt: skip
        rows = self._at(plan)
        if plan.get("relative"):
            others = rows["alternative"] != self.experiment.verdict["than"]
            rows = _relative(rows[others])
        panel = _panel(rows)
        if "axis2" in rows and "at" not in plan:
            panel = (panel + ", " + self._second(rows["axis2"])).str.removeprefix(", ")
        return rows.rename(columns={"axis": "x", "alternative": "series"}).assign(panel=panel)

    def _second(self, places: pd.Series) -> pd.Series:
        """Values of the second axis with their unit, names as they are."""
        if not pd.api.types.is_numeric_dtype(places):
            return places.astype(str)
        return places.map(style.compact) + f" {_unit(self.experiment)}"

    def _at(self, plan: Settings) -> pd.DataFrame:
        """The frame's rows at one value of the second axis, all without ``at``."""
        rows = self.frame
        if "at" not in plan:
            return rows
        place = list(self.experiment.axis2["values"]).index(plan["at"])
        shown = {b: list(dict.fromkeys(p["axis2"]))[place] for b, p in rows.groupby("backend")}
        return rows[rows["axis2"] == rows["backend"].map(shown)]

    def _title(self, plan: Settings) -> str:
        title = str(plan.get("title", self.experiment.title))
        if "at" not in plan:
            return title
        places = ", ".join(dict.fromkeys(self._at(plan)["axis2"].map(style.compact)))
        return f"{title}, at {places} {self.experiment.axis2['label']}"

    @property
    def _crossings(self) -> pd.DataFrame:
        frame = self.crossovers.rename(columns={"axis2": "y", "crossover": "x"})
        return frame.assign(panel=_panel(frame))


def _relative(rows: pd.DataFrame) -> pd.DataFrame:
    """Values in percent of the verdict's ``than``, with the bounds that prices alike for both give."""
    than = rows["value"] + rows["gain"]
    share = {end: 100 * (than - rows[gain]) / than
             for end, gain in (("value", "gain"), ("low", "gain_high"), ("high", "gain_low"))}  # fmt: skip
    return rows.assign(**share)


def _panel(frame: pd.DataFrame) -> pd.Series:
    return frame["backend"].map(lambda name: "" if name == BOTH else str(name).upper())


def _unit(spec: Experiment) -> str:
    """What stands in brackets at the end of the second axis' label, else all of it."""
    label = str(spec.axis2["label"])
    return label[label.rindex("(") + 1 : -1] if label.endswith(")") else label
