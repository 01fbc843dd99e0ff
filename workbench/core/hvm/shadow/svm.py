"""L0 shadow paging under SVM: #PF, CR3 and INVLPG exits, and the end of an emulated instruction."""

from __future__ import annotations

from ....arch import vmcb
from ...cpu.exceptions import PF
from ...jit import inner, unit
from ...layout import FATAL_N1P_UNMAPPED, ST_FATAL, ST_OK, Machine
from ...ledger import F_CR3_WRITE
from ...words import ld32, ld64, lshr, st64
from ..svm.checks import EVENT_VALID
from ..svm.clean import CLEAN_CR, touch
from ..svm.common import inject_gp, inject_ud, skip_instruction, svm_inject
from ..svm.current import current_vmcb, read_gpr, write_gpr
from ..svm.decode import MOV_FROM_CR, MOV_TO_CR, l0_decode
from ..tags import tags_renew
from .l0 import (
    SF_FATAL,
    SF_HANDLED,
    SF_INJECT,
    current_tags,
    shadow_emulate,
    shadow_fault,
    shadow_invlpg,
)
from .pages import shadow_drop_all

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
    register = m.exit.info1
    if register >= 0:  # without decode assists
        known = l0_decode(m) != 0 and m.insn.opcode == (MOV_TO_CR if is_write else MOV_FROM_CR)
        if not known:
            return inject_ud(m)
        register = m.insn.rm
    if not is_write:
        write_gpr(m, h, register, ld64(h + vmcb.CR3))
        return skip_instruction(m, h)
    value = read_gpr(m, h, register)
    if lshr(value, CR3_WIDTH):
        return inject_gp(m)
    st64(h + vmcb.CR3, value)
    touch(h, CLEAN_CR)
    tags_renew(m, current_tags(m), F_CR3_WRITE)
    return skip_instruction(m, h)


@inner
def svm_handle_invlpg(m, h):
    """INVLPG; its address is EXITINFO1, or without decode assists in the instruction."""
    if m.feat.decode_assists:
        shadow_invlpg(m, m.exit.info1)
    elif l0_decode(m) and m.insn.is_memory:
        shadow_invlpg(m, m.insn.address)
    return skip_instruction(m, h)
