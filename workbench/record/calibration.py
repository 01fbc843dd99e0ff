"""Calibration: named terms fitted to single-level figures and unit costs, and to nothing else.

One fit per price preset, that is, per processor and the hypervisor measured on it.  The unknowns are
factors, one per term of ``data/published/terms.csv``; a term scales the prices of its events
together.  They minimise

    sum over rows of ((predicted - measured) / measured)^2
        + RIDGE * sum over terms of (factor - 1)^2,        low <= factor <= high,

over single-level operations and unit costs, so a term that no row speaks of stays as the preset has
it.  Cycles are linear in the factors, since they are counts @ prices; the counts come from one run
per operation, those of a unit cost from ``data/published/units.csv``.

The split is honest by construction: :func:`calibrate` gets its rows from
:func:`workbench.record.published.single_level` and refuses any other.  Some rows decide a term alone and
are then met exactly; the residuals say which rows share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .. import simulate
from ..core.ledger import CAUSES, EVENTS, N_EVENTS
from ..errors import PriceError, did_you_mean
from ..paths import write_atomically
from ..prices import PricePreset, load_preset, preset_from_frame
from ..result import Result
from ..study.point_store import PointStore
from ..tables import data_table
from .published import SINGLE, Case, Unit, presets_with_units, single_level, units

RIDGE = 1e-4
"""Weight of the preset's own values; small, so that a row that speaks of a term decides it."""
MOSTLY = 0.5
"""Share of a unit cost from which on it speaks of a term that only unit costs may move."""
_SWEEPS = 10_000
_CLOSE = 1e-12


@dataclass(frozen=True)
class Term:
    """A cost that may be fitted: a factor on the prices of some events."""

    name: str
    events: tuple[str, ...]
    low: float
    high: float
    by_units: bool = False
    """It moves only where a unit cost consists of it for the greater part."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a fit found.

    Attributes
    ----------
    preset : PricePreset
        The fitted prices; the changed rows have kind ``derived`` and name the rows used.
    terms : DataFrame
        term, events, low, high (bounds of the factor), factor, before, after [cycles, sum of the
        events' prices], rows (ids that speak of it).
    rows : DataFrame
        id, operation, kind ("operation" or "unit"), measured, before, after [cycles], residual
        (share of measured).
    """

    preset: PricePreset
    terms: pd.DataFrame
    rows: pd.DataFrame

    def to_text(self) -> str:
        """Both tables for a terminal."""

        def number(value: float) -> str:
            return f"{value:,.3g}" if abs(value) < 10 else f"{value:,.0f}"

        head = f"{self.preset.title}"
        tables = (self.terms.drop(columns="events"), self.rows)
        return "\n\n".join([head, *(t.to_string(index=False, float_format=number) for t in tables)])

    def save(self, path: str | Path) -> Path:
        """Write the fitted preset, all or nothing; ``load_preset`` and ``prices=`` take the path."""
        path = Path(path)
        if path.suffix != ".csv":
            raise PriceError(f"{path}: a preset is a .csv file", "end the name with .csv")
        try:
            write_atomically(path, self.preset.to_csv().encode())
        except OSError as problem:
            reason = problem.strerror or str(problem)
            raise PriceError(f"{path}: cannot write prices: {reason}", "check the path") from None
        return path


def terms() -> tuple[Term, ...]:
    """The terms of ``data/published/terms.csv``."""
    return tuple(
        Term(
            row["term"],
            tuple(row["events"].split()),
            float(row["low"]),
            float(row["high"]),
            row["by"] == "units",
        )
        for row in data_table("published/terms").rows
    )


def presets_with_rows() -> tuple[str, ...]:
    """Price presets for which there are single-level rows or unit costs to fit."""
    fitted = (case.preset for case in single_level() if case.fit)
    return tuple(dict.fromkeys((*fitted, *presets_with_units())))


