"""Each deviation of an L0 on SVM: what L1 or L2 sees with it, and what without."""

from __future__ import annotations

import pytest

from tests.oracle import svm as oracle
from tests.oracle.svm_machine import L2_CR3, VMCB12, SvmMachine
from workbench.arch import deviations
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.ledger import EVENTS, FLUSH_REASONS

VMCB01, VMCB02 = memory_map.VMCX01_MA, memory_map.VMCX02_MA
GP, UD = 1 << 31 | 1 << 11 | 3 << 8 | 13, 1 << 31 | 3 << 8 | 6
EFER, VM_CR, PAT = 0xC0000080, 0xC0010114, 0x277
LOCK, SVMDIS = 8, 16
INVALID = (1 << 64) - 1
BOTH = pytest.mark.parametrize("on", [False, True], ids=["manual", "deviating"])


def machine_with(name: str, on: bool, **features: int) -> SvmMachine:
    """A machine whose L0 has one deviation, or none."""
    return SvmMachine(deviations=deviations.MASKS[name] if on else 0, **features)


def with_fields(machine: SvmMachine, **fields: int) -> bytearray:
    page = machine.good_vmcb12()
    for name, value in fields.items():
        oracle.put(page, name, value)
    return page


def enter_l2(machine: SvmMachine, **fields: int) -> None:
    assert machine.start_vmrun(with_fields(machine, **fields)) == layout.ST_OK
    assert machine.call("svm_hw_enter") in (layout.ST_OK, layout.ST_FAULT)


def l1_sees(machine: SvmMachine, name: str) -> int:
    """A field of vmcb12 in L1's memory."""
    return oracle.get(machine.page(machine.l1(VMCB12)), name)


def handle(machine: SvmMachine, code: int, length: int = 3, info1: int = 0, info2: int = 0) -> int:
    machine.l1_exits(code, length, info1, info2)
    return machine.call("svm_handle")


def wrmsr(machine: SvmMachine, number: int, value: int) -> None:
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[0], gpr[1], gpr[2] = value & 0xFFFFFFFF, number, value >> 32
    handle(machine, 0x7C, 2, 1)


def rdmsr(machine: SvmMachine, number: int) -> int:
    machine.call("svm_hw_enter")
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[1] = number
    handle(machine, 0x7C, 2, 0)
    machine.call("svm_hw_enter")
    return int(gpr[0]) & 0xFFFFFFFF | int(gpr[2]) << 32


# ---------------------------------------------------------------- exits of L2


@BOTH
def test_exitinfo1_stored_early(on):
    machine = machine_with("exitinfo1_stored_early", on)
    enter_l2(machine, exit_info_1=0x55)
    machine.l1_exits(0x400, 0, 0x1_0000_0004, 0x7000)
    assert machine.call("svm_route") == 0, "a nested page fault is L0's to resolve"
    assert l1_sees(machine, "exit_info_1") == (0x1_0000_0004 if on else 0x55)


@BOTH
def test_vmmcall_always_to_l1(on):
    machine = machine_with("vmmcall_always_to_l1", on)
    enter_l2(machine)
    machine.l1_exits(0x81, 3)
    assert machine.call("svm_route") == on
    if not on:
        assert machine.call("svm_handle") == layout.ST_OK
        assert machine.field(VMCB02, "event_inj") == UD


@BOTH
def test_undecoded_exit_stops_host(on):
    machine = machine_with("undecoded_exit_stops_host", on)
    enter_l2(machine)
    machine.l1_exits(0x8E, 3)
    assert machine.call("svm_route") == 0
    assert machine.call("svm_handle") == (layout.ST_FATAL if on else layout.ST_OK)
    assert machine.m["fatal"][0] == (layout.FATAL_HOST_STOPPED if on else 0)
    if not on:
        assert machine.field(VMCB02, "event_inj") == UD


def test_without_the_undecoded_codes_l1_gets_the_rdpru_it_intercepts():
    machine = machine_with("undecoded_exit_stops_host", False)
    enter_l2(machine, intercept_word4=1 | 1 << 14)
    machine.l1_exits(0x8E, 3)
    assert machine.call("svm_route") == 1


@BOTH
def test_general3_not_merged(on):
    machine = machine_with("general3_not_merged", on)
    enter_l2(machine, intercept_word5=1 << 2)
    assert machine.field(VMCB02, "intercept_word5") == (0 if on else 1 << 2)
    assert machine.m["hw"]["icpt"][0][5] == (0 if on else 1 << 2), "what the processor tests"
    machine.l1_exits(0xA2, 3)
    if not on:
        assert machine.call("svm_route") == 1


