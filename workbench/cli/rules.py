"""Rules of the manuals, each a short L1 program in data/guests/rules that says PASS or FAIL.

A file holds many rules; a run checks one of them, on a machine of its own.  What a rule is about is
read from the assembled program (sections .rules and .remarks, see data/guests/rules/rules.inc), so
rules that a macro makes are listed as well.

Not covered: rules about more than one processor, and rules that need more than one run.
"""

from __future__ import annotations

import fnmatch
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from .. import features, personality
from ..arch import deviations
from ..errors import WorkbenchError, did_you_mean
from ..guests.image import Image
from ..guests.load import load_image
from ..paths import data_dir
from ..scenario import Scenario
from ..simulate import Run

MAX_STEPS = 200_000
"""A rule ends within some thousands of instructions; one that has lost its way is stopped here."""
MEMORY_MB = 64
_RULE = struct.Struct("<4Q")
_DEVIATION, _ONLY_WITH = 1, 2
_FIELDS = {f.name for f in fields(Scenario)}


def _number(text: str) -> int | str:
    return int(text, 0) if text[:1].isdigit() else text


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes
    ----------
    name : str
        back-end, file and rule, e.g. ``svm.exits.cpuid_exits``.
    says : str
        The rule as one sentence.
    source : str
        Section of the manual.
    path : Path
        File that holds it.
    number : int
        Its place in the file, from 0.
    settings : mapping of str to str
        What the machine must be like: features and numbers of the scenario.
    deviations : tuple of (str, str)
        Settings (``name=value``) with which the modelled machine is known to break it, and why; an
        empty setting: it always does.
    """

    name: str
    says: str
    source: str
    path: Path
    number: int
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
    deviations: tuple[tuple[str, str], ...] = ()

    @property
    def backend(self) -> str:
        """``svm`` or ``vmx``."""
        return self.name.partition(".")[0]

    def known_to_break(self, settings: Mapping[str, str] | None = None) -> str:
        """Why a machine with these settings breaks the rule; empty when it should not."""
        given = {"", *(f"{name}={value}" for name, value in (settings or {}).items())}
        own = set(deviations.of((settings or {}).get("l0", "manual"), self.backend))
        for setting, why in self.deviations:
            if setting in given or setting.partition("=")[0] in own:
                return why
        return ""

    def scenario(self, settings: Mapping[str, str] | None = None) -> Scenario:
        """The scenario that checks the rule, with further settings: features and deviations of
        either back-end, and fields of the scenario.

        L0 has no known deviation from the manuals unless ``l0`` says otherwise.
        """
        wanted = {"l0": "manual", **(settings or {}), **self.settings}
        plain: dict[str, Any] = {k: _number(v) for k, v in wanted.items() if k in _FIELDS}
        quirks = {k: v == "on" for k, v in wanted.items() if k in personality.catalogue()}
        toggles = {k: v for k, v in wanted.items() if k not in plain and k not in quirks}
        return Scenario(
            backend=self.backend, l1=str(self.path), l1_params={"rule": self.number},
            l2="compute", l2_memory_mb=4, l1_memory_mb=MEMORY_MB, timeline=0,
            max_instructions=MAX_STEPS,
            features=self._mine(toggles, features.catalogue()),
            deviations=self._mine(quirks, personality.catalogue()), **plain,
        )  # fmt: skip

    def _mine(self, given: dict[str, Any], catalogue: Mapping[str, Any]) -> dict[str, Any]:
        """Without what the other back-end alone has; unknown names stay, and are refused."""
        return {
            name: value
            for name, value in given.items()
            if name not in catalogue or self.backend in catalogue[name].backends
        }


OUTCOMES = ("PASS", "KNOWN", "FAIL")
"""KNOWN: broken, as the file says of the modelled machine."""


@dataclass(frozen=True)
class Verdict:
    """What a rule's program said.

    ``text`` is its line on the serial port, or why there is none; ``known`` says why this machine
    is known to break the rule.
    """

    rule: Rule
    passed: bool
    text: str
    known: str = ""

    @property
    def outcome(self) -> str:
        """One of :data:`OUTCOMES`."""
        if self.passed:
            return "PASS"
        return "KNOWN" if self.known else "FAIL"

    @property
    def line(self) -> str:
        """For a terminal: the guest's words, and of a known deviation the reason."""
        if self.outcome == "KNOWN":
            return f"KNOWN {self.text.removeprefix('FAIL ')}\n      {self.known}"
        return self.text


