"""L0 reads the guest's instruction itself, where the processor does not say enough about it.

Without next-RIP save L0 must know the length of what it emulates; without decode assists, and for
CLTS, LMSW and SMSW always, also the operands.  It then walks the guest's page tables in software
(each table is a page of the guest's to map) and reads up to 15 bytes.  L2's addresses go through
the nested p2m.  Model: Xen, svm_get_insn_len and the instruction emulator's fetch.

Only what L0 emulates is understood: CPUID, MSR and I/O instructions, HLT, PAUSE, INVD, WBINVD, INT
n, INT1, the SVM instructions, control registers, INVLPG.  64-bit code, no code-segment base.
"""

from __future__ import annotations

from ....arch import svm, vmcb
from ...jit import inner, unit
from ...layout import FS, GS, PAGE, Machine
from ...ledger import (
    E_L0_BYTE_COPIED,
    E_L0_GUEST_PAGE_MAPPED,
    E_L0_NESTED_WALK_REFERENCE,
    count,
)
from ...mmu.physical import host_of, ma_ld64
from ...mmu.walk import ADDRESS_MASK, PTE_P, PTE_PS
from ...structs import i64
from ...words import address as address_of
from ...words import copy_bytes, ld64, lshr
from ..nested_state import is_n2_guest
from ..p2m import n1p_to_l0m
from .current import current_vmcb, read_gpr

MAX_BYTES = 15
CLTS, INVD, WBINVD, GROUP_7, MOV_FROM_CR, MOV_TO_CR = (
    0x0F06, 0x0F08, 0x0F09, 0x0F01, 0x0F20, 0x0F22,
)  # fmt: skip
"""Opcodes as ``m.insn.opcode`` has them: 0x0Fxx for two-byte ones."""
SMSW, LMSW, INVLPG = 4, 6, 7
"""Members of group 7 by ModRM.reg."""


# ---------------------------------------------------------------- fetching


@inner
def _n2p_to_l0m(m, gpa):
    table = m.hw.hap_root & ADDRESS_MASK
    shift = 39
    while True:
        entry = ma_ld64(m, table + (lshr(gpa, shift) & 511) * 8)
        count(m, E_L0_NESTED_WALK_REFERENCE, 1)
        if entry & PTE_P == 0:
            return -1
        if shift == 12 or (shift < 39 and entry & PTE_PS):
            mask = (1 << shift) - 1
            return (entry & ADDRESS_MASK & ~mask) | (gpa & mask)
        table = entry & ADDRESS_MASK
        shift -= 9


@inner
def _map(m, gpa):
    """Machine address of a guest-physical address, -1 without memory there."""
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    if lshr(gpa, 48):
        return -1
    if is_n2_guest(m) and m.hw.hap_root:
        return _n2p_to_l0m(m, gpa)
    return n1p_to_l0m(m, gpa)


@unit(Machine, i64)
def l0_walk_guest(m, va):
    """Machine address of the guest's linear address ``va`` by its own tables, -1 when not mapped."""
    table = ld64(current_vmcb(m) + vmcb.CR3) & ADDRESS_MASK
    shift = 39
    while True:
        ma = _map(m, table + (lshr(va, shift) & 511) * 8)
        if ma < 0:
            return -1
        entry = ma_ld64(m, ma)
        if entry & PTE_P == 0:
            return -1
        if shift == 12 or (shift < 39 and entry & PTE_PS):
            mask = (1 << shift) - 1
            return _map(m, (entry & ADDRESS_MASK & ~mask) | (va & mask))
        table = entry & ADDRESS_MASK
        shift -= 9


@inner
def _copy_code(m, va, at, length):
    """Copy ``length`` bytes of one page of guest code; 0 when they cannot be read."""
    ma = l0_walk_guest(m, va)
    host = 0 if ma < 0 else host_of(m, ma)
    if host == 0:
        return 0
    copy_bytes(address_of(m.insn.bytes) + at, host, length)
    count(m, E_L0_BYTE_COPIED, length)
    return length


@unit(Machine)
def l0_fetch(m):
    """Read the instruction at the guest's RIP into ``m.insn.bytes``; returns how many bytes."""
    rip = ld64(current_vmcb(m) + vmcb.RIP)
    for i in range(MAX_BYTES + 1):
        m.insn.bytes[i] = 0
    left = PAGE - (rip & (PAGE - 1))
    if left >= MAX_BYTES:
        return _copy_code(m, rip, 0, MAX_BYTES)
    if _copy_code(m, rip, 0, left) == 0:
        return 0
    return left + _copy_code(m, rip + left, left, MAX_BYTES - left)


