"""Kinds of charts for a tidy frame: each draws the rows of one panel, whatever they are about.

Columns of such a frame: ``panel``, ``x``, ``value``; ``low`` and ``high`` (bounds); ``series`` for
lines, bars, stacked bars and distributions; ``y`` and ``mark`` for heat maps; ``x_end`` for
distributions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from . import distribution, style

_LINES: tuple[tuple[str, str, Any], ...] = (
    ("#0b4f7d", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "^", ":"), ("#cc79a7", "D", "-."),
    ("#555555", "v", "-"),
)  # fmt: skip
_MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "open": (
        "open: within the bounds of the prices either may be lower",
        {"hatch": "////", "edgecolor": "#888888", "lw": 0},
    ),
    "unused": ("unused: no event reads it", {"hatch": "xxxx", "edgecolor": "#888888", "lw": 0}),
    "stale": ("read from a copy made at the entry", {"edgecolor": "#d55e00", "lw": 1.6}),
}
"""Mark of a heat map's cell -> meaning and look."""
ALL = "all"
_ROW_INCHES = 0.18
_SMALL = 0.8
"""Letters in a panel, beside those of its axes."""
_FAR = 100.0
"""Percent; signed colours go no further."""
_TICKS = 9
_FEW = 6
"""Bars of a panel whose labels have room for three digits."""


@dataclass(frozen=True)
class Kind:
    """How to draw a panel, the legend's entries, and how high a panel is [inches]."""

    draw: Callable[[Axes, pd.DataFrame, Sequence[str]], None]
    legend: Callable[[pd.DataFrame, Sequence[str]], list[Artist]]
    height: Callable[[pd.DataFrame], float]


def wide(values: pd.Series) -> bool:
    """Does a linear scale hide most of it?"""
    return bool(values.min() > 0 and values.max() / values.min() > 30)


def spaced(name: object) -> str:
    """A name as people read it."""
    return str(name).replace("_", " ")


def _usual(_: pd.DataFrame) -> float:
    return 2.6


# ---------------------------------------------------------------- lines


def lines(axes: Axes, part: pd.DataFrame, series: Sequence[str]) -> None:
    """Lines over a numeric axis; bands reach from low to high."""
    for number, (name, look) in enumerate(zip(series, _LINES, strict=False)):
        colour, marker, dashes = look
        rows = part[part["series"] == name].sort_values("x")
        if rows.empty:
            continue
        axes.fill_between(rows["x"], rows["low"], rows["high"], color=colour, alpha=0.12, lw=0)
        axes.plot(rows["x"], rows["value"], color=colour, marker=marker, ms=max(6 - number, 3),
                  ls=dashes, lw=1.3, label=name)  # fmt: skip
    axes.grid(axis="y")
    if wide(part["value"]):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: style.compact(value))
    _scale_x(axes, part["x"])


def _scale_x(axes: Axes, values: pd.Series) -> None:
    """A logarithmic axis where points lie far apart, with a place for zero when it is among them."""
    positive = values[values > 0]
    if positive.empty or not wide(positive) or values.min() < 0:
        return
    if values.min() == 0:
        axes.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.5)
        axes.set_xlim(-0.3 * float(positive.min()), 1.25 * float(values.max()))
    else:
        axes.set_xscale("log")
    places = sorted(set(values))
    if len(places) <= _TICKS:
        axes.set_xticks(places, [_tick(place) for place in places])
        axes.minorticks_off()


def _line_entries(_: pd.DataFrame, series: Sequence[str]) -> list[Artist]:
    return [
        Line2D([], [], color=c, marker=m, linestyle=s, label=spaced(name))
        for name, (c, m, s) in zip(series, _LINES, strict=False)
    ]


# ---------------------------------------------------------------- bars


