"""Interrupts and NMIs while an L1 runs an L2, from the source to the handler that takes them."""

from __future__ import annotations

from functools import partial

import pytest

from workbench.errors import ScenarioError
from workbench.scenario import Scenario
from workbench.simulate import Run

from ..model.runs import L2_PROGRAMS, SMALL
from .programs import Outcome, listen, nested

PERIOD = 150_000
INTERRUPT = {"svm": "INTR", "vmx": "EXTERNAL_INTERRUPT"}
NMI_EXIT = {"svm": "NMI", "vmx": "EXCEPTION_NMI"}
BACKENDS = ("svm", "vmx")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return partial(nested, tmp_path_factory.mktemp("guests"))


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    return listen(tmp_path_factory.mktemp("l2"))


def finished(outcome: Outcome) -> bool:
    return outcome.result.status == "stopped" and outcome.result.stop_code == 0


def delivered(outcome: Outcome, level: int, kind: int = 0) -> int:
    return int(outcome.result.raw.delivered[level, kind])


def blocked(outcome: Outcome) -> dict[str, int]:
    frame = outcome.result.interrupts
    return {r.reason: r.blocked for r in frame.itertuples() if r.blocked}


# ---------------------------------------------------------------- L0's own tick


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l2", L2_PROGRAMS)
def test_host_ticks_leave_to_l0_and_change_nothing_for_the_guests(program, backend, l2):
    params = (("iterations", 20_000),) if l2 == "compute" else tuple(SMALL[l2].items())
    still = program(backend, l2, params)
    ticking = program(backend, l2, params, host_tick_cycles=23_457)
    assert finished(still) and finished(ticking)
    name = INTERRUPT[backend]
    assert ticking.result.facts["host_ticks"] > 0
    assert ticking.exits(name, "L2") == ticking.exits(name, "L2", "L0")
    assert (
        ticking.exits(name, "L2") + ticking.exits(name, "L1") <= ticking.result.facts["host_ticks"]
    )
    assert ticking.l2_result == still.l2_result
    for fact in ("l1_instructions", "l2_instructions", "virtual_exits", "serial"):
        assert ticking.result.facts[fact] == still.result.facts[fact]
    # a tick that comes while L0 works causes no exit
    in_guests = ticking.exits(name, "L2") + ticking.exits(name, "L1")
    assert (ticking.result.cycles > still.result.cycles) == (in_guests > 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_source_means_no_interrupt_event_at_all(program, backend):
    quiet = program(backend)
    assert finished(quiet)
    assert blocked(quiet) == {} and not quiet.result.raw.delivered.any()
    assert quiet.result.facts["host_ticks"] == 0


# ---------------------------------------------------------------- L1's timer while L2 runs


@pytest.mark.parametrize(
    ("backend", "acknowledge"), [("svm", False), ("vmx", False), ("vmx", True)]
)
def test_timer_of_l1_ends_the_run_of_l2(program, backend, acknowledge):
    """SVM has no acknowledgement on exit."""
    found = program(backend, timer=PERIOD, acknowledge=acknowledge)
    assert finished(found)
    assert found.seen_interrupts >= 3
    assert found.ticks >= found.seen_interrupts
    # the physical signal is L0's; what L1 sees is a virtual exit
    assert found.exits(INTERRUPT[backend], "L2", "L1") == 0
    assert found.l2_result == program(backend).l2_result


def test_vmx_window_brings_the_interrupt_when_l1_opens_up(program):
    found = program("vmx", timer=PERIOD)
    assert found.exits("INTERRUPT_WINDOW", "L1") >= found.seen_interrupts
    assert delivered(found, 1) == found.ticks
    assert blocked(found).keys() == {"rflags_ie"}


def test_vmx_acknowledge_on_exit_takes_the_vector_with_the_exit(program):
    found = program("vmx", timer=PERIOD, acknowledge=True)
    # L1 calls its handler itself: no interrupt is injected for those
    assert delivered(found, 1) == found.ticks - found.seen_interrupts


def test_svm_holds_interrupts_until_l1_sets_gif(program):
    found = program("svm", timer=PERIOD)
    assert delivered(found, 1) == found.ticks
    assert blocked(found)["svm_gif"] >= found.seen_interrupts
    frame = found.result.interrupts.set_index("reason")
    assert 0 < frame.loc["svm_gif", "cycles"] < found.result.cycles


def test_virtual_gif_opens_a_window_instead(program):
    features = (("virtual_gif", True), ("virtual_vmload_vmsave", True))
    found = program("svm", timer=PERIOD, features=features)
    assert finished(found)
    assert found.exits("STGI", "L1") == 0
    assert found.ticks >= found.exits("VINTR", "L1", "L0") >= 3 <= found.seen_interrupts
    assert delivered(found, 1) == found.ticks


def test_virtual_gif_makes_stgi_exit_while_an_nmi_waits(program):
    """RFLAGS.IF must not hold an NMI back, so that a window of V_IRQ is no way to wait for GIF."""
    features = (("virtual_gif", True), ("virtual_vmload_vmsave", True))
    given = {"nmi_cycles": 200_000, "l2_params": (("iterations", 60_000),)}
    found, emulated = program("svm", features=features, **given), program("svm", **given)
    assert finished(found)
    assert found.exits("STGI", "L1", "L0") == blocked(found)["svm_gif"] >= 2
    assert found.exits("VINTR", "L1", "L0") == 0
    waits = [
        run.result.interrupts.set_index("reason").loc["svm_gif", "cycles"] / run.nmis
        for run in (found, emulated)
    ]
    assert waits[0] <= waits[1]


def test_host_if_rule_blocks_l1s_interrupts_while_l2_runs(program):
    """V_INTR_MASKING with RFLAGS.IF = 0 at VMRUN: nothing reaches L1 before it sets IF."""
    found = program("svm", timer=PERIOD, host_if=False)
    assert finished(found)
    assert found.ticks == 0 and found.seen_interrupts == 0
    assert blocked(found)["rflags_ie"] >= 1


def test_without_masking_the_exit_does_not_ask_for_host_if(program):
    """As in Xen, whatever L2's own flag is: an L1 that never takes the interrupt gets no further."""
    found = program("svm", timer=PERIOD, host_if=False, masking=False, max_instructions=200_000)
    assert found.result.status == "limit"
    assert found.result.facts["virtual_exits"] > 1_000


# ---------------------------------------------------------------- NMI


@pytest.mark.parametrize("backend", BACKENDS)
def test_nmi_reaches_l1_through_l0(program, backend):
    period = {"svm": 200_000, "vmx": 500_000}[backend]
    found = program(backend, nmi_cycles=period, l2_params=(("iterations", 60_000),))
    assert finished(found)
    assert found.exits(NMI_EXIT[backend], "L2", "L0") >= 2
    assert found.seen_nmis >= 2
    assert found.nmis >= found.seen_nmis
    assert found.l2_result == program(backend, l2_params=(("iterations", 60_000),)).l2_result


def test_svm_masks_nmis_until_iret(program):
    found = program("svm", nmi_cycles=200_000, l2_params=(("iterations", 60_000),))
    assert found.exits("IRET", "L1", "L0") == found.nmis == delivered(found, 1, 1)


# ---------------------------------------------------------------- straight into L2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("small_pages", [False, True])
def test_interrupt_that_l1_does_not_intercept_goes_to_l2(program, listener, backend, small_pages):
    """L2 ends no interrupt, so one comes; its frame goes to a page that must be faulted in first."""
    features = (("l1_page_size", "2m"), ("l0_page_size", "4k")) if small_pages else ()
    patches = REINJECT[backend]
    found = program(
        backend, listener, (), timer=PERIOD, intercept=False, features=features, patches=patches
    )
    assert finished(found)
    assert found.seen_interrupts == 0
    assert delivered(found, 2) == 1 == found.l2_result


REINJECT = {
    "svm": (
        (
            r"^handle_nested_page_fault:\n",
            "handle_nested_page_fault:\n"
            "        mov rax, [vmcb + 0x88]\n        mov [vmcb + 0xa8], rax\n",
        ),
    ),
    "vmx": (
        (
            r"^handle_ept_violation:\n",
            "handle_ept_violation:\n"
            "        READ_FIELD rbx, 0x4408\n        WRITE_FIELD 0x4016, rbx\n",
        ),
    ),
}
"""An L1 that injects again the event whose delivery a nested page fault interrupted."""


# ---------------------------------------------------------------- what L1 gives to L2

V_IRQ = (
    r"INT_CTL_V_INTR_MASKING$",
    "INT_CTL_V_INTR_MASKING | 1 << 8 | 1 << 20\n        mov dword ptr [vmcb + 0x64], 0x40",
)
VINTR_INTERCEPT = (r"INTERCEPT_CPUID \| INTERCEPT_HLT", "1 << 4 | INTERCEPT_CPUID | INTERCEPT_HLT")
VINTR_HANDLER = (
    r"^        cmp     eax, 0x60\n",
    """        cmp     eax, 0x64
        jne     9f
        inc     qword ptr [seen_interrupts]
        and     dword ptr [vmcb + 0x60], ~(1 << 8)
        mov     eax, 0x80000040
        mov     [vmcb + 0xa8], rax
        jmp     resume
9:      cmp     eax, 0x60
""",
)
WINDOW_CONTROL = (r"PROCBASED, CPU_HLT_EXITING", "PROCBASED, 1 << 2 | CPU_HLT_EXITING")
WINDOW_HANDLER = (
    r"^        test    ecx, ecx\n",
    """        cmp     ecx, 7
        jne     9f
        push    rbx
        inc     qword ptr [seen_interrupts]
        READ_FIELD rbx, 0x4002
        and     rbx, ~4
        WRITE_FIELD 0x4002, rbx
        mov     ebx, 0x80000040
        WRITE_FIELD 0x4016, rbx
        pop     rbx
        jmp     3f
9:      test    ecx, ecx
""",
)


def test_v_irq_of_vmcb12_is_taken_when_l2_sets_its_interrupt_flag(program, listener):
    found = program("svm", listener, (), patches=(V_IRQ, *REINJECT["svm"]))
    assert finished(found)
    assert delivered(found, 2) == 1 == found.l2_result
    assert found.exits("VINTR", "L2") == 0


def test_vintr_intercept_of_l1_comes_before_the_vector(program, listener):
    patches = (V_IRQ, VINTR_INTERCEPT, VINTR_HANDLER, *REINJECT["svm"])
    found = program("svm", listener, (), patches=patches)
    assert finished(found)
    assert found.exits("VINTR", "L2", "L1") == 1 == found.seen_interrupts
    assert delivered(found, 2) == 1 == found.l2_result


def test_interrupt_window_of_l1_on_vmx(program, listener):
    patches = (WINDOW_CONTROL, WINDOW_HANDLER, *REINJECT["vmx"])
    found = program("vmx", listener, (), patches=patches)
    assert finished(found)
    assert found.exits("INTERRUPT_WINDOW", "L2", "L1") == 1 == found.seen_interrupts
    assert delivered(found, 2) == 1 == found.l2_result


# ---------------------------------------------------------------- L1 alone

HALTING = """# @title Halt until the timer comes, ten times
# @backend {backend}
.intel_syntax noprefix
.include "l1.inc"
.include "apic.inc"
        .text
        .globl _start
_start:
        lidt    [idt_pointer]
        GATE    idt, 0x40, on_timer
        APIC_ON
        WRITE_MSR X2APIC_LVT_TIMER, 0x40 | LVT_PERIODIC
        WRITE_MSR X2APIC_INITIAL_COUNT, 200000
        mov     ebx, 10
        sti
again:  hlt
        dec     ebx
        jnz     again
        cli
        xor     eax, eax
        out     PORT_EXIT, al
on_timer:
        push    rax
        push    rcx
        push    rdx
        WRITE_MSR X2APIC_EOI, 0
        pop     rdx
        pop     rcx
        pop     rax
        iretq
        .data
idt_pointer: .word 0xfff
        .quad   idt
        .bss
        .balign 16
idt:    .skip   0x1000
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_halted_l1_sleeps_until_its_timer(tmp_path, backend):
    path = tmp_path / "halting.S"
    path.write_text(HALTING.format(backend=backend))
    running = Run(Scenario(backend=backend, l1=str(path), l2="compute", max_instructions=100_000))
    while running.advance():
        pass
    result = running.result()
    assert result.status == "stopped" and int(result.raw.delivered[1, 0]) == 10
    assert 2_000_000 < result.cycles < 2_200_000
    assert result.raw.event("IDLE_CYCLE") > 1_000_000
    assert result.cycles == pytest.approx(result.facts["simulated_cycles"])
    assert int(result.exits.query("exit == 'HLT'")["count"].sum()) == 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_with_interrupts_are_reproducible_and_account_for_all_time(program, backend):
    def outcome(chunk: int):
        first = program(backend, timer=PERIOD, host_tick_cycles=70_000)
        running = Run(first.result.scenario)
        while running.advance(chunk):
            pass
        return running.result()

    whole, pieces = outcome(5_000_000), outcome(999)
    assert whole.fingerprint() == pieces.fingerprint()
    assert whole.cycles == pytest.approx(whole.facts["simulated_cycles"])
    entries, exits = whole.raw.event("HW_ENTRY"), whole.raw.event("HW_EXIT")
    assert 0 <= entries - exits <= 1


NMI_STORM = """# @title Take NMIs in a handler that lasts longer than their period
# @backend {backend}
.intel_syntax noprefix
.include "l1.inc"
.include "apic.inc"
        .text
        .globl _start
_start:
        lidt    [idt_pointer]
        GATE    idt, 2, on_nmi
        sti
1:      jmp     1b
finish: mov     al, [nested]
        out     PORT_EXIT, al
on_nmi:
        inc     qword ptr [depth]
        cmp     qword ptr [depth], 1
        je      2f
        mov     byte ptr [nested], 1
2:      mov     ecx, 20000
3:      dec     ecx
        jnz     3b
        inc     qword ptr [came]
        cmp     qword ptr [came], 5
        je      finish
        dec     qword ptr [depth]
        iretq
        .data
idt_pointer: .word 0xfff
        .quad   idt
        .balign 8
came:   .quad   0
depth:  .quad   0
nested: .quad   0
        .bss
        .balign 16
idt:    .skip   0x1000
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_nmi_waits_for_the_iret_of_the_one_before(tmp_path, backend):
    path = tmp_path / "storm.S"
    path.write_text(NMI_STORM.format(backend=backend))
    scenario = Scenario(
        backend=backend, l1=str(path), l2="compute", max_instructions=1_000_000, nmi_cycles=20_000
    )
    running = Run(scenario)
    while running.advance():
        pass
    result = running.result()
    assert (result.status, result.stop_code) == ("stopped", 0)
    waited = result.interrupts.set_index("reason").loc["nmi_iret"]
    assert waited.blocked >= 3 and waited.cycles > 20_000
    window = {"svm": "IRET", "vmx": "NMI_WINDOW"}[backend]
    assert int(result.exits.query(f"exit == '{window}'")["count"].sum()) >= 3
    assert result.raw.delivered[1, 1] >= 5


def test_a_scripted_period_has_a_lower_bound():
    with pytest.raises(ScenarioError, match="nmi_cycles"):
        Scenario(nmi_cycles=500)
