"""L0's own copy of L1's MSR permission map, in the layouts of the nested state that keep one.

generic-2010 (``nh_cached_msrpm``) and on SVM merged-2011 (``ns_cached_msrpm``) hold a pointer to a
full copy: 8 KB on SVM, 4 KB on VMX.  It is made at every virtual entry, whatever the clean bits of
vmcb12 say (Xen, nsvm_vmrun_permissionmap); L2's map is merged from it, and it tells whose an MSR
access of L2 is.  What changes in L1's own map between the entry and the exit does not count.

minimal-2010 keeps nothing: L1's map is read in place, as it stands at the exit.  So does KVM in any
layout; the pointer then holds the map's address in L1's space.
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import L0_KVM, PAGE, Machine
from ..ledger import E_L0_GUEST_PAGE_MAPPED, E_L0_MAP_BYTE_READ, NS_MSRPM, NS_MSRPM_SIZE, count
from ..mmu.physical import host_of
from ..structs import i64
from ..words import copy_bytes, fill_bytes, ld8, lshr
from .memory_map import L1_MSR_MAP_MA
from .nested_state import BYTES_8, msrpm, set_msrpm, state_keeps, state_read, state_write
from .p2m import n1p_to_l0m


@inner
def keeps_msr_map_copy(m):
    """Does L0 keep a copy of L1's MSR map in this layout?"""
    return m.feat.l0 != L0_KVM and state_keeps(m, NS_MSRPM)


@inner
def reset_msr_map_copy(m, size):
    """Where the copy is, and its ``size`` in bytes (a field of generic-2010 alone)."""
    state_write(m, NS_MSRPM_SIZE, BYTES_8, size)
    if keeps_msr_map_copy(m):
        set_msrpm(m, L1_MSR_MAP_MA)


@unit(Machine, i64, i64)
def copy_msr_map(m, n1p, size):
    """Copy L1's MSR map at ``n1p``, ``size`` bytes (whole pages); what is not there becomes ones."""
    if state_keeps(m, NS_MSRPM_SIZE):
        size = min(size, state_read(m, NS_MSRPM_SIZE, BYTES_8))
    target = m.ram + msrpm(m)
    for offset in range(0, size, PAGE):
        count(m, E_L0_GUEST_PAGE_MAPPED, 1)
        ma = n1p_to_l0m(m, (n1p & ~(PAGE - 1)) + offset)
        host = 0 if ma < 0 else host_of(m, ma)
        if host != 0:
            copy_bytes(target + offset, host, PAGE)
        else:
            fill_bytes(target + offset, PAGE, 0xFF)
    count(m, E_L0_MAP_BYTE_READ, size)
    return 0


@inner
def copied_msr_bit(m, position):
    """Bit ``position`` of the copy."""
    count(m, E_L0_MAP_BYTE_READ, 1)
    return lshr(ld8(m.ram + msrpm(m) + lshr(position, 3)), position & 7) & 1
