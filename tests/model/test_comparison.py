"""Side by side: what differs in settings and counts, and that its reasons add up to it exactly."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from tests.model.test_counts import cpuid_path
from workbench import charts
from workbench.charts.differences import cycle_changes, exit_changes
from workbench.errors import ResultError
from workbench.study.comparison import Comparison

FEW = {"iterations": 50}
PLAIN = wb.Scenario(backend="vmx", l2_params=FEW)


@pytest.fixture(scope="module")
def shadowing():
    other = PLAIN.replace(**{"features.vmcs_shadowing": True})
    return wb.compare({"plain": PLAIN, "shadowing": other})


@pytest.fixture(scope="module")
def several():
    mixed = wb.Scenario(backend="vmx", l2="mixed", l2_params={"iterations": 200})
    return wb.compare(
        {
            "mixed": mixed,
            "kvm": mixed.replace(l0="kvm", prices="haswell"),
            "longer": mixed.replace(**{"l2_params.iterations": 300}),
            "other vendor": mixed.for_backend("svm"),
        }
    )


def test_it_is_the_mapping_that_charts_take(shadowing):
    assert list(shadowing) == ["plain", "shadowing"]
    assert isinstance(shadowing, Comparison)
    assert "VMREAD" in charts.to_text("exits", shadowing)
    assert charts.alt_text(charts.cost(shadowing))
    with pytest.raises(ResultError, match="Did you mean plain"):
        shadowing["plan"]


def test_the_toggle_that_differs_is_named(shadowing, several):
    assert shadowing.settings.to_dict("records") == [
        {"setting": "features.vmcs_shadowing", "plain": False, "shadowing": True}
    ]
    changed = several.settings.set_index("setting")
    assert list(changed.loc["l2_params.iterations"]) == [200, 200, 300, 200]
    assert changed.at["prices", "kvm"] == "haswell"
    assert changed.at["features.vmcs_shadowing", "other vendor"] is None


def test_a_difference_in_exits_is_attributed_to_the_instructions_of_l1(shadowing):
    path = cpuid_path("vmx")
    reads, writes = path.count("vmread"), path.count("vmwrite")
    assert reads and writes
    sentence = f"−{reads + writes} exits per L2 CPUID: VMREAD ×{reads}, VMWRITE ×{writes}"
    assert sentence in shadowing.explain()


def test_reasons_add_up_to_the_difference_of_all_exits(several):
    base = several["mixed"]
    for label in several.others:
        other, table = several[label], several.exit_difference(label)
        assert table["difference"].sum() == other.raw.exits.sum() - base.raw.exits.sum()
        assert (table["after"] - table["before"] == table["difference"]).all()
        for cause, rows in table.groupby("cause"):
            if rows["per_operation"].notna().all():
                mine, theirs = (_exits_per_operation(r, cause) for r in (base, other))
                assert sum(rows["per_operation"]) == theirs - mine
            else:
                assert cause in ("BOOT", "RUN") or not _operations(base, cause)


def _operations(result, cause):
    exits = result.exits
    return int(exits[(exits["cause"] == cause) & (exits["from_level"] == "L2")]["count"].sum())


def _exits_per_operation(result, cause):
    exits = result.exits
    all_of_it = int(exits[exits["cause"] == cause]["count"].sum())
    return Fraction(all_of_it, _operations(result, cause))


def test_reasons_add_up_to_the_difference_of_all_cycles(several):
    for label in several.others:
        table = several.cycles_difference(label)
        found = table[["cycles_by_count", "cycles_by_price"]].sum().sum()
        assert found == pytest.approx(several[label].cycles - several["mixed"].cycles, abs=1e-3)
    same_prices = several.cycles_difference("longer")
    assert not same_prices["cycles_by_price"].any()
    assert several.cycles_difference("kvm")["cycles_by_price"].any()


def test_frames_have_a_column_for_each_label(several):
    for name, result in several.items():
        assert several.exits[name].sum() == result.raw.exits.sum()
        assert several.cycles[name].sum() == pytest.approx(result.cycles)
        assert several.flushes[name].sum() == result.raw.flushes.sum()
        assert several.counts[name].sum() == result.raw.counts.sum()
    assert list(several.summary.index) == list(several)


def test_text_fits_a_mail_and_says_why(several, shadowing):
    for both in (several, shadowing):
        text = both.to_text()
        assert max(map(len, text.splitlines())) <= 72
        assert str(both) == text
    assert "per L2 CPUID: VMREAD" in shadowing.to_text()
    assert "features.vpid_for_l1" not in several.to_text(), (
        "what the other vendor lacks is no difference"
    )


def test_bars_equal_the_frames(shadowing, several):
    figure = charts.differences(shadowing)
    exits, cycles = figure.axes
    drawn = [patch.get_width() for patch in exits.patches]
    assert drawn == pytest.approx(list(exit_changes(shadowing)["shadowing"]))
    assert [tick.get_text() for tick in exits.get_yticklabels()] == ["VMREAD", "VMWRITE"]
    drawn = [patch.get_width() for patch in cycles.patches]
    assert drawn == pytest.approx(list(cycle_changes(shadowing)["shadowing"]))
    assert drawn[-1] == pytest.approx(np.diff(shadowing.summary["cycles_per_operation"])[0])
    assert "per L2 operation" in exits.get_xlabel()
    assert charts.to_svg(charts.differences(several)) == charts.to_svg(charts.differences(several))


def test_equal_results_have_no_difference(shadowing):
    same = Comparison({"a": shadowing["plain"], "b": shadowing["plain"]})
    assert same.explain() == []
    assert same.settings.empty
    assert "The same exits" in charts.alt_text(charts.differences(same))
    assert isinstance(same.counts, pd.DataFrame)


def test_one_result_has_no_difference(shadowing, several):
    with pytest.raises(ResultError, match="two results"):
        charts.differences(shadowing["plain"])
    with pytest.raises(ResultError, match="name one: kvm"):
        several.exit_difference()
