"""L2 programs of random page-table edits, accesses, exceptions and exits, with one outcome.

What an exit returns is thrown away, as it is L1's business; everything else is logged and summed up.
"""

from __future__ import annotations

import random

from tests.model.test_paging_random import HEAD, TAIL, operation

OPERATIONS = 60
EXITS = (
    "xor eax, eax\n xor ecx, ecx\n cpuid\n",
    "mov eax, 1\n xor ecx, ecx\n cpuid\n",
    "xor eax, eax\n HYPERCALL\n",
    "mov ecx, 0x1a0\n rdmsr\n",
    "mov ecx, 0xc0000102\n mov eax, 0x1234\n xor edx, edx\n wrmsr\n rdmsr\n",
    "mov edx, 0x70\n in al, dx\n",
    "mov al, 1\n out 0x80, al\n",
    "mov dx, 0x3f8\n mov al, 'r'\n out dx, al\n",
    "pause\n",
)
"""Each leaves RBP, the position in the log, alone; the handler of #PF saves what it uses."""
FORGET = "xor eax, eax\n xor ebx, ebx\n xor ecx, ecx\n xor edx, edx\n"


def random_l2(seed: int) -> str:
    """Assembly text."""
    rng = random.Random(f"l2 {seed}")
    body = "".join(
        operation(rng) if rng.random() < 0.6 else rng.choice(EXITS) + FORGET
        for _ in range(OPERATIONS)
    )
    return HEAD + body + TAIL
