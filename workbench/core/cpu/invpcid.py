"""INVPCID (SDM vol. 2 and APM vol. 3, INVPCID): its checks; what it drops is in mmu/pcid.py."""

from __future__ import annotations

from ..hvm.invpcid import invpcid_exists, invpcid_exit
from ..jit import unit
from ..layout import ST_BRANCH, Machine, Uop
from ..mmu.pcid import ADDRESS, ALL_NON_GLOBAL, ONE_CONTEXT, invalidate_pcid
from ..words import ult
from .control_bits import CR4_PCIDE
from .exceptions import raise_gp0, raise_ud
from .msr import is_canonical
from .operands import effective_address, read_memory

PCID_MASK = 0xFFF


@unit(Machine, Uop)
def exec_invpcid(m, u):
    """INVPCID: type in register ``dst``, a descriptor of PCID and linear address in memory."""
    c = m.cpu
    if not invpcid_exists(m):
        return raise_ud(m)
    if c.cpl != 0:
        return raise_gp0(m)
    if m.hw.guest:
        status = invpcid_exit(m, u)
        if status:
            return status
    va = effective_address(m, u)
    pcid = read_memory(m, va, 3)
    if m.pending:
        return m.pending
    address = read_memory(m, va + 8, 3)
    if m.pending:
        return m.pending
    kind = c.gpr[u.dst]
    if ult(ALL_NON_GLOBAL, kind) or pcid & ~PCID_MASK:
        return raise_gp0(m)
    if kind <= ONE_CONTEXT and pcid and c.cr4 & CR4_PCIDE == 0:
        return raise_gp0(m)
    if kind == ADDRESS and not is_canonical(address):
        return raise_gp0(m)
    invalidate_pcid(m, kind, pcid, address)
    return ST_BRANCH
