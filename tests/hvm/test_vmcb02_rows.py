"""Every row of vmcb02_merge.csv, by its text, on random control structures and under every L0."""

from __future__ import annotations

import pytest

from tests.oracle import svm
from tests.oracle.svm_machine import SvmMachine
from tests.oracle.table_rows import TableRows
from tests.oracle.vmcb_case import PAUSE, VLS, VMCB02, VmcbCase, vmcb_cases
from workbench.arch import deviations
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.svm import tables as svm_tables
from workbench.personality import L0S

ROWS = TableRows("vmcb02_merge", "field", ("xen", "kvm"))
reads = ROWS.reads
CR8_WRITE, VINTR, VMMCALL, VMLOAD_VMSAVE, STGI_CLGI = 1 << 24, 1 << 4, 2, 3 << 2, 3 << 4
V_INTR_MASKING, V_GIF = 1 << 24, 1 << 9 | 1 << 25
SPECIAL = {0: CR8_WRITE, 3: VINTR, 4: VMMCALL | VMLOAD_VMSAVE | STGI_CLGI}
"""Bits of the intercept words that have a row of their own, or depend on GIF."""
PORTS = (0x80, 0xED)


def both(case: VmcbCase, k: int) -> int:
    """OR of an intercept word of vmcb01 and vmcb12."""
    return case.l0_has(f"intercept_word{k}") | case.l1_has(f"intercept_word{k}")


@reads(
    "intercept CR/DR/EXC/GENERAL1/GENERAL2", xen="OR(n1vmcb, vmcb12)",
    kvm="OR(vmcb01, vmcb12) recalc_intercepts; then special cases",
)  # fmt: skip
def intercept_words(case: VmcbCase) -> None:
    for k in range(5):
        differs = case.l2_has(f"intercept_word{k}") ^ both(case, k)
        assert differs & ~SPECIAL.get(k, 0) == 0, k
    if not (case.virtual_gif and case.l2_has("int_ctl") >> 25 & 1):  # or L2 has the real GIF
        assert case.l2_has("intercept_word4") & STGI_CLGI == STGI_CLGI


@reads("intercept GENERAL3 (word5)", xen="not merged (n2vmcb keeps its own 0)")
def word5_is_not_merged(case: VmcbCase) -> None:
    assert case.l2_has("intercept_word5") == case.was("intercept_word5") == 0


@reads("intercept GENERAL3 (word5)", kvm="OR", manual="kvm")
def word5(case: VmcbCase) -> None:
    assert case.l2_has("intercept_word5") == both(case, 5)


@reads("intercept CR8_WRITE", xen="OR")
def cr8_write(case: VmcbCase) -> None:
    assert (case.l2_has("intercept_word0") ^ both(case, 0)) & CR8_WRITE == 0


@reads(
    "intercept CR8_WRITE",
    kvm="cleared in merge result if vmcb12 V_INTR_MASKING (nested_svm_virtualize_tpr)",
)
def cr8_write_of_a_virtual_tpr(case: VmcbCase) -> None:
    masking = case.l1_has("int_ctl") & V_INTR_MASKING
    expected = 0 if masking else both(case, 0) & CR8_WRITE
    assert case.l2_has("intercept_word0") & CR8_WRITE == expected


@reads("intercept VINTR", xen="OR")
def vintr(case: VmcbCase) -> None:
    assert (case.l2_has("intercept_word3") ^ both(case, 3)) & VINTR == 0


@reads("intercept VINTR", kvm="cleared from the L0 part if V_INTR_MASKING and vmcb01 RFLAGS.IF=0")
def vintr_of_l0(case: VmcbCase) -> None:
    assert case.l0_has("rflags") >> 9 & 1 == case.l1_if
    own = case.l0_has("intercept_word3")
    if case.l1_has("int_ctl") & V_INTR_MASKING and not case.l1_if:
        own &= ~VINTR
    expected = (own | case.l1_has("intercept_word3")) & VINTR
    assert case.l2_has("intercept_word3") & VINTR == expected


