"""Controls and MSR bitmap of vmcs02 as KVM makes them (vmcs02_merge.csv, column kvm).

Not modelled: TSC scaling, posted interrupts.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmx
from ....arch.table import rows
from ...jit import inner, unit
from ...layout import PAGE, Machine
from ...ledger import E_L0_MAP_BYTE_MERGED, E_L0_MAP_BYTE_READ, count
from ...structs import i64
from ...words import fill_bytes, ld8, st8
from ..memory_map import L0_MSRPM_MA, L2_MSRPM_MA

CPU_NOT_OF_L0 = vmx.CPU_INTR_WINDOW_EXITING | vmx.CPU_NMI_WINDOW_EXITING | vmx.CPU_TPR_SHADOW
CPU2_NOT_OF_L0 = (
    vmx.CPU2_VIRTUALIZE_APIC_ACCESSES
    | vmx.CPU2_VIRTUALIZE_X2APIC_MODE
    | vmx.CPU2_ENABLE_INVPCID
    | vmx.CPU2_ENABLE_RDTSCP
    | vmx.CPU2_ENABLE_XSAVES
    | vmx.CPU2_ENABLE_USR_WAIT_PAUSE
    | vmx.CPU2_VIRTUAL_INTR_DELIVERY
    | vmx.CPU2_APIC_REGISTER_VIRT
    | vmx.CPU2_ENABLE_VMFUNC
    | vmx.CPU2_DESC
    | vmx.CPU2_UNRESTRICTED_GUEST
)
"""What L0 has for L1 and L2 gets from L1 only."""
CPU2_NEVER = vmx.CPU2_SHADOW_VMCS | vmx.CPU2_ENABLE_VPID | vmx.CPU2_ENABLE_PML
"""VPID: L0's own policy decides.  PML: L0 keeps L1's log itself (hvm/vmx/pml.py)."""


@inner
def kvm_merged_cpu(l0, l1):
    """Primary controls: every port exits; the MSR bitmap only if L1 uses one too."""
    word = (l0 & ~CPU_NOT_OF_L0) | l1
    word = (word & ~vmx.CPU_USE_IO_BITMAPS) | vmx.CPU_UNCOND_IO_EXITING
    return word & ~(vmx.CPU_USE_MSR_BITMAPS & ~(l0 & l1))


@inner
def kvm_merged_cpu2(l0, l1):
    """Secondary controls."""
    not_of_l0 = CPU2_NOT_OF_L0 | vmx.CPU2_SHADOW_VMCS | vmx.CPU2_ENABLE_PML
    return (l0 & ~not_of_l0) | (l1 & ~CPU2_NEVER)


def _passed_bits() -> np.ndarray:
    """Positions in the MSR bitmap of what vmcs02 may let through: always open in KVM's own map."""
    bits = []
    for row in rows("vmx_msr_passthrough"):
        if row["notes"] in ("xen,kvm; KVM vmcs02: passed through if L1 does",
                            "xen,kvm; KVM vmcs02: yes"):  # fmt: skip
            number = int(row["value"], 0)
            bits += [(number & 0x1FFF) + 0x400 * 8 + write for write in (0, 0x800 * 8)]
    return np.array(bits, np.int64)


PASSED_BITS = _passed_bits()
N_PASSED = len(PASSED_BITS)


@unit(Machine, i64)
def kvm_merge_msr_bitmap(m, host):
    """MSR bitmap of vmcs02 from L1's at ``host``: all exit but a few that both let pass."""
    fill_bytes(m.ram + L2_MSRPM_MA, PAGE, 0xFF)
    for i in range(N_PASSED):
        offset, mask = PASSED_BITS[i] >> 3, 1 << (PASSED_BITS[i] & 7)
        if (ld8(host + offset) | ld8(m.ram + L0_MSRPM_MA + offset)) & mask == 0:
            target = m.ram + L2_MSRPM_MA + offset
            st8(target, ld8(target) & ~mask)
    count(m, E_L0_MAP_BYTE_READ, N_PASSED)
    count(m, E_L0_MAP_BYTE_MERGED, N_PASSED)
    return 0
