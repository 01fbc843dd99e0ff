"""Every exit reason, row by row of vmx_exit_reach.csv: L2 runs into it under a real L1.

The rows become a file of rules (data/guests/rules): one L1 program that compares the fields of its
VMCS with the table's, which is written from the manual.
"""

from __future__ import annotations

import pytest

from workbench.arch.table import rows
from workbench.cli import rules as suite

REASONS = {r["name"]: r for r in rows("vmx_exit_reasons") if not r["name"].startswith("FLAG_")}
REACH = {"_".join(filter(None, (r["name"], r["case"]))).lower(): r for r in rows("vmx_exit_reach")}
REACHED = [name for name, row in REACH.items() if row["reach"] == "yes"]
ENTRY_FAILED = 1 << 31
FIELDS = {
    "EXIT_QUALIFICATION": "qualification",
    "GUEST_LINEAR_ADDRESS": "linear",
    "VM_EXIT_INTR_INFO": "intr_info",
    "VM_EXIT_INSTRUCTION_LEN": "length",
}
ROUTINES = """
.macro CPU_CONTROL mask
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, \\mask
.endm
.set PIN_NMI_EXITING, 1 << 3
descriptor_exiting:
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_DESC
        ret
virtual_apic:
        CPU_CONTROL CPU_TPR_SHADOW
        SET_AT  VIRTUAL_APIC_PAGE_ADDR, page
        SET     TPR_THRESHOLD, 0
        ret
apic_access_page:
        SET_BITS SECONDARY_VM_EXEC_CONTROL, 1
        SET     APIC_ACCESS_ADDR, WINDOW
        ret
virtual_interrupts:
        call    apic_access_page
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_VIRTUAL_INTERRUPTS
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR
        ret
"""


def parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def compare(field: str, wanted: str) -> str:
    label = wanted.removeprefix("offset ")
    return f"CHECK_FIELD{'_AT' if label != wanted else ''} {field}, {label}"


def checks(name: str) -> list[str]:
    """What L1 compares after the exit."""
    row = REACH[name]
    reason = int(REASONS[row["name"]]["value"])
    if row["name"] == "INVALID_STATE":
        reason |= ENTRY_FAILED
    lines = [f"CHECK_FIELD VM_EXIT_REASON, {reason}"]
    lines.append(compare("GUEST_RIP", row["rip"] or f"offset at_{name}"))
    lines += [compare(field, row[column]) for field, column in FIELDS.items() if row[column]]
    if row["info_mask"]:
        lines.append(f"CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, {row['info_mask']}, {row['info']}")
    return lines


def program() -> str:
    lines = [
        "# @title   What each exit says", "# @backend vmx", ".intel_syntax noprefix",
        f'.include "{suite.rules_dir() / "vmx_rules.inc"}"',
        "# @param rule 16 0 0 1000 number : which rule", "RULES   vmx.reach", ROUTINES,
    ]  # fmt: skip
    for name in REACHED:
        lines.append(f'RULE {name}, "{name}", "SDM vol. 3, 28.2"')
        lines += [*parts(REACH[name]["setup"]), f"RUN l2_{name}", *checks(name)]
    lines.append("RULES_END")
    for name in REACHED:
        *before, last = parts(REACH[name]["code"])
        lines += [f"l2_{name}:", *before, f"at_{name}: {last}", "hlt"]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def reach(tmp_path_factory) -> dict[str, suite.Rule]:
    path = tmp_path_factory.mktemp("reach") / "reach-vmx.S"
    path.write_text(program())
    return {rule.name.removeprefix("vmx.reach."): rule for rule in suite.read(path)}


def test_the_table_has_rows_for_each_reason_and_why_others_are_missing():
    assert {row["name"] for row in REACH.values()} == set(REASONS)
    known = {rule.name for rule in suite.rules()}
    for row in REACH.values():
        assert row["reach"] in ("yes", "event", "no")
        assert row["note"] or row["reach"] == "yes", row["name"]
        if row["reach"] == "event":
            assert row["code"] in known, row["code"]
        assert bool(row["qualification"]) == (row["reach"] == "yes"), row["name"]


@pytest.mark.parametrize("name", REACHED)
def test_l1_gets_the_exit_with_its_information(reach, name):
    verdict = suite.check(reach[name])
    assert verdict.passed, verdict.text