def calibrate(
    preset: str, *, progress: simulate.ProgressCallback | None = None,
    store: PointStore | None = None,
) -> Calibration:  # fmt: skip
    """Fit the software terms of a preset to its single-level rows.

    Parameters
    ----------
    preset : str
        A shipped preset that has such rows, see :func:`presets_with_rows`.
    progress : callable, optional
        Called with a :class:`workbench.simulate.Progress` whose steps are rows.
    store : PointStore, optional
        Where the runs are kept and found again; by default in the user's cache.

    Returns
    -------
    Calibration

    Raises
    ------
    PriceError
        No such preset, or none with single-level rows.
    """
    cases = [case for case in single_level() if case.fit and case.preset == preset]
    known_units = units(preset)
    if not cases and not known_units:
        known = presets_with_rows()
        hint = did_you_mean(preset, known) or f"presets with rows: {', '.join(known)}"
        raise PriceError(f"no single-level rows to fit {preset!r} to", hint)
    results = run_cases(cases, None, progress, store)
    counts = np.array([_counts(case, r) for case, r in zip(cases, results, strict=True)])
    return fit(load_preset(preset), cases, counts.reshape(-1, N_EVENTS), known_units)


def fit(
    preset: PricePreset, cases: Sequence[Case], counts: np.ndarray, known_units: Sequence[Unit] = ()
) -> Calibration:
    """Fit the terms to rows whose events per operation are known, and to unit costs.

    Parameters
    ----------
    cases : sequence of Case
        Single-level ones that may be fitted.
    counts : ndarray
        Events per operation, float64, shape (cases, N_EVENTS).
    known_units : sequence of Unit
        Unit costs that speak of these prices.

    Raises
    ------
    PriceError
        One of the rows is nested, or not to be fitted to.
    """
    for case in cases:
        if case.level != SINGLE or not case.fit:
            message = f"{case.id} ({case.level}) must not be fitted to"
            raise PriceError(message, "a fit takes single-level rows with fit = y only")
    known = terms()
    rows: list[Case | Unit] = [*cases, *known_units]
    prices = preset.vector()
    counts = np.vstack([counts, *(_unit_counts(unit) for unit in known_units)])
    parts = np.array([counts @ _only(prices, term.events) for term in known]).T
    measured = np.array([row.measured for row in rows])
    rest = counts @ prices - parts.sum(axis=1)
    low, high = (np.array([getattr(t, side) for t in known]) for side in ("low", "high"))
    alone = (parts[len(cases) :] > MOSTLY * (counts @ prices)[len(cases) :, None]).any(axis=0)
    fixed = np.array([t.by_units for t in known]) & ~alone
    low, high = np.where(fixed, 1, low), np.where(fixed, 1, high)
    factors = bounded_least_squares(
        np.vstack([parts / measured[:, None], np.sqrt(RIDGE) * np.eye(len(known))]),
        np.concatenate([1 - rest / measured, np.full(len(known), np.sqrt(RIDGE))]), low, high,
    )  # fmt: skip
    fitted = _fitted(preset, known, factors, rows, np.where(fixed, 0, parts))
    before, after = rest + parts.sum(axis=1), counts @ fitted.vector()
    table = pd.DataFrame({
        "id": [row.id for row in rows], "operation": [row.operation for row in rows],
        "kind": ["operation"] * len(cases) + ["unit"] * len(known_units),
        "measured": measured, "before": before, "after": after,
        "residual": after / measured - 1,
    })  # fmt: skip
    found = pd.DataFrame({
        "term": [t.name for t in known], "events": [" ".join(t.events) for t in known],
        "low": low, "high": high, "factor": factors,
        "before": [_only(prices, t.events).sum() for t in known],
        "after": [_only(fitted.vector(), t.events).sum() for t in known],
        "rows": ["" if stays else " ".join(_speaking(rows, column))
                 for stays, column in zip(fixed, parts.T, strict=True)],
    })  # fmt: skip
    return Calibration(fitted, found, table)