@reads("intercept VMMCALL", xen="OR (L0 always sets; exit always goes to L1)")
def vmmcall(case: VmcbCase) -> None:
    assert case.l0_has("intercept_word4") & VMMCALL, "L0 always sets it"
    assert case.l2_has("intercept_word4") & VMMCALL


@reads("intercept VMMCALL", kvm="L0 part removed unless Hyper-V L2 TLB flush")
def vmmcall_of_l1(case: VmcbCase) -> None:
    assert (case.l2_has("intercept_word4") ^ case.l1_has("intercept_word4")) & VMMCALL == 0


@reads("intercept VMLOAD/VMSAVE", xen="OR")
def vmload_vmsave(case: VmcbCase) -> None:
    assert (case.l2_has("intercept_word4") ^ both(case, 4)) & VMLOAD_VMSAVE == 0


@reads("intercept VMLOAD/VMSAVE", kvm="forced unless nested VLS + NPT")
def vmload_vmsave_forced(case: VmcbCase) -> None:
    lent = case.vls and case.nested and case.l1_has("virt_ext") & VLS
    expected = both(case, 4) & VMLOAD_VMSAVE if lent else VMLOAD_VMSAVE
    assert case.l2_has("intercept_word4") & VMLOAD_VMSAVE == expected


@reads("pause_filter_count", xen="min(n1,vmcb12) if L1 intercepts PAUSE else n1")
def pause_filter(case: VmcbCase) -> None:
    own = case.l0_has("pause_filter_count")
    wanted = case.pause and case.l1_has("intercept_word3") & PAUSE
    expected = min(own, case.l1_has("pause_filter_count")) if wanted else own
    assert case.l2_has("pause_filter_count") == expected
    assert case.l2_has("pause_filter_thresh") == case.l0_has("pause_filter_thresh")


@reads(
    "pause_filter_count",
    kvm="vmcb01 values (0 if L1 intercepts with 0); vmcb12 values if host does not intercept PAUSE",
)
def pause_filter_of_kvm(case: VmcbCase) -> None:
    """The host of the model intercepts PAUSE wherever the processor has a filter."""
    wanted = case.pause and case.l1_has("intercept_word3") & PAUSE
    for name in ("pause_filter_count", "pause_filter_thresh"):
        off = wanted and case.l1_has(name) == 0
        assert case.l2_has(name) == (0 if off else case.l0_has(name)), name


@reads("tsc_offset", xen="n1 + vmcb12", kvm="l1_offset + scaled(vmcb12)")
def tsc_offset(case: VmcbCase) -> None:
    """Without TSC scaling, which no L0 here lends, the scaled offset is the offset."""
    total = case.l0_has("tsc_offset") + case.l1_has("tsc_offset")
    assert case.l2_has("tsc_offset") == total % (1 << 64)


@reads("iopm_base_pa", xen="one of 4 prebuilt maps selected by L1 permission of ports 0x80/0xED")
def io_map(case: VmcbCase) -> None:
    used = case.map("iopm_base_pa", 0x3000)
    for port in range(0x10000):
        free = port in PORTS and not svm.io_intercepted(case.iopm12, port, 1)
        assert svm.io_intercepted(used, port, 1) != free, hex(port)
    which = (case.l2_has("iopm_base_pa") - memory_map.SVM_IOPM_SET_MA) // 0x3000
    assert 0 <= which < 4


@reads("iopm_base_pa", kvm="vmcb01 map (everything intercepted)")
def io_map_of_kvm(case: VmcbCase) -> None:
    assert case.map("iopm_base_pa", 0x2001) == b"\xff" * 0x2001
    assert case.machine.page(case.l0_has("iopm_base_pa"), 0x2001) == b"\xff" * 0x2001


@reads(
    "msrpm_base_pa",
    xen="ns_merged_msrpm = OR(L0 map, full copy of guest map) rebuilt each VMRUN",
)
def msr_map(case: VmcbCase) -> None:
    own = case.machine.page(case.l0_has("msrpm_base_pa"), 0x2000)
    assert case.map("msrpm_base_pa", 0x2000) == svm.merged_msrpm(own, case.msrpm12)


