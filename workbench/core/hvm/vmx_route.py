"""Whose exit is it: L0 keeps an exit of L2, or L1 gets it (Xen, nvmx_n2_vmexit_handler).

One table by exit reason, built from vmx_exit_reasons.csv's column ``xen_L2_exit_goes_to``; where
the answer depends on L1, L0 reads the control in vmcs12, or the bit in L1's own bitmap.
"""

from __future__ import annotations

import numpy as np

from ...arch import vmcs, vmx
from ...arch.table import rows
from ..jit import inner, unit
from ..layout import RCX, Machine
from ..ledger import E_L0_MAP_BYTE_READ, P_ROUTING, count
from ..mmu.physical import ma_ld8
from ..words import lshr
from .p2m import n1p_to_l0m
from .vmcs import READS, WRITES, get_vvmcs, own_base, settle, vvmcs_base
from .vmcs import get as get_slot
from .vmx_apicv import apicv_reflects
from .vmx_common import COMMON_READS, COMMON_WRITES
from .vmx_intercepts import CR0_TS, CR_CLTS, CR_FROM, CR_LMSW, CR_TO, msr_bit

L0, L1, CRASH, BY_CONTROL, EXCEPTION, IO, MSR, CR, DR = range(9)
"""Kinds of answers.  CRASH: Xen ends the domain; the handler does so here too."""

_TEXTS = {
    "L0": L0,
    "L0 (nested_hap may INJECT)": L0,
    "L1": L1,
    'default: domain_crash ("Unhandled nested vmexit")': CRASH,
    "domain_crash (same)": CRASH,
    "domain_crash (same as 33)": CRASH,
    "domain_crash: handler compares the full 32-bit reason with 0x80000000, so 0x80000021 hits "
    "default (dead case label)": CRASH,
    "#PF -> L1 iff host uses HAP; type HW_EXC -> L1 iff vvmcs EXCEPTION_BITMAP bit; NMI / software "
    "exceptions -> L0": EXCEPTION,
    "by L1 uncond-IO / bitmap": IO,
    "by L1 MSR bitmap (no bitmap: L1)": MSR,
    "by L1 CR masks/shadows/targets": CR,
    "by L1 ctrl and not L0-dirty DRs": DR,
    "by L1 ctrl CPU b2": BY_CONTROL,
    "by L1 ctrl CPU b22": BY_CONTROL,
    "by L1 ctrl": BY_CONTROL,
    "by L1 ctrl (else L0 emulates with L2 TSC offset)": BY_CONTROL,
    "by L1 ctrl PAUSE exiting (else L0 handles its PLE)": BY_CONTROL,
    "by L1 ctrl TPR shadow": BY_CONTROL,
    "by L1 ctrl DESC": BY_CONTROL,
    "by L1 ctrl RDTSC (else L0)": BY_CONTROL,
    "by L1 pin ctrl": BY_CONTROL,
}
"""Every text of the column, and what it means."""

PIN, CPU, CPU2 = range(3)
_CONTROLS = {
    "INTERRUPT_WINDOW": (CPU, vmx.CPU_INTR_WINDOW_EXITING),
    "NMI_WINDOW": (CPU, vmx.CPU_NMI_WINDOW_EXITING),
    "HLT": (CPU, vmx.CPU_HLT_EXITING),
    "INVLPG": (CPU, vmx.CPU_INVLPG_EXITING),
    "RDPMC": (CPU, vmx.CPU_RDPMC_EXITING),
    "RDTSC": (CPU, vmx.CPU_RDTSC_EXITING),
    "RDTSCP": (CPU, vmx.CPU_RDTSC_EXITING),
    "MWAIT_INSTRUCTION": (CPU, vmx.CPU_MWAIT_EXITING),
    "MONITOR_TRAP_FLAG": (CPU, vmx.CPU_MONITOR_TRAP_FLAG),
    "MONITOR_INSTRUCTION": (CPU, vmx.CPU_MONITOR_EXITING),
    "PAUSE_INSTRUCTION": (CPU, vmx.CPU_PAUSE_EXITING),
    "TPR_BELOW_THRESHOLD": (CPU, vmx.CPU_TPR_SHADOW),
    "APIC_ACCESS": (CPU2, vmx.CPU2_VIRTUALIZE_APIC_ACCESSES),
    "GDTR_IDTR": (CPU2, vmx.CPU2_DESC),
    "LDTR_TR": (CPU2, vmx.CPU2_DESC),
    "PREEMPTION_TIMER": (PIN, vmx.PIN_VMX_PREEMPTION_TIMER),
}
"""The control of vmcs12 that decides, for the reasons of kind BY_CONTROL."""

