"""L1 hypervisors as they are: on the simulator, each exit of L2 costs what the table says.

L0 is Xen where nothing else is said; the table's column for VMCS shadowing is measured under KVM.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.model.profile_loads import (
    CANNOT_BE_RAISED,
    HALT,
    HYPERCALL,
    NOT_AN_EXIT,
    SVM_LOADS,
    VMX_LOADS,
    Load,
    bill,
    executed,
    l2_result,
    loads,
    own,
    reachable,
    scenario,
    simulated,
)
from workbench.arch.table import rows
from workbench.guests.profiles import COMMON_PARAMS, Op, optional_fields, profiles
from workbench.machine import PARAMETERS
from workbench.scenario import Scenario
from workbench.simulate import Run, prepare

PROFILES = {(p.name, p.backend): p for p in profiles()}
EACH = pytest.mark.parametrize("key", PROFILES, ids="-".join)
ROWS = reachable()
EACH_ROW = pytest.mark.parametrize(
    ("profile", "row"), ROWS, ids=[f"{p.name}-{p.backend}-{r.exit_kind}" for p, r in ROWS]
)
KVM_TRAPS = {
    (r["profile"], r["exit_kind"]): int(r["n_trap_kvm_shadow"])
    for r in rows("l1_profiles")
    if r["n_trap_kvm_shadow"]
}
"""What exits to KVM with VMCS shadowing, by profile and kind of exit."""
XEN_TRAPS_WRITES_OF = {"IO_BITMAP_A", "IO_BITMAP_B", "MSR_BITMAP"}
"""What L1's VMWRITE exits for with VMCS shadowing under Xen (header of l1_profiles.csv)."""
ASSISTS = {"svm": {"virtual_gif": True, "virtual_vmload_vmsave": True},
           "vmx": {"vmcs_shadowing": True}}  # fmt: skip


def as_seen(ops: tuple[Op, ...]) -> list[Op]:
    """Operations as their exits name them: which MSR it was is not in the timeline."""
    seen = {"RDMSR": Op("I", "MSR_READ"), "WRMSR": Op("I", "MSR_WRITE")}
    return [seen.get(op.name.partition("-")[0], op) for op in ops]


def rotated(ops: tuple[Op, ...]) -> list[Op]:
    """A round of SVM as it is seen from one exit of L2 to the next entry."""
    behind = ops.index(Op("I", "VMRUN")) + 1
    return [*ops[behind:], *ops[:behind]]


def test_every_kind_of_exit_is_run_or_said_to_be_out_of_reach():
    for profile in profiles():
        assert set(profile.rows) <= {*loads(profile.backend), *NOT_AN_EXIT, *CANNOT_BE_RAISED}


@pytest.mark.parametrize(
    ("name", "backend", "exits"),
    [("kvm-6.12", "vmx", 9), ("kvm-2.6.35", "vmx", 11), ("kvm-87", "vmx", 11), ("kvm-uncached", "vmx", 15),
     ("xen-4.2x", "vmx", 16), ("virtualbox-7", "vmx", 18), ("kvm-6.12", "svm", 7),
     ("xen-4.2x", "svm", 4), ("virtualbox-7", "svm", 8)],
)  # fmt: skip
def test_hardware_exits_of_one_l2_cpuid(name, backend, exits):
    profile = PROFILES[name, backend]
    assert bill(profile, loads(backend)["cpuid"]).all == exits
    assert bill(profile, loads(backend)["cpuid"], ASSISTS[backend]).all == 2


@EACH_ROW
def test_trapping_operations_are_those_of_the_table(profile, row):
    load = loads(profile.backend)[row.exit_kind]
    measured = bill(profile, load)
    assert measured.of_l1 == len(row.ops)
    assert measured.all == 1 + len(row.ops) + measured.of_l2_kept
    # after L1 has mapped a page, L0 still has to enter it into n2p_to_l0m
    assert measured.of_l2_kept == (load.l2 == "touch")


@EACH_ROW
def test_operations_happen_in_the_order_of_the_table(profile, row):
    load = loads(profile.backend)[row.exit_kind]
    expected = as_seen(row.ops) if profile.backend == "vmx" else rotated(row.ops)
    assert executed(simulated(scenario(profile, load, 24)), load) == expected