@reads(
    "msrpm_base_pa",
    kvm="if L1 does not set MSR_PROT: L0 map unchanged; else merged only at the 4-byte words that "
    "contain MSRs L0 may pass through (direct_access_msrs), rest = all intercept; x2APIC words "
    "always intercepted; skipped if Hyper-V says clean",
)
def msr_map_of_kvm(case: VmcbCase) -> None:
    own = case.machine.page(case.l0_has("msrpm_base_pa"), 0x2000)
    merged = case.map("msrpm_base_pa", 0x2000)
    if not case.l1_has("intercept_word3") >> 28 & 1:
        assert merged == own
        return
    for number in svm_tables.KVM_PASSED_THROUGH_MSRS:
        for write in (False, True):
            maps = (own, case.msrpm12)
            expected = any(svm.msr_intercepted(m, int(number), write) for m in maps)
            assert svm.msr_intercepted(merged, int(number), write) == expected, hex(number)
    open_bits = bytes(~m & 0xFF for m in merged)
    assert not any(a & b for a, b in zip(open_bits, own, strict=True)), "L0's map has the last word"
    assert all(svm.msr_intercepted(merged, n, w) for n in range(0x800, 0x900) for w in (0, 1))


@reads("asid", xen="own n2asid via hvm_asid_handle_vmenter")
def asid(case: VmcbCase) -> None:
    assert svm.get(case.run, "asid") == case.machine.state["n2_tag"]
    assert svm.get(case.run, "asid") != case.l0_has("asid")


@reads("asid", kvm="same asid as vmcb01 (svm->asid)")
def asid_of_kvm(case: VmcbCase) -> None:
    assert svm.get(case.run, "asid") == case.l0_has("asid")


@reads("tlb_control", xen="copied then overwritten by svm_asid_handle_vmrun")
def tlb_control(case: VmcbCase) -> None:
    """With an ASID of its own and none used up there is nothing for the hardware to flush."""
    assert svm.get(case.run, "tlb_ctl") == 0


@reads(
    "tlb_control",
    kvm="DO_NOTHING, then FLUSH_ASID because every transition requests TLB_FLUSH_CURRENT",
)
def tlb_control_of_kvm(case: VmcbCase) -> None:
    assert svm.get(case.run, "tlb_ctl") == 3


@reads(
    "vintr (int_ctl,vector)",
    xen="vmcb12.vintr (only if clean.tpr==0) | intr_masking=1",
)
def interrupt_control(case: VmcbCase) -> None:
    kept = 0 if case.virtual_gif else V_GIF
    control = case.l1_has("int_ctl") & ~kept | V_INTR_MASKING
    expected = case.was("int_ctl") if case.clean("tpr") else control
    assert case.l2_has("int_ctl") == expected
    case.unless_clean("tpr", "int_vector")


@reads(
    "vintr (int_ctl,vector)",
    kvm="V_TPR,V_IRQ,prio,ign_tpr,vector from vmcb12 (+V_GIF,V_GIF_ENABLE if nested vGIF; +vNMI "
    "bits); V_INTR_MASKING (+V_GIF*) from vmcb01",
)
def interrupt_control_of_kvm(case: VmcbCase) -> None:
    taken = 0xF | 1 << 8 | 0xF << 16 | 1 << 20 | (V_GIF if case.virtual_gif else 0)
    own = case.l0_has("int_ctl") & V_INTR_MASKING
    assert own
    assert case.l2_has("int_ctl") == case.l1_has("int_ctl") & taken | own
    case.has_vmcb12("int_vector")


@reads("int_state", xen="vmcb12", kvm="vmcb12")
def interrupt_state(case: VmcbCase) -> None:
    case.has_vmcb12("int_state")


@reads("exitcode/exitinfo/exitintinfo", xen="copied from vmcb12 (irrelevant)")
def exit_information(case: VmcbCase) -> None:
    case.has_vmcb12("exit_code", "exit_info_1", "exit_info_2", "exit_int_info")


