"""The exit record of an exit that an instruction or an event of the guest causes."""

from __future__ import annotations

from ...jit import inner
from ...layout import ST_VMEXIT


@inner
def fill_exit(m, reason, qualification, length, cause):
    """The exit record of an instruction or event; returns ST_VMEXIT."""
    e = m.exit
    e.code = reason
    e.info1 = qualification
    e.info2 = 0
    e.linear = 0
    e.intr_info = 0
    e.intr_error = 0
    e.insn_len = length
    e.insn_info = 0
    e.uop = -1
    e.cause = cause
    return ST_VMEXIT
