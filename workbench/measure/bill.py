"""The bill of an L2 operation as plain text, narrow enough for mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.ledger import CAUSES
from ..tables import reference, source_keys
from .frames import rows

if TYPE_CHECKING:
    from ..result import Result

WIDTH = 80


def bill(result: Result, cause: str) -> str:
    """Events x price = cycles of one operation with this cause, and the sources of the prices.

    When L2 never exited for this cause, the bill is for all that was counted under it.  The range
    below the sum is how far prices within their bounds move it (:meth:`PricePreset.spread`).
    """
    counts = result.counts
    counts = counts[counts["cause"] == cause]
    if counts.empty:
        return f"{cause}: nothing was counted under this cause."
    operations = result.operations
    times = int(operations.loc[operations["cause"] == cause, "operations"].sum())
    unit = times or 1
    what = f"one of {times:,} operations" if times else "all of it"
    numbers: dict[str, int] = {}
    lines = [
        f"{cause} on {result.scenario.backend.upper()}, {what}, prices {result.preset.name}", "",
        f"{'event':<27}{'count':>11} x{'price':>9} ={'cycles':>12}  kind/source", "-" * WIDTH,
    ]  # fmt: skip
    prices = result.preset.frame.set_index("event").to_dict("index")
    for row in rows(counts.sort_values("cycles", ascending=False)):
        price = prices[row.event]
        keys = source_keys(price["source"]) if price["high"] else ()
        marks = [str(numbers.setdefault(key, len(numbers) + 1)) for key in keys]
        lines.append(
            f"{row.event:<27}{row.count / unit:>11,.2f} x{price['value']:>9,.2f} ="
            f"{row.cycles / unit:>12,.1f}  {price['kind'] if marks else 'no price':<9}{','.join(marks)}"
        )
    total = result.preset.spread(result.raw.counts[CAUSES.index(cause)] / unit)
    span = f"{total['cycles_low']:,.0f} to {total['cycles_high']:,.0f}"
    lines += ["-" * WIDTH, f"{'sum':<27}{'':>24}{total['cycles']:>12,.1f}"]
    lines.append(f"{'within the bounds of prices':<27}{span:>36}")
    lines += ["", *(_source_line(number, key) for key, number in numbers.items())]
    return "\n".join(lines)


def _source_line(number: int, key: str) -> str:
    text = f"{number} {reference(key)}"
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
