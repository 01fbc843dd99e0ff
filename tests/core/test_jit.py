"""Struct types, word helpers and the bounds check that the fuzz tests rely on."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

BODY = """
import numpy as np
from workbench.core import jit

INNER = np.dtype([("small", "i2"), ("byte", "u1", (4,))])
OUTER = np.dtype([("before", "i8"), ("inner", INNER), ("row", "i4", (2, 3)), ("after", "i8")])
jit.struct("TestInner", INNER)
Outer = jit.struct("TestOuter", OUTER)

@jit.unit(Outer, jit.i64)
def probe_fields(o, i):
    o.inner.small = -2
    o.inner.byte[1] = 300
    o.row[1, 2] += 7
    o.row[0, i] = 5
    return o.inner.small + o.inner.byte[1]

@jit.unit(jit.i64)
def probe_memory(a):
    return jit.ld8(a)

for made in (jit.UNITS["probe_fields"], jit.UNITS["probe_memory"]):
    made.compile()
record = np.zeros(1, OUTER)
call = jit.UNITS["probe_fields"].entry()
base = record.ctypes.data
jit.CHECKED_RANGES[:] = base, base + record.nbytes, base, base + record.nbytes
assert call(base, 1) == -2 + 300 % 256
assert record["row"][0].tolist() == [[0, 5, 0], [0, 0, 7]]
assert jit.OUT_OF_RANGE[0] == 0
call(base, {index})
jit.UNITS["probe_memory"].entry()(base + {offset})
print(int(jit.OUT_OF_RANGE[0]))
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
    from workbench.core import jit

    made = {
        name: getattr(jit, name)
        for name in ("lshr", "udiv", "urem", "umulh", "smulh", "popcount")
    }
    import numba

    @numba.njit
    def results(a, b):
        return (
            made_lshr(a, 60), made_udiv(a, b), made_urem(a, b), made_umulh(a, b), made_smulh(a, b),
            made_popcount(a),
        )  # fmt: skip

    results.py_func.__globals__.update({f"made_{name}": op for name, op in made.items()})
    a, b = -5, 7
    unsigned = a & 0xFFFF_FFFF_FFFF_FFFF
    expected = (
        unsigned >> 60, unsigned // b, unsigned % b, unsigned * b >> 64, a * b >> 64,
        unsigned.bit_count(),
    )  # fmt: skip
    assert [int(np.int64(v)) for v in results(a, b)] == [
        int(np.array(e & 0xFFFF_FFFF_FFFF_FFFF, np.uint64).astype(np.int64)) for e in expected
    ]
