"""The panel's section of tornado charts: what moves the cost of the result shown.

Prices are arithmetic on its counts.  Toggles are runs of their own, one each, in the background,
with progress and cancel; other prices draw their chart again without a run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as w

from .. import charts
from ..errors import WorkbenchError
from ..result import Result
from ..spelling import label_of
from ..study.toggles import (
    CANCELLED,
    ToggleRun,
    other_values,
    run_toggles,
    toggle_table,
)
from . import drawing
from .controls import Guard, note, section, set_note
from .runner import relay

HIDDEN, PRICES, TOGGLES = "hidden", "prices", "toggles"
SETTLED_SECONDS = 0.15
"""A chart here waits until no price has moved for so long: the cost chart goes first."""


class Swings:
    """The section, ``box``: which chart, the runs it needs, and the chart.

    Parameters
    ----------
    current : callable
        The result shown, at the prices that hold now; None before the first.
    guard : callable
        Runs an action of a widget and shows what goes wrong with it.
    failed : callable
        Shows an exception of the runs in the background.
    """

    def __init__(
        self,
        current: Callable[[], Result | None],
        guard: Guard,
        failed: Callable[[BaseException], None],
    ):
        self._current, self._guard, self._failed = current, guard, failed
        self._runs: Sequence[ToggleRun] = ()
        self._of: Result | None = None
        self._ticket: threading.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._soon: asyncio.TimerHandle | None = None
        self.choice = w.ToggleButtons(
            options=[("Hide", HIDDEN), ("Prices", PRICES), ("Toggles", TOGGLES)],
            tooltips=[
                "No chart",
                "How far each price within its bounds moves the cost of an operation",
                "What each toggle, set otherwise, does to the cost: each is a run of its own",
            ],
        )
        self.choice.add_class("wbp-choice")
        self.choice.observe(lambda _: self._guard(self.refresh), "value")
        self.start = w.Button(description="Run the toggles", icon="play")
        self.start.on_click(lambda _: self._guard(self.run))
        self.stop = w.Button(description="Cancel the toggles", icon="stop")
        self.stop.on_click(lambda _: self._guard(self.cancel))
        self.progress = w.FloatProgress(min=0, max=1, layout={"width": "130px"})
        self.said = note()
        self.chart = w.HTML()
        self.chart.add_class("wbp-tornado")
        row = w.HBox([self.start, self.stop, self.progress, self.said])
        row.add_class("wbp-bar")
        self._row = row
        self.box = section("What moves the cost most", self.choice, row, self.chart)
        self.refresh()

    @property
    def busy(self) -> bool:
        """Are toggles being run?"""
        return self._ticket is not None

    # ---------------------------------------------------------------- what is shown

    def refresh_soon(self) -> None:
        """:meth:`refresh` on the running loop, when no price has moved for a moment."""
        if self._soon is not None:
            self._soon.cancel()
        loop = asyncio.get_running_loop()
        self._soon = loop.call_later(SETTLED_SECONDS, self._guard, self.refresh)

    def refresh(self) -> None:
        """Show the chosen chart of the current result; runs for an older one end."""
        result = self._current()
        if self._of is not None and (result is None or result.raw is not self._of.raw):
            self._forget()
        self._show_row(result)
        html = ""
        if result is not None and self.choice.value == PRICES:
            html = drawing.chart_html(charts.tornado(result))
        elif result is not None and self.choice.value == TOGGLES and self._runs:
            html = drawing.chart_html(charts.toggle_tornado(toggle_table(result, self._runs)))
        if self.chart.value != html:
            self.chart.value = html
        self.chart.layout.display = None if html else "none"

    def _show_row(self, result: Result | None) -> None:
        shown = self.choice.value == TOGGLES and result is not None
        self._row.layout.display = None if shown else "none"
        for widget, is_there in (
            (self.start, shown and not self.busy and not self._runs),
            (self.stop, self.busy),
            (self.progress, self.busy),
        ):
            widget.layout.display = None if is_there else "none"
        if shown and result is not None and not self.busy:
            set_note(self.said, self._ended() if self._runs else _needed(result))

    def _ended(self) -> str:
        """What came of the runs, and which toggles have no bar for another reason than no effect."""
        left = [run for run in self._runs if run.counts is None]
        undone = sum(run.status == CANCELLED for run in left)
        parts = [f"{len(self._runs) - len(left)} runs."]
        if undone:
            parts = [f"Cancelled after {len(self._runs) - undone} of {len(self._runs)} runs."]
        refused = [run for run in left if run.status != CANCELLED]
        if refused:
            names = ", ".join(_setting(run.toggle, run.value) for run in refused)
            parts.append(f"This scenario cannot have: {names}.")
        return escape(" ".join(parts))

    # ---------------------------------------------------------------- runs

    def run(self) -> None:
        """Run the current scenario with each toggle set otherwise."""
        result = self._current()
        if result is None:
            raise WorkbenchError("there is no result yet", "run the scenario first")
        self._forget()
        self._of, ticket = result, threading.Event()
        self._ticket = ticket
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._take(ticket, run_toggles(result, None, self._tell, ticket))
            return
        self._tell("", 0, 1)
        self._show_row(result)
        task = loop.create_task(self._serve(result, ticket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Stop; what was run until now is shown."""
        if self._ticket is not None:
            self._ticket.set()

    async def drain(self) -> None:
        """Wait until no run is left."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _serve(self, result: Result, ticket: threading.Event) -> None:
        told = relay(self._tell, lambda: self._ticket is ticket)
        try:
            runs = await asyncio.to_thread(run_toggles, result, None, told, ticket)
            self._take(ticket, runs)
        except Exception as problem:
            if self._ticket is ticket:
                self._forget()
                self._show_row(self._current())
                self._failed(problem)

    def _take(self, ticket: threading.Event, runs: Sequence[ToggleRun]) -> None:
        if self._ticket is not ticket:
            return  # another result came meanwhile
        self._ticket = None
        if any(run.counts is not None for run in runs):
            self._runs = runs
        else:
            self._of = None
        self.refresh()

    def _forget(self) -> None:
        if self._ticket is not None:
            self._ticket.set()
        self._ticket, self._of, self._runs = None, None, ()

    def _tell(self, what: str, done: int, total: int) -> None:
        self.progress.value = done / total if total else 1.0
        name, _, value = what.partition("=")
        said = f"{done} of {total}: {_setting(name, value)}" if what else "starting"
        set_note(self.said, escape(said))


def _setting(name: str, value: str) -> str:
    """A toggle with its value as the chart names them."""
    return f"{label_of(name)} = {value.replace('_', ' ')}"


def _needed(result: Result) -> str:
    """How many runs the chart takes, and about how long."""
    number = sum(1 for _ in other_values(result))
    seconds = number * (result.run_seconds + 0.01)
    return f"{number} runs, each with one toggle set otherwise: about {max(seconds, 1):,.0f} s."
