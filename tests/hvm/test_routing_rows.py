"""Every row of the two exit tables, by its text, under every L0: whose exit is it?

For each row the question is asked with L1's intercept, control or bitmap bit set, and clear; what the
text says of the two must be what ``svm_route`` and ``vmx_route`` answer from simulated memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.hvm.test_vmx_kvm import KvmMachine
from tests.oracle import svm
from tests.oracle import vmx as oracle
from tests.oracle.routing import _ALSO_BY_CONTROL as ALSO_BY_CONTROL
from tests.oracle.svm_machine import IOPM12, MSRPM12, VMCB12, SvmMachine
from tests.oracle.vmx_machine import MSR_BITMAP12, VmxMachine
from workbench.arch import deviations, vmcs
from workbench.arch.table import rows
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.personality import L0S

L0, L1, WANTED = "L0", "L1", "who asked"
"""Answers: always L0, always L1, L1 where it has asked for it."""

# ---------------------------------------------------------------- SVM

SVM_TEXTS = {
    "xen": {
        **{f"L1 iff cached ns_{w}_intercepts bit": WANTED
           for w in ("cr", "dr", "exception", "general1", "general2")},
        "BUG() in Xen (DR8+ not decoded)": L0,
        "BUG() in Xen (vector above #XF not decoded)": L0,
        "BUG() in Xen (not decoded)": L0,
        "#PF: nested HAP -> L1 iff L1 intercepts; L1 shadow on host HAP -> always L1; host shadow "
        "-> L0": WANTED,
        "L0 always": L0,
        "L1 iff intercept bit and guest IOPM bit(s)": WANTED,
        "L1 iff intercept bit and cached guest MSRPM bit (out of range: L1)": WANTED,
        "L1 always": L1,
        "L0 (nested fault resolver; may inject NPF into L1)": L0,
        "L1": L1,
    },
    "kvm": {
        "L1 iff vmcb12 intercept bit": WANTED,
        "L0 first if vmcb01 intercepts it (UD,DB,AC,MC,..) then re-queued and maybe injected as "
        "nested exit; else L1": "L0's own",
        "L0 if vmcb01 intercepts (no NPT) or async-PF pending; else L1": "L0's own",
        "L0 always": L0,
        "L1 iff intercept bit and guest IOPM bit(s)": WANTED,
        "L1 iff intercept bit and guest MSRPM bit (out of range: L1)": WANTED,
        "L1 iff intercept bit; L0 if Hyper-V L2 TLB-flush hypercall": WANTED,
        "L0 always (MMU may inject NPF)": L0,
        "L1": L1,
    },
}  # fmt: skip
"""Every text of svm_exitcodes.csv; what Xen does not decode stops its host, which L1 never learns."""
NO_INTERCEPT = 0x400
"""Codes from here on have no intercept bit: nested page faults, AVIC and encrypted guests."""
MSR, PORT = 0xC0000101, 0x3F8
SVM_ROWS = rows("svm_exitcodes")


@functools.cache
def svm_machine(l0: str) -> SvmMachine:
    made = SvmMachine(l0=L0S.index(l0), deviations=deviations.word(deviations.of(l0, "svm")))
    for name, value in (("vmcx12", layout.L1_BANK_MA + VMCB12), ("iopm", IOPM12)):
        made.state[name] = value
    made.state["hap_enabled"] = 1
    return made


def svm_answer(l0: str, code: int, asked: bool, in_maps: bool = True) -> bool:
    """Does an exit of L2 go to L1, whose intercepts are all set or all clear?"""
    made = svm_machine(l0)
    made.write(made.l1(MSRPM12), (b"\xff" if in_maps else b"\0") * 0x2000)
    made.give_msr_map(MSRPM12)
    made.write(made.l1(IOPM12), (b"\xff" if in_maps else b"\0") * 0x3000)
    made.set_intercepts(*[0xFFFFFFFF if asked else 0] * 5)
    made.m["nv"]["general3"] = 0xFFFFFFFF if asked else 0
    made.m["cpu"]["gpr"][0][layout.RCX] = MSR
    made.m["exit"]["code"] = code - (1 << 64) if code >> 63 else code
    made.m["exit"]["info1"] = 16 | PORT << 16 if code == 0x7B else 0
    return made.call("svm_route") == 1


def svm_expected(l0: str, row: dict[str, str], asked: bool) -> bool:
    """What the row's text says; L0 without deviations gives L1 what it asked for, as in KVM's column,
    but for exceptions, which KVM's host looks at first."""
    code = int(row["value"], 0)
    text = row["xen_L2_exit_goes_to" if l0 == "xen" else "kvm_L2_exit_goes_to"]
    meaning = SVM_TEXTS["xen" if l0 == "xen" else "kvm"][text]
    if meaning == "L0's own":
        if l0 == "manual":
            meaning = WANTED
        else:
            own = svm_machine(l0).field(memory_map.VMCX01_MA, "intercept_word2")
            return not own >> (code - 0x40) & 1
    if meaning == WANTED:
        return asked and code < NO_INTERCEPT
    return meaning == L1


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize("row", SVM_ROWS, ids=lambda row: row["name"])
def test_svm_exit(row, l0):
    for asked in (False, True):
        answer = svm_answer(l0, int(row["value"], 0), asked)
        assert answer == svm_expected(l0, row, asked), f"intercepts {asked}"


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize("name", ["VMEXIT_MSR", "VMEXIT_IOIO"])
def test_maps_of_l1_decide_too(name, l0):
    row = next(r for r in SVM_ROWS if r["name"] == name)
    assert "MSRPM" in row[f"{'kvm' if l0 == 'manual' else l0}_L2_exit_goes_to"] or name[-2:] == "IO"
    assert not svm_answer(l0, int(row["value"], 0), True, in_maps=False)


