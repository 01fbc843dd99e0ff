"""The nested p2m cache and the tags in whole runs: what each toggle's text promises."""

from __future__ import annotations

import pytest

from tests.model.runs import BACKENDS, count, simulated

NAME = {"svm": "NPF", "vmx": "EPT_VIOLATION"}
TAKING = {"unmap_period": 20, "unmap_pages": 3}
PROTECTING = {"unmap_period": 12, "unmap_pages": 6, "write_protect": 1, "roots": 1}


def faults(result, from_level: str = "L2", handled_by: str = "L0") -> int:
    """Nested page faults of one level that one level served."""
    rows = result.exits[result.exits.exit == NAME[result.scenario.backend]]
    rows = rows[(rows.from_level == from_level) & (rows.handled_by == handled_by)]
    return int(rows["count"].sum())


def flushes(result, reason: str) -> int:
    tlb = result.tlb
    return int(tlb[tlb.reason == reason].flushes.sum())


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_table_for_two_roots_is_emptied_at_each_change(backend):
    given = {"l1": "twin", "np2m_flush": "generation"}
    two = simulated(backend, "mixed", **given, np2m_tables="2")
    one = simulated(backend, "mixed", **given, np2m_tables="1")
    assert count(two, "L0_NP2M_FLUSHED") == 0
    assert count(one, "L0_NP2M_FLUSHED") == one.facts["virtual_entries"] - 1, "all but the first"
    assert faults(one) > 5 * faults(two)
    assert faults(one, handled_by="L1") == faults(two, handled_by="L1")


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_root_needs_one_table(backend):
    few, many = (simulated(backend, "mixed", np2m_tables=n) for n in ("1", "10"))
    assert few.fingerprint() == many.fingerprint()


def test_since_2017_a_new_asid_does_not_empty_the_table():
    lazy = simulated("svm", "mixed", l1="twin")
    today = simulated("svm", "mixed", l1="twin", np2m_flush="generation")
    assert count(lazy, "L0_NP2M_FLUSHED") > 0 == count(today, "L0_NP2M_FLUSHED")
    assert faults(today) < faults(lazy)
    assert count(today, "L0_TAG_ALLOCATED") > count(lazy, "L0_TAG_ALLOCATED")


def test_since_2017_pages_taken_without_invept_stay_reachable():
    given = {"l1_params": TAKING}
    lazy = simulated("svm", "mixed", **given)
    today = simulated("svm", "mixed", **given, np2m_flush="generation")
    assert faults(today, handled_by="L1") < faults(lazy, handled_by="L1")


def test_invept_empties_the_table_under_every_policy():
    for policy in ("lazy", "eager", "generation"):
        run = simulated("vmx", "mixed", l1_params=TAKING, np2m_flush=policy)
        assert count(run, "L0_NP2M_FLUSHED") > 0
        assert faults(run, handled_by="L1") > faults(simulated("vmx", "mixed"), handled_by="L1")


# ---------------------------------------------------------------- L0's own table


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l0_page_size", ["4k", "2m", "1g"])
@pytest.mark.parametrize("event", ["balloon", "log_dirty"])
@pytest.mark.parametrize("l1", ["minimal", "twin"])
def test_a_change_of_l0s_table_empties_every_nested_p2m(backend, l0_page_size, event, l1):
    given = {"l1": l1, "l0_page_size": l0_page_size}
    quiet = simulated(backend, "mixed", **given)
    run = simulated(backend, "mixed", **given, l0_p2m_event=event, numbers={"balloon_period": 50})
    assert count(run, "L0_P2M_CHANGED") > 0 == count(quiet, "L0_P2M_CHANGED")
    assert count(run, "L0_NP2M_FLUSHED") > count(quiet, "L0_NP2M_FLUSHED")
    assert faults(run) > faults(quiet)
    assert faults(run, handled_by="L1") == faults(quiet, handled_by="L1"), "L1 notices nothing"
    assert flushes(run, "P2M_CHANGED") > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_l1_faults_on_its_own_pages_too(backend):
    run = simulated(backend, "mixed", l0_p2m_event="balloon", numbers={"balloon_period": 50})
    assert faults(run, from_level="L1") > 0


