"""Experiments: their files, the verdict's logic on frames made by hand, and one from end to end."""

import tomllib

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench import charts, questions
from workbench.cli.figures import write_experiments
from workbench.core.ledger import EVENTS, N_EVENTS
from workbench.features import catalogue
from workbench.questions import measures
from workbench.questions.runs import check_ends
from workbench.questions.spec import question_table

SAMPLE = """\
title = "Virtual GIF"
question = "What does L1's GIF cost L0 when it is emulated, and what does hardware support change?"
claim = "Hardware that keeps L1's GIF makes every program of L2 cheaper on SVM."
claim_of = "ours"
answers = [4]
refuted_if = "no program costs less with virtual GIF"
sources = ["amd-apm2"]

[base.svm]
timeline = 0

[axis]
setting = "l2"
label = "L2 program"
values = ["cpuid", "msr", "ctxsw", "mixed"]

[alternatives]
setting = "features.virtual_gif"
label = "virtual GIF"
values = { svm = [false, true] }

[measure]
column = "cycles_per_l2_kinstr"
label = "cycles per 1000 instructions of L2"

[verdict]
better = "on"
than = "off"
tolerance = 0.005
"""
FILES = sorted((wb.data_dir() / "experiments").glob("*.toml"))


def frame(old, new, axis=(0, 10, 20), reach=0.0):
    """Two alternatives; the bounds of the prices move the gain by ``reach``."""
    rows = []
    for place, was, now in zip(axis, old, new, strict=True):
        for name, value, gain in (("old", was, 0), ("new", now, was - now)):
            bounds = (gain - reach, gain + reach) if gain else (0, 0)
            rows.append(("svm", place, name, value, value * 0.9, value * 1.1, gain, *bounds))
    names = ["backend", "axis", "alternative", "value", "low", "high", "gain", "gain_low"]
    return pd.DataFrame(rows, columns=[*names, "gain_high"])


@pytest.mark.parametrize(
    ("new", "verdict", "places"),
    [
        ([8, 8, 8], "supported", []),
        ([12, 12, 12], "refuted", []),
        ([10, 10, 10.01], "refuted", []),
        ([8, 10, 10], "supported", []),
        ([8, 9, 13], "depends", [12.5]),
    ],
)
def test_the_verdict_follows_from_the_frame(new, verdict, places):
    table = frame([10, 10, 10], new)
    assert questions.judge(table, "new", 0.01) == verdict
    if verdict == "depends":
        found = questions.crossovers(table, "new")
        assert found["crossover"].tolist() == pytest.approx(places)
        assert found["backend"].tolist() == ["svm"]


@pytest.mark.parametrize(
    ("new", "reach", "calls", "verdict"),
    [
        ([8, 9.99, 13], 0.5, ["win", "alike", "loss"], "depends"),
        ([8, 9.7, 9.7], 0.5, ["win", "open", "open"], "supported"),
        ([10.3, 10.3, 12], 0.5, ["open", "open", "loss"], "depends"),
        ([9, 11, 11], 5, ["open", "open", "open"], "depends"),
        ([12, 12, 10], 0.5, ["loss", "loss", "alike"], "refuted"),
    ],
)
def test_a_point_counts_only_where_the_bounds_of_the_prices_agree(new, reach, calls, verdict):
    table = frame([10, 10, 10], new, reach=reach)
    mine = table[table["alternative"] == "new"]
    assert questions.calls(mine, 0.01).tolist() == calls
    assert questions.judge(table, "new", 0.01) == verdict


def test_a_crossover_has_the_bounds_that_prices_give_it():
    found = questions.crossovers(frame([10, 10, 10], [6, 10.5, 13], reach=1.0), "new").iloc[0]
    assert found["crossover"] == pytest.approx(10 * 4 / 4.5)
    assert found["low"] == pytest.approx(10 * 3 / 4.5)
    assert found["high"] == pytest.approx(10 + 10 * 0.5 / 2.5)


def test_a_second_axis_gives_a_crossover_for_each_of_its_values():
    low = frame([10, 10, 10], [8, 9, 13]).assign(axis2=1)
    high = frame([10, 10, 10], [8, 12, 13]).assign(axis2=2)
    found = questions.crossovers(pd.concat([low, high]), "new")
    assert found["axis2"].tolist() == [1, 2]
    assert found["crossover"].tolist() == pytest.approx([12.5, 5.0])


def test_back_ends_that_differ_make_it_depend():
    here = frame([10, 10, 10], [8, 8, 8])
    there = frame([10, 10, 10], [10, 10, 10]).assign(backend="vmx")
    assert questions.judge(pd.concat([here, there]), "new", 0.01) == "depends"
    assert questions.judge(pd.concat([here, here.assign(backend="vmx")]), "new", 0.01) == (
        "supported"
    )


def test_no_crossover_on_an_axis_of_names():
    table = frame([10, 10], [8, 12], axis=("cpuid", "msr"))
    assert questions.judge(table, "new", 0.01) == "depends"
    assert questions.crossovers(table, "new").empty


