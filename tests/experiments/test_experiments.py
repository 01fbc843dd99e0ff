"""Experiments: their files, the verdict's logic on frames made by hand, and one from end to end."""

import tomllib

import pandas as pd
import pytest
from matplotlib.container import BarContainer

import workbench as wb
from workbench import charts, questions
from workbench.cli.figures import write_experiments
from workbench.features import catalogue
from workbench.guests import catalogue as guests

FILES = sorted((wb.data_dir() / "experiments").glob("*.toml"))


def frame(old, new, axis=(0, 10, 20)):
    rows = [
        ("svm", place, name, value, value * 0.9, value * 1.1)
        for name, values in (("old", old), ("new", new))
        for place, value in zip(axis, values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["backend", "axis", "alternative", "value", "low", "high"])


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
    assert questions.judge(table, "new", "old", 0.01) == verdict
    if verdict == "depends":
        assert questions.crossovers(table, "new", "old")["svm"] == pytest.approx(places)


def test_back_ends_that_differ_make_it_depend():
    here = frame([10, 10, 10], [8, 8, 8])
    there = frame([10, 10, 10], [10, 10, 10]).assign(backend="vmx")
    assert questions.judge(pd.concat([here, there]), "new", "old", 0.01) == "depends"
    assert questions.judge(pd.concat([here, here.assign(backend="vmx")]), "new", "old", 0.01) == (
        "supported"
    )


def test_no_crossover_on_an_axis_of_names():
    table = frame([10, 10], [8, 12], axis=("cpuid", "msr"))
    assert questions.judge(table, "new", "old", 0.01) == "depends"
    assert questions.crossovers(table, "new", "old") == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_names_what_exists(path):
    found = questions.load(path)
    known = (wb.data_dir() / "sources.bib").read_text()
    assert all("{" + key + "," in known for key in found.sources)
    head, _, entry = found.alternatives["setting"].partition(".")
    assert head == "features" and entry in set(catalogue())
    for backend, values in found.base.items():
        scenario = wb.Scenario(backend=backend, **values)
        programs = found.axis["values"] if found.axis["setting"] == "l2" else [scenario.l2]
        for program in programs:
            guests.find(2, program, backend)
        for value in found.alternatives["values"][backend]:
            scenario.replace(**{found.alternatives["setting"]: value})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("question =", "qestion =", "question"),
        ("tolerance = 0.005", 'tolerance = "some"', "tolerance"),
        ('better = "on"', 'better = "maybe"', "maybe"),
        ("[measure]", "[measures]", "measure"),
        ("[base.svm]", "[base.svm", "gif.toml"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, old, new, said):
    source = (wb.data_dir() / "experiments" / "gif.toml").read_text()
    assert old in source
    path = tmp_path / "gif.toml"
    path.write_text(source.replace(old, new, 1))
    with pytest.raises(wb.WorkbenchError, match=said):
        questions.load(path)


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(wb.WorkbenchError, match="msr-map"):
        wb.experiment("msr-mpa")


def test_lines_and_bars_equal_the_frame():
    table = frame([10, 11, 12], [8, 9, 13])
    axes = charts.experiment(table, "T", "rate", "cycles", "note", []).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[10, 11, 12], [8, 9, 13]]
    assert axes.get_xlabel() == "rate" and axes.get_ylabel() == "cycles"
    names = frame([10, 11], [8, 13], axis=("cpuid", "msr"))
    axes = charts.experiment(names, "T", "program", "cycles", "note", []).axes[0]
    bars = [box for box in axes.containers if isinstance(box, BarContainer)]
    assert [[bar.get_height() for bar in box] for box in bars] == [[10, 11], [8, 13]]


def test_one_from_end_to_end(tmp_path):
    written = write_experiments(["tags"], tmp_path, ["svg"])
    assert {path.name for path in written} == {"tags.svg", "tags.csv", "tags.txt"}
    text = (tmp_path / "tags.txt").read_text()
    assert max(map(len, text.splitlines())) <= questions.MAIL_COLUMNS
    table = pd.read_csv(tmp_path / "tags.csv")
    spec = tomllib.loads((wb.data_dir() / "experiments" / "tags.toml").read_text())["verdict"]
    verdict = questions.judge(table, spec["better"], spec["than"], spec["tolerance"])
    assert f"Claim {verdict}." in text
    assert charts.scenarios_of(tmp_path / "tags.svg")


def test_they_are_listed():
    assert set(wb.experiments()["name"]) == {path.stem for path in FILES}


def test_a_run_that_ends_early_is_no_measurement():
    table = pd.DataFrame({"point": ["here", "there"], "status": ["stopped", "shutdown"]})
    with pytest.raises(wb.WorkbenchError, match="probe, there: ended with shutdown"):
        questions._check_ends("probe", table)
