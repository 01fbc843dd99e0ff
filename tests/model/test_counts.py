"""Counts follow from mechanism: exits per operation, and what each toggle changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.runs import BACKENDS, SMALL, count, marginal, simulated
from workbench import features
from workbench.guests import catalogue

TRAPPING = {
    "svm": {"clgi", "stgi", "vmload", "vmsave", "vmrun", "invlpga"},
    "vmx": {"vmread", "vmwrite", "vmresume", "vmlaunch", "vmptrld", "vmclear", "invept"},
}
"""Instructions on L1's path that exit to L0 without hardware assists."""


PATH_START = {"svm": "resume", "vmx": "after_l2"}
"""Label where the round starts; both end at handle_cpuid_end with L2 entered again."""


def cpuid_path(backend: str) -> list[str]:
    """Mnemonics of L1 minimal's listing that serve one CPUID of L2."""
    image = catalogue.find(1, "minimal", backend).image()
    lines = image.listing_between(PATH_START[backend], "handle_cpuid_end")
    return [line.mnemonic for line in lines]


@pytest.mark.parametrize("backend", BACKENDS)
def test_exits_per_cpuid_are_one_plus_the_trapping_instructions_of_l1(backend):
    trapping = sum(name in TRAPPING[backend] for name in cpuid_path(backend))
    assert trapping >= 4
    assert marginal(backend, "HW_EXIT") == 1 + trapping


def test_vmcs_shadowing_leaves_two_exits_per_cpuid():
    assert marginal("vmx", "HW_EXIT", vmcs_shadowing=True) == 2
    assert marginal("vmx", "VMREAD_SHADOWED", vmcs_shadowing=True) > 0


