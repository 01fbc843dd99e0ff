"""Filling ``m.exit`` with an SVM exit, and testing the intercept bits that the processor holds."""

from __future__ import annotations

from ...jit import inner
from ...layout import ST_VMEXIT
from ...words import lshr


@inner
def intercepted(m, position):
    """Is intercept ``position`` (word * 32 + bit) set for the running guest?"""
    return lshr(m.hw.icpt[lshr(position, 5)], position & 31) & 1


@inner
def leave(m, code, info1, info2, length, cause):
    """A #VMEXIT: ``length`` is that of the intercepted instruction, 0 for other events."""
    e = m.exit
    e.code = code
    e.info1 = info1
    e.info2 = info2
    e.insn_len = length
    e.insn_info = 0
    e.vectoring = 0
    e.vectoring_error = 0
    e.cause = cause
    return ST_VMEXIT
