"""How good the model is: predicted against measured, one line per published row; and the trend."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import ResultError
from ..measure.frames import percent
from ..provenance import workbench_version
from . import style
from .sizes import named, wrapped

TITLE = "Predicted and measured: cycles of one operation of L2"
TREND_TITLE = "One CPUID over processor generations"
DEPTH_TITLE = "Cost of one operation by depth"
_LETTERS = 11
"""Least room for a processor's name on lines of its own; with less, names are turned."""
_PREDICTED, _MEASURED, _SINGLE = "#0b4f7d", "#d55e00", "#56b4e9"


def predictions(table: pd.DataFrame, size: str = "panel") -> Figure:
    """Prediction with its bounds, and the measured figure, for each row that has a scenario.

    Parameters
    ----------
    table : DataFrame
        Of ``wb.predictions()``.
    size : {"panel", "paper", "column", "projector"}
    """
    shown = _needed(table, ("id", "predicted", "low", "high", "measured", "error", "processor"))
    shown = shown[shown["predicted"].notna()].reset_index(drop=True)
    note = _note(
        shown, size, "At the right: error of the prediction. Open diamond: read in a text that "
        "quotes the source, not counted.",
    )  # fmt: skip
    if shown.empty:
        return style.empty(TITLE, "No row has a prediction.", note, size)
    with style.house_style(size):
        figure = style.new_figure(size, 1.6 + 0.26 * len(shown))
        axes = figure.add_subplot()
        _rows(axes, shown)
        style.legend(figure, TITLE, _handles("where prices within their bounds can move it"), size)
        return style.finish(figure, TITLE, note, _alt(shown), size)


