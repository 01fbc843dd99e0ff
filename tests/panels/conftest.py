"""Fixtures: a stand-in for the simulation that answers at once with hand-made counts."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "measure"))


@pytest.fixture(scope="session")
def made_results():
    from synthetic import result

    return {"svm": result("svm"), "vmx": result("vmx")}


@pytest.fixture
def simulation(made_results):
    """An async function like ``simulate.run_async`` that remembers what it was asked."""

    async def execute(scenario, progress, cancel):
        execute.asked.append(scenario)
        result = made_results[scenario.backend]
        return dataclasses.replace(result, scenario=scenario, preset=scenario.preset)

    execute.asked = []
    return execute
