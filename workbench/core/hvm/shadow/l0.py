"""L0 shadow paging: what L0 does at a page fault, a write to a guest page table, INVLPG and CR3.

The guest (L1, or L2 with the tables that L1 made for it) believes in its own page tables; the
processor walks L0's shadow of them (``pages``).  As in Xen:

* a hole in the shadow is a #PF exit: L0 walks the guest's tables; what they forbid is the guest's
  own fault, what they allow is entered (sh_page_fault)
* guest tables are write-protected; L0 emulates a store to one and brings the shadow entries of the
  written ones up to date at once, those with the accessed bit set are filled in (no fault later)
* a page is entered read-only until a write has made it dirty in the guest's table

CR0.WP is always set for real.  With the guest's WP clear, a supervisor's store to a read-only page
faults and L0 emulates it, one by one; Xen does the same for its own shadows.  PCIDs are hidden from
the guest, global pages are not global in the shadow, large pages are entered in pieces of 4 KB.

Not modelled: unsynchronised shadow tables (KVM; Xen's OOS pages).
"""

from __future__ import annotations

from ...jit import inner, unit
from ...layout import ST_FAULT, ST_OK, Machine
from ...ledger import (
    E_L0_FLUSH_EXECUTED,
    E_L0_GUEST_PTE_EMULATED,
    E_L0_SHADOW_ENTRY_FILLED,
    E_L0_SHADOW_ENTRY_SYNCED,
    F_INVLPG,
    count,
)
from ...mmu.physical import ma_ld64
from ...mmu.records import TR_WRITE
from ...mmu.tlb import flush_address
from ...mmu.walk import (
    ACC_EXEC,
    ACC_WRITE,
    ADDRESS_MASK,
    PTE_A,
    PTE_D,
    PTE_NX,
    PTE_P,
    PTE_PS,
    PTE_U,
    PTE_W,
    fill_page_fault,
)
from ...structs import i64
from ...words import ld64, lshr
from ..nested_state import is_n2_guest
from ..p2m import n1p_to_l0m, p2m_resolve
from ..tags import N1, N2, tags_renew
from .pages import (
    FL1,
    FL2,
    ROLE_NXE,
    page_ma,
    page_number,
    set_leaf,
    set_link,
    shadow_drop_all,
    shadow_get,
    shadow_release,
)
from .walk import TABLE_KINDS, entry_reserved, frame_of, guest_walk, is_table

SF_HANDLED, SF_INJECT, SF_EMULATE, SF_FATAL = range(4)
"""Outcomes of :func:`shadow_fault`: try again; #PF in ``m.exc`` for the guest; emulate the store;
the guest uses memory that it does not have."""
EMULATING = 4
"""In ``m.cpu.shadow``: L0 executes this one instruction for the guest."""
ALL = PTE_P | PTE_W | PTE_U | PTE_A
UNCHANGED, CHANGED, POOL_EMPTY, NO_MEMORY = 0, 1, -1, -2


@inner
def _rights(entry):
    """Flags of a shadow entry with the rights of a guest entry."""
    return PTE_P | PTE_A | (entry & (PTE_W | PTE_U | PTE_NX))


@inner
def _leaf_rights(entry):
    """The same for an entry that maps memory: read-only while the guest's is not dirty."""
    return _rights(entry) if entry & PTE_D else _rights(entry) & ~PTE_W


# ---------------------------------------------------------------- filling


@inner
def _next_table(m, level):
    """Shadow page below the entry of ``level`` on the path of the last guest walk; 0, or -1."""
    s = m.sh
    kind = level
    at = s.tables[level - 1]
    if level <= s.level:
        kind = FL1 if level == 1 else FL2
        shift = 12 + 9 * level
        at = n1p_to_l0m(m, lshr(s.gpa, shift) << shift)
    if at < 0:
        return -1
    frame = frame_of(m, at)
    if frame < 0:
        return -1
    return shadow_get(m, frame, kind | s.role)


@inner
def _link_rights(m, level):
    s = m.sh
    if level > s.level:
        return _rights(s.entries[level])
    return _leaf_rights(s.leaf) if level == s.level else ALL