# ---------------------------------------------------------------- rights, accessed and dirty bits


def test_xen_on_svm_forgets_that_l1_write_protected_a_page_l2_has_read():
    given = {"l1": "twin", "l1_params": PROTECTING}
    host_only = simulated("svm", "compute", **given)
    without = {"deviations": {"np2m_host_rights": False}}
    both = simulated("svm", "compute", **given, numbers=without)
    assert faults(host_only, handled_by="L1") < faults(both, handled_by="L1")


def test_dirty_bits_of_ept_cost_a_second_violation():
    given = {"l1_params": {"unmap_period": 12, "unmap_pages": 6}, "numbers": {"l0": "manual"}}
    off = simulated("vmx", "compute", **given)
    on = simulated("vmx", "compute", **given, ept_ad=True)
    assert faults(on) > faults(off)


# ---------------------------------------------------------------- tags


@pytest.mark.parametrize("backend", BACKENDS)
def test_few_tags_run_out(backend):
    few = simulated(backend, "cpuid", l2_tag_policy="xen_2013", numbers={"asids": 4})
    many = simulated(backend, "cpuid", l2_tag_policy="xen_2013", numbers={"asids": 60000})
    assert flushes(few, "TAG_WRAP") > 0 == flushes(many, "TAG_WRAP")
    assert count(few, "L0_TAG_ALLOCATED") >= count(many, "L0_TAG_ALLOCATED")


def test_kvm_on_svm_flushes_one_asid_at_each_switch_and_for_nothing_else():
    run = simulated("svm", "mixed", l2_tag_policy="kvm", l1_params=TAKING)
    switches = run.facts["virtual_entries"] + run.facts["virtual_exits"]
    assert flushes(run, "L1_L2_SWITCH") == switches
    assert flushes(run, "TLB_CONTROL") == flushes(run, "TAG_RENEWED") == 0
    assert count(run, "L0_TAG_ALLOCATED") == 1


def test_without_flush_by_asid_each_flush_takes_a_new_asid():
    run = simulated("svm", "mixed", l2_tag_policy="kvm", flush_by_asid=False)
    assert count(run, "L0_TAG_ALLOCATED") > run.facts["virtual_entries"]
    assert flushes(run, "TAG_WRAP") > 0


def test_kvm_on_vmx_flushes_only_when_l1_changes_the_vpid():
    same = simulated("vmx", "mixed", l1="twin", l1_params={"own_tags": 0}, l2_tag_policy="kvm")
    own = simulated("vmx", "mixed", l1="twin", l2_tag_policy="kvm")
    assert flushes(same, "TAG_RENEWED") == 1, "the first VPID that L2 gets"
    assert flushes(own, "TAG_RENEWED") == own.facts["virtual_entries"]
    assert int(same.tlb.refills.sum()) < int(own.tlb.refills.sum())


def test_kvm_on_vmx_flushes_at_each_switch_for_an_l2_without_vpid():
    run = simulated("vmx", "mixed", l2_tag_policy="kvm", vpid_for_l1=False)
    switches = run.facts["virtual_entries"] + run.facts["virtual_exits"]
    assert flushes(run, "L1_WITHOUT_VPID") == switches


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("policy", ["own", "shared_flush", "xen_2013", "kvm"])
def test_no_policy_changes_what_l2_computes(backend, policy):
    plain = simulated(backend, "ctxsw", l1="twin", l1_params=TAKING)
    run = simulated(backend, "ctxsw", l1="twin", l1_params=TAKING, l2_tag_policy=policy)
    assert run.facts["l2_instructions"] == plain.facts["l2_instructions"]
