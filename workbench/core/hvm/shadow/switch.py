"""L0 shadow paging around a hardware exit and entry: what the guest believes, and what is real.

Between exit and entry the control structure in use, and ``m.cpu``, hold CR0, CR3 and CR4 as the
guest believes they are, so that the rest of L0 need not know about shadows.  Just before the entry
they are replaced: CR3 by the root of the shadow, CR0 with WP set, CR4 without PCIDE; and the
intercepts that shadow paging lives by are added to whatever was merged.
"""

from __future__ import annotations

from ....arch import svm, vmcb, vmcs, vmx
from ...jit import inner, unit
from ...layout import BACKEND_SVM, FATAL_N1P_UNMAPPED, L0_XEN, ST_FATAL, ST_OK, Machine
from ...ledger import F_CR3_WRITE, F_SHADOW_CHANGED
from ...mmu.walk import ADDRESS_MASK, CR0_WP, CR4_PCIDE, EFER_NXE
from ...words import ld32, ld64, st32, st64
from ..nested_state import is_n2_guest
from ..p2m import n1p_to_l0m
from ..svm.clean import CLEAN_CR, CLEAN_INTERCEPTS, CLEAN_NP, touch
from ..tags import N1, N2, tags_renew
from ..vmx.vmcs import get, own_base, put
from .l0 import current_tags, shadow_sync_written
from .pages import ROLE_NXE, page_ma, shadow_drop_all, shadow_root
from .walk import frame_of

NP_ENABLE = 1
PF_BIT = 1 << 14
SVM_CR = sum(
    1 << position
    for position in (
        svm.INTERCEPT_CR0_READ, svm.INTERCEPT_CR3_READ, svm.INTERCEPT_CR4_READ,
        svm.INTERCEPT_CR0_WRITE, svm.INTERCEPT_CR3_WRITE, svm.INTERCEPT_CR4_WRITE,
    )
)  # fmt: skip
SVM_INVLPG = 1 << (svm.INTERCEPT_INVLPG & 31)
VMX_CPU = vmx.CPU_CR3_LOAD_EXITING | vmx.CPU_CR3_STORE_EXITING | vmx.CPU_INVLPG_EXITING
VMX_NEEDS_EPT = vmx.CPU2_ENABLE_EPT | vmx.CPU2_UNRESTRICTED_GUEST | vmx.CPU2_ENABLE_PML
VMX_NEEDS_EPT |= vmx.CPU2_ENABLE_INVPCID  # PCIDs are hidden
SVM_INVPCID = 1 << (svm.INTERCEPT_INVPCID & 31)


# ---------------------------------------------------------------- after the exit


@unit(Machine)
def shadow_after_exit(m):
    """Show L0 the guest's own control registers."""
    s = m.sh
    c = m.cpu
    c.cr0 = (c.cr0 & ~CR0_WP) | (s.cr0 & CR0_WP)
    c.cr3 = s.cr3
    c.cr4 |= s.cr4 & CR4_PCIDE
    if m.hw.backend == BACKEND_SVM:
        h = m.ram + m.hw.vmcx
        st64(h + vmcb.CR0, c.cr0)
        st64(h + vmcb.CR3, c.cr3)
        st64(h + vmcb.CR4, c.cr4)
    else:
        base = own_base(m, m.hw.vmcx)
        cr0 = get(base, vmcs.SLOT_GUEST_CR0)
        put(base, vmcs.SLOT_GUEST_CR0, (cr0 & ~CR0_WP) | (s.cr0 & CR0_WP))
        put(base, vmcs.SLOT_GUEST_CR3, s.cr3)
        put(base, vmcs.SLOT_GUEST_CR4, get(base, vmcs.SLOT_GUEST_CR4) | (s.cr4 & CR4_PCIDE))
    s.software = 1
    s.n_written = 0
    s.written_overflow = 0
    return ST_OK


# ---------------------------------------------------------------- before the entry


