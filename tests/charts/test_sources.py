"""The footer of every chart names exactly the sources behind the numbers that it shows."""

import inspect

import pandas as pd
import pytest
from matplotlib.figure import Figure

import workbench as wb
from workbench import charts
from workbench.core.ledger import EVENTS
from workbench.measure.frames import CAUSES
from workbench.tables import source_keys


def keys_behind(result, preset=None, set_up=False):
    """An own reading of the price table: keys of each price that met a count and is not nothing."""
    counts = result.raw.counts.copy()
    if not set_up:
        counts[CAUSES.index("BOOT")] = 0
    table = (preset or result.preset).frame.set_index("event")
    found = set()
    for event, count in zip(EVENTS, counts.sum(axis=0), strict=False):
        if count and table.at[event, "high"] > 0:
            found |= set(source_keys(table.at[event, "source"]))
    return found - {"user"}


def cited(figure):
    note = " ".join(figure.get_supxlabel().split())
    listed = note.split("; sources ")[1].split(", ") if "; sources " in note else []
    return {key.split()[0] for key in listed}


@pytest.fixture(scope="module")
def results():
    made = {"SVM": wb.Scenario(l2_params={"iterations": 60}, timeline=400, host_tick_cycles=40_000),
            "VMX": wb.Scenario(backend="vmx", l2="touch", l1="kvm-6.12")}  # fmt: skip
    return {label: wb.run(scenario) for label, scenario in made.items()}


def of_all(results):
    return set().union(*map(keys_behind, results.values()))


def toggles(result):
    table = wb.toggle_sensitivity(result, ["virtual_gif", "paging", "tlb_tagging", "l0_page_size"])
    expected = keys_behind(result)
    for row in table.head(2).to_dict("records"):
        value = {"on": True, "off": False}.get(row["value"], row["value"])
        changed = result.scenario.replace(**{f"features.{row['toggle']}": value})
        expected |= keys_behind(wb.run(changed))
    return charts.toggle_tornado(table, most=2), expected


def effects(result):
    found = wb.factorial(result.scenario, ["virtual_gif", "walk_caches"], store=False)
    runs = found.table.results.values()
    return charts.effects(found), set().union(*map(keys_behind, runs))


def by_the_clock(draw, result, set_up):
    """The run's own clock ran at the prices of the scenario, whatever the result is priced at now."""
    shown = result.reprice(wb.prices.load_preset("zen3").with_values({"HW_EXIT": 1.0}))
    return draw(shown), keys_behind(shown, result.scenario.preset, set_up)


def experiment():
    outcome = wb.experiment("gif")
    expected = set(outcome.experiment.sources)
    for run in outcome.runs:
        expected |= keys_behind(run.result)
    return outcome.figure, expected


def record(draw, **columns):
    """Charts of the record take the sources from their table; rows without a number give none."""
    numbers = dict.fromkeys(
        ("predicted", "low", "high", "measured", "error", "single", "nested", "single_low",
         "single_high", "nested_low", "nested_high", "measured_single", "measured_nested"), 2.0,
    )  # fmt: skip
    names = {"id": "a", "processor": "p", "assist": "", "scenario": "s", "counted": True}
    rows = [numbers | names | {"sources": keys} for keys in ("one two", "two three")]
    return draw(pd.DataFrame(rows)), {"one", "two", "three"}


def deeper():
    table = wb.depth(wb.Scenario(l2_params={"iterations": 30}), levels=3)
    table.attrs["sources"] = ("one", "two")
    return charts.depth({"A": table, "B": table}), {"one", "two"}


CASES = {
    "cost": lambda r: (charts.cost(r), of_all(r)),
    "differences": lambda r: (charts.differences(wb.compare(r)), of_all(r)),
    # counts of exits and flushes per thousand instructions: no price is in them
    "exit_frequency": lambda r: (charts.exit_frequency(r), set()),
    "tlb_flushes": lambda r: (charts.tlb_flushes(r), set()),
    "tornado": lambda r: (charts.tornado(r["VMX"]), keys_behind(r["VMX"])),
    "toggle_tornado": lambda r: toggles(r["SVM"]),
    "effects": lambda r: effects(r["SVM"]),
    "interrupts": lambda r: by_the_clock(charts.interrupts, r["SVM"], True),
    "timeline": lambda r: by_the_clock(charts.timeline, r["SVM"], False),
    "experiment": lambda r: experiment(),
    "predictions": lambda r: record(charts.predictions),
    "trend": lambda r: record(charts.trend),
    "depth": lambda r: deeper(),
}


def test_every_chart_of_the_library_is_looked_at():
    figures = {
        name for name in charts.__all__
        if inspect.isfunction(getattr(charts, name))
        and inspect.signature(getattr(charts, name)).return_annotation in (Figure, "Figure")
    }  # fmt: skip
    assert set(CASES) == figures


@pytest.mark.parametrize("name", CASES)
def test_a_chart_cites_what_is_behind_its_numbers(name, results):
    figure, expected = CASES[name](results)
    assert cited(figure) == expected
