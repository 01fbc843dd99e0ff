"""The same sweep on the workers of dask.distributed, one of which is killed in the middle."""

import os
import signal
import threading

import pandas as pd
import pytest

import workbench as wb
from workbench.study import crews
from workbench.study.point_store import PointStore

distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")

BASE = wb.Scenario(backend="vmx", l2_params={"iterations": 5_000}, timeline=0)
GRID = {"l2_params.work": list(range(8)), "features.vmcs_shadowing": [False, True]}


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as made:
        yield made


def test_a_worker_killed_in_the_middle_costs_no_point(cluster, tmp_path):
    here = wb.sweep(BASE, GRID, store=False)
    with distributed.Client(cluster) as client:
        victims = list(client.run(os.getpid).values())
        killed = []

        def kill_one(progress):
            if progress.phase == "points" and progress.steps == 4 and not killed:
                killed.append(victims[0])
                os.kill(victims[0], signal.SIGKILL)

        there = wb.sweep(BASE, GRID, executor=client, store=tmp_path, progress=kill_one)
        assert killed
        assert victims[0] not in client.run(os.getpid).values()
    pd.testing.assert_frame_equal(pd.DataFrame(here), pd.DataFrame(there))
    for label, result in there.results.items():
        assert result.fingerprint() == here.results[label].fingerprint()
    assert len(list(PointStore(tmp_path).entries(check=True))) == len(there)


def test_errors_of_the_workers_are_rows(cluster, monkeypatch):
    with distributed.Client(cluster) as client:
        table = wb.sweep(BASE, [{}, {"l2": "nope"}], executor=client, store=False)
        assert list(table["status"]) == ["stopped", "error"]
        monkeypatch.setattr(crews.provenance, "model_hash", lambda: "another model")
        table = wb.sweep(BASE, [{}], executor=client, store=False)
        assert "another model" in table["error"][0]


def test_cancel_ends_a_sweep_on_a_cluster(cluster):
    cancel = threading.Event()
    with distributed.Client(cluster) as client:
        table = wb.sweep(BASE, GRID, executor=client, store=False, cancel=cancel,
                         progress=lambda progress: cancel.set())  # fmt: skip
    assert "cancelled" in set(table["status"])
