"""The machine's memory as L0 and the hardware see it: machine addresses (ma) to host memory.

An address outside of the RAM banks reads as all ones; writes to it are lost.
"""

from __future__ import annotations

from ..cpu.code_cache import code_written
from ..jit import inner
from ..layout import BANK_MASK, BANK_SHIFT, N_BANKS
from ..words import ld8, ld16, ld32, ld64, lshr, st8, st16, st32, st64


@inner
def host_of(m, ma):
    """Host address of machine address ``ma``, 0 where there is no RAM.

    Accesses of up to 8 bytes at ``ma`` stay inside the buffer (it has a guard page at its end).
    """
    bank = lshr(ma, BANK_SHIFT)
    if bank < 0 or bank >= N_BANKS:
        return 0
    offset = ma & BANK_MASK
    if offset >= m.bank_size[bank]:
        return 0
    return m.ram + m.bank_base[bank] + offset


@inner
def load_host(host, lg):
    """Load ``1 << lg`` bytes (lg 0..3), zero-extended."""
    if lg == 3:
        return ld64(host)
    if lg == 2:
        return ld32(host)
    if lg == 0:
        return ld8(host)
    return ld16(host)


@inner
def store_host(host, lg, value):
    """Store the low ``1 << lg`` bytes (lg 0..3) of ``value``."""
    if lg == 3:
        st64(host, value)
    elif lg == 2:
        st32(host, value)
    elif lg == 0:
        st8(host, value)
    else:
        st16(host, value)


@inner
def all_ones(lg):
    """What a load of ``1 << lg`` bytes reads where nothing answers."""
    return -1 if lg == 3 else (1 << (8 << lg)) - 1


@inner
def note_code_written(m, host, n):
    """Tell the code cache that ``n`` bytes of RAM at ``host`` changed."""
    offset = host - m.ram
    if m.code.slot_of_page[lshr(offset, 12)] | m.code.slot_of_page[lshr(offset + n - 1, 12)]:
        code_written(m, offset, n)


@inner
def _ma_load(m, ma, lg):
    host = host_of(m, ma)
    return load_host(host, lg) if host != 0 else all_ones(lg)


@inner
def _ma_store(m, ma, lg, value):
    host = host_of(m, ma)
    if host != 0:
        store_host(host, lg, value)
        note_code_written(m, host, 1 << lg)


@inner
def ma_ld8(m, ma):
    return _ma_load(m, ma, 0)


@inner
def ma_ld16(m, ma):
    return _ma_load(m, ma, 1)


@inner
def ma_ld32(m, ma):
    return _ma_load(m, ma, 2)


@inner
def ma_ld64(m, ma):
    return _ma_load(m, ma, 3)


@inner
def ma_st8(m, ma, value):
    _ma_store(m, ma, 0, value)


@inner
def ma_st16(m, ma, value):
    _ma_store(m, ma, 1, value)


@inner
def ma_st32(m, ma, value):
    _ma_store(m, ma, 2, value)


@inner
def ma_st64(m, ma, value):
    _ma_store(m, ma, 3, value)
