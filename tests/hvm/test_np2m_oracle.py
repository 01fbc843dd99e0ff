"""The nested p2m cache against its oracle twin: random tables of L1, faults, and all that flushes.

After every step the tables that the hardware would walk are read back from simulated RAM and hold
exactly the pages the twin has, and the ledger has counted what the twin has counted.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import np2m as oracle
from workbench.arch.deviations import DEV_NP2M_HOST_RIGHTS
from workbench.core import layout as lay
from workbench.core.hvm import memory_map as mm
from workbench.core.ledger import EVENTS, FLUSH_REASONS
from workbench.core.units import entry
from workbench.geometry import load_tlb_geometry
from workbench.machine import SimulatedMachine

MEGABYTE = 1 << 20
L1_BYTES, L2_BYTES = 4 * MEGABYTE, 4 * MEGABYTE
ROOTS = [0x100000 + i * 0x1000 for i in range(4)]
"""n1p of L1's roots; their lower tables follow at 0x110000."""
TABLES, TABLE_PAGES = 0x110000, 64
NOWHERE = 0x3000_0000
"""An n1p without memory."""
N2PS = [0, 0x1000, 0x5000, 0x200000, 0x201000, 0x40000000, 0x40003000, 1 << 39, 1 << 47]
FRAMES = [lay.L2_BANK_N1P + n for n in (0, 0x1000, 0x7000, 0x200000, 0x3FF000)] + [0x2000, NOWHERE]
REASON = FLUSH_REASONS.index("INVEPT")