@pytest.mark.parametrize("column", ["xen", "kvm"])
def test_every_text_of_svm_is_read(column):
    assert {row[f"{column}_L2_exit_goes_to"] for row in SVM_ROWS} == set(SVM_TEXTS[column])


@pytest.mark.parametrize("l0", ["xen", "manual"])
def test_page_faults_of_an_l2_that_l1_shadows_are_l1s(l0):
    made = svm_machine(l0)
    made.state["hap_enabled"] = 0
    try:
        assert svm_answer(l0, 0x4E, False)
    finally:
        made.state["hap_enabled"] = 1


# ---------------------------------------------------------------- VMX


@dataclass(frozen=True)
class Ask:
    """How L1 asks for an exit, or does not: fields of vmcs12 and what the exit says."""

    fields: dict[str, int]
    refused: dict[str, int]
    qualification: int = 0
    intr_info: int = 0


ACTIVE = oracle.BIT["cpu", "ACTIVATE_SECONDARY_CONTROLS"]
FIELD = {"pin": "PIN_BASED_VM_EXEC_CONTROL", "cpu": "CPU_BASED_VM_EXEC_CONTROL",
         "sec": "SECONDARY_VM_EXEC_CONTROL"}  # fmt: skip
CONTROL_OF = {**oracle._BY_CONTROL, **ALSO_BY_CONTROL}
CPU = FIELD["cpu"]


def by_control(name: str) -> Ask:
    """All controls clear, or all but one set: only the one of the reason counts."""
    group, control = CONTROL_OF[name]
    ones = {field: 0xFFFFFFFF for field in FIELD.values()}
    without = {**ones, FIELD[group]: 0xFFFFFFFF & ~oracle.BIT[group, control]}
    only = {FIELD[group]: oracle.BIT[group, control]}
    if group == "sec":
        only[CPU] = ACTIVE
    return Ask(only, without)


