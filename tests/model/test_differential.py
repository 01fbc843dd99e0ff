"""However L0 and L1 work, L2 computes the same: registers, memory, output, retired instructions.

Every L2 program, and random ones, under a pairwise covering array of everything a scenario can vary:
L1 programs, L0's personality, all features of the catalogue, deviations that are no bugs for L2, tags,
host ticks, page sizes.  New features and programs are included by themselves.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.model.covering import Row, covering_rows
from tests.model.random_l2 import random_l2
from tests.model.runs import BACKENDS, SMALL
from workbench import features, personality
from workbench.errors import WorkbenchError
from workbench.guests import catalogue
from workbench.scenario import Scenario
from workbench.simulate import Run, build

NUMBERS = {
    "host_tick_cycles": (0, 20_000),
    "asids": (0, 4),
    "l2_page_size": ("2m", "4k"),
    "balloon_period": (200, 60),
}
PARAMS = ((), (("unmap_period", 25), ("unmap_pages", 3)))
"""Words of L1's parameter page, for programs that have them."""
TIMED = {"tick": "what it does depends on when its timer comes, and so on what everything costs"}
"""L2 programs whose end is not the same under every L0, and why."""
EXIT_OR_NOT = ("rates",)
"""Programs with instructions that L2 or, where they exit, a hypervisor for L2 executes."""
NEEDS: dict[str, Row] = {
    "mmio": {"l1": "kvm-6.12"},
    "window": {"l1": "kvm-87", "l1_params": (("apic_page", 1),), "features.apicv": True},
}
"""What must be so, on VMX, for an L2 program to work at all: devices that its L1 emulates."""
PROGRAMS = tuple(sorted({g.name for g in catalogue.l2_guests()} - set(TIMED)))
RANDOM_PROGRAMS = 24
SHARES = 8
"""A program is run under one row in so many."""
TAIL = 4000
"""Instructions at the end of a run in which L2's last HLT is looked for."""
ACCESSED_DIRTY = 0x60
CR0_PLACE, CR3_PLACE = 17, 18
CR0_WP = 1 << 16
KEPT, CHANGED = "as the L0 has it", "the other way"
FEW = {"np2m_tables": ("10", "1", "2")}


@cache
def columns(backend: str) -> dict[str, tuple]:
    """What can vary, and its values, the default first."""
    found: dict[str, tuple] = {"l0": ("xen", "kvm", "manual"), "l1_params": PARAMS, **NUMBERS}
    programs = [g.name for g in catalogue.l1_guests() if backend in g.backends]
    found["l1"] = ("minimal", *sorted(set(programs) - {"minimal"}))
    for f in features.applicable(backend):
        values = FEW.get(f.id, f.values_on(backend))
        found[f"features.{f.id}"] = tuple(sorted(values, key=lambda v, f=f: v != f.default_value))
    for deviation in personality.applicable(backend):
        found[f"deviations.{deviation.id}"] = (KEPT, CHANGED)
    return found


def scenario(backend: str, l2: str, row: Row) -> Scenario:
    """The scenario of a row; features at their defaults are left to the personality."""
    defaults = features.defaults(backend)
    given: dict[str, Any] = {}
    own = personality.resolve(row["l0"], backend, {})
    for name, value in row.items():
        kind, _, id_ = name.partition(".")
        if kind == "deviations" and value == CHANGED:
            given.setdefault("deviations", {})[id_] = not own[id_]
        elif not id_:
            given[name] = value
        elif kind == "features" and value != defaults[id_]:
            given.setdefault("features", {})[id_] = value
    given["l1_params"] = dict(given["l1_params"])
    return Scenario(
        backend=backend, l2=l2, l2_params=SMALL.get(l2, {}), l1_memory_mb=16, l2_memory_mb=16,
        max_instructions=20_000_000, **given,
    )  # fmt: skip


def possible(backend: str, row: Row) -> bool:
    if row["l1"] == "shadow" and not (
        row.get("features.decode_assists", True) and row.get("features.nrip_save", True)
    ):
        return False  # it needs both, and says so
    try:
        build(scenario(backend, "cpuid", row))
    except WorkbenchError:
        return False
    return True


@cache
def rows(backend: str) -> tuple[Row, ...]:
    every = columns(backend)
    default = {name: values[0] for name, values in every.items()}
    return tuple(covering_rows(every, default, lambda row: possible(backend, row)))


# ---------------------------------------------------------------- what L2 sees


def final_state(made: Scenario) -> dict[str, Any]:
    """L2's registers when it executed its last HLT, its memory, the output, its instructions."""
    whole = Run(made)
    while whole.advance():
        pass
    code = int(whole.machine.record["stop_code"][0])
    assert (whole.status, code) == ("stopped", 0), f"{whole.status} {code}: {made.to_dict()}"
    again = Run(made)
    m = again.machine.record
    while int(m["level"][0]) != 2:
        again.advance(1)
    found = [int(value) for value in m["cpu"]["gpr"][0, :16]]
    if whole.steps - TAIL > again.steps:
        again.advance(whole.steps - TAIL - again.steps)
    halts = _halts(made.l2, made.backend)
    registers = None
    while not again.status:
        if int(m["level"][0]) == 2 and int(m["cpu"]["rip"][0]) in halts:
            registers = _registers(m, found)
        again.advance(1)
    assert registers is not None, "L2's HLT is further from the end than expected"
    start = again.machine.bank_offset(2)
    length = int(m["serial_count"][0])
    return {
        "registers": registers,
        "cr0": registers[CR0_PLACE],
        "cr3": registers[CR3_PLACE],
        "memory": again.machine.ram[start : start + int(m["bank_size"][0, 2])].view(np.uint64),
        "serial": bytes(m["serial"][0, :length]),
        "l2_instructions": int(m["level_steps"][0, 2]),
    }


