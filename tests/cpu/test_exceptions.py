"""Exceptions and software interrupts through the IDT: frames, IST, rings, double and triple fault."""

from __future__ import annotations

import struct

import pytest

from workbench.core import layout as lay
from workbench.guests.decode import describe_unknown

from .bare import CODE, DATA, GDT, HANDLERS, IDT, STACK, TSS, Bare

DE, BP, UD, DF, NP, GP, PF = 0, 3, 6, 8, 11, 13, 14
UNMAPPED = 64 << 20
RING3_CODE, RING3_DATA = 0x23, 0x1B
IRETQ = b"\x48\xcf"


@pytest.fixture
def bare() -> Bare:
    made = Bare()
    made.set(lay.RSP, STACK)
    made.halt_handlers()
    made.write(TSS + 0x66, b"\x68\x00")  # no I/O permission map
    return made


def enter_ring3(bare: Bare, rip: int, rsp: int, flags: int = 0x202) -> None:
    """Run IRETQ to CPL 3."""
    bare.set(lay.RSP, STACK)
    bare.write(STACK, struct.pack("<5Q", rip, RING3_CODE, flags, rsp, RING3_DATA))
    assert bare.execute(IRETQ, 1) == lay.ST_OK
    assert int(bare.cpu["cpl"][0]) == 3


@pytest.mark.parametrize(
    ("code", "vector", "error", "length"),
    [
        (b"\x31\xc9\xf7\xf1", DE, None, 0),
        (b"\xcc", BP, None, 1),
        (b"\xcd\x81", 0x81, None, 2),
        (b"\x0f\x0b", UD, None, 0),
        (b"\x0f\x01\xc1", UD, None, 0),
        (b"\x0f\x58\xc1", UD, None, 0),
        (b"\xf1", 1, None, 1),
        (b"\x48\xa1" + UNMAPPED.to_bytes(8, "little"), PF, 0, 0),
        (b"\x48\xa3" + UNMAPPED.to_bytes(8, "little"), PF, 2, 0),
        (b"\x48\xb8" + (1 << 60).to_bytes(8, "little") + b"\x8b\x00", GP, 0, 0),
        (b"\xb8\x40\x00\x00\x00\x8e\xd8", GP, 0x40, 0),
        (b"\xb9\x00\x90\x00\x00\x0f\x32", GP, 0, 0),
        (b"\x31\xc0\x0f\x22\xe0", GP, 0, 0),
    ],
)
def test_exception_frame(bare, code, vector, error, length):
    assert bare.execute(code) == lay.ST_HALT
    assert bare.vector_taken() == vector
    frame = bare.frame()
    if error is not None:
        assert frame[0] == error
        frame = frame[1:]
    rip, selector, flags, rsp, stack = frame[:5]
    start = CODE + len(code) if length else None
    assert CODE <= rip < CODE + len(code) or rip == start
    assert (selector, stack, rsp) == (0x08, 0x10, STACK)
    assert flags & 2


def test_page_fault_sets_cr2_and_present_bit(bare):
    bare.execute(b"\x48\xa3" + UNMAPPED.to_bytes(8, "little"))
    assert int(bare.cpu["cr2"][0]) == UNMAPPED


def test_interrupt_gate_clears_if_and_trap_gate_keeps_it(bare):
    for kind, kept in ((0xE, 0), (0xF, 0x200)):
        bare.set_gate(0x80, HANDLERS + 0x800, kind=kind)
        bare.flags = 0x202
        bare.set(lay.RSP, STACK)
        bare.write(CODE + 64 * kind, b"\xcd\x80")
        bare.rip = CODE + 64 * kind
        assert bare.run(10) == lay.ST_HALT
        assert bare.flags & 0x200 == kept
        assert bare.frame()[2] & 0x200


def test_iretq_returns_where_it_came_from(bare):
    bare.set_gate(0x80, HANDLERS + 0x800)
    bare.write(HANDLERS + 0x800, b"\x48\xff\xc3" + IRETQ)
    bare.set(lay.RBX, 41)
    assert bare.execute(b"\xcd\x80\x48\xff\xc3\xf4") == lay.ST_HALT
    assert bare.get(lay.RBX) == 43
    assert bare.get(lay.RSP) == STACK


