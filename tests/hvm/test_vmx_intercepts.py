"""The processor's checks: which operations of a VMX guest exit, and what the exit says."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import vmx as oracle
from tests.oracle.vmx_machine import VmxMachine
from workbench.arch import vmx
from workbench.core import layout
from workbench.core.cpu import ops
from workbench.core.hvm import insn, memory_map

words32 = st.integers(0, 0xFFFFFFFF)


@functools.cache
def shared() -> VmxMachine:
    return VmxMachine()


def check(name: str, *args: int, op: int = 0, machine: VmxMachine | None = None) -> int:
    """Run one of the processor's checks for an instruction 3 bytes long."""
    made = (machine or shared()).uop(op)
    return (machine or shared()).call(name, made.ctypes.data, *args)


def exit_record() -> dict[str, int]:
    x = shared().m["exit"]
    return {name: int(x[name][0]) for name in layout.EXIT.names}


# ---------------------------------------------------------------- permission bitmaps


@settings(max_examples=60, deadline=None)
@given(
    number=st.one_of(words32, st.integers(0, 0x2010), st.integers(0xBFFFFFF0, 0xC0002010)),
    write=st.booleans(),
    seed=st.integers(0, 5),
)
def test_msr_bitmap_agrees_with_the_manual(number, write, seed):
    machine = shared()
    page = machine.page(memory_map.L2_MSRPM_MA)
    page[:] = np.random.default_rng(seed).integers(0, 256, 4096)
    machine.m["hw"]["proc"] = vmx.CPU_USE_MSR_BITMAPS
    machine.m["hw"]["msr_bitmap"] = memory_map.L2_MSRPM_MA
    status = check("vmx_msr_exit", number, int(write))
    assert (status == layout.ST_VMEXIT) == oracle.msr_exits(bytes(page), number, write)
    if status:
        record = exit_record()
        assert record["code"] == (vmx.EXIT_MSR_WRITE if write else vmx.EXIT_MSR_READ)
        assert record["insn_len"] == 3


@settings(max_examples=60, deadline=None)
@given(
    port=st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0x7FFE, 0x7FFF, 0xFFFD, 0xFFFF])),
    lg=st.integers(0, 2),
    seed=st.integers(0, 5),
)
def test_io_bitmaps_agree_with_the_manual(port, lg, seed):
    machine = shared()
    a, b = (machine.page(memory_map.L2_IOPM_MA + at) for at in (0, 4096))
    rng = np.random.default_rng(seed)
    for page in (a, b):
        page[:] = rng.integers(0, 256, 4096) & rng.integers(0, 256, 4096)
    h = machine.m["hw"]
    h["proc"] = vmx.CPU_USE_IO_BITMAPS | vmx.CPU_UNCOND_IO_EXITING
    h["io_bitmap_a"], h["io_bitmap_b"] = memory_map.L2_IOPM_MA, memory_map.L2_IOPM_MA + 4096
    status = check("vmx_io_exit", port, lg, 1, 0, 0)
    assert (status != 0) == oracle.io_exits(bytes(a) + bytes(b), port, 1 << lg)
    if status:
        assert exit_record()["info1"] == (1 << lg) - 1 | 8 | port << 16


def test_io_without_bitmaps_follows_the_unconditional_control():
    for proc, exits in ((0, False), (vmx.CPU_UNCOND_IO_EXITING, True)):
        shared().m["hw"]["proc"] = proc
        assert (check("vmx_io_exit", 0x3F8, 0, 0, 0, 0) == layout.ST_VMEXIT) == exits


def test_a_bitmap_outside_of_memory_makes_everything_exit():
    machine = shared()
    machine.m["hw"]["proc"] = vmx.CPU_USE_MSR_BITMAPS
    machine.m["hw"]["msr_bitmap"] = 1 << 45
    assert check("vmx_msr_exit", 0x174, 0) == layout.ST_VMEXIT


# ---------------------------------------------------------------- instructions


