"""THE run loop: executes decoded micro-ops until the budget is used up or Python is needed.

Hot state (RIP, micro-op index, steps) lives in locals and is spilled before slow handlers.  The
fast families are executed inline, every other family by its ``exec_<family>``.  See ``ops`` for
the conventions and ``layout`` (ST_*) for the outcomes.
"""

from __future__ import annotations

from ..hvm.nested import l0_emulated, l0_exit
from ..hvm.shadow.l0 import EMULATING
from ..jit import inner, unit
from ..layout import (
    FATAL_RECURSION,
    PAGE,
    REG_RIP,
    RSP,
    ST_BRANCH,
    ST_DECODE,
    ST_EMULATED,
    ST_FATAL,
    ST_FAULT,
    ST_HALT,
    ST_OK,
    ST_REPEAT,
    ST_VMEXIT,
    Machine,
)
from ..ledger import fold_steps
from ..mmu.access import fold_hits, load, store
from ..mmu.tlb import fast_context
from ..structs import i64
from ..words import lshr, popcount, smulh
from . import ops
from .apic_page import bare_apic_access
from .delivery import deliver_event
from .dispatch import exec_generic, exec_slow
from .events import attend
from .fast import (
    address_of,
    alu32,
    alu64,
    flags_add,
    flags_dec,
    flags_inc,
    flags_inc32,
    flags_logic,
    flags_narrow,
    flags_shift_left,
    flags_shift_right,
    flags_sub,
)
from .flags import add_carries, set_carry_overflow, sub_carries
from .lookup import check_straddle, find_uop
from .operands import read_reg
from .sources import idle, schedule

MAX_ROUNDS = 64
"""Events and exits in a row without an instruction before the machine counts as stuck."""

END_JCC = (ops.FAMILY_JCC + 1) * 16
END_FAST32 = (ops.FAMILY_FAST32 + 1) * 16
END_FASTMIX = (ops.FAMILY_FASTMIX + 1) * 16
END_FASTMEM = (ops.FAMILY_FASTMEM + 1) * 16


@unit(Machine, i64)
def settle(m, status):
    """Deliver events and serve exits until a guest can run; ST_BRANCH, or why it cannot."""
    if m.sh.emulating and status != ST_DECODE:
        status = l0_emulated(m, status)
    for _ in range(MAX_ROUNDS):
        m.pending = 0
        if status == ST_FAULT:
            status = deliver_event(m)
        elif status == ST_VMEXIT:
            status = l0_exit(m) if m.hw.guest else bare_apic_access(m)
        elif status == ST_HALT and m.hw.guest == 0 and m.irq.active:
            fold_steps(m)
            m.irq.attention = 1
            return ST_BRANCH if idle(m) else ST_HALT
        else:
            if m.irq.active:
                fold_steps(m)
                schedule(m)
            return status
    m.fatal = FATAL_RECURSION
    return ST_FATAL


@inner
def _spill(m, retired):
    m.steps += retired
    m.level_steps[m.level] += retired


@inner
def _fold(m):
    fold_steps(m)
    fold_hits(m)


