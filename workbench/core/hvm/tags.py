"""TLB tags (ASIDs and VPIDs) as L0 hands them out.

Xen's scheme, the same for both vendors (asid.c): per processor a generation and the next free tag;
per context (n1, n2) the tag and the generation it was taken in.  Giving a context a new tag is how
L0 flushes it; when the tags run out, the whole TLB is flushed once and the generation moves on.

Policies for L2 (feature ``l2_tag_policy``): ``own`` keeps a tag for L1 and one for L2;
``shared_flush`` has one for both, flushed at every L1/L2 switch; ``xen_2013`` has two but takes new
ones after every exit of L2, as Xen does since 2013 (e1ab5c77b4).  ``kvm`` on SVM has one ASID for
both, flushed at every switch and for nothing else; on VMX it has two fixed VPIDs, vpid02 for L2
when L1 gave L2 a VPID, flushed when that VPID is not the one L2 ran with last; an L2 without VPID
runs with L1's, flushed at every switch.

A flush on SVM is a TLB_CONTROL value of the next VMRUN (1: all, 3: this ASID; without FlushByASID a
new ASID takes the place of 3); on VMX an INVVPID.

The processor tags translations of a guest with its VPID and with the EPT root in use (SDM vol. 3,
29.4.2).  Xen takes a new VPID when the root changes, so one number is enough; under ``kvm`` on VMX a
tag of the simulated TLB stands for a pair: VPID 1 or 2, and L1's table or one of the nested p2ms.
"""

from __future__ import annotations

from ...arch import svm
from ..jit import inner, unit
from ..layout import (
    BACKEND_SVM,
    POLICY_KVM,
    POLICY_OWN,
    POLICY_SHARED_FLUSH,
    POLICY_XEN_2013,
    Machine,
)
from ..ledger import (
    E_L0_FLUSH_EXECUTED,
    E_L0_TAG_ALLOCATED,
    F_L1_L2_SWITCH,
    F_L1_WITHOUT_VPID,
    F_NO_TAGS,
    F_TAG_RENEWED,
    F_TAG_WRAP,
    count,
)
from ..mmu.generation import flush_all, flush_tag, flush_tags
from ..mmu.tlb import flush_address
from ..structs import i64
from .nested_state import guest_tag, n2_tag, n2_tag_generation, set_n2_tag, set_n2_tag_generation
from .records import MAX_NP2M

N1, N2 = 1, 2
"""Which context's tag: bits, may be combined."""
FLUSH_ALL, FLUSH_ASID = svm.TLB_FLUSH_ALL_ASID, svm.TLB_FLUSH_ASID
VPID01, VPID02 = 1, 2
ROOTS = 1 + MAX_NP2M
"""EPT roots that a translation may have been made with: L1's table, and the nested p2ms."""


# ---------------------------------------------------------------- VPIDs with several roots


@inner
def _pair(vpid, root):
    """Tag of the simulated TLB for a VPID and a root (0: L1's table, 1 + slot: a nested p2m)."""
    return 1 + (vpid - VPID01) * ROOTS + root


@inner
def has_fixed_vpids(m):
    """Does L0 tag as KVM on VMX does?"""
    return (
        m.feat.l2_tag_policy == POLICY_KVM
        and m.hw.backend != BACKEND_SVM
        and m.feat.tlb_tagging != 0
    )


@inner
def one_tag_for_both(m):
    """Do L1 and L2 share a tag?"""
    policy = m.feat.l2_tag_policy
    return policy == POLICY_SHARED_FLUSH or (policy == POLICY_KVM and m.hw.backend == BACKEND_SVM)


@inner
def tags_initialise(m):
    """Tell the TLB how tags stand for VPIDs; before L1 starts."""
    m.hw.tag_span = ROOTS if has_fixed_vpids(m) else 0


@inner
def tells_tables_apart(m):
    """Are translations made with one nested p2m out of reach while another one is used?"""
    return has_fixed_vpids(m)


@inner
def _l2_vpid(m):
    return VPID02 if guest_tag(m) else VPID01


@inner
def _flush_vpid(m, vpid, reason):
    """INVVPID of one VPID: its translations with whatever root."""
    count(m, E_L0_FLUSH_EXECUTED, 1)
    flush_tags(m, _pair(vpid, 0), ROOTS, reason)


@inner
def tags_np2m_emptied(m, slot, reason):
    """A nested p2m was emptied; a renewed tag is the rule, INVEPT of the root the exception."""
    if has_fixed_vpids(m):
        count(m, E_L0_FLUSH_EXECUTED, 1)
        flush_tags(m, _pair(VPID02, 1 + slot), 1, reason)
        without_vpid = _pair(VPID01, 1 + slot)
        if m.tlb.live[without_vpid] or m.tlb.live_global[without_vpid]:
            flush_tags(m, without_vpid, 1, reason)


@unit(Machine, i64, i64)
def tags_invvpid_address(m, va, reason):
    """INVVPID of one linear address under vpid02, with every root it was used with."""
    for root in range(1, ROOTS):
        tag = _pair(VPID02, root)
        if m.tlb.live[tag] or m.tlb.live_global[tag] or root == 1 + m.nv.np2m_slot:
            flush_address(m, tag, va, reason)
    count(m, E_L0_FLUSH_EXECUTED, 1)
    return 0


# ---------------------------------------------------------------- renewing


