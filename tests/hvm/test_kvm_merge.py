"""vmcb02 and vmcs02 as KVM builds them, against slow readings of the merge tables."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import kvm_merge, svm
from tests.oracle import vmx as oracle
from tests.oracle.svm_machine import VMCB12, SvmMachine
from tests.oracle.vmx_machine import GOOD_VMCS12
from workbench.arch import deviations
from workbench.core import layout
from workbench.core.hvm import memory_map

from .test_vmx_kvm import KvmMachine

VMCB01, VMCB02 = memory_map.VMCX01_MA, memory_map.VMCX02_MA
FREE = (
    "rip", "rsp", "rax", "cr2", "tsc_offset", "es", "ds", "gdtr", "idtr", "br_from", "br_to",
    "last_excp_from", "last_excp_to", "next_rip", "int_state", "int_vector", "exit_info_1",
    "exit_info_2", "pause_filter_thresh", "pause_filter_count",
)  # fmt: skip
KVM_SVM = deviations.word(deviations.of("kvm", "svm"))
words32 = st.integers(0, 0xFFFFFFFF)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), clean=st.integers(0, 0xFFF), same=st.booleans(),
       virtual_gif=st.booleans(), vls=st.booleans(), nested=st.booleans(),
       virt_ext=st.integers(0, 3), l1_if=st.booleans(), dr7=words32)  # fmt: skip
def test_vmcb02_is_what_the_table_says(
    seed, clean, same, virtual_gif, vls, nested, virt_ext, l1_if, dr7
):
    machine = SvmMachine(
        l0=layout.L0_KVM, deviations=KVM_SVM, virtual_gif=int(virtual_gif),
        virtual_vmload_vmsave=int(vls), vmcb_clean_bits=1,
    )  # fmt: skip
    page, stale = random_vmcb12(machine, seed)
    svm.put(page, "clean", clean)
    svm.put(page, "nested_ctl", int(nested))
    svm.put(page, "virt_ext", virt_ext)
    svm.put(page, "dr7", dr7)
    svm.put(stale, "dr7", dr7)
    machine.write(VMCB02, bytes(stale))
    machine.m["cpu"]["sysflags"] = 2 | l1_if << 9
    machine.state["hsave_pa"] = 0x5000
    machine.state["last_vmcx12_addr"] = VMCB12 if same else -1
    assert machine.start_vmrun(page) == layout.ST_OK
    made = bytearray(machine.page(VMCB02))
    expected = kvm_merge.merge_vmcb02(
        machine.page(VMCB01), page, bytes(stale), same, virtual_gif, vls
    )
    for name in ("msrpm_base_pa", "iopm_base_pa", "nested_cr3", *kvm_merge.EXIT_FIELDS):
        svm.put(expected, name, svm.get(made, name))
    wrong = [
        (name, hex(svm.get(made, name)), hex(svm.get(expected, name)))
        for name in svm.VMCB_FIELDS
        if svm.get(made, name) != svm.get(expected, name)
    ]
    assert not wrong
    assert made[:0x700] == expected[:0x700]


def random_vmcb12(machine: SvmMachine, seed: int) -> tuple[bytearray, bytearray]:
    """A legal vmcb12, and what vmcb02 holds of an earlier, equally legal one."""
    random = np.random.default_rng(seed)
    page = machine.good_vmcb12()
    for name in FREE:
        size = svm.VMCB_FIELDS[name][1]
        svm.put(page, name, int.from_bytes(random.bytes(size), "little"))
    for word in range(6):
        value = int(random.integers(0, 1 << 32)) | (1 if word == 4 else 0)
        svm.put(page, f"intercept_word{word}", value)
    svm.put(page, "int_ctl", int(random.integers(0, 1 << 32)) & 0x031F011F)
    stale = bytearray(machine.page(VMCB02)[:0x400] + random.bytes(0x300) + bytes(0x900))
    for name in ("cs", "dr6", "dr7", "g_pat"):  # what L1 calls unchanged was sound before
        svm.put(stale, name, svm.get(page, name))
    return page, stale


# ---------------------------------------------------------------- VMX

CONTROLS = (
    "PIN_BASED_VM_EXEC_CONTROL", "CPU_BASED_VM_EXEC_CONTROL", "SECONDARY_VM_EXEC_CONTROL",
    "VM_EXIT_CONTROLS", "VM_ENTRY_CONTROLS", "EXCEPTION_BITMAP",
)  # fmt: skip


@functools.cache
def vmx_machine() -> KvmMachine:
    made = KvmMachine()
    made.enter_vmx_operation()
    made.fill_vmcs12()
    return made


@settings(max_examples=150, deadline=None)
@given(l1=st.fixed_dictionaries({name: words32 for name in CONTROLS}))
def test_controls_of_vmcs02_are_what_the_table_says(l1):
    """Whatever the words of vmcs12, also those that the checks before would refuse."""
    made = vmx_machine()
    for name, value in {**GOOD_VMCS12, **l1}.items():
        made.put(12, name, value)
    l0 = {name: made.get(1, name) for name in CONTROLS}
    made.state["n2_guest"] = made.state["vmexit_pending"] = 0
    made.call("vmx_enter_n2")
    expected = oracle.kvm_merged_controls(l0, oracle.without_apic_virtualization(l1))
    assert {name: made.get(2, name) for name in expected} == expected
