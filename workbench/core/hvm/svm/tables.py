"""What the SVM part knows from the tables in data/arch, as constant arrays.

Everything is indexed by the place of an exit code in the ledger's exit table (:func:`code_index`),
which for all codes below 0xa0 is also the position of the intercept that causes it.  A text of a
table that this module does not understand stops the import.
"""

from __future__ import annotations

import re

import numpy as np

from ....arch import deviations, svm
from ....arch.table import rows
from ... import ledger
from ...jit import inner, unit
from ...layout import L0_KVM, L0_MANUAL, L0_XEN, Machine
from .. import insn
from ..nested_state import is_n2_guest

N_INDEXES = 256

# ---------------------------------------------------------------- exit codes


@inner
def code_index(code):
    """Place of an exit code in the tables; INVALID for every code that the manual does not list."""
    if code >= 0 and code < svm.NPF_INDEX:
        return code
    if code >= 0x400 and code <= 0x403:
        return svm.NPF_INDEX + (code & 3)
    return svm.INVALID_INDEX


def _index(value: str) -> int:
    code = int(value, 0)
    if code < svm.NPF_INDEX:
        return code
    return svm.NPF_INDEX + (code & 3) if code <= 0x403 else svm.INVALID_INDEX


# ---------------------------------------------------------------- routing of L2's exits

R_L0, R_L1, R_BIT, R_PAGE_FAULT, R_MSR, R_IOIO, R_EXCEPTION, R_STOP = range(8)
"""Who gets an exit: L0, L1, L1 if its intercept bit is set, or by a rule of its own.
EXCEPTION: L0 first if it intercepts the vector for itself, else L1.  STOP: Xen does not decode the
code, and the host stops."""

_ROUTES = (
    (r"L0 always( \(MMU may inject NPF\))?|L0 \(nested fault resolver; may inject NPF into L1\)",
     R_L0),
    (r"L1 always|L1", R_L1),
    (r"L1 iff cached ns_(cr|dr|exception|general1|general2)_intercepts bit", R_BIT),
    (r"L1 iff vmcb12 intercept bit|L1 iff intercept bit; L0 if Hyper-V L2 TLB-flush hypercall",
     R_BIT),
    (r"#PF: nested HAP -> L1 iff L1 intercepts; L1 shadow on host HAP -> always L1; .*",
     R_PAGE_FAULT),
    (r"L1 iff intercept bit and (cached )?guest MSRPM bit \(out of range: L1\)", R_MSR),
    (r"L1 iff intercept bit and guest IOPM bit\(s\)", R_IOIO),
    (r"L0 first if vmcb01 intercepts it \(.*\) then re-queued .*; else L1"
     r"|L0 if vmcb01 intercepts \(no NPT\) or async-PF pending; else L1", R_EXCEPTION),
    (r"BUG\(\) in Xen \(.*\)", R_STOP),
)  # fmt: skip


def parse_route(text: str) -> int:
    """Routing rule (R_*) of a text in a ``*_L2_exit_goes_to`` column of svm_exitcodes.csv.

    Raises
    ------
    ValueError
        When the text is none of the known rules.
    """
    for pattern, rule in _ROUTES:
        if re.fullmatch(pattern, text):
            return rule
    raise ValueError(f"svm_exitcodes.csv: no routing rule reads {text!r}")


def _manual_route(name: str) -> int:
    """What an L0 without deviations does: L1 gets what it asked for (APM vol. 2, 15.6 to 15.14).

    Physical interrupts, NMIs and nested page faults are L0's business; L1's own are made of them.
    """
    special = {"INTR": R_L0, "NMI": R_L0, "NPF": R_L0, "INVALID": R_L1, "MSR": R_MSR,
               "IOIO": R_IOIO, "EXCP_PF": R_PAGE_FAULT}  # fmt: skip
    return special.get(name, R_BIT)


def _why_different(name: str, rule: int) -> int:
    """The deviation (DEV_*) that makes Xen's rule for an exit another one than the manual's."""
    if name == "VMMCALL":
        return deviations.DEV_VMMCALL_ALWAYS_TO_L1
    if rule == R_STOP:
        return deviations.DEV_UNDECODED_EXIT_STOPS_HOST
    raise ValueError(f"svm_exitcodes.csv: no deviation explains what Xen does with {name}")


