"""The panel's controls: built once from the catalogues, bound to a :class:`PanelState`.

A control asks the state for a change; the state's answer, taken or refused, flows back through
:meth:`Controls.refresh`, so that what is shown is always what the state holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from typing import Any, NamedTuple

import ipywidgets as w

from .. import features
from ..core.ledger import EVENTS
from ..features import BACKEND_TITLES, Feature
from ..guests.catalogue import Guest, Param
from ..personality import L0_TITLES
from ..spelling import label_of, spelled
from .state import NUMBERS, Number, PanelState

FIRST_PRICES = ("HW_EXIT", "HW_ENTRY", "L0_EXIT_DISPATCH", "L0_INSTRUCTION_EMULATED",
                "L1_INSTRUCTION", "L1_COLD_INSTRUCTION", "L0_MAP_BYTE_MERGED", "L0_BYTE_COPIED",
                "L0_GUEST_PAGE_MAPPED", "WALK_FROM_L1_CACHE")  # fmt: skip
"""Prices with a slider of their own until a result says which ones matter."""
SLIDERS = len(FIRST_PRICES)
_WIDE = {"description_width": "150px"}

Guard = Callable[[Callable[[], Any]], None]
"""Runs a change and shows what goes wrong with it."""


def section(title: str, *children: w.Widget) -> w.VBox:
    """Controls under a heading."""
    box = w.VBox([w.HTML(f"<h3>{title}</h3>"), *children])
    box.add_class("wbp-section")
    return box


def note(text: str = "", *classes: str) -> w.HTML:
    """Small grey text; hidden while it is empty."""
    made = w.HTML(text)
    for name in ("wbp-note", *classes):
        made.add_class(name)
    set_note(made, text)
    return made


def set_note(target: w.HTML, text: str) -> None:
    """Change a note's text."""
    target.value = text
    target.layout.display = None if text else "none"


class PriceRow(NamedTuple):
    """The controls of one price, and what is said of it while the pointer or the focus is there."""

    row: w.HBox
    text: w.FloatText
    slider: w.FloatSlider
    about: w.HTML


