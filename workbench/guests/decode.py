"""Guest bytes to micro-ops, block by block, at the request of the run loop (ST_DECODE).

A block runs from the requested byte to the first instruction that never falls through, to a place
already decoded, or to the end of its page; in the latter two cases a NEXT micro-op ends it.  An
instruction that crosses into the following page is guarded by STRADDLE, which checks on every pass
that the second page is still the one it was decoded from.

What a block becomes depends on its bytes alone, so blocks are remembered across machines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from iced_x86 import Decoder as IcedDecoder
from iced_x86 import DecoderError, Formatter, FormatterSyntax, Instruction

from ..core.cpu.ops import OPS
from ..core.layout import MAX_UOPS, PAGE, UOP
from .translate import translate
from .uop_fields import Fields

MAX_BLOCK = 64
"""Instructions decoded at one request."""
MAX_LENGTH = 15
_ROOM = MAX_BLOCK + 4
_NEXT = Fields(op=OPS["NEXT"]).pack(0, 0)
_NO_UOP, _INSIDE = -1, -2
_EMPTY_ROW = np.full(PAGE, _NO_UOP, np.int32).data
_INSIDE_ROW = np.full(PAGE, _INSIDE, np.int32).data
_NEXT_FIELD = UOP.fields["next"][1]  # type: ignore[index]


_REACH = (MAX_BLOCK + 1) * MAX_LENGTH
"""No block depends on more bytes than these."""
MAX_REMEMBERED = 1 << 13


class Block(NamedTuple):
    """What the bytes of a block become, wherever it lies.

    ``micro_ops``: packed, a NEXT included; ``starts``: offset of each instruction from the first;
    ``branches``: (instruction, offset of the target of its direct branch); ``length`` in bytes.
    """

    micro_ops: bytes
    starts: tuple[int, ...]
    branches: tuple[tuple[int, int], ...]
    length: int


class Decoder:
    """Serves the decode requests of one machine.

    Parameters
    ----------
    machine : numpy.ndarray
        One element of ``layout.MACHINE``.
    ram : numpy.ndarray
        The RAM buffer (uint8) that ``machine["ram"]`` points to.
    """

    _memo: dict[bytes, tuple[bytes, bool, int | None]] = {}
    _blocks: dict[bytes, Block] = {}

    def __init__(self, machine: np.ndarray, ram: np.ndarray):
        self._machine = machine
        self._ram = memoryview(ram)  # type: ignore[arg-type]
        code = machine["code"]
        self._uops = memoryview(code["uops"][0].view(np.uint8).reshape(-1))
        # single items of a memoryview take a third of the time of an array's
        self._map = memoryview(code["map"][0].reshape(-1))
        self._slot_of_page = code["slot_of_page"][0]
        self._page_of_slot = code["page_of_slot"][0]
        self._epoch = code["epoch"]
        self._used = 0
        self.instructions_decoded = 0
        self.drop_all()

    def drop_all(self) -> None:
        """Forget all decoded code."""
        self._slot_of_page[self._page_of_slot[self._page_of_slot >= 0]] = 0
        self._page_of_slot[:] = -1
        self._epoch[0] += 1
        self._machine["code_page"][0] = -1
        self._used = 0

    def service(self) -> None:
        """Decode at ``machine["decode_host"]`` so that the run loop can go on."""
        host = int(self._machine["decode_host"][0])
        following = int(self._machine["decode_next"][0])
        page, offset = divmod(host, PAGE)
        self._make_room()
        slot = self._slot(page)
        data = bytes(self._ram[host : (page + 1) * PAGE])
        if following >= 0 and self._decode_straddling(slot, offset, data, following):
            return
        self._decode_block(slot, offset, data)
        self._machine["code_page"][0] = -1

    # ------------------------------------------------------------ space

    def _make_room(self) -> None:
        free = np.count_nonzero(self._page_of_slot < 0)
        if self._used + _ROOM > MAX_UOPS or free < 2:
            self.drop_all()

    def _slot(self, page: int) -> int:
        """Slot of a page of RAM; a new one takes the page out of the fast write path."""
        slot = int(self._slot_of_page[page]) - 1
        if slot < 0:
            slot = int(np.argmax(self._page_of_slot < 0))
            self._page_of_slot[slot] = page
            self._slot_of_page[page] = slot + 1
            self._row(slot)[:] = _EMPTY_ROW
            self._machine["tlb"]["fast_write"][0][:] = -1
        return slot

    def _row(self, slot: int) -> memoryview:
        """The map of a slot's page: byte offset -> micro-op."""
        return self._map[slot * PAGE : (slot + 1) * PAGE]

    def _append(self, packed: bytes) -> int:
        """Put micro-ops behind those that are there; the index of the first."""
        index = self._used
        start = index * UOP.itemsize
        self._uops[start : start + len(packed)] = packed
        self._used = index + len(packed) // UOP.itemsize
        return index

    # ------------------------------------------------------------ blocks

    def _micro_op(self, i: Instruction, raw: bytes) -> tuple[bytes, bool, int | None]:
        """Packed micro-op, does it end a block, displacement of a direct branch."""
        made = self._memo.get(raw)
        if made is None:
            fields, ends = translate(i)
            fetch = int.from_bytes(raw[:8].ljust(8, b"\0"), "little", signed=True)
            made = (fields.pack(len(raw), fetch), ends, fields.target)
            if len(self._memo) > 1 << 17:
                self._memo.clear()
            self._memo[raw] = made
        return made

    def _decode_block(self, slot: int, offset: int, data: bytes) -> None:
        row, key = self._row(slot), data[:_REACH]
        block = self._blocks.get(key)
        if block is not None and row[offset : offset + block.length] == _EMPTY_ROW[: block.length]:
            self._place(block, row, offset)
            return
        block = self._decode_anew(row, offset, data)
        if block is not None:
            if len(self._blocks) >= MAX_REMEMBERED:
                self._blocks.clear()
            self._blocks[key] = block

    def _place(self, block: Block, row: memoryview, offset: int) -> None:
        """Enter a remembered block into a part of a page's map where nothing is decoded yet."""
        first = self._append(block.micro_ops)
        row[offset : offset + block.length] = _INSIDE_ROW[: block.length]
        for number, start in enumerate(block.starts, first):
            row[offset + start] = number
        for number, target in block.branches:
            self._chain(row, first + number, offset + target)
        self.instructions_decoded += len(block.starts)

    def _decode_anew(self, row: memoryview, offset: int, data: bytes) -> Block | None:
        """Decode a block; None when it ran into decoded code, or is the guard of a straddling one."""
        iced = IcedDecoder(64, data, ip=0)
        instruction = Instruction()
        position, ends, complete = 0, False, True
        made: list[bytes] = []
        starts: list[int] = []
        branches: list[tuple[int, int]] = []
        for _ in range(MAX_BLOCK):
            here = offset + position
            if here >= PAGE:
                break
            if position and row[here] >= 0:
                complete = False
                break
            iced.decode_out(instruction)
            if iced.last_error == DecoderError.NO_MORE_BYTES:
                if position:
                    break
                row[here] = self._append(_straddle(-1, -1))
                for k in range(here + 1, PAGE):
                    if row[k] < 0:
                        row[k] = _INSIDE
                return None
            raw = data[position : position + instruction.len]
            packed, ends, branch = self._micro_op(instruction, raw)
            made.append(packed)
            starts.append(position)
            index = self._append(packed)
            self._mark(row, here, len(raw), index)
            position += len(raw)
            if branch is not None:
                branches.append((len(made) - 1, position + branch))
                self._chain(row, index, offset + position + branch)
            self.instructions_decoded += 1
            if ends:
                break
        if not ends:
            made.append(_NEXT)
            self._append(_NEXT)
        found = Block(b"".join(made), tuple(starts), tuple(branches), position)
        return found if complete else None

    def _mark(self, row: memoryview, start: int, length: int, index: int) -> None:
        """Enter an instruction into the page's map."""
        row[start] = index
        for k in range(start + 1, min(start + length, PAGE)):
            if row[k] == _NO_UOP:
                row[k] = _INSIDE

    def _chain(self, row: memoryview, index: int, target: int) -> None:
        """A direct branch to code of this page that is already decoded needs no look-up."""
        if 0 <= target < PAGE and 0 <= row[target] <= index:
            at = index * UOP.itemsize + _NEXT_FIELD
            self._uops[at : at + 4] = row[target].to_bytes(4, "little")

    def _decode_straddling(self, slot: int, offset: int, data: bytes, following: int) -> bool:
        """Decode one instruction with bytes of the next page; False when it does not need them."""
        if len(data) >= MAX_LENGTH:
            return False
        second = bytes(self._ram[following : following + MAX_LENGTH])
        iced = IcedDecoder(64, data + second, ip=0)
        instruction = iced.decode()
        if instruction.len <= len(data):
            return False
        raw = (data + second)[: instruction.len]
        packed, ends, _ = self._micro_op(instruction, raw)
        second_row = self._row(self._slot(following // PAGE))
        self._mark_tail(second_row, len(raw) - len(data))
        guard = self._append(_straddle(following, int(self._epoch[0])))
        self._append(packed)
        if not ends:
            self._append(_NEXT)
        self._mark(self._row(slot), offset, len(raw), guard)
        self.instructions_decoded += 1
        self._machine["code_page"][0] = -1
        return True

    def _mark_tail(self, row: memoryview, length: int) -> None:
        for k in range(length):
            if row[k] == _NO_UOP:
                row[k] = _INSIDE


def _straddle(following: int, epoch: int) -> bytes:
    """The guard: RAM offset of the second page and the epoch of the decoding."""
    return Fields(op=OPS["STRADDLE"], imm=following).pack(0, epoch)


def describe_unknown(machine: np.ndarray) -> str:
    """The last instruction that the machine did not know, as text; empty when there was none."""
    if not int(machine["unknown_count"][0]):
        return ""
    raw = int(machine["unknown_bytes"][0]).to_bytes(8, "little", signed=True) + bytes(7)
    rip = int(machine["unknown_rip"][0])
    instruction = IcedDecoder(64, raw, ip=rip & (1 << 64) - 1).decode()
    shown = raw[: instruction.len if not instruction.is_invalid else 8].hex(" ")
    text = Formatter(FormatterSyntax.NASM).format(instruction)
    return f"{text} (bytes {shown}) at {rip & (1 << 64) - 1:#x}"
