"""Guest instructions per second on a loop of 64-bit ALU, load, store and data-dependent branch.

The guest is the L2 program ``compute``; every access goes through the modelled TLB.  Beside it the
same loop in C, compiled by gcc -O2, on this machine.
"""

from __future__ import annotations

from common import best, c_program, row

import workbench as wb

ROUNDS = 6_000_000
INSTRUCTIONS_PER_ROUND = 12.5
"""Twelve, and one more when the tested bit is set: half of the time."""

C_TWIN = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int main(int argc, char **argv) {
    (void)argc;
    long rounds = atol(argv[1]);
    static volatile uint64_t data[16 * 512];
    uint64_t state = 1, sum = 0;
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (long i = rounds; i; i--) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint64_t at = (state >> 33) & (16 * 512 - 1);
        uint64_t word = data[at] ^ state;
        data[at] = word;
        if (word & 0x10000) sum += word;
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    fprintf(stderr, "%lu", (unsigned long)sum);
    printf("%.9f", (b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) / 1e9);
    return 0;
}
"""


def simulated(backend: str) -> float:
    """Million guest instructions per second of one run."""
    result = wb.run(wb.Scenario(backend=backend, l2="compute", l2_params={"iterations": ROUNDS}))
    return result.facts["steps"] / result.run_seconds / 1e6


def native() -> float | None:
    """Speed of the C twin, best of three, in million guest instructions per second of the same work."""
    seconds = [c_program(C_TWIN, str(ROUNDS * 10)) for _ in range(3)]
    fastest = min((float(s) for s in seconds if s is not None), default=None)
    return None if fastest is None else ROUNDS * 10 * INSTRUCTIONS_PER_ROUND / fastest / 1e6


def main() -> None:
    """Print a row per back-end."""
    wb.run(wb.Scenario(l2="compute", l2_params={"iterations": 1000}))
    plain = native()
    for backend in ("svm", "vmx"):
        speed = best(lambda backend=backend: simulated(backend))
        beside = f"1/{plain / speed:.1f} of the loop in C (gcc -O2)" if plain else "no gcc here"
        row(f"ALU, load, store, branch in L2 ({backend})", f"{speed:.0f} million/s",
            "goal 100, then 200", beside)  # fmt: skip


if __name__ == "__main__":
    main()
