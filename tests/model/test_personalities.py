"""L0 as Xen, as KVM, and without deviations: what changes in the counts, and what does not."""

from __future__ import annotations

import pytest

from tests.model.runs import BACKENDS, L2_PROGRAMS, count, simulated
from workbench.core.hvm.svm.maps import KVM_MERGED_WORDS
from workbench.personality import L0S


def run(backend: str, l0: str, l2: str = "cpuid", **given):
    return simulated(backend, l2, numbers={"l0": l0, **given.pop("numbers", {})}, **given)


def exits(result, name: str, **where: str) -> int:
    table = result.exits
    rows = table[table.exit == name]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return int(rows["count"].sum())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l2", L2_PROGRAMS)
def test_l2_and_l1_execute_the_same_instructions_under_every_l0(backend, l2):
    runs = [run(backend, l0, l2) for l0 in L0S]
    assert len({(r.facts["l2_instructions"], r.facts["virtual_entries"]) for r in runs}) == 1
    xen, kvm, manual = (r.facts["l1_instructions"] for r in runs)
    assert xen == manual
    assert abs(kvm - xen) <= 1, "L1 reads other capabilities"


@pytest.mark.parametrize("backend", BACKENDS)
def test_xen_is_the_default(backend):
    assert simulated(backend, "mixed").fingerprint() == run(backend, "xen", "mixed").fingerprint()


@pytest.mark.parametrize("backend", BACKENDS)
def test_personalities_differ_in_what_they_cost(backend):
    prints = {run(backend, l0, "mixed").fingerprint() for l0 in L0S}
    assert len(prints) == 3 if backend == "svm" else len(prints) >= 2


# ---------------------------------------------------------------- KVM on SVM


def test_kvm_merges_a_few_words_of_the_msr_map_where_xen_merges_all_of_it():
    for l0, size in (("xen", 8192), ("kvm", 4 * KVM_MERGED_WORDS)):
        result = run("svm", l0)
        assert count(result, "L0_MAP_BYTE_MERGED") == size * result.facts["virtual_entries"]


def test_kvm_moves_segments_and_system_call_msrs_at_every_hardware_exit():
    kvm, xen = run("svm", "kvm"), run("svm", "xen")
    hardware = count(kvm, "HW_EXIT")
    of_l1 = {name: exits(kvm, name, from_level="L1") for name in ("VMLOAD", "VMSAVE")}
    assert count(kvm, "L0_VMLOAD") == 2 * hardware + of_l1["VMLOAD"]
    assert count(kvm, "L0_VMSAVE") == hardware + of_l1["VMSAVE"]
    assert count(xen, "L0_VMSAVE") == xen.facts["virtual_exits"] + of_l1["VMSAVE"]


def test_every_port_of_l2_exits_under_kvm():
    given = {"l2_params": {"iterations": 50, "port": 0x80}}  # L1 lets this port pass
    xen, kvm = (run("svm", l0, "pio", **given) for l0 in ("xen", "kvm"))
    assert exits(kvm, "IOIO", handled_by="L0") == 50 + exits(xen, "IOIO", handled_by="L0")
    assert exits(kvm, "IOIO", handled_by="L1") == exits(xen, "IOIO", handled_by="L1")


# ---------------------------------------------------------------- KVM on VMX


def test_without_shadowing_kvm_switches_vmcs_by_one_vmptrld_each_way():
    kvm, xen = run("vmx", "kvm"), run("vmx", "xen")
    switches = kvm.facts["virtual_entries"] + kvm.facts["virtual_exits"]
    assert count(kvm, "L0_VMCLEAR") == 1, "the one of VMXON"
    assert count(kvm, "L0_VMPTRLD") - switches <= 8, "those of VMXON and of rarely moved fields"
    assert count(xen, "L0_VMCLEAR") >= switches


def test_kvm_moves_less_than_xen_at_each_entry_and_exit():
    kvm, xen = run("vmx", "kvm"), run("vmx", "xen")
    for event in ("L0_VMREAD", "L0_VMWRITE", "L0_BYTE_COPIED"):
        assert count(kvm, event, "CPUID") < 0.8 * count(xen, event, "CPUID"), event
    assert count(kvm, "L0_MAP_BYTE_MERGED") < count(xen, "L0_MAP_BYTE_MERGED") / 100


def test_kvm_copies_its_shadow_vmcs_once_each_way_per_l2_exit():
    plain = run("vmx", "kvm")
    shadowed = run("vmx", "kvm", vmcs_shadowing=True)
    rounds = shadowed.facts["virtual_exits"]
    clears = count(shadowed, "L0_VMCLEAR") - count(plain, "L0_VMCLEAR")
    assert clears in range(2 * rounds, 2 * rounds + 4)
    reads = count(shadowed, "L0_VMREAD", "CPUID") - count(plain, "L0_VMREAD", "CPUID")
    assert abs(reads) > 0


@pytest.mark.parametrize("l2", ["cpuid", "mixed", "ctxsw"])
def test_shadowing_leaves_the_same_l2_under_kvm(l2):
    plain, shadowed = (run("vmx", "kvm", l2, vmcs_shadowing=on) for on in (False, True))
    assert plain.facts["l2_instructions"] == shadowed.facts["l2_instructions"]
    assert count(shadowed, "HW_EXIT") < count(plain, "HW_EXIT")
