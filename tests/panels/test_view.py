"""The panel's widgets, without a browser: what a click asks for, and what the page then shows."""

import asyncio
import dataclasses
import datetime
import html

import pytest

from workbench import features
from workbench.errors import ScenarioError
from workbench.measure.swings import sensitivity
from workbench.panels.drawing import CHARTS, TABLES, boundaries_html
from workbench.panels.view import OTHER, PINNED, Panel
from workbench.scenario import Scenario
from workbench.spelling import label_of


@pytest.fixture
def panel(simulation):
    return Panel(execute=simulation, raise_errors=True)


def pictures(panel):
    return {name: chart.value for name, chart in panel.charts.items()}


def test_the_first_run_comes_by_itself(panel, simulation):
    assert simulation.asked == [Scenario()]
    assert list(pictures(panel)) == list(CHARTS)
    for picture in pictures(panel).values():
        assert picture.startswith('<svg role="img" aria-label="')
        assert picture.count("<svg") == picture.count("</svg>") == 1
    assert "instructions in" in panel._status.value


def test_the_other_back_end_is_one_click_away_and_stays_beside(panel, simulation):
    panel.controls._backend.value = "vmx"
    assert simulation.asked[-1].backend == "vmx"
    assert list(panel.shown()) == ["VMX", "SVM"]
    assert panel._beside.value == OTHER


def test_a_toggle_runs_again_and_redraws(panel, simulation):
    before = pictures(panel)
    panel.controls._features["virtual_gif"].value = True
    assert simulation.asked[-1].features == {"virtual_gif": True}
    assert len(simulation.asked) == 2
    assert panel.state.can_undo and not panel._undo.disabled
    panel._undo.click()
    assert panel.controls._features["virtual_gif"].value is False
    assert list(before) == list(pictures(panel))


def test_a_price_redraws_the_cost_without_a_run(panel, simulation):
    before = pictures(panel)
    _, text, slider, _ = panel.controls._price_rows["HW_EXIT"]
    text.value = 5000
    after = pictures(panel)
    assert len(simulation.asked) == 1
    assert after["Cost"] != before["Cost"]
    assert after["Exit frequency"] == before["Exit frequency"]
    assert slider.value == 5000


def test_the_ten_prices_with_the_largest_shares_have_sliders(panel):
    table = sensitivity(panel.result).sort_values("share", ascending=False)
    assert list(panel.controls._ranked) == list(table["event"].head(10))
    shown = [row.children[0].description for row in panel.controls._price_box.children]
    assert shown == [label_of(event) for event in table["event"].head(10)]
    first = table.iloc[0]
    row = panel.controls._price_rows[first["event"]]
    for said in (f"{100 * first['share']:.1f} %", first["kind"], first["source"],
                 f"{first['low']:g} to {first['high']:g}"):  # fmt: skip
        assert said in row.text.tooltip and html.escape(said) in row.about.value
    panel.controls._backend.value = "vmx"
    ours = set(sensitivity(panel.result).sort_values("share")["event"].tail(10))
    assert set(panel.controls._ranked) == ours


def test_a_price_alone_does_not_move_the_sliders(panel):
    before = list(panel.controls._ranked)
    panel.controls._price_rows[before[3]][1].value = 123456
    assert list(panel.controls._ranked) == before
    assert panel.controls._price_rows[before[3]][2].value == 123456


def test_a_redrawn_cost_chart_is_the_chart_of_these_prices(panel):
    first = panel._figures["Cost"].figure
    panel.controls._price_rows["HW_EXIT"][1].value = 5000
    assert panel._figures["Cost"].figure is first, "drawn anew"
    anew = CHARTS["Cost"](panel.shown())
    assert first.get_label() == anew.get_label()
    sizes = [
        [label.get_fontsize() for label in figure.axes[0].get_xticklabels()]
        for figure in (first, anew)
    ]
    assert sizes[0] == sizes[1]
    bars, other = first.axes[0], anew.axes[0]
    for ours, theirs in zip(bars.patches, other.patches, strict=True):
        assert ours.get_bbox().bounds == pytest.approx(theirs.get_bbox().bounds)
    for ours, theirs in zip(bars.lines, other.lines, strict=True):
        assert ours.get_xydata() == pytest.approx(theirs.get_xydata())
    for ours, theirs in zip(bars.collections, other.collections, strict=True):
        assert ours.get_segments()[0] == pytest.approx(theirs.get_segments()[0])
    for ours, theirs in zip(bars.texts, other.texts, strict=True):
        assert ours.get_text() == theirs.get_text() and ours.xy == pytest.approx(theirs.xy)
    assert bars.get_xlim() == pytest.approx(other.get_xlim())
    for ours, theirs in zip(first.texts, anew.texts, strict=True):
        assert ours.get_text() == theirs.get_text()
        assert ours.get_fontsize() == theirs.get_fontsize()
        assert ours.get_position() == pytest.approx(theirs.get_position(), abs=1e-3)


