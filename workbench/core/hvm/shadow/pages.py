"""The pages of L0's shadow tables: a pool, a cache by guest table, references, write protection.

A shadow page stands for one guest page table (kinds 1 to 4: its level), or for a large page of the
guest in pieces (FL1: 512 pages of 4 KB of a 2 MB page; FL2: 512 FL1s of a 1 GB page).  Shadow tables
have the processor's format and map linear to machine addresses, always with 4 KB pages.

* cache: shadows of a page of RAM form a list from ``head[frame]``; the key is frame, kind and
  EFER.NXE, the one mode bit that changes what an entry means (CR0.WP does not: see ``l0``)
* references: one per entry that points to the page, one for a root that is kept; a page without
  any is freed at once, with all that only it refers to (Xen, sh_put_ref)
* write protection: a shadowed table is writable through no entry; ``writable[frame]`` counts the
  entries that map a page writable, ``writable_at`` remembers one of them, and if that is not the
  only one all shadows are searched (Xen, sh_remove_write_access)
* when the pool is used up, the root used least recently goes; with nothing else left, all go

Any loss of rights, and every page freed, sets ``m.sh.flush``: L0 then takes new tags for both levels
before it enters a guest.
"""

from __future__ import annotations

from ...jit import inner, unit
from ...layout import PAGE, Machine
from ...ledger import E_L0_SHADOW_PAGE_ALLOCATED, count
from ...mmu.physical import ma_ld64, ma_st64
from ...mmu.records import MAX_RAM_PAGES
from ...mmu.walk import ADDRESS_MASK, PTE_NX, PTE_P, PTE_U, PTE_W
from ...structs import i64
from ...words import fill_bytes, lshr
from ..records import SHADOW_PAGES
from .walk import TABLE_KINDS, frame_of

FL1, FL2 = 5, 6
ROLE_NXE = 8
"""Added to the kind while EFER.NXE is set."""
INDEX_MASK = SHADOW_PAGES - 1


@inner
def page_ma(m, p):
    """Machine address of shadow page number ``p``."""
    return m.np2m_pool + p * PAGE


@inner
def page_number(m, entry):
    """Number of the shadow page that a link entry points to."""
    return lshr((entry & ADDRESS_MASK) - m.np2m_pool, 12) & INDEX_MASK


@inner
def holds_leaves(kind):
    """Do entries of this kind map memory rather than point to shadow pages?"""
    return kind & 7 == 1 or kind & 7 == FL1


@inner
def find_shadow(m, frame, kind):
    """The shadow page of ``frame`` with this kind and role, 0 when there is none."""
    p = m.sh.head[frame]
    while p:
        if m.sh.pages[p].kind == kind:
            return p
        p = m.sh.pages[p].next
    return 0


@inner
def loses_rights(old, new):
    """Does replacing a present entry take something away?"""
    if old & PTE_P == 0:
        return False
    if new & PTE_P == 0 or (old ^ new) & ADDRESS_MASK:
        return True
    return old & ~new & (PTE_W | PTE_U) != 0 or new & ~old & PTE_NX != 0


# ---------------------------------------------------------------- freeing


@inner
def _unlink(m, p):
    """Take a page out of the list of its frame."""
    s = m.sh
    frame = s.pages[p].frame
    q = s.head[frame]
    if q == p:
        s.head[frame] = s.pages[p].next
        return
    while q:
        following = s.pages[q].next
        if following == p:
            s.pages[q].next = s.pages[p].next
            return
        q = following


@inner
def _count_writable(m, entry, by):
    if entry & PTE_P and entry & PTE_W:
        frame = frame_of(m, entry & ADDRESS_MASK)
        if frame >= 0:
            m.sh.writable[frame] += by


@unit(Machine, i64)
def shadow_release(m, p):
    """Drop one reference; the last one frees the page and what only it refers to."""
    s = m.sh
    p &= INDEX_MASK
    s.pages[p].refs -= 1
    if s.pages[p].refs > 0:
        return 0
    _unlink(m, p)
    s.pages[p].next = 0
    waiting = p
    while waiting:
        p = waiting
        waiting = s.pages[p].next
        ma = page_ma(m, p)
        leaves = holds_leaves(s.pages[p].kind)
        for i in range(512):
            entry = ma_ld64(m, ma + 8 * i)
            if entry & PTE_P == 0:
                continue
            if leaves:
                _count_writable(m, entry, -1)
                continue
            child = page_number(m, entry)
            s.pages[child].refs -= 1
            if s.pages[child].refs == 0:
                _unlink(m, child)
                s.pages[child].next = waiting
                waiting = child
        s.pages[p].kind = 0
        s.pages[p].next = s.free
        s.free = p
        s.freed += 1
    s.flush = 1
    return 0


