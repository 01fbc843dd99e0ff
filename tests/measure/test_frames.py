"""The tables of a result against the counts that went in."""

import numpy as np
import pytest
from synthetic import L1_PATH, machine, result

from workbench.arch import exit_code, exit_name
from workbench.core import layout
from workbench.core.ledger import CAUSES, EVENTS, N_CAUSES, N_EVENTS
from workbench.errors import ResultError
from workbench.measure.frames import exit_place, timeline_reason
from workbench.prices import PARTS, load_preset
from workbench.result import Result
from workbench.scenario import Scenario

BOTH = pytest.mark.parametrize("backend", ["svm", "vmx"])


@BOTH
def test_cycles_are_counts_times_prices_and_equal_the_kernels_clock(backend):
    found = result(backend)
    assert found.cycles == found.facts["simulated_cycles"]
    assert found.counts["cycles"].sum() == pytest.approx(found.cycles, rel=1e-12)
    assert found.costs["cycles"].sum() == pytest.approx(found.cycles, rel=1e-12)


def test_any_counts_add_up_to_the_same_cycles_in_every_table():
    record = machine("vmx")
    random = np.random.default_rng(3)
    known = np.zeros((N_CAUSES, N_EVENTS), np.int64)
    known[: len(CAUSES), : len(EVENTS)] = random.integers(0, 10**6, (len(CAUSES), len(EVENTS)))
    record["ledger"]["counts"][0] = known
    scenario = Scenario(backend="vmx")
    found = Result.from_machine(scenario, record, scenario.preset, 1.0, "stopped")
    expected = float((known.sum(axis=0) * scenario.preset.kernel_prices()).sum() / 1024)
    assert found.cycles == expected
    for table in (found.counts, found.costs):
        assert table["cycles"].sum() == pytest.approx(expected, rel=1e-12)


@BOTH
@pytest.mark.parametrize("table", ["exits", "costs", "counts"])
def test_low_value_and_high_are_in_order(backend, table):
    frame = getattr(result(backend), table)
    assert len(frame)
    slack = 1e-9 * frame["cycles_high"]
    assert (frame["cycles_low"] <= frame["cycles"] + slack).all()
    assert (frame["cycles"] <= frame["cycles_high"] + slack).all()


@BOTH
def test_exits_have_the_manuals_names_and_all_are_there(backend):
    found = result(backend)
    exits = found.exits
    assert exits["count"].sum() == found.raw.exits.sum()
    nested = {"svm": ("NPF", 0x400), "vmx": ("EPT_VIOLATION", 48)}[backend]
    row = exits[exits["from_level"] == "L2"].set_index("exit").loc[nested[0]]
    assert (row["code"], row["handled_by"], row["count"]) == (nested[1], "L0", 100)
    ours = exits[(exits["from_level"] == "L1") & (exits["cause"] == "CPUID")]
    assert dict(zip(ours["exit"], ours["count"], strict=True)) == {
        name: times * 1000 for name, times in L1_PATH[backend].items()
    }
    assert exits["per_l2_kinstr"].sum() == pytest.approx(exits["count"].sum() / 6)


def test_the_cycles_of_an_exit_are_exit_entry_and_dispatch():
    found = result("vmx")
    prices = load_preset("nehalem")
    each = sum(prices.price(e) for e in ("HW_EXIT", "HW_ENTRY", "L0_EXIT_DISPATCH"))
    assert np.allclose(found.exits["cycles"], found.exits["count"] * each)


def test_walks_after_flushes_are_taken_out_of_address_translation(svm_result):
    costs = svm_result.costs.groupby("category")["cycles"].sum()
    price = svm_result.preset.price("WALK_FROM_L2_CACHE")
    references = svm_result.raw.refill_references.sum()
    assert costs["walks after flushes"] == pytest.approx(references * price)
    by_event = svm_result.counts.set_index("event")["cycles"]
    walks = by_event[["WALK_FROM_L1_CACHE", "WALK_FROM_L2_CACHE"]].sum()
    both = costs["walks after flushes"] + costs["other address translation"]
    assert both == pytest.approx(
        walks + by_event.get(["TLB2_HIT", "TLB_MISS", "TLB1_HIT"]).sum(), rel=1e-9
    )
    assert set(svm_result.costs["category"]) <= set(PARTS)


def test_tlb_rows_keep_every_flush_and_every_refill(svm_result):
    raw, tlb = svm_result.raw, svm_result.tlb
    assert tlb["flushes"].sum() == raw.flushes.sum()
    assert tlb["entries_dropped"].sum() == raw.dropped.sum()
    assert tlb["refills"].sum() == raw.refills.sum()
    assert tlb["refill_references"].sum() == raw.refill_references.sum()


