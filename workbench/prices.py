"""Prices: cycles per counted event, as presets with a source and bounds for every value.

Cycles are always counts @ prices.  Prices are kept as multiples of 1/1024 cycle, the unit of the
kernel's own clock, so that both sums agree exactly.  What a price cannot express is not modelled:
data caches, the pipeline, and work that overlaps with other work.

A preset is a CSV file (columns and units: ``price_table``): shipped in ``data/prices``, or anybody's
own in the directory that ``WORKBENCH_PRICES`` names, or a DataFrame.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .core.ledger import EVENTS, N_EVENTS, TIME_SCALE
from .errors import PriceError, did_you_mean
from .paths import data_dir, user_prices_dir
from .price_table import (
    COLUMNS,
    KINDS,
    UNITS,
    check_events,
    checked,
    in_cycles,
    meta_number,
    with_bases,
)
from .tables import Table, parse_table, source_keys

__all__ = [
    "COLUMNS", "DEFAULT_PRESET", "KINDS", "PARTS", "UNITS", "PricePreset", "explain",
    "list_presets", "load_preset", "part_of", "preset_from_frame", "preset_from_table",
]  # fmt: skip

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
                "WALK_REFERENCE_NESTED", "PSC_HIT", "NESTED_TLB_HIT", "WALK_FROM_L1_CACHE",
                "WALK_FROM_L2_CACHE", "WALK_FROM_LLC", "WALK_FROM_MEMORY"}  # fmt: skip


def part_of(event: str) -> str:
    """The part of the cost chart that an event belongs to."""
    if event in ("L2_INSTRUCTION", "BARE_INSTRUCTION"):
        return "L2 work"
    if event == "IDLE_CYCLE":
        return "halted"
    if event in ("L1_INSTRUCTION", "L1_COLD_INSTRUCTION") or event.endswith(
        ("_SHADOWED", "_VIRTUALIZED")
    ):
        return "L1 handler"
    if event in _SWITCHES or event.startswith("HW_MSR_"):
        return "hardware switches"
    return "other address translation" if event in _TRANSLATION else "L0 software"


@dataclass(frozen=True, eq=False)
class PricePreset:
    """One set of prices. Immutable: :meth:`with_values` makes a changed copy.

    Attributes
    ----------
    name, title : str
    backend : str
        ``"svm"``, ``"vmx"`` or empty for both.
    clock_ghz : float or None
        Clock of the machine measured, None when nobody printed it.
    clock_source : str
        Who says so: a key of ``data/sources.bib`` and a place, empty when unknown.
    core : str
        Core whose TLB geometry belongs to these prices.
    """

    name: str
    title: str
    backend: str
    clock_ghz: float | None
    core: str
    _rows: pd.DataFrame
    clock_source: str = ""

    @property
    def frame(self) -> pd.DataFrame:
        """Rows in event order: event, value, low, high [cycles], unit, kind, source, group, note, part."""
        return self._rows.copy()

    def vector(self, bound: str = "value") -> np.ndarray:
        """Cycles per event, float64, shape (N_EVENTS,); ``bound`` is value, low or high."""
        return self._vectors[bound].copy()

    @cached_property
    def _vectors(self) -> dict[str, np.ndarray]:
        """Cycles per event by bound."""
        found = {}
        for bound in ("value", "low", "high"):
            found[bound] = np.zeros(N_EVENTS)
            found[bound][: len(EVENTS)] = self._rows[bound]
        return found

    def kernel_prices(self) -> np.ndarray:
        """Units of 1/1024 cycle per event, int64, shape (N_EVENTS,)."""
        return np.round(self.vector() * TIME_SCALE).astype(np.int64)

    def spread(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Cycles of some counts, and how far prices within their bounds can move them.

        Prices of one ``group`` rest on the same measurement or assumption: they are low together or
        high together, so their ranges add up.  Groups have nothing to do with each other, and that
        all of them are at their ends at once is not to be expected: their ranges are combined as
        the root of the sum of squares, downwards and upwards apart.  The result is narrower than
        the sum of all lows and highs, and never outside of it.  It says nothing about events that
        the model lacks.

        Parameters
        ----------
        counts : ndarray
            Events counted, not negative; the last axis has N_EVENTS places.

        Returns
        -------
        dict
            ``cycles``, ``cycles_low``, ``cycles_high``, each of the shape of ``counts`` without its
            last axis.
        """
        cycles = counts @ self.vector()
        below, above = (np.sqrt(((counts @ side) ** 2).sum(axis=-1)) for side in self._reach)
        return {"cycles": cycles, "cycles_low": cycles - below, "cycles_high": cycles + above}

    def spread_of_difference(
        self, first: np.ndarray, second: np.ndarray
    ) -> tuple[float, float, float]:
        """Cycles by which ``first`` exceeds ``second``, with the least and the most.

        Both are priced alike.  The bounds hold the difference at all low and at all high prices,
        and as far as groups within their bounds move it (see :meth:`spread`).

        Parameters
        ----------
        first, second : ndarray
            Events counted, shape (N_EVENTS,).
        """
        apart = first - second
        value = float(apart @ self.vector())
        moves = np.array([-(apart @ self._reach[0]), apart @ self._reach[1]])
        ends = [float(apart @ self.vector(bound)) for bound in ("low", "high")]
        below = np.sqrt((np.minimum(moves, 0).min(axis=0) ** 2).sum())
        above = np.sqrt((np.maximum(moves, 0).max(axis=0) ** 2).sum())
        return value, float(min(value - below, *ends)), float(max(value + above, *ends))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The group of each event; an event without one is a group of its own."""
        pairs = zip(self._rows["group"], EVENTS, strict=True)
        return tuple(group or event for group, event in pairs)

    @cached_property
    def _reach(self) -> tuple[np.ndarray, np.ndarray]:
        """Cycles from low to value, and from value to high: shape (N_EVENTS, groups)."""
        names = list(dict.fromkeys(self.groups))
        member = np.zeros((N_EVENTS, len(names)))
        member[np.arange(len(EVENTS)), [names.index(group) for group in self.groups]] = 1
        low, value, high = (self.vector(bound)[:, None] for bound in ("low", "value", "high"))
        return member * (value - low), member * (high - value)

    @property
    def hash(self) -> str:
        """SHA-256 over values and bounds; the name does not matter."""
        numbers = self._rows[["value", "low", "high"]].to_numpy(np.float64)
        return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()

    @property
    def sources(self) -> tuple[str, ...]:
        """Bibliography keys that these prices rest on, in order of use."""
        return self.sources_for(np.ones(N_EVENTS))

    def sources_for(self, counts: np.ndarray) -> tuple[str, ...]:
        """Bibliography keys behind the cycles of ``counts`` [event]: of prices that are not nothing."""
        used = (counts[: len(EVENTS)] != 0) & (self._rows["high"] > 0).to_numpy()
        cells = (key for cell in self._rows["source"][used] for key in source_keys(cell))
        return tuple(dict.fromkeys(key for key in cells if key != "user"))

    def price(self, event: str) -> float:
        """Cycles of one event."""
        self._check_names([event])
        return float(self.vector()[EVENTS.index(event)])

    def with_values(
        self, values: Mapping[str, float | tuple[float, float, float]], name: str | None = None
    ) -> PricePreset:
        """A copy with other prices, e.g. ``{"HW_EXIT": 500}`` or ``{"HW_EXIT": (low, value, high)}``.

        A single number has no band: low = value = high.
        """
        if not values:
            return self
        self._check_names(values)
        changed = name or (self.name if self.name.endswith("*") else self.name + "*")
        rows = self._rows.copy()
        for event, given in values.items():
            low, value, high = given if isinstance(given, (tuple, list)) else (given,) * 3
            at = EVENTS.index(event)
            row = {"event": event, "low": low, "value": value, "high": high, "unit": "cycles"}
            row["note"] = f"set by hand; {self.price(event):g} in {self.name}"
            row |= {"kind": "assumed", "source": "user", "group": ""}
            for column, cell in in_cycles(row, {}, f"prices {changed!r}").items():
                rows.at[at, column] = cell
        return replace(self, name=changed, _rows=rows)

    def to_csv(self) -> str:
        """The preset as text that :func:`load_preset` reads back."""
        clock = "" if self.clock_ghz is None else f"{self.clock_ghz:g}"
        meta = {"title": self.title, "backend": self.backend, "clock_ghz": clock,
                "clock_source": self.clock_source, "core": self.core}  # fmt: skip
        head = "".join(f"# {key}: {value}\n" for key, value in meta.items())
        return head + self._rows[list(COLUMNS)].to_csv(index=False, lineterminator="\n")

    def _check_names(self, names: Iterable[str]) -> None:
        check_events(list(names), "prices")


def _with_parts(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(part=[part_of(event) for event in EVENTS])


def preset_from_table(name: str, table: Table, where: str) -> PricePreset:
    """A preset from a parsed CSV; ``where`` names the file in errors."""
    meta, rows = with_bases(table, where, _find_base)
    backend = meta.get("backend", "")
    if backend not in ("", "svm", "vmx"):
        raise PriceError(f"{where}: backend is {backend!r}", "svm, vmx, or empty for both")
    core = meta.get("core") or _default_core(backend or "svm")
    made = _with_parts(checked(pd.DataFrame(rows, columns=list(COLUMNS)), meta, where))
    return PricePreset(
        name, meta["title"] or name, backend, meta_number(meta, "clock_ghz", where), core, made,
        meta.get("clock_source", ""),
    )  # fmt: skip


def _default_core(backend: str) -> str:
    return load_preset(DEFAULT_PRESET[backend]).core


def preset_from_frame(
    frame: pd.DataFrame, name: str = "user", *, backend: str = "", core: str = "",
    clock_ghz: float | None = None, title: str = "", base: str = "",
) -> PricePreset:  # fmt: skip
    """A preset from a DataFrame with columns of :data:`COLUMNS` (event and value suffice).

    ``base`` names a preset whose rows, core, clock and back-end hold where nothing else is given;
    without it the frame must have a row for every event.
    """
    given = {"title": title, "backend": backend, "core": core, "base": base,
             "clock_ghz": "" if clock_ghz is None else f"{clock_ghz:g}"}  # fmt: skip
    where = f"prices {name!r}"
    records = frame.drop(columns="part", errors="ignore").to_dict("records")
    rows = [{str(name): cell for name, cell in record.items()} for record in records]
    columns = tuple(str(column) for column in frame.columns if column != "part")
    meta = {key: value for key, value in given.items() if value}
    return preset_from_table(name, Table(meta, columns, tuple(rows)), where)


# ---------------------------------------------------------------- finding presets


@cache
def _shipped_files() -> dict[str, Path]:
    return {path.stem: path for path in sorted((data_dir() / "prices").glob("*.csv"))}


@cache
def _shipped(name: str) -> PricePreset:
    path = _shipped_files()[name]
    return preset_from_table(name, parse_table(path.read_text(encoding="utf-8")), path.name)


def _user_files() -> dict[str, Path]:
    place = user_prices_dir()
    return {path.stem: path for path in sorted(place.glob("*.csv"))} if place.is_dir() else {}


@cache
def _from_file(path: Path, changed_ns: int) -> PricePreset:
    """A preset from a file, read again only when the file has changed."""
    return preset_from_table(path.stem, _read(path), path.name)


def _read(path: Path) -> Table:
    try:
        return parse_table(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        unread = isinstance(problem, (OSError, UnicodeDecodeError))
        names = f"shipped presets: {', '.join(_shipped_files())}"
        hint = names if unread else "put cells with commas between double quotes"
        why = getattr(problem, "strerror", None) or problem
        raise PriceError(f"{path}: cannot read prices: {why}", hint) from problem


def _load_file(path: Path) -> PricePreset:
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _from_file(path, changed)


def _find_base(name: str) -> tuple[Table, str]:
    """The table of a base: of a back-end (``data/prices/base``), a shipped preset, or a user's."""
    ours = data_dir() / "prices" / "base" / f"{name}.csv"
    path = ours if ours.is_file() else _shipped_files().get(name) or _user_files().get(name)
    if path is None:
        known = (*_shipped_files(), *_user_files())
        raise PriceError(f"no prices called {name!r} to be the base", did_you_mean(name, known))
    return _read(path), path.name


