"""The schema of a price table: which rows and cells a preset may have, and what they come to.

A table may name a ``# base:`` whose rows it takes over and overrides event by event, so that a
processor's own file holds only what is its own.  Numbers may be given in the unit in which they
are known; they become cycles here:

========  ==============================================================================
cycles    of the preset's own processor
ns, us    times ``clock_ghz``
lines     cache lines fetched one after the other: low from the first level, value from the
          second, high from the last (header ``line_cycles: 4 14 54``)
work      cycles of L0's software on the machine of the base, times ``software_scale``
========  ==============================================================================

``group`` names what several numbers rest on: a measurement or an assumption that they share.  Rows
of one group are high or low together (see ``PricePreset.spread``); an empty cell stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from .core.ledger import EVENTS, TIME_SCALE
from .errors import PriceError, did_you_mean
from .tables import Table

COLUMNS = ("event", "value", "low", "high", "unit", "kind", "source", "group", "note")
KINDS = ("measured", "manual", "derived", "assumed")
UNITS = ("cycles", "ns", "us", "lines", "work")
META = ("title", "backend", "clock_ghz", "clock_source", "core", "base", "line_cycles",
        "software_scale")  # fmt: skip
"""Header lines ``# key: value`` that mean something; others are remarks."""

NUMBERS = ("low", "value", "high")
MAX_BASES = 8

FindBase = Callable[[str], tuple[Table, str]]
"""Finds the table that ``# base:`` names; returns it and what to call it in errors."""


def with_bases(table: Table, where: str, find: FindBase) -> tuple[dict[str, str], list[dict]]:
    """Header and rows of a table with those of its bases under them; a row replaces its base's.

    Raises
    ------
    PriceError
        A base that is not there or leads back to itself, or rows that cannot be told apart.
    """
    chain, names = [(table, where)], [where]
    while base := chain[-1][0].meta.get("base", ""):
        found, name = find(base)
        if name in names or len(chain) > MAX_BASES:
            hint = "a chain of bases ends in a table without one"
            raise PriceError(f"{where}: base {base!r} leads back to {name}", hint)
        names.append(name)
        chain.append((found, name))
    meta: dict[str, str] = {}
    rows: dict[str, dict] = {}
    for part, name in reversed(chain):
        check_columns(part.columns, name)
        check_events([row["event"] for row in part.rows], name)
        meta |= {key: value for key, value in part.meta.items() if key != "title"}
        rows |= {row["event"]: row for row in part.rows}
    meta["title"] = table.meta.get("title", "")
    return meta, list(rows.values())


def check_columns(columns: Any, where: str) -> None:
    """Refuse a table without its two columns, or with one that is misspelled."""
    for needed in ("event", "value"):
        if needed not in columns:
            hint = f"the columns are {', '.join(COLUMNS)}; event and value are needed"
            raise PriceError(f"{where}: column {needed!r} is missing", hint)
    for column in columns:
        if column not in COLUMNS and column != "part":
            raise PriceError(f"{where}: no column called {column!r}", did_you_mean(column, COLUMNS))


def check_events(events: list[str], where: str) -> None:
    """Refuse rows for unknown events, and two rows for one."""
    seen = set()
    for event in events:
        if event not in EVENTS:
            raise PriceError(f"{where}: no event called {event!r}", did_you_mean(event, EVENTS))
        if event in seen:
            raise PriceError(f"{where}: {event} has two prices", "keep one row per event")
        seen.add(event)


def checked(rows: pd.DataFrame, meta: dict[str, str], where: str) -> pd.DataFrame:
    """Rows in event order, in cycles, or one PriceError that names row and column."""
    check_columns(rows.columns, where)
    rows = rows.drop(columns="part", errors="ignore").reset_index(drop=True).copy()
    check_events(list(rows["event"]), where)
    absent = [event for event in EVENTS if event not in set(rows["event"])]
    if absent:
        hint = "add a header line '# base: NAME' to take every other row from that preset"
        raise PriceError(f"{where}: no price for {absent[0]} ({len(absent)} missing)", hint)
    rows = _with_defaults(rows)
    for row in rows.to_dict("records"):
        _check_words(row, where)
    priced = [in_cycles(row, meta, where) for row in rows.to_dict("records")]
    order = pd.DataFrame(priced, columns=list(COLUMNS)).set_index("event")
    return order.loc[list(EVENTS)].reset_index()[list(COLUMNS)]


