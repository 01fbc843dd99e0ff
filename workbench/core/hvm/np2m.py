"""The nested p2m cache: n2p_to_l0m tables, one per root of L1, least recently used first to go.

A table combines L1's table for L2 (n2p_to_n1p, in L1's memory) with L0's (n1p_to_l0m).  It is
filled by faults: see ``nested_fault``.  Tables lie in simulated RAM, the hardware walks them for L2;
their pages come from one pool and return to it when a table is emptied (Xen, p2m_flush_table).
Each table has a generation that emptying moves on; the vcpu remembers the generation it chose.

What empties a table (feature ``np2m_flush``):

========== ===================================== ==============================================
policy     INVEPT                                VMRUN with TLB_CONTROL or a new ASID; INVLPGA
========== ===================================== ==============================================
lazy       marked, emptied before it is used     marked, emptied before it is used
eager      emptied by the instruction            emptied by the instruction
generation emptied, and no root's any more       VMRUN: the choice is forgotten and the table
                                                 found again by its root; INVLPGA: nothing
========== ===================================== ==============================================

``generation`` is Xen since 2017: as there, the least recently used table is taken for a new root
even when another one is empty, and a choice renews the tags of L1 and of L2.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import BACKEND_SVM, NP2M_GENERATION, NP2M_LAZY, PAGE, Machine
from ..ledger import E_L0_NP2M_ENTRY_ZAPPED, E_L0_NP2M_FLUSHED, F_NP2M_CHANGED, count
from ..mmu.walk import ADDRESS_MASK
from ..structs import i64
from ..words import fill_bytes
from .nested_state import flushp2m, n2p_to_l0m, set_flushp2m, set_n2p_to_l0m
from .records import MAX_NP2M, NP2M_POOL_PAGES
from .tags import N1, N2, tags_np2m_emptied, tags_renew, tells_tables_apart
from .vmx.offer import l1_has_ept_ad

EPTP_AD = 1 << 6
"""In ``base``: L1 uses accessed and dirty bits of EPT with this root."""
KEY_MASK = ADDRESS_MASK | EPTP_AD
TLB_CONTROL_ALL = 1


# ---------------------------------------------------------------- pages


@inner
def _place(m, page):
    """Index of a pool page."""
    return ((page - m.np2m_pool) >> 12) & (NP2M_POOL_PAGES - 1)


@inner
def _take_page(m):
    """A zeroed page of the pool, 0 when none is left."""
    page = m.np2m_free
    if page:
        m.np2m_free = m.np2m_next[_place(m, page)]
    else:
        page = m.np2m_pool_next
        if page >= m.np2m_pool_end:
            return 0
        m.np2m_pool_next = page + PAGE
    fill_bytes(m.ram + page, PAGE, 0)
    return page


@inner
def new_table_page(m):
    """A zeroed page for the table that L2 uses; 0 when the pool is used up."""
    page = _take_page(m)
    if page:
        t = m.np2m[m.nv.np2m_slot]
        m.np2m_next[_place(m, page)] = t.pages
        t.pages = page
    return page


# ---------------------------------------------------------------- emptying


@inner
def n_tables(m):
    """How many tables L0 keeps."""
    n = m.feat.np2m_tables
    return n if 1 <= n <= MAX_NP2M else MAX_NP2M


@unit(Machine, i64, i64)
def np2m_empty(m, slot, reason):
    """Empty one table and give its pages back; L2 chooses again before it runs."""
    t = m.np2m[slot]
    t.flush = 0
    if t.root == 0 or t.base == -1:
        return 0
    count(m, E_L0_NP2M_FLUSHED, 1)
    count(m, E_L0_NP2M_ENTRY_ZAPPED, t.entries)
    page = t.pages
    while page:
        following = m.np2m_next[_place(m, page)]
        m.np2m_next[_place(m, page)] = m.np2m_free
        m.np2m_free = page
        page = following
    fill_bytes(m.ram + t.root, PAGE, 0)
    t.pages = 0
    t.entries = 0
    t.generation += 1
    t.reason = reason
    if m.feat.np2m_flush == NP2M_GENERATION:
        t.base = -1
    if slot == m.nv.np2m_slot:
        m.nv.stale_np2m = 1
    tags_np2m_emptied(m, slot, reason)
    return 0


@unit(Machine, i64)
def np2m_empty_all(m, reason):
    """Empty every table at once: L0's own table changed (Xen, p2m_flush_nestedp2m)."""
    for slot in range(n_tables(m)):
        np2m_empty(m, slot, reason)
    return 0


@unit(Machine, i64)
def np2m_reset(m, reason):
    """L1 left SVM: all tables are emptied and belong to no root."""
    np2m_empty_all(m, reason)
    for slot in range(n_tables(m)):
        m.np2m[slot].base = -1
    set_n2p_to_l0m(m, 0)
    m.nv.np2m_base = -1
    m.nv.stale_np2m = 0
    set_flushp2m(m, 0)
    tags_renew(m, N2, reason)
    return 0


