"""Checks on the guest's segment registers (SDM vol. 3, 27.3.1.2), in the manual's order."""

from __future__ import annotations

import numpy as np

from ....arch import vmcs, vmx
from ...jit import inner, unit
from ...layout import CS, DS, ES, FS, GS, LDTR, SS, TR
from ...structs import i64
from ...words import lshr
from .check_util import not_canonical, word

SELECTOR, LIMIT, RIGHTS, BASE = (
    getattr(vmcs, f"SLOT_GUEST_ES_{kind}") for kind in ("SELECTOR", "LIMIT", "AR_BYTES", "BASE")
)
"""First slot of each kind; the segments follow in manual order."""
AR_S, AR_P, AR_L, AR_DB, AR_G, AR_UNUSABLE = 1 << 4, 1 << 7, 1 << 13, 1 << 14, 1 << 15, 1 << 16
AR_RESERVED = 0xF00 | 0xFFFE_0000
"""Bits 11:8 and 31:17."""
V86_LIMIT, V86_RIGHTS = 0xFFFF, 0xF3
TI = 4
TYPE_DATA, TYPE_CONFORMING = 3, 12
BUSY_TSS, BUSY_TSS_16, LDT = 11, 3, 2
ORDER = np.array([CS, SS, DS, ES, FS, GS], np.int64)
"""Code and data segments in the order in which the manual names them."""


@inner
def _rights(base, segment):
    return word(base, RIGHTS + segment)


@inner
def _usable(base, segment):
    """CS counts as usable whatever its bit 16 says."""
    return segment == CS or _rights(base, segment) & AR_UNUSABLE == 0


@inner
def _dpl(rights):
    return lshr(rights, 5) & 3


@inner
def _rpl(base, segment):
    return word(base, SELECTOR + segment) & 3


@inner
def _granularity_wrong(rights, limit):
    """G must be 0 when a bit of the limit's low 12 is 0, and 1 when one of its high 12 is 1."""
    if rights & AR_G:
        return limit & 0xFFF != 0xFFF
    return lshr(limit, 20) != 0


# ---------------------------------------------------------------- selectors, bases, limits


@inner
def _selectors(base, v86, unrestricted):
    if word(base, SELECTOR + TR) & TI:
        return vmx.CHECK_GUEST_TR_SELECTOR_TI
    if _usable(base, LDTR) and word(base, SELECTOR + LDTR) & TI:
        return vmx.CHECK_GUEST_LDTR_SELECTOR_TI
    if v86 == 0 and unrestricted == 0 and _rpl(base, SS) != _rpl(base, CS):
        return vmx.CHECK_GUEST_SS_CS_RPL
    return 0


@inner
def _bases(base, v86):
    if v86:
        for i in range(6):
            segment = ORDER[i]
            if word(base, BASE + segment) != word(base, SELECTOR + segment) << 4:
                return vmx.CHECK_GUEST_V86_BASE
    if (
        not_canonical(word(base, BASE + TR))
        or not_canonical(word(base, BASE + FS))
        or not_canonical(word(base, BASE + GS))
        or (_usable(base, LDTR) and not_canonical(word(base, BASE + LDTR)))
    ):
        return vmx.CHECK_GUEST_BASE_CANONICAL
    for i in range(4):
        segment = ORDER[i]
        if _usable(base, segment) and lshr(word(base, BASE + segment), 32):
            return vmx.CHECK_GUEST_BASE_32_BIT
    return 0


@inner
def _v86(base):
    for i in range(6):
        segment = ORDER[i]
        if word(base, LIMIT + segment) != V86_LIMIT:
            return vmx.CHECK_GUEST_V86_LIMIT
    for i in range(6):
        segment = ORDER[i]
        if _rights(base, segment) != V86_RIGHTS:
            return vmx.CHECK_GUEST_V86_RIGHTS
    return 0


# ---------------------------------------------------------------- access rights


