"""Checks on the host-state area (SDM vol. 3, 27.2.2 to 27.2.4), in the manual's order.

Whoever enters a guest here runs in IA-32e mode: L0, and L1 too (16- and 32-bit code is not modelled).
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...jit import inner, unit
from ...layout import Machine
from ...structs import i64
from .check_util import (
    CR4_PAE,
    EFER_EXISTS,
    EFER_LMA,
    EFER_LME,
    beyond_width,
    not_canonical,
    pat_wrong,
    word,
)
from .controls import CR0_FIXED0, CR0_FIXED1, CR4_FIXED0, CR4_SUPPORTED

RPL_TI = 7


@inner
def _registers(base, controls):
    cr0 = word(base, vmcs.SLOT_HOST_CR0)
    if cr0 & CR0_FIXED0 != CR0_FIXED0 or cr0 & ~CR0_FIXED1:
        return vmx.CHECK_HOST_CR0
    cr4 = word(base, vmcs.SLOT_HOST_CR4)
    if cr4 & CR4_FIXED0 != CR4_FIXED0 or cr4 & ~CR4_SUPPORTED:
        return vmx.CHECK_HOST_CR4
    if beyond_width(word(base, vmcs.SLOT_HOST_CR3)):
        return vmx.CHECK_HOST_CR3
    if not_canonical(word(base, vmcs.SLOT_HOST_IA32_SYSENTER_ESP)) or not_canonical(
        word(base, vmcs.SLOT_HOST_IA32_SYSENTER_EIP)
    ):
        return vmx.CHECK_HOST_SYSENTER
    if controls & vmx.EXIT_CTL_LOAD_IA32_PAT and pat_wrong(word(base, vmcs.SLOT_HOST_IA32_PAT)):
        return vmx.CHECK_HOST_PAT
    if controls & vmx.EXIT_CTL_LOAD_IA32_EFER:
        efer = word(base, vmcs.SLOT_HOST_IA32_EFER)
        both = EFER_LMA | EFER_LME if controls & vmx.EXIT_CTL_HOST_ADDR_SPACE_SIZE else 0
        if efer & ~EFER_EXISTS or efer & (EFER_LMA | EFER_LME) != both:
            return vmx.CHECK_HOST_EFER
    return 0


@inner
def _segments(base, controls):
    selectors = 0
    for slot in range(vmcs.SLOT_HOST_ES_SELECTOR, vmcs.SLOT_HOST_TR_SELECTOR + 1):
        selectors |= word(base, slot)
    if selectors & RPL_TI:
        return vmx.CHECK_HOST_SELECTOR_RPL_TI
    if word(base, vmcs.SLOT_HOST_CS_SELECTOR) == 0 or word(base, vmcs.SLOT_HOST_TR_SELECTOR) == 0:
        return vmx.CHECK_HOST_CS_TR_NULL
    if (
        controls & vmx.EXIT_CTL_HOST_ADDR_SPACE_SIZE == 0
        and word(base, vmcs.SLOT_HOST_SS_SELECTOR) == 0
    ):
        return vmx.CHECK_HOST_SS_NULL
    if (
        not_canonical(word(base, vmcs.SLOT_HOST_FS_BASE))
        or not_canonical(word(base, vmcs.SLOT_HOST_GS_BASE))
        or not_canonical(word(base, vmcs.SLOT_HOST_GDTR_BASE))
        or not_canonical(word(base, vmcs.SLOT_HOST_IDTR_BASE))
        or not_canonical(word(base, vmcs.SLOT_HOST_TR_BASE))
    ):
        return vmx.CHECK_HOST_BASES
    return 0


@unit(Machine, i64)
def vmx_check_host(m, base):
    """Number of the first check on the host state that fails, 0 when all hold."""
    controls = word(base, vmcs.SLOT_VM_EXIT_CONTROLS)
    check = _registers(base, controls)
    if check == 0:
        check = _segments(base, controls)
    if check:
        return check
    # the processor is in IA-32e mode, so the host must be 64-bit
    if controls & vmx.EXIT_CTL_HOST_ADDR_SPACE_SIZE == 0:
        return vmx.CHECK_HOST_ADDRESS_SPACE_SIZE
    if word(base, vmcs.SLOT_HOST_CR4) & CR4_PAE == 0:
        return vmx.CHECK_HOST_PAE
    if not_canonical(word(base, vmcs.SLOT_HOST_RIP)):
        return vmx.CHECK_HOST_RIP
    return 0
