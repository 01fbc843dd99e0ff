"""VMCB clean bits: the processor's copies, what L0 says of its own VMCBs, and what L1 says to L0."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interrupts.programs import nested
from tests.model.runs import L2_PROGRAMS, SMALL, count, simulated
from tests.oracle import svm as oracle
from tests.oracle.svm_machine import VMCB12, SvmMachine
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.records import N_VMCB_COPIES, VMCB_COPY_BYTES
from workbench.core.ledger import EVENTS

VMCB01, VMCB02 = memory_map.VMCX01_MA, memory_map.VMCX02_MA
HARMLESS = {"cr2": 9, "gdtr": 7, "idtr": 7, "dr6": 6, "es": 8, "ds": 8, "int_vector": 3,
            "tsc_offset": 0, "br_from": 10, "cr3": 5, "msrpm_base_pa": 1, "g_pat": 4, "asid": 2,
            "rip": None, "rsp": None, "rax": None, "rflags": None, "int_state": None}  # fmt: skip
"""Fields that may have many values, and their group (vmcb_cleanbits.csv)."""


def on(**features: int) -> SvmMachine:
    return SvmMachine(vmcb_clean_bits=1, **features)


def change(machine: SvmMachine, ma: int, **values: int) -> None:
    """L0's software writes fields of a VMCB."""
    page = bytearray(machine.page(ma))
    for name, value in values.items():
        oracle.put(page, name, value)
    machine.write(ma, bytes(page))


def kept(machine: SvmMachine) -> int:
    return int(machine.m["ledger"]["counts"][0][:, EVENTS.index("VMCB_GROUP_KEPT")].sum())


def test_a_field_that_is_called_clean_keeps_its_old_value():
    machine = on()
    machine.l1_exits(0x72, 2)
    change(machine, VMCB01, cr2=0x1234, rip=0x100002, clean=0xFFF)
    assert machine.call("svm_hw_enter") == layout.ST_OK
    assert (machine.m["cpu"]["cr2"][0], machine.m["cpu"]["rip"][0]) == (0, 0x100002)
    assert machine.m["stale_groups"][0] == 1 << 9
    machine.l1_exits(0x72, 2)
    assert machine.field(VMCB01, "cr2") == 0, "the exit stores what the guest really ran with"
    change(machine, VMCB01, cr2=0x1234, clean=0xFFF & ~(1 << 9))
    machine.call("svm_hw_enter")
    assert machine.m["cpu"]["cr2"][0] == 0x1234


def test_without_the_feature_clean_bits_mean_nothing():
    machine = SvmMachine()
    machine.l1_exits(0x72, 2)
    change(machine, VMCB01, cr2=0x1234, clean=0xFFF)
    machine.call("svm_hw_enter")
    assert machine.m["cpu"]["cr2"][0] == 0x1234
    assert (kept(machine), machine.m["stale_groups"][0]) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(st.sampled_from(sorted(HARMLESS)), min_size=1, max_size=6),
    clean=st.integers(0, 0x7FF),
)
def test_each_field_follows_the_clean_bit_of_its_group(names, clean):
    """An oracle in one line: the value is memory's iff the group's bit is clear."""
    machine = on()
    machine.l1_exits(0x72, 2)
    before = machine.page(VMCB01)
    values = {name: oracle.get(before, name) ^ 0x10 for name in names}
    values["g_pat"] = oracle.get(before, "g_pat")  # not every value is legal
    change(machine, VMCB01, **values, clean=clean)
    machine.m["hw"]["tag"] = oracle.get(before, "asid") if "asid" not in names else values["asid"]
    assert machine.call("svm_hw_enter") == layout.ST_OK
    copy = machine.m["vmcb_copies"][0][int(machine.m["vmcb_place"][0])]
    assert copy["ma"] == VMCB01
    image = bytes(copy["bytes"]) + bytes(4096 - VMCB_COPY_BYTES)
    for name in names:
        group = HARMLESS[name]
        stale = group is not None and clean >> group & 1
        assert oracle.get(image, name) == (oracle.get(before, name) if stale else values[name])
    groups = {HARMLESS[name] for name in names if values[name] != oracle.get(before, name)} - {None}
    expected = sum(1 << g for g in groups if clean >> g & 1)
    assert machine.m["stale_groups"][0] == expected


def test_another_vmcb_is_loaded_whole_whatever_it_claims():
    machine = on()
    machine.start_vmrun(machine.good_vmcb12())
    change(machine, VMCB02, clean=0xFFF, cr2=0x77)
    before = kept(machine)
    machine.call("svm_hw_enter")
    assert (machine.m["cpu"]["cr2"][0], kept(machine)) == (0x77, before)
    machine.l1_exits(0x72, 2)
    change(machine, VMCB02, clean=0xFFF)
    machine.call("svm_hw_enter")
    assert kept(machine) == before + 11


def test_the_copy_least_recently_used_goes():
    machine = on()
    vmcb = machine.page(VMCB01)
    for k in range(N_VMCB_COPIES + 1):
        machine.m["hw"]["vmcx"] = 0x100000 + 0x1000 * k
        machine.write(0x100000 + 0x1000 * k, vmcb)
        assert machine.call("svm_hw_enter") == layout.ST_OK
    held = set(map(int, machine.m["vmcb_copies"]["ma"][0]))
    assert held == {0x100000 + 0x1000 * k for k in range(1, N_VMCB_COPIES + 1)}


def test_the_copied_bytes_are_every_field_that_vmrun_loads():
    from workbench.core.hvm.svm import clean

    covered = set()
    for offset, length in zip(clean.RANGE_OFFSET, clean.RANGE_BYTES, strict=True):
        part = set(range(offset, offset + length))
        assert not covered & part
        covered |= part
    for row in rows("vmcb_fields"):
        offset, size = int(row["offset"], 0), int(row["size"])
        wanted = set(range(offset, offset + size))
        if row["clean_bit"] or row["state_switched_by"] == "VMRUN/#VMEXIT":
            assert wanted <= covered, row["name"]


