"""Texts that are wider than the room they have: wrapped, turned or thinned out, then laid out again."""

from __future__ import annotations

import textwrap
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import AutoLocator, LogLocator, MaxNLocator

_ROUNDS = 5
_SLACK = 1.02
_NAMES = 0.45
"""Most of a panel's width that the names at its left may take."""
_TICKS = 9
"""Most intervals between ticks, as matplotlib's automatic choice has it."""
_GAP = 0.25
"""Least space between two tick labels, in heights of a letter."""


def lay_out(figure: Figure) -> None:
    """Make the layout, and once more if a text had to give way."""
    engine = figure.get_layout_engine()
    first: dict[Text, str] = {}
    for _ in range(_ROUNDS):
        engine.execute(figure)  # type: ignore[union-attr]
        # all of them, so no short cut
        if not any([_fit(axes, first) for axes in figure.axes if axes.axison]):
            break
    else:
        engine.execute(figure)  # type: ignore[union-attr]
    for axes in figure.axes:
        _keep_ticks(axes.xaxis)
        _keep_ticks(axes.yaxis)


def _keep_ticks(axis: Axis) -> None:
    """As many ticks as were laid out: at another resolution rounding would choose others."""
    locator = axis.get_major_locator()
    if isinstance(locator, AutoLocator):
        locator.set_params(nbins=min(max(axis.get_tick_space(), 1), _TICKS))


def _fit(axes: Axes, first: dict[Text, str]) -> bool:
    end = _end(axes)
    head = end - axes.bbox.x0
    below = axes.bbox.width + 2 * max(0.0, end - axes.bbox.x1)
    left_title = axes._left_title  # type: ignore[attr-defined]
    rooms = [(axes.xaxis.label, below), (axes.title, below), (left_title, head),
             (axes.yaxis.label, 1.1 * axes.bbox.height)]  # fmt: skip
    changed = [_wrap(text, room, first) for text, room in rooms]
    changed += [_spread(axes.xaxis), _wrap_names(axes, first), _turn_numbers(axes)]
    return any([*changed, _hold(axes), _raise(axes), _outside(axes)])


def _outside(axes: Axes) -> bool:
    """Do an axis' labels leave the figure?  They do where new ticks are wider than those laid out."""
    boxes = [axis.get_tightbbox() for axis in (axes.xaxis, axes.yaxis)]  # places labels anew, too
    return any(box is not None and min(box.x0, box.y0) < 0 for box in boxes)


def _columns(axes: Axes) -> int:
    spec = axes.get_subplotspec()
    return spec.get_gridspec().ncols if spec is not None else 1


def _end(axes: Axes) -> float:
    """Where the part of the figure that belongs to one panel ends at the right [pixels]."""
    spec, width = axes.get_subplotspec(), axes.get_figure().bbox.width  # type: ignore[union-attr]
    last = spec.colspan.stop if spec is not None else 1
    return float(width * last / _columns(axes))


def _wrap(text: Text, room: float, first: dict[Text, str]) -> bool:
    """Break lines anew, from how the text was at ``first``."""
    said = text.get_text()
    if not said:
        return False
    box = text.get_window_extent()
    wide = box.height if text.get_rotation() == 90 else box.width
    if wide <= room * _SLACK:
        return False
    longest = max(map(len, said.split("\n")))
    least = max(map(len, said.split()))
    width = max(int(longest * room / wide), least)
    whole = first.setdefault(text, said)
    lines = [part for line in whole.split("\n") for part in textwrap.wrap(line, width)]
    text.set_text("\n".join(lines))
    return text.get_text() != said


def _wrap_names(axes: Axes, first: dict[Text, str]) -> bool:
    labels = axes.get_yticklabels()
    room = _NAMES * axes.get_figure().bbox.width / _columns(axes)  # type: ignore[union-attr]
    changed = [_wrap(label, room, first) for label in labels]
    if any(changed):  # a tick takes its text from the axis at each drawing
        axes.set_yticks(axes.get_yticks(), [label.get_text() for label in labels])
    return any(changed)


def _hold(axes: Axes) -> bool:
    """Numbers beside bars that reach over the frame: a longer axis."""
    if axes.get_xscale() != "linear":
        return False
    frame, boxes = axes.bbox, [note.get_window_extent() for note in _numbers(axes)]
    gap = 0.03 * axes.get_figure().dpi  # type: ignore[union-attr]
    left = max([frame.x0 + gap - box.x0 for box in boxes] + [0.0])
    right = max([box.x1 + gap - frame.x1 for box in boxes] + [0.0])
    if max(left, right) < 1:
        return False
    low, high = axes.get_xlim()
    unit = (high - low) / max(frame.width - 1.08 * (left + right), 0.4 * frame.width)
    axes.set_xlim(low - 1.08 * unit * left, high + 1.08 * unit * right)
    return True


def _numbers(axes: Axes) -> list[Annotation]:
    return [n for n in axes.texts if isinstance(n, Annotation) and n.xycoords == "data"]


def _turn_numbers(axes: Axes) -> bool:
    """Numbers above bars that touch each other: upright."""
    notes = [note for note in _numbers(axes) if note.get_horizontalalignment() == "center"]
    if not notes or notes[0].get_rotation():
        return False
    gap = _GAP * axes.get_figure().dpi / 72 * float(notes[0].get_fontsize())  # type: ignore[union-attr]
    boxes = sorted((note.get_window_extent() for note in notes), key=lambda box: box.x0)
    if not any(
        left.x1 + gap > right.x0 and left.y0 < right.y1 and right.y0 < left.y1
        for left, right in pairwise(boxes)
    ):
        return False
    for note in notes:
        note.set_rotation(90)
    return True


def _raise(axes: Axes) -> bool:
    """Numbers above bars that reach over the frame: a longer axis."""
    if axes.get_yscale() != "linear":
        return False
    frame, boxes = axes.bbox, [note.get_window_extent() for note in _numbers(axes)]
    over = max([box.y1 - frame.y1 for box in boxes] + [0.0])
    if over < 1:
        return False
    low, high = axes.get_ylim()
    left = max(frame.height - 1.05 * over, 0.5 * frame.height)
    axes.set_ylim(low, high + 1.05 * over * (high - low) / left)
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
