"""The local APIC in memory that L1 program kvm-87 gives L2: accesses exit, an IPI waits its turn."""

import pytest

from tests.model.profile_loads import l2_result, simulated
from workbench.guests.profiles import profiles
from workbench.scenario import Scenario
from workbench.simulate import run

ROWS = next(p for p in profiles() if p.name == "kvm-87").rows
BASE = {"backend": "vmx", "l1": "kvm-87", "features": {"apicv": True}}
UNUSABLE = 4
"""How an L1 ends that the processor does not offer what it needs."""
APIC = {"apic_page": 1, "handler_work": 0}


@pytest.mark.parametrize("l0", ["xen", "kvm"])
@pytest.mark.parametrize("page", ["4k", "2m"])
def test_each_interrupt_waits_for_its_window_and_is_taken_once(l0, page):
    wanted = Scenario(l0=l0, l2="window", l2_params={"iterations": 30, "work": 8},
                      l1_params=APIC, l2_page_size=page, **BASE)  # fmt: skip
    counts = simulated(wanted).operations.set_index("cause")
    assert l2_result(wanted) == 30
    for cause in ("APIC_ACCESS", "INTERRUPT_WINDOW"):
        assert counts.loc[cause, "operations"] == 30
    # the exit itself, the operations of the row, and those of the injection
    window = 1 + len(ROWS["irq_window"].ops) + len(ROWS["irq_inject"].ops)
    assert counts.loc["INTERRUPT_WINDOW", "exits_per_operation"] == window
    # what is read to find L2 not interruptible, and the request of the window
    request = len(ROWS["irq_inject"].ops) - 1 + 1
    access = 1 + len(ROWS["apic_access"].ops) + request
    assert counts.loc["APIC_ACCESS", "exits_per_operation"] == access


@pytest.mark.parametrize("share", [0, 40, 100])
def test_each_access_to_a_register_exits_with_a_reason_of_its_own(share):
    params = {"iterations": 50, "work": 0, "address": 0xFEE000B0, "write_percent": share}
    wanted = Scenario(l2="mmio", l2_params=params, l1_params=APIC, **BASE)
    exits = simulated(wanted).exits
    own = exits[(exits["exit"] == "APIC_ACCESS") & (exits["from_level"] == "L2")]
    assert own["count"].sum() == 50 and set(own["handled_by"]) == {"L1"}
    assert l2_result(wanted) == share * 50 // 100


def test_without_the_control_l1_says_that_it_cannot_run():
    wanted = Scenario(**(BASE | {"features": {}}), l2="mmio", l1_params=APIC)
    result = run(wanted)
    assert result.status == "stopped" and result.stop_code == UNUSABLE
    assert result.exits.query("from_level == 'L2'").empty