@unit(Machine)
def shadow_drop_all(m):
    """Give up all shadows, those in use too (Xen, shadow_blow_tables)."""
    s = m.sh
    for p in range(1, s.top):
        if s.pages[p].kind:
            s.head[s.pages[p].frame] = 0
            s.pages[p].kind = 0
            s.freed += 1
    for frame in range(MAX_RAM_PAGES):
        s.writable[frame] = 0
    s.free = 0
    s.top = 1
    s.roots[0] = 0
    s.roots[1] = 0
    s.n_written = 0
    s.written_overflow = 0
    s.flush = 1
    return 0


# ---------------------------------------------------------------- entries


@inner
def set_leaf(m, address, new):
    """Write an entry that maps memory."""
    old = ma_ld64(m, address)
    _count_writable(m, old, -1)
    _count_writable(m, new, 1)
    if new & PTE_P and new & PTE_W:
        frame = frame_of(m, new & ADDRESS_MASK)
        if frame >= 0:
            m.sh.writable_at[frame] = lshr(address - m.np2m_pool, 3)
    if loses_rights(old, new):
        m.sh.flush = 1
    ma_st64(m, address, new)


@inner
def set_link(m, address, new):
    """Write an entry that points to a shadow page, or clear one."""
    old = ma_ld64(m, address)
    if new & PTE_P:
        m.sh.pages[page_number(m, new)].refs += 1
    if loses_rights(old, new):
        m.sh.flush = 1
    ma_st64(m, address, new)
    if old & PTE_P:
        shadow_release(m, page_number(m, old))


# ---------------------------------------------------------------- write protection


@inner
def _take_write(m, address, frame):
    """Make the entry read-only if it maps ``frame`` writable."""
    entry = ma_ld64(m, address)
    if entry & PTE_P and entry & PTE_W and frame_of(m, entry & ADDRESS_MASK) == frame:
        set_leaf(m, address, entry & ~PTE_W)


@unit(Machine, i64)
def shadow_protect(m, frame):
    """No entry may map the page writable any longer."""
    s = m.sh
    frame &= MAX_RAM_PAGES - 1
    if s.writable[frame] == 0:
        return 0
    hint = s.writable_at[frame]
    p = lshr(hint, 9) & INDEX_MASK
    if s.pages[p].kind and holds_leaves(s.pages[p].kind):
        _take_write(m, page_ma(m, p) + (hint & 511) * 8, frame)
    if s.writable[frame] == 0:
        return 0
    for p in range(1, s.top):
        if s.pages[p].kind and holds_leaves(s.pages[p].kind):
            for i in range(512):
                _take_write(m, page_ma(m, p) + 8 * i, frame)
    return 0


# ---------------------------------------------------------------- allocating


@inner
def _evict_root(m):
    """Let the least recently used root go that no level runs on; 0 when there is none."""
    s = m.sh
    oldest = 0
    for p in range(1, s.top):
        if s.pages[p].pinned and p != s.roots[0] and p != s.roots[1]:
            if oldest == 0 or s.pages[p].used < s.pages[oldest].used:
                oldest = p
    if oldest:
        s.pages[oldest].pinned = 0
        shadow_release(m, oldest)
    return oldest


@inner
def _take_page(m):
    s = m.sh
    while s.free == 0:
        if s.top < s.limit:
            s.top += 1
            return s.top - 1
        if _evict_root(m) == 0:
            return 0
    p = s.free
    s.free = s.pages[p].next
    return p


@unit(Machine, i64, i64)
def shadow_get(m, frame, kind):
    """The shadow page of ``frame`` with this kind and role, made if need be; 0: pool used up."""
    s = m.sh
    frame &= MAX_RAM_PAGES - 1
    p = find_shadow(m, frame, kind)
    if p:
        return p
    p = _take_page(m)
    if p == 0:
        return 0
    count(m, E_L0_SHADOW_PAGE_ALLOCATED, 1)
    fill_bytes(m.ram + page_ma(m, p), PAGE, 0)
    page = s.pages[p]
    page.frame = frame
    page.kind = kind
    page.refs = 0
    page.pinned = 0
    page.next = s.head[frame]
    s.head[frame] = p
    if kind & 7 <= TABLE_KINDS:
        shadow_protect(m, frame)
    return p


@unit(Machine, i64, i64)
def shadow_root(m, who, frame):
    """Make the shadow of the PML4 in ``frame`` the root of level 1 or 2 (``who`` 0, 1); 0: none."""
    s = m.sh
    who &= 1
    p = shadow_get(m, frame, 4 | s.role)
    if p == 0:
        return 0
    page = s.pages[p]
    if page.pinned == 0:
        page.pinned = 1
        page.refs += 1
    s.clock += 1
    page.used = s.clock
    s.roots[who] = p
    return p
