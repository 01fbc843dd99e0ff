"""Published measurements and the scenario that each was measured on.

``data/published/published.csv`` has the numbers, ``scenarios.csv`` beside it what was run: the L1
program of that age, L0's personality, hardware assists, the processor's prices, and how cycles are
divided.  A row that no scenario can represent says why.  A :class:`Case` is one figure: a row has up
to two, of a guest on L0 and of a guest on a guest.

The split is kept here: :func:`single_level` makes cases from the single-level figures alone, and
what it returns has no way to the nested ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ResultError
from ..prices import PricePreset, load_preset
from ..result import Result
from ..scenario import Scenario
from ..tables import data_table
from .legs import LEGS, leg_counts

SINGLE, NESTED = "single", "nested"
CLEAR_OF_MEMORY = ("seen", "seen-2nd", "fig")
"""Confidences of figures that may be used; one that is recalled from memory is shown only."""
COUNTED = ("seen", "fig")
"""Confidences of figures that the record of predictions is judged by."""
ITERATIONS = 50
FROM_SINGLE = "single"
_HANDLER_PARTS = ("L0_EXIT_DISPATCH", "L0_INSTRUCTION_EMULATED")
_COUNTED_APART = 91
"""Instructions of the shortest path of an L1 program besides ``handler_work`` (see there)."""
HANDLER_PAGES = 17
"""Pages that a handler at L1 touches besides those of the program here: row turtles-l1-slower prints
19 TLB misses at L1 for what takes 2 at L0.  They miss only where the TLB has lost them since the
last exit; one price, L1_COLD_INSTRUCTION, is what is left of that row without them."""
_TOUCHING = 3 + 4 * HANDLER_PAGES
"""Instructions that this takes; each stands for one of the handler."""


@dataclass(frozen=True)
class Case:
    """One published figure with its scenario.

    Attributes
    ----------
    id, source, operation, confidence, note : str
        As in the table of published rows.
    level : {"single", "nested"}
    measured : float
        Cycles per operation, converted with the clock of the row or else of the preset.
    measure : str
        How the run's cycles are divided, see the header of ``scenarios.csv``; empty when no
        scenario represents the row.
    preset : str
        Prices of the processor.
    extra : str
        Event whose price L1 pays for this kind of exit besides the common part, or empty; "single":
        L1 pays what the single-level figure of the row says.
    exits : int or None
        Hardware exits per operation where published.
    fit : bool
        May a fit see it?
    informs : tuple of str
        Prices that rest on this very figure.
    why : str
        Why there is no scenario, or what it assumes.
    settings : dict
        Arguments of :class:`Scenario` without prices.
    processor_known : bool
        False: the source does not say it, and the preset is an assumption.
    single : float or None
        The single-level figure of the same row, in cycles.
    """

    id: str
    source: str
    operation: str
    confidence: str
    note: str
    level: str
    measured: float
    measure: str
    preset: str
    extra: str
    exits: int | None
    fit: bool
    informs: tuple[str, ...]
    why: str
    settings: dict[str, Any]
    processor_known: bool = True
    single: float | None = None

    @property
    def represented(self) -> bool:
        """Is there a scenario for it?"""
        return bool(self.measure)

    @property
    def cause(self) -> str:
        """The ledger's cause of the operation."""
        return self.measure.split()[1]

    def scenario(self, preset: PricePreset | None = None) -> Scenario:
        """The scenario, at the prices of ``preset`` where given.

        The handler of a nested row is the software that L0 itself has for this exit, executed
        at L1: its length follows from the prices of that software, its pages from a unit cost.
        """
        prices = load_preset(self.preset)
        changed: Any = _differences(prices, preset) if preset is not None else {}
        settings = dict(self.settings)
        if self.level == NESTED:
            work = handler_work(preset or prices, self.extra, self.single)
            pages = HANDLER_PAGES if work > _TOUCHING else 0
            rest = {"handler_work": work - (_TOUCHING if pages else 0), "handler_pages": pages}
            settings["l1_params"] = settings["l1_params"] | rest
        return Scenario(prices=self.preset, price_values=changed, **settings)


