"""The VMCB that an exit came from, and the general registers of its guest."""

from __future__ import annotations

from ....arch import vmcb
from ...jit import inner
from ...layout import RAX, RSP
from ...words import ld64, st64


@inner
def current_vmcb(m):
    """Host address of the VMCB that the exit came from: vmcb01 or vmcb02."""
    return m.ram + m.hw.vmcx


@inner
def read_gpr(m, h, register):
    """A general register of the guest: RAX and RSP are in the VMCB."""
    r = register & 15
    if r == RAX:
        return ld64(h + vmcb.RAX)
    if r == RSP:
        return ld64(h + vmcb.RSP)
    return m.cpu.gpr[r]


@inner
def write_gpr(m, h, register, value):
    """Write a general register of the guest."""
    r = register & 15
    if r == RAX:
        st64(h + vmcb.RAX, value)
    elif r == RSP:
        st64(h + vmcb.RSP, value)
    else:
        m.cpu.gpr[r] = value