@inner
def _note_believed(m):
    s = m.sh
    if m.hw.backend == BACKEND_SVM:
        h = m.ram + m.hw.vmcx
        s.cr0 = ld64(h + vmcb.CR0)
        s.cr3 = ld64(h + vmcb.CR3)
        s.cr4 = ld64(h + vmcb.CR4)
        efer = ld64(h + vmcb.EFER)
    else:
        base = own_base(m, m.hw.vmcx)
        s.cr0 = get(base, vmcs.SLOT_GUEST_CR0)
        s.cr3 = get(base, vmcs.SLOT_GUEST_CR3)
        s.cr4 = get(base, vmcs.SLOT_GUEST_CR4)
        efer = get(base, vmcs.SLOT_GUEST_IA32_EFER)
    s.role = ROLE_NXE if efer & EFER_NXE else 0


@inner
def _make_real_svm(m, root):
    s = m.sh
    h = m.ram + m.hw.vmcx
    st64(h + vmcb.CR0, s.cr0 | CR0_WP)
    st64(h + vmcb.CR3, root)
    st64(h + vmcb.CR4, s.cr4 & ~CR4_PCIDE)
    st32(h + vmcb.INTERCEPT_WORD0, ld32(h + vmcb.INTERCEPT_WORD0) | SVM_CR)
    st32(h + vmcb.INTERCEPT_WORD2, ld32(h + vmcb.INTERCEPT_WORD2) | PF_BIT)
    st32(h + vmcb.INTERCEPT_WORD3, ld32(h + vmcb.INTERCEPT_WORD3) | SVM_INVLPG)
    if m.feat.l0 != L0_XEN:  # which lets it through: all it can do is to empty the TLB
        st32(h + vmcb.INTERCEPT_WORD5, ld32(h + vmcb.INTERCEPT_WORD5) | SVM_INVPCID)
    st64(h + vmcb.NESTED_CTL, ld64(h + vmcb.NESTED_CTL) & ~NP_ENABLE)
    touch(h, CLEAN_CR | CLEAN_INTERCEPTS | CLEAN_NP)


@inner
def _add(base, slot, bits):
    put(base, slot, get(base, slot) | bits)


@inner
def _make_real_vmx(m, root):
    s = m.sh
    base = own_base(m, m.hw.vmcx)
    put(base, vmcs.SLOT_GUEST_CR0, s.cr0 | CR0_WP)
    put(base, vmcs.SLOT_GUEST_CR3, root)
    put(base, vmcs.SLOT_GUEST_CR4, s.cr4 & ~CR4_PCIDE)
    _add(base, vmcs.SLOT_CR0_GUEST_HOST_MASK, CR0_WP)
    _add(base, vmcs.SLOT_CR4_GUEST_HOST_MASK, CR4_PCIDE)
    _add(base, vmcs.SLOT_CPU_BASED_VM_EXEC_CONTROL, VMX_CPU)
    _add(base, vmcs.SLOT_EXCEPTION_BITMAP, PF_BIT)
    put(base, vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MASK, 0)
    put(base, vmcs.SLOT_PAGE_FAULT_ERROR_CODE_MATCH, 0)
    put(base, vmcs.SLOT_CR3_TARGET_COUNT, 0)
    slot = vmcs.SLOT_SECONDARY_VM_EXEC_CONTROL
    put(base, slot, get(base, slot) & ~VMX_NEEDS_EPT)


@unit(Machine)
def shadow_before_entry(m):
    """Choose the shadow root and make the control structure real; ST_OK, or ST_FATAL."""
    s = m.sh
    # 1. the guest's writes to its tables
    shadow_sync_written(m)
    # 2. the root
    _note_believed(m)
    ma = n1p_to_l0m(m, s.cr3 & ADDRESS_MASK)
    frame = frame_of(m, ma) if ma >= 0 else -1
    if frame < 0:
        m.fatal = FATAL_N1P_UNMAPPED
        m.fatal_code = s.cr3
        return ST_FATAL
    who = 1 if is_n2_guest(m) else 0
    before = s.roots[who]
    root = shadow_root(m, who, frame)
    if root == 0:
        shadow_drop_all(m)
        root = shadow_root(m, who, frame)
    # 3. what must not survive in the TLB
    if root != before:
        tags_renew(m, current_tags(m), F_CR3_WRITE)
    if s.flush:
        s.flush = 0
        tags_renew(m, N1 | N2, F_SHADOW_CHANGED)
    # 4. the control structure
    if m.hw.backend == BACKEND_SVM:
        _make_real_svm(m, page_ma(m, root))
    else:
        _make_real_vmx(m, page_ma(m, root))
    s.software = 0
    return ST_OK