def test_refills_stand_once_when_a_reason_flushed_in_two_ways():
    record = machine("svm")
    record["ledger"]["flushes"][0, 0, :2] = (5, 3)
    record["ledger"]["dropped"][0, 0, :2] = (1, 9)
    scenario = Scenario()
    tlb = Result.from_machine(scenario, record, scenario.preset, 1.0, "stopped").tlb
    rows = tlb[tlb["reason"] == "CR3_WRITE"].set_index("scope")
    assert list(rows.index) == ["all", "tag", "tag_nonglobal"]
    assert list(rows["refills"]) == [0, 3, 0]


@BOTH
def test_fields_count_reads_and_writes(backend):
    fields = result(backend).fields
    raw = result(backend).raw.fields
    assert fields["reads"].sum() == raw[:, 0::2].sum()
    assert fields["writes"].sum() == raw[:, 1::2].sum()
    assert set(fields["place"]) == {{"svm": "vmcb12", "vmx": "vmcs12"}[backend]}


def test_operations_are_the_bill_of_one_l2_exit(svm_result):
    row = svm_result.operations.set_index("cause").loc["CPUID"]
    assert row["operations"] == 1000
    assert row["exits_per_operation"] == 1 + sum(L1_PATH["svm"].values())
    of_cpuid = svm_result.counts.query("cause == 'CPUID'")["cycles"].sum()
    assert row["cycles_per_operation"] == pytest.approx(of_cpuid / 1000)
    low, high = row["cycles_low_per_operation"], row["cycles_high_per_operation"]
    assert low <= row["cycles_per_operation"] <= high


def test_the_bill_names_every_event_with_its_source(svm_result):
    text = svm_result.explain("CPUID")
    for event in svm_result.counts.query("cause == 'CPUID'")["event"]:
        assert event in text
    assert "[kvm-mail-2019-vmrun]" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "nothing" in svm_result.explain("WBINVD")
    with pytest.raises(ResultError, match="CPUID"):
        svm_result.explain("CPUIDS")


def test_the_summary_leaves_the_set_up_out_of_what_an_operation_costs(svm_result):
    row = svm_result.summary().iloc[0]
    boot = svm_result.counts.query("cause == 'BOOT'")["cycles"].sum()
    assert row["cycles_per_operation"] == pytest.approx((svm_result.cycles - boot) / 1100)
    assert row["exits_per_operation"] == pytest.approx(7100 / 1100)
    assert row["reflected_to_l1"] == 1000 and row["l2_instructions"] == 6000


def test_a_run_without_l2_gives_tables_without_numbers_not_errors():
    record = np.zeros(1, layout.MACHINE)
    scenario = Scenario()
    found = Result.from_machine(scenario, record, scenario.preset, 0.0, "halted")
    for table in (found.exits, found.costs, found.tlb, found.fields, found.timeline, found.counts):
        assert table.empty and len(table.columns)
    assert np.isnan(found.summary()["exits_per_l2_kinstr"].iloc[0])


def test_new_prices_change_cycles_and_nothing_else(svm_result):
    dear = svm_result.reprice(svm_result.preset.with_values({"HW_EXIT": 1370}))
    switches = svm_result.raw.event("HW_EXIT")
    assert dear.cycles - svm_result.cycles == 1000 * switches
    assert dear.raw is svm_result.raw and dear.fingerprint() == svm_result.fingerprint()
    with pytest.raises(ResultError, match="vmx"):
        svm_result.reprice(load_preset("nehalem"))


def test_a_result_does_not_follow_the_machine_it_came_from():
    record = machine("svm")
    scenario = Scenario()
    found = Result.from_machine(scenario, record, scenario.preset, 1.0, "stopped")
    before = found.fingerprint()
    record["ledger"]["counts"] = 0
    assert found.fingerprint() == before and found.cycles > 0
    with pytest.raises(ValueError, match="read-only"):
        found.raw.counts[0, 0] = 1


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_exit_codes_of_the_timeline_find_their_place(backend):
    places = range(0xAD) if backend == "svm" else range(0x80)
    assert [exit_place(backend, exit_code(backend, place)) for place in places] == list(places)
    assert timeline_reason("svm", "hw_exit", 0x400) == "NPF"
    assert timeline_reason("svm", "virtual_exit", -1) == "INVALID"
    assert timeline_reason("vmx", "hw_exit", 0x80000021) == exit_name("vmx", 33)
    assert timeline_reason("vmx", "flush", 0) == "CR3_WRITE"
    assert timeline_reason("vmx", "hw_entry", 0) == ""