def rules_dir() -> Path:
    """Folder of the rules' programs."""
    return data_dir() / "guests" / "rules"


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, by file and in the order of the file."""
    return tuple(rule for path in sorted(rules_dir().glob("*.S")) for rule in read(path))


def matching(pattern: str = "") -> tuple[Rule, ...]:
    """The rules whose name has ``pattern`` in it; ``*`` and ``?`` stand for any letters.

    Raises
    ------
    WorkbenchError
        No rule has.
    """
    found = tuple(rule for rule in rules() if fnmatch.fnmatch(rule.name, f"*{pattern}*"))
    if not found:
        hint = did_you_mean(pattern, [rule.name for rule in rules()])
        raise WorkbenchError(f"no rule called {pattern!r}", hint or "workbench rules --list")
    return found


def parse_settings(changes: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as settings.

    Raises
    ------
    WorkbenchError
        One has no equals sign.
    """
    settings = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise WorkbenchError(f"--set {change}: not a change", "write NAME=VALUE")
        settings[name.strip()] = value.strip()
    return settings


def check(rule: Rule, settings: Mapping[str, str] | None = None) -> Verdict:
    """Run a rule's program on a fresh machine and read what it says."""
    run = Run(rule.scenario(settings))
    while run.advance(MAX_STEPS):
        pass
    facts = run.result().facts
    line = str(facts["serial"]).rstrip("\n")
    passed = line == f"PASS {rule.name}" and run.status == "stopped" and facts["stop_code"] == 0
    if not passed and not line.startswith("FAIL"):
        why = facts["fatal"] or run.status
        line = f"FAIL {rule.name}: the program ended without an answer ({why}) {line}".rstrip()
    return Verdict(rule, passed, line, rule.known_to_break(settings))


# ------------------------------------------------------------------------ the assembled program


def read(path: Path) -> Iterator[Rule]:
    """The rules of one file, one of the workbench's or your own."""
    image = load_image(path)
    prefix = _text(image, image.symbol("rules_prefix"))
    begin, end = image.symbol("rules"), image.symbol("rules_end")
    remarks = list(_remarks(image))
    entries = [_RULE.unpack(image.read(at, _RULE.size)) for at in range(begin, end, _RULE.size)]
    stops = [code for code, *_ in entries[1:]] + [1 << 64]
    for number, ((code, *texts), stop) in enumerate(zip(entries, stops, strict=True)):
        name, says, source = (_text(image, at) for at in texts)
        own = [(kind, subject, text) for kind, at, subject, text in remarks if code <= at < stop]
        settings = dict(s.split("=") for kind, s, _ in own if kind == _ONLY_WITH)
        broken = tuple(dict.fromkeys((s, t or _reason(s)) for k, s, t in own if k == _DEVIATION))
        yield Rule(prefix + name, says, source, path, number, settings, broken)


def _reason(setting: str) -> str:
    """What data/deviations.csv says of a deviation that a remark only names."""
    return personality.catalogue()[setting.partition("=")[0]].does


def _remarks(image: Image) -> Iterator[tuple[int, int, str, str]]:
    """(kind, address in the rule's code, subject, text) of each remark."""
    begin, end = image.symbol("remarks"), image.symbol("remarks_end")
    for at in range(begin, end, _RULE.size):
        kind, where, subject, text = _RULE.unpack(image.read(at, _RULE.size))
        yield kind, where, _text(image, subject), _text(image, text)


def _text(image: Image, at: int) -> str:
    """The zero-terminated string at an address."""
    for start, content in image.segments:
        if start <= at < start + len(content):
            return content[at - start :].partition(b"\0")[0].decode()
    raise WorkbenchError(f"{image.name}: no text at {at:#x}", "Does the file end in RULES_END?")
