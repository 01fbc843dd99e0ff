"""Every row of tlb_flush_rules.csv: small guests raise its trigger, and the caches lose what it says.

Each case names its row, runs L1 and L2 up to the trigger and steps over it.  What it demands: which
level's translations are gone (``n1``, ``n2``), which flushes were counted, how many tags were taken,
how often L0 executed a flush, and how many nested p2ms were emptied.  Rows of L0 run under that
hypervisor's tag policy where the policy is the rule, and under ``own`` where another flush would
hide the one in question.  Rows that cannot be raised here stand in ``NOT_RAISED``, with the reason and a
test that it still holds.

The processor's rows are lower bounds: it may drop more than the manual demands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.model.flush_probe import L2_LOOP, Probe
from tests.model.runs import count, simulated
from tests.model.stepping import PAGES, ROOTS, image
from workbench.arch.table import rows
from workbench.core import layout as lay
from workbench.core.ledger import FLUSH_REASONS
from workbench.scenario import Scenario

XEN = {"l2_tag_policy": "xen_2013", "np2m_flush": "generation"}
XEN_ALONE = {"l2_tag_policy": "own", "np2m_flush": "generation"}
KVM = {"l2_tag_policy": "kvm", "np2m_flush": "eager"}
VMCB = image("steps-svm").symbol("vmcb")
SVM_TWICE = [("enter_mapped", VMCB), ("enter_mapped", VMCB), ("load", PAGES[0])]
VMX_TWICE = [("enter_mapped",), ("enter_mapped",), ("load", PAGES[0])]
TWICE = {"SVM": SVM_TWICE, "VMX": VMX_TWICE}
EPTP, VPID, INSTRUCTION_ERROR = 0x201A, 0x0000, 0x4400
OFFSET_ASID, OFFSET_TLB_CONTROL, OFFSET_NCR3 = 0x58, 0x5C, 0xB0
ENTRIES = 11
"""Leaves of the nested p2m that the probe's L2 has filled."""


def eptp(root: int) -> int:
    return ROOTS[root] | 0x1E


@dataclass(frozen=True)
class Mark:
    """Where the trigger is: the n-th time at a label of a level's program."""

    label: str
    times: int = 1
    level: int = 1
    skip: int = 0


L2_EXIT = Mark("l2_cpuid", times=3, level=2, skip=2)
ENTRY = {"SVM": Mark("at_vmrun", 3), "VMX": Mark("at_vmresume", 3)}
"""The third VM entry (VMX: the first VMRESUME fails, VMLAUNCH follows)."""


@dataclass(frozen=True)
class Case:
    """A row, how it comes about, and what it demands."""

    row: tuple[str, str, str]
    mark: Mark
    middle: tuple[tuple, ...] = ()
    n1: str = "kept"
    n2: str = "kept"
    flushes: dict[tuple[str, str], int] = field(default_factory=dict)
    tags: int = 0
    executed: int = 0
    emptied: int = 0
    features: dict = field(default_factory=lambda: XEN_ALONE)
    note: str = ""
    backend: str = ""

    @property
    def on(self) -> str:
        return self.backend or self.row[1]

    def __str__(self) -> str:
        return "-".join((self.row[0], self.on, self.row[2][:40], self.note)).strip("-")


def xen(vendor: str, trigger: str, mark: Mark, **demanded) -> Case:
    return Case(("xen", vendor, trigger), mark, **demanded)


def kvm(vendor: str, trigger: str, mark: Mark, **demanded) -> Case:
    demanded["features"] = {**KVM, **demanded.get("features", {})}
    return Case(("kvm", vendor, trigger), mark, **demanded)


EVERY_SVM = "every L2 #VMEXIT (paging_update_nestedmode -> hvm_asid_flush_vcpu)"
EVERY_VMX = "every L2 exit (paging_update_nestedmode) and every hvm_set_cr3 in the switch (vmx_update_guest_cr(3))"
KVM_SVM = "every VMRUN and every nested #VMEXIT"
NO_VPID = "nested entry or exit, vmcs12 VPID disabled"
UNCHANGED = "nested entry/exit, VPID enabled unchanged, L0 uses EPT (any) or vpid02 available"
RENEWED, FORGOTTEN = ("TAG_RENEWED", "tag"), ("NP2M_CHANGED", "tag")

