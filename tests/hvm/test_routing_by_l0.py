"""Routing under each L0 and any set of deviations, against the oracle."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import routing as oracle
from tests.oracle.svm_machine import IOPM12, MSRPM12, VMCB12, SvmMachine
from tests.oracle.vmx_machine import VmxMachine
from workbench.arch import deviations, vmx
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.svm import tables as svm_tables
from workbench.core.hvm.vmx import route as vmx_route
from workbench.personality import L0S

from .test_svm_maps import MSRS, random_map
from .test_svm_route import CODES, NAMES
from .test_vmx_route import REASONS

SVM_ROUTING = ("undecoded_exit_stops_host", "vmmcall_always_to_l1")
VMX_ROUTING = ("unlisted_reason_ends_domain", "wbinvd_kept_by_l0", "mov_dr_after_l0",
               "software_exceptions_kept_by_l0")  # fmt: skip
words32 = st.integers(0, 0xFFFFFFFF)


@functools.cache
def svm_machine(l0: str, on: tuple[str, ...]) -> SvmMachine:
    """L0 as ``l0`` with the deviations ``on``; CR0 writes by the selective intercept left out."""
    made = SvmMachine(l0=L0S.index(l0), deviations=deviations.word([*on, "cr0_sel_write_missed"]))
    for name, value in (("vmcx12", layout.L1_BANK_MA + VMCB12), ("iopm", IOPM12)):
        made.state[name] = value
    return made


@settings(max_examples=600, deadline=None)
@given(
    l0=st.sampled_from(L0S),
    on=st.sets(st.sampled_from(SVM_ROUTING)).map(lambda s: tuple(sorted(s))),
    name=st.one_of(st.sampled_from(NAMES), st.sampled_from(["MSR", "IOIO", "VMMCALL", "EXCP_UD"])),
    words=st.lists(words32, min_size=5, max_size=5),
    hap=st.booleans(), msr=MSRS, write=st.booleans(), port=st.integers(0, 0xFFFF),
    lg=st.integers(0, 2), seed=st.integers(0, 2),
)  # fmt: skip
def test_svm_routing(l0, on, name, words, hap, msr, write, port, lg, seed):
    machine = svm_machine(l0, on)
    msrpm, iopm = random_map(seed, 0x2000), bytes(x & 0x11 for x in random_map(seed + 5, 0x3000))
    machine.write(machine.l1(MSRPM12), msrpm)
    machine.give_msr_map(MSRPM12)
    machine.write(machine.l1(IOPM12), iopm)
    machine.set_intercepts(*words)
    machine.state["hap_enabled"] = hap
    m = machine.m
    m["cpu"]["gpr"][0][layout.RCX] = msr
    info1 = int(write) if name == "MSR" else 16 << lg | port << 16 if name == "IOIO" else 0
    m["exit"]["code"], m["exit"]["info1"] = CODES[name], info1
    own = machine.field(memory_map.VMCX01_MA, "intercept_word2")
    expected = oracle.svm_exit_is_for_l1(
        l0, on, name, [*words, 0], own, hap, (msrpm, msr, write), (iopm, port, 1 << lg)
    )
    assert machine.call("svm_route") == expected


@functools.cache
def vmx_machine(l0: str, on: tuple[str, ...]) -> VmxMachine:
    made = VmxMachine(l0=L0S.index(l0), deviations=deviations.word(on))
    made.enter_vmx_operation()
    made.state["n2_guest"] = 1
    return made


@settings(max_examples=600, deadline=None)
@given(
    l0=st.sampled_from(["xen", "manual"]),
    on=st.sets(st.sampled_from(VMX_ROUTING)).map(lambda s: tuple(sorted(s))),
    name=st.one_of(st.sampled_from(sorted(REASONS)), st.sampled_from(["EXCEPTION_NMI", "WBINVD"])),
    pin=words32, cpu=words32, sec=words32, bitmap=words32, vector=st.integers(0, 31),
    kind=st.sampled_from([0, 2, 3, 5, 6]), dirty=st.booleans(),
)  # fmt: skip
def test_vmx_routing(l0, on, name, pin, cpu, sec, bitmap, vector, kind, dirty):
    if name in ("CR_ACCESS", "IO_INSTRUCTION", "MSR_READ", "MSR_WRITE", "VMREAD", "VMWRITE"):
        return  # L1's bitmaps and registers decide
    made = vmx_machine(l0, on)
    fields = {"PIN_BASED_VM_EXEC_CONTROL": pin, "CPU_BASED_VM_EXEC_CONTROL": cpu,
              "SECONDARY_VM_EXEC_CONTROL": sec, "EXCEPTION_BITMAP": bitmap}  # fmt: skip
    for field, value in fields.items():
        made.put(12, field, value)
    made.put(1, "CPU_BASED_VM_EXEC_CONTROL", 0 if dirty else vmx.CPU_MOV_DR_EXITING)
    info = vector | kind << 8 | 1 << 31
    made.m["exit"]["code"], made.m["exit"]["intr_info"] = REASONS[name], info
    expected = oracle.vmx_exit_is_for_l1(on, name, fields, info, dirty)
    assert (made.call("vmx_route") == 1) == expected


def test_kvm_on_vmx_gives_l1_what_the_manual_gives_it():
    """But for VM functions, which it would do itself, nothing is decided otherwise."""
    n = vmx_route.N_REASONS
    kvm, manual = (vmx_route.KIND[k * n : (k + 1) * n] for k in (layout.L0_KVM, layout.L0_MANUAL))
    assert (kvm == manual).all()


@pytest.mark.parametrize("text", ["L1 on Sundays", "L1 if it rains"])
def test_an_unknown_text_is_refused(text):
    with pytest.raises(ValueError, match="unknown routing"):
        vmx_route.parse_kind("CPUID", text)
    with pytest.raises(ValueError, match="no routing rule"):
        svm_tables.parse_route(text)
