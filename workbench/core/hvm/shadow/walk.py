"""L0 reads memory as the guest sees it: a software walk of the guest's own page tables.

With L0 shadow paging the processor knows only L0's shadow tables.  Whatever L0 does for a guest
between exit and entry (emulating a store, reading an operand) goes through the guest's tables: each
of their addresses, and the final one, through n1p_to_l0m (Xen, sh_walk_guest_tables).  The rules are
those of the hardware walk (``mmu/walk``), accessed and dirty bits included.
"""

from __future__ import annotations

from ...jit import inner, unit
from ...layout import ST_FAULT, ST_OK, Machine
from ...ledger import E_L0_GUEST_WALK_REFERENCE, count
from ...mmu.physical import host_of, ma_ld64, ma_st64
from ...mmu.records import TR_EXEC, TR_USER, TR_WRITE
from ...mmu.walk import (
    ACC_SYSTEM,
    ACC_WRITE,
    ADDRESS_MASK,
    CR0_PG,
    EFER_NXE,
    PTE_A,
    PTE_D,
    PTE_NX,
    PTE_P,
    PTE_PS,
    PTE_U,
    PTE_W,
    RESERVED_MASK,
    allowed,
    fill_page_fault,
)
from ...structs import i64
from ...words import lshr
from ..p2m import n1p_to_l0m

GW_UNMAPPED = -1
"""A table of the guest lies where it has no memory."""
TABLE_KINDS = 4
"""Kinds 1 to 4 shadow a guest table of that level; see ``pages``."""


@inner
def entry_reserved(entry, shift, leaf, nx_allowed):
    """Does a guest entry set a bit that must be clear?"""
    reserved = entry & RESERVED_MASK
    if shift == 39:
        reserved |= entry & PTE_PS
    if leaf and shift > 12:
        reserved |= entry & ((1 << shift) - 1) & ADDRESS_MASK & ~0x1000
    return reserved != 0 or (entry & PTE_NX != 0 and nx_allowed == 0)


@unit(Machine, i64, i64, i64)
def guest_walk(m, va, access, user):
    """Walk the tables of the guest that runs: ST_OK, ST_FAULT (its #PF in ``m.exc``), GW_UNMAPPED.

    ``access``: ACC_*.  In ``m.sh``: ``gpa``, ``shift`` of the page, ``rights`` (TR_*), the tables and
    entries on the way by level - 1, the last entry as ``leaf``.
    """
    s = m.sh
    cpu = m.cpu
    rights = TR_WRITE | TR_USER | TR_EXEC
    gpa = cpu.cr3 & ADDRESS_MASK
    nx_allowed = cpu.efer & EFER_NXE
    shift = 39
    level = 3
    while True:
        table = n1p_to_l0m(m, gpa)
        if table < 0:
            return GW_UNMAPPED
        address = table + (lshr(va, shift) & 511) * 8
        entry = ma_ld64(m, address)
        count(m, E_L0_GUEST_WALK_REFERENCE, 1)
        if entry & PTE_P == 0:
            return fill_page_fault(m, va, access, 0, user, 0)
        leaf = level == 0 or (level < 3 and entry & PTE_PS != 0)
        if entry_reserved(entry, shift, leaf, nx_allowed):
            return fill_page_fault(m, va, access, 1, user, 1)
        if entry & PTE_W == 0:
            rights &= ~TR_WRITE
        if entry & PTE_U == 0:
            rights &= ~TR_USER
        if entry & PTE_NX:
            rights &= ~TR_EXEC
        s.tables[level] = table
        if leaf:
            break
        if entry & PTE_A == 0:
            entry |= PTE_A
            ma_st64(m, address, entry)
        s.entries[level] = entry
        gpa = entry & ADDRESS_MASK
        shift -= 9
        level -= 1
    if not allowed(m, rights, access, user):
        return fill_page_fault(m, va, access, 1, user, 0)
    marked = entry | PTE_A | (PTE_D if access & ACC_WRITE else 0)
    if marked != entry:
        ma_st64(m, address, marked)
    mask = (1 << shift) - 1
    s.leaf = marked
    s.entries[level] = marked
    s.level = level
    s.shift = shift
    s.rights = rights
    s.gpa = (entry & ADDRESS_MASK & ~mask) | (va & mask)
    return ST_OK


# ---------------------------------------------------------------- L0's accesses for the guest


@inner
def frame_of(m, ma):
    """Page of the RAM buffer that holds machine address ``ma``; -1 where there is no RAM."""
    host = host_of(m, ma)
    return lshr(host - m.ram, 12) if host != 0 else -1


@inner
def is_table(m, frame):
    """Is the page a page table of the guest's that L0 shadows?"""
    p = m.sh.head[frame]
    while p:
        if m.sh.pages[p].kind & 7 <= TABLE_KINDS:
            return True
        p = m.sh.pages[p].next
    return False


@inner
def _note_written(m, frame, offset):
    """A guest page table is about to be written: its shadows follow before the next entry."""
    s = m.sh
    high = offset + 7 if offset < 4088 else 4095
    n = s.n_written
    for i in range(n):
        w = s.written[i & 3]
        if w.frame == frame:
            w.low = offset if offset < w.low else w.low
            w.high = high if high > w.high else w.high
            return
    w = s.written[n & 3]
    if n == 4:  # too many tables at once: all shadows are dropped
        s.written_overflow = 1
        return
    w.frame = frame
    w.low = offset
    w.high = high
    s.n_written = n + 1


@unit(Machine, i64, i64)
def software_translate(m, va, access):
    """Host address of ``va`` by the guest's own tables; 0, with ``m.pending`` set on a fault."""
    user = 1 if m.cpu.cpl == 3 and access & ACC_SYSTEM == 0 else 0
    gpa = va
    if m.cpu.cr0 & CR0_PG:
        status = guest_walk(m, va, access, user)
        if status == ST_FAULT:
            return 0
        if status != ST_OK:
            return 0
        gpa = m.sh.gpa
    ma = n1p_to_l0m(m, gpa)
    if ma < 0:
        return 0
    frame = frame_of(m, ma)
    if frame < 0:
        return 0
    if access & ACC_WRITE and m.sh.head[frame] != 0 and is_table(m, frame):
        _note_written(m, frame, ma & 0xFFF)
    return host_of(m, ma)
