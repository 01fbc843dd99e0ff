"""Page walks by the hardware: one-dimensional, or two-dimensional when a nested table is in use.

In a two-dimensional walk every reference to a guest table is itself translated by the nested table
(NPT or EPT), and so is the final address: (g + 1)(n + 1) - 1 references for g guest and n nested
levels (APM vol. 2, 15.25; SDM vol. 3, 29.3).  Two caches shorten it and can be switched off: the
paging-structure caches (linear prefix -> machine address of the next guest table) and the nested
TLB (guest-physical page -> machine page).

Accessed and dirty bits are set in the guest's tables, in NPT, and in EPT when EPTP bit 6 says so;
references to guest tables then count as writes, as always with NPT (SDM vol. 3, 29.3.5).
Not modelled: five levels, protection keys, PDPTE registers, memory types.
"""

from __future__ import annotations

from ...arch import svm, vmx
from ..jit import inner, unit
from ..layout import BACKEND_SVM, ST_FAULT, ST_OK, ST_VMEXIT, Machine
from ..ledger import (
    C_NESTED_PAGE_FAULT,
    E_NESTED_TLB_HIT,
    E_PML_ENTRY_LOGGED,
    E_PSC_HIT,
    E_WALK_REFERENCE_GUEST,
    E_WALK_REFERENCE_NESTED,
    count,
)
from ..structs import i64
from ..words import lshr
from .generation import current_generation
from .lines import walk_reference
from .physical import ma_ld64, ma_st64
from .records import (
    NTLB_ENTRIES,
    PSC_ENTRIES,
    TR_DIRTY,
    TR_EXEC,
    TR_GLOBAL,
    TR_NO_READ,
    TR_USER,
    TR_WRITE,
)

ACC_READ, ACC_WRITE, ACC_EXEC, ACC_SYSTEM = 0, 1, 2, 4
"""Kind of access; ACC_SYSTEM is added for implicit supervisor accesses."""

PTE_P, PTE_W, PTE_U, PTE_A, PTE_D, PTE_PS, PTE_G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
PTE_NX = -(1 << 63)
ADDRESS_MASK = 0x000F_FFFF_FFFF_F000
ADDRESS_BITS = 40
"""Physical address width that CPUID reports; higher address bits in an entry are reserved."""
RESERVED_MASK = ADDRESS_MASK & ~((1 << ADDRESS_BITS) - 1)

EPT_R, EPT_W, EPT_X = 1, 2, 4
EPT_A, EPT_D = 1 << 8, 1 << 9
PML_ENTRIES = 512
EPT_RESERVED_TYPES = 1 << 2 | 1 << 3 | 1 << 7
"""Bit k set: memory type k of a leaf (its bits 5:3) is reserved."""

CR0_WP, CR0_PG = 1 << 16, 1 << 31
CR4_PGE, CR4_PCIDE, CR4_SMEP, CR4_SMAP = 1 << 7, 1 << 17, 1 << 20, 1 << 21
EFER_NXE = 1 << 11


# ---------------------------------------------------------------- the nested dimension


@inner
def _forget_nested(m, gpa):
    """A violation drops the cached translation of its address (SDM vol. 3, 29.4.3.1)."""
    for i in range(NTLB_ENTRIES):
        e = m.tlb.ntlb[i]
        if e.shift > 0 and e.tag == m.hw.tag and e.key == lshr(gpa, e.shift):
            e.shift = 0


@inner
def _nested_fault(m, gpa, va, access, is_table, rights, reserved):
    """Fill ``m.exit`` with the nested page fault / EPT violation; returns -1.

    ``rights``: RWX the nested table grants, -1 when an entry is not present.
    """
    _forget_nested(m, gpa)
    e = m.exit
    write = access & 1
    fetch = lshr(access, 1) & 1
    if m.hw.backend == BACKEND_SVM:
        e.code = svm.VMEXIT_NPF
        e.info1 = (1 if rights >= 0 else 0) | (write << 1) | 4 | (reserved << 3) | (fetch << 4)
        e.info1 |= (1 << 33) if is_table else (1 << 32)
        e.info2 = gpa
    elif reserved:
        e.code = vmx.EXIT_EPT_MISCONFIG
        e.info1 = 0
        e.info2 = gpa
    else:
        e.code = vmx.EXIT_EPT_VIOLATION
        granted = rights if rights >= 0 else 0
        read = 1 if (write == 0 and fetch == 0) or (is_table and m.hw.ept_ad) else 0
        e.info1 = read | (write << 1) | (fetch << 2) | (granted << 3)
        e.info1 |= (1 << 7) | (0 if is_table else 1 << 8)
        e.info2 = gpa
    e.linear = va
    e.intr_info = 0
    e.insn_len = 0
    e.insn_info = 0
    e.uop = -1
    e.cause = C_NESTED_PAGE_FAULT
    m.pending = ST_VMEXIT
    return -1


