"""How the command talks to a terminal: exit codes, and a progress line that files never see."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..simulate import Progress

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_GUEST, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

_BAR = 24
_PAUSE_SECONDS = 0.1


class ProgressLine:
    """One line, rewritten in place while the ``with`` block runs, and gone after it."""

    def __init__(self, wanted: bool = True):
        self._shown = wanted and sys.stderr.isatty()
        self._last = 0.0
        self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._width:
            self._write("", end="\r")

    def report(self, progress: Progress) -> None:
        """Show a :class:`workbench.simulate.Progress`."""
        now = time.monotonic()
        if not self._shown or now - self._last < _PAUSE_SECONDS:
            return
        self._last = now
        self._write(describe(progress))

    def _write(self, text: str, end: str = "") -> None:
        print(f"\r{text:<{self._width}}", end=end, file=sys.stderr, flush=True)
        self._width = len(text)


def describe(progress: Progress) -> str:
    """A progress as one line of text."""
    if progress.phase.startswith("compiling"):
        filled = round(progress.fraction * _BAR)
        bar = "#" * filled + "." * (_BAR - filled)
        name = progress.phase.rpartition(": ")[2][:24]
        return f"compiling the core [{bar}] {progress.steps} of {progress.max_steps}  {name}"
    if progress.phase == "points":
        return f"{progress.steps} of {progress.max_steps} points"
    return f"{progress.phase}: {progress.steps / 1e6:,.1f} million instructions"
