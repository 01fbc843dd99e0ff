"""Runs shared by the model's tests, and what the tests read from them."""

from __future__ import annotations

from functools import cache

from workbench.core.ledger import CAUSES, EVENTS
from workbench.result import Result
from workbench.scenario import Scenario
from workbench.simulate import run

BACKENDS = ("svm", "vmx")
L2_PROGRAMS = (
    "cpuid", "msr", "pio", "hypercall", "touch", "ctxsw", "compute", "mixed", "remap", "spin"
)  # fmt: skip
SMALL = {
    "cpuid": {"iterations": 50},
    "msr": {"iterations": 50},
    "pio": {"iterations": 50},
    "hypercall": {"iterations": 50},
    "touch": {"pages": 40, "passes": 3},
    "ctxsw": {"switches": 40},
    "compute": {"iterations": 500},
    "mixed": {"iterations": 60},
    "spin": {"iterations": 20, "pauses": 30, "work": 100},
    "tick": {"ticks": 20},
    "remap": {"iterations": 40},
    "cr0": {"iterations": 40},
    "rates": {"iterations": 20, "work": 20},
    "ud": {"iterations": 40},
    "workset": {"accesses": 200, "pages": 16, "changes": 100_000},
}
"""Parameters that keep every program short."""


@cache
def _run(scenario: Scenario) -> Result:
    return run(scenario)


def simulated(
    backend: str,
    l2: str = "cpuid",
    l2_params=None,
    l1_params=None,
    l1="minimal",
    numbers=None,
    **features,
) -> Result:
    """Result of a small scenario; the same one is run once only. ``numbers``: its other fields."""
    scenario = Scenario(
        backend=backend,
        l1=l1,
        l2=l2,
        l2_params=SMALL[l2] if l2_params is None else l2_params,
        l1_params=l1_params or {},
        features=features,
        **(numbers or {}),
    )
    result = _run(scenario)
    assert result.status == "stopped", result.status
    assert result.stop_code == 0, f"L1 ended with code {result.stop_code}"
    return result


def count(result: Result, event: str, cause: str | None = None) -> int:
    """Events of one kind, of one cause or of all."""
    column = result.raw.counts[:, EVENTS.index(event)]
    return int(column.sum() if cause is None else column[CAUSES.index(cause)])


def marginal(backend: str, event: str, l2: str = "cpuid", **features) -> float:
    """Events per iteration in the steady state: the difference of two runs of unequal length."""
    short, long = 50, 150
    counts = [
        count(simulated(backend, l2, {**SMALL[l2], "iterations": n}, **features), event)
        for n in (short, long)
    ]
    return (counts[1] - counts[0]) / (long - short)
