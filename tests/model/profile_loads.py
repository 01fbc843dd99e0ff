"""What makes L2 exit in each way that the table of L1 profiles lists, and what to read from a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from workbench.guests.profiles import Op, Profile, Row, profiles
from workbench.result import Result
from workbench.scenario import Scenario
from workbench.simulate import Run, prepare, run

PROGRAMS = Path(__file__).with_name("programs")
SHORT, LONG = 24, 72
"""Operations of the two runs whose difference is the steady state."""


@dataclass(frozen=True)
class Load:
    """An L2 program whose operation makes one kind of exit, over and over."""

    l2: str
    cause: str
    size: str = "iterations"
    l2_params: dict = field(default_factory=dict, hash=False)
    l1_params: dict = field(default_factory=dict, hash=False)
    features: dict = field(default_factory=dict, hash=False)
    reason: str = ""
    """Name of the virtual exit where the cause has several."""


def own(name: str) -> str:
    """Path of a program of these tests."""
    return str(PROGRAMS / f"{name}.S")


HALT = Load(own("halt"), "HLT", l1_params={"irq_vector": 0x21})
CHECKED_ENTRY = {"entry_checks_left_to_hardware": False}
"""An L0 that looks at vmcs12 before an entry: L1 hears of what it got wrong. KVM 2.6.35 wakes L2 from
HLT without a look at RFLAGS.IF, and its program here ends when such an entry is refused, which the
Xen of that time takes for an error of its own and ends the domain."""
TOUCH = {"passes": 0}
VMX_LOADS = {
    "cpuid": Load("cpuid", "CPUID"),
    "io_inkernel": Load("pio", "IO_IN", l2_params={"write_percent": 0}),
    "io_userspace": Load(
        "pio", "IO_OUT", l2_params={"write_percent": 100}, l1_params={"io_userspace": 1}
    ),
    "msr_read": Load("msr", "RDMSR", l2_params={"write_percent": 0}),
    "msr_write": Load("msr", "WRMSR", l2_params={"write_percent": 100}),
    "msr_write_fastpath": Load("msr", "WRMSR", l2_params={"write_percent": 100, "msr": 0x6E0}),
    "ept_violation": Load("touch", "NESTED_PAGE_FAULT", "pages", TOUCH, reason="EPT_VIOLATION"),
    "hlt": HALT,
    "cr_access_cr0_write": Load(own("control"), "CR_ACCESS"),
    "cr_access_cr4_write": Load(own("control"), "CR_ACCESS", l2_params={"register": 4}),
    # without a VPID L1 has no translations to drop
    "cr3_write_shadow_paging": Load(
        "ctxsw", "CR_ACCESS", "switches", {}, {"cr3_exits": 1}, {"vpid_for_l1": False}
    ),
    "mmio_ept_misconfig_emulated": Load(own("device"), "NESTED_PAGE_FAULT", reason="EPT_MISCONFIG"),
    "mmio_fast_ioeventfd": Load(
        own("device"), "NESTED_PAGE_FAULT", l2_params={"doorbell": 1}, reason="EPT_MISCONFIG"
    ),
    "apic_access": Load(
        "mmio",
        "APIC_ACCESS",
        l2_params={"address": 0xFEE000B0},
        l1_params={"apic_page": 1},
        features={"apicv": True},
    ),
    "exception_ud": Load("ud", "EXCEPTION", l1_params={"ud_exits": 1}),
    "exception": Load(own("forced"), "EXCEPTION", l1_params={"forced_emulation": 1}),
}
SVM_LOADS = {
    "cpuid": Load("cpuid", "CPUID"),
    "io": Load("pio", "IO_OUT", l2_params={"write_percent": 100}),
    "npf": Load("touch", "NESTED_PAGE_FAULT", "pages", TOUCH),
    "msr": Load("msr", "RDMSR", l2_params={"write_percent": 0}),
    "hlt": HALT,
    "cr_access": Load(own("control"), "CR_ACCESS"),
}
HYPERCALL = Load("hypercall", "HYPERCALL", l2_params={"greeting": 0})
NOT_AN_EXIT = {"ept_zap_flush", "irq_inject"}
"""Rows that come with another exit."""
CANNOT_BE_RAISED = {
    "ext_interrupt", "irq_window", "preemption_timer", "exception_pf_shadow_paging",
}  # fmt: skip
"""The machine has no interrupt source and no preemption timer, these programs no shadow paging."""


def loads(backend: str) -> dict[str, Load]:
    """Loads of a back-end by exit kind."""
    return SVM_LOADS if backend == "svm" else VMX_LOADS


def reachable() -> list[tuple[Profile, Row]]:
    """Every profile with each of its rows that L2 can make it execute."""
    return [
        (p, row) for p in profiles() for kind, row in p.rows.items() if kind in loads(p.backend)
    ]


def scenario(
    profile: Profile, load: Load, count: int, features=None, l1_params=None, l0="xen"
) -> Scenario:
    """The load under a profile; the rest of the handler is left out to keep runs short."""
    given = {"handler_work": 0, **load.l1_params, **(l1_params or {})}
    checked = load is HALT and profile.name in ("kvm-2.6.35", "kvm-87") and l0 == "xen"
    return Scenario(
        backend=profile.backend, l0=l0, deviations=CHECKED_ENTRY if checked else {},
        l1=profile.name, l2=load.l2, l1_params=given,
        l2_params={**load.l2_params, load.size: count}, features={**load.features, **(features or {})},
    )  # fmt: skip


@cache
def simulated(wanted: Scenario) -> Result:
    """The run of a scenario, once."""
    result = run(wanted)
    assert (result.status, result.stop_code) == ("stopped", 0), wanted
    return result


@cache
def l2_result(wanted: Scenario) -> int:
    """What L2 left in RAX when it ended."""
    prepare()
    running = Run(wanted)
    while running.advance():
        pass
    assert running.status == "stopped"
    return int(running.machine.record["cpu"]["gpr"][0, 3])


@dataclass(frozen=True)
class Bill:
    """Hardware exits per exit of L2 that L1 handles."""

    of_l1: float
    of_l2_kept: float
    all: float


def bill(profile: Profile, load: Load, features=None, l1_params=None, l0="xen") -> Bill:
    """Steady state by the difference of two runs of unequal length."""
    totals = []
    for count in (SHORT, LONG):
        exits = simulated(scenario(profile, load, count, features, l1_params, l0)).exits
        mine = exits[exits.cause == load.cause]
        l2 = mine[mine.from_level == "L2"]
        by_l1 = l2.handled_by == "L1"
        totals.append((
            int(mine[mine.from_level == "L1"]["count"].sum()), int(l2[~by_l1]["count"].sum()),
            int(l2[by_l1]["count"].sum()), int(mine["count"].sum()),
        ))  # fmt: skip
    l1, kept, reflected, everything = (b - a for a, b in zip(*totals, strict=True))
    assert reflected == LONG - SHORT
    return Bill(l1 / reflected, kept / reflected, everything / reflected)


def executed(result: Result, load: Load, occurrence: int = 6) -> list[Op]:
    """Virtualization operations that L1 executed for one exit of L2, in order."""
    line = result.timeline
    begins = line[(line.kind == "virtual_exit") & (line.cause == load.cause)]
    if load.reason:
        begins = begins[begins.reason == load.reason]
    start = begins.index[occurrence]
    ends = line.index[line.kind == "virtual_entry"]
    part = line.loc[start : ends[ends > start][0]]
    ops = []
    for kind, level, reason in zip(part.kind, part.from_level, part.reason, strict=True):
        if kind in ("field_read", "field_write"):
            ops.append(Op("R" if kind == "field_read" else "W", reason))
        elif kind == "hw_exit" and level == "L1" and reason not in ("VMREAD", "VMWRITE"):
            ops.append(Op("I", reason))
    return ops
