"""The panel's state: valid at any time, undoable, and it says what a change makes necessary."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import features
from workbench.errors import WorkbenchError
from workbench.panels.state import Need, PanelState
from workbench.scenario import Scenario


@pytest.fixture
def state():
    return PanelState()


def test_a_toggle_needs_a_run(state):
    assert state.set_feature("virtual_gif", True) is Need.RUN
    assert state.feature_values()["virtual_gif"] is True


def test_setting_what_is_set_already_needs_nothing(state):
    assert state.set_feature("tlb_tagging", True) is Need.NOTHING
    assert state.set_param(2, "iterations", state.params(2)["iterations"]) is Need.NOTHING


def test_a_price_needs_only_a_drawing(state):
    assert state.set_price("HW_EXIT", 4321) is Need.DRAW
    assert state.scenario.preset.price("HW_EXIT") == 4321
    assert state.reset_prices() is Need.DRAW


def test_the_presets_own_price_is_no_change(state):
    own = state.scenario.preset.price("HW_EXIT")
    state.set_price("HW_EXIT", own + 1)
    state.set_price("HW_EXIT", own)
    assert not state.scenario.price_values


def test_listeners_hear_of_each_change_until_they_leave(state):
    heard = []
    leave = state.subscribe(heard.append)
    state.set_feature("virtual_gif", True)
    state.set_price("HW_EXIT", 1)
    leave()
    state.undo()
    assert heard == [Need.RUN, Need.DRAW]


def test_a_refused_change_leaves_everything_as_it_was(state):
    before = state.scenario
    for wrong in (
        lambda: state.set_feature("vmcs_shadowing", True),
        lambda: state.set_param(2, "iterations", -1),
        lambda: state.set_price("HW_EXIT", -5),
        lambda: state.set_guest(2, "no such guest"),
        lambda: state.load_text("{", "broken.json"),
        lambda: state.load_text("backend = 'arm'", "wrong.toml"),
        lambda: state.load_text("{}", "picture.png"),
    ):
        with pytest.raises(WorkbenchError):
            wrong()
    assert state.scenario is before
    assert not state.can_undo


def test_undo_and_redo_walk_through_the_changes(state):
    scenarios = [state.scenario]
    for iterations in (10, 20, 30):
        state.set_param(2, "iterations", iterations)
        scenarios.append(state.scenario)
    for expected in reversed(scenarios[:-1]):
        assert state.undo() is Need.RUN
        assert state.scenario == expected
    assert state.undo() is Need.NOTHING
    for expected in scenarios[1:]:
        state.redo()
        assert state.scenario == expected
    assert not state.can_redo


def test_a_new_change_ends_the_redo(state):
    state.set_feature("virtual_gif", True)
    state.undo()
    state.set_feature("msr_map", "intercept_all")
    assert not state.can_redo


def test_a_back_end_keeps_its_own_settings_until_it_comes_back(state):
    state.set_feature("virtual_gif", True)
    state.set_feature("np2m_flush", "eager")
    state.set_price("HW_EXIT", 99)
    state.set_backend("vmx")
    assert "virtual_gif" not in state.feature_values()
    assert state.feature_values()["np2m_flush"] == "eager"
    assert not state.scenario.price_values
    state.set_backend("svm")
    assert state.feature_values()["virtual_gif"] is True
    assert state.scenario.price_values["HW_EXIT"] == 99


def test_unavailable_toggles_say_why(state):
    reasons = state.unavailable()
    assert "VMX" in reasons["vmcs_shadowing"]
    assert "virtual_gif" not in reasons
    state.set_feature("tlb_tagging", False)
    assert "tlb_tagging" in state.unavailable()["l2_tag_policy"]


@pytest.mark.parametrize("backend", features.BACKENDS)
def test_every_toggle_of_a_back_end_is_shown_or_says_why_not(backend):
    state = PanelState(Scenario(backend=backend))
    shown, greyed = set(state.feature_values()), set(state.unavailable())
    assert shown | greyed == set(features.catalogue())


def test_json_goes_round_and_is_a_scenario_file(state, tmp_path):
    state.set_guest(2, "touch")
    state.set_param(2, "pages", 32)
    state.set_price("HW_EXIT", 77)
    text, before = state.to_json(), state.scenario
    assert Scenario.from_json(text) == before
    state.reset()
    assert state.load_text(text) is Need.RUN
    assert state.scenario == before
    json.loads(text)


def test_the_code_makes_the_same_scenario(state):
    state.set_backend("vmx")
    state.set_feature("vmcs_shadowing", True)
    names = {}
    exec(state.to_code().replace("result = wb.run(scenario)", ""), names)
    assert names["scenario"] == state.scenario


def test_a_price_preset_does_not_change_the_machine(state):
    state.set_guest(2, "touch")
    for name in state.presets():
        assert state.set_preset(name) is not Need.RUN


ACTIONS = st.sampled_from(
    [
        lambda s: s.set_backend("svm"),
        lambda s: s.set_backend("vmx"),
        lambda s: s.set_feature("tlb_tagging", False),
        lambda s: s.set_feature("l1_page_size", "2m"),
        lambda s: s.set_guest(2, "touch"),
        lambda s: s.set_price("L1_INSTRUCTION", 3.0),
        lambda s: s.reset(),
        lambda s: s.undo(),
        lambda s: s.redo(),
    ]
)


@given(st.lists(ACTIONS, max_size=12))
def test_undoing_everything_ends_where_it_began(actions):
    state = PanelState()
    first = state.scenario
    for action in actions:
        action(state)
    while state.can_undo:
        state.undo()
    assert state.scenario == first


def test_an_l1_that_the_other_back_end_lacks_comes_back():
    state = PanelState(Scenario(backend="vmx", l1="kvm-2.6.35", l1_params={"handler_work": 7}))
    state.set_backend("svm")
    assert state.scenario.l1 == "minimal"
    state.set_backend("vmx")
    assert state.scenario.l1 == "kvm-2.6.35" and state.scenario.l1_params == {"handler_work": 7}
    state.undo(), state.undo()
    assert state.scenario.l1 == "kvm-2.6.35" and state.backend == "vmx"


def test_an_l1_chosen_on_the_other_back_end_stays():
    state = PanelState(Scenario(backend="vmx", l1="kvm-2.6.35"))
    state.set_backend("svm")
    state.set_guest(1, "xen-4.2x")
    state.set_backend("vmx")
    assert state.scenario.l1 == "xen-4.2x"


def test_parameters_that_only_one_back_ends_l1_has_come_back():
    state = PanelState(Scenario(backend="vmx", l1="kvm-6.12", l1_params={"io_userspace": 1}))
    state.set_backend("svm")
    assert state.scenario.l1 == "kvm-6.12" and not state.scenario.l1_params
    state.set_param(1, "handler_work", 9)
    state.set_backend("vmx")
    assert state.scenario.l1_params == {"io_userspace": 1, "handler_work": 9}


def test_an_l1_that_comes_back_brings_a_paging_mode_it_knows():
    state = PanelState(Scenario(backend="vmx", l1="kvm-2.6.35"))
    state.set_backend("svm")
    state.set_feature("paging", "sos")
    assert state.scenario.l1 == "shadow"
    state.set_guest(1, "minimal")
    state.set_backend("vmx")
    assert state.scenario.l1 == "kvm-2.6.35" and state.feature_values()["paging"] == "non"


@pytest.mark.parametrize("text", ["{", '{"l2": "nosuch"}'])
def test_a_wrong_file_is_named_once(state, text):
    with pytest.raises(WorkbenchError) as refused:
        state.load_text(text, "mine.json")
    assert refused.value.message.startswith("mine.json: ") and "json text" not in str(refused.value)
