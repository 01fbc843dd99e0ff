"""What L0 offers L1 of VMX, by personality (l1_capabilities.csv) and by the features that are on.

The one answer behind RDMSR of a capability MSR (``caps``) and the checks of vmcs12: Xen, KVM and
an L0 that offers all the processor has differ in the controls, in EPT and VPID capabilities, in
CR0's fixed bits, and in what VMWRITE may write.  SDM vol. 3, appendix A.

Not modelled: the filters of older versions (the table's notes say what came when).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....arch import l1_capabilities as table
from ....arch import vmx
from ...jit import inner
from ...layout import L0_KVM, POLICY_KVM
from ...words import lshr
from .controls import CAPABILITIES_HARDWARE, DEFAULT1

PIN, CPU, CPU2, EXIT, ENTRY = range(5)
_FIXED = {g: CAPABILITIES_HARDWARE[g][0] for g in table.CONTROL_GROUPS}
"""Reserved bits that must be 1 whatever the personality."""


def _must(l0: str, group: str) -> int:
    return _FIXED[group] | table.word(group, l0, "one")


def _may(l0: str, group: str) -> int:
    return _FIXED[group] | (CAPABILITIES_HARDWARE[group][1] & table.offered(group, l0))


def _by_l0(value: Callable[[str, str], int], *names: str) -> np.ndarray:
    rows = [[value(l0, n) for n in names] for l0 in table.L0S]
    return np.array(rows, np.uint64).astype(np.int64)


MUST, MAY = _by_l0(_must, *table.CONTROL_GROUPS), _by_l0(_may, *table.CONTROL_GROUPS)
"""Control bits that must be and may be 1 by the TRUE MSRs, by personality and group; shape (3, 5)."""
PLAIN_MUST = np.array([DEFAULT1[g] for g in table.CONTROL_GROUPS], np.int64)
"""Bits that must be 1 by the MSRs without TRUE."""
_WORDS = _by_l0(lambda l0, g: table.offered(g, l0), "ept_vpid", "misc", "cr0_fixed0")
EPT_VPID, MISC = _WORDS[:, 0].copy(), _WORDS[:, 1].copy()
CR0_FIXED0_FOR_L1 = _by_l0(lambda l0, g: table.word(g, l0, "one"), "cr0_fixed0")[:, 0].copy()

APICV_CPU2 = (
    vmx.CPU2_VIRTUALIZE_APIC_ACCESSES
    | vmx.CPU2_VIRTUALIZE_X2APIC_MODE
    | vmx.CPU2_APIC_REGISTER_VIRT
    | vmx.CPU2_VIRTUAL_INTR_DELIVERY
)
NEEDS_HAP = (
    vmx.CPU2_ENABLE_EPT
    | vmx.CPU2_UNRESTRICTED_GUEST
    | vmx.CPU2_ENABLE_PML
    | vmx.CPU2_ENABLE_INVPCID
    | vmx.CPU2_SHADOW_VMCS
)
"""Not without nested paging of L0's own: where it shadows it hides PCIDs, too, and does not emulate
VMREAD and VMWRITE of L2."""
VMWRITE_ANY = 1 << 29
"""Of IA32_VMX_MISC."""
CR3_TARGET_SHIFT, CR3_TARGET_FIELD = 16, 0x1FF
"""Of IA32_VMX_MISC: how many CR3-target values there are."""


def _capability(name: str) -> int:
    row = next(r for r in table.rows("l1_capabilities") if r["name"] == name)
    return 1 << table.position(row)


EPT_AD, EPT_UC = _capability("CAP_EPT.AD"), _capability("CAP_EPT.UC")
RETAINING_GLOBALS = _capability("CAP_VPID.SINGLE_NONGLOBAL")
EPT_BITS = (1 << 32) - 1
"""Capabilities of EPT in IA32_VMX_EPT_VPID_CAP; above them those of VPID."""


@inner
def _secondary_off(m):
    off = 0
    if m.feat.apicv == 0:
        off |= APICV_CPU2
    if m.feat.pml == 0 or m.feat.ept_ad == 0:
        off |= vmx.CPU2_ENABLE_PML
    if m.feat.vpid_for_l1 == 0:
        off |= vmx.CPU2_ENABLE_VPID
    if m.feat.vmcs_shadowing == 0 and m.feat.l0 != L0_KVM:
        off |= vmx.CPU2_SHADOW_VMCS  # KVM emulates it without the processor's help
    if m.sh.active:
        off |= NEEDS_HAP
    return off


@inner
def l1_may(m, group):
    """Control bits of a group that L1 may set; ``group`` is a constant."""
    may = MAY[m.feat.l0, group]
    if group == PIN and m.feat.virtual_nmi == 0:
        may &= ~vmx.PIN_VIRTUAL_NMIS
    if group == CPU and m.feat.apicv == 0:
        may &= ~vmx.CPU_TPR_SHADOW
    if group == CPU2:
        may &= ~_secondary_off(m)
    return may


@inner
def l1_must(m, group):
    """Control bits of a group that L1 must set."""
    return MUST[m.feat.l0, group]


@inner
def l1_ept_vpid(m):
    """IA32_VMX_EPT_VPID_CAP for L1."""
    word = EPT_VPID[m.feat.l0]
    if m.feat.ept_ad == 0:
        word &= ~EPT_AD
    if m.feat.l2_tag_policy != POLICY_KVM:
        word &= ~RETAINING_GLOBALS
    if m.feat.vpid_for_l1 == 0:
        word &= EPT_BITS
    if m.sh.active:
        word &= ~EPT_BITS
    return word


@inner
def l1_has_ept_ad(m):
    """May L1 set EPTP bit 6?  Where it may not, L0 walks its tables without setting flags."""
    return m.feat.ept_ad != 0 and EPT_VPID[m.feat.l0] & EPT_AD != 0


@inner
def l1_cr3_targets(m):
    """CR3-target values that L1 may name in vmcs12."""
    return lshr(MISC[m.feat.l0], CR3_TARGET_SHIFT) & CR3_TARGET_FIELD


@inner
def l1_may_be(m, activity):
    """May vmcs12 start L2 in an activity state?"""
    return activity == 0 or (activity <= 3 and lshr(MISC[m.feat.l0], 5 + activity) & 1 != 0)


@inner
def l1_vmwrites_any_field(m):
    """May VMWRITE of L1 write read-only fields?  KVM: always; others: as the processor."""
    return m.feat.l0 == L0_KVM or m.feat.vmcs_shadowing != 0


@inner
def l1_misc(m):
    """IA32_VMX_MISC for L1 without the rate of the preemption timer."""
    word = MISC[m.feat.l0]
    return word if l1_vmwrites_any_field(m) else word & ~VMWRITE_ANY
