"""Small guests for the interrupt tests, and how they are run."""

from __future__ import annotations

import re
import zlib
from functools import cache
from pathlib import Path

from workbench.core import layout as lay
from workbench.core.ledger import EVENTS
from workbench.guests.assembler import assemble
from workbench.paths import data_dir
from workbench.scenario import Scenario
from workbench.simulate import Run

from ..cpu.bare import CODE, STACK, Bare

TIMER_VECTOR, IPI_VECTOR = 0x40, 0x60
PRELUDE = """
.intel_syntax noprefix
.include "apic.inc"
.set RESULT, 0x200000
        .text
        .globl _start
_start:
        mov rsp, 0x300000
        lidt [idt_pointer]
        GATE idt, 2, on_nmi
        GATE idt, 0x40, on_timer
        GATE idt, 0x60, on_ipi
        APIC_ON
"""
HANDLERS = """
        hlt
.macro HANDLER name, slot
\\name:
        push rax
        push rcx
        push rdx
        inc qword ptr [RESULT + 8*\\slot]
        mov rax, [RESULT + 8*8]             # the order of arrival, one slot number each
        mov byte ptr [RESULT + 8*16 + rax], \\slot
        inc qword ptr [RESULT + 8*8]
        WRITE_MSR X2APIC_EOI, 0
        pop rdx
        pop rcx
        pop rax
        iretq
.endm
        HANDLER on_nmi, 0
        HANDLER on_timer, 1
        HANDLER on_ipi, 2
        .data
idt_pointer: .word 0xfff
        .quad idt
        .bss
        .balign 16
idt:    .skip 0x1000
"""


def bare_program(body: str, *changes: tuple[str, str]) -> Bare:
    """A bare machine with ``body`` between the set-up of the local APIC and a final HLT.

    ``changes`` are texts of set-up and handlers to replace.
    """
    machine = Bare()
    prelude, handlers = PRELUDE, HANDLERS
    for old, new in changes:
        prelude, handlers = prelude.replace(old, new), handlers.replace(old, new)
    image = assemble(prelude + body + handlers, "b.S")
    for address, content in image.segments:
        machine.write(address, content)
    machine.rip = CODE
    machine.set(lay.RSP, STACK)
    price = machine.record["ledger"]["price"][0]
    price[EVENTS.index("BARE_INSTRUCTION")] = 1024
    price[EVENTS.index("IDLE_CYCLE")] = 1024
    return machine


def taken(machine: Bare) -> tuple[int, int, int]:
    """How many NMIs, timer interrupts and IPIs the handlers of a bare program saw."""
    return tuple(machine.word(0x200000 + 8 * i) for i in range(3))


def order(machine: Bare) -> list[int]:
    """Which handlers ran, in order: 0 NMI, 1 timer, 2 IPI."""
    return list(machine.read(0x200000 + 8 * 16, machine.word(0x200000 + 8 * 8)))


# ---------------------------------------------------------------- L1

_HANDLER = """
on_timer:
        push    rax
        push    rcx
        push    rdx
        inc     qword ptr [ticks]
        WRITE_MSR X2APIC_EOI, 0
        pop     rdx
        pop     rcx
        pop     rax
        iretq
on_nmi:
        inc     qword ptr [nmis]
        iretq
start_apic:
        lidt    [idt_pointer]
        GATE    idt, 2, on_nmi
        GATE    idt, 0x40, on_timer
        APIC_ON
        WRITE_MSR X2APIC_LVT_TIMER, 0x40 | LVT_PERIODIC
        mov     ecx, X2APIC_INITIAL_COUNT
        mov     eax, [L1_OWN + 8*8]
        xor     edx, edx
        wrmsr
        ret
        .data
idt_pointer: .word 0xfff
        .quad   idt
        .balign 8
ticks:  .quad   0
nmis:   .quad   0
seen_interrupts: .quad 0
seen_nmis: .quad 0
        .bss
        .balign 16
idt:    .skip   0x1000
        .text
"""
_REPORT = """
        mov     rax, [ticks]
        mov     [0x9000], rax
        mov     rax, [nmis]
        mov     [0x9008], rax
        mov     rax, [seen_interrupts]
        mov     [0x9010], rax
        mov     rax, [seen_nmis]
        mov     [0x9018], rax
"""
_PARAMS = "# @param timer 24 0 0 4294967295 cycles : period of the timer of L1\n"


def _replace(text: str, pattern: str, new: str) -> str:
    changed, n = re.subn(pattern, lambda _: new, text, count=1, flags=re.M)
    assert n == 1, pattern
    return changed


def _minimal(backend: str) -> str:
    """L1 minimal with the text of its set-up in place of the include, so that it can be changed."""
    guests = data_dir() / "guests"
    text = (guests / f"l1/minimal-{backend}.S").read_text()
    setup = (guests / f"include/{backend}-setup.inc").read_text()
    return _replace(text, rf'^\.include "{backend}-setup.inc"\n', "# = set-up, once\n" + setup)


