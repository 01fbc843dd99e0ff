"""A guest program ready to be put into memory: bytes at addresses, entry, symbols, listing.

Also reads the two ready-made forms a user may bring: static x86-64 ELF executables and flat
binaries.  Not modelled: dynamic linking, position-independent executables, 32-bit programs.
"""

from __future__ import annotations

import io
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
FLAT_SUFFIXES = (".bin", ".img", ".raw")


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


def load_image(path: str | Path) -> Image:
    """Load a guest program: assembly (.S, .s, .asm), static ELF, or flat binary (.bin, .img, .raw).

    Parameters
    ----------
    path : str or Path
        The file.

    Raises
    ------
    GuestError
        The file is missing, unreadable, or not a program the machine can run.
    AssemblyError
        The file is assembly with an error in it.
    """
    path = Path(path)
    if path.suffix.lower() in (".s", ".asm"):
        from .assembler import assemble_file

        return assemble_file(path)
    content = read_program(path)
    if content[:4] == b"\x7fELF":
        return _load_elf(path, content)
    if path.suffix.lower() in FLAT_SUFFIXES:
        return flat_image(content, path.name)
    raise GuestError(
        f"{path}: neither assembly nor an ELF executable",
        "Give a .S file, a static x86-64 ELF, or a flat binary named .bin, .img or .raw.",
    )


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


def flat_image(content: bytes, name: str = "flat binary") -> Image:
    """A flat binary: placed at, and entered at, :data:`IMAGE_BASE`."""
    end = IMAGE_BASE + len(content)
    return Image(name, IMAGE_BASE, ((IMAGE_BASE, content),), end, code=((IMAGE_BASE, end),))


def _load_elf(path: Path, content: bytes) -> Image:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        return _elf_image(path, ELFFile(io.BytesIO(content)), len(content))
    except GuestError:
        raise
    except (ELFError, ValueError, KeyError, OverflowError, MemoryError, AttributeError,
            TypeError, IndexError, AssertionError, RecursionError, OSError) as error:  # fmt: skip
        raise GuestError(
            f"{path}: damaged ELF file ({error or type(error).__name__})", "Build it again."
        ) from None


def _elf_image(path: Path, elf, file_bytes: int) -> Image:
    kind, machine = elf["e_type"], elf["e_machine"]
    if elf.elfclass != 64 or machine != "EM_X86_64":
        raise GuestError(
            f"{path}: an ELF file for {machine}, {elf.elfclass} bit", "Build it for x86-64."
        )
    if kind == "ET_REL":
        from .link import link

        return link(elf, path.name)
    link_hint = f"Link it at a fixed address: ld -static -no-pie -Ttext=0x{IMAGE_BASE:x}"
    if kind != "ET_EXEC" or any(s["p_type"] == "PT_INTERP" for s in elf.iter_segments()):
        raise GuestError(f"{path}: not a static executable ({kind})", link_hint)
    loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_memsz"]]
    # the first page of an ELF file (headers) is often loaded below the text: leave it out
    loads = [s for s in loads if s["p_vaddr"] + s["p_memsz"] > IMAGE_BASE] or loads
    if not loads:
        raise GuestError(f"{path}: no loadable segment", link_hint)
    for segment in loads:
        start, stop = segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"]
        if start < IMAGE_BASE or stop > ADDRESS_LIMIT:
            raise GuestError(
                f"{path}: a segment at 0x{start:x}..0x{stop:x} lies outside "
                f"0x{IMAGE_BASE:x}..0x{ADDRESS_LIMIT:x}",
                link_hint,
            )
        if segment["p_offset"] + segment["p_filesz"] > file_bytes:
            raise GuestError(f"{path}: the file ends inside a segment", "Copy or build it again.")
    entry = elf["e_entry"]
    code = tuple(sorted(
        (s["p_vaddr"], s["p_vaddr"] + s["p_filesz"]) for s in loads if s["p_flags"] & 1
    ))  # fmt: skip
    if not any(start <= entry < stop for start, stop in code):
        raise GuestError(f"{path}: its entry 0x{entry:x} is not in a code segment", link_hint)
    return Image(
        path.name,
        entry,
        tuple(sorted((s["p_vaddr"], s.data()) for s in loads)),
        max(s["p_vaddr"] + s["p_memsz"] for s in loads),
        _elf_symbols(elf),
        code,
    )


def _elf_symbols(elf) -> dict[str, int]:
    table = elf.get_section_by_name(".symtab")
    if table is None:
        return {}
    return {
        s.name: s["st_value"]
        for s in table.iter_symbols()
        if s.name
        and s["st_info"]["type"] in ("STT_NOTYPE", "STT_FUNC", "STT_OBJECT")
        and isinstance(s["st_shndx"], int)
    }
