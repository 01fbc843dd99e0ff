"""Checks before a VM entry: by the processor on its VMCS, by L0 on vmcs12 (SDM vol. 3, 27.2, 27.3).

Each check has a number, a name and a text (vmx_entry_checks.csv); the first that fails decides how
the entry fails and is left in ``m.check``, so that a refused entry can be explained.  Xen makes none
of these checks for vmcs12 (a mistake of L1 then ends its whole domain), so their reads are not
charged to L0.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmx
from ....arch.table import rows
from ...jit import inner
from ...timeline import refuse
from .check_util import (
    BLOCK_MOV_SS,
    BLOCK_STI,
    HARDWARE_VIEW,
    L1_VIEW,
    RFLAGS_IF,
    not_canonical,
)
from .checked import vmx_check_vmcs12_controls, vmx_check_vmcs12_guest
from .vmcs import vvmcs_base

__all__ = [
    "BLOCK_MOV_SS", "BLOCK_STI", "FAILURE", "HARDWARE_VIEW", "L1_VIEW", "QUALIFICATION", "RFLAGS_IF",
    "controls_wrong", "guest_state_wrong", "not_canonical", "refuse",
]  # fmt: skip

_ROWS = rows("vmx_entry_checks")
QUALIFICATION = np.zeros(len(_ROWS) + 1, np.int64)
"""Exit qualification by number of the check, of those that fail with exit reason 33."""
FAILURE = np.zeros(len(_ROWS) + 1, np.int64)
"""How the entry fails, by number of the check: VM-instruction error 7 or 8, exit reason 33 or 34."""
for _row in _ROWS:
    FAILURE[int(_row["value"])] = int(_row["failure"])
    if _row["failure"] == str(vmx.EXIT_INVALID_STATE):
        QUALIFICATION[int(_row["value"])] = int(_row["qualification"])
if [int(r["value"]) for r in _ROWS] != list(range(1, len(_ROWS) + 1)):
    raise ValueError("vmx_entry_checks.csv: the numbers are not 1, 2, 3 ...")


@inner
def controls_wrong(m):
    """Number of the check that vmcs12's controls or host state fail, 0 when they are right."""
    return vmx_check_vmcs12_controls(m, vvmcs_base(m))


@inner
def guest_state_wrong(m):
    """Number of the check that vmcs12's guest state fails, 0 when it is right (reason 33)."""
    return vmx_check_vmcs12_guest(m, vvmcs_base(m))
