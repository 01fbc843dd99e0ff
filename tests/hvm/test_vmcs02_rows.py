"""Every row of vmcs02_merge.csv, by its text, on random control structures and under every L0."""

from __future__ import annotations

import pytest

from tests.oracle import vmx as oracle
from tests.oracle.table_rows import TableRows
from tests.oracle.vmcs_case import (
    APIC_ACCESS12,
    GUEST_COPY,
    IO_BITMAP12,
    LISTED_MSR,
    LISTED_VALUE,
    MSR_BITMAP12,
    VAPIC12,
    VmcsCase,
    vmcs_cases,
)
from workbench.arch import vmcs
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.vmx.host_area import HOST_SLOTS
from workbench.personality import L0S

ROWS = TableRows("vmcs02_merge", "field", ("xen", "kvm"))
reads = ROWS.reads
BIT = oracle.BIT
ONES = (1 << 64) - 1
PORTS = (0x80, 0xED)
VMXE = 1 << 13
ACTIVITY = "GUEST_ACTIVITY_STATE"
CR8 = BIT["cpu", "CR8_LOAD_EXITING"] | BIT["cpu", "CR8_STORE_EXITING"]
APICV = (
    BIT["sec", "VIRTUALIZE_APIC_ACCESSES"] | BIT["sec", "VIRTUALIZE_X2APIC_MODE"]
    | BIT["sec", "APIC_REGISTER_VIRT"] | BIT["sec", "VIRTUAL_INTR_DELIVERY"]
)  # fmt: skip
GIVEN_TO_L1 = sum(BIT["sec", f"ENABLE_{n}"] for n in ("RDTSCP", "INVPCID", "XSAVES",
                                                      "USR_WAIT_PAUSE"))  # fmt: skip


def expected_controls(case: VmcsCase) -> dict[str, int]:
    """Control words by the column that the L0 follows."""
    l0, l1 = case.controls()
    if not case.apicv:
        l1 = oracle.without_apic_virtualization(l1)
    if case.l0 == "kvm":
        return oracle.kvm_merged_controls(l0, l1, software_timer=True)
    if case.l0 == "manual":  # L2 has from L0 no instruction that L1 does not give it
        l0["SECONDARY_VM_EXEC_CONTROL"] &= ~GIVEN_TO_L1
        if case.asked("pin", "VMX_PREEMPTION_TIMER"):
            l0["VM_EXIT_CONTROLS"] |= BIT["exit", "SAVE_VMX_PREEMPTION_TIMER"]
    registers = {n: l1[n] for n in l1 if n.startswith(("CR", "GUEST_CR", "PAGE_FAULT"))}
    return oracle.merged_controls(l0, {**registers, **l1}, "merged")


def has_expected(case: VmcsCase, name: str, but: int = 0) -> None:
    """A control word of vmcs02 is what the oracle's reading of the column makes of both."""
    assert (case.l2_has(name) ^ expected_controls(case)[name]) & ~but == 0, name


@reads(
    "PIN_BASED", xen="L0 | vvmcs, minus POSTED_INTERRUPT",
    kvm="(L0 pin) | vmcs12, minus PREEMPTION_TIMER; POSTED_INTR only from vmcs12 (vector "
    "POSTED_INTR_NESTED_VECTOR)",
)  # fmt: skip
def pin_controls(case: VmcsCase) -> None:
    """Posted interrupts are lent by no L0."""
    has_expected(case, "PIN_BASED_VM_EXEC_CONTROL")


