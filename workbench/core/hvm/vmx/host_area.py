"""The host state that L0 writes into its own VMCSs: a 64-bit hypervisor's.

L0 is not executed code, so a VM exit loads none of it; the processor's entry checks do read it.
"""

from __future__ import annotations

import numpy as np

from ....arch import vmcs
from ...jit import inner
from .vmcs import put

_CODE = -(1 << 47) + (0x52D0 << 28)
"""A canonical address in the upper half, where hypervisors link themselves."""
_FIELDS = {
    "HOST_CR0": 0x8005_003B,
    "HOST_CR3": 0,
    "HOST_CR4": 0x2020,
    "HOST_IA32_EFER": 0xD01,
    "HOST_IA32_PAT": 0x0007_0406_0007_0406,
    "HOST_CS_SELECTOR": 0xE008,
    "HOST_TR_SELECTOR": 0xE040,
    "HOST_TR_BASE": _CODE,
    "HOST_GDTR_BASE": _CODE,
    "HOST_IDTR_BASE": _CODE,
    "HOST_RSP": _CODE,
    "HOST_RIP": _CODE,
}
HOST_SLOTS = np.array([getattr(vmcs, f"SLOT_{name}") for name in _FIELDS], np.int64)
HOST_VALUES = np.array(list(_FIELDS.values()), np.int64)


@inner
def write_host_area(base):
    """Fill the host-state area of the VMCS whose slot 0 is at ``base`` (zeroed before)."""
    for i in range(len(HOST_SLOTS)):
        put(base, HOST_SLOTS[i], HOST_VALUES[i])
