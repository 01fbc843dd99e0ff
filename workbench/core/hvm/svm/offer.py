"""What L0 offers L1 of SVM: CPUID 8000_000A, by personality (l1_capabilities.csv).

Xen lets L1 profit from virtual GIF and virtual VMLOAD/VMSAVE without announcing them; KVM announces
what it lends, and always 8 ASIDs.  APM vol. 3, CPUID Fn8000_000A.
"""

from __future__ import annotations

import numpy as np

from ....arch import l1_capabilities as table
from ...jit import inner
from ...layout import L0_KVM

KNOWN = np.int64(table.word("svm", "manual", "free", "one", "no"))
OFFERED = np.array([table.offered("svm", l0) for l0 in table.L0S], np.int64)
"""EDX bits that L1 may find, by personality."""
KVM_ASIDS = 8


@inner
def svm_offer_to_l1(m):
    """Take out of the answer in ``m.cpuid`` to leaf 8000_000A what this L0 does not offer."""
    m.cpuid[3] &= OFFERED[m.feat.l0] | ~KNOWN
    if m.feat.l0 == L0_KVM:
        m.cpuid[1] = min(m.cpuid[1], KVM_ASIDS)
