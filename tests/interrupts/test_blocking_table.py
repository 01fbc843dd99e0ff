"""What holds an event back from L1, and what does not: five reasons, two kinds of event, in programs.

Each program of L1 sets one reason up, gets an event while L0 can deliver at every exit (CPUID), and
then takes the reason away.  The table is the manuals' (SDM vol. 3, 7.8.1, 7.8.3, 11.8.3; APM vol. 2,
15.17, 15.21.5); L0 counts whom it made wait, and why.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from workbench.core.ledger import BLOCK_REASONS
from workbench.guests.assembler import assemble
from workbench.scenario import Scenario
from workbench.simulate import Run

BACKENDS = ("svm", "vmx")
VECTOR = 0x40
HELD, FREE = "held", "free"
TABLE = {
    ("shadow", "interrupt"): HELD,
    ("shadow", "nmi"): HELD,
    ("rflags_ie", "interrupt"): HELD,
    ("rflags_ie", "nmi"): FREE,
    ("tpr", "interrupt"): HELD,
    ("tpr", "nmi"): FREE,
    ("nmi_iret", "interrupt"): FREE,
    ("nmi_iret", "nmi"): HELD,
    ("svm_gif", "interrupt"): HELD,
    ("svm_gif", "nmi"): HELD,
}
"""By reason and event; MOV SS is the shadow (whether STI holds NMIs is the processor's choice)."""
BLOCK = {
    "shadow": "cli",
    "rflags_ie": "cli",
    "tpr": "WRITE_MSR X2APIC_TPR, 0x50\n sti",
    "nmi_iret": "sti",
    "svm_gif": "clgi\n sti",
}
UNBLOCK = {
    "shadow": "sti",
    "rflags_ie": "sti",
    "tpr": "WRITE_MSR X2APIC_TPR, 0",
    "nmi_iret": "nop",
    "svm_gif": "stgi",
}
RAISE = {
    "interrupt": f"WRITE_MSR X2APIC_SELF_IPI, {VECTOR:#x}\nraised_event: nop",
    "nmi": "raise_nmi: nop\nraised_event: nop",
}
"""The test pends the NMI when L1 comes to ``raise_nmi``."""
TEXT = """# @title {reason}, {event}
# @backend {backend}
.intel_syntax noprefix
.include "l1.inc"
.include "apic.inc"
.include "{backend}.inc"
{macros}
        .text
        .globl _start
_start:
        lidt    [idt_pointer]
        GATE    idt, 2, on_nmi
        GATE    idt, {vector}, on_interrupt
        APIC_ON
        {on}
        {start}
        {block}
        {raise_it}
        {exits}
        mov     rax, [came]
        mov     [while_blocked], rax
        {unblock}
        nop
        xor     eax, eax
        cpuid
        nop
finish: cli
        xor     eax, eax
        out     PORT_EXIT, al
unusable:
        mov     al, RESULT_UNUSABLE
        out     PORT_EXIT, al
on_nmi:
        push    rax
        inc     qword ptr [nmis]
        {in_nmi}
        pop     rax
        iretq
on_interrupt:
        push    rax
        push    rcx
        push    rdx
        inc     qword ptr [came]
        WRITE_MSR X2APIC_EOI, 0
        pop     rdx
        pop     rcx
        pop     rax
        iretq
        .data
idt_pointer: .word 0xfff
        .quad   idt
        .balign 8
came:   .quad   0
nmis:   .quad   0
while_blocked: .quad 0
        .bss
        .balign 4096
idt:    .skip   0x1000
host_save: .skip 0x1000
"""
EXITS = "xor     eax, eax\n        cpuid\n        xor     eax, eax\n        cpuid"
IN_THE_SHADOW = {
    "interrupt": "sti\n        mov     rax, [came]\n        mov     [while_blocked], rax",
    "nmi": "mov     eax, SEL_DATA\n        mov     ss, eax\n"
           "raise_nmi: mov     rax, [nmis]\n        mov     [while_blocked], rax",
}  # fmt: skip
"""One instruction: the load.  The NMI is pended there, for it would not wait before."""
ASK_FOR_AN_NMI = "first_nmi: nop\n nop"


def program(backend: str, reason: str, event: str) -> str:
    """The text of L1."""
    in_handler = reason == "nmi_iret"
    body = {"block": BLOCK[reason], "raise_it": RAISE[event], "unblock": UNBLOCK[reason]}
    body["exits"] = EXITS
    in_shadow = reason == "shadow"
    if in_shadow:
        body["exits"] = IN_THE_SHADOW[event]
        body["raise_it"] = RAISE[event] if event == "interrupt" else ""
    in_nmi = ""
    if in_handler:  # the first NMI's handler is where the event comes
        note = "mov rax, [came]\n mov [while_blocked], rax"
        first = "cmp qword ptr [nmis], 1\n jne 9f"
        in_nmi = (
            f"{first}\n push rcx\n push rdx\n push rbx\n {body['block']}\n {body['raise_it']}\n"
        )
        in_nmi += f" {EXITS}\n {note}\n mov rax, [nmis]\n mov [nmis_blocked], rax\n"
        in_nmi += " pop rbx\n pop rdx\n pop rcx\n9:"
        body = {"block": ASK_FOR_AN_NMI, "raise_it": "", "unblock": "nop", "exits": EXITS}
    text = TEXT.format(
        backend=backend, reason=reason, event=event, vector=VECTOR, in_nmi=in_nmi, start="",
        on="SVM_ON" if backend == "svm" else "", **body,
        macros='.include "svm-macros.inc"' if backend == "svm" else "",
    )  # fmt: skip
    counted = "came" if event == "interrupt" else "nmis"
    if not in_handler and not in_shadow:
        text = text.replace("mov     rax, [came]\n        mov     [while_blocked]",
                            f"mov     rax, [{counted}]\n        mov     [while_blocked]")  # fmt: skip
    else:
        text = text.replace(
            "        mov     rax, [came]\n        mov     [while_blocked], rax\n", ""
        )
    return text.replace("nmis:   .quad   0", "nmis:   .quad   0\nnmis_blocked: .quad 0")


class Watched:
    """A run of such a program, stepped so that NMIs can be pended at labels."""

    def __init__(self, path: Path, backend: str, text: str):
        path.write_text(text)
        self.symbols = assemble(text, path.name).symbols
        scenario = Scenario(backend=backend, l1=str(path), l2="compute", nmi_cycles=1 << 40)
        self.run = Run(scenario)
        m = self.run.machine.record
        places = {self.symbols[n] for n in ("raise_nmi", "first_nmi") if n in self.symbols}
        for _ in range(3000):
            if int(m["cpu"]["rip"][0]) in places and not self.run.status:
                places.remove(int(m["cpu"]["rip"][0]))
                m["irq"]["nmi_next"] = m["ledger"]["time"]
                m["irq"]["attention"] = m["irq"]["active"]
            if not self.run.advance(1):
                break
        assert not places, "an NMI was never raised"
        result = self.run.result()
        assert (result.status, result.stop_code) == ("stopped", 0)
        frame = result.interrupts
        self.blocked = dict(zip(frame.reason, frame.blocked, strict=True))

    def word(self, name: str) -> int:
        machine = self.run.machine
        return int(machine.words[machine.bank_offset(1) + self.symbols[name] >> 3])


@cache
def watched(folder: Path, backend: str, reason: str, event: str) -> Watched:
    text = program(backend, reason, event)
    return Watched(folder / f"{backend}-{reason}-{event}.S", backend, text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("blocking")


def test_the_table_is_complete():
    assert {reason for reason, _ in TABLE} == set(BLOCK_REASONS)
    assert len(TABLE) == 2 * len(BLOCK_REASONS)


@pytest.mark.parametrize(
    ("backend", "reason", "event"),
    [(b, r, e) for b in BACKENDS for r, e in TABLE if b == "svm" or r != "svm_gif"],
)
def test_each_reason_holds_what_it_should_and_nothing_else(folder, backend, reason, event):
    run = watched(folder, backend, reason, event)
    held = TABLE[reason, event] == HELD
    if reason == "nmi_iret":
        counts = run.word("while_blocked"), run.word("nmis_blocked") - 1
        early = counts[0] if event == "interrupt" else counts[1]
    else:
        early = run.word("while_blocked")
    assert early == (0 if held else 1)
    total = run.word("came") if event == "interrupt" else run.word("nmis")
    assert total - (reason == "nmi_iret" and event == "nmi") == 1, "it came once, at last"
    if (reason, event) != ("shadow", "interrupt"):  # no exit in the one instruction after STI
        assert (run.blocked.get(reason, 0) > 0) == held, run.blocked
