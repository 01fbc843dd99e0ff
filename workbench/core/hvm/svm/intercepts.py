"""What the processor intercepts under SVM: the checks of APM vol. 2, 15.7 to 15.14.

Physical layer: only the intercept words and maps of the VMCB that the processor entered with count
here.  Each unit returns ST_OK (no exit) or ST_VMEXIT with ``m.exit`` filled.

What can and what cannot exit here, code by code, and why not, is in svm_exit_reach.csv.
"""

from __future__ import annotations

from ....arch import svm
from ...cpu import ops
from ...cpu.debug import note_debug_exception
from ...cpu.exceptions import DB
from ...jit import inner, unit
from ...layout import ES, ST_OK, Machine, Uop
from ...ledger import (
    C_CR_ACCESS,
    C_DR_ACCESS,
    C_EXCEPTION,
    C_INTERRUPT,
    C_IO_IN,
    C_IO_OUT,
    C_PAGE_FAULT,
    C_RDMSR,
    C_SHUTDOWN,
    C_WRMSR,
    E_PAUSE_FILTERED,
    E_PERMISSION_MAP_LOOKUP,
    TIME_SCALE,
    count,
    fold_steps,
)
from ...mmu.physical import ma_ld16
from ...structs import i64
from ...words import lshr
from .. import insn
from .instructions import svm_virt_instruction
from .leave import intercepted, leave
from .maps import OUT_OF_RANGE, msrpm_position
from .tables import CAUSE, INSTRUCTION_CODE

__all__ = [
    "svm_cr_exit",
    "svm_dr_exit",
    "svm_exception_exit",
    "svm_insn_exit",
    "svm_io_exit",
    "svm_msr_exit",
    "svm_read_cr",
    "svm_shutdown_exit",
    "svm_virt_instruction",
]

MOV_CR = -(1 << 63)
"""EXITINFO1 bit 63 of a CR exit: the instruction was MOV, bits 3:0 name the register."""
CR0_TS_MP = 0xA
KIND_INTERRUPT, KIND_NMI, KIND_EXCEPTION, KIND_PRIVILEGED = 0, 2, 3, 5
DS_SEGMENT = 3
NO_SEGMENT = 0xFF


@inner
def _filtered(m):
    """Pause filter (15.14.4): does this PAUSE stay without an exit?

    A counter loaded at VMRUN counts down; the PAUSE that finds it at 0 exits.  With a threshold, a
    PAUSE that comes later than so many cycles after the one before loads the counter again.
    """
    hw = m.hw
    if m.feat.pause_filter == 0 or hw.pause_filter == 0:
        return False
    fold_steps(m)
    now = m.ledger.time
    if hw.pause_threshold:
        m.ledger.clock_used = 1
        if now - hw.pause_last > hw.pause_threshold * TIME_SCALE:
            hw.pause_left = hw.pause_filter
    hw.pause_last = now
    if hw.pause_left == 0:
        return False
    hw.pause_left -= 1
    count(m, E_PAUSE_FILTERED, 1)
    return True


@unit(Machine, Uop, i64, i64)
def svm_insn_exit(m, u, what, info):
    """Instruction ``what`` (I_*); decode assists put ``info`` of INVLPG and INT n in EXITINFO1."""
    code = INSTRUCTION_CODE[what & 31]
    if code < 0 or not intercepted(m, code):
        return ST_OK
    if what == insn.I_PAUSE and _filtered(m):
        return ST_OK
    info1 = 0
    if m.feat.decode_assists and (what == insn.I_INVLPG or what == insn.I_SWINT):
        info1 = info
    return leave(m, code, info1, 0, u.len, CAUSE[code])


@unit(Machine, Uop, i64, i64)
def svm_msr_exit(m, u, number, write):
    """RDMSR (``write`` 0) or WRMSR (1): MSR_PROT and the MSRPM (APM vol. 2, 15.11)."""
    if not intercepted(m, svm.INTERCEPT_MSR_PROT):
        return ST_OK
    position = msrpm_position(number)
    if position != OUT_OF_RANGE:
        count(m, E_PERMISSION_MAP_LOOKUP, 1)
        bits = ma_ld16(m, m.hw.msrpm + lshr(position, 3))
        if lshr(bits, (position & 7) + write) & 1 == 0:
            return ST_OK
    return leave(m, svm.VMEXIT_MSR, write, 0, u.len, C_WRMSR if write else C_RDMSR)


@inner
def _ioio_info(u, port, lg, is_in, is_string, is_rep):
    """EXITINFO1 of an IOIO exit (svm_ioio_exitinfo1.csv)."""
    info = is_in | (is_string << 2) | (is_rep << 3) | (16 << lg) | (port << 16)
    info |= 1 << 8 if u.asize else 1 << 9
    if is_string:
        segment = ES if is_in else DS_SEGMENT if u.seg == NO_SEGMENT else u.seg & 7
        info |= segment << 10
    return info


