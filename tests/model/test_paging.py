"""Paging modes: the same L2-visible state in all of them, and what they cost."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.model.runs import BACKENDS, L2_PROGRAMS, SMALL, simulated
from workbench import features
from workbench.core.ledger import EVENTS, TIME_SCALE
from workbench.errors import GuestError
from workbench.panels.state import PanelState
from workbench.paths import data_dir
from workbench.scenario import Scenario
from workbench.simulate import Run, prepare, run

PROGRAM = Path(__file__).parent / "programs" / "paging.S"
MODES = features.catalogue()["paging"].values
SHADOWING = MODES[1:]
MEMORY_MB = 16


@cache
def outcome(backend: str, mode: str, l2: str, page_size: str, l1_page_size: str = "4k", toggle=()):
    """How L2 ended: L1's result, L2's RAX, its general registers, serial output, its memory."""
    prepare()
    scenario = Scenario(
        backend=backend, l1="shadow", l2=l2, l2_params=SMALL.get(l2, {}), l2_page_size=page_size,
        l2_memory_mb=MEMORY_MB, max_instructions=5_000_000,
        features={"paging": mode, "l1_page_size": l1_page_size, **dict([toggle] if toggle else [])},
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


def assert_same(backend: str, mode: str, *which) -> None:
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


@pytest.mark.parametrize("page_size", ["4k", "2m", "1g"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_l0s_shadow_of_a_guest_without_hypervisor_changes_nothing_for_it(backend, page_size):
    """Single-level: the processor walks the program's own tables, or L0's shadow of them. PCIDs are
    hidden by L0 with shadow paging."""
    prepare()
    ends = []
    for mode in ("non", "sos"):
        scenario = Scenario(
            backend=backend, l1="none", l2=str(PROGRAM), l2_params={"pcid": 0},
            l2_page_size=page_size, l2_memory_mb=MEMORY_MB, features={"paging": mode},
        )  # fmt: skip
        running = Run(scenario)
        while running.advance():
            pass
        machine = running.machine
        start = machine.bank_offset(1)
        memory = machine.ram[start : start + (MEMORY_MB << 20)].copy()
        ends.append((running.status, int(machine.record["cpu"]["gpr"][0, 0]), memory))
    assert ends[0][:2] == ends[1][:2]
    assert ends[0][0] == "halted"
    assert np.array_equal(ends[0][2], ends[1][2])


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


@pytest.mark.parametrize("mode", features.catalogue()["paging"].values)
@pytest.mark.parametrize("backend", BACKENDS)
def test_references_of_a_tlb_miss_are_24_with_two_dimensions_and_4_with_one(backend, mode):
    """4 KB pages on all levels, no walk caches.  son: L2's one table is L1's shadow, which L0's
    nested table translates; sos: L0's shadow alone."""
    plain = {"paging_structure_caches": False, "l0_page_size": "4k", "paging": mode}
    runs = [
        simulated(backend, "touch", {"pages": 3000, "passes": n}, l1="shadow",
                  numbers={"l2_page_size": "4k"}, **plain)
        for n in (2, 4)
    ]  # fmt: skip
    misses, guest, nested = (
        runs[1].raw.event(name) - runs[0].raw.event(name)
        for name in ("TLB_MISS", "WALK_REFERENCE_GUEST", "WALK_REFERENCE_NESTED")
    )
    assert misses > 3000
    assert (guest + nested) / misses == (4 if mode == "sos" else 24)


def _per_change(
    backend: str, mode: str, level: str, handler: str | None = None
) -> dict[str, float]:
    """Exits per page-table change of L2's in the steady state, by name."""
    runs = [
        simulated(backend, "remap", {"iterations": n, "pages": 8, "touches": 0}, l1="shadow",
                  paging=mode)
        for n in (64, 192)
    ]  # fmt: skip
    counts = []
    for result in runs:
        exits = result.exits[result.exits.from_level == level]
        if handler:
            exits = exits[exits.handled_by == handler]
        counts.append(exits.groupby("exit")["count"].sum().to_dict())
    names = counts[0].keys() | counts[1].keys()
    rates = {n: (counts[1].get(n, 0) - counts[0].get(n, 0)) / 128 for n in names}
    return {name: rate for name, rate in rates.items() if rate}


