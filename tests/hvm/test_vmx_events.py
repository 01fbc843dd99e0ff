"""Preemption timer, monitor trap flag, page-modification log, merging and re-injection of events."""

from __future__ import annotations

import pytest

from tests.oracle.vmx_machine import EPT12, GOOD_VMCS12, VmxMachine
from workbench.arch import msr, vmx
from workbench.core import layout
from workbench.core.ledger import EVENTS, TIME_SCALE

TIMER, SAVE_TIMER, MTF = 1 << 6, 1 << 22, 1 << 27
VALID, ERROR = 1 << 31, 1 << 11
UNBLOCKED = 1 << 12


def advance(made: VmxMachine, cycles: int) -> None:
    made.m["ledger"]["time"] += cycles * TIME_SCALE


def rdmsr(made: VmxMachine, number: int) -> int:
    made.gpr[layout.RCX] = number
    made.hardware_exit(vmx.EXIT_MSR_READ, insn_len=2)
    made.call("vmx_handle")
    made.call("vmx_hw_enter")
    return int(made.gpr[layout.RAX]) | int(made.gpr[layout.RDX]) << 32


# ---------------------------------------------------------------- preemption timer


def timed(value: int, save: bool = False) -> VmxMachine:
    """A machine that entered L1 with the timer at ``value``."""
    made = VmxMachine()
    advance(made, 1000)
    made.put(1, "PIN_BASED_VM_EXEC_CONTROL", made.get(1, "PIN_BASED_VM_EXEC_CONTROL") | TIMER)
    if save:
        made.put(1, "VM_EXIT_CONTROLS", made.get(1, "VM_EXIT_CONTROLS") | SAVE_TIMER)
    made.put(1, "VMX_PREEMPTION_TIMER_VALUE", value)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    return made


@pytest.mark.parametrize(("waited", "expected"), [(0, 0), (9 * 32 - 8, 0), (10 * 32, 1)])
def test_the_timer_exits_after_its_ticks_of_32_cycles(waited, expected):
    made = timed(10)
    advance(made, waited)
    status = made.call("attend")
    assert status == (layout.ST_VMEXIT if expected else layout.ST_OK)
    if expected:
        assert made.m["exit"]["code"][0] == vmx.EXIT_PREEMPTION_TIMER
        assert made.m["exit"]["info1"][0] == 0


def test_a_timer_of_zero_exits_before_the_first_instruction():
    made = timed(0)
    assert made.call("attend") == layout.ST_VMEXIT
    assert made.m["exit"]["code"][0] == vmx.EXIT_PREEMPTION_TIMER


def test_what_is_left_is_saved_only_if_asked_for():
    for save, expected in ((False, 100), (True, 60)):
        made = timed(100, save)
        advance(made, 40 * 32)
        made.hardware_exit(vmx.EXIT_CPUID)
        assert made.get(1, "VMX_PREEMPTION_TIMER_VALUE") == expected
    made = timed(5, True)
    advance(made, 1000)
    made.hardware_exit(vmx.EXIT_CPUID)
    assert made.get(1, "VMX_PREEMPTION_TIMER_VALUE") == 0


def test_l1_is_offered_the_timer_and_its_rate():
    made = VmxMachine()
    assert rdmsr(made, msr.VMX_PINBASED_CTLS) >> 32 & TIMER
    assert rdmsr(made, msr.VMX_EXIT_CTLS) >> 32 & SAVE_TIMER
    assert rdmsr(made, msr.VMX_MISC) & 31 == 5
    assert rdmsr(made, msr.VMX_PROCBASED_CTLS) >> 32 & MTF


def test_the_timer_of_l1_ends_l2s_run():
    made = VmxMachine()
    made.launch(
        PIN_BASED_VM_EXEC_CONTROL=GOOD_VMCS12["PIN_BASED_VM_EXEC_CONTROL"] | TIMER,
        VM_EXIT_CONTROLS=GOOD_VMCS12["VM_EXIT_CONTROLS"] | SAVE_TIMER,
        VMX_PREEMPTION_TIMER_VALUE=50,
    )
    assert made.call("vmx_hw_enter") == layout.ST_OK
    advance(made, 50 * 32)
    assert made.call("attend") == layout.ST_VMEXIT
    made.call("vmx_hw_exit")
    assert made.call("vmx_route") == 1
    made.call("vmx_exit_n2")
    assert made.get(12, "VM_EXIT_REASON") == vmx.EXIT_PREEMPTION_TIMER
    assert made.get(12, "VMX_PREEMPTION_TIMER_VALUE") == 0
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["hw"]["timer_deadline"][0] == 0