class Twins:
    """The machine and its twin, driven side by side."""

    def __init__(
        self, backend: str, tables: int, policy: int, l0_shift: int, pool: int,
        host_rights: bool = False, ept_ad: bool = False,
    ):  # fmt: skip
        made = self.made = SimulatedMachine(
            backend, L1_BYTES, L2_BYTES, load_tlb_geometry("Nehalem")
        )
        self.m = m = made.record
        self.svm = backend == "svm"
        f = m["feat"]
        f["tlb_tagging"] = f["flush_by_asid"] = 1
        f["np2m_tables"], f["np2m_flush"], f["l0_page_shift"] = tables, policy, l0_shift
        f["deviations"], f["ept_ad"] = DEV_NP2M_HOST_RIGHTS if host_rights else 0, ept_ad
        f["l0"] = lay.L0_MANUAL  # which offers L1 accessed and dirty bits of EPT
        made.build_l1_memory()
        m["np2m_pool_end"] = int(m["np2m_pool"][0]) + pool * lay.PAGE
        m["level"] = 2
        self.made.state["n2_guest"] = self.made.state["hap_enabled"] = 1
        ranges = [(0, lay.L1_BANK_MA, L1_BYTES), (lay.L2_BANK_N1P, lay.L2_BANK_MA, L2_BYTES)]
        self.twin = oracle.NestedP2ms(
            oracle.L1Tables(self.svm, {}),
            oracle.HostTable(ranges, l0_shift),
            tables, policy, pool, host_rights, ept_ad,
        )  # fmt: skip
        self.next_table = TABLES
        self.selected = False

    def call(self, name: str, *args: int) -> int:
        return entry(name)(self.made.address, *args)

    # ------------------------------------------------------------ L1's tables

    def _set(self, n1p: int, value: int) -> None:
        self.twin.l1.words[n1p] = value
        word = self.made.bank_offset(1) + n1p >> 3
        self.made.words[word] = value - (1 << 64) if value >> 63 else value

    def _flags(self, rights: int, leaf: bool) -> int:
        if self.svm:
            return 5 | rights & 2 | (0 if rights & 4 else 1 << 63) if rights else 0
        return rights | (6 << 3 if leaf and rights else 0)

    def edit(
        self,
        root: int,
        n2p: int,
        shift: int,
        frame: int,
        rights: int,
        table_rights: int,
        damage: int,
    ) -> None:
        """L1 maps ``n2p`` to ``frame``; ``damage``: a bit to flip in the leaf."""
        table = ROOTS[root]
        for level in (39, 30, 21):
            if level <= shift:
                break
            place = table + (n2p >> level & 511) * 8
            there = self.twin.l1.words.get(place, 0)
            if not TABLES <= there & oracle.ADDRESS < TABLES + TABLE_PAGES * lay.PAGE:
                if self.next_table >= TABLES + TABLE_PAGES * lay.PAGE:
                    return
                fresh, self.next_table = self.next_table, self.next_table + lay.PAGE
                self._set(place, fresh | self._flags(table_rights, False))
            table = self.twin.l1.words[place] & oracle.ADDRESS
        place = table + (n2p >> shift & 511) * 8
        large = 0x80 if shift > 12 else 0
        value = frame >> shift << shift | self._flags(rights, True) | (large if rights else 0)
        self._set(place, value ^ damage)

    # ------------------------------------------------------------ steps

    def select(self, root: int, dirty_bits: bool) -> None:
        base = ROOTS[root] | 3 << 3 | 6 | (oracle.EPTP_AD if dirty_bits else 0)
        before = self.made.state["n2_tag_generation"]
        self.made.state["n2_tag_generation"] = int(self.m["tag_core_generation"][0])
        renew = self.twin.select(base)
        assert self.call("np2m_select", base) == self.made.state["n2p_to_l0m"]
        assert renew == (self.made.state["n2_tag_generation"] == 0)
        self.made.state["n2_tag_generation"] = before
        self.selected = True

    def fault(self, n2p: int, access: int) -> None:
        if not self.selected or self.twin.base is None:
            return
        if self.twin.stale:  # as at every entry of L2
            self.twin.select(self.twin.base)
            self.call("np2m_select", int(self.m["nv"]["np2m_base"][0]))
        expected = self.twin.fault(n2p, access)
        assert self.call("np2m_fault", n2p, access) == expected

    def flush(self, kind: str, root: int) -> None:
        twin = self.twin
        if kind == "invept_single":
            twin.invept_single(ROOTS[root])
            self.call("np2m_invalidate_root", ROOTS[root], REASON)
        elif kind == "invept_all":
            twin.invept_all()
            self.call("np2m_invalidate_all", REASON)
        elif kind == "invlpga":
            twin.invlpga()
            self.call("np2m_invalidate_current", REASON)
        elif kind == "reset":
            twin.reset()
            self.call("np2m_reset", REASON)
        else:
            control = {"vmrun_all": 1, "vmrun_asid": 3, "vmrun_nonglobal": 7, "vmrun_new": 0}[kind]
            twin.vmrun(control, ROOTS[root])
            self.call("np2m_note_vmrun", control, ROOTS[root], REASON)

    def l0(self, n1p: int, log_dirty: bool) -> None:
        """L0 changes its own table, and so empties every nested p2m."""
        changed = self.twin.host.withdraw(n1p, log_dirty)
        assert self.call("p2m_withdraw", n1p, int(log_dirty)) == changed
        if changed:
            self.twin.empty_all()
            self.call("np2m_empty_all", REASON)

    # ------------------------------------------------------------ comparing

    def _leaves(self, table: int, shift: int, prefix: int) -> dict:
        found = {}
        words = self.made.words[table >> 3 : (table >> 3) + 512]
        for index in words.nonzero()[0]:
            value = int(words[index]) & (1 << 64) - 1
            here = prefix << 9 | int(index)
            if shift == 12 or (shift < 39 and value & 0x80):
                rights = self.twin.l1.entry_rights(value)
                found[shift, here] = (value & oracle.ADDRESS, rights)
            else:
                found |= self._leaves(value & oracle.ADDRESS, shift - 9, here)
        return found

    def _count(self, event: str) -> int:
        return int(self.m["ledger"]["counts"][0, :, EVENTS.index(event)].sum())

    def compare(self) -> None:
        twin, m = self.twin, self.m
        for slot, t in enumerate(twin.tables):
            k = m["np2m"][0, slot]
            assert int(k["base"]) == (-1 if t.base is None else t.base) or not t.root_page
            assert int(k["generation"]) == t.emptied
            assert bool(k["flush"]) == t.marked
            assert bool(k["root"]) == t.root_page
            if t.root_page:
                assert self._leaves(int(k["root"]), 39, 0) == t.pages
                assert int(k["entries"]) == len(t.pages)
        if twin.now is not None:
            assert int(m["nv"]["np2m_slot"][0]) == twin.now
        assert bool(m["nv"]["stale_np2m"][0]) == twin.stale
        assert self._count("L0_NP2M_INSTALLED") == twin.installed
        assert self._count("L0_NP2M_FLUSHED") == twin.flushed
        assert self._count("L0_NP2M_ENTRY_ZAPPED") == twin.zapped
        for n1p, value in twin.l1.words.items():
            word = self.made.bank_offset(1) + n1p >> 3
            assert int(self.made.words[word]) & (1 << 64) - 1 == value, f"L1's entry at {n1p:#x}"
        assert self._free_pages() == twin.free_pages()

    def _free_pages(self) -> int:
        m = self.m
        fresh = (int(m["np2m_pool_end"][0]) - int(m["np2m_pool_next"][0])) // lay.PAGE
        page, listed = int(m["np2m_free"][0]), 0
        while page:
            listed += 1
            page = int(m["np2m_next"][0, (page - mm.NP2M_POOL_MA) // lay.PAGE])
        return fresh + listed


root = st.integers(0, len(ROOTS) - 1)
n2p = st.sampled_from(N2PS)
rights = st.sampled_from([7, 7, 7, 5, 3, 1, 4, 2, 6, 0])
edits = st.tuples(
    st.just("edit"), root, n2p, st.sampled_from([12, 12, 12, 21, 30]), st.sampled_from(FRAMES),
    rights, st.sampled_from([7, 7, 7, 5, 1, 4]),
    st.sampled_from([0] * 6 + [1 << 41, 1 << 13, 1 << 12, 1 << 3, 1 << 7]),
)  # fmt: skip
steps = st.one_of(
    edits,
    edits,
    st.tuples(st.just("select"), root, st.booleans()),
    st.tuples(st.just("fault"), n2p, st.integers(0, 2)),
    st.tuples(st.just("fault"), n2p, st.integers(0, 2)),
    st.tuples(
        st.just("flush"),
        st.sampled_from(
            ["invept_single", "invept_all", "invlpga", "vmrun_all", "vmrun_asid",
             "vmrun_nonglobal", "vmrun_new", "reset"]
        ),
        root,
    ),
    st.tuples(st.just("l0"), st.sampled_from([*FRAMES, *ROOTS]), st.booleans()),
)  # fmt: skip


def play(twins: Twins, program: list[tuple]) -> None:
    for name, *arguments in program:
        getattr(twins, name)(*arguments)
        twins.compare()


@settings(max_examples=150, deadline=None)
@given(
    backend=st.sampled_from(["svm", "vmx"]),
    tables=st.integers(1, 10),
    policy=st.integers(0, 2),
    l0_shift=st.sampled_from([12, 21, 30]),
    pool=st.sampled_from([8, 14, 4000]),
    quirk=st.booleans(),
    program=st.lists(steps, max_size=40),
)
def test_every_nested_p2m_holds_what_its_twin_holds(
    backend, tables, policy, l0_shift, pool, quirk, program
):
    twins = Twins(backend, tables, policy, l0_shift, pool, quirk and backend == "svm", quirk)
    play(twins, [("select", 0, False), *program])


# ---------------------------------------------------------------- single rules


def mapped(backend: str, **given) -> Twins:
    """Root 0 maps page 0x1000 of L2, the table is chosen."""
    settings = {"tables": 4, "policy": oracle.LAZY, "l0_shift": 12, "pool": 4000} | given
    twins = Twins(backend, **settings)
    twins.edit(0, 0x1000, 12, FRAMES[0], 7, 7, 0)
    twins.select(0, True)
    return twins


@pytest.mark.parametrize("rights", range(8))
@pytest.mark.parametrize("access", range(3))
def test_ept_grants_what_its_bits_say(rights, access):
    twins = mapped("vmx")
    twins.edit(0, 0x1000, 12, FRAMES[0], rights, 7, 0)
    outcome = twins.call("np2m_fault", 0x1000, access)
    expected = {0: oracle.INJECT, 2: oracle.MISCONFIGURED, 6: oracle.MISCONFIGURED}.get(rights)
    if expected is None:
        granted = bool(rights & (1, 2, 4)[access])
        expected = oracle.HANDLED if granted else oracle.INJECT
    assert outcome == expected


@pytest.mark.parametrize("kind", range(8))
def test_a_reserved_memory_type_is_a_misconfiguration(kind):
    twins = mapped("vmx")
    twins.edit(0, 0x1000, 12, FRAMES[0], 7, 7, (6 ^ kind) << 3)
    good = kind in (0, 1, 4, 5, 6)
    assert twins.call("np2m_fault", 0x1000, 0) == (oracle.HANDLED if good else oracle.MISCONFIGURED)


def test_a_read_then_a_write_makes_the_page_dirty_in_l1s_ept():
    twins = mapped("vmx", ept_ad=True)
    leaf = max(twins.twin.l1.words)
    word = twins.made.bank_offset(1) + leaf >> 3
    assert twins.made.words[word] >> 8 & 3 == 0
    twins.fault(0x1000, 0)
    assert twins.made.words[word] >> 8 & 3 == 1, "accessed"
    assert twins.twin.tables[0].pages[12, 1][1] == 5, "entered without write permission"
    twins.fault(0x1000, 1)
    assert twins.made.words[word] >> 8 & 3 == 3, "and dirty"
    twins.compare()
    assert twins.twin.zapped == 0
    twins.flush("invept_all", 0)
    twins.select(0, True)
    twins.compare()
    assert twins.twin.zapped == 1, "one page was in the table, entered twice"


def test_accessed_bits_are_set_on_the_way_down():
    twins = mapped("vmx", ept_ad=True)
    twins.fault(0x1000, 0)
    tables = [ROOTS[0], TABLES, TABLES + 0x1000, TABLES + 0x2000]
    for table, shift in zip(tables, (39, 30, 21, 12), strict=True):
        word = twins.made.bank_offset(1) + table + (0x1000 >> shift & 511) * 8 >> 3
        assert twins.made.words[word] & 1 << 8, f"level at {shift}"
    for table, below in pairwise(tables):
        word = twins.made.bank_offset(1) + table >> 3
        assert int(twins.made.words[word]) & oracle.ADDRESS == below


def test_when_the_pool_is_used_up_every_table_is_emptied_once():
    twins = mapped("svm", pool=8)
    for n, address in enumerate((0, 0x200000, 0x40000000, 1 << 39, 1 << 47)):
        twins.edit(0, address, 12, FRAMES[n], 7, 7, 0)
        twins.fault(address, 0)
        twins.compare()
    assert twins.twin.flushed > 0, "a root and three levels for each of five far pages"
    assert twins.twin.tables[0].pages, "the page that did not fit is in the emptied table"


@pytest.mark.parametrize("control", [1, 3, 7])
@pytest.mark.parametrize("policy", [oracle.LAZY, oracle.EAGER])
def test_any_tlb_control_empties_the_table_of_the_root(control, policy):
    kind = {1: "vmrun_all", 3: "vmrun_asid", 7: "vmrun_nonglobal"}[control]
    twins = mapped("svm", policy=policy)
    twins.edit(1, 0x1000, 12, FRAMES[1], 7, 7, 0)
    twins.fault(0x1000, 0)
    twins.select(1, False)
    twins.fault(0x1000, 0)
    twins.flush(kind, 0)
    twins.select(0, False)
    twins.compare()
    assert not twins.twin.tables[0].pages
    twins.select(1, False)
    twins.compare()
    kept = bool(twins.twin.tables[1].pages)
    assert kept == (control != 1), "TLB_CONTROL 1 concerns all ASIDs"
