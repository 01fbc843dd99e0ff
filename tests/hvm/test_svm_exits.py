"""Every exit code of the manual, row by row of svm_exit_reach.csv: L2 runs into it under a real L1."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.oracle import svm as oracle
from tests.oracle.svm_machine import SvmMachine
from workbench.arch import svm
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.guests.assembler import assemble
from workbench.scenario import Scenario
from workbench.simulate import Run

PROBE = Path(__file__).parent / "programs" / "probe-svm.S"
REACH = {row["name"]: row for row in rows("svm_exit_reach")}
INTERCEPT = {"IOIO": "IOIO_PROT", "MSR": "MSR_PROT", "SHUTDOWN": "SHUTDOWN_EVT",
             "MWAIT_COND": "MWAIT_CONDITIONAL", "BUSLOCK": "BUS_LOCK"}  # fmt: skip
V_IRQ_ALWAYS = 1 << 8 | 1 << 20
DATA = """
        .data
        .balign 16
        .word   0
no_idt: .word   0
        .quad   0
        .balign 16
ist_idt: .word  0xfff
        .quad   idt
        .balign 16
idt:    .skip   6*16
        .word   handler - _start, 8
        .byte   1, 0x8e
        .word   0x10
        .quad   0
        .skip   9*16
"""


def l2_text() -> str:
    """One L2 program with a label per row; the last instruction of a row is what exits."""
    lines = [".intel_syntax noprefix", ".text", ".globl _start", "_start:", "handler: hlt"]
    for place, row in enumerate(REACH.values()):
        *before, last = [part.strip() for part in row["code"].split(";")]
        lines += [f".balign 16\nrow{place}:", *before, f"at{place}: {last}", f"after{place}: hlt"]
    return "\n".join(lines) + DATA


@cache
def l2_image():
    return assemble(l2_text(), "rows.S")


@pytest.fixture(scope="module")
def l2_path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("rows") / "rows.S"
    path.write_text(l2_text())
    return str(path)


def symbol(name: str, place: int) -> int:
    return l2_image().symbols[f"{name}{place}"]


def intercepts(name: str) -> dict[str, int]:
    """The intercept words that make L2 leave for ``name``, as parameters of the probe."""
    for row in rows("svm_intercepts"):
        if row["name"] == INTERCEPT.get(name, name):
            return {f"word{row['word']}": 1 << int(row["bit"])}
    return {}


def probe(l2: str, name: str, place: int, l0_words=(), **features) -> tuple[bytes, Run]:
    """L2's first exit that L1 sees: L1's VMCB, and the run.  ``l0_words`` of L0's are cleared."""
    parameters = {**intercepts(name), "entry": symbol("row", place)}
    if name == "VINTR":
        parameters["int_ctl"] = V_IRQ_ALWAYS
    scenario = Scenario(
        backend="svm", l1=str(PROBE), l1_params=parameters, l2=l2, features=features,
        timeline=2000, max_instructions=20_000, l0="manual" if name in ONLY_MANUAL else "xen",
    )  # fmt: skip
    running = Run(scenario)
    for word in l0_words:
        at = memory_map.VMCX01_MA + 4 * word
        running.machine.ram[at : at + 4] = 0
    while running.advance():
        pass
    from workbench.guests import catalogue

    start = running.machine.bank_offset(1)
    start += catalogue.find(1, str(PROBE), "svm").image().symbols["vmcb"]
    return bytes(running.machine.ram[start : start + 4096]), running


def test_the_table_has_a_row_for_each_code_and_a_reason_for_each_that_is_missing():
    names = [row["name"].removeprefix("VMEXIT_") for row in rows("svm_exitcodes")]
    assert list(REACH) == names
    for row in REACH.values():
        assert row["reach"] in ("yes", "hardware", "event", "entry", "no")
        if row["reach"] != "yes":
            assert row["note"], row["name"]
        assert bool(row["code"]) == (row["reach"] in ("yes", "hardware")), row["name"]