def _routes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rule by personality and code index, shape (3 * 256,); deviation and its rule, (256,) each."""
    plain = np.full((3, N_INDEXES), R_L0, np.int64)
    deviation, instead = np.zeros((2, N_INDEXES), np.int64)
    for row in rows("svm_exitcodes"):
        index, name = _index(row["value"]), row["name"].removeprefix("VMEXIT_")
        manual = _manual_route(name)
        if manual == R_BIT and index >= svm.NPF_INDEX:
            manual = R_L0  # AVIC and encrypted guests: no intercept bit, and nothing raises them
        kvm, xen = (parse_route(row[f"{l0}_L2_exit_goes_to"]) for l0 in ("kvm", "xen"))
        plain[L0_MANUAL, index] = plain[L0_XEN, index] = manual
        plain[L0_KVM, index] = manual if kvm == R_BIT else kvm
        if xen != manual:
            deviation[index], instead[index] = _why_different(name, xen), xen
    return plain.reshape(-1), deviation, instead


ROUTE, ROUTE_DEVIATION, ROUTE_DEVIATING = _routes()


@unit(Machine)
def svm_prepare_routes(m):
    """Fill ``m.route`` with the rule of each exit code, for this L0 and its deviations."""
    first = m.feat.l0 * N_INDEXES if L0_XEN <= m.feat.l0 <= L0_MANUAL else 0
    for index in range(N_INDEXES):
        rule = ROUTE[first + index]
        if m.feat.deviations & ROUTE_DEVIATION[index]:
            rule = ROUTE_DEVIATING[index]
        m.route[index] = rule
    return 0


@inner
def stops_host(m, code):
    """Is this an exit of L2 that L0 does not decode?"""
    return is_n2_guest(m) and m.route[code_index(code)] == R_STOP


# ---------------------------------------------------------------- L0's default intercepts

_DEFAULTS = (
    (r"set", True),
    (r"clear", False),
    (r"set; (CR3 rd/wr )?cleared when HAP", False),
    (r"set; cleared if NPT.*", False),
    (r"set; cleared (while guest debug registers are loaded|if v).*", True),
    (r"set \(dropped lazily: .*\)|set unless (mwait|hlt)_in_guest", True),
    (r"set at init, then set only while TPR >= highest pending IRR .*", False),
    (r"dynamic: .*|guest debug", False),
    (r"(if|while|only with|only|set only if|set if) .*", False),
)


def parse_default(text: str) -> bool:
    """Whether L0 sets an intercept for L1, with HAP and no optional hardware.

    Reads columns ``xen_L0_default`` and ``kvm_L0_default`` of svm_intercepts.csv.

    Raises
    ------
    ValueError
        When the text is none of the known ones.
    """
    for pattern, is_set in _DEFAULTS:
        if re.fullmatch(pattern, text):
            return is_set
    raise ValueError(f"svm_intercepts.csv: no default reads {text!r}")


def _l0_intercepts(column: str) -> list[int]:
    words = [0] * 6
    for row in rows("svm_intercepts"):
        if parse_default(row[column]):
            words[int(row["word"])] |= 1 << int(row["bit"])
    return words


L0_INTERCEPTS = np.array(
    [_l0_intercepts(f"{l0}_L0_default") for l0 in ("xen", "kvm", "xen")], np.int64
).reshape(-1)
"""L0's intercept words in vmcb01 by personality, shape (3 * 6,)."""

# ---------------------------------------------------------------- instructions

_INSTRUCTION_EXITS = {
    "ICEBP": "ICEBP", "SGDT": "GDTR_READ", "SIDT": "IDTR_READ", "LGDT": "GDTR_WRITE",
    "LIDT": "IDTR_WRITE", "SLDT": "LDTR_READ", "STR": "TR_READ", "LLDT": "LDTR_WRITE",
    "LTR": "TR_WRITE", "RDRAND": None, "RDSEED": None,
}  # fmt: skip

INSTRUCTION_CODE = np.full(32, -1, np.int64)
"""Exit code by I_* (hvm/insn.py), -1 when SVM cannot intercept the instruction."""
for _number, _name in enumerate(insn.NAMES):
    _exit = _INSTRUCTION_EXITS.get(_name, _name)
    if _exit is not None:
        INSTRUCTION_CODE[_number] = getattr(svm, f"VMEXIT_{_exit}")

