"""Descriptor-table registers and far pointers: family TABLE.

Sources: SDM vol. 3, 2.4; APM vol. 2, 4.6.  Not modelled: limits of the TSS beyond its fields.
"""

from __future__ import annotations

from ..hvm.insn import I_LGDT, I_LIDT, I_LLDT, I_LTR, I_SGDT, I_SIDT, I_SLDT, I_STR
from ..hvm.intercepts import insn_exit
from ..jit import inner, unit
from ..layout import (
    FS,
    GS,
    LDTR,
    SS,
    ST_OK,
    ST_VMEXIT,
    TR,
    UF_DST_MEM,
    Machine,
    Uop,
)
from ..mmu.access import load_system, store_system
from .control_bits import CR4_UMIP
from .exceptions import GP, NP, raise_exception, raise_gp0
from .msr import is_canonical
from .operands import effective_address, read_memory, read_source, write_memory, write_reg
from .ops import LFS, LGDT, LGS, LIDT, LLDT, LTR, SGDT, SIDT, SLDT
from .segments import (
    ATTR_PRESENT,
    RPL,
    TABLE_INDICATOR,
    descriptor_address,
    descriptor_attr,
    descriptor_base,
    descriptor_limit,
    fetch_descriptor,
    load_data_segment,
    set_null_segment,
)

TYPE_LDT, TYPE_TSS_AVAILABLE, TYPE_TSS_BUSY = 2, 9, 11


@inner
def _asked(m, u):
    """The intercept number of a member of this family."""
    op = u.op
    if op == LGDT:
        return I_LGDT
    if op == LIDT:
        return I_LIDT
    if op == SGDT:
        return I_SGDT
    if op == SIDT:
        return I_SIDT
    if op == SLDT:
        return I_SLDT
    if op == LLDT:
        return I_LLDT
    if op == LTR:
        return I_LTR
    return I_STR


@unit(Machine, Uop)
def exec_table_register(m, u):
    """LGDT, LIDT, SGDT, SIDT: 2 bytes of limit, 8 bytes of base."""
    c = m.cpu
    op = u.op
    va = effective_address(m, u)
    if op == SGDT or op == SIDT:
        limit = c.gdtr_limit if op == SGDT else c.idtr_limit
        base = c.gdtr_base if op == SGDT else c.idtr_base
        if write_memory(m, va, 1, limit):
            return m.pending
        return write_memory(m, va + 2, 3, base)
    limit = read_memory(m, va, 1)
    if m.pending:
        return m.pending
    base = read_memory(m, va + 2, 3)
    if m.pending:
        return m.pending
    if not is_canonical(base):
        return raise_gp0(m)
    if op == LGDT:
        c.gdtr_base = base
        c.gdtr_limit = limit
    else:
        c.idtr_base = base
        c.idtr_limit = limit
    return ST_OK


@unit(Machine, Uop)
def exec_system_segment(m, u):
    """LLDT and LTR: a 16-byte system descriptor of the GDT."""
    c = m.cpu
    is_task = u.op == LTR
    index = TR if is_task else LDTR
    selector = read_source(m, u)
    if m.pending:
        return m.pending
    if selector & ~RPL == 0:
        if is_task:
            return raise_gp0(m)
        set_null_segment(c, index, selector)
        return ST_OK
    error = selector & 0xFFFC
    if selector & TABLE_INDICATOR or (selector & 0xFFF8) + 15 > c.gdtr_limit:
        return raise_exception(m, GP, error, 1)
    status = fetch_descriptor(m, selector, 0)
    if status:
        return status
    low = m.result
    va = descriptor_address(m, selector)
    high = load_system(m, va + 8, 3)
    if m.pending:
        return m.pending
    attr = descriptor_attr(low)
    wanted = TYPE_TSS_AVAILABLE if is_task else TYPE_LDT
    base = descriptor_base(low) | (high << 32)
    if attr & 0x1F != wanted or not is_canonical(base):
        return raise_exception(m, GP, error, 1)
    if attr & ATTR_PRESENT == 0:
        return raise_exception(m, NP, error, 1)
    if is_task:
        attr = (attr & ~0xF) | TYPE_TSS_BUSY
        if store_system(m, va + 5, 0, attr & 0xFF):
            return m.pending
    c.seg_sel[index] = selector
    c.seg_base[index] = base
    c.seg_limit[index] = descriptor_limit(low)
    c.seg_attr[index] = attr
    return ST_OK


@unit(Machine, Uop)
def _load_far_pointer(m, u):
    """LFS, LGS, LSS: register and segment register from memory."""
    c = m.cpu
    va = effective_address(m, u)
    value = read_memory(m, va, u.lg)
    if m.pending:
        return m.pending
    selector = read_memory(m, va + (1 << u.lg), 1)
    if m.pending:
        return m.pending
    index = SS
    if u.op == LFS:
        index = FS
    elif u.op == LGS:
        index = GS
    status = load_data_segment(m, index, selector, c.cpl)
    if status == ST_OK:
        write_reg(c, u.dst, u.lg, value)
    return status


@unit(Machine, Uop)
def exec_table(m, u):
    """Family TABLE."""
    c = m.cpu
    op = u.op
    if op >= LFS:
        return _load_far_pointer(m, u)
    loads = op == LGDT or op == LIDT or op == LLDT or op == LTR
    if c.cpl != 0 and (loads or c.cr4 & CR4_UMIP):
        return raise_gp0(m)
    if m.hw.guest:
        if insn_exit(m, u, _asked(m, u), 0):
            return ST_VMEXIT
    if op <= SIDT:
        return exec_table_register(m, u)
    if op == LLDT or op == LTR:
        return exec_system_segment(m, u)
    selector = c.seg_sel[LDTR] if op == SLDT else c.seg_sel[TR]
    if u.flags & UF_DST_MEM:
        return write_memory(m, effective_address(m, u), 1, selector & 0xFFFF)
    write_reg(c, u.dst, u.lg, selector & 0xFFFF)
    return ST_OK
