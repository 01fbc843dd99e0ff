"""VMX constants: exit reasons (EXIT_*), instruction errors (ERROR_*), control masks (PIN_*, CPU_*,
CPU2_*, CPU3_*, EXIT_CTL_*, ENTRY_CTL_*), entry-failure qualifications, checks of a VM entry by number
(CHECK_*), interruption information.

Tables: vmx_exit_reasons, vmx_insn_errors, vmx_controls, vmx_entry_failure, vmx_entry_checks,
vmx_intr_info, ept_violation_qual, invept_invvpid.
"""

from __future__ import annotations

from .table import identifier, rows, values

GROUP_PREFIX = {
    "pin": "PIN_",
    "cpu": "CPU_",
    "sec": "CPU2_",
    "tert": "CPU3_",
    "exit": "EXIT_CTL_",
    "entry": "ENTRY_CTL_",
    "exit2": "EXIT_CTL2_",
}

globals().update(values("vmx_exit_reasons", "EXIT_"))
globals().update(values("vmx_insn_errors", "ERROR_"))
globals().update(values("vmx_entry_failure"))
globals().update(values("vmx_entry_checks", "CHECK_"))
globals().update({f"INTR_{k}": v for k, v in values("vmx_intr_info").items()})
globals().update({f"QUAL_{k}": v for k, v in values("ept_violation_qual").items()})
"""INTR_x and QUAL_x are bit positions."""
globals().update(
    {
        GROUP_PREFIX[r["group"]] + identifier(r["name"]): 1 << int(r["value"], 0)
        for r in rows("vmx_controls")
        if r["group"] in GROUP_PREFIX
    }
)

PIN_DEFAULT1 = 0x16
CPU_DEFAULT1 = 0x0401E172
EXIT_CTL_DEFAULT1 = 0x36DFF
ENTRY_CTL_DEFAULT1 = 0x11FF
"""Bits that read as 1 in the non-TRUE capability MSRs (SDM vol. 3, appendix A)."""

_NAMES = {int(r["value"], 0): r["name"] for r in rows("vmx_exit_reasons")}


_CHECKS = rows("vmx_entry_checks")


def check_name(number: int) -> str:
    """Name of a check of a VM entry."""
    return _CHECKS[number - 1]["name"] if 0 < number <= len(_CHECKS) else f"check {number}"


def check_text(number: int) -> str:
    """What a check of a VM entry demands, where the manual says so, and how it fails."""
    if not 0 < number <= len(_CHECKS):
        return ""
    row = _CHECKS[number - 1]
    where = f"SDM vol. 3, {row['section']}" if row["section"] != "-" else "not in the manual"
    if row["failure"] in ("7", "8"):
        failure = f"VM-instruction error {row['failure']}"
    else:
        failure = f"exit reason {row['failure']}, qualification {row['qualification']}"
    return f"{row['name']}: {row['demand']} ({where}; {failure})"


def exit_name(reason: int) -> str:
    """The manual's name of a basic exit reason."""
    return _NAMES.get(reason, f"reason {reason}")


def exit_code(index: int) -> int:
    """Basic exit reason of a place in the ledger's exit table (they are the same)."""
    return index


def __getattr__(name: str) -> int:
    raise AttributeError(f"no VMX constant called {name} in data/arch")
