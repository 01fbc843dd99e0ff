"""The caches as page walks see them, slowly: each set is a list of lines, most recent first."""

from __future__ import annotations

MEMORY = 3


class Caches:
    """Levels of (sets, ways), nearest first, lines of 64 bytes, LRU in each set."""

    def __init__(self, shapes: list[tuple[int, int]]):
        self.levels = [([[] for _ in range(sets)], ways) for sets, ways in shapes]

    def find(self, address: int) -> int:
        """The level that has the line; it is then the most recent one of that and nearer levels."""
        line = address // 64
        for level, (sets, ways) in enumerate(self.levels):
            lines = sets[line % len(sets)]
            found = line in lines
            if found:
                lines.remove(line)
            lines.insert(0, line)
            del lines[ways:]
            if found:
                return level
        return MEMORY