def test_the_bounds_of_a_gain_price_both_runs_alike():
    preset = wb.prices.load_preset("zen")
    counts = np.zeros(N_EVENTS)
    counts[EVENTS.index("HW_EXIT")] = 10
    more = counts.copy()
    more[EVENTS.index("L0_VMREAD")] = 5
    value, low, high = preset.spread_of_difference(more, counts)
    one = [5 * float(preset.vector(b)[EVENTS.index("L0_VMREAD")]) for b in ("low", "value", "high")]
    assert [low, value, high] == pytest.approx(one)  # what both have costs both the same
    assert preset.spread_of_difference(counts, more) == pytest.approx((-value, -high, -low))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_names_what_exists(path):
    found = questions.load(path)
    known = (wb.data_dir() / "sources.bib").read_text()
    assert all("{" + key + "," in known for key in found.sources)
    for backend, values in found.base.items():
        scenario = wb.Scenario(backend=backend, **values)
        for settings in found.choices(backend).values():
            for name in settings:
                head, _, entry = name.partition(".")
                assert head == "features" and entry in set(catalogue())
            assert scenario.replace(**settings).backend == backend
        for name in found.axes:
            for settings in found.points(name).values():
                assert scenario.replace(**settings).backend == backend


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("question =", "qestion =", "question"),
        ("tolerance = 0.005", 'tolerance = "some"', "tolerance"),
        ('better = "on"', 'better = "maybe"', "maybe"),
        ("[measure]", "[measures]", "measure"),
        ("[base.svm]", "[base.svm", "gif.toml"),
        ('claim_of = "ours"', 'claim_of = "somebody"', "somebody"),
        ("answers = [4]", "answers = [9]", "answers"),
        ("title =", 'function = "lay"\ntitle =', "no function called 'lay'"),
        ("[axis]", '[[figures]]\nplot = "pie"\n[axis]', "no chart called 'pie'"),
        ("[axis]", '[[figures]]\nplot = "bars"\nof = "it"\n[axis]', "no frame called 'it'"),
        ("[axis]", '[[figures]]\nplot = "bars"\n[[figures]]\nplot = "bars"\n[axis]', "same name"),
        ('setting = "l2"', 'shown = "rates"\nsetting = "l2"', "shown cannot be 'rates'"),
        ('values = ["cpuid", "msr", "ctxsw", "mixed"]', "values = []", "no values"),
        ("values = { svm = [false, true] }", "values = { vmx = [false, true] }", "values for svm"),
        ('setting = "features.virtual_gif"', "", "alternatives.: no 'setting'"),
        ('setting = "l2"', "", "axis.: no 'setting'"),
        ('than = "off"', 'than = "none"', "none"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, old, new, said):
    assert old in SAMPLE
    path = tmp_path / "gif.toml"
    path.write_text(SAMPLE.replace(old, new, 1))
    with pytest.raises(wb.WorkbenchError, match=said):
        questions.load(path)


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(wb.WorkbenchError, match="msr-map"):
        wb.experiment("msr-mpa")


def test_one_from_end_to_end(tmp_path):
    written = write_experiments(["gif"], tmp_path, ["svg"])
    figures = {"gif", "gif-blocked", "gif-cost", "gif-exits", "gif-percentiles"}
    frames = figures | {"gif-waits"}
    assert {path.name for path in written} == {
        *(f"{name}.svg" for name in figures),
        *(f"{name}.{form}" for name in frames for form in ("csv", "parquet")),
        "gif.txt",
    }
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in written)
    text = (tmp_path / "gif.txt").read_text()
    assert max(map(len, text.splitlines())) <= questions.MAIL_COLUMNS
    table = pd.read_csv(tmp_path / "gif.csv")
    spec = tomllib.loads((wb.data_dir() / "experiments" / "gif.toml").read_text())["verdict"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "gif.parquet"), table)
    verdict = questions.judge(table, spec["better"], spec["tolerance"])
    assert f"Claim {verdict}." in text
    assert all(charts.scenarios_of(tmp_path / f"{name}.svg") for name in figures)


def test_they_are_listed_with_whose_claim_it_is():
    table = wb.experiments()
    assert set(table["name"]) == {path.stem for path in FILES}
    whose = dict(zip(table["name"], table["claim_of"], strict=True))
    assert "C1" in whose["msr-map"] and whose["tags"] == "ours"


def test_each_of_the_eight_questions_has_an_experiment():
    asked = set(question_table()["number"])
    assert asked == set(range(1, 9))
    assert {n for path in FILES for n in questions.load(path).answers} == asked


def test_a_run_that_ends_early_is_no_measurement():
    table = pd.DataFrame({"point": ["here", "there"], "status": ["stopped", "shutdown"]})
    with pytest.raises(wb.WorkbenchError, match="probe, there: ended with shutdown"):
        check_ends("probe", table)


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_the_unit_of_work_does_not_change_with_what_exits(backend):
    runs = [
        wb.run(wb.Scenario(backend=backend, l2="rates", l2_params={"iterations": 50, "accesses": 370},
                           features={"msr_map": value}, timeline=0))
        for value in ("merged", "intercept_all")
    ]  # fmt: skip
    retired = [run.l2_instructions for run in runs]
    assert retired[0] - retired[1] == 50 * 3.7  # the accesses that exit are not retired
    done = [measures.instructions(run) for run in runs]
    assert (
        done[0]
        == done[1]
        == retired[0]
        + runs[0]
        .exits.query("from_level == 'L2' and cause in ('CPUID', 'HLT', 'HYPERCALL')")["count"]
        .sum()
    )


def test_what_if_changes_every_run_and_says_so(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text((wb.data_dir() / "experiments" / "tags.toml").read_text())
    outcome = wb.experiment(str(path), changes={"l0": "kvm", "l2_page_size": "4k"})
    assert {run.result.scenario.l0 for run in outcome.runs} == {"kvm"}
    assert {run.result.scenario.l2_page_size for run in outcome.runs} == {"4k"}
    assert "Changed: l0=kvm, l2_page_size=4k." in outcome.text
    assert "Changed: l0=kvm" in outcome.figure.get_supxlabel()


def test_what_an_experiment_varies_cannot_be_changed():
    with pytest.raises(wb.WorkbenchError, match="l2_tag_policy is what experiment tags"):
        wb.experiment("tags", changes={"features.l2_tag_policy": "own"})
    with pytest.raises(wb.WorkbenchError, match="no_such"):
        wb.experiment("tags", changes={"no_such": 1})
