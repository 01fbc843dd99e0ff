"""Prices: cycles per counted event, as presets with a source and bounds for every value.

Cycles are always counts @ prices.  Prices are kept as multiples of 1/1024 cycle, the unit of the
kernel's own clock, so that both sums agree exactly.  What a price cannot express is not modelled:
data caches, the pipeline, and work that overlaps with other work.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .core.ledger import EVENTS, N_EVENTS, TIME_SCALE
from .errors import PriceError, did_you_mean
from .paths import data_dir
from .tables import Table, parse_table, source_keys

COLUMNS = ("event", "value", "low", "high", "unit", "kind", "source", "note")
KINDS = ("measured", "manual", "derived", "assumed")
DEFAULT_PRESET = {"svm": "zen", "vmx": "nehalem"}

PARTS = (
    "L2 work",
    "L1 handler",
    "hardware switches",
    "L0 software",
    "walks after flushes",
    "other address translation",
    "halted",
)
"""Where cycles go, in the order of the cost chart. The kernel counts the walks after flushes per
reason; they are taken out of 'other address translation' (see ``frames.costs_frame``)."""

_SWITCHES = {"HW_EXIT", "HW_ENTRY", "PERMISSION_MAP_LOOKUP", "PAUSE_FILTERED", "VMCB_GROUP_KEPT",
             "PML_ENTRY_LOGGED"}  # fmt: skip
_TRANSLATION = {"TLB1_HIT", "TLB2_HIT", "TLB_MISS", "TLB_EVICTION", "WALK_REFERENCE_GUEST",
                "WALK_REFERENCE_NESTED", "PSC_HIT", "NESTED_TLB_HIT"}  # fmt: skip


def part_of(event: str) -> str:
    """The part of the cost chart that an event belongs to."""
    if event in ("L2_INSTRUCTION", "BARE_INSTRUCTION"):
        return "L2 work"
    if event == "IDLE_CYCLE":
        return "halted"
    if event == "L1_INSTRUCTION" or event.endswith(("_SHADOWED", "_VIRTUALIZED")):
        return "L1 handler"
    if event in _SWITCHES or event.startswith("HW_MSR_"):
        return "hardware switches"
    return "other address translation" if event in _TRANSLATION else "L0 software"


def _quantise(numbers: pd.Series) -> pd.Series:
    return (numbers * TIME_SCALE).round() / TIME_SCALE


@dataclass(frozen=True, eq=False)
class PricePreset:
    """One set of prices. Immutable: :meth:`with_values` makes a changed copy.

    Attributes
    ----------
    name, title : str
    backend : str
        ``"svm"``, ``"vmx"`` or empty for both.
    clock_ghz : float or None
        Clock of the machine measured, None when its source does not print it.
    core : str
        Core whose TLB geometry belongs to these prices.
    """

    name: str
    title: str
    backend: str
    clock_ghz: float | None
    core: str
    _rows: pd.DataFrame

    @property
    def frame(self) -> pd.DataFrame:
        """Rows in event order: event, value, low, high [cycles], unit, kind, source, note, part."""
        return self._rows.copy()

    def vector(self, bound: str = "value") -> np.ndarray:
        """Cycles per event, float64, shape (N_EVENTS,); ``bound`` is value, low or high."""
        cycles = np.zeros(N_EVENTS)
        cycles[: len(EVENTS)] = self._rows[bound]
        return cycles

    def kernel_prices(self) -> np.ndarray:
        """Units of 1/1024 cycle per event, int64, shape (N_EVENTS,)."""
        return np.round(self.vector() * TIME_SCALE).astype(np.int64)

    @property
    def hash(self) -> str:
        """SHA-256 over values and bounds; the name does not matter."""
        numbers = self._rows[["value", "low", "high"]].to_numpy(np.float64)
        return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()

    @property
    def sources(self) -> tuple[str, ...]:
        """Bibliography keys that these prices rest on, in order of use."""
        cells = (key for cell in self._rows["source"] for key in source_keys(cell))
        return tuple(dict.fromkeys(key for key in cells if key != "user"))

    def price(self, event: str) -> float:
        """Cycles of one event."""
        self._check_names([event])
        return float(self._rows.loc[self._rows["event"] == event, "value"].iloc[0])

    def with_values(
        self, values: Mapping[str, float | tuple[float, float, float]], name: str | None = None
    ) -> PricePreset:
        """A copy with other prices, e.g. ``{"HW_EXIT": 500}`` or ``{"HW_EXIT": (low, value, high)}``.

        A single number has no band: low = value = high.
        """
        if not values:
            return self
        self._check_names(values)
        rows = self._rows.to_dict("records")
        for event, given in values.items():
            low, value, high = given if isinstance(given, (tuple, list)) else (given,) * 3
            row = rows[EVENTS.index(event)]
            note = f"set by hand; {row['value']:g} in {self.name}"
            row |= {"low": low, "value": value, "high": high}
            row |= {"kind": "assumed", "source": "user", "note": note}
        changed = name or (self.name if self.name.endswith("*") else self.name + "*")
        return replace(
            self, name=changed, _rows=_checked(pd.DataFrame(rows), f"prices {changed!r}")
        )

    def to_csv(self) -> str:
        """The preset as text that :func:`load_preset` reads back."""
        clock = "" if self.clock_ghz is None else f"{self.clock_ghz:g}"
        meta = {"title": self.title, "backend": self.backend, "clock_ghz": clock, "core": self.core}
        head = "".join(f"# {key}: {value}\n" for key, value in meta.items())
        return head + self._rows[list(COLUMNS)].to_csv(index=False, lineterminator="\n")

    def _check_names(self, names: Iterable[str]) -> None:
        for event in names:
            if event not in EVENTS:
                raise PriceError(f"no event called {event!r} to price", did_you_mean(event, EVENTS))


def _numbers(cells: pd.Series, column: str, where: str, events: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    for event, cell, number in zip(events, cells, numbers, strict=True):
        if not (math.isfinite(number) and 0 <= number < 1e9):
            hint = "prices are cycles: 0 or more"
            raise PriceError(f"{where}: {column} of {event} is {cell!r}", hint)
    return _quantise(numbers)


def _checked(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Rows in event order with quantised numbers, or one PriceError that says what is wrong."""
    missing = [c for c in ("event", "value") if c not in rows.columns]
    if missing:
        hint = f"the columns are {', '.join(COLUMNS)}; event and value are needed"
        raise PriceError(f"{where}: column {missing[0]!r} is missing", hint)
    rows = rows.reset_index(drop=True).copy()
    for event in rows["event"]:
        if event not in EVENTS:
            raise PriceError(f"{where}: no event called {event!r}", did_you_mean(event, EVENTS))
    doubled = rows["event"][rows["event"].duplicated()]
    if len(doubled):
        raise PriceError(f"{where}: {doubled.iloc[0]} has two prices", "keep one row per event")
    absent = [event for event in EVENTS if event not in set(rows["event"])]
    if absent:
        hint = "start from an existing preset: load_preset(name).to_csv() has every event"
        raise PriceError(f"{where}: no price for {absent[0]} ({len(absent)} missing)", hint)
    defaults: dict[str, Any] = {"low": rows["value"], "high": rows["value"], "unit": "cycles",
                "kind": "assumed", "source": "user", "note": ""}  # fmt: skip
    for column, default in defaults.items():
        rows[column] = rows[column].fillna("") if column in rows.columns else default
    texts = ["event", "unit", "kind", "source", "note"]
    rows[texts] = rows[texts].astype(str)
    for column in ("value", "low", "high"):
        rows[column] = _numbers(rows[column], column, where, rows["event"])
    _check_text(rows, where)
    order = rows.set_index("event").loc[list(EVENTS)].reset_index()[list(COLUMNS)]
    return order.assign(part=[part_of(event) for event in EVENTS])


