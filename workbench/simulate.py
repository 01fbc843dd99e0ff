"""Run a scenario: build the machine, drive the kernel in chunks, decode on demand, make a Result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .errors import ScenarioError
from .result import Result
from .scenario import Scenario

if TYPE_CHECKING:
    from .core.layout import MACHINE  # noqa: F401
    from .machine import SimulatedMachine

CHUNK_STEPS = 5_000_000
"""Instructions per kernel call: about 30 ms, the time a cancel may take."""

L2_RESERVED_WORDS = 16


@dataclass(frozen=True)
class Progress:
    """How far a run has come; ``fraction`` is of ``max_instructions`` or of the compilation."""

    phase: str
    steps: int
    max_steps: int

    @property
    def fraction(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.steps / self.max_steps) if self.max_steps else 0.0


ProgressCallback = Callable[[Progress], None]


class Cancel(Protocol):
    """What a run asks between two chunks; a ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Has somebody asked the run to stop?"""
        ...


def prepare(progress: ProgressCallback | None = None) -> None:
    """Compile or load the core; ``progress`` gets phase ``compiling`` with units done."""
    from .core import units

    def report(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(f"compiling the core: {name}", done, total))

    units.load(report)


def build(scenario: Scenario) -> SimulatedMachine:
    """The machine of a scenario, guests loaded, L1 about to be entered by L0."""
    from . import machine
    from .core.ledger import CAUSES
    from .geometry import load_tlb_geometry

    built = machine.SimulatedMachine(
        scenario.backend,
        (scenario.l2_memory_mb if scenario.single_level else scenario.l1_memory_mb) << 20,
        0 if scenario.single_level else scenario.l2_memory_mb << 20,
        load_tlb_geometry(scenario.cpu_name),
    )
    built.set_features(scenario.all_features)
    built.set_l0(scenario.l0, scenario.all_deviations)
    built.set_numbers(scenario.asids, scenario.balloon_period)
    record = built.record
    record["ledger"]["price"][0] = scenario.preset.kernel_prices()
    record["ledger"]["timeline_limit"] = scenario.timeline
    built.set_event_sources(scenario.host_tick_cycles, scenario.nmi_cycles)
    built.build_l1_memory()
    if scenario.single_level:
        entry = _place_l2(built, scenario, 1)
    else:
        entry = _place_l1(built, scenario, _place_l2(built, scenario, 2))
    built.set_boot_processor(entry, 1)
    if scenario.single_level:
        record["ledger"]["cause"] = CAUSES.index("RUN")  # no hypervisor has to set itself up first
    return built


def _place_l2(built: SimulatedMachine, scenario: Scenario, bank: int) -> int:
    """L2's image, tables, parameter page and tables of operations; returns where it starts."""
    from . import machine
    from .guests import catalogue

    l2 = catalogue.find(2, scenario.l2, scenario.backend)
    image = l2.image()
    values = catalogue.validate_params(l2, dict(scenario.l2_params))
    size, shift = scenario.l2_memory_mb << 20, machine.PAGE_SHIFTS[scenario.l2_page_size]
    _check_fits(2, scenario.l2_memory_mb, max(image.end, l2.memory_needed(values)))
    built.build_boot_environment(bank, size, shift)
    _load(built, bank, image)
    hypercall = 1 if scenario.backend == "svm" else 2
    page = catalogue.param_page(l2, values, {0: hypercall, 1: size, 2: shift})
    built.write(bank, machine.PARAMETERS, page)
    for address, content in l2.blobs(values, scenario.seed):
        built.write(bank, address, content)
    return image.entry


def _place_l1(built: SimulatedMachine, scenario: Scenario, l2_entry: int) -> int:
    """L1's image, tables and parameter page; returns where it starts."""
    from . import machine
    from .guests import catalogue

    l1 = catalogue.find(1, scenario.l1, scenario.backend)
    image = l1.image()
    _check_fits(1, scenario.l1_memory_mb, image.end)
    built.build_boot_environment(1, 4 << 30, machine.PAGE_SHIFTS["2m"])
    _load(built, 1, image)
    reserved = {
        0: l2_entry,
        1: machine.TABLES,
        2: machine.STACK,
        3: machine.lay.L2_BANK_N1P,
        4: scenario.l2_memory_mb << 20,
        5: machine.PAGE_SHIFTS[str(scenario.all_features["l1_page_size"])],
        6: int(built.record["feat"]["vpid_for_l1"][0]),
        7: machine.BACKENDS[scenario.backend],
        8: int(scenario.all_features["paging"] != "non"),
        9: scenario.l1_memory_mb << 20,
    }
    values = catalogue.validate_params(l1, dict(scenario.l1_params))
    built.write(1, machine.PARAMETERS, catalogue.param_page(l1, values, reserved))
    return image.entry


