"""L1 ``minimal`` of both back-ends, handler by handler, against a scripted processor (unicorn)."""

from __future__ import annotations

import itertools

import pytest
from unicorn_machine import ScriptedHardware, faults_in_turn

from workbench.arch import svm, vmcb, vmcs, vmx
from workbench.guests.catalogue import find, param_page, validate_params

L2_MEMORY = 0x40000000
L2_ENTRY = 0x100000
TRAPPING = {"clgi", "stgi", "vmload", "vmsave", "vmrun", "vmread", "vmwrite", "vmresume"}

pytestmark = pytest.mark.parametrize("backend", ["svm", "vmx"])


def run(backend: str, *script, shift: int = 12, **params: int) -> ScriptedHardware:
    guest = find(1, "minimal", backend)
    reserved = {0: L2_ENTRY, 1: 0x10000, 2: 0x90000, 3: L2_MEMORY, 4: 16 << 20, 5: shift, 6: 1}
    page = param_page(guest, validate_params(guest, params), reserved)
    return ScriptedHardware(backend, guest.image(), page, script).run()


def finish(hw: ScriptedHardware) -> None:
    hw.exit_hlt()


def test_set_up_gives_l2_what_the_boot_abi_promises(backend):
    seen = {}

    def look(hw):
        if backend == "svm":
            word = hw.machine.word
            seen.update(rip=hw.rip, rsp=word(hw.vmcb + vmcb.RSP), cr3=word(hw.vmcb + vmcb.CR3))
            assert word(hw.vmcb + vmcb.NESTED_CR3) == hw.nested_root
            assert word(hw.vmcb + vmcb.EFER) & 0x1500 == 0x1500
            assert hw.msrs[0xC0000080] & 0x1000 and hw.msrs[0xC0010117] % 4096 == 0
        else:
            f = hw.fields
            seen.update(rip=hw.rip, rsp=f[vmcs.GUEST_RSP], cr3=f[vmcs.GUEST_CR3])
            assert f[vmcs.EPT_POINTER] == hw.nested_root | 0x1E
            assert f[vmcs.VIRTUAL_PROCESSOR_ID] == 1
            assert f[vmcs.CPU_BASED_VM_EXEC_CONTROL] & vmx.CPU_HLT_EXITING
            assert not f[vmcs.CPU_BASED_VM_EXEC_CONTROL] & vmx.CPU_CR3_LOAD_EXITING
            assert f[vmcs.HOST_RSP] == 0x90000
            assert hw.msrs[0x3A] == 5
        finish(hw)

    assert run(backend, look).result == 0
    assert seen == {"rip": L2_ENTRY, "rsp": 0x90000, "cr3": 0x10000}


def test_cpuid_leaf_0_names_the_vendor_and_moves_on(backend):
    def check(hw):
        assert (hw.rax, hw.rip) == (1, hw.L2_RIP + 2)
        vendor = b"".join(hw[r].to_bytes(4, "little") for r in ("rbx", "rdx", "rcx"))
        assert vendor == b"WorkbenchL2 "
        hw.exit_cpuid(0x80000000)

    def check_unknown(hw):
        assert [hw.rax, hw["rbx"], hw["rcx"], hw["rdx"]] == [0, 0, 0, 0]
        finish(hw)

    assert run(backend, lambda hw: hw.exit_cpuid(0), check, check_unknown).result == 0


def test_instructions_that_trap_per_cpuid_are_those_of_the_listing(backend):
    marks = []

    def next_cpuid(hw):
        marks.append(len(hw.traps))
        if len(marks) > 4:
            finish(hw)
        else:
            hw.exit_cpuid(1)

    hw = run(backend, *[next_cpuid] * 5)
    loop = "resume" if backend == "svm" else "after_l2"
    listing = hw.machine.image.listing_between(loop, "handle_cpuid_end")
    expected = [line.mnemonic for line in listing if line.mnemonic in TRAPPING]
    assert len(expected) == 5
    assert {b - a for a, b in itertools.pairwise(marks[1:])} == {5}
    assert sorted(hw.traps[marks[1] : marks[2]]) == sorted(expected)


