"""Asking for a virtual exit to L1, and what is remembered of it until it is carried out.

Feature ``vmexit_delivery``: ``deferred`` writes the exit into the nested state (``exitcode``,
``exitinfo1``, ``exitinfo2``: the forcevmexit record of 2010) and sets ``vmexit_pending``; it is
carried out right before the next hardware entry, and until then interrupts are blocked by it.
``immediate`` keeps nothing: hvm/nested.py leaves L2 as soon as the deciding step returns.

VMX writes the record only for what L0 itself decided; an exit that goes to L1 as the processor
reported it needs none, for vmcs02 has it.  There ``exitinfo2`` is the interruption information, with
the error code in its upper half, and the qualification of an exception stays in ``m.exit``.
"""

from __future__ import annotations

from ...arch import vmx
from ..jit import inner
from ..words import lshr
from .nested_state import (
    exitcode,
    exitinfo1,
    exitinfo2,
    set_exitcode,
    set_exitinfo1,
    set_exitinfo2,
    set_vmexit_pending,
    vmexit_pending,
)

ASKED, CODE, INFO1, INFO2 = range(4)
"""Places in ``m.vexit``, the virtual exit that is to happen at once."""
LOW32 = 0xFFFFFFFF
NO_RECORD = LOW32
"""VMX: the low half of ``exitcode`` when L0 decided nothing of its own."""


@inner
def ask_exit(m):
    """L2's exit goes to L1 as the processor reported it."""
    if m.feat.vmexit_immediate:
        m.vexit[ASKED] = 1
    else:
        set_vmexit_pending(m, 1)


@inner
def record_exit(m, code, info1, info2):
    """A virtual exit that L0 decided on, with its code and information."""
    if m.feat.vmexit_immediate:
        m.vexit[CODE] = code
        m.vexit[INFO1] = info1
        m.vexit[INFO2] = info2
    else:
        set_exitcode(m, code)
        set_exitinfo1(m, info1)
        set_exitinfo2(m, info2)
    ask_exit(m)


@inner
def record_vmx_exit(m):
    """The virtual exit that L0 has put together in ``m.exit``."""
    e = m.exit
    record_exit(m, e.code, e.info1, (e.intr_info & LOW32) | (e.intr_error << 32))


@inner
def recall_vmx_exit(m):
    """What the record says replaces what happened to ``m.exit`` since."""
    if m.feat.vmexit_immediate:
        return
    code = exitcode(m) & LOW32
    if code == NO_RECORD:
        return
    e = m.exit
    e.code = code
    if code != vmx.EXIT_EXCEPTION_NMI:
        e.info1 = exitinfo1(m)
    info = exitinfo2(m)
    e.intr_info = info & LOW32
    e.intr_error = lshr(info, 32)
    set_exitcode(m, -1)


@inner
def exit_code(m):
    """SVM: code of the virtual exit that is being carried out."""
    return m.vexit[CODE] if m.feat.vmexit_immediate else exitcode(m)


@inner
def exit_info1(m):
    """SVM: its first information."""
    return m.vexit[INFO1] if m.feat.vmexit_immediate else exitinfo1(m)


@inner
def exit_info2(m):
    """SVM: its second information."""
    return m.vexit[INFO2] if m.feat.vmexit_immediate else exitinfo2(m)


@inner
def exit_asked(m):
    """Has a virtual exit been asked for and not been carried out?"""
    return vmexit_pending(m) | m.vexit[ASKED]
