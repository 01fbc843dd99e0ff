"""INVPCID's four invalidations (SDM vol. 2, INVPCID; vol. 3, 4.10.4.1; APM vol. 3, INVPCID).

They concern the tag in use.  Global translations go with type 2 only.  Without CR4.PCIDE every
translation belongs to PCID 0.  The paging-structure caches are emptied whatever the type, as the
manual allows; translations of guest-physical addresses stay, except with type 2.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import Machine
from ..ledger import F_INVPCID, S_ADDRESS, S_TAG_NONGLOBAL
from ..structs import i64
from ..words import lshr
from .generation import (
    current_generation,
    drop_other_roots,
    flush_tag,
    flush_tag_nonglobal,
    new_context,
    record_flush,
    tag_index,
)
from .records import REASON_RING, TR_GLOBAL
from .tlb import drop_entry

ADDRESS, ONE_CONTEXT, ALL_CONTEXTS, ALL_NON_GLOBAL = range(4)
"""Types of INVPCID."""
ARRAYS = 3


@inner
def _concerns(m, e, pcid, va, kind):
    """Is a valid entry one that type 0 (of ``va``) or type 1 takes away?"""
    return (
        e.shift != 0
        and e.tag == m.hw.tag
        and e.pcid == pcid
        and e.rights & TR_GLOBAL == 0
        and e.generation == current_generation(m, e.tag, 0)
        and (kind != ADDRESS or lshr(va, e.shift) << (e.shift - 12) == e.page)
    )


@unit(Machine, i64, i64, i64)
def _flush_pcid(m, pcid, va, kind):
    """Drop what one PCID has cached: of one address, or all of it."""
    t = m.tlb
    dropped = 0
    for array in range(ARRAYS):
        start = t.base[array]
        for i in range(start, start + t.sets[array] * t.ways[array]):
            if _concerns(m, t.entries[i], pcid, va, kind):
                drop_entry(m, array, t.entries[i])
                t.entries[i].generation -= 1
                dropped += 1
    dropped += drop_other_roots(m, m.hw.tag, F_INVPCID)
    i = tag_index(m.hw.tag)
    t.tag_reason[i, (t.tag_generation[i] - 1) & (REASON_RING - 1)] = F_INVPCID
    record_flush(m, F_INVPCID, S_ADDRESS if kind == ADDRESS else S_TAG_NONGLOBAL, dropped)
    t.psc_generation += 1
    new_context(m)
    return dropped


@unit(Machine, i64, i64, i64)
def invalidate_pcid(m, kind, pcid, va):
    """INVPCID of type ``kind`` (0 to 3) by the running guest; returns how much was dropped."""
    if kind == ALL_CONTEXTS:
        return flush_tag(m, m.hw.tag, F_INVPCID)
    if kind == ALL_NON_GLOBAL:
        return flush_tag_nonglobal(m, m.hw.tag, F_INVPCID)
    return _flush_pcid(m, pcid, va, kind)
