"""Whose exit is it: L0 keeps an exit of L2, or L1 gets it.

One table by exit reason and personality of L0, built from the two columns of vmx_exit_reasons.csv
(Xen, nvmx_n2_vmexit_handler; KVM, nested_vmx_l0_wants_exit and nested_vmx_l1_wants_exit); the rules
in force are in ``m.route``.  Where the answer depends on L1, L0 reads the control in vmcs12, or the
bit in L1's own bitmap; in L0's copy of the MSR bitmap where the layout has one.
"""

from __future__ import annotations

import numpy as np

from ....arch import deviations, vmcs, vmx
from ....arch.table import rows
from ...jit import inner, unit
from ...layout import L0_KVM, L0_MANUAL, L0_XEN, RCX, Machine
from ...ledger import E_L0_MAP_BYTE_READ, P_ROUTING, count
from ...mmu.physical import ma_ld8
from ...words import lshr
from ..memory_map import VMCX01_MA
from ..msr_map_copy import copied_msr_bit, keeps_msr_map_copy
from ..nested_state import is_n2_guest, set_vmswitch_in_progress
from ..p2m import n1p_to_l0m
from .apicv import apicv_reflects
from .check_util import CR3_TARGETS_HARDWARE
from .common import count_common
from .intercepts import CR0_TS, CR_CLTS, CR_FROM, CR_LMSW, CR_TO, msr_bit
from .offer import l1_cr3_targets
from .operands import second_register
from .vmcs import get as get_slot
from .vmcs import get_vvmcs, own_base, settle, vvmcs_base

(
    L0, L1, CRASH, BY_CONTROL, EXCEPTION, IO, MSR, CR, HARDWARE_EXCEPTION, DIRTY_DR, INVPCID,
    SHADOWED,
) = range(12)  # fmt: skip
"""Kinds of answers.  CRASH: Xen ends the domain; the handler does so here too.
HARDWARE_EXCEPTION, DIRTY_DR: what Xen makes of EXCEPTION and BY_CONTROL."""

_TEXTS = {
    "L0": L0,
    "L0 (nested_hap may INJECT)": L0,
    "L0 always": L0,
    "L0 always (MMU may inject nested EPT violation)": L0,
    "L0 always (nested timer emulated by hrtimer)": L0,
    "L0 always = internal error (PML never enabled in vmcs02; L1 PML emulated by software)": L0,
    "L0 (emulates leaf 0 EPTP switching; on failure synthesizes VMFUNC exit to L1)": L0,
    "L0 (never exposed to L1)": L0,
    "L1": L1,
    "L1 always": L1,
    "default: L1": L1,
    "L1 (unless Hyper-V direct TLB flush hypercall -> L0)": L1,
    "L1; if vmcs12 SHADOW_VMCS: by L1 vmread bitmap": SHADOWED,
    "L1; if vmcs12 SHADOW_VMCS: by L1 vmwrite bitmap": SHADOWED,
    "L1 (vmcs12 always intercepts when enabled)": BY_CONTROL,
    'default: domain_crash ("Unhandled nested vmexit")': CRASH,
    "domain_crash (same)": CRASH,
    "domain_crash (same as 33)": CRASH,
    "domain_crash: handler compares the full 32-bit reason with 0x80000000, so 0x80000021 hits "
    "default (dead case label)": CRASH,
    "#PF -> L1 iff host uses HAP; type HW_EXC -> L1 iff vvmcs EXCEPTION_BITMAP bit; NMI / software "
    "exceptions -> L0": HARDWARE_EXCEPTION,
    "L0: NMI; #PF if L0 intercepts or async-PF; #DB/#BP under guest debug; #AC split-lock; #VE. "
    "Else #PF always L1 (hw already applied mask/match), others L1 iff vmcs12 exception_bitmap "
    "bit": EXCEPTION,
    "L1 if uncond (no bitmaps) or bitmap bit(s)": IO,
    "L1 by bitmap (no bitmap: always)": MSR,
    "by CR masks/shadows, CR3/CR8 controls": CR,
    "L1 if INVPCID && INVLPG exiting": INVPCID,
    "by ENCLS bitmap": BY_CONTROL,
    "by L1 uncond-IO / bitmap": IO,
    "by L1 MSR bitmap (no bitmap: L1)": MSR,
    "by L1 CR masks/shadows/targets": CR,
    "by L1 ctrl and not L0-dirty DRs": DIRTY_DR,
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
"""Every text of the columns, and what it means; KVM's ``L1 if CONTROL`` is BY_CONTROL."""

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
    "DR_ACCESS": (CPU, vmx.CPU_MOV_DR_EXITING),
    "WBINVD": (CPU2, vmx.CPU2_WBINVD_EXITING),
    "RDRAND": (CPU2, vmx.CPU2_RDRAND_EXITING),
    "RDSEED": (CPU2, vmx.CPU2_RDSEED_EXITING),
    "ENCLS": (CPU2, vmx.CPU2_ENCLS_EXITING),
    "PML_FULL": (CPU2, vmx.CPU2_ENABLE_PML),
    "XSAVES": (CPU2, vmx.CPU2_ENABLE_XSAVES),
    "XRSTORS": (CPU2, vmx.CPU2_ENABLE_XSAVES),
    "UMWAIT": (CPU2, vmx.CPU2_ENABLE_USR_WAIT_PAUSE),
    "TPAUSE": (CPU2, vmx.CPU2_ENABLE_USR_WAIT_PAUSE),
}
"""The control of vmcs12 that decides, for the reasons of kind BY_CONTROL."""

