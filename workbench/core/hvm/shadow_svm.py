"""L0 shadow paging under SVM: #PF, CR3 and INVLPG exits, and the end of an emulated instruction."""

from __future__ import annotations

from ...arch import vmcb
from ..cpu.exceptions import PF
from ..jit import inner, unit
from ..layout import FATAL_N1P_UNMAPPED, ST_FATAL, ST_OK, Machine
from ..ledger import F_CR3_WRITE
from ..words import ld32, ld64, lshr, st64
from .shadow import (
    SF_FATAL,
    SF_HANDLED,
    SF_INJECT,
    current_tags,
    shadow_emulate,
    shadow_fault,
    shadow_invlpg,
)
from .shadow_pages import shadow_drop_all
from .svm_hw import EVENT_VALID
from .svm_l0 import (
    current_vmcb,
    inject_gp,
    inject_ud,
    read_gpr,
    skip_instruction,
    svm_inject,
    write_gpr,
)
from .tags import tags_renew

CR3_WIDTH = 52


@unit(Machine)
def svm_shadow_fault(m):
    """#PF exit: EXITINFO1 is the error code, EXITINFO2 the address."""
    e = m.exit
    outcome = shadow_fault(m, e.info2, e.info1)
    if outcome == SF_HANDLED:
        return ST_OK
    if outcome == SF_INJECT:
        return svm_inject(m, PF, m.exc.error, 1)
    if outcome == SF_FATAL:
        m.fatal = FATAL_N1P_UNMAPPED
        m.fatal_code = m.sh.gpa
        return ST_FATAL
    if ld32(current_vmcb(m) + vmcb.EVENT_INJ) & EVENT_VALID:
        shadow_drop_all(m)  # no instruction wrote there but the delivery of an event
        return ST_OK
    return shadow_emulate(m)


@inner
def svm_emulate_cr3(m, h, is_write):
    """MOV to and from CR3 (EXITINFO1: bit 63 if by MOV, register in bits 3:0)."""
    if m.exit.info1 >= 0:
        return inject_ud(m)
    if not is_write:
        write_gpr(m, h, m.exit.info1, ld64(h + vmcb.CR3))
        return skip_instruction(m, h)
    value = read_gpr(m, h, m.exit.info1)
    if lshr(value, CR3_WIDTH):
        return inject_gp(m)
    st64(h + vmcb.CR3, value)
    tags_renew(m, current_tags(m), F_CR3_WRITE)
    return skip_instruction(m, h)


@inner
def svm_handle_invlpg(m, h):
    """INVLPG; its address is EXITINFO1."""
    shadow_invlpg(m, m.exit.info1)
    return skip_instruction(m, h)