@reads(
    "CPU_BASED",
    xen="L0 | vvmcs; IO bits: if only L1 uncond -> uncond; none -> L0 hvm_io_bitmap; L1 bitmap -> "
    "prebuilt map by ports 0x80/0xED; MSR_BITMAP only if both L0 and L1 use one (else every MSR "
    "access exits and goes to L1)",
    kvm="(L0 minus INTR_WINDOW,NMI_WINDOW,TPR_SHADOW) | vmcs12 (window bits included); TPR_SHADOW "
    "only from vmcs12 (else CR8 exits); USE_IO_BITMAPS cleared and UNCOND_IO set; MSR_BITMAP kept "
    "by L0",
)
def primary_controls(case: VmcsCase) -> None:
    name = "CPU_BASED_VM_EXEC_CONTROL"
    shadowed = case.apicv and case.asked("cpu", "TPR_SHADOW")
    has_expected(case, name, but=CR8 if shadowed else 0)
    if shadowed:
        assert (case.l2_has(name) ^ case.l1_has(name)) & CR8 == 0


@reads(
    "SECONDARY",
    xen="L0 | vvmcs minus APIC_REG_VIRT, VIRT_INTR_DELIVERY, X2APIC_MODE (L0 apicv), "
    "VMCS_SHADOWING; + VPID policy",
    kvm="(L0 minus VIRT_APIC_ACCESSES,VIRT_X2APIC,INVPCID,RDTSCP,XSAVES,USR_WAIT_PAUSE,"
    "VIRT_INTR_DELIVERY,APIC_REGISTER_VIRT,VMFUNC,DESC) | vmcs12; then PML and SHADOW_VMCS "
    "cleared; UNRESTRICTED_GUEST only if vmcs12 has it; DESC if UMIP emulated",
)
def secondary_controls(case: VmcsCase) -> None:
    """What an L0 lends of APIC virtualization has a row of its own."""
    has_expected(case, "SECONDARY_VM_EXEC_CONTROL", but=APICV if case.apicv else 0)


ROWS.left_out(
    "TERTIARY", "the modelled processor has no tertiary controls: none are offered, none are set",
    xen="not merged", kvm="L0 minus IPI_VIRT",
)  # fmt: skip


@reads(
    "VM_EXIT_CONTROLS",
    xen="(vvmcs & ~(SAVE_DEBUG,LOAD_HOST_PAT,LOAD_HOST_EFER,LOAD_PERF)) | L0",
    kvm="L0 only (EFER load handled)",
)
def exit_controls(case: VmcsCase) -> None:
    has_expected(case, "VM_EXIT_CONTROLS")


@reads(
    "VM_ENTRY_CONTROLS",
    xen="vvmcs & ~(LOAD_PAT,LOAD_EFER,LOAD_PERF) [IA32E from vvmcs]",
    kvm="(L0 | vmcs12) with IA32E & LOAD_EFER from vmcs12 / auto; LOAD_PERF dropped",
)
def entry_controls(case: VmcsCase) -> None:
    """Both load EFER and PAT by controls of their own, as the values come from vmcs02."""
    has_expected(case, "VM_ENTRY_CONTROLS")


@reads(
    "EXCEPTION_BITMAP",
    xen="L0 | vvmcs (set_shadow_control/nvmx_update_exception_bitmap)",
    kvm="L0 | vmcs12 (vmx_update_exception_bitmap)",
)
def exception_bitmap(case: VmcsCase) -> None:
    name = "EXCEPTION_BITMAP"
    assert case.l2_has(name) == case.l0_has(name) | case.l1_has(name)


MASKS = ("PAGE_FAULT_ERROR_CODE_MASK", "PAGE_FAULT_ERROR_CODE_MATCH")


@reads("PFEC MASK/MATCH", xen="vvmcs verbatim")
def page_fault_mask(case: VmcsCase) -> None:
    for name in MASKS:
        assert case.l2_has(name) == case.l1_has(name), name


@reads("PFEC MASK/MATCH", kvm="0/0 if L0 intercepts #PF, else vmcs12 verbatim")
def page_fault_mask_of_kvm(case: VmcsCase) -> None:
    own = case.l0_has("EXCEPTION_BITMAP") >> 14 & 1
    for name in MASKS:
        assert case.l2_has(name) == (0 if own else case.l1_has(name)), name


