"""How every chart looks: sizes, colours with hatches, and the frame of a figure.

Colours are told apart by most colour-blind readers, differ in lightness, and never stand alone:
each has its hatch, so that a grey print says the same.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from ..result import Result
from . import fitting, origin
from .sizes import SIZES, heading, named, paragraph

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.edgecolor": "#555555",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.4,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "workbench",
    "pdf.fonttype": 42,
}
LAYOUT_DPI = 200
"""Text is laid out at this resolution, where hinting changes its width least."""
INK = "#222222"
FONT_SIZES = {name: size.font for name, size in SIZES.items()}
_LINE = 1.25 / 72
"""Height of a line of one point [inches]."""

PART_LOOKS = {
    "L2 work": ("#ffffff", ""),
    "L1 handler": ("#56b4e9", "////"),
    "hardware switches": ("#0b4f7d", ""),
    "L0 software": ("#f0c987", ""),
    "walks after flushes": ("#d55e00", "xxxx"),
    "other address translation": ("#cfcfcf", "\\\\\\\\"),
    "halted": ("#ffffff", "...."),
}
ROUTE_LOOKS = {
    ("L2", "L1"): ("from L2, reflected to L1", "#0b4f7d", ""),
    ("L2", "L0"): ("from L2, kept by L0", "#8fc7ea", "////"),
    ("L1", "L0"): ("from L1, handled by L0", "#f0c987", "\\\\\\\\"),
}
SERIES_LOOKS = (
    ("#0b4f7d", ""), ("#f0c987", "////"), ("#56b4e9", "||||"), ("#d55e00", "xxxx"),
    ("#ffffff", ""), ("#cfcfcf", "\\\\\\\\"), ("#009e73", "++"), ("#cc79a7", "----"),
)  # fmt: skip


@contextmanager
def house_style(size: str) -> Iterator[None]:
    """Draw under the house style at a size of :data:`~workbench.charts.sizes.SIZES`."""
    font = named(size).font
    sizes = {
        "font.size": font,
        "axes.labelsize": font,
        "axes.titlesize": font + 0.5,
        "xtick.labelsize": font - 0.5,
        "ytick.labelsize": font - 0.5,
        "legend.fontsize": font - 0.5,
    }
    with mpl.rc_context(RC | sizes):
        yield


def new_figure(size: str, height: float) -> Figure:
    """An empty figure of the house; ``height`` in inches."""
    chosen = named(size)
    return Figure(
        figsize=(chosen.width, chosen.taller * height),
        layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06),
    )


def panels(
    size: str,
    height: float,
    frame: float,
    rows: Sequence[float] = (1, 1),
    widths: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """An empty figure with panels: side by side, or below each other where the size wants it.

    Parameters
    ----------
    height : float
        Of the figure with its panels side by side [inches].
    frame : float
        What of that is title, legend and footer.
    rows : sequence of float, optional
        What each panel needs of the height, beside the others, when they stand below each other.
    widths : sequence of float, optional
        What each panel needs of the width, beside the others, when they stand side by side.
    """
    if not named(size).stacked:
        figure = new_figure(size, height)
        grid = figure.subplots(1, len(widths or rows), squeeze=False, width_ratios=widths)
        return figure, list(grid.flat)
    parts = [row / max(rows) for row in rows]
    figure = new_figure(size, frame + sum(parts) * (height - frame))
    return figure, list(figure.subplots(len(rows), 1, squeeze=False, height_ratios=parts).flat)


def finish(
    figure: Figure,
    title: str,
    note: str,
    alt: str,
    size: str,
    pairs: Iterable[tuple[str, Result]] = (),
) -> Figure:
    """Title, provenance footer and alternative text; then the layout is made and kept.

    The scenarios of ``pairs``, the labelled results, go into the figure's file.

    Without the last step each drawing would lay out anew, from where the one before left off, and
    the same figure would give other bytes.
    """
    chosen = named(size)
    if not figure.legends:  # else the title heads the legend, see below
        head = heading(title, size)
        figure.suptitle(head, x=0.01, ha="left", fontsize=chosen.font + 2, fontweight="bold")
        _grow(figure, head.count("\n"), chosen.font + 2)
    figure.supxlabel(note, x=0.01, ha="left", fontsize=chosen.small, color="#555555")
    _grow(figure, note.count("\n") - 1, chosen.small)
    figure.set_label(alt)
    origin.remember(figure, pairs)
    FigureCanvasAgg(figure)
    figure.set_dpi(LAYOUT_DPI)
    fitting.lay_out(figure)
    figure.set_layout_engine("none")
    figure.set_dpi(RC["figure.dpi"])
    return figure


def rename(figure: Figure, note: str, alt: str, pairs: Iterable[tuple[str, Result]]) -> None:
    """Other results in a finished figure: footer, alternative text, and what its file will carry."""
    before = figure.get_supxlabel()
    for text in figure.texts:
        if text.get_text() == before:
            text.set_text(note)
    figure.set_label(alt)
    origin.remember(figure, pairs)


def _grow(figure: Figure, lines: int, points: float) -> None:
    """Room for more lines of text than a figure's height reckons with."""
    if lines > 0:
        figure.set_figheight(figure.get_figheight() + lines * points * _LINE)


