"""Who runs the points of a sweep: threads, worker processes, or the workers of an executor.

The kernel runs without Python's lock, but building a machine, decoding its code and keeping its
counts need it: many short runs are faster in processes, few long ones in threads (measured in
``benchmarks/bench_sweep.py``).  :class:`Automatic` looks at the first runs and chooses.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any

from .. import provenance, simulate
from ..errors import ScenarioError, SimulationError, one_line
from ..result import Result
from ..scenario import Scenario
from .point_store import PointStore

EXECUTORS = ("auto", "threads", "processes")
START_SECONDS = 3.0
"""What a worker process costs before its first run [s of processor time]: imports, compiled core."""
CANCELLED = "cancelled"
_MAX_LOST = 2
"""Worker processes that may die over one point before it is given up."""

Outcome = Result | BaseException
Crew = Callable[[Sequence[Scenario]], Iterator[tuple[int, Outcome]]]


class Cancelled(Exception):
    """The sweep was cancelled before this point was finished."""


class Stop:
    """Set by the caller's own event, or by the end of the sweep; asked as an event is."""

    def __init__(self, asked: threading.Event | None = None):
        self._asked, self._ended = asked, False

    def is_set(self) -> bool:
        """Must what runs come to its end?"""
        return self._ended or (self._asked is not None and self._asked.is_set())

    def set(self) -> None:
        """Let everything end; the caller's event stays as it is."""
        self._ended = True


def run_point(
    scenario: Scenario,
    folder: str | None = None,
    stop: Stop | None = None,
    note: Callable[[float], None] = lambda _: None,
) -> Result:
    """Run one point, or read it if another process has finished it meanwhile; keep it in the store.

    ``note`` is told the processor time of the kernel.
    """
    stop = stop or Stop()
    if folder is None:
        return _simulate(scenario, stop, note)
    store = PointStore(folder)
    with store.claim(scenario, stop.is_set):
        found = store.get(scenario)
        if found is not None:
            return found
        result = _simulate(scenario, stop, note)
        if result.status != CANCELLED:
            store.put(result)
        return result


def _simulate(scenario: Scenario, stop: Stop, note: Callable[[float], None]) -> Result:
    simulate.prepare()
    running = simulate.Run(scenario)
    while running.advance():
        if stop.is_set():
            return running.result(CANCELLED)
    note(running.kernel_seconds)
    return running.result()


def run_remotely(scenario: Scenario, model: str) -> Result:
    """Run one point on a machine that has no part in the store; refuses with another model."""
    if provenance.model_hash() != model:
        theirs = provenance.versions()["workbench"]
        hint = "install the same version on every worker"
        raise SimulationError(f"a worker has another model of the workbench ({theirs})", hint)
    return simulate.run(scenario)


# ---------------------------------------------------------------- a worker process


class WorkerProcess:
    """A child process that runs points one after another; started when first used.

    It imports the workbench and nothing of the calling script, so that a script needs no guard.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, scenario: Scenario, folder: str | None) -> Result:
        """Run a point there; a child that dies is replaced, and the point run again."""
        for _ in range(_MAX_LOST):
            child = self._child = self._child or _start()
            try:
                assert child.stdin is not None and child.stdout is not None
                _send(child.stdin, (scenario, folder))
                outcome = _receive(child.stdout)
            except (EOFError, OSError, pickle.UnpicklingError):
                child.kill()
                code = child.wait()
                self._child = None
                if self._stop.is_set():
                    raise Cancelled from None
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome
        raise SimulationError(
            f"the worker process ended (exit status {code}), {_MAX_LOST} times",
            "there may be too little memory: use fewer workers",
        )

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()


def _start() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.study.crews"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


def _send(pipe: IO[bytes], item: Any) -> None:
    data = pickle.dumps(item)
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    head = pipe.read(8)
    data = pipe.read(int.from_bytes(head, "little"))
    if len(head) < 8 or len(data) < int.from_bytes(head, "little"):
        raise EOFError
    return pickle.loads(data)


def _serve() -> None:
    """The child: points in, results out, until the pipe ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the results
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            scenario, folder = _receive(sys.stdin.buffer)
            try:
                outcome: Outcome = run_point(scenario, folder)
                pickle.dumps(outcome)
            except Exception as problem:
                outcome = SimulationError(one_line(problem))
            _send(out, outcome)


# ---------------------------------------------------------------- many points