@unit(Machine, i64)
def run(m, max_steps):
    """Run up to ``max_steps`` steps; ST_OK when they are used up, else why the machine stopped.

    A step is an instruction, a part of a repeated one, an event delivery or an exit.
    """
    c = m.cpu
    code = m.code
    u = code.uops[0]
    rip = c.rip
    n = 0
    mark = 0  # steps already spilled
    link = -1
    look = m.irq.budget  # step at which to look for events
    while n < max_steps:
        # 0. events
        if m.irq.attention or n >= look:
            c.rip = rip
            _spill(m, n - mark)
            mark = n
            status = attend(m)
            look = n + m.irq.budget
            if status != ST_OK:
                n += 1
                mark = n
                link = -1
                m.exit.vectoring = 0
                status = settle(m, status)
                look = n + m.irq.budget
                if status != ST_BRANCH:
                    m.irq.budget = look - n
                    _fold(m)
                    return status
                rip = c.rip
                continue
        # 1. find the micro-op
        epoch = code.epoch
        ui = -1
        if link < 0 and rip & ~(PAGE - 1) == m.code_page and m.code_context == fast_context(m):
            if m.code_slot >= 0:
                ui = code.map[m.code_slot, rip & (PAGE - 1)]
        if ui < 0:
            ui = find_uop(m, rip, link)
        link = -1
        shadow = c.shadow
        stop = n + 1 if shadow else min(max_steps, look)
        status = ST_OK
        length = 0
        if ui < 0:
            status = -ui
            stop = n
            n += 1
        # 2. run on from there
        while n < stop:
            u = code.uops[ui]
            op = u.op
            rip += u.len
            n += 1
            ui += 1
            if op < 16:
                if op == ops.ADD64:
                    a = c.gpr[u.dst]
                    b = c.gpr[u.src] + u.imm
                    r = a + b
                    c.gpr[u.dst] = r
                    flags_add(c, a, b, r)
                elif op == ops.SUB64:
                    a = c.gpr[u.dst]
                    b = c.gpr[u.src] + u.imm
                    r = a - b
                    c.gpr[u.dst] = r
                    flags_sub(c, a, b, r)
                elif op == ops.CMP64:
                    a = c.gpr[u.dst]
                    b = c.gpr[u.src] + u.imm
                    flags_sub(c, a, b, a - b)
                elif op == ops.TEST64:
                    flags_logic(c, c.gpr[u.dst] & (c.gpr[u.src] + u.imm))
                elif op == ops.AND64:
                    r = c.gpr[u.dst] & (c.gpr[u.src] + u.imm)
                    c.gpr[u.dst] = r
                    flags_logic(c, r)
                elif op == ops.OR64:
                    r = c.gpr[u.dst] | (c.gpr[u.src] + u.imm)
                    c.gpr[u.dst] = r
                    flags_logic(c, r)
                elif op == ops.XOR64:
                    r = c.gpr[u.dst] ^ (c.gpr[u.src] + u.imm)
                    c.gpr[u.dst] = r
                    flags_logic(c, r)
                elif op == ops.MOV64:
                    c.gpr[u.dst] = c.gpr[u.src] + u.imm
                elif op == ops.LOAD64:
                    a = load(m, address_of(c, u, rip), 3)
                    if m.pending:
                        status = m.pending
                        break
                    c.gpr[u.dst] = a
                elif op == ops.STORE64:
                    va = address_of(c, u, rip)
                    status = store(m, va, 3, c.gpr[u.src] + u.imm)
                    if status != ST_OK or code.epoch != epoch:
                        break
                elif op == ops.LEA64:
                    c.gpr[u.dst] = address_of(c, u, rip)
                elif op == ops.INC64:
                    a = c.gpr[u.dst]
                    r = a + 1
                    c.gpr[u.dst] = r
                    flags_inc(c, a, r)
                elif op == ops.DEC64:
                    a = c.gpr[u.dst]
                    r = a - 1
                    c.gpr[u.dst] = r
                    flags_dec(c, a, r)
                elif op == ops.NEXT:
                    n -= 1
                    break
                else:  # JMP, CALL
                    if op == ops.CALL:
                        va = c.gpr[RSP] - 8
                        status = store(m, va, 3, rip)
                        if status != ST_OK:
                            break
                        c.gpr[RSP] = va
                    rip += u.imm
                    if code.epoch != epoch:
                        break
                    if u.next < 0:
                        link = ui - 1
                        break
                    ui = u.next
            elif op < END_JCC:
                taken = 0
                if op == ops.JE:
                    taken = 1 if c.lf_zero == 0 else 0
                elif op == ops.JNE:
                    taken = 1 if c.lf_zero != 0 else 0
                elif op == ops.JB:
                    taken = 1 if c.lf_carry < 0 else 0
                elif op == ops.JAE:
                    taken = 1 if c.lf_carry >= 0 else 0
                elif op == ops.JBE:
                    taken = 1 if c.lf_carry < 0 or c.lf_zero == 0 else 0
                elif op == ops.JA:
                    taken = 1 if c.lf_carry >= 0 and c.lf_zero != 0 else 0
                elif op == ops.JS:
                    taken = 1 if c.lf_sign < 0 else 0
                elif op == ops.JNS:
                    taken = 1 if c.lf_sign >= 0 else 0
                elif op == ops.JO:
                    taken = 1 if c.lf_carry ^ (c.lf_carry << 1) < 0 else 0
                elif op == ops.JNO:
                    taken = 1 if c.lf_carry ^ (c.lf_carry << 1) >= 0 else 0
                elif op == ops.JP:
                    taken = 1 if popcount(c.lf_sign & 0xFF) & 1 == 0 else 0
                elif op == ops.JNP:
                    taken = popcount(c.lf_sign & 0xFF) & 1
                else:  # JL, JGE, JLE, JG
                    less = c.lf_sign ^ c.lf_carry ^ (c.lf_carry << 1)
                    if op == ops.JL:
                        taken = 1 if less < 0 else 0
                    elif op == ops.JGE:
                        taken = 1 if less >= 0 else 0
                    elif op == ops.JLE:
                        taken = 1 if less < 0 or c.lf_zero == 0 else 0
                    else:
                        taken = 1 if less >= 0 and c.lf_zero != 0 else 0
                if taken:
                    rip += u.imm
                    if u.next < 0:
                        link = ui - 1
                        break
                    ui = u.next
            elif op < END_FAST32:
                if op == ops.ADD32:
                    a = c.gpr32[u.dst]
                    b = c.gpr32[u.src] + u.imm
                    r = a + b
                    c.gpr[u.dst >> 1] = r & 0xFFFFFFFF
                    flags_narrow(c, r, add_carries(a, b, r), 32)
                elif op == ops.SUB32:
                    a = c.gpr32[u.dst]
                    b = c.gpr32[u.src] + u.imm
                    r = a - b
                    c.gpr[u.dst >> 1] = r & 0xFFFFFFFF
                    flags_narrow(c, r, sub_carries(a, b, r), 32)
                elif op == ops.CMP32:
                    a = c.gpr32[u.dst]
                    b = c.gpr32[u.src] + u.imm
                    r = a - b
                    flags_narrow(c, r, sub_carries(a, b, r), 32)
                elif op == ops.TEST32:
                    flags_narrow(c, c.gpr32[u.dst] & (c.gpr32[u.src] + u.imm), 0, 32)
                elif op == ops.AND32:
                    r = c.gpr32[u.dst] & (c.gpr32[u.src] + u.imm)
                    c.gpr[u.dst >> 1] = r & 0xFFFFFFFF
                    flags_narrow(c, r, 0, 32)
                elif op == ops.OR32:
                    r = c.gpr32[u.dst] | (c.gpr32[u.src] + u.imm)
                    c.gpr[u.dst >> 1] = r & 0xFFFFFFFF
                    flags_narrow(c, r, 0, 32)
                elif op == ops.XOR32:
                    r = c.gpr32[u.dst] ^ (c.gpr32[u.src] + u.imm)
                    c.gpr[u.dst >> 1] = r & 0xFFFFFFFF
                    flags_narrow(c, r, 0, 32)
                elif op == ops.MOV32:
                    c.gpr[u.dst >> 1] = (c.gpr32[u.src] + u.imm) & 0xFFFFFFFF
                elif op == ops.LOAD32:
                    a = load(m, address_of(c, u, rip), 2)
                    if m.pending:
                        status = m.pending
                        break
                    c.gpr[u.dst >> 1] = a
                elif op == ops.STORE32:
                    va = address_of(c, u, rip)
                    status = store(m, va, 2, c.gpr32[u.src] + u.imm)
                    if status != ST_OK or code.epoch != epoch:
                        break
                elif op == ops.LEA32:
                    c.gpr[u.dst >> 1] = address_of(c, u, rip) & 0xFFFFFFFF
                elif op == ops.INC32:
                    a = c.gpr32[u.dst]
                    r = a + 1
                    c.gpr[u.dst >> 1] = r & 0xFFFFFFFF
                    flags_inc32(c, a, r, add_carries(a, 1, r))
                elif op == ops.DEC32:
                    a = c.gpr32[u.dst]
                    r = a - 1
                    c.gpr[u.dst >> 1] = r & 0xFFFFFFFF
                    flags_inc32(c, a, r, sub_carries(a, 1, r))
                elif op == ops.LOAD8:
                    a = load(m, address_of(c, u, rip), 0)
                    if m.pending:
                        status = m.pending
                        break
                    c.gpr[u.dst] = a
                elif op == ops.STORE8:
                    va = address_of(c, u, rip)
                    status = store(m, va, 0, c.gpr8[u.src] + u.imm)
                    if status != ST_OK or code.epoch != epoch:
                        break
                else:  # CMP8
                    a = c.gpr8[u.dst]
                    b = c.gpr8[u.src] + u.imm
                    r = a - b
                    flags_narrow(c, r, sub_carries(a, b, r), 56)
            elif op < END_FASTMIX:
                if op >= ops.ADD64M and op <= ops.XOR64M:
                    b = load(m, address_of(c, u, rip), 3)
                    if m.pending:
                        status = m.pending
                        break
                    r = alu64(c, op - ops.ADD64M, c.gpr[u.dst], b)
                    if op != ops.CMP64M:
                        c.gpr[u.dst] = r
                elif op == ops.PUSH64:
                    va = c.gpr[RSP] - 8
                    status = store(m, va, 3, c.gpr[u.src] + u.imm)
                    if status != ST_OK:
                        break
                    c.gpr[RSP] = va
                    if code.epoch != epoch:
                        break
                elif op == ops.POP64 or op == ops.RET:
                    va = c.gpr[RSP]
                    a = load(m, va, 3)
                    if m.pending:
                        status = m.pending
                        break
                    c.gpr[RSP] = va + 8
                    if op == ops.RET:
                        rip = a
                        break
                    c.gpr[u.dst] = a
                elif op == ops.SHL64:
                    a = c.gpr[u.dst] << (u.imm - 1)
                    r = a << 1
                    c.gpr[u.dst] = r
                    flags_shift_left(c, a, r)
                elif op == ops.SHR64:
                    a = lshr(c.gpr[u.dst], u.imm - 1)
                    r = lshr(a, 1)
                    c.gpr[u.dst] = r
                    flags_shift_right(c, a, r)
                elif op == ops.SAR64:
                    a = c.gpr[u.dst] >> (u.imm - 1)
                    r = a >> 1
                    c.gpr[u.dst] = r
                    flags_shift_right(c, a, r)
                elif op == ops.MOVZX8:
                    c.gpr[u.dst] = c.gpr8[u.src]
                elif op == ops.TEST8:
                    flags_narrow(c, c.gpr8[u.dst] & (c.gpr8[u.src] + u.imm), 0, 56)
                elif op == ops.IMUL64:
                    a = c.gpr[u.dst]
                    b = c.gpr[u.src]
                    r = a * b
                    a = 1 if smulh(a, b) != r >> 63 else 0
                    c.gpr[u.dst] = r
                    c.lf_zero = r
                    c.lf_sign = r
                    set_carry_overflow(c, a, a)
            elif op < END_FASTMEM:
                a = load(m, address_of(c, u, rip), u.lg)
                if m.pending:
                    status = m.pending
                    break
                if op == ops.CMPM:
                    b = read_reg(c, u.src, u.lg) + u.imm
                    r = a - b
                    flags_narrow(c, r, sub_carries(a, b, r), 64 - (8 << u.lg))
                elif op == ops.TESTM:
                    r = a & (read_reg(c, u.src, u.lg) + u.imm)
                    flags_narrow(c, r, 0, 64 - (8 << u.lg))
                else:
                    r = alu32(c, op - ops.ADD32M, c.gpr32[u.dst], a)
                    if op != ops.CMP32M:
                        c.gpr[u.dst >> 1] = r
            elif op == ops.STRADDLE:
                status = check_straddle(m, u, rip)
                if status != ST_OK:
                    break
                n -= 1
            else:
                c.rip = rip
                c.gpr[REG_RIP] = rip
                if op < ops.FAMILY_SYSTEM * 16:
                    status = exec_generic(m, u)
                else:
                    _spill(m, n - 1 - mark)
                    mark = n - 1
                    status = exec_slow(m, u)
                if status != ST_OK or code.epoch != epoch:
                    if status == ST_BRANCH:
                        rip = c.rip
                        status = ST_OK
                    break
        # 3. what came of it
        if status == ST_OK:
            if shadow == 0:
                continue
            if c.shadow == shadow:
                c.shadow = 0
            if shadow & EMULATING == 0:
                continue
            status = ST_EMULATED
        if ui >= 0:
            length = u.len
        c.rip = rip
        if status == ST_FAULT or status == ST_VMEXIT or status == ST_REPEAT or status == ST_DECODE:
            c.rip = rip - length  # not completed
            _spill(m, n - 1 - mark)
        else:
            _spill(m, n - mark)
            c.shadow = 0
        mark = n
        if status == ST_VMEXIT:
            m.exit.vectoring = 0
        if status != ST_REPEAT or shadow & EMULATING:
            status = settle(m, status)
            if m.irq.active:
                look = n + m.irq.budget
            if status != ST_BRANCH:
                m.irq.budget = look - n
                _fold(m)
                return status
        rip = c.rip
    c.rip = rip
    _spill(m, n - mark)
    m.irq.budget = look - n
    _fold(m)
    return ST_OK
