"""Machine records filled by hand, as a run would leave them, for tests of what comes after a run."""

from __future__ import annotations

import numpy as np

from workbench.core import layout
from workbench.core.ledger import (
    BLOCK_REASONS,
    CAUSES,
    EVENTS,
    FIELD_PHASES,
    FLUSH_REASONS,
    FLUSH_SCOPES,
    TIMELINE_KINDS,
)
from workbench.prices import load_preset
from workbench.result import Result
from workbench.scenario import Scenario

PLACES = {
    "svm": {"CPUID": 0x72, "VMRUN": 0x80, "VMLOAD": 0x82, "VMSAVE": 0x83, "STGI": 0x84,
            "CLGI": 0x85, "NESTED": 0xA8},
    "vmx": {"CPUID": 10, "VMREAD": 23, "VMWRITE": 25, "VMRESUME": 24, "NESTED": 48},
}  # fmt: skip
L1_PATH = {
    "svm": {"VMLOAD": 2, "VMSAVE": 1, "STGI": 1, "CLGI": 1, "VMRUN": 1},
    "vmx": {"VMREAD": 4, "VMWRITE": 1, "VMRESUME": 1},
}


def machine(backend: str = "svm", operations: int = 1000, assisted: bool = False) -> np.ndarray:
    """A machine after ``operations`` L2 CPUIDs and a tenth as many nested page faults."""
    record = np.zeros(1, layout.MACHINE)
    ledger = record["ledger"][0]
    path = {n: t for n, t in L1_PATH[backend].items() if not assisted or n in ("VMRUN", "VMRESUME")}
    _exits(ledger, backend, path, operations)
    _events(ledger, sum(path.values()), operations)
    _tlb(ledger, operations)
    _fields(ledger, operations)
    _interrupts(ledger, operations)
    _timeline(ledger, backend, path)
    ledger["price"] = load_preset({"svm": "zen", "vmx": "nehalem"}[backend]).kernel_prices()
    ledger["time"] = (ledger["counts"].sum(axis=0) * ledger["price"]).sum()
    ledger["virtual_exits"] = ledger["virtual_entries"] = operations
    record["level_steps"][0] = (
        0,
        _event(ledger, "L1_INSTRUCTION"),
        _event(ledger, "L2_INSTRUCTION"),
    )
    record["steps"][0] = record["level_steps"][0].sum()
    record["serial"][0][:3] = list(b"ok\n")
    record["serial_count"][0] = 3
    return record


def _event(ledger, name):
    return int(ledger["counts"][:, EVENTS.index(name)].sum())


def _exits(ledger, backend, path, operations):
    exits, places = ledger["exits"], PLACES[backend]
    cpuid, fault = CAUSES.index("CPUID"), CAUSES.index("NESTED_PAGE_FAULT")
    exits[2, places["CPUID"], 1, cpuid] = operations
    exits[2, places["NESTED"], 0, fault] = operations // 10
    exits[1, places["VMRUN" if backend == "svm" else "VMRESUME"], 0, CAUSES.index("BOOT")] = 1
    for name, times in path.items():
        exits[1, places[name], 0, cpuid] = operations * times