def special(name: str) -> Ask:
    """The reasons whose answer depends on more than a control."""
    bit = oracle.BIT
    if name == "EXCEPTION_NMI":
        return Ask({"EXCEPTION_BITMAP": 1 << 6}, {"EXCEPTION_BITMAP": ~(1 << 6) & 0xFFFFFFFF},
                   intr_info=1 << 31 | 3 << 8 | 6)  # fmt: skip
    if name == "CR_ACCESS":
        return Ask({CPU: bit["cpu", "CR3_LOAD_EXITING"]}, {}, qualification=3)
    if name == "IO_INSTRUCTION":
        return Ask({CPU: bit["cpu", "UNCOND_IO_EXITING"]}, {}, qualification=PORT << 16)
    if name == "INVPCID":
        both = bit["cpu", "INVLPG_EXITING"] | ACTIVE
        return Ask({CPU: both, FIELD["sec"]: bit["sec", "ENABLE_INVPCID"]}, {CPU: both})
    if name in ("VMREAD", "VMWRITE"):
        use = {CPU: ACTIVE, FIELD["sec"]: bit["sec", "SHADOW_VMCS"], f"{name}_BITMAP": MSR_BITMAP12}
        return Ask({**use, "closed": 1}, use)
    use = {CPU: bit["cpu", "USE_MSR_BITMAPS"], "MSR_BITMAP": MSR_BITMAP12}
    return Ask({**use, "closed": 1}, use)


IF = "L1 if "
VMX_TEXTS: dict[str, str | Callable[[str], Ask]] = {
    "L0": L0, "L0 always": L0, "L0 (nested_hap may INJECT)": L0,
    "L0 always (nested timer emulated by hrtimer)": L0,
    "L0 always (MMU may inject nested EPT violation)": L0, "L0 (never exposed to L1)": L0,
    "L1": L1, "L1 always": L1, "default: L1": L1,
    "L1 (unless Hyper-V direct TLB flush hypercall -> L0)": L1,
    'default: domain_crash ("Unhandled nested vmexit")': L0,
    "domain_crash (same)": L0, "domain_crash (same as 33)": L0,
    "domain_crash: handler compares the full 32-bit reason with 0x80000000, so 0x80000021 hits "
    "default (dead case label)": L0,
    "#PF -> L1 iff host uses HAP; type HW_EXC -> L1 iff vvmcs EXCEPTION_BITMAP bit; NMI / software "
    "exceptions -> L0": special,
    "L0: NMI; #PF if L0 intercepts or async-PF; #DB/#BP under guest debug; #AC split-lock; #VE. "
    "Else #PF always L1 (hw already applied mask/match), others L1 iff vmcs12 exception_bitmap "
    "bit": special,
    **dict.fromkeys((
        "by L1 CR masks/shadows/targets", "by CR masks/shadows, CR3/CR8 controls",
        "by L1 uncond-IO / bitmap", "L1 if uncond (no bitmaps) or bitmap bit(s)",
        "by L1 MSR bitmap (no bitmap: L1)", "L1 by bitmap (no bitmap: always)",
        "L1 if INVPCID && INVLPG exiting",
        "L1; if vmcs12 SHADOW_VMCS: by L1 vmread bitmap",
        "L1; if vmcs12 SHADOW_VMCS: by L1 vmwrite bitmap",
    ), special),
    **dict.fromkeys((
        "by L1 ctrl", "by L1 ctrl CPU b2", "by L1 ctrl CPU b22", "by L1 pin ctrl",
        "by L1 ctrl (else L0 emulates with L2 TSC offset)", "by L1 ctrl RDTSC (else L0)",
        "by L1 ctrl PAUSE exiting (else L0 handles its PLE)", "by L1 ctrl TPR shadow",
        "by L1 ctrl DESC", "by L1 ctrl and not L0-dirty DRs", "by ENCLS bitmap",
        "L1 (vmcs12 always intercepts when enabled)",
        *(IF + c for c in (
            "CPU b2", "CPU b22", "HLT exiting", "INVLPG exiting", "RDPMC exiting", "RDTSC exiting",
            "MOV_DR exiting", "MWAIT exiting", "vmcs12 MTF", "MONITOR exiting",
            "PAUSE exiting or PLE", "TPR shadow", "DESC exiting", "WBINVD exiting",
            "RDRAND exiting", "RDSEED exiting", "vmcs12 XSAVES enabled",
            "vmcs12 XSAVES enabled (bitmap not re-checked)", "vmcs12 USR_WAIT_PAUSE",
        )),
    ), by_control),
}  # fmt: skip
"""Every text of vmx_exit_reasons.csv; at a domain_crash L1 gets nothing: its domain ends."""
DIFFERENT = {
    ("kvm", "PML_FULL"): "L0 always = internal error (PML never enabled in vmcs02; L1 PML emulated "
    "by software)",
    ("kvm", "VMFUNC"): "L0 (emulates leaf 0 EPTP switching; on failure synthesizes VMFUNC exit to "
    "L1)",
}  # fmt: skip
"""Where the modelled L0 leaves to the processor what KVM does in software, so that the exit is that
of L1's control; VM functions exist in no modelled processor."""
VMX_ROWS = tuple(row for row in rows("vmx_exit_reasons") if int(row["value"], 0) < 128)


