"""#DB on the bare machine: single step, breakpoints, general detect (SDM vol. 3, chapter 19)."""

from __future__ import annotations

import pytest

from workbench.core import layout as lay
from workbench.core.cpu.debug import DR6_BD, DR6_BS, DR7_GD
from workbench.core.cpu.flags import RF, TF

from .bare import CODE, DATA, HANDLERS, STACK, Bare

DB, PF, UNMAPPED = 1, 14, 64 << 20
NOP, HLT, IRETQ, INT_80 = b"\x90", b"\xf4", b"\x48\xcf", b"\xcd\x80"
SET_TF = b"\x9c\x81\x0c\x24\x00\x01\x00\x00\x9d"
"""pushf; or dword ptr [rsp], 0x100; popf."""
FETCH, WRITE, READ_WRITE = 0, 1, 3


@pytest.fixture
def bare() -> Bare:
    made = Bare()
    made.set(lay.RSP, STACK)
    made.halt_handlers()
    return made


def set_debug_register(number: int, value: int) -> bytes:
    """MOV RAX, value; MOV DRn, RAX."""
    return b"\x48\xb8" + value.to_bytes(8, "little") + b"\x0f\x23" + bytes([0xC0 | number << 3])


def breakpoint_at(number: int, va: int, kind: int, length: int = 1) -> bytes:
    coded = {1: 0, 2: 1, 8: 2, 4: 3}[length]
    control = 1 << 2 * number | (kind | coded << 2) << 16 + 4 * number
    return set_debug_register(number, va) + set_debug_register(7, control)


def store_to(va: int, opcode: bytes = b"\x48\xa3") -> bytes:
    """MOV [va], RAX (or the accumulator MOV of ``opcode``)."""
    return opcode + va.to_bytes(8, "little")


def trapped(bare: Bare, code: bytes) -> int:
    """Run until the handler of #DB halts; the address in the frame, as an offset in the code."""
    assert bare.execute(code) == lay.ST_HALT
    assert bare.vector_taken() == DB
    return bare.frame()[0] - CODE


def dr6(bare: Bare) -> int:
    return int(bare.cpu["dr"][0, 6]) & (0xF | DR6_BD | DR6_BS)


def test_the_instruction_behind_the_one_that_sets_tf_traps_first(bare):
    assert trapped(bare, SET_TF + NOP + NOP + HLT) == len(SET_TF) + 1
    assert dr6(bare) == DR6_BS
    assert bare.frame()[2] & (TF | RF) == TF
    assert bare.flags & TF == 0


def test_a_handler_that_returns_steps_through_the_program(bare):
    bare.write(HANDLERS + 16 * DB, b"\x48\xff\xc3" + IRETQ)  # inc rbx
    steps = NOP * 5
    clear_tf = b"\x9c\x81\x24\x24\xff\xfe\xff\xff\x9d"
    bare.set(lay.RBX, 0)
    assert bare.execute(SET_TF + steps + clear_tf + NOP + HLT) == lay.ST_HALT
    assert bare.rip == CODE + len(SET_TF + steps + clear_tf + NOP) + 1
    assert bare.get(lay.RBX) == 5 + 3  # the POPF that clears TF traps, too


def test_an_interrupt_instruction_leaves_no_trap_to_its_handler(bare):
    assert bare.execute(SET_TF + INT_80) == lay.ST_HALT
    assert bare.vector_taken() == 0x80
    assert dr6(bare) == 0
    assert bare.frame()[2] & (TF | RF) == TF


def test_an_instruction_breakpoint_is_a_fault_that_the_handlers_return_passes(bare):
    setup = breakpoint_at(0, 0, FETCH)
    setup = breakpoint_at(0, CODE + len(setup) + 1, FETCH)
    code = setup + NOP + b"\x48\xff\xc1" + HLT  # inc rcx
    bare.set(lay.RCX, 0)
    assert trapped(bare, code) == len(setup) + 1
    assert (dr6(bare), bare.get(lay.RCX)) == (1, 0)
    assert bare.frame()[2] & RF
    bare.write(HANDLERS + 16 * DB + 8, IRETQ)
    bare.rip = HANDLERS + 16 * DB + 8
    assert bare.run(100) == lay.ST_HALT
    assert (bare.get(lay.RCX), bare.rip) == (1, CODE + len(code))
    assert bare.flags & RF == 0


@pytest.mark.parametrize(
    ("kind", "length", "offset", "opcode", "met"),
    [
        (WRITE, 8, 0, b"\x48\xa3", True),
        (WRITE, 8, 7, b"\xa2", True),
        (WRITE, 4, 4, b"\xa2", False),
        (WRITE, 1, -4, b"\xa3", False),
        (WRITE, 1, -3, b"\xa3", True),
        (WRITE, 8, 0, b"\x48\xa1", False),
        (READ_WRITE, 8, 0, b"\x48\xa1", True),
        (READ_WRITE, 2, 1, b"\xa0", True),
        (READ_WRITE, 2, 2, b"\xa0", False),
    ],
)
def test_a_data_breakpoint_traps_behind_the_access_that_overlaps_it(
    bare, kind, length, offset, opcode, met
):
    code = store_to(DATA) + breakpoint_at(2, DATA, kind, length) + store_to(DATA + offset, opcode)
    assert bare.execute(code + HLT) == lay.ST_HALT
    if met:
        assert bare.vector_taken() == DB
        assert (bare.frame()[0], dr6(bare)) == (CODE + len(code), 1 << 2)
    else:
        assert bare.rip == CODE + len(code) + 1


def test_mov_ss_holds_a_trap_back_for_an_instruction(bare):
    bare.write(DATA, b"\x10\x00")
    load_ss = b"\x8e\x14\x25" + DATA.to_bytes(4, "little")  # mov ss, [DATA]
    code = breakpoint_at(1, DATA, READ_WRITE, 2) + load_ss
    assert trapped(bare, code + NOP + NOP + HLT) == len(code) + 1
    assert dr6(bare) == 1 << 1


def test_an_access_that_faults_meets_no_breakpoint(bare):
    assert bare.execute(breakpoint_at(0, UNMAPPED, WRITE, 8) + store_to(UNMAPPED)) == lay.ST_HALT
    assert bare.vector_taken() == PF
    assert dr6(bare) == 0
    assert bare.frame()[3] & RF  # behind the error code and RIP, CS


def test_general_detect_keeps_debug_registers_from_being_touched(bare):
    setup = set_debug_register(7, DR7_GD)
    assert trapped(bare, setup + b"\x0f\x21\xc3" + HLT) == len(setup)  # mov rbx, dr0
    assert dr6(bare) == DR6_BD
    assert int(bare.cpu["dr"][0, 7]) & DR7_GD == 0


def test_without_breakpoints_the_machine_looks_no_longer(bare):
    bare.execute(breakpoint_at(0, DATA, WRITE, 8) + set_debug_register(7, 0) + NOP * 4 + HLT)
    assert int(bare.record["debug"]["armed"][0]) == lay.DEBUG_OFF
    assert int(bare.record["debug"]["data"][0]) == 0
