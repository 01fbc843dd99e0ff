"""The catalogue: what it holds, finding, parameters, parameter page, tables of operations."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
from collections import Counter

import pytest

from workbench.arch import svm, vmcb, vmcs, vmx
from workbench.errors import GuestError
from workbench.guests import mixed
from workbench.guests.catalogue import (
    Guest,
    evaluate,
    find,
    l1_guests,
    l2_guests,
    param_page,
    read_guest,
    validate_params,
)
from workbench.guests.image import IMAGE_BASE
from workbench.paths import data_dir

L2_NAMES = {
    "cpuid", "msr", "pio", "mmio", "hypercall", "touch", "ctxsw", "compute", "mixed", "remap", "spin",
    "tick", "cr0", "rates", "ud", "window", "workset",
}  # fmt: skip
ALL = [*l1_guests(), *l2_guests()]
IDS = [f"{g.name}-{g.backends[0]}" for g in ALL]


def test_every_program_of_the_plan_is_there():
    assert {(g.name, g.backends) for g in l1_guests()} == {
        ("minimal", ("svm",)), ("minimal", ("vmx",)), ("twin", ("svm",)), ("twin", ("vmx",)),
        ("shadow", ("svm",)), ("shadow", ("vmx",)),
        ("kvm-6.12", ("svm",)), ("kvm-6.12", ("vmx",)), ("kvm-2.6.35", ("vmx",)),
            ("kvm-87", ("vmx",)),
        ("kvm-uncached", ("vmx",)), ("xen-4.2x", ("svm",)), ("xen-4.2x", ("vmx",)),
        ("virtualbox-7", ("svm",)), ("virtualbox-7", ("vmx",)), ("tick", ("svm",)), ("tick", ("vmx",))}  # fmt: skip
    assert {g.name for g in l2_guests()} == L2_NAMES
    assert all(g.backends == ("svm", "vmx") for g in l2_guests())


@pytest.mark.parametrize("guest", ALL, ids=IDS)
def test_every_program_assembles_and_is_described(guest: Guest):
    image = guest.image()
    assert image.entry == image.symbols["_start"]
    assert image.end <= IMAGE_BASE + 0x80000 or guest.level == 1  # L2: below its table
    assert guest.title and all(p.text for p in guest.params)
    first = image.lines[image.entry][0]
    assert first.endswith((".S", ".inc"))


@pytest.mark.parametrize("guest", ALL, ids=IDS)
def test_no_instruction_uses_a_constant_as_an_address(guest: Guest):
    # a constant used before its .set would silently become a memory operand
    for line in guest.image().listing:
        for address in re.findall(r"\[0?x?([0-9A-Fa-f]+)\]", line.text):
            assert int(address, 16) >= 0x8000, line


@pytest.mark.parametrize("guest", ALL, ids=IDS)
def test_every_own_word_that_a_program_reads_is_described(guest: Guest):
    words = {p.word for p in guest.params}
    for line in guest.image().listing:
        for address in re.findall(r"\[0x(8[0-9A-Fa-f]{3})\]", line.text):
            word = (int(address, 16) - 0x8000) // 8
            assert word < 16 or word in words, line


@pytest.mark.parametrize("name", ["svm.inc", "vmx.inc"])
def test_constants_of_the_includes_are_those_of_the_manuals_tables(name):
    text = (data_dir() / "guests" / "include" / name).read_text()
    table = {}
    for key, value in re.findall(r"^\.set (\w+),\s*([^#\n]+)", text, re.MULTILINE):
        table[key] = eval(value.replace("/", "//"), {}, dict(table))
    checked = 0
    for key, value in table.items():
        if name == "svm.inc":
            if key.startswith("VMCB_"):
                expected = getattr(vmcb, key[5:])
            elif key.startswith("VMEXIT_"):
                expected = getattr(svm, key)
            elif key.startswith("INTERCEPT_"):
                expected = 1 << getattr(svm, key) % 32
            else:
                continue
        elif key.startswith("EXIT_") and not key.startswith(("EXIT_CTL", "EXIT_QUALIFICATION")):
            expected = getattr(vmx, key)
        elif key.startswith(("GUEST_", "HOST_", "VM_", "EXIT_QUAL")) or key in ("EPT_POINTER",):
            expected = getattr(vmcs, key)
        elif key.startswith(("CPU_HLT", "CPU_USE")):
            expected = getattr(vmx, key)
        else:
            continue
        assert value == expected, key
        checked += 1
    assert checked > 40


# ------------------------------------------------------------------ finding


def test_find_by_name_and_back_end():
    assert find(1, "minimal", "svm").path.name == "minimal-svm.S"
    assert find(1, "minimal", "vmx").path.name == "minimal-vmx.S"
    assert find(2, "touch", "vmx") == find(2, "touch", "svm")


def test_unknown_names_get_close_matches():
    with pytest.raises(GuestError, match=r"no L2 program called 'cpuidd'[\s\S]*cpuid"):
        find(2, "cpuidd", "svm")
    with pytest.raises(GuestError, match="minimal"):
        find(1, "xyzzy", "svm")


def test_a_users_own_files(tmp_path):
    source = tmp_path / "mine.S"
    source.write_text("# @title Mine\n# @backend vmx\n# @param n 16 0x10 1 99 things : how many\n"
                      '.include "l2.inc"\n.intel_syntax noprefix\nFINISH\n')  # fmt: skip
    guest = find(2, str(source), "vmx")
    assert guest.title == "Mine" and guest.defaults == {"n": 16}
    assert guest.image().listing[0].text == "hlt"
    with pytest.raises(GuestError, match="runs on vmx, not on svm"):
        find(2, source, "svm")
    binary = tmp_path / "mine.bin"
    binary.write_bytes(b"\xf4")
    guest = find(1, binary, "svm")
    values = validate_params(guest, {"word17": 5})
    assert struct.unpack_from("<Q", param_page(guest, values), 17 * 8) == (5,)
    with pytest.raises(GuestError, match="no such file"):
        find(2, tmp_path / "gone.S", "svm")


@pytest.mark.parametrize(
    "line",
    [
        "@param n 16 5 1 : text",
        "@param n 16 five 1 9 unit : text",
        "@param n 15 5 1 9 unit : text",
        "@param n 512 5 1 9 unit : text",
        "@param n 16 0 1 9 unit : text",
        "@param 1n 16 5 1 9 unit : text",
        "@param n 16 5 1 9 unit text",
        "@backend arm",
        "@nonsense x",
    ],
)
def test_a_wrong_description_names_file_and_line(tmp_path, line):
    source = tmp_path / "mine.S"
    source.write_text(f"# @title Mine\n# {line}\nnop\n")
    with pytest.raises(GuestError, match=r"mine\.S:2: "):
        read_guest(source, 2, "mine")


def test_a_wrong_memory_expression_is_an_error(tmp_path):
    source = tmp_path / "mine.S"
    for bad in ("4096 * pages", "__import__('os')", "2 ** 3", "1 +"):
        source.write_text(f"# @memory {bad}\nnop\n")
        with pytest.raises(GuestError, match="@memory"):
            read_guest(source, 2, "mine")


# ------------------------------------------------------------------ parameters


def test_defaults_are_filled_in():
    guest = find(2, "cpuid", "svm")
    assert validate_params(guest, {"work": 7.0}) == {"iterations": 5000, "work": 7, "leaf": 0}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"iteratoins": 5}, r"no parameter 'iteratoins'[\s\S]*iterations"),
        ({"iterations": 0}, r"cpuid.iterations = 0 is out of range[\s\S]*from 1 to 1000000000"),
        ({"iterations": -(1 << 70)}, "out of range"),
        ({"iterations": "many"}, "'many' is not a whole number"),
        ({"iterations": 1.5}, "not a whole number"),
        ({"iterations": float("nan")}, "not a whole number"),
        ({"iterations": None}, "not a whole number"),
    ],
)
def test_wrong_parameters_are_explained(given, words):
    with pytest.raises(GuestError, match=words):
        validate_params(find(2, "cpuid", "svm"), given)


def test_parameter_page():
    guest = find(2, "cpuid", "svm")
    page = param_page(guest, validate_params(guest, {"leaf": 7}), {0: 2, 3: -1})
    words = struct.unpack("<512Q", page)
    assert words[:4] == (2, 0, 0, (1 << 64) - 1)
    assert words[16:20] == (5000, 100, 7, 0)
    with pytest.raises(ValueError, match="word 16"):
        param_page(guest, guest.defaults, {16: 1})


def test_memory_needed():
    guest = find(2, "touch", "svm")
    values = validate_params(guest, {"pages": 10, "stride": 3})
    assert guest.memory_needed(values) == 0x200000 + 10 * 3 * 4096
    assert evaluate("2 + 3 * (n - 1) // 2", {"n": 5}) == 8


# ------------------------------------------------------------------ tables of operations


def test_mixed_table_is_what_the_weights_say_and_the_seed_decides_the_order():
    guest = find(2, "mixed", "svm")
    values = validate_params(guest, {"table_entries": 1000})
    ((address, table),) = guest.blobs(values, 5)
    assert address == mixed.TABLE_ADDRESS
    assert struct.unpack_from("<QQ", table) == (1000, 0)
    entries = list(struct.iter_unpack("<QQ", table[16:]))
    kinds = Counter(mixed.KINDS[kind] for kind, _ in entries)
    assert kinds == {"cpuid": 100, "rdmsr": 100, "wrmsr": 100, "in": 100, "out": 100,
                     "hypercall": 100, "touch": 300, "ctxsw": 50, "compute": 50}  # fmt: skip
    assert all(argument < 128 for kind, argument in entries if mixed.KINDS[kind] == "touch")
    assert guest.blobs(values, 5) == [(address, table)]
    assert guest.blobs(values, 6) != [(address, table)]
    assert find(2, "cpuid", "svm").blobs({}, 5) == []


def test_mixed_table_is_the_same_in_another_process():
    code = ("from workbench.guests.catalogue import *; import hashlib; g = find(2, 'mixed', 'svm');"
            "print(hashlib.sha256(g.blobs(g.defaults, 9)[0][1]).hexdigest())")  # fmt: skip
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


def test_shares_are_exact():
    draw = random.Random(2)
    for _ in range(200):
        weights = {k: draw.randrange(4) * draw.randrange(100) for k in mixed.GROUPS}
        entries = draw.randrange(1, 500)
        counts = mixed.apportion(weights, entries)
        assert sum(counts.values()) == entries
        total = sum(weights.values())
        for group in mixed.GROUPS:
            exact = entries * weights[group] / total if total else entries / len(mixed.GROUPS)
            assert abs(counts[group] - exact) < 1


def test_tables_have_limits():
    with pytest.raises(ValueError, match="operations"):
        mixed.pack_table([])
    with pytest.raises(ValueError, match="operations"):
        mixed.pack_table([("cpuid", 0)] * (mixed.MAX_ENTRIES + 1))
    assert mixed.TABLE_ADDRESS + len(mixed.pack_table([("cpuid", 0)] * mixed.MAX_ENTRIES)) \
        <= mixed.TABLE_LIMIT  # fmt: skip
