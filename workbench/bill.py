"""The bill of an L2 operation as plain text, narrow enough for mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frames import rows
from .tables import reference, source_keys

if TYPE_CHECKING:
    from .result import Result

WIDTH = 72


def bill(result: Result, cause: str) -> str:
    """Events x price = cycles of one operation with this cause, and the sources of the prices.

    When L2 never exited for this cause, the bill is for all that was counted under it.
    """
    counts = result.counts
    counts = counts[counts["cause"] == cause]
    if counts.empty:
        return f"{cause}: nothing was counted under this cause."
    operations = result.operations
    times = int(operations.loc[operations["cause"] == cause, "operations"].sum())
    unit = times or 1
    what = f"one of {times} operations" if times else "all of it"
    head = f"{cause} on {result.scenario.backend.upper()}, {what}, prices {result.preset.name}"
    lines = [head, "", f"{'event':<28}{'count':>12}{'price':>12}{'cycles':>14}  src", "-" * WIDTH]
    prices = result.preset.frame.set_index("event")
    source, value = prices["source"].to_dict(), prices["value"].to_dict()
    keys: dict[str, int] = {}
    for row in rows(counts.sort_values("cycles", ascending=False)):
        marks = [str(keys.setdefault(key, len(keys) + 1)) for key in source_keys(source[row.event])]
        price = value[row.event]
        line = (
            f"{row.event:<28}{row.count / unit:>12,.2f}{price:>12,.2f}{row.cycles / unit:>14,.1f}"
        )
        lines.append(f"{line}  {','.join(marks)}")
    total = counts[["cycles", "cycles_low", "cycles_high"]].sum() / unit
    lines += ["-" * WIDTH, f"{'sum':<52}{total['cycles']:>14,.1f}"]
    lines.append(f"from {total['cycles_low']:,.0f} to {total['cycles_high']:,.0f} cycles")
    lines += ["", *(_source_line(number, key) for key, number in keys.items())]
    return "\n".join(lines)


def _source_line(number: int, key: str) -> str:
    text = f"{number} " + ("set by hand" if key == "user" else reference(key))
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
