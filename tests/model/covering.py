"""Pairwise covering arrays: few rows in which every two values of different columns meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

Row = dict[str, Any]


def pairs_of(row: Row) -> set[tuple]:
    """The pairs of (column, value) that a row contains."""
    return {((a, row[a]), (b, row[b])) for a, b in combinations(sorted(row), 2)}


def covering_rows(
    columns: Mapping[str, Sequence], default: Row, possible: Callable[[Row], bool]
) -> list[Row]:
    """Rows that contain every possible pair of values, greedily.

    Parameters
    ----------
    columns : mapping of str to sequence
        The values of each column.
    default : dict
        A row that is possible; it fills what a pair alone does not decide.
    possible : callable
        Says whether a row can be run.
    """
    missing = {
        ((a, x), (b, y))
        for a, b in combinations(sorted(columns), 2)
        for x in columns[a]
        for y in columns[b]
    }
    rows = []
    while missing:
        pair = min(missing, key=repr)
        row = _repaired(_fullest(columns, dict(pair), missing), default, pair, possible)
        if row:
            rows.append(row)
            missing -= pairs_of(row)
        missing.discard(pair)  # else the two do not go together
    return rows


def _fullest(columns: Mapping[str, Sequence], pair: Row, missing: set) -> Row:
    """A row with a pair and as many other missing pairs as can be, column by column."""
    full = dict(pair)
    for column in sorted(columns, key=lambda c: -len(columns[c])):
        if column not in full:
            full[column] = max(
                columns[column],
                key=lambda value, column=column: sum(
                    (min((column, value), other), max((column, value), other)) in missing
                    if column != other[0] else False
                    for other in full.items()
                ),
            )  # fmt: skip
    return full


def _repaired(row: Row, default: Row, pair: tuple, possible: Callable[[Row], bool]) -> Row | None:
    """The row with as few columns back at their default as make it possible; None: the pair is not."""
    if possible(row):
        return row
    changed = [c for c in sorted(row) if c not in dict(pair) and row[c] != default[c]]
    repaired = {**row, **{c: default[c] for c in changed}}
    if not possible(repaired):
        return None
    return _restored(repaired, row, changed, possible)


def _restored(repaired: Row, row: Row, columns: list[str], possible: Callable[[Row], bool]) -> Row:
    """The columns as they were, half by half, but for those that make it impossible."""
    again = {**repaired, **{c: row[c] for c in columns}}
    if possible(again):
        return again
    if len(columns) == 1:
        return repaired
    half = len(columns) // 2
    for part in (columns[:half], columns[half:]):
        repaired = _restored(repaired, row, part, possible)
    return repaired
