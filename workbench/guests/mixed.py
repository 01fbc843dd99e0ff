"""Tables of operations for the L2 program ``mixed``: made from weights here, later from traces.

Layout in memory: number of entries (8 bytes), 8 unused bytes, then per operation its kind and its
argument, 8 bytes each.  ``data/guests/l2/mixed.S`` replays it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Mapping

TABLE_ADDRESS = 0x180000
TABLE_LIMIT = 0x200000
"""The working set starts here (L2_WORKING_SET)."""
MAX_ENTRIES = (TABLE_LIMIT - TABLE_ADDRESS) // 16 - 1

KINDS = ("cpuid", "rdmsr", "wrmsr", "in", "out", "hypercall", "touch", "ctxsw", "compute")
"""Operation kinds by number; arguments: leaf, MSR number (twice), port (twice), hypercall number,
page of the working set, address space, rounds."""
GROUPS = ("cpuid", "msr", "pio", "hypercall", "touch", "ctxsw", "compute")
"""What the weights are given for; ``msr`` and ``pio`` split into reads and writes."""


def pack_table(operations: Iterable[tuple[str, int]]) -> bytes:
    """The table for a sequence of (kind, argument).

    Raises
    ------
    ValueError
        No operation, more than :data:`MAX_ENTRIES`, or an unknown kind.
    """
    entries = [(KINDS.index(kind), argument) for kind, argument in operations]
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise ValueError(f"{len(entries)} operations; a table holds 1 to {MAX_ENTRIES}")
    packed = b"".join(struct.pack("<QQ", kind, argument) for kind, argument in entries)
    return struct.pack("<QQ", len(entries), 0) + packed


def apportion(weights: Mapping[str, int], entries: int) -> dict[str, int]:
    """Share ``entries`` out in proportion to ``weights`` (largest remainders first).

    All weights zero means all alike.
    """
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 1)
    total = sum(weights.values())
    counts = {k: entries * w // total for k, w in weights.items()}
    by_remainder = sorted(weights, key=lambda k: -(entries * weights[k] % total))
    for name in by_remainder[: entries - sum(counts.values())]:
        counts[name] += 1
    return counts


def build_mixed_table(params: Mapping[str, int], seed: int) -> bytes:
    """The table that the parameters of ``mixed`` describe; the same for the same seed.

    Parameters
    ----------
    params : mapping
        Complete parameters of the program.
    seed : int
        Seed of the scenario.

    Returns
    -------
    bytes
        For :data:`TABLE_ADDRESS`.
    """
    counts = apportion({g: params[f"weight_{g}"] for g in GROUPS}, params["table_entries"])
    groups = [g for g in GROUPS for _ in range(counts[g])]
    draw = random.Random(seed).random  # the one method whose sequence Python keeps stable
    for i in range(len(groups) - 1, 0, -1):
        j = int(draw() * (i + 1))
        groups[i], groups[j] = groups[j], groups[i]
    share = {"msr": 0, "pio": 0}
    space = 0
    operations = []
    for group in groups:
        write = False
        if group in share:
            share[group] += params["write_percent"]
            write = share[group] >= 100
            share[group] -= 100 * write
        if group == "ctxsw":
            space = (space + 1) % params["spaces"]
        operations.append({
            "cpuid": ("cpuid", 0),
            "msr": ("wrmsr" if write else "rdmsr", params["msr"]),
            "pio": ("out" if write else "in", params["port"]),
            "hypercall": ("hypercall", 0),
            "touch": ("touch", int(draw() * params["pages"])),
            "ctxsw": ("ctxsw", space),
            "compute": ("compute", params["compute_rounds"]),
        }[group])  # fmt: skip
    return pack_table(operations)