@reads("CR0/CR4 guest-host mask", xen="L0 mask (CR0 ~0)")
def register_masks(case: VmcsCase) -> None:
    """L0's, and of CR4 also L1's: else L2 could write what L1 wants to see."""
    assert case.l2_has("CR0_GUEST_HOST_MASK") == ONES
    name = "CR4_GUEST_HOST_MASK"
    assert case.l2_has(name) == case.l0_has(name) | case.l1_has(name)


@reads("CR0/CR4 guest-host mask", kvm="~(L0 guest-owned bits & ~vmcs12 mask), CR4 same")
def register_masks_of_kvm(case: VmcsCase) -> None:
    for name in ("CR0_GUEST_HOST_MASK", "CR4_GUEST_HOST_MASK"):
        guest_owned = ~case.l0_has(name) & ONES
        assert case.l2_has(name) == ~(guest_owned & ~case.l1_has(name)) & ONES, name


@reads(
    "CR0/CR4 read shadow",
    xen="(vvmcs GUEST_CRx & ~vvmcs mask) | (vvmcs READ_SHADOW & vvmcs mask)",
    kvm="nested_read_cr0/4: same formula",
)
def read_shadows(case: VmcsCase) -> None:
    for name in ("CR0", "CR4"):
        mask = case.l1_has(f"{name}_GUEST_HOST_MASK")
        seen = case.l1_has(f"GUEST_{name}") & ~mask | case.l1_has(f"{name}_READ_SHADOW") & mask
        assert case.l2_has(f"{name}_READ_SHADOW") == seen, name


def used_msr_bitmap(case: VmcsCase) -> bytes | None:
    """The bitmap in effect for L2, where L1 has one too."""
    if not case.asked("cpu", "USE_MSR_BITMAPS"):
        return None
    assert case.l2_has("MSR_BITMAP") == memory_map.L2_MSRPM_MA
    return case.used(memory_map.L2_MSRPM_MA)


def x2apic_lent(case: VmcsCase) -> bool:
    """Does the processor virtualize x2APIC MSRs of L2?"""
    return case.apicv and case.asked("sec", "VIRTUALIZE_X2APIC_MODE")


@reads("MSR_BITMAP", xen="OR of L0 and L1, x2APIC 0x800-0x8ff forced trapped")
def msr_bitmap(case: VmcsCase) -> None:
    used = used_msr_bitmap(case)
    if used is None or (case.l0 == "manual" and x2apic_lent(case)):
        return
    own = case.used(memory_map.L0_MSRPM_MA)
    assert used == oracle.merged_msr_bitmap(own, case.bitmap(MSR_BITMAP12))


@reads(
    "MSR_BITMAP",
    kvm="all intercept except FS/GS/KERNEL_GS base, SPEC_CTRL, PRED_CMD, FLUSH_CMD (if both allow) "
    "and x2APIC TPR / (VID) EOI, SELF_IPI",
)
def msr_bitmap_of_kvm(case: VmcsCase) -> None:
    """L0's own map never has the three of speculation open."""
    used = used_msr_bitmap(case)
    if used is None:
        return
    l1 = case.bitmap(MSR_BITMAP12)
    may = {(n, w) for n in (0xC0000100, 0xC0000101, 0xC0000102) for w in (False, True)}
    if x2apic_lent(case):
        may |= {(0x808, False), (0x808, True)}
        if case.asked("sec", "VIRTUAL_INTR_DELIVERY"):
            may |= {(0x80B, True), (0x83F, True)}
        if case.asked("sec", "APIC_REGISTER_VIRT"):  # a read of any register
            may |= {(n, False) for n in range(0x800, 0x900)}
    for number in (*range(0x2000), *range(0xC0000000, 0xC0002000)):
        for write in (False, True):
            expected = (number, write) not in may or oracle.msr_exits(l1, number, write)
            assert oracle.msr_exits(used, number, write) == expected, (hex(number), write)


