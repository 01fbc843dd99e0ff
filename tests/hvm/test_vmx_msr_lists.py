"""MSR areas of VM entry and exit: walked by the processor for L0's VMCSs, by L0 for vmcs12."""

from __future__ import annotations

import pytest

from tests.model.runs import count as events
from tests.model.runs import simulated
from tests.oracle.vmx_machine import VMCS12, VmxMachine
from workbench.arch import msr, vmx
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.ledger import EVENTS

LOAD, STORE, HOST = 0x50000, 0x51000, 0x52000
"""n1p of vmcs12's VM-entry load, VM-exit store and VM-exit load areas."""
AREA = 0x3E0000
"""A page of L0's for areas of vmcs01."""


def fill(made: VmxMachine, offset: int, *entries: tuple[int, int]) -> None:
    words = made.words(offset)
    for i, (head, value) in enumerate(entries):
        words[2 * i], words[2 * i + 1] = head, value - (1 << 64) if value >> 63 else value


def values(made: VmxMachine, offset: int, n: int) -> list[int]:
    return [int(made.words(offset)[2 * i + 1]) for i in range(n)]


def of_event(made: VmxMachine, name: str) -> int:
    return int(made.m["ledger"]["counts"][0][:, EVENTS.index(name)].sum())


def area(name: str, address: int, entries: int) -> dict[str, int]:
    return {f"VM_{name}_ADDR": address, f"VM_{name}_COUNT": entries}


# ---------------------------------------------------------------- the processor


def hardware(*entries: tuple[int, int], name: str = "ENTRY_MSR_LOAD") -> VmxMachine:
    """A machine whose vmcs01 has one MSR area."""
    made = VmxMachine()
    fill(made, AREA, *entries)
    for field, value in area(name, AREA, len(entries)).items():
        made.put(1, field, value)
    return made


def test_an_entry_loads_its_area_in_order():
    made = hardware((msr.LSTAR, 0x1234), (msr.STAR, 5), (msr.LSTAR, 0x5678))
    assert made.call("vmx_hw_enter") == layout.ST_OK
    c = made.m["cpu"]
    assert (c["lstar"][0], c["star"][0]) == (0x5678, 5)
    assert of_event(made, "HW_MSR_LOADED") == 3


REFUSED = [
    (msr.FS_BASE, 0), (msr.GS_BASE, 0), (0x808, 0), (0x8FF, 0), (msr.LSTAR, 1 << 47),
    (msr.EFER, 1 << 5), (0x12345, 0), (1 << 32 | msr.STAR, 0), (msr.VMX_BASIC, 0),
    (msr.IA32_FEATURE_CONTROL, 5),
]  # fmt: skip


@pytest.mark.parametrize("bad", REFUSED)
def test_an_entry_that_cannot_be_loaded_fails_with_its_number(bad):
    made = hardware((msr.STAR, 7), bad, (msr.CSTAR, 9))
    assert made.call("vmx_hw_enter") == -1
    assert made.get(1, "VM_EXIT_REASON") == 1 << 31 | 34
    assert made.get(1, "EXIT_QUALIFICATION") == 2
    assert vmx.check_name(int(made.m["check"][0])) == "MSR_LOAD"
    assert (made.m["cpu"]["star"][0], made.m["cpu"]["cstar"][0]) == (7, 0)


def test_an_area_outside_of_memory_fails_at_its_first_entry():
    made = VmxMachine()
    for field, value in area("ENTRY_MSR_LOAD", 0xF0_0000_0000, 3).items():
        made.put(1, field, value)
    assert made.call("vmx_hw_enter") == -1
    assert made.get(1, "EXIT_QUALIFICATION") == 1


def test_an_exit_stores_then_loads():
    made = hardware((msr.LSTAR, 0), (msr.IA32_SYSENTER_CS, 0), name="EXIT_MSR_STORE")
    fill(made, AREA + 0x1000, (msr.LSTAR, 0x4444))
    for field, value in area("EXIT_MSR_LOAD", AREA + 0x1000, 1).items():
        made.put(1, field, value)
    made.m["cpu"]["lstar"], made.m["cpu"]["sysenter_cs"] = 0x3333, 0x8
    made.hardware_exit(vmx.EXIT_CPUID)
    assert values(made, AREA, 2) == [0x3333, 8]
    assert made.m["cpu"]["lstar"][0] == 0x4444
    assert (of_event(made, "HW_MSR_STORED"), of_event(made, "HW_MSR_LOADED")) == (2, 1)