# ---------------------------------------------------------------- monitor trap flag


def stepping(**changes: int) -> VmxMachine:
    made = VmxMachine()
    cpu = GOOD_VMCS12["CPU_BASED_VM_EXEC_CONTROL"] | MTF
    made.launch(CPU_BASED_VM_EXEC_CONTROL=cpu, **changes)
    return made


def test_the_monitor_trap_flag_exits_behind_one_instruction():
    made = stepping()
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.call("attend") == layout.ST_OK
    assert made.m["irq"]["budget"][0] == 1
    made.m["steps"] += 1
    assert made.call("attend") == layout.ST_VMEXIT
    assert made.m["exit"]["code"][0] == vmx.EXIT_MONITOR_TRAP_FLAG
    made.call("vmx_hw_exit")
    assert made.call("vmx_route") == 1


def test_an_injected_event_comes_before_the_trap_and_no_instruction():
    made = stepping(VM_ENTRY_INTR_INFO_FIELD=VALID | 3 << 8 | 6)
    assert made.call("vmx_hw_enter") == layout.ST_FAULT
    assert made.call("attend") == layout.ST_VMEXIT
    assert made.m["exit"]["code"][0] == vmx.EXIT_MONITOR_TRAP_FLAG


def test_an_injected_other_event_is_the_trap_itself():
    made = VmxMachine()
    made.launch(VM_ENTRY_INTR_INFO_FIELD=VALID | 7 << 8)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.call("attend") == layout.ST_VMEXIT
    assert made.m["exit"]["code"][0] == vmx.EXIT_MONITOR_TRAP_FLAG


# ---------------------------------------------------------------- page-modification log

PML_PAGE = 0x60000


def dirty_table(made: VmxMachine) -> None:
    """L1's EPT maps n2p 0x5000 to 0x7fff, accessed but not dirty."""
    for at in (0x30000, 0x31000, 0x32000):
        made.words(made.l1(at))[0] = at + 0x1000 | 0x107
    for page in (5, 6, 7):
        made.words(made.l1(0x33000))[page] = 0x40000000 + page * 0x1000 | 0x137


def logging(index: int) -> VmxMachine:
    made = VmxMachine(l0=layout.L0_MANUAL, ept_ad=1, pml=1)
    dirty_table(made)
    made.launch(
        SECONDARY_VM_EXEC_CONTROL=2 | 1 << 17, EPT_POINTER=EPT12 | 0x5E, PML_ADDRESS=PML_PAGE,
        GUEST_PML_INDEX=index,
    )  # fmt: skip
    made.call("vmx_hw_enter")
    return made


def writes(made: VmxMachine, gpa: int) -> None:
    made.hardware_exit(vmx.EXIT_EPT_VIOLATION, info1=2 | 1 << 7 | 1 << 8, info2=gpa)
    assert made.call("vmx_route") == 0
    assert made.call("vmx_handle") == layout.ST_OK


def test_l0_logs_for_l1_what_becomes_dirty_in_its_table():
    made = logging(511)
    writes(made, 0x5123)
    made.call("vmx_hw_enter")
    writes(made, 0x6000)
    log = made.words(made.l1(PML_PAGE))
    assert (log[511], log[510], log[509]) == (0x5000, 0x6000, 0)
    assert made.get(12, "GUEST_PML_INDEX") == 509
    assert made.words(made.l1(0x33000))[5] & 1 << 9
    made.call("vmx_hw_enter")
    writes(made, 0x5000)  # dirty already: not logged again
    assert made.get(12, "GUEST_PML_INDEX") == 509
    assert made.get(2, "SECONDARY_VM_EXEC_CONTROL") & 1 << 17 == 0


