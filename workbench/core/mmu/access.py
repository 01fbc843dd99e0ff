"""Guest memory accesses by linear address, with a fast path.

The fast path is a small direct-mapped index of first-level TLB entries: a key holds the page and
the context (address space, level, privilege).  It never holds what the first level does not, and
replacement does not depend on hits, so using it changes no count: it only counts the hit.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import Machine
from ..ledger import E_TLB1_HIT, count
from ..structs import i64
from ..words import ld8, lshr, st8
from .breakpoints import note_data_access
from .physical import all_ones, load_host, note_code_written, store_host
from .records import FAST
from .tlb import fast_context, translate
from .walk import ACC_READ, ACC_SYSTEM, ACC_WRITE

SPLIT_BYTES = 16
"""Size of an access that no device register can hold."""


@inner
def _fast(m, keys, hosts, va, lg):
    """Host address by the fast path, or 0."""
    slot = lshr(va, 12) & (FAST - 1)
    if keys[slot] == ((va & ~0xFFF) | fast_context(m)) and (va & 0xFFF) <= 4096 - (1 << lg):
        m.tlb.fast_hits += 1
        return hosts[slot] + (va & 0xFFF)
    return 0


@inner
def fold_hits(m):
    """Move the fast path's hits into the ledger, under the current cause."""
    if m.tlb.fast_hits:
        count(m, E_TLB1_HIT, m.tlb.fast_hits)
        m.tlb.fast_hits = 0


@inner
def _split(m, va, lg):
    return (va & 0xFFF) > 4096 - (1 << lg)


@inner
def _check_split(m, va, lg, access):
    """Both pages of an access that crosses a page boundary; returns ``m.pending``."""
    m.access_bytes = SPLIT_BYTES
    translate(m, va, access)
    if m.pending == 0:
        translate(m, (va | 0xFFF) + 1, access)
    return m.pending


@unit(Machine, i64, i64, i64)
def load_slow(m, va, lg, access):
    """Load past the fast path; see :func:`load`."""
    m.access_bytes = 1 << lg
    if m.debug.data:
        note_data_access(m, va, lg, access)
    if not _split(m, va, lg):
        host = translate(m, va, access)
        if host != 0:
            return load_host(host, lg)
        return 0 if m.pending else all_ones(lg)
    if _check_split(m, va, lg, access):
        return 0
    value = 0
    for i in range(1 << lg):
        host = translate(m, va + i, access)
        byte = ld8(host) if host != 0 else 0xFF
        value |= byte << (8 * i)
    return value


@unit(Machine, i64, i64, i64, i64)
def store_slow(m, va, lg, value, access):
    """Store past the fast path; see :func:`store`."""
    m.access_bytes = 1 << lg
    if m.debug.data:
        note_data_access(m, va, lg, access)
    if not _split(m, va, lg):
        host = translate(m, va, access)
        if host != 0:
            store_host(host, lg, value)
            note_code_written(m, host, 1 << lg)
        return m.pending
    if _check_split(m, va, lg, access):
        return m.pending
    for i in range(1 << lg):
        host = translate(m, va + i, access)
        if host != 0:
            st8(host, lshr(value, 8 * i))
            note_code_written(m, host, 1)
    return 0


@inner
def load(m, va, lg):
    """Load ``1 << lg`` bytes (lg 0..3) zero-extended; 0 with ``m.pending`` set on a fault."""
    host = _fast(m, m.tlb.fast_read, m.tlb.fast_read_host, va, lg)
    if host != 0:
        return load_host(host, lg)
    return load_slow(m, va, lg, ACC_READ)


@inner
def load_update(m, va, lg):
    """Load for a read-modify-write: demands write permission, so the store cannot fail."""
    host = _fast(m, m.tlb.fast_write, m.tlb.fast_write_host, va, lg)
    if host != 0:
        return load_host(host, lg)
    return load_slow(m, va, lg, ACC_WRITE)


@inner
def store(m, va, lg, value):
    """Store the low ``1 << lg`` bytes; returns 0, or ``m.pending`` on a fault."""
    host = _fast(m, m.tlb.fast_write, m.tlb.fast_write_host, va, lg)
    if host != 0:
        store_host(host, lg, value)
        return 0
    return store_slow(m, va, lg, value, ACC_WRITE)


@inner
def load_system(m, va, lg):
    """Load as an implicit supervisor access (descriptor tables, TSS), whatever the CPL."""
    return load_slow(m, va, lg, ACC_READ | ACC_SYSTEM)


@inner
def store_system(m, va, lg, value):
    """Store as an implicit supervisor access, whatever the CPL."""
    return store_slow(m, va, lg, value, ACC_WRITE | ACC_SYSTEM)