ROWS.left_out(
    "exitcode/exitinfo/exitintinfo",
    "what vmcb02 has there before the exit that overwrites it cannot be read by anybody",
    kvm="not set",
)


@reads("event_inj", xen="vmcb12", kvm="vmcb12 (next_rip handled for soft events)")
def injected_event(case: VmcbCase) -> None:
    case.has_vmcb12("event_inj", "event_inj_err", "next_rip")


@reads("nested_ctl.NP", xen="1 if host HAP (both nested-HAP and L1-shadow)",
       kvm="vmcb01.nested_ctl")  # fmt: skip
def nested_paging(case: VmcbCase) -> None:
    assert case.l2_has("nested_ctl") & 1 == case.l0_has("nested_ctl") & 1 == 1


@reads(
    "nested_cr3", xen="np2m root (nested HAP) / n1vmcb.h_cr3 (L1 shadow)",
    kvm="root of shadow NPT guest_mmu (nested NPT) / normal root",
)  # fmt: skip
def nested_root(case: VmcbCase) -> None:
    root = case.l2_has("nested_cr3")
    if case.nested:
        assert root == case.machine.state["n2p_to_l0m"] != case.l0_has("nested_cr3")
    else:
        assert root == case.l0_has("nested_cr3")


@reads("virt_ext (LBR, VLS)", xen="OR")
def virtualization_extensions(case: VmcbCase) -> None:
    assert case.l2_has("virt_ext") == case.l0_has("virt_ext") | case.l1_has("virt_ext")


@reads("virt_ext (LBR, VLS)", kvm="VLS when allowed; LBR by svm_update_lbrv")
def virtualization_extensions_of_kvm(case: VmcbCase) -> None:
    allowed = VLS if case.vls and case.nested else 0
    assert case.l2_has("virt_ext") == case.l1_has("virt_ext") & (1 | allowed)


@reads("clean bits",
       xen="vmcb12 clean honoured only if same vmcb12 address as last exit; n2vmcb.clean=0")  # fmt: skip
def clean_bits(case: VmcbCase) -> None:
    assert case.l2_has("clean") == 0
    case.unless_clean("np", "g_pat")
    case.unless_clean("tpr", "int_vector")


@reads(
    "clean bits",
    kvm="vmcb12 clean honoured for save area only if same gpa as last; vmcb02 dirty bits tracked",
)
def clean_bits_of_kvm(case: VmcbCase) -> None:
    case.has_vmcb12("int_vector", "int_state")
    case.unless_clean("dt", "gdtr", "idtr")
    assert case.l2_has("clean") == 0, "everything of a fresh vmcb02 is dirty"


@reads("es,cs,ss,ds,cpl,gdtr,idtr", xen="vmcb12 (unless clean)", kvm="vmcb12 (unless clean)")
def segments(case: VmcbCase) -> None:
    case.unless_clean("seg", "es", "cs", "ss", "ds", "cpl")
    case.unless_clean("dt", "gdtr", "idtr")


@reads(
    "efer,cr0,cr4,cr3",
    xen="through hvm_set_efer/cr4/cr0/cr3 (order efer,cr4,cr0,cr2,cr3)",
    kvm="svm_set_efer/cr0/cr4; cr3 via nested_svm_load_cr3 (PDPTR check)",
)
def control_registers(case: VmcbCase) -> None:
    """The outcome; L2's EFER.SVME is the processor's need, whatever L1 set."""
    case.has_vmcb12("cr0", "cr4", "cr3")
    assert case.l2_has("efer") == case.l1_has("efer") | 1 << 12


@reads("cr2,rflags,rip,rsp,rax", xen="vmcb12", kvm="vmcb12")
def moving_registers(case: VmcbCase) -> None:
    case.has_vmcb12("cr2", "rflags", "rip", "rsp", "rax")


@reads("dr6,dr7", xen="vmcb12 (unless clean)")
def debug_registers(case: VmcbCase) -> None:
    case.unless_clean("dr", "dr6", "dr7")