@unit(Machine, i64, i64)
def tags_renew(m, which, reason):
    """Let contexts (N1 | N2) start without translations at next entry, by a new tag as a rule."""
    nv = m.nv
    if m.feat.tlb_tagging == 0:
        return 0
    if m.feat.l2_tag_policy == POLICY_KVM:
        if m.hw.backend == BACKEND_SVM:
            nv.flush_request = 1 + reason
            return 0
        if which & N1:
            _flush_vpid(m, VPID01, reason)
        if which & N2 and (_l2_vpid(m) == VPID02 or which & N1 == 0):
            _flush_vpid(m, _l2_vpid(m), reason)
        return 0
    if m.feat.l2_tag_policy == POLICY_SHARED_FLUSH:
        which = N1
    if which & N1 and nv.n1_tag_generation:
        flush_tag(m, nv.n1_tag, reason)
        nv.n1_tag_generation = 0
    if which & N2 and n2_tag_generation(m):
        flush_tag(m, n2_tag(m), reason)
        set_n2_tag_generation(m, 0)
    return 0


# ---------------------------------------------------------------- executing a flush


@inner
def _execute(m, control, reason):
    """Flush everything or the tag about to be used: at the coming VMRUN, or by INVVPID now."""
    count(m, E_L0_FLUSH_EXECUTED, 1)
    if m.hw.backend == BACKEND_SVM:
        if m.hw.tlb_control != FLUSH_ALL:
            m.hw.tlb_control = control
            m.hw.tlb_reason = reason
    elif control == FLUSH_ALL:
        flush_all(m, reason)
    else:
        flush_tag(m, m.hw.tag, reason)


@inner
def _allocate(m):
    if m.tag_next > m.feat.max_tag:
        m.tag_core_generation += 1
        m.tag_next = 1
        _execute(m, FLUSH_ALL, F_TAG_WRAP)
    count(m, E_L0_TAG_ALLOCATED, 1)
    tag = m.tag_next
    m.tag_next += 1
    return tag


# ---------------------------------------------------------------- at the entry


@inner
def _note_request(m, switched):
    """Why the tag that L1 and L2 share must be flushed: 1 + reason, or 0."""
    request = m.nv.flush_request
    m.nv.flush_request = 0
    return 1 + F_L1_L2_SWITCH if switched else request


@inner
def _shared_tag(m, switched):
    """One tag for both, flushed at each switch."""
    nv = m.nv
    request = _note_request(m, switched)
    by_asid = m.feat.flush_by_asid != 0 or m.hw.backend != BACKEND_SVM
    if request and not by_asid and nv.n1_tag_generation:
        flush_tag(m, nv.n1_tag, request - 1)
        nv.n1_tag_generation = 0
    if nv.n1_tag_generation != m.tag_core_generation:
        nv.n1_tag = _allocate(m)
        nv.n1_tag_generation = m.tag_core_generation
    m.hw.tag = nv.n1_tag
    if request and by_asid:
        _execute(m, FLUSH_ASID, request - 1)


@inner
def _fixed_vpid(m, switched):
    """KVM on VMX: nested_vmx_transition_tlb_flush."""
    nv = m.nv
    vpid = _l2_vpid(m) if m.level == 2 else VPID01
    m.hw.tag = _pair(vpid, 1 + nv.np2m_slot if m.level == 2 else 0)
    if not switched:
        return
    if guest_tag(m) == 0:
        _flush_vpid(m, VPID01, F_L1_WITHOUT_VPID)
    elif m.level == 2 and guest_tag(m) != nv.last_vpid:
        nv.last_vpid = guest_tag(m)
        _flush_vpid(m, VPID02, F_TAG_RENEWED)


@unit(Machine)
def choose_tag(m):
    """The tag of the level about to run, by the policy; executes the flushes that this needs."""
    nv = m.nv
    switched = m.entered_level != m.level and m.entered_level != 0
    m.entered_level = m.level
    if m.feat.tlb_tagging == 0:
        m.hw.tag = 1
        _execute(m, FLUSH_ALL, F_NO_TAGS)
        return 0
    if one_tag_for_both(m):
        _shared_tag(m, switched)
    elif m.feat.l2_tag_policy == POLICY_KVM:
        _fixed_vpid(m, switched)
    elif m.level == 1:
        if nv.n1_tag_generation != m.tag_core_generation:
            nv.n1_tag = _allocate(m)
            nv.n1_tag_generation = m.tag_core_generation
        m.hw.tag = nv.n1_tag
    else:
        if n2_tag_generation(m) != m.tag_core_generation:
            set_n2_tag(m, _allocate(m))
            set_n2_tag_generation(m, m.tag_core_generation)
        m.hw.tag = n2_tag(m)
    return 0


@inner
def tag_for_entry(m):
    """Choose the tag of the level about to run; it mostly has one of its own that is still good."""
    nv = m.nv
    policy = m.feat.l2_tag_policy
    if m.feat.tlb_tagging and (policy == POLICY_OWN or policy == POLICY_XEN_2013):
        generation = nv.n1_tag_generation if m.level == 1 else n2_tag_generation(m)
        if generation == m.tag_core_generation:
            m.hw.tag = nv.n1_tag if m.level == 1 else n2_tag(m)
            m.entered_level = m.level
            return
    choose_tag(m)


@inner
def tags_after_n2_exit(m):
    """What happens to the tags at every hardware exit of L2."""
    if m.feat.l2_tag_policy == POLICY_XEN_2013:
        tags_renew(m, N1 | N2, F_TAG_RENEWED)
