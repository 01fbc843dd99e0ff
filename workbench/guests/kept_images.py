"""Images of guest programs, kept in memory as long as their files stay as they were.

Expanding the includes of a program and finding its image in the cache takes a millisecond or more,
which is most of a short run's time outside the kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from .image import Image

SETTLED_SECONDS = 2.0
"""A file changed more recently is not trusted: it could change again within its time stamp."""
MAX_KEPT = 64


class Stamp(NamedTuple):
    """What the file system says of a file; of one that is not there, nothing."""

    node: int = 0
    size: int = 0
    written: int = 0
    changed: int = 0


class _Kept(NamedTuple):
    image: Image
    files: dict[Path, Stamp]


_KEPT: dict[tuple[str, str], _Kept] = {}


def image_of(
    path: Path, text: str, make: Callable[[], Image], files: Callable[[], Iterable[Path]]
) -> Image:
    """The image of a program, made anew only when one of its files has changed.

    Parameters
    ----------
    path : Path
        Its file, or what messages call it.
    text : str
        Its text when it has no file.
    make : callable
        Assembles or loads it.
    files : callable
        All files it is made from, and those that would take the place of one of them.
    """
    key = (str(path.absolute()), text)
    kept = _KEPT.get(key)
    if kept is not None and all(stamp(file) == before for file, before in kept.files.items()):
        return kept.image
    before = {file: stamp(file) for file in files()}
    image = make()
    newest = max((max(s.written, s.changed) for s in before.values()), default=0)
    if time.time_ns() - newest > SETTLED_SECONDS * 1e9:
        if len(_KEPT) >= MAX_KEPT:
            _KEPT.clear()
        _KEPT[key] = _Kept(image, before)
    return image


def stamp(file: Path) -> Stamp:
    """A file's :class:`Stamp`."""
    try:
        found = file.stat()
    except OSError:
        return Stamp()
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
