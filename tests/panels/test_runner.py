"""Runs for the panel: the newest request wins, a cancelled one leaves no result."""

import asyncio

from workbench.panels.runner import Runner
from workbench.scenario import Scenario
from workbench.simulate import Progress

A, B = Scenario(l2_params={"iterations": 1}), Scenario(l2_params={"iterations": 2})


class Log:
    """A runner that writes down what it is told; each run lasts until ``release`` is set."""

    def __init__(self, wrong=None):
        self.results, self.errors, self.cancelled, self.progress = [], [], 0, []
        self.wrong = wrong
        self.started = []
        self.runner = Runner(
            self.progress.append, self.take, self.errors.append, self.note, self.execute
        )

    async def take(self, result):
        self.results.append(result)

    def note(self):
        self.cancelled += 1

    async def execute(self, scenario, progress, cancel):
        self.started.append(scenario)
        progress(Progress("running", 1, 2))
        for _ in range(20):
            await asyncio.sleep(0.005)
            if cancel.is_set():
                break
        if self.wrong:
            raise self.wrong
        return scenario


def served(log, *steps):
    async def serve():
        for step in steps:
            step()
            await asyncio.sleep(0.06)
        await log.runner.drain()

    asyncio.run(serve())
    return log


def test_a_request_is_answered():
    log = Log()
    served(log, lambda: log.runner.request(A))
    assert log.results == [A]
    assert log.progress and not log.runner.busy


def test_the_newest_request_wins():
    log = Log()
    served(log, lambda: log.runner.request(A), lambda: log.runner.request(B))
    assert log.started == [A, B]
    assert log.results == [B]
    assert log.cancelled == 0


def test_requests_in_quick_succession_are_one():
    log = Log()
    served(log, lambda: [log.runner.request(A), log.runner.request(A), log.runner.request(B)])
    assert log.started == [B]


def test_a_cancelled_run_gives_no_result():
    log = Log()
    served(log, lambda: log.runner.request(A), log.runner.cancel)
    assert log.results == [] and log.cancelled == 1
    assert not log.runner.busy


def test_cancel_without_a_run_does_nothing():
    log = Log()
    log.runner.cancel()
    assert log.cancelled == 0


def test_errors_of_the_newest_run_are_told():
    problem = ValueError("no")
    log = Log(problem)
    served(log, lambda: log.runner.request(A), lambda: log.runner.request(B))
    assert log.errors == [problem]
    assert not log.runner.busy


def test_without_a_loop_the_answer_is_there_on_return():
    log = Log()
    log.runner.request(A)
    assert log.results == [A]
