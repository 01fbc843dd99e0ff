"""Experiments about events: what they compute from runs, against the runs' own tables."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.charts.interrupts import REASONS
from workbench.questions import measures, waits
from workbench.questions.runs import Run
from workbench.scenario import Scenario

LOAD = {
    "l1": "tick", "l2": "tick", "timeline": 0, "nmi_cycles": 700_001,
    "l2_params": {"ticks": 80, "cpuid": 300},
}  # fmt: skip


def runs_of(backend, feature, values):
    return [
        Run(backend, (period,), str(value), wb.run(scenario(backend, period, feature, value)))
        for period in (300_007, 400_009)
        for value in values
    ]


def scenario(backend, period, feature, value):
    load = LOAD | {"l2_params": LOAD["l2_params"] | {"period": period}}
    return Scenario(backend=backend, features={feature: value}, **load)


@pytest.fixture(scope="module", params=["svm", "vmx"])
def delivered(request):
    return request.param, runs_of(request.param, "vmexit_delivery", ["deferred", "immediate"])


def test_waits_are_those_of_the_runs_together(delivered):
    backend, runs = delivered
    frame = waits.waits(runs)
    assert set(frame["panel"]) == {f"{backend.upper()}, {kind}" for kind in ("NMIs", "interrupts")}
    for (_, _), rows in frame.groupby(["panel", "series"]):
        assert rows["value"].is_monotonic_increasing and rows["value"].iloc[-1] == 100
        assert (rows["x_end"] > rows["x"]).all()
    taken = sum(int(r.result.deliveries.query("level == 'L1'")["taken"].sum()) for r in runs)
    assert frame["events"].sum() == taken > 0


def test_percentiles_rise_and_the_mean_is_exact(delivered):
    backend, runs = delivered
    frame = waits.percentiles(runs).set_index(["panel", "series", "x"])["value"]
    for panel in frame.index.unique("panel"):
        assert frame[panel, "deferred", "p50"] <= frame[panel, "deferred", "p95"]
        assert frame[panel, "deferred", "p95"] <= frame[panel, "deferred", "p99"]
    raws = [run.result.raw for run in runs if run.alternative == "deferred"]
    mean = sum(r.latency_time[1, 0] for r in raws) / sum(r.latency[1, 0].sum() for r in raws) / 1024
    assert frame[f"{backend.upper()}, interrupts", "deferred", "mean"] == pytest.approx(mean)


def test_only_deferred_exits_are_recorded_and_both_take_the_same_time(delivered):
    backend, runs = delivered
    frames = waits.delivery(runs)
    record = frames["record"].set_index(["x", "series"])["value"]
    assert record["exitcode", "deferred"] > 1 > record["exitcode", "immediate"]
    assert record["vmexit_pending", "deferred"] > record["vmexit_pending", "immediate"] + 2
    spans = [
        (measures.read(run.result, "event_latency").low,
         measures.read(run.result, "event_latency").high) for run in runs
    ]  # fmt: skip
    assert max(low for low, _ in spans[:2]) < min(high for _, high in spans[:2])
    windows = frames["windows"].set_index(["x", "series"])["value"]
    cost = frames["cost"].set_index(["panel", "x"])["value"]
    deferred = [run.result for run in runs if run.alternative == "deferred"]
    virtual = sum(result.facts["virtual_exits"] for result in deferred)
    cycles = sum(result.parts.loc["all", "cycles"] for result in deferred)
    assert cost[f"{backend.upper()}: cycles", "deferred"] == pytest.approx(cycles / virtual)
    exits = cost[f"{backend.upper()}: hardware exits"]
    assert exits["deferred"] == pytest.approx(exits["immediate"], rel=0.1)
    assert exits["immediate"] > 3
    if backend == "vmx":
        assert windows["L1 NMI window", "deferred"] > 0 == windows["L1 NMI window", "immediate"]
    else:
        assert spans[0] == spans[1] and set(frames["blocked"]["series"]) == set(REASONS.values())


def test_virtual_gif_shortens_what_gif_blocks_and_moves_it_without_exits():
    frames = waits.gif(runs_of("svm", "virtual_gif", [False, True]))
    blocked = frames["blocked"].set_index(["x", "series"])["value"]
    assert 0 < blocked["True", REASONS["svm_gif"]] < blocked["False", REASONS["svm_gif"]]
    total = frames["cost"].set_index(["panel", "x"])["value"]["SVM: hardware exits"]
    assert total["True"] < total["False"] - 1
    exits = frames["exits"].set_index(["x", "series"])["value"]
    assert exits["L1 CLGI", "True"] == 0 < exits["L1 CLGI", "False"]
    assert 0 < exits["L1 STGI", "True"] < exits["L1 STGI", "False"], (
        "an NMI that waits makes it exit"
    )


def test_cycles_blocked_fit_into_the_waits():
    """An event that is blocked waits: no reason can hold events longer than they waited."""
    for run in runs_of("svm", "virtual_gif", [False, True]):
        raw = run.result.raw
        assert 0 < raw.blocked_time.sum() <= raw.latency_time.sum()


def test_a_mean_of_events_has_bounds_of_its_sample():
    few, many = (
        wb.run(Scenario(**LOAD | {"l2_params": {"ticks": ticks, "cpuid": 300}}))
        for ticks in (20, 320)
    )
    wide, narrow = (measures.read(result, "event_latency") for result in (few, many))
    assert wide.low < wide.value < wide.high
    assert 2.5 < (wide.high - wide.low) / (narrow.high - narrow.low) < 6, "sixteen times the events"
    gain, low, high = measures.gain(few, many, "event_latency")
    assert low < gain < high and gain == pytest.approx(wide.value - narrow.value)