def _svm(intercept: bool, host_if: bool, masking: bool) -> str:
    text = _minimal("svm")
    text = _replace(text, r"^# @param unmap_period", _PARAMS + "# @param unmap_period")
    text = _replace(text, r'^\.include "svm.inc"', '.include "svm.inc"\n.include "apic.inc"')
    setup = "        call build_vmcb\n        call start_apic\n"
    setup += "        sti\n" if host_if else ""
    text = _replace(text, r"^        call    build_vmcb\n", setup)
    seen = """        cmp     eax, 0x60
        jne     1f
        inc     qword ptr [seen_interrupts]
        jmp     resume
1:      cmp     eax, 0x61
        jne     2f
        inc     qword ptr [seen_nmis]
        jmp     resume
2:      cmp     eax, VMEXIT_CPUID
"""
    text = _replace(text, r"^        cmp     eax, VMEXIT_CPUID\n", seen)
    if intercept:
        text = _replace(
            text, "INTERCEPT_CPUID \\| INTERCEPT_HLT", "3 | INTERCEPT_CPUID | INTERCEPT_HLT"
        )
    if not masking:
        text = _replace(text, "INT_CTL_V_INTR_MASKING$", "0")
    text = _replace(text, r"^handle_hlt:\n", "handle_hlt:\n" + _REPORT)
    return _replace(text, r"^# =+ set-up, once\n", "# set-up\n" + _HANDLER)


def _vmx(intercept: bool, acknowledge: bool) -> str:
    text = _minimal("vmx")
    text = _replace(text, r"^# @param unmap_period", _PARAMS + "# @param unmap_period")
    text = _replace(text, r'^\.include "vmx.inc"', '.include "vmx.inc"\n.include "apic.inc"')
    text = _replace(
        text,
        r"^        call    write_controls\n",
        "        call write_controls\n        call start_apic\n",
    )
    pin = "9, 9" if intercept else "0, 0"
    text = _replace(text, "MSR_VMX_TRUE_PINBASED, 0, 0", f"MSR_VMX_TRUE_PINBASED, {pin}")
    if acknowledge:
        text = _replace(
            text,
            r"EXIT_CTL_HOST_64 \| EXIT_CTL_SAVE_EFER",
            "1 << 15 | EXIT_CTL_HOST_64 | EXIT_CTL_SAVE_EFER",
        )
    text = _replace(text, "HOST_IDTR_BASE, 0$", "HOST_IDTR_BASE, idt")
    window = "int 0x40" if acknowledge else "sti\n        nop\n        cli"
    seen = f"""        test    ecx, ecx
        jz      1f
        cmp     ecx, 1
        jne     2f
        inc     qword ptr [seen_interrupts]
        {window}
        jmp     3f
1:      inc     qword ptr [seen_nmis]
        int     2
3:      mov     rcx, [l2_rcx]
        mov     rax, [l2_rax]
        vmresume
2:      cmp     ecx, EXIT_CPUID
"""
    text = _replace(text, r"^        cmp     ecx, EXIT_CPUID\n", seen)
    text = _replace(text, r"^handle_hlt:\n", "handle_hlt:\n" + _REPORT)
    return _replace(text, r"^# =+ set-up, once\n", "# set-up\n" + _HANDLER)


class Outcome:
    """What a run of a nested program came to."""

    def __init__(self, running: Run):
        self.result = running.result()
        self.machine = running.machine
        start = self.machine.bank_offset(1) + 0x9000
        words = self.machine.ram[start : start + 32].view("<i8")
        self.ticks, self.nmis, self.seen_interrupts, self.seen_nmis = map(int, words)

    @property
    def l2_result(self) -> int:
        """RAX of L2 when it ended, which L1 leaves in RBX."""
        return int(self.machine.record["cpu"]["gpr"][0, lay.RBX])

    def exits(self, name: str, level: str, handler: str | None = None) -> int:
        frame = self.result.exits
        rows = frame[(frame.exit == name) & (frame.from_level == level)]
        if handler is not None:
            rows = rows[rows.handled_by == handler]
        return int(rows["count"].sum())


@cache
def nested(
    folder: Path,
    backend: str,
    l2: str = "compute",
    l2_params: tuple[tuple[str, int], ...] = (("iterations", 20_000),),
    timer: int = 0,
    intercept: bool = True,
    acknowledge: bool = False,
    host_if: bool = True,
    masking: bool = True,
    features: tuple[tuple[str, object], ...] = (),
    patches: tuple[tuple[str, str], ...] = (),
    max_instructions: int = 5_000_000,
    **sources: int,
) -> Outcome:
    """Run L2 under a minimal L1 that also handles its local APIC's timer and NMIs."""
    text = _svm(intercept, host_if, masking) if backend == "svm" else _vmx(intercept, acknowledge)
    for pattern, new in patches:
        text = _replace(text, pattern, new)
    path = folder / f"l1-{backend}-{zlib.crc32(text.encode()):x}.S"
    path.write_text(text)
    scenario = Scenario(
        backend=backend,
        l1=str(path),
        l1_params={"timer": timer},
        l2=l2,
        l2_params=dict(l2_params),
        features=dict(features),
        max_instructions=max_instructions,
        **sources,
    )
    running = Run(scenario)
    while running.advance():
        pass
    return Outcome(running)


LISTEN = """# @title Take interrupts with a handler of its own; the result is how many came
.intel_syntax noprefix
.include "l2.inc"
.include "apic.inc"
        .text
        .globl _start
_start:
        lidt    [idt_pointer]
        GATE    idt, 0x40, on_interrupt
        mov     rsp, 0x380000               # a page that nothing has touched yet
        sti
        mov     ecx, 200000
again:  dec     ecx
        jnz     again
        cli
        mov     rax, [came]
        FINISH
on_interrupt:
        inc     qword ptr [came]
        iretq
        .section .data
idt_pointer: .word 0xfff
        .quad   idt
came:   .quad   0
        .bss
        .balign 16
idt:    .skip   0x1000
"""


def listen(folder: Path) -> str:
    """Path of an L2 program that takes vector 0x40."""
    path = folder / "listen.S"
    path.write_text(LISTEN)
    return str(path)
