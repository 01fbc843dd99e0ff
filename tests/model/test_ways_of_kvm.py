"""What KVM as L0 does in its own way on VMX, in whole runs: the exits of L2 that the hardware makes."""

from __future__ import annotations

from workbench.cli import rules as suite
from workbench.simulate import run


def exits_of_l2(rule: str, **settings: str) -> dict[tuple[str, str], int]:
    """Hardware exits of L2 while a rule is checked, by exit and by who handled it."""
    (found,) = (r for r in suite.matching(rule) if r.name == rule)
    given = suite.parse_settings([f"{name.replace('__', '.')}={v}" for name, v in settings.items()])
    result = run(found.scenario(given))
    assert f"PASS {rule}" in str(result.facts["serial"])
    rows = result.exits[result.exits.from_level == "L2"]
    counts = rows.groupby(["exit", "handled_by"])["count"].sum()
    return {key: int(n) for key, n in counts.items() if n}


def test_l2_changes_cr0_ts_without_an_exit_under_kvm():
    """TS belongs to the guest there, where L1 does not own it; the rule sees it saved all the same."""
    rule = "vmx.state.exit_saves_cr0"
    assert exits_of_l2(rule, l0="xen")["CR_ACCESS", "L0"] == 1
    assert ("CR_ACCESS", "L0") not in exits_of_l2(rule, l0="kvm")


def test_a_write_of_a_bit_that_l1_owns_exits_under_kvm_too():
    rule = "vmx.exits.cr0_write_to_an_owned_bit_exits"
    assert exits_of_l2(rule, l0="kvm")["CR_ACCESS", "L1"] == 1


def test_the_preemption_timer_of_kvm_is_an_interrupt_to_l0():
    rule = "vmx.lists.timer_ends_a_loop"
    kvm, manual = exits_of_l2(rule, l0="kvm"), exits_of_l2(rule)
    assert manual["PREEMPTION_TIMER", "L1"] == 1
    assert not any(name == "PREEMPTION_TIMER" for name, _ in kvm)
    assert kvm["EXTERNAL_INTERRUPT", "L0"] == 1, "L0's own timer; it makes L1's exit out of it"
