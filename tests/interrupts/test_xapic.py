"""The local APIC's page: on the bare machine, for L1 as L0 emulates it, and what its registers do."""

from __future__ import annotations

import struct

import pytest

from workbench.core import layout as lay
from workbench.scenario import Scenario
from workbench.simulate import Run

from ..cpu.bare import TABLES, Bare
from .programs import bare_program, taken

ON = """
        mov ebp, 0xfee00000
        mov dword ptr [rbp + APIC_SVR], 0x1ff
        mov dword ptr [rbp + APIC_DIVIDE], DIVIDE_BY_1
"""
EOI_BY_PAGE = "        mov dword ptr [rbp + APIC_EOI], 0\n"


def map_page(machine: Bare) -> None:
    """Identity-map the large page that holds the local APIC's page."""
    pdpt, directory = TABLES + 0x1000, TABLES + 0x8000
    machine.write(pdpt + 3 * 8, struct.pack("<Q", directory | 7))
    entry = directory + (0xFEE00000 >> 21 & 511) * 8
    machine.write(entry, struct.pack("<Q", 0xFEE00000 | 0xE7))


def run(body: str, steps: int = 200_000) -> Bare:
    """A bare program in xAPIC mode: handlers and body use the page at RBP."""
    machine = bare_program(
        ON + body,
        ("        APIC_ON\n", ""),
        ("        WRITE_MSR X2APIC_EOI, 0\n", EOI_BY_PAGE),
    )
    map_page(machine)
    assert machine.run(steps) == lay.ST_HALT
    return machine


def test_timer_and_end_of_interrupt_through_the_page():
    machine = run(
        """
        mov dword ptr [rbp + APIC_LVT_TIMER], 0x40 | LVT_PERIODIC
        mov dword ptr [rbp + APIC_INITIAL_COUNT], 10000
        sti
        mov r8d, 5
1:      hlt
        dec r8d
        jnz 1b
        cli
        """
    )
    assert taken(machine) == (0, 5, 0)
    assert 50_000 <= float(machine.record["ledger"]["time"][0]) / 1024 <= 50_300


def test_every_form_of_mov_reaches_the_registers():
    machine = run(
        """
        mov r8d, [rbp + APIC_VERSION]
        mov r9, [rbp + APIC_VERSION]
        movzx r10d, byte ptr [rbp + APIC_VERSION + 2]
        movzx r11d, word ptr [rbp + APIC_VERSION]
        movsx r12, byte ptr [rbp + APIC_SVR]
        mov eax, 0x50
        mov [rbp + APIC_TPR], eax
        mov r13, cr8
        mov rdx, -1
        mov dl, [rbp + APIC_TPR]
        mov bx, [rbp + APIC_TPR]
        movabs eax, [0xfee00080]
        mov r14d, [rbp + APIC_TPR + 4]
        """
    )
    get = machine.get
    assert (get(8), get(9), get(10), get(11)) == (0x50014, 0x50014, 5, 0x14)
    assert get(12) == (1 << 64) - 1 and get(13) == 5 and get(14) == 0
    assert get(lay.RDX) == (1 << 64) - 256 + 0x50 and get(lay.RBX) & 0xFFFF == 0x50
    assert get(lay.RAX) == 0x50


def test_interrupt_command_in_two_halves():
    machine = run(
        """
        sti
        mov dword ptr [rbp + APIC_ICR_HIGH], 1 << 24        # another processor
        mov dword ptr [rbp + APIC_ICR], 0x60
        mov dword ptr [rbp + APIC_ICR_HIGH], 0
        mov dword ptr [rbp + APIC_ICR], 0x60
        nop
        mov dword ptr [rbp + APIC_LDR], 2 << 24             # logical: member 1 of a flat cluster
        mov dword ptr [rbp + APIC_ICR_HIGH], 2 << 24
        mov dword ptr [rbp + APIC_ICR], 0x860
        mov r8d, [rbp + APIC_ICR_HIGH]
        cli
        """
    )
    assert taken(machine) == (0, 0, 2)
    assert machine.get(8) == 2 << 24


def test_what_waits_and_what_is_in_service_can_be_read():
    machine = run(
        """
        mov dword ptr [rbp + APIC_ICR], 0x40060             # to self
        mov r8d, [rbp + APIC_IRR + 0x30]
        mov r9d, [rbp + APIC_ISR + 0x30]
        mov r10d, [rbp + APIC_PPR]
        """
    )
    assert (machine.get(8), machine.get(9), machine.get(10)) == (1, 0, 0)


def test_errors_are_collected_until_they_are_latched():
    machine = run(
        """
        mov dword ptr [rbp + APIC_LVT_ERROR], 0x60
        mov dword ptr [rbp + APIC_ICR], 0x40005             # vector 5 is illegal
        mov r8d, [rbp + APIC_ESR]                           # not latched yet
        mov eax, [rbp + 0x3f0]                              # no such register
        mov dword ptr [rbp + APIC_ESR], 0
        mov r9d, [rbp + APIC_ESR]
        mov dword ptr [rbp + APIC_ESR], 0
        mov r10d, [rbp + APIC_ESR]
        sti
        nop
        nop
        cli
        """
    )
    assert (machine.get(8), machine.get(9), machine.get(10)) == (0, 0xA0, 0)
    assert taken(machine) == (0, 0, 1)  # requested twice before it was taken


def test_a_timer_with_an_illegal_vector_is_an_error():
    machine = run(
        """
        mov dword ptr [rbp + APIC_LVT_TIMER], 8
        mov dword ptr [rbp + APIC_INITIAL_COUNT], 100
        mov ecx, 1000
1:      dec ecx
        jnz 1b
        mov dword ptr [rbp + APIC_ESR], 0
        mov r8d, [rbp + APIC_ESR]
        """
    )
    assert machine.get(8) == 0x40


