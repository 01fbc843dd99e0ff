"""TLB tags (ASIDs and VPIDs) as L0 hands them out.

Xen's scheme, the same for both vendors (asid.c): per processor a generation and the next free tag;
per context (n1, n2) the tag and the generation it was taken in.  Giving a context a new tag is how
L0 flushes it; when the tags run out, the whole TLB is flushed once and the generation moves on.

Policies for L2 (feature ``l2_tag_policy``): ``own`` keeps a tag for L1 and one for L2;
``shared_flush`` has one for both, flushed at every L1/L2 switch; ``xen_2013`` has two but takes new
ones after every exit of L2, as Xen does since 2013 (e1ab5c77b4).
"""

from __future__ import annotations

from ..jit import inner, unit
from ..layout import POLICY_SHARED_FLUSH, POLICY_XEN_2013, Machine
from ..ledger import (
    E_L0_FLUSH_EXECUTED,
    E_L0_TAG_ALLOCATED,
    F_L1_L2_SWITCH,
    F_NO_TAGS,
    F_TAG_RENEWED,
    F_TAG_WRAP,
    count,
)
from ..mmu.generation import flush_all, flush_tag
from ..structs import i64

N1, N2 = 1, 2
"""Which context's tag: bits, may be combined."""


@unit(Machine, i64, i64)
def tags_renew(m, which, reason):
    """Let contexts (N1 | N2) start with a new tag, and so with no translations, at next entry."""
    nv = m.nv
    if m.feat.tlb_tagging == 0:
        return 0
    if m.feat.l2_tag_policy == POLICY_SHARED_FLUSH:
        which = N1
    if which & N1 and nv.n1_tag_generation:
        flush_tag(m, nv.n1_tag, reason)
        nv.n1_tag_generation = 0
    if which & N2 and nv.n2_tag_generation:
        flush_tag(m, nv.n2_tag, reason)
        nv.n2_tag_generation = 0
    return 0


@inner
def _allocate(m):
    if m.tag_next > m.feat.max_tag:
        m.tag_core_generation += 1
        m.tag_next = 1
        flush_all(m, F_TAG_WRAP)
        count(m, E_L0_FLUSH_EXECUTED, 1)
    count(m, E_L0_TAG_ALLOCATED, 1)
    tag = m.tag_next
    m.tag_next += 1
    return tag


@unit(Machine)
def tag_for_entry(m):
    """Choose the tag of the level about to run and execute the flushes that this needs."""
    nv = m.nv
    switched = m.entered_level != m.level and m.entered_level != 0
    m.entered_level = m.level
    if m.feat.tlb_tagging == 0:
        m.hw.tag = 1
        flush_all(m, F_NO_TAGS)
        count(m, E_L0_FLUSH_EXECUTED, 1)
        return 0
    shared = m.feat.l2_tag_policy == POLICY_SHARED_FLUSH
    if m.level == 1 or shared:
        if nv.n1_tag_generation != m.tag_core_generation:
            nv.n1_tag = _allocate(m)
            nv.n1_tag_generation = m.tag_core_generation
        m.hw.tag = nv.n1_tag
    else:
        if nv.n2_tag_generation != m.tag_core_generation:
            nv.n2_tag = _allocate(m)
            nv.n2_tag_generation = m.tag_core_generation
        m.hw.tag = nv.n2_tag
    if shared and switched:
        flush_tag(m, m.hw.tag, F_L1_L2_SWITCH)
        count(m, E_L0_FLUSH_EXECUTED, 1)
    return 0


@inner
def tags_after_n2_exit(m):
    """What happens to the tags at every hardware exit of L2."""
    if m.feat.l2_tag_policy == POLICY_XEN_2013:
        tags_renew(m, N1 | N2, F_TAG_RENEWED)
