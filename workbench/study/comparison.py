"""Results side by side: what was set otherwise, what was counted otherwise, and why.

A difference is attributed from the counts alone: every exit was counted under the operation of L2
that it served (its root cause), so the parts of a difference add up to it exactly.  Nothing is run
or estimated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import pandas as pd

from ..core.ledger import CAUSES, EVENTS
from ..errors import ResultError, did_you_mean
from ..result import Result

EXIT_KEYS = ("cause", "exit", "from_level")
NO_OPERATION = ("BOOT", "RUN")
"""Causes that are no operation of L2: what is counted there has no 'per operation'."""


class Comparison(Mapping[str, Result]):
    """Results by label; the first is what the others are compared with.

    Charts and ``charts.to_text`` take it as the mapping it is.  The frames have one column for
    each label.
    """

    def __init__(self, results: Mapping[str, Result]):
        self._results = dict(results)

    def __getitem__(self, label: str) -> Result:
        if label not in self._results:
            raise ResultError(f"no result is called {label!r}", did_you_mean(label, self._results))
        return self._results[label]

    def __contains__(self, label: object) -> bool:
        return label in self._results

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self._results)})"

    def __str__(self) -> str:
        return self.to_text()

    @property
    def base(self) -> str:
        """Label of the first result."""
        return next(iter(self._results))

    @property
    def others(self) -> tuple[str, ...]:
        """The labels of all results but the first."""
        return tuple(self._results)[1:]

    # ---------------------------------------------------------------- side by side

    @property
    def settings(self) -> pd.DataFrame:
        """setting, then one column per label: only settings that differ; missing where not set."""
        flat = {label: _flat(result) for label, result in self._results.items()}
        names = list(dict.fromkeys(name for values in flat.values() for name in values))
        rows = [(name, *(values.get(name) for values in flat.values())) for name in names]
        found = [row for row in rows if any(repr(value) != repr(row[1]) for value in row[2:])]
        return pd.DataFrame(found, columns=["setting", *flat]).astype(object)

    @property
    def counts(self) -> pd.DataFrame:
        """cause, event, then the counts of each label; events that nobody counted are left out."""
        return self._side_by_side({label: _events(r) for label, r in self._results.items()},
                                  ["cause", "event"])  # fmt: skip

    @property
    def exits(self) -> pd.DataFrame:
        """cause, exit, from_level, then the number of hardware exits of each label."""
        return self._side_by_side({label: _exits(r) for label, r in self._results.items()},
                                  list(EXIT_KEYS))  # fmt: skip

    @property
    def cycles(self) -> pd.DataFrame:
        """category, cause, then the cycles of each label; a column adds up to all its cycles."""
        parts = {label: r.costs.set_index(["category", "cause"])["cycles"]
                 for label, r in self._results.items()}  # fmt: skip
        return self._side_by_side(parts, ["category", "cause"], 0.0)

    @property
    def flushes(self) -> pd.DataFrame:
        """reason, scope, then the TLB flushes of each label."""
        parts = {label: r.tlb.set_index(["reason", "scope"])["flushes"]
                 for label, r in self._results.items()}  # fmt: skip
        return self._side_by_side(parts, ["reason", "scope"])

    @property
    def summary(self) -> pd.DataFrame:
        """:meth:`Result.summary` of each label, one row each, indexed by label."""
        rows = [result.summary() for result in self._results.values()]
        return pd.concat(rows, ignore_index=True).set_index(pd.Index(self._results, name="label"))

    def _side_by_side(
        self, parts: Mapping[str, pd.Series], keys: list[str], nothing: float = 0
    ) -> pd.DataFrame:
        table: pd.DataFrame = pd.concat({str(k): v for k, v in parts.items()}, axis=1)
        table = table.fillna(nothing)
        table.index = table.index.set_names(keys)
        if nothing == 0 and isinstance(nothing, int):
            table = table.astype("int64")
        return table.reset_index()

    # ---------------------------------------------------------------- why

    def exit_difference(self, label: str | None = None) -> pd.DataFrame:
        """Where the difference in hardware exits comes from.

        Parameters
        ----------
        label : str, optional
            What is compared with :attr:`base`; not needed when there is one other result.

        Returns
        -------
        DataFrame
            cause, exit, from_level, before, after, difference (these add up to the difference of
            all exits), per_operation (exits per operation of L2 with that cause, a Fraction; None
            where a side has no such operation).
        """
        here, there = self[self.base], self[self._other(label)]
        table = pd.concat({"before": _exits(here), "after": _exits(there)}, axis=1).fillna(0)
        table = table.astype("int64")
        table.index = table.index.set_names(list(EXIT_KEYS))
        table["difference"] = table["after"] - table["before"]
        table = table.reset_index()
        operations = [_operations(here), _operations(there)]
        pairs = zip(table["cause"], table["before"], table["after"], strict=True)
        table["per_operation"] = pd.Series(
            [_per_operation(cause, (b, a), operations) for cause, b, a in pairs], dtype=object
        )
        order = table["difference"].abs().sort_values(ascending=False, kind="stable").index
        return table.loc[order].reset_index(drop=True)

    def cycles_difference(self, label: str | None = None) -> pd.DataFrame:
        """Where the difference in cycles comes from.

        Returns
        -------
        DataFrame
            cause, event, difference (of the counts), cycles_by_count (difference x the price of
            the base) and cycles_by_price (the other's count x the difference in price); the two
            columns add up to the difference of all cycles.
        """
        here, there = self[self.base], self[self._other(label)]
        table = pd.concat({"before": _events(here), "after": _events(there)}, axis=1).fillna(0)
        table.index = table.index.set_names(["cause", "event"])
        table = table.reset_index()
        place = [EVENTS.index(event) for event in table["event"]]
        old, new = here.preset.vector()[place], there.preset.vector()[place]
        change = (table["after"] - table["before"]).astype("int64")
        found = table[["cause", "event"]].assign(
            difference=change, cycles_by_count=change * old,
            cycles_by_price=table["after"] * (new - old),
        )  # fmt: skip
        moved = found[["cycles_by_count", "cycles_by_price"]].abs().sum(axis=1)
        order = moved[moved > 0].sort_values(ascending=False, kind="stable").index
        return found.loc[order].reset_index(drop=True)

    def explain(self, label: str | None = None) -> list[str]:
        """The difference in exits, a sentence per root cause, the largest first.

        Such as ``−11 exits per L2 CPUID: VMREAD ×7, VMWRITE ×4``.
        """
        table = self.exit_difference(label)
        sentences: list[tuple[float, str]] = []
        for cause, rows in table.groupby("cause", sort=False):
            text = _sentence(str(cause), rows)
            if text:
                sentences.append((float(abs(rows["difference"]).sum()), text))
        sentences.sort(key=lambda pair: -pair[0])
        return [text for _, text in sentences]

    def to_text(self) -> str:
        """Everything as text of at most 72 columns."""
        from .comparison_text import text

        return text(self)

    def _other(self, label: str | None) -> str:
        if label is None and len(self.others) == 1:
            return self.others[0]
        if label is None:
            hint = f"name one: {', '.join(self.others)}" if self.others else "give two scenarios"
            raise ResultError(f"{len(self)} results have no one difference", hint)
        return label


def _flat(result: Result) -> dict[str, Any]:
    """Every setting of a scenario by its dotted name; parameters of other programs do not count."""
    flat: dict[str, Any] = {}
    for name, value in result.scenario.resolved().items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{entry}": v for entry, v in value.items()}
        else:
            flat[name] = value
    return flat | {"prices": result.preset.name}


def _exits(result: Result) -> pd.Series:
    return result.exits.groupby(list(EXIT_KEYS))["count"].sum()


def _events(result: Result) -> pd.Series:
    return result.counts.set_index(["cause", "event"])["count"]


def _operations(result: Result) -> dict[str, int]:
    """Operations of L2 by cause: its exits, whoever handled them."""
    counted = result.raw.exits[result.guest_level].sum(axis=(0, 1))
    return {cause: int(counted[i]) for i, cause in enumerate(CAUSES) if cause not in NO_OPERATION}


def _per_operation(
    cause: str, counts: tuple[int, int], operations: list[dict[str, int]]
) -> Fraction | None:
    before, after = (times.get(cause, 0) for times in operations)
    if not before or not after:
        return None
    return Fraction(int(counts[1]), after) - Fraction(int(counts[0]), before)


def _sentence(cause: str, rows: pd.DataFrame) -> str:
    single = any(value is None for value in rows["per_operation"])
    values = [Fraction(v) for v in rows["difference" if single else "per_operation"]]
    names = _names(list(rows["exit"]), list(rows["from_level"]))
    changed = [pair for pair in zip(names, values, strict=True) if pair[1]]
    if not changed:
        return ""
    total = sum((value for _, value in changed), Fraction(0))
    changed.sort(key=lambda part: -abs(part[1]))
    mixed = len({value > 0 for _, value in changed}) > 1
    parts = [f"{name}{_amount(value, mixed)}" for name, value in changed]
    where = f"under {cause}" if single else f"per L2 {cause}"
    noun = "exit" if abs(total) == 1 else "exits"
    return f"{signed(total)} {noun} {where}: {', '.join(parts)}"


def _names(exits: list[str], levels: list[str]) -> list[str]:
    """Exits with the level they come from, where the same one comes from two."""
    return [f"{name} of {level}" if exits.count(name) > 1 else name
            for name, level in zip(exits, levels, strict=True)]  # fmt: skip


def _amount(value: Fraction, mixed: bool) -> str:
    return (
        f" {signed(value)}"
        if mixed
        else f" ×{number(Fraction(abs(value.numerator), value.denominator))}"
    )


def number(value: Fraction) -> str:
    """A whole number without decimals, another with three digits that count."""
    if value.denominator == 1:
        return f"{value.numerator:,}"
    return f"{float(value):,.3g}" if value < 1000 else f"{float(value):,.0f}"


def signed(value: Fraction) -> str:
    """With its sign: +3, −11, ±0."""
    sign = "±" if not value else "+" if value.numerator > 0 else "−"
    return sign + number(Fraction(abs(value.numerator), value.denominator))
