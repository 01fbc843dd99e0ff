"""TLB tags against their oracle twin: random accesses, switches, renewals and invalidations.

After every step the valid entries of the TLB are those that the twin has, so nothing is used that a
rule forbids, and the ledger has the twin's flushes and dropped entries by reason and scope.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mmu.machines import load, mapped_machine, pending, words_of
from tests.oracle import tags as oracle
from workbench.core import layout as lay
from workbench.core.hvm.records import MAX_NP2M
from workbench.core.hvm.tags import ROOTS
from workbench.core.ledger import EVENTS, FLUSH_REASONS, FLUSH_SCOPES
from workbench.core.mmu.records import TR_GLOBAL
from workbench.core.units import entry
from workbench.machine import TABLES

FIRST_PAGE = 0x200
PAGES = 8
"""Pages in use; those from the fourth on are global."""
GLOBAL, PGE, PCIDE = 1 << 8, 1 << 7, 1 << 17
REASONS = ["INVEPT", "INVVPID", "TLB_CONTROL", "NP2M_CHANGED", "P2M_CHANGED", "CR_WRITE"]
CR3_BASE = TABLES


class Twins:
    """The machine and its twin, driven side by side."""

    def __init__(self, backend: str, policy: int, highest: int, by_asid: bool, tagged: bool):
        self.made = made = mapped_machine(backend)
        self.m = m = made.record
        self.svm = backend == "svm"
        f = m["feat"]
        f["tlb_tagging"], f["l2_tag_policy"], f["max_tag"] = tagged, policy, highest
        f["flush_by_asid"], f["np2m_tables"] = by_asid, MAX_NP2M
        self.twin = oracle.Tags(self.svm, policy, highest, by_asid, tagged, ROOTS)
        m["hw"]["tag_span"] = ROOTS if self.twin.pairs else 0
        table = CR3_BASE
        for shift in (39, 30, 21):
            words = words_of(made, lay.L1_BANK_MA + table, 512)
            index = (FIRST_PAGE << 12 >> shift) & 511
            table = int(words[index]) & ~0xFFF
        words_of(made, lay.L1_BANK_MA + table, 512)[4:PAGES] |= GLOBAL
        self.enter(1)

    def call(self, name: str, *args: int) -> int:
        return entry(name)(self.made.address, *args)

    def pcid(self) -> int:
        cpu = self.m["cpu"]
        return int(cpu["cr3"][0]) & 0xFFF if int(cpu["cr4"][0]) & PCIDE else 0

    # ------------------------------------------------------------ steps

    def enter(self, level: int) -> None:
        """L0 enters a level; on SVM the processor then does what TLB_CONTROL says."""
        m, hw = self.m, self.m["hw"]
        m["level"] = level
        self.twin.enter(level)
        self.call("choose_tag")
        control, reason = int(hw["tlb_control"][0]), int(hw["tlb_reason"][0])
        hw["tlb_control"] = 0
        if control == 1:
            self.call("flush_all", reason)
        elif control == 3:
            self.call("flush_tag", int(hw["tag"][0]), reason)
        assert control in (0, 1, 3)
        assert self.svm or control == 0

    def leave(self) -> None:
        """L0 has served an exit, and enters L2 again or L1 for the first time."""
        if self.m["level"][0] == 2:
            self.twin.after_l2()
            if self.twin.policy == oracle.XEN_2013:
                self.call("tags_renew", 3, FLUSH_REASONS.index("TAG_RENEWED"))
        self.enter(int(self.m["level"][0]))

    def access(self, page: int) -> None:
        is_global = page >= 4 and bool(int(self.m["cpu"]["cr4"][0]) & PGE)
        before = self._count("TLB_MISS")
        hit = self.twin.access(page, self.pcid(), is_global)
        load(self.made, FIRST_PAGE + page << 12)
        assert pending(self.made) == 0
        assert (self._count("TLB_MISS") == before) == hit

    def renew(self, which: int, reason: str) -> None:
        self.twin.renew(which, reason)
        self.call("tags_renew", which, FLUSH_REASONS.index(reason))

    def vpid(self, vpid: int) -> None:
        """L1 gives L2 another VPID, or none; it may do so while it runs."""
        if self.m["level"][0] == 1:
            self.twin.vpid12 = vpid
            self.made.state["guest_tag"] = vpid

    def table(self, slot: int) -> None:
        """L2 will run on another nested p2m."""
        self.twin.table = slot
        self.m["nv"]["np2m_slot"] = slot
        if not self.twin.pairs:
            self.renew(2, "NP2M_CHANGED")
        self.enter(int(self.m["level"][0]))

    def emptied(self, slot: int) -> None:
        self.twin.np2m_emptied(slot, "NP2M_CHANGED")
        self.m["np2m"]["root"][0, slot] = self.m["np2m_pool"][0]
        self.m["np2m"]["base"][0, slot] = 0
        self.call("np2m_empty", slot, FLUSH_REASONS.index("NP2M_CHANGED"))

    def invvpid(self, page: int) -> None:
        if self.twin.pairs:
            self.twin.invvpid_address(page, "INVVPID")
            self.call(
                "tags_invvpid_address", FIRST_PAGE + page << 12, FLUSH_REASONS.index("INVVPID")
            )

    def invlpg(self, page: int) -> None:
        self.twin.invlpg(page, self.pcid())
        self.call("invlpg", FIRST_PAGE + page << 12)

    def invpcid(self, kind: int, pcid: int, page: int) -> None:
        if not int(self.m["cpu"]["cr4"][0]) & PCIDE:
            pcid = 0
        self.twin.invpcid(kind, pcid, page)
        self.call("invalidate_pcid", kind, pcid, FIRST_PAGE + page << 12)

    def mov_cr3(self, pcid: int, keep: bool) -> None:
        has_pcids = int(self.m["cpu"]["cr4"][0]) & PCIDE
        value = CR3_BASE | (pcid if has_pcids else 0)
        if not (has_pcids and keep):
            self.twin.mov_cr3()
        else:
            value |= -(1 << 63)
        self.call("mov_cr3", value)

    def mov_cr4(self, pge: bool, pcide: bool) -> None:
        old = int(self.m["cpu"]["cr4"][0])
        new = old & ~(PGE | PCIDE) | (PGE if pge else 0) | (PCIDE if pcide else 0)
        if new & ~old & PCIDE and self.m["cpu"]["cr3"][0] & 0xFFF:
            return
        if (new ^ old) & PGE or old & ~new & PCIDE:
            self.twin.change_cr4()
        assert self.call("write_cr4", new) == lay.ST_OK

    # ------------------------------------------------------------ comparing

    def _count(self, event: str) -> int:
        return int(self.m["ledger"]["counts"][0, :, EVENTS.index(event)].sum())

    def _valid(self) -> Counter:
        """Valid entries of the TLB, one by one: (tag, page, PCID, is global) and how many copies."""
        tlb = self.m["tlb"]
        found: Counter = Counter()
        entries = tlb["entries"][0]
        for e in entries[entries["shift"] > 0]:
            tag, is_global = int(e["tag"]), bool(e["rights"] & TR_GLOBAL)
            which = "global_generation" if is_global else "tag_generation"
            if int(e["generation"]) == int(tlb["all_generation"][0]) << 32 | int(
                tlb[which][0, tag]
            ):
                found[tag, int(e["page"]) - FIRST_PAGE, int(e["pcid"]), is_global] += 1
        return found

    def compare(self) -> None:
        twin, ledger = self.twin, self.m["ledger"]
        assert int(self.m["hw"]["tag"][0]) == twin.now
        assert self._valid() == dict.fromkeys(twin.cached, oracle.COPIES)
        for reason, scope in {*twin.flushes, *((r, s) for r in REASONS for s in FLUSH_SCOPES)}:
            place = 0, FLUSH_REASONS.index(reason), FLUSH_SCOPES.index(scope)
            assert int(ledger["flushes"][place]) == twin.flushes[reason, scope], (reason, scope)
            assert int(ledger["dropped"][place]) == twin.dropped[reason, scope], (reason, scope)
        assert int(ledger["flushes"].sum()) == twin.flushes.total()
        assert self._count("L0_TAG_ALLOCATED") == twin.allocated
        assert self._count("L0_FLUSH_EXECUTED") == twin.executed
        assert int(self.m["tlb"]["live_all"][0]) == oracle.COPIES * len(twin.cached)


page = st.integers(0, PAGES - 1)
steps = st.one_of(
    st.tuples(st.just("access"), page),
    st.tuples(st.just("access"), page),
    st.tuples(st.just("enter"), st.integers(1, 2)),
    st.tuples(st.just("leave")),
    st.tuples(st.just("renew"), st.integers(1, 3), st.sampled_from(REASONS)),
    st.tuples(st.just("vpid"), st.integers(0, 2)),
    st.tuples(st.just("table"), st.integers(0, 2)),
    st.tuples(st.just("emptied"), st.integers(0, 2)),
    st.tuples(st.just("invvpid"), page),
    st.tuples(st.just("invlpg"), page),
    st.tuples(st.just("invpcid"), st.integers(0, 3), st.integers(0, 2), page),
    st.tuples(st.just("mov_cr3"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("mov_cr4"), st.booleans(), st.booleans()),
)


@settings(max_examples=200, deadline=None)
@given(
    backend=st.sampled_from(["svm", "vmx"]),
    policy=st.integers(0, 3),
    highest=st.sampled_from([2, 3, 7, 63]),
    by_asid=st.booleans(),
    tagged=st.sampled_from([True, True, True, False]),
    program=st.lists(steps, max_size=50),
)
def test_the_tlb_holds_what_its_twin_holds(backend, policy, highest, by_asid, tagged, program):
    twins = Twins(backend, policy, highest, by_asid, tagged)
    for name, *arguments in [("mov_cr4", True, False), *program]:
        getattr(twins, name)(*arguments)
        twins.compare()
