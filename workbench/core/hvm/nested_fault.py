"""A nested page fault of L2: looked up in L1's table, then in L0's, and entered into the nested p2m.

Xen, nestedhvm_hap_nested_page_fault: the page is entered with the smaller of the two page sizes and
the rights both tables grant.  On SVM Xen installs what L0 grants, whatever L1's table says once it
has let the access pass (deviation ``np2m_host_rights``).

Accessed bits of L1's NPT are set by the walk, the dirty bit on a write.  In L1's EPT both only when
L1 asked for them (EPTP bit 6); then a page is entered without write permission until a write has
made it dirty, as KVM does, or the write would leave no trace in L1's table.
"""

from __future__ import annotations

from ...arch import deviations
from ..cpu.apic import is_apic_page
from ..jit import inner, unit
from ..layout import BACKEND_SVM, Machine
from ..ledger import (
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_NESTED_WALK_REFERENCE,
    E_L0_NP2M_INSTALLED,
    F_NP2M_CHANGED,
    count,
)
from ..mmu.physical import ma_ld64, ma_st64
from ..mmu.walk import (
    ADDRESS_MASK,
    EPT_A,
    EPT_D,
    PTE_A,
    PTE_D,
    PTE_NX,
    PTE_P,
    PTE_PS,
    PTE_U,
    PTE_W,
    nested_entry_rights,
    nested_reserved,
    nested_wanted,
)
from ..structs import i64
from ..words import lshr
from .nested_state import n2p_to_l0m
from .np2m import EPTP_AD, new_table_page, np2m_empty_all, np2m_select
from .p2m import EPT_WRITE_BACK, n1p_to_l0m, p2m_query, p2m_resolve
from .vmx.pml import log_write_for_l1

NP_HANDLED, NP_INJECT, NP_MISCONFIG, NP_L0_ERROR, NP_MMIO, NP_LOG_FULL = range(6)
"""Outcomes of :func:`np2m_fault`."""


# ---------------------------------------------------------------- L1's table


@inner
def _marks(m):
    """Accessed and dirty bits in use in L1's table: their masks, 0 when there are none."""
    if m.hw.backend == BACKEND_SVM:
        return PTE_A, PTE_D
    if m.nv.np2m_base & EPTP_AD:
        return EPT_A, EPT_D
    return 0, 0


@inner
def _walk_l1_table(m, gpa, access):
    """Walk n2p_to_n1p; returns the n1p, -1 (missing or rights), -2 (misconfigured) or -3 (the page
    would become dirty, but L1's log of such pages is full).

    Sets ``m.np_present``, ``m.np_rights``, ``m.np_clean``, and ``m.walk.shift``.
    """
    wanted = nested_wanted(access)
    accessed, dirty = _marks(m)
    table = m.nv.np2m_base & ADDRESS_MASK
    m.np_present = 0
    m.np_rights = 0
    m.np_clean = 0
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
        if accessed and entry & accessed == 0:
            ma_st64(m, address, entry | accessed)
        table = entry & ADDRESS_MASK
        shift -= 9
    m.np_present = 1
    m.np_rights = rights
    if rights & wanted != wanted:
        return -1
    if accessed:
        marked = entry | accessed | (dirty if access & 1 else 0)
        if (marked & ~entry) & dirty and not log_write_for_l1(m, gpa):
            return -3
        if marked != entry:
            ma_st64(m, address, marked)
        m.np_clean = 1 if marked & dirty == 0 else 0
    mask = (1 << shift) - 1
    m.walk.shift = shift
    return (entry & ADDRESS_MASK & ~mask) | (gpa & mask)


# ---------------------------------------------------------------- the nested p2m


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


@inner
def _present_in(m, table):
    """How many entries of a nested table are present."""
    present = 0
    for i in range(512):
        if nested_entry_rights(m, ma_ld64(m, table + i * 8)) >= 0:
            present += 1
    return present


@unit(Machine, i64, i64)
def _pages_below(m, entry, shift):
    """Pages that an entry of a nested p2m, covering ``1 << shift`` bytes, maps: itself or a table."""
    if nested_entry_rights(m, entry) < 0:
        return 0
    if shift == 12 or entry & PTE_PS:
        return 1
    table = entry & ADDRESS_MASK
    if shift == 21:
        return _present_in(m, table)
    pages = 0
    for i in range(512):
        lower = ma_ld64(m, table + i * 8)
        if nested_entry_rights(m, lower) >= 0:
            pages += 1 if lower & PTE_PS else _present_in(m, lower & ADDRESS_MASK)
    return pages


@inner
def _install(m, gpa, ma, shift, rights):
    """Enter the page into n2p_to_l0m in place of what is there; 0 when the pool is used up."""
    t = m.np2m[m.nv.np2m_slot]
    table = n2p_to_l0m(m)
    level = 39
    while level > shift:
        address = table + (lshr(gpa, level) & 511) * 8
        entry = ma_ld64(m, address)
        if nested_entry_rights(m, entry) < 0 or (level < 39 and entry & PTE_PS):
            fresh = new_table_page(m)
            if fresh == 0:
                return 0
            t.entries -= 1 if entry & PTE_PS else 0  # a large page makes way
            entry = _entry(m, fresh, 7, False, level)
            ma_st64(m, address, entry)
        table = entry & ADDRESS_MASK
        level -= 9
    mask = (1 << shift) - 1
    address = table + (lshr(gpa, shift) & 511) * 8
    t.entries += 1 - _pages_below(m, ma_ld64(m, address), shift)
    ma_st64(m, address, _entry(m, ma & ~mask, rights, True, shift))
    count(m, E_L0_NP2M_INSTALLED, 1)
    return 1


@inner
def _rights(m):
    """RWX of the new entry, from L1's and from L0's."""
    rights = m.walk.rights
    if m.feat.deviations & deviations.DEV_NP2M_HOST_RIGHTS == 0 or m.hw.backend != BACKEND_SVM:
        rights &= m.np_rights
    if m.np_clean and m.hw.backend != BACKEND_SVM:
        rights &= ~2
    return rights


@unit(Machine, i64, i64)
def np2m_fault(m, gpa, access):
    """Resolve a nested page fault of L2; ``access`` bit 0 write, bit 1 fetch. Returns NP_*."""
    # 1. L1's table
    n1p = _walk_l1_table(m, gpa, access)
    if n1p == -2:
        return NP_MISCONFIG
    if n1p == -3:
        return NP_LOG_FULL
    if n1p < 0:
        return NP_INJECT
    # 2. L0's table; what L0 took away it gives back, and L2 faults again
    l1_shift = m.walk.shift
    ma = p2m_query(m, n1p)
    if ma < 0 or (access & 1 and m.walk.rights & 2 == 0):
        if p2m_resolve(m, n1p, access & 1):
            return NP_HANDLED
        m.device = n1p
        return NP_MMIO if is_apic_page(m, n1p) else NP_L0_ERROR
    count(m, E_L0_NESTED_WALK_REFERENCE, (48 - m.walk.shift) // 9)
    # 3. both together
    shift = l1_shift if l1_shift < m.walk.shift else m.walk.shift
    rights = _rights(m)
    m.np2m_last_n1p = n1p
    if not _install(m, gpa, ma, shift, rights):
        np2m_empty_all(m, F_NP2M_CHANGED)
        np2m_select(m, m.nv.np2m_base)
        m.nv.stale_np2m = 1
        _install(m, gpa, ma, shift, rights)
    return NP_HANDLED