def test_ist_switches_stack(bare):
    bare.write(TSS + 0x24 + 8 * 2, struct.pack("<Q", 0x310008))
    bare.set_gate(GP, HANDLERS + 16 * GP, ist=3)
    bare.execute(b"\xb8\x40\x00\x00\x00\x8e\xd8")
    assert bare.vector_taken() == GP
    assert bare.get(lay.RSP) == 0x310000 - 48


def test_interrupt_from_ring3_switches_to_rsp0_and_null_ss(bare):
    bare.write(TSS + 4, struct.pack("<Q", 0x2F0000))
    bare.set_gate(0x80, HANDLERS + 0x800, dpl=3)
    bare.write(DATA, b"\xcd\x80")
    enter_ring3(bare, DATA, 0x2A0000)
    assert bare.run(10) == lay.ST_HALT
    assert bare.vector_taken() == 0x80
    assert int(bare.cpu["cpl"][0]) == 0
    assert int(bare.cpu["seg_sel"][0, lay.SS]) == 0
    assert bare.get(lay.RSP) == 0x2F0000 - 40
    assert bare.frame()[:5] == (DATA + 2, RING3_CODE, 0x202, 0x2A0000, RING3_DATA)


def test_software_interrupt_needs_dpl(bare):
    bare.write(TSS + 4, struct.pack("<Q", 0x2F0000))
    bare.write(DATA, b"\xcd\x80")
    enter_ring3(bare, DATA, 0x2A0000)
    assert bare.run(10) == lay.ST_HALT
    assert bare.vector_taken() == GP
    assert bare.frame()[0] == 0x80 * 8 + 2


@pytest.mark.parametrize(
    "code",
    [b"\xf4", b"\xfa", b"\x0f\x20\xc0", b"\x0f\x22\xd8", b"\x0f\x30", b"\xe4\x60", b"\x0f\x01\x10",
     b"\x0f\x01\xf8", b"\x0f\x09", b"\x0f\x00\xd8", b"\x0f\x06"],
)  # fmt: skip
def test_privileged_instructions_fault_in_ring3(bare, code):
    bare.set(lay.RAX, DATA)
    bare.write(DATA, code)
    enter_ring3(bare, DATA, 0x2A0000)
    assert bare.run(10) == lay.ST_HALT
    assert bare.vector_taken() == GP


def test_supervisor_page_faults_in_ring3(bare):
    table = bare.machine.words
    index = (0x12000 >> 3) + 2  # the 2 MB page at 4 MB
    assert table[index] & 0x87 == 0x87
    table[index] &= ~4
    bare.write(DATA, b"\xa0" + (4 << 20).to_bytes(8, "little"))
    enter_ring3(bare, DATA, 0x2A0000)
    assert bare.run(10) == lay.ST_HALT
    assert bare.vector_taken() == PF
    assert bare.frame()[0] == 5


def test_syscall_and_sysret(bare):
    bare.cpu["star"] = 0x10 << 48 | 0x08 << 32
    bare.cpu["lstar"] = HANDLERS + 0x1000
    bare.cpu["sfmask"] = 0x200
    bare.write(HANDLERS + 0x1000, b"\x48\x0f\x07")
    bare.write(DATA, b"\x0f\x05\x0f\x0b")
    enter_ring3(bare, DATA, 0x2A0000)
    assert bare.run(1) == lay.ST_OK
    assert (int(bare.cpu["cpl"][0]), bare.rip) == (0, HANDLERS + 0x1000)
    assert bare.get(lay.RCX) == DATA + 2
    assert bare.flags & 0x200 == 0
    assert bare.run(1) == lay.ST_OK
    assert (int(bare.cpu["cpl"][0]), bare.rip) == (3, DATA + 2)
    assert bare.flags & 0x200
    assert int(bare.cpu["seg_sel"][0, lay.CS]) == 0x23