FAULT = {"svm": "EXCP_PF", "vmx": "EXCEPTION_NMI"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_page_table_change_of_l2_costs_nothing_nested_and_two_exits_shadowed(backend):
    assert _per_change(backend, "non", "L2") == {}
    for mode in SHADOWING:
        assert _per_change(backend, mode, "L2") == {"INVLPG": 1, FAULT[backend]: 1}
        assert _per_change(backend, mode, "L2", "L1") == {"INVLPG": 1, FAULT[backend]: 1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_l0_shadow_paging_l1s_two_table_writes_exit_and_are_emulated(backend):
    """INVLPG: L1 clears its entry; the page fault: L1 writes it.  The second one is entered into
    L0's shadow at once, so L2 does not fault again."""
    assert FAULT[backend] not in _per_change(backend, "son", "L1")
    assert _per_change(backend, "sos", "L1")[FAULT[backend]] == 2
    runs = [
        simulated(backend, "remap", {"iterations": n, "pages": 8, "touches": 0}, l1="shadow",
                  paging="sos")
        for n in (64, 192)
    ]  # fmt: skip
    for event in ("L0_GUEST_PTE_EMULATED", "L0_SHADOW_ENTRY_SYNCED"):
        assert runs[1].raw.event(event) - runs[0].raw.event(event) == 2 * 128
    allocated = [made.raw.event("L0_SHADOW_PAGE_ALLOCATED") for made in runs]
    assert allocated[0] == allocated[1] > 0


@pytest.mark.parametrize("l2", L2_PROGRAMS)
@pytest.mark.parametrize("mode", SHADOWING)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_holds_for_every_run_holds_with_shadow_paging(backend, mode, l2):
    result = simulated(backend, l2, l1="shadow", paging=mode)
    assert result.raw.event("HW_ENTRY") == result.raw.event("HW_EXIT")
    assert result.exits["count"].sum() == result.raw.event("HW_EXIT")
    facts = result.facts
    assert facts["virtual_entries"] == facts["virtual_exits"]
    guest = result.raw.event("L1_INSTRUCTION") + result.raw.event("L2_INSTRUCTION")
    assert guest == facts["l1_instructions"] + facts["l2_instructions"]
    prices = result.preset.kernel_prices()
    total = int((result.raw.counts @ prices[: result.raw.counts.shape[1]]).sum())
    assert round(facts["simulated_cycles"] * TIME_SCALE) == total
    if mode == "sos":
        assert result.raw.event("WALK_REFERENCE_NESTED") == 0
        assert result.raw.event("L0_NP2M_INSTALLED") == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_events_of_l0_shadow_paging_are_zero_without_it(backend):
    for mode in ("non", "son"):
        result = simulated(backend, "ctxsw", l1="shadow", paging=mode)
        for event in EVENTS:
            if "SHADOW_" in event or event in ("L0_GUEST_PTE_EMULATED", "L0_GUEST_WALK_REFERENCE"):
                assert result.raw.event(event) == 0


@pytest.mark.parametrize("feature", ["l2_tag_policy", "tlb_tagging", "paging_structure_caches"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tags_and_walk_caches_change_nothing_for_l2_under_shadow_paging(backend, feature):
    for value in features.catalogue()[feature].values_on(backend):
        assert_same(backend, "sos", str(PROGRAM), "4k", "4k", (feature, value))


def test_l0_with_shadow_paging_offers_l1_no_nested_paging(tmp_path):
    """CPUID 8000_000Ah EDX bit 0 on SVM; the secondary controls' EPT bit on VMX."""
    for backend, text in (("svm", CPUID_NP), ("vmx", CONTROL_EPT)):
        program = tmp_path / f"asks-{backend}.S"
        program.write_text(text)
        for mode, offered in (("non", 1), ("sos", 0)):
            scenario = Scenario(backend=backend, l1=str(program), features={"paging": mode})
            assert run(scenario).stop_code == offered


HEADER = "# @paging non son sos\n.intel_syntax noprefix\n.globl _start\n_start:\n"
CPUID_NP = (
    HEADER
    + """
        mov eax, 0x8000000a
        cpuid
        mov eax, edx
        and al, 1
        out 0xf4, al
"""
)
CONTROL_EPT = (
    HEADER
    + """
        mov ecx, 0x48b
        rdmsr
        mov eax, edx
        shr eax, 1
        and al, 1
        out 0xf4, al
"""
)


def test_a_vmcb12_with_nested_paging_all_the_same_is_invalid(tmp_path):
    """The minimal L1 sets NP_ENABLE whatever it is told: VMRUN exits with code -1."""
    program = tmp_path / "claims.S"
    text = (data_dir() / "guests" / "l1" / "minimal-svm.S").read_text()
    program.write_text("# @paging sos\n" + text)
    result = run(Scenario(l1=str(program), features={"paging": "sos"}))
    assert (result.status, result.stop_code) == ("stopped", 3), "an exit that it does not know"
    assert result.raw.event("L2_INSTRUCTION") == 0


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
