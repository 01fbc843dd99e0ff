"""How every chart looks: sizes, colours with hatches, and the frame of a figure.

Colours are told apart by most colour-blind readers, differ in lightness, and never stand alone:
each has its hatch, so that a grey print says the same.
"""

from __future__ import annotations

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
from . import origin

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
WIDTHS = {"paper": 6.3, "panel": 8.4}
"""Inches: the text width of a page, and the panel's column."""
FONT_SIZES = {"paper": 8.0, "panel": 9.0}
_LEGEND_CHARACTERS = {"paper": 96, "panel": 116}

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
    """Draw under the house style at a size of :data:`WIDTHS`."""
    if size not in WIDTHS:
        raise ValueError(f"size is {size!r}; sizes: {', '.join(WIDTHS)}")
    font = FONT_SIZES[size]
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
    return Figure(
        figsize=(WIDTHS[size], height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    )


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
    font = FONT_SIZES[size]
    if not figure.legends:  # else the title heads the legend, see below
        figure.suptitle(title, x=0.01, ha="left", fontsize=font + 2, fontweight="bold")
    figure.supxlabel(note, x=0.01, ha="left", fontsize=font - 2, color="#555555")
    figure.set_label(alt)
    origin.remember(figure, pairs)
    FigureCanvasAgg(figure)
    figure.set_dpi(LAYOUT_DPI)
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
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


def legend(figure: Figure, title: str, handles: Sequence[Artist], size: str) -> None:
    """The figure's legend at its top, with the title as its head (both claim that place)."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), 3, _LEGEND_CHARACTERS[size] // (longest + 7)))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, title=title, alignment="left",
        title_fontproperties={"size": FONT_SIZES[size] + 2, "weight": "bold"}, borderpad=0.1,
    )  # fmt: skip


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
        axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes)
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
