"""The SVM instructions as the processor executes them in a guest (APM vol. 3, APM vol. 2 ch. 15).

Order of checks: EFER.SVME and mode (#UD), CPL (#GP), intercept (#VMEXIT), then the instruction.  A
guest never executes VMRUN, SKINIT or INVLPGA itself: L0 intercepts them.  VMLOAD and VMSAVE run in
a guest when virtualized (VIRT_EXT bit 1): RAX is then translated by the nested table.  STGI and
CLGI act on V_GIF when V_GIF_ENABLE is set.
"""

from __future__ import annotations

import numpy as np

from ....arch import svm
from ...cpu import ops
from ...cpu.exceptions import raise_gp0, raise_ud
from ...jit import inner, unit
from ...layout import RAX, ST_BRANCH, ST_OK, Machine, Uop
from ...ledger import E_GIF_VIRTUALIZED, E_VMLOAD_VIRTUALIZED, E_VMSAVE_VIRTUALIZED, count
from ...mmu.physical import host_of, note_code_written
from ...mmu.walk import ACC_READ, ACC_WRITE, nested_walk
from ...structs import i64
from ...words import lshr
from .leave import intercepted, leave
from .state import svm_load_state, svm_save_state
from .tables import CAUSE

EFER_SVME = 1 << 12
V_GIF = 1 << svm.INT_CTL_V_GIF
V_GIF_ENABLE = 1 << svm.INT_CTL_V_GIF_ENABLE
VIRT_EXT_VMLOAD_VMSAVE = 2
PAGE_MASK = 0xFFF

_ORDER = ("VMRUN", "VMLOAD", "VMSAVE", "STGI", "CLGI", "VMMCALL", "INVLPGA", "SKINIT")
CODE = np.full(16, svm.VMEXIT_SKINIT, np.int64)
"""Exit code by place of the micro-op in its family."""
for _name in _ORDER:
    CODE[ops.OPS[f"VIRT_{_name}"] & 15] = getattr(svm, f"VMEXIT_{_name}")


@inner
def _set_virtual_gif(m, value):
    """STGI, CLGI with V_GIF_ENABLE."""
    m.hw.int_ctl = (m.hw.int_ctl & ~V_GIF) | (V_GIF if value else 0)
    count(m, E_GIF_VIRTUALIZED, 1)
    return ST_BRANCH if m.irq.attention else ST_OK


@unit(Machine, i64, i64)
def svm_virtual_vmload(m, gpa, is_save):
    """Virtualized VMLOAD / VMSAVE at guest-physical ``gpa``."""
    if gpa & PAGE_MASK:
        return raise_gp0(m)
    ma = nested_walk(m, gpa, gpa, ACC_WRITE if is_save else ACC_READ, 0)
    if ma < 0:
        return m.pending
    host = host_of(m, ma)
    if host == 0:
        return raise_gp0(m)
    if is_save:
        svm_save_state(m, host)
        note_code_written(m, host, 4096)
        count(m, E_VMSAVE_VIRTUALIZED, 1)
    else:
        svm_load_state(m, host)
        count(m, E_VMLOAD_VIRTUALIZED, 1)
    return ST_OK


@unit(Machine, Uop)
def svm_virt_instruction(m, u):
    """Any instruction of families VIRT_SVM and VIRT_VMX in a guest of this back-end."""
    c = m.cpu
    if lshr(u.op, 4) != ops.FAMILY_VIRT_SVM:
        return raise_ud(m)
    code = CODE[u.op & 15]
    # 1. enabled, and privileged enough
    if code != svm.VMEXIT_VMMCALL:
        if c.efer & EFER_SVME == 0:
            return raise_ud(m)
        if c.cpl != 0:
            return raise_gp0(m)
    # 2. intercepted
    if intercepted(m, code):
        return leave(m, code, 0, 0, u.len, CAUSE[code])
    # 3. executed by the guest itself
    is_save = 1 if code == svm.VMEXIT_VMSAVE else 0
    if is_save or code == svm.VMEXIT_VMLOAD:
        if m.hw.virt_ext & VIRT_EXT_VMLOAD_VMSAVE:
            address = c.gpr[RAX] & 0xFFFFFFFF if u.asize else c.gpr[RAX]
            return svm_virtual_vmload(m, address, is_save)
    elif code == svm.VMEXIT_STGI or code == svm.VMEXIT_CLGI:
        if m.hw.int_ctl & V_GIF_ENABLE:
            return _set_virtual_gif(m, 1 if code == svm.VMEXIT_STGI else 0)
    return raise_ud(m)