def legend(figure: Figure, title: str, handles: Sequence[Artist], size: str) -> None:
    """The figure's legend at its top, with the title as its head (both claim that place)."""
    chosen = named(size)
    letters = chosen.characters(chosen.font - 0.5)
    labels = ["\n".join(textwrap.wrap(str(h.get_label()), letters - 6)) for h in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(len(handles), 3, letters // (longest + 7)))
    head = heading(title, size)
    figure.legend(
        handles=handles, labels=labels, loc="outside upper left", ncols=columns, title=head,
        alignment="left", title_fontproperties={"size": chosen.font + 2, "weight": "bold"},
        borderpad=0.1,
    )  # fmt: skip
    rows = -(-len(labels) // columns) + sum(label.count("\n") for label in labels)
    _grow(figure, rows - 2, chosen.font)
    _grow(figure, head.count("\n"), chosen.font + 2)


def patches(looks: Iterable[tuple[str, str, str]]) -> list[Patch]:
    """Legend entries of bars: (label, colour, hatch)."""
    return [Patch(facecolor=c, hatch=h, edgecolor=INK, lw=0.6, label=n) for n, c, h in looks]


def empty(
    title: str, reason: str, note: str, size: str, pairs: Iterable[tuple[str, Result]] = ()
) -> Figure:
    """A figure that says why there is nothing to show."""
    with house_style(size):
        figure = new_figure(size, 1.8)
        axes = figure.add_subplot()
        axes.set_axis_off()
        said = paragraph(reason, size)
        axes.text(0.5, 0.5, said, ha="center", va="center", transform=axes.transAxes)
        return finish(figure, title, note, f"{title}. {reason}", size, pairs)


def bar_labels(axes: Axes, ends: list[float], positions: list[float], **text: Any) -> None:
    """Numbers just right of horizontal bars."""
    for end, position in zip(ends, positions, strict=True):
        axes.annotate(reading(end), (end, position), (3, 0), textcoords="offset points",
                      va="center", in_layout=False, **text)  # fmt: skip


def reading(number: float) -> str:
    """A number with three digits that count: 0.125, 3.40, 56.0, 333, 14.5k, 6.00k."""
    if number == 0:
        return "0"
    scale, suffix = _scale(number)
    return f"{number / scale:#.3g}".rstrip(".") + suffix


def _scale(number: float) -> tuple[float, str]:
    for scale, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale * 0.9995:
            return scale, suffix
    return 1.0, ""


def compact(number: float) -> str:
    """A number as short as it goes: 0.12, 3.4, 56, 1.2k, 58k, 1.3M."""
    scale, suffix = _scale(number)
    scaled = number / scale
    if number == 0 or abs(scaled) >= 99.95:
        return f"{scaled:.0f}{suffix}"
    return f"{scaled:.3g}{suffix}"