# ---------------------------------------------------------------- decoding


@inner
def _byte(m, at):
    return m.insn.bytes[at & 15]


@inner
def _signed(m, at, length):
    """A displacement of 1 or 4 bytes."""
    if length == 1:
        return (_byte(m, at) << 56) >> 56
    value = 0
    for i in range(4):
        value |= _byte(m, at + i) << (8 * i)
    return (value << 32) >> 32


@unit(Machine, i64)
def _memory_operand(m, at):
    """ModRM at byte ``at`` names memory: its linear address; returns the bytes of ModRM and on."""
    h = current_vmcb(m)
    x = m.insn
    mod = lshr(_byte(m, at), 6)
    base = _byte(m, at) & 7
    start = at
    at += 1
    va = 0
    if base == 4:  # SIB
        sib = _byte(m, at)
        at += 1
        index = (lshr(sib, 3) & 7) | (8 if x.rex & 2 else 0)
        if index != 4:
            va = read_gpr(m, h, index) << lshr(sib, 6)
        base = sib & 7
        if base != 5 or mod != 0:
            va += read_gpr(m, h, base | (8 if x.rex & 1 else 0))
    elif base != 5 or mod != 0:
        va = read_gpr(m, h, base | (8 if x.rex & 1 else 0))
    length = 0
    if mod == 1:
        length = 1
    elif mod == 2 or base == 5:
        length = 4
    if length:
        va += _signed(m, at, length)
    at += length
    if mod == 0 and _byte(m, start) & 7 == 5:  # relative to the next instruction
        va += ld64(h + vmcb.RIP) + at
    x.address = va
    return at - start


@inner
def _prefixes(m):
    """Skip prefixes; returns the place of the opcode. Sets segment, operand size and REX."""
    x = m.insn
    x.rex = 0
    x.lg = 2
    x.segment_base = 0
    at = 0
    while at < MAX_BYTES:
        b = _byte(m, at)
        if b == 0x64:
            x.segment_base = m.cpu.seg_base[FS]
        elif b == 0x65:
            x.segment_base = m.cpu.seg_base[GS]
        elif b == 0x66:
            x.lg = 1
        elif b != 0x67 and b != 0xF0 and b != 0xF2 and b != 0xF3 and b & 0xE7 != 0x26:
            break
        at += 1
    if _byte(m, at) & 0xF0 == 0x40:
        x.rex = _byte(m, at) & 0xF
        if x.rex & 8:
            x.lg = 3
        at += 1
    return at


@inner
def _has_immediate(opcode):
    """IN, OUT with a port number; INT n."""
    return opcode == 0xCD or opcode & ~3 == 0xE4


@unit(Machine)
def l0_decode(m):
    """Fetch and decode the guest's instruction into ``m.insn``; returns its length, 0 if unreadable.

    ``opcode``, ModRM.reg as ``reg``, ModRM.rm as ``rm`` (a register) or ``is_memory`` with
    ``address``, operand size ``lg``.
    """
    x = m.insn
    if l0_fetch(m) == 0:
        return 0
    at = _prefixes(m)
    x.opcode = _byte(m, at)
    at += 1
    if x.opcode == 0x0F:
        x.opcode = 0x0F00 | _byte(m, at)
        at += 1
    x.is_memory = 0
    if x.opcode == GROUP_7 or (x.opcode & ~3) == MOV_FROM_CR:
        modrm = _byte(m, at)
        x.reg = (lshr(modrm, 3) & 7) | (8 if x.rex & 4 else 0)
        x.rm = (modrm & 7) | (8 if x.rex & 1 else 0)
        if x.opcode == GROUP_7 and modrm < 0xC0:
            x.is_memory = 1
            at += _memory_operand(m, at)
            x.address += x.segment_base
        else:
            at += 1
    elif _has_immediate(x.opcode):
        at += 1
    return at if at <= MAX_BYTES else 0


@unit(Machine, i64)
def svm_next_rip(m, h):
    """RIP behind the instruction that exited; its own RIP when L0 cannot read it."""
    if m.feat.nrip_save:
        return ld64(h + vmcb.NEXT_RIP)
    if ld64(h + vmcb.EXIT_CODE) == svm.VMEXIT_IOIO:
        return ld64(h + vmcb.EXIT_INFO_2)
    return ld64(h + vmcb.RIP) + l0_decode(m)