def test_switching_off_by_software_masks_the_vector_table():
    machine = run(
        """
        mov dword ptr [rbp + APIC_LVT_TIMER], 0x40
        mov dword ptr [rbp + APIC_SVR], 0xff
        mov r8d, [rbp + APIC_LVT_TIMER]
        mov dword ptr [rbp + APIC_LVT_TIMER], 0x41
        mov r9d, [rbp + APIC_LVT_TIMER]
        mov dword ptr [rbp + APIC_SVR], 0x1ff
        mov r10d, [rbp + APIC_LVT_TIMER]
        """
    )
    assert [machine.get(r) for r in (8, 9, 10)] == [0x10040, 0x10041, 0x10041]


def test_current_count_does_not_depend_on_how_the_run_is_cut():
    body = """
        mov dword ptr [rbp + APIC_LVT_TIMER], 0x40 | LVT_MASKED
        mov dword ptr [rbp + APIC_INITIAL_COUNT], 5000
        mov ecx, 300
1:      dec ecx
        jnz 1b
        mov r8d, [rbp + APIC_CURRENT_COUNT]
        hlt
    """
    found = set()
    for steps in (3, 50, 1 << 20):
        machine = bare_program(ON + body, ("        APIC_ON\n", ""))
        map_page(machine)
        while machine.run(steps) == lay.ST_OK:
            pass
        found.add(machine.get(8))
    assert len(found) == 1 and 4_300 < found.pop() < 4_400


def test_an_instruction_that_is_not_known_gets_ud_and_is_named():
    machine = bare_program(ON + "xchg eax, [rbp + APIC_TPR]\n", ("        APIC_ON\n", ""))
    map_page(machine)
    assert machine.run(1000) == lay.ST_SHUTDOWN  # it has no handler for #UD
    assert int(machine.record["unknown_count"][0]) == 1


@pytest.mark.parametrize(("before", "after"), [(0xD00, 0x900), (0x900, 0x400), (0, 0xC00)])
def test_forbidden_changes_of_mode(before, after):
    machine = Bare()
    machine.halt_handlers()
    machine.set(lay.RSP, 0x300000)
    machine.cpu["apic_base"] = 0xFEE00000 | before
    machine.set(lay.RCX, 0x1B)
    machine.set(lay.RAX, 0xFEE00000 | after)
    machine.set(lay.RDX, 0)
    assert machine.execute(b"\x0f\x30") == lay.ST_HALT
    assert machine.vector_taken() == 13
    assert int(machine.cpu["apic_base"][0]) == 0xFEE00000 | before


# ---------------------------------------------------------------- L1

PAGE_L1 = """# @title Use the local APIC through its page: ten ticks and a priority
# @backend {backend}
.intel_syntax noprefix
.include "l1.inc"
.include "apic.inc"
        .text
        .globl _start
_start:
        lidt    [idt_pointer]
        GATE    idt, 0x40, on_timer
        mov     ebp, XAPIC
        WRITE_XAPIC rbp, APIC_SVR, SVR_ENABLE
        WRITE_XAPIC rbp, APIC_DIVIDE, DIVIDE_BY_1
        WRITE_XAPIC rbp, APIC_TPR, 0x20
        mov     rax, cr8
        cmp     eax, 2
        jne     wrong
        WRITE_XAPIC rbp, APIC_LVT_TIMER, 0x40 | LVT_PERIODIC
        WRITE_XAPIC rbp, APIC_INITIAL_COUNT, 200000
        mov     ebx, 10
        sti
again:  hlt
        dec     ebx
        jnz     again
        cli
        mov     eax, [rbp + APIC_VERSION]
        cmp     eax, 0x50014
        jne     wrong
        xor     eax, eax
        out     PORT_EXIT, al
wrong:  mov     al, 1
        out     PORT_EXIT, al
on_timer:
        WRITE_XAPIC rbp, APIC_EOI, 0
        iretq
        .data
idt_pointer: .word 0xfff
        .quad   idt
        .bss
        .balign 16
idt:    .skip   0x1000
"""
FAULT = {"svm": "NPF", "vmx": "EPT_VIOLATION"}


def run_l1(tmp_path, backend: str, text: str):
    path = tmp_path / "page.S"
    path.write_text(text.format(backend=backend))
    scenario = Scenario(backend=backend, l1=str(path), l2="compute", max_instructions=200_000)
    running = Run(scenario)
    while running.advance():
        pass
    return running.result()


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_l0_emulates_the_page_for_l1(tmp_path, backend):
    result = run_l1(tmp_path, backend, PAGE_L1)
    assert (result.status, result.stop_code) == ("stopped", 0)
    faults = result.exits.query(f"exit == '{FAULT[backend]}' and from_level == 'L1'")
    # set-up 5, version 1, one end of interrupt per tick
    assert int(faults["count"].sum()) == 6 + 10
    assert int(result.raw.delivered[1, 0]) == 10


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_an_access_that_l0_cannot_emulate_ends_the_run_in_order(tmp_path, backend):
    text = PAGE_L1.replace("mov     ebx, 10\n", "xchg    eax, [rbp + APIC_TPR]\n")
    result = run_l1(tmp_path, backend, text)
    assert result.status == "fatal"


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_without_xapic_mode_there_is_no_page(tmp_path, backend):
    text = PAGE_L1.replace("mov     ebp, XAPIC\n", "APIC_ON\n        mov     ebp, XAPIC\n")
    assert run_l1(tmp_path, backend, text).status == "fatal"
