"""The per-vcpu nested state, reached only through the accessors here, which count each access.

The state is bytes in L0's own memory (``memory_map.NESTED_STATE_MA``), laid out as one of the
designs of the review has it (feature ``state_layout``, data/nested_layouts.csv).  For each field the
machine record holds the host address and a shape: 1 to 8 bytes, one bit of a 32-bit word, or bytes
of the vendor record that ``nh_arch`` points to.  A field that a design does not keep is fetched
from vmcx12 in L1's memory whenever it is asked for, at the cost of that access; setting it does
nothing.  A field without a part in the design reads as 0 and is not counted.

``state.event`` says what L0 is doing; the ledger counts reads and writes by event and field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..jit import inner, unit
from ..layout import Machine
from ..ledger import (
    NS_ARCH,
    NS_EXITCODE,
    NS_EXITINFO1,
    NS_EXITINFO2,
    NS_FLUSHP2M,
    NS_GIF,
    NS_GUEST_CR3,
    NS_GUEST_TAG,
    NS_HAP_ENABLED,
    NS_HOST_CR3,
    NS_HSAVE_PA,
    NS_ICPT_CR,
    NS_IOPM,
    NS_LAST_VMCX12_ADDR,
    NS_MSRPM,
    NS_N1_VMCX,
    NS_N2_GUEST,
    NS_N2_TAG,
    NS_N2_TAG_GENERATION,
    NS_N2_VMCX,
    NS_N2P_TO_L0M,
    NS_RFLAGSIF,
    NS_VINTRMASK,
    NS_VMCX12,
    NS_VMCX12_ADDR,
    NS_VMENTRY_PENDING,
    NS_VMEXIT_PENDING,
    NS_VMSWITCH_IN_PROGRESS,
    NS_VMXON_ADDR,
)
from ..structs import i64
from ..words import ld8, ld16, ld32, ld64, lshr, st8, st16, st32, st64
from .nested_fetch import fetch_from_vmcx12

ABSENT, BYTES_1, BYTES_2, BYTES_4, BYTES_8 = range(5)
BIT = 32
"""BIT + n: bit n of a 32-bit word."""
IN_ARCH = 64
"""Added to a shape: the address is an offset from where the field ``arch`` points to."""
FETCHED = 128
"""Not kept: read from vmcx12."""

NONE = -1
"""No address: no vmcx12 is mapped, not in VMX operation."""

STORED_INTERCEPTS = 5
"""Intercept words that the designs of 2010 know; the sixth is younger and stands beside them."""


# ---------------------------------------------------------------- any field


@inner
def _load(host, shape):
    if shape == BYTES_8:
        return ld64(host)
    if shape == BYTES_4:
        return ld32(host)
    if shape == BYTES_1:
        return ld8(host)
    if shape == BYTES_2:
        return ld16(host)
    return lshr(ld32(host), shape & 31) & 1


@inner
def _store(host, shape, value):
    if shape == BYTES_8:
        st64(host, value)
    elif shape == BYTES_4:
        st32(host, value)
    elif shape == BYTES_1:
        st8(host, value)
    elif shape == BYTES_2:
        st16(host, value)
    else:
        bit = 1 << (shape & 31)
        st32(host, ld32(host) | bit if value else ld32(host) & ~bit)


@inner
def _count(m, field, write):
    m.ledger.state[m.state.event, field * 2 + write] += 1


@inner
def _through_arch(m, field):
    """Host address of a field in the vendor record that the field ``arch`` points to."""
    _count(m, NS_ARCH, 0)
    return m.ram + ld64(m.state.host[NS_ARCH]) + m.state.host[field]


@unit(Machine, i64)
def state_read_rare(m, field):
    """Read a field of any shape."""
    shape = m.state.shape[field]
    if shape == ABSENT:
        return 0
    _count(m, field, 0)
    if shape & FETCHED:
        return fetch_from_vmcx12(m, field, ld64(m.state.host[NS_VMCX12]))
    host = _through_arch(m, field) if shape & IN_ARCH else m.state.host[field]
    return _load(host, shape & ~IN_ARCH)


@unit(Machine, i64, i64)
def state_write_rare(m, field, value):
    """Write a field of any shape."""
    shape = m.state.shape[field]
    if shape == ABSENT or shape & FETCHED:
        return 0
    _count(m, field, 1)
    host = _through_arch(m, field) if shape & IN_ARCH else m.state.host[field]
    _store(host, shape & ~IN_ARCH, value)
    return 0


@inner
def state_read(m, field, expected):
    """Read a field (NS_*); ``expected`` is the shape that the path without a call serves."""
    if m.state.shape[field] == expected:
        _count(m, field, 0)
        return _load(m.state.host[field], expected)
    return state_read_rare(m, field)


@inner
def state_write(m, field, expected, value):
    """Write a field (NS_*); ``expected`` as in :func:`state_read`."""
    if m.state.shape[field] == expected:
        _count(m, field, 1)
        _store(m.state.host[field], expected, value)
    else:
        state_write_rare(m, field, value)


@inner
def state_has(m, field):
    """Does the layout have this field, or somewhere to fetch it from?"""
    return m.state.shape[field] != ABSENT


@inner
def state_keeps(m, field):
    """Does the layout remember this field?"""
    return m.state.shape[field] & FETCHED == 0 and m.state.shape[field] != ABSENT


@inner
def at_event(m, event):
    """What L0 does from here on (AT_*): accesses are counted under it."""
    m.state.event = event


# ---------------------------------------------------------------- the fields by name


def _reader(field: int, expected: int) -> Callable[[Any], Any]:
    @inner
    def read(m):
        return state_read(m, field, expected)

    return read


def _writer(field: int, expected: int) -> Callable[[Any, Any], Any]:
    @inner
    def write(m, value):
        state_write(m, field, expected, value)

    return write


def _field(field: int, expected: int) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """Reader and writer of a field; ``expected``: its shape in the default layout (speed only)."""
    return _reader(field, expected), _writer(field, expected)


@inner
def is_n2_guest(m):
    """Does the vcpu run L2?"""
    return state_read(m, NS_N2_GUEST, BYTES_1) != 0


@inner
def vmxon(m):
    """Is L1 in VMX operation?"""
    return state_read(m, NS_VMXON_ADDR, BYTES_8) != NONE


@inner
def icpt(m, word):
    """Intercept word ``word`` (0..5) of L1's, as in vmcb12 at VMRUN or now (by layout)."""
    if word >= STORED_INTERCEPTS:
        return m.nv.general3
    return state_read(m, NS_ICPT_CR + word, BYTES_4)


