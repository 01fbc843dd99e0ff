"""SVM beside VMX: alternatives that are back-ends, and the frames of the experiment's function."""

import pandas as pd
import pytest

import workbench as wb
from workbench import questions
from workbench.questions import measures
from workbench.questions.runs import Run, frame
from workbench.questions.vendors import CYCLES, frames


@pytest.fixture(scope="module")
def runs():
    found = []
    for backend in ("svm", "vmx"):
        for program in ("cpuid", "msr"):
            scenario = wb.Scenario(backend=backend, l2=program, l2_params={"iterations": 100},
                                   timeline=0)  # fmt: skip
            found.append(Run(backend, ("minimal", program), backend.upper(), wb.run(scenario)))
    return found


def test_back_ends_are_compared_with_each_other(runs):
    table = frame(questions.find("svm-vmx"), runs)
    assert list(table["backend"]) == ["both"] * 4
    assert list(table["alternative"]) == ["SVM", "VMX"] * 2
    pairs = table.pivot(index="axis2", columns="alternative", values="value")
    gains = table[table["alternative"] == "SVM"].set_index("axis2")["gain"]
    pd.testing.assert_series_equal(gains, pairs["VMX"] - pairs["SVM"], check_names=False)


def test_bounds_of_two_price_lists_are_taken_apart(runs):
    svm, vmx = runs[0].result, runs[2].result
    value, low, high = measures.gain(vmx, svm, CYCLES)
    one, other = measures.read(vmx, CYCLES), measures.read(svm, CYCLES)
    assert value == pytest.approx(one.value - other.value)
    assert one.low - other.high < low < value < high < one.high - other.low
    assert value - low > max(one.value - one.low, other.high - other.value)


def test_parts_add_up_to_all_and_to_the_cycles(runs):
    made = frames(runs)
    parts = made["parts"]
    for alternative, rows in parts.groupby("x"):
        whole = rows[rows["series"] == "all"]["value"].iloc[0]
        assert rows[rows["series"] != "all"]["value"].sum() == pytest.approx(whole)
        cycles = made["cycles"]
        cycles = cycles[(cycles["panel"] == "msr") & (cycles["series"] == alternative)]["value"]
        assert cycles.iloc[0] == pytest.approx(whole)


def test_flushes_are_those_counted(runs):
    table = frames(runs)["tlb"].set_index(["panel", "x", "y"])["value"]
    result = runs[0].result
    counted = result.raw.flushes.sum() * 1000 / measures.instructions(result)
    assert table[("flushes", "SVM", "cpuid")] == pytest.approx(counted)
