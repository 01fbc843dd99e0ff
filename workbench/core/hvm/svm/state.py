"""The state that only VMLOAD and VMSAVE move: FS, GS, LDTR, TR and the system-call MSRs.

APM vol. 2, 15.5.2.  Between VMRUN and #VMEXIT this state stays in the processor, whoever runs.
"""

from __future__ import annotations

from ....arch import vmcb
from ...jit import unit
from ...layout import FS, GS, LDTR, TR, Machine
from ...structs import i64
from ...words import ld64, st64
from .vmcb import load_segment, save_segment

VMLOAD_BYTES = 4 * 16 + 8 * 8
"""Bytes of a VMCB that VMLOAD reads and VMSAVE writes."""


@unit(Machine, i64)
def svm_load_state(m, host):
    """VMLOAD from the VMCB at host address ``host``."""
    c = m.cpu
    load_segment(m, host, vmcb.FS, FS)
    load_segment(m, host, vmcb.GS, GS)
    load_segment(m, host, vmcb.LDTR, LDTR)
    load_segment(m, host, vmcb.TR, TR)
    c.kernel_gs_base = ld64(host + vmcb.KERNEL_GS_BASE)
    c.star = ld64(host + vmcb.STAR)
    c.lstar = ld64(host + vmcb.LSTAR)
    c.cstar = ld64(host + vmcb.CSTAR)
    c.sfmask = ld64(host + vmcb.SFMASK)
    c.sysenter_cs = ld64(host + vmcb.SYSENTER_CS)
    c.sysenter_esp = ld64(host + vmcb.SYSENTER_ESP)
    c.sysenter_eip = ld64(host + vmcb.SYSENTER_EIP)
    return 0


@unit(Machine, i64)
def svm_save_state(m, host):
    """VMSAVE to the VMCB at host address ``host``."""
    c = m.cpu
    save_segment(m, host, vmcb.FS, FS)
    save_segment(m, host, vmcb.GS, GS)
    save_segment(m, host, vmcb.LDTR, LDTR)
    save_segment(m, host, vmcb.TR, TR)
    st64(host + vmcb.KERNEL_GS_BASE, c.kernel_gs_base)
    st64(host + vmcb.STAR, c.star)
    st64(host + vmcb.LSTAR, c.lstar)
    st64(host + vmcb.CSTAR, c.cstar)
    st64(host + vmcb.SFMASK, c.sfmask)
    st64(host + vmcb.SYSENTER_CS, c.sysenter_cs)
    st64(host + vmcb.SYSENTER_ESP, c.sysenter_esp)
    st64(host + vmcb.SYSENTER_EIP, c.sysenter_eip)
    return 0