@pytest.mark.parametrize(
    ("name", "bad", "indicator"),
    [("EXIT_MSR_STORE", (0x808, 0), 1), ("EXIT_MSR_STORE", (0x12345, 0), 1),
     ("EXIT_MSR_LOAD", (msr.GS_BASE, 0), 4), ("EXIT_MSR_LOAD", (msr.LSTAR, 1 << 50), 4)],
)  # fmt: skip
def test_an_exit_that_cannot_store_or_load_is_a_vmx_abort(name, bad, indicator):
    made = hardware((msr.STAR, 7), bad, name=name)
    made.hardware_exit(vmx.EXIT_CPUID)
    assert made.page(memory_map.VMCX01_MA).view("<u4")[1] == indicator
    assert made.m["vmx_abort"][0] == indicator
    assert made.call("vmx_hw_enter") == -1


# ---------------------------------------------------------------- vmcs12


def test_l0_walks_the_areas_of_vmcs12():
    made = VmxMachine(deviations=0)
    made.m["cpu"]["star"] = 0x11
    fill(made, made.l1(LOAD), (msr.STAR, 0x22), (msr.IA32_SYSENTER_ESP, 0x7000))
    fill(made, made.l1(STORE), (msr.STAR, 0), (msr.FS_BASE, 0), (msr.VMX_MISC, 0))
    fill(made, made.l1(HOST), (msr.STAR, 0x33), (msr.IA32_SYSENTER_ESP, 0x9000))
    made.launch(
        **area("ENTRY_MSR_LOAD", LOAD, 2), **area("EXIT_MSR_STORE", STORE, 3),
        **area("EXIT_MSR_LOAD", HOST, 2), GUEST_FS_BASE=0xABC000,
    )  # fmt: skip
    assert made.call("vmx_hw_enter") == layout.ST_OK
    c = made.m["cpu"]
    assert (c["star"][0], c["sysenter_esp"][0]) == (0x22, 0x7000)
    c["star"] = 0x44
    made.hardware_exit(vmx.EXIT_CPUID)
    made.call("vmx_exit_n2")
    assert values(made, made.l1(STORE), 2) == [0x44, 0xABC000]
    assert values(made, made.l1(STORE), 3)[2] & 31 == 5
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert (c["star"][0], c["sysenter_esp"][0]) == (0x33, 0x9000)
    assert of_event(made, "L0_MSR_SWITCHED") == 7
    assert of_event(made, "HW_MSR_LOADED") == of_event(made, "HW_MSR_STORED") == 0


@pytest.mark.parametrize("bad", REFUSED)
def test_a_bad_entry_of_vmcs12_is_exit_reason_34(bad):
    made = VmxMachine(deviations=0)
    fill(made, made.l1(LOAD), (msr.STAR, 0x22), (msr.CSTAR, 0x23), bad)
    fill(made, made.l1(HOST), (msr.LSTAR, 0x77))
    made.launch(**area("ENTRY_MSR_LOAD", LOAD, 3), **area("EXIT_MSR_LOAD", HOST, 1))
    assert made.state["vmexit_pending"] == 1
    made.call("vmx_exit_n2")
    assert made.get(12, "VM_EXIT_REASON") == 1 << 31 | 34
    assert made.get(12, "EXIT_QUALIFICATION") == 3
    assert vmx.check_name(int(made.m["check"][0])) == "MSR_LOAD"
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["cpu"]["lstar"][0] == 0x77  # the host's area is loaded all the same


def test_a_list_that_is_too_long_fails_behind_entry_512():
    made = VmxMachine(deviations=0)
    for page in range(3):
        fill(made, made.l1(LOAD + page * 0x1000), *[(msr.STAR, 1)] * 256)
    made.launch(**area("ENTRY_MSR_LOAD", LOAD, 600))
    made.call("vmx_exit_n2")
    assert made.get(12, "EXIT_QUALIFICATION") == 513