class Controls:
    """All controls in one column, ``box``."""

    def __init__(self, state: PanelState, guard: Guard):
        self._state = state
        self._guard = guard
        self._quiet = False
        self._params: dict[tuple[int, str, str], dict[str, w.Widget]] = {}
        self.box = w.VBox(
            [self._machine(), self._toggles(), self._events_and_limits(), self._prices()]
        )
        self.box.add_class("wbp-left")
        self.refresh()

    def _on(self, control: w.Widget, change: Callable[[Any], Any]) -> None:
        """Hand a new value of ``control`` to the state; show the state's view afterwards."""

        def changed(event: Any) -> None:
            if self._quiet:
                return
            try:
                self._guard(lambda: change(event["new"]))
            finally:
                self.refresh()  # a refused value gives way to the one that holds

        control.observe(changed, "value")

    def _put(self, control: w.Widget, value: Any) -> None:
        if control.value != value:
            control.value = value

    # ---------------------------------------------------------------- machine

    def _machine(self) -> w.VBox:
        self._backend = w.ToggleButtons(
            options=[(title, name) for name, title in BACKEND_TITLES.items()],
            tooltips=["L1 uses VMRUN and a VMCB", "L1 uses VMLAUNCH, VMRESUME and a VMCS"],
        )
        self._on(self._backend, self._state.set_backend)
        self._guests, self._params_boxes, self._titles = {}, {}, {}
        self._l0 = w.Dropdown(
            options=[(title, name) for name, title in L0_TITLES.items()],
            description="L0", style=_WIDE, tooltip="Whose way of nested HVM L0 has",
        )  # fmt: skip
        self._on(self._l0, self._state.set_l0)
        parts: list[w.Widget] = [self._backend, self._l0]
        for level in (1, 2):
            names = [(guest.name, guest.name) for guest in self._state.guests(level)]
            choice = w.Dropdown(options=names, description=f"L{level} program", style=_WIDE)
            self._on(choice, partial(self._state.set_guest, level))
            self._guests[level] = choice
            self._titles[level] = note()
            self._params_boxes[level] = w.VBox()
            parts += [choice, self._titles[level], self._params_boxes[level]]
        return section("Machine", *parts)

    def _params_of(self, level: int, guest: Guest) -> dict[str, w.Widget]:
        key = (level, guest.name, self._state.backend)
        if key not in self._params:
            shown = guest.params if len(guest.params) < 40 else ()
            self._params[key] = {p.name: self._param(level, p) for p in shown}
        return self._params[key]

    def _param(self, level: int, param: Param) -> w.Widget:
        text = f"{param.text} [{param.unit}], {param.minimum:,} to {param.maximum:,}"
        name = label_of(param.name)
        control: w.Widget
        if param.unit == "switch":
            control = w.Checkbox(description=name, indent=False, tooltip=text)
        else:
            control = w.IntText(
                description=name, tooltip=text, style=_WIDE, continuous_update=False
            )
        self._on(control, lambda value: self._state.set_param(level, param.name, int(value)))
        return control

    # ---------------------------------------------------------------- toggles

    def _toggles(self) -> w.VBox:
        self._features: dict[str, w.Widget] = {}
        self._reasons: dict[str, w.HTML] = {}
        rows: list[w.Widget] = []
        for group, members in features.groups().items():
            rows.append(w.HTML(f"<h4>{group[:1].upper() + group[1:]}</h4>"))
            for feature in members:
                control = self._feature(feature)
                self._features[feature.id] = control
                self._reasons[feature.id] = note("", "wbp-why")
                rows += [control, self._reasons[feature.id]]
        return section("Toggles", *rows)

    def _feature(self, feature: Feature) -> w.Widget:
        name = label_of(feature.id)
        control: w.Widget
        if feature.is_switch:
            control = w.Checkbox(description=name, indent=False)
        else:
            values = feature.values_on(feature.backends[0])
            control = w.Dropdown(options=_options(values), description=name, style=_WIDE)
        self._on(control, lambda value: self._state.set_feature(feature.id, value))
        return control

    # ---------------------------------------------------------------- numbers

    def _events_and_limits(self) -> w.VBox:
        self._numbers = {name: self._number(name, number) for name, number in NUMBERS.items()}
        self._idle = {name: note("", "wbp-why") for name in NUMBERS}
        rows: list[w.Widget] = []
        for name, control in self._numbers.items():
            rows += [control, self._idle[name]]
        return section("Events and limits", *rows)

    def _number(self, name: str, number: Number) -> w.IntText:
        control = w.IntText(
            description=f"{number.label} [{number.unit}]", style=_WIDE, continuous_update=False,
            tooltip=f"{number.text} [{number.unit}]",
        )  # fmt: skip
        self._on(control, lambda value: self._state.set_number(name, int(value)))
        return control

    # ---------------------------------------------------------------- prices

    def _prices(self) -> w.VBox:
        self._preset = w.Dropdown(
            options=self._state.presets(), description="Preset", style=_WIDE,
            tooltip="cycles per counted event, each with its source",
        )  # fmt: skip
        self._on(self._preset, self._state.set_preset)
        self._price_rows = {event: self._price(event) for event in FIRST_PRICES}
        self._ranked: dict[str, float] = dict.fromkeys(FIRST_PRICES, 0.0)
        self._about = note("The ten that matter most for the result shown, largest share first.")
        self._other = w.Dropdown(
            options=[(label_of(event), event) for event in EVENTS],
            description="Another price of",
            style=_WIDE,
        )
        self._other.observe(lambda _: self.refresh(), "value")
        self._other_cycles = w.FloatText(
            description="… in cycles", style=_WIDE, continuous_update=False, step=1
        )
        self._on(self._other_cycles, lambda v: self._state.set_price(self._other.value, v))
        self._back = w.Button(description="Preset's prices", icon="rotate-left",
                              tooltip="Drop the prices set by hand")  # fmt: skip
        self._back.on_click(lambda _: self._to_preset())
        self._price_box = w.VBox([])
        return section(
            "Prices (cycles per event)",
            self._preset,
            self._about,
            self._price_box,
            self._other,
            self._other_cycles,
            self._back,
        )

    def _to_preset(self) -> None:
        self._guard(self._state.reset_prices)
        self.refresh()

    def _price(self, event: str) -> PriceRow:
        text = w.FloatText(
            description=label_of(event), style=_WIDE, continuous_update=False, step=1
        )
        slider = w.FloatSlider(readout=False, continuous_update=False)
        self._on(text, lambda value: self._state.set_price(event, value))
        self._on(slider, lambda value: self._state.set_price(event, float(f"{value:.4g}")))
        about = w.HTML()
        about.add_class("wbp-about")
        row = w.HBox([text, slider, about])
        row.add_class("wbp-price")
        return PriceRow(row, text, slider, about)

    def rank_prices(self, shares: Mapping[str, float]) -> None:
        """Give the prices with the largest shares of the cycles [event -> share] their sliders."""
        largest = sorted(shares.items(), key=lambda item: -item[1])[:SLIDERS]
        if dict(largest) == self._ranked:
            return
        self._ranked = dict(largest)
        for event in self._ranked:
            if event not in self._price_rows:
                self._price_rows[event] = self._price(event)
        self.refresh()

    # ---------------------------------------------------------------- state -> controls

    def refresh(self) -> None:
        """Show what the state holds; no control reports a change while this goes on."""
        if self._quiet:
            return
        self._quiet = True
        try:
            self._put(self._backend, self._state.backend)
            self._put(self._l0, self._state.scenario.l0)
            for level in (1, 2):
                self._refresh_guest(level)
            self._refresh_features()
            self._refresh_numbers()
            self._refresh_prices()
        finally:
            self._quiet = False

    def _refresh_guest(self, level: int) -> None:
        guest = self._state.guest(level)
        choice = self._guests[level]
        options = tuple((g.name, g.name) for g in self._state.guests(level))
        if tuple(choice.options) != options:
            choice.options = options
        self._put(choice, guest.name)
        set_note(self._titles[level], guest.title)
        controls = self._params_of(level, guest)
        for name, value in self._state.params(level).items():
            if name in controls:
                is_switch = isinstance(controls[name], w.Checkbox)
                self._put(controls[name], bool(value) if is_switch else value)
        children = tuple(controls.values())
        if self._params_boxes[level].children != children:
            self._params_boxes[level].children = children

    def _refresh_features(self) -> None:
        values, reasons = self._state.feature_values(), self._state.unavailable()
        for name, control in self._features.items():
            feature, reason = features.catalogue()[name], reasons.get(name, "")
            if name in values:
                if isinstance(control, w.Dropdown):
                    options = _options(feature.values_on(self._state.backend))
                    if tuple(control.options) != options:
                        control.options = options
                self._put(control, values[name])
            elif feature.is_switch:
                self._put(control, False)
            control.disabled = bool(reason)
            control.tooltip = spelled(reason or feature.meaning)
            if reason:
                control.add_class("wbp-off")
            else:
                control.remove_class("wbp-off")
            set_note(self._reasons[name], spelled(reason))

    def _refresh_numbers(self) -> None:
        reasons = self._state.idle_numbers()
        for name, value in self._state.numbers().items():
            self._put(self._numbers[name], value)
            self._numbers[name].disabled = name in reasons
            set_note(self._idle[name], spelled(reasons.get(name, "")))

    def _refresh_prices(self) -> None:
        state, preset = self._state, self._state.scenario.preset
        if tuple(self._preset.options) != tuple(state.presets()):
            self._preset.options = state.presets()
        self._put(self._preset, state.scenario.preset_name)
        base = state.scenario.replace(price_values={}).preset
        places = [EVENTS.index(event) for event in self._ranked]
        facts = base.frame.iloc[places].to_dict("records")
        for (event, share), fact in zip(self._ranked.items(), facts, strict=True):
            self._refresh_price(event, share, preset.price(event), fact)
        children = tuple(self._price_rows[event].row for event in self._ranked)
        if self._price_box.children != children:
            self._price_box.children = children
        self._put(self._other_cycles, preset.price(self._other.value))
        self._back.disabled = not state.scenario.price_values

    def _refresh_price(
        self, event: str, share: float, value: float, fact: Mapping[Any, Any]
    ) -> None:
        row, text, slider, shown = self._price_rows[event]
        top = max(2 * fact["high"], value, 1.0)
        slider.step = top / 200
        slider.max = max(top, slider.value)
        self._put(slider, value)
        slider.max = top
        self._put(text, value)
        about = (
            f"{label_of(event)}: {fact['value']:g} cycles, {fact['low']:g} to {fact['high']:g}; "
            f"{fact['kind']}, {fact['source']}: {fact['note']}"
        )
        if value != fact["value"]:
            row.add_class("wbp-set")
            about = f"Set to {value:g}. By the preset: {about}"
        else:
            row.remove_class("wbp-set")
        if share:
            about = f"{100 * share:.1f} % of the cycles. {about}"
        text.tooltip = about  # for a screen reader, too
        html = f"<span role='tooltip'>{escape(about)}</span>"
        if shown.value != html:
            shown.value = html


def _options(values: tuple[Any, ...]) -> tuple[tuple[str, Any], ...]:
    return tuple((str(value).replace("_", " "), value) for value in values)