@pytest.mark.parametrize(
    ("what", "word", "mask", "reason"),
    [
        ("CPUID", "proc", 0, vmx.EXIT_CPUID),
        ("INVD", "proc", 0, vmx.EXIT_INVD),
        ("XSETBV", "proc", 0, vmx.EXIT_XSETBV),
        ("HLT", "proc", vmx.CPU_HLT_EXITING, vmx.EXIT_HLT),
        ("RDTSC", "proc", vmx.CPU_RDTSC_EXITING, vmx.EXIT_RDTSC),
        ("RDPMC", "proc", vmx.CPU_RDPMC_EXITING, vmx.EXIT_RDPMC),
        ("PAUSE", "proc", vmx.CPU_PAUSE_EXITING, vmx.EXIT_PAUSE_INSTRUCTION),
        ("INVLPG", "proc", vmx.CPU_INVLPG_EXITING, vmx.EXIT_INVLPG),
        ("MWAIT", "proc", vmx.CPU_MWAIT_EXITING, vmx.EXIT_MWAIT_INSTRUCTION),
        ("MONITOR", "proc", vmx.CPU_MONITOR_EXITING, vmx.EXIT_MONITOR_INSTRUCTION),
        ("WBINVD", "proc2", vmx.CPU2_WBINVD_EXITING, vmx.EXIT_WBINVD),
        ("LGDT", "proc2", vmx.CPU2_DESC, vmx.EXIT_GDTR_IDTR),
        ("LTR", "proc2", vmx.CPU2_DESC, vmx.EXIT_LDTR_TR),
    ],
)
def test_instructions_exit_by_their_control(what, word, mask, reason):
    machine = shared()
    machine.m["hw"]["proc"] = machine.m["hw"]["proc2"] = 0
    number = getattr(insn, f"I_{what}")
    if mask:
        assert check("vmx_insn_exit", number, 0) == layout.ST_OK
        machine.m["hw"][word] = mask
    assert check("vmx_insn_exit", number, 0x1234) == layout.ST_VMEXIT
    record = exit_record()
    assert (record["code"], record["insn_len"]) == (reason, 3)
    assert record["info1"] == (0x1234 if what == "INVLPG" else 0)


def test_instructions_that_svm_intercepts_but_vmx_does_not():
    machine = shared()
    machine.m["hw"]["proc"] = machine.m["hw"]["proc2"] = -1
    for name in ("IRET", "PUSHF", "POPF", "SWINT", "ICEBP", "RSM"):
        assert check("vmx_insn_exit", getattr(insn, f"I_{name}"), 0) == layout.ST_OK


def test_rdtscp_is_undefined_without_its_control():
    machine = shared()
    machine.m["hw"]["proc2"] = 0
    assert check("vmx_insn_exit", insn.I_RDTSCP, 0) == layout.ST_FAULT
    assert machine.m["exc"]["vector"][0] == 6


# ---------------------------------------------------------------- control registers


@settings(max_examples=60, deadline=None)
@given(
    register=st.sampled_from([0, 4]),
    mask=st.integers(0, 255),
    shadow=st.integers(0, 255),
    value=st.integers(0, 255),
)
def test_cr0_and_cr4_writes_exit_when_a_bit_of_the_host_changes(register, mask, shadow, value):
    h = shared().m["hw"]
    h[f"cr{register}_mask"], h[f"cr{register}_shadow"] = mask, shadow
    status = check("vmx_cr_exit", register, 3, 1, value, op=ops.MOV_TO_CR)
    assert (status != 0) == bool((value ^ shadow) & mask)
    if status:
        assert exit_record()["info1"] == register | 3 << 8


def test_reading_a_register_shows_the_shadow_where_the_host_owns_the_bit():
    machine = shared()
    machine.m["cpu"]["cr0"] = 0x80010031
    machine.m["hw"]["cr0_mask"], machine.m["hw"]["cr0_shadow"] = 0x21, 0x10001
    assert machine.call("vmx_read_cr", 0) == 0x80010011
    assert machine.call("vmx_effective_cr", 0, 0x80000010) == 0x80000031


def test_cr3_target_values_do_not_exit():
    h = shared().m["hw"]
    h["proc"], h["cr3_target_count"] = vmx.CPU_CR3_LOAD_EXITING, 2
    h["cr3_targets"] = (0x1000, 0x2000, 0x3000, 0)
    exits = [bool(check("vmx_cr_exit", 3, 0, 1, v)) for v in (0x1000, 0x2000, 0x3000, 0x4000)]
    assert exits == [False, False, True, True]


@pytest.mark.parametrize(
    ("op", "shadow", "value", "exits"),
    [
        ("CLTS", 8, 0, True), ("CLTS", 0, 0, False), ("LMSW", 1, 0, False), ("LMSW", 0, 1, True),
        ("LMSW", 1, 9, True),
    ],
)  # fmt: skip
def test_clts_and_lmsw_exit_by_what_the_guest_sees(op, shadow, value, exits):
    h = shared().m["hw"]
    h["cr0_mask"], h["cr0_shadow"] = -1, shadow
    status = check("vmx_cr_exit", 0, 0x7A50 | value, 1, value, op=ops.OPS[op])
    assert bool(status) == exits
    if exits:
        kind, source = {"CLTS": (2, 0), "LMSW": (3, 0x7A50 | value)}[op]
        assert exit_record()["info1"] == kind << 4 | source << 16


