"""APIC virtualization by the processor: the virtual-APIC page (SDM vol. 3, chapter 30).

Hardware only.  The page holds the guest's registers; the processor reads and writes it for TPR (MOV to
and from CR8, the TPR shadow), for accesses to the APIC-access page, and for x2APIC MSRs, and with
virtual-interrupt delivery it also ends, accepts and delivers interrupts itself.  A write is virtualized
in two steps: the bytes go to the page at once, what follows from them (:func:`vapic_after_write`) comes
after the instruction and may be a trap-like exit.

Not modelled: posted interrupts, IPI virtualization, EOI as a level-triggered broadcast, accesses to
the APIC-access page by physical address (page walks).
"""

from __future__ import annotations

import numpy as np

from ....arch import vmcs, vmx
from ...cpu.exceptions import KIND_INTERRUPT, raise_gp0
from ...jit import inner, unit
from ...layout import ST_FAULT, ST_OK, Machine
from ...ledger import C_APIC_ACCESS, E_APIC_VIRTUALIZED, count
from ...mmu.physical import host_of, ma_ld32, ma_ld64, ma_st32
from ...structs import i64
from ...words import lshr
from .exits import fill_exit
from .vmcs import get, put

VTPR, VPPR, VEOI, VISR, VIRR, VICR, VICR_HIGH, VSELF_IPI = (
    0x080, 0x0A0, 0x0B0, 0x100, 0x200, 0x300, 0x310, 0x3F0,
)  # fmt: skip
ENTRY = 0
"""In place of an offset: compare VTPR with the threshold after a VM entry (SDM 27.7.7)."""
X2APIC_FIRST, X2APIC_LAST = 0x800, 0x8FF
X2APIC_TPR, X2APIC_EOI, X2APIC_SELF_IPI = 0x808, 0x80B, 0x83F
NOT_VIRTUAL = -1
ICR_SELF_FIXED, ICR_CHECKED = 1 << 18, 0xFFFF_B700
"""A self-IPI of the interrupt command: shorthand self, fixed, edge; all reserved bits zero."""
ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH, ACCESS_DELIVERY = range(4)
"""Access types in the qualification of an APIC-access exit (SDM table 28-6)."""

_WRITABLE = (0x02, 0x08, 0x0B, 0x0D, 0x0E, 0x0F, 0x28, 0x30, 0x31, *range(0x32, 0x38), 0x38, 0x3E)
_READABLE = (*_WRITABLE, 0x03, *range(0x10, 0x28))
READ, WRITE, READ_VID, WRITE_VID, BASE = 1, 2, 4, 8, 16
VIRTUALIZED = np.zeros(256, np.int64)
"""By register (offset / 16): READ, WRITE with APIC-register virtualization; READ_VID, WRITE_VID with
virtual-interrupt delivery; BASE with the TPR shadow alone (SDM 30.4.2, 30.4.3)."""
for _register in _READABLE:
    VIRTUALIZED[_register] |= READ
for _register in _WRITABLE:
    VIRTUALIZED[_register] |= WRITE
for _register in (0x08, 0x0B, 0x30):
    VIRTUALIZED[_register] |= READ_VID | WRITE_VID
VIRTUALIZED[0x08] |= BASE


@inner
def _load(m, offset):
    return ma_ld32(m, m.hw.vapic + offset)


@inner
def _store(m, offset, value):
    ma_st32(m, m.hw.vapic + offset, value)


@inner
def has_vid(m):
    """Virtual-interrupt delivery."""
    return m.hw.proc2 & vmx.CPU2_VIRTUAL_INTR_DELIVERY != 0


# ---------------------------------------------------------------- 256-bit registers in the page


@inner
def _set_bit(m, register, vector):
    at = register + 16 * lshr(vector & 0xFF, 5)
    _store(m, at, _load(m, at) | (1 << (vector & 31)))


@inner
def _clear_bit(m, register, vector):
    at = register + 16 * lshr(vector & 0xFF, 5)
    _store(m, at, _load(m, at) & ~(1 << (vector & 31)))


@inner
def _highest(m, register):
    """Highest vector whose bit is set, 0 when there is none."""
    for i in range(7, -1, -1):
        word = _load(m, register + 16 * i)
        if word:
            bit = 31
            while lshr(word, bit) & 1 == 0:
                bit -= 1
            return 32 * i + bit
    return 0


# ---------------------------------------------------------------- the manual's operations


@inner
def _ppr_virtualization(m):
    """SDM 30.1.3."""
    vtpr = _load(m, VTPR) & 0xFF
    svi = m.hw.svi
    _store(m, VPPR, vtpr if vtpr >> 4 >= svi >> 4 else svi & 0xF0)


