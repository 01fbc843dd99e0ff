"""L2 programs on an independent processor (unicorn), natively: they do what they say and end."""

from __future__ import annotations

from collections import Counter

import pytest
from unicorn_machine import MEMORY, BareMachine

from workbench.guests.catalogue import find, param_page, validate_params

LCG = (6364136223846793005, 1442695040888963407)
MASK64 = (1 << 64) - 1


def run(name: str, kind: int = 1, seed: int = 0, **given: int) -> BareMachine:
    guest = find(2, name, "svm")
    values = validate_params(guest, given)
    assert guest.memory_needed(values) <= MEMORY
    page = param_page(guest, values, {0: kind, 1: MEMORY, 2: 21})
    machine = BareMachine(guest.image(), page, guest.blobs(values, seed))
    machine.msrs = {}
    machine.on_special = _special
    return machine.run()


def _special(machine, mnemonic, insn):
    if mnemonic == "rdmsr":
        value = machine.msrs.get(machine["rcx"], 0x1_0000_0002)
        machine["rax"], machine["rdx"] = value & 0xFFFFFFFF, value >> 32
    elif mnemonic == "wrmsr":
        machine.msrs[machine["rcx"]] = machine["rdx"] << 32 | machine["rax"]
    elif mnemonic in ("vmmcall", "vmcall"):
        machine["rax"] = 0


def test_cpuid_makes_as_many_as_asked():
    machine = run("cpuid", iterations=37, work=0)
    assert Counter(machine.specials) == {"cpuid": 37, "hlt": 1}
    assert machine["rax"] == 37


@pytest.mark.parametrize("work", [0, 1, 2, 100])
def test_work_adds_that_many_instructions(work):
    counts = []
    for iterations in (10, 110):
        guest = find(2, "cpuid", "svm")
        values = validate_params(guest, {"iterations": iterations, "work": work})
        machine = BareMachine(guest.image(), param_page(guest, values))
        steps = []
        machine.uc.hook_add(4, lambda *_, steps=steps: steps.append(1))  # UC_HOOK_CODE
        machine.run()
        counts.append(len(steps))
    per_operation = (counts[1] - counts[0]) / 100
    assert per_operation - 7 == work // 2 * 2  # 7: the loop itself with its CPUID


@pytest.mark.parametrize("percent", [0, 1, 30, 50, 99, 100])
@pytest.mark.parametrize(
    ("name", "read", "write"), [("msr", "rdmsr", "wrmsr"), ("pio", "in", "out")]
)
def test_write_percent_is_met_exactly(name, read, write, percent):
    machine = run(name, iterations=200, work=0, write_percent=percent)
    made = Counter(machine.specials)
    assert made[write] == 2 * percent == machine["rax"]
    assert made[read] == 200 - 2 * percent + (name == "msr")  # msr reads the value once before


@pytest.mark.parametrize(
    ("accesses", "made"), [(0, 0), (1, 2), (70, 140), (100, 200), (1250, 2500)]
)
def test_rates_are_met_exactly(accesses, made):
    machine = run("rates", iterations=200, work=10, accesses=accesses)
    counts = Counter(machine.specials)
    assert counts["cpuid"] == 200 and counts["rdmsr"] == made == machine["rax"]


def test_msr_writes_put_the_value_back():
    machine = run("msr", iterations=10, write_percent=100, msr=0x4B564D00)
    assert machine.msrs == {0x4B564D00: 0x1_0000_0002}


@pytest.mark.parametrize(("kind", "instruction"), [(1, "vmmcall"), (2, "vmcall")])
def test_hypercall_uses_the_instruction_of_the_vendor(kind, instruction):
    machine = run("hypercall", kind=kind, iterations=20, greeting=0)
    assert Counter(machine.specials) == {instruction: 20, "hlt": 1}
    assert machine["rax"] == 0


def test_hypercall_greets():
    assert run("hypercall", iterations=1).specials.count("vmmcall") == 15


@pytest.mark.parametrize("stride", [1, 3])
def test_touch_strided_reads_every_page_in_every_pass(stride):
    machine = run("touch", pages=20, passes=7, stride=stride)
    assert machine["rax"] == 7 * sum(range(20))