@functools.cache
def vmx_machine(l0: str) -> VmxMachine:
    kind = KvmMachine if l0 == "kvm" else VmxMachine
    made = kind(l0=L0S.index(l0), deviations=deviations.word(deviations.of(l0, "vmx")))
    made.enter_vmx_operation()
    made.state["n2_guest"] = 1
    return made


def vmx_answer(l0: str, reason: int, ask: Ask, fields: dict[str, int]) -> bool:
    made = vmx_machine(l0)
    bitmaps = ("EXCEPTION_BITMAP", "MSR_BITMAP", "VMREAD_BITMAP", "VMWRITE_BITMAP")
    cleared = dict.fromkeys((*FIELD.values(), *bitmaps), 0)
    for name, value in {**cleared, **fields}.items():
        if name != "closed":
            made.put(12, name, value)
    made.page(made.l1(MSR_BITMAP12))[:] = 0xFF if "closed" in fields else 0
    if made.m["feat"]["l0"][0] != layout.L0_KVM:
        made.call("copy_msr_map", MSR_BITMAP12, 4096)
    made.put(1, CPU, 0)  # L0 has given the debug registers away
    made.gpr[layout.RCX] = MSR
    x = made.m["exit"]
    x["code"], x["info1"], x["intr_info"] = reason, ask.qualification, ask.intr_info
    made.gpr[layout.RDX], x["insn_info"] = vmcs.GUEST_RSP, layout.RDX << 28
    return made.call("vmx_route") == 1


@pytest.mark.parametrize("l0", L0S)
@pytest.mark.parametrize("row", VMX_ROWS, ids=lambda row: row["name"])
def test_vmx_exit(row, l0):
    name, reason = row["name"], int(row["value"], 0)
    column = "xen" if l0 == "xen" else "kvm"
    text = row[f"{column}_L2_exit_goes_to"]
    if (column, name) in DIFFERENT:
        assert text == DIFFERENT[column, name]
        meaning = by_control if name in CONTROL_OF else L1
    elif l0 == "manual" and name == "PREEMPTION_TIMER":
        meaning = by_control  # the processor's timer, not one of KVM's own
    else:
        meaning = VMX_TEXTS[text]
    if callable(meaning):
        ask = meaning(name)
        assert vmx_answer(l0, reason, ask, ask.fields), "asked for"
        assert not vmx_answer(l0, reason, ask, ask.refused), "not asked for"
        return
    all_ones = {**dict.fromkeys(FIELD.values(), 0xFFFFFFFF), "EXCEPTION_BITMAP": 0xFFFFFFFF}
    for fields in ({}, all_ones):
        assert vmx_answer(l0, reason, Ask({}, {}), fields) == (meaning == L1), fields


@pytest.mark.parametrize("column", ["xen", "kvm"])
def test_every_text_of_vmx_is_read(column):
    texts = {row[f"{column}_L2_exit_goes_to"] for row in VMX_ROWS}
    assert texts - set(VMX_TEXTS) == {t for (c, _), t in DIFFERENT.items() if c == column}


def test_rows_that_are_no_reasons_are_flags_of_the_reason_word():
    rest = [row for row in rows("vmx_exit_reasons") if row not in VMX_ROWS]
    assert all(row["name"].startswith("FLAG_") for row in rest)
    assert not any(row["xen_L2_exit_goes_to"] + row["kvm_L2_exit_goes_to"] for row in rest)


def test_no_two_rows_share_a_code():
    for table in (SVM_ROWS, VMX_ROWS):
        codes = [int(row["value"], 0) for row in table]
        assert len(set(codes)) == len(codes)
    assert svm.VMCB_FIELDS["exit_code"] == (0x70, 8)
