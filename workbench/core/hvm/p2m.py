"""Physical-to-machine tables: n1p_to_l0m (L0's for L1), and the nested p2m n2p_to_l0m for L2.

n2p_to_l0m is built lazily (Xen, nestedhap): a nested page fault of L2 is looked up in L1's table
(n2p_to_n1p, in L1's memory), then in L0's, and the combination is installed with the smaller page
and the rights both grant.  It holds one root of L1 at a time.

All tables are real NPT or EPT tables in simulated RAM; the hardware walks n1p_to_l0m for L1 and
n2p_to_l0m for L2.  The rights of L1's table are honoured on both vendors.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import BACKEND_SVM, PAGE, Machine
from ..ledger import (
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_NESTED_WALK_REFERENCE,
    E_L0_NP2M_ENTRY_ZAPPED,
    E_L0_NP2M_FLUSHED,
    E_L0_NP2M_INSTALLED,
    F_NP2M_CHANGED,
    count,
)
from ..mmu.physical import ma_ld64, ma_st64
from ..mmu.walk import (
    ADDRESS_MASK,
    PTE_A,
    PTE_D,
    PTE_NX,
    PTE_P,
    PTE_PS,
    PTE_U,
    PTE_W,
    nested_entry_rights,
    nested_reserved,
)
from ..structs import i64
from ..words import fill_bytes, lshr
from .tags import N2, tags_renew

NP_HANDLED, NP_INJECT, NP_MISCONFIG, NP_L0_ERROR = range(4)
"""Outcomes of :func:`np2m_fault`."""

EPT_WRITE_BACK = 6 << 3


# ---------------------------------------------------------------- L0's own table


@unit(Machine, i64)
def n1p_to_l0m(m, n1p):
    """Machine address of L1-physical ``n1p`` by L0's table, -1 where L1 has nothing.

    Leaves the page's log2 size in ``m.walk.shift`` and RWX in ``m.walk.rights``.
    """
    table = m.l1_hap_root & ADDRESS_MASK
    if lshr(n1p, 48):
        return -1
    shift = 39
    rights = 7
    while True:
        entry = ma_ld64(m, table + (lshr(n1p, shift) & 511) * 8)
        granted = nested_entry_rights(m, entry)
        if granted < 0:
            return -1
        rights &= granted
        if shift == 12 or (shift < 39 and entry & PTE_PS):
            break
        table = entry & ADDRESS_MASK
        shift -= 9
    mask = (1 << shift) - 1
    m.walk.shift = shift
    m.walk.rights = rights
    return (entry & ADDRESS_MASK & ~mask) | (n1p & mask)


# ---------------------------------------------------------------- L1's table


@inner
def _walk_l1_table(m, gpa, access):
    """Walk n2p_to_n1p; returns the n1p, -1 (missing or rights) or -2 (misconfigured).

    Sets ``m.np_present`` / ``m.np_rights``, and ``m.walk.shift``.
    """
    is_svm = m.hw.backend == BACKEND_SVM
    wanted = 1
    if access & 1:
        wanted |= 2
    if access & 2:
        wanted |= 4
    table = m.nv.np2m_base & ADDRESS_MASK
    m.np_present = 0
    m.np_rights = 0
    if lshr(gpa, 48):
        return -1
    rights = 7
    shift = 39
    while True:
        count(m, E_L0_GUEST_PAGE_MAPPED, 1)
        count(m, E_L0_NESTED_WALK_REFERENCE, 1)
        table_ma = n1p_to_l0m(m, table)
        if table_ma < 0:
            return -1
        address = table_ma + (lshr(gpa, shift) & 511) * 8
        entry = ma_ld64(m, address)
        granted = nested_entry_rights(m, entry)
        leaf = shift == 12 or (shift < 39 and entry & PTE_PS != 0)
        if granted < 0:
            return -1
        if nested_reserved(m, entry, shift, leaf):
            m.np_present = 1
            m.np_rights = rights
            return -2
        rights &= granted
        if leaf:
            break
        if is_svm and entry & PTE_A == 0:
            ma_st64(m, address, entry | PTE_A)
        table = entry & ADDRESS_MASK
        shift -= 9
    m.np_present = 1
    m.np_rights = rights
    if rights & wanted != wanted:
        return -1
    if is_svm:
        marked = entry | PTE_A | (PTE_D if access & 1 else 0)
        if marked != entry:
            ma_st64(m, address, marked)
    mask = (1 << shift) - 1
    m.walk.shift = shift
    return (entry & ADDRESS_MASK & ~mask) | (gpa & mask)


# ---------------------------------------------------------------- the nested p2m


@inner
def _new_table(m):
    """A zeroed page from the pool; 0 when the pool is used up."""
    page = m.np2m_pool_next
    if page >= m.np2m_pool_end:
        return 0
    m.np2m_pool_next = page + PAGE
    fill_bytes(m.ram + page, PAGE, 0)
    return page


@inner
def _entry(m, ma, rights, leaf, shift):
    """A nested entry in the back-end's format."""
    if m.hw.backend == BACKEND_SVM:
        entry = ma | PTE_P | PTE_U
        if rights & 2:
            entry |= PTE_W
        if rights & 4 == 0:
            entry |= PTE_NX
    else:
        entry = ma | rights
        if leaf:
            entry |= EPT_WRITE_BACK
    if leaf and shift > 12:
        entry |= PTE_PS
    return entry


