"""SVM's permission maps in simulated RAM: layout, look-ups, and the maps that L0 builds.

MSRPM: 2 bits per MSR (even bit read, odd bit write), three ranges of 8192 MSRs, 8 KB; any other MSR
always exits.  IOPM: one bit per port, 12 KB so that an access at port 0xffff can be looked
up like any other.  Sources: APM vol. 2, 15.10 and 15.11; svm_permission_maps.csv.

L0's own maps have the MSRs of svm_msr_passthrough.csv open, and under Xen ports 0x80 and 0xed.  L2
runs with the OR of L0's and L1's MSRPM (``msr_map``).  Xen ORs all 8 KB at every VMRUN, from its
copy of L1's map where the layout has one (hvm/msr_map_copy.py); KVM, if L1 has a map at all, the 4-byte words that have an MSR it may ever pass through.  L2's I/O map
(``io_map``) under Xen is one of four prebuilt ones, chosen by what L1 does with the two open ports;
KVM has L2 exit for every port.
"""

from __future__ import annotations

import numpy as np

from ....arch import svm
from ...jit import inner, unit
from ...layout import IO_MAP_INTERCEPT_ALL, IO_MAP_MERGED, L0_KVM, MSR_MAP_MERGED, PAGE, Machine
from ...ledger import E_L0_GUEST_PAGE_MAPPED, E_L0_MAP_BYTE_MERGED, E_L0_MAP_BYTE_READ, count
from ...mmu.physical import host_of
from ...structs import i64
from ...words import fill_bytes, ld8, ld64, lshr, st64
from ..memory_map import L0_IOPM_MA, L0_MSRPM_MA, L2_MSRPM_MA, SVM_IOPM_SET_MA
from ..msr_map_copy import keeps_msr_map_copy
from ..nested_state import icpt, iopm, merged_msrpm, msrpm
from ..p2m import n1p_to_l0m
from .tables import KVM_PASSED_THROUGH_MSRS, KVM_POSSIBLE_MSRS, PASSED_THROUGH_MSRS

MSRPM_BYTES = 0x2000
IOPM_BYTES = 0x3000
MSRS_PER_RANGE = 0x2000
RANGE1, RANGE2 = 0xC0000000, 0xC0010000
"""First MSR of the second and third range; the first range starts at 0."""
OUT_OF_RANGE = -1
MSR_PROT_BIT = 1 << (svm.INTERCEPT_MSR_PROT & 31)
PORT_A, PORT_B = 0x80, 0xED
"""Ports that L0 lets a guest use directly: the I/O delay ports."""


# ---------------------------------------------------------------- layout


@inner
def msrpm_position(number):
    """Bit position of an MSR's read bit in the map, OUT_OF_RANGE when it has none."""
    n = number & 0xFFFFFFFF
    if n < MSRS_PER_RANGE:
        return n * 2
    if n >= RANGE1 and n < RANGE1 + MSRS_PER_RANGE:
        return 0x800 * 8 + (n - RANGE1) * 2
    if n >= RANGE2 and n < RANGE2 + MSRS_PER_RANGE:
        return 0x1000 * 8 + (n - RANGE2) * 2
    return OUT_OF_RANGE


def _position(number: int) -> int:
    for k, first in enumerate((0, RANGE1, RANGE2)):
        if first <= number < first + MSRS_PER_RANGE:
            return k * 0x800 * 8 + (number - first) * 2
    raise ValueError(f"MSR {number:#x} has no place in the MSRPM")


_OPEN: dict[int, int] = {}
for _number in PASSED_THROUGH_MSRS:
    _bit = _position(int(_number))
    _OPEN[_bit >> 6] = _OPEN.get(_bit >> 6, 0) | 3 << (_bit & 63)

N_OPEN_WORDS = len(_OPEN)
OPEN_OFFSETS = np.array([word * 8 for word in sorted(_OPEN)], np.int64)
"""Byte offsets of the 64-bit words of L0's MSRPM that are not all ones."""
OPEN_WORDS = np.array([~_OPEN[word] for word in sorted(_OPEN)], np.int64)
"""Those words, under Xen."""
_KVM_OPEN = dict.fromkeys(_OPEN, 0)
for _number in KVM_PASSED_THROUGH_MSRS:
    _bit = _position(int(_number))
    _KVM_OPEN[_bit >> 6] |= 3 << (_bit & 63)
KVM_OPEN_WORDS = np.array([~_KVM_OPEN[word] for word in sorted(_OPEN)], np.int64)
"""The same words under KVM, which opens fewer MSRs."""
KVM_MERGED_WORDS = len({_position(int(_number)) >> 5 for _number in KVM_POSSIBLE_MSRS})
"""4-byte words of the MSRPM that KVM ORs."""


# ---------------------------------------------------------------- L0's own maps


@inner
def _open_port(map_host, port):
    address = map_host + lshr(port, 6) * 8
    st64(address, ld64(address) & ~(1 << (port & 63)))


