"""The verdict of an experiment, computed from its frame (see :func:`workbench.questions.runs.frame`).

A point counts only where it says the same at all prices within their bounds.  Both alternatives are
priced alike: what matters is how far the bounds move their difference.
"""

from __future__ import annotations

import pandas as pd

SUPPORTED, REFUTED, DEPENDS = "supported", "refuted", "depends"
WIN, LOSS, ALIKE, OPEN = "win", "loss", "alike", "open"
_CROSSOVER = ["crossover", "low", "high"]


def calls(frame: pd.DataFrame, tolerance: float) -> pd.Series:
    """What each row says of its alternative against the verdict's ``than``.

    ``win``, ``loss``: lower, or higher, by more than ``tolerance`` (a share of ``than``), and
    nowhere within the bounds of the prices the other way round; ``open``: the prices decide;
    ``alike``: within the tolerance.
    """
    margin = tolerance * (frame["value"] + frame["gain"]).abs()
    said = pd.Series(OPEN, index=frame.index)
    said[frame["gain"].abs() <= margin] = ALIKE
    said[(frame["gain"] > margin) & (frame["gain_low"] > 0)] = WIN
    said[(frame["gain"] < -margin) & (frame["gain_high"] < 0)] = LOSS
    return said


def judge(frame: pd.DataFrame, better: str, tolerance: float) -> str:
    """Is the alternative ``better`` lower than the one that the gains are against?

    ``supported``: some points say so and none the contrary; ``refuted``: none says so, and none is
    open; ``depends``: both occur, or the prices decide, or the back-ends differ.
    """
    if frame["backend"].nunique() > 1:
        each = {judge(part, better, tolerance) for _, part in frame.groupby("backend")}
        return each.pop() if len(each) == 1 else DEPENDS
    found = set(calls(frame[frame["alternative"] == better], tolerance))
    if WIN in found:
        return DEPENDS if LOSS in found else SUPPORTED
    return DEPENDS if OPEN in found else REFUTED


def crossovers(frame: pd.DataFrame, better: str) -> pd.DataFrame:
    """Where the gain of ``better`` changes its sign along the axis.

    Returns
    -------
    DataFrame
        backend, axis2 (where the frame has it), crossover, low, high: by linear interpolation
        between points; low and high are where the bounds of the gain change sign, NaN where they
        do so nowhere, or more than once, on the axis.
    """
    groups = ["backend", *(name for name in ("axis2",) if name in frame)]
    if not pd.api.types.is_numeric_dtype(frame["axis"]):
        return pd.DataFrame(columns=[*groups, *_CROSSOVER])
    lines = []
    mine = frame[frame["alternative"] == better]
    for key, part in mine.groupby(groups, sort=False):
        rows = part.sort_values("axis")
        axis = rows["axis"].to_list()
        ends = [_zeros(axis, rows[name].to_list()) for name in ("gain_low", "gain_high")]
        places = _zeros(axis, rows["gain"].to_list())
        single = len(places) == 1 and all(len(end) <= 1 for end in ends)
        bounds = sorted(end[0] for end in ends if end) if single else []
        for place in places:
            low = next((b for b in bounds if b <= place), float("nan"))
            high = next((b for b in bounds if b >= place), float("nan"))
            lines.append((*key, place, low, high))
    return pd.DataFrame(lines, columns=[*groups, *_CROSSOVER])


def _zeros(axis: list[float], values: list[float]) -> list[float]:
    return [
        axis[i] + (axis[i + 1] - axis[i]) * values[i] / (values[i] - values[i + 1])
        for i in range(len(values) - 1)
        if values[i] * values[i + 1] < 0
    ]