def _events(ledger, per_operation, operations):
    def put(cause, **events):
        for event, number in events.items():
            ledger["counts"][CAUSES.index(cause), EVENTS.index(event)] = number

    hardware = operations * (1 + per_operation)
    put("BOOT", L1_INSTRUCTION=5000, HW_EXIT=1, HW_ENTRY=2, L0_EXIT_DISPATCH=1)
    put("RUN", L2_INSTRUCTION=operations * 6, TLB_MISS=operations // 4, TLB1_HIT=operations,
        WALK_REFERENCE_GUEST=operations, WALK_REFERENCE_NESTED=operations * 4,
        WALK_FROM_L1_CACHE=operations * 2, WALK_FROM_L2_CACHE=operations * 3)  # fmt: skip
    put("CPUID", L1_INSTRUCTION=operations * 40, HW_EXIT=hardware, HW_ENTRY=hardware,
        L0_EXIT_DISPATCH=hardware, L0_INSTRUCTION_EMULATED=operations * per_operation,
        L0_BYTE_COPIED=operations * 700, L0_MAP_BYTE_MERGED=operations * 2048,
        L0_GUEST_PAGE_MAPPED=operations, L0_TAG_ALLOCATED=operations,
        TLB2_HIT=operations * 3, WALK_REFERENCE_NESTED=operations,
        WALK_FROM_L2_CACHE=operations)  # fmt: skip
    put("NESTED_PAGE_FAULT", HW_EXIT=operations // 10, HW_ENTRY=operations // 10,
        L0_EXIT_DISPATCH=operations // 10, L0_NESTED_WALK_REFERENCE=operations // 10 * 4,
        L0_NP2M_INSTALLED=operations // 10)  # fmt: skip


def _tlb(ledger, operations):
    for reason, scope, flushes, dropped, refills in (
        ("L1_L2_SWITCH", "tag", operations * 2, operations * 6, operations // 2),
        ("TAG_WRAP", "all", operations // 100, operations // 10, operations // 20),
        ("CR3_WRITE", "tag_nonglobal", 7, 5, 3),
    ):
        at = FLUSH_REASONS.index(reason)
        ledger["flushes"][at, FLUSH_SCOPES.index(scope)] = flushes
        ledger["dropped"][at, FLUSH_SCOPES.index(scope)] = dropped
        ledger["refills"][at], ledger["refill_references"][at] = refills, refills * 4
        ledger["refill_walks"][CAUSES.index("RUN"), 1] += refills * 4


def _interrupts(ledger, operations):
    """Interrupts for L1, held back by GIF and by RFLAGS.IF, and one NMI."""
    for reason, times, cycles in (("svm_gif", operations // 10, 800), ("rflags_ie", 7, 90)):
        at = BLOCK_REASONS.index(reason)
        ledger["blocked"][at], ledger["blocked_time"][at] = times, times * cycles * 1024
    ledger["delivered"][1] = operations // 10, 1
    ledger["latency"][1, 0, 39] = operations // 10
    ledger["latency_time"][1, 0] = operations // 10 * 800 * 1024
    ledger["latency"][1, 1, 0] = 1


def _fields(ledger, operations):
    for field in range(6):
        for phase in range(len(FIELD_PHASES)):
            ledger["fields"][field, phase * 2] = operations * (field % 3)
            ledger["fields"][field, phase * 2 + 1] = operations * (phase % 2)


def _timeline(ledger, backend, path, rounds=3):
    """CPUID exits one after another: exit, virtual exit, L1's own exits, virtual entry."""
    kinds = {name: i for i, name in enumerate(TIMELINE_KINDS)}
    places, cause, time, step = PLACES[backend], CAUSES.index("CPUID"), 0, 0
    entries = []

    def add(kind, code, source, target, cycles):
        nonlocal time, step
        time, step = time + cycles, step + 3
        entries.append(
            (step, time * 1024, code, 0, 0x100000 + step, source, target, kinds[kind], cause)
        )

    for _ in range(rounds):
        add("hw_exit", places["CPUID"], 2, 0, 400)
        add("virtual_exit", places["CPUID"], 2, 1, 900)
        add("flush", FLUSH_REASONS.index("L1_L2_SWITCH"), 0, 0, 350)
        add("hw_entry", 0, 0, 1, 500)
        for name, times in path.items():
            for _ in range(times):
                add("hw_exit", places[name], 1, 0, 450)
                if name not in ("VMRUN", "VMRESUME"):
                    add("field_read" if name == "VMREAD" else "field_write", 1, 0, 0, 60)
                    add("hw_entry", 0, 0, 1, 700)
        add("virtual_entry", 0, 1, 2, 1500)
        add("hw_entry", 0, 0, 2, 800)
    for i, entry in enumerate(entries):
        ledger["timeline"][i] = entry
    ledger["timeline_next"], ledger["timeline_limit"] = len(entries), 10_000


def result(
    backend: str = "svm", operations: int = 1000, assisted: bool = False, **scenario
) -> Result:
    """A Result of such a machine."""
    names = ("vmcs_shadowing",) if backend == "vmx" else ("virtual_gif", "virtual_vmload_vmsave")
    chosen = Scenario(
        backend=backend, features=dict.fromkeys(names, True) if assisted else {}, **scenario
    )
    record = machine(backend, operations, assisted)
    return Result.from_machine(chosen, record, chosen.preset, 0.25, "stopped")