# ---------------------------------------------------------------- ledger causes

_CAUSES = (
    (r"CR\d+_(READ|WRITE|WRITE_TRAP)|CR0_SEL_WRITE|EFER_WRITE_TRAP", "CR_ACCESS"),
    (r"DR\d+_(READ|WRITE)", "DR_ACCESS"),
    (r"EXCP_.*", "EXCEPTION"),
    (r"(GDTR|IDTR|LDTR|TR)_(READ|WRITE)", "DESCRIPTOR_TABLE"),
    (r"CPUID|HLT|PAUSE|SHUTDOWN", None),
    (r"INTR|NMI|SMI|INIT", "INTERRUPT"),
    (r"VINTR", "INTERRUPT_WINDOW"),
    (r"IDLE_HLT", "HLT"),
    (r"RDTSCP?", "RDTSC"),
    (r"INVLPG|INVPCID|INVLPGB", "INVLPG"),
    (r"WBINVD|INVD", "WBINVD"),
    (r"VMMCALL", "HYPERCALL"),
    (r"VMRUN|VMLOAD|VMSAVE|STGI|CLGI|SKINIT|INVLPGA", "SVM_INSTRUCTION"),
    (r"NPF", "NESTED_PAGE_FAULT"),
    (r"INVALID", "ENTRY_FAILURE"),
)


def _cause(name: str) -> int:
    for pattern, cause in _CAUSES:
        if re.fullmatch(pattern, name):
            return ledger.CAUSES.index(cause or name)
    return ledger.CAUSES.index("OTHER")


CAUSE = np.full(N_INDEXES, ledger.CAUSES.index("OTHER"), np.int64)
"""Ledger cause by code index; MSR and IOIO depend on the direction and are set where they exit."""
for _row in rows("svm_exitcodes"):
    CAUSE[_index(_row["value"])] = _cause(_row["name"].removeprefix("VMEXIT_"))

# ---------------------------------------------------------------- MSRs


def _numbers(text: str) -> list[int]:
    """MSRs of a cell: numbers and ranges, separated by commas; ``0xc0011019-b`` is three MSRs."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        low = int(first, 0)
        if last and not last.startswith("0x"):
            last = first[: -len(last)] + last
        found += range(low, (int(last, 0) if last else low) + 1)
    return found


def _passed_through(pattern: str) -> np.ndarray:
    """MSRs of the rows of svm_msr_passthrough.csv whose note is ``pattern``."""
    return np.array(
        [
            number
            for row in rows("svm_msr_passthrough")
            if re.fullmatch(pattern, row["notes"])
            for number in _numbers(row["value"])
        ],
        np.int64,
    )


PASSED_THROUGH_MSRS = _passed_through(r"xen(,kvm.*|; kvm .*| with HAP)")
"""Numbers of the MSRs that are open in Xen's map, with HAP."""
KVM_PASSED_THROUGH_MSRS = _passed_through(r"xen,kvm.*|xen; kvm only if guest CPUID is not Intel")
"""Those that are open in KVM's map."""
KVM_POSSIBLE_MSRS = _passed_through(
    r"xen,kvm.*|xen; kvm .*|both, .*|when LBR .*|kvm( SEV-ES.*|: .*| when exposed)"
)
"""Those that KVM may open at some time, but for the x2APIC registers, which L2 never gets."""


def _check_intercepts_equal_codes() -> None:
    """The exit code of every intercept below 0xa0 is its position; the tables must agree."""
    names = {"IOIO_PROT": "IOIO", "MSR_PROT": "MSR", "SHUTDOWN_EVT": "SHUTDOWN",
             "MWAIT_CONDITIONAL": "MWAIT_COND"}  # fmt: skip
    for row in rows("svm_intercepts"):
        name = row["name"]
        if name.startswith("TRAP_") or int(row["word"]) > 4:
            continue
        code = getattr(svm, f"VMEXIT_{names.get(name, name)}")
        if code != int(row["value"]):
            raise ValueError(f"svm_intercepts.csv and svm_exitcodes.csv disagree about {name}")


_check_intercepts_equal_codes()
