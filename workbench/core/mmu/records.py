"""Records of address translation: TLBs, paging-structure caches, what a page walk found.

They are parts of the machine's record (``core/layout.py``); what fills and drops their entries is in
``tlb``, ``walk`` and ``generation``.  The ``rights`` of a translation are made of TR_*.
"""

from __future__ import annotations

import numpy as np

MAX_RAM_PAGES = 1 << 16
"""Pages of 4 KB in the RAM buffer at most: the size of what is kept for each page."""

MAX_TLB1, MAX_TLB2 = 128, 4096
MAX_TAGS = 1 << 16
REASON_RING = 8
FAST = 64
PSC_ENTRIES = 32
NTLB_ENTRIES = 16

TLB_ENTRY = np.dtype(
    [
        ("page", "i8"),       # va >> 12 of the first 4 KB of the page
        ("frame", "i8"),      # ma of the page
        ("generation", "i8"), # valid while equal to the current generation (mmu/generation.py)
        ("tag", "i4"), ("pcid", "i4"),
        ("owner", "u1"),      # level that filled it
        ("shift", "u1"),      # 12, 21, 30; 0 = never used
        ("rights", "u1"),     # TR_*
        ("pad", "u1"),
    ],
    align=True,
)  # fmt: skip
TR_WRITE, TR_USER, TR_EXEC, TR_GLOBAL, TR_DIRTY = 1, 2, 4, 8, 16
TR_NO_READ = 32
"""For fetches only: an EPT entry with the right to execute alone."""

WALK_ENTRY = np.dtype(
    [("key", "i8"), ("value", "i8"), ("generation", "i8"), ("rights", "i8"), ("tag", "i4"),
     ("shift", "i4")], align=True,
)  # fmt: skip

WALK = np.dtype([("frame", "i8"), ("shift", "i8"), ("rights", "i8"), ("references", "i8"),
                 ("nested_references", "i8"), ("found", "i8", (4,))])  # fmt: skip
"""What a page walk found: ma of the page, log2 of its size, TR_* rights, references it made, of
these those to the nested table, and by the cache level that had them (3: memory)."""

MAX_CACHE_LINES = (1 << 10, 1 << 15, 1 << 19)
"""Lines of 64 bytes that the model has room for: 64 KB, 2 MB and 32 MB."""

LINES = np.dtype(
    [
        ("base", "i8", (3,)), ("sets", "i8", (3,)), ("ways", "i8", (3,)),  # first, second, last level
        ("line", "u4", (sum(MAX_CACHE_LINES),)),  # number of the line + 1, most recent of a set first
    ],
    align=True,
)  # fmt: skip
"""Caches as page walks see them (mmu/lines.py)."""

TLB1, TLB1_LARGE, TLB2 = range(3)

TLB = np.dtype(
    [
        ("base", "i8", (3,)), ("sets", "i8", (3,)), ("ways", "i8", (3,)),  # of TLB1, TLB1_LARGE, TLB2
        ("large_in_l2", "i8"),
        ("sizes", "i8"),                                # bit (shift) set: pages of that size cached
        ("entries", TLB_ENTRY, (2 * MAX_TLB1 + MAX_TLB2,)),
        ("victim", "u1", (2 * MAX_TLB1 + MAX_TLB2,)),   # next way to replace, per set
        ("all_generation", "i8"),
        ("tag_generation", "i4", (MAX_TAGS,)),
        ("global_generation", "i4", (MAX_TAGS,)),
        ("live", "i4", (MAX_TAGS,)), ("live_global", "i4", (MAX_TAGS,)),
        ("live_all", "i8"), ("live_top", "i8"),         # sum of the two; highest tag in them
        ("tag_reason", "u1", (MAX_TAGS, REASON_RING)),  # why each generation of a tag ended
        ("global_reason", "u1", (MAX_TAGS, REASON_RING)),
        ("all_reason", "u1", (REASON_RING,)),
        ("psc", WALK_ENTRY, (3, PSC_ENTRIES)),          # PDE, PDPTE, PML4E caches
        ("psc_next", "i8", (3,)),
        ("psc_generation", "i8"),
        ("ntlb", WALK_ENTRY, (NTLB_ENTRIES,)), ("ntlb_next", "i8"), ("ntlb_generation", "i8"),
        ("fast_context", "i8"),                         # multiple of 8; see mmu/access.py
        ("fast_hits", "i8"),                            # first-level hits not yet in the ledger
        ("fast_read", "i8", (FAST,)), ("fast_read_host", "i8", (FAST,)),
        ("fast_write", "i8", (FAST,)), ("fast_write_host", "i8", (FAST,)),
    ],
    align=True,
)  # fmt: skip
