"""Charts of experiments: a tidy frame, one kind of chart, one panel beside another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..result import Result
from . import style
from .kinds import KINDS, group_names, spaced
from .sizes import named

_BESIDE = 3


@dataclass(frozen=True)
class Labels:
    """Title and axes with units; ``note`` is the footer."""

    title: str
    x: str
    y: str
    value: str
    note: str


def experiment(
    frame: pd.DataFrame, kind: str, labels: Labels, pairs: list[tuple[str, Result]],
    size: str = "paper", crossings: pd.DataFrame | None = None, level: float | None = None,
) -> Figure:  # fmt: skip
    """Draw the frame of an experiment, a panel for each value of its column ``panel``.

    Parameters
    ----------
    frame : DataFrame
        As ``charts.kinds`` says.
    kind : str
        Of ``charts.kinds.KINDS``.
    pairs : list of (label, Result)
        Results whose scenarios go into the file.
    level : float, optional
        Where a line across marks what the values are relative to.
    crossings : DataFrame, optional
        panel, y, x, low, high: a line over a heat map with numeric axes.
    """
    chart = KINDS[kind]
    names = list(dict.fromkeys(frame["panel"]))
    series = list(dict.fromkeys(frame["series"])) if "series" in frame else []
    wide = _columns(len(names), size)
    high = -(-len(names) // wide)
    with style.house_style(size):
        handles = [] if series == [""] else chart.legend(frame, series)
        if kind == "heat":
            handles += _read_as(labels.value, crossings is not None and not crossings.empty)
        figure = style.new_figure(size, 0.8 + high * chart.height(frame))
        panels = list(figure.subplots(high, wide, squeeze=False).flat)
        for spare in panels[len(names) :]:
            spare.set_axis_off()
        for place, (axes, name) in enumerate(zip(panels, names, strict=False)):
            part = frame[frame["panel"] == name]
            chart.draw(axes, part, series)
            if level is not None:
                axes.axhline(level, color=style.INK, lw=0.8, ls=":")
            if name:
                axes.set_title(name, loc="left")
            axes.set_xlabel(labels.x)
            if place % wide == 0:  # of those that stand beside each other the first says it for all
                axes.set_ylabel(labels.y if kind == "heat" else labels.value)
            elif kind == "heat" and _same_rows(frame, names[0], name):
                axes.tick_params(labelleft=False)
            if place % wide == wide - 1:
                group_names(axes, part)
            if crossings is not None:
                _crossing(axes, part, crossings[crossings["panel"] == name])
        _alike(panels[: len(names)])
        if handles:
            style.legend(figure, labels.title, handles, size)
        return style.finish(figure, labels.title, labels.note, _alt(frame, labels), size, pairs)


def _same_rows(frame: pd.DataFrame, first: str, other: str) -> bool:
    rows = [list(dict.fromkeys(frame.loc[frame["panel"] == n, "y"])) for n in (first, other)]
    return rows[0] == rows[1]


def _alike(panels: list[Axes]) -> None:
    """Values are on a logarithmic scale in all panels or in none."""
    if len({axes.get_yscale() for axes in panels}) > 1:
        for axes in panels:
            axes.set_yscale("linear")
            axes.set_ylim(0)
            axes.yaxis.set_major_formatter(lambda value, _: style.compact(value))


def _read_as(value: str, crossed: bool) -> list[Artist]:
    """Legend entries of a heat map: what its numbers are, and the line over it."""
    line = Line2D([], [], color=style.INK, lw=1.4, label="crossover (dotted: its bounds)")
    return [*([line] if crossed else []), Line2D([], [], ls="", label=f"numbers: {spaced(value)}")]


def _columns(panels: int, size: str) -> int:
    if named(size).stacked:
        return 1
    return panels if panels <= 2 else _BESIDE if panels % _BESIDE == 0 else 2


def _crossing(axes: Axes, part: pd.DataFrame, line: pd.DataFrame) -> None:
    """The line where the gain changes its sign, between the columns of a heat map."""
    columns, rows = list(dict.fromkeys(part["x"])), list(dict.fromkeys(part["y"]))
    if line.empty:
        return
    y = [rows.index(place) for place in line["y"]]
    for end, dashes in (("low", ":"), ("high", ":"), ("x", "-")):
        x = [_between(columns, place) for place in line[end]]
        steps = [
            (place, row + side) for place, row in zip(x, y, strict=True) for side in (-0.5, 0.5)
        ]
        axes.plot(*zip(*steps, strict=True), color=style.INK, lw=1.4, ls=dashes)


def _between(columns: list[float], place: float) -> float:
    """The place of a number among the columns, as a number of columns."""
    for left, (low, high) in enumerate(pairwise(columns)):
        if low <= place <= high:
            return left + (place - low) / (high - low)
    return float("nan")


def _alt(frame: pd.DataFrame, labels: Labels) -> str:
    said = []
    for row in frame.head(6).to_dict("records"):
        where = (row.get("panel"), row.get("y"), row.get("x"), row.get("series"))
        name = ", ".join(str(part) for part in where if part not in (None, ""))
        said.append(f"{name}: {style.compact(row['value'])}")
    return f"{labels.title}: {labels.value}. {'; '.join(said)}."
