"""Slow, obvious readings of the VMX rules, written from the manual's and the tables' text."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.arch.table import rows

BIT = {(r["group"], r["name"]): 1 << int(r["value"], 0) for r in rows("vmx_controls") if r["group"]}
"""Control masks by (group, name)."""

Fields = Mapping[str, int]


def control(fields: Fields, group: str, name: str) -> bool:
    """Is a control of a VMCS in effect?"""
    if group == "sec" and not control(fields, "cpu", "ACTIVATE_SECONDARY_CONTROLS"):
        return False
    field = {
        "pin": "PIN_BASED_VM_EXEC_CONTROL",
        "cpu": "CPU_BASED_VM_EXEC_CONTROL",
        "sec": "SECONDARY_VM_EXEC_CONTROL",
        "exit": "VM_EXIT_CONTROLS",
        "entry": "VM_ENTRY_CONTROLS",
    }[group]
    return bool(fields.get(field, 0) & BIT[group, name])


# ---------------------------------------------------------------- permission maps


def msr_exits(bitmap: bytes, number: int, write: bool) -> bool:
    """SDM vol. 3, 25.6.9: four 1 KB maps; other MSRs always exit."""
    if number <= 0x1FFF:
        offset, index = 0x000, number
    elif 0xC0000000 <= number <= 0xC0001FFF:
        offset, index = 0x400, number - 0xC0000000
    else:
        return True
    if write:
        offset += 0x800
    return bool(bitmap[offset + index // 8] & (1 << index % 8))


def io_exits(bitmaps: bytes, port: int, size: int) -> bool:
    """SDM vol. 3, 25.6.4 and 26.1.3: any touched port's bit, or an access past port 0xffff."""
    if port + size > 0x10000:
        return True
    return any(bitmaps[p // 8] & (1 << p % 8) for p in range(port, port + size))


def merged_msr_bitmap(l0: bytes, l1: bytes) -> bytes:
    """vmcs02_merge.csv: OR, and the x2APIC MSRs 0x800..0x8ff always exit."""
    merged = bytearray(a | b for a, b in zip(l0, l1, strict=True))
    for number in range(0x800, 0x900):
        for offset in (0, 0x800):
            merged[offset + number // 8] |= 1 << number % 8
    return bytes(merged)


# ---------------------------------------------------------------- events


def exception_exits(fields: Fields, vector: int, error: int) -> bool:
    """SDM vol. 3, 26.2: the bitmap's bit; for #PF inverted when the error code does not match."""
    bit = bool(fields["EXCEPTION_BITMAP"] >> vector & 1)
    if vector != 14:
        return bit
    matches = error & fields["PAGE_FAULT_ERROR_CODE_MASK"] == fields["PAGE_FAULT_ERROR_CODE_MATCH"]
    return bit if matches else not bit


# ---------------------------------------------------------------- routing

_BY_CONTROL = {
    "INTERRUPT_WINDOW": ("cpu", "INTR_WINDOW_EXITING"),
    "NMI_WINDOW": ("cpu", "NMI_WINDOW_EXITING"),
    "HLT": ("cpu", "HLT_EXITING"),
    "INVLPG": ("cpu", "INVLPG_EXITING"),
    "RDPMC": ("cpu", "RDPMC_EXITING"),
    "RDTSC": ("cpu", "RDTSC_EXITING"),
    "RDTSCP": ("cpu", "RDTSC_EXITING"),
    "MWAIT_INSTRUCTION": ("cpu", "MWAIT_EXITING"),
    "MONITOR_INSTRUCTION": ("cpu", "MONITOR_EXITING"),
    "MONITOR_TRAP_FLAG": ("cpu", "MONITOR_TRAP_FLAG"),
    "PAUSE_INSTRUCTION": ("cpu", "PAUSE_EXITING"),
    "TPR_BELOW_THRESHOLD": ("cpu", "TPR_SHADOW"),
    "APIC_ACCESS": ("sec", "VIRTUALIZE_APIC_ACCESSES"),
    "GDTR_IDTR": ("sec", "DESC"),
    "LDTR_TR": ("sec", "DESC"),
    "PREEMPTION_TIMER": ("pin", "VMX_PREEMPTION_TIMER"),
}
_L1_ALWAYS = {
    "TRIPLE_FAULT", "TASK_SWITCH", "CPUID", "GETSEC", "INVD", "VMCALL", "VMCLEAR", "VMLAUNCH",
    "VMPTRLD", "VMPTRST", "VMREAD", "VMRESUME", "VMWRITE", "VMOFF", "VMON", "INVEPT", "INVVPID",
    "XSETBV",
}  # fmt: skip
_L0_ALWAYS = {
    "EXTERNAL_INTERRUPT", "EPT_VIOLATION", "EPT_MISCONFIG", "WBINVD", "BUS_LOCK", "NOTIFY",
}  # fmt: skip


def cr_access_goes_to_l1(fields: Fields, qualification: int, value: int) -> bool:
    """A control-register exit is L1's if L1 asked for it (SDM vol. 3, 26.1.3)."""
    register, kind = qualification & 15, qualification >> 4 & 3
    changed0 = fields["CR0_GUEST_HOST_MASK"]
    if kind == 2:  # CLTS
        return bool(changed0 & fields["CR0_READ_SHADOW"] & 8)
    if kind == 3:  # LMSW: MP, EM, TS; PE only when it is set
        source = qualification >> 16 & 0xFFFF
        changed0 &= source ^ fields["CR0_READ_SHADOW"]
        return bool(changed0 & 0xE or changed0 & source & 1)
    if register == 3:
        targets = [fields.get(f"CR3_TARGET_VALUE{n}", 0) for n in range(4)]
        if kind == 0 and value in targets[: fields.get("CR3_TARGET_COUNT", 0)]:
            return False
        return control(fields, "cpu", "CR3_STORE_EXITING" if kind else "CR3_LOAD_EXITING")
    if register == 8:
        return control(fields, "cpu", "CR8_STORE_EXITING" if kind else "CR8_LOAD_EXITING")
    if kind == 1:
        return False
    name = f"CR{register}"
    return bool((value ^ fields[f"{name}_READ_SHADOW"]) & fields[f"{name}_GUEST_HOST_MASK"])


def goes_to_l1(
    name: str,
    fields: Fields,
    *,
    qualification: int = 0,
    intr_info: int = 0,
    value: int = 0,
    msr: int = 0,
    msr_bitmap: bytes = b"",
    io_bitmaps: bytes = b"",
    debug_registers_dirty: bool = False,
) -> bool:
    """Does L2's exit ``name`` go to L1? Xen, nvmx_n2_vmexit_handler."""
    if name in _L1_ALWAYS:
        return True
    if name in _L0_ALWAYS:
        return False
    if name in _BY_CONTROL:
        return control(fields, *_BY_CONTROL[name])
    if name == "EXCEPTION_NMI":
        kind, vector = intr_info >> 8 & 7, intr_info & 31
        if kind != 3:
            return False
        return vector == 14 or bool(fields["EXCEPTION_BITMAP"] >> vector & 1)
    if name in ("MSR_READ", "MSR_WRITE"):
        if not control(fields, "cpu", "USE_MSR_BITMAPS"):
            return True
        return msr_exits(msr_bitmap, msr, name == "MSR_WRITE")
    if name == "IO_INSTRUCTION":
        if control(fields, "cpu", "USE_IO_BITMAPS"):
            return io_exits(io_bitmaps, qualification >> 16 & 0xFFFF, (qualification & 7) + 1)
        return control(fields, "cpu", "UNCOND_IO_EXITING")
    if name == "CR_ACCESS":
        return cr_access_goes_to_l1(fields, qualification, value)
    if name == "DR_ACCESS":
        return control(fields, "cpu", "MOV_DR_EXITING") and debug_registers_dirty
    return False  # Xen ends the domain: no exit for L1


# ---------------------------------------------------------------- merging


APIC_VIRTUALIZATION = {"SECONDARY_VM_EXEC_CONTROL": (
    "VIRTUALIZE_APIC_ACCESSES", "VIRTUALIZE_X2APIC_MODE", "APIC_REGISTER_VIRT",
    "VIRTUAL_INTR_DELIVERY"), "CPU_BASED_VM_EXEC_CONTROL": ("TPR_SHADOW",)}  # fmt: skip


def without_apic_virtualization(l1: Fields) -> Fields:
    """vmcs12's controls where L0 lends none of it: such bits do not reach vmcs02."""
    groups = {"SECONDARY_VM_EXEC_CONTROL": "sec", "CPU_BASED_VM_EXEC_CONTROL": "cpu"}
    kept = {
        field: l1[field] & ~sum(BIT[groups[field], name] for name in names)
        for field, names in APIC_VIRTUALIZATION.items()
    }
    return {**l1, **kept}


def kvm_merged_controls(l0: Fields, l1: Fields, software_timer: bool = False) -> dict[str, int]:
    """Control words of vmcs02 by vmcs02_merge.csv, column kvm, as far as they are modelled.

    ``software_timer``: KVM's own timer stands in for vmcs12's, not the processor's.
    """
    cpu = l0["CPU_BASED_VM_EXEC_CONTROL"]
    for name in ("INTR_WINDOW_EXITING", "NMI_WINDOW_EXITING", "TPR_SHADOW"):
        cpu &= ~BIT["cpu", name]
    cpu |= l1["CPU_BASED_VM_EXEC_CONTROL"]
    cpu = cpu & ~BIT["cpu", "USE_IO_BITMAPS"] | BIT["cpu", "UNCOND_IO_EXITING"]
    if not control(l1, "cpu", "USE_MSR_BITMAPS"):
        cpu &= ~BIT["cpu", "USE_MSR_BITMAPS"]
    secondary = l0["SECONDARY_VM_EXEC_CONTROL"]
    for name in ("VIRTUALIZE_APIC_ACCESSES", "VIRTUALIZE_X2APIC_MODE", "ENABLE_INVPCID",
                 "ENABLE_RDTSCP", "ENABLE_XSAVES", "ENABLE_USR_WAIT_PAUSE", "DESC",
                 "VIRTUAL_INTR_DELIVERY", "APIC_REGISTER_VIRT", "ENABLE_VMFUNC",
                 "UNRESTRICTED_GUEST", "SHADOW_VMCS"):  # fmt: skip
        secondary &= ~BIT["sec", name]
    if control(l1, "cpu", "ACTIVATE_SECONDARY_CONTROLS"):
        mine = l1["SECONDARY_VM_EXEC_CONTROL"] & ~BIT["sec", "SHADOW_VMCS"]
        secondary |= mine & ~BIT["sec", "ENABLE_VPID"]
    secondary &= ~BIT["sec", "ENABLE_PML"]
    exits = l0["VM_EXIT_CONTROLS"]
    timer = BIT["pin", "VMX_PREEMPTION_TIMER"] if software_timer else 0
    if control(l1, "pin", "VMX_PREEMPTION_TIMER") and not software_timer:
        exits |= BIT["exit", "SAVE_VMX_PREEMPTION_TIMER"]
    entry = l1["VM_ENTRY_CONTROLS"] & ~BIT["entry", "LOAD_IA32_PERF_GLOBAL_CTRL"]
    entry |= BIT["entry", "LOAD_IA32_PAT"] | BIT["entry", "LOAD_IA32_EFER"]
    return {
        # posted interrupts are not modelled: no L0 lends them
        "PIN_BASED_VM_EXEC_CONTROL": l0["PIN_BASED_VM_EXEC_CONTROL"]
        | l1["PIN_BASED_VM_EXEC_CONTROL"] & ~(BIT["pin", "POSTED_INTR"] | timer),
        "CPU_BASED_VM_EXEC_CONTROL": cpu,
        "SECONDARY_VM_EXEC_CONTROL": secondary,
        "VM_EXIT_CONTROLS": exits,
        "VM_ENTRY_CONTROLS": entry,
        "EXCEPTION_BITMAP": l0["EXCEPTION_BITMAP"] | l1["EXCEPTION_BITMAP"],
    }


def merged_controls(l0: Fields, l1: Fields, msr_map: str) -> dict[str, int]:
    """Control words of vmcs02 by vmcs02_merge.csv, column xen."""
    cpu = l0["CPU_BASED_VM_EXEC_CONTROL"] | l1["CPU_BASED_VM_EXEC_CONTROL"]
    unconditional, bitmaps = BIT["cpu", "UNCOND_IO_EXITING"], BIT["cpu", "USE_IO_BITMAPS"]
    only_unconditional = control(l1, "cpu", "UNCOND_IO_EXITING") and not control(
        l1, "cpu", "USE_IO_BITMAPS"
    )
    cpu = cpu & ~(unconditional | bitmaps) | (unconditional if only_unconditional else bitmaps)
    both = control(l0, "cpu", "USE_MSR_BITMAPS") and control(l1, "cpu", "USE_MSR_BITMAPS")
    if not both or msr_map == "none":
        cpu &= ~BIT["cpu", "USE_MSR_BITMAPS"]
    secondary = l1["SECONDARY_VM_EXEC_CONTROL"]
    if not control(l1, "cpu", "ACTIVATE_SECONDARY_CONTROLS"):
        secondary = 0
    for name in ("APIC_REGISTER_VIRT", "VIRTUAL_INTR_DELIVERY", "VIRTUALIZE_X2APIC_MODE",
                 "ENABLE_VPID", "ENABLE_PML"):  # fmt: skip
        secondary &= ~BIT["sec", name]
    secondary |= l0["SECONDARY_VM_EXEC_CONTROL"]
    secondary &= ~BIT["sec", "SHADOW_VMCS"]
    exits = l1["VM_EXIT_CONTROLS"]
    for name in ("SAVE_DEBUG_CONTROLS", "LOAD_IA32_PAT", "LOAD_IA32_EFER",
                 "LOAD_IA32_PERF_GLOBAL_CTRL"):  # fmt: skip
        exits &= ~BIT["exit", name]
    entry = l1["VM_ENTRY_CONTROLS"] & ~BIT["entry", "LOAD_IA32_PERF_GLOBAL_CTRL"]
    entry |= BIT["entry", "LOAD_IA32_PAT"] | BIT["entry", "LOAD_IA32_EFER"]
    merged = {
        "PIN_BASED_VM_EXEC_CONTROL": l0["PIN_BASED_VM_EXEC_CONTROL"]
        | l1["PIN_BASED_VM_EXEC_CONTROL"] & ~BIT["pin", "POSTED_INTR"],
        "CPU_BASED_VM_EXEC_CONTROL": cpu,
        "SECONDARY_VM_EXEC_CONTROL": secondary,
        "VM_EXIT_CONTROLS": exits | l0["VM_EXIT_CONTROLS"],
        "VM_ENTRY_CONTROLS": entry,
        "EXCEPTION_BITMAP": l0["EXCEPTION_BITMAP"] | l1["EXCEPTION_BITMAP"],
        "PAGE_FAULT_ERROR_CODE_MASK": l1["PAGE_FAULT_ERROR_CODE_MASK"],
        "PAGE_FAULT_ERROR_CODE_MATCH": l1["PAGE_FAULT_ERROR_CODE_MATCH"],
        "CR0_GUEST_HOST_MASK": (1 << 64) - 1,
    }
    for name in ("CR0", "CR4"):
        mask = l1[f"{name}_GUEST_HOST_MASK"]
        merged[f"{name}_READ_SHADOW"] = (
            l1[f"GUEST_{name}"] & ~mask | l1[f"{name}_READ_SHADOW"] & mask
        ) & (1 << 64) - 1
    return merged
