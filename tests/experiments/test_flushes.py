"""Frames of the experiments about nested p2m flushes and tags, against what the L1 program does."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.questions import np2m, tags
from workbench.questions.runs import Run
from workbench.scenario import Scenario

POLICIES = ("lazy", "eager", "generation")


def flushed(backend, policy, pages, event="none"):
    result = wb.run(
        Scenario(backend=backend, l2="mixed", timeline=0,
                 features={"np2m_flush": policy, "l0_p2m_event": event},
                 l1_params={"unmap_period": 100, "unmap_pages": pages},
                 l2_params={"iterations": 1500, "pages": 128})
    )  # fmt: skip
    return Run(backend, (pages, event), policy, result)


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_eager_empties_at_each_invalidation_and_lazy_once_for_all(backend):
    runs = [flushed(backend, policy, pages) for policy in POLICIES for pages in (1, 8)]
    frames = np2m.np2m(runs)
    emptied = frames["emptied"].set_index(["series", "x"])["value"]
    assert emptied["lazy", 1] == pytest.approx(1, abs=0.15) == emptied["lazy", 8]
    # SVM: TLB_CONTROL of the VMRUN after the INVLPGAs is one more
    more = 1 if backend == "svm" else 0
    assert emptied["eager", 8] == pytest.approx(8 + more, abs=0.3)
    assert emptied["eager", 1] == pytest.approx(1 + more, abs=0.15)
    assert emptied["generation", 8] == pytest.approx(1 - more, abs=0.15)
    filled = frames["filled"].set_index(["series", "x"])["value"]
    assert filled["lazy", 8] == filled["eager", 8] > 10, "filling again is the same"
    bill = frames["bill"].set_index(["x", "series"])["value"]
    assert bill["eager", "emptying tables"] > bill["lazy", "emptying tables"]
    assert bill["lazy", "nested page faults"] > 20 * bill["lazy", "emptying tables"]


def test_on_vmx_one_invept_costs_the_same_under_lazy_and_eager():
    lazy, eager = (flushed("vmx", policy, 1).result for policy in ("lazy", "eager"))
    assert lazy.cycles == eager.cycles and lazy.raw.event("L0_NP2M_FLUSHED") > 5


@pytest.mark.parametrize("event", ["balloon", "log_dirty"])
def test_changes_of_l0s_own_table_empty_under_each_policy(event):
    emptied = {
        policy: flushed("vmx", policy, 1, event).result.raw.event("L0_NP2M_FLUSHED")
        for policy in POLICIES
    }
    quiet = flushed("vmx", "lazy", 1).result.raw.event("L0_NP2M_FLUSHED")
    assert all(count > quiet + 5 for count in emptied.values())


def tagged(policy, name, pages, asids):
    def run(accesses):
        params = {"accesses": accesses, "pages": pages, "changes": 0, "cpuid": 1000}
        return wb.run(Scenario(backend="svm", l2="workset", l2_params=params, asids=asids,
                               features={"l2_tag_policy": policy}, timeline=0))  # fmt: skip

    return Run("svm", (pages, asids), name, run(20_000), run(0))


def test_tags_that_run_out_are_flushed_and_own_ones_never():
    names = {"own": "own", "shared_flush": "shared, flushed", "xen_2013": "fresh"}
    runs = [
        tagged(policy, name, pages, asids)
        for policy, name in names.items()
        for pages in (50, 600)
        for asids in (4, 64)
    ]
    frames = tags.tags(runs)
    done = frames["flushes"].set_index(["panel", "series", "x"])["value"]
    executed = done["SVM: flushes executed"]
    assert executed["own"].eq(0).all() and (executed["shared, flushed"] > 1.8).all()
    # two new tags per exit; three of four ASIDs are guests', 63 of 64
    assert executed["fresh", "4 tags"] == pytest.approx(2 / 3, abs=0.1)
    assert executed["fresh", "64 tags"] == pytest.approx(2 / 63, abs=0.06)
    saved = frames["saved"].set_index(["panel", "series", "x"])["value"]
    assert saved["SVM, 64 tags", "own", 600] > saved["SVM, 64 tags", "own", 50] > 0
    assert saved["SVM, 64 tags", "own", 600] > saved["SVM, 64 tags", "fresh", 600] > 0
    cycles = frames["cycles"]
    assert set(cycles["x"]) == {50, 600} and (cycles["low"] < cycles["high"]).all()