def _rows(axes: Axes, shown: pd.DataFrame) -> None:
    for place, row in enumerate(shown.to_dict("records")):
        axes.plot([row["low"], row["high"]], [place, place], color=_PREDICTED, linewidth=1.2)
        axes.plot(row["predicted"], place, "o", color=_PREDICTED, markersize=5)
        axes.plot(row["measured"], place, "D", color=_MEASURED, markersize=5,
                  markerfacecolor=_MEASURED if row.get("counted", True) else "white")  # fmt: skip
        axes.annotate(percent(row["error"]), (1.0, place), (4, 0), va="center",
                      xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    labels = [f"{row['id']}  ({row['processor']})" for row in shown.to_dict("records")]
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    _log(axes.xaxis, axes.set_xscale)
    axes.set_xlabel("cycles per operation (logarithmic)")


def _log(axis: Any, set_scale: Any) -> None:
    set_scale("log")
    axis.set_major_formatter(lambda value, _: style.compact(value))
    axis.set_minor_formatter(lambda value, _: "")


def _handles(what: str) -> list[Line2D]:
    return [
        Line2D([], [], color=_PREDICTED, marker="o", label=f"predicted, and {what}"),
        Line2D([], [], color=_MEASURED, marker="D", linestyle="", label="measured"),
    ]


def _needed(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    for column in columns:
        if column not in table.columns:
            hint = "give the DataFrame of wb.predictions(), record.trend() or wb.depth() as it is"
            raise ResultError(f"the table to draw has no column {column!r}", hint)
    return table


def _note(shown: pd.DataFrame, size: str, explained: str) -> str:
    keys = dict.fromkeys(key for cell in shown.get("sources", []) for key in cell.split())
    hashes = (
        f"; scenarios {shown['scenario'].iloc[0]} and {len(shown) - 1} more"
        if len(shown.get("scenario", []))
        else ""
    )
    return _footer(explained, f"software fitted to single-level rows only{hashes}", keys, size)


def _footer(explained: str, text: str, sources: Iterable[str], size: str) -> str:
    keys = ", ".join(sources)
    said = f"{explained} workbench {workbench_version()}; {text}" + (
        f"; sources {keys}" if keys else ""
    )
    return wrapped(said, size)


def _alt(shown: pd.DataFrame) -> str:
    said = [f"{row['id']}: predicted {style.compact(row['predicted'])}, measured "
            f"{style.compact(row['measured'])} ({percent(row['error'])})"
            for row in shown.to_dict("records")]  # fmt: skip
    return f"{TITLE}. " + "; ".join(said) + "."


def trend(table: pd.DataFrame, size: str = "panel") -> Figure:
    """One workload on each processor, under one hypervisor and under two.

    Parameters
    ----------
    table : DataFrame
        Of ``workbench.record.predictions.trend()``.
    size : {"panel", "paper", "column", "projector"}
    """
    _needed(table, ("processor", "single", "nested", "measured_single", "measured_nested"))
    turned = named(size).characters(named(size).font) < _LETTERS * len(table)
    with style.house_style(size):
        figure = style.new_figure(size, 4.2 + 0.9 * turned)
        axes = figure.add_subplot()
        places = range(len(table))
        for column, colour, marker in (("nested", _PREDICTED, "o"), ("single", _SINGLE, "s")):
            bounds = [
                table[column] - table[f"{column}_low"],
                table[f"{column}_high"] - table[column],
            ]
            axes.errorbar(places, table[column], yerr=bounds, fmt=marker, color=colour,
                          capsize=3)  # fmt: skip
        for column in ("measured_nested", "measured_single"):
            axes.plot([p + 0.13 for p in places], table[column], "D", color=_MEASURED)
        _generations(axes, list(zip(table["processor"], table["assist"], strict=True)), turned)
        axes.set_xlim(-0.5, len(table) - 0.5)
        axes.grid(True, axis="y")
        _log(axes.yaxis, axes.set_yscale)
        axes.set_ylabel("cycles per CPUID (logarithmic)")
        note = _note(
            table, size, "Bars: within which prices may be. With each name: what the processor does "
            "for L1; L1 and L0 are KVM of about the age it was measured with.",
        )  # fmt: skip
        looks = ((_PREDICTED, "o", "nested (L2), model"), (_SINGLE, "s", "single-level (L1), model"),
                 (_MEASURED, "D", "measured"))  # fmt: skip
        handles = [Line2D([], [], color=c, marker=m, linestyle="", label=n) for c, m, n in looks]
        style.legend(figure, TREND_TITLE, handles, size)
        said = "; ".join(f"{r['processor']}: {style.compact(r['single'])} single-level, "
                         f"{style.compact(r['nested'])} nested" for r in table.to_dict("records"))  # fmt: skip
        return style.finish(figure, TREND_TITLE, note, f"{TREND_TITLE}. {said}.", size)


def _generations(axes: Axes, names: list[tuple[str, str]], turned: bool) -> None:
    """Processor and assist below each place: in several lines, or turned where there is no room."""
    if not turned:
        labels = ["\n".join(textwrap.wrap(p, 12) + textwrap.wrap(a, 12)) for p, a in names]
        axes.set_xticks(range(len(names)), labels)
        return
    axes.set_xticks(range(len(names)), [f"{p}, {a}" for p, a in names], rotation=50, ha="right",
                    rotation_mode="anchor")  # fmt: skip


def depth(tables: pd.DataFrame | dict[str, pd.DataFrame], size: str = "panel") -> Figure:
    """Cycles and exits by level, a line per scenario.

    Parameters
    ----------
    tables : DataFrame, or dict of str to DataFrame
        Table of ``wb.depth()``, or label -> table.
    size : {"panel", "paper", "column", "projector"}
    """
    if isinstance(tables, pd.DataFrame):
        tables = {"one operation": tables}
    for table in tables.values():
        _needed(table, ("level", "cycles", "exits"))
    with style.house_style(size):
        figure, (left, right) = style.panels(size, 3.6, 0.8)
        handles = []
        for number, (label, table) in enumerate(tables.items()):
            colour = (_PREDICTED, _MEASURED, "#009e73", "#cc79a7", _SINGLE)[number % 5]
            marker = "osD^v"[number % 5]
            for axes, column in ((left, "cycles"), (right, "exits")):
                axes.plot(table["level"], table[column], marker=marker, color=colour, linewidth=1.2)
                simulated = table[table["simulated"].notna()]
                if column == "cycles":
                    axes.plot(simulated["level"], simulated["simulated"], "o", color=colour,
                              markersize=11, markerfacecolor="none")  # fmt: skip
            handles.append(Line2D([], [], color=colour, marker=marker, label=label))
        handles.append(Line2D([], [], color=style.INK, marker="o", markersize=10, linestyle="",
                              markerfacecolor="none", label="simulated"))  # fmt: skip
        for axes, what in ((left, "cycles per operation"), (right, "exits per operation")):
            axes.set_xlabel("level of the guest")
            axes.set_ylabel(f"{what} (logarithmic)")
            axes.set_xticks(sorted({int(x) for t in tables.values() for x in t["level"]}))
            axes.grid(True, axis="y")
            _log(axes.yaxis, axes.set_yscale)
        style.legend(figure, DEPTH_TITLE, handles, size)
        keys = dict.fromkeys(key for t in tables.values() for key in t.attrs.get("sources", ()))
        note = _footer(
            "Levels beyond 2 by recursion, not simulated: a lower bound.",
            "levels 1 and 2 simulated", keys, size,
        )  # fmt: skip
        said = "; ".join(f"{n}: " + ", ".join(f"L{r['level']} {style.compact(r['cycles'])}" for r in
                         t.to_dict("records")) for n, t in tables.items())  # fmt: skip
        return style.finish(figure, DEPTH_TITLE, note, f"{DEPTH_TITLE}, in cycles. {said}.", size)
