"""Access to a VMCB in simulated RAM: fields, segments, and the copies that a merge is made of.

A VMCB is one page with the layout of APM vol. 2, appendix B; all addresses here are host addresses
of its first byte.  Not modelled: SEV-ES save areas, shadow stacks, AVIC.
"""

from __future__ import annotations

from ...jit import inner
from ...ledger import count_field
from ...words import ld8, ld16, ld32, ld64, lshr, st8, st16, st32, st64

UNUSABLE = 1 << 16
"""Access-rights bit of a segment that holds a null selector (the processor's own format)."""


@inner
def pack_attributes(rights):
    """12-bit VMCB attributes of VMX-style access rights (G, D, L, AVL move down by 4)."""
    return (rights & 0xFF) | ((rights >> 4) & 0xF00)


@inner
def unpack_attributes(attributes):
    """Access rights of VMCB attributes; a segment that is not present is unusable."""
    rights = (attributes & 0xFF) | ((attributes & 0xF00) << 4)
    return rights if attributes & 0x80 else rights | UNUSABLE


@inner
def save_segment(m, vmcb, offset, segment):
    """Store a segment register of the processor."""
    c = m.cpu
    st16(vmcb + offset, c.seg_sel[segment])
    st16(vmcb + offset + 2, pack_attributes(c.seg_attr[segment]))
    st32(vmcb + offset + 4, c.seg_limit[segment])
    st64(vmcb + offset + 8, c.seg_base[segment])


@inner
def load_segment(m, vmcb, offset, segment):
    """Load a segment register of the processor."""
    c = m.cpu
    c.seg_sel[segment] = ld16(vmcb + offset)
    c.seg_attr[segment] = unpack_attributes(ld16(vmcb + offset + 2))
    c.seg_limit[segment] = ld32(vmcb + offset + 4)
    c.seg_base[segment] = ld64(vmcb + offset + 8)


@inner
def copy8(m, target, source, offset, field, phase, write):
    """Copy a 1-byte field and count the access to vmcb12's side of it."""
    st8(target + offset, ld8(source + offset))
    count_field(m, field, phase, write)


@inner
def copy32(m, target, source, offset, field, phase, write):
    """Copy a 4-byte field and count the access to vmcb12's side of it."""
    st32(target + offset, ld32(source + offset))
    count_field(m, field, phase, write)


@inner
def copy64(m, target, source, offset, field, phase, write):
    """Copy an 8-byte field and count the access to vmcb12's side of it."""
    st64(target + offset, ld64(source + offset))
    count_field(m, field, phase, write)


@inner
def copy128(m, target, source, offset, field, phase, write):
    """Copy a 16-byte field (a segment) and count the access to vmcb12's side of it."""
    st64(target + offset, ld64(source + offset))
    st64(target + offset + 8, ld64(source + offset + 8))
    count_field(m, field, phase, write)


@inner
def bit(word, position):
    """Bit ``position`` (0..63) of a word."""
    return lshr(word, position) & 1
