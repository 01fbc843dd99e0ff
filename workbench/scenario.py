"""What to simulate: one frozen, validated value that fixes every count of a run.

A scenario names programs, features, sizes and prices; it runs nothing.  Only what differs from the
defaults needs to be given, and only that is written to files; :meth:`Scenario.resolved` has all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from . import features as features_module
from . import personality, scenario_text
from .core.ledger import TIMELINE_LENGTH
from .core.mmu.records import MAX_TAGS
from .errors import GuestError, ScenarioError, WorkbenchError, did_you_mean
from .frozen import FrozenMap
from .geometry import load_tlb_geometry
from .prices import DEFAULT_PRESET, PricePreset, load_preset

PAGE_SIZES = ("4k", "2m", "1g")
MAX_MEMORY_MB = 240
"""L1's and L2's memory together; the rest of the simulated RAM is L0's."""
MIN_MEMORY_MB = 4
MIN_BALLOON_PERIOD = 50
"""Emptied tables fill fault by fault: with less between two changes L2 might never move on."""
_MAPPINGS = ("l1_params", "l2_params", "features", "deviations", "price_values")
_RANGES = {
    "l2_memory_mb": (MIN_MEMORY_MB, MAX_MEMORY_MB - MIN_MEMORY_MB),
    "l1_memory_mb": (MIN_MEMORY_MB, MAX_MEMORY_MB - MIN_MEMORY_MB),
    "max_instructions": (1, 1 << 60),
    "seed": (0, (1 << 63) - 1),
    "timeline": (0, TIMELINE_LENGTH),
    "host_tick_cycles": (0, 1 << 40),
    "nmi_cycles": (0, 1 << 40),
    "asids": (0, MAX_TAGS),
    "balloon_period": (MIN_BALLOON_PERIOD, 1 << 60),
}
MIN_PERIOD_CYCLES = 10_000
"""Shortest period of a scripted event: L0 alone needs some thousands of cycles for one."""


