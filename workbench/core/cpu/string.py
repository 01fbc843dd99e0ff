"""String instructions, repeated and not: family STRING.

A repeated instruction works in chunks: after ``CHUNK`` iterations it returns ST_REPEAT with the
registers up to date, so that the run loop keeps control.  A fault in the middle leaves the
registers after the last complete iteration, as the manuals say.
"""

from __future__ import annotations

from ..hvm.intercepts import io_exit
from ..jit import inner, unit
from ..layout import (
    PAGE,
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
from ..mmu.physical import load_host, store_host
from ..mmu.records import FAST
from ..mmu.tlb import fast_context
from ..structs import i64
from ..words import lshr
from .devices import port_in, port_out
from .flags import DF, set_carries, set_result, sub_carries, truncate
from .io import check_port
from .operands import NO_SEGMENT, string_address, write_reg
from .ops import CMPS, INS, LODS, MOVS, OUTS, SCAS, STOS

CHUNK = 4096
REPE, REPNE = 1, 2


@inner
def _advance(c, register, step, mask):
    c.gpr[register] = (c.gpr[register] + step) & mask


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
        value = load(m, string_address(m, u, RSI), lg)
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
        value = load(m, string_address(m, u, RSI), lg)
        if m.pending:
            return m.pending
    if store(m, c.gpr[RDI] & mask, lg, value):
        return m.pending
    if u.op == MOVS:
        _advance(c, RSI, step, mask)
    _advance(c, RDI, step, mask)
    return ST_OK


@inner
def _fast_host(m, keys, hosts, va):
    """Host address of ``va`` when the fast path knows its page, else 0 (see ``mmu.access``)."""
    slot = lshr(va, 12) & (FAST - 1)
    if keys[slot] != (va & ~(PAGE - 1)) | fast_context(m):
        return 0
    return hosts[slot] + (va & (PAGE - 1))


@inner
def _room(va, lg):
    """Whole elements from ``va`` to the end of its page."""
    return lshr(PAGE - (va & (PAGE - 1)), lg)


@unit(Machine, Uop, i64)
def _run_in_page(m, u, limit):
    """Upward REP MOVS or STOS inside of pages that the fast path knows; iterations done.

    Element by element (source and destination may overlap), each counted as it would be alone.
    """
    c = m.cpu
    lg = u.lg
    t = m.tlb
    va = c.gpr[RDI]
    target = _fast_host(m, t.fast_write, t.fast_write_host, va)
    n = min(limit, _room(va, lg))
    if target == 0 or n <= 0:
        return 0
    if u.op == MOVS:
        source_va = c.gpr[RSI]
        source = _fast_host(m, t.fast_read, t.fast_read_host, source_va)
        n = min(n, _room(source_va, lg))
        if source == 0 or n <= 0:
            return 0
        for i in range(n):
            store_host(target + (i << lg), lg, load_host(source + (i << lg), lg))
        c.gpr[RSI] = source_va + (n << lg)
        t.fast_hits += n
    else:
        value = c.gpr[RAX]
        for i in range(n):
            store_host(target + (i << lg), lg, value)
    c.gpr[RDI] = va + (n << lg)
    c.gpr[RCX] -= n
    t.fast_hits += n
    return n


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
    in_page = (op == MOVS or op == STOS) and mask == -1 and step > 0 and u.seg == NO_SEGMENT
    done = 0
    while done < CHUNK:
        done += 1
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
        if in_page and count > 0:
            done += _run_in_page(m, u, min(count, CHUNK - done))
            if c.gpr[RCX] == 0:
                return ST_OK
    return ST_STOP if status == ST_STOP else ST_REPEAT
