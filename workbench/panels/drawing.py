"""Charts and tables of the panel as HTML text. Takes results, returns strings, knows no widget."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .. import charts
from ..boundaries import not_modelled
from ..charts import costs
from ..charts.interrupts import had_events
from ..charts.style import RC
from ..result import Result

CHARTS: dict[str, Callable[..., Figure]] = {
    "Exit frequency": charts.exit_frequency,
    "Cost": charts.cost,
    "TLB flushes": charts.tlb_flushes,
    "Interrupts": charts.interrupts,
}
PRICED = ("Cost",)
"""The charts that show prices; the others need no new drawing when a price changes."""
REDRAW: dict[str, Callable[..., bool]] = {"Cost": costs.redraw}
"""How to put other prices into a figure that is there, faster than drawing it anew."""
ONLY_WITH: dict[str, Callable[[Result], bool]] = {"Interrupts": had_events}
"""Charts that are shown only when a result has something for them."""
ROWS_SHOWN = 60
TABLES = {
    "Summary": "summary",
    "Bill per L2 operation": "operations",
    "Exits": "exits",
    "Costs": "costs",
    "TLB flushes": "tlb",
    "Field accesses of vmcx12": "fields",
    "Interrupts held back": "interrupts",
    "Interrupts delivered": "deliveries",
    "Interrupt latency": "latency",
    "Timeline": "timeline",
}
"""What the table can show -> the part of a Result it comes from."""


class LayeredChart:
    """A figure in three layers: names and legend, small print, bars; drawn when they change."""

    def __init__(self, figure: Figure):
        self.figure = figure
        self._names = ""
        self._note = ""
        self._small_print = ""

    def html(self) -> str:
        """The same picture as :func:`chart_html` of the figure."""
        figure, note = self.figure, self.figure.get_supxlabel()
        small = [text for text in figure.texts if text.get_text() == note]
        frames = [part for axes in figure.axes for part in (axes.yaxis, *axes.spines.values())]
        parts = [part for axes in figure.axes for part in axes.get_children()]
        bars = [part for part in parts if part not in frames]
        names = [*figure.legends, figure.patch, *(t for t in figure.texts if t not in small)]
        if not self._names:
            self._names = _layer(figure, [*bars, *small])
        if note != self._note:
            self._note, self._small_print = note, _layer(figure, [*names, *figure.axes])
        moving = _layer(figure, [*names, *small, *frames])
        return _framed(figure, self._names + self._small_print + moving)


def _layer(figure: Figure, hidden: Iterable[Artist]) -> str:
    """The figure without some of its artists, as a group of an ``<svg>``."""
    hidden = [artist for artist in hidden if artist.get_visible()]
    for artist in hidden:
        artist.set_visible(False)
    try:
        return f"<g>{_body(figure)}</g>"
    finally:
        for artist in hidden:
            artist.set_visible(True)


def chart_html(figure: Figure) -> str:
    """The figure as an ``<svg role="img">`` that fills the width it is given."""
    return _framed(figure, _body(figure))


def _body(figure: Figure) -> str:
    svg = svg_once(figure)
    return svg[svg.index("<svg") :].split(">", 1)[1].rstrip().removesuffix("</svg>")


def _framed(figure: Figure, inside: str) -> str:
    label = escape(charts.alt_text(figure))
    width, height = figure.get_size_inches() * 72
    size = f'viewBox="0 0 {width:g} {height:g}" width="100%"'
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg role="img" aria-label="{label}" {namespaces} {size}>{inside}</svg>'


def svg_once(figure: Figure) -> str:
    """SVG text of a figure, laid out and drawn in one pass.

    ``Figure.savefig`` draws everything twice, once only to lay it out; on a page that redraws
    while someone waits this is the larger part of the time.
    """
    buffer = io.StringIO()
    with mpl.rc_context(RC):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def is_shown(name: str, results: Mapping[str, Result]) -> bool:
    """Has a chart anything to say about these results?"""
    wanted = ONLY_WITH.get(name)
    return wanted is None or any(wanted(result) for result in results.values())


def table_html(name: str, results: Mapping[str, Result]) -> str:
    """A table of :data:`TABLES` for one or several results, with a header per result."""
    if TABLES[name] == "summary":
        return _summary_html(results)
    parts = []
    for label, result in results.items():
        frame = getattr(result, TABLES[name])
        shown = frame.head(ROWS_SHOWN)
        more = len(frame) - len(shown)
        note = f"<p class='wbp-note'>and {more:,} more rows</p>" if more > 0 else ""
        parts.append(f"<h4>{escape(label)}</h4>{frame_html(shown, f'{name}, {label}')}{note}")
    return "".join(parts)


def _summary_html(results: Mapping[str, Result]) -> str:
    frame = pd.DataFrame([result.totals() for result in results.values()], dtype=object).T
    frame.columns = pd.Index(list(results))
    frame.insert(0, "", [str(name).replace("_", " ") for name in frame.index])
    return frame_html(frame, "Summary")


def frame_html(frame: pd.DataFrame, label: str) -> str:
    """A frame as an HTML table; numbers to the right, with three digits that count."""
    if frame.empty:
        return "<p class='wbp-note'>Nothing was counted.</p>"
    heads = "".join(
        f"<th scope='col'>{escape(str(c).replace('_', ' '))}</th>" for c in frame.columns
    )
    rows = "".join(
        f"<tr>{''.join(map(_cell, row))}</tr>" for row in frame.itertuples(index=False, name=None)
    )
    return (
        f"<table class='wbp-table' aria-label='{escape(label, quote=True)}'>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = str(value)
        return f"<td>{escape(text)}</td>" if not _is_number(value) else _number_cell(value)
    return _number_cell(value)


def _is_number(value: object) -> bool:
    return hasattr(value, "dtype") and getattr(value.dtype, "kind", "") in "iuf"


def _number_cell(value: object) -> str:
    return f"<td class='wbp-number'>{number_text(float(value))}</td>"  # type: ignore[arg-type]


def number_text(number: float) -> str:
    """A number for a table: whole ones with separators, others with three digits that count."""
    if number != number:
        return "–"
    if number == int(number) or abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.3g}" if abs(number) < 100 else f"{number:.1f}"


def headline_html(results: Mapping[str, Result]) -> str:
    """The figures to read first, one card per result."""
    return "".join(_card(label, result) for label, result in results.items())


def _card(label: str, result: Result) -> str:
    row = result.totals()
    flushes = row["flushes"] / max(row["l2_instructions"], 1) * 1000
    low, high = row["cycles_low_per_operation"], row["cycles_high_per_operation"]
    figures = [
        (number_text(row["exits_per_operation"]), "hardware exits per L2 exit"),
        (number_text(row["cycles_per_operation"]),
         f"cycles per L2 exit ({number_text(low)} to {number_text(high)})"),
        (number_text(flushes), "TLB flushes per thousand L2 instructions"),
    ]  # fmt: skip
    cells = "".join(
        f"<div><b>{value}</b><span>{escape(text)}</span></div>" for value, text in figures
    )
    return f"<section class='wbp-card'><h4>{escape(label)}</h4><div>{cells}</div></section>"


def boundaries_html() -> str:
    """A box with what the model leaves out, closed until it is asked for."""
    said = (re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)) for text in not_modelled())
    items = "".join(f"<li>{text}</li>" for text in said)
    return f"<details><summary>What is not modelled</summary><ul>{items}</ul></details>"


def ending_text(result: Result) -> str:
    """One line: how the run ended, and how fast it was."""
    steps, seconds = int(result.facts["steps"]), result.run_seconds
    text = f"{steps:,} instructions in {seconds * 1000:,.0f} ms"
    if result.facts.get("unknown_count"):
        return f"{text}; unknown instruction {result.facts['unknown']}, the guest got #UD"
    if result.status == "stopped":
        code = result.stop_code
        return text if code == 0 else f"{text}; the guest stopped with code {code}"
    reason = result.facts.get("fatal") or ""
    return f"{text}; ended as {result.status}" + (f": {reason}" if reason else "")
