"""Raising exceptions: fill ``m.exc`` and tell the run loop.

Delivery through the IDT is in ``delivery.py``.  Vectors: SDM vol. 3, 6.15 (APM vol. 2, 8.2).
Debug exceptions are in ``debug``.  Not modelled: machine checks, floating-point exceptions.
"""

from __future__ import annotations

from ..jit import inner
from ..layout import ST_FAULT
from ..words import lshr

DE, DB, NMI, BP, OF, BR, UD, NM, DF = range(9)
TS, NP, SS, GP, PF = 10, 11, 12, 13, 14
MF, AC, MC, XM = 16, 17, 18, 19

KIND_INTERRUPT, KIND_NMI, KIND_EXCEPTION, KIND_SOFTWARE, KIND_PRIVILEGED, KIND_SOFT_EXCEPTION = (
    0, 2, 3, 4, 5, 6,
)  # fmt: skip


@inner
def raise_exception(m, vector, error_code, has_error):
    """Make a hardware exception pending; the value to return from a handler."""
    e = m.exc
    e.vector = vector
    e.error = error_code
    e.has_error = has_error
    e.kind = KIND_EXCEPTION
    e.length = 0
    e.injected = 0
    return ST_FAULT


@inner
def raise_gp0(m):
    """#GP with error code 0."""
    return raise_exception(m, GP, 0, 1)


@inner
def raise_ud(m):
    """#UD."""
    return raise_exception(m, UD, 0, 0)


@inner
def raise_software(m, vector, kind, length):
    """INT n, INT3, INT1: an event whose return address lies behind the instruction."""
    e = m.exc
    e.vector = vector
    e.error = 0
    e.has_error = 0
    e.kind = kind
    e.length = length
    e.injected = 0
    return ST_FAULT


CONTRIBUTORY_VECTORS = 1 << DE | 1 << TS | 1 << NP | 1 << SS | 1 << GP


@inner
def combined(first, second):
    """Vector of an exception that hits while another one waits to be injected (SDM table 6-5).

    As Xen, hvm_combine_hw_exceptions, but for the triple fault: a second fault replaces #DF.
    """
    grave = lshr(CONTRIBUTORY_VECTORS, second) & 1
    if lshr(CONTRIBUTORY_VECTORS, first) & 1 and grave:
        return DF
    if first == PF and (grave or second == PF):
        return DF
    return second
