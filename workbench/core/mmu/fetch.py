"""Instruction fetch: which page of RAM the code at a linear address lies in."""

from __future__ import annotations

from ..cpu.exceptions import raise_ud
from ..jit import unit
from ..layout import ST_FAULT, Machine
from ..structs import i64
from .tlb import fast_context, translate
from .walk import ACC_EXEC


@unit(Machine, i64)
def fetch_page(m, va):
    """RAM offset of the 4 KB page that holds the code at ``va``; -1 with ``m.pending`` set.

    Remembers the page in ``m.code_page`` / ``m.code_context`` so that running on in the same page
    needs no further look-up.  Code outside of RAM raises #UD (it would read as all ones).
    """
    host = translate(m, va, ACC_EXEC)
    if host == 0:
        if m.pending == 0:
            raise_ud(m)
            m.pending = ST_FAULT
        return -1
    m.code_page = va & ~0xFFF
    m.code_context = fast_context(m)
    return (host - m.ram) & ~0xFFF