@reads("dr6,dr7", kvm="vmcb12 |fixed bits (unless clean)")
def debug_registers_of_kvm(case: VmcbCase) -> None:
    for name, fixed in (("dr6", 0xFFFF0FF0), ("dr7", 0x400)):
        expected = case.was(name) if case.clean("dr") else case.l1_has(name) | fixed
        assert case.l2_has(name) == expected, name


@reads(
    "fs,gs,ldtr,tr,kernel_gs,star..sysenter",
    xen="NOT touched (L1 loads them with VMLOAD)",
    kvm="NOT touched in vmcb02: vmload/vmsave state lives in vmcb01 and is swapped with it",
)
def vmload_state(case: VmcbCase) -> None:
    for name in ("fs", "gs", "ldtr", "tr", "kernel_gs_base", "star", "lstar", "cstar", "sfmask",
                 "sysenter_cs", "sysenter_esp", "sysenter_eip"):  # fmt: skip
        assert case.l2_has(name) == case.was(name), name


@reads("g_pat", xen="vmcb12 (unless clean.np)")
def pat(case: VmcbCase) -> None:
    case.unless_clean("np", "g_pat")


@reads("g_pat", kvm="vmcb01.g_pat (vmcb12 value ignored)")
def pat_of_l1(case: VmcbCase) -> None:
    assert case.l2_has("g_pat") == case.l0_has("g_pat")


LBR = ("dbgctl", "br_from", "br_to", "last_excp_from", "last_excp_to")


@reads("dbgctl, LBR", xen="vmcb12 (unless clean.lbr)")
def last_branches(case: VmcbCase) -> None:
    case.unless_clean("lbr", *LBR)


@reads("dbgctl, LBR", kvm="vmcb12 if L1 enables LBRV else vmcb01")
def last_branches_of_kvm(case: VmcbCase) -> None:
    if case.l1_has("virt_ext") & 1:
        case.has_vmcb12(*LBR)
    else:
        assert case.l2_has("dbgctl") == case.l0_has("dbgctl")


# ---------------------------------------------------------------- the row about checks


def refused(l0: str) -> tuple[SvmMachine, bytes]:
    """A VMRUN of a vmcb12 that the manual forbids; vmcb02 as it was before."""
    made = SvmMachine(l0=L0S.index(l0), deviations=deviations.word(deviations.of(l0, "svm")))
    made.state["hsave_pa"] = 0x5000
    page = made.good_vmcb12()
    svm.put(page, "cr0", 0x80000011 | 1 << 29)  # CD = 0, NW = 1
    svm.put(page, "rip", 0x123456)
    before = made.page(VMCB02)
    assert made.start_vmrun(page) != layout.ST_OK
    return made, before


@reads(
    "validity checks",
    xen="after loading: svm_vmcb_isvalid(vmcb12) -> VMEXIT_INVALID ; svm_vmcb_isvalid(n2vmcb) -> "
    "#UD to L1",
)
def checks_after_loading(case: VmcbCase) -> None:
    made, before = refused(case.l0)
    assert made.page(VMCB02) != before
    assert made.field(VMCB02, "rip") == 0x123456
    assert (made.state["vmexit_pending"], made.state["exitcode"]) == (1, -1)


@reads(
    "validity checks",
    kvm="before loading, on a cached snapshot (TOCTOU safe) -> VMEXIT -1",
    manual="kvm",
)
def checks_before_loading(case: VmcbCase) -> None:
    made, before = refused(case.l0)
    assert made.page(VMCB02) == before
    page = made.page(made.l1(0x20000))
    assert svm.get(page, "exit_code") == (1 << 64) - 1


# ---------------------------------------------------------------- all of them


def test_every_row_has_its_rule():
    assert ROWS.texts == ROWS.of_table()


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize("row", ROWS.names())
def test_row(row, l0):
    check = ROWS.check_for(row, l0)
    if check is None:
        assert ROWS.reasons[row, l0]
        return
    for case in vmcb_cases(l0):
        assert case.outcome == layout.ST_OK
        check(case)
