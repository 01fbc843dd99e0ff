"""The anatomy of one L2 operation: its span in the timeline, its table, its figure."""

import pytest
from synthetic import L1_PATH, result

from workbench import charts
from workbench.charts.anatomy import operation_span
from workbench.errors import ResultError

BOTH = pytest.mark.parametrize("backend", ["svm", "vmx"])


@BOTH
def test_an_operation_begins_and_ends_in_l2(backend):
    found = result(backend)
    for occurrence in range(3):
        start, stop = operation_span(found, "CPUID", occurrence)
        steps = found.timeline.iloc[start:stop]
        assert steps["from_level"].iloc[0] == "L2" and steps["to_level"].iloc[-1] == "L2"
        exits = (steps["kind"] == "hw_exit").sum()
        assert exits == 1 + sum(L1_PATH[backend].values())


@BOTH
def test_the_step_table_lists_every_step_and_fits_in_a_mail(backend):
    found = result(backend)
    start, stop = operation_span(found, "CPUID")
    text = charts.step_table(found, "CPUID")
    assert len(text.splitlines()) == stop - start + 5
    assert max(map(len, text.splitlines())) <= 72
    assert f"{1 + sum(L1_PATH[backend].values())} hardware exits" in text


def test_operations_that_are_not_recorded_are_errors(svm_result):
    with pytest.raises(ResultError, match="CPUID"):
        charts.step_table(svm_result, "CPUIDS")
    with pytest.raises(ResultError, match="3 are recorded"):
        charts.step_table(svm_result, "CPUID", 3)


@BOTH
def test_the_timeline_is_drawn_and_described(backend):
    found = result(backend)
    figure = charts.timeline(found, *operation_span(found, "CPUID", 1))
    assert "hardware exits: CPUID" in charts.alt_text(figure)
    assert charts.to_svg(figure) == charts.to_svg(figure)
    names = {text.get_text() for text in figure.axes[0].texts}
    assert names == {"CPUID", *L1_PATH[backend]}


def test_a_long_or_an_empty_timeline_is_drawn(svm_result):
    assert charts.to_png(charts.timeline(svm_result), dpi=50)
    empty = charts.timeline(svm_result, 5, 5)
    assert "Nothing to show" in charts.alt_text(empty)
