"""Software interrupts, IRET, SYSCALL/SYSRET, far branches: family CONTROL.

Sources: SDM vol. 2 / APM vol. 3, the instructions' pages.  64-bit code segments only: returning to
compatibility mode raises #GP; SYSRET without REX.W raises #UD.
"""

from __future__ import annotations

from ..hvm.insn import I_ICEBP, I_IRET, I_PAUSE, I_RDPRU, I_SWINT
from ..hvm.intercepts import insn_exit
from ..jit import inner, unit
from ..layout import (
    BACKEND_VMX,
    CS,
    GS,
    RCX,
    RSP,
    SS,
    ST_BRANCH,
    ST_OK,
    ST_VMEXIT,
    UF_SRC_MEM,
    Machine,
    Uop,
)
from ..words import lshr
from .control_bits import CR4_TSD, EFER_SCE
from .debug import forget_resume, note_debug_state
from .exceptions import (
    BP,
    DB,
    KIND_PRIVILEGED,
    KIND_SOFT_EXCEPTION,
    KIND_SOFTWARE,
    raise_gp0,
    raise_software,
    raise_ud,
)
from .flags import IF, IOPL, NT, RF, VM, get_rflags, set_rflags
from .msr import is_canonical
from .nmi import unblock_nmi
from .operands import effective_address, push, read_memory
from .ops import FAR_CALL, FAR_RET, INT, INT1, INT3, IRET, PAUSE, RDPRU, SWAPGS, SYSCALL, SYSRET
from .segments import (
    ATTR_CODE64,
    ATTR_DATA,
    RPL,
    check_code_segment,
    drop_inner_data_segments,
    load_data_segment,
    mark_accessed,
    set_code_segment,
    set_flat,
)


@unit(Machine, Uop)
def exec_int(m, u):
    """INT n, INT3, INT1: make a software event pending."""
    if u.op == INT:
        if m.hw.guest:
            if insn_exit(m, u, I_SWINT, u.imm & 0xFF):
                return ST_VMEXIT
        return raise_software(m, u.imm & 0xFF, KIND_SOFTWARE, u.len)
    if u.op == INT3:
        return raise_software(m, BP, KIND_SOFT_EXCEPTION, u.len)
    if m.hw.guest:
        if insn_exit(m, u, I_ICEBP, 0):
            return ST_VMEXIT
    return raise_software(m, DB, KIND_PRIVILEGED, u.len)


@inner
def _return_flags(m, value, lg):
    """RFLAGS from an IRET frame, as the old privilege level may change them."""
    old = get_rflags(m)
    kept = VM
    if m.cpu.cpl != 0:
        kept |= IOPL
    if m.cpu.cpl > lshr(old & IOPL, 12):
        kept |= IF
    if lg == 1:
        kept |= ~0xFFFF
    return (value & ~kept) | (old & kept)


@unit(Machine, Uop)
def return_from_interrupt(m, u):
    """What IRET does: pops RIP, CS, RFLAGS, RSP and SS."""
    c = m.cpu
    lg = u.lg
    if c.sysflags & NT:
        return raise_gp0(m)
    # 1. the frame
    rsp = c.gpr[RSP]
    size = 1 << lg
    rip = read_memory(m, rsp, lg)
    if m.pending:
        return m.pending
    selector = read_memory(m, rsp + size, lg) & 0xFFFF
    if m.pending:
        return m.pending
    flags = read_memory(m, rsp + 2 * size, lg)
    if m.pending:
        return m.pending
    new_rsp = read_memory(m, rsp + 3 * size, lg)
    if m.pending:
        return m.pending
    stack = read_memory(m, rsp + 4 * size, lg) & 0xFFFF
    if m.pending:
        return m.pending
    # 2. the code segment
    status = check_code_segment(m, selector, c.cpl, 1)
    if status:
        return status
    descriptor = m.result
    cpl = selector & RPL
    if not is_canonical(rip):
        return raise_gp0(m)
    # 3. the stack segment, which completes all checks
    status = load_data_segment(m, SS, stack, cpl)
    if status:
        return status
    status = mark_accessed(m, selector, descriptor)
    if status:
        return status
    # 4. commit
    set_rflags(m, _return_flags(m, flags, lg))
    forget_resume(c)
    note_debug_state(m)
    outward = cpl > c.cpl
    set_code_segment(m, selector, descriptor, cpl)
    if outward:
        drop_inner_data_segments(c, cpl)
    c.rip = rip
    c.gpr[RSP] = new_rsp
    unblock_nmi(m)
    m.nmi_unblocked = 0
    return ST_BRANCH


@unit(Machine, Uop)
def exec_iret(m, u):
    """IRET in 64-bit mode; in a guest of VMX it unblocks NMIs even when it then faults."""
    if m.hw.guest:
        if insn_exit(m, u, I_IRET, 0):
            return ST_VMEXIT
        if m.cpu.nmi_blocked and m.hw.backend == BACKEND_VMX:
            unblock_nmi(m)
            m.nmi_unblocked = 1 - m.cpu.nmi_blocked
    return return_from_interrupt(m, u)


