"""Whose exit is it: the kernel's decision against the oracle's, for every exit reason."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import vmx as oracle
from tests.oracle.vmx_machine import IO_BITMAP12, MSR_BITMAP12, VmxMachine
from workbench.arch import vmx
from workbench.arch.table import rows
from workbench.core import layout

REASONS = {
    r["name"]: int(r["value"], 0) for r in rows("vmx_exit_reasons") if int(r["value"], 0) < 128
}
words32 = st.integers(0, 0xFFFFFFFF)
signed64 = st.integers(-(1 << 63), (1 << 63) - 1)


@functools.cache
def machine() -> VmxMachine:
    """L1 in VMX operation with a current VMCS and random bitmaps; L2 counts as running."""
    made = VmxMachine()
    made.enter_vmx_operation()
    rng = np.random.default_rng(1)
    for page in (MSR_BITMAP12, IO_BITMAP12, IO_BITMAP12 + 4096):
        made.page(made.l1(page))[:] = rng.integers(0, 256, 4096) & rng.integers(0, 256, 4096)
    made.state["n2_guest"] = 1
    return made


def route(name: str, fields: dict[str, int], **record: int) -> bool:
    m = machine()
    defaults = {"MSR_BITMAP": MSR_BITMAP12, "IO_BITMAP_A": IO_BITMAP12,
                "IO_BITMAP_B": IO_BITMAP12 + 4096}  # fmt: skip
    for field, value in {**defaults, **fields}.items():
        m.put(12, field, value)
    x = m.m["exit"]
    x["code"] = REASONS[name]
    x["info1"], x["intr_info"] = record.get("qualification", 0), record.get("intr_info", 0)
    return m.call("vmx_route") == 1


def bitmaps() -> tuple[bytes, bytes]:
    m = machine()
    at = m.l1(IO_BITMAP12)
    return bytes(m.page(m.l1(MSR_BITMAP12))), bytes(m.ram[at : at + 8192])


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(REASONS)), pin=words32, cpu=words32, sec=words32,
       bitmap=words32, vector=st.integers(0, 31), kind=st.integers(0, 7))  # fmt: skip
def test_routing_by_reason_and_controls(name, pin, cpu, sec, bitmap, vector, kind):
    if name in ("CR_ACCESS", "IO_INSTRUCTION", "MSR_READ", "MSR_WRITE", "DR_ACCESS"):
        return
    fields = {"PIN_BASED_VM_EXEC_CONTROL": pin, "CPU_BASED_VM_EXEC_CONTROL": cpu,
              "SECONDARY_VM_EXEC_CONTROL": sec, "EXCEPTION_BITMAP": bitmap}  # fmt: skip
    info = vector | kind << 8 | 1 << 31
    assert route(name, fields, intr_info=info) == oracle.goes_to_l1(name, fields, intr_info=info)


@settings(max_examples=150, deadline=None)
@given(
    register=st.sampled_from([0, 3, 4, 8]),
    kind=st.integers(0, 3),
    cpu=words32,
    masks=st.tuples(signed64, signed64),
    shadows=st.tuples(signed64, signed64),
    value=signed64,
    source=st.integers(0, 0xFFFF),
)
def test_control_register_exits(register, kind, cpu, masks, shadows, value, source):
    qualification = register | kind << 4 | layout.RBX << 8
    if kind >= 2:
        qualification = kind << 4 | source << 16
    machine().gpr[layout.RBX] = value
    fields = {
        "CPU_BASED_VM_EXEC_CONTROL": cpu,
        "CR0_GUEST_HOST_MASK": masks[0],
        "CR4_GUEST_HOST_MASK": masks[1],
        "CR0_READ_SHADOW": shadows[0],
        "CR4_READ_SHADOW": shadows[1],
    }
    assert route("CR_ACCESS", fields, qualification=qualification) == oracle.goes_to_l1(
        "CR_ACCESS", fields, qualification=qualification, value=value
    )


@settings(max_examples=150, deadline=None)
@given(number=st.one_of(words32, st.integers(0, 0x1FFF), st.integers(0xC0000000, 0xC0001FFF)),
       write=st.booleans(), use=st.booleans())  # fmt: skip
def test_msr_exits_read_l1s_own_bitmap(number, write, use):
    name = "MSR_WRITE" if write else "MSR_READ"
    fields = {"CPU_BASED_VM_EXEC_CONTROL": vmx.CPU_USE_MSR_BITMAPS if use else 0}
    machine().gpr[layout.RCX] = number | 0x5 << 32
    expected = oracle.goes_to_l1(name, fields, msr=number, msr_bitmap=bitmaps()[0])
    assert route(name, fields) == expected


@settings(max_examples=150, deadline=None)
@given(
    port=st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0x7FFE, 0x7FFF, 0xFFFD, 0xFFFF])),
    size=st.sampled_from([1, 2, 4]),
    cpu=words32,
)
def test_io_exits_read_l1s_own_bitmaps(port, size, cpu):
    fields = {"CPU_BASED_VM_EXEC_CONTROL": cpu}
    qualification = size - 1 | port << 16
    expected = oracle.goes_to_l1(
        "IO_INSTRUCTION", fields, qualification=qualification, io_bitmaps=bitmaps()[1]
    )
    assert route("IO_INSTRUCTION", fields, qualification=qualification) == expected


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_debug_register_exits_are_l1s_once_l0_gave_the_registers_away(dirty, wanted):
    m = machine()
    m.put(1, "CPU_BASED_VM_EXEC_CONTROL", 0 if dirty else vmx.CPU_MOV_DR_EXITING)
    fields = {"CPU_BASED_VM_EXEC_CONTROL": vmx.CPU_MOV_DR_EXITING if wanted else 0}
    expected = oracle.goes_to_l1("DR_ACCESS", fields, debug_registers_dirty=dirty)
    assert route("DR_ACCESS", fields) == expected


def test_a_bitmap_that_l1_has_no_memory_for_means_l1():
    fields = {"CPU_BASED_VM_EXEC_CONTROL": vmx.CPU_USE_MSR_BITMAPS, "MSR_BITMAP": 1 << 39}
    machine().gpr[layout.RCX] = 0x174
    assert route("MSR_READ", fields)
    assert route("MSR_READ", {**fields, "MSR_BITMAP": -1})


def test_every_reason_of_the_table_is_decided():
    known = oracle._L1_ALWAYS | oracle._L0_ALWAYS | set(oracle._BY_CONTROL)
    texts = {r["name"]: r["xen_L2_exit_goes_to"] for r in rows("vmx_exit_reasons")}
    for name in REASONS:
        if name not in known and "crash" not in texts[name]:
            assert name in ("EXCEPTION_NMI", "CR_ACCESS", "DR_ACCESS", "IO_INSTRUCTION",
                            "MSR_READ", "MSR_WRITE")  # fmt: skip
