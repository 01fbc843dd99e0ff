"""Interrupts: what kept them waiting and for how long, and who got how many."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.ledger import BLOCK_REASONS
from ..result import Result
from . import style
from .inputs import Results, footer, labelled

TITLE = "Interrupts"
REASONS = {
    "shadow": "shadow of STI or MOV SS",
    "rflags_ie": "interrupts off (RFLAGS.IF)",
    "tpr": "task priority (TPR)",
    "nmi_iret": "NMI until IRET",
    "svm_gif": "SVM's GIF",
}
"""What each reason of the ledger means."""
SIDES = {
    "waiting": "cycles of waiting,\n% of the run",
    "delivered": "handlers entered per\nmillion cycles",
}
NOTHING = (
    "Nothing to show: no interrupt was delivered or held back.\n"
    "Set host_tick_cycles or nmi_cycles, or run an L1 with a timer of its own."
)


def had_events(result: Result) -> bool:
    """Was any interrupt or NMI delivered or held back, or did L0's own tick come?"""
    raw = result.raw
    ticked = result.facts.get("host_ticks", 0) > 0
    return ticked or bool(raw.blocked.any() or raw.delivered.any() or raw.latency.any())


def waiting(result: Result) -> pd.Series:
    """Share of the run [%] in which an event waited, by what blocked it; every reason is there."""
    total = result.facts["simulated_cycles"] or np.nan
    table = result.interrupts.set_index("reason")["cycles"].reindex(list(BLOCK_REASONS))
    return (100 * table / total).fillna(0.0)


def delivery_rates(result: Result) -> pd.Series:
    """Handlers entered per million cycles, by "level kind"; L0's own ticks are "L0 tick"."""
    total = result.facts["simulated_cycles"] or np.nan
    table = result.deliveries
    ticks = result.facts.get("host_ticks", 0)
    names = [f"{level} {kind}" for level, kind in zip(table["level"], table["kind"], strict=True)]
    found = pd.Series(table["delivered"].to_numpy(float), index=names)
    if ticks:
        found["L0 tick"] = float(ticks)
    return (1e6 * found / total).fillna(0.0)


def interrupts(results: Results, size: str = "panel") -> Figure:
    """Two columns of bars: time blocked by reason, deliveries by level; one bar per result.

    Parameters
    ----------
    results : Result, list or dict of Result
    size : {"panel", "paper", "column", "projector"}
    """
    pairs = labelled(results)
    note = footer(
        pairs, size, True, "A handler is entered through the guest's IDT.", clock=True, set_up=True
    )
    if not any(had_events(result) for _, result in pairs):
        return style.empty(TITLE, NOTHING, note, size, pairs)
    waits = [waiting(result) for _, result in pairs]
    rates = [delivery_rates(result) for _, result in pairs]
    names = sorted({name for table in rates for name in table.index}) or ["L1 interrupt"]
    rates = [table.reindex(names).fillna(0.0) for table in rates]
    looks = [
        (label, *style.SERIES_LOOKS[i % len(style.SERIES_LOOKS)])
        for i, (label, _) in enumerate(pairs)
    ]
    with style.house_style(size):
        rows = max(len(BLOCK_REASONS), len(names))
        height = 1.35 + rows * max(0.32, 0.06 + 0.19 * len(pairs))
        figure, (left, right) = style.panels(
            size, height + 0.12 * len(pairs), 0.6, (len(BLOCK_REASONS) + 1, len(names) + 1)
        )
        _bars(left, [table.tolist() for table in waits], looks)
        _bars(right, [table.tolist() for table in rates], looks)
        _rows(left, [REASONS[reason] for reason in BLOCK_REASONS])
        _rows(right, [name.replace("nmi", "NMI") for name in names])
        left.set_xlabel(SIDES["waiting"])
        right.set_xlabel(SIDES["delivered"])
        if len(pairs) > 1:
            style.legend(figure, TITLE, style.patches(looks), size)
        title = TITLE if len(pairs) > 1 else f"{TITLE}: {pairs[0][0]}"
        return style.finish(figure, title, note, _alt(pairs, waits, rates), size, pairs)


def _rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def _bars(axes: Axes, series: list[list[float]], looks: list[tuple[str, str, str]]) -> None:
    height = 0.8 / len(series)
    ends: list[float] = []
    positions: list[float] = []
    for i, (values, (_, colour, hatch)) in enumerate(zip(series, looks, strict=True)):
        places = [row - 0.4 + height * (i + 0.5) for row in range(len(values))]
        axes.barh(places, values, height=height * 0.92, color=colour, hatch=hatch,
                  edgecolor=style.INK, linewidth=0.5)  # fmt: skip
        ends += values
        positions += places
    style.bar_labels(axes, ends, positions, fontsize="small")
    axes.set_xlim(0, max(ends) * 1.25 or 1.0)
    axes.xaxis.set_major_formatter(lambda value, _: style.compact(value))


def _alt(pairs: list[tuple[str, Result]], waits: list[pd.Series], rates: list[pd.Series]) -> str:
    said = []
    for (label, _), wait, rate in zip(pairs, waits, rates, strict=True):
        held = [f"{name} {style.compact(v)} %" for name, v in wait.to_dict().items() if v]
        got = [f"{name} {style.compact(v)}" for name, v in rate.to_dict().items() if v]
        said.append(f"{label}: blocked {', '.join(held) or 'never'}; "
                    f"delivered {', '.join(got) or 'none'}.")  # fmt: skip
    return (
        "Bar chart: share of the run in which interrupts waited, by reason, and handlers entered "
        "per million cycles, by level. " + " ".join(said)
    )
