"""What the panel shows and may change, without a single widget.

A :class:`PanelState` always holds a valid scenario.  Every change is validated before it is
taken, can be undone, and is told to the listeners together with what it makes necessary: a new
run, or only a new drawing at other prices.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import features, personality
from ..errors import ScenarioError, WorkbenchError
from ..guests import catalogue
from ..guests.catalogue import Guest
from ..prices import list_presets
from ..scenario import MIN_BALLOON_PERIOD, MIN_PERIOD_CYCLES, Scenario

MAX_UNDO = 200


@dataclass(frozen=True)
class Number:
    """A number of the scenario as the panel shows it."""

    label: str
    unit: str
    text: str


NUMBERS = {
    "host_tick_cycles": Number(
        "Host tick", "cycles",
        "Period of an external interrupt for L0 itself, which makes the running guest exit; "
        f"0 for none, else at least {MIN_PERIOD_CYCLES:,}",
    ),
    "nmi_cycles": Number(
        "NMI", "cycles",
        f"Period of an NMI that L0 hands on to L1; 0 for none, else at least {MIN_PERIOD_CYCLES:,}",
    ),
    "asids": Number(
        "Tags", "ASID, VPID",
        "How many the processor has, the host's own included; 0 for as many as it really has "
        "(64 on SVM, 65,536 on VMX), else at least 2",
    ),
    "balloon_period": Number(
        "L0's table", "exits",
        f"Exits between two changes of L0's own table (toggle L0 P2M event); at least {MIN_BALLOON_PERIOD}",
    ),
}  # fmt: skip
"""Events and limits of the machine that the panel can set."""


class Need(enum.Enum):
    """What a change makes necessary."""

    NOTHING = 0
    DRAW = 1
    """Only prices changed: the counts stay what they are."""
    RUN = 2
    """The simulated machine is another one."""


Listener = Callable[[Need], None]


class PanelState:
    """A validated scenario with undo, redo and listeners.

    Parameters
    ----------
    scenario : Scenario, optional
        Where to begin; by default the smallest scenario of SVM.
    """

    def __init__(self, scenario: Scenario | None = None):
        self._scenario = scenario or Scenario()
        self._undo: list[Scenario] = []
        self._redo: list[Scenario] = []
        self._left: dict[str, Scenario] = {}
        self._listeners: list[Listener] = []

    @property
    def scenario(self) -> Scenario:
        """The scenario as it stands."""
        return self._scenario

    @property
    def backend(self) -> str:
        """``svm`` or ``vmx``."""
        return self._scenario.backend

    # ---------------------------------------------------------------- listeners

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(need)`` after each change; returns a function that ends this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _become(self, scenario: Scenario) -> Need:
        before, self._scenario = self._scenario, scenario
        need = need_of(before, scenario)
        for listener in tuple(self._listeners):
            listener(need)
        return need

    # ---------------------------------------------------------------- changes

    def take(self, scenario: Scenario) -> Need:
        """Make ``scenario`` the current one; the old one can be brought back by :meth:`undo`."""
        if scenario == self._scenario:
            return Need.NOTHING
        self._undo = [*self._undo[-MAX_UNDO + 1 :], self._scenario]
        self._redo.clear()
        return self._become(scenario)

    def change(self, **changes: Any) -> Need:
        """Change settings; dotted names change one entry: ``change(**{"l2_params.pages": 8})``.

        Raises
        ------
        WorkbenchError
            The new scenario would not be valid; nothing has changed then.
        """
        return self.take(self._scenario.replace(**changes))

    def set_backend(self, backend: str) -> Need:
        """Switch the back-end; what belongs to one vendor alone comes back on the way back."""
        if backend == self.backend:
            return Need.NOTHING
        switched, left = self._scenario.for_backend(backend), self._left.get(backend)
        if left is not None:
            switched = _with_own_settings(_with_own_guest(switched, left, self._scenario), left)
        self._left[self.backend] = self._scenario
        return self.take(switched)

    def set_feature(self, name: str, value: Any) -> Need:
        """Set one toggle; its default needs no mention in the scenario."""
        suited = self._l1_for_paging(value) if name == "paging" else {}
        changed = self._scenario.replace(**{f"features.{name}": value}, **suited)
        kept = dict(changed.features)
        if kept[name] == features.catalogue()[name].default_of(self._scenario.l0):
            del kept[name]
        return self.change(features=kept, **suited)

    def _l1_for_paging(self, mode: str) -> dict[str, Any]:
        """Another L1 program, when the one in use does not know the paging mode."""
        if mode in self.guest(1).paging:
            return {}
        able = [g.name for g in self.guests(1) if mode in g.paging]
        return {"l1": able[0], "l1_params": {}} if able else {}

    def set_l0(self, l0: str) -> Need:
        """Choose L0's personality; toggles that nobody set take its defaults."""
        return self.change(l0=l0)

    def set_deviation(self, name: str, state: bool) -> Need:
        """Switch one deviation of L0; the personality's own state needs no mention."""
        kept = {**self._scenario.deviations, name: state}
        if state is (self._scenario.l0 in personality.catalogue()[name].l0.split()):
            del kept[name]
        return self.change(deviations=kept)

    def set_number(self, name: str, value: int) -> Need:
        """Set one of :data:`NUMBERS`."""
        return self.change(**{name: value})

    def numbers(self) -> dict[str, int]:
        """Every one of :data:`NUMBERS` with its value."""
        return {name: getattr(self._scenario, name) for name in NUMBERS}

    def idle_numbers(self) -> dict[str, str]:
        """Numbers without effect now: name -> reason."""
        values, found = self._scenario.all_features, {}
        if values["l0_p2m_event"] == "none":
            found["balloon_period"] = "no effect while l0_p2m_event is none"
        if not values["tlb_tagging"]:
            found["asids"] = "no effect while tlb_tagging is off"
        return found

    def set_guest(self, level: int, name: str) -> Need:
        """Choose the program of a level; its parameters go to their defaults.

        An L1 program that does not know the paging mode in use brings its own.
        """
        changes: dict[str, Any] = {f"l{level}": name, f"l{level}_params": {}}
        if level == 1:
            known = catalogue.find(1, name, self.backend).paging
            if self._scenario.all_features["paging"] not in known:
                changes["features.paging"] = known[0]
        return self.change(**changes)

    def set_param(self, level: int, name: str, value: int) -> Need:
        """Set one parameter of the program of a level."""
        return self.change(**{f"l{level}_params.{name}": value})

    def set_preset(self, name: str) -> Need:
        """Choose a price preset; prices set by hand are dropped."""
        cpu = self._scenario.cpu_name  # prices alone must not change the simulated machine
        return self.change(prices=name, price_values={}, cpu=cpu)

    def set_price(self, event: str, cycles: float) -> Need:
        """Set the price of one event; the preset's own price removes the change."""
        values = dict(self._scenario.price_values)
        values[event] = float(cycles)
        base = self._scenario.replace(price_values={}).preset
        if base.price(event) == values[event]:
            del values[event]
        return self.change(price_values=values)

    def reset_prices(self) -> Need:
        """Back to the preset's prices."""
        return self.change(price_values={})

    def reset(self) -> Need:
        """Back to the defaults of the current back-end."""
        return self.take(Scenario(backend=self.backend))

    # ---------------------------------------------------------------- undo

    @property
    def can_undo(self) -> bool:
        """Is there a change to take back?"""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Is there an undone change to bring back?"""
        return bool(self._redo)

    def undo(self) -> Need:
        """Take the last change back."""
        if not self._undo:
            return Need.NOTHING
        self._redo.append(self._scenario)
        return self._become(self._undo.pop())

    def redo(self) -> Need:
        """Bring the last undone change back."""
        if not self._redo:
            return Need.NOTHING
        self._undo.append(self._scenario)
        return self._become(self._redo.pop())

    # ---------------------------------------------------------------- what can be chosen

    def feature_values(self) -> Mapping[str, Any]:
        """Every toggle of the back-end with its value."""
        return self._scenario.all_features

    def unavailable(self) -> dict[str, str]:
        """Toggles without effect now, of the other vendor or inert: id -> reason."""
        values = self._scenario.all_features
        reasons = {
            name: features.why_not(name, self.backend, values, self._scenario.l0)
            for name in features.catalogue()
        }
        return {name: reason for name, reason in reasons.items() if reason}

    def guest(self, level: int) -> Guest:
        """The program of a level."""
        name = self._scenario.l1 if level == 1 else self._scenario.l2
        return catalogue.find(level, name, self.backend)

    def guests(self, level: int) -> tuple[Guest, ...]:
        """The programs to choose from; an own file that is in use is one of them."""
        shipped = (
            (*catalogue.l1_guests(), catalogue.NO_HYPERVISOR)
            if level == 1
            else catalogue.l2_guests()
        )
        found = [guest for guest in shipped if self.backend in guest.backends]
        current = self.guest(level)
        names = [guest.name for guest in found]
        return tuple(found) if current.name in names else (*found, current)

    def params(self, level: int) -> dict[str, int]:
        """Every parameter of the program of a level with its value."""
        given = self._scenario.l1_params if level == 1 else self._scenario.l2_params
        return catalogue.validate_params(self.guest(level), dict(given))

    def presets(self) -> tuple[str, ...]:
        """Price presets of the back-end; an own price file that is in use is one of them."""
        shipped = list_presets(self.backend)
        name = self._scenario.preset_name
        return shipped if name in shipped else (*shipped, name)

    # ---------------------------------------------------------------- as text

    def to_json(self) -> str:
        """The scenario as JSON; ``workbench run`` reads the same text."""
        return self._scenario.to_json()

    def load_text(self, text: str, name: str = "scenario.json") -> Need:
        """Take the scenario of a JSON or TOML text; ``name`` decides which and is named in errors.

        Raises
        ------
        WorkbenchError
            Not a scenario; nothing has changed then.
        """
        suffix = Path(name).suffix.lower()
        if suffix not in (".json", ".toml"):
            raise ScenarioError(f"{name}: not a scenario file", "choose a .json or .toml file")
        read = Scenario.from_json if suffix == ".json" else Scenario.from_toml
        try:
            return self.take(read(text + "\n"))
        except WorkbenchError as problem:
            what = problem.message.removeprefix(f"{suffix[1:]} text: ")
            problem.message = f"{name}: {what}"
            raise

    def to_code(self) -> str:
        """Python that makes and runs the scenario."""
        return self._scenario.to_code()


def need_of(before: Scenario, after: Scenario) -> Need:
    """What going from one scenario to another makes necessary."""
    if before.core_hash != after.core_hash:
        return Need.RUN
    return Need.DRAW if before.hash != after.hash else Need.NOTHING


def _with_own_guest(switched: Scenario, left: Scenario, there: Scenario) -> Scenario:
    """Bring back the L1 program that the other back-end lacks, unless its stand-in was replaced.

    ``switched``: the scenario ``there`` on this back-end again; of a program that both have, the
    parameters come back that only this back-end's has.
    """
    stand_in = left.for_backend(there.backend)
    if there.l1 != stand_in.l1:
        return switched
    if stand_in.l1 == left.l1:
        foreign = left.l1_params.keys() - stand_in.l1_params.keys()
        own = {name: left.l1_params[name] for name in foreign}
        return switched.replace(l1_params={**switched.l1_params, **own})
    modes = catalogue.find(1, left.l1, left.backend).paging
    paging = {} if switched.all_features["paging"] in modes else {"features.paging": modes[0]}
    return switched.replace(l1=left.l1, l1_params=dict(left.l1_params), **paging)


def _with_own_settings(switched: Scenario, left: Scenario) -> Scenario:
    """Add what only this back-end has, as it was when the panel last left it."""
    own = {
        name: value
        for name, value in left.features.items()
        if len(features.catalogue()[name].backends) == 1
    }
    return switched.replace(
        features={**switched.features, **own},
        prices=left.prices,
        price_values=dict(left.price_values),
        cpu=left.cpu,
    )
