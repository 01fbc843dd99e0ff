"""Deeper nesting: the recursion meets the simulation at level 2 and goes on by its formula."""

import itertools
import math

import pytest

import workbench as wb
from workbench.errors import ResultError
from workbench.study.point_store import PointStore

FEW = {"iterations": 40, "work": 0}
SCENARIOS = {
    "kvm 2010": {"backend": "vmx", "l0": "kvm", "l1": "kvm-2.6.35", "l2": "cpuid"},
    "shadowing": {"backend": "vmx", "l0": "kvm", "l1": "kvm-6.12", "l2": "cpuid",
                  "features": {"vmcs_shadowing": True}},
    "xen": {"backend": "svm", "l1": "xen-4.2x", "l2": "cpuid"},
    "kvm": {"backend": "svm", "l0": "kvm", "l1": "kvm-6.12", "l2": "hypercall"},
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return PointStore(tmp_path_factory.mktemp("points"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_recursion_agrees_with_the_simulation_at_level_2(name, store):
    scenario = wb.Scenario(l2_params=FEW, **SCENARIOS[name])
    table = wb.depth(scenario, store=store).set_index("level")
    result = wb.run(scenario)
    main = result.operations.sort_values("operations").iloc[-1]
    assert table.loc[2, "cycles"] == pytest.approx(main["cycles_per_operation"], rel=0.01)
    assert table.loc[2, "exits"] == pytest.approx(main["exits_per_operation"], rel=0.01)
    alone = wb.run(scenario.replace(l1="none")).operations.set_index("cause")
    assert table.loc[1, "cycles"] == alone.loc[main["cause"], "cycles_per_operation"]
    assert list(table.index) == [1, 2, 3, 4] and table["simulated"].isna().sum() == 2


def test_exits_grow_by_the_traps_of_a_handler(store):
    scenario = wb.Scenario(l2_params=FEW, **SCENARIOS["kvm 2010"])
    exits = wb.depth(scenario, levels=5, store=store)["exits"].tolist()
    traps = exits[1] - 1
    for lower, upper in itertools.pairwise(exits):
        assert upper == pytest.approx(1 + traps * lower)


def test_a_deeper_level_costs_its_handlers_operations_one_level_up(store):
    """The formula by hand, for a handler that traps once, on VMRESUME."""
    scenario = wb.Scenario(l2_params=FEW, **SCENARIOS["shadowing"])
    table = wb.depth(scenario, levels=4, store=store).set_index("level")["cycles"]
    assert table[4] - table[3] == pytest.approx(table[3] - table[2], rel=0.05)
    assert table[3] > table[2] > table[1]


def test_what_cannot_be_done_is_said():
    nested = wb.Scenario(l2_params=FEW)
    with pytest.raises(ResultError, match="nested scenario"):
        wb.depth(nested.replace(l1="none"))
    for levels in (1, 9, 2.0, True):
        with pytest.raises(ResultError, match="levels is"):
            wb.depth(nested, levels=levels)
    with pytest.raises(ResultError, match="no operation 'CPUIT'"):
        wb.depth(nested, cause="CPUIT")


def test_levels_without_a_simulation_say_so(store):
    table = wb.depth(wb.Scenario(l2_params=FEW, **SCENARIOS["xen"]), levels=3, store=store)
    assert math.isnan(table["simulated"].iloc[2]) and table["ratio"].iloc[2] > 1
