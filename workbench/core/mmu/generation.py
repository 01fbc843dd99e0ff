"""Flushing without touching entries: every cached translation carries the generation it was made in.

A translation is valid while its generation equals the current one of its tag.  A flush only moves
the generation on (and adds up how many live entries it dropped), so it costs the same for 4 entries
and for 4,000.  What a flush removed stays visible as a ghost until it is replaced: a miss that
finds its ghost is a refill that the flush caused.

Generation word: ``all_generation << 32 | generation of the tag``; global entries follow a counter
of their own that non-global flushes leave alone.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import Machine
from ..ledger import S_ALL, S_TAG, S_TAG_NONGLOBAL, TL_FLUSH
from ..structs import i64
from ..timeline import record
from ..words import lshr
from .records import FAST, MAX_TAGS, REASON_RING


@inner
def tag_index(tag):
    """A tag as an index: tags are 16 bits wide on VMX, fewer on SVM."""
    return tag & (MAX_TAGS - 1)


@inner
def current_generation(m, tag, is_global):
    """Generation in which a valid translation of ``tag`` must have been made."""
    t = m.tlb
    low = t.global_generation[tag_index(tag)] if is_global else t.tag_generation[tag_index(tag)]
    return (t.all_generation << 32) | low


@inner
def end_reason(m, tag, is_global, generation):
    """Why the generation of a ghost ended: flush reason F_*."""
    t = m.tlb
    i = tag_index(tag)
    low = generation & 0xFFFFFFFF
    now = t.global_generation[i] if is_global else t.tag_generation[i]
    if low == now:
        return t.all_reason[lshr(generation, 32) & (REASON_RING - 1)]
    if is_global:
        return t.global_reason[i, low & (REASON_RING - 1)]
    return t.tag_reason[i, low & (REASON_RING - 1)]


@inner
def forget_fast(m):
    """Empty the fast path's arrays."""
    t = m.tlb
    for i in range(FAST):
        t.fast_read[i] = -1
        t.fast_write[i] = -1


@inner
def new_context(m):
    """Make the fast path (and the code page) forget what it knows about the address space."""
    t = m.tlb
    t.fast_context += 8
    if t.fast_context >= 4096:
        t.fast_context = 0
        forget_fast(m)
    m.code_context = -1


@inner
def record_flush(m, reason, scope, dropped):
    """Count a flush and show it on the timeline."""
    m.ledger.flushes[reason, scope] += 1
    m.ledger.dropped[reason, scope] += dropped
    record(m, TL_FLUSH, reason, dropped, m.level, m.level)


@inner
def _end_tag(m, tag, reason):
    t = m.tlb
    i = tag_index(tag)
    t.tag_reason[i, t.tag_generation[i] & (REASON_RING - 1)] = reason
    t.tag_generation[i] += 1


@inner
def _drop_tag(m, tag, reason):
    """Make every translation of a tag a ghost; returns how many there were."""
    t = m.tlb
    i = tag_index(tag)
    dropped = t.live[i] + t.live_global[i]
    _end_tag(m, tag, reason)
    t.global_reason[i, t.global_generation[i] & (REASON_RING - 1)] = reason
    t.global_generation[i] += 1
    t.live[i] = 0
    t.live_global[i] = 0
    t.live_all -= dropped
    return dropped


@inner
def drop_other_roots(m, tag, reason):
    """Drop what the VPID of ``tag`` has cached with other EPT roots; returns how much.

    Invalidations by linear address or by CR3 concern a VPID with all roots (SDM vol. 3, 29.4.3.1).
    More than the manual demands: of the other roots, everything goes.
    """
    span = m.hw.tag_span
    dropped = 0
    if span:
        first = tag - (tag - 1) % span
        for other in range(first, first + span):
            i = tag_index(other)
            if other != tag and m.tlb.live[i] + m.tlb.live_global[i]:
                dropped += _drop_tag(m, other, reason)
    return dropped


@unit(Machine, i64)
def flush_all(m, reason):
    """Drop every translation of every tag, global ones too."""
    t = m.tlb
    record_flush(m, reason, S_ALL, t.live_all)
    t.all_reason[t.all_generation & (REASON_RING - 1)] = reason
    t.all_generation += 1
    for i in range(t.live_top + 1):
        t.live[i] = 0
        t.live_global[i] = 0
    t.live_all = 0
    t.live_top = 0
    t.psc_generation += 1
    t.ntlb_generation += 1
    new_context(m)
    return 0


@unit(Machine, i64, i64)
def flush_tag(m, tag, reason):
    """Drop every translation of one tag, global ones too; returns how many were dropped."""
    t = m.tlb
    dropped = _drop_tag(m, tag, reason) + drop_other_roots(m, tag, reason)
    record_flush(m, reason, S_TAG, dropped)
    t.psc_generation += 1
    t.ntlb_generation += 1
    new_context(m)
    return dropped


@unit(Machine, i64, i64, i64)
def flush_tags(m, first, n, reason):
    """Drop every translation of ``n`` tags from ``first`` on, as one flush."""
    t = m.tlb
    dropped = 0
    for tag in range(first, first + n):
        dropped += _drop_tag(m, tag, reason)
    record_flush(m, reason, S_TAG, dropped)
    t.psc_generation += 1
    t.ntlb_generation += 1
    new_context(m)
    return dropped


@unit(Machine, i64, i64)
def flush_tag_nonglobal(m, tag, reason):
    """Drop the translations of one tag except global ones; returns how many were dropped."""
    t = m.tlb
    i = tag_index(tag)
    dropped = t.live[i]
    _end_tag(m, tag, reason)
    t.live[i] = 0
    t.live_all -= dropped
    dropped += drop_other_roots(m, tag, reason)
    record_flush(m, reason, S_TAG_NONGLOBAL, dropped)
    t.psc_generation += 1
    new_context(m)
    return dropped