def test_another_preset_redraws_without_a_run(panel, simulation):
    panel.controls._preset.value = "zen3"
    assert len(simulation.asked) == 1
    assert panel.shown()["SVM"].preset.name == "zen3"
    assert "zen3" in panel._figures["Cost"].figure.get_supxlabel()


def test_every_price_can_be_set(panel):
    panel.controls._other.value = "TLB_MISS"
    panel.controls._other_cycles.value = 12
    assert panel.state.scenario.preset.price("TLB_MISS") == 12


def test_a_wrong_value_is_explained_and_taken_back(simulation):
    panel = Panel(execute=simulation)
    box = panel.controls._params[(2, "cpuid", "svm")]["iterations"]
    held = box.value
    box.value = -3
    assert "out of range" in panel._error.value and 'role="alert"' in panel._error.value.replace(
        "'", '"'
    )
    assert box.value == held
    panel.controls._features["virtual_gif"].value = True
    assert panel._error.value == ""


def test_greyed_toggles_say_why(panel):
    control = panel.controls._features["vmcs_shadowing"]
    assert control.disabled and "VMX" in control.tooltip
    assert "VMX" in panel.controls._reasons["vmcs_shadowing"].value
    panel.controls._backend.value = "vmx"
    assert not control.disabled
    assert panel.controls._features["virtual_gif"].disabled


def test_every_toggle_of_the_catalogue_has_a_control(panel):
    assert set(panel.controls._features) == set(features.catalogue())
    for control in panel.controls._features.values():
        assert control.description


def test_values_follow_the_back_end(panel):
    options = [value for _, value in panel.controls._features["msr_map"].options]
    assert "none" not in options
    panel.controls._backend.value = "vmx"
    assert "none" in [value for _, value in panel.controls._features["msr_map"].options]


def test_the_parameters_follow_the_program(panel, simulation):
    panel.controls._guests[2].value = "touch"
    names = {child.description for child in panel.controls._params_boxes[2].children}
    assert "Pages" in names and "Iterations" not in names
    assert simulation.asked[-1].l2 == "touch"


def test_a_pinned_result_stays_beside_the_next(panel):
    panel.pin()
    panel.controls._features["virtual_gif"].value = True
    assert panel._beside.value == PINNED
    assert len(panel.shown()) == 2


@pytest.mark.parametrize("name", TABLES)
def test_every_table_shows_something(panel, name):
    panel._which_table.value = name
    assert "<table" in panel._table.value


def test_a_saved_scenario_is_loaded_again(panel):
    panel.controls._features["virtual_gif"].value = True
    text = panel.state.to_json()
    panel._reset.click()
    assert panel.state.scenario.features == {}
    panel._upload.value = (
        {"name": "mine.json", "type": "", "size": len(text), "content": text.encode(),
         "last_modified": datetime.datetime.now(datetime.UTC)},
    )  # fmt: skip
    assert panel.controls._features["virtual_gif"].value is True


def test_a_failing_run_is_shown(made_results):
    async def broken(scenario, progress, cancel):
        raise RuntimeError("lost")

    panel = Panel(execute=broken)
    assert "RuntimeError: lost" in panel._error.value
    assert not panel.runner.busy


def test_nothing_runs_before_it_is_asked(simulation):
    panel = Panel(execute=simulation, autorun=False)
    panel.controls._features["virtual_gif"].value = True
    assert simulation.asked == []
    panel._run.click()
    assert len(simulation.asked) == 1


def test_the_chart_of_interrupts_is_there_only_when_there_were_any(panel):
    chart = panel.charts["Interrupts"]
    assert chart.layout.display is None and chart.value.startswith("<svg")
    quiet = panel.result.raw
    nothing = {name: getattr(quiet, name) * 0 for name in ("blocked", "delivered", "latency")}
    panel.result = dataclasses.replace(panel.result, raw=dataclasses.replace(quiet, **nothing))
    panel.draw()
    assert chart.layout.display == "none" and chart.value == ""


