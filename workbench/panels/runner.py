"""Runs for the panel: in the background, the newest request wins, and nothing blocks the page.

The simulation runs chunk by chunk in a worker thread (``simulate.run_async``); everything that
touches widgets happens on the event loop.  Without a running loop (plain Python, tests) a
request is served before it returns.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

from .. import simulate
from ..result import Result
from ..scenario import Scenario
from ..simulate import Progress, ProgressCallback

Execute = Callable[[Scenario, ProgressCallback, threading.Event], Awaitable[Result]]

PAUSE_SECONDS = 0.01
"""Requests that follow each other faster than this are one request."""
_PROGRESS_SECONDS = 0.1


def relay(tell: Callable[..., None], wanted: Callable[[], bool]) -> Callable[..., None]:
    """``tell`` for any thread: it is called on the running event loop, not too often.

    What is told when ``wanted`` says no any more, is dropped.
    """
    loop = asyncio.get_running_loop()
    last = 0.0

    def show(*said: object) -> None:
        if wanted():
            tell(*said)

    def report(*said: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS:
            last = now
            loop.call_soon_threadsafe(show, *said)

    return report


class Runner:
    """Serves run requests, the newest first and only.

    Parameters
    ----------
    on_progress : callable
        Gets a :class:`workbench.simulate.Progress` now and then.
    on_result : async callable
        Gets the Result of the newest request.
    on_error : callable
        Gets the exception that ended the newest request.
    on_cancelled : callable
        Called when the newest request was cancelled by :meth:`cancel`.
    execute : async callable, optional
        Stands in for ``simulate.run_async`` in tests.
    """

    def __init__(
        self,
        on_progress: Callable[[Progress], None],
        on_result: Callable[[Result], Awaitable[None]],
        on_error: Callable[[BaseException], None],
        on_cancelled: Callable[[], None],
        execute: Execute | None = None,
    ):
        self._on_progress = on_progress
        self._on_result = on_result
        self._on_error = on_error
        self._on_cancelled = on_cancelled
        self._execute: Execute = execute or simulate.run_async
        self._newest: threading.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn: asyncio.Lock | None = None

    @property
    def busy(self) -> bool:
        """Is a request being served?"""
        return self._newest is not None

    def request(self, scenario: Scenario) -> None:
        """Run ``scenario``; whatever is running for an older request stops."""
        self._supersede()
        ticket = self._newest = threading.Event()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._turn = None
            asyncio.run(self._serve(scenario, ticket))
            return
        task = loop.create_task(self._serve(scenario, ticket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Stop the run in progress, if there is one."""
        if self._newest is not None:
            self._supersede()
            self._on_cancelled()

    async def drain(self) -> None:
        """Wait until every request has ended."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _supersede(self) -> None:
        if self._newest is not None:
            self._newest.set()
            self._newest = None

    async def _serve(self, scenario: Scenario, ticket: threading.Event) -> None:
        await asyncio.sleep(PAUSE_SECONDS)
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn:  # an older run has been told to stop and needs a chunk for that
            if ticket.is_set():
                return
            try:
                told = relay(self._on_progress, lambda: self._newest is ticket)
                result = await self._execute(scenario, told, ticket)
                if self._newest is ticket:
                    await self._on_result(result)
            except Exception as problem:
                if self._newest is ticket:
                    self._on_error(problem)
            finally:
                if self._newest is ticket:
                    self._newest = None
