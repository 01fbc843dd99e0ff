"""From an address to a micro-op: translation of code pages and requests to decode."""

from __future__ import annotations

from ..jit import unit
from ..layout import PAGE, ST_DECODE, ST_OK, Machine, Uop
from ..mmu.fetch import fetch_page
from ..mmu.tlb import fast_context
from ..structs import i64
from ..words import lshr


@unit(Machine, i64, i64)
def find_uop(m, rip, link):
    """Index of the micro-op at ``rip``, or minus the outcome (fault, exit, ST_DECODE).

    ``link``: micro-op of a direct branch that leads here, -1 none; it remembers the target when
    both lie in the same page.
    """
    code = m.code
    if m.code_page != rip & ~(PAGE - 1) or m.code_context != fast_context(m):
        link = -1
        host = fetch_page(m, rip)
        if host < 0:
            m.code_page = -1
            return -m.pending
        m.code_host = host
    slot = code.slot_of_page[lshr(m.code_host, 12)] - 1
    offset = rip & (PAGE - 1)
    m.code_slot = slot
    if slot >= 0:
        found = code.map[slot, offset]
        if found >= 0:
            if link >= 0:
                code.uops[link].next = found
            return found
    m.decode_host = m.code_host + offset
    m.decode_next = -1
    return -ST_DECODE


@unit(Machine, Uop, i64)
def check_straddle(m, u, rip):
    """Guard of an instruction that crosses into the next page: is that page as decoded?

    ``imm`` is the RAM offset of the second page, ``fetch`` the epoch of the decoding.
    """
    page = m.code_page
    context = m.code_context
    host = fetch_page(m, (rip | (PAGE - 1)) + 1)
    m.code_page = page
    if host < 0:
        return m.pending
    if m.code_context != fast_context(m) or context == -1:
        m.code_page = -1
    if host == u.imm and m.code.epoch == u.fetch:
        return ST_OK
    m.decode_host = m.code_host + (rip & (PAGE - 1))
    m.decode_next = host
    return ST_DECODE
