"""Where page walks find the table entries they read: a model of the data caches for walks alone.

Three set-associative levels of 64-byte lines with true LRU replacement in each set; a line that is
fetched is put into every level above the one that had it.  Only references of page walks consult
it, and the first access to a page after a walk passes its own line through, so that tables compete
with some of the data they map.  A TLB hit never comes here.

Not modelled: all other data and code, so that tables are found nearer than in a busy machine; what
other processors do to the last level; prefetching; the page walker's own ports.  Lines beyond the
first 128 GB alias each other.

With the feature ``walk_caches`` off every reference is taken to hit the second level.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import Machine
from ..ledger import E_WALK_FROM_L1_CACHE, count
from ..structs import i64
from ..words import lshr

LINE_SHIFT = 6
LINE_MASK = 0x7FFF_FFFF
SECOND_LEVEL = 1
CACHE_LEVELS = 3


@inner
def _look(m, level, line):
    """Is the line in this level? In any case it is its set's most recent one afterwards."""
    c = m.lines
    ways = c.ways[level]
    start = c.base[level] + (line & (c.sets[level] - 1)) * ways
    last = start + ways - 1
    key = line + 1  # 0: a way never used
    moved = key
    i = start
    while True:  # each line goes one way down, until the one that is looked for or the last is out
        held = c.line[i]
        c.line[i] = moved
        if held == key or i == last:
            return held == key
        moved = held
        i += 1


@unit(Machine, i64)
def find_line(m, ma):
    """Fetch the line of machine address ``ma``; returns the level that had it, 3 for memory."""
    line = lshr(ma, LINE_SHIFT) & LINE_MASK
    if _look(m, 0, line):
        return 0
    if _look(m, 1, line):
        return 1
    return 2 if _look(m, 2, line) else CACHE_LEVELS


@inner
def walk_reference(m, ma):
    """Count where a walk found the entry at ``ma``."""
    level = find_line(m, ma) if m.feat.walk_caches else SECOND_LEVEL
    m.walk.found[level] += 1
    count(m, E_WALK_FROM_L1_CACHE + level, 1)


@inner
def note_data(m, ma):
    """The access that made a walk necessary brings its own line into the caches."""
    if m.feat.walk_caches:
        find_line(m, ma)
