"""Where L0 keeps its own structures: machine addresses in bank 0."""

VMCX01_MA = 0x1000
VMCX02_MA = 0x2000
HOST_SAVE_MA = 0x3000
"""Where L1's context is saved while L2 runs, in the layout that has such an area."""
L0_MSRPM_MA = 0x4000
"""L0's own MSR map: SVM MSRPM (2 pages) or VMX MSR bitmap (1 page)."""
L2_MSRPM_MA = 0x6000
"""The map that L2 runs with: L0's OR L1's, or all ones."""
L0_IOPM_MA = 0x8000
"""L0's own I/O map: SVM IOPM (3 pages) or VMX bitmaps A and B (2 pages)."""
L2_IOPM_MA = 0xB000
VMREAD_BITMAP_MA = 0xE000
VMWRITE_BITMAP_MA = 0xF000
HAP_TABLES_MA = 0x10000
"""n1p_to_l0m: L0's nested tables for L1."""
HAP_TABLES_END_MA = 0x3ED000
SHADOW_VMCS12_MA = 0x3ED000
"""L0's copy of the VMCS that L1 lets L2 use (hvm/vmx/l2_shadow.py)."""
L1_MSR_MAP_MA = 0x3EE000
"""L0's copy of L1's MSR map, 2 pages, in layouts that keep one (hvm/msr_map_copy.py)."""
SVM_IOPM_SET_MA = 0x3F0000
"""Four I/O maps of 3 pages each that L2 may run with (hvm/svm/maps.py)."""
GUEST_MSRS_MA = 0x3FE000
"""MSR area of L0's: values of its guest, stored at every VM exit and loaded at every VM entry."""
HOST_MSRS_MA = 0x3FE800
"""MSR area of L0's: its own values, loaded at every VM exit."""
KVM_VMCS12_MA = 0x3FC000
"""KVM's copy of the current vmcs12 (hvm/vmx/kvm.py)."""
KVM_SHADOW_MA = 0x3FD000
"""The shadow VMCS that KVM gives L1."""
NESTED_STATE_MA = 0x3FF000
"""The per-vcpu nested state, in the layout chosen (feature ``state_layout``)."""
VENDOR_RECORD = 0x800
"""Where the vendor's record starts in that page, in layouts that keep it apart."""
NP2M_POOL_MA = 0x400000
"""Pages for n2p_to_l0m tables, to the end of bank 0."""
BANK0_BYTES = 0x1000000