@dataclass(frozen=True)
class Unit:
    """A published unit cost: the figure of a known handful of events.

    Attributes
    ----------
    id, source, operation : str
        As in the table of published rows.
    measured : float
        Cycles.
    events : dict
        Event -> how many the figure covers.
    why : str
        What it is.
    """

    id: str
    source: str
    operation: str
    measured: float
    events: dict[str, float]
    why: str


def handler_work(preset: PricePreset, extra: str = "", single: float | None = None) -> int:
    """Instructions that stand for the rest of L1's handler: L0's software of such an exit.

    One instruction for each cycle that dispatch, emulation and ``extra`` cost L0, less those that
    an L1 program executes anyway.  With ``extra`` = "single" for each cycle of the single-level
    figure that is not the hardware's.
    """
    if extra == FROM_SINGLE and single is not None:
        cycles = single - preset.price("HW_EXIT") - preset.price("HW_ENTRY")
    else:
        cycles = sum(preset.price(event) for event in (*_HANDLER_PARTS, extra) if event)
    return max(0, round(cycles) - _COUNTED_APART)


def _differences(old: PricePreset, new: PricePreset) -> dict[str, tuple[float, float, float]]:
    names = ["low", "value", "high"]
    before, after = old.frame[names], new.frame[names]
    changed = (before != after).any(axis=1)
    return {
        event: (float(row[0]), float(row[1]), float(row[2]))
        for event, row in zip(new.frame["event"][changed], after[changed].to_numpy(), strict=True)
    }


# ---------------------------------------------------------------- the tables


def single_level() -> list[Case]:
    """Every single-level figure; nothing in it leads to a nested one."""
    return _cases(SINGLE)


def nested() -> list[Case]:
    """Every nested figure: what is predicted, never fitted."""
    return _cases(NESTED)


def units(preset: str) -> list[Unit]:
    """Unit costs that a fit of this preset sees; single-level figures, too."""
    numbers = {row["id"]: row for row in data_table("published/published").rows}
    made = []
    for row in data_table("published/units").rows:
        if preset not in row["prices"].split():
            continue
        about = numbers.get(row["id"], {})
        if not about.get("single_level") or about["confidence"] not in CLEAR_OF_MEMORY:
            message = f"units.csv: {row['id']} has no single-level figure that somebody has read"
            raise ResultError(message, "correct the id; a fit sees no other figures")
        events = {
            name: float(n) for name, _, n in (e.partition("=") for e in row["events"].split())
        }
        cycles = _cycles(float(about["single_level"]), about, {"prices": preset})
        made.append(Unit(row["id"], about["source_key"], about["operation"], cycles, events,
                         row["why"]))  # fmt: skip
    return made


def presets_with_units() -> tuple[str, ...]:
    """Presets for which ``units.csv`` has a row."""
    named = (name for row in data_table("published/units").rows for name in row["prices"].split())
    return tuple(dict.fromkeys(named))


def _cases(level: str) -> list[Case]:
    column = {SINGLE: "single_level", NESTED: "nested"}[level]
    numbers = {row["id"]: row for row in data_table("published/published").rows}
    made = []
    for row in data_table("published/scenarios").rows:
        if row["level"] != level:
            continue
        about = numbers.get(row["id"])
        if about is None or (row["measure"] and not about[column]):
            message = f"scenarios.csv: {row['id']} has no {level} figure in published.csv"
            raise ResultError(message, "correct the id or the level")
        made.append(_case(row, about, float(about[column] or "nan")))
    return made


