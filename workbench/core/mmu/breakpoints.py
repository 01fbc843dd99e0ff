"""Breakpoints by linear address: DR0 to DR3 as DR7 enables them (SDM vol. 3, 19.2; APM vol. 2, 13.1).

Not modelled: breakpoints on I/O ports (with CR4.DE) and BTF (traps behind branches only).
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import Machine
from ..structs import i64
from ..words import lshr, ult
from .walk import ACC_SYSTEM, ACC_WRITE

ENABLES = 0xFF
"""DR7.L0 to DR7.G3."""
ON_FETCH, ON_WRITE, ON_DATA = 1 << 0, 1 << 1 | 1 << 3, 1 << 3
"""Sets of values of DR7.R/Wn that a fetch, a write, a read meet."""
DATA_KINDS = 1 << 1 | 1 << 3


@inner
def _enabled(m, k):
    return lshr(m.cpu.dr[7], 2 * k) & 3 != 0


@inner
def _kind(m, k):
    return lshr(m.cpu.dr[7], 16 + 4 * k) & 3


@inner
def breakpoints_met(m, va, size, kinds):
    """Bit k: the enabled breakpoint of DRk is for one of ``kinds`` and overlaps the bytes."""
    c = m.cpu
    met = 0
    for k in range(4):
        if _enabled(m, k) and lshr(kinds, _kind(m, k)) & 1:
            coded = lshr(c.dr[7], 18 + 4 * k) & 3
            length = 8 if coded == 2 else coded + 1
            first = c.dr[k] & ~(length - 1)
            if ult(va - first, length) or ult(first - va, size):
                met |= 1 << k
    return met


@inner
def data_breakpoints(m):
    """Is a breakpoint on data enabled?"""
    found = 0
    for k in range(4):
        if _enabled(m, k) and lshr(DATA_KINDS, _kind(m, k)) & 1:
            found = 1
    return found


@unit(Machine, i64, i64, i64)
def note_data_access(m, va, lg, access):
    """An instruction's own access of ``1 << lg`` bytes: what it meets is due when it completes."""
    if access & ACC_SYSTEM == 0:
        kinds = ON_WRITE if access & ACC_WRITE else ON_DATA
        m.debug.met |= breakpoints_met(m, va, 1 << lg, kinds)
    return 0