@reads("IO_BITMAP", xen="one of 4 prebuilt")
def io_bitmap(case: VmcsCase) -> None:
    where = case.l2_has("IO_BITMAP_A")
    assert case.l2_has("IO_BITMAP_B") == where + 0x1000
    if not case.asked("cpu", "USE_IO_BITMAPS"):
        assert where == case.l0_has("IO_BITMAP_A")
        return
    l1, used = case.bitmap(IO_BITMAP12, 2), case.used(where, 2)
    free = {p for p in range(0x10000) if not oracle.io_exits(used, p, 1)}
    assert free == {p for p in PORTS if not oracle.io_exits(l1, p, 1)}


@reads("IO_BITMAP", kvm="unused")
def io_bitmap_of_kvm(case: VmcsCase) -> None:
    controls = case.l2_has("CPU_BASED_VM_EXEC_CONTROL")
    assert not controls & BIT["cpu", "USE_IO_BITMAPS"]
    assert controls & BIT["cpu", "UNCOND_IO_EXITING"]


@reads(
    "TPR_THRESHOLD / VIRTUAL_APIC_PAGE / APIC_ACCESS",
    xen="translated to mfn of L1 page; threshold copied",
    kvm="pinned hpa; threshold from vmcs12; if page unmapped -> CR8 exits",
)
def virtual_apic(case: VmcsCase) -> None:
    """Where L0 lends it.  A page that L1 has no memory for is refused before (check of controls)."""
    if case.apicv and case.asked("cpu", "TPR_SHADOW"):
        assert case.l2_has("VIRTUAL_APIC_PAGE_ADDR") == layout.L1_BANK_MA + VAPIC12
        assert case.l2_has("TPR_THRESHOLD") == case.l1_has("TPR_THRESHOLD")
    if case.apicv and case.asked("sec", "VIRTUALIZE_APIC_ACCESSES"):
        assert case.l2_has("APIC_ACCESS_ADDR") == layout.L1_BANK_MA + APIC_ACCESS12
    if case.apicv:
        lent = BIT["sec", "VIRTUALIZE_APIC_ACCESSES"] if case.l0 == "xen" else APICV
        wanted = case.l1_has("SECONDARY_VM_EXEC_CONTROL") & lent
        if not case.asked("cpu", "ACTIVATE_SECONDARY_CONTROLS"):
            wanted = 0
        assert case.l2_has("SECONDARY_VM_EXEC_CONTROL") & APICV == wanted


@reads(
    "EPT_POINTER", xen="np2m EPTP (nested EPT) or host EPTP (L1 shadow)",
    kvm="EPTP02 = shadow-EPT root (guest_mmu) or normal",
)  # fmt: skip
def ept_pointer(case: VmcsCase) -> None:
    root = case.l2_has("EPT_POINTER") & ~0xFFF
    if case.asked("sec", "ENABLE_EPT"):
        assert root == case.machine.state["n2p_to_l0m"] != case.l0_has("EPT_POINTER") & ~0xFFF
    else:
        assert root == case.l0_has("EPT_POINTER") & ~0xFFF


@reads("VPID", xen="n2asid (allocated like any ASID) if VPID in use")
def vpid(case: VmcsCase) -> None:
    case.machine.call("choose_tag")
    tag = case.machine.state["n2_tag"]
    assert case.machine.m["hw"]["tag"][0] == tag != case.machine.m["nv"]["n1_tag"][0]


@reads("VPID", kvm="vpid02 if vmcs12 VPID enabled (separate hw VPID) else vpid01")
def vpid_of_kvm(case: VmcsCase) -> None:
    """A tag of the TLB stands for a VPID with one root: VPID02's come after those of VPID01."""
    made = case.machine
    roots = int(made.m["hw"]["tag_span"][0])
    made.call("choose_tag")
    vpid01 = (int(made.m["hw"]["tag"][0]) - 1) // roots
    assert vpid01 == int(case.asked("sec", "ENABLE_VPID"))