def _case(row: dict[str, str], about: dict[str, str], figure: float) -> Case:
    represented = bool(row["measure"])
    if not represented and not row["why"]:
        message = f"scenarios.csv: {row['id']} ({row['level']}) has neither scenario nor reason"
        raise ResultError(message, "fill in the columns up to measure, or why")
    if row["fit"] and (row["level"] != SINGLE or about["confidence"] not in CLEAR_OF_MEMORY):
        message = f"scenarios.csv: {row['id']} ({row['level']}, {about['confidence']}) has fit = y"
        raise ResultError(message, "a fit takes single-level figures that somebody has read")
    return Case(
        row["id"], about["source_key"], about["operation"], about["confidence"], about["note"],
        row["level"], _cycles(figure, about, row) if represented else figure, row["measure"],
        row["prices"], row["extra"], int(row["exits"]) if row["exits"] else None,
        row["fit"] == "y", tuple(row["informs"].split()), row["why"],
        _settings(row, about) if represented else {}, about["cpu"] != "not stated",
        _cycles(float(about["single_level"]), about, row)
        if represented and about["single_level"] else None,
    )  # fmt: skip


def _cycles(figure: float, about: dict[str, str], row: dict[str, str]) -> float:
    unit = about["unit"]
    if unit == "cycles":
        return figure
    clock = float(about["clock_ghz"] or 0) or load_preset(row["prices"]).clock_ghz
    if not clock:
        message = f"{about['id']} is in {unit}, and neither it nor {row['prices']} has a clock"
        raise ResultError(message, "give clock_ghz")
    return figure * clock * 1000 if unit == "us" else clock * 1e9 / figure


def _settings(row: dict[str, str], about: dict[str, str]) -> dict[str, Any]:
    l2 = _pairs(row["l2_params"])
    if row["l2"] != "touch":
        l2 = {"iterations": ITERATIONS, "work": 0} | l2
    return {
        "backend": about["backend"], "l0": row["l0"], "l1": row["l1"], "l2": row["l2"],
        "l1_params": _pairs(row["l1_params"]), "l2_params": l2,
        "features": _pairs(row["features"]), "l2_page_size": row["page"],
    }  # fmt: skip


def _pairs(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split():
        name, _, value = part.partition("=")
        number = value[:1].isdigit()
        found[name] = int(value, 0) if number else {"on": True, "off": False}.get(value, value)
    return found


# ---------------------------------------------------------------- dividing a run


def per_operation(case: Case, result: Result) -> tuple[dict[str, float], float]:
    """Cycles of one operation with bounds, and its hardware exits, as the figure counts them.

    Returns
    -------
    dict
        cycles, cycles_low, cycles_high per operation.
    float
        Hardware exits per operation; of a leg, its own.

    Raises
    ------
    ResultError
        The run has no such operation.
    """
    kind = case.measure.split()[0]
    found = result.operations
    found = found[found["cause"] == case.cause]
    if found.empty:
        message = f"{case.id}: the run has no operation {case.cause}"
        raise ResultError(message, "correct the measure in scenarios.csv")
    row = found.iloc[0]
    names = ("cycles", "cycles_low", "cycles_high")
    whole = {name: float(row[f"{name}_per_operation"]) for name in names}
    if kind in ("operation", "per_second"):
        return whole, float(row["exits_per_operation"])
    if kind == "handling":
        return _without_switches(whole, result.preset), float(row["exits_per_operation"])
    if kind == "reflected":
        table = result.exits
        table = table[(table["from_level"] == "L2") & (table["cause"] == case.cause)]
        share = table["count"].sum() / table.loc[table["handled_by"] == "L1", "count"].sum()
        scaled = {name: float(cycles * share) for name, cycles in whole.items()}
        return scaled, float(row["exits_per_operation"] * share)
    if kind in LEGS:
        counts = leg_counts(result.scenario, kind, case.cause)
        return {n: float(v) for n, v in result.preset.spread(counts).items()}, 1.0
    known = ", ".join(("operation", "handling", "reflected", "per_second", *LEGS))
    raise ResultError(f"no measure called {kind!r}", f"there are: {known}")


def _without_switches(cycles: dict[str, float], preset: PricePreset) -> dict[str, float]:
    """What the software of one exit took: without the hardware's exit and entry."""
    prices = preset.frame.set_index("event").loc[["HW_EXIT", "HW_ENTRY"]].sum(numeric_only=True)
    columns = {"cycles": "value", "cycles_low": "low", "cycles_high": "high"}
    return {name: value - float(prices[columns[name]]) for name, value in cycles.items()}