@inner
def _types(base, unrestricted):
    cs = _rights(base, CS) & 15
    if cs & 9 != 9 and (unrestricted == 0 or cs != TYPE_DATA):
        return vmx.CHECK_GUEST_CS_TYPE
    if _usable(base, SS) and _rights(base, SS) & 15 & ~4 != TYPE_DATA:
        return vmx.CHECK_GUEST_SS_TYPE
    for i in range(2, 6):
        segment = ORDER[i]
        kind = _rights(base, segment) & 15
        if _usable(base, segment) and (kind & 1 == 0 or (kind & 8 and kind & 2 == 0)):
            return vmx.CHECK_GUEST_DATA_TYPE
    for i in range(6):
        segment = ORDER[i]
        if _usable(base, segment) and _rights(base, segment) & AR_S == 0:
            return vmx.CHECK_GUEST_SEGMENT_S
    return 0


@inner
def _cs_dpl_wrong(kind, dpl, ss_dpl):
    if kind == TYPE_DATA:
        return dpl != 0
    if kind >= TYPE_CONFORMING:
        return dpl > ss_dpl
    return dpl != ss_dpl


@inner
def _privilege(base, unrestricted, real_mode):
    cs = _rights(base, CS)
    ss_dpl = _dpl(_rights(base, SS))
    if _cs_dpl_wrong(cs & 15, _dpl(cs), ss_dpl):
        return vmx.CHECK_GUEST_CS_DPL
    if unrestricted == 0 and ss_dpl != _rpl(base, SS):
        return vmx.CHECK_GUEST_SS_DPL
    if ss_dpl and (cs & 15 == TYPE_DATA or real_mode):
        return vmx.CHECK_GUEST_SS_DPL
    if unrestricted:
        return 0
    for i in range(2, 6):
        segment = ORDER[i]
        rights = _rights(base, segment)
        if (
            rights & AR_UNUSABLE == 0
            and rights & 15 < TYPE_CONFORMING
            and _dpl(rights) < _rpl(base, segment)
        ):
            return vmx.CHECK_GUEST_DATA_DPL
    return 0


@inner
def _present_and_size(base, ia32e):
    reserved = False
    granularity = False
    for i in range(6):
        segment = ORDER[i]
        if _usable(base, segment):
            rights = _rights(base, segment)
            if rights & AR_P == 0:
                return vmx.CHECK_GUEST_SEGMENT_P
            if rights & AR_RESERVED:
                reserved = True
            if _granularity_wrong(rights, word(base, LIMIT + segment)):
                granularity = True
    if reserved:
        return vmx.CHECK_GUEST_SEGMENT_RESERVED
    if ia32e and _rights(base, CS) & (AR_L | AR_DB) == AR_L | AR_DB:
        return vmx.CHECK_GUEST_CS_DB
    return vmx.CHECK_GUEST_SEGMENT_G if granularity else 0


@inner
def _system(base, ia32e):
    tr = _rights(base, TR)
    kind = tr & 15
    if (
        (kind != BUSY_TSS and (ia32e or kind != BUSY_TSS_16))
        or tr & (AR_S | AR_UNUSABLE | AR_RESERVED)
        or tr & AR_P == 0
        or _granularity_wrong(tr, word(base, LIMIT + TR))
    ):
        return vmx.CHECK_GUEST_TR_RIGHTS
    ldtr = _rights(base, LDTR)
    if ldtr & AR_UNUSABLE == 0 and (
        ldtr & 15 != LDT
        or ldtr & (AR_S | AR_RESERVED)
        or ldtr & AR_P == 0
        or _granularity_wrong(ldtr, word(base, LIMIT + LDTR))
    ):
        return vmx.CHECK_GUEST_LDTR_RIGHTS
    return 0


@unit(i64, i64, i64, i64, i64)
def vmx_check_segments(base, v86, unrestricted, real_mode, ia32e):
    """Number of the first check on the segment registers that fails, 0 when all hold."""
    check = _selectors(base, v86, unrestricted)
    if check == 0:
        check = _bases(base, v86)
    if check == 0 and v86:
        check = _v86(base)
    if check == 0 and v86 == 0:
        check = _types(base, unrestricted)
        if check == 0:
            check = _privilege(base, unrestricted, real_mode)
        if check == 0:
            check = _present_and_size(base, ia32e)
    if check == 0:
        check = _system(base, ia32e)
    return check
