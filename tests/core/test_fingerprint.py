"""What recompiles a unit: everything its machine code depends on, and nothing else."""

from __future__ import annotations

import os
import types as python_types

import numpy as np
import pytest

from workbench.core import fingerprint, jit, structs, units
from workbench.core.jit import inner, kernel_cache
from workbench.core.layout import Machine
from workbench.core.structs import i64

SOURCE = """
def helper(m):
    return m.cpu.rip + LIMIT

def unit(m, n):
    '''{doc}'''
    return helper(m) + n + vendor.CODE + TABLE[n & 1]
"""


def digest(doc="one", limit=5, code=7, table=(1, 2), helper=None, args=(Machine, i64)) -> str:
    """The hash of ``unit`` above, with something changed."""
    module = python_types.ModuleType("vendor")
    module.CODE, module.OTHER = code, object()
    names = {"LIMIT": limit, "vendor": module, "TABLE": np.array(table)}
    exec(SOURCE.replace("{doc}", doc), names)
    if helper is not None:
        names["helper"] = helper
    names["helper"] = inner(names["helper"])
    return fingerprint.unit_digest(names["unit"], args)


def test_the_same_code_has_the_same_hash_wherever_it_stands():
    assert digest() == digest()
    assert digest(doc="another text") == digest()


@pytest.mark.parametrize(
    "change",
    [{"limit": 6}, {"code": 8}, {"table": (1, 3)}, {"args": (i64, i64)},
     {"helper": lambda m: m.cpu.rip - 5}, {"helper": lambda m: m.cpu.cr0 + 5}],
    ids=["constant of a helper", "constant of a module", "table", "signature", "helper's code",
         "field"],
)  # fmt: skip
def test_what_the_machine_code_depends_on_changes_it(change):
    assert digest(**change) != digest()


def test_a_field_that_moves_changes_those_who_touch_it(monkeypatch):
    before = digest()
    moved = dict(fingerprint._fields())
    monkeypatch.setattr(fingerprint, "_fields", lambda: moved)
    assert digest() == before
    moved["cr0"] += " elsewhere"
    assert digest() == before
    moved["rip"] += " elsewhere"
    assert digest() != before


def test_every_object_that_the_core_names_is_understood(monkeypatch):
    def unknown() -> str:
        raise AssertionError("an object of an unknown kind")

    monkeypatch.setattr(fingerprint, "_done", {})
    monkeypatch.setattr(fingerprint, "_all_sources", unknown)
    for unit in jit.UNITS.values():
        fingerprint.unit_digest(unit.function, unit.signature.args)


def test_an_unknown_object_makes_the_hash_depend_on_everything(monkeypatch):
    names = {"thing": object()}
    exec("def f():\n    return thing", names)
    asked = []
    monkeypatch.setattr(fingerprint, "_all_sources", lambda: asked.append(1) or "all")
    fingerprint.unit_digest(names["f"], ())
    assert asked


def test_fields_of_every_struct_are_known():
    fields = fingerprint._fields()
    for struct in structs.registered():
        assert set(struct.dtype.fields or ()) <= set(fields)


def test_units_lie_in_one_folder_and_old_versions_go(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path))
    for version in range(units.KEEP_VERSIONS + 3):
        file = kernel_cache() / f"some_unit-{version:020d}.o"
        file.write_bytes(b"")
        os.utime(file, (version, version))
    units._forget_old_versions()
    left = {path.name for path in kernel_cache().iterdir()}
    assert len(left) == units.KEEP_VERSIONS
    assert f"some_unit-{0:020d}.o" not in left
