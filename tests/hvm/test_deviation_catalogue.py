"""The catalogue of deviations: every row is complete, has its bit, and a test of its own."""

from __future__ import annotations

import inspect

import pytest

import workbench as wb
from tests.hvm import test_deviations_svm, test_deviations_vmx
from workbench import personality
from workbench.arch import deviations
from workbench.errors import ScenarioError
from workbench.scenario import Scenario
from workbench.tables import bibliography, source_keys


@pytest.mark.parametrize("name", personality.catalogue())
def test_every_deviation_has_a_test_of_its_observable_difference(name):
    tests = {
        function
        for module in (test_deviations_svm, test_deviations_vmx)
        for function, _ in inspect.getmembers(module, inspect.isfunction)
    }
    assert f"test_{name}" in tests


def test_every_row_is_complete_and_has_known_sources():
    frame = wb.deviations()
    assert list(frame["id"]) == list(deviations.IDS) and frame["id"].is_unique
    assert (frame != "").all().all()
    assert set(" ".join(frame["l0"]).split()) <= set(personality.L0S) - {"manual"}
    assert set(frame["basis"]) <= {"read", "derived"}
    for source in frame["source"]:
        assert set(source_keys(source)) <= set(bibliography())


def test_personalities_have_their_own_deviations_and_manual_has_none():
    for backend in ("svm", "vmx"):
        for l0 in personality.L0S:
            on = {
                n for n, state in Scenario(backend=backend, l0=l0).all_deviations.items() if state
            }
            assert on == set(deviations.of(l0, backend))
    assert not any(Scenario(l0="manual").all_deviations.values())
    assert deviations.word(["exitinfo1_stored_early"]) == deviations.DEV_EXITINFO1_STORED_EARLY == 1


def test_a_deviation_can_be_switched_beside_any_personality():
    scenario = Scenario(l0="manual", deviations={"stgi_without_svme": "on"})
    assert dict(scenario.deviations) == {"stgi_without_svme": True}
    assert Scenario.from_toml(scenario.to_toml()) == scenario
    assert scenario.hash != Scenario(l0="manual").hash
    off = Scenario().replace(**{"deviations.stgi_without_svme": False})
    assert off.all_deviations["stgi_without_svme"] is False
    assert Scenario(deviations={"stgi_without_svme": True}).hash == Scenario().hash
    assert dict(off.for_backend("vmx").deviations) == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"l0": "hyperv"}, "xen, kvm, manual"),
        ({"deviations": {"stgi": True}}, "stgi_without_svme"),
        ({"deviations": {"wbinvd_kept_by_l0": True}}, "vmx"),
        ({"deviations": {"stgi_without_svme": 2}}, "true or false"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_hint(settings, said):
    with pytest.raises(ScenarioError, match=said):
        Scenario(**settings)


def test_the_personality_sets_the_defaults_of_toggles():
    kvm = Scenario(backend="vmx", l0="kvm").all_features
    assert (kvm["l2_tag_policy"], kvm["np2m_tables"], kvm["ept_ad"]) == ("kvm", "4", True)
    assert Scenario(backend="vmx").all_features["l2_tag_policy"] == "own"
    chosen = Scenario(l0="kvm", features={"l2_tag_policy": "own"})
    assert chosen.all_features["l2_tag_policy"] == "own"
