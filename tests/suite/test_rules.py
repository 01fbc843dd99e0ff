"""The rules of the manuals, one test per rule: each is an L1 program that says PASS or FAIL."""

from __future__ import annotations

import pytest

from workbench import rules as suite

RULES = suite.rules()


def _case(rule: suite.Rule):
    marks = ()
    if rule.deviation:
        wanted = not rule.deviation.startswith("not modelled")
        marks = (pytest.mark.xfail(reason=rule.deviation, strict=wanted),)
    return pytest.param(rule, id=rule.name, marks=marks)


@pytest.mark.parametrize("rule", [_case(rule) for rule in RULES])
def test_rule(rule):
    verdict = suite.check(rule)
    assert verdict.passed, f"{verdict.text}\n{rule.says} ({rule.source})"
