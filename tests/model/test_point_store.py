"""Finished points: found by content, resumed after a kill, shared by processes, checked for damage."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pandas as pd
import pyarrow.parquet as pq
import pytest

import workbench as wb
from workbench import provenance
from workbench.study import point_store
from workbench.study.point_store import PointStore, key_of

BASE = wb.Scenario(l2_params={"iterations": 30})
GRID = {"l2_params.work": list(range(16))}
CHILD = """
import sys, workbench as wb
base = wb.Scenario(l2_params={"iterations": 30})
table = wb.sweep(base, {"l2_params.work": list(range(16))}, store=sys.argv[1], executor=sys.argv[2])
table.to_pickle(sys.argv[3]) if len(sys.argv) > 3 else None
"""


def _child(*words):
    return subprocess.Popen([sys.executable, "-c", CHILD, *map(str, words)])


def _manifests(folder):
    return sorted(folder.glob("??/*.json"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return wb.sweep(BASE, GRID, store=tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_sweep_killed_in_the_middle_resumes_and_ends_with_the_same_table(
    tmp_path, undisturbed, kind
):
    child = _child(tmp_path, kind)
    try:
        deadline = time.monotonic() + 60
        while len(_manifests(tmp_path)) < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in _manifests(tmp_path)}
    assert 4 <= len(before) < 16
    table = wb.sweep(BASE, GRID, store=tmp_path, executor=kind)
    pd.testing.assert_frame_equal(table, undisturbed)
    after = {path: path.stat().st_mtime_ns for path in _manifests(tmp_path)}
    assert len(after) == 16
    assert before == {path: after[path] for path in before}, "a finished point was run again"


def test_two_processes_share_a_store_and_run_each_point_once(tmp_path, undisturbed):
    places = [tmp_path / "a.pickle", tmp_path / "b.pickle"]
    store = tmp_path / "store"
    children = [_child(store, "threads", place) for place in places]
    assert [child.wait(120) for child in children] == [0, 0]
    for place in places:
        pd.testing.assert_frame_equal(
            pd.DataFrame(pd.read_pickle(place)), pd.DataFrame(undisturbed)
        )
    assert len(_manifests(store)) == 16
    files = {path.name for path in store.glob("??/*.parquet")}
    listed = {about["name"] for path in _manifests(store)
              for about in json.loads(path.read_text())["files"].values()}  # fmt: skip
    assert files == listed
    assert not list(store.glob("??/*.lock"))


def test_what_was_kept_is_what_was_counted(tmp_path):
    store = PointStore(tmp_path)
    for scenario in (BASE, wb.Scenario(backend="vmx", l2="mixed", timeline=0)):
        result = wb.run(scenario)
        assert store.get(scenario) is None
        store.put(result)
        found = store.get(scenario)
        assert found.fingerprint() == result.fingerprint()
        assert found.raw.digest() == result.raw.digest()
        assert (found.raw.timeline == result.raw.timeline).all()
        assert found.cycles == result.cycles
        assert dict(found.facts) == dict(result.facts)


def test_entries_are_files_that_other_tools_open(tmp_path):
    PointStore(tmp_path).put(wb.run(BASE))
    (manifest,) = _manifests(tmp_path)
    content = json.loads(manifest.read_text())
    assert content["scenario"]["l2_params"] == {"iterations": 30}
    table = pq.read_table(manifest.parent / content["files"]["counts"]["name"]).to_pandas()
    counts = table[table["array"] == "counts"]
    assert counts.loc[counts["event"] == "HW_EXIT", "count"].sum() == wb.run(BASE).raw.exits.sum()


@pytest.mark.parametrize("part", ["json", "counts", "timeline"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "gone"])
def test_a_damaged_entry_is_reported_and_run_again(tmp_path, part, how):
    points = {"l2_params.work": [0, 1]}
    first = wb.sweep(BASE, points, store=tmp_path)
    manifest = _manifests(tmp_path)[0]
    name = json.loads(manifest.read_text())["files"].get(part, {}).get("name", manifest.name)
    file = manifest.parent / name
    data = file.read_bytes()
    middle = len(data) // 2
    changed = {"flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
               "cut": data[:middle], "empty": b""}  # fmt: skip
    file.unlink() if how == "gone" else file.write_bytes(changed[how])
    problems = [
        entry.problem for entry in PointStore(tmp_path).entries(check=True) if entry.problem
    ]
    if how != "gone" or part != "json":
        assert len(problems) == 1 and str(file) in problems[0]
        with pytest.warns(UserWarning, match="run again"):
            again = wb.sweep(BASE, points, store=tmp_path)
    else:
        again = wb.sweep(BASE, points, store=tmp_path)
    pd.testing.assert_frame_equal(first, again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pd.testing.assert_frame_equal(first, wb.sweep(BASE, points, store=tmp_path))
    assert all(not entry.problem for entry in PointStore(tmp_path).entries(check=True))


def test_the_key_is_what_counts_depend_on(monkeypatch, tmp_path):
    key = key_of(BASE)
    assert key_of(BASE.replace(prices="zen3", cpu=BASE.cpu_name)) == key
    assert key_of(BASE.replace(price_values={"HW_EXIT": 1})) == key
    assert key_of(BASE.replace(features={"virtual_gif": False})) == key, "its default, written out"
    assert key_of(BASE.replace(seed=1)) != key
    assert key_of(BASE.replace(features={"virtual_gif": True})) != key
    monkeypatch.setattr(provenance, "model_hash", lambda: "another model")
    assert key_of(BASE) != key


def test_a_changed_guest_file_is_another_point(tmp_path):
    own = tmp_path / "own.S"
    text = "# @title own\n.intel_syntax noprefix\n    mov ecx, 5\n1:  cpuid\n    hlt\n"
    own.write_text(text)
    first = key_of(wb.Scenario(l2=str(own)))
    own.write_text(text.replace("mov ecx, 5", "mov ecx, 6"))
    os.utime(own, (1, 1))
    assert key_of(wb.Scenario(l2=str(own))) != first


def test_other_models_and_leftovers_are_pruned(tmp_path, monkeypatch):
    store = PointStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "model_hash", lambda: "an older model")
        old = store.put(wb.run(BASE))
    new = store.put(wb.run(BASE))
    assert old != new
    assert {entry.key: entry.is_current for entry in store.entries()} == {old: False, new: True}
    stray = tmp_path / new[:2] / ".half-written"
    stray.write_bytes(b"x")
    os.utime(stray, (1, 1))
    assert store.leftovers() == [stray]
    store.remove(old)
    assert [entry.key for entry in store.entries()] == [new]


def test_a_place_that_cannot_be_written_is_an_error_of_the_rows(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    table = wb.sweep(BASE, [{}, {"l2_params.work": 1}], store=blocked / "store")
    assert set(table["status"]) == {"error"}
    assert str(blocked) in table["error"][0]


def test_the_default_place_is_in_the_cache():
    from workbench.paths import cache_dir

    assert point_store.default_folder().parent == cache_dir()
