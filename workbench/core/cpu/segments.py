"""Segment registers in 64-bit mode: descriptors, checks, and what a load keeps of them.

Sources: SDM vol. 3, 3.4-3.5, 5; APM vol. 2, 4.  Not modelled: call gates, task gates, 16- and
32-bit code segments (loading one into CS raises #GP).
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import CS, LDTR, SS, ST_OK, Machine
from ..mmu.access import load_system, store_system
from ..structs import i64
from ..words import lshr
from .exceptions import GP, NP, raise_exception
from .exceptions import SS as STACK_FAULT

ATTR_PRESENT, ATTR_S, ATTR_LONG, ATTR_DB, ATTR_UNUSABLE = 0x80, 0x10, 0x2000, 0x4000, 0x10000
TYPE_ACCESSED, TYPE_READ_WRITE, TYPE_CONFORMING, TYPE_CODE = 1, 2, 4, 8
RPL, TABLE_INDICATOR = 3, 4
ATTR_CODE64 = 0x209B | 0x8000
"""Present 64-bit code segment, execute/read, accessed, granularity 4 KB."""
ATTR_DATA = 0xC093
"""Present read/write data segment, accessed, granularity 4 KB, 32-bit."""


@inner
def descriptor_base(low):
    """Base of an 8-byte descriptor."""
    return (lshr(low, 16) & 0xFFFFFF) | (lshr(low, 56) << 24)


@inner
def descriptor_limit(low):
    """Limit in bytes of a descriptor."""
    limit = (low & 0xFFFF) | (lshr(low, 32) & 0xF0000)
    return (limit << 12) | 0xFFF if lshr(low, 55) & 1 else limit


@inner
def descriptor_attr(low):
    """Attributes in the VMX access-rights format."""
    return lshr(low, 40) & 0xF0FF


@inner
def descriptor_address(m, selector):
    """Where the descriptor of ``selector`` lies, or -1 when outside of its table."""
    c = m.cpu
    offset = selector & 0xFFF8
    if selector & TABLE_INDICATOR:
        if c.seg_attr[LDTR] & ATTR_UNUSABLE or offset + 7 > c.seg_limit[LDTR]:
            return -1
        return c.seg_base[LDTR] + offset
    if offset + 7 > c.gdtr_limit:
        return -1
    return c.gdtr_base + offset


@unit(Machine, i64, i64)
def fetch_descriptor(m, selector, ext):
    """Descriptor of ``selector`` into ``m.result``: ST_OK, #GP(selector) or ``m.pending``."""
    va = descriptor_address(m, selector)
    if va == -1:
        return raise_exception(m, GP, (selector & 0xFFFC) | ext, 1)
    m.result = load_system(m, va, 3)
    return m.pending


@inner
def mark_accessed(m, selector, low):
    """Set the accessed bit of a code or data descriptor; returns ST_OK or ``m.pending``."""
    if lshr(low, 40) & TYPE_ACCESSED:
        return ST_OK
    va = descriptor_address(m, selector)
    return store_system(m, va + 5, 0, lshr(low, 40) | TYPE_ACCESSED)


@inner
def set_segment(c, index, selector, low):
    """Fill a segment register from a descriptor."""
    c.seg_sel[index] = selector
    c.seg_base[index] = descriptor_base(low)
    c.seg_limit[index] = descriptor_limit(low)
    c.seg_attr[index] = descriptor_attr(low) | TYPE_ACCESSED


@inner
def set_null_segment(c, index, selector):
    """Make a segment register null (unusable); 64-bit code goes on using it with base 0."""
    c.seg_sel[index] = selector
    c.seg_base[index] = 0
    c.seg_limit[index] = 0
    c.seg_attr[index] = ATTR_UNUSABLE


@inner
def set_flat(c, index, selector, attr, dpl):
    """A segment register as SYSCALL and friends load it: base 0, limit 4 GB."""
    c.seg_sel[index] = selector
    c.seg_base[index] = 0
    c.seg_limit[index] = 0xFFFFFFFF
    c.seg_attr[index] = attr | (dpl << 5)


@inner
def _data_allowed(cpl, index, selector, attr):
    """Type and privilege checks for loading DS, ES, FS, GS or SS."""
    dpl = (attr >> 5) & 3
    if attr & ATTR_S == 0:
        return False
    if index == SS:
        writable = attr & TYPE_CODE == 0 and attr & TYPE_READ_WRITE
        return writable != 0 and dpl == cpl and selector & RPL == cpl
    if attr & TYPE_CODE:
        if attr & TYPE_READ_WRITE == 0:
            return False
        if attr & TYPE_CONFORMING:
            return True
    return max(cpl, selector & RPL) <= dpl


@unit(Machine, i64, i64, i64)
def load_data_segment(m, index, selector, cpl):
    """Load DS, ES, FS, GS or SS as seen by privilege level ``cpl``."""
    c = m.cpu
    selector &= 0xFFFF
    if selector & ~RPL == 0:
        if index == SS and (cpl == 3 or selector & RPL != cpl):
            return raise_exception(m, GP, 0, 1)
        set_null_segment(c, index, selector)
        return ST_OK
    status = fetch_descriptor(m, selector, 0)
    if status:
        return status
    low = m.result
    attr = descriptor_attr(low)
    if not _data_allowed(cpl, index, selector, attr):
        return raise_exception(m, GP, selector & 0xFFFC, 1)
    if attr & ATTR_PRESENT == 0:
        return raise_exception(m, STACK_FAULT if index == SS else NP, selector & 0xFFFC, 1)
    status = mark_accessed(m, selector, low)
    if status:
        return status
    set_segment(c, index, selector, low)
    return ST_OK


@unit(Machine, i64, i64, i64)
def check_code_segment(m, selector, cpl, is_return):
    """Descriptor of a 64-bit code segment to jump to (or return to) into ``m.result``."""
    selector &= 0xFFFF
    if selector & ~RPL == 0:
        return raise_exception(m, GP, 0, 1)
    status = fetch_descriptor(m, selector, 0)
    if status:
        return status
    attr = descriptor_attr(m.result)
    dpl = (attr >> 5) & 3
    rpl = selector & RPL
    good = attr & ATTR_S and attr & TYPE_CODE and attr & ATTR_LONG and attr & ATTR_DB == 0
    if is_return:
        good = good and rpl >= cpl and (dpl <= rpl if attr & TYPE_CONFORMING else dpl == rpl)
    elif attr & TYPE_CONFORMING:
        good = good and dpl <= cpl
    else:
        good = good and rpl <= cpl and dpl == cpl
    if not good:
        return raise_exception(m, GP, selector & 0xFFFC, 1)
    if attr & ATTR_PRESENT == 0:
        return raise_exception(m, NP, selector & 0xFFFC, 1)
    return ST_OK


@inner
def set_code_segment(m, selector, low, cpl):
    """Load CS from a checked descriptor and set the privilege level."""
    set_segment(m.cpu, CS, (selector & 0xFFFC) | cpl, low)
    m.cpu.cpl = cpl


@inner
def drop_inner_data_segments(c, cpl):
    """Returning outward: data segments of a more privileged level become null."""
    for index in (0, 3, 4, 5):
        attr = c.seg_attr[index]
        conforming = attr & (TYPE_CODE | TYPE_CONFORMING) == TYPE_CODE | TYPE_CONFORMING
        if attr & ATTR_UNUSABLE == 0 and not conforming and (attr >> 5) & 3 < cpl:
            c.seg_sel[index] = 0
            c.seg_attr[index] = ATTR_UNUSABLE
