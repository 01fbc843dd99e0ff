"""SVM constants: exit codes (VMEXIT_*), intercept positions (INTERCEPT_*), bit fields.

Tables: svm_exitcodes, svm_intercepts, svm_int_ctl, svm_eventinj, svm_tlb_control,
svm_npf_exitinfo1 (see their headers for the sources).
"""

from __future__ import annotations

from .table import identifier, rows, values

globals().update(values("svm_exitcodes"))
VMEXIT_INVALID = -1
globals().update(values("svm_intercepts", "INTERCEPT_"))
"""INTERCEPT_x = word * 32 + bit in the VMCB's intercept vector."""
globals().update({f"INT_CTL_{k}": v for k, v in values("svm_int_ctl").items()})
globals().update({f"EVENTINJ_{k}": v for k, v in values("svm_eventinj").items()})
"""INT_CTL_x and EVENTINJ_x are bit positions."""
globals().update({f"NPF_{k}": v for k, v in values("svm_npf_exitinfo1").items()})
"""NPF_x are bit positions in EXITINFO1."""
globals().update(values("svm_tlb_control", "TLB_"))
"""TLB_x = values of TLB_CONTROL."""
TLB_FLUSH_ASID_NONGLOBAL = values("svm_tlb_control")["FLUSH_ASID_LOCAL__NONGLOBAL_"]

NPF_INDEX, AVIC_IPI_INDEX, AVIC_ACCESS_INDEX, VMGEXIT_INDEX, INVALID_INDEX = range(0xA8, 0xAD)
"""Places of the exit codes from 0x400 on, and of -1, in the ledger's exit table."""
CODES_FROM_400 = NPF_INDEX

VMRUN_CHECKS = {int(r["number"]): r["id"] for r in rows("svm_vmrun_checks")}
"""Consistency checks of VMRUN by number."""

_NAMES = {}
for _row in rows("svm_exitcodes"):
    _code = int(_row["value"], 0)
    _index = (
        _code
        if _code < NPF_INDEX
        else INVALID_INDEX
        if _code > 0x403
        else _code - 0x400 + NPF_INDEX
    )
    _NAMES[_index] = _row["name"].removeprefix("VMEXIT_")


def exit_name(index: int) -> str:
    """The manual's name of an exit by its place in the ledger's exit table."""
    return _NAMES.get(index, f"code {index:#x}")


def exit_code(index: int) -> int:
    """EXITCODE of a place in the ledger's exit table; -1 for INVALID."""
    if index == INVALID_INDEX:
        return -1
    return index if index < NPF_INDEX else index - NPF_INDEX + 0x400


def check_name(number: int) -> str:
    """Name of a consistency check of VMRUN."""
    return VMRUN_CHECKS.get(number, f"check {number}")


def check_text(number: int) -> str:
    """What a consistency check of VMRUN found wrong, and where the manual demands it; empty for 0."""
    for row in rows("svm_vmrun_checks"):
        if int(row["number"]) == number:
            where = "not in the manual"
            if row["section"][0].isdigit():
                where = f"APM vol. 2, {row['section']}"
            return f"{row['id']}: {row['message']} ({where})"
    return ""


def clean_groups(mask: int) -> str:
    """Names of the groups of VMCB clean bits in ``mask``, joined by commas."""
    names = (row["name"] for row in rows("vmcb_cleanbits") if mask >> int(row["value"]) & 1)
    return ", ".join(names)


def __getattr__(name: str) -> int:
    raise AttributeError(f"no SVM constant called {identifier(name)} in data/arch")
