"""L0 emulates the local APIC's page for its guests (Xen, handle_mmio and vlapic_mmio_ops).

The page is not in L0's nested table: an access faults, L0 decodes the instruction and carries it out on
the APIC that it emulates for L1.  L2 gets there when L1's own table maps the page for it.
"""

from __future__ import annotations

from ...arch import vmcb, vmcs, vmx
from ..cpu.apic import is_apic_page
from ..cpu.apic_page import emulate_apic_access
from ..jit import inner, unit
from ..layout import RAX, RSP, Machine
from ..ledger import E_L0_DEVICE_EMULATED, E_L0_GUEST_PAGE_MAPPED, E_L0_INSTRUCTION_EMULATED, count
from ..structs import i64
from ..words import ld32, ld64, lshr, st32, st64
from .svm.checks import EVENT_VALID
from .vmx.checks import BLOCK_MOV_SS, BLOCK_STI
from .vmx.vmcs import own_base, put, vmread, vmwrite

NPF_FETCH, NPF_FINAL = 1 << 4, 1 << 32
QUALIFICATION_FETCH, QUALIFICATION_LINEAR = 1 << 2, 3 << 7
"""An access of the instruction itself: by a linear address, and not to a page table on its way."""


@inner
def _emulate(m, n1p):
    length = emulate_apic_access(m, n1p)
    if length:
        count(m, E_L0_GUEST_PAGE_MAPPED, 1)
        count(m, E_L0_INSTRUCTION_EMULATED, 1)
        count(m, E_L0_DEVICE_EMULATED, 1)
    return length


@unit(Machine, i64)
def svm_apic_mmio(m, n1p):
    """After a nested page fault that ends at L1-physical ``n1p``: 1 when L0 has emulated it."""
    h = m.ram + m.hw.vmcx
    info1 = m.exit.info1
    if not is_apic_page(m, n1p) or info1 & NPF_FETCH or info1 & NPF_FINAL == 0:
        return 0
    if ld32(h + vmcb.EXIT_INT_INFO) & EVENT_VALID:
        return 0
    length = _emulate(m, n1p)
    if length == 0:
        return 0
    st64(h + vmcb.RAX, m.cpu.gpr[RAX])
    st64(h + vmcb.RSP, m.cpu.gpr[RSP])
    st64(h + vmcb.RIP, ld64(h + vmcb.RIP) + length)
    st32(h + vmcb.INT_STATE, 0)
    return 1


@unit(Machine, i64)
def vmx_apic_mmio(m, n1p):
    """After an EPT violation that ends at L1-physical ``n1p``: 1 when L0 has emulated it."""
    qualification = vmread(m, vmcs.SLOT_EXIT_QUALIFICATION)
    linear = qualification & QUALIFICATION_LINEAR == QUALIFICATION_LINEAR
    if not is_apic_page(m, n1p) or qualification & QUALIFICATION_FETCH or not linear:
        return 0
    if lshr(m.exit.vectoring, vmx.INTR_VALID) & 1:
        return 0
    length = _emulate(m, n1p)
    if length == 0:
        return 0
    put(own_base(m, m.hw.vmcx), vmcs.SLOT_GUEST_RSP, m.cpu.gpr[RSP])
    vmwrite(m, vmcs.SLOT_GUEST_RIP, vmread(m, vmcs.SLOT_GUEST_RIP) + length)
    state = vmread(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO)
    if state & (BLOCK_STI | BLOCK_MOV_SS):
        vmwrite(m, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO, state & ~(BLOCK_STI | BLOCK_MOV_SS))
    return 1