@unit(Machine)
def svm_build_maps(m):
    """Write L0's MSRPM and IOPM, and the four I/O maps for L2, into RAM."""
    fill_bytes(m.ram + L0_MSRPM_MA, MSRPM_BYTES, 0xFF)
    fill_bytes(m.ram + L2_MSRPM_MA, MSRPM_BYTES, 0xFF)
    for i in range(N_OPEN_WORDS):
        word = KVM_OPEN_WORDS[i] if m.feat.l0 == L0_KVM else OPEN_WORDS[i]
        st64(m.ram + L0_MSRPM_MA + OPEN_OFFSETS[i], word)
    fill_bytes(m.ram + L0_IOPM_MA, IOPM_BYTES, 0xFF)
    if m.feat.l0 != L0_KVM:
        _open_port(m.ram + L0_IOPM_MA, PORT_A)
        _open_port(m.ram + L0_IOPM_MA, PORT_B)
    for i in range(4):
        host = m.ram + SVM_IOPM_SET_MA + i * IOPM_BYTES
        fill_bytes(host, IOPM_BYTES, 0xFF)
        if i & 1 == 0:
            _open_port(host, PORT_A)
        if i & 2 == 0:
            _open_port(host, PORT_B)
    return 0


# ---------------------------------------------------------------- L1's maps, in L1's memory


@inner
def guest_map_page(m, n1p):
    """Host address of the page of a map of L1's at ``n1p``; 0 when L1 has no memory there."""
    count(m, E_L0_GUEST_PAGE_MAPPED, 1)
    ma = n1p_to_l0m(m, n1p & ~(PAGE - 1))
    return 0 if ma < 0 else host_of(m, ma)


@unit(Machine, i64, i64)
def svm_l1_map_bits(m, map_n1p, position):
    """16 bits of a map of L1's from the byte of bit ``position`` on; what is not there reads as 1.

    ``position`` is below 8 * 12 KB.  The low bits of the answer are those at ``position``.
    """
    at = (map_n1p & ~(PAGE - 1)) + lshr(position, 3)
    host = guest_map_page(m, at)
    low = ld8(host + (at & (PAGE - 1))) if host != 0 else 0xFF
    at += 1
    if at & (PAGE - 1) == 0:
        host = guest_map_page(m, at)
    high = ld8(host + (at & (PAGE - 1))) if host != 0 else 0xFF
    return lshr(low | (high << 8), position & 7)


@unit(Machine)
def svm_merge_msrpm(m):
    """Make the MSRPM that L2 runs with (feature ``msr_map``), at every VMRUN; returns its address.

    Xen reads 8 KB, of its copy or of L1's map, and writes 8 KB; that is what is counted.  Wherever L0's map is all ones,
    so is the result, so only the few words with an open MSR are really computed anew.
    """
    target = merged_msrpm(m)
    host = m.ram + target
    if m.feat.msr_map != MSR_MAP_MERGED:
        for i in range(N_OPEN_WORDS):
            st64(host + OPEN_OFFSETS[i], -1)
        return target
    if m.feat.l0 == L0_KVM and icpt(m, 3) & MSR_PROT_BIT == 0:
        return L0_MSRPM_MA
    base = msrpm(m) & ~(PAGE - 1)
    copied = keeps_msr_map_copy(m)
    page = -1
    page_host = 0
    for i in range(N_OPEN_WORDS):
        offset = OPEN_OFFSETS[i]
        if offset & ~(PAGE - 1) != page:
            page = offset & ~(PAGE - 1)
            ma = base + page if copied else n1p_to_l0m(m, base + page)
            page_host = 0 if ma < 0 else host_of(m, ma)
        l1 = ld64(page_host + (offset & (PAGE - 1))) if page_host != 0 else -1
        st64(host + offset, l1 | ld64(m.ram + L0_MSRPM_MA + offset))
    size = 4 * KVM_MERGED_WORDS if m.feat.l0 == L0_KVM else MSRPM_BYTES
    if copied == 0:
        count(m, E_L0_GUEST_PAGE_MAPPED, MSRPM_BYTES // PAGE)
    count(m, E_L0_MAP_BYTE_READ, size)
    count(m, E_L0_MAP_BYTE_MERGED, size)
    return target


@unit(Machine)
def svm_choose_iopm(m):
    """Machine address of the I/O map that L2 runs with (feature ``io_map``), at every VMRUN.

    ``xen``: the prebuilt map that suits L1's answers for the two open ports.  ``merged``: L0's OR
    L1's, 12 KB; as L0's is all ones but for those two ports (KVM: all ones), the result is one of
    the same four.  ``intercept_all``: the one in which every access exits.
    """
    if m.feat.io_map == IO_MAP_INTERCEPT_ALL:
        return SVM_IOPM_SET_MA + 3 * IOPM_BYTES
    host = guest_map_page(m, iopm(m))
    if m.feat.io_map == IO_MAP_MERGED:
        count(m, E_L0_GUEST_PAGE_MAPPED, IOPM_BYTES // PAGE - 1)
        count(m, E_L0_MAP_BYTE_READ, IOPM_BYTES)
        count(m, E_L0_MAP_BYTE_MERGED, IOPM_BYTES)
    else:
        count(m, E_L0_MAP_BYTE_READ, 2)
    which = 3
    if host != 0 and m.feat.l0 != L0_KVM:
        which = lshr(ld8(host + PORT_A // 8), PORT_A % 8) & 1
        which |= (lshr(ld8(host + PORT_B // 8), PORT_B % 8) & 1) << 1
    return SVM_IOPM_SET_MA + which * IOPM_BYTES
