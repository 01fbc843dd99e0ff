"""Texts that are wider than the room they have: wrapped, turned or thinned out, then laid out again."""

from __future__ import annotations

import textwrap
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import AutoLocator, LogLocator, MaxNLocator
from matplotlib.transforms import Bbox

_ROUNDS = 5
_SLACK = 1.02
_NAMES = 0.45
"""Most of a panel's width that the names at its left may take."""
_GAP = 0.25
"""Least space between two tick labels, in heights of a letter."""


def lay_out(figure: Figure) -> None:
    """Make the layout, and once more if a text had to give way."""
    engine = figure.get_layout_engine()
    for _ in range(_ROUNDS):
        engine.execute(figure)  # type: ignore[union-attr]
        # all of them, so no short cut
        if not any([_fit(axes) for axes in figure.axes if axes.axison]):
            return
    engine.execute(figure)  # type: ignore[union-attr]


def _fit(axes: Axes) -> bool:
    changed = [_wrap(axes.xaxis.label, _room(axes)), _wrap(axes.title, _room(axes))]
    changed += [_wrap(axes._left_title, _room(axes))]  # type: ignore[attr-defined]
    changed.append(_wrap(axes.yaxis.label, 1.1 * axes.bbox.height))
    changed.append(_spread(axes.xaxis))
    changed.append(_wrap_names(axes))
    changed.append(_hold(axes))
    return any(changed)


def _cell(axes: Axes) -> Bbox:
    """The part of the figure that belongs to one panel [pixels]."""
    figure, spec = axes.get_figure(), axes.get_subplotspec()
    rows, columns = spec.get_gridspec().get_geometry() if spec is not None else (1, 1)
    box = figure.bbox  # type: ignore[union-attr]
    return Bbox.from_bounds(0, 0, box.width / columns, box.height / rows)


def _room(axes: Axes) -> float:
    """How wide the panel's frame can be: its cell without what stands left of it [pixels]."""
    beside = axes.yaxis.get_tightbbox()
    left = axes.bbox.x0 - beside.x0 if beside is not None else 0.0
    return max(_cell(axes).width - left, axes.bbox.width)


def _wrap(text: Text, room: float) -> bool:
    said = text.get_text()
    if not said:
        return False
    box = text.get_window_extent()
    turned = text.get_rotation() == 90
    wide = box.height if turned else box.width
    if wide <= room * _SLACK:
        return False
    longest = max(map(len, said.split("\n")))
    least = max(map(len, said.split()))
    width = max(int(longest * room / wide), least)
    lines = [part for line in said.split("\n") for part in textwrap.wrap(line, width)]
    text.set_text("\n".join(lines))
    return text.get_text() != said


def _wrap_names(axes: Axes) -> bool:
    labels = axes.get_yticklabels()
    changed = [_wrap(label, _NAMES * _cell(axes).width) for label in labels]
    if any(changed):  # a tick takes its text from the axis at each drawing
        axes.set_yticks(axes.get_yticks(), [label.get_text() for label in labels])
    return any(changed)


def _hold(axes: Axes) -> bool:
    """Numbers beside bars that reach over the frame: a longer axis."""
    if axes.get_xscale() != "linear":
        return False
    notes = [n for n in axes.texts if isinstance(n, Annotation) and n.xycoords == "data"]
    frame, boxes = axes.bbox, [note.get_window_extent() for note in notes]
    gap = 0.03 * axes.get_figure().dpi  # type: ignore[union-attr]
    left = max([frame.x0 + gap - box.x0 for box in boxes] + [0.0])
    right = max([box.x1 + gap - frame.x1 for box in boxes] + [0.0])
    if max(left, right) < 1:
        return False
    low, high = axes.get_xlim()
    unit = (high - low) / max(frame.width - 1.08 * (left + right), 0.4 * frame.width)
    axes.set_xlim(low - 1.08 * unit * left, high + 1.08 * unit * right)
    return True


def _spread(axis: Axis) -> bool:
    """Labels of the horizontal axis that touch: fewer of numbers, names on two lines or turned."""
    labels = [label for label in axis.get_ticklabels() if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    if not labels:
        return False
    letter = axis.get_figure().dpi / 72 * float(labels[0].get_fontsize())  # type: ignore[union-attr]
    if all(left.x1 + _GAP * letter < right.x0 for left, right in pairwise(boxes)):
        return False
    locator = axis.get_major_locator()
    if isinstance(locator, (AutoLocator, MaxNLocator)):
        axis.set_major_locator(MaxNLocator(max(2, (len(labels) + 1) // 2)))
        return True
    if isinstance(locator, LogLocator):
        return False
    if labels[0].get_rotation():
        return False
    for label in labels:
        label.set(rotation=35, ha="right", rotation_mode="anchor")
    return True