@dataclass(frozen=True)
class Scenario:
    """One machine with its two levels of guests.

    Parameters
    ----------
    backend : {"svm", "vmx"}
    l1, l2 : str
        Names of guest programs (``workbench list``) or paths of assembly files.  ``l1="none"`` is a
        single-level run: the L2 program runs as L0's own guest.
    l1_params, l2_params : mapping of str to int
        Words of the programs' parameter pages.
    l0 : {"xen", "kvm", "manual"}
        Whose way of nested HVM L0 has; ``manual``: none of the known deviations.
    features : mapping
        Toggles that differ from their defaults, see ``features.catalogue()``.
    deviations : mapping of str to bool
        Deviations of L0 from the manuals that differ from those of ``l0``, see ``wb.deviations()``.
    prices : str, optional
        Price preset or path of a price file; by default the back-end's own.
    price_values : mapping of str to float
        Prices that differ from the preset [cycles per event].
    cpu : str, optional
        Core whose TLB geometry is simulated; by default that of the price preset.
    l2_page_size : {"4k", "2m", "1g"}
        Pages of L2's own tables.
    l2_memory_mb, l1_memory_mb : int
        Memory [MiB]; together at most 240.
    max_instructions : int
        Stop after so many instructions of all levels.
    seed : int
        For everything drawn at random; the same seed gives the same run.
    timeline : int
        Record so many timeline entries, at most 16384.
    host_tick_cycles : int
        Period of an external interrupt for L0 itself [cycles of simulated time], 0 for none.
    nmi_cycles : int
        Period of an NMI that L0 hands on to L1 [cycles of simulated time], 0 for none.
    asids : int
        Tags that the processor has, tag 0 (the host's) included; 0: 64 ASIDs on SVM, 65536 VPIDs
        on VMX.
    balloon_period : int
        Exits between two changes that L0 makes to its own table (feature ``l0_p2m_event``), at least
        50.

    Raises
    ------
    ScenarioError, FeatureError, PriceError, GuestError
        On the first thing that cannot be used, with a hint what to do.
    """

    backend: str = "svm"
    l1: str = "minimal"
    l2: str = "cpuid"
    l1_params: Mapping[str, int] = field(default_factory=FrozenMap)
    l2_params: Mapping[str, int] = field(default_factory=FrozenMap)
    l0: str = "xen"
    features: Mapping[str, Any] = field(default_factory=FrozenMap)
    deviations: Mapping[str, bool] = field(default_factory=FrozenMap)
    prices: str | None = None
    price_values: Mapping[str, float] = field(default_factory=FrozenMap)
    cpu: str | None = None
    l2_page_size: str = "2m"
    l2_memory_mb: int = 64
    l1_memory_mb: int = 64
    max_instructions: int = 2_000_000_000
    seed: int = 0
    timeline: int = 10_000
    host_tick_cycles: int = 0
    nmi_cycles: int = 0
    asids: int = 0
    balloon_period: int = 200

    def __post_init__(self) -> None:
        if self.backend not in features_module.BACKENDS:
            hint = f"back-ends: {', '.join(features_module.BACKENDS)}"
            raise ScenarioError(f"backend cannot be {self.backend!r}", hint)
        for name in _MAPPINGS:
            self._set(name, FrozenMap(_mapping(name, getattr(self, name))))
        for name, bounds in _RANGES.items():
            self._set(name, _integer(name, getattr(self, name), *bounds))
        self._set("l1_params", FrozenMap(_words("l1_params", self.l1_params)))
        self._set("l2_params", FrozenMap(_words("l2_params", self.l2_params)))
        self._set("price_values", FrozenMap(_prices(self.price_values)))
        self._set("prices", None if self.prices is None else str(self.prices))
        if self.asids == 1:
            raise ScenarioError("asids is 1", "0, or at least 2: tag 0 is the host's own")
        self._check_memory()
        self._check_periods()
        personality.check_l0(self.l0)
        resolved = features_module.resolve(self.backend, self.features, self.l0)
        self._set("features", FrozenMap({name: resolved[name] for name in self.features}))
        states = personality.resolve(self.l0, self.backend, self.deviations)
        self._set("deviations", FrozenMap({name: states[name] for name in self.deviations}))
        self._check_prices()
        for level in (1, 2):
            self._check_guest(level)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_memory(self) -> None:
        if self.l2_page_size not in PAGE_SIZES:
            hint = f"page sizes: {', '.join(PAGE_SIZES)}"
            raise ScenarioError(f"l2_page_size cannot be {self.l2_page_size!r}", hint)
        total = self.l1_memory_mb + self.l2_memory_mb
        if total > MAX_MEMORY_MB:
            hint = "lower l1_memory_mb or l2_memory_mb"
            message = f"l1_memory_mb + l2_memory_mb is {total}, at most {MAX_MEMORY_MB} are there"
            raise ScenarioError(message, hint)

    def _check_periods(self) -> None:
        for name in ("host_tick_cycles", "nmi_cycles"):
            if 0 < getattr(self, name) < MIN_PERIOD_CYCLES:
                hint = f"0 for none, or {MIN_PERIOD_CYCLES} and more"
                raise ScenarioError(f"{name} cannot be {getattr(self, name)}", hint)

    def _check_prices(self) -> None:
        if self.preset.backend not in ("", self.backend):
            hint = f"use {DEFAULT_PRESET[self.backend]!r}, or leave prices out"
            message = (
                f"prices {self.preset_name!r} are for {self.preset.backend}, not {self.backend}"
            )
            raise ScenarioError(message, hint)
        load_tlb_geometry(self.cpu_name)

    def _check_guest(self, level: int) -> None:
        name = self.l1 if level == 1 else self.l2
        if not isinstance(name, str):
            raise ScenarioError(f"l{level} is {name!r}", "the name of a guest program")
        self.all_params(level)
        if level == 1:
            from .guests import catalogue

            guest = catalogue.find(1, name, self.backend)
            catalogue.check_paging(guest, self.all_features["paging"], self.backend)

    def all_params(self, level: int) -> dict[str, int]:
        """Every parameter of the level's program with its value."""
        from .guests import catalogue

        name, params = (self.l1, self.l1_params) if level == 1 else (self.l2, self.l2_params)
        return catalogue.validate_params(catalogue.find(level, name, self.backend), dict(params))

    # ---------------------------------------------------------------- what follows from it

    @property
    def single_level(self) -> bool:
        """Does the L2 program run directly on L0, without a hypervisor in between?"""
        return self.l1 == "none"

    @property
    def preset_name(self) -> str:
        """The price preset in use, given or default."""
        return self.prices or DEFAULT_PRESET[self.backend]

    @cached_property
    def preset(self) -> PricePreset:
        """The prices in use, changed values included."""
        return load_preset(self.preset_name).with_values(dict(self.price_values))

    @property
    def cpu_name(self) -> str:
        """The core whose TLB geometry is simulated."""
        return self.cpu or self.preset.core

    @property
    def all_features(self) -> dict[str, Any]:
        """Every feature of the back-end with its value."""
        return features_module.resolve(self.backend, self.features, self.l0)

    @property
    def all_deviations(self) -> dict[str, bool]:
        """Every deviation of the back-end and whether L0 shows it."""
        return personality.resolve(self.l0, self.backend, self.deviations)

    def resolved(self) -> dict[str, Any]:
        """Everything, defaults filled in, as plain JSON values."""
        filled = {
            "l1_params": self.all_params(1),
            "l2_params": self.all_params(2),
            "features": self.all_features,
            "deviations": self.all_deviations,
            "prices": self.preset_name,
            "cpu": self.cpu_name,
        }
        return self._plain() | filled

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved scenario; how it was written down does not matter."""
        return _digest(self.resolved())

    @property
    def core_hash(self) -> str:
        """SHA-256 without the prices: scenarios that share it differ in prices alone."""
        kept = self.resolved()
        del kept["prices"], kept["price_values"]
        return _digest(kept)

    def diff(self, other: Scenario) -> dict[str, tuple[Any, Any]]:
        """What differs: dotted name -> (here, there); None where one side has no such entry."""
        here, there = _flatten(self.resolved()), _flatten(other.resolved())
        names = sorted(here.keys() | there.keys())
        return {
            name: (here.get(name), there.get(name))
            for name in names
            if here.get(name) != there.get(name)
        }

    # ---------------------------------------------------------------- changed copies

    def replace(self, **changes: Any) -> Scenario:
        """A changed copy; a dotted name changes one entry: ``replace(**{"features.virtual_gif": True})``."""
        plain: dict[str, Any] = {}
        for name, value in changes.items():
            head, dot, entry = name.partition(".")
            if dot and head not in _MAPPINGS:
                raise ScenarioError(f"{name}: {head} has no entries", did_you_mean(head, _MAPPINGS))
            _check_field(head)
            before = plain.get(head, getattr(self, head)) if dot else None
            plain[head] = {**before, entry: value} if dot else value  # type: ignore[dict-item]
        return dataclasses.replace(self, **plain)

    def for_backend(self, backend: str) -> Scenario:
        """The same scenario on another back-end: what belongs to the old vendor alone is dropped.

        A program that does not run there gives way to the default one.
        """
        if backend == self.backend:
            return self
        if backend not in features_module.BACKENDS:
            return dataclasses.replace(self, backend=backend)
        kept = {
            f.id: self.features[f.id]
            for f in features_module.applicable(backend)
            if f.id in self.features and self.features[f.id] in f.values_on(backend)
        }
        return dataclasses.replace(
            self, backend=backend, features=kept, deviations=self._deviations_on(backend),
            prices=None, price_values={}, cpu=None,
            **self._guest_on(backend, 1), **self._guest_on(backend, 2),
        )  # fmt: skip

    def _deviations_on(self, backend: str) -> dict[str, bool]:
        known = {deviation.id for deviation in personality.applicable(backend)}
        return {name: state for name, state in self.deviations.items() if name in known}

    def _guest_on(self, backend: str, level: int) -> dict[str, Any]:
        """Program and parameters of a level, as far as they exist on another back-end."""
        from .guests import catalogue

        program, params = f"l{level}", f"l{level}_params"
        name = getattr(self, program)
        try:
            known = catalogue.find(level, name, backend).defaults
        except GuestError:
            return {program: _DEFAULTS[program], params: {}}
        return {params: {key: v for key, v in getattr(self, params).items() if key in known}}

    # ---------------------------------------------------------------- as text

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as plain JSON values; the back-end always."""
        return {
            name: value
            for name, value in self._plain().items()
            if name == "backend" or value != _DEFAULTS[name]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "scenario") -> Scenario:
        """A scenario from plain values; errors name ``where`` and the key."""
        try:
            for name in _mapping("scenario", values):
                _check_field(name)
            return cls(**values)
        except WorkbenchError as problem:
            problem.message = f"{where}: {problem.message}"
            problem.args = (problem.message, problem.hint)
            raise

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> Scenario:
        """A scenario that once was valid, as a saved result holds it.

        Nothing is checked: its guests or price files need not exist on this machine.
        """
        made = object.__new__(cls)
        for name, value in (_DEFAULTS | dict(values)).items():
            if name in _MAPPINGS:
                value = FrozenMap({k: tuple(v) if isinstance(v, list) else v
                                   for k, v in value.items()})  # fmt: skip
            object.__setattr__(made, name, value)
        return made

    def to_json(self) -> str:
        """JSON text that :meth:`from_json` reads back."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, source: str | Path) -> Scenario:
        """Read JSON: a path, or the text itself."""
        values, where = scenario_text.read(source, "json")
        return cls.from_dict(values, where)

    def to_toml(self) -> str:
        """TOML text that :meth:`from_toml` reads back."""
        return scenario_text.toml(self.to_dict())

    @classmethod
    def from_toml(cls, source: str | Path) -> Scenario:
        """Read TOML: a path, or the text itself."""
        values, where = scenario_text.read(source, "toml")
        return cls.from_dict(values, where)

    def to_code(self) -> str:
        """The Python that makes and runs this scenario again."""
        return scenario_text.code(self.to_dict())

    def _plain(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {name: dict(values[name]) for name in _MAPPINGS}


_DEFAULTS: dict[str, Any] = {
    f.name: {} if f.name in _MAPPINGS else f.default for f in dataclasses.fields(Scenario)
}


def _check_field(name: str) -> None:
    if name not in _DEFAULTS:
        raise ScenarioError(f"no setting called {name!r}", did_you_mean(name, _DEFAULTS))


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ScenarioError(f"{name} is {value!r}", "a table of names and values")
    return dict(value)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ScenarioError(f"{name} is {value!r}", "a whole number") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise ScenarioError(f"{name} is {value!r}", f"from {low} to {high}")
    return number


def _words(name: str, values: Mapping[str, Any]) -> dict[str, int]:
    return {key: _integer(f"{name}.{key}", word, -(1 << 63), (1 << 64) - 1)
            for key, word in values.items()}  # fmt: skip


def _prices(values: Mapping[str, Any]) -> dict[str, Any]:
    def number(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            hint = "cycles, or a list of three: low, value, high"
            raise ScenarioError(f"price_values.{name} is {value!r}", hint)
        return float(value)

    return {
        name: tuple(number(name, v) for v in value)
        if isinstance(value, (list, tuple)) and len(value) == 3
        else number(name, value)
        for name, value in values.items()
    }


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        entries = {f"{name}.{key}": v for key, v in value.items()} if name in _MAPPINGS else None
        flat.update({name: value} if entries is None else entries)
    return flat
