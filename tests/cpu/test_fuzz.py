"""Random bytes as code never hang, crash or leave the simulator's memory."""

from __future__ import annotations

import os
import random
import subprocess
import sys

from workbench.core import emit
from workbench.core import layout as lay

from .bare import CODE, DATA, MASK64, STACK, Bare

RUNS = 150
ENDS = {lay.ST_OK, lay.ST_HALT, lay.ST_STOP, lay.ST_SHUTDOWN}
# opcode bytes that random code would rarely hit, to get deep into the system instructions
SPICE = (b"\x0f\x01", b"\x0f\x00", b"\x0f\x20", b"\x0f\x22", b"\x0f\x23", b"\xf3\xa4", b"\xf3\xaa",
         b"\x48\xcf", b"\x0f\x05", b"\x48\x0f\x07", b"\xcd\x80", b"\x8e", b"\x0f\x30", b"\x0f\x32",
         b"\xca", b"\x48\xcb", b"\xff", b"\x0f\xc7", b"\x0f\xa3", b"\x0f\xab", b"\xc8", b"\xc9",
         b"\xe4", b"\xe6", b"\x6c", b"\x6e", b"\x0f\x78", b"\x66\x0f\x38\x80")  # fmt: skip


def fuzz(seed: int, runs: int) -> None:
    """Run random code on a bare machine, some of it with working exception handlers."""
    rng = random.Random(seed)
    bare = Bare()
    memory = bare.ram.copy()
    for _ in range(runs):
        bare.ram[:] = memory
        bare.decoder.drop_all()
        bare.machine.set_boot_processor(CODE, 0)
        bare.cpu["cpl"] = 0
        bare.cpu["idtr_limit"] = 0
        if rng.random() < 0.5:
            bare.halt_handlers()
        for register in range(16):
            value = rng.choice((rng.getrandbits(64), DATA + rng.randrange(4096), rng.randrange(64)))
            bare.set(register, value & MASK64)
        bare.set(lay.RSP, STACK)
        code = b"".join(
            rng.choice(SPICE) + rng.randbytes(3) if rng.random() < 0.3 else rng.randbytes(4)
            for _ in range(64)
        )
        bare.write(CODE, code)
        if rng.random() < 0.3:
            bare.write(0x6000, rng.randbytes(0x38))
        for _ in range(4):
            outcome = bare.run(2000)
            assert outcome in ENDS, outcome
            if outcome == lay.ST_SHUTDOWN:
                break
            bare.rip = CODE + rng.randrange(200)


def test_random_code_ends_in_an_orderly_way():
    fuzz(1, RUNS)


def test_random_code_stays_inside_the_simulators_memory(tmp_path):
    """The same with every array access checked (a process of its own, with its own cache)."""
    program = (
        "from tests.cpu.test_fuzz import fuzz\n"
        "from workbench.core import emit\n"
        "fuzz(2, 60)\n"
        "print('outside', int(emit.OUT_OF_RANGE[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "outside 0" in done.stdout


def test_bounds_counter_is_clean():
    assert int(emit.OUT_OF_RANGE[0]) == 0
