"""Which operations of a VMX guest cause VM exits: the processor's checks (SDM vol. 3, 26.1, 26.2).

All checks use the controls that the last VM entry loaded into ``m.hw``; permission bitmaps are
read from simulated RAM.  A check that finds an exit fills ``m.exit`` and returns ST_VMEXIT.  The
VMX instructions themselves, and VMCS shadowing, are in ``virt``.

Not modelled: PAUSE-loop exiting.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmx
from ...cpu import ops
from ...cpu.exceptions import DB, raise_ud
from ...cpu.operands import effective_address, string_address
from ...jit import inner, unit
from ...layout import RDI, RSI, ST_OK, ST_VMEXIT, UF_SRC_IMM, Machine, Uop
from ...ledger import (
    C_CPUID,
    C_CR_ACCESS,
    C_DESCRIPTOR_TABLE,
    C_DR_ACCESS,
    C_EXCEPTION,
    C_HLT,
    C_INTERRUPT,
    C_INVLPG,
    C_IO_IN,
    C_IO_OUT,
    C_OTHER,
    C_PAGE_FAULT,
    C_PAUSE,
    C_RDMSR,
    C_RDTSC,
    C_SHUTDOWN,
    C_WBINVD,
    C_WRMSR,
    E_PERMISSION_MAP_LOOKUP,
    count,
)
from ...mmu.physical import ma_ld8
from ...structs import i64
from ...words import lshr
from .. import insn
from .exits import fill_exit
from .operands import has_memory, string_info, table_operand
from .vapic import vapic_read_tpr
from .virt import vmx_virt_instruction

__all__ = [
    "vmx_cr_exit",
    "vmx_dr_exit",
    "vmx_effective_cr",
    "vmx_exception_exit",
    "vmx_insn_exit",
    "vmx_io_exit",
    "vmx_msr_exit",
    "vmx_read_cr",
    "vmx_shutdown_exit",
    "vmx_virt_instruction",
]

# ---------------------------------------------------------------- instructions, as a table

NEVER, ALWAYS, PROC, PROC2 = range(4)

_RULES: dict[str, tuple[int, int, int, int]] = {
    "CPUID": (ALWAYS, 0, vmx.EXIT_CPUID, C_CPUID),
    "HLT": (PROC, vmx.CPU_HLT_EXITING, vmx.EXIT_HLT, C_HLT),
    "RDTSC": (PROC, vmx.CPU_RDTSC_EXITING, vmx.EXIT_RDTSC, C_RDTSC),
    "RDTSCP": (PROC, vmx.CPU_RDTSC_EXITING, vmx.EXIT_RDTSCP, C_RDTSC),
    "RDPMC": (PROC, vmx.CPU_RDPMC_EXITING, vmx.EXIT_RDPMC, C_OTHER),
    "PAUSE": (PROC, vmx.CPU_PAUSE_EXITING, vmx.EXIT_PAUSE_INSTRUCTION, C_PAUSE),
    "INVD": (ALWAYS, 0, vmx.EXIT_INVD, C_WBINVD),
    "WBINVD": (PROC2, vmx.CPU2_WBINVD_EXITING, vmx.EXIT_WBINVD, C_WBINVD),
    "INVLPG": (PROC, vmx.CPU_INVLPG_EXITING, vmx.EXIT_INVLPG, C_INVLPG),
    "MONITOR": (PROC, vmx.CPU_MONITOR_EXITING, vmx.EXIT_MONITOR_INSTRUCTION, C_OTHER),
    "MWAIT": (PROC, vmx.CPU_MWAIT_EXITING, vmx.EXIT_MWAIT_INSTRUCTION, C_OTHER),
    "XSETBV": (ALWAYS, 0, vmx.EXIT_XSETBV, C_OTHER),
    "SGDT": (PROC2, vmx.CPU2_DESC, vmx.EXIT_GDTR_IDTR, C_DESCRIPTOR_TABLE),
    "SIDT": (PROC2, vmx.CPU2_DESC, vmx.EXIT_GDTR_IDTR, C_DESCRIPTOR_TABLE),
    "LGDT": (PROC2, vmx.CPU2_DESC, vmx.EXIT_GDTR_IDTR, C_DESCRIPTOR_TABLE),
    "LIDT": (PROC2, vmx.CPU2_DESC, vmx.EXIT_GDTR_IDTR, C_DESCRIPTOR_TABLE),
    "SLDT": (PROC2, vmx.CPU2_DESC, vmx.EXIT_LDTR_TR, C_DESCRIPTOR_TABLE),
    "STR": (PROC2, vmx.CPU2_DESC, vmx.EXIT_LDTR_TR, C_DESCRIPTOR_TABLE),
    "LLDT": (PROC2, vmx.CPU2_DESC, vmx.EXIT_LDTR_TR, C_DESCRIPTOR_TABLE),
    "LTR": (PROC2, vmx.CPU2_DESC, vmx.EXIT_LDTR_TR, C_DESCRIPTOR_TABLE),
    "INVPCID": (PROC, vmx.CPU_INVLPG_EXITING, vmx.EXIT_INVPCID, C_INVLPG),
    "RDRAND": (PROC2, vmx.CPU2_RDRAND_EXITING, vmx.EXIT_RDRAND, C_OTHER),
    "RDSEED": (PROC2, vmx.CPU2_RDSEED_EXITING, vmx.EXIT_RDSEED, C_OTHER),
}
"""Per instruction: where its control is, the control, the exit reason, the ledger's cause.
Instructions not listed never exit on VMX (IRET, PUSHF, POPF, INT n, INT1; RSM raises #UD)."""

_RULE_ROWS = [_RULES.get(name, (NEVER, 0, 0, C_OTHER)) for name in insn.NAMES]
_RULE_ROWS += [(NEVER, 0, 0, C_OTHER)] * (32 - len(_RULE_ROWS))
RULE_WHERE, RULE_MASK, RULE_REASON, RULE_CAUSE = (
    np.array([row[column] for row in _RULE_ROWS], np.int64) for column in range(4)
)

_ENABLED_BY = {"RDTSCP": vmx.CPU2_ENABLE_RDTSCP, "INVPCID": vmx.CPU2_ENABLE_INVPCID}
RULE_ENABLE = np.array(
    [_ENABLED_BY.get(name, 0) for name in insn.NAMES] + [0] * (32 - len(insn.NAMES)), np.int64
)
"""Secondary control without which the instruction raises #UD in a guest."""

IDENTITY = np.array(
    [
        {"SGDT": 0, "SIDT": 1, "LGDT": 2, "LIDT": 3, "SLDT": 0, "STR": 1, "LLDT": 2, "LTR": 3}.get(
            name, 0
        )
        for name in insn.NAMES
    ]
    + [0] * (32 - len(insn.NAMES)),
    np.int64,
)
"""Bits 29:28 of the instruction information of descriptor-table exits (tables 28-10, 28-11)."""

INTR_VALID = 1 << vmx.INTR_VALID
CR_TO, CR_FROM, CR_CLTS, CR_LMSW = range(4)
"""Access types in the qualification of control-register exits."""
LMSW_MEMORY = 1 << 6
"""Operand type in the qualification of LMSW."""
CR0_TS = 8
MSR_HIGH = 0xC000_0000
MSR_RANGE = 0x2000
MSR_WRITE_OFFSET, MSR_HIGH_OFFSET = 0x800, 0x400


@unit(Machine, Uop, i64, i64)
def vmx_insn_exit(m, u, what, info):
    """Instruction ``what`` (I_*); ``info`` is the linear address of INVLPG."""
    what &= 31
    enable = RULE_ENABLE[what]
    if enable and m.hw.proc2 & enable == 0:
        return raise_ud(m)
    where = RULE_WHERE[what]
    if where == NEVER:
        return ST_OK
    word = m.hw.proc if where == PROC else m.hw.proc2
    if where != ALWAYS and word & RULE_MASK[what] == 0:
        return ST_OK
    qualification = info if what == insn.I_INVLPG else 0
    fill_exit(m, RULE_REASON[what], qualification, u.len, RULE_CAUSE[what])
    if RULE_CAUSE[what] == C_DESCRIPTOR_TABLE:
        loads = what == insn.I_LLDT or what == insn.I_LTR
        table_operand(m, u, u.src if loads else u.dst, IDENTITY[what])
    return ST_VMEXIT


# ---------------------------------------------------------------- MSR and I/O bitmaps


@inner
def msr_bit(number, write):
    """Bit number of an MSR access in an MSR bitmap, -1 outside (vmx_permission_maps.csv)."""
    low = number & ~(MSR_RANGE - 1)
    position = number & (MSR_RANGE - 1)
    if low == MSR_HIGH:
        position += MSR_HIGH_OFFSET * 8
    elif low != 0:
        return -1
    return position + (MSR_WRITE_OFFSET * 8 if write else 0)


@unit(Machine, Uop, i64, i64)
def vmx_msr_exit(m, u, number, write):
    """RDMSR or WRMSR of ``number``."""
    number &= 0xFFFF_FFFF
    if m.hw.proc & vmx.CPU_USE_MSR_BITMAPS:
        count(m, E_PERMISSION_MAP_LOOKUP, 1)
        bit = msr_bit(number, write)
        if bit >= 0 and lshr(ma_ld8(m, m.hw.msr_bitmap + (bit >> 3)), bit & 7) & 1 == 0:
            return ST_OK
    if write:
        return fill_exit(m, vmx.EXIT_MSR_WRITE, 0, u.len, C_WRMSR)
    return fill_exit(m, vmx.EXIT_MSR_READ, 0, u.len, C_RDMSR)


@inner
def io_qualification(port, lg, is_in, is_string, is_rep, is_immediate):
    """Exit qualification of an I/O instruction (SDM table 28-5)."""
    word = ((1 << lg) - 1) & 7
    return (
        word
        | ((is_in & 1) << 3)
        | ((is_string & 1) << 4)
        | ((is_rep & 1) << 5)
        | ((is_immediate & 1) << 6)
        | ((port & 0xFFFF) << 16)
    )


@unit(Machine, Uop, i64, i64, i64, i64, i64)
def vmx_io_exit(m, u, port, lg, is_in, is_string, is_rep):
    """IN, OUT, INS or OUTS of ``1 << lg`` bytes at ``port``."""
    port &= 0xFFFF
    wanted = m.hw.proc & vmx.CPU_UNCOND_IO_EXITING
    if m.hw.proc & vmx.CPU_USE_IO_BITMAPS:
        wanted = 1 if port + (1 << lg) > 0x10000 else 0
        for i in range(1 << lg):
            count(m, E_PERMISSION_MAP_LOOKUP, 1)
            p = (port + i) & 0xFFFF
            page = m.hw.io_bitmap_b if p & 0x8000 else m.hw.io_bitmap_a
            wanted |= lshr(ma_ld8(m, page + ((p & 0x7FFF) >> 3)), p & 7) & 1
    if wanted == 0:
        return ST_OK
    immediate = 1 if u.flags & UF_SRC_IMM else 0
    qualification = io_qualification(port, lg, is_in, is_string, is_rep, immediate)
    cause = C_IO_IN if is_in else C_IO_OUT
    fill_exit(m, vmx.EXIT_IO_INSTRUCTION, qualification, u.len, cause)
    if is_string:
        m.exit.linear = string_address(m, u, RDI if is_in else RSI)
        m.exit.insn_info = string_info(u, is_in)
    return ST_VMEXIT


# ---------------------------------------------------------------- control and debug registers


@inner
def _cr3_is_target(m, value):
    for i in range(4):
        if i < m.hw.cr3_target_count and m.hw.cr3_targets[i] == value:
            return True
    return False


@inner
def _cr_exits(m, cr, write, value):
    h = m.hw
    if cr == 3:
        if write:
            return h.proc & vmx.CPU_CR3_LOAD_EXITING != 0 and not _cr3_is_target(m, value)
        return h.proc & vmx.CPU_CR3_STORE_EXITING != 0
    if cr == 8:
        mask = vmx.CPU_CR8_LOAD_EXITING if write else vmx.CPU_CR8_STORE_EXITING
        return h.proc & mask != 0
    if cr == 0:
        return write != 0 and (value ^ h.cr0_shadow) & h.cr0_mask != 0
    if cr == 4:
        return write != 0 and (value ^ h.cr4_shadow) & h.cr4_mask != 0
    return False


@inner
def _lmsw_exits(m, value):
    """LMSW exits when it would change a bit of CR0 that the host owns; PE is only ever set."""
    changed = (value ^ m.hw.cr0_shadow) & 0xE
    changed |= value & ~m.hw.cr0_shadow & 1
    return changed & m.hw.cr0_mask != 0


@unit(Machine, Uop, i64, i64, i64, i64)
def vmx_cr_exit(m, u, cr, gpr, write, value):
    """MOV to or from control register ``cr``, CLTS, LMSW; ``value`` is what would be written.

    ``gpr`` is the general register of MOV, the 16-bit source operand of LMSW.
    """
    kind = CR_TO if write else CR_FROM
    qualification = (cr & 15) | ((gpr & 15) << 8)
    if u.op == ops.CLTS:
        # exits when the host owns TS and the guest sees it set
        exits = m.hw.cr0_mask & m.hw.cr0_shadow & CR0_TS != 0
        kind = CR_CLTS
        qualification = 0
    elif u.op == ops.LMSW:
        exits = _lmsw_exits(m, value)
        kind = CR_LMSW
        qualification = (gpr & 0xFFFF) << 16
        if has_memory(u):
            qualification |= LMSW_MEMORY
    else:
        exits = _cr_exits(m, cr, write, value)
    if not exits:
        return ST_OK
    fill_exit(m, vmx.EXIT_CR_ACCESS, qualification | (kind << 4), u.len, C_CR_ACCESS)
    if u.op == ops.LMSW and has_memory(u):
        m.exit.linear = effective_address(m, u)
    return ST_VMEXIT


@inner
def merge_owned(real, mask, written):
    """What a register holds after a write that did not exit: the host's bits stay."""
    return (written & ~mask) | (real & mask)


@unit(Machine, i64)
def vmx_read_cr(m, number):
    """What a guest reads from a control register: host-owned bits come from the read shadow."""
    c = m.cpu
    h = m.hw
    if number == 0:
        return (c.cr0 & ~h.cr0_mask) | (h.cr0_shadow & h.cr0_mask)
    if number == 4:
        return (c.cr4 & ~h.cr4_mask) | (h.cr4_shadow & h.cr4_mask)
    if number == 3:
        return c.cr3
    if number == 8:
        return vapic_read_tpr(m) if h.vapic >= 0 else c.cr8
    return c.cr2


@unit(Machine, i64, i64)
def vmx_effective_cr(m, number, value):
    """What CR0 or CR4 really becomes when a guest's write of ``value`` does not exit."""
    if number == 0:
        return merge_owned(m.cpu.cr0, m.hw.cr0_mask, value)
    if number == 4:
        return merge_owned(m.cpu.cr4, m.hw.cr4_mask, value)
    return value


@unit(Machine, Uop, i64, i64, i64)
def vmx_dr_exit(m, u, dr, gpr, write):
    """MOV to or from debug register ``dr``."""
    if m.hw.proc & vmx.CPU_MOV_DR_EXITING == 0:
        return ST_OK
    qualification = (dr & 7) | (0 if write else 1 << 4) | ((gpr & 15) << 8)
    return fill_exit(m, vmx.EXIT_DR_ACCESS, qualification, u.len, C_DR_ACCESS)


# ---------------------------------------------------------------- events


@inner
def _page_fault_exits(m):
    """#PF: the bitmap's bit 14 counts as inverted when the error code does not match (26.2)."""
    wanted = lshr(m.hw.exc_bitmap, 14) & 1
    matches = m.exc.error & m.hw.pf_mask == m.hw.pf_match
    return wanted == (1 if matches else 0)


@inner
def _event_exits(m):
    x = m.exc
    if x.kind == vmx.INTR_TYPE_EXT_INTR:
        return m.hw.pin & vmx.PIN_EXT_INTR != 0
    if x.kind == vmx.INTR_TYPE_NMI:
        return m.hw.pin & vmx.PIN_NMI_EXITING != 0
    if x.kind == vmx.INTR_TYPE_SW_INTR:
        return False
    if x.vector == 14 and x.kind == vmx.INTR_TYPE_HW_EXCEPTION:
        return _page_fault_exits(m)
    return lshr(m.hw.exc_bitmap, x.vector & 31) & 1 != 0


@unit(Machine)
def vmx_exception_exit(m):
    """The event pending in ``m.exc``, unless it was injected by the VM entry."""
    x = m.exc
    if x.injected or not _event_exits(m):
        return ST_OK
    qualification = 0
    cause = C_EXCEPTION
    if x.vector == 14 and x.kind == vmx.INTR_TYPE_HW_EXCEPTION:
        qualification = x.address
        cause = C_PAGE_FAULT
    elif x.vector == DB and x.kind == vmx.INTR_TYPE_HW_EXCEPTION:
        qualification = x.address
    reason = vmx.EXIT_EXCEPTION_NMI
    if x.kind == vmx.INTR_TYPE_EXT_INTR:
        reason = vmx.EXIT_EXTERNAL_INTERRUPT
        cause = C_INTERRUPT
    fill_exit(m, reason, qualification, x.length, cause)
    acknowledged = reason == vmx.EXIT_EXCEPTION_NMI or (
        m.hw.exit_ctl & vmx.EXIT_CTL_ACK_INTR_ON_EXIT != 0
    )
    if acknowledged:
        m.exit.intr_info = (
            (x.vector & 0xFF)
            | ((x.kind & 7) << vmx.INTR_TYPE)
            | ((x.has_error & 1) << vmx.INTR_ERRCODE_VALID)
            | INTR_VALID
        )
        m.exit.intr_error = x.error
    return ST_VMEXIT


@unit(Machine)
def vmx_shutdown_exit(m):
    """Triple fault of a guest."""
    return fill_exit(m, vmx.EXIT_TRIPLE_FAULT, 0, 0, C_SHUTDOWN)
