"""The TLB: two levels, set-associative, replacement round-robin within a set.

Entries carry tag (ASID / VPID), PCID, global bit and page size; the size is the smaller of the
guest's and the nested table's.  Fetches and data share the first level (the published geometries
give one set of numbers).  Fills go to both levels.  A miss that finds the ghost of an entry that a
flush removed is counted as a refill under that flush's reason (see ``generation``).
"""

from __future__ import annotations

from ..hvm.shadow.walk import software_translate
from ..jit import inner, unit
from ..layout import ST_FAULT, ST_OK, Machine
from ..ledger import (
    E_TLB1_HIT,
    E_TLB2_HIT,
    E_TLB_EVICTION,
    E_TLB_MISS,
    F_CR3_WRITE,
    F_INVLPG,
    S_ADDRESS,
    count,
)
from ..structs import i64
from ..words import lshr
from .device import not_ram
from .generation import (
    current_generation,
    drop_other_roots,
    end_reason,
    flush_tag_nonglobal,
    new_context,
    record_flush,
    tag_index,
)
from .lines import note_data
from .physical import host_of
from .records import FAST, TLB1, TLB1_LARGE, TLB2, TR_DIRTY, TR_GLOBAL, TR_NO_READ
from .walk import ACC_EXEC, ACC_SYSTEM, ACC_WRITE, CR0_PG, CR4_PCIDE, allowed, walk

NOT_FOUND = -1
ANY_PCID = -1


@inner
def fast_context(m):
    """Low bits of the fast path's key: address space, level and privilege of the access."""
    return m.tlb.fast_context + m.level * 2 + (1 if m.cpu.cpl == 3 else 0)


@inner
def current_pcid(m):
    return m.cpu.cr3 & 0xFFF if m.cpu.cr4 & CR4_PCIDE else 0


# ---------------------------------------------------------------- looking up


@inner
def _set_start(m, array, page, shift):
    t = m.tlb
    index = lshr(page, shift - 12) & (t.sets[array] - 1)
    return t.base[array] + index * t.ways[array]


@inner
def _holds(m, array, shift):
    """Can pages of this size be in the array?"""
    t = m.tlb
    if shift == 12:
        return array != TLB1_LARGE
    if array == TLB1:
        return t.sets[TLB1_LARGE] == 0
    if array == TLB1_LARGE:
        return t.sets[TLB1_LARGE] != 0
    return t.large_in_l2 != 0


@inner
def _is_current(m, e):
    return e.generation == current_generation(m, e.tag, e.rights & TR_GLOBAL)


@inner
def _matches(m, e, page, shift, tag, pcid):
    return (
        e.page == page
        and e.shift == shift
        and e.tag == tag
        and (e.pcid == pcid or pcid == ANY_PCID or e.rights & TR_GLOBAL != 0)
        and _is_current(m, e)
    )


@inner
def _find(m, array, va, tag, pcid):
    """Index of the valid entry that translates ``va``, or NOT_FOUND."""
    t = m.tlb
    for k in range(3):
        shift = 12 + 9 * k
        if (lshr(t.sizes, shift) & 1) and _holds(m, array, shift):
            page = lshr(va, shift) << (shift - 12)
            start = _set_start(m, array, page, shift)
            for i in range(start, start + t.ways[array]):
                if _matches(m, t.entries[i], page, shift, tag, pcid):
                    return i
    return NOT_FOUND


@inner
def _find_first(m, va, tag, pcid):
    """:func:`_find` in TLB1, which may be one large set: looks first where a 4 KB page was found last.

    That place is forgotten when the page is filled in again; so it is always the one that looking
    through the set would find first.
    """
    t = m.tlb
    page = lshr(va, 12)
    slot = page & (FAST - 1)
    hint = m.tlb_hint[slot]
    if hint > 0:
        e = t.entries[hint - 1]
        if e.pcid == pcid and _matches(m, e, page, 12, tag, pcid):
            return hint - 1
    i = _find(m, TLB1, va, tag, pcid)
    if i >= 0 and t.entries[i].shift == 12 and t.entries[i].pcid == pcid:
        m.tlb_hint[slot] = i + 1
    return i


@inner
def _find_ghost(m, array, page, shift):
    """An entry for this page and level that a flush made invalid, or NOT_FOUND."""
    t = m.tlb
    if not _holds(m, array, shift):
        return NOT_FOUND
    start = _set_start(m, array, page, shift)
    for i in range(start, start + t.ways[array]):
        e = t.entries[i]
        if e.page == page and e.shift == shift and e.owner == m.level and not _is_current(m, e):
            return i
    return NOT_FOUND


# ---------------------------------------------------------------- filling


