"""Stack, indirect near branches and loops: family STACK.  64-bit mode: operand size 16 or 64."""

from __future__ import annotations

from ..hvm.insn import I_POPF, I_PUSHF
from ..hvm.intercepts import insn_exit
from ..jit import inner, unit
from ..layout import RBP, RCX, RSP, ST_BRANCH, ST_OK, ST_VMEXIT, UF_DST_MEM, Machine, Uop
from ..words import lshr
from .debug import note_debug_state
from .flags import IF, IOPL, RF, VM, get_rflags, set_rflags
from .operands import (
    effective_address,
    push,
    read_memory,
    read_memory_update,
    read_source,
    write_memory,
    write_reg,
)
from .ops import (
    CALL_INDIRECT,
    ENTER,
    JMP_INDIRECT,
    JRCXZ,
    LEAVE,
    LOOPE,
    LOOPNE,
    POP,
    POPF,
    PUSH,
    PUSH_SEG,
    PUSHF,
    RET_IMM,
)
from .segments import load_data_segment


@unit(Machine, Uop)
def exec_pushf(m, u):
    """PUSHF; VM and RF are pushed as 0."""
    if m.hw.guest:
        if insn_exit(m, u, I_PUSHF, 0):
            return ST_VMEXIT
    return push(m, u.lg, get_rflags(m) & ~(RF | VM))


@unit(Machine, Uop)
def exec_popf(m, u):
    """POPF: IOPL changes at CPL 0 only, IF only with CPL <= IOPL."""
    c = m.cpu
    if m.hw.guest:
        if insn_exit(m, u, I_POPF, 0):
            return ST_VMEXIT
    value = read_memory(m, c.gpr[RSP], u.lg)
    if m.pending:
        return m.pending
    c.gpr[RSP] += 1 << u.lg
    old = get_rflags(m)
    kept = RF | VM
    if c.cpl != 0:
        kept |= IOPL
    if c.cpl > lshr(old & IOPL, 12):
        kept |= IF
    if u.lg == 1:
        kept |= ~0xFFFF
    set_rflags(m, ((value & ~kept) | (old & kept)) & ~RF)
    note_debug_state(m)
    return ST_BRANCH if m.irq.attention else ST_OK


@unit(Machine, Uop)
def exec_enter(m, u):
    """ENTER: ``imm`` has the frame size in bits 0..15 and the nesting level above."""
    c = m.cpu
    lg = u.lg
    size = 1 << lg
    level = lshr(u.imm, 16) & 31
    rsp = c.gpr[RSP] - size
    rbp = c.gpr[RBP]
    if write_memory(m, rsp, lg, rbp):
        return m.pending
    frame = rsp
    for i in range(1, level):
        value = read_memory(m, rbp - i * size, lg)
        if m.pending:
            return m.pending
        rsp -= size
        if write_memory(m, rsp, lg, value):
            return m.pending
    if level > 0:
        rsp -= size
        if write_memory(m, rsp, lg, frame):
            return m.pending
    rsp -= u.imm & 0xFFFF
    read_memory_update(m, rsp, lg)  # the manual checks that the new top is writable
    if m.pending:
        return m.pending
    write_reg(c, RBP << (3 - lg), lg, frame)
    c.gpr[RSP] = rsp
    return ST_OK


@unit(Machine, Uop)
def exec_push_pop(m, u):
    """PUSH and POP of any operand, segment registers too."""
    c = m.cpu
    op = u.op
    lg = u.lg
    if op == PUSH:
        value = read_source(m, u)
        if m.pending:
            return m.pending
        return push(m, lg, value)
    if op == PUSH_SEG:
        return push(m, lg, c.seg_sel[u.src & 7])
    rsp = c.gpr[RSP]
    value = read_memory(m, rsp, lg)
    if m.pending:
        return m.pending
    if op != POP:
        status = load_data_segment(m, u.dst & 7, value, c.cpl)
        if status == ST_OK:
            c.gpr[RSP] = rsp + (1 << lg)
        return status
    c.gpr[RSP] = rsp + (1 << lg)  # a destination based on RSP uses the new value
    if u.flags & UF_DST_MEM:
        if write_memory(m, effective_address(m, u), lg, value):
            c.gpr[RSP] = rsp
        return m.pending
    write_reg(c, u.dst, lg, value)
    return ST_OK


@inner
def _loop_taken(m, u):
    c = m.cpu
    mask = 0xFFFFFFFF if u.asize else -1
    if u.op == JRCXZ:
        return c.gpr[RCX] & mask == 0
    count = (c.gpr[RCX] - 1) & mask
    c.gpr[RCX] = count
    if u.op == LOOPE:
        return count != 0 and c.lf_zero == 0
    if u.op == LOOPNE:
        return count != 0 and c.lf_zero != 0
    return count != 0


@unit(Machine, Uop)
def exec_stack(m, u):
    """Family STACK."""
    c = m.cpu
    op = u.op
    if op >= JRCXZ and op <= LOOPNE:
        if not _loop_taken(m, u):
            return ST_OK
        c.rip += u.imm
        return ST_BRANCH
    if op == CALL_INDIRECT or op == JMP_INDIRECT:
        target = read_source(m, u)
        if m.pending:
            return m.pending
        if op == CALL_INDIRECT and push(m, 3, c.rip):
            return m.pending
        c.rip = target
        return ST_BRANCH
    if op == RET_IMM:
        target = read_memory(m, c.gpr[RSP], 3)
        if m.pending:
            return m.pending
        c.gpr[RSP] += 8 + u.imm
        c.rip = target
        return ST_BRANCH
    if op == LEAVE:
        value = read_memory(m, c.gpr[RBP], u.lg)
        if m.pending:
            return m.pending
        c.gpr[RSP] = c.gpr[RBP] + (1 << u.lg)
        write_reg(c, RBP << (3 - u.lg), u.lg, value)
        return ST_OK
    if op == ENTER:
        return exec_enter(m, u)
    if op == PUSHF:
        return exec_pushf(m, u)
    if op == POPF:
        return exec_popf(m, u)
    return exec_push_pop(m, u)