@pytest.mark.parametrize(("name", "indicator"), [("EXIT_MSR_STORE", 1), ("EXIT_MSR_LOAD", 4)])
def test_a_bad_exit_area_of_vmcs12_shuts_l1_down(name, indicator):
    made = VmxMachine(deviations=0)
    fill(made, made.l1(STORE), (0x830, 0))
    made.launch(**area(name, STORE, 1))
    made.call("vmx_hw_enter")
    made.m["exit"]["code"] = vmx.EXIT_CPUID
    assert made.call("l0_exit") == layout.ST_SHUTDOWN
    assert made.page(made.l1(VMCS12)).view("<u4")[1] == indicator
    assert made.m["vmx_abort"][0] == indicator


# ---------------------------------------------------------------- msr_switch


def test_lists_keep_the_guests_values_apart_from_l0s():
    made = VmxMachine(msr_switch=1)
    made.m["cpu"]["star"], made.m["cpu"]["kernel_gs_base"] = 0x55, 0x66
    made.hardware_exit(vmx.EXIT_CPUID, insn_len=2)
    assert made.m["cpu"]["star"][0] == 0xE008 << 32
    assert values(made, memory_map.GUEST_MSRS_MA, 5) == [0x55, 0, 0, 0, 0x66]
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert (made.m["cpu"]["star"][0], made.m["cpu"]["kernel_gs_base"][0]) == (0x55, 0x66)


def test_an_access_that_exits_all_the_same_finds_the_guests_value():
    made = VmxMachine(msr_switch=1)
    made.m["cpu"]["lstar"] = 0x1000
    c = made.gpr
    c[layout.RCX], c[layout.RAX], c[layout.RDX] = msr.LSTAR, 0x2000, 0
    made.hardware_exit(vmx.EXIT_MSR_WRITE, insn_len=2)
    assert made.call("vmx_handle") == layout.ST_OK
    made.call("vmx_hw_enter")
    assert made.m["cpu"]["lstar"][0] == 0x2000
    made.hardware_exit(vmx.EXIT_MSR_READ, insn_len=2)
    made.call("vmx_handle")
    assert c[layout.RAX] == 0x2000


def test_l1_and_l2_share_the_values_as_on_hardware():
    made = VmxMachine(msr_switch=1)
    made.m["cpu"]["cstar"] = 0x77
    made.launch()
    assert made.call("vmx_hw_enter") == layout.ST_OK
    assert made.m["cpu"]["cstar"][0] == 0x77
    made.m["cpu"]["cstar"] = 0x88
    made.hardware_exit(vmx.EXIT_CPUID)
    made.call("vmx_exit_n2")
    made.call("vmx_hw_enter")
    assert made.m["cpu"]["cstar"][0] == 0x88


def test_lists_open_the_bitmap_and_on_demand_closes_it():
    for lists, expected in ((0, {1}), (1, {0})):
        bitmap = VmxMachine(msr_switch=lists).page(memory_map.L0_MSRPM_MA)
        bits = {
            int(bitmap[half + 0x400 + (number & 0x1FFF) // 8]) >> number % 8 & 1
            for number in (msr.STAR, msr.LSTAR, msr.CSTAR, msr.SFMASK)
            for half in (0, 0x800)
        }
        assert bits == expected


def test_lists_trade_exits_of_the_accesses_for_work_at_every_exit():
    """L2 reads LSTAR, which minimal lets through: no exit with lists, one with L0 on demand."""
    runs = {
        mode: simulated("vmx", "msr", {"iterations": 50, "msr": msr.LSTAR}, msr_switch=mode)
        for mode in ("on_demand", "lists")
    }
    demand, lists = runs["on_demand"], runs["lists"]
    for _name in ("MSR_READ", "MSR_WRITE"):
        kept = demand.exits.query("exit == @_name and from_level == 'L2'")["count"].sum()
        assert kept >= 20
        assert lists.exits.query("exit == @_name and from_level == 'L2'").empty
    assert events(demand, "L0_MSR_SWITCHED") >= 50
    assert events(demand, "HW_MSR_LOADED") == events(demand, "HW_MSR_STORED") == 0
    assert events(lists, "L0_MSR_SWITCHED") == 0
    exits, entries = events(lists, "HW_EXIT"), events(lists, "HW_ENTRY")
    assert events(lists, "HW_MSR_STORED") == 5 * exits
    assert events(lists, "HW_MSR_LOADED") == 5 * (exits + entries)
