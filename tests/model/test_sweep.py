"""Sweeps: points, who runs them, errors as rows, repeats, prices, cancel."""

import threading
import warnings

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench import simulate
from workbench.errors import ResultError, ScenarioError
from workbench.study import crews
from workbench.study.point_store import PointStore

BASE = wb.Scenario(backend="vmx", l2_params={"iterations": 20}, timeline=0)
GRID = {"features.vmcs_shadowing": [False, True], "l2_params.work": [0, 10]}


@pytest.fixture
def counted(monkeypatch):
    """The scenarios that were run in this process."""
    ran = []
    run = simulate.Run
    monkeypatch.setattr(simulate, "Run", lambda scenario: ran.append(scenario) or run(scenario))
    return ran


def test_a_grid_is_a_table_with_settings_first_and_results_behind(tmp_path):
    table = wb.sweep(BASE, GRID, store=tmp_path)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns[:5]) == ["point", *GRID, "status", "error"]
    assert table.settings == tuple(GRID)
    assert set(table["status"]) == {"stopped"}
    assert "run_seconds" not in table
    for row, result in zip(table.itertuples(), table.results.values(), strict=True):
        assert row.cycles == result.cycles
        assert row.exits == result.raw.exits.sum()
    assert wb.charts.alt_text(wb.charts.cost(table))
    assert type(table[table["exits"] > 0]) is pd.DataFrame
    with pytest.raises(ResultError, match="Did you mean"):
        table.results["vmcs_shadowing=off, work=1"]


def test_samples_are_a_list_or_a_frame():
    rows = [{"l2_params.work": 3}, {"features.vmcs_shadowing": True}]
    table = wb.sweep(BASE, rows, store=False)
    assert list(table["l2_params.work"]) == [3, 100]
    assert list(table["features.vmcs_shadowing"]) == [False, True]
    frame = pd.DataFrame(
        {"l2_params.work": np.array([3, 4]), "features.vmcs_shadowing": [True, False]}
    )
    assert list(wb.sweep(BASE, frame, store=False)["l2_params.work"]) == [3, 4]


def test_a_bad_point_is_a_row_and_the_others_are_run():
    points = [{"l2_params.work": 1}, {"l2": "cpiud"}, {"features.virtual_gif": True},
              {"l2_params.work": "much"}, {"backend": "svm"}]  # fmt: skip
    table = wb.sweep(BASE, points, store=False)
    assert list(table["status"]) == ["stopped", "error", "error", "error", "stopped"]
    assert "Did you mean cpuid" in table["error"][1]
    assert "SVM only" in table["error"][2]
    assert table["exits"].isna().tolist() == [False, True, True, True, False]
    assert list(table.failed["point"]) == ["l2=cpiud", "virtual_gif=on", "work=much"]
    assert list(table["backend"]) == ["vmx", "vmx", "vmx", "vmx", "svm"]
    assert len(table.results) == 2


def test_a_failure_while_running_is_a_row(tmp_path):
    broken = tmp_path / "broken.S"
    broken.write_text("# @title broken\n    mov rax, nonsense nonsense\n")
    fits_not = {"l2": "touch", "l2_params.pages": 60_000, "l2_params.iterations": 1}
    table = wb.sweep(BASE.replace(l2_params={}), [{}, {"l2": str(broken)}], store=tmp_path / "s")
    assert list(table["status"]) == ["stopped", "error"]
    assert "broken.S" in table["error"][1]
    table = wb.sweep(BASE, [{}, fits_not], store=False)
    assert table["status"][1] == "error"