@inner
def set_icpt(m, word, value):
    """Remember intercept word ``word`` of vmcb12."""
    if word >= STORED_INTERCEPTS:
        m.nv.general3 = value
    else:
        state_write(m, NS_ICPT_CR + word, BYTES_4, value)


set_n2_guest = _writer(NS_N2_GUEST, BYTES_1)
# a virtual exit is to be delivered; a VMRUN or VMLAUNCH is being emulated; between two contexts
vmexit_pending, set_vmexit_pending = _field(NS_VMEXIT_PENDING, BYTES_1)
vmentry_pending, set_vmentry_pending = _field(NS_VMENTRY_PENDING, BYTES_1)
vmswitch_in_progress = _reader(NS_VMSWITCH_IN_PROGRESS, BYTES_1)
set_vmswitch_in_progress = _writer(NS_VMSWITCH_IN_PROGRESS, BYTES_1)
# vmcx12: its page (ma, NONE), its address in L1's space; where L0's own for L1 and L2 are (ma)
vmcx12, set_vmcx12 = _field(NS_VMCX12, BYTES_8)
vmcx12_addr, set_vmcx12_addr = _field(NS_VMCX12_ADDR, BYTES_8)
n1_vmcx, set_n1_vmcx = _field(NS_N1_VMCX, BYTES_8)
n2_vmcx, set_n2_vmcx = _field(NS_N2_VMCX, BYTES_8)
# vmcx12's address at the last virtual exit: its clean bits count only for that one
last_vmcx12_addr = _reader(NS_LAST_VMCX12_ADDR, BYTES_8)
set_last_vmcx12_addr = _writer(NS_LAST_VMCX12_ADDR, BYTES_8)
# CR3 of L2, root of L1's table for L2, does L1 give L2 nested paging, ASID or VPID that L1 chose
guest_cr3, set_guest_cr3 = _field(NS_GUEST_CR3, BYTES_8)
host_cr3, set_host_cr3 = _field(NS_HOST_CR3, BYTES_8)
hap_enabled, set_hap_enabled = _field(NS_HAP_ENABLED, BYTES_1)
guest_tag, set_guest_tag = _field(NS_GUEST_TAG, BYTES_4)
# nested p2m in use (ma of its root, 0 none), forget the choice; L0's tag for L2
n2p_to_l0m, set_n2p_to_l0m = _field(NS_N2P_TO_L0M, BYTES_8)
flushp2m, set_flushp2m = _field(NS_FLUSHP2M, BYTES_1)
n2_tag, set_n2_tag = _field(NS_N2_TAG, BYTES_4)
n2_tag_generation = _reader(NS_N2_TAG_GENERATION, BYTES_8)
set_n2_tag_generation = _writer(NS_N2_TAG_GENERATION, BYTES_8)
# L1's GIF (SVM); L1's RFLAGS.IF and V_INTR_MASKING at VMRUN
gif, write_gif = _field(NS_GIF, BYTES_1)
rflagsif, set_rflagsif = _field(NS_RFLAGSIF, BIT)
vintrmask, set_vintrmask = _field(NS_VINTRMASK, BIT + 1)
# the virtual exit to deliver
exitcode, set_exitcode = _field(NS_EXITCODE, BYTES_8)
exitinfo1, set_exitinfo1 = _field(NS_EXITINFO1, BYTES_8)
exitinfo2, set_exitinfo2 = _field(NS_EXITINFO2, BYTES_8)
# L1's permission maps (n1p); VM_HSAVE_PA; the VMXON region (n1p, NONE)
msrpm, set_msrpm = _field(NS_MSRPM, BYTES_8)
iopm, set_iopm = _field(NS_IOPM, BYTES_8)
hsave_pa, set_hsave_pa = _field(NS_HSAVE_PA, BYTES_8)
vmxon_addr, set_vmxon_addr = _field(NS_VMXON_ADDR, BYTES_8)