@unit(Machine, Uop, i64, i64, i64, i64, i64)
def svm_io_exit(m, u, port, lg, is_in, is_string, is_rep):
    """IN, OUT, INS, OUTS: IOIO_PROT and the bits of every byte of the access (15.10)."""
    if not intercepted(m, svm.INTERCEPT_IOIO_PROT):
        return ST_OK
    port &= 0xFFFF
    lg &= 3
    count(m, E_PERMISSION_MAP_LOOKUP, 1)
    bits = lshr(ma_ld16(m, m.hw.iopm + lshr(port, 3)), port & 7)
    if bits & ((1 << (1 << lg)) - 1) == 0:
        return ST_OK
    info1 = _ioio_info(u, port, lg, 1 if is_in else 0, 1 if is_string else 0, 1 if is_rep else 0)
    return leave(m, svm.VMEXIT_IOIO, info1, m.cpu.rip, u.len, C_IO_IN if is_in else C_IO_OUT)


@inner
def _cr_write_code(m, cr, value):
    """Exit code of a write to ``cr``, -1 when it does not exit.

    The non-selective intercept comes first; the selective one sees only bits besides TS and MP.
    """
    if intercepted(m, svm.INTERCEPT_CR0_WRITE + cr):
        return svm.VMEXIT_CR0_WRITE + cr
    if cr == 0 and intercepted(m, svm.INTERCEPT_CR0_SEL_WRITE) and (value ^ m.cpu.cr0) & ~CR0_TS_MP:
        return svm.VMEXIT_CR0_SEL_WRITE
    return -1


@unit(Machine, Uop, i64, i64, i64, i64)
def svm_cr_exit(m, u, cr, gpr, write, value):
    """MOV to or from a control register, CLTS, LMSW, SMSW.

    ``m.exit.insn_info`` keeps the value for L0, which would get it by decoding the instruction.
    """
    cr &= 15
    if write:
        code = _cr_write_code(m, cr, value)
        if code < 0:
            return ST_OK
    else:
        if not intercepted(m, svm.INTERCEPT_CR0_READ + cr):
            return ST_OK
        code = svm.VMEXIT_CR0_READ + cr
    by_mov = u.op == ops.MOV_TO_CR or u.op == ops.MOV_FROM_CR
    info1 = MOV_CR | (gpr & 15) if by_mov and m.feat.decode_assists else 0
    status = leave(m, code, info1, 0, u.len, C_CR_ACCESS)
    m.exit.insn_info = value
    return status


@unit(Machine, Uop, i64, i64, i64)
def svm_dr_exit(m, u, dr, gpr, write):
    """MOV to or from a debug register."""
    position = (svm.INTERCEPT_DR0_WRITE if write else svm.INTERCEPT_DR0_READ) + (dr & 15)
    if not intercepted(m, position):
        return ST_OK
    info1 = gpr & 15 if m.feat.decode_assists else 0
    return leave(m, position, info1, 0, u.len, C_DR_ACCESS)


@unit(Machine)
def svm_exception_exit(m):
    """The event pending in ``m.exc``; events that VMRUN injected are not intercepted (15.20).

    The next RIP is known for what an instruction asked for (INT3, INT1), not for faults.
    """
    x = m.exc
    if x.injected:
        return ST_OK
    if x.kind == KIND_EXCEPTION or x.kind >= KIND_PRIVILEGED:
        position = svm.INTERCEPT_EXCP_DE + (x.vector & 31)
        if not intercepted(m, position):
            return ST_OK
        if x.vector == DB and x.kind == KIND_EXCEPTION:
            note_debug_exception(m)  # 15.12.2
        info1 = x.error if x.has_error else 0
        info2 = x.address if x.vector == 14 else 0
        cause = C_PAGE_FAULT if x.vector == 14 else C_EXCEPTION
        return leave(m, position, info1, info2, x.length, cause)
    if x.kind == KIND_NMI and intercepted(m, svm.INTERCEPT_NMI):
        return leave(m, svm.VMEXIT_NMI, 0, 0, 0, C_INTERRUPT)
    if x.kind == KIND_INTERRUPT and intercepted(m, svm.INTERCEPT_INTR):
        return leave(m, svm.VMEXIT_INTR, 0, 0, 0, C_INTERRUPT)
    return ST_OK


@unit(Machine)
def svm_shutdown_exit(m):
    """Triple fault."""
    if not intercepted(m, svm.INTERCEPT_SHUTDOWN_EVT):
        return ST_OK
    return leave(m, svm.VMEXIT_SHUTDOWN, 0, 0, 0, C_SHUTDOWN)


@unit(Machine, i64)
def svm_read_cr(m, number):
    """What MOV from a control register gives; SVM has no read shadows."""
    c = m.cpu
    if number == 0:
        return c.cr0
    if number == 2:
        return c.cr2
    if number == 3:
        return c.cr3
    if number == 4:
        return c.cr4
    return c.cr8
