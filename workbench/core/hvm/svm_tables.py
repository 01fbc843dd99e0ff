"""What the SVM part knows from the tables in data/arch, as constant arrays.

Everything is indexed by the place of an exit code in the ledger's exit table (:func:`code_index`),
which for all codes below 0xa0 is also the position of the intercept that causes it.  A text of a
table that this module does not understand stops the import.
"""

from __future__ import annotations

import re

import numpy as np

from ...arch import svm
from ...arch.table import rows
from .. import ledger
from ..jit import inner
from . import insn

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

R_L0, R_L1, R_BIT, R_PAGE_FAULT, R_MSR, R_IOIO, R_UNKNOWN = range(7)
"""Who gets an exit: L0, L1, L1 if its intercept bit is set, or by a rule of its own.
UNKNOWN: Xen does not decode the code (there the host would crash); here L0 gives up on L1."""

_ROUTES = (
    (r"L0 always|L0 \(nested fault resolver; may inject NPF into L1\)", R_L0),
    (r"L1 always|L1", R_L1),
    (r"L1 iff cached ns_(cr|dr|exception|general1|general2)_intercepts bit", R_BIT),
    (r"#PF: nested HAP -> L1 iff L1 intercepts; L1 shadow on host HAP -> always L1; .*",
     R_PAGE_FAULT),
    (r"L1 iff intercept bit and cached guest MSRPM bit \(out of range: L1\)", R_MSR),
    (r"L1 iff intercept bit and guest IOPM bit\(s\)", R_IOIO),
    (r"BUG\(\) in Xen \(.*\)", R_UNKNOWN),
)  # fmt: skip


def parse_route(text: str) -> int:
    """Routing rule (R_*) of a text in column ``xen_L2_exit_goes_to`` of svm_exitcodes.csv.

    Raises
    ------
    ValueError
        When the text is none of the known rules.
    """
    for pattern, rule in _ROUTES:
        if re.fullmatch(pattern, text):
            return rule
    raise ValueError(f"svm_exitcodes.csv: no routing rule reads {text!r}")


ROUTE = np.full(N_INDEXES, R_UNKNOWN, np.int64)
for _row in rows("svm_exitcodes"):
    ROUTE[_index(_row["value"])] = parse_route(_row["xen_L2_exit_goes_to"])

# ---------------------------------------------------------------- L0's default intercepts

_DEFAULTS = (
    (r"set", True),
    (r"clear", False),
    (r"set; (CR3 rd/wr )?cleared when HAP", False),
    (r"set; cleared (while guest debug registers are loaded|if v).*", True),
    (r"dynamic: .*", False),
    (r"(if|while|only with|set only if|set if) .*", False),
)


def parse_default(text: str) -> bool:
    """Whether L0 sets an intercept for L1, with HAP and no optional hardware.

    Reads column ``xen_L0_default`` of svm_intercepts.csv.

    Raises
    ------
    ValueError
        When the text is none of the known ones.
    """
    for pattern, is_set in _DEFAULTS:
        if re.fullmatch(pattern, text):
            return is_set
    raise ValueError(f"svm_intercepts.csv: no default reads {text!r}")


L0_INTERCEPTS = np.zeros(6, np.int64)
"""L0's intercept words in vmcb01, shape (6,)."""
for _row in rows("svm_intercepts"):
    if parse_default(_row["xen_L0_default"]):
        L0_INTERCEPTS[int(_row["word"])] |= 1 << int(_row["bit"])

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


def _passed_through() -> list[int]:
    """MSRs that L0 (Xen with HAP) lets a guest access without an exit."""
    return [
        int(row["value"], 0)
        for row in rows("svm_msr_passthrough")
        if row["notes"].split(",")[0].split(";")[0] in ("xen", "xen with HAP")
    ]


PASSED_THROUGH_MSRS = np.array(_passed_through(), np.int64)
"""Numbers of the MSRs that are open in L0's map."""


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
