"""Effects of a design: what each toggle changes alone, and which helps only with which other."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..study.effects import FACTORIAL, Effects
from . import style
from .inputs import footer
from .sizes import named

TITLE = "Effects of toggles"
MOST = 8
"""Features shown: those with the largest effects, alone or together."""
COLOURS = "PuOr_r"
"""Diverging, told apart by most colour-blind readers; each cell also has its number and sign."""
UNITS = {
    "cycles_per_operation": "cycles per L2 operation",
    "exits_per_operation": "exits per L2 operation",
    "exits_per_l2_kinstr": "exits per thousand L2 instructions",
    "cycles": "cycles",
}


def unit_of(measure: str) -> str:
    """A measure with its unit, in words."""
    return UNITS.get(measure, measure.replace("_", " "))


def shown(effects: Effects) -> list[str]:
    """The features that a chart shows, the largest effect first."""
    main = effects.main.dropna(subset=["effect"])
    reach = main[["effect", "smallest", "largest"]].abs().max(axis=1)
    return list(main["feature"].loc[reach.sort_values(ascending=False, kind="stable").index][:MOST])


def interaction_matrix(effects: Effects) -> pd.DataFrame:
    """How much the effect of a feature (row) changes when another one (column) is on as well."""
    names = shown(effects)
    pairs = effects.interactions
    change = 2 * pairs["interaction"].to_numpy(float)
    matrix = pd.DataFrame(np.nan, index=names, columns=names)
    for first, second, value in zip(pairs["first"], pairs["second"], change, strict=True):
        if first in names and second in names:
            matrix.loc[first, second] = value
    return matrix


def effects(found: Effects, size: str = "panel") -> Figure:
    """Main effects as bars and, of a full factorial, interactions of pairs as a matrix.

    Parameters
    ----------
    found : Effects
        What ``wb.factorial`` or ``wb.one_at_a_time`` returned.
    size : {"panel", "paper", "column", "projector"}
    """
    names = shown(found)
    origin = [("one of the runs", found.result)] if found.result is not None else []
    note = _note(found)
    if origin:
        note = footer(origin, size, "cycles" in found.measure, note, sources=found.sources)
    title = f"{TITLE} on {unit_of(found.measure)}"
    if not names:
        return style.empty(
            title, "Nothing to show: no pair of runs has this measure.", note, size, origin
        )
    matrix = interaction_matrix(found) if found.design == FACTORIAL and len(names) > 1 else None
    with style.house_style(size):
        height = 1.5 + max(3, len(names)) * (0.5 if matrix is not None else 0.34)
        widths = [1] if matrix is None else [1, 1.25]
        figure, grid = style.panels(size, height, 0.5, [1] * len(widths), widths)
        _bars(grid[0], found, names)
        if matrix is not None:
            _matrix(grid[1], matrix, found, named(size).stacked)
        return style.finish(figure, title, note, _alt(found, names, matrix), size, origin)


def _note(found: Effects) -> str:
    runs = int(found.table[found.measure].notna().sum())
    if found.design == FACTORIAL:
        return f"Full factorial, {runs} runs; bar: mean over all settings of the other toggles, "\
               "thin line: from the smallest to the largest single effect."  # fmt: skip
    return f"One toggle at a time, {runs} runs; all others at their base values."


def _bars(axes: Axes, found: Effects, names: list[str]) -> None:
    main = found.main.set_index("feature").loc[names]
    values = main["effect"].to_numpy(float)
    low, high = main["smallest"].to_numpy(float), main["largest"].to_numpy(float)
    places = np.arange(len(names))
    colour, hatch = style.SERIES_LOOKS[0]
    fewer, more = style.SERIES_LOOKS[2][0], colour
    for place, value in zip(places, values, strict=True):
        axes.barh(place, value, height=0.56, color=more if value > 0 else fewer, hatch=hatch,
                  edgecolor=style.INK, linewidth=0.5)  # fmt: skip
    if found.design == FACTORIAL:
        axes.errorbar(values, places + 0.38, xerr=[values - low, high - values], fmt="none",
                      ecolor=style.INK, elinewidth=0.9, capsize=2.5)  # fmt: skip
    axes.axvline(0, color=style.INK, linewidth=0.8)
    for place, value in zip(places, values, strict=True):
        aside = (3, "left") if value >= 0 else (-3, "right")
        axes.annotate(signed(value), (value, place), (aside[0], 0), ha=aside[1], va="center",
                      textcoords="offset points", fontsize="small", fontweight="bold")  # fmt: skip
    ends = [min(0.0, *low, *values), max(0.0, *high, *values)]
    room = 0.3 * ((ends[1] - ends[0]) or 1.0)
    axes.set_xlim(ends[0] - room * (ends[0] < 0), ends[1] + room * (ends[1] > 0 or ends[0] == 0))
    axes.set_yticks(places, [_wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: style.compact(value))
    axes.set_xlabel(f"main effect [{unit_of(found.measure)}]")


def _matrix(axes: Axes, matrix: pd.DataFrame, found: Effects, names: bool) -> None:
    """The interactions; with ``names`` the rows have their names, else they are those beside."""
    values = matrix.to_numpy(float)
    largest = float(np.nanmax(np.abs(values))) or 1.0
    axes.imshow(values, cmap=COLOURS, norm=TwoSlopeNorm(0.0, -largest, largest), aspect="auto")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    needs = _needs(found)
    for row, first in enumerate(matrix.index):
        for column, second in enumerate(matrix.columns):
            if row == column:
                continue
            value = values[row, column]
            dark = abs(value) > 0.6 * largest
            axes.text(column, row, "?" if value != value else signed(value), ha="center",
                      va="center", fontsize="small", color="white" if dark else style.INK)  # fmt: skip
            if (first, second) in needs:
                axes.add_patch(Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False,
                                         edgecolor=style.INK, linewidth=1.6))  # fmt: skip
    places = range(len(matrix))
    axes.set_yticks(places, [_wrapped(name) if names else "" for name in matrix.index])
    axes.set_xticks(places, [_wrapped(name) for name in matrix.columns], rotation=40, ha="right",
                    rotation_mode="anchor")  # fmt: skip
    axes.tick_params(length=0)
    framed = "\nframed: an effect only with the other" if needs else ""
    axes.set_title("change of the row's effect when\nthe column's toggle is changed, too" + framed,
                   loc="left", fontsize="medium")  # fmt: skip
    axes.set_ylim(len(matrix) - 0.4, -0.6)


def _needs(found: Effects) -> set[tuple[str, str]]:
    pairs = found.interactions
    only = pairs[pairs["relation"] == "only with"]
    return set(zip(only["first"], only["second"], strict=True))


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name.replace("_", " "), 18, break_on_hyphens=False))


def signed(value: float) -> str:
    """A change with its sign, as short as it goes."""
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return sign + style.reading(abs(value))


def _alt(found: Effects, names: list[str], matrix: pd.DataFrame | None) -> str:
    main = found.main.set_index("feature")["effect"].to_dict()
    said = ", ".join(f"{name} {signed(main[name])}" for name in names)
    text = f"Bars: main effects on {unit_of(found.measure)}: {said}."
    if matrix is None:
        return text
    return f"{text} Matrix of interactions: {'; '.join(found.sentences()[:6]) or 'none'}."
