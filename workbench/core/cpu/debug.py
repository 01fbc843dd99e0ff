"""Single-step and breakpoint exceptions: #DB as trap and as fault.

Sources: SDM vol. 3, chapter 19, 25.4.2 (pending debug exceptions), 27.7.3; APM vol. 2, 13.1, 15.12.2.
While RFLAGS.TF or a breakpoint of DR7 is set, the run loop looks here between any two instructions
(``m.debug.armed``); else nothing of this costs anything.

Not modelled: BTF, I/O breakpoints; a repeated string instruction traps once, at its end; DR6 of
restricted transactional memory and of bus locks.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import DEBUG_OFF, DEBUG_ON, DEBUG_SPENT, ST_FAULT, ST_OK, Machine
from ..mmu.breakpoints import ENABLES, ON_FETCH, breakpoints_met, data_breakpoints
from ..mmu.generation import new_context
from ..structs import i64
from .exceptions import DB, DF, KIND_EXCEPTION, MC, raise_exception
from .flags import RF, TF

DR6_BD, DR6_BS = 1 << 13, 1 << 14
DR7_GD = 1 << 13
PENDING_ENABLED = 1 << 12
"""In the VMCS: at least one of the breakpoints met was enabled."""
MOV_SS = 2


@inner
def watched(m):
    """Do RFLAGS or DR7 ask for debug exceptions?"""
    return (m.cpu.sysflags & TF) | (m.cpu.dr[7] & ENABLES) != 0


@unit(Machine, i64)
def arm(m, pending):
    """Look between instructions from now on; ``pending`` as in the VMCS field."""
    d = m.debug
    if d.armed != DEBUG_ON:
        d.step = 0
        d.resume = 0
        d.met = 0
        d.mark = m.steps
    d.armed = DEBUG_ON
    d.pending |= pending
    data = data_breakpoints(m)
    if data != d.data:
        d.data = data
        new_context(m)
    m.irq.active = 1
    m.irq.attention = 1
    return 0


@inner
def note_debug_state(m):
    """RFLAGS or DR7 have been written."""
    if watched(m):
        arm(m, 0)


# ---------------------------------------------------------------- between instructions


@unit(Machine)
def debug_boundary(m):
    """What the instruction that ended here, if one did, has left pending."""
    d = m.debug
    c = m.cpu
    if m.steps != d.mark:
        if d.step:
            d.pending |= DR6_BS
        if d.met:
            d.pending |= d.met | PENDING_ENABLED
            d.met = 0
        if d.resume:
            c.sysflags &= ~RF
    d.mark = m.steps
    d.step = c.sysflags & TF
    d.resume = c.sysflags & RF
    if d.pending == 0 and not watched(m):
        d.armed = DEBUG_SPENT if m.hw.guest else DEBUG_OFF
        d.data = 0
    return 0


@inner
def raise_debug(m, bits, is_fault):
    """#DB for the conditions ``bits`` (as in DR6); a fault's frame has RF set."""
    raise_exception(m, DB, is_fault, 0)
    m.exc.address = bits
    return ST_FAULT


@inner
def debug_trap(m):
    """Deliver what is pending, unless MOV SS holds it back for an instruction."""
    d = m.debug
    if d.pending == 0 or m.cpu.shadow & MOV_SS:
        return ST_OK
    bits = d.pending & ~PENDING_ENABLED
    d.pending = 0
    return raise_debug(m, bits, 0)


@inner
def debug_fault(m):
    """An instruction breakpoint at RIP, of the lowest priority (SDM vol. 3, table 7-2)."""
    c = m.cpu
    if c.dr[7] & ENABLES == 0 or c.sysflags & RF:
        return ST_OK
    met = breakpoints_met(m, c.rip, 1, ON_FETCH)
    return raise_debug(m, met, 1) if met else ST_OK


# ---------------------------------------------------------------- delivery


@inner
def note_debug_exception(m):
    """DR6 and DR7 as a handler of #DB finds them."""
    c = m.cpu
    c.dr[6] |= m.exc.address & (0xF | DR6_BD | DR6_BS)
    c.dr[7] &= ~DR7_GD


@inner
def resume_image(e):
    """RF in the frame of the event ``e``: set for faults, so that a breakpoint is not met again."""
    if e.kind != KIND_EXCEPTION or e.vector == DF or e.vector == MC:
        return 0
    return 0 if e.vector == DB and e.error == 0 else RF


@inner
def forget_resume(c):
    """Without breakpoints RF has no effect, and nothing would clear it behind the next instruction."""
    if c.dr[7] & ENABLES == 0:
        c.sysflags &= ~RF


@inner
def forget_step(m):
    """The processor starts a handler: its first instruction does not trap for what came before."""
    if m.debug.armed:
        m.debug.step = 0
        m.debug.resume = 0
        m.debug.met = 0


# ---------------------------------------------------------------- world switches


@inner
def debug_enter(m, pending):
    """A guest's RFLAGS and DR7 have been loaded, and traps of earlier are ``pending``."""
    if (m.cpu.sysflags & TF) | (m.cpu.dr[7] & ENABLES) | pending:
        arm(m, pending)


@inner
def debug_leave(m):
    """End of a guest's run while ``armed``: returns what stays pending."""
    d = m.debug
    pending = d.pending
    d.pending = 0
    d.armed = DEBUG_OFF
    d.data = 0
    return pending