@reads(
    "Guest segments, descriptor tables, sysenter, debugctl, activity(n/a), interruptibility, DR7, "
    "RFLAGS",
    xen="bulk copy vmcs_gstate_field (VMREAD vvmcs -> VMWRITE)",
    kvm='copied from vmcs12; "rare" group only if dirty_vmcs12 (or eVMCS dirty groups)',
)
def guest_state(case: VmcsCase) -> None:
    """The first entry: everything of vmcs12 is new."""
    for name in GUEST_COPY:
        if name not in ("VMCS_LINK_POINTER", "GUEST_IA32_PAT", "GUEST_IA32_EFER", ACTIVITY):
            assert case.l2_has(name) == case.l1_has(name), name


EFER_MODE = 1 << 8 | 1 << 10


@reads(
    "GUEST CR0/CR3/CR4/EFER/PAT",
    xen="CR via hvm_set_cr4, hvm_set_cr0, hvm_set_cr3 in that order; PAT only if vvmcs LOAD_PAT; "
    "EFER: only LMA/LME follow IA32E_MODE (GUEST_EFER of L1 not loaded)",
    kvm="vmx_set_cr0/4/efer; PAT by entry control else L1 value; PDPTRs if EPT+PAE",
)
def guest_registers(case: VmcsCase) -> None:
    assert case.l2_has("GUEST_CR0") == case.l1_has("GUEST_CR0")
    assert case.l2_has("GUEST_CR4") == case.l1_has("GUEST_CR4") | VMXE
    assert case.l2_has("GUEST_CR3") == case.l1_has("GUEST_CR3")
    by_l1 = case.asked("entry", "LOAD_IA32_PAT")
    pat = case.l1_has("GUEST_IA32_PAT") if by_l1 else case.l0_has("GUEST_IA32_PAT")
    assert case.l2_has("GUEST_IA32_PAT") == pat
    if case.asked("entry", "LOAD_IA32_EFER") and case.l0 != "xen":
        efer = case.l1_has("GUEST_IA32_EFER")
    else:
        mode = EFER_MODE if case.asked("entry", "IA32E_MODE") else 0
        efer = case.l0_has("GUEST_IA32_EFER") & ~EFER_MODE | mode
    assert case.l2_has("GUEST_IA32_EFER") == efer


@reads(
    "TSC_OFFSET / MULTIPLIER", xen="L0 + vvmcs offset",
    kvm="kvm_calc_nested_tsc_offset/multiplier",
)  # fmt: skip
def tsc_offset(case: VmcsCase) -> None:
    """No L0 here lends TSC scaling."""
    own = case.l1_has("TSC_OFFSET") if case.asked("cpu", "USE_TSC_OFFSETTING") else 0
    assert case.l2_has("TSC_OFFSET") == (case.l0_has("TSC_OFFSET") + own) & ONES


@reads(
    "VM_ENTRY_INTR_INFO, error code, instr len", xen="vvmcs verbatim",
    kvm="vmcs12 when nested_run_pending",
)  # fmt: skip
def injected_event(case: VmcsCase) -> None:
    for name in ("VM_ENTRY_INTR_INFO_FIELD", "VM_ENTRY_EXCEPTION_ERROR_CODE",
                 "VM_ENTRY_INSTRUCTION_LEN"):  # fmt: skip
        assert case.l2_has(name) == case.l1_has(name), name


ROWS.left_out(
    "PDPTRs", "no guest of the model pages with PAE alone: CR0.PG without EFER.LMA is refused",
    xen="copied only if nested EPT and PAE",
    kvm="rare group + rewritten after CR load if nested EPT and PAE",
)  # fmt: skip


def kernel_gs_base(case: VmcsCase) -> int:
    return int(case.machine.m["cpu"]["kernel_gs_base"][0])


@reads("VM-entry/exit MSR load/store lists", xen="ignored completely")
def msr_lists_ignored(case: VmcsCase) -> None:
    assert kernel_gs_base(case) != LISTED_VALUE