@unit(Machine, i64)
def np2m_flush(m, reason):
    """Empty n2p_to_l0m and let L2 start with a new tag."""
    nv = m.nv
    nv.flushp2m = 0
    if nv.n2p_to_l0m == 0:
        return 0
    count(m, E_L0_NP2M_FLUSHED, 1)
    count(m, E_L0_NP2M_ENTRY_ZAPPED, nv.np2m_entries)
    nv.np2m_entries = 0
    m.np2m_pool_next = m.np2m_pool
    nv.n2p_to_l0m = _new_table(m)
    if nv.n2_guest:
        m.hw.hap_root = nv.n2p_to_l0m
    tags_renew(m, N2, reason)
    return 0


@unit(Machine, i64)
def np2m_flush_request(m, reason):
    """L1 invalidated nested translations: flush now (eager), or before L2 runs again (lazy)."""
    if m.feat.np2m_eager:
        np2m_flush(m, reason)
    else:
        m.nv.flushp2m = 1 + reason
    return 0


@unit(Machine, i64)
def np2m_select(m, base):
    """Make ``n2p_to_l0m`` the combination for L1's root ``base`` (n1p), empty if it is another's."""
    nv = m.nv
    root = base & ADDRESS_MASK
    if nv.n2p_to_l0m == 0:
        m.np2m_pool_next = m.np2m_pool
        nv.n2p_to_l0m = _new_table(m)
        nv.np2m_base = root
        nv.flushp2m = 0
    elif nv.np2m_base != root:
        np2m_flush(m, F_NP2M_CHANGED)
        nv.np2m_base = root
    elif nv.flushp2m:
        np2m_flush(m, nv.flushp2m - 1)
    return nv.n2p_to_l0m


@inner
def _install(m, gpa, ma, shift, rights):
    """Enter the page into n2p_to_l0m; returns 0 when the pool is used up."""
    table = m.nv.n2p_to_l0m
    level = 39
    while level > shift:
        address = table + (lshr(gpa, level) & 511) * 8
        entry = ma_ld64(m, address)
        if nested_entry_rights(m, entry) < 0 or (level < 39 and entry & PTE_PS):
            fresh = _new_table(m)
            if fresh == 0:
                return 0
            entry = _entry(m, fresh, 7, False, level)
            ma_st64(m, address, entry)
        table = entry & ADDRESS_MASK
        level -= 9
    mask = (1 << shift) - 1
    ma_st64(m, table + (lshr(gpa, shift) & 511) * 8, _entry(m, ma & ~mask, rights, True, shift))
    m.nv.np2m_entries += 1
    count(m, E_L0_NP2M_INSTALLED, 1)
    return 1


@unit(Machine, i64, i64)
def np2m_fault(m, gpa, access):
    """Resolve a nested page fault of L2; ``access`` bit 0 write, bit 1 fetch. Returns NP_*."""
    n1p = _walk_l1_table(m, gpa, access)
    if n1p == -2:
        return NP_MISCONFIG
    if n1p < 0:
        return NP_INJECT
    l1_shift = m.walk.shift
    ma = n1p_to_l0m(m, n1p)
    if ma < 0:
        return NP_L0_ERROR
    count(m, E_L0_NESTED_WALK_REFERENCE, (48 - m.walk.shift) // 9)
    rights = m.np_rights & m.walk.rights
    shift = l1_shift if l1_shift < m.walk.shift else m.walk.shift
    if not _install(m, gpa, ma, shift, rights):
        np2m_flush(m, F_NP2M_CHANGED)
        _install(m, gpa, ma, shift, rights)
    return NP_HANDLED
