"""Designs over toggles: effects follow from the runs, and interactions say what needs what."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench import charts
from workbench.charts.effects import interaction_matrix, shown
from workbench.errors import ScenarioError
from workbench.study.effects import FACTORIAL, Effects, factors

SVM = wb.Scenario(l2_params={"iterations": 50}, timeline=0)
VMX = wb.Scenario(
    backend="vmx", l2="touch", l2_params={"pages": 40, "passes": 3}, l2_page_size="4k", timeline=0
)


@pytest.fixture(scope="module")
def assists():
    toggles = ["virtual_gif", "virtual_vmload_vmsave"]
    return wb.factorial(SVM, toggles, "exits_per_operation", store=False)


def made_up(function, names):
    """A full factorial of ``function`` over switches."""
    scenario = wb.Scenario()
    chosen = factors(scenario, names)
    rows = [dict(zip([f.name for f in chosen], values, strict=True))
            for values in itertools.product(*((f.low, f.high) for f in chosen))]  # fmt: skip
    table = pd.DataFrame([row | {"y": function(*row.values())} for row in rows])
    return Effects(FACTORIAL, "y", chosen, table)


def test_both_assists_take_their_exits_independently(assists):
    """Each takes two of L1's exits (see test_counts), whatever the other one does."""
    main = assists.main.set_index("feature")["effect"]
    operations = int(assists.table["exits_from_l2"].iloc[0])
    rounds = int(assists.table["reflected_to_l1"].iloc[0])
    for name in ("virtual_gif", "virtual_vmload_vmsave"):
        assert main[name] == pytest.approx(-2 * rounds / operations, rel=0.05)
    assert set(assists.interactions["relation"]) == {"independent of"}
    assert assists.sentences() == []


def test_pml_does_something_only_with_accessed_and_dirty_flags():
    whole = dataclasses.replace(VMX, l0="manual")  # Xen offers L1 neither
    found = wb.factorial(whole, ["pml", "ept_ad"], "cycles", store=False)
    relation = found.interactions.set_index(["first", "second"])["relation"]
    assert relation["pml", "ept_ad"] == "only with"
    assert "pml has an effect only with ept_ad" in found.sentences()


def test_effects_of_a_known_function_are_found():
    names = ["virtual_gif", "nrip_save", "decode_assists"]
    on_low = {f.name: f.low for f in factors(wb.Scenario(), names)}

    def function(*values):
        a, b, c = (v != low for v, low in zip(values, on_low.values(), strict=True))
        return 100 + 10 * a + 4 * b + 6 * (a and b) - 3 * (not a) * c

    found = made_up(function, names)
    gif, nrip, decode = (f.label for f in found.factors)
    main = found.main.set_index("feature")
    assert main.at[gif, "effect"] == pytest.approx(10 + 6 / 2 + 3 / 2)
    assert main.at[gif, "smallest"] == 10
    assert main.at[gif, "largest"] == 10 + 6 + 3
    assert main.at[decode, "effect"] == pytest.approx(-1.5)
    pairs = found.interactions.set_index(["first", "second"])
    assert pairs.at[(gif, nrip), "interaction"] == pytest.approx(3.0)
    assert pairs.at[(nrip, gif), "interaction"] == pytest.approx(3.0)
    assert pairs.at[(decode, gif), "relation"] == "only without"
    assert pairs.at[(nrip, gif), "relation"] == "strengthened by"
    assert pairs.at[(decode, nrip), "relation"] == "independent of"


def test_one_at_a_time_runs_each_toggle_once():
    found = wb.one_at_a_time(SVM, ["virtual_gif", "nrip_save"], "exits", store=False)
    assert len(found.table) == 3
    assert list(found.table["features.virtual_gif"]) == [False, True, False]
    assert found.main.set_index("feature").at["virtual_gif", "effect"] < 0
    with pytest.raises(ScenarioError, match="no interactions"):
        _ = found.interactions


def test_a_combination_that_cannot_be_run_leaves_the_others():
    toggles = {"paging": ("non", "sos"), "virtual_gif": (False, True)}
    found = wb.factorial(SVM, toggles, "exits", store=False)
    assert list(found.table["status"]).count("error") == 2
    main = found.main.set_index("feature")["effect"]
    assert np.isnan(main["paging non → sos"])
    assert main["virtual_gif"] < 0


@pytest.mark.parametrize(
    ("toggles", "words"),
    [
        (["virtual_giff"], "Did you mean virtual_gif"),
        (["np2m_flush"], "give its two values"),
        ({"np2m_flush": ("eager", "eager")}, "two different"),
        ([], "needs a toggle"),
        (None, "combinations"),
    ],
)
def test_a_design_that_makes_no_sense_says_why(toggles, words):
    base = SVM if toggles is not None else SVM.replace(l0="xen")
    if toggles is None:
        toggles = {f"l2_params.{n}": (1, 2) for n in ("iterations",)} | {
            f"deviations.{d}": (False, True) for d in list(base.all_deviations)[:13]
        }
    with pytest.raises(ScenarioError, match=words):
        wb.factorial(base, toggles, store=False)


def test_an_unknown_measure_is_named():
    with pytest.raises(ScenarioError, match="Did you mean cycles"):
        wb.one_at_a_time(SVM, ["virtual_gif"], "cycle", store=False)


def test_the_chart_shows_the_frames(assists):
    figure = charts.effects(assists)
    bars, matrix = figure.axes
    names = shown(assists)
    assert [patch.get_width() for patch in bars.patches] == pytest.approx(
        list(assists.main.set_index("feature").loc[names, "effect"])
    )
    written = [text.get_text() for text in matrix.texts]
    assert len(written) == len(names) * (len(names) - 1)
    assert (interaction_matrix(assists).isna().to_numpy() == np.eye(len(names), dtype=bool)).all()
    assert "exits per L2 operation" in bars.get_xlabel()
    assert charts.to_svg(figure) == charts.to_svg(charts.effects(assists))
    single = wb.one_at_a_time(SVM, ["virtual_gif"], "exits", store=False)
    assert len(charts.effects(single, size="paper").axes) == 1
