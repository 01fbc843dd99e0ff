"""Where a figure is used decides its width, its letters and how many panels stand side by side.

``panel`` is the width of a page in the browser, ``paper`` the text width of a page, ``column`` one
column of a page with two, ``projector`` a slide seen from the back of a room.  The last is drawn
small and shown large: what counts is the letters' part of the width.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

_PER_INCH = {"plain": 72 / 0.62, "bold": 72 / 0.68}
"""Characters of one point per inch: letters are about that part of their size wide."""


@dataclass(frozen=True)
class Size:
    """Width [inches], letters and small print [points], dots per inch of a PNG."""

    width: float
    font: float
    small: float
    dots: int
    stacked: bool = False
    """Panels stand below each other, not side by side."""
    taller: float = 1.0
    """For large letters: how much higher a figure is."""

    def characters(self, points: float, weight: str = "plain") -> int:
        """How many letters of a size fit beside each other."""
        return int(self.width * _PER_INCH[weight] / points)


SIZES = {
    "panel": Size(8.4, 9.0, 7.0, 200),
    "paper": Size(6.3, 8.0, 6.0, 300),
    "column": Size(3.4, 7.0, 5.5, 600, stacked=True),
    "projector": Size(7.5, 11.0, 7.5, 256, taller=1.3),
}


def named(size: str) -> Size:
    """The size of a name.

    Raises
    ------
    ValueError
        No such size.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; sizes: {', '.join(SIZES)}")
    return SIZES[size]


def wrapped(text: str, size: str) -> str:
    """Small print in lines as wide as the figure."""
    found = named(size)
    width = found.characters(found.small)
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


def paragraph(text: str, size: str) -> str:
    """Words that stand in a figure's middle, each line of them as wide as the figure at most."""
    found = named(size)
    lines = (textwrap.wrap(line, found.characters(found.font)) for line in text.split("\n"))
    return "\n".join(part for line in lines for part in line)


def heading(text: str, size: str) -> str:
    """A figure's title in lines as wide as the figure."""
    found = named(size)
    return "\n".join(textwrap.wrap(text, found.characters(found.font + 2, "bold")))