def test_touch_random_reads_the_pages_its_generator_draws():
    machine = run("touch", pages=20, passes=7, pattern=1)
    state, expected = 1, 0
    for _ in range(140):
        state = (state * LCG[0] + LCG[1]) & MASK64
        expected += (state >> 32) * 20 >> 32
    assert machine["rax"] == expected


@pytest.mark.parametrize(("spaces", "pages"), [(1, 1), (3, 5), (8, 16), (2, 512)])
def test_ctxsw_gives_every_space_pages_of_its_own(spaces, pages):
    switches = 4 * spaces + 1
    machine = run("ctxsw", spaces=spaces, pages=pages, switches=switches)
    assert machine["rax"] == 5  # the first space, touched for the fifth time
    stride = (4 + pages) * 4096
    for space in range(spaces):
        for page in (0, pages - 1):
            count = machine.word(0x200000 + space * stride + (4 + page) * 4096)
            assert count == (5 if space == 0 else 4)


@pytest.mark.parametrize(("pages", "changes"), [(1, 0), (30, 250_000), (1100, 1_000_000)])
def test_workset_touches_the_pages_it_draws_in_the_frames_it_maps(pages, changes):
    machine = run("workset", pages=pages, accesses=400, changes=changes, work=0, cpuid=20_000)
    assert machine.specials.count("cpuid") == 400 * 20_000 // 1_000_000
    # frames by their numbers: 0 is the spare one, page i starts in 1 + i
    frame, spare, due, made = list(range(1, pages + 1)), 0, 0, 0
    count = [0] + [1] * pages
    state = 1
    for _ in range(400):
        state = (state * LCG[0] + LCG[1]) & MASK64
        page = (state >> 32) * pages >> 32
        due += changes
        if due >= 1_000_000:
            due -= 1_000_000
            made += 1
            frame[page], spare = spare, frame[page]
        count[frame[page]] += 1
    assert machine["rax"] == made
    first = 0x203000 + 16 * 4096
    assert [machine.word(first + 4096 * n) for n in range(pages + 1)] == count
    entries = [machine.word(0x203000 + 8 * n) & ~0xFFF for n in range(pages)]
    assert entries == [first + 4096 * n for n in frame]


def test_compute_agrees_with_the_same_loop_in_python():
    machine = run("compute", iterations=2000, pages=3)
    mask, data = 2 * 4096 - 8, {}
    state, total = 1, 0
    for _ in range(2000):
        state = (state * LCG[0] + LCG[1]) & MASK64
        place = state >> 33 & mask
        data[place] = data.get(place, 0) ^ state
        if data[place] & 0x10000:
            total = (total + data[place]) & MASK64
    assert machine["rax"] == total
    assert machine.specials == ["hlt"]


def test_spin_works_between_its_waits():
    machine = run("spin", iterations=7, pauses=5, work=11)
    assert machine["rax"] == 77
    assert machine.specials == ["hlt"]


def test_mixed_replays_its_table():
    machine = run("mixed", iterations=2048, table_entries=1024, work=0, seed=3)
    made = Counter(machine.specials)
    # weights 10 20 20 10 30 5 5; two rounds through the table
    assert made["cpuid"] == pytest.approx(204.8, abs=2)
    assert made["vmmcall"] == pytest.approx(204.8, abs=2)
    for access in ("rdmsr", "wrmsr", "in", "out"):
        assert made[access] == pytest.approx(204.8, abs=4)
    assert made["mov"] == pytest.approx(102.4, abs=2)  # MOV to CR3
    touched = sum(machine.word(0x200000 + 4096 * i) for i in range(128))
    assert touched == pytest.approx(614.4, abs=2)
    assert machine["rax"] == 2048


@pytest.mark.parametrize(
    "weight", ["cpuid", "msr", "pio", "hypercall", "touch", "ctxsw", "compute"]
)
def test_mixed_runs_with_one_kind_alone(weight):
    kinds = ("cpuid", "msr", "pio", "hypercall", "touch", "ctxsw", "compute")
    weights = {f"weight_{k}": int(k == weight) for k in kinds}
    assert run("mixed", iterations=50, **weights)["rax"] == 50