@inner
def _evaluate(m):
    """Evaluation of pending virtual interrupts (SDM 30.2.1)."""
    h = m.hw
    h.vint = 0
    if h.proc & vmx.CPU_INTR_WINDOW_EXITING == 0 and h.rvi >> 4 > (_load(m, VPPR) & 0xFF) >> 4:
        h.vint = 1
        m.irq.attention = 1


@inner
def _below_threshold(m):
    if (_load(m, VTPR) >> 4) & 15 < m.hw.tpr_threshold:
        return fill_exit(m, vmx.EXIT_TPR_BELOW_THRESHOLD, 0, 0, C_APIC_ACCESS)
    return ST_OK


@inner
def _tpr_virtualization(m):
    """SDM 30.1.2."""
    if has_vid(m):
        _ppr_virtualization(m)
        _evaluate(m)
        return ST_OK
    return _below_threshold(m)


@inner
def _eoi_virtualization(m):
    """SDM 30.1.4."""
    vector = m.hw.svi
    _clear_bit(m, VISR, vector)
    m.hw.svi = _highest(m, VISR)
    _ppr_virtualization(m)
    if lshr(m.hw.eoi_exit[(vector >> 6) & 3], vector & 63) & 1:
        return fill_exit(m, vmx.EXIT_EOI_INDUCED, vector, 0, C_APIC_ACCESS)
    _evaluate(m)
    return ST_OK


@inner
def _self_ipi_virtualization(m, vector):
    """SDM 30.1.5."""
    _set_bit(m, VIRR, vector)
    if vector > m.hw.rvi:
        m.hw.rvi = vector
    _evaluate(m)
    return ST_OK


@inner
def _write_exit(m, offset):
    return fill_exit(m, vmx.EXIT_APIC_WRITE, offset, 0, C_APIC_ACCESS)


@inner
def _self_ipi(m, offset, command, is_legal):
    if has_vid(m) and is_legal and command & 0xF0:
        return _self_ipi_virtualization(m, command & 0xFF)
    return _write_exit(m, offset)


@unit(Machine)
def vapic_after_write(m):
    """APIC-write emulation after an instruction (SDM 30.4.3.2): ST_OK, or ST_VMEXIT (trap-like)."""
    offset = m.irq.apic_write - 1
    m.irq.apic_write = 0
    if m.hw.vapic < 0:
        return ST_OK
    if offset == ENTRY:
        return _below_threshold(m)
    count(m, E_APIC_VIRTUALIZED, 1)
    if offset == VTPR:
        _store(m, VTPR, _load(m, VTPR) & 0xFF)
        return _tpr_virtualization(m)
    if offset == VEOI and has_vid(m):
        _store(m, VEOI, 0)
        return _eoi_virtualization(m)
    if offset == VICR:
        command = _load(m, VICR)
        return _self_ipi(m, offset, command, command & ICR_CHECKED == ICR_SELF_FIXED)
    if offset == VSELF_IPI:
        return _self_ipi(m, offset, _load(m, VSELF_IPI), True)
    if offset == VICR_HIGH:
        _store(m, VICR_HIGH, _load(m, VICR_HIGH) & 0xFF00_0000)
        return ST_OK
    return _write_exit(m, offset)


@inner
def _written(m, offset):
    """A register in the page was written: the rest follows after the instruction."""
    m.irq.apic_write = 1 + offset
    m.irq.attention = 1


@unit(Machine)
def vapic_deliver(m):
    """Virtual-interrupt delivery (SDM 30.2.2): the vector becomes pending in ``m.exc``."""
    h = m.hw
    vector = h.rvi
    _set_bit(m, VISR, vector)
    h.svi = vector
    _store(m, VPPR, vector & 0xF0)
    _clear_bit(m, VIRR, vector)
    h.rvi = _highest(m, VIRR)
    h.vint = 0
    count(m, E_APIC_VIRTUALIZED, 1)
    x = m.exc
    x.vector = vector
    x.kind = KIND_INTERRUPT
    x.error = 0
    x.has_error = 0
    x.length = 0
    x.injected = 1
    return ST_FAULT


# ---------------------------------------------------------------- CR8 and MSRs


@unit(Machine)
def vapic_read_tpr(m):
    """MOV from CR8 with the TPR shadow (SDM 30.3)."""
    return (_load(m, VTPR) >> 4) & 15