def test_msr_known_keeps_what_is_written_and_unknown_reads_zero(backend):
    value = 0x1122334455667788

    def check_read(hw):
        assert (hw.rax, hw["rdx"], hw["rcx"], hw["rbx"]) == (0x55667788, 0x11223344, 0x4B564D00, 77)
        hw.exit_wrmsr(0x999, 5)

    def check_unknown_write(hw):
        assert hw.rip == hw.L2_RIP + 2
        hw.exit_rdmsr(0x999)

    def check_unknown_read(hw):
        assert (hw.rax, hw["rdx"]) == (0, 0)
        finish(hw)

    steps = (lambda hw: hw.exit_wrmsr(0x4B564D00, value), lambda hw: hw.exit_rdmsr(0x4B564D00),
             check_read, check_unknown_write, check_unknown_read)  # fmt: skip
    assert run(backend, *steps).result == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 0x11223344556677FF), (2, 0x112233445566FFFF), (4, 0xFFFFFFFF)],
)
def test_port_input_reads_all_ones(backend, size, expected):
    def check(hw):
        assert (hw.rax, hw.rip) == (expected, hw.L2_RIP + 1)
        assert (hw["rbx"], hw["rcx"], hw["rdx"]) == (77, 8, 0x70)
        finish(hw)

    def start(hw):
        return hw.exit_io(0x70, size, True, 0x1122334455667788)

    assert run(backend, start, check).result == 0


def test_serial_output_of_l2_is_passed_on_and_other_output_ignored(backend):
    hw = run(
        backend,
        lambda hw: hw.exit_io(0x3F8, 1, False, ord("A")),
        lambda hw: hw.exit_io(0x70, 1, False, ord("B")),
        finish,
    )
    assert (hw.serial, hw.result) == (b"A", 0)


def test_hypercalls(backend):
    returned = []

    def then(number, argument=0):
        def step(hw):
            returned.append(hw.rax)
            hw.exit_hypercall(number, argument)

        return step

    def last(hw):
        returned.append(hw.rax)
        finish(hw)

    hw = run(backend, lambda hw: hw.exit_hypercall(0), then(1, ord("x")), then(7), last)
    assert returned == [0, 0, (1 << 64) - 1]
    assert hw.serial == b"x"


@pytest.mark.parametrize("shift", [12, 21, 30])
def test_nested_page_fault_maps_a_page_of_the_chosen_size(backend, shift):
    n2p = 0x654321

    def check(hw):
        assert hw.rip == hw.L2_RIP
        assert [hw[r] for r in ("rbx", "rcx", "rdx", "rsi", "rdi")] == [100, 101, 102, 103, 104]
        assert hw.rax == 99
        assert hw.translate(n2p) == L2_MEMORY + n2p
        beyond = (n2p | (1 << shift) - 1) + 1
        assert hw.translate(beyond) is None
        finish(hw)

    assert run(backend, lambda hw: hw.exit_nested_fault(n2p), check, shift=shift).result == 0


def test_nested_page_fault_outside_of_memory_ends_the_run(backend):
    hw = run(backend, lambda hw: hw.exit_nested_fault(1 << 30))
    assert hw.result == 3
    assert hw["rbx"] == (svm.VMEXIT_NPF if backend == "svm" else vmx.EXIT_EPT_VIOLATION)


def test_pages_are_taken_away_after_the_period(backend):
    pages = [0x200000 + 0x1000 * i for i in range(5)]
    mapped, steps = faults_in_turn(pages, finish)
    hw = run(backend, *steps, unmap_period=4, unmap_pages=2)
    # at the fourth exit the last two go, then that exit's own page comes
    assert mapped[4] == [True, False, False, True, False]
    if backend == "svm":
        assert hw.invalidations == [(pages[2], 1), (pages[1], 1)]
    else:
        assert hw.invalidations == [(hw.nested_root | 0x1E, 1)] * 2
    assert hw.result == 0


def test_one_flush_per_period(backend):
    pages = [0x200000 + 0x1000 * i for i in range(8)]
    orders = []

    def step(n2p):
        def enter(hw):
            if backend == "svm":
                orders.append(hw.machine.uc.mem_read(hw.vmcb + vmcb.TLB_CTL, 1)[0])
                hw.machine.set_word(hw.vmcb + vmcb.TLB_CTL, 0, 1)  # as Xen does at a virtual exit
            hw.exit_nested_fault(n2p)

        return enter

    hw = run(backend, *[step(p) for p in pages], finish, unmap_period=3)
    if backend == "svm":
        assert orders == [0, 0, 0, 3, 0, 0, 3, 0]
    assert len(hw.invalidations) == 3  # after exits 3, 6 and 9, the HLT


def test_results(backend):
    hw = run(backend, lambda hw: hw.exit_hlt(0x1234))
    assert (hw.result, hw["rbx"]) == (0, 0x1234)
    assert run(backend, lambda hw: hw.exit_shutdown()).result == 2
    hw = run(backend, lambda hw: hw.exit_other())
    assert (hw.result, hw["rbx"]) == (3, svm.VMEXIT_RDTSC if backend == "svm" else vmx.EXIT_RDTSC)
    hw = run(backend, lambda hw: hw.exit_io(0x70, 1, True, 0, string=True))
    assert hw.result == 3


def test_hot_path_is_short(backend):
    guest = find(1, "minimal", backend)
    loop = "resume" if backend == "svm" else "after_l2"
    assert len(guest.image().listing_between(loop, "handle_cpuid_end")) <= 27
