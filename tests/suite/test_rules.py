"""The rules of the manuals, one test per rule: each is an L1 program that says PASS or FAIL."""

from __future__ import annotations

import pytest

from workbench.cli import rules as suite

RULES = suite.rules()
BROKEN = [(rule, setting) for rule in RULES for setting, _ in rule.deviations if setting]


def _case(rule: suite.Rule):
    marks = ()
    why = rule.known_to_break()
    if why:
        strict = not why.startswith("not modelled")
        marks = (pytest.mark.xfail(reason=why, strict=strict),)
    return pytest.param(rule, id=rule.name, marks=marks)


@pytest.mark.parametrize("rule", [_case(rule) for rule in RULES])
def test_rule(rule):
    verdict = suite.check(rule)
    assert verdict.passed, f"{verdict.text}\n{rule.says} ({rule.source})"


@pytest.mark.parametrize(
    ("rule", "setting"), [pytest.param(*case, id=f"{case[0].name}-{case[1]}") for case in BROKEN]
)
def test_a_setting_that_is_known_to_break_a_rule_breaks_it(rule, setting):
    verdict = suite.check(rule, suite.parse_settings([setting]))
    assert verdict.outcome == "KNOWN", verdict.text
