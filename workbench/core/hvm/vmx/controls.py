"""Control words: what the modelled processor can do, and what L0 asks for.

Built at import from vmx_controls.csv.  :data:`HARDWARE` lists the controls that the modelled
processor implements; L0's defaults are Xen's (column ``xen_L0_default``, the variant with nested
paging) as far as the hardware goes.  What L1 is offered: hvm/vmx/offer.py.

Not modelled, and so offered to nobody: posted interrupts, PAUSE-loop exiting, VM functions, XSAVES,
TSC scaling, SGX, tertiary controls.
"""

from __future__ import annotations

from ....arch import vmx
from ....arch.table import identifier, rows
from ...cpu.control_bits import CR4_KNOWN, CR4_VMXE

HARDWARE: dict[str, frozenset[str]] = {
    "pin": frozenset({"EXT_INTR", "NMI_EXITING", "VIRTUAL_NMIS", "VMX_PREEMPTION_TIMER"}),
    "cpu": frozenset(
        {
            "USE_TSC_OFFSETTING", "HLT_EXITING", "INVLPG_EXITING", "MWAIT_EXITING",
            "RDPMC_EXITING", "RDTSC_EXITING", "CR3_LOAD_EXITING", "CR3_STORE_EXITING",
            "CR8_LOAD_EXITING", "CR8_STORE_EXITING", "MOV_DR_EXITING", "UNCOND_IO_EXITING",
            "USE_IO_BITMAPS", "USE_MSR_BITMAPS", "MONITOR_EXITING", "PAUSE_EXITING",
            "ACTIVATE_SECONDARY_CONTROLS", "INTR_WINDOW_EXITING", "NMI_WINDOW_EXITING",
            "MONITOR_TRAP_FLAG",
        }
    ),
    "sec": frozenset(
        {
            "ENABLE_EPT", "DESC", "ENABLE_RDTSCP", "ENABLE_VPID", "WBINVD_EXITING",
            "RDRAND_EXITING", "ENABLE_INVPCID", "SHADOW_VMCS", "RDSEED_EXITING",
            "UNRESTRICTED_GUEST", "ENABLE_PML",
        }
    ),
    "exit": frozenset(
        {
            "SAVE_DEBUG_CONTROLS", "HOST_ADDR_SPACE_SIZE", "ACK_INTR_ON_EXIT", "SAVE_IA32_PAT",
            "LOAD_IA32_PAT", "SAVE_IA32_EFER", "LOAD_IA32_EFER", "SAVE_VMX_PREEMPTION_TIMER",
        }
    ),
    "entry": frozenset(
        {"LOAD_DEBUG_CONTROLS", "IA32E_MODE", "LOAD_IA32_PAT", "LOAD_IA32_EFER"}
    ),
}  # fmt: skip
"""Controls that the modelled processor implements, by group."""

LENT: dict[str, frozenset[str]] = {
    "cpu": frozenset({"TPR_SHADOW"}),
    "sec": frozenset(
        {
            "VIRTUALIZE_APIC_ACCESSES", "VIRTUALIZE_X2APIC_MODE", "APIC_REGISTER_VIRT",
            "VIRTUAL_INTR_DELIVERY",
        }
    ),
}  # fmt: skip
"""Controls that the processor has too, but that L0 does not use for L1 (it emulates L1's APIC); L1 gets
them by a feature (``apicv``)."""

XEN_DEFAULT: dict[str, bool] = {
    "set": True,
    "set if hw": True,
    "set (lazy)": True,
    "set with HAP": True,
    "set with HAP if hw": True,
    "set (ack interrupt on exit)": True,
    "set (default1; Xen reads the non-TRUE MSR)": True,
    "set if hw (ple_gap 128, ple_window 4096)": True,
    "set if hw; follows LAPIC mode (vmx_vlapic_msr_changed)": True,
    "set if hw+VID": True,
    "chosen at each VM entry (vmx_vmenter_helper: set unless ASID==0)": True,
    "dynamic (guest LMA)": True,
    "clear if TPR shadow": True,
    "clear": False,
    "set; clear with HAP": False,
    "set; clear with HAP (while paging on)": False,
    "set if apicv": False,
    "set if MPX": False,
    "set if vtsc without TSC scaling": False,
    "set if vm-notify-window": False,
    "set only after nested VMPTRLD": False,
    "logdirty only": False,
    "dynamic": False,
    "dynamic (singlestep)": False,
    "dynamic (in min set: capability must exist)": False,
    "dynamic (guest LAPIC in x2APIC mode)": False,
    "set if hw (vnmi)": True,
    "set; clear if EPT": False,
    "set if hw & IPI virt": False,
    "set if hw & in-kernel LAPIC": True,
    "set (lazy via KVM_DEBUGREG_WONT_EXIT)": True,
    "set (I/O always exits; bitmaps never used)": True,
    "set if flexpriority & xAPIC": True,
    "set if EPT": True,
    "if guest CPUID": True,
    "set if vpid!=0": True,
    "set if EPT&hw": True,
    "set if hw (ple_gap 128, window 4096)": True,
    "set if APICv active": False,
    "set by nested VMPTRLD": False,
    "APICv": False,
    "dirty logging only": False,
    "dynamic (hv timer)": False,
    "dynamic (UMIP emulation)": False,
    "dynamic (x2APIC)": False,
    "if guest lacks RDRAND": False,
    "if guest lacks RDSEED": False,
    "if guest WAITPKG": False,
    "if SGX hw": False,
    "if user enabled": False,
}
"""How each text of the L0-default columns is understood here: nested paging on, a 64-bit guest,
no TPR shadow (so CR8 accesses exit).  VPID: kept set, ``hvm/tags`` chooses the tag."""
KVM_SWITCHED = frozenset({"LOAD_IA32_EFER"})
"""Controls that KVM sets when it needs them, and that this L0 needs always: L1 and L2 may differ."""

