"""Files of ``data/experiments``: what they may say, and what is wrong with one that says else.

An experiment is one axis, or two, times some alternatives times one measure, on one back-end or
both.  The claim says that one alternative is better (its measure is lower) than another.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ..charts.kinds import KINDS
from ..errors import WorkbenchError, did_you_mean
from ..paths import data_dir
from ..tables import data_table
from .functions import FUNCTIONS
from .measures import COUNTED

OURS = "ours"
MAIN = "main"
NAME_LENGTH = 16
"""Longest name of an alternative: the mail text has so many columns for it."""
_KEYS: dict[str, type] = {
    "title": str, "question": str, "claim": str, "claim_of": str, "answers": list,
    "refuted_if": str, "sources": list,
    "base": dict, "axis": dict, "alternatives": dict, "measure": dict, "verdict": dict,
}  # fmt: skip
_OPTIONAL: dict[str, type] = {"axis2": dict, "function": str, "figures": list, "notes": str}
_AXIS: dict[str, Any] = {"label": str, "values": (list, dict)}
_TABLES: dict[str, dict[str, Any]] = {
    "axis": _AXIS,
    "axis2": _AXIS,
    "alternatives": {"label": str, "values": dict},
    "measure": {"column": str, "label": str},
    "verdict": {"better": str, "than": str, "tolerance": float},
}
_OPTIONAL_IN: dict[str, dict[str, type]] = {
    "axis": {"setting": str, "shown": str},
    "axis2": {"setting": str, "shown": str},
    "alternatives": {"setting": str, "across": bool},
    "measure": {"after": dict},
}
_FIGURE: dict[str, type] = {"plot": str}
_OPTIONAL_FIGURE: dict[str, type] = {
    "name": str, "of": str, "title": str, "x": str, "y": str, "value": str,
    "at": int, "relative": bool,
}  # fmt: skip
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """One file of ``data/experiments``.

    Attributes
    ----------
    claim_of : str
        Whose claim it is: a name and a key of ``sources``, or ``ours``.
    answers : list of int
        Numbers of ``data/questions.csv``.
    base : mapping
        Back-end -> settings that stay the same.
    axis, axis2 : mapping
        ``label`` and ``values``: a list of values of ``setting``, or a table of names with the
        settings of each.  ``shown``: the count of the run with ``than`` that stands for the value
        in frame and figures.
    alternatives : mapping
        ``label`` and ``values``: by back-end a list of values of ``setting``, or a table of names
        with the settings of each.  ``across``: the back-ends are alternatives of each other.
    measure : mapping
        ``column`` and ``label``; ``after``: settings that make a run end after its warm-up, which is
        taken off before anything is measured.
    figures : list of mapping
        ``plot`` (a kind of ``charts.kinds``), and ``name``, ``of`` (``main``, or a frame of
        ``function``), ``title``, ``x``, ``y``, ``value`` (labels), ``at`` (only this value of the
        second axis' setting), ``relative`` (to the verdict's ``than``, in percent).
    changes : mapping
        Settings by dotted name that all runs get beside ``base``; no file has them.
    function : str
        Name of :data:`workbench.questions.functions.FUNCTIONS`: makes further frames.
    """

    name: str
    title: str
    question: str
    claim: str
    claim_of: str
    answers: Sequence[int]
    refuted_if: str
    sources: list[str]
    base: Mapping[str, Settings]
    axis: Settings
    alternatives: Settings
    measure: Settings
    verdict: Settings
    axis2: Settings = field(default_factory=dict)
    figures: Sequence[Settings] = ()
    function: str = ""
    notes: str = ""
    changes: Settings = field(default_factory=dict)

    def changed(self, changes: Settings) -> Experiment:
        """The same experiment with other settings in all its runs.

        Raises
        ------
        WorkbenchError
            One of them is what the experiment varies.
        """
        varied = [s for axis in self.axes for s in self.points(axis).values()]
        varied += [s for backend in self.base for s in self.choices(backend).values()]
        names = {name for settings in varied for name in settings} | {"backend"}
        for name in changes:
            if name in names:
                hint = "change what stays the same in it"
                raise WorkbenchError(f"{name} is what experiment {self.name} varies", hint)
        return replace(self, changes={**self.changes, **changes})

    @property
    def what_if(self) -> str:
        """The changes in words, empty without any."""
        said = ", ".join(f"{name}={plain(value)}" for name, value in self.changes.items())
        return f"Changed: {said}. " if said else ""

    def points(self, axis: str) -> dict[Any, dict[str, Any]]:
        """Value, or name, of each point of an axis -> its settings."""
        spec = getattr(self, axis)
        if isinstance(spec["values"], dict):
            return dict(spec["values"])
        return {value: {spec["setting"]: value} for value in spec["values"]}

    def choices(self, backend: str) -> dict[str, dict[str, Any]]:
        """Name of each alternative of a back-end -> its settings."""
        given = self.alternatives["values"][backend]
        if isinstance(given, dict):
            return given
        return {plain(value): {self.alternatives["setting"]: value} for value in given}

    @property
    def across(self) -> bool:
        """Are the back-ends alternatives of each other?"""
        return bool(self.alternatives.get("across", False))

    @property
    def axes(self) -> list[str]:
        """The columns of the axes in the frame."""
        return ["axis", "axis2"] if self.axis2 else ["axis"]

    @property
    def questions(self) -> str:
        """Numbers and claims of the review: ``Q1 (C1)``."""
        claims = question_table().set_index("number")["claims"]
        said = [f"Q{n} ({claims[n]})" if claims[n] else f"Q{n}" for n in self.answers]
        return ", ".join(said)


def plain(value: Any) -> str:
    """A value of a setting as a name; on and off as people write them."""
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


@cache
def question_table() -> pd.DataFrame:
    """The questions that the experiments answer: number, claims (of the review), question."""
    rows = data_table("questions").rows
    return pd.DataFrame(rows).astype({"number": int})


# ---------------------------------------------------------------- reading


def files() -> dict[str, Path]:
    """Name -> file of each shipped experiment."""
    return {path.stem: path for path in sorted((data_dir() / "experiments").glob("*.toml"))}


def find(name: str) -> Experiment:
    """The experiment of a name, or of a TOML file by its path."""
    if name.endswith(".toml"):
        return load(Path(name))
    known = files()
    if name not in known:
        raise WorkbenchError(f"no experiment called {name!r}", did_you_mean(name, known))
    return load(known[name])


def load(path: Path) -> Experiment:
    """The experiment of a file.

    Raises
    ------
    WorkbenchError
        No TOML, or a key is missing, unknown, of the wrong type, or names what does not exist; the
        message names file and key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as problem:
        raise WorkbenchError(f"{path}: {problem}", "an experiment is a TOML file") from None
    _check(values, _KEYS, str(path), _OPTIONAL)
    for table, keys in _TABLES.items():
        if table in values:
            _check(values[table], keys, f"{path}, [{table}]", _OPTIONAL_IN.get(table, {}))
    found = Experiment(name=path.stem, **values)
    _check_whose(found, path)
    _check_axes(found, path)
    _check_alternatives(found, path)
    _check_figures(found, path)
    return found