def test_a_full_log_is_an_exit_to_l1_and_nothing_is_marked():
    made = logging(0)
    writes(made, 0x5000)
    assert made.get(12, "GUEST_PML_INDEX") == 0xFFFF
    made.call("vmx_hw_enter")
    writes(made, 0x6000)
    assert made.state["vmexit_pending"] == 1
    made.call("vmx_exit_n2")
    assert made.get(12, "VM_EXIT_REASON") == vmx.EXIT_PML_FULL
    assert made.words(made.l1(0x33000))[6] & 1 << 9 == 0


@pytest.mark.parametrize(("ept_ad", "pml"), [(0, 1), (1, 0), (1, 1)])
def test_the_log_is_offered_with_its_feature_and_dirty_bits(ept_ad, pml):
    made = VmxMachine(l0=layout.L0_MANUAL, ept_ad=ept_ad, pml=pml)
    offered = rdmsr(made, msr.VMX_PROCBASED_CTLS2) >> 32 & 1 << 17
    assert bool(offered) == bool(ept_ad and pml)


def test_the_processor_logs_into_its_own_page():
    made = VmxMachine(ept_ad=1)
    log = 0x3E0000
    made.put(1, "SECONDARY_VM_EXEC_CONTROL", made.get(1, "SECONDARY_VM_EXEC_CONTROL") | 1 << 17)
    made.put(1, "PML_ADDRESS", log)
    made.put(1, "GUEST_PML_INDEX", 0)
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.call("nested_walk", 0x7123, 0x7123, 1, 0) > 0
    assert made.words(log)[0] == 0x7000
    assert made.m["hw"]["pml_index"][0] == 0xFFFF
    # the page is dirty now; another large page finds the log full
    assert made.call("nested_walk", 0x9000, 0x9000, 1, 0) > 0
    assert made.call("nested_walk", 0x40000000, 0x40000000, 1, 0) == -1
    assert made.m["exit"]["code"][0] == vmx.EXIT_PML_FULL
    made.call("vmx_hw_exit")
    assert made.get(1, "GUEST_PML_INDEX") == 0xFFFF
    logged = made.m["ledger"]["counts"][0][:, EVENTS.index("PML_ENTRY_LOGGED")].sum()
    assert logged == 1


# ---------------------------------------------------------------- re-injection


def interrupted(made: VmxMachine, reason: int, event: int, error: int = 0, **info: int) -> int:
    """An exit during the delivery of ``event`` that L0 serves; its outcome."""
    made.hardware_exit(reason, vectoring=event, vectoring_error=error, **info)
    return made.call("vmx_handle")


SOFTWARE = [(VALID | 4 << 8 | 0x80, 2), (VALID | 6 << 8 | 3, 1), (VALID | 5 << 8 | 1, 1)]


@pytest.mark.parametrize(("event", "length"), SOFTWARE)
def test_a_software_event_goes_on_with_its_instruction_length(event, length):
    made = VmxMachine()
    interrupted(made, vmx.EXIT_WBINVD, event, insn_len=length)
    assert made.get(1, "VM_ENTRY_INTR_INFO_FIELD") == event
    assert made.get(1, "VM_ENTRY_INSTRUCTION_LEN") == length


def test_an_nmi_that_goes_on_is_not_blocked_by_itself():
    made = VmxMachine()
    made.m["cpu"]["nmi_blocked"] = 1
    interrupted(made, vmx.EXIT_EXTERNAL_INTERRUPT, VALID | 2 << 8 | 2)
    assert made.get(1, "GUEST_INTERRUPTIBILITY_INFO") & 8 == 0
    assert made.call("vmx_hw_enter") == layout.ST_FAULT


@pytest.mark.parametrize("reason", [vmx.EXIT_EXTERNAL_INTERRUPT, vmx.EXIT_WBINVD])
def test_every_exit_of_l2_that_l0_keeps_lets_the_event_go_on(reason):
    made = VmxMachine()
    made.launch()
    made.call("vmx_hw_enter")
    interrupted(made, reason, VALID | ERROR | 3 << 8 | 14, 7, insn_len=2)
    assert made.get(2, "VM_ENTRY_INTR_INFO_FIELD") == VALID | ERROR | 3 << 8 | 14
    assert made.get(2, "VM_ENTRY_EXCEPTION_ERROR_CODE") == 7