def _check_text(rows: pd.DataFrame, where: str) -> None:
    wrong = rows[(rows["low"] > rows["value"]) | (rows["value"] > rows["high"])]
    if len(wrong):
        event = wrong["event"].iloc[0]
        raise PriceError(f"{where}: {event} breaks low <= value <= high", "widen low or high")
    for column, allowed in (("unit", ("cycles",)), ("kind", KINDS)):
        for event, cell in zip(rows["event"], rows[column], strict=True):
            if cell not in allowed:
                hint = f"allowed: {', '.join(allowed)}"
                raise PriceError(f"{where}: {column} of {event} is {cell!r}", hint)


def preset_from_table(name: str, table: Table, where: str) -> PricePreset:
    """A preset from a parsed CSV; ``where`` names the file in errors."""
    meta = table.meta
    backend, clock = meta.get("backend", ""), meta.get("clock_ghz", "")
    if backend not in ("", "svm", "vmx"):
        raise PriceError(f"{where}: backend is {backend!r}", "svm, vmx, or empty for both")
    try:
        ghz = float(clock) if clock else None
    except ValueError:
        hint = "a number in GHz, or empty"
        raise PriceError(f"{where}: clock_ghz is {clock!r}", hint) from None
    core = meta.get("core") or _default_core(backend or "svm")
    rows = _checked(pd.DataFrame(table.rows, columns=list(table.columns)), where)
    return PricePreset(name, meta.get("title", name), backend, ghz, core, rows)


def _default_core(backend: str) -> str:
    return load_preset(DEFAULT_PRESET[backend]).core


def preset_from_frame(
    frame: pd.DataFrame, name: str = "user", *, backend: str = "", core: str = "",
    clock_ghz: float | None = None, title: str = "",
) -> PricePreset:  # fmt: skip
    """A preset from a DataFrame with the columns of :data:`COLUMNS` (event and value suffice)."""
    rows = _checked(frame, f"prices {name!r}")
    core = core or _default_core(backend or "svm")
    return PricePreset(name, title or name, backend, clock_ghz, core, rows)


@cache
def _shipped(name: str) -> PricePreset:
    path = data_dir() / "prices" / f"{name}.csv"
    return preset_from_table(name, parse_table(path.read_text(encoding="utf-8")), path.name)


@cache
def _shipped_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (data_dir() / "prices").glob("*.csv")))


def list_presets(backend: str | None = None) -> tuple[str, ...]:
    """Names of the shipped presets, of one back-end when given."""
    names = _shipped_names()
    return tuple(n for n in names if backend is None or _shipped(n).backend in ("", backend))


def load_preset(name: str | Path) -> PricePreset:
    """A shipped preset by name, or a user's by the path of its CSV file.

    Raises
    ------
    PriceError
        No such preset or file, or a row that is missing, unknown, doubled or not a price.
    """
    if str(name) in _shipped_names():
        return _shipped(str(name))
    path = Path(name)
    if path.suffix != ".csv":
        raise PriceError(
            f"no price preset called {str(name)!r}", did_you_mean(str(name), _shipped_names())
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        hint = f"shipped presets: {', '.join(_shipped_names())}"
        raise PriceError(f"cannot read price file {path}: {problem}", hint) from problem
    return preset_from_table(path.stem, parse_table(text), path.name)