def list_presets(backend: str | None = None) -> tuple[str, ...]:
    """Names of the presets, shipped and the user's own, of one back-end when given.

    A file of the user's directory that is not a preset, or has the name of a shipped one, is left
    out with a warning; :func:`load_preset` raises the error.
    """
    names = [*_shipped_files(), *(name for name in _user_files() if name not in _shipped_files())]
    return tuple(name for name in names if _is_for(name, backend))


def _is_for(name: str, backend: str | None) -> bool:
    try:
        return load_preset(name).backend in ("", backend or load_preset(name).backend)
    except PriceError as problem:
        warnings.warn(f"a price file is left out: {problem}", stacklevel=3)
        return False


def load_preset(name: str | Path) -> PricePreset:
    """A preset by name (shipped, or a file NAME.csv in the user's directory), or by a file's path.

    The user's directory is the one that ``WORKBENCH_PRICES`` names, else ``prices`` in the
    workbench's configuration directory (:func:`workbench.paths.user_prices_dir`).

    Raises
    ------
    PriceError
        No such preset or file, or a row that is missing, unknown, doubled or not a price.
    """
    own = _user_files().get(str(name))
    if str(name) in _shipped_files():
        if own is not None:
            message = f"{own} has the name of a shipped preset"
            raise PriceError(message, "rename the file; '# base: ' can still name the shipped one")
        return _shipped(str(name))
    path = own or Path(name)
    if path.suffix != ".csv":
        known = (*_shipped_files(), *_user_files())
        raise PriceError(f"no price preset called {str(name)!r}", did_you_mean(str(name), known))
    return _load_file(path)


def explain(result: Any, cause: str) -> str:
    """The bill of one operation of a :class:`Result`: events x price = cycles, with sources.

    The ledger's row of root cause ``cause`` (for example ``"CPUID"``) as plain text of at most 80
    columns; :meth:`Result.explain` is the same.
    """
    bill: str = result.explain(cause)
    return bill
