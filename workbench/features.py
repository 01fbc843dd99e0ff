"""The catalogue of toggles, read from data/features.csv, and the checks of what a user gives.

A feature belongs to one back-end or to both, has a few named values, and may be inert beside
another feature; then the catalogue says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from .errors import FeatureError, did_you_mean
from .tables import data_table

BACKEND_TITLES = {"svm": "AMD SVM", "vmx": "Intel VMX"}
BACKENDS = tuple(BACKEND_TITLES)
_VENDOR = {"svm": "SVM", "vmx": "VMX"}


@dataclass(frozen=True)
class Feature:
    """One toggle.

    Attributes
    ----------
    group : str
        What it is about; the panel and the listing show features by group.
    values : tuple of str
        On every back-end; :meth:`values_on` leaves out what one vendor does not have.
    meaning : str
        One line that says in which direction the toggle moves the figures.
    counterpart : str
        What plays this part on the other back-end, empty when nothing does.
    inert_when : tuple of (feature or l0, value, reason)
    """

    id: str
    group: str
    backends: tuple[str, ...]
    values: tuple[str, ...]
    value_backend: tuple[str, ...]
    default: str
    meaning: str
    counterpart: str
    source: str
    inert_when: tuple[tuple[str, str, str], ...]
    l0_defaults: tuple[tuple[str, str], ...] = ()
    """(personality of L0, value) where its default is another one (data/l0_defaults.csv)."""

    @property
    def is_switch(self) -> bool:
        """True for an on/off feature; its value is a bool everywhere outside the table."""
        return set(self.values) == {"on", "off"}

    def values_on(self, backend: str) -> tuple[Any, ...]:
        """The values allowed on ``backend``: bools for a switch, else names."""
        if self.is_switch:
            return (False, True)
        pairs = zip(self.values, self.value_backend, strict=True)
        return tuple(value for value, only in pairs if only in ("", backend))

    @property
    def default_value(self) -> Any:
        """The default as :func:`resolve` returns it."""
        return self.default_of("xen")

    def default_of(self, l0: str) -> Any:
        """The default beside a personality of L0."""
        text = dict(self.l0_defaults).get(l0, self.default)
        return text == "on" if self.is_switch else text


def _inert(cell: str) -> tuple[tuple[str, str, str], ...]:
    found = []
    for clause in filter(None, (part.strip() for part in cell.split("|"))):
        condition, reason = clause.split(":", 1)
        other, value = condition.split("=")
        found.append((other.strip(), value.strip(), reason.strip()))
    return tuple(found)


@cache
def catalogue() -> dict[str, Feature]:
    """Every feature by id, in the order of data/features.csv."""
    features = {}
    by_l0 = data_table("l0_defaults").rows
    for row in data_table("features").rows:
        values, only = zip(*(v.partition(":")[::2] for v in row["values"].split("|")), strict=True)
        backends = BACKENDS if row["backends"] == "both" else (row["backends"],)
        features[row["id"]] = Feature(
            row["id"], row["group"], backends, values, only, row["default"], row["meaning"],
            row["counterpart"], row["source"], _inert(row["inert_when"]),
            tuple((r["l0"], r["value"]) for r in by_l0 if r["id"] == row["id"]),
        )  # fmt: skip
    return features


def groups() -> dict[str, list[Feature]]:
    """The catalogue by group, both in the order of data/features.csv."""
    found: dict[str, list[Feature]] = {}
    for feature in catalogue().values():
        found.setdefault(feature.group, []).append(feature)
    return found


def applicable(backend: str) -> tuple[Feature, ...]:
    """The features of a back-end."""
    return tuple(f for f in catalogue().values() if backend in f.backends)


def defaults(backend: str, l0: str = "xen") -> dict[str, Any]:
    """Every feature of a back-end at its default beside a personality of L0."""
    return dict(_defaults(backend, l0))


@cache
def _defaults(backend: str, l0: str) -> dict[str, Any]:
    return {f.id: f.default_of(l0) for f in applicable(backend)}


def why_not(
    name: str, backend: str, values: Mapping[str, Any] | None = None, l0: str = "xen"
) -> str:
    """Why a feature has no effect here, or an empty string.

    Parameters
    ----------
    name : str
        Feature id.
    backend : str
    values : mapping, optional
        The other features; inert combinations are looked up in it (defaults fill the rest).
    l0 : str
        The personality of L0; a combination may name it, too.
    """
    feature = catalogue()[name]
    if backend not in feature.backends:
        return _foreign(feature, backend)
    given = defaults(backend, l0) | dict(values or {}) | {"l0": l0}
    for other, value, reason in feature.inert_when:
        if other in given and value_text(given[other]) == value:
            return f"no effect while {other} is {value}: {reason}"
    return ""


def inert(backend: str, values: Mapping[str, Any], l0: str = "xen") -> dict[str, str]:
    """Features without effect in this combination: id -> reason."""
    reasons = {f.id: why_not(f.id, backend, values, l0) for f in applicable(backend)}
    return {name: reason for name, reason in reasons.items() if reason}


def resolve(backend: str, given: Mapping[str, Any], l0: str = "xen") -> dict[str, Any]:
    """The complete set of features: what was given, checked, and defaults for the rest.

    Raises
    ------
    FeatureError
        Unknown back-end or feature, a feature of the other back-end, or a value it does not have.
    """
    if backend not in BACKENDS:
        raise FeatureError(f"no back-end called {backend!r}", f"back-ends: {', '.join(BACKENDS)}")
    complete = defaults(backend, l0)
    for name, value in given.items():
        feature = _known(name, backend)
        complete[feature.id] = _value(feature, backend, value)
    return complete


def _known(name: str, backend: str) -> Feature:
    feature = catalogue().get(name)
    if feature is None:
        raise FeatureError(f"no feature called {name!r}", did_you_mean(name, _names(backend)))
    if backend not in feature.backends:
        hint = f"switch the back-end to {feature.backends[0]!r}, or remove {name}"
        raise FeatureError(_foreign(feature, backend), hint)
    return feature


def _value(feature: Feature, backend: str, value: Any) -> Any:
    if feature.is_switch and isinstance(value, str) and value in ("on", "off"):
        return value == "on"
    allowed = feature.values_on(backend)
    if isinstance(value, bool) == feature.is_switch and value in allowed:
        return value
    names = ["on (True)", "off (False)"] if feature.is_switch else allowed
    where = "" if value not in feature.values else f" on {_VENDOR[backend]}"
    hint = f"values of {feature.id}{where}: {', '.join(names)}"
    raise FeatureError(f"{feature.id} cannot be {value!r}{where}", hint)


def _foreign(feature: Feature, backend: str) -> str:
    owner = _VENDOR[feature.backends[0]]
    other = f"; the nearest on {_VENDOR[backend]} is {feature.counterpart}"
    return f"{feature.id} is a feature of {owner} only{other if feature.counterpart else ''}"


def _names(backend: str) -> Iterable[str]:
    return tuple(f.id for f in applicable(backend)) or tuple(catalogue())


def value_text(value: Any) -> str:
    """A value as people write it: on and off for a switch."""
    return ("off", "on")[value] if isinstance(value, bool) else str(value)