@unit(Machine, i64)
def vapic_write_tpr(m, value):
    """MOV to CR8 with the TPR shadow; ``value`` is 0..15."""
    _store(m, VTPR, (value & 15) << 4)
    _written(m, VTPR)
    return ST_OK


@unit(Machine, i64)
def vapic_rdmsr(m, number):
    """RDMSR in virtual x2APIC mode (SDM 30.5): ST_OK with ``m.result``, or NOT_VIRTUAL."""
    if m.hw.vapic < 0 or not X2APIC_FIRST <= number <= X2APIC_LAST:
        return NOT_VIRTUAL
    if number != X2APIC_TPR and m.hw.proc2 & vmx.CPU2_APIC_REGISTER_VIRT == 0:
        return NOT_VIRTUAL
    m.result = ma_ld64(m, m.hw.vapic + ((number & 0xFF) << 4))
    count(m, E_APIC_VIRTUALIZED, 1)
    return ST_OK


@unit(Machine, i64, i64)
def vapic_wrmsr(m, number, value):
    """WRMSR in virtual x2APIC mode (SDM 30.5): ST_OK, ST_FAULT, or NOT_VIRTUAL."""
    if m.hw.vapic < 0:
        return NOT_VIRTUAL
    by_vid = has_vid(m) and (number == X2APIC_EOI or number == X2APIC_SELF_IPI)
    if number != X2APIC_TPR and not by_vid:
        return NOT_VIRTUAL
    if value & (-1 if number == X2APIC_EOI else ~0xFF):
        return raise_gp0(m)
    offset = (number & 0xFF) << 4
    _store(m, offset, value)
    _store(m, offset + 4, 0)
    _written(m, offset)
    return ST_OK


# ---------------------------------------------------------------- the APIC-access page


@inner
def _is_virtualized(m, offset, size, write):
    """Is an access of ``size`` bytes at ``offset`` served from the virtual-APIC page?"""
    if m.hw.vapic < 0 or (offset & 15) + size > 4:
        return False
    rules = VIRTUALIZED[(offset >> 4) & 0xFF]
    if m.hw.proc2 & vmx.CPU2_APIC_REGISTER_VIRT:
        return rules & (WRITE if write else READ) != 0
    if has_vid(m):
        return rules & (WRITE_VID if write else READ_VID) != 0
    return rules & BASE != 0


@unit(Machine, i64, i64, i64)
def vapic_page_access(m, offset, write, fetch):
    """A linear access to the APIC-access page (SDM 30.4): host address of the bytes that serve it.

    0 with the APIC-access exit in ``m.exit`` and ``m.pending`` when it is not virtualized.
    """
    kind = ACCESS_WRITE if write else ACCESS_READ
    if m.delivering:
        kind = ACCESS_DELIVERY
    elif fetch:
        kind = ACCESS_FETCH
    if kind <= ACCESS_WRITE and _is_virtualized(m, offset, m.access_bytes, write):
        if write:
            _written(m, offset & ~15)
            m.code.epoch += 1  # so that the run loop looks up before the next instruction
        else:
            count(m, E_APIC_VIRTUALIZED, 1)
        return host_of(m, m.hw.vapic + offset)
    m.pending = fill_exit(m, vmx.EXIT_APIC_ACCESS, offset | (kind << 12), 0, C_APIC_ACCESS)
    return 0


# ---------------------------------------------------------------- VM entry and exit


@unit(Machine, i64)
def vapic_load(m, base):
    """VM entry with a TPR shadow: load the state, PPR virtualization, evaluation (SDM 27.3.2.5)."""
    h = m.hw
    m.irq.apic_write = 0
    h.vapic = get(base, vmcs.SLOT_VIRTUAL_APIC_PAGE_ADDR)
    h.tpr_threshold = get(base, vmcs.SLOT_TPR_THRESHOLD) & 15
    if has_vid(m):
        status = get(base, vmcs.SLOT_GUEST_INTR_STATUS)
        h.rvi = status & 0xFF
        h.svi = lshr(status, 8) & 0xFF
        for i in range(4):
            h.eoi_exit[i] = get(base, vmcs.SLOT_EOI_EXIT_BITMAP0 + i)
        _ppr_virtualization(m)
        _evaluate(m)
    elif h.apic_access >= 0:
        _written(m, ENTRY)
    return ST_OK


@inner
def vapic_save(m, base):
    """VM exit: the guest interrupt status (SDM 28.3.4)."""
    m.irq.apic_write = 0
    if has_vid(m):
        put(base, vmcs.SLOT_GUEST_INTR_STATUS, m.hw.rvi | (m.hw.svi << 8))
