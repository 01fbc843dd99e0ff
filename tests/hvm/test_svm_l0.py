"""L0's handlers and the processor's SVM instructions, exit by exit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import svm as oracle
from tests.oracle.svm_machine import SvmMachine
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.cpu import ops
from workbench.core.hvm import memory_map
from workbench.core.ledger import EVENTS
from workbench.core.mmu.records import MAX_TLB1

VMCB01, VMCB02 = memory_map.VMCX01_MA, memory_map.VMCX02_MA
GP, UD = 1 << 31 | 1 << 11 | 3 << 8 | 13, 1 << 31 | 3 << 8 | 6
EFER, VM_CR, HSAVE, PAT = 0xC0000080, 0xC0010114, 0xC0010117, 0x277
ASSISTED = {"virtual_gif": 1, "virtual_vmload_vmsave": 1}
LONGEST_EXIT = 1 << 40


def count_of(machine: SvmMachine, event: str) -> int:
    return int(machine.m["ledger"]["counts"][0][:, EVENTS.index(event)].sum())


def handle(machine: SvmMachine, code: int, length: int = 3, info1: int = 0, info2: int = 0) -> int:
    machine.l1_exits(code, length, info1, info2)
    return machine.call("svm_handle")


def wrmsr(machine: SvmMachine, number: int, value: int) -> int:
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[0], gpr[1], gpr[2] = value & 0xFFFFFFFF, number, value >> 32
    status = handle(machine, 0x7C, 2, 1)
    machine.call("svm_hw_enter")
    return status


def rdmsr(machine: SvmMachine, number: int) -> int:
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[1] = number
    assert handle(machine, 0x7C, 2, 0) == layout.ST_OK
    machine.call("svm_hw_enter")
    return int(gpr[0]) & 0xFFFFFFFF | int(gpr[2]) << 32


def execute(machine: SvmMachine, name: str) -> int:
    """The processor executes an SVM instruction."""
    uop = np.zeros(1, layout.UOP)
    uop["op"], uop["len"] = ops.OPS[f"VIRT_{name}"], 3
    return machine.call("svm_virt_instruction", uop.ctypes.data)


# ---------------------------------------------------------------- MSRs, CPUID


def test_efer_as_l1_sees_it_has_its_own_svme():
    machine = SvmMachine()
    assert rdmsr(machine, EFER) == 0x1500
    assert wrmsr(machine, EFER, 0x500) == layout.ST_OK
    assert rdmsr(machine, EFER) == 0x500
    assert machine.m["cpu"]["efer"][0] == 0x1500


@pytest.mark.parametrize(
    ("number", "value"),
    [(EFER, 0x502), (EFER, 0x1000), (HSAVE, 0x123), (HSAVE, 1 << 60), (PAT, 2), (0xC0000104, 5),
     (0x12345678, 0)],
)  # fmt: skip
def test_bad_msr_writes_are_general_protection_faults(number, value):
    machine = SvmMachine()
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[0], gpr[1], gpr[2] = value & 0xFFFFFFFF, number, value >> 32
    handle(machine, 0x7C, 2, 1)
    assert machine.field(VMCB01, "event_inj") == GP
    assert machine.field(VMCB01, "rip") == 0x100000
    assert machine.call("svm_hw_enter") == layout.ST_FAULT


def test_host_save_area_and_pat_keep_what_l1_writes():
    machine = SvmMachine()
    wrmsr(machine, HSAVE, 0x5000)
    wrmsr(machine, PAT, 0x0606060606060606)
    assert (rdmsr(machine, HSAVE), rdmsr(machine, PAT)) == (0x5000, 0x0606060606060606)
    assert rdmsr(machine, VM_CR) == 0


def test_cpuid_names_svm_and_what_the_features_add():
    for features, expected in (({}, 0), (ASSISTED, 1 << 15 | 1 << 16)):
        machine = SvmMachine(l0=layout.L0_MANUAL, **features)
        machine.m["cpu"]["gpr"][0][0] = 0x8000000A
        assert handle(machine, 0x72, 2) == layout.ST_OK
        machine.call("svm_hw_enter")
        edx = int(machine.m["cpu"]["gpr"][0][2])
        assert edx & 0xC9 == 0xC9
        assert edx & (1 << 15 | 1 << 16) == expected
        assert machine.m["cpu"]["rip"][0] == 0x100002


# ---------------------------------------------------------------- the hardware's help


def test_features_remove_the_four_intercepts_only_while_svme_is_set():
    machine = SvmMachine(**ASSISTED)
    four = 0b111100
    assert machine.field(VMCB01, "intercept_word4") & four == 0
    wrmsr(machine, EFER, 0x500)
    assert machine.field(VMCB01, "intercept_word4") & four == four
    assert machine.field(VMCB01, "virt_ext") == 0
    assert SvmMachine().field(VMCB01, "intercept_word4") & four == four


def test_virtual_gif_lets_l1_toggle_its_own():
    machine = SvmMachine(**ASSISTED)
    for name, expected in (("CLGI", 0), ("STGI", 1)):
        assert execute(machine, name) == layout.ST_OK
        assert machine.m["hw"]["int_ctl"][0] >> 9 & 1 == expected
    assert count_of(machine, "GIF_VIRTUALIZED") == 2


def test_virtual_vmsave_and_vmload_go_through_the_nested_table():
    machine = SvmMachine(**ASSISTED)
    c = machine.m["cpu"]
    c["gpr"][0][0] = 0x50000
    c["star"], c["seg_base"][0][layout.FS] = 0x77, 0x88
    assert execute(machine, "VMSAVE") == layout.ST_OK
    page = machine.page(machine.l1(0x50000))
    assert (oracle.get(page, "star"), oracle.get(page, "fs") >> 64) == (0x77, 0x88)
    c["star"] = c["seg_base"][0][layout.FS] = 0
    assert execute(machine, "VMLOAD") == layout.ST_OK
    assert (c["star"][0], c["seg_base"][0][layout.FS]) == (0x77, 0x88)
    assert count_of(machine, "VMSAVE_VIRTUALIZED") == count_of(machine, "VMLOAD_VIRTUALIZED") == 1
    c["gpr"][0][0] = 0x50008
    assert execute(machine, "VMLOAD") == layout.ST_FAULT
    c["gpr"][0][0] = 1 << 45
    assert execute(machine, "VMLOAD") == layout.ST_VMEXIT
    assert machine.m["exit"]["code"][0] == 0x400


def test_emulated_vmsave_and_vmload_do_the_same():
    machine = SvmMachine()
    c = machine.m["cpu"]
    c["gpr"][0][0], c["lstar"] = 0x50000, 0x99
    assert execute(machine, "VMSAVE") == layout.ST_VMEXIT
    assert machine.m["exit"]["code"][0] == 0x83
    machine.call("svm_hw_exit")
    assert machine.call("svm_handle") == layout.ST_OK
    assert oracle.get(machine.page(machine.l1(0x50000)), "lstar") == 0x99
    c["lstar"] = 0
    assert handle(machine, 0x82) == layout.ST_OK
    assert c["lstar"][0] == 0x99
    assert (count_of(machine, "L0_VMSAVE"), count_of(machine, "L0_VMLOAD")) == (1, 1)


@pytest.mark.parametrize("name", ["VMRUN", "VMLOAD", "VMSAVE", "STGI", "CLGI", "INVLPGA", "SKINIT"])
def test_svm_instructions_check_privilege_before_they_exit(name):
    machine = SvmMachine()
    machine.m["cpu"]["cpl"] = 3
    assert execute(machine, name) == layout.ST_FAULT
    assert machine.m["exc"]["vector"][0] == 13
    machine.m["cpu"]["cpl"] = 0
    assert execute(machine, name) == layout.ST_VMEXIT


@pytest.mark.parametrize("code", [0x80, 0x82, 0x83, 0x85, 0x7A, 0x86])
def test_without_svme_l1_gets_an_invalid_opcode(code):
    machine = SvmMachine()
    wrmsr(machine, EFER, 0x500)
    handle(machine, code)
    assert machine.field(VMCB01, "event_inj") == UD


def test_leaving_svm_forgets_the_nested_state():
    machine = SvmMachine()
    machine.start_vmrun(machine.good_vmcb12())
    machine.call("svm_exit_n2")
    machine.call("svm_hw_enter")
    wrmsr(machine, EFER, 0x500)
    state = machine.state
    assert (state["vmcx12_addr"], state["vmcx12"], state["gif"]) == (-1, -1, 1)


# ---------------------------------------------------------------- other exits of L1


def test_hypercall_hlt_shutdown_and_skips():
    machine = SvmMachine()
    assert handle(machine, 0x81) == layout.ST_OK
    assert machine.field(VMCB01, "rax") == (1 << 64) - 38
    assert handle(machine, 0x89, 2) == layout.ST_OK
    assert machine.field(VMCB01, "rip") == 0x100002
    assert handle(machine, 0x78, 1) == layout.ST_HALT
    assert handle(machine, 0x7F, 0) == layout.ST_SHUTDOWN
    assert handle(machine, 0x8E, 3) == layout.ST_OK
    assert machine.field(VMCB01, "event_inj") == UD


def test_an_exit_that_l0_does_not_know_stops_the_machine():
    machine = SvmMachine()
    assert handle(machine, 0xA5) == layout.ST_FATAL
    assert machine.m["fatal"][0] == layout.FATAL_UNHANDLED_EXIT
    assert handle(machine, 0x400, 0, 4 | 1 << 32, 0x3000_0000) == layout.ST_FATAL
    assert machine.m["fatal"][0] == layout.FATAL_N1P_UNMAPPED


def test_port_io_merges_narrow_results_and_stops_on_the_debug_port():
    machine = SvmMachine()
    machine.m["cpu"]["gpr"][0][0] = 0x1122334455667788
    handle(machine, 0x7B, 2, 1 | 16 | 1 << 9 | 0x3FD << 16)
    assert machine.field(VMCB01, "rax") == 0x1122334455667760
    handle(machine, 0x7B, 2, 1 | 64 | 1 << 9 | 0x70 << 16)
    assert machine.field(VMCB01, "rax") == 0xFFFFFFFF
    assert handle(machine, 0x7B, 2, 16 | 1 << 9 | 0xF4 << 16) == layout.ST_STOP
    assert machine.m["stop_code"][0] == 0x88


def test_control_register_accesses():
    machine = SvmMachine()
    mov = -(1 << 63)
    handle(machine, 0x00, 3, mov | 3)
    assert machine.m["cpu"]["gpr"][0][3] == 0x80000011
    machine.m["cpu"]["gpr"][0][3] = 0x80010011
    handle(machine, 0x10, 3, mov | 3)
    assert machine.field(VMCB01, "cr0") == 0x80010011
    machine.call("svm_hw_enter")
    machine.m["cpu"]["gpr"][0][0] = 0xA0
    handle(machine, 0x14, 3, mov)
    assert machine.field(VMCB01, "cr4") == 0xA0
    for code, value in ((0x10, 0x11), (0x10, 1 << 40), (0x14, 0), (0x14, 1 << 13 | 0x20)):
        machine.call("svm_hw_enter")
        machine.m["cpu"]["gpr"][0][3] = value
        handle(machine, code, 3, mov | 3)
        assert machine.field(VMCB01, "event_inj") == GP
        machine.call("svm_hw_enter")


def test_first_use_of_a_debug_register_ends_their_interception():
    machine = SvmMachine()
    assert machine.field(VMCB01, "intercept_word1") == 0xFFFFFFFF
    handle(machine, 0x37, 3, 1)
    assert machine.field(VMCB01, "intercept_word1") == 0
    assert machine.field(VMCB01, "rip") == 0x100000


def test_an_exception_of_l2_that_l0_intercepts_goes_back_to_l2():
    machine = SvmMachine()
    machine.start_vmrun(machine.good_vmcb12())
    machine.call("svm_hw_enter")
    machine.l1_exits(0x51, 0, 0)
    assert machine.call("svm_route") == 0
    assert machine.call("svm_handle") == layout.ST_OK
    assert machine.field(VMCB02, "event_inj") == 1 << 31 | 1 << 11 | 3 << 8 | 17


def test_a_fault_for_l2_goes_to_l1_when_l1_intercepts_it():
    machine = SvmMachine()
    page = machine.good_vmcb12()
    oracle.put(page, "intercept_word2", 1 << 13)
    machine.start_vmrun(page)
    machine.call("svm_hw_enter")
    machine.m["cpu"]["gpr"][0][1] = 0x12345678
    machine.l1_exits(0x7C, 2, 0)
    assert machine.call("svm_route") == 0
    assert machine.call("svm_handle") == layout.ST_OK
    state = machine.state
    assert (state["vmexit_pending"], state["exitcode"]) == (1, 0x4D)


def test_an_interrupted_delivery_is_taken_up_again():
    machine = SvmMachine()
    machine.m["exit"]["vectoring"] = 1 << 31 | 1 << 11 | 3 << 8 | 14
    machine.m["exit"]["vectoring_error"] = 6
    handle(machine, 0x72, 2)
    assert machine.field(VMCB01, "event_inj") == 1 << 31 | 1 << 11 | 3 << 8 | 14
    assert machine.field(VMCB01, "event_inj_err") == 6
    machine.call("svm_hw_enter")
    machine.m["exit"]["vectoring"] = 1 << 31 | 4 << 8 | 0x80
    handle(machine, 0x72, 2)
    assert machine.field(VMCB01, "event_inj") >> 31 == 0


# ---------------------------------------------------------------- anything L1 can ask for

CODES = [int(row["value"], 0) for row in rows("svm_exitcodes")][:-1]
WORDS = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 0x200000))


@settings(max_examples=60, deadline=None)
@given(
    exits=st.lists(st.tuples(st.sampled_from(CODES), WORDS, WORDS, WORDS, WORDS), max_size=20),
    assisted=st.booleans(),
)
def test_no_exit_with_any_information_breaks_the_machine(exits, assisted):
    machine = SvmMachine(**(ASSISTED if assisted else {}))
    for code, info1, info2, rax, rcx in exits:
        gpr = machine.m["cpu"]["gpr"][0]
        gpr[0], gpr[1] = rax, rcx
        status = handle(machine, code, 2, info1, info2)
        assert status in (
            layout.ST_OK, layout.ST_HALT, layout.ST_STOP, layout.ST_SHUTDOWN, layout.ST_FATAL,
        )  # fmt: skip
        machine.state["vmentry_pending"] = 0
        assert machine.call("svm_hw_enter") >= 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), wild=st.booleans())
def test_any_bytes_as_vmcb12_enter_l2_or_are_refused(seed, wild):
    machine = SvmMachine()
    random = np.random.default_rng(seed)
    page = machine.good_vmcb12()
    for offset in random.integers(0, 0x700, 4096 if wild else 24):
        page[offset] = random.integers(0, 256)
    outcome = machine.start_vmrun(page)
    if outcome == layout.ST_OK:
        assert machine.call("svm_hw_enter") in (layout.ST_OK, layout.ST_FAULT)
        machine.l1_exits(int(random.choice(CODES)), 2, int(random.integers(0, LONGEST_EXIT)))
        if not machine.call("svm_route"):
            machine.call("svm_handle")
    machine.call("svm_exit_n2")
    assert machine.call("svm_hw_enter") >= 0


# ---------------------------------------------------------------- string I/O


def string_machine() -> SvmMachine:
    """Paging off, so that linear addresses are L1's physical ones; a small TLB."""
    machine = SvmMachine()
    t = machine.m["tlb"]
    t["base"][0] = (0, MAX_TLB1, 2 * MAX_TLB1)
    t["ways"][0], t["sets"][0] = (4, 1, 4), (4, 0, 16)
    t["fast_read"] = t["fast_write"] = -1
    machine.m["cpu"]["cr0"] = 0x11
    return machine


