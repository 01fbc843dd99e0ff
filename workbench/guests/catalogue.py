"""The guest programs there are, their parameters, and the memory words a program finds at start.

A program is described by comments in its own source::

    # @title   CPUID in a loop
    # @backend svm                       (L1 only; without it the program suits both)
    # @paging  non son sos               (L1 only: its paging modes; without it only nested paging)
    # @param iterations 16 5000 1 1000000000 operations : how many CPUIDs
    # @memory 0x200000 + 4096 * pages    (memory it needs, in bytes)

A parameter's line says: name, word of the parameter page, default, minimum, maximum, unit, text.
A user's own assembly file is described the same way; an ELF or flat binary has no comments, its
parameters are called ``word16`` .. ``word511``.  Some L1 programs are generated from a table
(``profiles``); they have a text, but no file.

Not modelled: parameters that are not whole numbers.
"""

from __future__ import annotations

import ast
import operator
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import GuestError, did_you_mean
from ..paths import data_dir
from . import profiles
from .assembler import assemble, includes
from .image import Image
from .kept_images import image_of
from .load import SOURCE_SUFFIXES, load_image, program_files
from .mixed import TABLE_ADDRESS, build_mixed_table

BACKENDS = ("svm", "vmx")
PAGING_MODES = ("non", "son", "sos")
NESTED_ONLY = ("non",)
PARAMETER_PAGE = 0x8000
PAGE_WORDS = 512
FIRST_OWN_WORD = 16
"""Words below belong to the loader (see data/guests/include/l1.inc and l2.inc)."""
PROGRAM_SUFFIXES = (*SOURCE_SUFFIXES, ".elf", ".o", ".bin", ".img", ".raw")


@dataclass(frozen=True)
class Param:
    """One parameter of a guest program.

    Attributes
    ----------
    name : str
        As given in a scenario.
    word : int
        Index of its 64-bit word in the parameter page.
    default, minimum, maximum : int
        Inclusive range.
    unit : str
        What the number counts.
    text : str
        One line for people.
    """

    name: str
    word: int
    default: int
    minimum: int
    maximum: int
    unit: str
    text: str


@dataclass(frozen=True)
class Guest:
    """A guest program that can be run as L1 or L2.

    Attributes
    ----------
    name : str
        Name in the catalogue, or the path of a user's file.
    level : int
        1 or 2.
    backends : tuple of str
        Back-ends it can run on.
    path : Path
        Its file; for a generated program the name that messages call it.
    title : str
        One line for people.
    params : tuple of Param
        In the order of the file.
    memory : str
        Expression over the parameters for the bytes of memory it needs; may be empty.
    text : str
        Assembly text of a generated program; empty for a program in a file.
    paging : tuple of str
        Paging modes (feature ``paging``) that an L1 program can be run in.
    """

    name: str
    level: int
    backends: tuple[str, ...]
    path: Path
    title: str
    params: tuple[Param, ...] = ()
    memory: str = ""
    text: str = field(default="", repr=False)
    paging: tuple[str, ...] = NESTED_ONLY

    @property
    def defaults(self) -> dict[str, int]:
        """Value of every parameter when none is given."""
        return {p.name: p.default for p in self.params}

    def image(self) -> Image:
        """The program, assembled or loaded."""
        folder = data_dir() / "guests" / "l1" if self.text else self.path.parent

        def make() -> Image:
            if self.text:
                return assemble(self.text, str(self.path), folder)
            return load_image(self.path)

        def files() -> list[Path]:
            return includes(self.text, folder) if self.text else program_files(self.path)

        return image_of(self.path, self.text, make, files)

    def blobs(self, values: Mapping[str, int], seed: int = 0) -> list[tuple[int, bytes]]:
        """What the program needs in its memory besides its image.

        Parameters
        ----------
        values : mapping
            Complete parameters, as :func:`validate_params` returns them.
        seed : int
            Seed of the scenario.

        Returns
        -------
        list of (int, bytes)
            Address in the guest's memory, content.
        """
        if "table_entries" in values and any(n.startswith("weight_") for n in values):
            return [(TABLE_ADDRESS, build_mixed_table(values, seed))]
        return []

    def memory_needed(self, values: Mapping[str, int]) -> int:
        """Bytes of memory the program uses with these parameters, its image not counted."""
        return evaluate(self.memory, values) if self.memory else 0


NO_HYPERVISOR = Guest(
    "none",
    1,
    BACKENDS,
    Path("none"),
    "No hypervisor in between: the L2 program is L0's own guest",
    paging=("non", "sos"),
)
"""Stands in L1's place in a single-level run, what nested costs are compared with."""


# ------------------------------------------------------------------------ finding