class LocalCrew:
    """Runs points with a number of threads, each alone or with a worker process of its own.

    Parameters
    ----------
    kind : {"auto", "threads", "processes"}
    workers : int
    folder : str or None
        Where the store is.
    stop : Stop
    """

    def __init__(self, kind: str, workers: int, folder: str | None, stop: Stop):
        from ..core.emit import config

        # the checks of NUMBA_BOUNDSCHECK know one machine's memory at a time
        self.kind, self.workers = kind, 1 if getattr(config, "BOUNDSCHECK", 0) else workers
        self._folder, self._stop = folder, stop
        self._processes = kind == "processes"
        self._children: list[WorkerProcess] = []
        self._mine = threading.local()
        self._spent: list[tuple[float, float]] = []

    def run(self, scenarios: Sequence[Scenario]) -> Iterator[tuple[int, Outcome]]:
        """Index and result, or what went wrong, as they come in."""
        done: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        probes = 2 * self.workers if self.kind == "auto" else len(scenarios)
        pool = ThreadPoolExecutor(self.workers, "workbench-sweep")
        complete = False
        try:
            for i, scenario in enumerate(scenarios[:probes]):
                pool.submit(self._work, i, scenario, done)
            for received in range(1, len(scenarios) + 1):
                yield self._next(done)
                if received == probes < len(scenarios):
                    self._processes = self._prefer_processes(len(scenarios) - probes)
                    for i in range(probes, len(scenarios)):
                        pool.submit(self._work, i, scenarios[i], done)
            complete = True
        finally:
            if not complete:  # left early: what still runs has to end
                self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            self._close_children()
            pool.shutdown(wait=True)

    def _next(self, done: queue.SimpleQueue[tuple[int, Outcome]]) -> tuple[int, Outcome]:
        while True:
            with contextlib.suppress(queue.Empty):
                return done.get(timeout=0.1)
            if self._stop.is_set():
                self._close_children()

    def _close_children(self) -> None:
        for child in list(self._children):
            child.close()

    def _work(
        self, index: int, scenario: Scenario, done: queue.SimpleQueue[tuple[int, Outcome]]
    ) -> None:
        began = time.thread_time()
        kernel: list[float] = []
        outcome: Outcome
        try:
            outcome = self._run(scenario, kernel.append)
        except BaseException as problem:
            outcome = problem
        if kernel:
            self._spent.append((time.thread_time() - began - kernel[0], kernel[0]))
        done.put((index, outcome))

    def _run(self, scenario: Scenario, note: Callable[[float], None]) -> Result:
        if self._stop.is_set():
            raise Cancelled
        if not self._processes:
            return run_point(scenario, self._folder, self._stop, note)
        child = getattr(self._mine, "child", None)
        if child is None:
            child = self._mine.child = WorkerProcess(self._stop)
            self._children.append(child)
        return child.run(scenario, self._folder)

    def _prefer_processes(self, left: int) -> bool:
        """Would processes be through with the rest sooner?  The later half of the probes decides:
        the first runs also assemble guests and load what later ones find in memory."""
        recent = self._spent[len(self._spent) // 2 :]
        if not recent:
            return False
        python, kernel = (sum(part) / len(recent) for part in zip(*recent, strict=True))
        return prefer_processes(python, kernel, left, self.workers)


def prefer_processes(python: float, kernel: float, left: int, workers: int) -> bool:
    """Are worker processes, their start included, faster than threads for the points left?

    Parameters
    ----------
    python, kernel : float
        Processor time per point [s]: with Python's lock held, which threads take in turn, and in
        the kernel, which runs beside.  Processor time does not depend on what else is running.
    """
    point = python + kernel
    threads = left * max(python, point / workers)
    return workers > 1 and START_SECONDS + left * point / workers < threads


def run_elsewhere(
    executor: Executor, scenarios: Sequence[Scenario], stop: Stop
) -> Iterator[tuple[int, Outcome]]:
    """Points by the workers of an executor, which share neither memory nor files with this process."""
    model = provenance.model_hash()
    running: dict[Future, int] = {
        executor.submit(run_remotely, scenario, model): i for i, scenario in enumerate(scenarios)
    }
    try:
        while running:
            if stop.is_set():
                break
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                index = running.pop(future)
                problem = future.exception()
                yield index, problem if problem is not None else future.result()
    finally:
        left = dict(running)
        for future in left:
            future.cancel()
    for index in left.values():
        yield index, Cancelled()


def as_executor(given: Any) -> str | Executor:
    """What ``sweep(executor=...)`` was given: a kind of crew, or an executor.

    A ``dask.distributed.Client`` is one through its ``get_executor``.
    """
    if given is None:
        return "auto"
    if isinstance(given, str) and given in EXECUTORS:
        return given
    if isinstance(given, Executor):
        return given
    if hasattr(given, "get_executor"):
        return given.get_executor(pure=False)
    hint = f"{', '.join(map(repr, EXECUTORS))}, a dask.distributed.Client, or an Executor"
    raise ScenarioError(f"executor cannot be {given!r}", hint)


def default_workers() -> int:
    """As many as this process may use processors."""
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_crew(given: Any, workers: int | None, folder: str | None, stop: Stop) -> tuple[Crew, bool]:
    """What runs points as ``executor`` and ``workers`` of a sweep ask for.

    Returns
    -------
    crew : callable
        Scenarios -> index and outcome of each, as they come in.
    keep : bool
        True when the crew cannot put results into the store itself.
    """
    executor = as_executor(given)
    if isinstance(executor, Executor):
        return lambda scenarios: run_elsewhere(executor, scenarios, stop), True
    if workers is not None and (isinstance(workers, bool) or workers < 1):
        raise ScenarioError(f"workers is {workers!r}", "a whole number from 1 up")
    return LocalCrew(executor, workers or default_workers(), folder, stop).run, False


if __name__ == "__main__":
    _serve()
