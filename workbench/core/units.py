"""All compiled units of the core: importing this module registers them; ``entry`` calls one.

On a cold cache the units are compiled by worker processes side by side (``python -m
workbench.core.units``), then loaded here; on a warm one they are only loaded.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from . import jit
from .cpu import run  # noqa: F401  (imports every other unit)

Progress = Callable[[str, int, int], None]
"""Called with the unit's name, how many are done, and how many there are."""

MAX_WORKERS = 4
KEEP_VERSIONS = 16


def is_warm() -> bool:
    """Is the core of this version compiled already?"""
    return not _missing()


def _missing() -> list[str]:
    return [name for name, unit in jit.UNITS.items() if not unit.is_cached()]


def load(progress: Progress | None = None) -> None:
    """Compile what is not cached, then load every unit; ``progress`` follows the compilation."""
    if all(unit.address for unit in jit.UNITS.values()):
        return
    missing = _missing()
    if missing:
        _compile_in_workers(missing, progress)
    jit.load_units()
    if missing:
        _forget_old_versions()


@cache
def entry(name: str) -> Callable[..., int]:
    """The unit as a Python callable on addresses; compiles or loads the core at the first call."""
    load()
    return jit.UNITS[name].entry()


def _forget_old_versions() -> None:
    """Delete machine code of older versions of a unit, all but the newest few."""
    versions: dict[str, list[tuple[float, Path]]] = {}
    for index in jit.kernel_cache().glob("*.o"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies up as well
            written = index.stat().st_mtime
            versions.setdefault(index.stem.rpartition("-")[0], []).append((written, index))
    for found in versions.values():
        for _, index in sorted(found, reverse=True)[KEEP_VERSIONS:]:
            index.unlink(missing_ok=True)


# ---------------------------------------------------------------- compiling side by side


def _compile_in_workers(names: list[str], progress: Progress | None) -> None:
    """Put units into the cache; a worker that fails leaves its units to the loading process."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in sorted(names, key=_weight, reverse=True):
        todo.put(name)
    lock = threading.Lock()
    done = 0

    def feed(worker: subprocess.Popen[str]) -> None:
        nonlocal done
        assert worker.stdin is not None and worker.stdout is not None
        try:
            while True:
                name = todo.get_nowait()
                worker.stdin.write(name + "\n")
                worker.stdin.flush()
                if not worker.stdout.readline():
                    return
                with lock:
                    done += 1
                    if progress is not None:
                        progress(name, done, len(names))
        except (queue.Empty, OSError):
            return
        finally:
            worker.stdin.close()

    workers = [_start_worker() for _ in range(min(os.cpu_count() or 1, MAX_WORKERS, len(names)))]
    if progress is not None:
        progress("starting", 0, len(names))
    threads = [threading.Thread(target=feed, args=(w,), daemon=True) for w in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _weight(name: str) -> int:
    """Longest first: number of code lines is a good enough guess of a unit's compile time."""
    code = jit.UNITS[name].function.__code__
    return len(code.co_code)


def _start_worker() -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.core.units"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def _worker() -> None:
    """Compile the units named on stdin into the cache; nothing is run."""
    for line in sys.stdin:
        jit.UNITS[line.strip()].compile()
        print(line.strip(), flush=True)


if __name__ == "__main__":
    _worker()
