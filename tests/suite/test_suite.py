"""The rule suite itself: what it covers, that its rules can fail, and how it reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from workbench import rules as suite
from workbench.cli import main
from workbench.errors import WorkbenchError
from workbench.guests.image import Image
from workbench.guests.load import load_image
from workbench.simulate import Run, build

RULES = suite.rules()


def test_both_backends_have_many_rules():
    backends = Counter(rule.backend for rule in RULES)
    assert sum(backends.values()) >= 150
    assert min(backends["svm"], backends["vmx"]) >= 50


def test_names_are_unique_and_sources_are_given():
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.source.startswith(("APM", "SDM", "nested L0")), rule.name
        assert len(rule.says) > 12 and rule.says != rule.name, rule.name


def _without(image: Image, *symbols: str) -> Image:
    """The program without the instruction (of three bytes) at each symbol."""
    segments = [(start, bytearray(content)) for start, content in image.segments]
    for symbol in symbols:
        at = image.symbol(symbol)
        for start, content in segments:
            if start <= at < start + len(content):
                content[at - start : at - start + 3] = b"\x90\x90\x90"
    return replace(image, segments=tuple((start, bytes(content)) for start, content in segments))


def _says(rule: suite.Rule, image: Image) -> str:
    """The serial line of a rule when its file is another program."""
    scenario = rule.scenario()
    built = build(scenario)
    for address, content in image.segments:
        built.write(1, address, content)
    run = Run(scenario, built)
    while run.advance(suite.MAX_STEPS):
        pass
    return str(run.result().facts["serial"])


@pytest.mark.parametrize("name", ["svm-exits", "vmx-exits"])
def test_rules_about_exits_fail_when_l2_is_not_entered(name):
    """Mutation check: the same programs with VMRUN, VMLAUNCH and VMRESUME taken out."""
    rules = [rule for rule in RULES if rule.path.stem == name]
    entries = ["run_vmrun"] if name.startswith("svm") else ["run_vmlaunch", "run_vmresume"]
    image = _without(load_image(rules[0].path), *entries)
    passed = [rule.name for rule in rules if "PASS" in _says(rule, image)]
    assert not passed


def test_a_rule_without_an_answer_fails(tmp_path):
    path = tmp_path / "silent.S"
    path.write_text(
        "# @param rule 16 0 0 9 n : x\n.intel_syntax noprefix\nmov al, 0\nout 0xf4, al\n"
    )
    rule = suite.Rule("svm.silent.nothing", "Nothing.", "APM", path, 0)
    verdict = suite.check(rule)
    assert verdict.outcome == "FAIL"
    assert "without an answer" in verdict.text


def test_command_checks_rules_and_lists_them(capsys):
    assert main(["rules", "svm.exits.cpuid_exits", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "PASS svm.exits.cpuid_exits\n" in out
    assert "0 FAIL" in out
    assert main(["rules", "--list", "vmx.exits.cpuid_exits"]) == 0
    assert "SDM vol. 3" in capsys.readouterr().out


def test_an_unknown_rule_is_named():
    with pytest.raises(WorkbenchError, match="nothing_like_it"):
        suite.matching("nothing_like_it")