N_REASONS = 128


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind, control word and control mask by basic exit reason, shape (128,) each."""
    kind = np.full(N_REASONS, CRASH, np.int64)
    word = np.zeros(N_REASONS, np.int64)
    mask = np.zeros(N_REASONS, np.int64)
    for row in rows("vmx_exit_reasons"):
        reason, text = int(row["value"], 0), row["xen_L2_exit_goes_to"]
        if reason >= N_REASONS:
            continue
        if text not in _TEXTS:
            raise ValueError(f"vmx_exit_reasons.csv, {row['name']}: unknown routing {text!r}")
        kind[reason] = _TEXTS[text]
        if kind[reason] == BY_CONTROL:
            word[reason], mask[reason] = _CONTROLS[row["name"]]
    return kind, word, mask


KIND, CONTROL_WORD, CONTROL_MASK = _tables()


# ---------------------------------------------------------------- controls of vmcs12


@inner
def _cpu(m, v):
    return get_vvmcs(m, v, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL, P_ROUTING)


@inner
def secondary_of(m, v, cpu, phase):
    """vmcs12's secondary controls, 0 while they are not activated."""
    if cpu & vmx.CPU_ACTIVATE_SECONDARY_CONTROLS == 0:
        return 0
    return get_vvmcs(m, v, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL, phase)


@inner
def _control(m, v, which):
    if which == CPU:
        return _cpu(m, v)
    if which == CPU2:
        return secondary_of(m, v, _cpu(m, v), P_ROUTING)
    return get_vvmcs(m, v, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL, P_ROUTING)


# ---------------------------------------------------------------- L1's bitmaps


@inner
def _l1_byte(m, page_n1p, offset):
    """A byte of one of L1's bitmaps; all ones when L1 has no memory there."""
    ma = n1p_to_l0m(m, page_n1p & ~0xFFF)
    count(m, E_L0_MAP_BYTE_READ, 1)
    return ma_ld8(m, ma + offset) if ma >= 0 else 0xFF


@inner
def _by_msr_bitmap(m, v, write):
    if _cpu(m, v) & vmx.CPU_USE_MSR_BITMAPS == 0:
        return 1
    bit = msr_bit(m.cpu.gpr[RCX] & 0xFFFF_FFFF, write)
    if bit < 0:
        return 1
    page = get_vvmcs(m, v, vmcs.SLOT_MSR_BITMAP, P_ROUTING)
    return lshr(_l1_byte(m, page, bit >> 3), bit & 7) & 1


@inner
def _by_io_bitmap(m, v):
    cpu = _cpu(m, v)
    if cpu & vmx.CPU_USE_IO_BITMAPS == 0:
        return 1 if cpu & vmx.CPU_UNCOND_IO_EXITING else 0
    port = lshr(m.exit.info1, 16) & 0xFFFF
    size = (m.exit.info1 & 7) + 1
    if port + size > 0x10000:
        return 1
    wanted = 0
    for p in range(port, port + size):
        if p & 0x8000:
            page = get_vvmcs(m, v, vmcs.SLOT_IO_BITMAP_B, P_ROUTING)
        else:
            page = get_vvmcs(m, v, vmcs.SLOT_IO_BITMAP_A, P_ROUTING)
        wanted |= lshr(_l1_byte(m, page, (p & 0x7FFF) >> 3), p & 7) & 1
    return wanted


# ---------------------------------------------------------------- registers and exceptions