@inner
def nested_entry_rights(m, entry):
    """RWX that one nested entry grants, -1 when not present."""
    if m.hw.backend == BACKEND_SVM:
        if entry & PTE_P == 0:
            return -1
        if entry & PTE_U == 0:  # nested accesses are user accesses
            return 0
        return 1 | (entry & PTE_W) | (0 if entry & PTE_NX else 4)
    return entry & 7 if entry & 7 else -1


@inner
def marks_nested(m):
    """Does the hardware set accessed and dirty bits in the nested table?"""
    return m.hw.backend == BACKEND_SVM or m.hw.ept_ad != 0


@inner
def with_marks(m, entry, dirty):
    """A nested entry with its accessed bit set, and its dirty bit."""
    if m.hw.backend == BACKEND_SVM:
        return entry | PTE_A | (PTE_D if dirty else 0)
    return entry | EPT_A | (EPT_D if dirty else 0)


@inner
def _log_write(m, gpa):
    """Page-modification log (SDM vol. 3, 29.3.6): note the page; False when the log is full."""
    h = m.hw
    if h.pml_index >= PML_ENTRIES:
        return False
    ma_st64(m, h.pml_address + 8 * h.pml_index, gpa & ~0xFFF)
    h.pml_index = (h.pml_index - 1) & 0xFFFF
    count(m, E_PML_ENTRY_LOGGED, 1)
    return True


@inner
def _log_full(m, va):
    """Exit because the page-modification log is full; returns -1."""
    e = m.exit
    e.code = vmx.EXIT_PML_FULL
    e.info1 = 0
    e.info2 = 0
    e.linear = va
    e.intr_info = 0
    e.insn_len = 0
    e.insn_info = 0
    e.uop = -1
    e.cause = C_NESTED_PAGE_FAULT
    m.pending = ST_VMEXIT
    return -1


@inner
def nested_reserved(m, entry, shift, leaf):
    """Is a present nested entry malformed? NPT as other tables (APM vol. 2, 5.3); EPT as SDM vol. 3,
    29.3.3.1: write without read, reserved bits, reserved memory type.
    """
    if entry & RESERVED_MASK:
        return 1
    low = entry & ((1 << shift) - 1) & ADDRESS_MASK if leaf else 0
    if m.hw.backend == BACKEND_SVM:
        return 1 if low & ~0x1000 or (shift == 39 and entry & PTE_PS) else 0
    if low or entry & 3 == EPT_W:
        return 1
    if not leaf:
        return 1 if entry & 0xF8 else 0
    return lshr(EPT_RESERVED_TYPES, lshr(entry, 3) & 7) & 1


@inner
def nested_wanted(access):
    """RWX that an access needs of a nested table: a fetch needs no right to read (EPT)."""
    if access & 2:
        return EPT_X
    return EPT_R | EPT_W if access & 1 else EPT_R


@unit(Machine, i64, i64, i64, i64)
def nested_walk(m, gpa, va, access, is_table):
    """Translate a guest-physical address by the nested table in use.

    Returns the machine address, or -1 with the fault in ``m.exit`` and ``m.pending``.  The size of
    the page goes to ``m.walk.shift``, RWX to ``m.walk.rights``.
    """
    w = m.walk
    wanted = nested_wanted(access)
    if m.feat.paging_structure_caches:
        for i in range(NTLB_ENTRIES):
            e = m.tlb.ntlb[i]
            if (
                e.generation == m.tlb.ntlb_generation
                and e.shift > 0
                and e.tag == m.hw.tag
                and e.key == lshr(gpa, e.shift)
                and e.rights & wanted == wanted
            ):
                count(m, E_NESTED_TLB_HIT, 1)
                w.shift = e.shift
                w.rights = e.rights
                return e.value | (gpa & ((1 << e.shift) - 1))
    marks = marks_nested(m)
    table = m.hw.hap_root & ADDRESS_MASK
    rights = 7
    shift = 39
    references = 0
    if lshr(gpa, 48):
        return _nested_fault(m, gpa, va, access, is_table, -1, 0)
    while True:
        address = table + (lshr(gpa, shift) & 511) * 8
        entry = ma_ld64(m, address)
        walk_reference(m, address)
        references += 1
        granted = nested_entry_rights(m, entry)
        leaf = shift == 12 or (shift < 39 and entry & PTE_PS != 0)
        if granted < 0:
            rights = -1
            break
        if nested_reserved(m, entry, shift, leaf):
            count(m, E_WALK_REFERENCE_NESTED, references)
            w.references += references
            w.nested_references += references
            return _nested_fault(m, gpa, va, access, is_table, rights, 1)
        rights &= granted
        if rights & wanted != wanted and leaf:
            break
        if marks and rights & wanted == wanted:
            marked = with_marks(m, entry, leaf and access & 1)
            if marked != entry:
                if m.hw.pml and marked & ~entry & EPT_D and not _log_write(m, gpa):
                    return _log_full(m, va)
                ma_st64(m, address, marked)
        if leaf:
            break
        table = entry & ADDRESS_MASK
        shift -= 9
    count(m, E_WALK_REFERENCE_NESTED, references)
    w.references += references
    w.nested_references += references
    if rights < 0 or rights & wanted != wanted:
        return _nested_fault(m, gpa, va, access, is_table, rights, 0)
    mask = (1 << shift) - 1
    frame = entry & ADDRESS_MASK & ~mask
    w.shift = shift
    w.rights = rights
    if m.feat.paging_structure_caches:
        n = m.tlb.ntlb_next
        m.tlb.ntlb_next = (n + 1) & (NTLB_ENTRIES - 1)
        e = m.tlb.ntlb[n]
        e.key = lshr(gpa, shift)
        e.value = frame
        e.generation = m.tlb.ntlb_generation
        e.tag = m.hw.tag
        e.rights = rights & ~2 if marks and access & 1 == 0 else rights  # dirty bit not set yet
        e.shift = shift
    return frame | (gpa & mask)


