"""Points of a sweep per second: threads beside worker processes, short runs and long ones.

One worker, then as many as there are processors; nothing is kept in a store in the first rows, so
that only the running is measured.
"""

from __future__ import annotations

import tempfile
import time

from common import row

import workbench as wb
from workbench.study.crews import default_workers, run_point

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


def processor_time(params: dict[str, int]) -> tuple[float, float]:
    """Seconds of a point with Python's lock held, and in the kernel, where it is free."""
    scenario = wb.Scenario(backend="vmx", l2_params=params, timeline=0)
    readings = []
    for _ in range(5):
        kernel: list[float] = []
        began = time.thread_time()
        run_point(scenario, note=kernel.append)
        readings.append((time.thread_time() - began - kernel[0], kernel[0]))
    return min(readings)


def main() -> None:
    """Print a row per kind of run and of workers."""
    many = default_workers()
    seconds(SHORT, 4, store=False, executor="threads", workers=1)
    for name, (params, points) in POINTS.items():
        python, kernel = processor_time(params)
        bound = (python + kernel) / max(python, (python + kernel) / many)
        row(f"sweep, {name} runs, processor time of one", f"{1e3 * (python + kernel):.0f} ms", "",
            f"{1e3 * kernel:.0f} ms in the kernel: {many} threads at most {bound:.1f} x one")  # fmt: skip
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
