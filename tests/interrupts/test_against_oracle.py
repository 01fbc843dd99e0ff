"""The blocking checks and the local APIC against their twins, on random states."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.arch import vmcb, vmcs
from workbench.core.cpu.apic import NO_BLOCK, SOURCE_LAPIC, SOURCE_NMI
from workbench.core.hvm import memory_map as mm
from workbench.core.ledger import BLOCK_REASONS
from workbench.core.units import entry
from workbench.geometry import load_tlb_geometry
from workbench.machine import SimulatedMachine

from ..cpu.bare import Bare
from ..oracle import interrupts as oracle

FLAG = st.booleans()
VALID = 1 << 31
VCPUS = st.builds(
    oracle.Vcpu,
    **dict.fromkeys(
        (
            "interrupt_flag", "shadow", "nmi_masked", "n2_guest", "vmexit_pending",
            "vmentry_pending", "gif", "vintrmask", "rflagsif", "delivery_interrupted",
            "vmswitch_in_progress", "event_injected",
        ),
        FLAG,
    ),
    tpr=st.integers(0, 255),
)  # fmt: skip
VECTORS = st.integers(16, 255)


@pytest.fixture(scope="module")
def machines() -> dict[str, SimulatedMachine]:
    made = {}
    for backend in ("svm", "vmx"):
        machine = SimulatedMachine(backend, 4 << 20, 4 << 20, load_tlb_geometry("Nehalem"))
        made[backend] = machine
    return made


def prepare(machine: SimulatedMachine, v: oracle.Vcpu) -> int:
    """Put what both back-ends share into the record; address of the current control structure."""
    m = machine.record
    state = machine.state
    state["n2_guest"] = v.n2_guest
    state["vmexit_pending"], state["vmentry_pending"] = v.vmexit_pending, v.vmentry_pending
    if machine.backend == "svm":
        state["gif"], state["vintrmask"], state["rflagsif"] = v.gif, v.vintrmask, v.rflagsif
    state["vmswitch_in_progress"] = v.vmswitch_in_progress
    m["apic"]["tpr"] = v.tpr
    place = mm.VMCX02_MA if v.n2_guest else mm.VMCX01_MA
    m["hw"]["vmcx"] = place
    machine.ram[mm.VMCX01_MA : mm.VMCX01_MA + 0x2000] = 0
    return place


def check(machine: SimulatedMachine, unit: str, is_nmi: bool, vector: int) -> str:
    source = SOURCE_NMI if is_nmi else SOURCE_LAPIC
    reason = entry(unit)(machine.address, source, vector)
    return oracle.NONE if reason == NO_BLOCK else BLOCK_REASONS[reason]


@settings(max_examples=400, deadline=None)
@given(v=VCPUS, is_nmi=FLAG, vector=VECTORS, virtual_gif=FLAG, virtual_nmi=FLAG)
def test_svm_blocking(machines, v, is_nmi, vector, virtual_gif, virtual_nmi):
    machine = machines["svm"]
    place = prepare(machine, v)
    words = machine.words
    if virtual_gif:  # then the VMCB has the truth
        machine.state["gif"] = not v.gif
        words[(mm.VMCX01_MA + vmcb.INT_CTL) // 8] = 1 << 25 | v.gif << 9
    words[(place + vmcb.RFLAGS) // 8] = 2 | v.interrupt_flag << 9
    words[(place + vmcb.INT_STATE) // 8] = v.shadow
    if virtual_nmi:  # V_NMI_ENABLE: then V_NMI_MASK has the truth, whatever is intercepted
        words[(place + vmcb.INT_CTL) // 8] |= 1 << 26 | v.nmi_masked << 12
        words[(place + vmcb.INTERCEPT_WORD4 - 8) // 8] |= (not v.nmi_masked) << 52
    else:
        words[(place + vmcb.INTERCEPT_WORD4 - 8) // 8] |= v.nmi_masked << 52  # word 3, IRET
    words[(mm.VMCX02_MA + vmcb.EXIT_INT_INFO) // 8] = VALID * v.delivery_interrupted
    expected = oracle.blocked(v, oracle.svm_nested(v), is_nmi, vector)
    assert check(machine, "svm_interrupt_blocked", is_nmi, vector) == expected


@settings(max_examples=400, deadline=None)
@given(v=VCPUS, is_nmi=FLAG, vector=VECTORS, by_sti=FLAG)
def test_vmx_blocking(machines, v, is_nmi, vector, by_sti):
    machine = machines["vmx"]
    place = prepare(machine, v) + vmcs.DATA_OFFSET

    def put(slot: int, value: int) -> None:
        machine.words[place // 8 + slot] = value

    put(vmcs.SLOT_GUEST_RFLAGS, 2 | v.interrupt_flag << 9)
    state = (1 if by_sti else 2) * v.shadow | v.nmi_masked << 3
    put(vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO, state)
    put(vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD, VALID * v.event_injected)
    expected = oracle.blocked(v, oracle.vmx_nested(v), is_nmi, vector)
    assert check(machine, "vmx_interrupt_blocked", is_nmi, vector) == expected


@pytest.mark.parametrize(
    ("first", "second", "vector"),
    [(14, 14, 8), (14, 13, 8), (13, 14, 14), (13, 11, 8), (6, 13, 13), (0, 10, 8), (14, 6, 6)],
)
def test_an_exception_of_l0_merges_with_one_that_waits(machines, first, second, vector):
    """SDM vol. 3, table 6-5."""
    machine = machines["svm"]
    place = prepare(machine, oracle.Vcpu(True, False, False, 0, False, False, False))
    slot = (place + vmcb.EVENT_INJ) // 8
    machine.words[slot] = VALID | 3 << 8 | first
    entry("svm_inject")(machine.address, second, 0x18, 1)
    event = int(machine.words[slot])
    assert event & 0xFF == vector
    assert event & VALID and event >> 8 & 7 == 3
    assert event >> 32 == (0 if vector == 8 else 0x18)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), VECTORS),
        st.tuples(st.just("tpr"), st.integers(0, 255)),
        st.tuples(st.just("eoi"), st.just(0)),
        st.tuples(st.just("deliver"), st.just(0)),
    ),
    max_size=40,
)
TPR, PPR, EOI, SVR, SELF_IPI = 0x808, 0x80A, 0x80B, 0x80F, 0x83F


@settings(max_examples=200, deadline=None)
@given(actions=ACTIONS)
def test_local_apic_priorities(actions):
    machine = Bare()
    address = machine.machine.address
    machine.cpu["apic_base"] = 0xFEE00D00
    machine.cpu["sysflags"] = 0x202
    write, read, attend = entry("apic_write"), entry("apic_read"), entry("attend")
    assert write(address, SVR, 0x1FF) == 0
    twin = oracle.LocalApic()
    for action, value in actions:
        if action == "request":
            twin.request(value)
            write(address, SELF_IPI, value)
        elif action == "tpr":
            twin.tpr = value
            write(address, TPR, value)
        elif action == "eoi":
            twin.end_of_interrupt()
            write(address, EOI, 0)
        else:
            expected = twin.deliver()
            taken = attend(address) == 1
            vector = int(machine.record["exc"]["vector"][0]) if taken else None
            assert vector == expected
        assert read(address, PPR) == 0
        assert int(machine.record["result"][0]) == twin.priority
