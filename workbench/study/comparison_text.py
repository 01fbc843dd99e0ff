"""A comparison as plain text of at most 72 columns, for mail and terminals."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..prices import PARTS

if TYPE_CHECKING:
    from .comparison import Comparison

WIDTH = 72
_NAME, _CELL = 32, 10
_PER_BLOCK = (WIDTH - _NAME) // _CELL
_MOST = 12
"""Rows of a table; what moves least is left out, and counted."""


def text(both: Comparison) -> str:
    """Settings, reasons, cycles, counts and flushes, in this order."""
    labels = list(both)
    key = [f"[{i + 1}] {label}"[:WIDTH] for i, label in enumerate(labels)]
    cycles = _per_operation(both)
    parts = ["\n".join(key), _table("Settings that differ", _settings(both))]
    for label in both.others:
        head = f"Exits of [{labels.index(label) + 1}] beside [1]"
        lines = both.explain(label) or ["as many, of the same kinds"]
        wrapped = [textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in lines]
        parts.append("\n".join([head, *wrapped]))
    parts.append(_table(f"Cycles per {_unit(both)}", cycles))
    counts = both.counts.drop(columns="cause").groupby("event").sum()
    parts.append(_table("Counts", _moved(counts)))
    flushes = both.flushes
    flushes.index = pd.Index(flushes.pop("reason") + ", " + flushes.pop("scope"), dtype=object)
    parts.append(_table("TLB flushes by reason and scope", flushes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _settings(both: Comparison) -> pd.DataFrame:
    """Without what merely does not exist on one side, as the features of the other vendor."""
    table = both.settings.set_index("setting")
    several = [len({repr(v) for v in row if v is not None}) > 1 for row in table.to_numpy()]
    return table[several]


def _unit(both: Comparison) -> str:
    return "operation of L2" if all(r.l2_operations for r in both.values()) else "run"


def _per_operation(both: Comparison) -> pd.DataFrame:
    """Cycles by part without the set-up, per operation where all results have operations."""
    table = both.cycles[both.cycles["cause"] != "BOOT"].drop(columns="cause")
    table = table.groupby("category").sum().reindex(list(PARTS)).fillna(0.0)
    table.loc["all"] = table.sum()
    if _unit(both) == "run":
        return table
    return table / [result.l2_operations for result in both.values()]


def _moved(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose numbers differ most from the first column's."""
    change = table.sub(table.iloc[:, 0], axis=0).abs().max(axis=1)
    return table.loc[change[change > 0].sort_values(ascending=False, kind="stable").index]


def _table(title: str, table: pd.DataFrame) -> str:
    if table.empty:
        return f"{title}\n  none"
    shown = table.iloc[:_MOST]
    blocks = [_block(shown, start) for start in range(0, table.shape[1], _PER_BLOCK)]
    left = len(table) - len(shown)
    more = [f"  and {left} more that differ less"] if left else []
    return "\n".join([title, *blocks, *more])


def _block(table: pd.DataFrame, start: int) -> str:
    part = table.iloc[:, start : start + _PER_BLOCK]
    heads = "".join(f"{f'[{start + i + 1}]':>{_CELL}}" for i in range(part.shape[1]))
    lines = [" " * _NAME + heads]
    for name, row in zip(part.index, part.itertuples(index=False), strict=True):
        lines.append(f"{str(name)[: _NAME - 1]:<{_NAME}}" + "".join(map(_cell, row)))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        shown = "on" if value else "off"
    elif isinstance(value, float):
        shown = "-" if value != value else _real(value)
    elif isinstance(value, int):
        shown = f"{value:,}" if abs(value) < 10**7 else f"{value / 1e6:,.1f}M"
    else:
        shown = "-" if value is None else str(value)
    return f"{shown[: _CELL - 1]:>{_CELL}}"


def _real(value: float) -> str:
    if abs(value) < 1e5:
        return f"{value:,.1f}"
    return f"{value:,.0f}" if abs(value) < 1e7 else f"{value / 1e6:,.1f}M"