@lru_cache(maxsize=1)
def _catalogue() -> tuple[Guest, ...]:
    folder = data_dir() / "guests"
    files = {
        level: tuple(
            read_guest(path, level, _catalogue_name(path))
            for path in sorted((folder / f"l{level}").glob("*.S"))
        )
        for level in (1, 2)
    }
    return (*files[1], *map(_generated, profiles.profiles()), *files[2])


def _generated(profile: profiles.Profile) -> Guest:
    """The L1 program made from a profile of the table."""
    text = profiles.source(profile)
    path = Path(f"{profile.name}-{profile.backend}.S")
    return replace(_parse_header(path, 1, profile.name, text), text=text)


def _catalogue_name(path: Path) -> str:
    stem, _, ending = path.stem.rpartition("-")
    return stem if ending in BACKENDS else path.stem


def l1_guests() -> tuple[Guest, ...]:
    """The L1 programs that come with the workbench; one entry per program and back-end."""
    return tuple(g for g in _catalogue() if g.level == 1)


def l2_guests() -> tuple[Guest, ...]:
    """The L2 programs that come with the workbench."""
    return tuple(g for g in _catalogue() if g.level == 2)


def find(level: int, name: str | Path, backend: str) -> Guest:
    """The guest called ``name`` for a level and back-end; a path to a user's file is also a name.

    Parameters
    ----------
    level : int
        1 or 2.
    name : str or Path
        Catalogue name, or path of a .S file, ELF executable or flat binary.
    backend : str
        ``svm`` or ``vmx``.

    Raises
    ------
    GuestError
        No such guest or file, or it does not run on this back-end.
    """
    text = str(name)
    if level == 1 and text == NO_HYPERVISOR.name:
        return NO_HYPERVISOR
    guests = [g for g in _catalogue() if g.level == level]
    named = [g for g in guests if g.name == text]
    if not named and _is_path(text):
        named = [read_guest(Path(text).expanduser(), level, text)]
    if not named:
        raise GuestError(
            f"no L{level} program called {text!r}", did_you_mean(text, [g.name for g in guests])
        )
    for guest in named:
        if backend in guest.backends:
            return guest
    only = ", ".join(sorted({b for g in named for b in g.backends}))
    others = sorted({g.name for g in guests if backend in g.backends})
    raise GuestError(
        f"L{level} program {text!r} runs on {only}, not on {backend}",
        f"Choose the other back-end, or one of: {', '.join(others)}.",
    )


def check_paging(guest: Guest, mode: str, backend: str) -> None:
    """Can the L1 program be run in this paging mode?

    Raises
    ------
    GuestError
        It cannot; the hint names those that can.
    """
    if mode in guest.paging:
        return
    able = [g.name for g in l1_guests() if mode in g.paging and backend in g.backends]
    hint = f"choose l1={' or '.join(map(repr, able))}"
    if _is_path(guest.name):
        hint += f", or add '# @paging {mode}' to its header if it keeps shadow tables for L2"
    raise GuestError(f"L1 program {guest.name!r} cannot run with paging={mode}", hint)


def _names_hint(level: int) -> str:
    return f"Known: {', '.join(sorted({g.name for g in _catalogue() if g.level == level}))}."


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.lower().endswith(PROGRAM_SUFFIXES)


def read_guest(path: Path, level: int, name: str) -> Guest:
    """Describe a program from the comments in its file.

    Raises
    ------
    GuestError
        The file is missing or one of its descriptions is wrong (with file and line).
    """
    if not path.is_file():
        raise GuestError(f"{path}: no such file", f"{_names_hint(level)} Or give another path.")
    if path.suffix.lower() not in SOURCE_SUFFIXES:
        words = tuple(
            Param(f"word{i}", i, 0, 0, (1 << 64) - 1, "", f"word {i} of the parameter page")
            for i in range(FIRST_OWN_WORD, PAGE_WORDS)
        )
        title = f"{path.name} (own program)"
        return Guest(name, level, BACKENDS, path, title, words, paging=PAGING_MODES)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise GuestError(f"{path}: cannot be read ({error.strerror or error})") from None
    return _parse_header(path, level, name, text)


# ------------------------------------------------------------------------ header comments

_TAG = re.compile(r"^\s*(?:#|//|;)\s*@(\w+)\s+(.*?)\s*$")


def _parse_header(path: Path, level: int, name: str, text: str) -> Guest:
    title, memory = "", ""
    backends: tuple[str, ...] = BACKENDS
    paging: tuple[str, ...] = NESTED_ONLY
    params: list[Param] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = _TAG.match(line)
        if not found:
            continue
        tag, rest = found.groups()
        try:
            if tag == "title":
                title = rest
            elif tag == "backend":
                backends = _parse_backends(rest)
            elif tag == "paging":
                paging = _parse_paging(rest)
            elif tag == "memory":
                memory = rest
            elif tag == "param":
                params.append(_parse_param(rest, params))
            else:
                raise ValueError(f"unknown description @{tag}")
        except ValueError as error:
            raise GuestError(
                f"{path}:{number}: {error}\n    {line.strip()}",
                "A parameter reads: # @param name word default minimum maximum unit : text",
            ) from None
    guest = Guest(
        name, level, backends, path, title or path.name, tuple(params), memory, paging=paging
    )
    try:
        guest.memory_needed(guest.defaults)
    except ValueError as error:
        raise GuestError(f"{path}: @memory {memory}: {error}") from None
    return guest


