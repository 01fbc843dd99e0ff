"""Fixtures: results with known counts."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "measure"))


@pytest.fixture(scope="session")
def svm_result():
    from synthetic import result

    return result("svm")


@pytest.fixture(scope="session")
def vmx_result():
    from synthetic import result

    return result("vmx")
