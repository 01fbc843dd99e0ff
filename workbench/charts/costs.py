"""Cost: cycles per L2 operation, stacked by the part of the work they go to."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from ..prices import PARTS
from ..result import Result
from . import style
from .inputs import Results, footer, labelled

TITLE = "Where the cycles go"
LABEL_CHARACTERS = 34
UNITS = {
    "operation": "cycles per L2 operation (one exit of L2)",
    "kinstr": "cycles per thousand L2 instructions",
}


def unit_for(results: list[Result]) -> str:
    """``operation`` when every result has exits of L2, else ``kinstr``."""
    return "operation" if all(r.l2_operations for r in results) else "kinstr"


def parts(result: Result, unit: str = "operation") -> pd.DataFrame:
    """Cycles per unit of work: one row per part and 'all', columns cycles, cycles_low, cycles_high.

    The set-up before the first entry to L2 is left out.  The bounds of 'all' are those of the sum,
    narrower than the sums of the parts' bounds (:meth:`PricePreset.spread`).
    """
    table = result.parts
    work = result.l2_operations if unit == "operation" else result.l2_instructions / 1000
    return table / work if work else table * 0.0


def cost(results: Results, size: str = "panel") -> Figure:
    """One stacked bar per result, with the reach of prices within their bounds.

    Parameters
    ----------
    results : Result, list or dict of Result
    size : {"panel", "paper", "column", "projector"}
    """
    pairs = labelled(results)
    unit, tables = _tables(pairs)
    note = _note(pairs, size)
    if not any(table.at["all", "cycles"] for table in tables):
        reason = "Nothing to show: L2 did nothing that has a price."
        return style.empty(TITLE, reason, note, size, pairs)
    with style.house_style(size):
        figure = style.new_figure(size, 1.85 + 0.46 * len(pairs))
        axes = figure.add_subplot()
        _draw(axes, pairs, tables, unit)
        looks = [(part, *style.PART_LOOKS[part]) for part in _shown(tables)]
        style.legend(figure, TITLE, style.patches(looks), size)
        return style.finish(figure, TITLE, note, _alt(pairs, tables, unit), size, pairs)


def redraw(figure: Figure, results: Results, size: str = "panel") -> bool:
    """Put other results, or other prices, into a figure that :func:`cost` made.

    Only bars, numbers and small print change; the layout stays, which saves most of the time.

    Returns
    -------
    bool
        False, with the figure as it was, when it needs other labels, legend or layout.
    """
    pairs = labelled(results)
    unit, tables = _tables(pairs)
    named = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    note = _note(pairs, size)
    spare = figure.get_supxlabel().count("\n") - note.count("\n")
    if not figure.axes or named != list(_shown(tables)) or spare < 0:
        return False
    note += "\n" * spare
    axes = figure.axes[0]
    if [label.get_text() for label in axes.get_yticklabels()] != _wrapped(pairs):
        return False
    with style.house_style(size):
        _move(axes, tables)
        axes.get_xticklabels()  # made now, while the house style holds
        axes.set_xlabel(_unit_text(unit))
        style.rename(figure, note, _alt(pairs, tables, unit), pairs)
    return True


def _tables(pairs: list[tuple[str, Result]]) -> tuple[str, list[pd.DataFrame]]:
    unit = unit_for([result for _, result in pairs])
    return unit, [parts(result, unit) for _, result in pairs]


def _note(pairs: list[tuple[str, Result]], size: str) -> str:
    return footer(pairs, size, True, "Without the set-up before the first entry to L2.")


def _shown(tables: list[pd.DataFrame]) -> list[str]:
    """Parts that have a bar."""
    return [part for part in PARTS if any(table.at[part, "cycles"] for table in tables)]


def _draw(
    axes: Axes, pairs: list[tuple[str, Result]], tables: list[pd.DataFrame], unit: str
) -> None:
    _bars(axes, _wrapped(pairs), tables)
    axes.set_xlabel(_unit_text(unit))


def _unit_text(unit: str) -> str:
    return f"{UNITS[unit]}\nthin line: where prices within their bounds can move the sum"


def _wrapped(pairs: list[tuple[str, Result]]) -> list[str]:
    return ["\n".join(textwrap.wrap(label, LABEL_CHARACTERS)) for label, _ in pairs]


@dataclass(frozen=True)
class _Reach:
    """Where the bars begin and end, one number per result: the stacked parts and the sums' bounds."""

    stacks: list[tuple[str, list[float], list[float]]]
    """Part, where it begins, how wide it is."""
    ends: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, tables: list[pd.DataFrame]) -> _Reach:
        columns = [table["cycles"].to_dict() for table in tables]
        ends, stacks = [0.0] * len(tables), []
        for part in PARTS:
            widths = [float(column[part]) for column in columns]
            if any(widths):
                stacks.append((part, ends, widths))
                ends = [end + width for end, width in zip(ends, widths, strict=True)]
        low, high = (
            [float(table[bound].to_dict()["all"]) for table in tables]
            for bound in ("cycles_low", "cycles_high")
        )
        return cls(stacks, ends, low, high)

    @property
    def limit(self) -> float:
        return 1.06 * max(self.high)


