"""Blocking by NMI, real and virtual, and what IRET does to it.

SVM keeps the virtual state in the VMCB's int_ctl (APM vol. 2, 15.21.10), VMX in the interruptibility
state (SDM vol. 3, 26.3): there the same bit means blocking of virtual NMIs when these are in use.

Not modelled: an IRET that faults unblocks NMIs too on a processor; here only one that completes does.
"""

from __future__ import annotations

from ...arch import svm, vmx
from ..jit import inner

V_NMI = 1 << svm.INT_CTL_V_NMI_PENDING
V_NMI_MASK = 1 << svm.INT_CTL_V_NMI_BLOCKING
V_NMI_ENABLE = 1 << svm.INT_CTL_V_NMI_ENABLE
V_NMI_STATE = V_NMI | V_NMI_MASK | V_NMI_ENABLE
V_NMI_READY = V_NMI | V_NMI_ENABLE
"""Pending, in use, and not masked."""
NMI_CONTROLS = vmx.PIN_NMI_EXITING | vmx.PIN_VIRTUAL_NMIS


@inner
def unblock_nmi(m):
    """IRET: NMIs may come again; with NMI exiting alone VMX leaves the real blocking as it is."""
    h = m.hw
    if h.guest and h.pin & NMI_CONTROLS == vmx.PIN_NMI_EXITING:
        return
    m.cpu.nmi_blocked = 0
    if h.int_ctl & V_NMI_ENABLE:
        h.int_ctl &= ~V_NMI_MASK
        m.irq.attention = 1
