"""What holds for every run: exits add up, time is counts at prices, the same again every time."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.model.runs import BACKENDS, L2_PROGRAMS, SMALL, count, simulated
from workbench import features
from workbench.core.ledger import CAUSES, TIME_SCALE
from workbench.scenario import Scenario
from workbench.simulate import run


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l2", L2_PROGRAMS)
def test_every_exit_is_handled_by_l0_or_l1(backend, l2):
    result = simulated(backend, l2)
    exits = result.exits
    assert exits["count"].sum() == count(result, "HW_EXIT")
    from_l2 = exits[exits.from_level == "L2"]
    assert set(exits[exits.from_level == "L1"].handled_by) == {"L0"}
    assert from_l2[from_l2.handled_by == "L1"]["count"].sum() == result.facts["virtual_exits"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l2", L2_PROGRAMS)
def test_entries_equal_exits(backend, l2):
    result = simulated(backend, l2)
    # the first entry starts L1; the last exit is the one that stops the machine
    assert count(result, "HW_ENTRY") == count(result, "HW_EXIT")
    entries, exits = result.facts["virtual_entries"], result.facts["virtual_exits"]
    assert entries == exits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l2", L2_PROGRAMS)
def test_time_is_counts_at_prices(backend, l2):
    result = simulated(backend, l2)
    prices = result.preset.kernel_prices()
    total = int((result.raw.counts @ prices[: result.raw.counts.shape[1]]).sum())
    assert round(result.facts["simulated_cycles"] * TIME_SCALE) == total
    assert result.cycles == pytest.approx(total / TIME_SCALE, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l2", L2_PROGRAMS)
def test_every_access_hits_or_misses_and_instructions_add_up(backend, l2):
    result = simulated(backend, l2)
    guest = count(result, "L1_INSTRUCTION") + count(result, "L2_INSTRUCTION")
    assert guest == result.facts["l1_instructions"] + result.facts["l2_instructions"]
    misses = count(result, "TLB_MISS")
    assert 0 < misses < count(result, "TLB1_HIT") + count(result, "TLB2_HIT") + misses


@pytest.mark.parametrize("backend", BACKENDS)
def test_events_of_a_feature_that_is_off_are_zero(backend):
    result = simulated(backend, "mixed")
    for event in (
        "VMREAD_SHADOWED", "VMWRITE_SHADOWED", "GIF_VIRTUALIZED", "VMLOAD_VIRTUALIZED",
        "VMSAVE_VIRTUALIZED", "PAUSE_FILTERED", "VMCB_GROUP_KEPT",
    ):  # fmt: skip
        assert count(result, event) == 0
    off = simulated(backend, "mixed", paging_structure_caches=False)
    assert count(off, "PSC_HIT") == 0 == count(off, "NESTED_TLB_HIT")
    untagged = simulated(backend, "mixed", tlb_tagging=False)
    assert count(untagged, "L0_TAG_ALLOCATED") == 0


def test_an_unknown_instruction_names_itself(tmp_path):
    program = tmp_path / "sse.S"
    program.write_text(".intel_syntax noprefix\n.globl _start\n_start: movaps xmm0, xmm1\n hlt\n")
    result = run(Scenario(l2=str(program)))
    assert result.facts["unknown_count"] == 1
    assert result.facts["unknown"] == "movaps xmm0,xmm1 (bytes 0f 28 c1) at 0x100000"
    assert result.stop_code == 2, "#UD without an IDT shuts L2 down"


ENDLESS = """
.intel_syntax noprefix
.globl _start
_start: lidt [pointer]
        mov qword ptr [0x7024], 0x80000     # IST 1 in the TSS
        ud2
handler: ud2
.data
.balign 16
idt:    .skip 6 * 16
        .word handler - _start
        .word 8
        .byte 1, 0x8e
        .word 0x10
        .long 0, 0
pointer: .word 7 * 16 - 1
        .quad idt
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_guest_that_only_faults_ends_at_the_limit(tmp_path, backend):
    """A #UD handler whose first instruction is #UD again, on a stack of its own (IST 1)."""
    program = tmp_path / "endless.S"
    program.write_text(ENDLESS)
    result = run(Scenario(backend=backend, l2=str(program), max_instructions=50_000))
    assert result.status == "limit"
    assert result.facts["l2_instructions"] == 2, "LIDT and MOV; no UD2 ever completes"


@pytest.mark.parametrize("backend", BACKENDS)
def test_boot_is_kept_apart_from_service(backend):
    result = simulated(backend, "cpuid")
    run_row = result.raw.counts[CAUSES.index("RUN")]
    assert run_row.sum() > 0
    assert count(result, "L1_INSTRUCTION", "RUN") == 0, "L1 only works when it serves an exit"
    assert count(result, "L2_INSTRUCTION", "BOOT") == 0


FINGERPRINT = """
import json, sys
from workbench.scenario import Scenario
from workbench.simulate import run
print(json.dumps({b: run(Scenario(backend=b, l2="mixed", l2_params=json.loads(sys.argv[1]), seed=7))
      .fingerprint() for b in ("svm", "vmx")}))
"""


def test_the_same_scenario_gives_the_same_counts_in_another_process():
    arguments = [sys.executable, "-c", FINGERPRINT, json.dumps(SMALL["mixed"])]
    first, second = (
        json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
        for _ in range(2)
    )
    assert first == second
    assert first["svm"] != first["vmx"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_l2_ends_in_the_same_state_whatever_the_features(backend):
    """L2's result (RAX at its end, kept in L1's RBX) must not depend on how L0 works."""
    outcomes = set()
    for feature in features.applicable(backend):
        for value in feature.values_on(backend):
            l1 = "shadow" if feature.id == "paging" else "minimal"
            result = simulated(backend, "touch", l1=l1, **{feature.id: value})
            outcomes.add((result.facts["l2_instructions"], result.stop_code))
    assert len(outcomes) == 1
    assert np.all(simulated(backend, "touch").raw.counts >= 0)
