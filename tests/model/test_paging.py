"""Paging modes: the same L2-visible state in all of them, and what they cost."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.model.runs import BACKENDS, L2_PROGRAMS, SMALL, simulated
from workbench import features
from workbench.errors import GuestError
from workbench.panels.state import PanelState
from workbench.scenario import Scenario
from workbench.simulate import Run, prepare

PROGRAM = Path(__file__).parent / "programs" / "paging.S"
MODES = features.catalogue()["paging"].values
SHADOWING = MODES[1:]
MEMORY_MB = 16


@cache
def outcome(backend: str, mode: str, l2: str, page_size: str, l1_page_size: str = "4k"):
    """How L2 ended: L1's result, L2's RAX, its general registers, serial output, its memory."""
    prepare()
    scenario = Scenario(
        backend=backend, l1="shadow", l2=l2, l2_params=SMALL.get(l2, {}), l2_page_size=page_size,
        l2_memory_mb=MEMORY_MB, max_instructions=5_000_000,
        features={"paging": mode, "l1_page_size": l1_page_size},
    )  # fmt: skip
    running = Run(scenario)
    while running.advance():
        pass
    machine = running.machine
    record = machine.record
    start = machine.bank_offset(2)
    memory = machine.ram[start : start + (MEMORY_MB << 20)].copy()
    end = (running.status, int(record["stop_code"][0]), int(record["cpu"]["gpr"][0, 3]))
    serial = record["serial"][0, : int(record["serial_count"][0])].tobytes()
    return end, serial, memory


def assert_same(backend: str, mode: str, *which: str) -> None:
    expected, got = outcome(backend, "non", *which), outcome(backend, mode, *which)
    assert got[:2] == expected[:2]
    different = np.nonzero(expected[2] != got[2])[0]
    assert not len(different), f"L2's memory differs at {different[0]:#x} and elsewhere"


@pytest.mark.parametrize("page_size", ["4k", "2m", "1g"])
@pytest.mark.parametrize("mode", SHADOWING)
@pytest.mark.parametrize("backend", BACKENDS)
def test_everything_page_tables_can_do_comes_out_the_same(backend, mode, page_size):
    end = outcome(backend, "non", str(PROGRAM), page_size)[0]
    assert end[:2] == ("stopped", 0), "the program runs to its end"
    assert_same(backend, mode, str(PROGRAM), page_size)


@pytest.mark.parametrize("l1_page_size", ["2m", "1g"])
@pytest.mark.parametrize("mode", SHADOWING)
@pytest.mark.parametrize("backend", BACKENDS)
def test_large_pages_of_l1_change_nothing_for_l2(backend, mode, l1_page_size):
    assert_same(backend, mode, str(PROGRAM), "2m", l1_page_size)


@pytest.mark.parametrize("l2", L2_PROGRAMS)
@pytest.mark.parametrize("mode", SHADOWING)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_l2_program_ends_in_the_same_state(backend, mode, l2):
    assert_same(backend, mode, l2, "2m")


def _exits(result, name: str) -> int:
    exits = result.exits
    chosen = exits[(exits.from_level == "L2") & (exits.exit == name)]
    return int(chosen[chosen.handled_by == "L1"]["count"].sum())


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_shadow_paging_l2s_cr3_loads_and_page_faults_exit(backend):
    switches = 30
    params = {"switches": switches, "spaces": 1, "pages": 4}
    nested = simulated(backend, "ctxsw", params, l1="shadow")
    shadow = simulated(backend, "ctxsw", params, l1="shadow", paging="son")
    if backend == "svm":
        assert _exits(shadow, "CR3_WRITE") == switches
        faults = "EXCP_PF"
    else:
        assert _exits(shadow, "CR_ACCESS") == switches + 1, "and one read"
        faults = "EXCEPTION_NMI"
    # each switch drops the shadow: code, parameter page and 4 pages fault again
    twice = simulated(backend, "ctxsw", {**params, "switches": 2 * switches}, l1="shadow",
                      paging="son")  # fmt: skip
    assert _exits(twice, faults) - _exits(shadow, faults) == switches * 6
    assert _exits(nested, faults) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_walks_get_shorter_by_one_dimension(backend):
    """A TLB miss of L2: 24 references nested on nested with 4 KB pages throughout, and in son too:
    its one table, L1's shadow, is itself translated by L0's."""
    plain = {"paging_structure_caches": False, "l0_page_size": "4k"}
    numbers = {"l2_page_size": "4k"}
    params = {"pages": 3000, "passes": 2}
    for mode in ("non", "son"):
        runs = [
            simulated(backend, "touch", {**params, "passes": n}, l1="shadow", numbers=numbers,
                      paging=mode, **plain)
            for n in (2, 4)
        ]  # fmt: skip
        misses, references = (
            [int(r.raw.event(name)) for r in runs] for name in ("TLB_MISS", "WALK_REFERENCE_GUEST")
        )
        nested = [int(r.raw.event("WALK_REFERENCE_NESTED")) for r in runs]
        per_miss = (references[1] + nested[1] - references[0] - nested[0]) / (misses[1] - misses[0])
        assert per_miss == 24


def test_a_paging_mode_needs_an_l1_that_knows_it():
    with pytest.raises(GuestError, match="paging=son") as problem:
        Scenario(features={"paging": "son"})
    assert "l1='shadow'" in problem.value.hint


def test_the_panel_keeps_paging_mode_and_l1_together():
    state = PanelState()
    state.set_feature("paging", "son")
    assert (state.scenario.l1, state.scenario.all_features["paging"]) == ("shadow", "son")
    state.set_guest(1, "minimal")
    assert state.scenario.all_features["paging"] == "non"