def _parse_backends(text: str) -> tuple[str, ...]:
    chosen = tuple(text.replace(",", " ").split())
    wrong = [b for b in chosen if b not in BACKENDS]
    if wrong or not chosen:
        raise ValueError(f"unknown back-end {wrong[0]!r}")
    return chosen


def _parse_paging(text: str) -> tuple[str, ...]:
    chosen = tuple(text.replace(",", " ").split())
    wrong = [mode for mode in chosen if mode not in PAGING_MODES]
    if wrong or not chosen:
        raise ValueError(f"unknown paging mode {''.join(wrong[:1])!r}")
    return chosen


def _parse_param(text: str, before: list[Param]) -> Param:
    head, colon, description = text.partition(":")
    parts = head.split()
    if len(parts) != 6 or not colon:
        raise ValueError("not a parameter description")
    word, default, minimum, maximum = (int(p, 0) for p in parts[1:5])
    param = Param(parts[0], word, default, minimum, maximum, parts[5], description.strip())
    if not param.name.isidentifier():
        raise ValueError(f"{param.name!r} is not a name")
    if not FIRST_OWN_WORD <= word < PAGE_WORDS:
        raise ValueError(f"word {word} is not in {FIRST_OWN_WORD}..{PAGE_WORDS - 1}")
    if not 0 <= minimum <= default <= maximum < 1 << 64:
        raise ValueError("not 0 <= minimum <= default <= maximum < 2**64")
    if any(p.name == param.name or p.word == word for p in before):
        raise ValueError("name or word used twice")
    return param


_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def evaluate(expression: str, values: Mapping[str, int]) -> int:
    """Value of an expression of whole numbers, parameters and ``+ - * //``.

    Raises
    ------
    ValueError
        Anything else in it, or an unknown name.
    """

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id in values:
            return values[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError(f"cannot use {ast.unparse(node)!r} here")

    try:
        return value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ZeroDivisionError, RecursionError) as error:
        raise ValueError(str(error)) from None


# ------------------------------------------------------------------------ parameters


def validate_params(guest: Guest, given: Mapping[str, Any]) -> dict[str, int]:
    """Complete and check the parameters given for a guest.

    Parameters
    ----------
    guest : Guest
        The program.
    given : mapping
        Some of its parameters; the others take their defaults.

    Returns
    -------
    dict of str to int
        Every parameter, in the order of the program's description.

    Raises
    ------
    GuestError
        An unknown name (with close matches), a value that is not a whole number, or one out of
        range (with the range).
    """
    known = {p.name: p for p in guest.params}
    values = guest.defaults
    for name, value in given.items():
        param = known.get(name)
        if param is None:
            raise GuestError(
                f"L{guest.level} program {guest.name!r} has no parameter {name!r}",
                did_you_mean(name, [p.name for p in guest.params][:40]) or "It has none.",
            )
        values[name] = _checked(guest, param, value)
    return values


def _checked(guest: Guest, param: Param, value: Any) -> int:
    where = f"{guest.name}.{param.name}"
    allowed = f"Give a whole number from {param.minimum} to {param.maximum} {param.unit}".rstrip()
    try:
        number = operator.index(value)
    except TypeError:
        if not isinstance(value, float) or not value.is_integer():
            raise GuestError(f"{where} = {value!r} is not a whole number", f"{allowed}.") from None
        number = int(value)
    if not param.minimum <= number <= param.maximum:
        raise GuestError(f"{where} = {number} is out of range", f"{allowed}.")
    return number


def param_page(
    guest: Guest, values: Mapping[str, int], reserved: Mapping[int, int] | None = None
) -> bytes:
    """The parameter page that the guest finds at :data:`PARAMETER_PAGE`.

    Parameters
    ----------
    guest : Guest
        The program.
    values : mapping
        Complete parameters, as :func:`validate_params` returns them.
    reserved : mapping of int to int, optional
        The loader's own words (0..15) by number.

    Returns
    -------
    bytes
        4096 bytes, little-endian 64-bit words.
    """
    page = bytearray(8 * PAGE_WORDS)
    words = {param.word: values[param.name] for param in guest.params}
    for word in reserved or {}:
        if not 0 <= word < FIRST_OWN_WORD:
            raise ValueError(f"word {word} does not belong to the loader")
    for word, value in (words | dict(reserved or {})).items():
        struct.pack_into("<Q", page, 8 * word, value & (1 << 64) - 1)
    return bytes(page)