def test_numbers_of_the_scenario_can_be_set_and_are_checked(panel, simulation):
    numbers = panel.controls._numbers
    numbers["host_tick_cycles"].value = 50_000
    assert simulation.asked[-1].host_tick_cycles == 50_000
    with pytest.raises(ScenarioError):
        numbers["nmi_cycles"].value = 10
    assert numbers["nmi_cycles"].value == 0 == panel.state.scenario.nmi_cycles
    assert numbers["balloon_period"].disabled
    panel.controls._features["l0_p2m_event"].value = "balloon"
    assert not numbers["balloon_period"].disabled
    assert "cycles" in numbers["nmi_cycles"].tooltip


def test_a_request_that_comes_while_charts_are_drawn_can_be_cancelled(simulation):
    endless = asyncio.Event()

    async def execute(scenario, progress, cancel):
        if len(simulation.asked) == 2:
            await endless.wait()
        return await simulation(scenario, progress, cancel)

    async def use():
        panel = Panel(execute=execute, autorun=False)
        drawn = panel._paint

        async def interrupted():
            panel._paint = drawn
            await drawn()
            panel.run()

        panel.run()
        await panel.runner.drain()
        panel._paint = interrupted
        panel.run()
        while panel._paint is interrupted:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert panel.runner.busy and not panel._cancel.disabled
        assert "shown after" not in panel._status.value
        panel._cancel.click()
        assert panel._cancel.disabled and "cancelled" in panel._status.value
        endless.set()
        await panel.runner.drain()

    asyncio.run(use())


def test_reasons_call_toggles_as_the_panel_does(panel):
    said = panel.controls._reasons["vmcs_shadowing"].value
    assert "Virtual GIF" in said and "virtual_gif" not in said
    said = panel.controls._idle["balloon_period"].value
    assert "L0 P2M event" in said


def test_programs_that_differ_are_named_beside_each_other(panel):
    panel.controls._guests[2].value = "touch"
    panel.controls._backend.value = "vmx"
    panel.controls._guests[2].value = "cpuid"
    assert list(panel.shown()) == ["VMX, l2 cpuid", "SVM, l2 touch"]


def test_a_pinned_result_that_is_the_one_shown_is_shown_once(panel):
    panel.pin()
    panel.controls._features["virtual_gif"].value = True
    assert len(panel.shown()) == 2
    panel._undo.click()
    assert list(panel.shown()) == ["SVM"]


def test_the_same_file_can_be_loaded_twice(panel):
    text = panel.state.to_json()
    file = {"name": "mine.json", "type": "", "size": len(text), "content": text.encode(),
            "last_modified": datetime.datetime.now(datetime.UTC)}  # fmt: skip
    for _ in range(2):
        panel.controls._features["virtual_gif"].value = True
        panel._upload.value = (file,)
        assert panel.controls._features["virtual_gif"].value is False


def test_prices_set_by_hand_stand_out(panel):
    row = panel.controls._price_rows["HW_EXIT"]
    assert panel.controls._back.disabled
    row.text.value = 5000
    assert "wbp-set" in row.row._dom_classes and "Set to 5000" in row.text.tooltip
    assert not panel.controls._back.disabled
    panel.controls._back.click()
    assert "wbp-set" not in row.row._dom_classes and panel.controls._back.disabled


def test_a_slider_gives_a_price_of_four_digits(panel):
    panel.controls._price_rows["HW_EXIT"].slider.value = 868.7000000001
    assert panel.state.scenario.price_values == {"HW_EXIT": 868.7}


def test_what_is_not_modelled_is_said(panel):
    assert "<li>Data caches" in boundaries_html() and "<code>paging=sos</code>" in boundaries_html()


def test_toggles_of_one_word_are_called_as_their_control_is(panel):
    said = [panel.controls._reasons[name].value for name in ("pml", "apicv", "full_vmcs_switch")]
    assert said[0].startswith("PML is") and said[1].startswith("APICv is")
    panel.controls._backend.value = "vmx"
    assert "while L0 is Xen" in panel.controls._reasons["full_vmcs_switch"].value
