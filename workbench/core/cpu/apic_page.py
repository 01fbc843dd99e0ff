"""An instruction whose memory operand lies in the local APIC's page, carried out by its micro-op.

The processor's MMU finds no RAM there (bare machine), or L0's nested table maps nothing (a guest);
who has to answer then decodes the instruction at RIP: its micro-op says what moves where.  MOV in all
its forms, MOVZX and MOVSX are known, which is what drivers of a local APIC use.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import (
    MAX_UOPS,
    PAGE,
    RAX,
    ST_BRANCH,
    UF_DST_MEM,
    UF_SRC_IMM,
    UF_SRC_MEM,
    Machine,
    Uop,
)
from ..ledger import fold_steps
from ..mmu.access import fold_hits
from ..structs import i64
from ..words import lshr
from . import ops
from .apic_registers import xapic_read, xapic_write
from .exceptions import raise_ud
from .flags import extend, truncate
from .operands import read_reg, write_reg

NOT_FOUND = -1
REGISTER_BYTES = 4
SLOT_MASK = 15
"""Registers are 4 bytes wide, one every 16 bytes."""


@inner
def _current_uop(m):
    """Index of the micro-op at RIP in the page of code that runs, or NOT_FOUND."""
    rip = m.cpu.rip
    if m.code_page != rip & ~(PAGE - 1) or m.code_slot < 0:
        return NOT_FOUND
    found = m.code.map[m.code_slot, rip & (PAGE - 1)]
    if found >= 0 and m.code.uops[found].op == ops.STRADDLE:
        found += 1
    return found if 0 <= found < MAX_UOPS else NOT_FOUND


@inner
def _read(m, offset, lg):
    place = offset & SLOT_MASK
    if place >= REGISTER_BYTES:
        return 0
    value = lshr(xapic_read(m, offset & ~SLOT_MASK & (PAGE - 1)), 8 * place)
    return truncate(value, lg)


@inner
def _write(m, offset, value):
    if offset & SLOT_MASK == 0:
        xapic_write(m, offset & (PAGE - 1), value)


@inner
def _fast(m, u, offset):
    """The fast forms of MOV; 0 when the micro-op is none of them."""
    c = m.cpu
    op = u.op
    if op == ops.LOAD64:
        c.gpr[u.dst] = _read(m, offset, 3)
    elif op == ops.LOAD32:
        c.gpr[u.dst >> 1] = _read(m, offset, 2)
    elif op == ops.LOAD8:
        c.gpr[u.dst] = _read(m, offset, 0)
    elif op == ops.STORE64:
        _write(m, offset, c.gpr[u.src] + u.imm)
    elif op == ops.STORE32:
        _write(m, offset, c.gpr32[u.src] + u.imm)
    elif op == ops.STORE8:
        _write(m, offset, truncate(c.gpr8[u.src] + u.imm, 0))
    else:
        return 0
    return 1


@inner
def _generic(m, u, offset):
    """MOV of any size, MOVZX, MOVSX; 0 when the micro-op is none of them."""
    c = m.cpu
    op = u.op
    if op == ops.MOV and u.flags & UF_DST_MEM:
        value = u.imm if u.flags & UF_SRC_IMM else read_reg(c, u.src, u.lg)
        _write(m, offset, truncate(value, u.lg))
    elif op == ops.MOV and u.flags & UF_SRC_MEM:
        write_reg(c, u.dst, u.lg, _read(m, offset, u.lg))
    elif op == ops.MOVZX and u.flags & UF_SRC_MEM:
        write_reg(c, u.dst, u.lg, _read(m, offset, u.imm))
    elif op == ops.MOVSX and u.flags & UF_SRC_MEM:
        write_reg(c, u.dst, u.lg, extend(_read(m, offset, u.imm), u.imm))
    elif op == ops.MOV_FROM_OFFSET:
        write_reg(c, 0, u.lg, _read(m, offset, u.lg))
    elif op == ops.MOV_TO_OFFSET:
        _write(m, offset, truncate(c.gpr[RAX], u.lg))
    else:
        return 0
    return 1


@unit(Machine, Uop, i64)
def _carry_out(m, u, offset):
    if _fast(m, u, offset) or _generic(m, u, offset):
        return u.len
    return 0


@unit(Machine, i64)
def emulate_apic_access(m, offset):
    """Carry out the instruction at RIP on the APIC page; its length, 0 when it is not known."""
    found = _current_uop(m)
    if found < 0:
        return 0
    return _carry_out(m, m.code.uops[found], offset & (PAGE - 1))


@unit(Machine)
def bare_apic_access(m):
    """The bare machine: complete the access that found no RAM (``m.device``); or #UD."""
    fold_steps(m)
    fold_hits(m)
    length = emulate_apic_access(m, m.device)
    if length == 0:
        found = _current_uop(m)
        m.unknown_count += 1
        m.unknown_rip = m.cpu.rip
        m.unknown_bytes = m.code.uops[found].fetch if found >= 0 else 0
        return raise_ud(m)
    m.cpu.rip += length
    m.cpu.shadow = 0
    m.steps += 1
    m.level_steps[m.level] += 1
    return ST_BRANCH
