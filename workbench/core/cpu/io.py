"""Port permissions and IN/OUT.  Source: SDM vol. 1, 19.5; vol. 3, 8.7 (I/O map in the TSS)."""

from __future__ import annotations

from ..hvm.intercepts import io_exit
from ..jit import inner, unit
from ..layout import RAX, RDX, ST_OK, ST_VMEXIT, TR, UF_SRC_IMM, Machine, Uop
from ..mmu.access import load_system
from ..structs import i64
from ..words import lshr
from .devices import port_in, port_out
from .exceptions import raise_gp0
from .flags import IOPL, truncate
from .operands import write_reg
from .ops import IN

TSS_IO_MAP = 0x66
"""Offset of the I/O map base in the 64-bit TSS."""


@unit(Machine, i64, i64)
def check_port(m, port, lg):
    """May the current privilege level use ``1 << lg`` ports from ``port``? ST_OK or a fault."""
    c = m.cpu
    if c.cpl <= lshr(c.sysflags & IOPL, 12):
        return ST_OK
    if c.seg_limit[TR] < TSS_IO_MAP + 1:
        return raise_gp0(m)
    base = load_system(m, c.seg_base[TR] + TSS_IO_MAP, 1)
    if m.pending:
        return m.pending
    offset = base + (port >> 3)
    if offset + 1 > c.seg_limit[TR]:
        return raise_gp0(m)
    bits = load_system(m, c.seg_base[TR] + offset, 1)
    if m.pending:
        return m.pending
    if (bits >> (port & 7)) & ((1 << (1 << lg)) - 1):
        return raise_gp0(m)
    return ST_OK


@inner
def port_number(m, u):
    """The port of IN or OUT: an immediate byte or DX."""
    return u.imm & 0xFF if u.flags & UF_SRC_IMM else m.cpu.gpr[RDX] & 0xFFFF


@unit(Machine, Uop)
def exec_in_out(m, u):
    """IN and OUT."""
    c = m.cpu
    lg = u.lg
    is_in = 1 if u.op == IN else 0
    port = port_number(m, u)
    status = check_port(m, port, lg)
    if status:
        return status
    if m.hw.guest:
        if io_exit(m, u, port, lg, is_in, 0, 0):
            return ST_VMEXIT
    if is_in:
        write_reg(c, 0, lg, port_in(m, port, lg))
        return ST_OK
    return port_out(m, port, lg, truncate(c.gpr[RAX], lg))