def test_a_measure_that_fails_is_an_error_of_its_row():
    table = wb.sweep(
        BASE, GRID, store=False,
        measures={"reads": lambda r: 12 // int(r.scenario.l2_params["work"])},
    )  # fmt: skip
    assert list(table["status"]) == ["error", "stopped", "error", "stopped"]
    assert "ZeroDivisionError" in table["error"][0]
    assert table["reads"][1] == 1


@pytest.mark.parametrize(
    ("settings", "repeats", "words"),
    [
        ({"l2": "cpuid"}, 1, "list of values"),
        ({"l2_params.work": []}, 1, "no point to run"),
        ([], 1, "no point to run"),
        ([3], 1, "cannot sweep over 3"),
        ({"l2_params.wrok": [1]}, 1, "Did you mean work"),
        (GRID, 0, "repeats is 0"),
    ],
)
def test_what_makes_no_sweep_is_said_at_once(settings, repeats, words):
    with pytest.raises(ScenarioError, match=words):
        wb.sweep(BASE, settings, repeats, store=False)


def test_a_repeat_is_another_seed_where_the_program_draws_from_it():
    mixed = wb.Scenario(l2="mixed", l2_params={"iterations": 100}, seed=7)
    table = wb.sweep(mixed, {"features.virtual_gif": [False, True]}, 3, store=False)
    assert list(table["repeat"]) == [0, 1, 2] * 2
    assert list(table["seed"]) == [7, 8, 9] * 2
    assert table["exits"].nunique() > 2
    with pytest.warns(UserWarning, match="cpuid: nothing is drawn"):
        assert len(wb.sweep(BASE, GRID, 3, store=False)) == 4


def test_threads_processes_and_one_after_another_count_the_same():
    points = {"l2": ["cpuid", "mixed", "touch", "pio"], "backend": ["svm", "vmx"]}
    base = wb.Scenario()
    alone = wb.sweep(base, points, store=False, executor="threads", workers=1)
    for kind in ("threads", "processes"):
        other = wb.sweep(base, points, store=False, executor=kind, workers=2)
        pd.testing.assert_frame_equal(alone, other)
        for label, result in alone.results.items():
            assert other.results[label].fingerprint() == result.fingerprint()


def test_a_worker_process_that_dies_is_replaced(monkeypatch):
    sent = []
    send = crews._send

    def sabotage(pipe, item):
        send(pipe, item)
        sent.append(item)
        if len(sent) == 2:
            children[0].kill()

    children = []
    start = crews._start
    monkeypatch.setattr(crews, "_start", lambda: children.append(start()) or children[-1])
    monkeypatch.setattr(crews, "_send", sabotage)
    table = wb.sweep(BASE, GRID, store=False, executor="processes", workers=1)
    assert len(children) == 2
    assert set(table["status"]) == {"stopped"}
    assert len(sent) == len(table) + 1


def test_a_point_that_kills_every_worker_is_an_error(monkeypatch):
    monkeypatch.setattr(crews, "_send", lambda pipe, item: pipe.close())
    table = wb.sweep(BASE, GRID, store=False, executor="processes", workers=1)
    assert set(table["status"]) == {"error"}
    assert "worker process ended" in table["error"][0]


def test_processes_are_chosen_for_many_short_runs_and_threads_for_few_or_long_ones():
    short = {"python": 0.02, "kernel": 0.01}
    assert crews.prefer_processes(**short, left=1000, workers=2)
    assert not crews.prefer_processes(**short, left=100, workers=2)
    assert crews.prefer_processes(**short, left=300, workers=8)
    assert not crews.prefer_processes(python=0.02, kernel=3.0, left=1000, workers=2)
    assert not crews.prefer_processes(**short, left=1000, workers=1)


def test_progress_counts_points_and_cancel_leaves_rows(tmp_path):
    seen, cancel = [], threading.Event()

    def watch(progress):
        if progress.phase == "points":
            seen.append(progress.steps)
            if progress.steps == 2:
                cancel.set()

    table = wb.sweep(BASE, {"l2_params.work": list(range(12))}, store=tmp_path, workers=1,
                     executor="threads", progress=watch, cancel=cancel)  # fmt: skip
    assert seen == sorted(seen)
    finished = table["status"] == "stopped"
    assert 2 <= finished.sum() < 12
    assert set(table["status"]) == {"stopped", "cancelled"}
    assert len(list(PointStore(tmp_path).entries())) == finished.sum()


def test_prices_never_run_anything_again(tmp_path, counted):
    table = wb.sweep(BASE, {"prices": ["nehalem", "haswell"], "cpu": ["Nehalem"]}, store=tmp_path)
    assert len(counted) == 1
    changed = BASE.replace(price_values={"HW_EXIT": 5000}, cpu="Nehalem")
    dearer = wb.sweep(changed, [{}], store=tmp_path)
    assert len(counted) == 1
    assert dearer["cycles"][0] > table["cycles"][0] != table["cycles"][1]
    assert dearer["cycles"][0] == simulate.run(changed).cycles


def test_a_run_that_reads_the_clock_is_kept_for_its_prices_alone(tmp_path, counted):
    ticking = wb.Scenario(host_tick_cycles=50_000, l2_params={"iterations": 200}, timeline=0)
    assert simulate.run(ticking).depends_on_prices
    assert not simulate.run(BASE).depends_on_prices
    counted.clear()
    prices = {"price_values": [{}, {"HW_EXIT": 9000}]}
    table = wb.sweep(ticking, prices, store=tmp_path, executor="threads")
    assert len(counted) == 2
    assert table["exits"][0] != table["exits"][1]
    again = wb.sweep(ticking, prices, store=tmp_path)
    assert len(counted) == 2
    pd.testing.assert_frame_equal(table, again)


@pytest.mark.parametrize(("l2", "reads"), [("cpuid", False), ("tick", True)])
def test_the_kernel_notes_that_time_mattered(l2, reads):
    assert (
        simulate.run(wb.Scenario(backend="vmx", l1="tick" if reads else "minimal", l2=l2)).facts[
            "clock_used"
        ]
        is reads
    )


def test_no_warning_without_repeats():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wb.sweep(BASE, [{}], store=False)
