"""Units made for the test: what the compiler is told about memory, and what a unit shows outside."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.core import emit, jit, structs
from workbench.core.compare import words_differ
from workbench.core.layout import CPU, MACHINE, RAX, Cpu, Machine
from workbench.core.structs import i64
from workbench.core.words import address, copy_bytes, ld64, st64

RUNS = (0, 2, 5, 14, 20, 21)
"""Words 0 and 1, 5 to 13, and 20."""


@jit.inner
def _helper(value):
    return 1 if value == 3 else 2 * value


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path))
    before = emit.CHECKED_RANGES.copy()
    emit.CHECKED_RANGES[:] = 0, 1 << 62, 0, 1 << 62  # the arrays of the tests are no machine's
    yield
    emit.CHECKED_RANGES[:] = before


def linked(function, *args):
    made = jit.Unit(function, args)
    jit.link([made])
    return made.entry()


def test_fields_that_lie_on_the_same_bytes_are_told_to_the_compiler_as_one():
    names = {name: Cpu.place(name) for name in CPU.names}
    assert names["gpr"] == names["gpr8"] == names["gpr16"] == names["gpr32"]
    others = [place for name, place in names.items() if not name.startswith("gpr")]
    assert len(set(others)) == len(others) and names["gpr"] not in others


def test_no_two_fields_of_other_records_lie_on_the_same_bytes():
    for struct in structs.registered():
        for name in set(struct.dtype.names) - {"gpr", "gpr32", "gpr16", "gpr8"}:
            assert struct.place(name).endswith(f".{name}")


def test_a_store_by_one_view_of_a_register_is_seen_by_the_others():
    def unit_views(c, value):
        c.gpr[RAX] = value
        c.gpr8[8 * RAX + 1] = 0
        low = c.gpr32[2 * RAX]
        c.gpr16[4 * RAX + 3] = 5
        return c.gpr[RAX] - low

    record = np.zeros(1, CPU)
    call = linked(unit_views, Cpu, i64)
    assert call(record.ctypes.data, 0x1234_5678_9ABC) == 0x0005_1234_0000_0000


def test_copies_of_fields_are_seen_by_field_and_by_address():
    def unit_copies(m, host):
        m.cpu.seg_base[0] = 7
        copy_bytes(host, address(m.cpu.seg_base), 64)
        first = ld64(host)
        st64(host, 11)
        copy_bytes(address(m.cpu.seg_base), host, 64)
        return first * 100 + m.cpu.seg_base[0]

    record, memory = np.zeros(1, MACHINE), np.zeros(8, np.int64)
    assert linked(unit_copies, Machine, i64)(record.ctypes.data, memory.ctypes.data) == 711


def test_a_unit_calls_another_and_inlines_helpers():
    def unit_called(value):
        return _helper(value) + 1

    made = jit.Unit(unit_called, (i64,))
    callee = made.external

    def unit_calling(value):
        return 10 * callee(value)

    calling = jit.Unit(unit_calling, (i64,))
    jit.link([calling, made])
    assert [calling.entry()(value) for value in (3, 4)] == [20, 90]
    assert calling.is_cached() and calling.file.read_bytes().startswith(calling.compile())


def test_every_word_of_the_runs_is_compared_and_no_other():
    def unit_compare(a, b):
        return 1 if words_differ(a, b, RUNS) else 0

    call = linked(unit_compare, i64, i64)
    one = np.arange(64)
    for word in range(64):
        for bit in (0, 31, 63):
            other = one.copy()
            other[word] ^= np.int64(-(1 << 63)) if bit == 63 else 1 << bit
            wanted = word in (0, 1, 20) or 5 <= word < 14
            assert call(one.ctypes.data, other.ctypes.data) == wanted


@pytest.mark.parametrize(
    "damage", [lambda kept: kept[:100], lambda kept: b"", lambda kept: b"x" + kept[1:]]
)
def test_a_damaged_file_of_the_cache_is_compiled_again(damage):
    def unit_kept(value):
        return value + 1

    first = jit.Unit(unit_kept, (i64,))
    code = first.compile()
    whole = first.file.read_bytes()
    first.file.write_bytes(damage(whole))
    assert jit.Unit(unit_kept, (i64,)).compile() == code
    assert first.file.read_bytes() == whole