@EACH_ROW
def test_under_kvm_shadowing_leaves_what_the_table_says(profile, row):
    load = loads(profile.backend)[row.exit_kind]
    plain = bill(profile, load, l0="kvm")
    assert plain.of_l1 == len(row.ops), "without assists every operation exits, as under Xen"
    assisted = bill(profile, load, ASSISTS[profile.backend], l0="kvm")
    if profile.backend == "svm":
        assert assisted.of_l1 == 1, "VMRUN"
        return
    assert assisted.of_l1 == KVM_TRAPS[profile.name, row.exit_kind]
    shadowed = simulated(scenario(profile, load, 24, ASSISTS["vmx"], l0="kvm"))
    assert executed(shadowed, load) == as_seen(row.ops), "shadowed, but executed all the same"


@EACH_ROW
def test_assists_leave_the_operations_that_xen_still_emulates(profile, row):
    load = loads(profile.backend)[row.exit_kind]
    measured = bill(profile, load, ASSISTS[profile.backend])
    if profile.backend == "svm":
        assert measured.of_l1 == 1, "VMRUN"
        return
    left = [op for op in row.ops
            if op.kind == "I" or (op.kind == "W" and op.name in XEN_TRAPS_WRITES_OF)]  # fmt: skip
    assert measured.of_l1 == len(left)
    shadowed = simulated(scenario(profile, load, 24, ASSISTS["vmx"]))
    assert executed(shadowed, load) == as_seen(row.ops), "shadowed, but executed all the same"


@pytest.mark.parametrize("name", ["kvm-6.12", "xen-4.2x", "virtualbox-7"])
def test_each_svm_assist_takes_its_own_instructions(name):
    profile = PROFILES[name, "svm"]
    names = [op.name for op in profile.rows["cpuid"].ops]
    gif = sum(n in ("CLGI", "STGI") for n in names)
    state = sum(n in ("VMLOAD", "VMSAVE") for n in names)
    load = SVM_LOADS["cpuid"]
    assert bill(profile, load, {"virtual_gif": True}).of_l1 == len(names) - gif
    assert bill(profile, load, {"virtual_vmload_vmsave": True}).of_l1 == len(names) - state


@EACH
def test_exits_without_a_row_take_the_nearest_one(key):
    profile = PROFILES[key]
    assert bill(profile, HYPERCALL).of_l1 == len(profile.rows["cpuid"].ops)
    if key == ("virtualbox-7", "vmx"):
        for kind in ("msr_read", "msr_write"):
            assert bill(profile, VMX_LOADS[kind]).of_l1 == len(profile.rows["cpuid"].ops)
    elif profile.backend == "vmx" and "msr_read" not in profile.rows:
        measured = bill(profile, VMX_LOADS["msr_read"])
        assert measured.of_l1 == len(profile.rows["msr_write"].ops)


def test_cr3_writes_drop_the_translations_of_a_vpid():
    profile, load = PROFILES["kvm-6.12", "vmx"], VMX_LOADS["cr3_write_shadow_paging"]
    row = profile.rows["cr3_write_shadow_paging"]
    assert bill(profile, load, {"vpid_for_l1": True}).of_l1 == len(row.ops) + 1, "INVVPID"


@EACH
def test_handler_work_is_exactly_so_many_instructions(key):
    profile = PROFILES[key]
    load = loads(profile.backend)["cpuid"]
    counts = [
        simulated(scenario(profile, load, 24, l1_params={"handler_work": n})).facts
        for n in (0, 1, 250)
    ]
    first, one, many = (c["l1_instructions"] for c in counts)
    exits = one - first
    assert exits >= 24
    assert many - first == 250 * exits


def test_default_handler_is_as_long_as_turtles_measured():
    profile = PROFILES["kvm-2.6.35", "vmx"]
    instructions = []
    for n in (24, 72):
        wanted = scenario(profile, VMX_LOADS["cpuid"], n)
        default = wanted.replace(l1_params={})
        instructions.append(simulated(default).facts["l1_instructions"])
    assert (instructions[1] - instructions[0]) / 48 == 1506 - 7 * 70


# ------------------------------------------------------------------ parameters


