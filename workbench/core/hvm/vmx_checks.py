"""Checks of a VMCS before a VM entry (SDM vol. 3, 27.2 and 27.3), by hardware and by L0.

The processor applies :func:`guest_state_wrong` to the VMCS it enters with.  L0 applies it to the
guest state it composed from vmcs12, and :func:`controls_wrong` and :func:`host_state_wrong` to
vmcs12 itself, so that L1 gets error 7 or 8 or exit reason 33 as on hardware.  Xen makes none of
these checks (a mistake of L1 then ends its whole domain), so their reads are not charged to L0.

Checked is what could mislead the rest of the simulator, and what L1 programs commonly get wrong.
Only 64-bit guests are modelled: a guest outside of 64-bit mode counts as an invalid guest state.
Not checked: MSR-load lists, limits and granularity of segments, PAT types, reserved bits of DR7.
"""

from __future__ import annotations

from ...arch import vmcs, vmx
from ..jit import inner, unit
from ..layout import Machine
from ..structs import i64
from ..words import lshr
from .p2m import n1p_to_l0m
from .vmcs import MASKS, get, vvmcs_base
from .vmx_apicv import apicv_cpu, apicv_cpu2, apicv_wrong, virtual_nmi_pin
from .vmx_controls import (
    CPU2_MAY,
    CPU_MAY,
    CPU_MUST,
    CR0_FIXED0,
    CR0_FIXED1,
    CR4_FIXED0,
    CR4_SUPPORTED,
    ENTRY_MAY,
    ENTRY_MUST,
    EXIT_MAY,
    EXIT_MUST,
    PIN_MAY,
    PIN_MUST,
)

CR4_PAE = 1 << 5
EFER_LMA_LME = (1 << 10) | (1 << 8)
RFLAGS_IF = 1 << 9
RFLAGS_RESERVED = ~0x3F_7FD7
"""RFLAGS bits that must be 0 (all but bit 1), VM among them."""
RFLAGS_VM = 1 << 17
AR_UNUSABLE = 1 << 16
AR_S, AR_P, AR_L, AR_DB = 1 << 4, 1 << 7, 1 << 13, 1 << 14
AR_RESERVED = ~0x1F0FF
TSS_BUSY, LDT_TYPE = 11, 2
INTR_VALID = 1 << vmx.INTR_VALID
INTR_ERROR = 1 << vmx.INTR_ERRCODE_VALID
INTR_RESERVED = 0x7FFF_F000
EPTP_RESERVED = ~((1 << 40) - 1) | 0xFC0
EPTP_AD = 1 << 6
EPTP_WALK_4 = 3
BLOCK_STI, BLOCK_MOV_SS = 1, 2


@inner
def not_canonical(address):
    """Is ``address`` outside of the 48-bit linear address space?"""
    return (address << 16) >> 16 != address


# ---------------------------------------------------------------- guest state


@inner
def _data_segment_wrong(attributes):
    if attributes & AR_UNUSABLE:
        return False
    return (
        attributes & AR_RESERVED != 0
        or attributes & AR_S == 0
        or attributes & AR_P == 0
        or attributes & 1 == 0
    )


@inner
def _segments_wrong(base):
    cs = get(base, vmcs.SLOT_GUEST_CS_AR_BYTES)
    ss = get(base, vmcs.SLOT_GUEST_SS_AR_BYTES)
    tr = get(base, vmcs.SLOT_GUEST_TR_AR_BYTES)
    ldtr = get(base, vmcs.SLOT_GUEST_LDTR_AR_BYTES)
    # CS: accessed code, present, 64-bit; its privilege is SS's
    if cs & (AR_UNUSABLE | AR_RESERVED | AR_DB) or cs & (AR_S | AR_P | AR_L) != AR_S | AR_P | AR_L:
        return True
    if cs & 9 != 9 or (cs & 4 == 0 and (cs ^ ss) & 0x60):
        return True
    if ss & AR_UNUSABLE == 0 and (_data_segment_wrong(ss) or ss & 0xF & ~4 != 3):
        return True
    # TR: busy 64-bit TSS; LDTR: unusable or an LDT
    if tr & (AR_UNUSABLE | AR_RESERVED | AR_S) or tr & AR_P == 0 or tr & 0xF != TSS_BUSY:
        return True
    if ldtr & AR_UNUSABLE == 0 and (ldtr & (AR_RESERVED | AR_S) or ldtr & 0xF != LDT_TYPE):
        return True
    for slot in range(vmcs.SLOT_GUEST_DS_AR_BYTES, vmcs.SLOT_GUEST_GS_AR_BYTES + 1):
        if _data_segment_wrong(get(base, slot)):
            return True
    return _data_segment_wrong(get(base, vmcs.SLOT_GUEST_ES_AR_BYTES))


