"""A slow, obvious reading of the checks before a VM entry (SDM vol. 3, 27.2 and 27.3), in order.

A VMCS is a mapping of field names to unsigned values; a check is a name of vmx_entry_checks.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.oracle.vmx import BIT, Fields, control
from workbench.arch import vmcs
from workbench.arch.table import rows

WIDTH = 40
CHECKS = {r["name"]: r for r in rows("vmx_entry_checks")}
SEGMENTS = ("CS", "SS", "DS", "ES", "FS", "GS")
DEFAULT1 = {"pin": 0x16, "cpu": 0x0401E172, "exit": 0x36DFF, "entry": 0x11FF, "sec": 0}
FIELD = {
    "pin": "PIN_BASED_VM_EXEC_CONTROL",
    "cpu": "CPU_BASED_VM_EXEC_CONTROL",
    "exit": "VM_EXIT_CONTROLS",
    "entry": "VM_ENTRY_CONTROLS",
}


@dataclass(frozen=True)
class Processor:
    """What decides beside the VMCS: the controls that exist, memory, and the VMCS's own address."""

    controls: dict[str, frozenset[str]]
    cr3_targets: int = 0
    activities: frozenset[int] = frozenset({0})
    """Activity states that a guest may start in."""
    ept_ad: bool = False
    current: int = -1
    cr4: int = 0x7FF | 1 << 13 | 1 << 17 | 1 << 20 | 1 << 21
    own: bool = False
    """Does L0 add demands of its own?"""
    memory: Callable[[int], int | None] = field(default=lambda address: None)
    """First 32-bit word of a page, None where there is no memory."""


def _allowed(cpu: Processor, group: str, word: int) -> bool:
    """Only existing controls may be set; what is not flexible among default1 must be."""
    flexible = {r["name"] for r in rows("vmx_controls") if r["group"] == group
                and r["default1"] == "1"}  # fmt: skip
    must = DEFAULT1[group] & ~sum(BIT[group, name] for name in flexible)
    may = DEFAULT1[group]
    for name in cpu.controls[group]:
        may |= BIT[group, name]
    return word & must == must and word & ~may == 0


def _page(address: int) -> bool:
    return address % 4096 == 0 and address >> WIDTH == 0


def _area(v: Fields, name: str) -> bool:
    count, address = v[f"{name}_COUNT"], v[f"{name}_ADDR"]
    if count == 0:
        return True
    return address % 16 == 0 and (address + 16 * count - 1) >> WIDTH == 0


def canonical(address: int) -> bool:
    """Bits 63 to 47 are all equal."""
    return address >> 47 in (0, (1 << 17) - 1)


def _pat(value: int) -> bool:
    return all(value >> 8 * i & 0xFF in (0, 1, 4, 5, 6, 7) for i in range(8))


# ---------------------------------------------------------------- 27.2.1


