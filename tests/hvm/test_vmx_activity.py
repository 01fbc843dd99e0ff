"""Activity states of L2, CR3 targets, and bits of CR0 and CR4 that an L0 leaves to its guests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hvm.test_vmx_kvm import KvmMachine
from tests.oracle import vmx as oracle
from tests.oracle.vmx_machine import GOOD_VMCS12, L2_CR3, VmxMachine
from workbench.arch import vmx
from workbench.core import layout
from workbench.core.cpu.apic import TIME_SHIFT
from workbench.core.hvm.vmx.controls import KVM_CR0_GUEST, KVM_CR4_GUEST
from workbench.core.ledger import EVENTS

HLT, SHUTDOWN, SIPI = 1, 2, 3
CR0_TS, CR0_WP, CR4_TSD, CR4_PSE = 8, 1 << 16, 4, 1 << 4
WORD = (1 << 64) - 1
PIN, CPU = "PIN_BASED_VM_EXEC_CONTROL", "CPU_BASED_VM_EXEC_CONTROL"


def with_l0(l0: int = layout.L0_MANUAL) -> VmxMachine:
    kind = KvmMachine if l0 == layout.L0_KVM else VmxMachine
    made = kind(l0=l0, deviations=0)
    made.m["ledger"]["price"][0][EVENTS.index("IDLE_CYCLE")] = 1 << TIME_SHIFT
    return made


def entered(l0: int = layout.L0_MANUAL, **changes: int) -> tuple[VmxMachine, int]:
    """L1 launches L2; with the outcome of L0's path to the hardware entry."""
    made = with_l0(l0)
    made.enter_vmx_operation()
    made.fill_vmcs12(**changes)
    made.execute("VMLAUNCH")
    return made, made.call("l0_exit")


def idle_cycles(made: VmxMachine) -> int:
    return int(made.m["ledger"]["counts"][0][:, EVENTS.index("IDLE_CYCLE")].sum())


# ---------------------------------------------------------------- activity states


@pytest.mark.parametrize("state", [HLT, SHUTDOWN, SIPI])
def test_an_inactive_l2_that_nothing_wakes_stops_the_machine(state):
    made, outcome = entered(GUEST_ACTIVITY_STATE=state)
    assert outcome == layout.ST_HALT
    assert made.m["nv"]["activity"][0] == state
    assert made.get(2, "GUEST_ACTIVITY_STATE") == 0, "the processor never enters so"


@pytest.mark.parametrize("l0", [layout.L0_XEN, layout.L0_KVM])
def test_an_l0_that_does_not_offer_shutdown_refuses_it(l0):
    made, outcome = entered(l0, GUEST_ACTIVITY_STATE=SHUTDOWN)
    assert outcome == layout.ST_BRANCH
    assert made.get(12 if l0 == layout.L0_XEN else 1, "GUEST_RIP")
    assert made.m["level"][0] == 1
    assert made.m["nv"]["activity"][0] == 0


@pytest.mark.parametrize("state", [HLT, SHUTDOWN])
def test_the_preemption_timer_runs_while_l2_does_not(state):
    pin = GOOD_VMCS12[PIN] | vmx.PIN_VMX_PREEMPTION_TIMER
    made, outcome = entered(
        GUEST_ACTIVITY_STATE=state, VMX_PREEMPTION_TIMER_VALUE=1000, **{PIN: pin}
    )
    assert outcome == layout.ST_BRANCH
    assert (made.m["level"][0], made.get(12, "VM_EXIT_REASON")) == (1, vmx.EXIT_PREEMPTION_TIMER)
    assert made.get(12, "GUEST_ACTIVITY_STATE") == state
    assert 999 * 32 < idle_cycles(made) <= 1001 * 32


def test_the_preemption_timer_does_not_end_wait_for_sipi():
    pin = GOOD_VMCS12[PIN] | vmx.PIN_VMX_PREEMPTION_TIMER
    _, outcome = entered(GUEST_ACTIVITY_STATE=SIPI, VMX_PREEMPTION_TIMER_VALUE=9, **{PIN: pin})
    assert outcome == layout.ST_HALT


def test_what_is_left_of_the_timer_goes_on_in_the_processor():
    """An NMI that L1 does not want wakes L2 before the timer ends."""
    made = with_l0()
    made.enter_vmx_operation()
    pin = GOOD_VMCS12[PIN] | vmx.PIN_VMX_PREEMPTION_TIMER
    made.fill_vmcs12(GUEST_ACTIVITY_STATE=HLT, VMX_PREEMPTION_TIMER_VALUE=100_000, **{PIN: pin})
    irq = made.m["irq"]
    irq["active"], irq["nmi_period"] = 1, 50_000
    irq["nmi_next"] = made.m["ledger"]["time"] + (50_000 << 10)
    made.execute("VMLAUNCH")
    assert made.call("l0_exit") == layout.ST_FAULT, "an NMI to deliver"
    assert made.m["level"][0] == 2
    left = made.get(2, "VMX_PREEMPTION_TIMER_VALUE")
    assert 100_000 - 50_000 // 32 - 20 < left < 100_000
    assert made.m["irq"]["nested_deadline"][0] == 0
    assert made.m["hw"]["timer_deadline"][0] > 0


