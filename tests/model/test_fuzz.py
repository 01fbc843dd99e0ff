"""Guests that are random bytes: whatever they do, the simulator ends in a defined state.

Each run replaces L1 or L2 by random bytes, half of them real instructions of the kind that talks to
the hypervisor.  With NUMBA_BOUNDSCHECK=1 every array index and every RAM access of the core is
checked too.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys

import pytest

from tests.model.runs import BACKENDS
from workbench import features, personality
from workbench.core import emit
from workbench.core.layout import STATUS
from workbench.errors import WorkbenchError
from workbench.machine import IMAGE, TABLES
from workbench.scenario import Scenario
from workbench.simulate import Run, build

INSTRUCTIONS = [
    bytes.fromhex(text)
    for text in (
        "0f01d8 0f01d9 0f01da 0f01db 0f01dc 0f01dd 0f01de 0f01df 0f01c1 0f01c2 0f01c3 0f01c4 "
        "0f78c3 0f78d8 0f79c3 0f79d8 0fc733 660fc733 f30fc733 0fc73b 660f38800b 660f38810b "
        "0fa2 f4 0f32 0f30 e480 e680 ec ee ed ef 0f20c0 0f22c0 0f22d8 0f22e0 0f20d8 0f21f8 0f23f8 "
        "0f013b 0f0113 0f011b 0f000b 0f00d8 fa fb 9c 9d cc cd80 0f0b 48cf 0f05 480f07 0f01f8 "
        "488908 48890b 488918 480108 488703 0f22d8 0f0138 0f013b 48ab f348ab 50 53 "
        "f3a4 f348a5 f3aa f3a6 f2ae 6c 6e 0f31 0f01f9 0f08 0f09 c8100001 c9 ffd0 ffe0 c3 ebfe"
    ).split()
]
BUDGET = 20_000


def random_program(rng: random.Random, length: int = 600) -> bytes:
    """Random bytes mixed with instructions that matter and register loads that make them bite."""
    parts: list[bytes] = []
    while sum(map(len, parts)) < length:
        kind = rng.random()
        if kind < 0.45:
            parts.append(rng.choice(INSTRUCTIONS))
        elif kind < 0.75:  # mov r64, imm64
            value = rng.choice(
                [rng.getrandbits(64), rng.getrandbits(12) << 12, rng.getrandbits(20), 0x4012,
                 TABLES + 8 * rng.getrandbits(11), TABLES + 0x1000 * rng.getrandbits(3) + 7,
                 0xC0000080, 0xC0010117, 0x3A, 0x480 + rng.getrandbits(4), 0x40000000, (1 << 63)]
            )  # fmt: skip
            parts.append(bytes([0x48, 0xB8 + rng.randrange(8)]) + struct.pack("<Q", value))
        else:
            parts.append(rng.randbytes(rng.randrange(1, 6)))
    return b"".join(parts)


NUMBERS = {
    "balloon_period": (50, 200), "host_tick_cycles": (0, 0, 10_000, 60_000),
    "nmi_cycles": (0, 0, 0, 30_000), "asids": (0, 2, 5), "l2_page_size": ("4k", "2m"),
    "l0": personality.L0S,
}  # fmt: skip


def random_scenario(backend: str, rng: random.Random) -> Scenario:
    """Any value of every feature of the catalogue, any deviation, any source of events."""
    while True:
        chosen = {f.id: rng.choice(f.values_on(backend)) for f in features.applicable(backend)}
        kept = {name: value for name, value in chosen.items() if rng.random() < 0.6}
        l1 = "minimal" if kept.get("paging", "non") == "non" else "shadow"
        known = [d.id for d in personality.applicable(backend)]
        try:
            return Scenario(
                backend=backend, l1=l1, l2="cpuid", l2_params={"iterations": 3},
                max_instructions=BUDGET, features=kept, deviations={d: rng.random() < 0.5 for d in known},
                **{name: rng.choice(values) for name, values in NUMBERS.items()},
            )  # fmt: skip
        except WorkbenchError:  # they do not go together
            continue


def run_random(backend: str, level: int, seed: int) -> str:
    """One random guest; returns how it ended."""
    rng = random.Random(seed)
    scenario = random_scenario(backend, rng)
    built = build(scenario)
    program = random_program(rng)
    at = IMAGE if level == 2 or rng.random() < 0.3 else None
    if at is None:  # let L1 set itself up, then go astray behind its resume label
        from workbench.guests import catalogue

        at = catalogue.find(1, scenario.l1, backend).image().symbols["resume"]
    built.write(level, at, program)
    running = Run(scenario, built)
    while running.advance():
        pass
    assert emit.OUT_OF_RANGE[0] == 0, f"seed {seed}: access out of range"
    assert running.steps <= BUDGET + 1000
    return running.status


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("level", [1, 2])
def test_random_guests_end_in_a_defined_state(backend, level):
    runs = int(os.environ.get("WORKBENCH_FUZZ_RUNS", "60"))
    endings = {run_random(backend, level, seed) for seed in range(runs)}
    assert endings <= {*STATUS, "limit"} - {"ok", "decode"}
    assert len(endings) > 1, "random programs should not all end alike"


@pytest.mark.slow
def test_thousands_of_random_guests_with_checked_indexes():
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "WORKBENCH_FUZZ_RUNS": "1000"}
    arguments = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "defined_state"]
    subprocess.run(arguments, check=True, env=environment)
