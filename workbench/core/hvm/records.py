"""Records of L0: nested state, copies of control structures, nested p2m tables, shadow pages.

They are parts of the machine's record (``core/layout.py``); no hardware state is among them, but
for the copy that the processor keeps of a VMCB.
"""

from __future__ import annotations

import numpy as np

from ..ledger import N_STATE
from ..mmu.records import MAX_RAM_PAGES

STATE = np.dtype(
    [
        ("event", "i8"),                 # AT_*: what L0 is doing now
        ("host", "i8", (N_STATE,)),      # host address of each field, in the layout chosen
        ("shape", "i8", (N_STATE,)),     # how it is stored (hvm/nested_state.py)
    ]
)  # fmt: skip
"""Where the per-vcpu nested state lies; the state itself is in L0's memory, hvm/nested_state.py."""

NESTED_VCPU = np.dtype(
    [
        ("np2m_base", "i8"),             # L1's root that n2p_to_l0m combines, -1 none
        ("np2m_slot", "i8"),             # which of L0's nested p2m tables it is
        ("np2m_generation", "i8"),       # that table's generation when it was chosen
        ("stale_np2m", "i8"),            # choose again before L2 runs
        ("n1_tag", "i8"), ("n1_tag_generation", "i8"),
        ("last_vpid", "i8"),             # the last VPID of L1's that L2 ran with (policy kvm)
        ("flush_request", "i8"),         # 1 + reason: flush the tag at the next entry (policy kvm)
        ("vm_cr", "i8"), ("feature_control", "i8"),  # MSRs of L1's
        ("general3", "i8"),              # sixth intercept word of vmcb12
        ("shadow_active", "i8"),         # vmcs12 is a shadow VMCS now
        ("guest_efer", "i8"),            # EFER as the running guest sees it (SVME is its own)
        ("host_efer", "i8"),             # L1's while L2 runs
        ("activity", "i8"),              # VMX: activity state of L2, 0 active (hvm/vmx/activity.py)
        ("immediate_exit", "i8"),        # L2 is to exit before its first instruction
    ]
)  # fmt: skip
"""What L0 remembers beside the nested state: tables and tags in use, MSRs of the guests."""

N_VMCB_COPIES, VMCB_COPY_BYTES = 4, 0x6A0
"""VMCBs that the processor keeps a copy of, and how much of one VMRUN loads at most."""
VMCB_COPY = np.dtype([("ma", "i8"), ("used", "i8"), ("bytes", "u1", (VMCB_COPY_BYTES,))])
"""What the processor holds of a VMCB (hvm/svm/clean.py); ``ma`` 0: nothing."""

N_ROUTES = 256
MAX_NP2M = 10
NP2M_POOL_PAGES = 4096
"""Size of the list of pool pages, a power of two; the pool itself is smaller."""
NP2M = np.dtype(
    [
        ("base", "i8"),        # root of L1's table that it combines (n1p), -1 none
        ("root", "i8"),        # ma of its own root, 0: never used
        ("generation", "i8"),  # how often it was emptied
        ("reason", "i8"),      # why it was emptied last (F_*)
        ("flush", "i8"),       # 1 + reason: empty it before it is used again
        ("entries", "i8"),     # leaf entries present in it
        ("used", "i8"),        # when it was chosen last (LRU)
        ("pages", "i8"),       # ma of the first page below the root, a list through np2m_next
    ],
    align=True,
)  # fmt: skip
"""One nested p2m: n2p_to_l0m for one root of L1."""

KVM = np.dtype([("page", "i8"), ("dirty", "i8"), ("rare_in_02", "i8")])
"""KVM's copy of vmcs12: ma of L1's page, whether vmcs02 must be written in full, and whether the
rarely moved guest state is in vmcs02 only (hvm/vmx/kvm.py)."""

SHADOW_PAGES = 4096
"""Size of the list of shadow pages, a power of two; page 0 is none."""
SHADOW_PAGE = np.dtype(
    [
        ("frame", "i8"),   # page of RAM that it shadows: a guest table, or where a large page starts
        ("kind", "i8"),    # hvm/shadow/pages; 0 free
        ("next", "i8"),    # next shadow of the same frame, or next free page
        ("refs", "i8"),    # entries that point to it, and 1 for a root that is kept
        ("pinned", "i8"),  # is a root that is kept
        ("used", "i8"),    # when it became a root last (LRU)
    ],
    align=True,
)  # fmt: skip
WRITTEN_TABLE = np.dtype([("frame", "i8"), ("low", "i8"), ("high", "i8")], align=True)
"""A guest table that L0 wrote to for the guest: first and last byte."""

SHADOW = np.dtype(
    [
        ("active", "i8"),                          # L0 runs its guests on shadow tables
        ("software", "i8"),                        # between exit and entry: L0 walks guest tables
        ("emulating", "i8"),                       # L0 executes one instruction for the guest
        ("flush", "i8"),                           # take new tags before the next entry
        ("cr0", "i8"), ("cr3", "i8"), ("cr4", "i8"),  # as the guest that runs believes
        ("role", "i8"),                            # ROLE_* of its mode
        ("roots", "i8", (2,)),                     # shadow page that is the root of L1, L2
        ("free", "i8"), ("top", "i8"), ("limit", "i8"),  # free list; pages never used; how many
        ("clock", "i8"), ("freed", "i8"),          # choices of a root; pages freed so far
        ("n_written", "i8"), ("written_overflow", "i8"), ("written", WRITTEN_TABLE, (4,)),
        ("gpa", "i8"), ("shift", "i8"), ("rights", "i8"), ("level", "i8"), ("leaf", "i8"),
        ("tables", "i8", (4,)), ("entries", "i8", (4,)),  # of the last guest walk, by level - 1
        ("pages", SHADOW_PAGE, (SHADOW_PAGES,)),
        ("head", "i4", (MAX_RAM_PAGES,)),          # first shadow page of a page of RAM
        ("writable", "i4", (MAX_RAM_PAGES,)),      # shadow entries that map it writable
        ("writable_at", "i4", (MAX_RAM_PAGES,)),   # one of them: its number in the pool
    ],
    align=True,
)  # fmt: skip
"""L0 shadow paging (hvm/shadow)."""