@inner
def _forget_fast_page(m, page, shift):
    """The fast path must not outlive the first-level entry it stands for."""
    if shift > 12:
        new_context(m)
        return
    t = m.tlb
    slot = page & (FAST - 1)
    if lshr(t.fast_read[slot], 12) == page & 0xF_FFFF_FFFF_FFFF:
        t.fast_read[slot] = -1
    if lshr(t.fast_write[slot], 12) == page & 0xF_FFFF_FFFF_FFFF:
        t.fast_write[slot] = -1


@inner
def drop_entry(m, array, e):
    """Account for a valid entry that leaves its array."""
    t = m.tlb
    i = tag_index(e.tag)
    if e.rights & TR_GLOBAL:
        t.live_global[i] -= 1
    else:
        t.live[i] -= 1
    t.live_all -= 1
    if array != TLB2:
        _forget_fast_page(m, e.page, e.shift)


@inner
def _victim(m, array, page, shift, ghost):
    """Way to fill: the page's own ghost, else an empty or invalid way, else the next in turn."""
    t = m.tlb
    if ghost >= 0:
        return ghost
    start = _set_start(m, array, page, shift)
    invalid = NOT_FOUND
    for i in range(start, start + t.ways[array]):
        if t.entries[i].shift == 0:
            return i
        if invalid < 0 and not _is_current(m, t.entries[i]):
            invalid = i
    if invalid >= 0:
        return invalid
    way = t.victim[start]
    t.victim[start] = (way + 1) % t.ways[array]
    return start + way


@unit(Machine, i64, i64, i64, i64, i64)
def _insert(m, array, page, shift, frame, rights):
    """Put a translation of the running guest into one array; returns its index."""
    t = m.tlb
    ghost = _find_ghost(m, array, page, shift)
    i = _victim(m, array, page, shift, ghost)
    e = t.entries[i]
    if e.shift != 0 and _is_current(m, e):
        drop_entry(m, array, e)
        count(m, E_TLB_EVICTION, 1)
    tag = m.hw.tag
    e.page = page
    e.shift = shift
    e.frame = frame
    e.rights = rights
    e.tag = tag
    e.pcid = current_pcid(m)
    e.owner = m.level
    e.generation = current_generation(m, tag, rights & TR_GLOBAL)
    if rights & TR_GLOBAL:
        t.live_global[tag_index(tag)] += 1
    else:
        t.live[tag_index(tag)] += 1
    t.live_all += 1
    if tag_index(tag) > t.live_top:
        t.live_top = tag_index(tag)
    t.sizes |= 1 << shift
    if array == TLB1:
        m.tlb_hint[page & (FAST - 1)] = 0
    return i


@inner
def _first_array(m, shift):
    return TLB1_LARGE if shift > 12 and m.tlb.sets[TLB1_LARGE] != 0 else TLB1


@inner
def _count_refill(m, page, shift):
    """A miss on something that a flush removed."""
    t = m.tlb
    ghost = _find_ghost(m, TLB2, page, shift)
    if ghost < 0:
        ghost = _find_ghost(m, _first_array(m, shift), page, shift)
    if ghost >= 0:
        e = t.entries[ghost]
        reason = end_reason(m, e.tag, e.rights & TR_GLOBAL, e.generation)
        m.ledger.refills[reason] += 1
        m.ledger.refill_references[reason] += m.walk.references
        cause = m.ledger.cause
        for level in range(4):
            m.ledger.refill_walks[cause, level] += m.walk.found[level]


@unit(Machine, i64, i64)
def _fill(m, va, access):
    """Walk for ``va`` and fill both levels; returns the first-level index, -1 on a fault."""
    if walk(m, va, access) != ST_OK:
        return NOT_FOUND
    w = m.walk
    shift = w.shift
    frame = w.frame
    rights = w.rights
    page = lshr(va, shift) << (shift - 12)
    note_data(m, frame | (va & ((1 << shift) - 1)))
    _drop_same(m, page, shift)
    _count_refill(m, page, shift)
    if _holds(m, TLB2, shift):
        _insert(m, TLB2, page, shift, frame, rights)
    return _insert(m, _first_array(m, shift), page, shift, frame, rights)


@inner
def _drop_same(m, page, shift):
    """A walk for a page that is still cached (rights or dirty bit) replaces that entry."""
    t = m.tlb
    tag = m.hw.tag
    pcid = current_pcid(m)
    for k in range(2):
        array = _first_array(m, shift) if k == 0 else TLB2
        if _holds(m, array, shift):
            start = _set_start(m, array, page, shift)
            for i in range(start, start + t.ways[array]):
                if _matches(m, t.entries[i], page, shift, tag, pcid):
                    drop_entry(m, array, t.entries[i])
                    t.entries[i].shift = 0


# ---------------------------------------------------------------- translating


