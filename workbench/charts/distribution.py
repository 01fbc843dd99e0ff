"""Distributions as cumulative curves, with the median, the 95th and the 99th percentile marked.

Rows of a panel: ``series``, ``x`` and ``x_end`` (bounds of a bin, ascending), ``value``: the share
of all that lies below ``x_end`` [%].  Between the bounds of a bin the curve is straight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from . import style

PERCENTILES = (50, 95, 99)
_MARKERS = ("o", "s", "D")
_CURVES: tuple[tuple[str, Any, float], ...] = (
    ("#0b4f7d", "-", 1.6), ("#d55e00", (0, (3, 2)), 1.6), ("#009e73", (0, (1, 1.2)), 1.8),
    ("#cc79a7", (0, (5, 1, 1, 1)), 1.4),
)  # fmt: skip
"""Colour, dashes and width of each series."""


def distribution(axes: Axes, part: pd.DataFrame, series: Sequence[str]) -> None:
    """One cumulative curve for each series; markers at the percentiles."""
    for share in PERCENTILES:
        axes.axhline(share, color="#bbbbbb", lw=0.6, zorder=0)
    low, high = [], []
    for name, (colour, dashes, width) in zip(series, _CURVES, strict=False):
        rows = part[part["series"] == name].sort_values("x")
        if rows.empty:
            continue
        x, y = curve(rows)
        axes.plot(x, y, color=colour, ls=dashes, lw=width, label=name)
        for share, marker in zip(PERCENTILES, _MARKERS, strict=True):
            axes.plot([np.interp(share, y, x)], [share], marker, ms=4.5, mec=colour, mew=1.1,
                      mfc="white")  # fmt: skip
        low.append(float(np.interp(1, y, x)))
        high.append(x[-1])
    if low:
        axes.set_xlim(min(low) / 1.3 or 1, max(high) * 1.1)
        axes.set_xscale("log")
        decades = np.log10(max(high) / min(low))
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 103)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(lambda value, _: style.compact(value))


def curve(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Places and shares of a cumulative curve; a gap between two bins is flat."""
    before = np.concatenate([[0.0], rows["value"].to_numpy(float)[:-1]])
    x = np.column_stack([rows["x"], rows["x_end"]]).ravel().astype(float)
    return np.maximum(x, 1.0), np.column_stack([before, rows["value"]]).ravel()


def entries(_: pd.DataFrame, series: Sequence[str]) -> list[Artist]:
    """The curves, and what the markers are."""
    handles: list[Artist] = [
        Line2D([], [], color=colour, linestyle=dashes, lw=width, label=str(name).replace("_", " "))
        for name, (colour, dashes, width) in zip(series, _CURVES, strict=False)
    ]
    handles += [
        Line2D([], [], marker=marker, ms=4.5, mec=style.INK, mfc="white", lw=0, label=f"p{share}")
        for share, marker in zip(PERCENTILES, _MARKERS, strict=True)
    ]
    return handles