@reads(
    "VM-entry/exit MSR load/store lists", manual="kvm",
    kvm="emulated in software by L0 (nested_vmx_load_msr / store_msr), vmcs02 lists are L0 private",
)  # fmt: skip
def msr_lists(case: VmcsCase) -> None:
    assert LISTED_MSR == 0xC0000102
    loaded = kernel_gs_base(case) == LISTED_VALUE
    assert loaded != case.failed(), "loaded exactly where L2 does run"
    assert case.l2_has("VM_ENTRY_MSR_LOAD_ADDR") != case.l1_has("VM_ENTRY_MSR_LOAD_ADDR")
    assert case.l2_has("VM_ENTRY_MSR_LOAD_COUNT") == case.l0_has("VM_ENTRY_MSR_LOAD_COUNT")


@reads("Host state", xen="L0 own",
       kvm="L0 own; vmcs12 host state loaded in software at nested exit")  # fmt: skip
def host_state(case: VmcsCase) -> None:
    for slot in HOST_SLOTS:
        name = vmcs.field_name(int(slot))
        assert case.l2_has(name) == case.l0_has(name), name
    assert case.l2_has("HOST_RIP")


@reads("VMCS link pointer", xen="n2: vvmcs/-1", kvm="-1 (vmcs12 shadow vmcs cached separately)")
def link_pointer(case: VmcsCase) -> None:
    assert case.l2_has("VMCS_LINK_POINTER") == ONES


# ---------------------------------------------------------------- checks and launch


@reads(
    "Consistency checks",
    xen="none in software (only VMX pointer/launch state/bitmap mapping); bad state => "
    "domain_crash",
)
def unchecked(case: VmcsCase) -> None:
    assert not case.failed(), "the processor is to find out"


@reads(
    "Consistency checks", manual="kvm",
    kvm="full SDM order in software: errors 7, 8, then exit 33/34",
)  # fmt: skip
def checked(case: VmcsCase) -> None:
    """Random guest state is no state of a processor; the errors are the entry checks' own test."""
    if case.l1_has("GUEST_RFLAGS") != 2:
        assert case.failed()
        assert case.machine.m["exit"]["code"][0] & 0xFFFF == 33


@reads("Launch", xen="VMCLEAR both, always VMLAUNCH after a switch")
def launch(case: VmcsCase) -> None:
    if case.machine.m["nv"]["shadow_active"][0]:  # the shadow VMCS, too, and at each access to it
        assert case.happened("L0_VMCLEAR") >= 2
    else:
        assert (case.happened("L0_VMCLEAR"), case.happened("L0_VMPTRLD")) == (1, 1)


@reads("Launch", kvm="vmcs02 persistent, VMRESUME after first")
def launch_of_kvm(case: VmcsCase) -> None:
    assert case.happened("L0_VMCLEAR") == 0


# ---------------------------------------------------------------- all of them


def test_every_row_has_its_rule():
    assert ROWS.texts == ROWS.of_table()


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize("row", ROWS.names())
def test_row(row, l0):
    check = ROWS.check_for(row, l0)
    if check is None:
        column = "xen" if l0 == "manual" else l0
        assert ROWS.reasons[row, column]
        return
    for case in vmcs_cases(l0):
        check(case)


@pytest.mark.parametrize("l0", L0S)
def test_the_cases_differ_in_what_the_rows_ask_for(l0):
    cases = vmcs_cases(l0)
    for group, name in (("cpu", "USE_MSR_BITMAPS"), ("cpu", "USE_IO_BITMAPS"),
                        ("sec", "ENABLE_EPT"), ("entry", "LOAD_IA32_EFER")):  # fmt: skip
        assert {c.asked(group, name) for c in cases} == {False, True}
    assert {c.apicv for c in cases} == {c.shadowing for c in cases} == {False, True}
    assert any(not c.failed() for c in cases)
