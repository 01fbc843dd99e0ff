"""How much each price matters for what a result costs: arithmetic on its counts, nothing is run.

Toggles are another matter, see ``toggles``.
"""

from __future__ import annotations

import pandas as pd

from ..core.ledger import EVENTS
from ..result import Result
from . import frames


def sensitivity(result: Result) -> pd.DataFrame:
    """What each price of a result matters: one row per event that was counted and has a price.

    The set-up before the first entry to L2 is left out.  A price alone moves the total from
    ``total_low`` to ``total_high``, all others at their values; the swing is the difference.

    Returns
    -------
    DataFrame
        event, part, group, count, price, low, high [cycles per event], cycles, share (of all
        cycles), total_low, total_high, swing [cycles], kind, source; largest swing first.
    """
    counts = frames.without_boot(result.raw).sum(axis=0)
    prices = result.preset.frame
    count = counts[: len(EVENTS)].astype(float)
    table = pd.DataFrame(
        {
            "event": prices["event"], "part": prices["part"], "group": result.preset.groups,
            "count": counts[: len(EVENTS)], "price": prices["value"],
            "low": prices["low"], "high": prices["high"],
        }
    )  # fmt: skip
    table["cycles"] = count * table["price"]
    total = float(table["cycles"].sum())
    table["share"] = table["cycles"] / total if total else 0.0
    table["total_low"] = total - count * (table["price"] - table["low"])
    table["total_high"] = total + count * (table["high"] - table["price"])
    table["swing"] = table["total_high"] - table["total_low"]
    table["kind"], table["source"] = prices["kind"], prices["source"]
    met = (table["count"] > 0) & (table["high"] > 0)
    order = table[met].sort_values(["swing", "cycles", "event"], ascending=[False, False, True])
    return order.reset_index(drop=True)


def by_group(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`sensitivity` added up by group: prices that can only move together.

    Columns: group, events, cycles, share, total_low, total_high, swing; largest swing first.
    """
    total = float(table["cycles"].sum())
    rows = []
    for group, part in table.groupby("group", sort=False):
        cycles = float(part["cycles"].sum())
        below = float((total - part["total_low"]).sum())
        above = float((part["total_high"] - total).sum())
        events = ", ".join(part.sort_values("cycles", ascending=False)["event"])
        share = float(part["share"].sum())
        rows.append((group, events, cycles, share, total - below, total + above, below + above))
    columns = ["group", "events", "cycles", "share", "total_low", "total_high", "swing"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        "swing", ascending=False, ignore_index=True
    )