@unit(Machine, Uop)
def exec_syscall(m, u):
    """SYSCALL and SYSRET."""
    c = m.cpu
    if c.efer & EFER_SCE == 0:
        return raise_ud(m)
    if u.op == SYSCALL:
        selector = lshr(c.star, 32) & 0xFFFC
        c.gpr[RCX] = c.rip
        c.gpr[11] = get_rflags(m) & ~RF
        set_rflags(m, get_rflags(m) & ~(c.sfmask | RF))
        set_flat(c, CS, selector, ATTR_CODE64, 0)
        set_flat(c, SS, selector + 8, ATTR_DATA, 0)
        c.cpl = 0
        c.rip = c.lstar
        return ST_BRANCH
    if u.lg != 3:
        return raise_ud(m)
    if c.cpl != 0 or not is_canonical(c.gpr[RCX]):
        return raise_gp0(m)
    selector = (lshr(c.star, 48) + 16) | 3
    set_rflags(m, c.gpr[11] & ~(RF | VM))
    note_debug_state(m)
    set_flat(c, CS, selector & 0xFFFF, ATTR_CODE64, 3)
    set_flat(c, SS, ((lshr(c.star, 48) + 8) | 3) & 0xFFFF, ATTR_DATA, 3)
    c.cpl = 3
    c.rip = c.gpr[RCX]
    return ST_BRANCH


@unit(Machine, Uop)
def exec_far_return(m, u):
    """RET far (``imm`` extra bytes), to the same or an outer privilege level."""
    c = m.cpu
    lg = u.lg
    size = 1 << lg
    rsp = c.gpr[RSP]
    rip = read_memory(m, rsp, lg)
    if m.pending:
        return m.pending
    selector = read_memory(m, rsp + size, lg) & 0xFFFF
    if m.pending:
        return m.pending
    status = check_code_segment(m, selector, c.cpl, 1)
    if status:
        return status
    descriptor = m.result
    if not is_canonical(rip):
        return raise_gp0(m)
    cpl = selector & RPL
    new_rsp = rsp + 2 * size + u.imm
    outward = cpl > c.cpl
    if outward:
        stack = read_memory(m, new_rsp + size, lg) & 0xFFFF
        if m.pending:
            return m.pending
        new_rsp = read_memory(m, new_rsp, lg) + u.imm
        if m.pending:
            return m.pending
        status = load_data_segment(m, SS, stack, cpl)
        if status:
            return status
    status = mark_accessed(m, selector, descriptor)
    if status:
        return status
    set_code_segment(m, selector, descriptor, cpl)
    if outward:
        drop_inner_data_segments(c, cpl)
    c.rip = rip
    c.gpr[RSP] = new_rsp
    return ST_BRANCH


@unit(Machine, Uop)
def exec_far_branch(m, u):
    """JMP and CALL far through memory (offset, then selector)."""
    c = m.cpu
    lg = u.lg
    if u.flags & UF_SRC_MEM == 0:
        return raise_ud(m)
    va = effective_address(m, u)
    target = read_memory(m, va, lg)
    if m.pending:
        return m.pending
    selector = read_memory(m, va + (1 << lg), 1)
    if m.pending:
        return m.pending
    status = check_code_segment(m, selector, c.cpl, 0)
    if status:
        return status
    descriptor = m.result
    if not is_canonical(target):
        return raise_gp0(m)
    status = mark_accessed(m, selector, descriptor)
    if status:
        return status
    if u.op == FAR_CALL:
        rsp = c.gpr[RSP]
        if push(m, lg, c.seg_sel[CS]):
            return m.pending
        if push(m, lg, c.rip):
            c.gpr[RSP] = rsp
            return m.pending
    set_code_segment(m, selector, descriptor, c.cpl)
    c.rip = target
    return ST_BRANCH


@inner
def _rdpru(m, u):
    """RDPRU: the processor has no such register to read; a hypervisor sees the attempt (SVM)."""
    if m.cpu.cpl != 0 and m.cpu.cr4 & CR4_TSD:
        return raise_ud(m)
    if m.hw.guest:
        if insn_exit(m, u, I_RDPRU, 0):
            return ST_VMEXIT
    return raise_ud(m)


@unit(Machine, Uop)
def exec_control(m, u):
    """Family CONTROL."""
    c = m.cpu
    op = u.op
    if op <= INT1:
        return exec_int(m, u)
    if op == IRET:
        return exec_iret(m, u)
    if op == SYSCALL or op == SYSRET:
        return exec_syscall(m, u)
    if op == SWAPGS:
        if c.cpl != 0:
            return raise_gp0(m)
        base = c.seg_base[GS]
        c.seg_base[GS] = c.kernel_gs_base
        c.kernel_gs_base = base
        return ST_OK
    if op == FAR_RET:
        return exec_far_return(m, u)
    if op == PAUSE:
        if m.hw.guest:
            return insn_exit(m, u, I_PAUSE, 0)
        return ST_OK
    if op == RDPRU:
        return _rdpru(m, u)
    return exec_far_branch(m, u)