def _check(
    values: Settings, keys: Mapping[str, Any], where: str, optional: Mapping[str, Any]
) -> None:
    known = {**keys, **optional}
    for key in values:
        if key not in known:
            raise WorkbenchError(f"{where}: unknown key {key!r}", did_you_mean(key, known))
    for key, kind in known.items():
        if key in keys and key not in values:
            raise WorkbenchError(f"{where}: no {key!r}", f"give it as {_said(kind)}")
        if key in values and not isinstance(values[key], kind):
            hint = f"it is of type {_said(kind)}"
            raise WorkbenchError(f"{where}: {key} cannot be {values[key]!r}", hint)


def _said(kind: Any) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(one.__name__ for one in kinds)


def _check_whose(spec: Experiment, path: Path) -> None:
    if spec.claim_of != OURS and not any(key in spec.claim_of for key in spec.sources):
        hint = f"{OURS!r}, or who makes it with a key of sources: {', '.join(spec.sources)}"
        raise WorkbenchError(f"{path}: claim_of cannot be {spec.claim_of!r}", hint)
    known = set(question_table()["number"])
    if not spec.answers or not set(spec.answers) <= known:
        hint = "numbers of data/questions.csv"
        raise WorkbenchError(f"{path}: answers cannot be {spec.answers!r}", hint)