@inner
def _addresses_wrong(base):
    return (
        not_canonical(get(base, vmcs.SLOT_GUEST_RIP))
        or not_canonical(get(base, vmcs.SLOT_GUEST_FS_BASE))
        or not_canonical(get(base, vmcs.SLOT_GUEST_GS_BASE))
        or not_canonical(get(base, vmcs.SLOT_GUEST_TR_BASE))
        or not_canonical(get(base, vmcs.SLOT_GUEST_LDTR_BASE))
        or not_canonical(get(base, vmcs.SLOT_GUEST_GDTR_BASE))
        or not_canonical(get(base, vmcs.SLOT_GUEST_IDTR_BASE))
        or not_canonical(get(base, vmcs.SLOT_GUEST_SYSENTER_ESP))
        or not_canonical(get(base, vmcs.SLOT_GUEST_SYSENTER_EIP))
        or (get(base, vmcs.SLOT_GUEST_GDTR_LIMIT) | get(base, vmcs.SLOT_GUEST_IDTR_LIMIT)) >> 16
        != 0
    )


@inner
def _registers_wrong(base):
    cr0 = get(base, vmcs.SLOT_GUEST_CR0)
    cr4 = get(base, vmcs.SLOT_GUEST_CR4)
    if cr0 & CR0_FIXED0 != CR0_FIXED0 or cr0 & ~CR0_FIXED1:
        return True
    if cr4 & (CR4_FIXED0 | CR4_PAE) != CR4_FIXED0 | CR4_PAE or cr4 & ~CR4_SUPPORTED:
        return True
    entry = get(base, vmcs.SLOT_VM_ENTRY_CONTROLS)
    if entry & vmx.ENTRY_CTL_IA32E_MODE == 0:
        return True
    efer = get(base, vmcs.SLOT_GUEST_IA32_EFER)
    if entry & vmx.ENTRY_CTL_LOAD_IA32_EFER and (
        efer & EFER_LMA_LME != EFER_LMA_LME or efer & ~0xD01
    ):
        return True
    return lshr(get(base, vmcs.SLOT_GUEST_CR3), 40) != 0


@inner
def _activity_wrong(base):
    flags = get(base, vmcs.SLOT_GUEST_RFLAGS)
    if flags & RFLAGS_RESERVED or flags & RFLAGS_VM or flags & 2 == 0:
        return True
    blocked = get(base, vmcs.SLOT_GUEST_INTERRUPTIBILITY_INFO)
    if blocked & ~0xB or blocked & 3 == BLOCK_STI | BLOCK_MOV_SS:
        return True
    if blocked & BLOCK_STI and flags & RFLAGS_IF == 0:
        return True
    event = get(base, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD)
    if event & INTR_VALID and lshr(event, 8) & 7 == vmx.INTR_TYPE_EXT_INTR:
        if flags & RFLAGS_IF == 0 or blocked & 3:
            return True
    return get(base, vmcs.SLOT_GUEST_ACTIVITY_STATE) != 0


@unit(i64)
def guest_state_wrong(base):
    """Guest-state checks (SDM 27.3.1) on the VMCS whose slot 0 is at host address ``base``."""
    if (
        _registers_wrong(base)
        or _activity_wrong(base)
        or _addresses_wrong(base)
        or _segments_wrong(base)
    ):
        return 1
    return 0


# ---------------------------------------------------------------- controls


@inner
def _outside(word, must, may):
    return word & must != must or word & ~may != 0


@inner
def event_wrong(base):
    """Checks of VM-entry event injection (SDM 27.2.1.3)."""
    info = get(base, vmcs.SLOT_VM_ENTRY_INTR_INFO_FIELD) & 0xFFFF_FFFF
    if info & INTR_VALID == 0:
        return False
    kind = lshr(info, 8) & 7
    vector = info & 0xFF
    if info & INTR_RESERVED or kind == vmx.INTR_TYPE_RESERVED or kind == 7:
        return True
    if (kind == vmx.INTR_TYPE_NMI and vector != 2) or (kind == 3 and vector > 31):
        return True
    if info & INTR_ERROR:
        # exceptions that push an error code: 8, 10 to 14, 17
        return kind != 3 or lshr(0x27D00, vector) & 1 == 0
    if kind == 3 and lshr(0x27D00, vector) & 1:
        return True
    length = get(base, vmcs.SLOT_VM_ENTRY_INSTRUCTION_LEN) & 0xFFFF_FFFF
    return 4 <= kind <= 6 and (length == 0 or length > 15)


@inner
def _page_wrong(m, base, slot):
    address = get(base, slot)
    return address & 0xFFF != 0 or n1p_to_l0m(m, address) < 0


@inner
def _word(base, slot):
    return get(base, slot) & MASKS[slot]


