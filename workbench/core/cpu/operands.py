"""Operands of generic micro-ops: registers of any size, the memory operand, the stack.

Memory accesses here are units rather than inlined, because dozens of handlers use them; a fault
leaves ``m.pending`` set, which the handler must check and return.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import RDI, RSP, UF_DST_MEM, UF_SRC_IMM, UF_SRC_MEM, Machine, Uop
from ..mmu.access import load, load_update, store
from ..structs import i64

NO_SEGMENT = 0xFF


@inner
def effective_address(m, u):
    """Linear address of the memory operand (64-bit mode: only FS and GS have a base)."""
    c = m.cpu
    va = c.gpr[u.base] + (c.gpr[u.index] << u.scale) + u.disp
    if u.asize:
        va &= 0xFFFFFFFF
    if u.seg != NO_SEGMENT:
        va += c.seg_base[u.seg & 7]
    return va


@inner
def effective_offset(m, u):
    """The memory operand's address without segment base: what LEA computes."""
    c = m.cpu
    va = c.gpr[u.base] + (c.gpr[u.index] << u.scale) + u.disp
    return va & 0xFFFFFFFF if u.asize else va


@inner
def string_address(m, u, register):
    """Linear address of a string operand; ``register`` RDI is in ES, RSI may have an override."""
    va = m.cpu.gpr[register]
    if u.asize:
        va &= 0xFFFFFFFF
    if register != RDI and u.seg != NO_SEGMENT:
        va += m.cpu.seg_base[u.seg & 7]
    return va


@inner
def read_reg(c, index, lg):
    """Register of size ``lg``, zero-extended; ``index`` counts registers of that size."""
    if lg == 3:
        return c.gpr[index]
    if lg == 2:
        return c.gpr32[index]
    if lg == 1:
        return c.gpr16[index]
    return c.gpr8[index]


@inner
def write_reg(c, index, lg, value):
    """Write a register of size ``lg``; 32-bit writes clear the upper half."""
    if lg == 3:
        c.gpr[index] = value
    elif lg == 2:
        c.gpr[index >> 1] = value & 0xFFFFFFFF
    elif lg == 1:
        c.gpr16[index] = value
    else:
        c.gpr8[index] = value


@unit(Machine, i64, i64)
def read_memory(m, va, lg):
    """:func:`mmu.access.load` as a unit."""
    return load(m, va, lg)


@unit(Machine, i64, i64)
def read_memory_update(m, va, lg):
    """:func:`mmu.access.load_update` as a unit."""
    return load_update(m, va, lg)


@unit(Machine, i64, i64, i64)
def write_memory(m, va, lg, value):
    """:func:`mmu.access.store` as a unit."""
    return store(m, va, lg, value)


@unit(Machine, Uop)
def _load_operand(m, u):
    return load(m, effective_address(m, u), u.lg)


@unit(Machine, Uop)
def _load_operand_update(m, u):
    return load_update(m, effective_address(m, u), u.lg)


@unit(Machine, Uop, i64)
def _store_operand(m, u, value):
    return store(m, effective_address(m, u), u.lg, value)


@inner
def read_source(m, u):
    """Source operand (immediate, memory or register), zero-extended; check ``m.pending``."""
    if u.flags & UF_SRC_IMM:
        return u.imm
    if u.flags & UF_SRC_MEM:
        return _load_operand(m, u)
    return read_reg(m.cpu, u.src, u.lg)


@inner
def read_destination(m, u):
    """Destination operand that will be written too; check ``m.pending``."""
    if u.flags & UF_DST_MEM:
        return _load_operand_update(m, u)
    return read_reg(m.cpu, u.dst, u.lg)


@inner
def write_destination(m, u, value):
    """Write the destination operand; returns ST_OK or ``m.pending``."""
    if u.flags & UF_DST_MEM:
        return _store_operand(m, u, value)
    write_reg(m.cpu, u.dst, u.lg, value)
    return 0


@unit(Machine, i64, i64)
def push(m, lg, value):
    """Push ``value``; returns ST_OK or ``m.pending`` with RSP unchanged."""
    rsp = m.cpu.gpr[RSP] - (1 << lg)
    status = store(m, rsp, lg, value)
    if status == 0:
        m.cpu.gpr[RSP] = rsp
    return status
