"""The tornado charts of the panel: prices by arithmetic, toggles by runs in the background."""

import asyncio
import re

import pytest

from workbench.panels import swings
from workbench.panels.swings import HIDDEN, PRICES, TOGGLES
from workbench.panels.view import Panel
from workbench.scenario import Scenario
from workbench.study.toggles import other_values

SHORT = Scenario(l2_params={"iterations": 20})


@pytest.fixture
def panel():
    return Panel(SHORT, raise_errors=True)


def shown(widget):
    return widget.layout.display != "none"


def label(panel):
    return re.search('aria-label="([^"]*)"', panel.swings.chart.value)[1]


def test_nothing_is_drawn_before_it_is_asked_for(panel):
    assert panel.swings.choice.value == HIDDEN
    assert panel.swings.chart.value == "" and not shown(panel.swings.chart)


def test_the_tornado_of_prices_follows_the_prices(panel):
    panel.swings.choice.value = PRICES
    before = label(panel)
    assert before.startswith("Tornado chart") and not shown(panel.swings._row)
    panel.controls._price_rows["HW_EXIT"][1].value = 9000
    assert label(panel) != before


def test_toggles_say_what_they_need_and_are_run_when_asked(panel):
    part = panel.swings
    part.choice.value = TOGGLES
    number = len(list(other_values(panel.result)))
    assert shown(part.start) and not shown(part.stop)
    assert f"{number} runs" in part.said.value and part.chart.value == ""
    part.start.click()
    assert not part.busy and not shown(part.start)
    assert label(panel).startswith("Tornado chart")
    assert "cannot have: Paging = so" in part.said.value


def test_other_prices_draw_the_toggles_again_without_a_run(panel, monkeypatch):
    part = panel.swings
    part.choice.value = TOGGLES
    part.start.click()
    before = label(panel)
    monkeypatch.setattr(swings, "run_toggles", None)  # would fail if it were called
    panel.controls._price_rows["HW_EXIT"][1].value = 9000
    assert label(panel) != before


def test_another_scenario_needs_its_own_runs(panel):
    part = panel.swings
    part.choice.value = TOGGLES
    part.start.click()
    panel.controls._features["virtual_gif"].value = True
    assert part.chart.value == "" and shown(part.start)


def in_background(steps):
    """A panel on an event loop whose toggle runs wait until they are cancelled."""

    async def use():
        panel = Panel(SHORT, raise_errors=True)
        await panel.runner.drain()
        panel.swings.choice.value = TOGGLES
        panel.swings.start.click()
        assert panel.swings.busy and shown(panel.swings.stop) and shown(panel.swings.progress)
        await asyncio.sleep(0.05)
        await steps(panel)
        await panel.runner.drain()
        await panel.swings.drain()
        return panel

    return asyncio.run(use())


def half(result, toggles, progress, cancel, real=swings.run_toggles):
    """The first two toggles, then nothing until somebody cancels."""
    found = real(result, toggles, lambda _, done, total: done == 2 and cancel.wait(20), cancel)
    assert cancel.is_set()
    return found


def test_cancelled_toggles_show_what_was_run(monkeypatch):
    monkeypatch.setattr(swings, "run_toggles", half)

    async def steps(panel):
        panel.swings.stop.click()

    panel = in_background(steps)
    assert not panel.swings.busy
    assert "Cancelled after" in panel.swings.said.value
    assert label(panel).startswith(("Tornado chart", "Which toggles"))


def test_another_scenario_ends_the_runs_of_the_one_before(monkeypatch):
    monkeypatch.setattr(swings, "run_toggles", half)

    async def steps(panel):
        panel.controls._features["virtual_gif"].value = True

    panel = in_background(steps)
    assert not panel.swings.busy and panel.swings.chart.value == ""
    assert shown(panel.swings.start) and not shown(panel.swings.stop)


def test_a_failure_of_the_runs_is_shown(monkeypatch):
    def broken(*_):
        raise RuntimeError("lost")

    monkeypatch.setattr(swings, "run_toggles", broken)

    async def steps(panel):
        pass

    panel = in_background(steps)
    assert "RuntimeError: lost" in panel._error.value and not panel.swings.busy
