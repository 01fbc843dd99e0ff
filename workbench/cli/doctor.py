"""What this machine has and what it lacks: versions, cache, processor, and how to get the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ..paths import cache_dir, data_dir

RUNTIME = ("numpy", "numba", "llvmlite", "pandas", "pyarrow", "iced-x86", "pyelftools",
           "matplotlib", "jupyterlab", "ipywidgets")  # fmt: skip
DEVELOPMENT = ("pytest", "hypothesis", "unicorn", "nbmake", "ruff", "mypy", "import-linter",
               "playwright")  # fmt: skip
_GET_DEVELOPMENT = "make test installs it (pip install --require-hashes -r requirements.lock)"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``required`` when the workbench does not work without it."""

    name: str
    text: str
    good: bool = True
    required: bool = False
    remedy: str = ""

    def __str__(self) -> str:
        mark = "ok " if self.good else "!! " if self.required else "-- "
        remedy = f"\n{'':<24}get it: {self.remedy}" if self.remedy and not self.good else ""
        return f"{mark} {self.name:<20} {self.text}{remedy}"


def examine() -> list[Finding]:
    """Look at everything once; runs no simulation and compiles nothing."""
    return [*_system(), *_packages(), *_cache(), *_tools()]


def _system() -> list[Finding]:
    python = Finding(
        "python",
        f"{platform.python_version()} at {sys.executable}",
        sys.version_info >= (3, 11),
        True,
        "Python 3.11 or newer",
    )
    cores = Finding("processor", f"{processor_name()}, {os.cpu_count()} cores")
    memory = memory_gib()
    return [
        Finding("system", platform.platform()),
        python,
        cores,
        Finding("memory", f"{memory:.1f} GiB" if memory else "not known"),
    ]


def processor_name() -> str:
    """The processor's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Physical memory in GiB; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):
        return 0.0


def _packages() -> list[Finding]:
    needed = [_package(name, True, "pip install nested-hvm-workbench") for name in RUNTIME]
    extra = [_package(name, False, _GET_DEVELOPMENT) for name in DEVELOPMENT]
    return [*needed, _package("voila", False, "pip install voila (the panel as an app)"), *extra]


def _package(name: str, required: bool, remedy: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), True, required)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", False, required, remedy)


def _cache() -> list[Finding]:
    from ..core import units

    place = cache_dir()
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    warm = units.is_warm()
    return [
        Finding("data", str(data_dir())),
        Finding("cache", f"{place} ({size / 2**20:.1f} MiB)"),
        Finding(
            "compiled core",
            "ready" if warm else "not compiled yet",
            warm,
            False,
            "workbench warmup (else the first run compiles it, about a minute)",
        ),
    ]


def chromium() -> str | None:
    """Path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def _tools() -> list[Finding]:
    gcc, browser = shutil.which("gcc"), chromium()
    return [
        Finding("gcc", gcc or "not found", bool(gcc), False,
                "apt-get install gcc (only the benchmarks use it, to compare with C)"),
        Finding("chromium", browser or "not found", bool(browser), False,
                "apt-get install chromium (only the browser test uses it)"),
    ]  # fmt: skip
