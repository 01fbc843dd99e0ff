"""The histogram of interrupt latency: bins of the kernel, the frame, percentiles."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench.core.ledger import N_LATENCY_BINS, TIME_SCALE
from workbench.errors import ResultError
from workbench.measure.frames import latency_edges, latency_quantiles
from workbench.scenario import Scenario

LOADED = {
    "l1": "tick", "l2": "tick", "timeline": 0, "nmi_cycles": 700_001,
    "l2_params": {"ticks": 60, "cpuid": 100},
}  # fmt: skip


@pytest.fixture(scope="module", params=["svm", "vmx"])
def loaded(request):
    return wb.run(Scenario(backend=request.param, **LOADED))


def test_bins_lie_end_to_end_and_none_is_wider_than_a_quarter_of_its_power_of_two():
    edges = latency_edges()
    assert len(edges) == N_LATENCY_BINS + 1 and edges[:2].tolist() == [0, 1]
    wide = np.diff(edges)[1:] / edges[1:-1]
    assert (wide <= 0.25).all() and (wide >= 1 / 7).all()
    assert edges[-1] > 2.0**62, "any latency has a bin"


def test_each_event_that_was_taken_is_in_a_bin(loaded):
    assert loaded.status == "stopped"
    taken = loaded.deliveries.set_index(["level", "kind"])["taken"]
    counted = loaded.latency.groupby(["level", "kind"])["count"].sum()
    assert counted.to_dict() == taken[taken > 0].to_dict()
    assert taken["L1", "interrupt"] >= 60 and taken["L1", "nmi"] > 5


def test_means_lie_within_what_the_bins_allow(loaded):
    frame = loaded.latency
    for row in loaded.deliveries[loaded.deliveries["taken"] > 0].itertuples():
        bins = frame[(frame["level"] == row.level) & (frame["kind"] == row.kind)]
        least = (bins["from_cycles"] * bins["count"]).sum() / row.taken
        most = (bins["below_cycles"] * bins["count"]).sum() / row.taken
        assert least <= row.latency_cycles + 1 / TIME_SCALE and row.latency_cycles < most
        assert bins["share"].is_monotonic_increasing and bins["share"].iloc[-1] == 1


def test_a_run_without_a_source_of_events_counts_nothing():
    quiet = wb.run(Scenario(l2_params={"iterations": 20}, timeline=0))
    assert not quiet.raw.latency.any() and quiet.latency.empty
    assert np.isnan(quiet.latency_quantiles()).all()


def test_percentiles_interpolate_within_a_bin():
    frame = pd.DataFrame({"level": "L1", "kind": ["interrupt", "interrupt", "nmi"],
                          "from_cycles": [64.0, 80.0, 80.0], "below_cycles": [80.0, 96.0, 96.0],
                          "count": [5, 3, 2]})  # fmt: skip
    wanted = [64, 80, 80 + 16 * 0.9, 96]
    assert latency_quantiles(frame, (0, 0.5, 0.95, 1)) == pytest.approx(wanted)
    assert latency_quantiles(frame[2:], (0.5,)) == pytest.approx([88])


def test_percentiles_are_of_the_level_and_kind_asked_for(loaded):
    every, nmi = loaded.latency_quantiles(), loaded.latency_quantiles(level="L1", kind="nmi")
    assert (np.diff(every) >= 0).all() and not np.allclose(every, nmi)
    assert np.isnan(loaded.latency_quantiles(kind="smi")).all()
    with pytest.raises(ResultError, match="share"):
        loaded.latency_quantiles((95,))


def test_the_kernel_puts_a_latency_into_the_bin_that_holds_it():
    """One event alone: the sum of the latencies is its own."""
    one = wb.run(Scenario(**LOADED | {"nmi_cycles": 0, "l2_params": {"ticks": 1}}))
    (waited,) = one.deliveries["latency_cycles"].dropna()
    (found,) = one.latency.itertuples()
    assert found.count == 1 and found.from_cycles <= waited < found.below_cycles
