"""``workbench sweep`` and ``workbench store``: study files, tables as files, errors in words."""

import json
import warnings

import pandas as pd
import pytest

import workbench as wb
from workbench.cli.main import main
from workbench.cli.terminal import EXIT_ERROR, EXIT_GUEST, EXIT_OK
from workbench.study.point_store import PointStore

STUDY = """
[scenario]
backend = "vmx"
l2_params = {iterations = 20}

[grid]
"features.vmcs_shadowing" = [false, true]
"l2_params.work" = [0, 5]
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.study.point_store.default_folder", lambda: tmp_path / "points")
    return tmp_path / "points"


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_a_study_becomes_a_table_on_the_screen_and_in_a_file(study, tmp_path, capsys, ending):
    out = tmp_path / f"table.{ending}"
    assert main(["sweep", str(study), "--quiet", "--out", str(out)]) == EXIT_OK
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["vmcs_shadowing", "l2_params.work", "status"]
    assert [line.split()[:2] for line in printed[1:]] == [
        ["off", "0"], ["off", "5"], ["on", "0"], ["on", "5"]
    ]  # fmt: skip
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}[ending](out)
    base = wb.Scenario(backend="vmx", l2_params={"iterations": 20})
    grid = {"features.vmcs_shadowing": [False, True], "l2_params.work": [0, 5]}
    table = wb.sweep(base, grid, store=False)
    assert list(read.columns) == list(table.columns)
    for column in ("exits", "cycles", "l2_params.work"):
        assert list(read[column]) == pytest.approx(list(table[column]))


def test_a_change_and_a_shipped_scenario(tmp_path, capsys):
    path = tmp_path / "s.toml"
    path.write_text('scenario = "default_vmx"\n[[samples]]\n"l2_params.work" = 7\n')
    out = tmp_path / "t.csv"
    words = ["sweep", str(path), "--set", "l2_params.iterations=10", "--out", str(out), "--quiet"]
    assert main(words) == EXIT_OK
    assert pd.read_csv(out)["exits_from_l2"][0] < 40


def test_a_design_prints_its_effects(tmp_path, capsys):
    path = tmp_path / "s.toml"
    path.write_text(
        'factorial = ["virtual_gif", "nrip_save"]\n[scenario]\nl2_params = {iterations = 20}\n'
    )
    words = ["sweep", str(path), "--measure", "exits", "--quiet"]
    assert main(words) == EXIT_OK
    printed = capsys.readouterr().out
    assert "Main effects on exits" in printed
    assert "no toggle depends on another" in printed


def test_failed_points_are_listed_and_the_rest_is_there(study, capsys):
    study.write_text(STUDY.replace("[0, 5]", "[0, -1]"))
    assert main(["sweep", str(study), "--quiet"]) == EXIT_GUEST
    printed = capsys.readouterr()
    assert printed.out.count("stopped") == 2
    assert "out of range" in printed.err
    assert "2 of 4 points failed" in printed.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gird]\n", "no key 'gird'"),
        ("repeats = 2\n", "nothing to run"),
        ("factorial = []\n[grid]\n", "grid and factorial"),
        ("factorial = []\n", "needs a toggle"),
        ("[grid\n", "not TOML"),
        ('scenario = "nowhere"\n[grid]\n', "no scenario called"),
        ('[scenario]\nbackend = "arm"\n[grid]\n', "backend cannot be 'arm'"),
        ("[grid]\nl2 = []\n", "no point to run"),
    ],
)
def test_a_study_that_cannot_be_used_says_why(study, capsys, text, words):
    study.write_text(text)
    assert main(["sweep", str(study), "--quiet"]) == EXIT_ERROR
    assert words in capsys.readouterr().err


def test_wrong_options_are_said_before_anything_runs(study, tmp_path, capsys, own_store):
    for words, said in (
        (["--out", "table.xlsx"], ".csv, .parquet"),
        (["--executor", "magic"], "executor cannot be 'magic'"),
        (["--workers", "0"], "workers is 0"),
    ):
        assert main(["sweep", str(study), "--quiet", *words]) == EXIT_ERROR
        assert said in capsys.readouterr().err
    assert main(["store", "list", "--store", str(tmp_path / "none")]) == EXIT_ERROR
    assert not own_store.exists()


def test_the_store_is_listed_verified_and_pruned(study, capsys, own_store):
    main(["sweep", str(study), "--quiet"])
    capsys.readouterr()
    assert main(["store", "list"]) == EXIT_OK
    assert "vmx minimal cpuid iterations=20" in capsys.readouterr().out
    assert main(["store", "verify"]) == EXIT_OK
    assert "4 points, 0 damaged" in capsys.readouterr().out
    manifest = next(own_store.glob("??/*.json"))
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"status": "halted"}))
    assert main(["store", "verify"]) == EXIT_ERROR
    assert str(manifest) in capsys.readouterr().out
    assert main(["store", "prune", "--dry-run"]) == EXIT_OK
    assert "would delete 1 points" in capsys.readouterr().out
    assert main(["store", "prune"]) == EXIT_OK
    assert len(list(PointStore(own_store).entries())) == 3
    assert main(["store", "prune", "--all"]) == EXIT_OK
    assert not list(own_store.glob("??/*.parquet"))


def test_nothing_is_kept_when_nothing_is_asked_for(study, own_store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["sweep", str(study), "--quiet", "--no-store"]) == EXIT_OK
    assert not own_store.exists()