def _with_defaults(rows: pd.DataFrame) -> pd.DataFrame:
    defaults: dict[str, Any] = {"unit": "cycles", "kind": "assumed", "source": "user",
                                "group": "", "note": ""}  # fmt: skip
    for column, default in defaults.items():
        cells = rows[column].astype(object).fillna(default) if column in rows.columns else default
        rows[column] = cells
        rows[column] = rows[column].astype(str)
    for bound in ("low", "high"):
        known = rows[bound] if bound in rows.columns else rows["value"]
        rows[bound] = known.where(known.notna(), rows["value"])
    return rows


def _check_words(row: dict, where: str) -> None:
    for column, allowed in (("unit", UNITS), ("kind", KINDS)):
        if row[column] not in allowed:
            hint = f"allowed: {', '.join(allowed)}"
            raise PriceError(f"{where}: {column} of {row['event']} is {row[column]!r}", hint)


def _number(row: dict, column: str, where: str) -> float:
    cell = row[column]
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and 0 <= number < 1e9):
        hint = f"a number of {row['unit']}, 0 or more"
        raise PriceError(f"{where}: {column} of {row['event']} is {cell!r}", hint)
    return number


def in_cycles(row: dict, meta: dict[str, str], where: str) -> dict:
    """A row with its numbers checked, in cycles, and as multiples of 1/1024."""
    _number(row, "value", where)  # first: an absent bound is a copy of it
    given = {column: _number(row, column, where) for column in NUMBERS}
    if not given["low"] <= given["value"] <= given["high"]:
        text = f"{given['low']:g}, {given['value']:g}, {given['high']:g}"
        hint = "widen low or high"
        raise PriceError(f"{where}: {row['event']} breaks low <= value <= high ({text})", hint)
    factors = _factors(row, meta, where)
    made = {
        column: round(given[column] * factor * TIME_SCALE) / TIME_SCALE
        for column, factor in zip(NUMBERS, factors, strict=True)
    }
    note = row["note"]
    if row["unit"] != "cycles" and factors != (1.0, 1.0, 1.0):
        note = f"{given['value']:g} {row['unit']}: {note}"
    return row | made | {"unit": "cycles", "note": note}


def _factors(row: dict, meta: dict[str, str], where: str) -> tuple[float, float, float]:
    """Cycles per unit of a row, for low, value and high."""
    if row["unit"] in ("ns", "us"):
        clock = meta_number(meta, "clock_ghz", where)
        if clock is None:
            hint = "add a header line '# clock_ghz: 2.9', or give cycles"
            message = f"{where}: {row['event']} is in {row['unit']}, but there is no clock_ghz"
            raise PriceError(message, hint)
        return (clock * (1000 if row["unit"] == "us" else 1),) * 3
    if row["unit"] == "lines":
        return line_cycles(meta, where)
    if row["unit"] == "work":
        scale = meta_number(meta, "software_scale", where)
        return (1.0 if scale is None else scale,) * 3
    return (1.0,) * 3


def meta_number(meta: dict[str, str], key: str, where: str) -> float | None:
    """A header line that holds one positive number; None when it is empty or not there."""
    text = meta.get(key, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise PriceError(f"{where}: {key} is {text!r}", "a positive number, or empty")
    return number


def line_cycles(meta: dict[str, str], where: str) -> tuple[float, float, float]:
    """Cycles to fetch a cache line from the first, the second and the last level."""
    text = meta.get("line_cycles", "")
    try:
        first, second, last = (float(part) for part in text.split())
    except ValueError:
        hint = "three numbers of cycles, as '# line_cycles: 4 14 54'"
        raise PriceError(f"{where}: line_cycles is {text!r}", hint) from None
    if not 0 < first <= second <= last < 1e6:
        hint = "from the first, the second and the last level, not falling"
        raise PriceError(f"{where}: line_cycles is {text!r}", hint)
    return first, second, last
