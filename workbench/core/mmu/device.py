"""Accesses that no RAM answers: the local APIC's page of the bare machine, VMX's APIC-access page.

Other addresses without RAM read as all ones and lose writes.
"""

from __future__ import annotations

from ..cpu.apic import is_apic_page
from ..hvm.vmx.vapic import vapic_page_access
from ..jit import inner, unit
from ..layout import ST_VMEXIT, Machine
from ..structs import i64
from .walk import ACC_EXEC, ACC_SYSTEM, ACC_WRITE


@inner
def _bare_apic(m, ma, access):
    """Stop the instruction; the run loop has it carried out on the APIC (``cpu/apic_page``)."""
    if is_apic_page(m, ma) and access & (ACC_EXEC | ACC_SYSTEM) == 0 and m.delivering == 0:
        m.device = ma
        m.pending = ST_VMEXIT
    return 0


@unit(Machine, i64, i64)
def not_ram(m, ma, access):
    """An access to machine address ``ma``: host address of what serves it instead of RAM, or 0.

    ``m.pending`` is set when the instruction cannot go on.
    """
    if m.hw.guest == 0:
        return _bare_apic(m, ma, access)
    if ma & ~0xFFF == m.hw.apic_access:
        return vapic_page_access(m, ma & 0xFFF, access & ACC_WRITE, access & ACC_EXEC)
    return 0
