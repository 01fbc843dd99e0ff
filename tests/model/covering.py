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
        for row in _candidates(columns, default, dict(pair), missing):
            if possible(row):
                rows.append(row)
                missing -= pairs_of(row)
                break
        missing.discard(pair)  # else the two do not go together
    return rows


def _candidates(
    columns: Mapping[str, Sequence], default: Row, pair: Row, missing: set
) -> list[Row]:
    """Rows with a pair: as many other new pairs as can be, then fewer, then none."""
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
    rows = [full]
    for column in [c for c in sorted(columns) if c not in pair]:  # back to the default, one by one
        rows.append({**rows[-1], column: default[column]})
    return rows
