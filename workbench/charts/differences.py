"""Differences: exits and cycles per operation of L2, beside those of the first result."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError
from ..prices import PARTS
from ..result import Result
from ..study.comparison import Comparison
from . import style
from .costs import parts, unit_for
from .inputs import Results, footer, labelled
from .sizes import named

TITLE = "What differs"
MOST = 10
"""Exits shown by name; the rest is added up as 'other'."""
SMALL = 0.02
"""Differences below this part of the largest one are among the rest."""
UNITS = {"operation": "per L2 operation", "kinstr": "per thousand L2 instructions"}


def exit_changes(both: Comparison, unit: str = "operation") -> pd.DataFrame:
    """Exits per unit of L2's work beyond those of the first result: one row per exit, largest first.

    Columns are the labels of the other results.  The set-up before the first entry is left out.
    """
    rates = {}
    for label, result in both.items():
        exits = result.exits
        counted = exits[exits["cause"] != "BOOT"].groupby("exit")["count"].sum()
        rates[label] = counted / _work(result, unit)
    table = pd.concat(rates, axis=1).fillna(0.0)
    change = table[list(both.others)].sub(table[both.base], axis=0)
    size = change.abs().max(axis=1)
    size = size[size > 1e-9].sort_values(ascending=False, kind="stable")
    named = size[size > SMALL * size.max()].index[:MOST]
    rest = [name for name in size.index if name not in named]
    if not rest:
        return change.loc[named]
    added = change.loc[rest].sum().rename(f"other ({len(rest)})")
    return pd.concat([change.loc[named], added.to_frame().T])


def cycle_changes(both: Comparison, unit: str = "operation") -> pd.DataFrame:
    """Cycles per unit of L2's work beyond those of the first result: one row per part, and 'all'."""
    table = {label: parts(result, unit)["cycles"] for label, result in both.items()}
    frame = pd.DataFrame(table).reindex([*PARTS, "all"])
    change = frame[list(both.others)].sub(frame[both.base], axis=0)
    moved = change.abs().max(axis=1) > 1e-9 * frame.abs().max().max()
    return change[moved | (change.index == "all")]


def _work(result: Result, unit: str) -> float:
    return result.l2_operations if unit == "operation" else result.l2_instructions / 1000


def differences(results: Results, size: str = "panel") -> Figure:
    """Bars left and right of zero: exits by name, and cycles by part of the work.

    Parameters
    ----------
    results : Comparison, list or dict of at least two Results
        The first is what the others are compared with.
    size : {"panel", "paper", "column", "projector"}
    """
    pairs = labelled(results)
    if len(pairs) < 2:
        raise ResultError("a difference needs two results", "give a list or a dict of results")
    both = Comparison(dict(pairs))
    unit = unit_for(list(both.values()))
    note = footer(pairs, size, True, "Without the set-up before the first entry to L2.")
    tables = [exit_changes(both, unit), cycle_changes(both, unit)]
    title = f"{TITLE} from {both.base}"
    if not any(table.to_numpy().any() for table in tables):
        return style.empty(title, "The same exits and the same cycles.", note, size, pairs)
    looks = [
        (label, *style.SERIES_LOOKS[i % len(style.SERIES_LOOKS)])
        for i, label in enumerate(both.others)
    ]
    with style.house_style(size):
        rows = max(len(table) for table in tables)
        extents = [max(len(table), 1) + 1.5 for table in tables]
        height = 1.5 + rows * max(0.3, 0.06 + 0.17 * len(looks)) + 0.12 * len(looks)
        figure, (left, right) = style.panels(size, height, 0.7, extents)
        for axes, table in ((left, tables[0]), (right, tables[1])):
            _bars(axes, table, looks, len(table) if named(size).stacked else rows)
        left.set_xlabel(f"more or fewer exits\n{UNITS[unit]}")
        right.set_xlabel(f"more or fewer cycles\n{UNITS[unit]}")
        right.xaxis.set_major_formatter(lambda value, _: style.compact(value))
        style.legend(figure, title, style.patches(looks), size)
        return style.finish(figure, title, note, _alt(both, tables, unit), size, pairs)


def _bars(axes: Axes, table: pd.DataFrame, looks: list[tuple[str, str, str]], rows: int) -> None:
    if table.empty:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no difference in exits", ha="center", transform=axes.transAxes)
        return
    height = 0.8 / len(looks)
    for i, (label, colour, hatch) in enumerate(looks):
        places = [row - 0.4 + height * (i + 0.5) for row in range(len(table))]
        values = table[label].astype(float).tolist()
        axes.barh(places, values, height=height * 0.92, color=colour, hatch=hatch,
                  edgecolor=style.INK, linewidth=0.5)  # fmt: skip
        for value, place in zip(values, places, strict=True):
            side = (3, "left") if value >= 0 else (-3, "right")
            if abs(value) < 1e-9:
                continue
            axes.annotate(reading(value), (value, place), (side[0], 0), ha=side[1], va="center",
                          textcoords="offset points", fontsize="small")  # fmt: skip
    axes.axvline(0, color=style.INK, linewidth=0.8)
    low, high = min(0.0, table.min().min()), max(0.0, table.max().max())
    room = 0.34 * (high - low or 1.0)
    axes.set_xlim(low - room * (low < 0), high + room * (high > 0))
    axes.set_yticks(range(len(table)), ["\n".join(textwrap.wrap(str(n), 20)) for n in table.index])
    axes.set_ylim(rows - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def reading(value: float) -> str:
    """A difference with its sign."""
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return sign + style.reading(abs(value))


def _alt(both: Comparison, tables: list[pd.DataFrame], unit: str) -> str:
    said = []
    for label in both.others:
        exits = ", ".join(f"{n} {reading(v)}" for n, v in tables[0][label].head(5).items() if v)
        cycles = reading(tables[1][label].to_dict()["all"])
        said.append(f"{label}: exits {exits or 'as many'}; cycles {cycles}.")
    return f"Bars left and right of zero, {UNITS[unit]}, beside {both.base}. " + " ".join(said)
