"""Assemble guest programs with the LLVM that numba brings along, outside of this process.

The text may use Intel syntax (``.intel_syntax noprefix``) or AT&T syntax, macros, ``.rept`` and
``.include "file"`` (looked up beside the including file, then in data/guests/include).  Results
are cached by content.  On processors other than x86 llvmlite has no x86 parser; there a ``clang``
on the PATH does the same work.

Not modelled: several object files; a program is one text.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import AssemblyError, GuestError
from ..paths import cache_dir, data_dir, write_atomically
from .image import Image, read_program
from .link import LinkError, link

CACHE_VERSION = 1
MAX_INCLUDE_DEPTH = 16
MAX_LINES = 200_000
TIMEOUT_SECONDS = 30.0
_CHILD = Path(__file__).with_name("_llvm_child.py")
_INCLUDE = re.compile(r'^\s*\.include\s+"([^"]*)"\s*(?:(?:#|//).*)?$')
_INCBIN = re.compile(r"^[^#]*\.incbin\b")
_MESSAGE = re.compile(
    r"^(?:error: )?<(?:inline asm|stdin|instantiation)>:(\d+):\d+: (?:error: )?(.*)$", re.MULTILINE
)
_MARK = '8191: .pushsection .workbench.lines,"",@progbits; .quad 8191b, {}; .popsection; '
"""Before each line: note the address that it starts at (see link.LINES_SECTION)."""
_MARKED = re.compile(r"\.quad 8191b, (\d+); \.popsection;")


class SourceLine(NamedTuple):
    """One line of the text after all includes, and where it came from."""

    file: str
    number: int
    text: str


def assemble_file(path: str | Path, timeout: float = TIMEOUT_SECONDS) -> Image:
    """Assemble a file; see :func:`assemble`."""
    path = Path(path)
    return _assemble(_expand(path, _decode(path), 0), path.name, timeout)


def assemble(
    text: str, name: str = "<text>", folder: str | Path = ".", timeout: float = TIMEOUT_SECONDS
) -> Image:
    """Assemble ``text`` and link it at ``IMAGE_BASE``.

    Parameters
    ----------
    text : str
        The program; it starts at label ``_start``, or at the beginning of ``.text``.
    name : str
        What to call it in messages.
    folder : str or Path
        Where ``.include`` looks first.
    timeout : float
        Seconds after which the assembler is stopped.

    Returns
    -------
    Image
        The linked program.

    Raises
    ------
    AssemblyError
        With file, line, that line's text and LLVM's message.
    """
    return _assemble(_expand(Path(folder) / name, text, 0, name), name, timeout)


def _assemble(lines: list[SourceLine], name: str, timeout: float) -> Image:
    digest = hashlib.sha256(
        json.dumps([CACHE_VERSION, name, lines]).encode("utf-8", "surrogatepass")
    ).hexdigest()
    place = cache_dir() / "guests" / f"{digest}.json"
    image = _from_cache(place)
    if image is None:
        image = _link(_run_llvm(lines, timeout), lines, name)
        _to_cache(place, image)
    return image


# ------------------------------------------------------------------------ text


def _decode(path: Path) -> str:
    try:
        return read_program(path).decode("utf-8")
    except UnicodeDecodeError:
        raise AssemblyError(
            f"{path}: not a text file", "Save it as UTF-8.", file=str(path)
        ) from None


def _expand(path: Path, text: str, depth: int, shown: str = "") -> list[SourceLine]:
    """The lines of ``text`` with every .include replaced by the file it names."""
    shown = shown or str(path)
    found: list[SourceLine] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        here = SourceLine(shown, number, line)
        include = _INCLUDE.match(line)
        if "\0" in line:
            raise _error(here, "the line contains a NUL byte", "Is this a text file?")
        if _INCBIN.match(line):
            raise _error(here, ".incbin is not supported", "Write the data with .byte or .quad.")
        if not include:
            found.append(here)
            continue
        if depth >= MAX_INCLUDE_DEPTH:
            raise _error(here, "files include each other too deeply", "Does a file include itself?")
        target = _find_include(here, path.parent, include[1])
        found += _expand(target, _decode(target), depth + 1)
        if len(found) > MAX_LINES:
            raise _error(here, f"more than {MAX_LINES} lines after all includes")
    return found


def includes(text: str, folder: Path) -> list[Path]:
    """Every place where the text's ``.include``s, and theirs, are looked for; not all are there."""
    found: dict[Path, None] = {}
    todo = [(text, folder)]
    while todo:
        text, folder = todo.pop()
        for include in filter(None, map(_INCLUDE.match, text.splitlines())):
            for place in _places(folder, include[1]):
                if place not in found and place.is_file():
                    inside = place.read_text(encoding="utf-8", errors="replace")
                    todo.append((inside, place.parent))
                found[place] = None
    return list(found)


