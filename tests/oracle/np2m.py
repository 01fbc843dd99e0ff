"""Slow and obvious nested p2m: what L0 may have entered, and when it must have emptied it.

L1's tables are words in a dictionary, L0's table is arithmetic plus a set of pages that were taken
away, and a nested p2m is a dictionary of pages.  From the manuals: format, rights, misconfiguration,
accessed and dirty bits (APM vol. 2, 5.4, 15.25; SDM vol. 3, 29.3).  From Xen's mm/p2m.c: which table
serves which root, and what empties it (facts carried in features.csv, ``np2m_*``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

R, W, X = 1, 2, 4
ADDRESS = 0x000F_FFFF_FFFF_F000
TOO_WIDE = ADDRESS & ~((1 << 40) - 1)
EPTP_AD = 1 << 6
HANDLED, INJECT, MISCONFIGURED, L0_ERROR = range(4)
LAZY, EAGER, GENERATION = range(3)
GIB = 1 << 30


class Fault(Exception):
    """L1's table does not grant the access; ``rights`` is None where an entry is missing."""

    def __init__(self, misconfigured: bool, rights: int | None):
        self.misconfigured, self.rights = misconfigured, rights


@dataclass
class HostTable:
    """n1p_to_l0m: (n1p, ma, bytes) ranges in pages of one size."""

    ranges: list[tuple[int, int, int]]
    shift: int
    taken: set[int] = field(default_factory=set)
    logged: set[int] = field(default_factory=set)

    def machine(self, n1p: int) -> int | None:
        for start, ma, size in self.ranges:
            if start <= n1p < start + -(-size >> self.shift << self.shift):
                return ma + n1p - start
        return None

    def has_memory(self, n1p: int) -> bool:
        """False inside a large page where no memory answers: it reads as all ones."""
        return any(start <= n1p < start + size for start, _, size in self.ranges)

    def page(self, n1p: int) -> tuple[int, int] | None:
        """(machine address, rights) of a page that is there."""
        ma = self.machine(n1p)
        if ma is None or n1p >> self.shift in self.taken:
            return None
        return ma, R | X if n1p >> self.shift in self.logged else R | W | X

    def touch(self, n1p: int) -> None:
        """L0 needs the page itself: what it took away comes back."""
        self.taken.discard(n1p >> self.shift)

    def resolve(self, n1p: int, write: bool) -> bool:
        """A fault at ``n1p``: is it L0's own doing?  Then it is undone."""
        page = n1p >> self.shift
        if page in self.taken:
            self.taken.discard(page)
            return True
        if write and page in self.logged:
            self.logged.discard(page)
            return True
        return False

    def withdraw(self, n1p: int, log_dirty: bool) -> bool:
        page = n1p >> self.shift
        if self.machine(n1p) is None or page in self.taken:
            return False
        if log_dirty and page in self.logged:
            return False
        (self.logged if log_dirty else self.taken).add(page)
        return True


# ---------------------------------------------------------------- L1's table


@dataclass
class L1Tables:
    """n2p_to_n1p tables in L1's memory: 64-bit words by n1p."""

    svm: bool
    words: dict[int, int]

    def entry_rights(self, entry: int) -> int | None:
        """None: not present."""
        if self.svm:
            if not entry & 1:
                return None
            if not entry & 4:
                return 0
            return R | (W if entry & 2 else 0) | (0 if entry >> 63 else X)
        return entry & 7 or None

    def misconfigured(self, entry: int, shift: int, leaf: bool) -> bool:
        if entry & TOO_WIDE:
            return True
        if self.svm:
            if shift == 39:
                return bool(entry & 0x80)
            return leaf and shift > 12 and bool(entry & ((1 << shift) - 1) & ADDRESS & ~0x1000)
        if entry & 3 == W:
            return True
        if leaf:
            low = entry & ((1 << shift) - 1) & ADDRESS
            return bool(low) or (entry >> 3 & 7) in (2, 3, 7)
        return bool(entry & 0xF8)


