"""An experiment's outcome in words: the verdict's sentence, and a text that fits a plain mail."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..charts.style import reading
from . import verdict
from .measures import SAMPLED
from .runs import BOTH
from .spec import Experiment, Settings

MAIL_COLUMNS = 72
_SIGNS = {verdict.WIN: "+", verdict.LOSS: "-", verdict.ALIKE: "=", verdict.OPEN: "?", "": ""}


def said(spec: Experiment, judged: str, calls: pd.DataFrame, crossovers: pd.DataFrame) -> str:
    """The verdict in words: how many points say what, by back-end where they differ, crossovers."""
    rule = spec.verdict
    each = {
        str(backend): verdict.judge(part, rule["better"], rule["tolerance"])
        for backend, part in calls.groupby("backend", sort=False)
    }
    differ = len(set(each.values())) > 1
    apart = f" {', '.join(f'{_name(b)} {v}' for b, v in each.items())}." if differ else ""
    return f"Claim {judged}.{apart} {_points(calls)}{_crossings(crossovers)}"


def _name(backend: str) -> str:
    return "" if backend == BOTH else backend.upper()


def _points(calls: pd.DataFrame) -> str:
    count = calls["call"].value_counts()
    texts = {
        verdict.WIN: "for it", verdict.LOSS: "against it", verdict.ALIKE: "alike",
        verdict.OPEN: "open within their bounds",
    }  # fmt: skip
    found = [f"{count[name]} {text}" for name, text in texts.items() if count.get(name, 0)]
    return f"Of {len(calls)} points: {', '.join(found)}."


def _crossings(crossovers: pd.DataFrame) -> str:
    if crossovers.empty:
        return ""
    told = []
    for backend, part in crossovers.groupby("backend", sort=False):
        rows = _everywhere(part) or [_crossing(row) for row in part.to_dict("records")]
        told.append(f"{_name(str(backend))} {', '.join(rows)}".strip())
    return f" Crossover: {'; '.join(told)}."


def _everywhere(part: pd.DataFrame) -> list[str]:
    """One crossover for all values of the second axis, where they agree to three digits."""
    if "axis2" not in part or part["axis2"].nunique() < len(part) or len(part) < 2:
        return []
    told = {_crossing(row) for row in part.drop(columns="axis2").to_dict("records")}
    return [f"{told.pop()} throughout"] if len(told) == 1 else []


def _crossing(row: Mapping[Any, Any]) -> str:
    low, high = (
        "" if math.isnan(row[end]) else reading(row[end]).rstrip() for end in ("low", "high")
    )
    bounds = f" [{low or '...'}, {high or '...'}]" if low or high else ""
    at = f" at {_place(row['axis2'])}" if "axis2" in row else ""
    return f"{reading(row['crossover'])}{bounds}{at}"


def _place(value: Any) -> str:
    return reading(value) if isinstance(value, float) else str(value)


def mail(
    spec: Experiment, frame: pd.DataFrame, parts: Sequence[tuple[Settings, pd.DataFrame]],
    verdict_said: str, sources: Sequence[str],
) -> str:  # fmt: skip
    """Question, claim, tables and verdict in 72 columns.

    Parameters
    ----------
    frame : DataFrame
        The main frame with ``call``.
    parts : sequence of (figure's plan, frame)
        What the experiment's function computed.
    """
    rows = spec.axis["label"]
    if spec.axis2:
        rows = f"{spec.axis2['label']}, then {rows}"
    rule = spec.verdict
    texts = [
        f"{spec.questions}: {spec.question}",
        f"Claim ({spec.claim_of}): {spec.claim}",
        f"Refuted if: {spec.refuted_if}",
        *filter(None, (spec.notes, spec.what_if.strip())),
        f"Rows: {rows}. Values: {spec.measure['label']}; in brackets {_bounds(spec)}. Against "
        f"{rule['than']} at the same prices, {rule['better']} is lower (+), higher (-), alike (=), "
        "or open within the bounds (?).",
    ]
    lines = [spec.title, "=" * len(spec.title), ""]
    for text in texts:
        lines += [*_wrap(text), ""]
    axes = [name for name in ("axis2", "axis") if name in frame]
    widths = {name: 2 + max(len(_place(value)) for value in frame[name]) for name in axes}
    lines += [_line(row, widths) for row in frame.to_dict("records")]
    for plan, part in parts:
        lines += ["", *_part(plan, part)]
    lines += ["", *_wrap(f"Verdict: {verdict_said}"), "", *_wrap(f"Sources: {', '.join(sources)}")]
    return "\n".join(lines) + "\n"


def _bounds(spec: Experiment) -> str:
    if spec.measure["column"] in SAMPLED:
        return "two standard errors to either side, of the sample of events"
    return "the bounds of the prices, where they matter"


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, MAIL_COLUMNS, break_on_hyphens=False, subsequent_indent=indent)


def _line(row: Mapping[Any, Any], widths: Mapping[str, int]) -> str:
    low, value, high = (reading(row[name]) for name in ("low", "value", "high"))
    bounds = f"  [{low}, {high}]" if low != high else ""
    where = "".join(f"{_place(row[name]):>{width}}" for name, width in widths.items())
    backend = "" if row["backend"] == BOTH else f"{row['backend']:4}"
    start = f"{backend}{where}  {row['alternative']:16}{value:>8}{bounds}"
    return f"{start:<70}{_SIGNS[row['call']]:>2}".rstrip()


def _part(plan: Settings, frame: pd.DataFrame) -> list[str]:
    title = plan.get("title", "")
    unit = f" ({plan['value']})" if plan.get("value") else ""
    lines = _wrap(f"{title}{unit}") if title else []
    keys = ["panel", *(name for name in ("y",) if name in frame)]
    for key, rows in frame.groupby(keys, sort=False):
        head = ", ".join(_place(name) for name in key if name != "")
        marks = set(rows["mark"]) if "mark" in rows else {""}
        if len(marks) == 1 and marks != {""}:
            head, rows = f"{head} ({marks.pop()})", rows.assign(mark="")
        cells = [_cell(row) for row in rows.to_dict("records")]
        told = "; ".join(cell for cell in cells if cell)
        lines += _wrap(f"{head}: {told or '-'}", "    ")
    return lines


def _cell(row: Mapping[Any, Any]) -> str:
    mark = f" {row['mark']}" if row.get("mark") else ""
    if not row["value"]:
        return ""
    names = [_place(row["x"]), *([str(row["series"])] if row.get("series") else [])]
    bounds = f" [{reading(row['low'])}, {reading(row['high'])}]" if row.get("low") != row.get("high") else ""  # fmt: skip
    return f"{' '.join(names)} {reading(row['value'])}{bounds}{mark}"