@unit(Machine)
def controls_wrong(m):
    """Checks of vmcs12's control fields (SDM 27.2.1): 1 means error 7.

    That the bitmaps' pages exist is Xen's own check; the rest is the manual's.
    """
    base = vvmcs_base(m)
    pin = _word(base, vmcs.SLOT_PIN_BASED_VM_EXEC_CONTROL)
    cpu = _word(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL)
    cpu2 = 0
    if cpu & vmx.CPU_ACTIVATE_SECONDARY_CONTROLS:
        cpu2 = _word(base, vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL)
    # 1. the control words against the capability MSRs
    if (
        _outside(pin, PIN_MUST, PIN_MAY | virtual_nmi_pin(m))
        or _outside(cpu, CPU_MUST, CPU_MAY | apicv_cpu(m))
        or _outside(cpu2, 0, CPU2_MAY | apicv_cpu2(m))
        or _outside(_word(base, vmcs.SLOT_VM_EXIT_CONTROLS), EXIT_MUST, EXIT_MAY)
        or _outside(_word(base, vmcs.SLOT_VM_ENTRY_CONTROLS), ENTRY_MUST, ENTRY_MAY)
    ):
        return 1
    if _word(base, vmcs.SLOT_CR3_TARGET_COUNT):
        return 1
    if pin & vmx.PIN_VIRTUAL_NMIS == 0:
        if cpu & vmx.CPU_NMI_WINDOW_EXITING:
            return 1
    elif pin & vmx.PIN_NMI_EXITING == 0:
        return 1
    # 2. bitmaps
    if cpu & vmx.CPU_USE_IO_BITMAPS and (
        _page_wrong(m, base, vmcs.SLOT_IO_BITMAP_A) or _page_wrong(m, base, vmcs.SLOT_IO_BITMAP_B)
    ):
        return 1
    if cpu & vmx.CPU_USE_MSR_BITMAPS and _page_wrong(m, base, vmcs.SLOT_MSR_BITMAP):
        return 1
    if apicv_wrong(m, base, pin, cpu, cpu2):
        return 1
    # 3. VPID and EPT; without EPT L1 would have to shadow L2's tables, which is not modelled
    if cpu2 & vmx.CPU2_ENABLE_VPID and (
        m.feat.vpid_for_l1 == 0 or _word(base, vmcs.SLOT_VIRTUAL_PROCESSOR_ID) == 0
    ):
        return 1
    eptp = get(base, vmcs.SLOT_EPT_POINTER)
    memory_type = eptp & 7
    reserved = EPTP_RESERVED & ~EPTP_AD if m.feat.ept_ad else EPTP_RESERVED
    if cpu2 & vmx.CPU2_ENABLE_EPT == 0 or eptp & reserved:
        return 1
    if (memory_type != 0 and memory_type != 6) or lshr(eptp, 3) & 7 != EPTP_WALK_4:
        return 1
    # 4. event injection
    return 1 if event_wrong(base) else 0


# ---------------------------------------------------------------- host state


@unit(Machine)
def host_state_wrong(m):
    """Checks of vmcs12's host-state fields (SDM 27.2.2 to 27.2.4): 1 means error 8."""
    base = vvmcs_base(m)
    cr0 = get(base, vmcs.SLOT_HOST_CR0)
    cr4 = get(base, vmcs.SLOT_HOST_CR4)
    if cr0 & CR0_FIXED0 != CR0_FIXED0 or cr0 & ~CR0_FIXED1:
        return 1
    if cr4 & (CR4_FIXED0 | CR4_PAE) != CR4_FIXED0 | CR4_PAE or cr4 & ~CR4_SUPPORTED:
        return 1
    if lshr(get(base, vmcs.SLOT_HOST_CR3), 40):
        return 1
    exit_controls = _word(base, vmcs.SLOT_VM_EXIT_CONTROLS)
    if exit_controls & vmx.EXIT_CTL_HOST_ADDR_SPACE_SIZE == 0:
        return 1
    efer = get(base, vmcs.SLOT_HOST_IA32_EFER)
    if exit_controls & vmx.EXIT_CTL_LOAD_IA32_EFER and (
        efer & EFER_LMA_LME != EFER_LMA_LME or efer & ~0xD01
    ):
        return 1
    for slot in range(vmcs.SLOT_HOST_ES_SELECTOR, vmcs.SLOT_HOST_TR_SELECTOR + 1):
        if get(base, slot) & 7:
            return 1
    if _word(base, vmcs.SLOT_HOST_CS_SELECTOR) == 0 or _word(base, vmcs.SLOT_HOST_TR_SELECTOR) == 0:
        return 1
    wrong = (
        not_canonical(get(base, vmcs.SLOT_HOST_RIP))
        or not_canonical(get(base, vmcs.SLOT_HOST_FS_BASE))
        or not_canonical(get(base, vmcs.SLOT_HOST_GS_BASE))
        or not_canonical(get(base, vmcs.SLOT_HOST_TR_BASE))
        or not_canonical(get(base, vmcs.SLOT_HOST_GDTR_BASE))
        or not_canonical(get(base, vmcs.SLOT_HOST_IDTR_BASE))
        or not_canonical(get(base, vmcs.SLOT_HOST_IA32_SYSENTER_ESP))
        or not_canonical(get(base, vmcs.SLOT_HOST_IA32_SYSENTER_EIP))
    )
    return 1 if wrong else 0
