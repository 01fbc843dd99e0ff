"""Delivering exceptions and software interrupts through the 64-bit IDT.

Sources: SDM vol. 3, 6.14 and 6.15 (double fault); APM vol. 2, 8.9.  Not modelled: task gates,
shadow stacks.
"""

from __future__ import annotations

from ..hvm.intercepts import exception_exit, shutdown_exit
from ..hvm.vmx.timer import MTF_PENDING
from ..jit import inner, unit
from ..layout import (
    BACKEND_VMX,
    CS,
    RSP,
    SS,
    ST_BRANCH,
    ST_OK,
    ST_SHUTDOWN,
    ST_VMEXIT,
    TR,
    Machine,
)
from ..mmu.access import load_system, store, store_system
from ..structs import i64
from ..words import lshr
from .debug import forget_step, note_debug_exception, resume_image
from .exceptions import (
    DB,
    DE,
    DF,
    GP,
    KIND_EXCEPTION,
    KIND_INTERRUPT,
    KIND_NMI,
    KIND_PRIVILEGED,
    KIND_SOFT_EXCEPTION,
    KIND_SOFTWARE,
    NP,
    PF,
    TS,
    raise_exception,
)
from .exceptions import SS as STACK_FAULT
from .flags import IF, NT, RF, TF, VM, get_rflags
from .msr import is_canonical
from .segments import (
    ATTR_DB,
    ATTR_LONG,
    ATTR_PRESENT,
    ATTR_S,
    ATTR_UNUSABLE,
    RPL,
    TYPE_CODE,
    TYPE_CONFORMING,
    descriptor_attr,
    fetch_descriptor,
    mark_accessed,
    set_code_segment,
)

GATE_INTERRUPT, GATE_TRAP = 0xE, 0xF
SELECTOR_IN_IDT = 2
TSS_RSP0, TSS_IST1 = 4, 0x24
VE, CP = 20, 21
"""Virtualization and control-protection exceptions: no instruction raises them here, but a hypervisor
may inject them."""
BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE = range(4)


@inner
def _is_software(kind):
    return kind == KIND_SOFTWARE or kind == KIND_SOFT_EXCEPTION or kind == KIND_PRIVILEGED


@inner
def _severity(vector, kind):
    """Class of an event for the double-fault rules (SDM vol. 3, table 6-5)."""
    if kind != KIND_EXCEPTION:
        return BENIGN
    if vector == DE or (TS <= vector <= GP) or vector == CP:
        return CONTRIBUTORY
    if vector == PF or vector == VE:
        return PAGE_FAULT
    return DOUBLE if vector == DF else BENIGN


@unit(Machine, i64, i64, i64)
def _new_stack(m, ist, dpl, ext):
    """Stack pointer from the TSS into ``m.result``; ST_OK, #TS or a fault."""
    c = m.cpu
    offset = TSS_IST1 + 8 * (ist - 1) if ist else TSS_RSP0 + 8 * dpl
    if offset + 7 > c.seg_limit[TR] or c.seg_attr[TR] & ATTR_UNUSABLE:
        return raise_exception(m, TS, (c.seg_sel[TR] & 0xFFFC) | ext, 1)
    m.result = load_system(m, c.seg_base[TR] + offset, 3)
    if m.pending:
        return m.pending
    if not is_canonical(m.result):
        return raise_exception(m, STACK_FAULT, ext, 1)
    return ST_OK


@inner
def _push(m, va, value, cpl):
    """One stack slot of the frame, with the rights of the handler's level."""
    if cpl == 3:
        return store(m, va, 3, value)
    return store_system(m, va, 3, value)


@unit(Machine, i64, i64)
def _push_frame(m, rsp, cpl):
    """SS, RSP, RFLAGS, CS, RIP and the error code below ``rsp`` (16-byte aligned)."""
    c = m.cpu
    e = m.exc
    back = c.rip + e.length
    if (
        _push(m, rsp - 8, c.seg_sel[SS], cpl)
        or _push(m, rsp - 16, c.gpr[RSP], cpl)
        or _push(m, rsp - 24, get_rflags(m) | m.debug.image, cpl)
        or _push(m, rsp - 32, c.seg_sel[CS], cpl)
        or _push(m, rsp - 40, back, cpl)
    ):
        return m.pending
    if e.has_error:
        return _push(m, rsp - 48, e.error & 0xFFFFFFFF, cpl)
    return ST_OK


@unit(Machine, i64)
def _read_gate(m, ext):
    """Checked gate of ``m.exc``: its first word in ``m.result``, its target in ``m.gate_target``."""
    c = m.cpu
    vector = m.exc.vector & 0xFF
    code = vector * 8 + SELECTOR_IN_IDT + ext
    if vector * 16 + 15 > c.idtr_limit:
        return raise_exception(m, GP, code, 1)
    low = load_system(m, c.idtr_base + vector * 16, 3)
    if m.pending:
        return m.pending
    high = load_system(m, c.idtr_base + vector * 16 + 8, 3)
    if m.pending:
        return m.pending
    kind = lshr(low, 40) & 0x1F
    if kind != GATE_INTERRUPT and kind != GATE_TRAP:
        return raise_exception(m, GP, code, 1)
    soft = m.exc.kind == KIND_SOFTWARE or m.exc.kind == KIND_SOFT_EXCEPTION
    if soft and lshr(low, 45) & 3 < c.cpl:
        return raise_exception(m, GP, code, 1)
    if lshr(low, 47) & 1 == 0:
        return raise_exception(m, NP, code, 1)
    m.gate_target = (low & 0xFFFF) | (lshr(low, 32) & 0xFFFF0000) | (high << 32)
    m.result = low
    return ST_OK