def _move(axes: Axes, tables: list[pd.DataFrame]) -> None:
    """Put the bars, thin lines and numbers that :func:`_bars` drew to other places."""
    reach = _Reach.of(tables)
    *stacks, thin = axes.containers
    for bars, (_, starts, widths) in zip(stacks, reach.stacks, strict=True):
        for patch, start, width in zip(bars, starts, widths, strict=True):
            patch.set_x(start)
            patch.set_width(width)
    mark, caps, (lines,) = thin
    for line, places in zip((mark, *caps), (reach.ends, reach.low, reach.high), strict=True):
        line.set_xdata(places)
    lines.set_segments(
        [((low, y), (high, y))
         for low, high, y in zip(reach.low, reach.high, mark.get_ydata(), strict=True)]
    )  # fmt: skip
    for text, end in zip(axes.texts, reach.ends, strict=True):
        assert isinstance(text, Annotation)
        text.set_text(style.reading(end))
        text.xy = (end, text.xy[1])
    axes.set_xlim(0, reach.limit)


def _bars(axes: Axes, labels: list[str], tables: list[pd.DataFrame]) -> None:
    positions = [float(i) for i in range(len(labels))]
    reach = _Reach.of(tables)
    for part, starts, widths in reach.stacks:
        colour, hatch = style.PART_LOOKS[part]
        axes.barh(positions, widths, left=starts, height=0.56, color=colour, hatch=hatch,
                  edgecolor=style.INK, linewidth=0.5)  # fmt: skip
    below = [end - low for end, low in zip(reach.ends, reach.low, strict=True)]
    above = [high - end for end, high in zip(reach.ends, reach.high, strict=True)]
    offset = [p + 0.38 for p in positions]
    axes.errorbar(reach.ends, offset, xerr=[below, above], fmt="|", color=style.INK,
                  ecolor=style.INK, elinewidth=0.9, capsize=2.5, markersize=5)  # fmt: skip
    style.bar_labels(axes, reach.ends, positions, fontweight="bold")
    axes.set_xlim(0, reach.limit)
    axes.set_yticks(positions, labels)
    axes.set_ylim(len(labels) - 0.35, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: style.compact(value))


def _alt(pairs: list[tuple[str, Result]], tables: list[pd.DataFrame], unit: str) -> str:
    said = []
    for (label, _), table in zip(pairs, tables, strict=True):
        total = table.loc["all"].to_dict()
        largest = table["cycles"].drop("all").sort_values(ascending=False).head(3)
        shares = ", ".join(
            f"{name} {100 * value / total['cycles']:.0f} %"
            for name, value in largest.items()
            if value
        )
        span = f"{style.compact(total['cycles_low'])} to {style.compact(total['cycles_high'])}"
        said.append(f"{label}: {style.compact(total['cycles'])} ({span}); {shares or 'nothing'}.")
    return f"Stacked bars: {UNITS[unit]}. " + " ".join(said)
