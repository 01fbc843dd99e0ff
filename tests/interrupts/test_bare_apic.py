"""The local APIC of a machine without hypervisor."""

from __future__ import annotations

import pytest

from workbench.core import layout as lay
from workbench.core.ledger import BLOCK_REASONS

from ..cpu.bare import Bare
from .programs import bare_program, order, taken


def run(body: str, steps: int = 200_000) -> Bare:
    machine = bare_program(body)
    assert machine.run(steps) == lay.ST_HALT
    return machine


def blocked(machine: Bare) -> dict[str, int]:
    counts = machine.record["ledger"]["blocked"][0]
    return {name: int(n) for name, n in zip(BLOCK_REASONS, counts, strict=False) if n}


def cycles(machine: Bare) -> float:
    return float(machine.record["ledger"]["time"][0]) / 1024


def test_one_shot_timer_fires_once_at_its_time():
    machine = run(
        """
        WRITE_MSR X2APIC_LVT_TIMER, 0x40
        sti
        WRITE_MSR X2APIC_INITIAL_COUNT, 5000
again:  cmp qword ptr [RESULT + 8], 0
        je again
        mov ecx, 20000
1:      dec ecx
        jnz 1b
        cli
        """
    )
    assert taken(machine) == (0, 1, 0)


def test_halt_with_a_timer_lets_time_pass():
    machine = run(
        """
        WRITE_MSR X2APIC_LVT_TIMER, 0x40
        WRITE_MSR X2APIC_INITIAL_COUNT, 50000
        sti
        hlt
        cli
        """
    )
    assert taken(machine) == (0, 1, 0)
    assert 50_000 <= cycles(machine) <= 50_200


def test_periodic_timer_keeps_its_period():
    machine = run(
        """
        WRITE_MSR X2APIC_LVT_TIMER, 0x40 | LVT_PERIODIC
        WRITE_MSR X2APIC_INITIAL_COUNT, 10000
        sti
        mov r8d, 7
1:      hlt
        dec r8d
        jnz 1b
        cli
        """
    )
    assert taken(machine) == (0, 7, 0)
    assert 70_000 <= cycles(machine) <= 70_200


def test_divider_slows_the_timer():
    machine = run(
        """
        WRITE_MSR X2APIC_DIVIDE, 1
        WRITE_MSR X2APIC_LVT_TIMER, 0x40
        WRITE_MSR X2APIC_INITIAL_COUNT, 5000
        sti
        hlt
        cli
        """
    )
    assert 20_000 <= cycles(machine) <= 20_200


def test_tsc_deadline():
    machine = run(
        """
        WRITE_MSR X2APIC_LVT_TIMER, 0x40 | LVT_TSC_DEADLINE
        rdtsc
        shl rdx, 32
        or rax, rdx
        mov rbx, rax
        add rax, 30000
        mov rdx, rax
        shr rdx, 32
        mov ecx, MSR_TSC_DEADLINE
        wrmsr
        sti
        hlt
        cli
        rdtsc
        shl rdx, 32
        or rax, rdx
        sub rax, rbx
        mov [RESULT + 64*8], rax
        """
    )
    assert taken(machine) == (0, 1, 0)
    assert 30_000 <= machine.word(0x200000 + 64 * 8) <= 30_100


def test_masked_timer_is_silent_and_current_count_runs_down():
    machine = run(
        """
        WRITE_MSR X2APIC_LVT_TIMER, 0x40 | LVT_MASKED
        WRITE_MSR X2APIC_INITIAL_COUNT, 5000
        sti
        mov ecx, 500
1:      dec ecx
        jnz 1b
        mov ecx, X2APIC_CURRENT_COUNT
        rdmsr
        mov [RESULT + 64*8], rax
        mov ecx, 10000
2:      dec ecx
        jnz 2b
        cli
        """
    )
    assert taken(machine) == (0, 0, 0)
    assert 3_900 <= machine.word(0x200000 + 64 * 8) <= 4_000


def test_self_ipi_waits_for_the_interrupt_flag_and_for_the_shadow():
    machine = run(
        """
        WRITE_MSR X2APIC_SELF_IPI, 0x60
        mov rbx, [RESULT + 16]
        sti
        mov rsi, [RESULT + 16]
        mov rdi, [RESULT + 16]
        cli
        """
    )
    assert taken(machine) == (0, 0, 1)
    assert [machine.get(r) for r in (lay.RBX, lay.RSI, lay.RDI)] == [0, 0, 1]
    assert blocked(machine) == {"rflags_ie": 1, "shadow": 1}


def test_interrupt_command_register_reaches_this_processor_only():
    machine = run(
        """
        sti
        mov ecx, X2APIC_ICR
        mov eax, 0x60
        mov edx, 1                          # another processor
        wrmsr
        xor edx, edx
        wrmsr
        mov eax, 0x40400                    # NMI to self
        wrmsr
        cli
        """
    )
    assert taken(machine) == (1, 0, 1)


def test_higher_vector_first_and_end_of_interrupt_lets_the_lower_in():
    machine = run(
        """
        WRITE_MSR X2APIC_SELF_IPI, 0x40
        WRITE_MSR X2APIC_SELF_IPI, 0x60
        sti
        nop
        cli
        """
    )
    assert order(machine) == [2, 1]


@pytest.mark.parametrize("by_cr8", [True, False])
def test_task_priority_holds_back_its_class_and_below(by_cr8):
    def set_tpr(value: int) -> str:
        if by_cr8:
            return f"mov rax, {value >> 4}\nmov cr8, rax\n"
        return f"WRITE_MSR X2APIC_TPR, {value}\n"

    machine = run(
        f"""
        {set_tpr(0x40)}
        sti
        WRITE_MSR X2APIC_SELF_IPI, 0x40
        WRITE_MSR X2APIC_SELF_IPI, 0x60
        mov rbx, [RESULT + 8]
        mov rsi, [RESULT + 16]
        {set_tpr(0x30)}
        nop
        cli
        """
    )
    assert taken(machine) == (0, 1, 1)
    assert (machine.get(lay.RBX), machine.get(lay.RSI)) == (0, 1)
    assert blocked(machine)["tpr"] >= 1


def test_nmi_ignores_the_interrupt_flag():
    machine = bare_program("1: jmp 1b\n")
    machine.machine.set_event_sources(0, 20_000)
    assert machine.run(70_000) == lay.ST_OK
    assert taken(machine) == (3, 0, 0)


def test_runs_do_not_depend_on_how_they_are_cut():
    body = """
        WRITE_MSR X2APIC_LVT_TIMER, 0x40 | LVT_PERIODIC
        WRITE_MSR X2APIC_INITIAL_COUNT, 3000
        sti
        xor ebx, ebx
1:      inc rbx
        call 2f
        cmp qword ptr [RESULT + 8], 20
        jb 1b
        cli
        hlt
2:      ret
    """
    found = set()
    for steps in (7, 100, 1 << 20):
        machine = bare_program(body)
        while machine.run(steps) == lay.ST_OK:
            pass
        found.add((machine.get(lay.RBX), cycles(machine)))
    assert len(found) == 1


def test_registers_need_x2apic_mode():
    machine = Bare()
    machine.halt_handlers()
    machine.set(lay.RSP, 0x300000)
    machine.set(lay.RCX, 0x808)
    assert machine.execute(b"\x0f\x32") == lay.ST_HALT
    assert machine.vector_taken() == 13
