"""Anatomy of one L2 operation, from the timeline: who ran when, and every step on the way."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError, did_you_mean
from ..measure.frames import LEVELS, rows
from ..result import Result
from . import style
from .inputs import footer

TITLE = "Anatomy of an exit"
_LEVEL = {name: i for i, name in enumerate(LEVELS)}
_MARKS = {
    "field_read": ("o", "field of vmcx12 read"),
    "field_write": ("s", "field of vmcx12 written"),
    "flush": ("v", "TLB flush"),
    "virtual_exit": ("<", "virtual exit: L2's state saved"),
    "virtual_entry": (">", "virtual entry: L2's state merged"),
}
_MOST_NAMES = 16
_LANES = ("#f0c987", "#56b4e9", "#0b4f7d")


def operation_span(result: Result, cause: str, occurrence: int = 0) -> tuple[int, int]:
    """First and one-past-last timeline entry of an L2 operation.

    Parameters
    ----------
    cause : str
        Ledger cause, for example ``CPUID``.
    occurrence : int
        0 = the first one recorded.

    Raises
    ------
    ResultError
        The timeline holds no such operation, or not all of it.
    """
    steps, level = result.timeline, f"L{result.guest_level}"
    begins = steps.index[
        (steps["kind"] == "hw_exit") & (steps["from_level"] == level) & (steps["cause"] == cause)
    ]
    if len(begins) == 0:
        recorded = steps.loc[steps["from_level"] == level, "cause"].unique()
        hint = did_you_mean(cause, recorded) or "record more: Scenario(timeline=16384)"
        raise ResultError(f"the timeline has no L2 operation {cause!r}", hint)
    if not 0 <= occurrence < len(begins):
        hint = f"occurrence counts from 0; {len(begins)} are recorded"
        raise ResultError(f"the timeline has no {cause} number {occurrence}", hint)
    start = int(begins[occurrence])
    back = steps.index[(steps["kind"] == "hw_entry") & (steps["to_level"] == level)]
    back = back[back > start]
    if len(back) == 0:
        hint = "take an earlier one, or record more: Scenario(timeline=16384)"
        raise ResultError(f"the timeline ends inside {cause} number {occurrence}", hint)
    return start, int(back[0]) + 1


def timeline(
    result: Result, start: int = 0, stop: int | None = None, size: str = "panel"
) -> Figure:
    """Which level ran when, between two timeline entries (see :func:`operation_span`).

    Cycles are those of the run itself, at the prices it was simulated with.
    """
    steps = result.timeline.iloc[start:stop]
    pairs = [(result.scenario.backend.upper(), result)]
    note = footer(pairs, size, True, clock=True)
    title = f"{TITLE}: {_subject(result, steps)}" if len(steps) else TITLE
    if steps.empty:
        reason = "Nothing to show: no such entries are recorded."
        return style.empty(title, reason, note, size, pairs)
    times = (steps["cycles"] - steps["cycles"].iloc[0]).tolist()
    with style.house_style(size):
        figure = style.new_figure(size, 3.7)
        axes = figure.add_subplot()
        _lanes(axes, steps, times)
        _names(axes, steps, times)
        _marks(axes, steps, times)
        axes.set_xlabel("cycles since the exit")
        if handles := axes.get_legend_handles_labels()[0]:
            style.legend(figure, title, handles, size)
        return style.finish(figure, title, note, _alt(title, steps, times), size, pairs)


def _subject(result: Result, steps: pd.DataFrame) -> str:
    return f"{steps['cause'].iloc[0]} on {result.scenario.backend.upper()}"


def _lanes(axes: Axes, steps: pd.DataFrame, times: list[float]) -> None:
    """One step line through the lanes L0, L1, L2; the time each level runs is filled."""
    points = [(time, _LEVEL[row.from_level], _LEVEL[row.to_level]) for time, row in
              zip(times, rows(steps), strict=True) if row.kind.startswith("hw_")]  # fmt: skip
    if not points:
        return
    margin = (times[-1] or 1.0) * 0.04
    edges = [-margin, *(time for time, _, _ in points), times[-1] + margin]
    levels = [points[0][1], *(target for _, _, target in points)]
    for left, right, level in zip(edges, edges[1:], levels, strict=False):
        # with an edge of its own colour what lasts for a moment can be seen, too
        axes.broken_barh([(left, right - left)], (level - 0.2, 0.4), color=_LANES[level],
                         linewidth=1.2, zorder=2)  # fmt: skip
    for time, source, target in points:
        axes.plot([time, time], [source, target], color=style.INK, linewidth=0.8, zorder=1)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(-0.75, 2.75)
    axes.set_yticks([0, 1, 2], ["L0\nhypervisor", "L1\nhypervisor", "L2\nguest"])
    axes.xaxis.set_major_formatter(lambda value, _: style.compact(value))


def _names(axes: Axes, steps: pd.DataFrame, times: list[float]) -> None:
    """Names of the hardware exits, above the lane that they leave."""
    exits = [(t, row) for t, row in zip(times, rows(steps), strict=True) if row.kind == "hw_exit"]
    if len(exits) > _MOST_NAMES:
        return
    for time, row in exits:
        rotation, align = (0, "left") if row.from_level == "L2" else (40, "left")
        axes.text(time, _LEVEL[row.from_level] + 0.26, row.reason, rotation=rotation, ha=align,
                  va="bottom", fontsize="small", rotation_mode="anchor")  # fmt: skip


def _marks(axes: Axes, steps: pd.DataFrame, times: list[float]) -> None:
    """Marks under the L0 lane for what happened besides switches."""
    for kind, (marker, label) in _MARKS.items():
        at = [t for t, k in zip(times, steps["kind"], strict=True) if k == kind]
        if at:
            axes.plot(at, [-0.45] * len(at), linestyle="none", marker=marker, label=label,
                      markersize=5, markerfacecolor="white", markeredgecolor=style.INK)  # fmt: skip


def _alt(title: str, steps: pd.DataFrame, times: list[float]) -> str:
    exits = steps.loc[steps["kind"] == "hw_exit", "reason"]
    return (
        f"{title}: which level ran when, over {style.compact(times[-1])} cycles. "
        f"{len(exits)} hardware exits: {', '.join(exits.head(20))}."
    )


def step_table(result: Result, cause: str, occurrence: int = 0) -> str:
    """Every recorded step of one L2 operation as a table, at most 72 columns wide."""
    start, stop = operation_span(result, cause, occurrence)
    steps = result.timeline.iloc[start:stop]
    began = steps["cycles"].iloc[0]
    lines = [
        f"{cause} of L2 on {result.scenario.backend.upper()}, number {occurrence}",
        f"{'cycle':>9} {'+':>7}  {'who':<8} {'what':<14} which",
        "-" * 72,
    ]
    before = began
    for row in rows(steps):
        change = (
            row.from_level if row.from_level == row.to_level else f"{row.from_level}>{row.to_level}"
        )
        what = str(row.kind).replace("_", " ").replace("hw ", "hardware ")
        which = textwrap.shorten(str(row.reason), 30, placeholder="...")
        line = f"{row.cycles - began:>9,.0f} {row.cycles - before:>7,.0f}  {change:<8} {what:<14} {which}"
        lines.append(line.rstrip())
        before = row.cycles
    exits = int((steps["kind"] == "hw_exit").sum())
    lines += ["-" * 72, f"{exits} hardware exits, {before - began:,.0f} cycles"]
    return "\n".join(lines) + "\n"
