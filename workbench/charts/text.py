"""The charts' figures as plain tables, at most 72 columns wide, for mail and terminals."""

from __future__ import annotations

import pandas as pd

from ..core.ledger import FLUSH_REASONS
from ..errors import ResultError, did_you_mean
from ..prices import PARTS
from ..result import Result
from . import costs as cost_chart
from . import exits as exits_chart
from . import tlb as tlb_chart
from .inputs import Results, labelled
from .interrupts import delivery_rates, had_events, waiting
from .style import ROUTE_LOOKS

WIDTH = 72
_NAME, _CELL = 28, 11
_PER_BLOCK = (WIDTH - _NAME) // _CELL


def to_text(kind: str, results: Results) -> str:
    """One chart as a table: one column per result.

    Parameters
    ----------
    kind : {"exits", "cost", "tlb", "interrupts", "summary"}
    results : Result, list or dict of Result
    """
    makers = {
        "exits": _exits, "cost": _cost, "tlb": _tlb, "interrupts": _interrupts, "summary": _summary,
    }  # fmt: skip
    if kind not in makers:
        raise ResultError(f"no table called {kind!r}", did_you_mean(kind, makers))
    pairs = labelled(results)
    title, table = makers[kind]([result for _, result in pairs])
    if table.empty:
        return f"{title}\nnothing to show\n"
    labels = [label for label, _ in pairs]
    blocks = [
        _block(table.iloc[:, start : start + _PER_BLOCK], labels[start : start + _PER_BLOCK], start)
        for start in range(0, len(labels), _PER_BLOCK)
    ]
    return "\n\n".join([title, *blocks, *_origin(pairs)]) + "\n"


def _block(table: pd.DataFrame, labels: list[str], start: int) -> str:
    long = any(len(label) > _CELL - 1 for label in labels)
    heads = [f"[{start + i + 1}]" for i in range(len(labels))] if long else labels
    key = [f"{head} {label}"[:WIDTH] for head, label in zip(heads, labels, strict=True)]
    lines = [*(key if long else []), " " * _NAME + "".join(f"{head:>{_CELL}}" for head in heads)]
    lines.append("-" * (_NAME + _CELL * len(heads)))
    for name, row in table.iterrows():
        lines.append(f"{str(name)[:_NAME]:<{_NAME}}" + "".join(_cell(value) for value in row))
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        text = "-" if value != value else _number(value)
    else:
        text = f"{value:,}" if isinstance(value, int) else str(value)
    return f"{text:>{_CELL}}"


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _origin(pairs: list[tuple[str, Result]]) -> list[str]:
    versions = dict.fromkeys(r.provenance["versions"]["workbench"] for _, r in pairs)
    lines = [
        f"{label[:30]}: scenario {result.provenance['scenario_hash'][:12]}, {result.preset.name}"
        for label, result in pairs
    ]
    return ["\n".join([*lines, f"workbench {', '.join(versions)}"])]


def _exits(results: list[Result]) -> tuple[str, pd.DataFrame]:
    columns = []
    for result in results:
        rates = exits_chart.frequencies(result)
        column = {
            f"{name} {level}>{handler}": rate
            for level, handler in ROUTE_LOOKS
            for name, rate in rates[(level, handler)].to_dict().items()
            if rate > 0
        }
        columns.append(pd.Series(column, dtype=float))
    table = pd.concat(columns, axis=1, keys=range(len(columns)))
    if len(table):
        table = table.loc[table.fillna(0).sum(axis=1).sort_values(ascending=False).index]
        table.loc["all"] = table.sum()
    return "Exits per thousand L2 instructions (from level > handled by)", table


def _cost(results: list[Result]) -> tuple[str, pd.DataFrame]:
    unit = cost_chart.unit_for(results)
    columns = []
    for result in results:
        parts = cost_chart.parts(result, unit)
        total = parts.loc["all"].to_dict()
        column = {part: parts.at[part, "cycles"] for part in PARTS}
        column |= {"all": total["cycles"], "all, lowest prices": total["cycles_low"]}
        columns.append(pd.Series(column | {"all, highest prices": total["cycles_high"]}))
    table = pd.concat(columns, axis=1, keys=range(len(columns)))
    head = cost_chart.UNITS[unit]
    return head[0].upper() + head[1:], table


def _tlb(results: list[Result]) -> tuple[str, pd.DataFrame]:
    rates = [tlb_chart.flush_rates(result) for result in results]
    rows = {}
    for reason in FLUSH_REASONS:
        if any(reason in table.index for table in rates):
            for column in ("flushes", "entries_dropped", "refills"):
                name = f"{reason} {column.replace('_', ' ')}"
                rows[name] = [t[column].get(reason, 0.0) for t in rates]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=range(len(results)))
    return "TLB flushes per thousand L2 instructions", table


def _interrupts(results: list[Result]) -> tuple[str, pd.DataFrame]:
    title = "Interrupts: waiting [% of the run], handlers entered per million cycles"
    if not any(had_events(result) for result in results):
        return title, pd.DataFrame()
    columns = []
    for result in results:
        column = {f"blocked {n}": v for n, v in waiting(result).to_dict().items()}
        rates = delivery_rates(result).to_dict()
        column |= {f"delivered {name}": rate for name, rate in rates.items()}
        columns.append(pd.Series(column, dtype=float))
    return title, pd.concat(columns, axis=1, keys=range(len(columns))).fillna(0.0)


def _summary(results: list[Result]) -> tuple[str, pd.DataFrame]:
    table = pd.concat([result.summary() for result in results], ignore_index=True).T
    table.index = [str(name).replace("_", " ") for name in table.index]
    return "Summary", table
