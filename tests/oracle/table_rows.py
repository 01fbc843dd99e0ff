"""Rules that name the row they read: a table's text beside what the text means.

A rule is registered for a row and one of the table's columns, with the text that the row has there.
A row without a rule, and a text that has changed since its rule was written, both fail a test; what
the model does not do is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.arch.table import rows

Check = Callable[[Any], None]
Key = tuple[str, str]


@dataclass
class TableRows:
    """The rules of one table: ``checks`` by (row, column), ``reasons`` for rows left out.

    ``manual`` has, by row, the column that an L0 without deviations follows (else the first one).
    """

    table: str
    key: str
    columns: Sequence[str]
    texts: dict[Key, str] = field(default_factory=dict)
    checks: dict[Key, Check] = field(default_factory=dict)
    reasons: dict[Key, str] = field(default_factory=dict)
    manual: dict[str, str] = field(default_factory=dict)

    def _note(self, row: str, texts: dict[str, str]) -> list[Key]:
        for column, text in texts.items():
            assert (row, column) not in self.texts, f"{row}, {column}: a second rule"
            self.texts[row, column] = text
        return [(row, column) for column in texts]

    def reads(self, row: str, manual: str = "", **texts: str) -> Callable[[Check], Check]:
        """The decorated check is the meaning of ``row`` in the columns given with their texts."""

        def register(check: Check) -> Check:
            self.checks.update(dict.fromkeys(self._note(row, texts), check))
            if manual:
                self.manual[row] = manual
            return check

        return register

    def left_out(self, row: str, reason: str, **texts: str) -> None:
        """These columns of ``row`` have no counterpart in the model."""
        self.reasons.update(dict.fromkeys(self._note(row, texts), reason))

    def of_table(self) -> dict[Key, str]:
        """Every text of the table, by row and column."""
        return {(row[self.key], c): row[c] for row in rows(self.table) for c in self.columns}

    def check_for(self, row: str, l0: str) -> Check | None:
        """What ``l0`` must do about a row; None where the model leaves it out."""
        column = self.manual.get(row, self.columns[0]) if l0 == "manual" else l0
        return self.checks.get((row, column))

    def names(self) -> list[str]:
        """The table's rows, in its order."""
        return [row[self.key] for row in rows(self.table)]
