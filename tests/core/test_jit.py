"""Struct types, word helpers and the bounds check that the fuzz tests rely on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BODY = """
import numpy as np
from workbench.core import emit, jit, structs, words

INNER = np.dtype([("small", "i2"), ("byte", "u1", (4,))])
OUTER = np.dtype([("before", "i8"), ("inner", INNER), ("row", "i4", (2, 3)), ("after", "i8")])
structs.struct("TestInner", INNER)
Outer = structs.struct("TestOuter", OUTER)

@jit.unit(Outer, structs.i64)
def probe_fields(o, i):
    o.inner.small = -2
    o.inner.byte[1] = 300
    o.row[1, 2] += 7
    o.row[0, i] = 5
    return o.inner.small + o.inner.byte[1]

@jit.unit(structs.i64)
def probe_memory(a):
    return words.ld8(a)

jit.load_units()
record = np.zeros(1, OUTER)
call = jit.UNITS["probe_fields"].entry()
base = record.ctypes.data
emit.CHECKED_RANGES[:] = base, base + record.nbytes, base, base + record.nbytes
assert call(base, 1) == -2 + 300 % 256
assert record["row"][0].tolist() == [[0, 5, 0], [0, 0, 7]]
assert emit.OUT_OF_RANGE[0] == 0
call(base, {index})
jit.UNITS["probe_memory"].entry()(base + {offset})
print(int(emit.OUT_OF_RANGE[0]))
"""


def out_of_range(index: int, offset: int, checked: bool) -> int:
    environment = dict(os.environ)
    environment.pop("NUMBA_BOUNDSCHECK", None)
    if checked:
        environment["NUMBA_BOUNDSCHECK"] = "1"
    code = BODY.replace("{index}", str(index)).replace("{offset}", str(offset))
    path = os.path.join(environment["PROBE_DIRECTORY"], "probe.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(code)
    done = subprocess.run(
        [sys.executable, path], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.fixture(autouse=True)
def _probe_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.getcwd())


def test_bounds_check_counts_indexes_and_addresses_outside():
    assert out_of_range(2, 0, True) == 0
    assert out_of_range(5, 0, True) == 1
    assert out_of_range(-1, 0, True) == 1
    assert out_of_range(2, 4096, True) == 1
    assert out_of_range(5, -8, True) == 2


def test_bounds_check_is_off_by_default():
    assert out_of_range(3, 0, False) == 0


def test_word_helpers_are_unsigned_where_they_say_so():
    import numba

    from workbench.core import words

    @numba.njit
    def results(a, b):
        return (
            words.lshr(a, 60), words.udiv(a, b), words.urem(a, b), words.umulh(a, b),
            words.smulh(a, b), words.popcount(a),
        )  # fmt: skip

    a, b = -5, 7
    unsigned = a & 0xFFFF_FFFF_FFFF_FFFF
    expected = (
        unsigned >> 60, unsigned // b, unsigned % b, unsigned * b >> 64, a * b >> 64,
        unsigned.bit_count(),
    )  # fmt: skip
    assert [int(v) & 0xFFFF_FFFF_FFFF_FFFF for v in results(a, b)] == [
        e & 0xFFFF_FFFF_FFFF_FFFF for e in expected
    ]
