"""VMCB clean bits: what the processor keeps of a VMCB, and how L0 says what it has changed.

APM vol. 2, 15.15; groups as in vmcb_cleanbits.csv.  With feature vmcb_clean_bits the processor holds
copies of the VMCBs that it used last, by their addresses.  VMRUN of one of them loads a group of
fields from memory only if its clean bit is 0; otherwise it takes the copy, even where memory says
something else by now (``m.stale_groups`` then names the group).  #VMEXIT writes memory and copy.

How many VMCBs a processor holds is not documented; here N_VMCB_COPIES, the least recently used goes.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmcb
from ....arch.table import rows
from ...jit import inner, unit
from ...layout import Machine
from ...ledger import E_VMCB_GROUP_KEPT, count
from ...structs import i64
from ...words import address, copy_bytes, ld8, ld32, ld64, lshr, popcount, st32
from ..records import N_VMCB_COPIES, VMCB_COPY_BYTES

(
    CLEAN_INTERCEPTS, CLEAN_MAPS, CLEAN_ASID, CLEAN_TPR, CLEAN_NP, CLEAN_CR, CLEAN_DR, CLEAN_DT,
    CLEAN_SEG, CLEAN_CR2, CLEAN_LBR,
) = (1 << k for k in range(11))  # fmt: skip
"""Clean bits (vmcb_cleanbits.csv); those of AVIC and shadow stacks have nothing to keep here."""
ALL_GROUPS = (1 << 11) - 1
ALWAYS = -1
"""Group of the fields that every VMRUN loads."""


def _ranges() -> list[tuple[int, int, int]]:
    """(group, offset, bytes) of everything that VMRUN may load, neighbours of a group joined."""
    found: list[tuple[int, int, int]] = []
    for row in rows("vmcb_fields"):
        offset, size = int(row["offset"], 0), int(row["size"])
        if row["state_switched_by"] == "VMLOAD/VMSAVE" or offset + size > VMCB_COPY_BYTES:
            continue
        group = int(row["clean_bit"]) if row["clean_bit"] else ALWAYS
        if found and found[-1][0] == group and sum(found[-1][1:]) == offset:
            found[-1] = (group, found[-1][1], found[-1][2] + size)
        else:
            found.append((group, offset, size))
    return found


N_RANGES = len(_ranges())
RANGE_GROUP, RANGE_OFFSET, RANGE_BYTES = (
    np.array([part[k] for part in _ranges()], np.int64) for k in range(3)
)


# ---------------------------------------------------------------- the processor


@inner
def _differs(a, b, length):
    k = 0
    while k < length:
        if length - k >= 8:
            if ld64(a + k) != ld64(b + k):
                return True
            k += 8
        else:
            if ld8(a + k) != ld8(b + k):
                return True
            k += 1
    return False


@inner
def _find(m):
    """Place of the copy of the VMCB at ``m.hw.vmcx``; a fresh one is marked by a clean field of 0."""
    oldest = 0
    for i in range(N_VMCB_COPIES):
        if m.vmcb_copies[i].ma == m.hw.vmcx:
            return i
        if m.vmcb_copies[i].used < m.vmcb_copies[oldest].used:
            oldest = i
    return oldest


@unit(Machine, i64)
def svm_load_vmcb(m, h):
    """VMRUN reads the VMCB at host address ``h``; returns the host address of the copy to use."""
    place = _find(m)
    copy = m.vmcb_copies[place]
    clean = ld32(h + vmcb.CLEAN) & ALL_GROUPS if copy.ma == m.hw.vmcx else 0
    m.vmcb_clock += 1
    copy.used = m.vmcb_clock
    copy.ma = m.hw.vmcx
    m.vmcb_place = place
    image = address(copy.bytes)
    for i in range(N_RANGES):
        offset = RANGE_OFFSET[i]
        length = RANGE_BYTES[i]
        group = RANGE_GROUP[i]
        if group == ALWAYS or lshr(clean, group) & 1 == 0:
            copy_bytes(image + offset, h + offset, length)
        elif _differs(image + offset, h + offset, length):
            m.stale_groups |= 1 << group
    if clean:
        count(m, E_VMCB_GROUP_KEPT, popcount(clean))
    return image


@inner
def held_copy(m):
    """Host address of the copy of the VMCB in use, 0 when the processor has none."""
    copy = m.vmcb_copies[m.vmcb_place]
    return address(copy.bytes) if copy.ma == m.hw.vmcx else 0


# ---------------------------------------------------------------- L0


@inner
def touch(h, groups):
    """L0 has changed fields of ``groups`` (CLEAN_*) in a VMCB: the next VMRUN must load them."""
    st32(h + vmcb.CLEAN, ld32(h + vmcb.CLEAN) & ~groups)


@inner
def all_clean(h):
    """After an exit L0 has changed nothing yet (Xen, svm_vmexit_handler)."""
    st32(h + vmcb.CLEAN, -1)
