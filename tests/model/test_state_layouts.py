"""Runs with each layout of the nested state and each delivery of virtual exits."""

from __future__ import annotations

import pytest

import workbench as wb
from tests.interrupts.programs import nested
from tests.oracle import svm as oracle
from tests.oracle.svm_machine import SvmMachine
from tests.oracle.vmx_machine import OPERAND, VmxMachine
from workbench import nested_layouts
from workbench.arch import vmx
from workbench.core import layout
from workbench.core.ledger import STATE_EVENTS, STATE_FIELDS

BACKENDS = ("svm", "vmx")
PERIOD = 150_000
"""Of L1's timer, in counts of its local APIC."""
CPUID_BIT = 1 << 18
"""CPUID in the fourth intercept word of a VMCB."""
CPUID_EXIT = 0x72
RECORD = ["exitcode", "exitinfo1", "exitinfo2"]


def run(backend: str, l2: str = "cpuid", **features) -> wb.Result:
    return wb.run(wb.Scenario(backend=backend, l2=l2, features=features, timeline=4096))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Run L2 under an L1 with a timer: back-end and features -> outcome."""
    folder = tmp_path_factory.mktemp("guests")

    def started(backend: str, **features: str):
        return nested(folder, backend, timer=PERIOD, features=tuple(features.items()))

    return started


def seen_by_guests(result: wb.Result) -> tuple:
    facts = result.facts
    return result.status, facts["serial"], facts["stop_code"], facts["l2_instructions"]


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l2", ["cpuid", "mixed"])
def test_l2_cannot_tell_the_layouts_apart(backend, l2):
    seen = {seen_by_guests(run(backend, l2, state_layout=name)) for name in nested_layouts.LAYOUTS}
    assert len(seen) == 1 and next(iter(seen))[0] != "fatal"


@pytest.mark.parametrize("backend", BACKENDS)
def test_accesses_are_counted_where_the_layout_has_the_field(backend):
    for name in nested_layouts.LAYOUTS:
        fields = run(backend, state_layout=name).fields
        where = nested_layouts.places(name, backend)
        state = fields[fields["place"].isin(["generic", "vendor", "fetched"])]
        assert set(state["layout"]) == {name}
        assert [where[f] for f in state["field"]] == list(state["place"])
        assert (state["place"] == "fetched").any() == ("fetched" in where.values()) or (
            backend == "vmx"
        )
        assert state.loc[state["place"] == "fetched", "writes"].sum() == 0


def test_fetching_reads_more_of_vmcb12_and_renews_the_tag_at_every_entry():
    merged, minimal = run("svm"), run("svm", state_layout="minimal-2010")
    assert minimal.raw.event("L0_BYTE_COPIED") > merged.raw.event("L0_BYTE_COPIED")
    entries = minimal.facts["virtual_entries"]
    assert minimal.raw.event("L0_TAG_ALLOCATED") >= entries > merged.raw.event("L0_TAG_ALLOCATED")


def test_the_patch_copies_the_context_of_l1_and_reads_nh_arch():
    merged, generic = run("svm"), run("svm", state_layout="generic-2010")
    per_entry = 0x298
    entries = generic.facts["virtual_entries"]
    more = generic.raw.event("L0_BYTE_COPIED") - merged.raw.event("L0_BYTE_COPIED")
    assert more >= per_entry * entries
    fields = generic.fields.set_index("field")
    assert fields.loc[["arch"], "reads"].sum() > entries
    assert fields.loc[["host_save"], "reads"].sum() == entries + generic.facts["virtual_exits"]


def test_gif_in_the_generic_part_is_read_on_vmx_wherever_an_interrupt_waits(program):
    reads = {}
    for name in nested_layouts.LAYOUTS:
        fields = program("vmx", state_layout=name).result.fields
        reads[name] = int(fields.loc[fields["field"] == "gif", "reads"].sum())
    assert reads["generic-2010"] > 0 == reads["merged-2011"] == reads["minimal-2010"]


def test_an_asid_that_is_not_remembered_costs_nested_page_faults(program):
    """The one use of the cached ASID: to see that L1 has not changed it."""
    merged, minimal = (
        program("svm", state_layout=name).result for name in ("merged-2011", "minimal-2010")
    )
    flushed = [r.raw.event("L0_NP2M_FLUSHED") for r in (merged, minimal)]
    assert flushed[1] >= flushed[0] + minimal.facts["virtual_entries"] // 2
    assert minimal.raw.event("L0_NP2M_INSTALLED") > merged.raw.event("L0_NP2M_INSTALLED")


# ---------------------------------------------------------------- stale copies


@pytest.mark.parametrize("name", nested_layouts.LAYOUTS)
def test_a_cached_intercept_goes_stale_and_a_fetched_one_does_not(name):
    """vmcb12 lies where somebody can write to it while L2 runs: who notices?"""
    machine = SvmMachine(layout_name=name)
    page = machine.good_vmcb12()
    oracle.put(page, "intercept_word3", oracle.get(page, "intercept_word3") | CPUID_BIT)
    assert machine.start_vmrun(page) == layout.ST_OK
    now = bytearray(machine.page(machine.l1(0x20000)))
    oracle.put(now, "intercept_word3", oracle.get(now, "intercept_word3") & ~CPUID_BIT)
    machine.write(machine.l1(0x20000), bytes(now))
    machine.m["exit"]["code"] = CPUID_EXIT
    notices = machine.call("svm_route") == 0
    assert notices == (name == "minimal-2010")


def test_the_root_of_l1s_table_is_cached_by_the_patch_and_read_by_xen_on_vmx():
    place = {
        name: nested_layouts.places(name, "vmx")["host_cr3"] for name in nested_layouts.LAYOUTS
    }
    assert place == {
        "generic-2010": "generic", "minimal-2010": "fetched", "merged-2011": "fetched",
    }  # fmt: skip


# ---------------------------------------------------------------- delivery


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l2", ["cpuid", "mixed"])
def test_l2_cannot_tell_when_an_exit_is_delivered(backend, l2):
    seen = {
        seen_by_guests(run(backend, l2, vmexit_delivery=how)) for how in ("deferred", "immediate")
    }
    assert len(seen) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_immediate_delivery_keeps_no_record(backend):
    deferred, immediate = (
        run(backend, "mixed", vmexit_delivery=how) for how in ("deferred", "immediate")
    )

    def writes(result: wb.Result, field: str) -> int:
        fields = result.fields
        rows = (fields["field"] == field) & (fields["event"] != "RESET")
        return int(fields.loc[rows, "writes"].sum())

    assert immediate.facts["virtual_exits"] == deferred.facts["virtual_exits"] > 0
    assert writes(deferred, "vmexit_pending") > writes(immediate, "vmexit_pending")
    assert sum(writes(immediate, name) for name in RECORD) == 0
    if backend == "svm":
        exits = deferred.facts["virtual_exits"]
        assert all(writes(deferred, name) == exits for name in RECORD)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupt_waits_for_another_reason_but_no_shorter(program, backend):
    """Deferred: the exit on its way blocks it first. Immediate: L1 is there already.

    Either way L1 takes it when it sets GIF or IF, so its latency is the same.
    """
    deferred, immediate = (
        program(backend, vmexit_delivery=how) for how in ("deferred", "immediate")
    )
    assert (deferred.ticks, deferred.seen_interrupts) == (
        immediate.ticks,
        immediate.seen_interrupts,
    )
    assert deferred.l2_result == immediate.l2_result and deferred.ticks > 0
    first, second = (o.result.interrupts.set_index("reason") for o in (deferred, immediate))
    assert first.loc["rflags_ie", "cycles"] >= second.loc["rflags_ie", "cycles"]
    if backend == "svm":
        assert second.loc["rflags_ie", "blocked"] == 0 < first.loc["rflags_ie", "blocked"]
        assert first.loc["svm_gif", "cycles"] == second.loc["svm_gif", "cycles"]
    first, second = deferred.result.raw.latency_time, immediate.result.raw.latency_time
    assert (first == second).all() and first.sum() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_events_is_the_same_in_both_deliveries(program, backend):
    kinds = [
        program(backend, vmexit_delivery=how).result.timeline[["kind", "reason"]].values.tolist()
        for how in ("deferred", "immediate")
    ]
    assert kinds[0] == kinds[1]


# ---------------------------------------------------------------- reset


def state_of(machine: SvmMachine) -> dict[str, int]:
    kept = {f for f, place in nested_layouts.places("merged-2011", "svm").items()}
    return {name: machine.state[name] for name in kept}


def test_clearing_efer_svme_resets_the_state_as_xen_does():
    machine = SvmMachine()
    machine.start_vmrun(machine.good_vmcb12())
    machine.call("svm_exit_n2")
    machine.call("svm_hw_enter")
    machine.call("svm_set_efer", int(machine.m["nv"]["guest_efer"][0]) & ~(1 << 12))
    state = state_of(machine)
    none = {"vmcx12", "vmcx12_addr", "last_vmcx12_addr"}
    zero = {
        "n2_guest", "vmexit_pending", "vmentry_pending", "n2p_to_l0m", "flushp2m", "guest_tag",
        "n2_tag_generation", "hap_enabled", "guest_cr3", "host_cr3", "hsave_pa", "rflagsif",
        "vintrmask", "icpt_cr", "icpt_dr", "icpt_exceptions", "icpt_general1", "icpt_general2",
    }  # fmt: skip
    assert {name: state[name] for name in none} == dict.fromkeys(none, -1)
    assert {name: state[name] for name in zero} == dict.fromkeys(zero, 0)
    assert state["gif"] == 1
    counted = machine.m["ledger"]["state"][0, STATE_EVENTS.index("RESET")]
    assert counted[STATE_FIELDS.index("gif") * 2 + 1] > 0


def test_leaving_vmx_operation_forgets_the_region_and_the_current_vmcs():
    made = VmxMachine()
    made.enter_vmx_operation()
    names = ("vmxon_addr", "vmcx12_addr", "vmcx12")
    assert -1 not in [made.state[name] for name in names]
    assert made.l1_executes("VMXOFF") == layout.ST_OK
    assert [made.state[name] for name in names] == [-1] * 3
    # now CR4.VMXE may go, and nothing of before comes back with it
    for cr4, undefined in ((0x20, True), (0x2020, True)):
        made.gpr[0] = cr4
        made.hardware_exit(vmx.EXIT_CR_ACCESS, info1=4, insn_len=3)
        assert made.call("vmx_handle") == layout.ST_OK
        assert made.get(1, "CR4_READ_SHADOW") == cr4
        made.call("vmx_hw_enter")
        made.l1_executes("VMPTRST", flags=layout.UF_DST_MEM, disp=OPERAND)
        injected = made.get(1, "VM_ENTRY_INTR_INFO_FIELD") == 1 << 31 | 3 << 8 | 6
        assert injected == undefined, "#UD outside of VMX operation"
        made.put(1, "VM_ENTRY_INTR_INFO_FIELD", 0)


# ---------------------------------------------------------------- tables


def test_layouts_is_one_tidy_table():
    frame = wb.layouts()
    assert set(frame["layout"]) == set(nested_layouts.LAYOUTS)
    assert set(frame["place"]) == {"generic", "vendor", "fetched"}
    assert set(frame["status"]) == {"consensus", "neutral", "disputed"}
    merged = frame[(frame["layout"] == "merged-2011") & (frame["backend"] == "svm")]
    row = merged.set_index("name").loc["nv_p2m"]
    assert (row["offset"], row["size"], row["first_line"], row["lines"]) == (224, 8, 3, 1)
    assert frame.loc[frame["place"] != "fetched", "offset"].notna().all()


def test_totals_are_those_of_the_structures():
    totals = wb.layout_totals().set_index(["layout", "backend"])
    assert totals.loc[("merged-2011", "svm"), "bytes"] == 296
    assert totals.loc[("generic-2010", "svm"), "bytes"] == 160 + 88
    assert totals.loc[("minimal-2010", "vmx"), "bytes"] == 1 + 96
    assert totals.loc[("minimal-2010", "svm"), "fetched"] == 13
    assert totals.loc[("merged-2011", "svm"), "lines"] == 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_traffic_adds_up_to_the_accesses(backend):
    result = run(backend)
    traffic = wb.layout_traffic(result)
    state = result.fields[result.fields["place"].isin(["generic", "vendor", "fetched"])]
    assert traffic["reads"].sum() == state["reads"].sum() > 0
    assert traffic["writes"].sum() == state["writes"].sum() > 0
    entry = traffic.set_index("event").loc["VMENTRY"]
    assert 1 <= entry["lines"] <= 5 and entry["bytes"] > entry["reads"]
