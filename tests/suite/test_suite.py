"""The rule suite itself: what it covers, that its rules can fail, and how it reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from workbench.cli import rules as suite
from workbench.cli.main import main
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


def test_settings_reach_the_machine_and_those_of_the_other_backend_do_not():
    settings = suite.parse_settings(["virtual_gif=on", "vmcs_shadowing=on", "asids=8"])
    chosen = {r.backend: r.scenario(settings) for r in suite.matching(".exits.cpuid_exits")}
    assert dict(chosen["svm"].features) == {"virtual_gif": True}
    assert dict(chosen["vmx"].features) == {"vmcs_shadowing": True}
    assert chosen["svm"].asids == 8


@pytest.mark.parametrize("wrong", ["virtual_gif", "no_such_feature=on", "asids=many"])
def test_a_setting_that_cannot_be_used_is_an_error(wrong, capsys):
    assert main(["rules", "svm.exits.cpuid_exits", "--set", wrong, "--quiet"]) == 1
    assert wrong.partition("=")[0] in capsys.readouterr().err


ASSISTED = [
    "l0=xen",
    "l0=kvm",
    "vmcs_shadowing=on virtual_gif=on virtual_vmload_vmsave=on ept_ad=on",
    "tlb_tagging=off paging_structure_caches=off msr_map=intercept_all",
    "np2m_flush=generation np2m_tables=1 l2_tag_policy=xen_2013 vpid_for_l1=off",
    "np2m_flush=eager l2_tag_policy=shared_flush l0_page_size=4k",
    "l2_tag_policy=kvm msr_map=merged asids=4 l0_p2m_event=balloon",
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", ASSISTED)
def test_rules_hold_on_other_machines(settings):
    """No feature changes what the manual says, but for what the rules name as deviations."""
    verdicts = [suite.check(rule, suite.parse_settings(settings.split())) for rule in RULES]
    assert not [v.text for v in verdicts if v.outcome == "FAIL"]