CASES = [
    # both contexts get new tags at every exit of L2, and no flush is executed
    *(
        xen(backend, row, L2_EXIT, features=XEN, n1="gone", n2="gone", flushes={RENEWED: 2}, tags=1)
        for backend, row in (("SVM", EVERY_SVM), ("VMX", EVERY_VMX))
    ),
    # the choice of the nested p2m is forgotten, what is in it stays; L2 had a new tag anyway
    xen("SVM", "VMRUN with vmcb12.tlb_control!=0", ENTRY["SVM"],
        middle=(("store8", VMCB + OFFSET_TLB_CONTROL, 3),), features=XEN,
        n1="gone", n2="gone", flushes={FORGOTTEN: 1}, tags=1),
    xen("SVM", "VMRUN with changed vmcb12.asid", ENTRY["SVM"],
        middle=(("store32", VMCB + OFFSET_ASID, 2),),
        n1="gone", n2="gone", flushes={("TLB_CONTROL", "tag"): 1, FORGOTTEN: 1}, tags=1),
    xen("VMX", "VM entry with changed vvmcs VPID", ENTRY["VMX"], middle=(("write_field", VPID, 2),),
        n2="gone", flushes={RENEWED: 1}, tags=1),
    *(
        xen("SVM", "INVLPGA emulation", Mark("at_invlpga"), note=f"asid {asid}",
            middle=(("do_invlpga", PAGES[0], asid),), flushes={("INVLPGA", "address"): 1}, executed=1,
            n1="kept" if asid else "some gone", n2="some gone" if asid else "kept")
        for asid in (0, 1, 2)
    ),
    xen("VMX", "INVEPT single-context", Mark("at_invept"), middle=(("do_invept", 1, eptp(0)),),
        n2="gone", emptied=1),
    xen("VMX", "INVEPT single-context", Mark("at_invept"), middle=(("do_invept", 1, eptp(1)),),
        note="of another root"),
    xen("VMX", "INVEPT all-context", Mark("at_invept"), middle=(("do_invept", 2, eptp(1)),),
        n2="gone", emptied=1, executed=1),
    *(
        xen("VMX", "INVVPID type 0,1,2", Mark("at_invvpid"), note=f"type {kind}",
            middle=(("do_invvpid", kind, 1, PAGES[2]),),
            n2="gone" if kind < 3 else "kept", flushes={("INVVPID", "tag"): 1} if kind < 3 else {})
        for kind in range(4)
    ),
    xen("both", "EFER.SVME cleared", Mark("at_svm_off"), backend="SVM",
        middle=(("svm_off_and_on",),), n2="gone", flushes={FORGOTTEN: 1}, emptied=1),
    xen("both", "np2m LRU reuse (11th distinct base)", ENTRY["SVM"], backend="SVM",
        middle=(("store64", VMCB + OFFSET_NCR3, ROOTS[1]),), features={**XEN_ALONE, "np2m_tables": "1"},
        n1="gone", n2="gone", flushes={FORGOTTEN: 2}, tags=1, emptied=1, note="2nd of 1"),
    xen("both", "np2m LRU reuse (11th distinct base)", ENTRY["VMX"], backend="VMX",
        middle=(("write_field", EPTP, eptp(1)),), features={**XEN_ALONE, "np2m_tables": "1"},
        n1="gone", n2="gone", flushes={FORGOTTEN: 2}, tags=1, emptied=1, note="2nd of 1"),
    xen("both", "np2m generation mismatch (another vCPU flushed)", ENTRY["VMX"], backend="VMX",
        middle=(("do_invept", 1, eptp(0)),), n1="gone", n2="gone", flushes={("INVEPT", "tag"): 2},
        tags=1, note="this vCPU did"),
    # KVM: one ASID for both, flushed at every switch, or replaced where the ASID cannot be flushed
    *(
        kvm("SVM", KVM_SVM, mark, n1="gone", n2="gone", flushes={("L1_L2_SWITCH", "tag"): 1},
            features={"flush_by_asid": by_asid}, executed=int(by_asid), tags=int(not by_asid),
            note=f"{what}, FlushByASID {by_asid}")
        for what, mark in (("entry", ENTRY["SVM"]), ("exit", L2_EXIT)) for by_asid in (True, False)
    ),
    kvm("SVM", "INVLPGA by L1", Mark("at_invlpga"), middle=(("do_invlpga", PAGES[0], 1),),
        n1="some gone", n2="gone", flushes={("INVLPGA", "address"): 1}, executed=1),
    *(
        kvm("VMX", NO_VPID, mark, n1="gone", n2="gone", flushes={("L1_WITHOUT_VPID", "tag"): 1},
            features={"vpid_for_l1": False}, executed=1, note=what)
        for what, mark in (("entry", ENTRY["VMX"]), ("exit", L2_EXIT))
    ),
    kvm("VMX", "nested entry, vmcs12 VPID != last_vpid", ENTRY["VMX"],
        middle=(("write_field", VPID, 2),), n2="gone", flushes={RENEWED: 1}, executed=1),
    kvm("VMX", UNCHANGED, ENTRY["VMX"], note="entry"),
    kvm("VMX", UNCHANGED, L2_EXIT, note="exit"),
    kvm("VMX", "INVEPT type 1", Mark("at_invept"), middle=(("do_invept", 1, eptp(0)),),
        n2="gone", emptied=1, flushes={("INVEPT", "tag"): 1}, executed=1),
    kvm("VMX", "INVEPT type 1", Mark("at_invept"), middle=(("do_invept", 1, eptp(1)),),
        note="of another root"),
    kvm("VMX", "INVEPT type 2", Mark("at_invept"), middle=(("do_invept", 2, eptp(1)),),
        n2="gone", emptied=1, flushes={("INVEPT", "tag"): 1}, executed=1),
    kvm("VMX", "INVVPID type 0", Mark("at_invvpid"), middle=(("do_invvpid", 0, 1, PAGES[0]),),
        n2="some gone", flushes={("INVVPID", "address"): 1}, executed=1),
    *(
        kvm("VMX", "INVVPID type 1,2,3", Mark("at_invvpid"), note=f"type {kind}",
            middle=(("do_invvpid", kind, 1, PAGES[0]),), n2="gone",
            flushes={("INVVPID", "tag"): 1}, executed=1)
        for kind in (1, 2, 3)
    ),
]  # fmt: skip