def _places(folder: Path, name: str) -> list[Path]:
    return [folder / name, data_dir() / "guests" / "include" / name]


def _find_include(here: SourceLine, folder: Path, name: str) -> Path:
    for place in _places(folder, name):
        if place.is_file():
            return place
    raise _error(here, f"cannot find {name!r}", f"Put it beside {here.file}, or correct the name.")


def _error(where: SourceLine, message: str, hint: str = "") -> AssemblyError:
    return AssemblyError(
        f"{where.file}:{where.number}: {message}\n    {where.text.strip()}",
        hint,
        file=where.file,
        line=where.number,
        source=where.text,
    )


# ------------------------------------------------------------------------ LLVM


def _command() -> list[str]:
    if platform.machine().lower() in ("x86_64", "amd64", "i686", "x86"):
        return [sys.executable, "-P", str(_CHILD)]
    clang = shutil.which("clang")
    if clang is None:
        raise GuestError(
            f"assembling x86 programs on {platform.machine()} needs clang",
            "Install clang (on macOS: xcode-select --install), or load an ELF executable instead.",
        )
    return [clang, "--target=x86_64-unknown-none-elf", "-c", "-x", "assembler", "-", "-o", "-"]


def _run_llvm(lines: list[SourceLine], timeout: float) -> bytes:
    text = "\n".join(_MARK.format(i) + line.text for i, line in enumerate(lines)) + "\n"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    try:
        done = subprocess.run(
            _command(),
            input=text.encode("utf-8", "replace"),
            capture_output=True,
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise AssemblyError(
            f"{lines[0].file}: the assembler did not finish within {timeout:g} s",
            "Look for an endless macro or a huge .rept.",
            file=lines[0].file,
        ) from None
    except OSError as error:
        raise GuestError(f"the assembler could not be started ({error})") from None
    if done.returncode != 0 or done.stdout[:4] != b"\x7fELF":
        raise _llvm_error(done.stderr.decode("utf-8", "replace"), done.returncode, lines)
    return done.stdout


def _llvm_error(output: str, code: int, lines: list[SourceLine]) -> AssemblyError:
    """LLVM's first message with the file, line and text it is about."""
    found = _MESSAGE.search(output)
    if found is None:
        last = output.strip().splitlines()[-1:] or [f"it ended with code {code}"]
        return AssemblyError(
            f"{lines[0].file}: LLVM could not assemble it: {last[0].strip()}",
            "Look for a macro or .rept that makes too much.",
            file=lines[0].file,
        )
    # LLVM quotes the line with its mark, also from inside a macro, where its own count is of no use
    marked = _MARKED.search(output, found.end())
    index = int(marked[1]) if marked else int(found[1]) - 1
    return _error(lines[min(index, len(lines) - 1)], found[2])


# ------------------------------------------------------------------------ linking and cache


def _link(content: bytes, lines: list[SourceLine], name: str) -> Image:
    from elftools.elf.elffile import ELFFile

    try:
        image = link(ELFFile(io.BytesIO(content)), name)
    except LinkError as error:
        if error.mark is not None:
            raise _error(lines[error.mark], error.message, error.hint) from None
        raise AssemblyError(f"{name}: {error.message}", error.hint, file=name) from None
    where = {a: (lines[n].file, lines[n].number) for a, (_, n) in image.lines.items()}
    return replace(image, lines=where)


def _to_cache(place: Path, image: Image) -> None:
    body = json.dumps(
        {
            "name": image.name,
            "entry": image.entry,
            "end": image.end,
            "segments": [[a, base64.b64encode(b).decode()] for a, b in image.segments],
            "symbols": dict(image.symbols),
            "code": image.code,
            "lines": [[a, f, n] for a, (f, n) in image.lines.items()],
        }
    ).encode()
    with contextlib.suppress(OSError):  # a full or read-only disk only costs time
        write_atomically(place, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _from_cache(place: Path) -> Image | None:
    """The cached image; None when there is none or its file is damaged."""
    try:
        digest, body = place.read_bytes().split(b"\n", 1)
    except (OSError, ValueError):
        return None
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    kept = json.loads(body)
    return Image(
        kept["name"],
        kept["entry"],
        tuple((a, base64.b64decode(b)) for a, b in kept["segments"]),
        kept["end"],
        kept["symbols"],
        tuple((a, b) for a, b in kept["code"]),
        {a: (f, n) for a, f, n in kept["lines"]},
    )