def execution_controls(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """27.2.1.1: name of each check and whether it holds, in order."""

    def on(group: str, name: str) -> bool:
        return control(v, group, name)

    yield "PIN_RESERVED", _allowed(cpu, "pin", v[FIELD["pin"]])
    yield "CPU_RESERVED", _allowed(cpu, "cpu", v[FIELD["cpu"]])
    secondary = v["SECONDARY_VM_EXEC_CONTROL"]
    if not on("cpu", "ACTIVATE_SECONDARY_CONTROLS"):
        secondary = 0
    yield "CPU2_RESERVED", _allowed(cpu, "sec", secondary)
    yield "CR3_TARGET_COUNT", v["CR3_TARGET_COUNT"] <= cpu.cr3_targets
    if on("cpu", "USE_IO_BITMAPS"):
        yield "IO_BITMAP_ADDRESS", _page(v["IO_BITMAP_A"]) and _page(v["IO_BITMAP_B"])
    if on("cpu", "USE_MSR_BITMAPS"):
        yield "MSR_BITMAP_ADDRESS", _page(v["MSR_BITMAP"])
    threshold = v["TPR_THRESHOLD"]
    if on("cpu", "TPR_SHADOW"):
        yield "VIRTUAL_APIC_ADDRESS", _page(v["VIRTUAL_APIC_PAGE_ADDR"])
        if not on("sec", "VIRTUAL_INTR_DELIVERY"):
            yield "TPR_THRESHOLD_RESERVED", threshold < 16
            if not on("sec", "VIRTUALIZE_APIC_ACCESSES"):
                vtpr = (cpu.memory(v["VIRTUAL_APIC_PAGE_ADDR"] + 0x80) or 0) >> 4 & 15
                yield "TPR_THRESHOLD_VTPR", threshold <= vtpr
    if on("pin", "VIRTUAL_NMIS"):
        yield "VIRTUAL_NMIS_NEED_NMI_EXITING", on("pin", "NMI_EXITING")
    if on("cpu", "NMI_WINDOW_EXITING"):
        yield "NMI_WINDOW_NEEDS_VIRTUAL_NMIS", on("pin", "VIRTUAL_NMIS")
    x2apic, access = (on("sec", f"VIRTUALIZE_{n}") for n in ("X2APIC_MODE", "APIC_ACCESSES"))
    delivery = on("sec", "VIRTUAL_INTR_DELIVERY")
    if access:
        yield "APIC_ACCESS_ADDRESS", _page(v["APIC_ACCESS_ADDR"])
    if not on("cpu", "TPR_SHADOW"):
        any_of = x2apic or delivery or on("sec", "APIC_REGISTER_VIRT")
        yield "APIC_VIRTUALIZATION_NEEDS_TPR_SHADOW", not any_of
    yield "X2APIC_WITH_APIC_ACCESS", not (x2apic and access)
    if delivery:
        yield "VIRTUAL_INTERRUPTS_NEED_EXITING", on("pin", "EXT_INTR")
    if on("pin", "POSTED_INTR"):
        descriptor = v["POSTED_INTR_DESC_ADDR"]
        placed = descriptor % 64 == 0 and descriptor >> WIDTH == 0
        wanted = delivery and on("exit", "ACK_INTR_ON_EXIT")
        yield "POSTED_INTERRUPTS", wanted and placed and v["POSTED_INTR_NV"] < 256
    if on("sec", "ENABLE_VPID"):
        yield "VPID_ZERO", v["VIRTUAL_PROCESSOR_ID"] != 0
    if on("sec", "ENABLE_EPT"):
        eptp = v["EPT_POINTER"]
        yield "EPTP_MEMORY_TYPE", eptp & 7 in (0, 6)
        yield "EPTP_WALK_LENGTH", eptp >> 3 & 7 == 3
        yield "EPTP_ACCESSED_DIRTY", cpu.ept_ad or eptp & 1 << 6 == 0
        yield "EPTP_RESERVED", eptp & 0xF80 == 0 and eptp >> WIDTH == 0
    if on("sec", "ENABLE_PML"):
        yield "PML_NEEDS_EPT", on("sec", "ENABLE_EPT")
        yield "PML_ADDRESS", _page(v["PML_ADDRESS"])
    if on("sec", "UNRESTRICTED_GUEST"):
        yield "UNRESTRICTED_GUEST_NEEDS_EPT", on("sec", "ENABLE_EPT")
    if on("sec", "SHADOW_VMCS"):
        yield "SHADOW_BITMAP_ADDRESS", _page(v["VMREAD_BITMAP"]) and _page(v["VMWRITE_BITMAP"])


def exit_controls(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """27.2.1.2."""
    yield "EXIT_RESERVED", _allowed(cpu, "exit", v[FIELD["exit"]])
    if control(v, "exit", "SAVE_VMX_PREEMPTION_TIMER"):
        yield "SAVE_TIMER_WITHOUT_TIMER", control(v, "pin", "VMX_PREEMPTION_TIMER")
    yield "EXIT_STORE_AREA", _area(v, "VM_EXIT_MSR_STORE")
    yield "EXIT_LOAD_AREA", _area(v, "VM_EXIT_MSR_LOAD")


def entry_controls(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """27.2.1.3."""
    yield "ENTRY_RESERVED", _allowed(cpu, "entry", v[FIELD["entry"]])
    info = v["VM_ENTRY_INTR_INFO_FIELD"]
    if info >> 31:
        kind, vector, has_error = info >> 8 & 7, info & 0xFF, bool(info & 1 << 11)
        reserved = {1} if "MONITOR_TRAP_FLAG" in cpu.controls["cpu"] else {1, 7}
        yield "EVENT_TYPE", kind not in reserved
        fits = {2: vector == 2, 3: vector <= 31, 7: vector == 0}
        yield "EVENT_VECTOR", fits.get(kind, True)
        real = control(v, "sec", "UNRESTRICTED_GUEST") and v["GUEST_CR0"] & 1 == 0
        pushes = kind == 3 and vector in (8, 10, 11, 12, 13, 14, 17) and not real
        yield "EVENT_ERROR_CODE_VALID", has_error == pushes
        yield "EVENT_RESERVED", info >> 12 & 0x7FFFF == 0
        if has_error:
            yield "EVENT_ERROR_CODE", v["VM_ENTRY_EXCEPTION_ERROR_CODE"] < 1 << 16
        if kind in (4, 5, 6):
            yield "EVENT_LENGTH", 1 <= v["VM_ENTRY_INSTRUCTION_LEN"] <= 15
    yield "ENTRY_LOAD_AREA", _area(v, "VM_ENTRY_MSR_LOAD")


def own_demands(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """What L0 wants of vmcs12 beyond the manual."""
    if not cpu.own:
        return
    pages = []
    if control(v, "cpu", "USE_IO_BITMAPS"):
        pages += [v["IO_BITMAP_A"], v["IO_BITMAP_B"]]
    if control(v, "cpu", "USE_MSR_BITMAPS"):
        pages.append(v["MSR_BITMAP"])
    yield "BITMAP_PAGE_EXISTS", all(cpu.memory(p) is not None for p in pages)


# ---------------------------------------------------------------- 27.2.2 to 27.2.4


def host_state(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """The host-state area, entered from IA-32e mode."""
    long = control(v, "exit", "HOST_ADDR_SPACE_SIZE")
    yield "HOST_CR0", v["HOST_CR0"] & 0x80000021 == 0x80000021 and v["HOST_CR0"] >> 32 == 0
    yield "HOST_CR4", bool(v["HOST_CR4"] & 1 << 13) and v["HOST_CR4"] & ~cpu.cr4 == 0
    yield "HOST_CR3", v["HOST_CR3"] >> WIDTH == 0
    sysenter = [v["HOST_IA32_SYSENTER_ESP"], v["HOST_IA32_SYSENTER_EIP"]]
    yield "HOST_SYSENTER", all(map(canonical, sysenter))
    if control(v, "exit", "LOAD_IA32_PAT"):
        yield "HOST_PAT", _pat(v["HOST_IA32_PAT"])
    if control(v, "exit", "LOAD_IA32_EFER"):
        efer = v["HOST_IA32_EFER"]
        modes = {bool(efer & 1 << 8), bool(efer & 1 << 10)}
        yield "HOST_EFER", efer & ~0xD01 == 0 and modes == {long}
    names = ("ES", "CS", "SS", "DS", "FS", "GS", "TR")
    selectors = {s: v[f"HOST_{s}_SELECTOR"] for s in names}
    yield "HOST_SELECTOR_RPL_TI", all(s & 7 == 0 for s in selectors.values())
    yield "HOST_CS_TR_NULL", selectors["CS"] != 0 and selectors["TR"] != 0
    yield "HOST_SS_NULL", long or selectors["SS"] != 0
    bases = [v[f"HOST_{r}_BASE"] for r in ("FS", "GS", "GDTR", "IDTR", "TR")]
    yield "HOST_BASES", all(map(canonical, bases))
    yield "HOST_ADDRESS_SPACE_SIZE", long
    yield "HOST_PAE", bool(v["HOST_CR4"] & 1 << 5)
    yield "HOST_RIP", canonical(v["HOST_RIP"])


# ---------------------------------------------------------------- 27.3.1


@dataclass(frozen=True)
class Segment:
    """One segment register of a VMCS."""

    selector: int
    base: int
    limit: int
    rights: int

    @classmethod
    def of(cls, v: Fields, name: str) -> Segment:
        kinds = ("SELECTOR", "BASE", "LIMIT", "AR_BYTES")
        return cls(*(v[f"GUEST_{name}_{kind}"] for kind in kinds))

    @property
    def type(self) -> int:
        return self.rights & 15

    @property
    def dpl(self) -> int:
        return self.rights >> 5 & 3

    @property
    def rpl(self) -> int:
        return self.selector & 3

    @property
    def usable(self) -> bool:
        return self.rights & 1 << 16 == 0

    def bit(self, number: int) -> bool:
        return bool(self.rights & 1 << number)

    @property
    def reserved_clear(self) -> bool:
        return self.rights & 0xF00 == 0 and self.rights >> 17 == 0

    @property
    def granularity_fits(self) -> bool:
        if self.limit & 0xFFF != 0xFFF and self.bit(15):
            return False
        return not (self.limit >> 20 and not self.bit(15))


def registers(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """27.3.1.1: control registers, debug registers, MSRs."""
    cr0, cr4 = v["GUEST_CR0"], v["GUEST_CR4"]
    long = control(v, "entry", "IA32E_MODE")
    fixed = 0x20 if control(v, "sec", "UNRESTRICTED_GUEST") else 0x80000021
    paging = bool(cr0 & 1 << 31)
    yield "GUEST_CR0", cr0 & fixed == fixed and cr0 >> 32 == 0
    yield "GUEST_CR0_PG_NEEDS_PE", not paging or bool(cr0 & 1)
    yield "GUEST_CR4", bool(cr4 & 1 << 13) and cr4 & ~cpu.cr4 == 0
    debug = control(v, "entry", "LOAD_DEBUG_CONTROLS")
    yield "GUEST_DEBUGCTL", not debug or v["GUEST_IA32_DEBUGCTL"] & ~3 == 0
    if long:
        yield "GUEST_IA32E_NEEDS_PAGING", paging and bool(cr4 & 1 << 5)
    else:
        yield "GUEST_PCIDE", cr4 & 1 << 17 == 0
    yield "GUEST_CR3", v["GUEST_CR3"] >> WIDTH == 0
    yield "GUEST_DR7", not debug or v["GUEST_DR7"] >> 32 == 0
    sysenter = [v["GUEST_SYSENTER_ESP"], v["GUEST_SYSENTER_EIP"]]
    yield "GUEST_SYSENTER", all(map(canonical, sysenter))
    if control(v, "entry", "LOAD_IA32_PAT"):
        yield "GUEST_PAT", _pat(v["GUEST_IA32_PAT"])
    if control(v, "entry", "LOAD_IA32_EFER"):
        efer = v["GUEST_IA32_EFER"]
        lma, lme = bool(efer & 1 << 10), bool(efer & 1 << 8)
        yield "GUEST_EFER_RESERVED", efer & ~0xD01 == 0
        yield "GUEST_EFER_LMA", lma == long and (not paging or lma == lme)


def segments(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """27.3.1.2."""
    s = {name: Segment.of(v, name) for name in (*SEGMENTS, "TR", "LDTR")}
    v86 = bool(v["GUEST_RFLAGS"] & 1 << 17)
    free = control(v, "sec", "UNRESTRICTED_GUEST")
    long = control(v, "entry", "IA32E_MODE")
    yield "GUEST_TR_SELECTOR_TI", s["TR"].selector & 4 == 0
    yield "GUEST_LDTR_SELECTOR_TI", not s["LDTR"].usable or s["LDTR"].selector & 4 == 0
    yield "GUEST_SS_CS_RPL", v86 or free or s["SS"].rpl == s["CS"].rpl
    if v86:
        yield "GUEST_V86_BASE", all(s[n].base == s[n].selector * 16 for n in SEGMENTS)
    linear = [s["TR"].base, s["FS"].base, s["GS"].base]
    if s["LDTR"].usable:
        linear.append(s["LDTR"].base)
    yield "GUEST_BASE_CANONICAL", all(map(canonical, linear))
    low = [s["CS"], *(s[n] for n in ("SS", "DS", "ES") if s[n].usable)]
    yield "GUEST_BASE_32_BIT", all(x.base >> 32 == 0 for x in low)
    if v86:
        yield "GUEST_V86_LIMIT", all(s[n].limit == 0xFFFF for n in SEGMENTS)
        yield "GUEST_V86_RIGHTS", all(s[n].rights == 0xF3 for n in SEGMENTS)
    else:
        yield from _access_rights(v, s, free, long)
    tr, ldtr = s["TR"], s["LDTR"]
    types = (11,) if long else (3, 11)
    good = tr.type in types and not tr.bit(4) and tr.bit(7) and tr.usable
    yield "GUEST_TR_RIGHTS", good and tr.reserved_clear and tr.granularity_fits
    if ldtr.usable:
        good = ldtr.type == 2 and not ldtr.bit(4) and ldtr.bit(7)
        yield "GUEST_LDTR_RIGHTS", good and ldtr.reserved_clear and ldtr.granularity_fits


def _access_rights(
    v: Fields, s: dict[str, Segment], free: bool, long: bool
) -> Iterator[tuple[str, bool]]:
    cs, ss = s["CS"], s["SS"]
    data = [s[n] for n in ("DS", "ES", "FS", "GS") if s[n].usable]
    used = [cs, *([ss] if ss.usable else []), *data]
    yield "GUEST_CS_TYPE", cs.type in ((3, 9, 11, 13, 15) if free else (9, 11, 13, 15))
    yield "GUEST_SS_TYPE", not ss.usable or ss.type in (3, 7)
    accessed = all(x.type & 1 for x in data)
    readable = all(x.type & 2 for x in data if x.type & 8)
    yield "GUEST_DATA_TYPE", accessed and readable
    yield "GUEST_SEGMENT_S", all(x.bit(4) for x in used)
    if cs.type == 3:
        yield "GUEST_CS_DPL", cs.dpl == 0
    elif cs.type in (9, 11):
        yield "GUEST_CS_DPL", cs.dpl == ss.dpl
    else:
        yield "GUEST_CS_DPL", cs.dpl <= ss.dpl
    zero = cs.type == 3 or v["GUEST_CR0"] & 1 == 0
    yield "GUEST_SS_DPL", (free or ss.dpl == ss.rpl) and (not zero or ss.dpl == 0)
    if not free:
        yield "GUEST_DATA_DPL", all(x.dpl >= x.rpl for x in data if x.type <= 11)
    yield "GUEST_SEGMENT_P", all(x.bit(7) for x in used)
    yield "GUEST_SEGMENT_RESERVED", all(x.reserved_clear for x in used)
    yield "GUEST_CS_DB", not (long and cs.bit(13) and cs.bit(14))
    yield "GUEST_SEGMENT_G", all(x.granularity_fits for x in used)


def _ends(activity: int, kind: int, vector: int) -> bool:
    """May an event be injected into an inactive processor?  27.3.1.5, last item on the state."""
    if activity == 1:
        return kind in (0, 2) or (kind, vector) in ((3, 1), (3, 18), (7, 0))
    return activity == 2 and (kind == 2 or (kind, vector) == (3, 18))


def rip_and_state(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """27.3.1.3 to 27.3.1.5."""
    long = control(v, "entry", "IA32E_MODE")
    yield "GUEST_TABLE_BASE", canonical(v["GUEST_GDTR_BASE"]) and canonical(v["GUEST_IDTR_BASE"])
    limits = v["GUEST_GDTR_LIMIT"], v["GUEST_IDTR_LIMIT"]
    yield "GUEST_TABLE_LIMIT", max(limits) <= 0xFFFF
    if long and v["GUEST_CS_AR_BYTES"] & 1 << 13:
        yield "GUEST_RIP", v["GUEST_RIP"] >> 48 in (0, 0xFFFF)
    else:
        yield "GUEST_RIP", v["GUEST_RIP"] >> 32 == 0
    flags, info = v["GUEST_RFLAGS"], v["VM_ENTRY_INTR_INFO_FIELD"]
    reserved = [3, 5, 15, *range(22, 64)]
    yield "GUEST_RFLAGS_RESERVED", bool(flags & 2) and not any(flags >> n & 1 for n in reserved)
    vm, interrupts = bool(flags & 1 << 17), bool(flags & 1 << 9)
    yield "GUEST_RFLAGS_VM", not vm or (not long and bool(v["GUEST_CR0"] & 1))
    kind = info >> 8 & 7 if info >> 31 else None
    yield "GUEST_RFLAGS_IF", kind != 0 or interrupts
    activity = v["GUEST_ACTIVITY_STATE"]
    yield "ACTIVITY_SUPPORTED", activity in cpu.activities
    state = v["GUEST_INTERRUPTIBILITY_INFO"]
    sti, mov_ss, smi, nmi, enclave = (bool(state & 1 << n) for n in range(5))
    yield "ACTIVITY_HLT_DPL", activity != 1 or v["GUEST_SS_AR_BYTES"] >> 5 & 3 == 0
    yield "ACTIVITY_BLOCKING", activity == 0 or not (sti or mov_ss)
    event = None if kind is None else (kind, info & 0xFF)
    yield "ACTIVITY_EVENT", event is None or activity == 0 or _ends(activity, *event)
    yield "INTERRUPTIBILITY_RESERVED", state < 32
    yield "INTERRUPTIBILITY_BOTH", not (sti and mov_ss)
    yield "INTERRUPTIBILITY_STI_IF", not sti or interrupts
    yield "INTERRUPTIBILITY_INTERRUPT", kind != 0 or not (sti or mov_ss)
    yield "INTERRUPTIBILITY_NMI_MOV_SS", kind != 2 or not mov_ss
    yield "INTERRUPTIBILITY_SMI", not smi
    yield "INTERRUPTIBILITY_NMI_STI", kind != 2 or not sti
    yield "INTERRUPTIBILITY_VIRTUAL_NMI", not (kind == 2 and nmi and control(
        v, "pin", "VIRTUAL_NMIS"))  # fmt: skip
    yield "INTERRUPTIBILITY_ENCLAVE", not enclave
    pending = v["GUEST_PENDING_DBG_EXCEPTIONS"]
    yield "PENDING_DEBUG_RESERVED", pending & ~(0xF | 1 << 12 | 1 << 14) == 0
    if sti or mov_ss or activity == 1:
        single_step = bool(flags & 1 << 8) and not v["GUEST_IA32_DEBUGCTL"] & 2
        yield "PENDING_DEBUG_BS", bool(pending & 1 << 14) == single_step


def link_pointer(v: Fields, cpu: Processor) -> Iterator[tuple[str, bool]]:
    """The VMCS link pointer (27.3.1.5), then PDPTEs (27.3.1.6)."""
    link = v["VMCS_LINK_POINTER"]
    if link != (1 << 64) - 1:
        yield "LINK_POINTER_ADDRESS", _page(link)
        first = cpu.memory(link)
        yield "LINK_POINTER_REVISION", first is not None and first & 0x7FFFFFFF == vmcs.REVISION
        shadow = control(v, "sec", "SHADOW_VMCS")
        yield "LINK_POINTER_SHADOW", first is not None and bool(first >> 31) == shadow
        yield "LINK_POINTER_CURRENT", link != cpu.current
    long = control(v, "entry", "IA32E_MODE")
    if not long and v["GUEST_CR0"] >> 31 & 1 and v["GUEST_CR4"] & 1 << 5:
        present = [v[f"GUEST_PDPTR{i}"] for i in range(4) if v[f"GUEST_PDPTR{i}"] & 1]
        yield "PDPTE_RESERVED", all(p & 0x1E6 == 0 and p >> WIDTH == 0 for p in present)


ORDER = (execution_controls, exit_controls, entry_controls, own_demands, host_state, registers,
         segments, rip_and_state, link_pointer)  # fmt: skip


def first_failure(v: Fields, cpu: Processor) -> str:
    """Name of the first check of the manual that fails, empty when the entry is good."""
    for part in ORDER:
        for name, holds in part(v, cpu):
            if not holds:
                return name
    return ""


def failure_of(name: str) -> tuple[int, int]:
    """(7 or 8, 0) for VMfailValid, (33, qualification) for an exit, by the table; (0, 0): none."""
    if not name:
        return 0, 0
    row = CHECKS[name]
    return int(row["failure"]), int(row["qualification"] or 0)