# ---------------------------------------------------------------- L0 and L1


@pytest.mark.parametrize("l2", L2_PROGRAMS)
@pytest.mark.parametrize("l1", ["minimal", "twin", "kvm-6.12", "xen-4.2x"])
def test_l0_never_calls_clean_what_it_has_changed(l1, l2):
    params = SMALL[l2]
    for assists in ({}, {"virtual_gif": True, "virtual_vmload_vmsave": True}):
        plain = simulated("svm", l2, params, l1=l1, **assists)
        clean = simulated("svm", l2, params, l1=l1, vmcb_clean_bits=True, **assists)
        assert clean.facts["stale_vmcb_groups"] == ""
        assert clean.facts["l2_instructions"] == plain.facts["l2_instructions"]
        assert clean.serial == plain.serial


@pytest.mark.parametrize("virtual_gif", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_interrupts_leave_no_group_stale(tmp_path, intercept, virtual_gif):
    features = (("vmcb_clean_bits", True), ("virtual_gif", virtual_gif))
    outcome = nested(
        tmp_path, "svm", timer=30_000, intercept=intercept, features=features,
        host_tick_cycles=45_000, nmi_cycles=70_000 if intercept else 0,
    )  # fmt: skip
    assert outcome.ticks > 5
    assert outcome.result.facts["stale_vmcb_groups"] == ""


NMIS = {"nmi_cycles": 700_000}
TICKING = {"l1": "tick", "l2": "tick"}
BESIDE = {
    "a virtual APIC of L2": (TICKING, {}, {}),
    "a virtual APIC and NMIs": (TICKING, {}, NMIS),
    "virtual NMIs": (TICKING, {"virtual_nmi": True}, NMIS),
    "virtual NMIs and virtual GIF": (TICKING, {"virtual_nmi": True, "virtual_gif": True}, NMIS),
    "shadow on nested": ({"l1": "shadow", "l2": "remap"}, {"paging": "son"}, {}),
    "shadow on shadow": ({"l1": "shadow", "l2": "remap"}, {"paging": "sos"}, {}),
    "shadow on shadow, many spaces": ({"l1": "shadow", "l2": "ctxsw"}, {"paging": "sos"}, {}),
    "shadow on shadow, host ticks": (
        {"l1": "shadow", "l2": "mixed"}, {"paging": "sos"}, {"host_tick_cycles": 30_000},
    ),
    "one state layout": ({"l1": "kvm-6.12", "l2": "mixed"}, {"state_layout": "minimal-2010"}, {}),
    "immediate virtual exits": (
        {"l1": "minimal", "l2": "mixed"}, {"vmexit_delivery": "immediate"}, {"host_tick_cycles": 30_000},
    ),
}  # fmt: skip
"""What else changes fields of a VMCB between two entries: programs, features, numbers."""


@pytest.mark.parametrize("name", BESIDE)
def test_clean_bits_go_with_what_else_changes_a_vmcb(name):
    programs, features, numbers = BESIDE[name]
    plain, clean = (
        simulated(
            "svm", **programs, **features, vmcb_clean_bits=value,
            numbers={**numbers, "max_instructions": 30_000_000},
        )
        for value in (False, True)
    )  # fmt: skip
    assert clean.facts["stale_vmcb_groups"] == ""
    assert count(clean, "VMCB_GROUP_KEPT") > 0
    assert clean.serial == plain.serial
    if not numbers and programs != TICKING:  # the same time, so the same interrupts
        assert clean.facts["l2_instructions"] == plain.facts["l2_instructions"]


def test_clean_bits_keep_groups_and_save_copies_from_vmcb12():
    off, on = (simulated("svm", vmcb_clean_bits=value) for value in (False, True))
    assert count(off, "VMCB_GROUP_KEPT") == 0 < count(on, "VMCB_GROUP_KEPT")
    rounds = on.facts["virtual_entries"]
    saved = count(off, "L0_BYTE_COPIED") - count(on, "L0_BYTE_COPIED")
    # segments, descriptor tables, debug registers, PAT, LBR, V_INTR and the intercept words
    assert saved == (rounds - 1) * (65 + 32 + 16 + 8 + 40 + 8 + 20)


def test_l1_that_calls_a_changed_group_clean_gets_the_old_state_of_l2():
    machine = on()
    page = machine.good_vmcb12()
    assert machine.start_vmrun(page) == layout.ST_OK
    machine.call("svm_hw_enter")
    machine.l1_exits(0x72, 2)
    machine.call("svm_route")
    machine.call("svm_exit_n2")
    machine.call("svm_hw_enter")
    back = bytearray(machine.page(machine.l1(VMCB12)))
    oracle.put(back, "gdtr", 0x1234 << 64 | 0x77 << 32)
    for clean, base in ((1 << 7, 0), (0, 0x1234)):
        oracle.put(back, "clean", clean)
        assert machine.start_vmrun(back) == layout.ST_OK
        assert machine.field(VMCB02, "gdtr") >> 64 == base
        machine.call("svm_exit_n2")
        machine.call("svm_hw_enter")
        oracle.put(back, "exit_code", 0)


def test_cpuid_offers_clean_bits_only_with_the_feature():
    for value in (0, 1):
        machine = SvmMachine(vmcb_clean_bits=value)
        machine.m["cpu"]["gpr"][0][0] = 0x8000000A
        machine.l1_exits(0x72, 2)
        machine.call("svm_handle")
        assert int(machine.m["cpu"]["gpr"][0][2]) >> 5 & 1 == value
