"""n1p_to_l0m: L0's own table from L1's physical addresses to machine addresses.

A real NPT or EPT table in simulated RAM that the hardware walks for L1.  L0 may take a page away
(ballooning, swapping) or write-protect it (log-dirty); it then marks the entry with a bit that the
hardware ignores, and gives the page or the right back at the next fault, or as soon as L0 itself
needs the page (Xen: a query that allocates).

Not modelled: splitting large pages, other machine pages than before, sharing, MMIO.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import BACKEND_SVM, N_P2M_LEAVES, Machine
from ..ledger import E_L0_P2M_CHANGED, count
from ..mmu.physical import ma_ld64, ma_st64
from ..mmu.walk import ADDRESS_MASK, PTE_P, PTE_PS, PTE_W, nested_entry_rights
from ..structs import i64
from ..words import lshr

PAGE_SHIFT = 12
EPT_WRITE_BACK = 6 << 3
EPT_ALL = 7
TAKEN, LOGGED = 1 << 53, 1 << 54
"""Software bits of an entry: L0 has taken the page away; has write-protected it to log writes."""


@inner
def _give_back(m, address, entry):
    """Make an entry that was taken away present again; returns it."""
    entry &= ~TAKEN
    entry |= PTE_P if m.hw.backend == BACKEND_SVM else EPT_ALL
    ma_st64(m, address, entry)
    count(m, E_L0_P2M_CHANGED, 1)
    return entry


@unit(Machine, i64)
def find_p2m_leaf(m, n1p):
    """Walk down to the entry for ``n1p`` and remember where it is; 0 when no table leads there."""
    table = m.l1_hap_root & ADDRESS_MASK
    if lshr(n1p, 48):
        return 0
    shift = 39
    rights = 7
    while True:
        address = table + (lshr(n1p, shift) & 511) * 8
        entry = ma_ld64(m, address)
        if shift == 12 or (shift < 39 and entry & PTE_PS):
            break
        granted = nested_entry_rights(m, entry)
        if granted < 0:
            return 0
        rights &= granted
        table = entry & ADDRESS_MASK
        shift -= 9
    leaf = m.p2m_leaves[lshr(n1p, PAGE_SHIFT) & (N_P2M_LEAVES - 1)]
    leaf.key = lshr(n1p, PAGE_SHIFT) + 1
    leaf.address = address
    leaf.shift = shift
    leaf.rights = rights
    return 1


@inner
def _look_up(m, n1p, allocate):
    """The tables above the last level stay as they were built, entries of the last level change."""
    leaf = m.p2m_leaves[lshr(n1p, PAGE_SHIFT) & (N_P2M_LEAVES - 1)]
    if leaf.key != lshr(n1p, PAGE_SHIFT) + 1 and find_p2m_leaf(m, n1p) == 0:
        return -1
    entry = ma_ld64(m, leaf.address)
    if allocate and entry & TAKEN:
        entry = _give_back(m, leaf.address, entry)
    granted = nested_entry_rights(m, entry)
    if granted < 0:
        return -1
    mask = (1 << leaf.shift) - 1
    m.walk.shift = leaf.shift
    m.walk.rights = leaf.rights & granted
    return (entry & ADDRESS_MASK & ~mask) | (n1p & mask)


@unit(Machine, i64)
def n1p_to_l0m(m, n1p):
    """Machine address of L1-physical ``n1p`` by L0's table, -1 where L1 has nothing.

    A page that L0 has taken away is given back.  Leaves the page's log2 size in ``m.walk.shift``
    and RWX in ``m.walk.rights``.
    """
    return _look_up(m, n1p, True)


@unit(Machine, i64)
def p2m_query(m, n1p):
    """Like :func:`n1p_to_l0m`, but changes nothing: -1 for a page that was taken away, too."""
    return _look_up(m, n1p, False)


@inner
def _leaf_address(m, n1p):
    """Machine address of the entry that maps ``n1p``, present or taken away; -1 when none does."""
    if lshr(n1p, 48):
        return -1
    table = m.l1_hap_root & ADDRESS_MASK
    shift = 39
    while True:
        address = table + (lshr(n1p, shift) & 511) * 8
        entry = ma_ld64(m, address)
        if entry & TAKEN == 0 and nested_entry_rights(m, entry) < 0:
            return -1
        if shift == 12 or (shift < 39 and entry & PTE_PS):
            return address
        table = entry & ADDRESS_MASK
        shift -= 9


@unit(Machine, i64, i64)
def p2m_resolve(m, n1p, write):
    """L0's part of a fault at ``n1p``: give back what L0 took; 0 when L0 took nothing.

    Only rights are added, so no nested p2m has to be flushed.
    """
    address = _leaf_address(m, n1p)
    if address < 0:
        return 0
    entry = ma_ld64(m, address)
    if entry & TAKEN:
        _give_back(m, address, entry)
        return 1
    if write and entry & LOGGED:
        ma_st64(m, address, (entry | PTE_W) & ~LOGGED)
        count(m, E_L0_P2M_CHANGED, 1)
        return 1
    return 0


@unit(Machine, i64, i64)
def p2m_withdraw(m, n1p, log_dirty):
    """Take the page at ``n1p`` away, or write-protect it; 1 when this changed the table."""
    address = _leaf_address(m, n1p)
    if address < 0:
        return 0
    entry = ma_ld64(m, address)
    if entry & TAKEN or (log_dirty and entry & LOGGED):
        return 0
    if log_dirty:
        entry = (entry & ~PTE_W) | LOGGED
    elif m.hw.backend == BACKEND_SVM:
        entry = (entry & ~PTE_P) | TAKEN
    else:
        entry = (entry & ~EPT_ALL) | TAKEN
    ma_st64(m, address, entry)
    count(m, E_L0_P2M_CHANGED, 1)
    return 1