_KEPT = {"VMFUNC": L1, "PREEMPTION_TIMER": BY_CONTROL, "PML_FULL": BY_CONTROL}
"""Where KVM itself does what the processor would do for L1; the manual gives these to L1.  The
modelled KVM leaves the log to the processor, so L1 gets its exit there too."""
_WHY = {
    "EXCEPTION_NMI": deviations.DEV_SOFTWARE_EXCEPTIONS_KEPT_BY_L0,
    "DR_ACCESS": deviations.DEV_MOV_DR_AFTER_L0,
    "WBINVD": deviations.DEV_WBINVD_KEPT_BY_L0,
}
"""The deviation that explains Xen's rule; a CRASH has one of its own."""

INTR_TYPE_ICEBP, INTR_TYPE_SOFT_EXCEPTION = 5, 6
N_REASONS = 128


def parse_kind(name: str, text: str) -> int:
    """Kind of answer of a text in a ``*_L2_exit_goes_to`` column of vmx_exit_reasons.csv.

    Raises
    ------
    ValueError
        When the text is none of the known rules.
    """
    if text in _TEXTS:
        return _TEXTS[text]
    if text.startswith("L1 if ") and name in _CONTROLS:
        return BY_CONTROL
    raise ValueError(f"vmx_exit_reasons.csv, {name}: unknown routing {text!r}")


def _why_different(name: str, kind: int) -> int:
    if kind == CRASH:
        return deviations.DEV_UNLISTED_REASON_ENDS_DOMAIN
    if name in _WHY:
        return _WHY[name]
    raise ValueError(f"vmx_exit_reasons.csv: no deviation explains what Xen does with {name}")


def _tables() -> tuple[np.ndarray, ...]:
    """Kind by personality and reason, (3 * 128,); by reason, (128,) each: deviation, its kind,
    control word and mask."""
    kinds = np.full((3, N_REASONS), L1, np.int64)
    deviation, instead, word, mask = np.zeros((4, N_REASONS), np.int64)
    deviation[:], instead[:] = deviations.DEV_UNLISTED_REASON_ENDS_DOMAIN, CRASH
    for row in rows("vmx_exit_reasons"):
        reason, name = int(row["value"], 0), row["name"]
        if reason >= N_REASONS:
            continue
        kvm, xen = (parse_kind(name, row[f"{l0}_L2_exit_goes_to"]) for l0 in ("kvm", "xen"))
        manual = _KEPT.get(name, kvm)
        kinds[L0_KVM, reason] = manual if name in _KEPT else kvm
        kinds[L0_XEN, reason] = kinds[L0_MANUAL, reason] = manual
        deviation[reason] = instead[reason] = 0
        if manual == SHADOWED:
            kinds[L0_XEN, reason] = xen  # Xen does not offer L1 the control
        elif xen != manual:
            deviation[reason], instead[reason] = _why_different(name, xen), xen
        if BY_CONTROL in (manual, xen):
            word[reason], mask[reason] = _CONTROLS[name]
    # where an exit by vmcs02's timer may be L0's own, its handler looks whose it is
    deviation[vmx.EXIT_PREEMPTION_TIMER] = deviations.DEV_EVENT_BEHIND_ENTRY
    instead[vmx.EXIT_PREEMPTION_TIMER] = L0
    return kinds.reshape(-1), deviation, instead, word, mask


KIND, KIND_DEVIATION, KIND_DEVIATING, CONTROL_WORD, CONTROL_MASK = _tables()


@unit(Machine)
def vmx_prepare_routes(m):
    """Fill ``m.route`` with the kind of each exit reason, for this L0 and its deviations."""
    first = m.feat.l0 * N_REASONS if L0_XEN <= m.feat.l0 <= L0_MANUAL else 0
    for reason in range(N_REASONS):
        kind = KIND[first + reason]
        if m.feat.deviations & KIND_DEVIATION[reason]:
            kind = KIND_DEVIATING[reason]
        m.route[reason] = kind
    return 0


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
    if keeps_msr_map_copy(m):
        return copied_msr_bit(m, bit)
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
def _by_exception(m, v, hardware_only):
    """Exceptions by L1's bitmap; a #PF comes only when L1 asked for it.  NMIs are L0's."""
    info = m.exit.intr_info
    vector = info & 31
    kind = lshr(info, vmx.INTR_TYPE) & 7
    if kind == vmx.INTR_TYPE_HW_EXCEPTION and vector == 14:
        return 0 if m.sh.active else 1  # L0 decides first whether it is its own shadow's
    if kind != vmx.INTR_TYPE_HW_EXCEPTION and (
        hardware_only or (kind != INTR_TYPE_ICEBP and kind != INTR_TYPE_SOFT_EXCEPTION)
    ):
        return 0
    bitmap = get_vvmcs(m, v, vmcs.SLOT_EXCEPTION_BITMAP, P_ROUTING)
    return lshr(bitmap, vector) & 1