# ---------------------------------------------------------------- CR3 targets

values = st.sampled_from([0, L2_CR3, 0x11000, 0x12000, 0x13000, 0x14000])


@settings(max_examples=300, deadline=None)
@given(count=st.integers(0, 4), targets=st.tuples(values, values, values, values), value=values,
       load=st.booleans(), store=st.booleans(), write=st.booleans(),
       l0=st.sampled_from([layout.L0_XEN, layout.L0_KVM, layout.L0_MANUAL]))  # fmt: skip
def test_l0_routes_cr3_exits_by_the_targets_of_vmcs12(
    count, targets, value, load, store, write, l0
):
    """As with L0 shadow paging, where every load of CR3 exits to L0."""
    made = ROUTING[l0]
    controls = GOOD_VMCS12[CPU] & ~(vmx.CPU_CR3_LOAD_EXITING | vmx.CPU_CR3_STORE_EXITING)
    controls |= vmx.CPU_CR3_LOAD_EXITING if load else 0
    controls |= vmx.CPU_CR3_STORE_EXITING if store else 0
    offered = l0 == layout.L0_MANUAL
    fields = {CPU: controls, "CR3_TARGET_COUNT": count, "CR0_GUEST_HOST_MASK": 0}
    fields |= {f"CR3_TARGET_VALUE{n}": target for n, target in enumerate(targets)}
    for name, word in fields.items():
        made.put(12, name, word)
    made.state["n2_guest"] = 1
    made.gpr[3] = value
    made.m["exit"]["code"] = vmx.EXIT_CR_ACCESS
    made.m["exit"]["info1"] = qualification = 3 << 8 | (0 if write else 1 << 4) | 3
    seen = fields if offered else {**fields, "CR3_TARGET_COUNT": 0}
    wanted = oracle.cr_access_goes_to_l1(seen, qualification, value)
    assert (made.call("vmx_route") == 1) == wanted


def _routing(l0: int) -> VmxMachine:
    made = with_l0(l0)
    made.enter_vmx_operation()
    return made


class _Machines(dict):
    def __missing__(self, l0: int) -> VmxMachine:
        self[l0] = _routing(l0)
        return self[l0]


ROUTING = _Machines()


@pytest.mark.parametrize("l0", [layout.L0_XEN, layout.L0_MANUAL])
def test_vmcs02_has_the_targets_where_l1_may_have_them(l0):
    targets = {f"CR3_TARGET_VALUE{n}": 0x1000 * n for n in range(4)}
    made = VmxMachine(l0=l0, deviations=0)
    if l0 == layout.L0_MANUAL:
        made.launch(CR3_TARGET_COUNT=3, **targets)
        assert {name: made.get(2, name) for name in targets} == targets
    else:
        made.launch(**targets)
    assert made.get(2, "CR3_TARGET_COUNT") == (3 if l0 == layout.L0_MANUAL else 0)


# ---------------------------------------------------------------- guest-owned bits of CR0 and CR4


@settings(max_examples=60, deadline=None)
@given(mask0=st.integers(0, WORD), mask4=st.integers(0, WORD),
       l0=st.sampled_from([layout.L0_XEN, layout.L0_KVM]))  # fmt: skip
def test_the_host_owns_what_l0_or_l1_owns(mask0, mask4, l0):
    made = ROUTING[l0]
    made.state["n2_guest"] = made.state["vmexit_pending"] = 0
    made.fill_vmcs12(CR0_GUEST_HOST_MASK=mask0, CR4_GUEST_HOST_MASK=mask4)
    made.call("vmx_enter_n2")
    kvm = l0 == layout.L0_KVM
    own0 = WORD & ~KVM_CR0_GUEST if kvm else WORD
    assert made.get(2, "CR0_GUEST_HOST_MASK") == own0 | mask0
    own4 = WORD & ~KVM_CR4_GUEST if kvm else made.get(1, "CR4_GUEST_HOST_MASK")
    assert made.get(2, "CR4_GUEST_HOST_MASK") == own4 | mask4


def test_the_bits_that_kvm_leaves_to_its_guests():
    assert KVM_CR0_GUEST == CR0_TS | CR0_WP
    assert KVM_CR4_GUEST & CR4_TSD and not KVM_CR4_GUEST & (CR4_PSE | 1 << 5 | 1 << 13)
