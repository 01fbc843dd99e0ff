"""Changes of L0's own table, at fixed intervals: what L0 does to L1's memory for its own reasons.

Every so many exits (scenario: ``balloon_period``) L0 takes one page of L1's memory away, as
ballooning and swapping do, or write-protects it, as live migration does to learn which pages are
written (feature ``l0_p2m_event``).  The page is one in use: in turn the page of L2's memory that was
entered last into a nested p2m, and the page with L1's own table for L2.

As in Xen, where it matters most here: any such change of any page empties every nested p2m of the
domain (p2m_flush_nestedp2m).  The page or the right comes back at the next fault (``p2m.py``).
"""

from __future__ import annotations

from ..jit import unit
from ..layout import P2M_EVENT_LOG_DIRTY, Machine
from ..ledger import F_P2M_CHANGED
from ..mmu.walk import ADDRESS_MASK
from .nested_state import n2p_to_l0m
from .np2m import np2m_empty_all
from .p2m import p2m_withdraw
from .tags import N1, N2, tags_renew


@unit(Machine)
def p2m_scripted_change(m):
    """Withdraw one page or its write permission, and everything that was derived from it."""
    m.p2m_countdown = m.p2m_period
    if m.np2m_last_n1p == 0 or n2p_to_l0m(m) == 0:
        return 0
    m.p2m_turn ^= 1
    n1p = m.np2m_last_n1p if m.p2m_turn else m.nv.np2m_base & ADDRESS_MASK
    if p2m_withdraw(m, n1p, 1 if m.feat.p2m_event == P2M_EVENT_LOG_DIRTY else 0):
        np2m_empty_all(m, F_P2M_CHANGED)
        tags_renew(m, N1 | N2, F_P2M_CHANGED)
    return 0