@inner
def _by_exception(m, v):
    info = m.exit.intr_info
    vector = info & 31
    kind = lshr(info, vmx.INTR_TYPE) & 7
    if kind == vmx.INTR_TYPE_HW_EXCEPTION and vector == 14:
        return 1
    if kind != vmx.INTR_TYPE_HW_EXCEPTION:
        return 0
    bitmap = get_vvmcs(m, v, vmcs.SLOT_EXCEPTION_BITMAP, P_ROUTING)
    return lshr(bitmap, vector) & 1


@inner
def _changes_l1_bits(m, v, value, care, mask_slot, shadow_slot):
    mask = get_vvmcs(m, v, mask_slot, P_ROUTING)
    shadow = get_vvmcs(m, v, shadow_slot, P_ROUTING)
    return 1 if (value ^ shadow) & mask & care else 0


@inner
def _by_cr(m, v):
    """Control-register exits: L1's if a bit changes that L1 owns, or by its CR3/CR8 controls."""
    qualification = m.exit.info1
    cr = qualification & 15
    kind = lshr(qualification, 4) & 3
    value = m.cpu.gpr[lshr(qualification, 8) & 15]
    mask0 = vmcs.SLOT_CR0_GUEST_HOST_MASK
    shadow0 = vmcs.SLOT_CR0_READ_SHADOW
    if kind == CR_CLTS:
        return _changes_l1_bits(m, v, 0, CR0_TS, mask0, shadow0)
    if kind == CR_LMSW:
        source = lshr(qualification, 16)
        # LMSW sets PE but never clears it
        return _changes_l1_bits(m, v, source, 0xE | (source & 1), mask0, shadow0)
    if cr == 3:
        wanted = vmx.CPU_CR3_LOAD_EXITING if kind == CR_TO else vmx.CPU_CR3_STORE_EXITING
        return 1 if _cpu(m, v) & wanted else 0
    if cr == 8:
        wanted = vmx.CPU_CR8_LOAD_EXITING if kind == CR_TO else vmx.CPU_CR8_STORE_EXITING
        return 1 if _cpu(m, v) & wanted else 0
    if kind == CR_FROM:
        return 0
    if cr == 4:
        return _changes_l1_bits(
            m, v, value, -1, vmcs.SLOT_CR4_GUEST_HOST_MASK, vmcs.SLOT_CR4_READ_SHADOW
        )
    return _changes_l1_bits(m, v, value, -1, mask0, shadow0)


@inner
def debug_registers_dirty(m):
    """Has L0 given the guest the debug registers?  It then no longer intercepts them for itself."""
    own = get_slot(own_base(m, m.nv.n1_vmcx_ma), vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    return own & vmx.CPU_MOV_DR_EXITING == 0


@inner
def _by_dr(m, v):
    if _cpu(m, v) & vmx.CPU_MOV_DR_EXITING == 0:
        return 0
    return 1 if debug_registers_dirty(m) else 0


# ---------------------------------------------------------------- the decision


@inner
def _decide(m, reason):
    kind = KIND[reason]
    if apicv_reflects(m, reason):
        return 1
    if kind == L0 or kind == CRASH:
        return 0
    if kind == L1:
        return 1
    v = vvmcs_base(m)
    if kind == BY_CONTROL:
        return 1 if _control(m, v, CONTROL_WORD[reason]) & CONTROL_MASK[reason] else 0
    if kind == EXCEPTION:
        return _by_exception(m, v)
    if kind == IO:
        return _by_io_bitmap(m, v)
    if kind == MSR:
        return _by_msr_bitmap(m, v, 1 if reason == vmx.EXIT_MSR_WRITE else 0)
    if kind == CR:
        return _by_cr(m, v)
    return _by_dr(m, v)


@unit(Machine)
def vmx_route(m):
    """For the exit of L2 in ``m.exit``: 0 L0 keeps it, 1 L1 gets it."""
    m.vmcs_work[READS] += COMMON_READS
    m.vmcs_work[WRITES] += COMMON_WRITES
    answer = _decide(m, m.exit.code & (N_REASONS - 1))
    settle(m)
    return answer
