"""The chart of an experiment: lines over a numeric axis, else bars; a panel for each back-end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..result import Result
from . import style
from .sizes import named

_LINES: tuple[tuple[str, str, Any], ...] = (
    ("#0b4f7d", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "^", ":"), ("#cc79a7", "D", "-."),
)  # fmt: skip


def experiment(
    frame: pd.DataFrame, title: str, axis: str, measure: str, note: str,
    pairs: list[tuple[str, Result]], size: str = "paper",
) -> Figure:  # fmt: skip
    """Draw the alternatives of an experiment.

    Parameters
    ----------
    frame : DataFrame
        backend, axis, alternative, value, low, high; bands or bars reach from low to high.
    title, axis, measure, note : str
        Title, labels with units, and the footer.
    pairs : list of (label, Result)
        Results whose scenarios go into the file.
    """
    numeric = pd.api.types.is_numeric_dtype(frame["axis"])
    backends = list(dict.fromkeys(frame["backend"]))
    alternatives = list(dict.fromkeys(frame["alternative"]))
    with style.house_style(size):
        figure, panels = style.panels(size, 3.4, 0.9, [1] * len(backends))
        for axes, backend in zip(panels, backends, strict=True):
            part = frame[frame["backend"] == backend]
            (_lines if numeric else _bars)(axes, part, alternatives)
            axes.set_title(backend.upper(), loc="left")
            axes.set_xlabel(axis)
            axes.grid(axis="y")
            if numeric and _wide(part["value"]):
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
            if numeric:
                if _wide(part["axis"]):
                    axes.set_xscale("log")
                axes.xaxis.set_major_formatter(lambda value, _: style.compact(value))
            axes.yaxis.set_major_formatter(lambda value, _: style.compact(value))
        for axes in panels if named(size).stacked else panels[:1]:
            axes.set_ylabel(measure)
        handles: Sequence[Artist]
        if numeric:
            handles = [
                Line2D([], [], color=c, marker=m, linestyle=s, label=name.replace("_", " "))
                for name, (c, m, s) in zip(alternatives, _LINES, strict=False)
            ]
        else:
            looks = zip(alternatives, style.SERIES_LOOKS, strict=False)
            handles = style.patches([(n.replace("_", " "), c, h) for n, (c, h) in looks])
        style.legend(figure, title, handles, size)
        return style.finish(figure, title, note, _alt(frame, title, measure), size, pairs)


def _wide(values: pd.Series) -> bool:
    """Does a linear scale hide most of it?"""
    return bool(values.min() > 0 and values.max() / values.min() > 30)


def _lines(axes: Axes, part: pd.DataFrame, alternatives: list[str]) -> None:
    for number, (name, look) in enumerate(zip(alternatives, _LINES, strict=False)):
        colour, marker, dashes = look
        rows = part[part["alternative"] == name].sort_values("axis")
        if rows.empty:
            continue
        axes.fill_between(rows["axis"], rows["low"], rows["high"], color=colour, alpha=0.12, lw=0)
        axes.plot(rows["axis"], rows["value"], color=colour, marker=marker, ms=6 - number, ls=dashes,
                  lw=1.3, label=name)  # fmt: skip


def _bars(axes: Axes, part: pd.DataFrame, alternatives: list[str]) -> None:
    places = list(dict.fromkeys(part["axis"]))
    width = 0.8 / len(alternatives)
    for number, (name, (colour, hatch)) in enumerate(
        zip(alternatives, style.SERIES_LOOKS, strict=False)
    ):
        rows = part[part["alternative"] == name]
        where = [places.index(a) + (number + 0.5) * width - 0.4 for a in rows["axis"]]
        reach = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        drawn = axes.bar(where, rows["value"], width, color=colour, hatch=hatch, lw=0.5,
                         edgecolor=style.INK, label=name)  # fmt: skip
        if (rows["high"] > rows["low"]).any():
            axes.errorbar(where, rows["value"], reach, fmt="none", ecolor=style.INK, lw=0.8,
                          capsize=2)  # fmt: skip
        else:
            labels = [style.compact(float(f"{v:.2g}")) for v in rows["value"]]
            axes.bar_label(drawn, labels, padding=1, fontsize="small")
    axes.set_xticks(range(len(places)), [str(place) for place in places])


def _alt(frame: pd.DataFrame, title: str, measure: str) -> str:
    said = [
        f"{row['backend'].upper()}, {row['axis']}, {row['alternative']}: "
        f"{style.compact(row['value'])}"
        for row in frame.head(6).to_dict("records")
    ]
    return f"{title}: {measure}. {'; '.join(said)}."