def wanted(access: int) -> int:
    """Rights that an access needs: 0 read, 1 write, 2 fetch."""
    return (R, R | W, X)[access]


# ---------------------------------------------------------------- the cache


@dataclass
class Table:
    """One nested p2m.  ``pages``: {(shift, n2p >> shift): (ma, rights)}."""

    root_page: bool = False
    base: int | None = None
    pages: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    nodes: set[tuple[int, int]] = field(default_factory=set)
    charged: int = 0
    emptied: int = 0
    marked: bool = False
    used: int = 0


class NestedP2ms:
    """The tables of one domain and what its one vcpu has chosen."""

    def __init__(
        self, l1: L1Tables, host: HostTable, tables: int, policy: int, pool: int,
        host_rights: bool = False, ept_ad: bool = False,
    ):  # fmt: skip
        self.l1, self.host, self.policy, self.pool = l1, host, policy, pool
        self.host_rights, self.ept_ad = host_rights and l1.svm, ept_ad and not l1.svm
        self.tables = [Table() for _ in range(tables)]
        self.now: int | None = None
        self.base: int | None = None
        self.seen = 0
        self.forgotten = self.stale = False
        self.clock = 0
        self.installed = self.flushed = self.zapped = 0
        self.renewals = 0

    # ------------------------------------------------------------ pages

    def free_pages(self) -> int:
        return self.pool - sum(t.charged + t.root_page for t in self.tables)

    # ------------------------------------------------------------ emptying

    def empty(self, slot: int) -> None:
        t = self.tables[slot]
        t.marked = False
        if not t.root_page or t.base is None:
            return
        self.flushed += 1
        self.zapped += len(t.pages)
        t.pages, t.nodes, t.charged = {}, set(), 0
        t.emptied += 1
        if self.policy == GENERATION:
            t.base = None
        if slot == self.now_slot:
            self.stale = True

    @property
    def now_slot(self) -> int:
        return 0 if self.now is None else self.now

    def empty_all(self) -> None:
        for slot in range(len(self.tables)):
            self.empty(slot)

    def reset(self) -> None:
        self.empty_all()
        for t in self.tables:
            t.base = None
        self.now = self.base = None
        self.forgotten = self.stale = False

    def invalidate(self, slot: int) -> None:
        """L1 has invalidated: empty now, or before the table's next use."""
        t = self.tables[slot]
        if not t.root_page or t.base is None:
            return
        if self.policy == LAZY:
            t.marked = True
            if slot == self.now_slot:
                self.stale = True
        else:
            self.empty(slot)

    def invept_single(self, eptp: int) -> None:
        for slot, t in enumerate(self.tables):
            if t.base is not None and t.base & ADDRESS == eptp & ADDRESS:
                self.invalidate(slot)

    def invept_all(self) -> None:
        for slot in range(len(self.tables)):
            self.invalidate(slot)

    def invlpga(self) -> None:
        if self.now is not None and self.policy != GENERATION:
            self.invalidate(self.now)

    def vmrun(self, tlb_control: int, root: int) -> None:
        """VMRUN with TLB_CONTROL, or with another ASID (0 then)."""
        if self.policy == GENERATION:
            self.forgotten = True
        elif tlb_control == 1:
            self.invept_all()
        else:
            self.invept_single(root)

    # ------------------------------------------------------------ choosing

    def key(self, base: int) -> int:
        return base & (ADDRESS | (EPTP_AD if self.ept_ad else 0))

    def select(self, base: int) -> bool:
        """Choose the table for a root; must L2's tag be renewed?"""
        key = self.key(base)
        first = self.now is None
        current = None if first or self.forgotten else self.tables[self.now_slot]
        self.forgotten = False
        kept = False
        if current is not None and current.base == key:
            if current.marked:
                self.empty(self.now_slot)
            kept = current.emptied == self.seen and current.base == key
        if current is None or current.base != key:
            self.now = self._find(key)
            if self.now is None:
                self.now = self._take(key)
            elif self.tables[self.now].marked:
                self.empty(self.now)
        t = self.tables[self.now_slot]
        self.clock += 1
        t.used = self.clock
        self.base, self.seen, self.stale = key, t.emptied, False
        renew = not first and not kept
        self.renewals += renew
        return renew

    def _find(self, key: int) -> int | None:
        for slot, t in enumerate(self.tables):
            if t.root_page and t.base == key:
                return slot
        return None

    def _take(self, key: int) -> int:
        slot = min(range(len(self.tables)), key=lambda s: (self.tables[s].used, s))
        self.empty(slot)
        t = self.tables[slot]
        if not t.root_page:
            if not self.free_pages():
                self.empty_all()
            t.root_page = True
        t.base = key
        return slot

    # ------------------------------------------------------------ a nested page fault

    def walk(self, n2p: int, access: int) -> tuple[int, int, int, bool]:
        """L1's table: (n1p, page shift, rights, is its dirty bit in use and clear); marks it."""
        assert self.base is not None
        marks = (1 << 5, 1 << 6) if self.l1.svm else None
        if self.base & EPTP_AD:
            marks = (1 << 8, 1 << 9)
        table, rights = self.base & ADDRESS, R | W | X
        if n2p >> 48:
            raise Fault(False, None)
        for shift in (39, 30, 21, 12):
            self.host.touch(table)
            if self.host.page(table) is None:
                raise Fault(False, None)
            place = table + (n2p >> shift & 511) * 8
            entry = self.l1.words.get(place, 0) if self.host.has_memory(place) else (1 << 64) - 1
            granted = self.l1.entry_rights(entry)
            if granted is None:
                raise Fault(False, None)
            leaf = shift == 12 or (shift < 39 and bool(entry & 0x80))
            if self.l1.misconfigured(entry, shift, leaf):
                raise Fault(True, rights)
            rights &= granted
            if leaf:
                break
            if marks:
                self.l1.words[place] = entry | marks[0]
            table = entry & ADDRESS
        if wanted(access) & ~rights:
            raise Fault(False, rights)
        if marks:
            entry |= marks[0] | (marks[1] if access == 1 else 0)
            self.l1.words[place] = entry
        mask = (1 << shift) - 1
        clean = bool(marks) and not entry & marks[1]
        return entry & ADDRESS & ~mask | n2p & mask, shift, rights, clean

    def fault(self, n2p: int, access: int) -> int:
        """A nested page fault of L2: HANDLED, INJECT, MISCONFIGURED or L0_ERROR."""
        try:
            n1p, shift, rights, clean = self.walk(n2p, access)
        except Fault as fault:
            return MISCONFIGURED if fault.misconfigured else INJECT
        page = self.host.page(n1p)
        if page is None or (access == 1 and not page[1] & W):
            return HANDLED if self.host.resolve(n1p, access == 1) else L0_ERROR
        ma, host_rights = page
        granted = host_rights if self.host_rights else host_rights & rights
        if clean and not self.l1.svm:
            granted &= ~W
        shift = min(shift, self.host.shift)
        if not self._install(n2p, ma, shift, granted):
            self.empty_all()
            self.select(self.base or 0)
            self.stale = True
            self._install(n2p, ma, shift, granted)
        return HANDLED

    def _install(self, n2p: int, ma: int, shift: int, rights: int) -> bool:
        t = self.tables[self.now_slot]
        for level in (39, 30, 21):
            node = (level, n2p >> level)
            if level <= shift:
                break
            if node not in t.nodes:
                if not self.free_pages():
                    return False
                t.charged += 1
                t.pages.pop(node, None)
                t.nodes.add(node)
        here = (shift, n2p >> shift)
        t.nodes = {(s, n) for s, n in t.nodes if not (s <= shift and n >> (shift - s) == here[1])}
        t.pages = {
            (s, n): p
            for (s, n), p in t.pages.items()
            if not (s < shift and n >> (shift - s) == here[1])
        }
        t.pages[here] = (ma & ~((1 << shift) - 1), rights)
        self.installed += 1
        return True