def _check_axes(spec: Experiment, path: Path) -> None:
    for name in spec.axes:
        axis = getattr(spec, name)
        if not axis["values"]:
            raise WorkbenchError(f"{path}, [{name}]: no values", "give at least one")
        if isinstance(axis["values"], list) and "setting" not in axis:
            hint = "name the setting, or give each value as a table"
            raise WorkbenchError(f"{path}, [{name}]: no 'setting'", hint)
        shown = axis.get("shown")
        if shown is not None and shown not in COUNTED:
            message = f"{path}, [{name}]: shown cannot be {shown!r}"
            raise WorkbenchError(message, did_you_mean(shown, COUNTED))


def _check_alternatives(spec: Experiment, path: Path) -> None:
    if not spec.base:
        raise WorkbenchError(f"{path}: no back-end in [base]", "add [base.svm] or [base.vmx]")
    values = spec.alternatives["values"]
    every: list[str] = []
    for backend in spec.base:
        given = values.get(backend)
        if isinstance(given, list) and "setting" not in spec.alternatives:
            hint = "name the setting, or give each alternative as a table"
            raise WorkbenchError(f"{path}, [alternatives]: no 'setting'", hint)
        if not given or not isinstance(given, (list, dict)):
            message = f"{path}, [alternatives]: no values for {backend}"
            raise WorkbenchError(message, "a list of values, or a table of names and settings")
        known = list(spec.choices(backend))
        every += known
        if not spec.across:
            _check_verdict(spec, known, f"on {backend}", path)
    _check_verdict(spec, every, "", path)
    for name in every:
        if len(name) > NAME_LENGTH:
            hint = f"at most {NAME_LENGTH} characters"
            raise WorkbenchError(f"{path}: the alternative {name!r} is too long", hint)


def _check_verdict(spec: Experiment, known: list[str], where: str, path: Path) -> None:
    for role in ("better", "than"):
        wanted = spec.verdict[role]
        if wanted not in known:
            message = f"{path}: {role} = {wanted!r} is no alternative {where}".rstrip()
            raise WorkbenchError(message, did_you_mean(wanted, known))


def _check_figures(spec: Experiment, path: Path) -> None:
    if spec.function and spec.function not in FUNCTIONS:
        hint = did_you_mean(spec.function, FUNCTIONS)
        raise WorkbenchError(f"{path}: no function called {spec.function!r}", hint)
    known = [MAIN, *(FUNCTIONS[spec.function].frames if spec.function else ())]
    names = []
    for number, figure in enumerate(spec.figures, 1):
        where = f"{path}, figure {number}"
        if not isinstance(figure, dict):
            raise WorkbenchError(f"{where} cannot be {figure!r}", "write [[figures]]")
        _check(figure, _FIGURE, where, _OPTIONAL_FIGURE)
        if figure["plot"] not in KINDS:
            hint = did_you_mean(figure["plot"], KINDS)
            raise WorkbenchError(f"{where}: no chart called {figure['plot']!r}", hint)
        if "at" in figure and figure["at"] not in spec.axis2.get("values", ()):
            hint = "a value of [axis2]"
            raise WorkbenchError(f"{where}: at cannot be {figure['at']!r}", hint)
        of = figure.get("of", MAIN)
        if of not in known:
            raise WorkbenchError(f"{where}: no frame called {of!r}", did_you_mean(of, known))
        names.append(figure.get("name", ""))
    if len(set(names)) < len(names):
        raise WorkbenchError(f"{path}: figures of the same name", "give each its 'name'")
