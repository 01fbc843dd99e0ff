"""Accesses that no RAM answers: the local APIC's page of the bare machine.

Other addresses without RAM read as all ones and lose writes.
"""

from __future__ import annotations

from ..cpu.apic import is_apic_page
from ..jit import inner, unit
from ..layout import ST_VMEXIT, Machine
from ..structs import i64
from .walk import ACC_EXEC, ACC_SYSTEM


@inner
def _bare_apic(m, ma, access):
    """Stop the instruction; the run loop has it carried out on the APIC (``cpu/apic_page``)."""
    if is_apic_page(m, ma) and access & (ACC_EXEC | ACC_SYSTEM) == 0 and m.delivering == 0:
        m.device = ma
        m.pending = ST_VMEXIT
    return 0


@unit(Machine, i64, i64, i64)
def not_ram(m, ma, va, access):
    """An access to machine address ``ma``: 0, with ``m.pending`` set when a device is to answer."""
    if m.hw.guest == 0:
        return _bare_apic(m, ma, access)
    return 0