def bars(axes: Axes, part: pd.DataFrame, series: Sequence[str]) -> None:
    """Groups of bars over an axis of names, with whiskers or, without bounds, values."""
    places = list(dict.fromkeys(part["x"]))
    width = 0.8 / len(series)
    font = _SMALL * float(axes.yaxis.label.get_fontsize())
    for number, (name, (colour, hatch)) in enumerate(zip(series, style.SERIES_LOOKS, strict=False)):
        rows = part[part["series"] == name]
        where = [places.index(a) + (number + 0.5) * width - 0.4 for a in rows["x"]]
        drawn = axes.bar(where, rows["value"], width, color=colour, hatch=hatch, lw=0.5,
                         edgecolor=style.INK, label=name)  # fmt: skip
        if (rows["high"] > rows["low"]).any():
            reach = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            axes.errorbar(where, rows["value"], reach, fmt="none", ecolor=style.INK, lw=0.8,
                          capsize=2)  # fmt: skip
        else:
            least = 0.004 * float(part["value"].abs().max())
            digits = 3 if len(places) * len(series) <= _FEW else 2
            labels = [
                "≈0" if 0 < v < least else style.compact(float(f"{v:.{digits}g}"))
                for v in rows["value"]
            ]
            axes.bar_label(drawn, labels, padding=1, fontsize=font)
    _names_below(axes, places)


def stacked(axes: Axes, part: pd.DataFrame, series: Sequence[str]) -> None:
    """Bars whose series stand on each other; a series ``all`` gives the whiskers of the sum."""
    places = list(dict.fromkeys(part["x"]))
    top = np.zeros(len(places))
    for name, (colour, hatch) in zip(_summands(series), _stack_looks(series), strict=False):
        rows = part[part["series"] == name].set_index("x")["value"]
        heights = np.array([float(rows.get(place, 0.0)) for place in places])
        axes.bar(range(len(places)), heights, 0.7, bottom=top, color=colour, hatch=hatch, lw=0.5,
                 edgecolor=style.INK, label=name)  # fmt: skip
        top += heights
    whole = part[part["series"] == ALL].set_index("x").reindex(places)
    whiskers = bool(whole["value"].notna().all())
    if whiskers:
        reach = [whole["value"] - whole["low"], whole["high"] - whole["value"]]
        axes.errorbar(range(len(places)), whole["value"], reach, fmt="none", ecolor=style.INK,
                      lw=0.8, capsize=2)  # fmt: skip
    font = 0.9 * float(axes.yaxis.label.get_fontsize())
    sums = [float(part.loc[(part["x"] == p) & (part["series"] != ALL), "value"].sum())
            for p in places]  # fmt: skip
    for place, total in enumerate(sums):
        axes.annotate(style.reading(total), (place, total), (2 * whiskers, 2), fontsize=font,
                      ha="left" if whiskers else "center",
                      textcoords="offset points")  # fmt: skip
    _names_below(axes, places)


def _summands(series: Sequence[str]) -> list[str]:
    return [name for name in series if name != ALL]


def _stack_looks(series: Sequence[str]) -> list[tuple[str, str]]:
    """Parts of the work look as in every chart of costs."""
    spare = iter(style.SERIES_LOOKS)
    return [style.PART_LOOKS.get(name) or next(spare) for name in _summands(series)]


def _stack_entries(_: pd.DataFrame, series: Sequence[str]) -> list[Artist]:
    looks = zip(_summands(series), _stack_looks(series), strict=True)
    return list(style.patches([(spaced(n), c, h) for n, (c, h) in looks]))


def _names_below(axes: Axes, places: list[Any]) -> None:
    axes.set_xticks(range(len(places)), [spaced(place) for place in places])
    axes.grid(axis="y")
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter(lambda value, _: style.compact(value))


def _bar_entries(_: pd.DataFrame, series: Sequence[str]) -> list[Artist]:
    looks = zip(series, style.SERIES_LOOKS, strict=False)
    return list(style.patches([(spaced(n), c, h) for n, (c, h) in looks]))


# ---------------------------------------------------------------- heat maps


