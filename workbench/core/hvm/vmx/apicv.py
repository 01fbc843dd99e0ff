"""L0 lends APIC virtualization and virtual NMIs to L1 (KVM, nested.c): ``apicv``, ``virtual_nmi``.

How what L1 may set of it in vmcs12 reaches vmcs02: L1's pages by their machine addresses, control
bits as L1 has them, and in L1's x2APIC mode the MSRs that the processor virtualizes pass L0's MSR bitmap.  L0 itself keeps emulating the APIC of L1.

Xen offers the TPR shadow and the APIC-access page alone and ends L1's domain at reasons 45 and 56;
posted interrupts are offered by neither here.
"""

from __future__ import annotations

from ....arch import vmcs, vmx
from ...jit import inner, unit
from ...layout import MSR_MAP_MERGED, Machine
from ...ledger import P_ENTRY, P_EXIT
from ...mmu.physical import host_of, ma_ld8
from ...structs import i64
from ...words import ld8, st8
from ..memory_map import L2_MSRPM_MA
from ..p2m import n1p_to_l0m
from .offer import APICV_CPU2, CPU2, l1_may
from .vmcs import get, get_vvmcs, set_vvmcs, vmread, vmwrite

APICV_CPU = vmx.CPU_TPR_SHADOW
CR8_EXITS = vmx.CPU_CR8_LOAD_EXITING | vmx.CPU_CR8_STORE_EXITING
X2APIC_BYTE, X2APIC_BYTES, WRITE_HALF = 0x800 // 8, 0x100 // 8, 0x800
X2APIC_TPR, X2APIC_EOI, X2APIC_SELF_IPI = 0x808, 0x80B, 0x83F


# ---------------------------------------------------------------- vmcs12 -> vmcs02


@inner
def _pass(m, l1_map, number, half):
    """Let an MSR through L2's bitmap if L1's lets it through; ``half``: 0 reads, WRITE_HALF."""
    at = half + (number >> 3)
    mask = 1 << (number & 7)
    host = m.ram + L2_MSRPM_MA + at
    st8(host, (ld8(host) & ~mask) | (ma_ld8(m, l1_map + at) & mask))


@inner
def _open_x2apic(m, v, cpu, cpu2):
    """KVM, nested_vmx_prepare_msr_bitmap."""
    if cpu & vmx.CPU_USE_MSR_BITMAPS == 0 or m.feat.msr_map != MSR_MAP_MERGED:
        return
    l1_map = n1p_to_l0m(m, get(v, vmcs.SLOT_MSR_BITMAP) & ~0xFFF)
    if l1_map < 0 or host_of(m, l1_map) == 0:
        return
    if cpu2 & vmx.CPU2_APIC_REGISTER_VIRT:
        for i in range(X2APIC_BYTE, X2APIC_BYTE + X2APIC_BYTES):
            st8(m.ram + L2_MSRPM_MA + i, ma_ld8(m, l1_map + i))
    _pass(m, l1_map, X2APIC_TPR, 0)
    _pass(m, l1_map, X2APIC_TPR, WRITE_HALF)
    if cpu2 & vmx.CPU2_VIRTUAL_INTR_DELIVERY:
        _pass(m, l1_map, X2APIC_EOI, WRITE_HALF)
        _pass(m, l1_map, X2APIC_SELF_IPI, WRITE_HALF)


@inner
def _give_page(m, v, slot):
    vmwrite(m, slot, n1p_to_l0m(m, get_vvmcs(m, v, slot, P_ENTRY)))


@unit(Machine, i64, i64, i64)
def apicv_merge(m, v, cpu, cpu2):
    """Put L1's APIC virtualization into vmcs02, whose other controls are merged already.

    What L0 does not offer does not count, even where it lets such a vmcs12 pass.
    """
    cpu2 &= l1_may(m, CPU2)
    if cpu & APICV_CPU:
        slot = vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL
        vmwrite(m, slot, (vmread(m, slot) & ~CR8_EXITS) | vmx.CPU_TPR_SHADOW | (cpu & CR8_EXITS))
        _give_page(m, v, vmcs.SLOT_VIRTUAL_APIC_PAGE_ADDR)
        vmwrite(m, vmcs.SLOT_TPR_THRESHOLD, get_vvmcs(m, v, vmcs.SLOT_TPR_THRESHOLD, P_ENTRY))
    slot = vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL
    vmwrite(m, slot, (vmread(m, slot) & ~APICV_CPU2) | (cpu2 & APICV_CPU2))
    if cpu2 & vmx.CPU2_VIRTUALIZE_APIC_ACCESSES:
        _give_page(m, v, vmcs.SLOT_APIC_ACCESS_ADDR)
    if cpu2 & vmx.CPU2_VIRTUALIZE_X2APIC_MODE:
        _open_x2apic(m, v, cpu, cpu2)
    if cpu2 & vmx.CPU2_VIRTUAL_INTR_DELIVERY:
        slot = vmcs.SLOT_GUEST_INTR_STATUS
        vmwrite(m, slot, get_vvmcs(m, v, slot, P_ENTRY))
        for i in range(4):
            slot = vmcs.SLOT_EOI_EXIT_BITMAP0 + i
            vmwrite(m, slot, get_vvmcs(m, v, slot, P_ENTRY))
    return 0


# ---------------------------------------------------------------- vmcs02 -> vmcs12


@inner
def apicv_sync(m, v):
    """Virtual exit: RVI and SVI as the processor left them."""
    if vmread(m, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL) & vmx.CPU2_VIRTUAL_INTR_DELIVERY:
        slot = vmcs.SLOT_GUEST_INTR_STATUS
        set_vvmcs(m, v, slot, vmread(m, slot), P_EXIT)


@inner
def apicv_reflects(m, reason):
    """Exits that only L1's APIC virtualization can cause, and that Xen does not know."""
    return m.feat.apicv != 0 and (reason == vmx.EXIT_EOI_INDUCED or reason == vmx.EXIT_APIC_WRITE)
