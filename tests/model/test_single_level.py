"""Single-level runs: the L2 program as L0's own guest, what nested costs are compared with."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.charts import anatomy

PROGRAMS = ("compute", "cpuid", "ctxsw", "hypercall", "mixed", "msr", "pio", "spin", "touch", "ud")


@pytest.mark.parametrize("backend", ["svm", "vmx"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_l2_program_runs_without_a_hypervisor_in_between(backend, program):
    single = wb.run(wb.Scenario(backend=backend, l1="none", l2=program))
    nested = wb.run(wb.Scenario(backend=backend, l2=program))
    assert single.status == "halted"
    assert single.summary()["l1_instructions"].iloc[0] == 0
    assert single.raw.exits[2].sum() == 0
    if program != "hypercall":  # which prints and so depends on who answers
        assert single.l2_instructions == nested.l2_instructions


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_an_operation_is_one_exit_and_cheaper_than_nested(backend):
    scenario = wb.Scenario(backend=backend, l1="none", l2="cpuid", l2_params={"iterations": 100})
    single, nested = wb.run(scenario), wb.run(scenario.replace(l1="minimal"))
    ones = single.operations.set_index("cause").loc["CPUID"]
    both = nested.operations.set_index("cause").loc["CPUID"]
    assert (ones["operations"], ones["exits_per_operation"]) == (100, 1)
    assert both["exits_per_operation"] > 3
    assert both["cycles_per_operation"] > 3 * ones["cycles_per_operation"]


def test_costs_add_up_and_the_guests_work_is_not_a_handlers():
    result = wb.run(wb.Scenario(l1="none", l2="mixed"))
    assert result.costs["cycles"].sum() == pytest.approx(result.cycles)
    assert set(result.costs["category"]).isdisjoint({"L1 handler"})
    assert result.costs.groupby("category")["cycles"].sum()["L2 work"] > 0
    assert not result.exits.empty and (result.exits["from_level"] == "L1").all()


def test_the_anatomy_of_an_operation_is_exit_and_entry():
    result = wb.run(wb.Scenario(backend="vmx", l1="none", l2="cpuid"))
    table = anatomy.step_table(result, "CPUID")
    assert "CPUID" in table
    assert wb.charts.timeline(result, *anatomy.operation_span(result, "CPUID"))


def test_a_scenario_without_l1_survives_its_text_form():
    scenario = wb.Scenario(l1="none", l2="pio")
    assert wb.Scenario.from_toml(scenario.to_toml()) == scenario
    assert scenario.for_backend("vmx").single_level
