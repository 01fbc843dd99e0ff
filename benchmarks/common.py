"""What the benchmarks share: best of several runs, a C twin, and a table row."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RUNS = 5


def best(measure: Callable[[], float], runs: int = RUNS) -> float:
    """The largest of several readings of a speed: what the machine can do undisturbed."""
    return max(measure() for _ in range(runs))


def shortest(measure: Callable[[], float], runs: int = RUNS) -> float:
    """The smallest of several readings of a time."""
    return min(measure() for _ in range(runs))


def row(what: str, value: str, goal: str = "", beside: str = "") -> None:
    """Print one line: what, how much, the goal, and a ratio to something known."""
    print(f"{what:<52} {value:>22}   {goal:<22} {beside}", flush=True)


def c_program(source: str, *arguments: str) -> str | None:
    """Output of a C program compiled with ``gcc -O2``; None without gcc."""
    if shutil.which("gcc") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        code, program = Path(folder, "twin.c"), Path(folder, "twin")
        code.write_text(source)
        subprocess.run(["gcc", "-O2", "-o", program, code], check=True)
        return subprocess.run([program, *arguments], check=True, capture_output=True,
                              text=True).stdout  # fmt: skip