@inner
def _invalidate(m, slot, reason):
    """L1 invalidated what it knows as a TLB: empty the table now, or mark it."""
    t = m.np2m[slot]
    if t.root == 0 or t.base == -1:
        return
    if m.feat.np2m_flush == NP2M_LAZY:
        t.flush = 1 + reason
        if slot == m.nv.np2m_slot:
            m.nv.stale_np2m = 1
    else:
        np2m_empty(m, slot, reason)


@inner
def _has_root(t, root):
    return t.base != -1 and (t.base ^ root) & ADDRESS_MASK == 0


@unit(Machine, i64, i64)
def np2m_invalidate_root(m, root, reason):
    """INVEPT of one EPTP: the tables of that root (Xen, np2m_flush_base)."""
    for slot in range(n_tables(m)):
        if _has_root(m.np2m[slot], root):
            _invalidate(m, slot, reason)
    return 0


@unit(Machine, i64)
def np2m_invalidate_all(m, reason):
    """INVEPT of all contexts."""
    for slot in range(n_tables(m)):
        _invalidate(m, slot, reason)
    return 0


@unit(Machine, i64)
def np2m_invalidate_current(m, reason):
    """INVLPGA with L2's ASID; ``generation`` ignores it, as Xen does."""
    if n2p_to_l0m(m) and m.feat.np2m_flush != NP2M_GENERATION:
        _invalidate(m, m.nv.np2m_slot, reason)
    return 0


@unit(Machine, i64, i64, i64)
def np2m_note_vmrun(m, tlb_control, root, reason):
    """VMRUN with TLB_CONTROL or a new ASID: the table of vmcb12's root, or all of them."""
    if n2p_to_l0m(m) == 0:
        return 0  # no table yet
    if m.feat.np2m_flush == NP2M_GENERATION:
        set_flushp2m(m, 1)
    elif tlb_control == TLB_CONTROL_ALL:
        np2m_invalidate_all(m, reason)
    else:
        np2m_invalidate_root(m, root, reason)
    return 0


# ---------------------------------------------------------------- choosing


@inner
def _find(m, key):
    """Table of the root ``key``, -1 when none is."""
    for slot in range(n_tables(m)):
        t = m.np2m[slot]
        if t.root != 0 and t.base == key:
            return slot
    return -1


@inner
def _least_recently_used(m):
    oldest = 0
    for slot in range(1, n_tables(m)):
        if m.np2m[slot].used < m.np2m[oldest].used:
            oldest = slot
    return oldest


@unit(Machine, i64)
def _make_table(m, key):
    """Take the least recently used table for ``key``; returns its slot."""
    slot = _least_recently_used(m)
    t = m.np2m[slot]
    np2m_empty(m, slot, F_NP2M_CHANGED)
    if t.root == 0:
        t.root = _take_page(m)
        if t.root == 0:  # the other tables have eaten the pool
            np2m_empty_all(m, F_NP2M_CHANGED)
            t.root = _take_page(m)
    t.base = key
    return slot


@unit(Machine, i64)
def np2m_select(m, base):
    """Choose the table for L1's root ``base`` (nCR3 or EPTP); returns its root (ma).

    Xen, p2m_get_nestedp2m: the table in use, if it is that root's; else one found by its root; else
    the least recently used, emptied.
    """
    nv = m.nv
    key = base & (KEY_MASK if m.hw.backend != BACKEND_SVM and l1_has_ept_ad(m) else ADDRESS_MASK)
    # 1. what the vcpu remembers
    chosen = n2p_to_l0m(m) != 0  # else L2 has not run yet
    known = chosen and flushp2m(m) == 0
    set_flushp2m(m, 0)
    reason = F_NP2M_CHANGED
    renew = chosen
    slot = nv.np2m_slot
    if known and m.np2m[slot].flush and m.np2m[slot].base == key:
        np2m_empty(m, slot, m.np2m[slot].flush - 1)
    if known and m.np2m[slot].generation != nv.np2m_generation:
        reason = m.np2m[slot].reason
    elif known and m.np2m[slot].base == key:
        renew = False
    # 2. the table
    if not known or m.np2m[slot].base != key:
        slot = _find(m, key)
        if slot < 0:
            slot = _make_table(m, key)
        elif m.np2m[slot].flush:
            np2m_empty(m, slot, m.np2m[slot].flush - 1)
    t = m.np2m[slot]
    # 3. it is the most recent one now
    m.np2m_clock += 1
    t.used = m.np2m_clock
    nv.np2m_slot = slot
    nv.np2m_base = key
    nv.np2m_generation = t.generation
    set_n2p_to_l0m(m, t.root)
    nv.stale_np2m = 0
    # 4. another table, or an emptied one: no translation made by the old one may be used
    if renew and not tells_tables_apart(m):
        tags_renew(m, N1 | N2 if m.feat.np2m_flush == NP2M_GENERATION else N2, reason)
    return t.root
