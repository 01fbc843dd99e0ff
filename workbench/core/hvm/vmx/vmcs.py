"""VMCSs in simulated RAM: reading and writing their slots, and what it costs L0 to do so.

Three VMCSs take part.  vmcs01 and vmcs02 are pages of L0's own; vmcs12 is the page in L1's memory
that L1 gave to VMPTRLD.  L0 reaches its own by VMREAD and VMWRITE (one instruction each).  How it
reaches vmcs12 depends on VMCS shadowing (Xen, vvmx.c get_vvmcs/set_vvmcs):

* without shadowing vmcs12 is an array in memory: 8 bytes copied per field;
* with shadowing it is a real VMCS: VMPTRLD it, access, VMCLEAR it, VMPTRLD the current one.  A
  group of fields accessed together pays the three extra instructions once.

KVM has a copy in memory in both cases (``kvm``).

The accessors here only note what they did in ``m.vmcs_work``; :func:`settle` puts it into the
ledger.  vmcs12 may hold any bytes, so what is read from it is cut to the width of the field.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmcs
from ...jit import inner
from ...ledger import (
    E_L0_BYTE_COPIED,
    E_L0_FIELD_GROUP_COPIED,
    E_L0_SHADOW_VMCS_SYNCED,
    E_L0_VMCLEAR,
    E_L0_VMPTRLD,
    E_L0_VMREAD,
    E_L0_VMWRITE,
    count,
    count_field,
)
from ...mmu.physical import host_of
from ...words import ld32, ld64, lshr, st32, st64
from ..nested_state import vmcx12

DATA_OFFSET = vmcs.DATA_OFFSET
LAUNCH_STATE_OFFSET = 8
CLEAR, LAUNCHED = 0, 1
"""Launch states of a VMCS (SDM vol. 3, 25.1)."""
SHADOW_INDICATOR = 1 << 31
"""Bit 31 of the revision word: the region is a shadow VMCS (SDM vol. 3, 25.2)."""

MASKS = np.array([{2: 0xFFFF, 4: 0xFFFF_FFFF, 8: -1}[int(w)] for w in vmcs.WIDTHS], np.int64)
"""The bits that exist in each slot, shape (N_SLOTS,)."""

SLOT_OF = vmcs.SLOT_OF
XEN_SHADOW_ACTIVE = 1
"""Value of ``shadow_active`` when vmcs12 is a real VMCS for L0 too."""
WIDTH_64 = 1
"""Width code (encoding bits 14:13) of the 64-bit fields, the only ones with a high-access form."""

READS, WRITES, VV_READS, VV_WRITES = range(4)
"""Places in ``m.vmcs_work``: accesses of L0 to its own VMCS, and single ones to vmcs12."""


# ---------------------------------------------------------------- plain slots


@inner
def get(base, slot):
    """The word in a slot; ``base`` is the host address of slot 0."""
    return ld64(base + slot * 8)


@inner
def put(base, slot, value):
    """Set the word in a slot."""
    st64(base + slot * 8, value)


@inner
def own_base(m, ma):
    """Host address of slot 0 of one of L0's own VMCSs (they lie in bank 0)."""
    return m.ram + ma + DATA_OFFSET


@inner
def current_base(m):
    """Host address of slot 0 of the VMCS that the hardware runs with."""
    return own_base(m, m.hw.vmcx)


@inner
def vvmcs_base(m):
    """Host address of slot 0 of vmcs12; only while L1 has a current VMCS."""
    return host_of(m, vmcx12(m)) + DATA_OFFSET


@inner
def launch_state(m, ma):
    """Launch state kept in the region of L1's at ``ma``."""
    return ld32(host_of(m, ma) + LAUNCH_STATE_OFFSET)


@inner
def set_launch_state(m, ma, state):
    """Set the launch state in the region of L1's at ``ma``."""
    st32(host_of(m, ma) + LAUNCH_STATE_OFFSET, state)


@inner
def field_slot(encoding):
    """Slot of a field by any 64-bit word as its encoding; -1 when there is no such field."""
    if lshr(encoding, 15):
        return -1
    if encoding & 1 and (encoding >> 13) & 3 != WIDTH_64:
        return -1
    return SLOT_OF[(encoding >> 1) & 0x3FFF]


@inner
def read_encoded(base, slot, encoding):
    """What VMREAD delivers for ``encoding``, whose slot is ``slot``."""
    value = get(base, slot) & MASKS[slot]
    return lshr(value, 32) if encoding & 1 else value


@inner
def write_encoded(base, slot, encoding, value):
    """What VMWRITE stores for ``encoding``, whose slot is ``slot``."""
    if encoding & 1:
        put(base, slot, (get(base, slot) & 0xFFFF_FFFF) | (value << 32))
    else:
        put(base, slot, value & MASKS[slot])


# ---------------------------------------------------------------- L0's counted accesses


@inner
def vmread(m, slot):
    """L0 reads a field of the current VMCS (vmcs01 or vmcs02)."""
    m.vmcs_work[READS] += 1
    return get(current_base(m), slot)


@inner
def vmwrite(m, slot, value):
    """L0 writes a field of the current VMCS."""
    m.vmcs_work[WRITES] += 1
    put(current_base(m), slot, value)


@inner
def get_vvmcs(m, base, slot, phase):
    """L0 reads one field of vmcs12; ``base`` is :func:`vvmcs_base`."""
    m.vmcs_work[VV_READS] += 1
    count_field(m, slot, phase, 0)
    return get(base, slot) & MASKS[slot]


@inner
def set_vvmcs(m, base, slot, value, phase):
    """L0 writes one field of vmcs12."""
    m.vmcs_work[VV_WRITES] += 1
    count_field(m, slot, phase, 1)
    put(base, slot, value & MASKS[slot])


@inner
def count_bulk(m, reads, writes):
    """A group of vmcs12 accesses made together."""
    count(m, E_L0_FIELD_GROUP_COPIED, 1)
    if m.nv.shadow_active == XEN_SHADOW_ACTIVE:
        count(m, E_L0_SHADOW_VMCS_SYNCED, 1)
        count(m, E_L0_VMPTRLD, 2)
        count(m, E_L0_VMCLEAR, 1)
        m.vmcs_work[READS] += reads
        m.vmcs_work[WRITES] += writes
    else:
        count(m, E_L0_BYTE_COPIED, 8 * (reads + writes))


@inner
def settle(m):
    """Move the noted accesses into the ledger."""
    work = m.vmcs_work
    reads = work[READS]
    writes = work[WRITES]
    single = work[VV_READS] + work[VV_WRITES]
    if single:
        if m.nv.shadow_active == XEN_SHADOW_ACTIVE:
            reads += work[VV_READS]
            writes += work[VV_WRITES]
            count(m, E_L0_VMPTRLD, 2 * single)
            count(m, E_L0_VMCLEAR, single)
        else:
            count(m, E_L0_BYTE_COPIED, 8 * single)
    count(m, E_L0_VMREAD, reads)
    count(m, E_L0_VMWRITE, writes)
    work[READS] = 0
    work[WRITES] = 0
    work[VV_READS] = 0
    work[VV_WRITES] = 0