@inner
def _guest_to_machine(m, gpa, va, access, is_table):
    """Guest-physical to machine address for the running guest (identity without a nested table)."""
    if m.hw.hap_root == 0:
        m.walk.shift = 30
        m.walk.rights = 7
        return gpa
    return nested_walk(m, gpa, va, access, is_table)


# ---------------------------------------------------------------- paging-structure caches


@inner
def _psc_key(m, va, shift):
    return lshr(va & 0xFFFF_FFFF_FFFF, shift) | ((m.cpu.cr3 & 0xFFF) << 48)


@inner
def _psc_find(m, va):
    """Longest cached prefix: sets walk.frame to the next table's ma; returns its shift or 48."""
    t = m.tlb
    generation = current_generation(m, m.hw.tag, 0) + t.psc_generation
    for level in range(3):
        shift = 21 + 9 * level
        key = _psc_key(m, va, shift)
        for i in range(PSC_ENTRIES):
            e = t.psc[level, i]
            if e.key == key and e.generation == generation and e.shift and e.tag == m.hw.tag:
                count(m, E_PSC_HIT, 1)
                m.walk.frame = e.value
                m.walk.rights = e.rights
                return shift
    return 48


@inner
def _psc_fill(m, va, shift, table_ma, rights):
    t = m.tlb
    level = (shift - 21) // 9
    n = t.psc_next[level]
    t.psc_next[level] = (n + 1) & (PSC_ENTRIES - 1)
    e = t.psc[level, n]
    e.key = _psc_key(m, va, shift)
    e.value = table_ma
    e.rights = rights
    e.generation = current_generation(m, m.hw.tag, 0) + t.psc_generation
    e.tag = m.hw.tag
    e.shift = shift


# ---------------------------------------------------------------- the guest dimension


@inner
def fill_page_fault(m, va, access, present, user, reserved):
    """Make #PF pending in ``m.exc`` and ``m.pending``; returns ST_FAULT."""
    x = m.exc
    x.vector = 14
    x.error = present | ((access & 1) << 1) | (user << 2) | (reserved << 3)
    if access & ACC_EXEC and (m.cpu.efer & EFER_NXE or m.cpu.cr4 & CR4_SMEP):
        x.error |= 16
    x.has_error = 1
    x.kind = 3
    x.length = 0
    x.address = va
    m.pending = ST_FAULT
    return ST_FAULT


@inner
def _page_fault(m, va, access, present, user, reserved):
    """#PF by the walk; it empties the paging-structure caches (SDM vol. 3, 4.10.4.1: for ``va``)."""
    m.tlb.psc_generation += 1
    return fill_page_fault(m, va, access, present, user, reserved)


@inner
def allowed(m, rights, access, user):
    """Does a translation with TR_* ``rights`` allow the access?"""
    cpu = m.cpu
    if access & ACC_EXEC:
        if rights & TR_EXEC == 0:
            return False
        if user:
            return rights & TR_USER != 0
        return not (cpu.cr4 & CR4_SMEP and rights & TR_USER)
    if user:
        return rights & TR_USER != 0 and (access & ACC_WRITE == 0 or rights & TR_WRITE != 0)
    if cpu.cr4 & CR4_SMAP and rights & TR_USER:
        if access & ACC_SYSTEM or cpu.sysflags & (1 << 18) == 0:
            return False
    return access & ACC_WRITE == 0 or rights & TR_WRITE != 0 or cpu.cr0 & CR0_WP == 0


