"""Scenarios: validation, text round trips, hashes, changed copies."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import features
from workbench.errors import FeatureError, GuestError, PriceError, ScenarioError, WorkbenchError
from workbench.paths import data_dir
from workbench.scenario import MAX_MEMORY_MB, Scenario


@st.composite
def scenarios(draw):
    backend = draw(st.sampled_from(features.BACKENDS))
    toggles = {
        f.id: draw(st.sampled_from(f.values_on(backend)))
        for f in features.applicable(backend)
        if draw(st.booleans())
    }
    price = st.floats(0, 1e6, allow_nan=False)
    band = st.lists(price, min_size=3, max_size=3).map(sorted)
    return Scenario(
        backend=backend,
        l1="minimal" if toggles.get("paging", "non") == "non" else "shadow",
        l2_params=draw(st.fixed_dictionaries({}, optional={"iterations": st.integers(1, 10_000)})),
        features=toggles,
        price_values=draw(st.dictionaries(st.sampled_from(["HW_EXIT", "HW_ENTRY"]), price | band)),
        cpu=draw(st.none() | st.sampled_from(["Zen", "Skylake server"])),
        l2_page_size=draw(st.sampled_from(["4k", "2m", "1g"])),
        l2_memory_mb=draw(st.integers(16, 120)),
        l1_memory_mb=draw(st.integers(16, 120)),
        max_instructions=draw(st.integers(1, 10**12)),
        seed=draw(st.integers(0, 2**63 - 1)),
        timeline=draw(st.integers(0, 16384)),
    )


@given(scenarios())
def test_toml_json_code_and_pickle_give_the_scenario_back(scenario):
    copies = [
        Scenario.from_toml(scenario.to_toml()),
        Scenario.from_json(scenario.to_json()),
        Scenario.from_dict(scenario.to_dict()),
        pickle.loads(pickle.dumps(scenario)),
        eval(repr(scenario), {"Scenario": Scenario}),
        Scenario.restore(json.loads(scenario.to_json())),
    ]
    for copy in copies:
        assert copy == scenario
        assert hash(copy) == hash(scenario) and copy.hash == scenario.hash
    compile(scenario.to_code(), "code", "exec")


def test_the_hash_does_not_see_how_defaults_were_written():
    plain = Scenario()
    spelled = Scenario(features={"virtual_gif": False}, prices="zen", cpu="Zen")
    assert plain != spelled and plain.hash == spelled.hash and not plain.diff(spelled)


def test_the_core_hash_does_not_see_prices():
    plain, dear = Scenario(), Scenario(price_values={"HW_EXIT": 5000})
    assert plain.hash != dear.hash and plain.core_hash == dear.core_hash
    assert plain.core_hash != Scenario(seed=1).core_hash


def test_dotted_names_change_one_entry():
    base = Scenario(backend="vmx", features={"tlb_tagging": False})
    changed = base.replace(**{"features.vmcs_shadowing": True, "seed": 3})
    assert dict(changed.features) == {"tlb_tagging": False, "vmcs_shadowing": True}
    assert base.diff(changed) == {"features.vmcs_shadowing": (False, True), "seed": (0, 3)}
    twice = base.replace(**{"features.vmcs_shadowing": True, "features.tlb_tagging": True})
    assert twice.all_features["vmcs_shadowing"] and twice.all_features["tlb_tagging"]


def test_switching_the_backend_keeps_what_applies():
    svm = Scenario(features={"virtual_gif": True, "l1_page_size": "2m"}, prices="zen", seed=4)
    vmx = svm.for_backend("vmx")
    assert dict(vmx.features) == {"l1_page_size": "2m"}
    assert (vmx.preset_name, vmx.cpu_name, vmx.seed) == ("nehalem", "Nehalem", 4)
    assert Scenario(backend="vmx", features={"msr_map": "none"}).for_backend("svm").features == {}


def test_switching_the_backend_keeps_programs_that_run_there():
    vmx = Scenario(backend="vmx", l1="kvm-6.12", l1_params={"handler_work": 5, "io_userspace": 1})
    svm = vmx.for_backend("svm")
    assert (svm.l1, dict(svm.l1_params)) == ("kvm-6.12", {"handler_work": 5})
    old = Scenario(backend="vmx", l1="kvm-2.6.35", l1_params={"handler_work": 5}).for_backend("svm")
    assert (old.l1, dict(old.l1_params)) == ("minimal", {})


def test_mappings_cannot_be_changed():
    scenario = Scenario(features={"virtual_gif": True})
    with pytest.raises(TypeError):
        scenario.features["virtual_gif"] = False
    with pytest.raises(AttributeError):
        scenario.seed = 1


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"backend": "arm"}, ScenarioError, "svm, vmx"),
        ({"l2": "cpiud"}, GuestError, "cpuid"),
        ({"l2": 3}, ScenarioError, "guest program"),
        ({"l1": "maximal"}, GuestError, "minimal"),
        ({"l2_params": {"iteration": 1}}, GuestError, "iterations"),
        ({"l2_params": {"iterations": "many"}}, ScenarioError, "l2_params.iterations"),
        ({"l2_params": [1]}, ScenarioError, "l2_params"),
        ({"features": {"vmcs_shadowing": True}}, FeatureError, "virtual_gif"),
        ({"prices": "nehalem"}, ScenarioError, "for vmx"),
        ({"prices": "zeno"}, PriceError, "zen"),
        ({"price_values": {"HW_EXIT": "dear"}}, ScenarioError, "price_values.HW_EXIT"),
        ({"price_values": {"HW_EXIT": -1}}, PriceError, "HW_EXIT"),
        ({"cpu": "Zenith"}, PriceError, "Zen"),
        ({"l2_page_size": "8k"}, ScenarioError, "4k, 2m, 1g"),
        ({"l2_memory_mb": 200}, ScenarioError, str(MAX_MEMORY_MB)),
        ({"l2_memory_mb": 0}, ScenarioError, "from 4"),
        ({"seed": 1.5}, ScenarioError, "whole number"),
        ({"seed": True}, ScenarioError, "seed"),
        ({"timeline": 10**6}, ScenarioError, "16384"),
        ({"max_instructions": 0}, ScenarioError, "max_instructions"),
    ],
)
def test_bad_settings_get_one_clear_error(settings, error, said):
    with pytest.raises(error, match=said):
        Scenario(**settings)


def test_unknown_settings_get_close_matches():
    with pytest.raises(ScenarioError, match="features"):
        Scenario.from_dict({"feature": {}})
    with pytest.raises(ScenarioError, match="max_instructions"):
        Scenario().replace(max_instruction=1)
    with pytest.raises(ScenarioError, match="features"):
        Scenario().replace(**{"feature.x": 1})


def test_errors_of_a_file_name_the_file_and_the_key(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('backend = "vmx"\nseed = "x"\n')
    with pytest.raises(ScenarioError, match=r"mine\.toml: seed"):
        Scenario.from_toml(path)
    path.write_text("[features]\nvirtual_gif = true\nbackend = ]\n")
    with pytest.raises(ScenarioError, match=r"mine\.toml: not TOML.*line 3"):
        Scenario.from_toml(path)
    with pytest.raises(FeatureError, match="toml text: "):
        Scenario.from_toml("[features]\nvmcs_shadowing = true\n")
    with pytest.raises(ScenarioError, match="cannot be read"):
        Scenario.from_toml(tmp_path / "none.toml")
    with pytest.raises(ScenarioError, match="not JSON"):
        Scenario.from_json("{")


@given(st.text() | st.binary())
def test_any_text_is_a_scenario_or_a_clear_error(text):
    source = text if isinstance(text, str) else text.decode("latin-1")
    try:
        Scenario.from_toml("#\n" + source)
    except WorkbenchError as problem:
        assert "toml text" in str(problem)


@pytest.mark.parametrize(
    "path", sorted((data_dir() / "scenarios").glob("*.toml")), ids=lambda p: Path(p).stem
)
def test_shipped_scenarios_are_valid(path):
    assert Scenario.from_toml(path).hash