@unit(Machine, i64, i64)
def _check_handler_segment(m, selector, ext):
    """The handler's code segment: descriptor in ``m.result``; ST_OK or a fault."""
    if selector & ~RPL == 0:
        return raise_exception(m, GP, ext, 1)
    status = fetch_descriptor(m, selector, ext)
    if status:
        return status
    attr = descriptor_attr(m.result)
    good = attr & ATTR_S and attr & TYPE_CODE and attr & ATTR_LONG and attr & ATTR_DB == 0
    if not good or (attr >> 5) & 3 > m.cpu.cpl:
        return raise_exception(m, GP, (selector & 0xFFFC) | ext, 1)
    if attr & ATTR_PRESENT == 0:
        return raise_exception(m, NP, (selector & 0xFFFC) | ext, 1)
    return ST_OK


@unit(Machine)
def deliver_once(m):
    """Try to deliver ``m.exc``: ST_OK, or ST_FAULT / ST_VMEXIT with nothing but stack changed."""
    c = m.cpu
    e = m.exc
    ext = 0 if _is_software(e.kind) else 1
    # 1. the gate
    status = _read_gate(m, ext)
    if status:
        return status
    gate = m.result
    target = m.gate_target
    selector = lshr(gate, 16) & 0xFFFF
    # 2. the handler's code segment and privilege level
    status = _check_handler_segment(m, selector, ext)
    if status:
        return status
    descriptor = m.result
    attr = descriptor_attr(descriptor)
    dpl = (attr >> 5) & 3
    cpl = c.cpl if attr & TYPE_CONFORMING else dpl
    if not is_canonical(target):
        return raise_exception(m, GP, ext, 1)
    # 3. the stack
    rsp = c.gpr[RSP]
    ist = lshr(gate, 32) & 7
    if ist or cpl < c.cpl:
        status = _new_stack(m, ist, cpl, ext)
        if status:
            return status
        rsp = m.result
    rsp &= ~15
    status = _push_frame(m, rsp, cpl)
    if status:
        return status
    status = mark_accessed(m, selector, descriptor)
    if status:
        return status
    # 4. commit
    c.gpr[RSP] = rsp - (48 if e.has_error else 40)
    if cpl < c.cpl:
        c.seg_sel[SS] = cpl
        c.seg_attr[SS] = ATTR_UNUSABLE | (cpl << 5)
    set_code_segment(m, selector, descriptor, cpl)
    c.rip = target
    c.sysflags &= ~(TF | NT | RF | VM)
    if lshr(gate, 40) & 1 == 0:
        c.sysflags &= ~IF
    c.shadow = 0
    return ST_OK


@inner
def _fill_vectoring(m, vector, kind, has_error, error):
    """The event during whose delivery an exit happened, in the format both vendors share."""
    x = m.exit
    x.vectoring = (1 << 31) | (has_error << 11) | (kind << 8) | vector
    x.vectoring_error = error


@inner
def _shutdown(m):
    """Triple fault."""
    if m.hw.guest:
        return shutdown_exit(m)
    return ST_SHUTDOWN


@inner
def _resume_image(m, e):
    """VMX takes RF of an injected event from the guest's RFLAGS; SVM delivers it as any (15.20)."""
    return 0 if e.injected and m.hw.backend == BACKEND_VMX else resume_image(e)


@unit(Machine)
def deliver_event(m):
    """Deliver ``m.exc``; ST_BRANCH, ST_VMEXIT or ST_SHUTDOWN.

    An event that a hypervisor injected is not offered for interception, and leaves CR2 alone; a
    fault during the delivery is.
    """
    c = m.cpu
    e = m.exc
    m.exit.vectoring = 0
    if m.hw.guest and e.injected == 0 and e.kind != KIND_SOFTWARE and e.kind >= KIND_EXCEPTION:
        if exception_exit(m):
            return ST_VMEXIT
    for _ in range(4):
        vector = e.vector
        kind = e.kind
        error = e.error
        has_error = e.has_error
        length = e.length
        if kind == KIND_EXCEPTION and e.injected == 0:
            if vector == PF:
                c.cr2 = e.address
            elif vector == DB:
                note_debug_exception(m)
        m.debug.image = _resume_image(m, e)
        e.injected = 0
        m.delivering += 1
        status = deliver_once(m)
        m.delivering -= 1
        m.pending = 0
        if status == ST_OK:
            if kind == KIND_INTERRUPT:
                m.ledger.delivered[m.level, 0] += 1
            elif kind == KIND_NMI:
                m.ledger.delivered[m.level, 1] += 1
                c.nmi_blocked = 1
            m.nmi_unblocked = 0
            forget_step(m)
            if m.hw.mtf:
                m.hw.mtf = MTF_PENDING
                m.irq.attention = 1
            return ST_BRANCH
        if status == ST_VMEXIT:
            _fill_vectoring(m, vector, kind, has_error, error)
            m.exit.insn_len = length
            return ST_VMEXIT
        # a second fault: intercepted (also during a double fault: SDM vol. 3, 26.2), turned into a
        # double fault, or delivered in its turn
        first = _severity(vector, kind)
        second = _severity(e.vector, KIND_EXCEPTION)
        _fill_vectoring(m, vector, kind, has_error, error)
        if m.hw.guest:
            if exception_exit(m):
                _fill_vectoring(m, vector, kind, has_error, error)
                m.exit.insn_len = length
                return ST_VMEXIT
        if first == DOUBLE:
            return _shutdown(m)
        if (first == CONTRIBUTORY and second == CONTRIBUTORY) or (
            first == PAGE_FAULT and second != BENIGN
        ):
            raise_exception(m, DF, 0, 1)
            if m.hw.guest:
                if exception_exit(m):
                    _fill_vectoring(m, vector, kind, has_error, error)
                    return ST_VMEXIT
    return _shutdown(m)
