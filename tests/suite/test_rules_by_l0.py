"""The rules under the modelled hypervisors: each holds, or the file says which deviation breaks it."""

from __future__ import annotations

import pytest

from workbench.cli import rules as suite


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["svm", "vmx"])
@pytest.mark.parametrize("l0", ["xen", "kvm"])
def test_a_rule_that_an_l0_breaks_is_known_to_break(l0, backend):
    rules = [rule for rule in suite.rules() if rule.backend == backend]
    broken = [v.text for v in (suite.check(r, {"l0": l0}) for r in rules) if v.outcome == "FAIL"]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    "name", ["interrupt_comes_behind_sti", "blocking_of_the_vmcs_holds_one_instruction"]
)
def test_kvm_opens_the_window_for_an_interrupt_of_l2(name):
    (rule,) = suite.matching(f"vmx.interrupts.{name}")
    assert suite.check(rule, {"l0": "kvm"}).passed
