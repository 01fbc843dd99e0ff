"""The record: every published row has its scenario or a reason, and the table says what it should."""

import numpy as np
import pytest

from workbench.core.ledger import EVENTS
from workbench.paths import data_dir
from workbench.record import predictions as record
from workbench.record import published
from workbench.study.point_store import PointStore
from workbench.tables import data_table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return record.predictions(store=PointStore(tmp_path_factory.mktemp("points")))


def test_every_published_figure_has_a_scenario_or_a_reason():
    listed = {(r["id"], r["level"]): r for r in data_table("published/scenarios").rows}
    assert len(listed) == len(data_table("published/scenarios").rows)
    for row in data_table("published/published").rows:
        levels = [level for level, column in (("single", "single_level"), ("nested", "nested"))
                  if row[column]] or ["single"]  # fmt: skip
        for level in levels:
            about = listed.pop((row["id"], level))
            assert about["measure"] or len(about["why"]) > 10
    assert not listed


def test_scenarios_name_events_and_programs_that_exist():
    for case in [*published.single_level(), *published.nested()]:
        assert not case.extra or case.extra in (*EVENTS, published.FROM_SINGLE)
        assert set(case.informs) <= set(EVENTS)
        if case.represented:
            assert case.scenario().single_level == (case.level == "single")


def test_the_exits_of_a_nested_cpuid_are_those_published(table):
    row = table.set_index("id").loc["turtles-cpuid"]
    assert row["exits"] == row["exits_published"] == 13


def test_exits_are_exact_wherever_they_are_published(table):
    published_ones = table.dropna(subset="exits_published")
    assert len(published_ones) >= 2
    assert (published_ones["exits"] == published_ones["exits_published"]).all()


def test_shadowing_leaves_two_exits(table):
    assert table.set_index("id").loc["pvm-cpuid", "exits"] == 2


def test_predictions_hold_what_they_promise(table):
    found = table[table["predicted"].notna()]
    assert len(table) == len(published.nested()) and len(found) >= 18
    assert ((found["low"] <= found["predicted"]) & (found["predicted"] <= found["high"])).all()
    inside = (found["low"] <= found["measured"]) & (found["measured"] <= found["high"])
    assert (inside == found["inside"].astype(bool)).all()
    assert np.allclose(found["error"], found["predicted"] / found["measured"] - 1)
    assert not table.loc[table["confidence"] == "seen-2nd", "counted"].any()
    assert table.loc[table["predicted"].isna(), "remark"].str.len().gt(10).all()


def test_the_record_is_no_worse_than_it_was(table):
    """Bounds of what the table says today; the README states the figures."""
    standing = record.standing(table)
    assert standing.rows >= 19 and standing.median_error < 0.15 and standing.worst_factor < 2
    assert not standing.beyond and standing.inside >= 17
    assert record.standing(table, informed=False).median_error < 0.15
    assert record.standing(table, informed=False).rows < standing.rows


def test_the_readme_says_what_the_record_says(table):
    text = " ".join((data_dir().parent / "README.md").read_text().split())
    standing = record.standing(table)
    assert (
        f"Over {standing.rows} published nested figures the median error is "
        f"{standing.median_error * 100:.0f} %, {standing.inside} lie within their bounds, and the "
        f"worst is too low by a factor of {standing.worst_factor:.1f}"
    ) in text


def test_the_text_names_every_row(table):
    text = record.as_text(table)
    assert all(name in text for name in table["id"]) and "median error" in text


def test_the_handler_of_l1_is_as_long_as_that_of_l0():
    preset = published.load_preset("nehalem")
    shorter, longer = (published.handler_work(preset, e) for e in ("", "L0_MSR_EMULATED"))
    assert shorter == 925 and longer - shorter == round(preset.price("L0_MSR_EMULATED"))
