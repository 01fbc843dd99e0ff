"""Tornado charts: what moves the cost of an operation, largest first.

For prices the bars reach from the total at the price's low to the total at its high; for toggles
from the scenario's own total to that with the toggle set otherwise.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError
from ..measure.swings import by_group, sensitivity
from ..result import Result
from ..spelling import label_of
from . import style
from .costs import UNITS, unit_for
from .inputs import footer
from .sizes import wrapped

TITLE = "Which prices matter"
TOGGLES_TITLE = "Which toggles matter"
BELOW = ("with its low", "#56b4e9", "////")
ABOVE = ("with its high", "#f0c987", "")
CHEAPER = ("cheaper", "#56b4e9", "////")
DEARER = ("dearer", "#f0c987", "")
SMALLEST = 0.005
"""Swings below this share of the largest have no bar: it could not be seen."""


def tornado(result: Result, by: str = "price", most: int = 12, size: str = "panel") -> Figure:
    """The prices whose bounds move the cost of an operation most.

    Parameters
    ----------
    result : Result
    by : {"price", "group"}
        ``group``: prices that rest on the same measurement as one bar, since they move together.
    most : int
        How many bars at most; how many prices are left out is said below.
    size : {"panel", "paper", "column", "projector"}
    """
    if by not in ("price", "group"):
        raise ResultError(f"by is {by!r}", "by='price' or by='group'")
    if not isinstance(result, Result):
        raise TypeError(f"a tornado is of one Result, not {type(result).__name__}")
    full = sensitivity(result)
    table = by_group(full) if by == "group" else full
    pairs = [(result.scenario.backend.upper(), result)]
    unit = unit_for([result])
    work = result.l2_operations if unit == "operation" else result.l2_instructions / 1000
    moving = table[table["swing"] > 0]
    large = moving[moving["swing"] > SMALLEST * moving["swing"].max()].head(most)
    left = len(moving) - len(large)
    rest = f" Not shown: {left} with smaller swings." if left > 0 else ""
    note = footer(pairs, size, True, f"One at a time, the others at their values.{rest}")
    if moving.empty or not work:
        return style.empty(
            TITLE, "Nothing to show: no price with bounds met a count.", note, size, pairs
        )
    shown = large
    total = float(full["cycles"].sum()) / work
    bars = pd.DataFrame(
        {
            "name": [_price_name(row) for row in shown.to_dict("records")],
            "low": shown["total_low"] / work,
            "high": shown["total_high"] / work,
        }
    )
    with style.house_style(size):
        figure = style.new_figure(size, 1.7 + 0.3 * len(bars))
        axes = figure.add_subplot()
        _two_sided(axes, bars, total)
        axes.set_xlabel(
            f"{UNITS[unit]}\n(line: {style.reading(total)} with all prices at their values)"
        )
        style.legend(figure, TITLE, style.patches([BELOW, ABOVE]), size)
        return style.finish(figure, TITLE, note, _alt(bars, total, unit), size, pairs)


def toggle_tornado(table: pd.DataFrame, most: int = 15, size: str = "panel") -> Figure:
    """What each toggle does to the cost of an operation.

    Parameters
    ----------
    table : DataFrame
        What :func:`workbench.toggle_sensitivity` returned.
    most : int
        How many bars; toggles that change nothing have none.
    size : {"panel", "paper", "column", "projector"}
    """
    missing = {"toggle", "value", "per_operation", "base", "swing"} - set(table.columns)
    if missing:
        hint = "give the frame of wb.toggle_sensitivity(result)"
        raise ResultError(f"no column {min(missing)!r} in the table of toggles", hint)
    moving = table[table["swing"].fillna(0.0) != 0]
    large = moving[moving["swing"].abs() > SMALLEST * moving["swing"].abs().max()].head(most)
    still = len(table) - len(moving) - int(table["swing"].isna().sum())
    note = f"Each toggle alone, run again. {still} settings change nothing here."
    if len(moving) > len(large):
        note += f" Not shown: {len(moving) - len(large)} with smaller swings."
    note = wrapped(f"{note} {_toggles_origin(table, large)}".strip(), size)
    if moving.empty:
        return style.empty(TOGGLES_TITLE, "No toggle changes the cost here.", note, size)
    shown = large
    total = float(shown["base"].iloc[0])
    ends = shown["per_operation"]
    bars = pd.DataFrame(
        {
            "name": shown["toggle"].map(label_of) + " = " + shown["value"].str.replace("_", " "),
            "low": ends.clip(upper=total),
            "high": ends.clip(lower=total),
        }
    )
    with style.house_style(size):
        figure = style.new_figure(size, 1.7 + 0.3 * len(bars))
        axes = figure.add_subplot()
        _two_sided(axes, bars, total)
        axes.set_xlabel(f"{UNITS['operation']}\n(line: {style.reading(total)} as the scenario is)")
        looks = [look for look, side in ((CHEAPER, bars["low"] < total), (DEARER, bars["high"] > total)) if side.any()]  # fmt: skip
        style.legend(figure, TOGGLES_TITLE, style.patches(looks), size)
        return style.finish(figure, TOGGLES_TITLE, note, _alt(bars, total, "operation"), size)


def _toggles_origin(table: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Provenance, and the sources behind the starting point and the bars shown."""
    said = str(table.attrs.get("provenance", ""))
    keys = [
        *table.attrs.get("sources", ()),
        *(k for cell in shown.get("sources", ()) for k in cell.split()),
    ]
    return f"{said}; sources {', '.join(dict.fromkeys(keys))}" if keys else said


def _price_name(row: dict) -> str:
    if "event" in row:
        band = "/".join(style.compact(row[bound]) for bound in ("low", "price", "high"))
        return f"{label_of(row['event'])}  {band}"
    first, *others = row["events"].split(", ")
    return row["group"] if others else label_of(first)


def _two_sided(axes: Axes, bars: pd.DataFrame, total: float) -> None:
    positions = [float(i) for i in range(len(bars))]
    for column, (_, colour, hatch) in (("low", BELOW), ("high", ABOVE)):
        widths = [float(end) - total for end in bars[column]]
        axes.barh(positions, widths, left=total, height=0.62, color=colour, hatch=hatch,
                  edgecolor=style.INK, linewidth=0.5)  # fmt: skip
    for position, low, high in zip(positions, bars["low"], bars["high"], strict=True):
        for end, side in ((float(low), -1), (float(high), 1)):
            if abs(end - total) > 0:
                axes.annotate(style.reading(end), (end, position), (3 * side, 0), va="center",
                              textcoords="offset points", ha="right" if side < 0 else "left")  # fmt: skip
    axes.axvline(total, color=style.INK, linewidth=0.9)
    span = float(bars["high"].max()) - float(bars["low"].min())
    axes.set_xlim(float(bars["low"].min()) - 0.14 * span, float(bars["high"].max()) + 0.14 * span)
    axes.set_yticks(positions, list(bars["name"]))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: style.compact(value))


def _alt(bars: pd.DataFrame, total: float, unit: str) -> str:
    said = [
        f"{row['name']}: {style.compact(row['low'])} to {style.compact(row['high'])}"
        for row in bars.head(5).to_dict("records")
    ]
    return (
        f"Tornado chart: {UNITS[unit]}, {style.compact(total)} as it is. " + "; ".join(said) + "."
    )
