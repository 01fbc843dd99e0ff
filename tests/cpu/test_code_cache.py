"""Decoded code follows the bytes: self-modifying code, page straddling, overflow of the tables."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.core import layout as lay
from workbench.guests.decode import Decoder

from .bare import CODE, DATA, STACK, Bare

PAGE = 4096


@pytest.fixture
def bare() -> Bare:
    made = Bare()
    made.set(lay.RSP, STACK)
    made.halt_handlers()
    return made


def test_code_that_changes_the_next_instruction(bare):
    # mov byte [rip+1], 7 ; mov al, 1 ; hlt
    assert bare.execute(b"\xc6\x05\x01\x00\x00\x00\x07\xb0\x01\xf4") == lay.ST_HALT
    assert bare.get(lay.RAX) == 7


def test_code_that_changes_a_loop_body(bare):
    # loop: mov eax, 0 ; add [rip-9], ... rewrites its own immediate each time round
    body = b"\xb8\x00\x00\x00\x00"  # mov eax, imm32
    body += b"\x83\x05" + (-11).to_bytes(4, "little", signed=True) + b"\x03"  # add dword [imm], 3
    body += b"\xff\xc9"
    body += b"\x75" + (-len(body) - 2 & 0xFF).to_bytes(1, "little")
    bare.set(lay.RCX, 50)
    assert bare.execute(body + b"\xf4") == lay.ST_HALT
    assert bare.get(lay.RAX) == 49 * 3
    assert int(bare.record["code"]["invalidations"][0]) >= 49


@pytest.mark.parametrize("write", [b"\x88\x07", b"\xaa", b"\x48\x89\x07", b"\x00\x07"])
def test_every_kind_of_store_invalidates(bare, write):
    target = CODE + 0x100
    bare.write(target, b"\xb3\x05" + b"\x90" * 16 + b"\xc3")
    code = b"\xff\xd6" + write + b"\xff\xd6\xf4"
    bare.set(lay.RSI, target)
    bare.set(lay.RDI, target + 1)
    bare.set(lay.RAX, 0x9090909090909077)
    assert bare.execute(code) == lay.ST_HALT
    assert bare.get(lay.RBX) & 0xFF == (0x7C if write == b"\x00\x07" else 0x77)


def test_data_in_a_code_page_does_not_invalidate(bare):
    code = b"\x48\x89\x07\xff\xc9\x75\xf9\xf4"
    bare.set(lay.RDI, CODE + 0x800)
    bare.set(lay.RCX, 100)
    assert bare.execute(code) == lay.ST_HALT
    assert int(bare.record["code"]["invalidations"][0]) == 0


def test_jump_into_the_middle_of_an_instruction(bare):
    # mov eax, 0xf4c3ff90 ; jmp back into its immediate: nop ; inc ebx ; hlt
    code = b"\xb8\x90\xff\xc3\xf4\xeb\xfa"
    bare.set(lay.RBX, 1)
    assert bare.execute(code) == lay.ST_HALT
    assert bare.get(lay.RBX) == 2


def test_instruction_across_two_pages(bare):
    start = CODE + PAGE - 5
    bare.write(start, b"\x48\xb8" + bytes(range(1, 9)) + b"\xf4")
    bare.rip = start
    assert bare.run(10) == lay.ST_HALT
    assert bare.get(lay.RAX) == int.from_bytes(bytes(range(1, 9)), "little")


def test_straddling_instruction_in_a_loop_follows_both_pages(bare):
    start = CODE + PAGE - 3
    # mov eax, imm32 (2 bytes of it in the next page) ; mov [rdi], cl ; dec ecx ; jnz
    body = b"\xb8\x00\x00\x00\x00\x88\x0f\xff\xc9\x75"
    bare.write(start, body + bytes((-len(body) - 1 & 0xFF,)) + b"\xf4")
    bare.set(lay.RDI, start + 4)
    bare.set(lay.RCX, 10)
    bare.rip = start
    assert bare.run(1000) == lay.ST_HALT
    assert bare.get(lay.RAX) == 2 << 24


def test_straddling_block_reached_in_sequence_decodes_once(bare):
    start = CODE + PAGE - 6
    body = b"\x48\xff\xc3" + b"\xb8\x11\x22\x33\x44" + b"\xff\xc9\x75"
    bare.write(start, body + bytes((-len(body) - 1 & 0xFF,)) + b"\xf4")
    bare.set(lay.RCX, 1000)
    bare.set(lay.RBX, 0)
    bare.rip = start
    assert bare.run(100_000) == lay.ST_HALT
    assert bare.get(lay.RBX) == 1000
    assert bare.decoder.instructions_decoded < 20


def test_fault_on_the_second_page_reports_its_address(bare):
    bare.rip = 8 * (1 << 20) - 3
    bare.write(bare.rip, b"\xb8\x00\x00")
    assert bare.run(10) == lay.ST_HALT
    assert bare.vector_taken() == 14
    assert bare.word(bare.get(lay.RSP) + 8) == 8 * (1 << 20) - 3
    assert int(bare.cpu["cr2"][0]) == 8 * (1 << 20)


def test_same_code_through_two_addresses(bare):
    bare.machine.words[(0x12000 >> 3) + 3] = bare.machine.words[(0x12000 >> 3) + 0]
    bare.write(CODE, b"\x48\x8d\x05\x00\x00\x00\x00\xc3")
    bare.write(DATA, b"\xff\xd6\x48\x89\xc3\xff\xd7\xf4")
    bare.set(lay.RSI, CODE)
    bare.set(lay.RDI, CODE + (6 << 20))
    bare.rip = DATA
    assert bare.run(100) == lay.ST_HALT
    assert bare.get(lay.RBX) == CODE + 7
    assert bare.get(lay.RAX) == CODE + (6 << 20) + 7


def test_tables_overflow_without_harm():
    bare = Bare(megabytes=16)
    pages = lay.CODE_SLOTS + 40
    for n in range(pages):
        at = 0x400000 + n * PAGE
        bare.write(at, b"\x48\xff\xc3\xe9" + (PAGE - 8).to_bytes(4, "little"))
    bare.write(
        0x400000 + pages * PAGE,
        b"\xff\xc9\x74\x05\xe9"
        + (-(pages * PAGE) - 9).to_bytes(4, "little", signed=True)
        + b"\xf4",
    )
    bare.set(lay.RCX, 3)
    bare.set(lay.RBX, 0)
    bare.rip = 0x400000
    assert bare.run(10_000) == lay.ST_HALT
    assert bare.get(lay.RBX) == 3 * pages


def test_micro_op_table_overflow():
    bare = Bare(megabytes=16)
    code = np.full(0x60000, 0x90, np.uint8).tobytes()
    bare.write(0x400000, code + b"\xf4")
    bare.rip = 0x400000
    assert bare.run(1 << 20) == lay.ST_HALT
    assert bare.rip == 0x400000 + len(code) + 1


def test_two_decoders_share_nothing():
    first, second = Bare(), Bare()
    for bare, value in ((first, 1), (second, 2)):
        bare.execute(b"\xb0" + bytes((value,)) + b"\xf4")
    assert (first.get(lay.RAX), second.get(lay.RAX)) == (1, 2)
    assert isinstance(first.decoder, Decoder)


def test_a_remembered_block_leaves_the_map_and_the_micro_ops_of_a_decoded_one():
    # inc eax; the loop's head: dec ecx; jnz head; then a jump over to hlt
    code = bytes.fromhex("ffc0 ffc9 75fc eb02 9090 f4")
    kept = []
    Decoder._blocks.clear()
    for _ in range(3):
        bare = Bare()
        bare.write(CODE, code)
        bare.set(lay.RCX, 5)
        bare.rip = CODE
        assert bare.run(1000) == lay.ST_HALT
        assert bare.get(lay.RAX) == 1
        found = bare.record["code"]
        slot = int(found["slot_of_page"][0, CODE // PAGE]) - 1
        kept.append((found["map"][0, slot].tobytes(), found["uops"][0, :32].tobytes()))
    assert Decoder._blocks
    assert kept[0] == kept[1] == kept[2]


def test_a_remembered_block_stops_at_code_that_is_decoded_already():
    """The second way in meets the first block's code: its own copy there would not be chained."""
    code = bytes.fromhex("ffc0 ffc3 ffc1 f4")
    for first in (CODE + 4, CODE):
        bare = Bare()
        bare.write(CODE, code)
        for rip in (first, CODE, CODE + 2):
            bare.rip = rip
            assert bare.run(100) == lay.ST_HALT
        assert bare.decoder.instructions_decoded <= 4