@EACH
def test_optional_operations_can_be_switched_on(key):
    profile = PROFILES[key]
    load = loads(profile.backend)["cpuid"]
    plain = bill(profile, load).of_l1
    if profile.backend == "vmx":
        for op in optional_fields(profile):
            given = {f"with_{op.name.lower()}": 1}
            assert bill(profile, load, l1_params=given).of_l1 == plain + 1, op
            assert op in executed(simulated(scenario(profile, load, 24, l1_params=given)), load)
    elif profile.name != "virtualbox-7":
        extra = {"kvm-6.12": 1, "xen-4.2x": 2}[profile.name]
        assert bill(profile, load, l1_params={"vcpu_switches": 1}).of_l1 == plain + extra


@EACH
def test_taking_pages_away_flushes_once_per_period(key):
    profile = PROFILES[key]
    load = Load("touch", "NESTED_PAGE_FAULT", "pages", {"passes": 3})
    result = simulated(
        scenario(profile, load, 40, l1_params={"unmap_period": 10, "unmap_pages": 4})
    )
    entries = result.facts["virtual_entries"]
    if profile.backend == "vmx":
        exits = result.exits
        assert exits[exits.exit == "INVEPT"]["count"].sum() in (entries // 10, entries // 10 - 1)
    assert entries > 1.3 * simulated(scenario(profile, load, 40)).facts["virtual_entries"]


# ------------------------------------------------------------------ L2 cannot tell


def l2_memory(wanted: Scenario) -> tuple[str, int]:
    """Digest of L2's memory and its RAX at the end of a run; its parameter page left out."""
    running = Run(wanted)
    while running.advance():
        pass
    assert running.status == "stopped"
    built = running.machine
    start, size = built.bank_offset(2), int(built.record["bank_size"][0, 2])
    memory = np.array(built.ram[start : start + size])
    memory[PARAMETERS : PARAMETERS + 4096] = 0
    return hashlib.sha256(memory.tobytes()).hexdigest(), int(built.record["cpu"]["gpr"][0, 3])


@pytest.mark.parametrize("l2", ["mixed", "ctxsw", "touch"])
def test_l2_ends_the_same_under_every_l1(l2):
    prepare()
    small = {
        "mixed": {"iterations": 200},
        "ctxsw": {"switches": 40},
        "touch": {"pages": 40, "passes": 2},
    }
    given = {"unmap_period": 20, "unmap_pages": 3}
    seen = {
        l2_memory(Scenario(backend=backend, l1=name, l2=l2, l2_params=small[l2], l1_params=given))
        for name, backend in [*PROFILES, ("minimal", "svm"), ("minimal", "vmx")]
    }
    assert len(seen) == 1


@EACH
def test_halted_l2_is_woken_by_interrupts(key):
    profile = PROFILES[key]
    woken = l2_result(scenario(profile, HALT, 24))
    injects = Op("W", "VM_ENTRY_INTR_INFO_FIELD") in profile.rows["hlt"].ops
    assert woken == (24 if injects or profile.backend == "svm" else 0)


@EACH
def test_control_registers_read_as_written(key):
    profile = PROFILES[key]
    for register in (0, 4):
        load = Load(own("control"), "CR_ACCESS", l2_params={"register": register, "check": 1})
        assert l2_result(scenario(profile, load, 24)) == 0


def test_devices_and_forced_emulation_give_l2_the_right_values():
    kvm, xen = PROFILES["kvm-6.12", "vmx"], PROFILES["xen-4.2x", "vmx"]
    assert l2_result(scenario(kvm, VMX_LOADS["mmio_ept_misconfig_emulated"], 24)) == 0
    assert l2_result(scenario(xen, VMX_LOADS["exception"], 24)) == 0


@EACH
def test_without_an_interrupt_to_give_the_first_hlt_ends_the_run(key):
    exits = simulated(scenario(PROFILES[key], Load(own("halt"), "HLT"), 24)).exits
    assert exits[exits.exit == "HLT"]["count"].sum() == 1


def test_parameters_that_all_programs_share_have_the_same_words():
    from workbench.guests.catalogue import l1_guests

    shared = {p.name: 16 + i for i, p in enumerate(COMMON_PARAMS)}
    for guest in l1_guests():
        for param in guest.params:
            assert shared.get(param.name, param.word) == param.word
