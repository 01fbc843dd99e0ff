"""Points of a sweep per second: threads beside worker processes, short runs and long ones.

One worker, then as many as there are processors; nothing is kept in a store in the first rows, so
that only the running is measured.
"""

from __future__ import annotations

import tempfile
import time

from common import row

import workbench as wb
from workbench.crews import default_workers

SHORT = {"iterations": 2_000}
LONG = {"iterations": 500_000}
POINTS = {"short": (SHORT, 200), "long": (LONG, 4)}


def seconds(params: dict[str, int], points: int, **how) -> float:
    """Wall time of a sweep over as many points; each has its own number of extra instructions."""
    base = wb.Scenario(backend="vmx", l2_params=params, timeline=0)
    began = time.perf_counter()
    table = wb.sweep(base, {"l2_params.work": list(range(points))}, **how)
    assert set(table["status"]) == {"stopped"}
    return time.perf_counter() - began


def main() -> None:
    """Print a row per kind of run and of workers."""
    many = default_workers()
    seconds(SHORT, 4, store=False, executor="threads", workers=1)
    for name, (params, points) in POINTS.items():
        alone = seconds(params, points, store=False, executor="threads", workers=1)
        row(f"sweep, {name} runs, 1 thread", f"{points / alone:.1f} points/s")
        for kind in ("threads", "processes", "auto"):
            took = seconds(params, points, store=False, executor=kind, workers=many)
            row(f"sweep, {name} runs, {many} workers: {kind}", f"{points / took:.1f} points/s",
                "", f"{alone / took:.2f} x one thread")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        first = seconds(SHORT, 200, store=folder)
        again = seconds(SHORT, 200, store=folder)
        row("sweep, short runs, kept in a store", f"{200 / first:.1f} points/s")
        row("the same sweep again", f"{200 / again:.1f} points/s", "",
            f"{first / again:.1f} x the first time")  # fmt: skip


if __name__ == "__main__":
    main()
