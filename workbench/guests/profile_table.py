"""The table of L1 profiles as values, and the text that the generated programs have in common."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from ..arch.table import rows

TITLES = {
    "kvm-6.12": "KVM of Linux 6.12",
    "kvm-2.6.35": "KVM of Linux 2.6.35 (2010)",
    "kvm-87": "KVM 87 (2009), as in the Turtles paper",
    "kvm-uncached": "KVM without any register cache: the upper bound",
    "xen-4.2x": "Xen 4.2x",
    "virtualbox-7": "VirtualBox 7",
}
"""What to call the profiles of the table; another one is called by its own name."""

HANDLER_WORK = 925
"""Default of ``handler_work``: with it the CPUID path of kvm-2.6.35 comes to 1016 instructions.  Row
turtles-cpuid of data/published: the software of a CPUID exit of the KVM of that time takes 1506
cycles, of which 7 VMREADs and VMWRITEs at 70 cycles (data/prices/base/vmx.csv) are 490; the rest is
as many instructions at the price of one cycle each.  Assumed to be the same for all hypervisors and
kinds of exit."""


class Op(NamedTuple):
    """One operation: ``R`` VMREAD or ``W`` VMWRITE of a field, ``I`` another instruction.

    ``RDMSR-X`` and ``WRMSR-X`` are accesses to MSR X.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class Param(NamedTuple):
    """A parameter of a generated program."""

    name: str
    default: int
    maximum: int
    unit: str
    text: str


@dataclass(frozen=True)
class Row:
    """One row of the table: what a profile executes for one kind of exit."""

    exit_kind: str
    ops: tuple[Op, ...]
    optional: str
    notes: str
    confidence: str


@dataclass(frozen=True)
class Profile:
    """A hypervisor on one back-end, with its rows by exit kind."""

    name: str
    backend: str
    rows: dict[str, Row]

    @property
    def title(self) -> str:
        """One line for people."""
        vendor = {"svm": "AMD SVM", "vmx": "Intel VMX"}[self.backend]
        return f"{TITLES.get(self.name, self.name)} on {vendor}, operation by operation"

    def has(self, *kinds: str) -> bool:
        """Does the table have a row for one of these kinds?"""
        return any(kind in self.rows for kind in kinds)


COMMON_PARAMS = (
    Param("unmap_period", 0, 1_000_000_000, "exits",
          "take pages of L2 away after so many L2 exits (0: never)"),
    Param("unmap_pages", 1, 64, "pages", "how many pages each time, those mapped last"),
    Param("handler_work", HANDLER_WORK, 20_000, "instructions",
          "plain instructions per exit for the part of the handler that is not spelled out"),
    Param("irq_vector", 0, 255, "vector",
          "interrupt that L1 gives L2 when it halts with interrupts on; 0: a HLT of L2 ends the run"),
    Param("handler_pages", 0, 24, "pages",
          "pages that the part not spelled out reads, 2 MB apart, as far as the memory goes"),
)  # fmt: skip
"""Parameters of every program, in the order of their words."""


@cache
def profiles() -> tuple[Profile, ...]:
    """Every hypervisor and back-end of the table, in its order."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows("l1_profiles"):
        ops = tuple(Op(*text.split(":")) for text in row["ops"].split())
        kinds = found.setdefault((row["profile"], row["backend"].lower()), {})
        kinds[row["exit_kind"]] = Row(
            row["exit_kind"], ops, row["optional_ops"] or "", row["notes"], row["confidence"]
        )
    return tuple(Profile(*key, kinds) for key, kinds in found.items())


# ------------------------------------------------------------------------ shared by both back-ends


def header(profile: Profile, params: Sequence[Param]) -> list[str]:
    """The description at the head of a program, and names for its parameter words."""
    lines = [f"# @title   {profile.title}", f"# @backend {profile.backend}"]
    for word, p in enumerate(params, 16):
        low = 1 if p.name == "unmap_pages" else 0
        lines.append(f"# @param {p.name} {word} {p.default} {low} {p.maximum} {p.unit} : {p.text}")
    lines += ["#", *comment(
        f"Generated from l1_profiles.csv, profile {profile.name}, back-end "
        f"{profile.backend.upper()}. Each path executes the virtualization operations of one row "
        "of the table, in its order; R: VMREAD, W: VMWRITE, I: another instruction. What is called "
        "in between does not leave L1, but for what L2 asks of the serial port."
    ), "", ".intel_syntax noprefix", '.include "l1.inc"']  # fmt: skip
    names = [f".set {p.name.upper()}, L1_OWN + {i}*8" for i, p in enumerate(params)]
    return [*lines, *names]


def comment(text: str, width: int = 96) -> list[str]:
    """Comment lines of a text."""
    return [f"# {line}" for line in textwrap.wrap(text, width)]


def heading(text: str) -> list[str]:
    """A ruled comment between two parts of a program."""
    return ["", f"# {'=' * 62} {text}"]


def row_comment(row: Row, kind: str) -> list[str]:
    """What the table says about the row that a path follows."""
    said = f"Row {row.exit_kind}"
    if kind != row.exit_kind:
        said += f", the nearest that the table has for {kind}"
    notes = f": {row.notes.strip()}" if row.notes else ""
    return ["", *comment(f"---- {kind}. {said} ({row.confidence}){notes}")]


def instruction(text: str, note: str = "") -> str:
    """One line of a program, with an optional comment."""
    mnemonic, _, operands = text.partition(" ")
    line = f"        {mnemonic:<7} {operands}".rstrip()
    return f"{line:<44}# {note}" if note else line


def code(text: str) -> list[str]:
    """Instructions separated by ``;``."""
    return [instruction(part.strip()) for part in text.split(";") if part.strip()]


def optional_fields(profile: Profile) -> dict[Op, str]:
    """Optional VMREADs and VMWRITEs of a profile, with what the table says when they happen."""
    found: dict[Op, str] = {}
    for row in profile.rows.values():
        for kind, name, when in re.findall(r"\+([RW]):(\w+) ([^;]*)", row.optional):
            found.setdefault(Op(kind, name), when.strip())
    return found