# ---------------------------------------------------------------- events


@settings(max_examples=80, deadline=None)
@given(vector=st.integers(0, 31), error=st.integers(0, 31), bitmap=words32,
       mask=st.integers(0, 31), match=st.integers(0, 31))  # fmt: skip
def test_exceptions_exit_by_bitmap_and_page_fault_filter(vector, error, bitmap, mask, match):
    machine = shared()
    h, x = machine.m["hw"], machine.m["exc"]
    h["exc_bitmap"], h["pf_mask"], h["pf_match"] = bitmap, mask, match
    x["vector"], x["error"], x["has_error"], x["kind"] = vector, error, 1, 3
    x["address"], x["injected"] = 0xDEAD000, 0
    fields = {"EXCEPTION_BITMAP": bitmap, "PAGE_FAULT_ERROR_CODE_MASK": mask,
              "PAGE_FAULT_ERROR_CODE_MATCH": match}  # fmt: skip
    status = machine.call("vmx_exception_exit")
    assert (status != 0) == oracle.exception_exits(fields, vector, error)
    if status:
        record = exit_record()
        assert record["intr_info"] == vector | 3 << 8 | 1 << 11 | 1 << 31
        assert record["intr_error"] == error
        assert record["info1"] == (0xDEAD000 if vector in (1, 14) else 0)


def test_an_injected_event_is_not_intercepted_and_int_n_never_is():
    machine = shared()
    machine.m["hw"]["exc_bitmap"] = 0xFFFFFFFF
    x = machine.m["exc"]
    x["vector"], x["kind"], x["injected"] = 3, 3, 1
    assert machine.call("vmx_exception_exit") == layout.ST_OK
    x["injected"], x["kind"] = 0, 4
    assert machine.call("vmx_exception_exit") == layout.ST_OK


def test_a_triple_fault_exits():
    assert shared().call("vmx_shutdown_exit") == layout.ST_VMEXIT
    assert exit_record()["code"] == vmx.EXIT_TRIPLE_FAULT


# ---------------------------------------------------------------- VMX instructions


@pytest.mark.parametrize("name", ["VMXOFF", "VMLAUNCH", "VMRESUME", "VMCALL"])
def test_vmx_instructions_always_exit(name):
    machine = VmxMachine()
    machine.m["cpu"]["cpl"] = 3
    assert machine.execute(name) == layout.ST_VMEXIT
    assert machine.m["exit"]["code"][0] == {
        "VMXOFF": vmx.EXIT_VMOFF, "VMLAUNCH": vmx.EXIT_VMLAUNCH, "VMRESUME": vmx.EXIT_VMRESUME,
        "VMCALL": vmx.EXIT_VMCALL,
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["VMRUN", "VMMCALL", "STGI", "VMFUNC"])
def test_instructions_of_svm_and_vmfunc_are_undefined(name):
    assert shared().execute(name) == layout.ST_FAULT
    assert shared().m["exc"]["vector"][0] == 6


def test_the_instruction_information_describes_the_operands():
    machine = VmxMachine()
    # VMREAD [rbx + rcx*8 + 0x10] through FS, field encoding in RSI
    machine.execute(
        "VMREAD", flags=layout.UF_DST_MEM, src=layout.RSI, base=layout.RBX, index=layout.RCX,
        scale=3, disp=0x10, seg=layout.FS,
    )  # fmt: skip
    record = machine.m["exit"][0]
    expected = 3 | 2 << 7 | 4 << 15 | layout.RCX << 18 | layout.RBX << 23 | layout.RSI << 28
    assert (record["insn_info"], record["info1"]) == (expected, 0x10)
    # VMWRITE rdx, rax
    machine.execute("VMWRITE", dst=layout.RDX, src=layout.RAX)
    assert machine.m["exit"]["insn_info"][0] == 1 << 10 | layout.RAX << 3 | layout.RDX << 28
    # VMPTRLD [rip + 0x20]
    machine.execute("VMPTRLD", flags=layout.UF_SRC_MEM, base=layout.REG_RIP, disp=0x20)
    assert machine.m["exit"]["info1"][0] == int(machine.m["cpu"]["rip"][0]) + 3 + 0x20
