"""Load a guest program from a file: assembly, or the two ready-made forms a user may bring.

These are static x86-64 ELF executables and flat binaries.  Not modelled: dynamic linking,
position-independent executables, 32-bit programs.
"""

from __future__ import annotations

import io
from pathlib import Path

from ..errors import GuestError
from .assembler import assemble_file, includes
from .image import ADDRESS_LIMIT, IMAGE_BASE, Image, read_program
from .link import link

SOURCE_SUFFIXES = (".s", ".asm")
FLAT_SUFFIXES = (".bin", ".img", ".raw")


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
    if path.suffix.lower() in SOURCE_SUFFIXES:
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


def program_files(path: Path) -> list[Path]:
    """A program's file, and with assembly what it includes (:func:`assembler.includes`)."""
    if path.suffix.lower() not in SOURCE_SUFFIXES or not path.is_file():
        return [path]
    text = path.read_text(encoding="utf-8", errors="replace")
    return [path, *includes(text, path.parent)]


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
