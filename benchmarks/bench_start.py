"""Cold compile with an empty cache, and the time to the first result with a warm one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import row, shortest

FIRST = "import workbench as wb; wb.run(wb.Scenario())"
ROOT = Path(__file__).resolve().parents[1]


def seconds(code: str, cache: str) -> float:
    """Wall time of ``python -c code`` with a cache directory."""
    environment = {**os.environ, "WORKBENCH_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - began


def main() -> None:
    """Print a row for the cold and for the warm start."""
    with tempfile.TemporaryDirectory() as cache:
        cold = seconds(FIRST, cache)
        row("python -c to the first result, empty cache", f"{cold:.1f} s", "goal 60 s",
            f"{os.cpu_count()} cores")  # fmt: skip
        warm = shortest(lambda: seconds(FIRST, cache), 3)
        row("python -c to the first result, warm cache", f"{warm:.1f} s", "goal 3 s",
            f"1/{cold / warm:.0f} of the cold start")  # fmt: skip
        light = shortest(lambda: seconds("import workbench", cache), 3)
        bare = shortest(lambda: seconds("pass", cache), 3)
        row("import workbench", f"{(light - bare) * 1000:.0f} ms", "goal 100 ms",
            "more than python -c pass")  # fmt: skip


if __name__ == "__main__":
    main()
