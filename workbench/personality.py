"""The personalities of L0, and the catalogue of what each does differently from the manuals.

``xen`` and ``kvm`` do nested HVM as these hypervisors do: routing, merging, checks, costs, and their
known deviations.  ``manual`` works as Xen does, without any deviation.  Each deviation of
data/deviations.csv can be switched on or off beside any personality of its back-end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from .arch import deviations as table
from .errors import ScenarioError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

L0S = ("xen", "kvm", "manual")
L0_TITLES = {"xen": "Xen", "kvm": "KVM", "manual": "as the manuals say"}


@dataclass(frozen=True)
class Deviation:
    """One thing that an L0 does differently from the manuals.

    Attributes
    ----------
    l0 : str
        The personality that has it by default.
    manual, does : str
        What the manual says, and what this L0 does.
    observable : str
        The difference that L1 or L2 can notice, or that the counts show.
    basis : str
        ``read`` in the source, or ``derived`` from it.
    """

    id: str
    l0: str
    backends: tuple[str, ...]
    manual: str
    does: str
    observable: str
    basis: str
    source: str


@cache
def catalogue() -> dict[str, Deviation]:
    """Every deviation by id, in the order of data/deviations.csv."""
    found = {}
    for row in table.ROWS:
        backends = ("svm", "vmx") if row["backends"] == "both" else (row["backends"],)
        found[row["id"]] = Deviation(
            row["id"], row["l0"], backends, row["manual"], row["does"], row["observable"],
            row["basis"], row["source"],
        )  # fmt: skip
    return found


def applicable(backend: str) -> tuple[Deviation, ...]:
    """The deviations that a back-end can have."""
    return tuple(d for d in catalogue().values() if backend in d.backends)


def check_l0(l0: Any) -> str:
    """``l0`` if it is a personality; ScenarioError otherwise."""
    if l0 not in L0S:
        raise ScenarioError(f"l0 cannot be {l0!r}", f"personalities: {', '.join(L0S)}")
    return l0


@cache
def _own(l0: str, backend: str) -> dict[str, bool]:
    """Every deviation of a back-end: does the personality show it?"""
    return {d.id: l0 in d.l0.split() for d in applicable(backend)}


def resolve(l0: str, backend: str, given: Mapping[str, Any]) -> dict[str, bool]:
    """Every deviation of a back-end with its state: the personality's, then what was given.

    Raises
    ------
    ScenarioError
        Unknown deviation, one of the other back-end, or a state that is neither on nor off.
    """
    complete = dict(_own(l0, backend))
    for name, state in given.items():
        if name not in catalogue():
            raise ScenarioError(f"no deviation called {name!r}", did_you_mean(name, complete))
        if name not in complete:
            owner = catalogue()[name].backends[0]
            hint = f"switch the back-end to {owner!r}, or remove {name}"
            raise ScenarioError(f"{name} is a deviation on {owner}", hint)
        if isinstance(state, str) and state in ("on", "off"):
            state = state == "on"
        if not isinstance(state, bool):
            raise ScenarioError(f"deviations.{name} is {state!r}", "true or false")
        complete[name] = state
    return complete


def deviations() -> pd.DataFrame:
    """What the modelled L0s do differently from the manuals.

    Returns
    -------
    DataFrame
        Columns id, l0 (who has it by default), backends, manual, does, observable, basis (read in
        the source, or derived from it), source (keys of ``data/sources.bib`` and places).
    """
    import pandas as pd

    columns = ("id", "l0", "backends", "manual", "does", "observable", "basis", "source")
    return pd.DataFrame(
        [{**{c: getattr(d, c) for c in columns}, "backends": ", ".join(d.backends)}
         for d in catalogue().values()], columns=list(columns),
    )  # fmt: skip