@unit(Machine, i64, i64, i64)
def shadow_install(m, va, ma, writable):
    """Enter the page that the last guest walk found, at ``ma``; UNCHANGED ... NO_MEMORY."""
    s = m.sh
    root = s.roots[1 if is_n2_guest(m) else 0]
    if root == 0:
        return POOL_EMPTY
    table = page_ma(m, root)
    changed = UNCHANGED
    shift = 39
    level = 3
    while level > 0:
        address = table + (lshr(va, shift) & 511) * 8
        child = _next_table(m, level)
        if child <= 0:
            return POOL_EMPTY if child == 0 else NO_MEMORY
        table = page_ma(m, child)
        entry = table | _link_rights(m, level)
        if ma_ld64(m, address) != entry:
            set_link(m, address, entry)
            changed = CHANGED
        shift -= 9
        level -= 1
    address = table + (lshr(va, 12) & 511) * 8
    flags = _leaf_rights(s.leaf) if s.level == 0 else ALL
    frame = frame_of(m, ma)
    if writable == 0 or (frame >= 0 and is_table(m, frame)):
        flags &= ~PTE_W
    entry = (ma & ~0xFFF) | flags | PTE_D
    if ma_ld64(m, address) != entry:
        set_leaf(m, address, entry)
        changed = CHANGED
    if changed:
        count(m, E_L0_SHADOW_ENTRY_FILLED, 1)
    return changed


@unit(Machine, i64, i64)
def shadow_fault(m, va, error):
    """A #PF exit of the guest with this error code: SF_*."""
    s = m.sh
    access = (lshr(error, 1) & 1) * ACC_WRITE | (lshr(error, 4) & 1) * ACC_EXEC
    user = lshr(error, 2) & 1
    # 1. the guest's own tables
    status = guest_walk(m, va, access, user)
    m.pending = 0
    if status == ST_FAULT:
        return SF_INJECT
    if status != ST_OK:
        return SF_FATAL
    # 2. its memory
    ma = n1p_to_l0m(m, s.gpa)
    if ma < 0:
        return SF_FATAL
    writable = m.walk.rights & 2
    if access & ACC_WRITE:
        frame = frame_of(m, ma)
        if (frame >= 0 and is_table(m, frame)) or (user == 0 and s.rights & TR_WRITE == 0):
            return SF_EMULATE
        if writable == 0 and p2m_resolve(m, s.gpa, 1):
            writable = 2
    # 3. the shadow; where there is nothing to change the processor was right to fault
    done = shadow_install(m, va, ma, writable)
    if done == POOL_EMPTY:
        shadow_drop_all(m)
    elif done == NO_MEMORY:
        return SF_FATAL
    elif done == UNCHANGED:
        fill_page_fault(m, va, access, 1, user, 0)
        m.pending = 0
        return SF_INJECT
    return SF_HANDLED


# ---------------------------------------------------------------- following the guest's writes


@unit(Machine, i64, i64, i64)
def shadow_sync_leaf(m, p, i, guest):
    """Entry ``i`` of a lowest-level shadow follows the guest's entry."""
    s = m.sh
    address = page_ma(m, p) + 8 * i
    old = ma_ld64(m, address)
    new = 0
    kept = guest & (PTE_P | PTE_A) == PTE_P | PTE_A
    if kept and not entry_reserved(guest, 12, True, s.pages[p].kind & ROLE_NXE):
        ma = n1p_to_l0m(m, guest & ADDRESS_MASK)
        if ma >= 0:
            new = ma | _leaf_rights(guest) | PTE_D
            frame = frame_of(m, ma)
            if m.walk.rights & 2 == 0 or (frame >= 0 and is_table(m, frame)):
                new &= ~PTE_W
    if new != old:
        set_leaf(m, address, new)
        count(m, E_L0_SHADOW_ENTRY_SYNCED, 1)
    return 0


