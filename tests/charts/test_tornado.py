"""What moves a cost: swings of prices by arithmetic, of toggles by runs, and their charts."""

import pandas as pd
import pytest

import workbench as wb
from workbench import charts
from workbench.core.ledger import EVENTS
from workbench.errors import FeatureError, ResultError
from workbench.measure.frames import without_boot
from workbench.measure.swings import by_group, sensitivity


def running_cycles(result):
    return float(result.preset.vector() @ without_boot(result.raw).sum(axis=0))


def test_a_swing_is_what_repricing_gives(svm_result):
    table = sensitivity(svm_result)
    for row in table.head(4).to_dict("records"):
        for bound in ("low", "high"):
            changed = svm_result.reprice(svm_result.preset.with_values({row["event"]: row[bound]}))
            assert row[f"total_{bound}"] == pytest.approx(running_cycles(changed), rel=1e-12)
    assert list(table["swing"]) == sorted(table["swing"], reverse=True)
    assert table["share"].sum() == pytest.approx(1)
    assert table["cycles"].sum() == pytest.approx(running_cycles(svm_result))


def test_only_what_was_counted_and_has_a_price_matters(svm_result):
    events = set(sensitivity(svm_result)["event"])
    counted = without_boot(svm_result.raw).sum(axis=0)
    assert events and all(counted[EVENTS.index(event)] for event in events)
    assert "WALK_REFERENCE_NESTED" not in events and "L0_VMREAD" not in events


def test_groups_are_the_sums_of_their_prices(svm_result):
    table = sensitivity(svm_result)
    groups = by_group(table).set_index("group")
    both = table[table["group"] == "hardware exit and entry"]
    assert set(both["event"]) == {"HW_EXIT", "HW_ENTRY"}
    assert groups.at["hardware exit and entry", "swing"] == pytest.approx(both["swing"].sum())
    assert groups["cycles"].sum() == pytest.approx(table["cycles"].sum())


@pytest.mark.parametrize("by", ["price", "group"])
def test_a_tornado_has_a_bar_per_price_and_says_what_it_leaves_out(vmx_result, by):
    figure = charts.tornado(vmx_result, by=by, most=3)
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == 3
    assert "Not shown" in figure.get_supxlabel() and "sources" in figure.get_supxlabel()
    assert charts.alt_text(figure).startswith("Tornado chart")
    with pytest.raises(ResultError, match="by is"):
        charts.tornado(vmx_result, by="prices")


def test_footers_cite_the_prices_that_met_a_count_only(svm_result):
    note = " ".join(charts.cost(svm_result).get_supxlabel().split())
    cited = note.split("sources ")[1].split(", ")
    events = sensitivity(svm_result)
    rows = svm_result.preset.frame.set_index("event")["source"]
    expected = {key.split()[0] for e in events["event"] for key in rows[e].split(";")}
    assert set(cited) == expected


def test_toggles_are_run_one_by_one_with_progress():
    base = wb.run(wb.Scenario(backend="vmx", l2="cpuid", l2_params={"iterations": 40}))
    told = []
    table = wb.toggle_sensitivity(
        base, ["vmcs_shadowing", "paging", "msr_map"], lambda *step: told.append(step)
    )
    assert len(table) == 5 and told[0] == ("vmcs_shadowing=on", 0, 5) and told[-1] == ("", 5, 5)
    rows = table.set_index(["toggle", "value"])
    assert rows.at[("vmcs_shadowing", "on"), "swing"] != 0
    assert pd.isna(rows.at[("paging", "son"), "swing"])
    assert "cannot" in rows.at[("paging", "son"), "status"]
    figure = charts.toggle_tornado(table)
    assert "VMCS shadowing = on" in [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert "nehalem" in figure.get_supxlabel()
    with pytest.raises(FeatureError, match="vmcs_shadowing"):
        wb.toggle_sensitivity(base, ["vmcs_shadow"])
