"""Exit frequency: how often each exit occurs per thousand L2 instructions, and who handled it."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..result import Result
from . import style
from .inputs import Results, footer, labelled
from .sizes import named

TITLE = "Exit frequency"
MOST = 12
"""Exits shown by name; rarer ones are added up as 'other'."""


def frequencies(result: Result) -> pd.DataFrame:
    """Exits per thousand L2 instructions: one row per exit, one column per route.

    Routes are (from level, handled by); the set-up before the first entry to L2 is left out.
    """
    exits = result.exits
    exits = exits[exits["cause"] != "BOOT"]
    routes = list(style.ROUTE_LOOKS)
    if exits.empty or not result.l2_instructions:
        return pd.DataFrame(columns=pd.MultiIndex.from_tuples(routes), dtype=float)
    keys = ["exit", "from_level", "handled_by"]
    table = exits.groupby(keys)["per_l2_kinstr"].sum().unstack(["from_level", "handled_by"])
    table = table.reindex(columns=pd.MultiIndex.from_tuples(routes)).fillna(0.0)
    order = table.sum(axis=1).sort_values(ascending=False, kind="stable").index
    return table.loc[order]


def _shortened(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    rest = table.loc[[name for name in table.index if name not in names]]
    shown = table.reindex(names).fillna(0.0)
    if len(rest):
        shown.loc[f"other ({len(rest)})"] = rest.sum()
    return shown


def exit_frequency(results: Results, size: str = "panel") -> Figure:
    """Bars per exit and result, stacked by who handled it.

    Parameters
    ----------
    results : Result, list or dict of Result
    size : {"panel", "paper", "column", "projector"}
    """
    pairs = labelled(results)
    note = footer(pairs, size, False, "Without the set-up before the first entry to L2.")
    tables = [frequencies(result) for _, result in pairs]
    if all(table.empty for table in tables):
        reason = "Nothing to show: no exit was counted after the first entry to L2."
        return style.empty(TITLE, reason, note, size, pairs)
    tables = _aligned(pairs, tables)
    columns = _columns(len(pairs), size)
    rows = -(-len(pairs) // columns)
    tallest = max(len(table) for table in tables)
    top = max(table.sum(axis=1).max() for table in tables if len(table))
    letters = named(size).characters(named(size).font)
    with style.house_style(size):
        figure = style.new_figure(size, 1.0 + rows * (0.75 + 0.26 * tallest))
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (label, _), table in zip(grid, pairs, tables, strict=False):
            _bars(axes, table, top, tallest)
            lines = textwrap.wrap(label, letters // columns - 12)
            axes.set_title("\n".join(lines), loc="left", y=1.0)  # a given y is not searched for
        for axes in grid[len(pairs) :]:
            axes.set_axis_off()
        routes = [c for c in style.ROUTE_LOOKS if any(t[c].sum() > 0 for t in tables)]
        looks = [style.ROUTE_LOOKS[route] for route in routes]
        style.legend(figure, TITLE, style.patches(looks), size)
        return style.finish(figure, TITLE, note, _alt(pairs, tables), size, pairs)


def _columns(panels: int, size: str) -> int:
    if named(size).stacked:
        return 1
    return 2 if panels == 4 else min(3, panels)


def _aligned(pairs: list[tuple[str, Result]], tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The same exits in the same order for all results of a back-end."""
    backends = [result.scenario.backend for _, result in pairs]
    names = {}
    for backend in set(backends):
        ours = [t.sum(axis=1) for t, b in zip(tables, backends, strict=True) if b == backend]
        totals = pd.concat([total for total in ours if len(total)] or ours)
        ranked = totals.groupby(level=0).sum().sort_values(ascending=False, kind="stable")
        names[backend] = list(ranked.index[:MOST])
    return [_shortened(t, names[b]) for t, b in zip(tables, backends, strict=True)]


def _bars(axes: Axes, table: pd.DataFrame, top: float, tallest: int) -> None:
    left = pd.Series(0.0, index=table.index)
    positions = [float(i) for i in range(len(table))]
    for route, (_, colour, hatch) in style.ROUTE_LOOKS.items():
        axes.barh(positions, table[route], left=left, height=0.66, color=colour, hatch=hatch,
                  edgecolor=style.INK, linewidth=0.5)  # fmt: skip
        left = left + table[route]
    if table.empty:
        axes.text(0.05, 0.5, "no exits", transform=axes.transAxes, va="center")
    style.bar_labels(axes, list(left), positions)
    axes.set_xlim(0, top * 1.2)
    axes.set_yticks(positions, list(table.index))
    axes.set_ylim(tallest - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("exits per thousand L2 instructions")


def _alt(pairs: list[tuple[str, Result]], tables: list[pd.DataFrame]) -> str:
    said = []
    for (label, _), table in zip(pairs, tables, strict=True):
        total = table.sum(axis=1)
        most = ", ".join(f"{name} {style.compact(v)}" for name, v in total.head(4).items() if v > 0)
        said.append(f"{label}: {style.compact(total.sum())} in all; {most or 'no exits'}.")
    return "Bar chart: exits per thousand L2 instructions. " + " ".join(said)