def test_an_exit_that_l1_gets_tells_it_the_event():
    made = VmxMachine()
    made.launch()
    made.call("vmx_hw_enter")
    made.hardware_exit(vmx.EXIT_CPUID, vectoring=VALID | 0x31, vectoring_error=0)
    assert made.call("vmx_route") == 1
    made.call("vmx_exit_n2")
    assert made.get(12, "IDT_VECTORING_INFO_FIELD") == VALID | 0x31
    assert made.get(2, "VM_ENTRY_INTR_INFO_FIELD") & VALID == 0


def found(made: VmxMachine, vector: int, first: int) -> int:
    """L0 reflects exception ``vector`` while ``first`` (vector) was being delivered."""
    pushes = vector in (8, 10, 11, 12, 13, 14, 17)
    info = VALID | (ERROR if pushes else 0) | 3 << 8 | vector
    return interrupted(
        made, vmx.EXIT_EXCEPTION_NMI, VALID | 3 << 8 | first, intr_info=info, intr_error=5
    )


CLASSES = {0: "c", 10: "c", 11: "c", 12: "c", 13: "c", 14: "p", 1: "b", 6: "b", 17: "b", 18: "b"}


@pytest.mark.parametrize("first", CLASSES)
@pytest.mark.parametrize("second", CLASSES)
def test_two_exceptions_merge_by_their_classes(first, second):
    made = VmxMachine()
    assert found(made, second, first) == layout.ST_OK
    double = (CLASSES[first], CLASSES[second]) in (("c", "c"), ("p", "c"), ("p", "p"))
    info = made.get(1, "VM_ENTRY_INTR_INFO_FIELD")
    assert info & 0xFF == (8 if double else second)
    assert info & VALID
    if double:
        assert info & ERROR
        assert made.get(1, "VM_ENTRY_EXCEPTION_ERROR_CODE") == 0


def test_a_fault_during_a_double_fault_is_a_triple_fault():
    made = VmxMachine()
    assert found(made, 13, 8) == layout.ST_SHUTDOWN
    made = VmxMachine()
    made.launch()
    made.call("vmx_hw_enter")
    assert found(made, 14, 8) == layout.ST_OK
    assert made.state["vmexit_pending"] == 1
    made.call("vmx_exit_n2")
    assert made.get(12, "VM_EXIT_REASON") == vmx.EXIT_TRIPLE_FAULT


def test_an_exception_takes_the_place_of_an_interrupt():
    made = VmxMachine()
    info = VALID | ERROR | 3 << 8 | 13
    interrupted(made, vmx.EXIT_EXCEPTION_NMI, VALID | 0x31, intr_info=info, intr_error=0x18B)
    assert made.get(1, "VM_ENTRY_INTR_INFO_FIELD") == info
    assert made.get(1, "VM_ENTRY_EXCEPTION_ERROR_CODE") == 0x18B


# ---------------------------------------------------------------- NMIs that IRET unblocked


def test_an_iret_that_faults_has_unblocked_nmis():
    for reason, field in ((vmx.EXIT_EPT_VIOLATION, "EXIT_QUALIFICATION"),
                          (vmx.EXIT_EXCEPTION_NMI, "VM_EXIT_INTR_INFO")):  # fmt: skip
        made = VmxMachine()
        made.m["nmi_unblocked"] = 1
        made.hardware_exit(reason, intr_info=VALID | 3 << 8 | 13, info2=0x5000)
        assert made.get(1, field) & UNBLOCKED
        made.call("vmx_handle")
        assert made.get(1, "GUEST_INTERRUPTIBILITY_INFO") & 8
        assert made.m["nmi_unblocked"][0] == 0
        if reason == vmx.EXIT_EXCEPTION_NMI:
            assert made.get(1, "VM_ENTRY_INTR_INFO_FIELD") & UNBLOCKED == 0


@pytest.mark.parametrize(("l0", "told"), [(layout.L0_XEN, 0), (layout.L0_MANUAL, 1)])
def test_an_injected_trap_is_l1s_but_for_xen(l0, told):
    made = VmxMachine(l0=l0)
    made.launch(VM_ENTRY_INTR_INFO_FIELD=VALID | 7 << 8)
    made.call("vmx_hw_enter")
    made.hardware_exit(vmx.EXIT_MONITOR_TRAP_FLAG)
    assert made.call("vmx_handle") == layout.ST_OK
    assert made.state["vmexit_pending"] == told
