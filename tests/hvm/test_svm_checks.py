"""Consistency checks of VMRUN: which ones a damaged VMCB fails, and how an engineer learns of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.runs import simulated
from tests.oracle import svm as oracle
from tests.oracle import svm_checks as twin
from tests.oracle.svm_machine import VMCB12, SvmMachine
from workbench.arch import svm
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.paths import data_dir
from workbench.scenario import Scenario
from workbench.simulate import run

VMCB01, VMCB02 = memory_map.VMCX01_MA, memory_map.VMCX02_MA
CHECKED_FIELDS = sorted(
    {name for row in rows("svm_vmrun_checks") for name in row["fields"].split()}
)


@pytest.fixture(scope="module")
def machine() -> SvmMachine:
    return SvmMachine()


def faults(machine: SvmMachine, page: bytes) -> set[str]:
    """Names of the checks that the kernel finds broken."""
    machine.write(VMCB02, bytes(page))
    found = machine.call("svm_vmcb_faults", int(machine.m["ram"][0]) + VMCB02)
    return {name for number, name in svm.VMRUN_CHECKS.items() if found >> number & 1}


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, int, bool]:
    """A field of the checks, and bits to flip in it or a value to put there."""
    name = draw(st.sampled_from(CHECKED_FIELDS))
    width = 8 * oracle.VMCB_FIELDS[name][1]
    if draw(st.booleans()):
        return name, 1 << draw(st.integers(0, width - 1)), True
    return name, draw(st.integers(0, (1 << width) - 1)), False


@settings(max_examples=600, deadline=None)
@given(damages=st.lists(damage(), max_size=2))
def test_a_damaged_vmcb_breaks_the_rules_that_the_oracle_names(machine, damages):
    page = machine.good_vmcb12()
    for name, value, flip in damages:
        oracle.put(page, name, oracle.get(page, name) ^ value if flip else value)
    assert faults(machine, page) == twin.broken(bytes(page))


def test_a_good_vmcb_breaks_none_and_each_rule_can_be_broken_alone(machine):
    assert faults(machine, machine.good_vmcb12()) == set() == twin.broken(machine.good_vmcb12())
    seen = set()
    for name in CHECKED_FIELDS:
        width = 8 * oracle.VMCB_FIELDS[name][1]
        values = [oracle.get(machine.good_vmcb12(), name) ^ 1 << n for n in range(width)]
        values += [0, 1 << 31 | 1 << 8, 1 << 31 | 3 << 8 | 2]
        for value in values:
            page = machine.good_vmcb12()
            oracle.put(page, name, value)
            broken = faults(machine, page)
            if len(broken) == 1:
                seen |= broken
    # long mode is what makes the state 64-bit mode: CS.D breaks two rules at once
    assert seen == set(svm.VMRUN_CHECKS.values()) - {"CS_L_D"}


def test_every_check_has_a_message_a_section_and_a_number_of_its_own():
    table = rows("svm_vmrun_checks")
    assert [int(row["number"]) for row in table] == list(range(1, len(table) + 1))
    texts = [svm.check_text(int(row["number"])) for row in table]
    assert len(set(texts)) == len(texts)
    assert svm.check_text(1) == "SVME: EFER.SVME is clear (APM vol. 2, 15.5.1)"
    assert all("APM vol. 2, 15." in text for text in texts[:-1])
    assert svm.check_text(0) == ""


def test_l0_leaves_the_number_of_the_check_that_failed(machine):
    for number, name in ((15, "asid"), (12, "intercept_word4"), (1, "efer")):
        damaged = machine.good_vmcb12()
        oracle.put(damaged, name, 0)
        assert machine.start_vmrun(damaged) == 1
        assert machine.m["check"][0] == number
        assert machine.m["exit"]["code"][0] == -1
        machine.call("svm_exit_n2")
        machine.call("svm_hw_enter")


def test_a_vmcb01_that_fails_names_its_check():
    machine = SvmMachine()
    page = bytearray(machine.page(VMCB01))
    oracle.put(page, "cr4", 0)
    machine.write(VMCB01, bytes(page))
    assert machine.call("svm_hw_enter") == -1
    assert machine.m["check"][0] == 9
    assert machine.field(VMCB01, "exit_code") == (1 << 64) - 1


def test_a_wrong_claim_of_being_unchanged_is_an_invalid_opcode_for_l1():
    """vmcb12 is sound, but L1 calls a segment unchanged that was not: vmcb02 still has the old one."""
    machine = SvmMachine(vmcb_clean_bits=1)
    bad = machine.good_vmcb12()
    oracle.put(bad, "cs", 8 | 0xC9B << 16 | 0xFFFFFFFF << 32)
    assert machine.start_vmrun(bad) == 1
    machine.call("svm_exit_n2")
    machine.state["vmexit_pending"] = 0
    machine.call("svm_hw_enter")
    good = machine.good_vmcb12()
    oracle.put(good, "clean", 1 << 8)
    rip = int(machine.m["cpu"]["rip"][0])
    assert machine.start_vmrun(good) == 1
    assert (machine.state["vmexit_pending"], machine.state["n2_guest"]) == (0, 0)
    assert machine.field(VMCB01, "event_inj") == 1 << 31 | 3 << 8 | 6
    assert machine.field(VMCB01, "rip") == rip
    assert machine.call("svm_hw_enter") == layout.ST_FAULT
    assert oracle.get(machine.page(machine.l1(VMCB12)), "clean") == 1 << 8


def test_result_and_timeline_say_which_check_failed(tmp_path):
    text = (minimal_program()).replace("call    build_vmcb\n", DAMAGED, 1)
    path = tmp_path / "damaged.S"
    path.write_text(text)
    result = run(Scenario(l1=str(path), l2="cpuid", timeline=4000))
    assert result.stop_code == 3, "L1 minimal does not expect exit code INVALID"
    text = "VMRUN_INTERCEPT: the VMRUN intercept is clear (APM vol. 2, 15.5.1)"
    assert (result.facts["refused_entries"], result.facts["refused_by"]) == (1, text)
    assert list(result.timeline[result.timeline.kind == "entry_refused"].reason) == [
        "VMRUN_INTERCEPT"
    ]
    assert list(result.timeline[result.timeline.kind == "virtual_exit"].reason) == ["INVALID"]
    sound = simulated("svm").facts
    assert (sound["refused_entries"], sound["refused_by"]) == (0, "")


DAMAGED = """call    build_vmcb
        and     dword ptr [vmcb + VMCB_INTERCEPT_WORD4], ~INTERCEPT_VMRUN
"""


def minimal_program() -> str:
    """The text of L1 minimal."""
    return (data_dir() / "guests/l1/minimal-svm.S").read_text()