@inner
def _changes_l1_bits(m, v, value, care, mask_slot, shadow_slot):
    mask = get_vvmcs(m, v, mask_slot, P_ROUTING)
    shadow = get_vvmcs(m, v, shadow_slot, P_ROUTING)
    return 1 if (value ^ shadow) & mask & care else 0


@inner
def _is_cr3_target(m, v, value):
    """Is a value that L2 loads into CR3 one of those that vmcs12 lists?"""
    if l1_cr3_targets(m) == 0:
        return False
    n = get_vvmcs(m, v, vmcs.SLOT_CR3_TARGET_COUNT, P_ROUTING)
    for i in range(CR3_TARGETS_HARDWARE):
        if i < n and get_slot(v, vmcs.SLOT_CR3_TARGET_VALUE0 + i) == value:
            return True
    return False


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
        if _cpu(m, v) & wanted == 0 or (kind == CR_TO and _is_cr3_target(m, v, value)):
            return 0
        return 1
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
    own = get_slot(own_base(m, VMCX01_MA), vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    return own & vmx.CPU_MOV_DR_EXITING == 0


@inner
def _by_invpcid(m, v):
    """INVPCID exits when it is enabled and INVLPG exits (SDM 26.1.3)."""
    cpu = _cpu(m, v)
    if secondary_of(m, v, cpu, P_ROUTING) & vmx.CPU2_ENABLE_INVPCID == 0:
        return 0
    return 1 if cpu & vmx.CPU_INVLPG_EXITING else 0


@inner
def _by_vmcs_bitmap(m, v, write):
    """VMREAD and VMWRITE: L1's but where vmcs12 has VMCS shadowing and the field's bit is clear."""
    if secondary_of(m, v, _cpu(m, v), P_ROUTING) & vmx.CPU2_SHADOW_VMCS == 0:
        return 1
    encoding = m.cpu.gpr[second_register(m.exit.insn_info)]
    if lshr(encoding, 15):
        return 1
    if write:
        page = get_vvmcs(m, v, vmcs.SLOT_VMWRITE_BITMAP, P_ROUTING)
    else:
        page = get_vvmcs(m, v, vmcs.SLOT_VMREAD_BITMAP, P_ROUTING)
    return lshr(_l1_byte(m, page, encoding >> 3), encoding & 7) & 1


@inner
def _by_dr(m, v):
    if _cpu(m, v) & vmx.CPU_MOV_DR_EXITING == 0:
        return 0
    return 1 if debug_registers_dirty(m) else 0


# ---------------------------------------------------------------- the decision


@inner
def _decide(m, reason):
    kind = m.route[reason]
    if apicv_reflects(m, reason):
        return 1
    if kind == L0 or kind == CRASH:
        return 0
    if kind == L1:
        return 1
    v = vvmcs_base(m)
    if kind == BY_CONTROL:
        return 1 if _control(m, v, CONTROL_WORD[reason]) & CONTROL_MASK[reason] else 0
    if kind == EXCEPTION or kind == HARDWARE_EXCEPTION:
        return _by_exception(m, v, kind == HARDWARE_EXCEPTION)
    if kind == IO:
        return _by_io_bitmap(m, v)
    if kind == MSR:
        return _by_msr_bitmap(m, v, 1 if reason == vmx.EXIT_MSR_WRITE else 0)
    if kind == CR:
        return _by_cr(m, v)
    if kind == INVPCID:
        return _by_invpcid(m, v)
    if kind == SHADOWED:
        return _by_vmcs_bitmap(m, v, reason == vmx.EXIT_VMWRITE)
    return _by_dr(m, v)


@inner
def ends_domain(m, reason):
    """Is this an exit of L2 for which L0 ends L1's domain?"""
    return is_n2_guest(m) and m.route[reason & (N_REASONS - 1)] == CRASH


@unit(Machine)
def vmx_route(m):
    """For the exit of L2 in ``m.exit``: 0 L0 keeps it, 1 L1 gets it."""
    set_vmswitch_in_progress(m, 0)  # the entry has really happened
    count_common(m)
    answer = _decide(m, m.exit.code & (N_REASONS - 1))
    settle(m)
    return answer
