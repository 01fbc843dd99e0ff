"""Runs without their warm-up, and the frames of the paging experiment."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.errors import ResultError
from workbench.questions import measures, paging
from workbench.questions.runs import Run
from workbench.questions.steady import since
from workbench.scenario import Scenario


def workset(backend="svm", mode="non", **params):
    base = {"pages": 300, "accesses": 4000, "changes": 0}
    return wb.run(
        Scenario(backend=backend, l1="shadow", l2="workset", features={"paging": mode},
                 l2_params=base | params, timeline=0)
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_what_is_left_without_the_warm_up_is_the_loop_alone(backend):
    result = since(workset(backend), workset(backend, accesses=0))
    # per access: WORK (mov, jrcxz, 10 x 2), 13 to choose page and address, 6 for access and loop
    assert result.l2_instructions == pytest.approx(4000 * 41, abs=20)
    assert result.l2_operations == 0 and result.facts["virtual_exits"] == 0
    assert measures.read(result, "cycles_per_access").value > 30


def test_two_halves_make_the_whole():
    start, middle, end = (workset(accesses=n) for n in (0, 2000, 4000))
    whole = since(end, start).raw.counts
    assert (since(end, middle).raw.counts + since(middle, start).raw.counts == whole).all()


def test_a_run_that_is_longer_is_no_warm_up():
    with pytest.raises(ResultError, match="beginning"):
        since(workset(accesses=0), workset())


def changed(mode, rate):
    params = {"changes": rate, "pages": 300}
    start = workset(mode=mode, **params | {"accesses": 0})
    return Run("svm", (rate, 300), mode, workset(mode=mode, **params), start)


def test_changes_exit_only_where_l1_shadows():
    runs = [changed(mode, rate) for mode in ("non", "son", "sos") for rate in (0, 5000)]
    frames = paging.paging(runs)
    exits = frames["exits"].set_index(["series", "x"])["value"]
    # 5000 in a million: 20 changes in 4000 accesses, 5 per 1000; non: the spare frame's first use
    assert exits["non", 5000] < 2 and exits["son", 5000] > 5 * 2
    assert exits["sos", 5000] > exits["son", 5000] and (exits[:, 0] == 0).all()
    walks = frames["walks"].set_index(["series", "x"])["value"]
    assert (walks >= 0).all() and set(walks.index.unique("x")) == {300}
    pairs = frames["pairs"].set_index(["panel", "x"])["value"]
    assert pairs["SVM: non over sos", 5000] > 50 > abs(pairs["SVM: non over sos", 0])


def test_each_page_of_the_set_lies_where_its_table_says():
    """More pages than one table maps, and changes up to one per access: L2 ends by itself."""
    result = workset(pages=1300, accesses=3000, changes=1_000_000)
    assert result.status == "stopped" and result.stop_code == 0
    few = workset(pages=1300, accesses=3000, changes=1000)
    # seven instructions change an entry, in 3000 and in 3 of the accesses
    assert result.l2_instructions - few.l2_instructions == 7 * 2997
