"""L0's copy of L1's MSR map: who keeps one, what it costs, and when it is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

import workbench as wb
from tests.oracle.svm_machine import MSRPM12, SvmMachine
from tests.oracle.vmx_machine import MSR_BITMAP12, VmxMachine
from workbench import nested_layouts
from workbench.arch import vmx
from workbench.cli.rules import Rule, check
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.personality import L0S

PROGRAM = Path(__file__).parent / "guests" / "msr_map_edited.S"
EFER = 0xC000_0080
EFER_BIT = 8 * 0x800 + 0x80 * 2
MSR_EXIT = 0x7C
MSR_PROT = 1 << 28
BYTES = 0x2000
LIVE = [("minimal-2010", "xen"), ("minimal-2010", "kvm"), ("merged-2011", "kvm"),
        ("generic-2010", "kvm")]  # fmt: skip
COPIED = [("generic-2010", "xen"), ("merged-2011", "xen"), ("merged-2011", "manual")]


def machine_in_l2(name: str, l0: str, bit: int) -> SvmMachine:
    """L2 runs; L1 intercepts MSRs, and its map said ``bit`` of reading EFER at VMRUN."""
    machine = SvmMachine(layout_name=name, l0=L0S.index(l0))
    write_bit(machine, bit)
    page = machine.good_vmcb12()
    page[12:16] = (int.from_bytes(page[12:16], "little") | MSR_PROT).to_bytes(4, "little")
    assert machine.start_vmrun(bytes(page)) == layout.ST_OK
    return machine


def write_bit(machine: SvmMachine, bit: int) -> None:
    at = machine.l1(MSRPM12) + EFER_BIT // 8
    machine.ram[at] = int(machine.ram[at]) & ~(1 << EFER_BIT % 8) | bit << EFER_BIT % 8


def goes_to_l1(machine: SvmMachine) -> bool:
    """L2 reads EFER, which L0 intercepts for itself."""
    m = machine.m
    m["cpu"]["gpr"][0][layout.RCX] = EFER
    m["exit"]["code"], m["exit"]["info1"] = MSR_EXIT, 0
    return bool(machine.call("svm_route"))


@pytest.mark.parametrize("at_vmrun", [0, 1])
@pytest.mark.parametrize(("name", "l0"), LIVE + COPIED)
def test_an_edit_behind_vmrun_is_seen_where_the_map_is_read_in_place(name, l0, at_vmrun):
    machine = machine_in_l2(name, l0, at_vmrun)
    assert goes_to_l1(machine) == bool(at_vmrun)
    write_bit(machine, 1 - at_vmrun)
    seen = (name, l0) in LIVE
    assert goes_to_l1(machine) == bool(1 - at_vmrun if seen else at_vmrun)


@pytest.mark.parametrize(("name", "l0"), COPIED)
def test_the_copy_is_all_of_l1s_map_and_the_next_vmrun_makes_it_anew(name, l0):
    machine = machine_in_l2(name, l0, 1)
    copy = machine.state["msrpm"]
    assert copy == memory_map.L1_MSR_MAP_MA
    assert machine.page(copy, BYTES) == machine.page(machine.l1(MSRPM12), BYTES)
    machine.write(machine.l1(MSRPM12), bytes(range(256)) * 32)
    machine.call("svm_merge_controls", machine.m["ram"][0] + machine.l1(0x20000))
    assert machine.page(copy, BYTES) == bytes(range(256)) * 32


def test_clean_bits_do_not_spare_the_copy():
    """Xen copies at every VMRUN, although the clean bit of the maps says that nothing changed."""
    machine = SvmMachine(vmcb_clean_bits=1)
    page = machine.good_vmcb12()
    page[0xC0] = 1 << 1
    machine.state["last_vmcx12_addr"] = 0x20000
    machine.write(machine.l1(MSRPM12), b"\x5a" * BYTES)
    assert machine.start_vmrun(bytes(page)) == layout.ST_OK
    assert machine.page(machine.state["msrpm"], BYTES) == b"\x5a" * BYTES


@pytest.mark.parametrize("name", nested_layouts.LAYOUTS)
def test_a_program_sees_what_the_design_says(name):
    """L2 forbids itself, in L1's map, to read EFER, and reads it."""
    settings = {"state_layout": name, "l0": "xen"}
    stale, live = (
        check(Rule(f"svm.edited.{says}", "", "", PROGRAM, number), settings).passed
        for number, says in enumerate(("stale", "live"))
    )
    assert (stale, live) == (name != "minimal-2010", name == "minimal-2010")


@pytest.mark.parametrize("name", nested_layouts.LAYOUTS)
@pytest.mark.parametrize("l0", ["xen", "manual"])
def test_on_vmx_only_the_patch_keeps_a_copy(name, l0):
    """4 KB at VMLAUNCH; a read of IA32_SYSENTER_CS that L0 routes after L1's page has changed."""
    made = VmxMachine(layout_name=name, l0=L0S.index(l0))
    assert made.launch() == layout.ST_OK
    assert made.call("vmx_hw_enter") == layout.ST_OK
    made.page(made.l1(MSR_BITMAP12))[:] = 0xFF
    made.gpr[layout.RCX] = 0x174
    made.hardware_exit(vmx.EXIT_MSR_READ, insn_len=2)
    stale = name == "generic-2010"
    assert made.call("vmx_route") == (not stale)
    if stale:
        assert made.state["msrpm"] == memory_map.L1_MSR_MAP_MA
        assert made.call("vmx_handle") == layout.ST_OK


def test_on_vmx_the_copy_costs_one_more_pass():
    merged, generic = (
        per_entry("vmx", features={"state_layout": name})
        for name in ("merged-2011", "generic-2010")
    )
    assert generic["L0_MAP_BYTE_READ"] - merged["L0_MAP_BYTE_READ"] == pytest.approx(4096, rel=0.01)
    assert generic["L0_MAP_BYTE_MERGED"] == merged["L0_MAP_BYTE_MERGED"]


def per_entry(backend: str = "svm", **fields: object) -> dict[str, float]:
    result = wb.run(wb.Scenario(backend=backend, l2="cpuid", **fields))
    entries = result.facts["virtual_entries"]
    return {e: result.raw.event(e) / entries for e in ("L0_MAP_BYTE_READ", "L0_MAP_BYTE_MERGED")}


def test_the_copy_costs_one_more_pass_over_the_map():
    for name in nested_layouts.LAYOUTS:
        cost = per_entry(features={"state_layout": name})
        passes = 1 if name == "minimal-2010" else 2
        assert cost["L0_MAP_BYTE_READ"] == pytest.approx(passes * BYTES, rel=0.01), name
        assert cost["L0_MAP_BYTE_MERGED"] == pytest.approx(BYTES, rel=0.01), name
    assert per_entry(l0="kvm")["L0_MAP_BYTE_READ"] < 256


@pytest.mark.parametrize("name", nested_layouts.LAYOUTS)
def test_accesses_stand_in_fields(name):
    result = wb.run(wb.Scenario(backend="svm", l2="cpuid", features={"state_layout": name}))
    fields = result.fields.groupby("field")[["reads", "writes"]].sum()
    entries = result.facts["virtual_entries"]
    assert fields.loc["msrpm", "reads"] >= entries
    sizes = fields.loc["msrpm_size"] if name == "generic-2010" else None
    assert sizes is None or (sizes["reads"] == entries and sizes["writes"] == 1)
    assert ("msrpm_size" in fields.index) == (name == "generic-2010")
