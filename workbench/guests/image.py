"""A guest program ready to be put into memory: bytes at addresses, entry, symbols, listing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..errors import GuestError

IMAGE_BASE = 0x100000
"""Address at which every assembled program and flat binary is placed; below it lies what the
loader prepares (GDT, TSS, parameter page, page tables, stack)."""
ADDRESS_LIMIT = 1 << 30
"""First address a guest image cannot use: one bank of memory per guest."""
MAX_FILE_BYTES = 64 << 20


class Line(NamedTuple):
    """One instruction of a program."""

    address: int
    code: bytes
    text: str
    file: str = ""
    line: int = 0

    @property
    def mnemonic(self) -> str:
        """First word of the instruction (a repeat or lock prefix counts as a word)."""
        return self.text.split(maxsplit=1)[0]


@dataclass(frozen=True)
class Image:
    """A program linked at fixed addresses; immutable.

    Attributes
    ----------
    name : str
        What to call it in messages.
    entry : int
        Address of the first instruction.
    segments : tuple of (int, bytes)
        What to copy where; memory not named here starts as zero.
    end : int
        First address behind the program, its zero-initialised data included.
    symbols : mapping of str to int
        Labels.
    code : tuple of (int, int)
        Address ranges (start, stop) that hold instructions.
    lines : mapping of int to (str, int)
        File and line that an address was assembled from.
    """

    name: str
    entry: int
    segments: tuple[tuple[int, bytes], ...]
    end: int
    symbols: Mapping[str, int] = field(default_factory=dict, hash=False)
    code: tuple[tuple[int, int], ...] = ()
    lines: Mapping[int, tuple[str, int]] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", MappingProxyType(dict(self.symbols)))
        object.__setattr__(self, "lines", MappingProxyType(dict(self.lines)))

    def __reduce__(self) -> tuple:
        return Image, (self.name, self.entry, self.segments, self.end, dict(self.symbols),
                       self.code, dict(self.lines))  # fmt: skip

    def read(self, address: int, length: int) -> bytes:
        """Bytes of the image; ``length`` zeros where it defines none."""
        for start, content in self.segments:
            if start <= address < start + len(content):
                return content[address - start : address - start + length].ljust(length, b"\0")
        return bytes(length)

    @cached_property
    def listing(self) -> tuple[Line, ...]:
        """Every instruction in address order, as iced-x86 decodes it, with its source line."""
        return tuple(line for start, stop in self.code for line in self._disassemble(start, stop))

    def listing_between(self, start: str, stop: str) -> tuple[Line, ...]:
        """The instructions from label ``start`` up to, not including, label ``stop``."""
        first, last = self.symbol(start), self.symbol(stop)
        return tuple(line for line in self.listing if first <= line.address < last)

    def symbol(self, name: str) -> int:
        """Address of a label."""
        try:
            return self.symbols[name]
        except KeyError:
            raise GuestError(f"{self.name} has no label {name!r}") from None

    def _disassemble(self, start: int, stop: int) -> list[Line]:
        from iced_x86 import Decoder, Formatter, FormatterSyntax  # here: slow to import

        content = self.read(start, stop - start)
        decoder = Decoder(64, content, ip=start)
        formatter = Formatter(FormatterSyntax.INTEL)
        formatter.hex_prefix, formatter.hex_suffix = "0x", ""
        return [
            Line(
                insn.ip,
                content[insn.ip - start : insn.ip - start + insn.len],
                formatter.format(insn),
                *self.lines.get(insn.ip, ("", 0)),
            )
            for insn in decoder
        ]


def read_program(path: Path) -> bytes:
    """Content of a guest's file, with one clear error for what can go wrong."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise GuestError(
                f"{path}: larger than {MAX_FILE_BYTES >> 20} MB", "Is this a guest program?"
            )
        content = path.read_bytes()
    except OSError as error:
        raise GuestError(
            f"{path}: cannot be read ({error.strerror or error})", "Check the path of the guest."
        ) from None
    if not content:
        raise GuestError(f"{path}: the file is empty", "Give a file with a program in it.")
    return content