def _unit_counts(unit: Unit) -> np.ndarray:
    counts = np.zeros((1, N_EVENTS))
    for event, number in unit.events.items():
        if event not in EVENTS:
            hint = did_you_mean(event, EVENTS)
            raise PriceError(f"units.csv, {unit.id}: no event called {event!r}", hint)
        counts[0, EVENTS.index(event)] = number
    return counts


def bounded_least_squares(
    matrix: np.ndarray, target: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The x within bounds that makes |matrix @ x - target| smallest; one unknown at a time.

    The sum of squares is convex and the bounds are a box, so going through the unknowns in turn,
    each set to its best value within its bounds, converges to the one minimum.  The columns must be
    independent.
    """
    x = np.clip(np.ones(matrix.shape[1]), low, high)
    squares = (matrix**2).sum(axis=0)
    for _ in range(_SWEEPS):
        before = x.copy()
        for i in range(len(x)):
            slope = matrix[:, i] @ (target - matrix @ x)
            x[i] = np.clip(x[i] + slope / squares[i], low[i], high[i])
        if np.abs(x - before).max() < _CLOSE:
            break
    return x


def run_cases(
    cases: Sequence[Case], presets: dict[str, PricePreset] | None = None,
    progress: simulate.ProgressCallback | None = None, store: PointStore | None = None,
) -> list[Result]:  # fmt: skip
    """Run cases one after the other, each at the prices of its preset or its replacement.

    Points are kept in ``store`` and found again; ``progress`` counts cases.
    """
    store = PointStore() if store is None else store
    done: list[Result] = []
    for case in cases:
        if progress is not None:
            progress(simulate.Progress("points", len(done), len(cases)))
        scenario = case.scenario((presets or {}).get(case.preset))
        result = store.get(scenario)
        if result is None:
            result = simulate.run(scenario, None if done else progress)
            store.put(result)
        done.append(result)
    return done


def _counts(case: Case, result: Result) -> np.ndarray:
    operations = result.operations.set_index("cause")["operations"]
    counts = result.raw.counts[CAUSES.index(case.cause)] / float(operations[case.cause])
    if case.measure.startswith("handling"):
        counts[[EVENTS.index("HW_EXIT"), EVENTS.index("HW_ENTRY")]] = 0
    return counts


def _only(prices: np.ndarray, events: Sequence[str]) -> np.ndarray:
    kept = np.zeros_like(prices)
    for event in events:
        kept[EVENTS.index(event)] = prices[EVENTS.index(event)]
    return kept


def _speaking(rows: Sequence[Case | Unit], column: np.ndarray) -> list[str]:
    return [row.id for row, part in zip(rows, column, strict=True) if part > 0]


def _fitted(
    preset: PricePreset, known: Sequence[Term], factors: np.ndarray,
    cases: Sequence[Case | Unit], parts: np.ndarray,
) -> PricePreset:  # fmt: skip
    rows = {row["event"]: row for row in preset.frame.to_dict("records")}
    for term, factor, column in zip(known, factors, parts.T, strict=True):
        used = _speaking(cases, column)
        if not used:
            continue
        sources = dict.fromkeys(case.source for case in cases if case.id in used)
        for event in term.events:
            row = rows[event]
            value = float(row["value"]) * float(factor)
            note = (
                f"{row['value']:g} of {preset.name} x {factor:.4g}, term {term.name!r} "
                f"fitted to single-level rows {', '.join(used)}"
            )
            rows[event] = row | {
                "value": value, "low": min(float(row["low"]), value),
                "high": max(float(row["high"]), value), "kind": "derived",
                "source": "; ".join(sources), "note": note,
            }  # fmt: skip
    return preset_from_frame(
        pd.DataFrame(rows.values()), f"{preset.name}-fitted", backend=preset.backend,
        core=preset.core, clock_ghz=preset.clock_ghz,
        title=f"{preset.title}; software fitted to single-level rows",
    )  # fmt: skip