def _check_fits(level: int, megabytes: int, needed: int) -> None:
    if needed > megabytes << 20:
        at_least = -(-needed >> 20)
        raise ScenarioError(
            f"L{level}'s program needs {at_least} MB of memory, l{level}_memory_mb is {megabytes}",
            f"set l{level}_memory_mb to {at_least} or more, or choose smaller parameters",
        )


def _load(built: SimulatedMachine, bank: int, image: object) -> None:
    for address, content in image.segments:  # type: ignore[attr-defined]
        built.write(bank, address, content)


class Run:
    """One run in progress; :meth:`advance` executes a chunk, so that a caller can stay live.

    ``built`` is the machine to run, by default :func:`build` makes it.
    """

    def __init__(self, scenario: Scenario, built: SimulatedMachine | None = None):
        from .core.units import entry
        from .guests.decode import Decoder

        self.scenario = scenario
        self.machine = build(scenario) if built is None else built
        self.status = ""
        self.seconds = 0.0
        self.kernel_seconds = 0.0
        """Processor time in the kernel, where Python's lock is free."""
        self._idle_steps = 0
        self._run = entry("run")
        self._decoder = Decoder(self.machine.record, self.machine.ram)
        self._outcome = self.machine.start_l1()

    @property
    def steps(self) -> int:
        """Instructions executed so far, and events and exits that kept one from completing."""
        return int(self.machine.record["steps"][0]) + self._idle_steps

    def advance(self, steps: int = CHUNK_STEPS) -> bool:
        """Execute about ``steps`` instructions; False once the machine has stopped."""
        from .core import layout as lay

        started = time.perf_counter()
        target = min(self.steps + steps, self.scenario.max_instructions)
        machine = self.machine.address
        while not self.status:
            left = target - self.steps
            if left <= 0:
                if self.steps >= self.scenario.max_instructions:
                    self.status = "limit"
                break
            before = self.steps
            began = time.thread_time()
            outcome = self._run(machine, left)
            self.kernel_seconds += time.thread_time() - began
            if outcome == lay.ST_OK:  # all steps are used up, even if few instructions completed
                self._idle_steps += left - (self.steps - before)
            if outcome == lay.ST_DECODE:
                self._decoder.service()
            elif outcome != lay.ST_OK:
                self.status = lay.STATUS[outcome]
        self.seconds += time.perf_counter() - started
        return not self.status

    def result(self, status: str = "") -> Result:
        """What the run counted so far."""
        return Result.from_machine(
            self.scenario,
            self.machine.record,
            self.scenario.preset,
            self.seconds,
            status or self.status or "running",
        )


def run(
    scenario: Scenario,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Result:
    """Execute a scenario and return what was counted.

    Parameters
    ----------
    scenario : Scenario
    progress : callable, optional
        Called with a :class:`Progress` after each chunk (about 30 ms) and while compiling.
    cancel : threading.Event, optional
        Set it from another thread to stop; the result then has status ``cancelled``.

    Raises
    ------
    WorkbenchError
        Something in the scenario cannot be used.
    """
    prepare(progress)
    running = Run(scenario)
    while running.advance():
        if progress is not None:
            progress(Progress("running", running.steps, scenario.max_instructions))
        if cancel is not None and cancel.is_set():
            return running.result("cancelled")
    return running.result()


async def run_async(
    scenario: Scenario,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Result:
    """Like :func:`run`, in a worker thread chunk by chunk, so that an event loop stays live."""
    await asyncio.to_thread(prepare, progress)
    running = await asyncio.to_thread(Run, scenario)
    while await asyncio.to_thread(running.advance):
        if progress is not None:
            progress(Progress("running", running.steps, scenario.max_instructions))
        if cancel is not None and cancel.is_set():
            return running.result("cancelled")
    return running.result()