@unit(Machine, i64, i64, i64)
def shadow_sync_link(m, p, i, guest):
    """Entry ``i`` of a higher shadow: kept with new rights, or cleared when it points elsewhere."""
    s = m.sh
    address = page_ma(m, p) + 8 * i
    old = ma_ld64(m, address)
    if old & PTE_P == 0:
        return 0
    kind = s.pages[p].kind
    level = (kind & 7) - 1
    shift = 12 + 9 * level
    child = page_number(m, old)
    new = 0
    large = guest & PTE_PS != 0 and level < 3
    kept = guest & (PTE_P | PTE_A) == PTE_P | PTE_A
    if kept and not entry_reserved(guest, shift, large, kind & ROLE_NXE):
        wanted = level
        target = guest & ADDRESS_MASK
        if large:
            wanted = FL1 if level == 1 else FL2
            target = lshr(target, shift) << shift
        ma = n1p_to_l0m(m, target)
        same = ma >= 0 and frame_of(m, ma) == s.pages[child].frame
        if same and s.pages[child].kind == wanted | (kind & ROLE_NXE):
            new = page_ma(m, child) | (_leaf_rights(guest) if large else _rights(guest))
    if new != old:
        set_link(m, address, new)
        count(m, E_L0_SHADOW_ENTRY_SYNCED, 1)
    return 0


@inner
def _sync_page(m, p, frame, first, last):
    """One shadow of a table; a root that nobody runs on is given up instead."""
    s = m.sh
    kind = s.pages[p].kind & 7
    if s.pages[p].pinned and p != s.roots[0] and p != s.roots[1]:
        s.pages[p].pinned = 0
        shadow_release(m, p)
        return
    host = m.ram + (frame << 12)
    for i in range(first, last + 1):
        guest = ld64(host + 8 * i)
        if kind == 1:
            shadow_sync_leaf(m, p, i, guest)
        else:
            shadow_sync_link(m, p, i, guest)


@unit(Machine, i64, i64, i64)
def shadow_sync(m, frame, first, last):
    """Entries ``first`` to ``last`` of the guest table in ``frame`` were written."""
    s = m.sh
    first &= 511
    last &= 511
    for _ in range(4 * TABLE_KINDS):  # again from the start whenever pages were freed
        freed = s.freed
        p = s.head[frame]
        while p and s.freed == freed:
            following = s.pages[p].next
            if s.pages[p].kind & 7 <= TABLE_KINDS:
                _sync_page(m, p, frame, first, last)
            p = following
        if s.freed == freed:
            return 0
    return 0


@unit(Machine)
def shadow_sync_written(m):
    """Bring the shadows of every table that was written since the exit up to date."""
    s = m.sh
    for k in range(s.n_written):
        w = s.written[k & 3]
        first = w.low >> 3
        last = w.high >> 3
        count(m, E_L0_GUEST_PTE_EMULATED, last - first + 1)
        shadow_sync(m, w.frame, first, last)
    s.n_written = 0
    if s.written_overflow:
        shadow_drop_all(m)
    return 0


# ---------------------------------------------------------------- emulation, INVLPG


@inner
def shadow_emulate(m):
    """Execute the instruction that faulted with L0's rights: the run loop does it next."""
    m.sh.emulating = 1
    m.cpu.shadow = EMULATING
    return ST_OK


@inner
def current_tags(m):
    """The tags of the level that exited."""
    return N2 if is_n2_guest(m) else N1


@unit(Machine, i64)
def shadow_invlpg(m, va):
    """INVLPG of the guest: the shadow follows every write anyhow, the TLB has to be told.

    A large page of the guest is in the TLB in pieces; then all of the tag goes (Xen, sh_invlpg).
    """
    s = m.sh
    p = s.roots[1 if is_n2_guest(m) else 0]
    shift = 39
    while p and shift > 12:
        entry = ma_ld64(m, page_ma(m, p) + (lshr(va, shift) & 511) * 8)
        p = page_number(m, entry) if entry & PTE_P else 0
        if p and s.pages[p].kind & 7 >= FL1:
            tags_renew(m, current_tags(m), F_INVLPG)
            return 0
        shift -= 9
    count(m, E_L0_FLUSH_EXECUTED, 1)
    flush_address(m, m.hw.tag, va, F_INVLPG)
    return 0