def probe(backend: str, middle=(), l2=None, l0: str = "xen", **features) -> Probe:
    """L1 enters L2 twice, does what ``middle`` says, and enters it twice again."""
    again = TWICE[backend]
    return Probe(
        backend.lower(), [*again, *middle, *again], l2 or L2_LOOP, l0=l0, features=features
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_of_l0_flushes_what_it_says(case):
    p = probe(case.on, case.middle, l0=case.row[0], **case.features)
    p.at(case.mark.label, case.mark.times, case.mark.level, case.mark.skip)
    effect = p.over()
    assert dict(effect.flushes) == case.flushes
    assert (effect.fate(1), effect.fate(2)) == (case.n1, case.n2)
    assert (effect.tags, effect.executed) == (case.tags, case.executed)
    assert effect.tables_emptied == case.emptied
    assert effect.entries_zapped == ENTRIES * case.emptied


def test_invvpid_type_3_of_xen_is_error_28():
    p = probe("VMX", [("do_invvpid", 3, 1, 0), ("read_field", INSTRUCTION_ERROR)], **XEN_ALONE)
    p.at("read_field")
    p.until(lambda: p.machine.register(lay.RAX) == 28)


@pytest.mark.parametrize("backend", ["SVM", "VMX"])
@pytest.mark.parametrize("event", ["balloon", "log_dirty"])
def test_a_change_of_l0s_own_table_empties_every_nested_p2m(backend, event):
    """Row: host p2m entry replaced / permissions reduced."""
    other = [("store64", VMCB + OFFSET_NCR3, ROOTS[1])] if backend == "SVM" else [
        ("write_field", EPTP, eptp(1))
    ]  # fmt: skip
    p = probe(backend, [*other, TWICE[backend][0]], l0_p2m_event=event, **XEN_ALONE)
    p.at("l2_cpuid", 4, 2, 2)
    p.m["p2m_countdown"] = 1  # the next exit
    effect = p.over()
    assert effect.tables_emptied == 2, "of both roots"
    assert (effect.fate(1), effect.fate(2)) == ("gone", "gone")
    assert dict(effect.flushes) == {("P2M_CHANGED", "tag"): 2}
    assert effect.executed == 0


# ---------------------------------------------------------------- the processor's rows

PGE, PTE_GLOBAL = 1 << 7, 0x100
HARDWARE_ROWS = {
    ("SVM", "TLB_CONTROL=1"), ("SVM", "TLB_CONTROL=3"), ("SVM", "TLB_CONTROL=7"),
    ("VMX", "VM entry/exit without VPID"), ("VMX", "VM entry/exit with VPID"),
    ("VMX", "MOV CR3 / INVLPG in guest"), ("VMX", "EPT violation"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("control", "n1", "n2", "scope"),
    [
        (1, "gone", "gone", "all"),
        (3, "gone", "kept", "tag"),
        (7, "some gone", "kept", "tag_nonglobal"),
    ],
)
def test_tlb_control_flushes_what_its_row_says(control, n1, n2, scope):
    """L1 has one global page cached; L0 enters it with a TLB_CONTROL value."""
    p = probe("SVM", [("reload_cr3",), ("load", PAGES[0]), ("hypercall",)], **XEN_ALONE)
    p.at("reload_cr3")
    make_global(p)
    p.at("hypercall")
    page = PAGES[0] >> 12
    hw = p.m["hw"]
    hw["tlb_control"], hw["tlb_reason"] = control, FLUSH_REASONS.index("TLB_CONTROL")
    effect = p.over()
    assert (effect.fate(1), effect.fate(2)) == (n1, n2)
    assert dict(effect.flushes) == {("TLB_CONTROL", scope): 1}
    assert effect.kept[1] == ({large(page)} if control == 7 else set()), "the global page"


def large(page: int) -> int:
    """A page number, of the 2 MB page that holds it."""
    return page & ~511


def make_global(p: Probe) -> None:
    """L1's second 2 MB become global."""
    p.m["cpu"]["cr4"] |= PGE
    base = p.machine.built.bank_offset(1) >> 3
    words = p.machine.built.words
    table = int(p.m["cpu"]["cr3"][0]) & ~0xFFF
    for _ in range(2):
        table = int(words[base + (table >> 3)]) & 0xFFFFFFFFFF000
    assert int(words[base + (table >> 3) + 1]) & 0x80, "L1 has 2 MB pages"
    words[base + (table >> 3) + 1] |= PTE_GLOBAL


@pytest.mark.parametrize("tagged", [True, False])
def test_without_vpid_entries_and_exits_flush_and_with_vpid_they_do_not(tagged):
    p = probe("VMX", [("hypercall",)], l2_tag_policy="own", tlb_tagging=tagged)
    p.at("hypercall")
    effect = p.over()
    if tagged:
        assert not effect.flushes
        assert (effect.fate(1), effect.fate(2)) == ("kept", "kept")
    else:
        assert dict(effect.flushes) == {("NO_TAGS", "all"): 1}, (
            "exit and entry, L0 between does not count"
        )
        assert (effect.fate(1), effect.fate(2)) == ("gone", "gone")


CR3_L2 = [("l2_load", PAGES[0]), ("l2_cpuid",), ("l2_load", PAGES[1]), ("l2_cpuid",)]


@pytest.mark.parametrize(
    ("call", "label", "fate"),
    [
        (("l2_reload_cr3",), "at_l2_cr3", "gone"),
        (("l2_invlpg", PAGES[0]), "at_l2_invlpg", "some gone"),
    ],
)
def test_cr3_and_invlpg_concern_the_vpid_with_all_roots_and_nothing_guest_physical(
    call, label, fate
):
    change = [("write_field", EPTP, eptp(1))]
    p = probe("VMX", change, [*CR3_L2, ("l2_load", PAGES[0]), call, ("l2_cpuid",)], **KVM, l0="kvm")
    p.at(label, level=2)
    live, tlb = live_by_tag(p), p.m["tlb"]
    generation = int(tlb["ntlb_generation"][0])
    here = int(p.m["hw"]["tag"][0])
    others = {tag for tag in live if tag != here and p.m["hw"]["tag_span"][0] < tag}
    assert others, "L2 has translations made with the other root"
    effect = p.over()
    assert effect.fate(2) == fate
    assert effect.fate(1) == "kept", "another VPID"
    assert not others & set(live_by_tag(p))
    assert int(tlb["ntlb_generation"][0]) == generation, "guest-physical translations stay"


def live_by_tag(p: Probe) -> set[int]:
    tlb = p.m["tlb"]
    return set(np.flatnonzero(tlb["live"][0] + tlb["live_global"][0]).tolist())


def test_an_ept_violation_takes_away_what_caused_it():
    """L1 lifts a write protection after the violation without INVEPT, and L2's write succeeds."""
    entry = ROOTS[0] + 0x3000 + (PAGES[0] >> 9)
    target = 0x40000000 + PAGES[0]
    p = Probe(
        "vmx",
        [
            ("store64", entry, target | 0x35),
            ("enter",),
            ("store64", entry, target | 0x37),
            ("enter",),
        ],
        [("l2_load", PAGES[0]), ("l2_store", PAGES[0] + 8, 0xC3), ("l2_cpuid",)],
        features=XEN_ALONE,
    )
    p.at("l2_cpuid", level=2, skip=2)
    assert p.machine.word(2, PAGES[0] + 8) & 0xFF == 0xC3
    assert int(p.m["ledger"]["flushes"][0, FLUSH_REASONS.index("INVEPT")].sum()) == 0


# ---------------------------------------------------------------- what cannot be raised


def one_processor() -> None:
    p = probe("SVM")
    assert p.m["cpu"].shape == p.m["hw"].shape == (1,), "one virtual, one physical processor"
    assert not {"cpus", "vcpus", "processors"} & set(Scenario.__dataclass_fields__)


def l2_with_a_vpid_always_has_vpid02() -> None:
    for paging, l1 in (("non", "minimal"), ("son", "shadow"), ("sos", "shadow")):
        run = simulated("vmx", l1=l1, paging=paging, l2_tag_policy="kvm", numbers={"l0": "kvm"})
        flushed = set(run.tlb.reason[run.tlb.flushes > 0])
        assert not {"L1_L2_SWITCH", "L1_WITHOUT_VPID"} & flushed, paging
        assert count(run, "HW_EXIT") > 0


def l0_does_not_watch_l1s_nested_tables() -> None:
    for backend in ("SVM", "VMX"):
        write = ("store64", ROOTS[0] + 0x3000 + (PAGES[2] >> 9), 0)
        p = probe(backend, [write], l0="kvm", **KVM)
        p.at("store64")
        before = p.machine.count("HW_EXIT")
        p.step()
        assert p.machine.count("HW_EXIT") == before


NOT_RAISED = {
    ("xen", "both", "vCPU moves to another pCPU"): (
        "one virtual and one physical processor", one_processor,
    ),
    ("kvm", "VMX", "nested entry/exit, VPID enabled unchanged, but L0 itself runs without EPT and has "
     "no vpid02 (nested_has_guest_tlb_tag false)"): (
        "a processor that tags has a VPID for L2 too", l2_with_a_vpid_always_has_vpid02,
    ),
    ("kvm", "both", "L1 modifies a write-protected L1-NPT/EPT page"): (
        "the nested p2m is filled by faults and emptied by invalidations, as Xen's; L0 write-protects "
        "L1's tables only where it shadows them", l0_does_not_watch_l1s_nested_tables,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", NOT_RAISED, ids=lambda row: row[2][:40])
def test_what_cannot_be_raised_still_cannot(row):
    reason, holds = NOT_RAISED[row]
    assert reason
    holds()


def test_every_row_is_raised_or_has_a_reason():
    table = {(r["hypervisor"], r["backend"], r["trigger"]) for r in rows("tlb_flush_rules")}
    host = ("xen", "both", "host p2m entry replaced / permissions reduced")
    raised = {case.row for case in CASES} | {host} | {("hw", *row) for row in HARDWARE_ROWS}
    assert table == raised | set(NOT_RAISED)
    assert not raised & set(NOT_RAISED)