@inner
def _sufficient(m, rights, access):
    """May the cached translation serve the access without another walk?"""
    user = 1 if m.cpu.cpl == 3 and access & ACC_SYSTEM == 0 else 0
    if not allowed(m, rights, access, user):
        return False
    if rights & TR_NO_READ and access & ACC_EXEC == 0:
        return False
    return access & ACC_WRITE == 0 or rights & TR_DIRTY != 0


@inner
def is_canonical(va):
    return (va << 16) >> 16 == va


@inner
def _noncanonical(m):
    x = m.exc
    x.vector = 13
    x.error = 0
    x.has_error = 1
    x.kind = 3
    x.length = 0
    m.pending = ST_FAULT
    return 0


@inner
def _install_fast(m, va, host_page, rights, access):
    t = m.tlb
    if access & ACC_SYSTEM or m.debug.data:
        return
    slot = lshr(va, 12) & (FAST - 1)
    key = (va & ~0xFFF) | fast_context(m)
    if access & ACC_WRITE:
        if m.code.slot_of_page[lshr(host_page - m.ram, 12)] == 0:
            t.fast_write[slot] = key
            t.fast_write_host[slot] = host_page
    elif access & ACC_EXEC == 0:
        t.fast_read[slot] = key
        t.fast_read_host[slot] = host_page


@unit(Machine, i64, i64)
def translate(m, va, access):
    """Host address of ``va`` for an access of kind ACC_*.

    Returns 0 with ``m.pending`` set on a fault; 0 without it where there is no RAM.
    """
    t = m.tlb
    if not is_canonical(va):
        return _noncanonical(m)
    if m.sh.software:
        return software_translate(m, va, access)
    pcid = current_pcid(m)
    tag = m.hw.tag
    i = _find_first(m, va, tag, pcid)
    if i < 0 and t.sets[TLB1_LARGE] != 0:
        i = _find(m, TLB1_LARGE, va, tag, pcid)
    if i >= 0 and _sufficient(m, t.entries[i].rights, access):
        count(m, E_TLB1_HIT, 1)
    else:
        i = _find(m, TLB2, va, tag, pcid)
        if i >= 0 and _sufficient(m, t.entries[i].rights, access):
            count(m, E_TLB2_HIT, 1)
            e = t.entries[i]
            i = _insert(m, _first_array(m, e.shift), e.page, e.shift, e.frame, e.rights)
        else:
            count(m, E_TLB_MISS, 1)
            i = _fill(m, va, access)
            if i < 0:
                return 0
    e = t.entries[i]
    ma = e.frame | (va & ((1 << e.shift) - 1))
    host = host_of(m, ma)
    if host == 0 or ma & ~0xFFF == m.hw.apic_access:
        return not_ram(m, ma, access)
    _install_fast(m, va, host - (va & 0xFFF), e.rights, access)
    return host


# ---------------------------------------------------------------- flushes by instruction


@inner
def _drop_page(m, array, va, tag, pcid):
    dropped = 0
    while True:
        i = _find(m, array, va, tag, pcid)
        if i < 0:
            return dropped
        drop_entry(m, array, m.tlb.entries[i])
        m.tlb.entries[i].generation -= 1
        dropped += 1


@unit(Machine, i64, i64, i64)
def flush_address(m, tag, va, reason):
    """Drop the translations of one linear address under ``tag`` (INVLPG, INVLPGA, INVVPID 0).

    INVLPG concerns the current PCID, the others all of them.
    """
    t = m.tlb
    pcid = current_pcid(m) if reason == F_INVLPG else ANY_PCID
    dropped = _drop_page(m, TLB1, va, tag, pcid) + _drop_page(m, TLB2, va, tag, pcid)
    if t.sets[TLB1_LARGE] != 0:
        dropped += _drop_page(m, TLB1_LARGE, va, tag, pcid)
    dropped += drop_other_roots(m, tag, reason)
    i = tag_index(tag)
    t.tag_reason[i, (t.tag_generation[i] - 1) & 7] = reason
    record_flush(m, reason, S_ADDRESS, dropped)
    t.psc_generation += 1
    new_context(m)
    return dropped


@unit(Machine, i64)
def mov_cr3(m, value):
    """MOV to CR3: set it and drop what the manual says (APM vol. 2, 5.5; SDM vol. 3, 4.10.4.1)."""
    keep = m.cpu.cr4 & CR4_PCIDE != 0 and lshr(value, 63) != 0
    m.cpu.cr3 = value & 0x7FFF_FFFF_FFFF_FFFF
    if m.cpu.cr0 & CR0_PG and not keep:
        flush_tag_nonglobal(m, m.hw.tag, F_CR3_WRITE)
    else:
        new_context(m)
    return 0


@unit(Machine, i64)
def invlpg(m, va):
    """INVLPG by the running guest."""
    return flush_address(m, m.hw.tag, va, F_INVLPG)
