"""Decoded code: finding micro-ops, and dropping them when their bytes change.

Micro-ops belong to a page of RAM and a byte offset, whatever linear address they run at.  A page
with decoded code owns a slot of ``m.code.map``; writing to a byte of a decoded instruction frees
the slot and moves ``m.code.epoch`` on, and the run loop looks up again.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import PAGE, Machine
from ..structs import i64
from ..words import address, fill_bytes, lshr

NO_UOP = -1
INSIDE = -2


@inner
def _drop_page(m, page):
    code = m.code
    slot = code.slot_of_page[page] - 1
    fill_bytes(address(code.map) + slot * PAGE * 4, PAGE * 4, 0xFF)
    code.slot_of_page[page] = 0
    code.page_of_slot[slot] = -1
    code.epoch += 1
    code.invalidations += 1
    m.code_page = -1


@inner
def _drop_if_code(m, offset, n):
    """Drop the page of ``offset`` if one of ``n`` bytes there (same page) is code."""
    page = lshr(offset, 12)
    slot = m.code.slot_of_page[page] - 1
    if slot >= 0:
        for i in range(offset & (PAGE - 1), (offset & (PAGE - 1)) + n):
            if m.code.map[slot, i] != NO_UOP:
                _drop_page(m, page)
                return 1
    return 0


@unit(Machine, i64, i64)
def code_written(m, ram_offset, n):
    """``n`` bytes of RAM at ``ram_offset`` changed: drop decoded code among them."""
    done = 0
    dropped = 0
    while done < n:
        offset = ram_offset + done
        part = min(n - done, PAGE - (offset & (PAGE - 1)))
        dropped += _drop_if_code(m, offset, part)
        done += part
    return dropped
