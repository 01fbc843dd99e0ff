"""L2 programs of random page-table edits and accesses: the same in every paging mode.

Each program edits the entries of a window of four small pages and one large one, at all levels, with
the invalidation that the architecture asks for, and reads and writes there.  Its #PF handler logs
error code and address and repairs the tables.  What it has logged, and all of its memory with every
accessed and dirty bit, must not depend on who shadows what.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.model.runs import BACKENDS
from tests.model.test_paging import SHADOWING, assert_same, outcome
from workbench.guests.catalogue import find

PAGES = 4
OPERATIONS = 120
FLAGS = [0, 1, 3, 7, 0x23, 0x63, 0x61, 0x67, 0x21, 3 | 1 << 63, 1 | 1 << 45]
"""Not present, read-only, writable, open to ring 3, with accessed and dirty bits, NX, reserved."""

HEAD = """.intel_syntax noprefix
.include "l2.inc"
.set T, 0x400000
.set V, 0x80000000
.set DATA, 0x410000
.set LARGE, 0x600000
        .text
        .globl _start
_start:
        mov ebp, offset log
        mov eax, offset on_page_fault
        mov edi, offset idt + 14*16
        mov [rdi], ax
        mov word ptr [rdi + 2], 8
        mov word ptr [rdi + 4], 0x8e00
        shr eax, 16
        mov [rdi + 6], ax
        lidt [pointer]
        mov rbx, cr3
        and rbx, -4096
        mov rbx, [rbx]
        and rbx, -4096
        mov rbx, [rbx]
        mov edi, T
        call make_space
        mov edi, T + 0x8000
        call make_space
        mov eax, T
        mov cr3, rax
"""

TAIL = """
        mov eax, T
        mov cr3, rax
        xor eax, eax
        mov ecx, offset log
sum:    add rax, [rcx]
        rol rax, 1
        add ecx, 8
        cmp rcx, rbp
        jb sum
        FINISH

# Both levels of the window, in both spaces, as they should be.
on_page_fault:
        push rax
        push rbx
        push rcx
        mov rax, [rsp + 24]
        mov [rbp], rax
        mov rax, cr2
        mov [rbp + 8], rax
        add rbp, 16
        mov rbx, cr3
        and rbx, -4096
        lea rcx, [rbx + 0x3000 + 7]
        mov [rbx + 0x2000], rcx
        mov qword ptr [rbx + 0x2008], LARGE + 0x87
        mov rcx, rax
        shr rcx, 12
        and ecx, 3
        mov eax, ecx
        shl eax, 12
        add eax, DATA + 7
        mov [rbx + rcx*8 + 0x3000], rax
        mov rcx, cr3
        mov cr3, rcx
        pop rcx
        pop rbx
        pop rax
        add rsp, 8
        iretq

make_space:
        lea rax, [rdi + 0x1007]
        mov [rdi], rax
        mov [rdi + 0x1000], rbx
        add rax, 0x1000
        mov [rdi + 0x1010], rax
        add rax, 0x1000
        mov [rdi + 0x2000], rax
        ret
log_rax:
        mov [rbp], rax
        add rbp, 8
        ret
        .data
        .balign 8
pointer: .word 15*16 - 1
        .quad idt
        .bss
        .balign 4096
idt:    .skip 4096
log:    .skip 65536
"""


def operation(rng: random.Random) -> str:
    """One edit with its invalidation, one access, or one change of mode."""
    page = rng.randrange(PAGES)
    space = "T" if rng.random() < 0.7 else "T + 0x8000"
    frame = f"DATA + {rng.randrange(8) * 0x1000}"
    flags = rng.choice(FLAGS)
    reload = "mov rax, cr3\n mov cr3, rax\n"
    kind = rng.randrange(13)
    if kind < 3:
        return (f"mov rax, {frame} + {flags & 0xFFF}\n mov rcx, {flags & ~0xFFF:#x}\n or rax, rcx\n"
                f" mov [{space} + 0x3000 + {8 * page}], rax\n mov esi, V + {page * 0x1000}\n"
                " invlpg [rsi]\n")  # fmt: skip
    if kind < 5:
        return (
            f"mov esi, V + {page * 0x1000 + 8 * rng.randrange(8)}\n mov rax, [rsi]\n call log_rax\n"
        )
    if kind < 7:
        return f"mov esi, V + {page * 0x1000 + 8 * rng.randrange(8)}\n add dword ptr [rsi], 0x11\n"
    if kind == 7:
        return f"mov rax, [{space} + 0x3000 + {8 * page}]\n call log_rax\n"
    if kind == 8:  # the directory's entry of the small pages: missing, read-only, not accessed
        value = rng.choice(["0", f"{space} + 0x3001", f"{space} + 0x3007", f"{space} + 0x3003"])
        return f"mov qword ptr [{space} + 0x2000], {value}\n {reload}"
    if kind == 9:  # the large page: moved, read-only, or in small pieces
        value = rng.choice(["LARGE + 0x87", "LARGE + 0x81", "0x800087", "LARGE + 0x1083", "0",
                            f"{space} + 0x3007"])  # fmt: skip
        return f"mov qword ptr [{space} + 0x2008], {value}\n {reload}"
    if kind == 10:
        offset = 0x200000 + rng.randrange(PAGES) * 0x1000
        access = rng.choice(["mov rax, [rsi]\n call log_rax", "add dword ptr [rsi], 0x101"])
        return f"mov esi, V + {offset}\n {access}\n"
    if kind == 11:
        return f"mov eax, {rng.choice(['T', 'T + 0x8000'])}\n mov cr3, rax\n"
    bit, register = rng.choice([(16, "cr0"), (7, "cr4")])
    return f"mov rax, {register}\n btc rax, {bit}\n mov {register}, rax\n"


def random_program(seed: int) -> str:
    rng = random.Random(seed)
    body = "".join(operation(rng) for _ in range(OPERATIONS))
    return HEAD + body + TAIL


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> list[tuple[str, str, str]]:
    """Paths, each with the page size of L2 and that of L1."""
    folder = tmp_path_factory.mktemp("edits")
    made = []
    for seed in range(6):
        path = folder / f"edits-{seed}.S"
        path.write_text(random_program(seed))
        made.append((str(path), ("2m", "4k")[seed % 2], ("4k", "2m", "1g")[seed % 3]))
    return made


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("backend", BACKENDS)
def test_random_page_table_edits_end_the_same_in_every_mode(backend, seed, programs):
    which = programs[seed]
    assert outcome(backend, "non", *which)[0][:2] == ("stopped", 0)
    for mode in SHADOWING:
        assert_same(backend, mode, *which)


def test_the_programs_fault_and_differ(programs):
    results = {outcome("svm", "non", *which)[0][2] for which in programs}
    assert len(results) == len(programs)
    for which in programs:
        memory = outcome("svm", "non", *which)[2]
        log = find(2, which[0], "svm").image().symbols["log"]
        logged = memory[log : log + 65536].view(np.uint64)
        assert any(0x80000000 <= word < 0x80400000 for word in logged), "no fault was logged"
