"""String instructions, repeated and not: family STRING.

A repeated instruction works in chunks: after ``CHUNK`` iterations it returns ST_REPEAT with the
registers up to date, so that the run loop keeps control.  A fault in the middle leaves the
registers after the last complete iteration, as the manuals say.
"""

from __future__ import annotations

from ..hvm.intercepts import io_exit
from ..jit import i64, inner, unit
from ..layout import (
    RAX,
    RCX,
    RDI,
    RDX,
    RSI,
    ST_OK,
    ST_REPEAT,
    ST_STOP,
    ST_VMEXIT,
    Machine,
    Uop,
)
from ..mmu.access import load, load_update, store
from .devices import port_in, port_out
from .flags import DF, set_carries, set_result, sub_carries, truncate
from .io import check_port
from .operands import NO_SEGMENT, write_reg
from .ops import CMPS, INS, LODS, MOVS, OUTS, SCAS, STOS

CHUNK = 4096
REPE, REPNE = 1, 2


@inner
def _advance(c, register, step, mask):
    c.gpr[register] = (c.gpr[register] + step) & mask


@inner
def _source_address(m, u, mask):
    va = m.cpu.gpr[RSI] & mask
    if u.seg != NO_SEGMENT:
        va += m.cpu.seg_base[u.seg & 7]
    return va


@inner
def _compare(c, a, b, lg):
    r = a - b
    set_carries(c, sub_carries(a, b, r), lg)
    set_result(c, r, lg)


@unit(Machine, Uop, i64, i64)
def _string_step(m, u, step, mask):
    """One iteration of CMPS, SCAS, LODS, INS or OUTS; ST_OK, a fault, or ST_STOP."""
    c = m.cpu
    lg = u.lg
    op = u.op
    if op == INS:
        load_update(m, c.gpr[RDI] & mask, lg)
        if m.pending:
            return m.pending
        store(m, c.gpr[RDI] & mask, lg, port_in(m, c.gpr[RDX] & 0xFFFF, lg))
        _advance(c, RDI, step, mask)
        return ST_OK
    value = 0
    if op != SCAS:
        value = load(m, _source_address(m, u, mask), lg)
        if m.pending:
            return m.pending
    if op == LODS:
        write_reg(c, 0, lg, value)
        _advance(c, RSI, step, mask)
        return ST_OK
    if op == OUTS:
        _advance(c, RSI, step, mask)
        return port_out(m, c.gpr[RDX] & 0xFFFF, lg, value)
    other = load(m, c.gpr[RDI] & mask, lg)
    if m.pending:
        return m.pending
    _advance(c, RDI, step, mask)
    if op == SCAS:
        _compare(c, truncate(c.gpr[RAX], lg), other, lg)
    else:
        _advance(c, RSI, step, mask)
        _compare(c, value, other, lg)
    return ST_OK


@inner
def _check_ports(m, u):
    """INS and OUTS: port permission, then the hypervisor's."""
    port = m.cpu.gpr[RDX] & 0xFFFF
    status = check_port(m, port, u.lg)
    if status:
        return status
    if m.hw.guest:
        if io_exit(m, u, port, u.lg, 1 if u.op == INS else 0, 1, 1 if u.rep else 0):
            return ST_VMEXIT
    return ST_OK


@inner
def _again(m, u):
    """After an iteration of a repeated compare: does its condition say go on?"""
    if u.op == CMPS or u.op == SCAS:
        return (m.cpu.lf_zero == 0) == (u.rep == REPE)
    return True


@inner
def _move_step(m, u, step, mask):
    """One iteration of MOVS or STOS."""
    c = m.cpu
    lg = u.lg
    value = c.gpr[RAX]
    if u.op == MOVS:
        value = load(m, _source_address(m, u, mask), lg)
        if m.pending:
            return m.pending
    if store(m, c.gpr[RDI] & mask, lg, value):
        return m.pending
    if u.op == MOVS:
        _advance(c, RSI, step, mask)
    _advance(c, RDI, step, mask)
    return ST_OK


@unit(Machine, Uop)
def exec_string(m, u):
    """Family STRING."""
    c = m.cpu
    op = u.op
    mask = 0xFFFFFFFF if u.asize else -1
    step = -(1 << u.lg) if c.sysflags & DF else 1 << u.lg
    if u.rep and c.gpr[RCX] & mask == 0:
        return ST_OK
    if op == INS or op == OUTS:
        status = _check_ports(m, u)
        if status:
            return status
    epoch = m.code.epoch
    for _ in range(CHUNK):
        if op == MOVS or op == STOS:
            status = _move_step(m, u, step, mask)
        else:
            status = _string_step(m, u, step, mask)
        if status != ST_OK and status != ST_STOP:
            return status
        if u.rep == 0:
            return status
        count = (c.gpr[RCX] - 1) & mask
        c.gpr[RCX] = count
        if count == 0 or not _again(m, u):
            return status
        if status == ST_STOP or m.code.epoch != epoch:
            break
    return ST_STOP if status == ST_STOP else ST_REPEAT