@inner
def _unpaged(m, va, access):
    """Translation with CR0.PG clear: the linear address is the guest-physical one."""
    w = m.walk
    ma = _guest_to_machine(m, va, va, access & 3, 0)
    if ma < 0:
        return m.pending
    w.shift = 12
    w.frame = ma & ~0xFFF
    w.rights = TR_USER | TR_WRITE | TR_DIRTY | TR_EXEC
    return ST_OK


@unit(Machine, i64, i64)
def walk(m, va, access):
    """Walk the tables for ``va``; result in ``m.walk``, or a fault in ``m.exc`` / ``m.exit``."""
    w = m.walk
    cpu = m.cpu
    w.references = 0
    w.nested_references = 0
    for level in range(4):
        w.found[level] = 0
    if cpu.cr0 & CR0_PG == 0:
        return _unpaged(m, va, access)
    user = 1 if cpu.cpl == 3 and access & ACC_SYSTEM == 0 else 0
    rights = TR_WRITE | TR_USER | TR_EXEC
    # NPT treats references to guest tables as writes, and so does EPT with accessed and dirty bits;
    # without them they are reads unless a bit must be set
    table_access = ACC_WRITE if marks_nested(m) else ACC_READ
    table_rights = 7
    gpa_of_table = cpu.cr3 & ADDRESS_MASK
    # 1. where to start: CR3, or the longest cached prefix
    shift = 48
    if m.feat.paging_structure_caches:
        shift = _psc_find(m, va)
    known = shift < 48
    table = w.frame
    if known:
        rights = w.rights
    # 2. level by level
    nx_allowed = cpu.efer & EFER_NXE
    while True:
        shift -= 9
        offset = (lshr(va, shift) & 511) * 8
        if known:
            address = table + offset
            known = False
        else:
            address = _guest_to_machine(m, gpa_of_table + offset, va, table_access, 1)
            if address < 0:
                return m.pending
            table_rights = w.rights
            if shift < 39 and m.feat.paging_structure_caches and table_rights & 2:
                _psc_fill(m, va, shift + 9, address - offset, rights)
        entry = ma_ld64(m, address)
        walk_reference(m, address)
        count(m, E_WALK_REFERENCE_GUEST, 1)
        w.references += 1
        if entry & PTE_P == 0:
            return _page_fault(m, va, access, 0, user, 0)
        leaf = shift == 12 or (shift < 39 and entry & PTE_PS != 0)
        reserved = entry & RESERVED_MASK
        if shift == 39:
            reserved |= entry & PTE_PS
        if leaf and shift > 12:
            reserved |= entry & ((1 << shift) - 1) & ADDRESS_MASK & ~0x1000
        if reserved or (entry & PTE_NX and nx_allowed == 0):
            return _page_fault(m, va, access, 1, user, 1)
        if entry & PTE_W == 0:
            rights &= ~TR_WRITE
        if entry & PTE_U == 0:
            rights &= ~TR_USER
        if entry & PTE_NX:
            rights &= ~TR_EXEC
        if leaf:
            break
        if entry & PTE_A == 0:
            if table_rights & 2 == 0:
                _nested_fault(m, gpa_of_table + offset, va, ACC_WRITE, 1, table_rights, 0)
                return m.pending
            ma_st64(m, address, entry | PTE_A)
        gpa_of_table = entry & ADDRESS_MASK
    # 3. permission, then accessed and dirty bits
    if not allowed(m, rights, access, user):
        return _page_fault(m, va, access, 1, user, 0)
    mask = (1 << shift) - 1
    gpa = (entry & ADDRESS_MASK & ~mask) | (va & mask)
    # 4. the final address through the nested table
    ma = _guest_to_machine(m, gpa, va, access & 3, 0)
    if ma < 0:
        return m.pending
    marked = entry | PTE_A | (PTE_D if access & ACC_WRITE else 0)
    if marked != entry:
        if table_rights & 2 == 0:
            _nested_fault(m, gpa_of_table + offset, va, ACC_WRITE, 1, table_rights, 0)
            return m.pending
        ma_st64(m, address, marked)
    if entry & PTE_G and cpu.cr4 & CR4_PGE:
        rights |= TR_GLOBAL
    if marked & PTE_D and (access & ACC_WRITE or _nested_writable(m)):
        rights |= TR_DIRTY
    if m.hw.hap_root != 0:
        if w.rights & 4 == 0:
            rights &= ~TR_EXEC
        if w.rights & 1 == 0:
            rights |= TR_NO_READ
        if w.shift < shift:
            shift = w.shift
    w.frame = ma & ~((1 << shift) - 1)
    w.shift = shift
    w.rights = rights
    return ST_OK


@inner
def _nested_writable(m):
    """May a dirty translation made by a read be written without another walk?"""
    return m.hw.hap_root == 0 or (m.walk.rights & 2 != 0 and not marks_nested(m))
