"""Link one relocatable object at a fixed address.

Code and read-only data come first, writable data starts on a page of its own: a store to a page
that holds code makes the machine drop what it has decoded there.

Not modelled: several objects, common symbols, thread-local storage, position-independent code.
"""

from __future__ import annotations

import struct
from typing import Any

from ..errors import AssemblyError
from .image import ADDRESS_LIMIT, IMAGE_BASE, Image

PAGE = 4096
ENTRY = "_start"
LINES_SECTION = ".workbench.lines"
"""Pairs (address, line number) that the assembler leaves for every source line."""

SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4

# relocation type -> (bytes, relative to its own place, lowest value, first value too large):
# System V ABI, AMD64 supplement, table 4.9
RELOCATIONS = {
    1: (8, False, -(1 << 63), 1 << 64),  # R_X86_64_64
    2: (4, True, -(1 << 31), 1 << 31),  # R_X86_64_PC32
    4: (4, True, -(1 << 31), 1 << 31),  # R_X86_64_PLT32
    10: (4, False, 0, 1 << 32),  # R_X86_64_32
    11: (4, False, -(1 << 31), 1 << 31),  # R_X86_64_32S
    12: (2, False, 0, 1 << 16),  # R_X86_64_16
    13: (2, True, -(1 << 15), 1 << 15),  # R_X86_64_PC16
    14: (1, False, 0, 1 << 8),  # R_X86_64_8
    15: (1, True, -(1 << 7), 1 << 7),  # R_X86_64_PC8
    24: (8, True, -(1 << 63), 1 << 63),  # R_X86_64_PC64
}


class LinkError(AssemblyError):
    """A program that cannot be linked; ``mark`` is the number of the source line, if known."""

    mark: int | None = None


def link(elf: Any, name: str, base: int = IMAGE_BASE) -> Image:
    """Place the sections of ``elf`` from ``base`` on and resolve its relocations.

    Parameters
    ----------
    elf : elftools.elf.elffile.ELFFile
        A relocatable x86-64 object.
    name : str
        Name of the image.
    base : int
        Address of the first section.

    Raises
    ------
    LinkError
        An undefined symbol, an unsupported relocation, or a program that is too large.
    """
    sections = list(elf.iter_sections())
    symbols = elf.get_section_by_name(".symtab")
    places, end = _place(sections, base)
    content = {i: bytearray(_bytes(sections[i])) for i in places}
    relocations = {s["sh_info"]: s for s in sections if s["sh_type"] == "SHT_RELA" and s["sh_size"]}
    marks = _marks(sections, relocations, symbols, places)
    for i in places:
        if i in relocations:
            _relocate(relocations[i], content[i], places[i], symbols, places, marks)
    code = tuple(
        (places[i], places[i] + len(content[i]))
        for i in places
        if sections[i]["sh_flags"] & SHF_EXECINSTR and content[i]
    )
    if not code:
        raise LinkError("no instructions", "Put the program into .text.")
    labels = _labels(symbols, places)
    segments = tuple((places[i], bytes(content[i])) for i in places if content[i])
    lines = {
        address: ("", mark)
        for address, mark in marks
        if any(start <= address < stop for start, stop in code)
    }
    return Image(name, labels.get(ENTRY, code[0][0]), segments, end, labels, code, lines)


def _place(sections: list, base: int) -> tuple[dict[int, int], int]:
    """Address of each section that takes memory, in address order, and the end of them all."""

    def order(i: int) -> tuple:
        flags = sections[i]["sh_flags"]
        zero = sections[i]["sh_type"] == "SHT_NOBITS"
        return (bool(flags & SHF_WRITE), not flags & SHF_EXECINSTR, zero, i)

    members = [i for i, s in enumerate(sections) if s["sh_flags"] & SHF_ALLOC]
    places: dict[int, int] = {}
    address, writable = base, False
    for i in sorted(members, key=order):
        align = max(sections[i]["sh_addralign"], 1)
        if sections[i]["sh_flags"] & SHF_WRITE and not writable:
            writable, align = True, max(align, PAGE)
        address = -(-address // align) * align
        places[i] = address
        address += sections[i]["sh_size"]
        if address > ADDRESS_LIMIT:
            raise LinkError(f"the program needs more than {ADDRESS_LIMIT >> 20} MB of memory")
    return places, address


def _bytes(section: Any) -> bytes:
    return b"" if section["sh_type"] == "SHT_NOBITS" else section.data()


def _relocate(
    section: Any,
    content: bytearray,
    base: int,
    symbols: Any,
    places: dict[int, int],
    marks: list[tuple[int, int]],
) -> None:
    """Write the final addresses into one section's bytes."""
    for entry in section.iter_relocations():
        kind, offset = entry["r_info_type"], entry["r_offset"]
        if kind == 0:
            continue
        symbol = symbols.get_symbol(entry["r_info_sym"])
        home = symbol["st_shndx"]
        if home != "SHN_ABS" and home not in places:
            raise _located(
                LinkError(
                    f"undefined symbol {symbol.name!r}",
                    "Define it in this file or include the file that does.",
                ),
                base + offset,
                marks,
            )
        if kind not in RELOCATIONS:
            raise _located(
                LinkError(f"relocation type {kind} is not supported", "Use plain addresses."),
                base + offset,
                marks,
            )
        size, relative, low, high = RELOCATIONS[kind]
        value = places.get(home, 0) + symbol["st_value"] + entry["r_addend"]
        value -= base + offset if relative else 0
        if not low <= value < high or offset + size > len(content):
            raise _located(
                LinkError(f"the address 0x{value & (1 << 64) - 1:x} does not fit its field"),
                base + offset,
                marks,
            )
        content[offset : offset + size] = struct.pack("<Q", value & (1 << 64) - 1)[:size]


def _located(error: LinkError, address: int, marks: list[tuple[int, int]]) -> LinkError:
    before = [(a, i) for i, (a, _) in enumerate(marks) if a <= address]
    error.mark = marks[max(before)[1]][1] if before else None
    return error


def _labels(symbols: Any, places: dict[int, int]) -> dict[str, int]:
    found = {
        s.name: places[s["st_shndx"]] + s["st_value"]
        for s in symbols.iter_symbols()
        if s.name and s["st_shndx"] in places and s["st_info"]["type"] != "STT_SECTION"
    }
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def _marks(
    sections: list, relocations: dict[int, Any], symbols: Any, places: dict[int, int]
) -> list[tuple[int, int]]:
    """(address, line number) of every source line, in the order of the text."""
    index = next((i for i, s in enumerate(sections) if s.name == LINES_SECTION), None)
    if index is None:
        return []
    content = bytearray(sections[index].data())
    if index in relocations:
        _relocate(relocations[index], content, 0, symbols, places, [])
    return list(struct.iter_unpack("<QQ", bytes(content[: len(content) // 16 * 16])))
