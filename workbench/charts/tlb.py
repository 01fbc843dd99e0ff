"""TLB flushes by reason, and the refills they caused, per thousand L2 instructions."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.ledger import FLUSH_REASONS
from ..result import Result
from . import style
from .inputs import Results, footer, labelled
from .sizes import named

TITLE = "TLB flushes and what they cost"
SIDES = {
    "flushes": "flushes per thousand\nL2 instructions",
    "refills": "refills they caused per thousand\nL2 instructions",
}


NOTHING = (
    "Nothing to show: no flush was counted, the tags keep L1 and L2 apart.\n"
    "Switch TLB tagging off, share one tag (L2 tag policy), or let L2 run ctxsw."
)


def flush_rates(result: Result) -> pd.DataFrame:
    """Per thousand L2 instructions, one row per reason: flushes, entries_dropped, refills.

    The whole run, its set-up included: the kernel counts flushes by reason, not by cause.
    """
    columns = ["flushes", "entries_dropped", "refills"]
    kinstr = result.l2_instructions / 1000
    if not kinstr:
        return pd.DataFrame(columns=columns, dtype=float)
    return result.tlb.groupby("reason")[columns].sum() / kinstr


def tlb_flushes(results: Results, size: str = "panel") -> Figure:
    """Two columns of bars: flushes and refills, by reason, one bar per result.

    Parameters
    ----------
    results : Result, list or dict of Result
    size : {"panel", "paper", "column", "projector"}
    """
    pairs = labelled(results)
    note = footer(pairs, size, False, "A refill is a TLB miss on an entry that a flush dropped.")
    tables = [flush_rates(result) for _, result in pairs]
    used = {reason for table in tables for reason in table.index}
    reasons = [reason for reason in FLUSH_REASONS if reason in used]
    if not reasons:
        return style.empty(TITLE, NOTHING, note, size, pairs)
    tables = [table.reindex(reasons).fillna(0.0) for table in tables]
    looks = [
        (label, *style.SERIES_LOOKS[i % len(style.SERIES_LOOKS)])
        for i, (label, _) in enumerate(pairs)
    ]
    with style.house_style(size):
        height = 1.35 + len(reasons) * max(0.32, 0.06 + 0.19 * len(pairs))
        height += 0.12 * len(pairs)
        figure, (left, right) = style.panels(size, height, 0.6)
        for axes, side in ((left, "flushes"), (right, "refills")):
            _bars(axes, [table[side] for table in tables], looks)
            axes.set_xlabel(SIDES[side])
            named_here = axes is left or named(size).stacked
            axes.set_yticks(range(len(reasons)), reasons if named_here else [""] * len(reasons))
            axes.set_ylim(len(reasons) - 0.45, -0.55)
        if len(pairs) > 1:
            style.legend(figure, TITLE, style.patches(looks), size)
        title = TITLE if len(pairs) > 1 else f"{TITLE}: {pairs[0][0]}"
        return style.finish(figure, title, note, _alt(pairs, tables), size, pairs)


def _bars(axes: Axes, series: list[pd.Series], looks: list[tuple[str, str, str]]) -> None:
    height = 0.8 / len(series)
    ends, positions = [], []
    for i, (values, (_, colour, hatch)) in enumerate(zip(series, looks, strict=True)):
        places = [row - 0.4 + height * (i + 0.5) for row in range(len(values))]
        axes.barh(places, values, height=height * 0.92, color=colour, hatch=hatch,
                  edgecolor=style.INK, linewidth=0.5)  # fmt: skip
        ends += list(values)
        positions += places
    style.bar_labels(axes, ends, positions, fontsize="small")
    axes.set_xlim(0, max(ends) * 1.2 or 1.0)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: style.compact(value))


def _alt(pairs: list[tuple[str, Result]], tables: list[pd.DataFrame]) -> str:
    said = []
    for (label, _), table in zip(pairs, tables, strict=True):
        reasons = ", ".join(
            f"{reason} {style.compact(row.flushes)} with {style.compact(row.refills)} refills"
            for reason, row in table.iterrows()
            if row.flushes or row.refills
        )
        said.append(f"{label}: {reasons or 'no flushes'}.")
    return "Bar chart: TLB flushes and refills per thousand L2 instructions. " + " ".join(said)