def test_outs_sends_one_element_per_exit_and_repeats():
    machine = string_machine()
    machine.write(machine.l1(0x60000), b"hello")
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[layout.RSI], gpr[layout.RCX] = 0x60000, 5
    for left in range(5, 0, -1):
        assert gpr[layout.RCX] == left
        assert machine.field(VMCB01, "rip") == 0x100000
        assert handle(machine, 0x7B, 2, 4 | 8 | 16 | 1 << 9 | 3 << 10 | 0x3F8 << 16) == layout.ST_OK
    assert bytes(machine.m["serial"][0][:5]) == b"hello"
    assert machine.field(VMCB01, "rip") == 0x100002


def test_ins_stores_what_the_port_reads():
    machine = string_machine()
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[layout.RDI] = 0x60000
    handle(machine, 0x7B, 1, 1 | 4 | 16 | 1 << 9 | 0x3FD << 16)
    assert machine.page(machine.l1(0x60000), 2) == b"\x60\x00"
    assert gpr[layout.RDI] == 0x60001
    gpr[layout.RDI] = 1 << 40
    assert handle(machine, 0x7B, 1, 1 | 4 | 16 | 1 << 9 | 0x3FD << 16) == layout.ST_FATAL
    gpr[layout.RDI] = 1 << 60
    handle(machine, 0x7B, 1, 1 | 4 | 16 | 1 << 9 | 0x3FD << 16)
    assert machine.field(VMCB01, "event_inj") == GP