@pytest.mark.parametrize("name", [n for n, row in REACH.items() if row["reach"] == "yes"])
def test_l1_gets_the_exit_with_its_information(l2_path, name):
    row, place = REACH[name], list(REACH).index(name)
    vmcb, running = probe(l2_path, name, place)
    at, length = symbol("at", place), int(row["length"])
    assert running.status == "stopped"
    assert oracle.get(vmcb, "exit_code") == getattr(svm, f"VMEXIT_{name}")
    assert oracle.get(vmcb, "exit_info_1") == int(row["info1"], 0)
    after = symbol("after", place)
    info2 = after if row["info2"] == "next" else int(row["info2"], 0)
    assert oracle.get(vmcb, "exit_info_2") == info2
    if name != "EXCP_DB":  # L0 has already skipped the INT1 that it intercepts itself
        assert oracle.get(vmcb, "next_rip") == (after if length else 0)
    if length:
        assert (oracle.get(vmcb, "rip"), after - at) == (at, length)
    faulted = name in ("NPF", "EXCP_PF")
    assert oracle.get(vmcb, "insn_len") == (15 if faulted else 0)
    if faulted:
        offset = at - l2_image().segments[0][0]
        code = l2_image().segments[0][1][offset : offset + 15]
        assert oracle.get(vmcb, "insn_bytes").to_bytes(15, "little")[: len(code)] == code


ONLY_MANUAL = {"INVPCID": "Xen does not merge its intercept, and would stop on the exit"}
UNASKED = {"NPF": "nested paging faults", "VMRUN": "VMRUN demands it", "VMMCALL": "as Xen does"}
"""What L1 gets although it did not set an intercept."""


@pytest.mark.parametrize(
    "name", [n for n, row in REACH.items() if row["reach"] == "yes" and n not in UNASKED]
)
def test_without_the_intercept_the_exit_does_not_come(l2_path, name):
    vmcb, running = probe(l2_path, "none", list(REACH).index(name))
    assert running.status in ("stopped", "shutdown", "halted")
    if running.status == "stopped":
        assert oracle.get(vmcb, "exit_code") != getattr(svm, f"VMEXIT_{name}")


def test_l0_keeps_what_the_table_says_it_keeps(l2_path):
    place = list(REACH).index("RDPRU")
    _, running = probe(l2_path, "RDPRU", place)
    exits = running.result().exits
    seen = exits[(exits.exit == "RDPRU") & (exits.from_level == "L2")]
    assert list(seen.handled_by) == ["L0"]


def test_the_selective_intercept_sees_only_bits_besides_ts_and_mp(l2_path):
    place = list(REACH).index("CR0_SEL_WRITE")
    vmcb, running = probe(l2_path, "CR0_SEL_WRITE", place)
    exits = running.result().exits
    assert "CR0_SEL_WRITE" not in set(exits.exit), "L0's own intercept comes first"
    vmcb, _ = probe(l2_path, "CR0_SEL_WRITE", place, l0_words=(0,))
    assert oracle.get(vmcb, "exit_code") == svm.VMEXIT_CR0_SEL_WRITE
    assert oracle.get(vmcb, "exit_info_1") == int(REACH["CR0_SEL_WRITE"]["info1"], 0)


@pytest.mark.parametrize(("kind", "name"), [(0, "INTR"), (2, "NMI")])
def test_interrupts_and_nmis_exit_by_their_own_intercepts(kind, name):
    machine = SvmMachine()
    m = machine.m
    for wanted in (True, False):
        m["hw"]["icpt"][0][:] = 0
        m["hw"]["icpt"][0][3] = intercepts(name)["word3"] if wanted else 0
        m["exc"]["kind"], m["exc"]["vector"], m["exc"]["injected"] = kind, 2 if kind else 0x40, 0
        status = machine.call("svm_exception_exit")
        assert status == (layout.ST_VMEXIT if wanted else layout.ST_OK)
        if wanted:
            assert m["exit"]["code"][0] == getattr(svm, f"VMEXIT_{name}")


ASSISTED = [
    n
    for n, row in REACH.items()
    if row["reach"] == "yes"
    and n not in ("NPF", "EXCP_PF", "INVPCID")
    and (int(row["info1"], 0) and not n.startswith("EXCP") and n not in ("IOIO", "MSR"))
]


@pytest.mark.parametrize("name", ASSISTED)
def test_without_decode_assists_nothing_is_said_about_the_operands(l2_path, name):
    vmcb, _ = probe(l2_path, name, list(REACH).index(name), decode_assists=False)
    assert oracle.get(vmcb, "exit_code") == getattr(svm, f"VMEXIT_{name}")
    assert oracle.get(vmcb, "exit_info_1") == 0


def test_without_assists_faults_leave_no_bytes_and_exits_no_next_rip(l2_path):
    for name in ("NPF", "EXCP_PF", "CPUID", "MSR"):
        vmcb, _ = probe(
            l2_path, name, list(REACH).index(name), decode_assists=False, nrip_save=False
        )
        assert oracle.get(vmcb, "insn_len") == 0 == oracle.get(vmcb, "next_rip")
        assert oracle.get(vmcb, "insn_bytes") == 0