def heat(axes: Axes, part: pd.DataFrame, _: Sequence[str]) -> None:
    """A cell for each x and y with its value; what has a mark is hatched.

    With negative values the colours part at zero, and signs are printed; else they start at white.
    """
    columns, rows = list(dict.fromkeys(part["x"])), list(dict.fromkeys(part["y"]))
    grid = np.full((len(rows), len(columns)), np.nan)
    texts = []
    signed = bool((part["value"] < 0).any())
    for cell in part.itertuples():
        x, y = columns.index(cell.x), rows.index(cell.y)
        value = float(cell.value)  # type: ignore[arg-type]
        grid[y, x] = value if value or signed else np.nan
        texts.append((x, y, value, str(getattr(cell, "mark", ""))))
    norm, colours = _colours(part["value"], signed)
    axes.imshow(grid, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    font = _SMALL * float(axes.yaxis.label.get_fontsize())
    for x, y, value, mark in texts:
        if mark in _MARKS:
            inset = 0.05 if _MARKS[mark][1]["lw"] else 0.0
            axes.add_patch(Rectangle((x - 0.5 + inset, y - 0.5 + inset), 1 - 2 * inset,
                                     1 - 2 * inset, fill=False, **_MARKS[mark][1]))  # fmt: skip
        if value or signed:
            dark = norm(value) > 0.62 if not signed else abs(norm(value) - 0.5) > 0.33
            said = f"{value:+.0f}" if signed else _short(value)
            boxed = bool(mark) or signed
            box = {"facecolor": colours(norm(value)), "lw": 0, "pad": 0.6} if boxed else None
            axes.text(x, y, "0" if said in ("+0", "-0") else said, ha="center", va="center",
                      fontsize=font, bbox=box, color="white" if dark else style.INK)  # fmt: skip
    axes.set_xticks(range(len(columns)), [_tick(name) for name in columns])
    axes.set_yticks(range(len(rows)), [_row(name) for name in rows])
    axes.grid(visible=False)
    for group in groups(part)[1:]:
        axes.axhline(group[0] - 0.5, color=style.INK, lw=0.8)
    if max(len(_tick(name)) for name in columns) > 6:
        axes.tick_params(axis="x", labelrotation=60)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")


def groups(part: pd.DataFrame) -> list[tuple[int, int, str]]:
    """First row, last row and name of each group of a heat map's rows."""
    if "group" not in part:
        return []
    names = part.drop_duplicates("y")["group"].tolist()
    last = len(names) - 1
    return [(names.index(n), last - names[::-1].index(n), n) for n in dict.fromkeys(names)]


def group_names(axes: Axes, part: pd.DataFrame) -> None:
    """The names of the groups of rows, at the right of a heat map."""
    font = _SMALL * float(axes.yaxis.label.get_fontsize())
    for first, last, name in groups(part):
        axes.text(1.02, (first + last) / 2, name, transform=axes.get_yaxis_transform(),
                  rotation=-90 if last - first > 3 else 0, va="center", fontsize=font)  # fmt: skip


def _short(value: float) -> str:
    """A number for a cell."""
    if value < 0.005:
        return "≈0"
    return style.compact(float(f"{value:.2g}")) if value >= 0.995 else f"{value:.2f}"


def _row(name: object) -> str:
    return _tick(name) if isinstance(name, (int, float)) else str(name)


def _tick(name: object) -> str:
    return style.compact(float(f"{name:.2g}")) if isinstance(name, (int, float)) else spaced(name)


def _colours(values: pd.Series, signed: bool) -> tuple[Normalize, Colormap]:
    top = float(values.abs().max()) or 1.0
    if signed:
        top = min(top, _FAR)
        return Normalize(-top, top, clip=True), colormaps["PuOr"]
    least = float(values[values > 0].min()) if (values > 0).any() else top
    norm = LogNorm(least / 4, top) if top > 30 * least else Normalize(0, top)
    return norm, colormaps["Blues"]


def _marks(frame: pd.DataFrame, _: Sequence[str]) -> list[Artist]:
    found = [m for m in _MARKS if "mark" in frame and (frame["mark"] == m).any()]
    return [Patch(facecolor="white", label=_MARKS[m][0], **_MARKS[m][1]) for m in found]


def _by_rows(part: pd.DataFrame) -> float:
    return max(2.2, _ROW_INCHES * part["y"].nunique() + 1.0)


KINDS: dict[str, Kind] = {
    "lines": Kind(lines, _line_entries, _usual),
    "bars": Kind(bars, _bar_entries, _usual),
    "stacked": Kind(stacked, _stack_entries, _usual),
    "distribution": Kind(distribution.distribution, distribution.entries, _usual),
    "heat": Kind(heat, _marks, _by_rows),
}
"""Name in an experiment's file -> kind of chart."""