# ---------------------------------------------------------------- nested page faults


def test_nested_page_fault_of_l2_is_resolved_or_injected():
    machine = SvmMachine()
    l1 = machine.l1
    machine.table(l1(0x30000), 0, 0x31007)
    machine.table(l1(0x31000), 0, 0x32007)
    machine.table(l1(0x32000), 0, 0x33007)
    machine.table(l1(0x33000), 5, 0x45005)
    machine.start_vmrun(machine.good_vmcb12())
    machine.call("svm_hw_enter")
    # present and allowed: L0 installs the combination
    assert handle(machine, 0x400, 0, 4 | 1 << 32, 0x5123) == layout.ST_OK
    assert machine.state["vmexit_pending"] == 0
    assert machine.m["np2m"]["entries"][0, 0] == 1
    # write to what L1 made read-only: L1's fault, with the present bit
    machine.call("svm_hw_enter")
    handle(machine, 0x400, 0, 4 | 2 | 1 << 32, 0x5123)
    state = machine.state
    assert (state["vmexit_pending"], state["exitcode"]) == (1, 0x400)
    assert (state["exitinfo1"], state["exitinfo2"]) == (7 | 1 << 32, 0x5123)
    # not mapped by L1 at all
    state["vmexit_pending"] = 0
    machine.call("svm_hw_enter")
    handle(machine, 0x400, 0, 4 | 16 | 1 << 32, 0x9000)
    assert (state["vmexit_pending"], state["exitinfo1"]) == (1, 20 | 1 << 32)
