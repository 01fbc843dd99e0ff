"""The catalogue of toggles and the errors a wrong one gets."""

import pytest

from workbench import features
from workbench.errors import FeatureError
from workbench.personality import L0S
from workbench.tables import bibliography, source_keys


def test_every_feature_has_default_meaning_and_known_sources():
    for feature in features.catalogue().values():
        assert feature.default in feature.values
        assert feature.meaning
        assert set(source_keys(feature.source)) <= set(bibliography())


def test_groups_hold_every_feature_once_and_stand_together():
    groups = features.groups()
    assert [f for members in groups.values() for f in members] == list(
        features.catalogue().values()
    )


def test_counterparts_and_inert_conditions_name_features_that_exist():
    known = features.catalogue()
    for feature in known.values():
        words = set(feature.counterpart.split()) - {"with", ""}
        assert words <= set(known)
        for other, value, reason in feature.inert_when:
            values = L0S if other == "l0" else known[other].values
            assert value in values and reason


@pytest.mark.parametrize("backend", features.BACKENDS)
def test_resolve_fills_in_every_applicable_feature(backend):
    complete = features.resolve(backend, {"tlb_tagging": "off"})
    assert set(complete) == {f.id for f in features.applicable(backend)}
    assert complete["tlb_tagging"] is False
    assert complete["l0_page_size"] == "2m" and complete["msr_map"] == "merged"


def test_an_unknown_feature_gets_close_matches():
    with pytest.raises(FeatureError, match="vmcs_shadowing"):
        features.resolve("vmx", {"vmcs_shadow": True})


def test_a_feature_of_the_other_backend_names_its_counterpart():
    with pytest.raises(FeatureError, match="SVM only; the nearest on VMX is vmcs_shadowing"):
        features.resolve("vmx", {"virtual_gif": True})


@pytest.mark.parametrize("value", ["huge", True, 2, None, ["4k"]])
def test_a_bad_value_lists_the_values(value):
    with pytest.raises(FeatureError, match="4k, 2m, 1g"):
        features.resolve("svm", {"l0_page_size": value})


@pytest.mark.parametrize("value", [1, 0, "yes", None])
def test_a_switch_takes_only_bools_and_on_off(value):
    with pytest.raises(FeatureError, match="True"):
        features.resolve("svm", {"tlb_tagging": value})


def test_no_msr_bitmap_exists_on_vmx_only():
    assert features.resolve("vmx", {"msr_map": "none"})["msr_map"] == "none"
    with pytest.raises(FeatureError, match="on SVM"):
        features.resolve("svm", {"msr_map": "none"})


def test_an_unknown_backend_is_named():
    with pytest.raises(FeatureError, match="svm, vmx"):
        features.resolve("arm", {})


def test_inert_combinations_come_with_their_reason():
    reason = features.why_not("l2_tag_policy", "svm", {"tlb_tagging": False})
    assert "tlb_tagging is off" in reason
    assert features.why_not("l2_tag_policy", "svm") == ""
    assert "SVM only" in features.why_not("virtual_gif", "vmx")
    assert set(features.inert("vmx", {"tlb_tagging": False})) >= {"l2_tag_policy", "vpid_for_l1"}
