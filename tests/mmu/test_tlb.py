"""The TLB: hits and misses add up, flushes drop what they should, refills are attributed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mmu.machines import events, load, mapped_machine, pending, words_of
from workbench.core import layout as lay
from workbench.core.hvm import memory_map as mm
from workbench.core.ledger import FLUSH_REASONS, FLUSH_SCOPES
from workbench.core.units import entry

REASON = {name: i for i, name in enumerate(FLUSH_REASONS)}
SCOPE = {name: i for i, name in enumerate(FLUSH_SCOPES)}


def valid_entries(made) -> int:
    """Valid entries counted one by one."""
    tlb = made.record["tlb"]
    entries = tlb["entries"][0]
    live = 0
    for e in entries[entries["shift"] > 0]:
        tag = int(e["tag"])
        field = "global_generation" if e["rights"] & 8 else "tag_generation"
        current = (int(tlb["all_generation"][0]) << 32) | int(tlb[field][0, tag])
        live += int(e["generation"]) == current
    return live


def test_every_access_is_a_hit_or_a_miss():
    made = mapped_machine("svm")
    for i in range(500):
        load(made, 0x200000 + (i * 7919 % 300) * 4096)
    counted = events(made)
    total = sum(counted.get(name, 0) for name in ("TLB1_HIT", "TLB2_HIT", "TLB_MISS"))
    assert total == 500
    assert counted["TLB_MISS"] == 300
    assert counted["TLB2_HIT"] > 0, "300 pages do not fit into the first level"


@pytest.mark.parametrize(
    ("flush", "reason", "scope"),
    [
        (lambda m: entry("flush_tag")(m.address, 1, REASON["INVVPID"]), "INVVPID", "tag"),
        (lambda m: entry("flush_all")(m.address, REASON["NO_TAGS"]), "NO_TAGS", "all"),
        (lambda m: entry("mov_cr3")(m.address, 0x10000), "CR3_WRITE", "tag_nonglobal"),
    ],
)
def test_a_flush_drops_all_and_its_refills_are_counted(flush, reason, scope):
    made = mapped_machine("vmx")
    for i in range(20):
        load(made, 0x200000 + i * 4096)
    live = valid_entries(made)
    assert live == 40, "20 pages in both levels"
    flush(made)
    ledger = made.record["ledger"]
    assert ledger["flushes"][0, REASON[reason], SCOPE[scope]] == 1
    assert ledger["dropped"][0, REASON[reason], SCOPE[scope]] == live
    assert valid_entries(made) == 0
    load(made, 0x900000)
    assert ledger["refills"][0].sum() == 0, "a page that was never cached is no refill"
    for _ in range(2):
        for i in range(20):
            load(made, 0x200000 + i * 4096)
    assert ledger["refills"][0, REASON[reason]] == 20
    assert ledger["refill_references"][0, REASON[reason]] == 20 * 24


def test_invlpg_drops_one_page_only():
    made = mapped_machine("none")
    for i in range(4):
        load(made, 0x200000 + i * 4096)
    entry("invlpg")(made.address, 0x201000)
    assert valid_entries(made) == 6
    before = events(made)["TLB_MISS"]
    for i in range(4):
        load(made, 0x200000 + i * 4096)
    assert events(made)["TLB_MISS"] == before + 1
    assert made.record["ledger"]["refills"][0, REASON["INVLPG"]] == 1


def test_another_tag_does_not_hit():
    made = mapped_machine("vmx")
    load(made, 0x200000)
    made.record["hw"]["tag"] = 2
    entry("flush_tag")(made.address, 3, 0)
    load(made, 0x200000)
    assert events(made)["TLB_MISS"] == 2
    made.record["hw"]["tag"] = 1
    load(made, 0x200000)
    assert events(made)["TLB_MISS"] == 2


operations = st.one_of(
    st.tuples(st.just("load"), st.integers(0, 90)),
    st.tuples(st.just("store"), st.integers(0, 90)),
    st.tuples(st.just("invlpg"), st.integers(0, 90)),
    st.tuples(st.just("cr3"), st.just(0)),
    st.tuples(st.just("flush_tag"), st.integers(1, 3)),
    st.tuples(st.just("flush_all"), st.just(0)),
    st.tuples(st.just("tag"), st.integers(1, 3)),
)


@settings(max_examples=60, deadline=None)
@given(
    backend=st.sampled_from(["none", "svm", "vmx"]),
    shift=st.sampled_from([12, 21]),
    program=st.lists(operations, max_size=60),
)
def test_live_counts_equal_the_entries(backend, shift, program):
    made = mapped_machine(backend, shift, 12)
    for name, value in program:
        va = 0x200000 + value * 65536
        if name == "load":
            assert load(made, va) == 0
        elif name == "store":
            assert entry("store_slow")(made.address, va, 3, 0, 1) == 0
        elif name == "invlpg":
            entry("invlpg")(made.address, va)
        elif name == "cr3":
            entry("mov_cr3")(made.address, int(made.record["cpu"]["cr3"][0]))
        elif name == "flush_tag":
            entry("flush_tag")(made.address, value, 0)
        elif name == "flush_all":
            entry("flush_all")(made.address, 0)
        elif backend != "none":
            made.record["hw"]["tag"] = value
            made.record["tlb"]["fast_context"] += 8
        assert pending(made) == 0
    tlb = made.record["tlb"]
    live = valid_entries(made)
    assert tlb["live_all"][0] == live
    assert tlb["live"][0].sum() + tlb["live_global"][0].sum() == live


def test_a_page_that_may_only_be_executed_stays_unreadable_once_it_is_cached():
    made = mapped_machine("vmx")
    table = mm.HAP_TABLES_MA
    for shift in (39, 30, 21):
        table = int(words_of(made, table, 512)[0x201000 >> shift & 511]) & ~0xFFF
    words_of(made, table, 512)[0x201000 >> 12 & 511] &= ~3
    assert entry("translate")(made.address, 0x201000, 2) != 0, "a fetch"
    assert pending(made) == 0
    load(made, 0x201000)
    assert pending(made) == lay.ST_VMEXIT
    assert made.record["exit"]["info1"][0] & 0x3F == 1 | 4 << 3, "a read, of an executable page"