def test_gate_not_present_becomes_double_fault_after_contributory(bare):
    bare.write(IDT + 16 * GP + 5, b"\x0e")
    assert bare.execute(b"\xb8\x40\x00\x00\x00\x8e\xd8") == lay.ST_HALT
    assert bare.vector_taken() == DF
    assert bare.frame()[0] == 0


def test_benign_then_contributory_is_delivered_serially(bare):
    bare.write(IDT + 16 * UD + 5, b"\x0e")
    assert bare.execute(b"\x0f\x0b") == lay.ST_HALT
    assert bare.vector_taken() == NP
    assert bare.frame()[0] == UD * 8 + 2 + 1


def test_page_fault_while_delivering_page_fault_is_double_fault(bare):
    bare.write(TSS + 0x24, struct.pack("<Q", UNMAPPED))
    bare.set_gate(PF, HANDLERS + 16 * PF, ist=1)
    bare.execute(b"\xa0" + UNMAPPED.to_bytes(8, "little"))
    assert bare.vector_taken() == DF


def test_triple_fault_is_a_shutdown(bare):
    bare.cpu["idtr_limit"] = 0
    assert bare.execute(b"\x0f\x0b") == lay.ST_SHUTDOWN


def test_unknown_instruction_names_itself(bare):
    assert bare.execute(b"\x90\x0f\x58\xc1") == lay.ST_HALT
    assert bare.vector_taken() == UD
    text = describe_unknown(bare.record)
    assert "addps xmm0,xmm1" in text
    assert hex(CODE + 1) in text


def test_known_instructions_leave_no_unknown_name(bare):
    bare.execute(b"\x0f\x0b")
    assert describe_unknown(bare.record) == ""


def test_nx_page_faults_with_fetch_bit(bare):
    bare.machine.words[(0x12000 >> 3) + 2] |= -(1 << 63)
    bare.execute(b"\xb8\x00\x00\x40\x00\xff\xe0")
    assert bare.vector_taken() == PF
    assert bare.frame()[:2] == (0x11, 4 << 20)


def test_lretq_loads_cs(bare):
    bare.write(STACK - 16, struct.pack("<2Q", DATA, 0x08))
    bare.set(lay.RSP, STACK - 16)
    bare.write(DATA, b"\xf4")
    assert bare.execute(b"\x48\xcb") == lay.ST_HALT
    assert bare.rip == DATA + 1


def test_segment_load_reads_the_descriptor(bare):
    bare.write(GDT + 0x30, struct.pack("<Q", 0x12CF_9334_5678_FFFF))
    bare.set(lay.RAX, 0x30)
    assert bare.execute(b"\x8e\xe8\xf4") == lay.ST_HALT  # mov gs, eax
    assert int(bare.cpu["seg_base"][0, lay.GS]) == 0x12345678
    assert int(bare.cpu["seg_attr"][0, lay.GS]) == 0xC093


def test_ltr_marks_the_tss_busy(bare):
    bare.write(GDT + 0x28 + 5, b"\x89")
    bare.set(lay.RAX, 0x28)
    assert bare.execute(b"\x0f\x00\xd8\xf4") == lay.ST_HALT
    assert bare.read(GDT + 0x28 + 5, 1) == b"\x8b"
    bare.write(CODE + 64, b"\x0f\x00\xd8")
    bare.rip = CODE + 64
    bare.run(10)
    assert bare.vector_taken() == GP  # busy now


def test_sti_shadow_lasts_one_instruction(bare):
    bare.write(CODE, b"\xfb\x90\x90\xf4")
    bare.rip = CODE
    bare.run(1)
    assert int(bare.cpu["shadow"][0]) == 1
    bare.run(1)
    assert int(bare.cpu["shadow"][0]) == 0
    assert bare.flags & 0x200


def test_popf_cannot_change_iopl_in_ring3(bare):
    bare.write(DATA, b"\x9d\x90")
    bare.write(0x2A0000, struct.pack("<Q", 0x3CD7))
    enter_ring3(bare, DATA, 0x2A0000)
    bare.run(1)
    assert bare.flags & 0x3200 == 0x200
    assert bare.flags & 0xCD5 == 0xCD5