@cache
def _halts(l2: str, backend: str) -> frozenset[int]:
    program = catalogue.find(2, l2, backend).image()
    return frozenset(line.address for line in program.listing if line.mnemonic == "hlt")


def _registers(m: Any, found: list[int]) -> tuple:
    """``found``: general registers as L1 has left them; None: still the same, perhaps untouched."""
    c = m["cpu"]
    general = zip((int(now) for now in c["gpr"][0, :16]), found, strict=True)
    return (
        *(now if now != old else None for now, old in general), int(c["rip"][0]), int(c["cr0"][0]),
        int(c["cr3"][0]), int(c["cr2"][0]), int(c["sysflags"][0]), int(c["lf_zero"][0]) == 0,
        int(c["lf_carry"][0]) < 0, int(c["cpl"][0]), tuple(int(s) for s in c["seg_sel"][0][:6]),
    )  # fmt: skip


def _with_shadow_paging(registers: tuple) -> tuple:
    """What does not depend on who shadows: CR3 may be a shadow's root, CR0.WP is always set then."""
    known = list(registers)
    known[CR0_PLACE] |= CR0_WP
    known[CR3_PLACE] = 0
    return tuple(known)


@cache
def reference(backend: str, l2: str, l1: str) -> dict[str, Any]:
    """What L2 comes to under this L1 with everything else at its default, or as it needs it."""
    default = {name: values[0] for name, values in columns(backend).items()} | {"l1": l1}
    default |= NEEDS.get(l2, {})
    if not possible(backend, default):  # a program that shadows L2's tables
        default["features.paging"] = "son"
    state = final_state(scenario(backend, l2, default))
    return {**state, "registers": _with_shadow_paging(state["registers"])}


def compare(backend: str, l2: str, row: Row) -> None:
    expected = reference(backend, l2, row["l1"])
    default = {name: values[0] for name, values in columns(backend).items()}
    changed = {name: value for name, value in row.items() if value != default[name]}
    state = final_state(scenario(backend, l2, row))
    registers = zip(_with_shadow_paging(state["registers"]), expected["registers"], strict=True)
    known = [pair for pair in registers if None not in pair]
    assert all(now == then for now, then in known), (
        f"registers {[k for k in known if k[0] != k[1]]} under {changed}"
    )
    assert state["serial"] == expected["serial"], f"output under {changed}"
    if row["features.paging"] == "non":  # else L1 or L0 executes L2's INVLPG and MOV CR3
        plain = reference(backend, l2, NEEDS.get(l2, default)["l1"])
        for name in ("cr0", "cr3"):
            assert state[name] == plain[name], f"{name} under {changed}"
        same = state["l2_instructions"] == plain["l2_instructions"]
        assert same or l2 in EXIT_OR_NOT or "/" in l2, f"instructions under {changed}"
    different = state["memory"] ^ expected["memory"]
    if row["l2_page_size"] == default["l2_page_size"]:
        wrong = np.nonzero(different & np.uint64(~ACCESSED_DIRTY & (1 << 64) - 1))[0]
        assert not len(wrong), (
            f"memory at {8 * int(wrong[0]):#x}: {int(state['memory'][wrong[0]]):#x}, not "
            f"{int(expected['memory'][wrong[0]]):#x}, under {changed}"
        )


def rows_for(backend: str, l2: str) -> list[Row]:
    """The rows, with what this program needs."""
    needs = NEEDS.get(l2, {})
    if needs and backend == "svm":
        return []
    return [{**row, **needs} for row in rows(backend) if possible(backend, {**row, **needs})]


CASES = [(b, p) for b in BACKENDS for p in PROGRAMS if b == "vmx" or p not in NEEDS]


def test_every_pair_of_values_meets_in_a_row():
    for backend in BACKENDS:
        values = {(name, v) for name, vs in columns(backend).items() for v in vs}
        seen = {item for row in rows(backend) for item in row.items()}
        assert values - seen == set(), "values that no scenario can have"


@pytest.mark.parametrize(("backend", "l2"), CASES)
def test_l2_ends_in_the_same_state(backend, l2):
    """A share of the rows for every program, with every paging mode that it can have."""
    every = rows_for(backend, l2)
    modes = {row["features.paging"]: row for row in reversed(every)}
    share = every[PROGRAMS.index(l2) % SHARES :: SHARES]
    assert len(share) >= 2 and "non" in modes
    for row in [*share, *(r for r in modes.values() if r not in share)]:
        compare(backend, l2, row)


def test_every_program_is_compared_or_says_why_not():
    assert set(PROGRAMS) | set(TIMED) == {g.name for g in catalogue.l2_guests()}
    for backend in BACKENDS:
        every = {g.name for g in catalogue.l1_guests() if backend in g.backends}
        assert {row["l1"] for row in rows(backend)} == every


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_random_l2_ends_in_the_same_state(backend, tmp_path):
    """A few rows with every paging mode among them."""
    path = tmp_path / "random.S"
    path.write_text(random_l2(0))
    modes = {row["features.paging"]: row for row in reversed(rows(backend))}
    assert set(modes) == {"non", "son", "sos"}
    for row in modes.values():
        compare(backend, str(path), row)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(RANDOM_PROGRAMS))
def test_random_l2s_end_in_the_same_state(backend, seed, tmp_path):
    """A share of the rows for every program, all of them together."""
    path = tmp_path / "random.S"
    path.write_text(random_l2(seed))
    for row in rows(backend)[seed % SHARES :: SHARES]:
        compare(backend, str(path), row)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "l2"), CASES)
def test_l2_ends_in_the_same_state_under_every_row(backend, l2):
    for row in rows_for(backend, l2):
        compare(backend, l2, row)