@BOTH
def test_intr_exit_names_source(on):
    machine = machine_with("intr_exit_names_source", on)
    enter_l2(machine, intercept_word3=1 << 18 | 1)
    machine.l1_exits(0x60, 0)
    apic = machine.m["apic"]
    apic["svr"] = 0x1FF
    apic["irr"][0][0x41 // 64] |= 1 << 0x41 % 64
    machine.state["rflagsif"] = 1
    machine.call("svm_intr_assist")
    state = machine.state
    assert (state["vmexit_pending"], state["exitcode"]) == (1, 0x60)
    machine.call("svm_exit_n2")
    assert l1_sees(machine, "exit_info_2") == (0x41 if on else 0)
    assert bool(l1_sees(machine, "exit_info_1")) == on


@BOTH
def test_nmi_held_with_interrupts(on):
    machine = machine_with("nmi_held_with_interrupts", on)
    enter_l2(machine, intercept_word3=1 << 18 | 1 << 1, int_ctl=1 << 24)
    machine.l1_exits(0x61, 0)
    machine.m["irq"]["nmi_pending"] = 1
    machine.state["rflagsif"] = 0
    machine.call("svm_intr_assist")
    assert machine.state["vmexit_pending"] == (not on)


@BOTH
def test_v_tpr_not_synced(on):
    machine = machine_with("v_tpr_not_synced", on)
    machine.m["cpu"]["cr8"] = 2
    enter_l2(machine, int_ctl=5)
    assert machine.m["cpu"]["cr8"][0] == 5, "L2 starts with V_TPR"
    machine.m["cpu"]["cr8"] = 9
    machine.l1_exits(0x72, 2)
    machine.call("svm_route")
    assert machine.m["apic"]["tpr"][0] == (0x20 if on else 0x90)
    machine.call("svm_exit_n2")
    machine.call("svm_hw_enter")
    assert machine.m["cpu"]["cr8"][0] == (2 if on else 9)


@BOTH
def test_cr0_sel_write_missed(on):
    machine = machine_with("cr0_sel_write_missed", on)
    enter_l2(machine, intercept_word3=1 << 5)
    machine.m["cpu"]["gpr"][0][3] = 0x80010011
    machine.l1_exits(0x10, 3, -(1 << 63) | 3)
    assert machine.call("svm_route") == (not on)
    if not on:
        machine.call("svm_exit_n2")
        assert l1_sees(machine, "exit_code") == 0x65
    else:
        machine.m["cpu"]["gpr"][0][3] = 0x80000019  # TS alone
        machine.l1_exits(0x10, 3, -(1 << 63) | 3)
        assert machine.call("svm_route") == 0


@BOTH
def test_injected_int_n_lost(on):
    machine = machine_with("injected_int_n_lost", on)
    event = 1 << 31 | 4 << 8 | 0x32
    enter_l2(machine, event_inj=event, next_rip=0x100001)
    machine.m["exit"]["vectoring"] = event
    handle(machine, 0x400, 0, 4 | 1 << 32, 0x5000)
    assert machine.field(VMCB02, "event_inj") >> 31 == (not on)


@BOTH
def test_tlb_control_cleared(on):
    machine = machine_with("tlb_control_cleared", on)
    enter_l2(machine, tlb_ctl=1)
    machine.l1_exits(0x72, 2)
    machine.call("svm_route")
    machine.call("svm_exit_n2")
    assert l1_sees(machine, "tlb_ctl") == (0 if on else 1)


# ---------------------------------------------------------------- VMRUN


@BOTH
def test_vmrun_checked_after_loading(on):
    machine = machine_with("vmrun_checked_after_loading", on)
    event = 1 << 31 | 0x20
    page = with_fields(machine, cr0=1 << 40, event_inj=event, tlb_ctl=1)
    assert machine.start_vmrun(page) == 1
    assert machine.state["vmexit_pending"] == on, "Xen unwinds an L2 that it has entered"
    if on:
        machine.call("svm_exit_n2")
    assert l1_sees(machine, "exit_code") == INVALID
    assert (machine.m["level"][0], machine.field(VMCB01, "rip")) == (1, 0x100003)
    assert machine.state["gif"] == 0
    assert l1_sees(machine, "event_inj") == (0 if on else event)
    assert l1_sees(machine, "exit_int_info") == (event if on else 0)


@BOTH
@pytest.mark.parametrize(
    "change", [{"asid": 0}, {"iopm_base_pa": 1 << 52}, {"nested_cr3": -1}, {"int_ctl": 1 << 26}]
)
def test_vmrun_checks_incomplete(on, change):
    machine = machine_with("vmrun_checks_incomplete", on)
    assert machine.start_vmrun(with_fields(machine, **change)) == (layout.ST_OK if on else 1)
    assert machine.m["level"][0] == (2 if on else 1)
    if on:
        assert machine.call("svm_hw_enter") == layout.ST_OK


@BOTH
def test_hsave_pa_required(on):
    machine = machine_with("hsave_pa_required", on)
    machine.write(machine.l1(VMCB12), machine.good_vmcb12())
    for refused in (on, False):
        machine.m["cpu"]["gpr"][0][0] = VMCB12
        handle(machine, 0x80)
        assert machine.field(VMCB01, "event_inj") >> 31 == refused
        machine.call("svm_hw_enter")
        wrmsr(machine, 0xC0010117, 0x5000)
        machine.call("svm_hw_enter")


@BOTH
def test_g_pat_of_l1(on):
    machine = machine_with("g_pat_of_l1", on)
    mine = int(machine.m["cpu"]["pat"][0])
    enter_l2(machine, g_pat=0x0606060606060606)
    assert machine.m["cpu"]["pat"][0] == (mine if on else 0x0606060606060606)


# ---------------------------------------------------------------- SVM instructions and MSRs of L1


@BOTH
def test_stgi_without_svme(on):
    machine = machine_with("stgi_without_svme", on)
    handle(machine, 0x85)
    machine.call("svm_hw_enter")
    wrmsr(machine, EFER, 0x500)
    machine.state["gif"] = 0
    machine.call("svm_hw_enter")
    handle(machine, 0x84)
    assert machine.state["gif"] == on
    assert machine.field(VMCB01, "event_inj") == (0 if on else UD)


@BOTH
def test_vm_cr_read_only(on):
    machine = machine_with("vm_cr_read_only", on)
    wrmsr(machine, VM_CR, SVMDIS)
    assert machine.field(VMCB01, "event_inj") == (0 if on else GP), "SVM is in use"
    machine.call("svm_hw_enter")
    wrmsr(machine, EFER, 0x500)
    machine.call("svm_hw_enter")
    wrmsr(machine, VM_CR, LOCK | SVMDIS)
    assert rdmsr(machine, VM_CR) == (0 if on else LOCK | SVMDIS)
    wrmsr(machine, VM_CR, 0)
    assert rdmsr(machine, VM_CR) == (0 if on else LOCK | SVMDIS), "locked"
    wrmsr(machine, EFER, 0x1500)
    assert machine.field(VMCB01, "event_inj") == (0 if on else GP), "disabled"


def invlpga_flushes(machine: SvmMachine, asid: int) -> tuple[int, int]:
    """L1's INVLPGA of ``asid``: how many addresses it flushed, how many flushes L0 executed."""
    led = machine.m["ledger"][0]
    before = int(led["flushes"][FLUSH_REASONS.index("INVLPGA")].sum())
    gpr = machine.m["cpu"]["gpr"][0]
    gpr[0], gpr[1] = L2_CR3, asid
    handle(machine, 0x7A)
    machine.call("svm_hw_enter")
    executed = int(led["counts"][:, EVENTS.index("L0_FLUSH_EXECUTED")].sum())
    return int(led["flushes"][FLUSH_REASONS.index("INVLPGA")].sum()) - before, executed


@pytest.mark.parametrize(("asid", "known"), [(1, True), (7, False), (0, True)])
@BOTH
def test_invlpga_any_asid_is_l2s(on, asid, known):
    machine = machine_with("invlpga_any_asid_is_l2s", on)
    enter_l2(machine)
    machine.l1_exits(0x72, 2)
    machine.call("svm_route")
    machine.call("svm_exit_n2")
    machine.call("svm_hw_enter")
    flushed, executed = invlpga_flushes(machine, asid)
    assert flushed == executed == (known or on)


@BOTH
def test_invlpga_is_invlpg(on):
    machine = machine_with("invlpga_is_invlpg", on)
    machine.m["nv"]["n1_tag"], machine.state["n2_tag"] = 5, 6
    machine.state["guest_tag"] = 7
    t = machine.m["tlb"]
    t["live"][0][5] = t["live"][0][6] = 1
    flushed, _ = invlpga_flushes(machine, 9)
    assert flushed == on, "an ASID that L1 never used has no translations"


# ---------------------------------------------------------------- the nested p2m


@BOTH
def test_np2m_host_rights(on):
    machine = machine_with("np2m_host_rights", on)
    l1 = machine.l1
    for table, entry in ((0x30000, 0x31007), (0x31000, 0x32007), (0x32000, 0x33007)):
        machine.table(l1(table), 0, entry)
    machine.table(l1(0x33000), 5, 0x45005)  # read-only for L2
    enter_l2(machine)
    handle(machine, 0x400, 0, 4 | 1 << 32, 0x5000)
    root = int(machine.state["n2p_to_l0m"])
    table = root
    for _ in range(3):
        table = int.from_bytes(machine.page(table, 8), "little") & ~0xFFF
    entry = int.from_bytes(machine.page(table + 5 * 8, 8), "little")
    assert bool(entry & 2) == on, "the page may be written in n2p_to_l0m"


# ---------------------------------------------------------------- an event at the entry


def enter_with_an_interrupt_waiting(on: bool, l1_if: int, l2_if: int) -> tuple[SvmMachine, int]:
    """L1, which masks L2's interrupts with its own flag, has a vector pending at its VMRUN."""
    machine = machine_with("event_behind_entry", on)
    page = with_fields(machine, int_ctl=1 << 24, rflags=2 | l2_if << 9)
    oracle.put(page, "intercept_word3", oracle.get(page, "intercept_word3") | 1)
    machine.write(machine.l1(VMCB12), page)
    m = machine.m
    m["cpu"]["gpr"][0][0] = VMCB12
    m["cpu"]["sysflags"] = 2 | l1_if << 9
    m["apic"]["svr"], m["apic"]["irr"][0][0] = 0x1FF, 1 << 0x31
    m["irq"]["active"] = 1
    m["ledger"]["time"] = 1 << 30
    machine.l1_exits(0x80, 3)
    assert machine.call("l0_exit") == layout.ST_BRANCH
    return machine, oracle.get(page, "rip")


def leaves_at_once(machine: SvmMachine) -> None:
    """L0's interrupt to itself ends L2's run before the first instruction."""
    assert machine.call("attend") == layout.ST_VMEXIT
    assert machine.m["exit"]["code"][0] == 0x60
    assert machine.call("l0_exit") == layout.ST_BRANCH
    assert machine.m["irq"]["physical"][0] == 0


@BOTH
@pytest.mark.parametrize("l2_if", [0, 1])
def test_event_behind_entry(on, l2_if):
    machine, rip = enter_with_an_interrupt_waiting(on, 1, l2_if)
    assert machine.m["level"][0] == (2 if on else 1)
    if on:
        leaves_at_once(machine)
    assert machine.m["level"][0] == 1
    assert (l1_sees(machine, "exit_code"), l1_sees(machine, "rip")) == (0x60, rip)


@BOTH
def test_kvm_looks_behind_the_entry_at_what_l1_masks_too(on):
    machine, _ = enter_with_an_interrupt_waiting(on, 0, 1)
    if on:
        leaves_at_once(machine)
    assert machine.m["level"][0] == 2
    assert machine.call("attend") == layout.ST_OK, "once only"
    assert machine.field(VMCB02, "int_ctl") >> 8 & 1 == 0


@BOTH
@pytest.mark.parametrize("count", [5, 0])
def test_pause_count_of_l0(on, count):
    machine = machine_with("pause_count_of_l0", on, pause_filter=1)
    own = machine.field(VMCB01, "pause_filter_count")
    assert own > 5
    page = with_fields(machine, pause_filter_count=count, pause_filter_thresh=100)
    oracle.put(page, "intercept_word3", oracle.get(page, "intercept_word3") | 1 << 23)
    assert machine.start_vmrun(page) == layout.ST_OK
    assert machine.field(VMCB02, "pause_filter_count") == (own if on and count else count)


@BOTH
def test_hsave_pa_reset(on):
    machine = machine_with("hsave_pa_reset", on)
    machine.state["hsave_pa"] = 0x7000
    wrmsr(machine, EFER, 0x500)
    assert rdmsr(machine, 0xC0010117) == (0 if on else 0x7000)


@BOTH
@pytest.mark.parametrize("asid", [1, 0], ids=["runs", "refused"])
@pytest.mark.parametrize("trap", [0, 1 << 8], ids=["plain", "stepped"])
def test_vmrun_step_trap_late(on, asid, trap):
    machine = machine_with("vmrun_step_trap_late", on)
    page = with_fields(machine, asid=asid)
    machine.m["cpu"]["sysflags"] = 2 | trap
    machine.start_vmrun(page)
    if asid:
        machine.call("svm_hw_enter")
        machine.l1_exits(0x72, 2)
        machine.call("svm_route")
        machine.call("svm_exit_n2")
    event = machine.field(VMCB01, "event_inj")
    assert event == (1 << 31 | 3 << 8 | 1 if trap and not on else 0)
    assert bool(machine.field(VMCB01, "dr6") & 1 << 14) == bool(trap and not on)
