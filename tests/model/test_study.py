"""Several runs: labels, combinations, and errors before anything runs."""

import pytest

import workbench as wb
from workbench.errors import WorkbenchError

FEW = {"iterations": 5}


def test_scenarios_side_by_side_keep_their_labels():
    svm = wb.run(wb.Scenario(l2_params=FEW))
    found = wb.compare({"first": svm, "second": wb.Scenario(backend="vmx", l2_params=FEW)})
    assert list(found) == ["first", "second"]
    assert found["first"] is svm
    assert found["second"].scenario.backend == "vmx"


def test_every_combination_is_run_once():
    found = wb.sweep(
        wb.Scenario(backend="vmx", l2_params=FEW),
        {"features.vmcs_shadowing": [False, True], "l2_params.work": [0, 10]},
        store=False,
    )
    assert list(found["point"]) == list(found.results) == [
        "vmcs_shadowing=off, work=0", "vmcs_shadowing=off, work=10",
        "vmcs_shadowing=on, work=0", "vmcs_shadowing=on, work=10",
    ]  # fmt: skip
    assert list(found["features.vmcs_shadowing"]) == [False, False, True, True]
    assert list(found["l2_params.work"]) == [0, 10, 0, 10]
    exits = found.set_index("point")["exits"]
    assert exits["vmcs_shadowing=on, work=0"] < exits["vmcs_shadowing=off, work=0"]
    for label, result in found.results.items():
        assert int(result.summary()["exits"].iloc[0]) == exits[label]


def test_nothing_that_can_be_run_is_an_error():
    with pytest.raises(WorkbenchError):
        wb.sweep(wb.Scenario(), {"features.vmcs_shadowing": [True]})
    with pytest.raises(WorkbenchError):
        wb.compare({})