DEFAULT1 = {
    "pin": vmx.PIN_DEFAULT1,
    "cpu": vmx.CPU_DEFAULT1,
    "sec": 0,
    "exit": vmx.EXIT_CTL_DEFAULT1,
    "entry": vmx.ENTRY_CTL_DEFAULT1,
}
"""Bits that must be 1 according to the plain capability MSRs."""

_ROWS = [r for r in rows("vmx_controls") if r["group"] in HARDWARE]


def _bit(row: dict[str, str]) -> int:
    return 1 << int(row["value"], 0)


def _word(group: str, names: frozenset[str]) -> int:
    return sum(_bit(r) for r in _ROWS if r["group"] == group and r["name"] in names)


def _l0_default(group: str, l0: str = "xen") -> int:
    """A hypervisor's control word on this hardware, with the reserved bits that must be 1."""
    flexible = _word(group, frozenset(r["name"] for r in _ROWS if r["default1"] == "1"))
    word = DEFAULT1[group] & ~flexible
    for row in (r for r in _ROWS if r["group"] == group):
        text = row[f"{l0}_L0_default"]
        if text not in XEN_DEFAULT:
            raise ValueError(f"vmx_controls.csv, {identifier(row['name'])}: unknown text {text!r}")
        wanted = XEN_DEFAULT[text] or (l0 == "kvm" and row["name"] in KVM_SWITCHED)
        if wanted and row["name"] in HARDWARE[group]:
            word |= _bit(row)
    return word


def _capability(group: str) -> tuple[int, int]:
    """(must be 1, may be 1) of a group of the hardware's, by its TRUE capability MSR."""
    flexible = _word(group, frozenset(r["name"] for r in _ROWS if r["default1"] == "1"))
    has = _word(group, HARDWARE[group] | LENT.get(group, frozenset()))
    return DEFAULT1[group] & ~flexible, DEFAULT1[group] | has


L0_PIN = _l0_default("pin")
L0_CPU = _l0_default("cpu")
L0_CPU2 = _l0_default("sec")
L0_EXIT = _l0_default("exit")
L0_ENTRY = _l0_default("entry")
"""Xen's control words in vmcs01."""
KVM_PIN = _l0_default("pin", "kvm")
KVM_CPU = _l0_default("cpu", "kvm")
KVM_CPU2 = _l0_default("sec", "kvm")
KVM_EXIT = _l0_default("exit", "kvm")
KVM_ENTRY = _l0_default("entry", "kvm")
"""KVM's control words in vmcs01."""

CAPABILITIES_HARDWARE: dict[str, tuple[int, int]] = {
    group: _capability(group) for group in HARDWARE
}
"""What the processor checks the controls of vmcs01 and vmcs02 against; of vmcs12: hvm/vmx/offer.py."""

L0_EXCEPTIONS = (1 << 1) | (1 << 17) | (1 << 18)
"""L0's exception bitmap: #DB, #AC, #MC (Xen, HVM_TRAP_MASK, with nested paging)."""

KVM_EXCEPTIONS = (1 << 1) | (1 << 6) | (1 << 17) | (1 << 18)
"""KVM's: #DB, #UD, #AC, #MC (vmx_update_exception_bitmap, with EPT)."""

CR0_FIXED0 = 0x8000_0021
"""CR0 bits that VMX operation keeps at 1: PG, NE, PE."""
CR0_FIXED1 = 0xFFFF_FFFF
CR4_FIXED0 = 0x2000
"""CR4.VMXE."""
CR4_SUPPORTED = CR4_KNOWN | CR4_VMXE
"""CR4 bits that exist."""
CR4_L0_MASK = 0x2060 | ~CR4_SUPPORTED
"""CR4 bits that L0 owns: PAE, MCE, VMXE and what does not exist (Xen, HVM_CR4_HOST_MASK)."""
CR0_L0_MASK = -1
"""CR0 bits that L0 owns: all (Xen)."""
KVM_CR0_GUEST = (1 << 3) | (1 << 16)
"""CR0 bits that KVM leaves to its guests: TS, and WP, which it must own when it shadows."""
KVM_CR4_GUEST = (
    1 << 1 | 1 << 2 | 1 << 3 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 16
) & CR4_SUPPORTED
"""CR4 bits that KVM leaves to its guests: PVI, TSD, DE, PGE, PCE, OSFXSR, OSXMMEXCPT, FSGSBASE as far
as they exist (KVM_POSSIBLE_CR4_GUEST_BITS); PGE it owns when it shadows."""
CR4_PGE = 1 << 7
