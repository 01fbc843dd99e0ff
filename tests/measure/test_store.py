"""Saved results: everything comes back, damage is named, nothing is lost."""

import json
import os

import pandas.testing
import pytest
from synthetic import result

from workbench.errors import ResultError
from workbench.measure import store
from workbench.result import Result

TABLES = ("exits", "costs", "tlb", "fields", "timeline", "counts", "operations")


@pytest.fixture
def saved(tmp_path, vmx_result):
    return vmx_result.save(tmp_path / "run")


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_a_saved_result_comes_back_whole(tmp_path, backend):
    found = result(backend, price_values={"HW_EXIT": 444.5})
    again = Result.load(found.save(tmp_path / "deep" / "run"))
    for name in TABLES:
        pandas.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    assert again.fingerprint() == found.fingerprint()
    assert again.scenario == found.scenario and again.preset.hash == found.preset.hash
    assert (again.status, again.facts, again.run_seconds) == (found.status, found.facts, 0.25)
    assert again.provenance == found.provenance and again.serial == "ok\n"
    assert os.listdir(tmp_path / "deep") == ["run"]


def test_an_existing_result_is_replaced_only_when_asked(saved, svm_result, vmx_result):
    with pytest.raises(ResultError, match="overwrite"):
        svm_result.save(saved)
    assert Result.load(saved).fingerprint() == vmx_result.fingerprint()
    svm_result.save(saved, overwrite=True)
    assert Result.load(saved).fingerprint() == svm_result.fingerprint()
    assert os.listdir(saved.parent) == ["run"]


def test_what_is_not_a_result_is_never_replaced(tmp_path, svm_result):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name in ("thesis", "file"):
        with pytest.raises(ResultError, match="not a result"):
            svm_result.save(tmp_path / name, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("step", ["_write", "_sync_directory", "_move_into_place"])
def test_a_failing_save_leaves_the_old_result(saved, svm_result, vmx_result, monkeypatch, step):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, step, fail)
    with pytest.raises(ResultError, match="No space left"):
        svm_result.save(saved, overwrite=True)
    assert Result.load(saved).fingerprint() == vmx_result.fingerprint()
    assert os.listdir(saved.parent) == ["run"]


def test_a_failing_rename_puts_the_old_result_back(saved, svm_result, vmx_result, monkeypatch):
    rename = os.rename

    def fail(source, target):
        if str(source).endswith(".new"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(ResultError, match="Input/output"):
        svm_result.save(saved, overwrite=True)
    monkeypatch.undo()
    assert Result.load(saved).fingerprint() == vmx_result.fingerprint()


@pytest.mark.parametrize(
    "name", ["counts.parquet", "timeline.parquet", "prices.csv", "result.json"]
)
def test_a_flipped_byte_is_found_and_the_file_named(saved, name):
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(ResultError, match=f"{name}.* is damaged"):
        Result.load(saved)


@pytest.mark.parametrize("name", ["exits.parquet", "result.json"])
def test_a_truncated_file_is_found(saved, name):
    (saved / name).write_bytes((saved / name).read_bytes()[:20])
    with pytest.raises(ResultError, match=name):
        Result.load(saved)


def test_a_missing_file_is_named(saved):
    (saved / "fields.parquet").unlink()
    with pytest.raises(ResultError, match=r"fields\.parquet is missing"):
        Result.load(saved)


def test_places_without_a_result_are_named(tmp_path):
    with pytest.raises(ResultError, match="does not exist"):
        Result.load(tmp_path / "none")
    with pytest.raises(ResultError, match="is not a result"):
        Result.load(tmp_path)


def _rewrite(saved, **changes):
    manifest = json.loads((saved / "result.json").read_text()) | changes
    manifest["checksum"] = store._checksum(manifest)
    (saved / "result.json").write_text(json.dumps(manifest))


def test_a_newer_or_foreign_format_is_said_to_be_so(saved):
    _rewrite(saved, version=store.VERSION + 1)
    with pytest.raises(ResultError, match="update the workbench"):
        Result.load(saved)
    _rewrite(saved, version=1, format="something else")
    with pytest.raises(ResultError, match="not of this workbench"):
        Result.load(saved)
    (saved / "result.json").write_text("[]")
    with pytest.raises(ResultError, match="not of this workbench"):
        Result.load(saved)


def test_a_manifest_that_lacks_an_entry_is_one_clear_error(saved):
    manifest = json.loads((saved / "result.json").read_text())
    del manifest["facts"], manifest["checksum"]
    manifest["checksum"] = store._checksum(manifest)
    (saved / "result.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultError, match="facts"):
        Result.load(saved)


def test_a_result_loads_without_its_guest_programs(saved, monkeypatch):
    manifest = json.loads((saved / "result.json").read_text())
    _rewrite(saved, scenario=manifest["scenario"] | {"l2": "/elsewhere/own.S", "prices": "/x.csv"})
    again = Result.load(saved)
    assert again.scenario.l2 == "/elsewhere/own.S" and len(again.exits)


def test_the_fingerprint_ignores_time_and_sees_counts():
    one, two, three = result("svm"), result("svm"), result("svm", operations=1001)
    assert one.fingerprint() == two.fingerprint() != three.fingerprint()