def test_virtual_gif_and_vmload_leave_two_exits_per_cpuid():
    assert marginal("svm", "HW_EXIT", virtual_gif=True, virtual_vmload_vmsave=True) == 2
    plain = marginal("svm", "HW_EXIT")
    assert marginal("svm", "HW_EXIT", virtual_gif=True) == plain - 2
    assert marginal("svm", "HW_EXIT", virtual_vmload_vmsave=True) == plain - 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_l2_cpuid_is_one_exit_of_l2_handled_by_l1(backend):
    exits = simulated(backend, "cpuid").exits
    row = exits[(exits.exit == "CPUID") & (exits.from_level == "L2")]
    assert row["count"].sum() == SMALL["cpuid"]["iterations"]
    assert set(row.handled_by) == {"L1"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_compute_never_exits_but_for_pages_and_the_end(backend):
    exits = simulated(backend, "compute").exits
    assert set(exits[exits.from_level == "L2"].exit) <= {"NPF", "EPT_VIOLATION", "HLT"}


def flushes(result, reason: str) -> int:
    tlb = result.tlb
    return int(tlb[tlb.reason == reason].flushes.sum())


def refills(result) -> int:
    return int(result.tlb.refills.sum())


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_tags_every_entry_flushes(backend):
    off = simulated(backend, "cpuid", tlb_tagging=False)
    assert flushes(off, "NO_TAGS") == count(off, "HW_ENTRY")
    assert refills(off) > refills(simulated(backend, "cpuid"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shared_tag_is_flushed_at_every_switch(backend):
    shared = simulated(backend, "cpuid", l2_tag_policy="shared_flush")
    switches = shared.facts["virtual_entries"] + shared.facts["virtual_exits"]
    assert flushes(shared, "L1_L2_SWITCH") == switches
    assert flushes(simulated(backend, "cpuid"), "L1_L2_SWITCH") == 0
    assert refills(shared) > refills(simulated(backend, "cpuid"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_xen_2013_renews_both_tags_at_every_exit_of_l2(backend):
    renewed = simulated(backend, "cpuid", l2_tag_policy="xen_2013")
    l2_exits = int(renewed.exits[renewed.exits.from_level == "L2"]["count"].sum())
    # a tag that was not used since it was taken is not renewed, so not always two
    assert l2_exits < flushes(renewed, "TAG_RENEWED") <= 2 * l2_exits
    assert count(renewed, "L0_TAG_ALLOCATED") > count(
        simulated(backend, "cpuid"), "L0_TAG_ALLOCATED"
    )
    if backend == "svm":
        assert flushes(renewed, "TAG_WRAP") > 0, "63 ASIDs run out"


@pytest.mark.parametrize("backend", BACKENDS)
def test_eager_np2m_flush_empties_the_table_more_often(backend):
    given = {"l1_params": {"unmap_period": 20, "unmap_pages": 3}}
    lazy = simulated(backend, "touch", **given)
    eager = simulated(backend, "touch", **given, np2m_flush="eager")
    assert count(eager, "L0_NP2M_FLUSHED") > count(lazy, "L0_NP2M_FLUSHED") > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_larger_l1_pages_mean_fewer_nested_page_faults(backend):
    name = "NPF" if backend == "svm" else "EPT_VIOLATION"
    faults = []
    for size in ("4k", "2m", "1g"):
        exits = simulated(backend, "touch", l1_page_size=size).exits
        rows = exits[(exits.exit == name) & (exits.handled_by == "L1")]
        faults.append(int(rows["count"].sum()))
    assert faults[0] > 40 > faults[1] >= faults[2] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_larger_l0_pages_shorten_the_walks(backend):
    references = [
        count(
            simulated(backend, "touch", l0_page_size=size, paging_structure_caches=False),
            "WALK_REFERENCE_NESTED",
            "NESTED_PAGE_FAULT",
        )
        for size in ("4k", "2m", "1g")
    ]
    assert references[0] > references[1] > references[2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_paging_structure_caches_save_references(backend):
    on, off = (simulated(backend, "touch", paging_structure_caches=v) for v in (True, False))
    for event in ("WALK_REFERENCE_GUEST", "WALK_REFERENCE_NESTED"):
        assert count(on, event) < count(off, event)


@pytest.mark.parametrize("backend", BACKENDS)
def test_msr_map_merged_merges_bytes_and_intercept_all_does_not(backend):
    merged = simulated(backend, "msr")
    everything = simulated(backend, "msr", msr_map="intercept_all")
    assert count(merged, "L0_MAP_BYTE_MERGED") > 0 == count(everything, "L0_MAP_BYTE_MERGED")


def test_without_vpid_for_l1_l2_starts_cold_each_time():
    with_vpid, without = (simulated("vmx", "cpuid", vpid_for_l1=v) for v in (True, False))
    assert flushes(without, "L1_WITHOUT_VPID") > 0 == flushes(with_vpid, "L1_WITHOUT_VPID")
    assert refills(without) > refills(with_vpid)


UNMAPPING = {"unmap_period": 20, "unmap_pages": 3}
CONTROL = Path(__file__).parent / "programs" / "control.S"
SHOWN_BY = {
    "np2m_tables": {"l1": "twin", "np2m_flush": "generation"},
    "flush_by_asid": {"l2_tag_policy": "kvm"},
    "pause_filter": {"l2": "spin"},
    "decode_assists": {"l2": str(CONTROL), "l2_params": {"iterations": 5}},
    "apicv": {"l1": "tick", "l2": "tick", "l1_params": {}, "numbers": {"l0": "manual"}},
    "virtual_nmi": {
        "l1": "tick",
        "l2": "tick",
        "l1_params": {},
        "numbers": {"nmi_cycles": 1_000_000, "l0": "manual"},
    },
    "paging": {"l1": "shadow"},
    "pml": {"ept_ad": True, "numbers": {"l0": "manual"}},
    "full_vmcs_switch": {"numbers": {"l0": "kvm"}},
    "branch_barrier": {"numbers": {"l0": "kvm"}},
}
"""Runs in which a feature has something to act on; the others show with L1 minimal."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_toggle_changes_some_count_or_says_why_not(backend):
    for feature in features.applicable(backend):
        given = {"l2": "mixed", "l1_params": UNMAPPING, **SHOWN_BY.get(feature.id, {})}
        seen = {
            simulated(backend, **given, **{feature.id: value}).fingerprint()
            for value in feature.values_on(backend)
        }
        assert len(seen) > 1, f"{feature.id} changed nothing"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_l2_binary_runs_under_both_backends(backend):
    images = {b: catalogue.find(2, "mixed", b).image() for b in BACKENDS}
    assert images["svm"].segments == images["vmx"].segments
    assert simulated(backend, "mixed").stop_code == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_inert_combinations_are_inert(backend):
    """What the catalogue lists as without effect really changes no count."""
    listed = 0
    for feature in features.applicable(backend):
        for other, text, _reason in feature.inert_when:
            value = {"on": True, "off": False}.get(text, text)
            l1 = "shadow" if other == "paging" else "minimal"
            numbers = {"l0": value} if other == "l0" else {}
            given = {} if numbers else {other: value}
            seen = {
                simulated(
                    backend, "mixed", l1=l1, numbers=numbers, **given, **{feature.id: choice}
                ).fingerprint()
                for choice in feature.values_on(backend)
            }
            assert len(seen) == 1, f"{feature.id} has an effect while {other} is {text}"
            listed += 1
    assert listed
