"""Slow and obvious TLB tags: which tag a level gets, what L0 flushes, and what may stay cached.

The TLB is a set of (tag, page, PCID, is global).  The policies are those of L0 = Xen (``own``,
``xen_2013``), of a single shared tag, and of L0 = KVM, as data/arch/tlb_flush_rules.csv has them; what
an invalidation covers is the manuals' (APM vol. 2, 15.16; SDM vol. 3, 4.10.4, 29.4.3).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

OWN, SHARED_FLUSH, XEN_2013, KVM = range(4)
N1, N2 = 1, 2
COPIES = 2
"""A cached page is in both levels of the TLB."""


@dataclass
class Context:
    """L1 or L2: the tag it has, and whether it still holds."""

    tag: int = 0
    generation: int = 0


@dataclass
class Tags:
    """L0's bookkeeping and the processor's TLB."""

    svm: bool
    policy: int
    highest: int
    by_asid: bool = True
    tagged: bool = True
    roots: int = 11
    generation: int = 1
    free: int = 1
    n1: Context = field(default_factory=Context)
    n2: Context = field(default_factory=Context)
    request: str = ""
    entered: int = 0
    vpid12: int = 0
    last_vpid: int = 0
    table: int = 0
    now: int = 1
    cached: set[tuple[int, int, int, bool]] = field(default_factory=set)
    flushes: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    allocated: int = 0
    executed: int = 0

    # ------------------------------------------------------------ the processor

    def drop(self, reason: str, scope: str, condition) -> None:
        """One flush: everything that ``condition`` holds for leaves the TLB."""
        gone = {entry for entry in self.cached if condition(*entry)}
        self.cached -= gone
        self.flushes[reason, scope] += 1
        self.dropped[reason, scope] += COPIES * len(gone)

    def drop_tag(self, tag: int, reason: str) -> None:
        self.drop(reason, "tag", lambda t, *_: t == tag or self.same_vpid(t, tag))

    def same_vpid(self, a: int, b: int) -> bool:
        """Do two tags stand for one VPID with different EPT roots?"""
        return self.pairs and a != b and (a - 1) // self.roots == (b - 1) // self.roots

    def access(self, page: int, pcid: int, is_global: bool) -> bool:
        """Does the running guest hit?  The page is cached afterwards."""
        hit = any(t == self.now and p == page and (c == pcid or g) for t, p, c, g in self.cached)
        if not hit:
            self.cached.add((self.now, page, pcid, is_global))
        return hit

    def mov_cr3(self) -> None:
        """Everything of the tag but global pages, and all with other roots."""
        self.drop(
            "CR3_WRITE", "tag_nonglobal",
            lambda t, p, c, g: (t == self.now and not g) or self.same_vpid(t, self.now),
        )  # fmt: skip

    def change_cr4(self) -> None:
        """CR4.PGE changed, or PCIDE was cleared."""
        self.drop_tag(self.now, "CR_WRITE")

    def invlpg(self, page: int, pcid: int) -> None:
        self.drop(
            "INVLPG", "address",
            lambda t, p, c, g: (t == self.now and p == page and (c == pcid or g))
            or self.same_vpid(t, self.now),
        )  # fmt: skip

    def invpcid(self, kind: int, pcid: int, page: int) -> None:
        """Types: 0 one page of a PCID, 1 a PCID, 2 everything, 3 everything but global pages."""
        scope = ("address", "tag_nonglobal", "tag", "tag_nonglobal")[kind]
        self.drop(
            "INVPCID", scope,
            lambda t, p, c, g: self.same_vpid(t, self.now) or (
                t == self.now
                and (kind > 1 or c == pcid)
                and (kind != 0 or p == page)
                and (kind == 2 or not g)
            ),
        )  # fmt: skip

    # ------------------------------------------------------------ L0: who shares what

    @property
    def pairs(self) -> bool:
        """Fixed VPIDs, told apart by the root as well: KVM on VMX."""
        return self.policy == KVM and not self.svm and self.tagged

    @property
    def shared(self) -> bool:
        return self.policy == SHARED_FLUSH or (self.policy == KVM and self.svm)

    def pair(self, vpid: int, root: int) -> int:
        return 1 + (vpid - 1) * self.roots + root

    @property
    def vpid_of_l2(self) -> int:
        return 2 if self.vpid12 else 1

    def flush_vpid(self, vpid: int, reason: str) -> None:
        self.executed += 1
        first = self.pair(vpid, 0)
        self.drop(reason, "tag", lambda t, *_: first <= t < first + self.roots)

    # ------------------------------------------------------------ L0: renewing

    def renew(self, which: int, reason: str) -> None:
        """L1 (N1), L2 (N2) or both start without translations at the next entry."""
        if not self.tagged:
            return
        if self.policy == KVM and self.svm:
            self.request = reason
        elif self.policy == KVM:
            vpids = {1} if which & N1 else set()
            if which & N2:
                vpids.add(self.vpid_of_l2)
            for vpid in sorted(vpids):
                self.flush_vpid(vpid, reason)
        else:
            contexts = [self.n1] if self.policy == SHARED_FLUSH or which & N1 else []
            if self.policy != SHARED_FLUSH and which & N2:
                contexts.append(self.n2)
            for context in contexts:
                self.give_up(context, reason)

    def give_up(self, context: Context, reason: str) -> None:
        if context.generation:
            self.drop_tag(context.tag, reason)
            context.generation = 0

    def after_l2(self) -> None:
        if self.policy == XEN_2013:
            self.renew(N1 | N2, "TAG_RENEWED")

    def np2m_emptied(self, slot: int, reason: str) -> None:
        """Only where a tag stands for VPID and root: INVEPT of that root."""
        if not self.pairs:
            return
        self.executed += 1
        own = self.pair(2, 1 + slot)
        self.drop(reason, "tag", lambda t, *_: t == own)
        without = self.pair(1, 1 + slot)
        if any(t == without for t, *_ in self.cached):
            self.drop(reason, "tag", lambda t, *_: t == without)

    def invvpid_address(self, page: int, reason: str) -> None:
        """One address under vpid02, whatever the root; of roots not in use, everything."""
        first = self.pair(2, 0)
        for root in range(1, self.roots):
            tag = first + root
            if any(t == tag for t, *_ in self.cached) or root == 1 + self.table:
                self.drop(
                    reason, "address",
                    lambda t, p, c, g, tag=tag: (t == tag and p == page)
                    or self.same_vpid(t, tag),
                )  # fmt: skip
        self.executed += 1

    # ------------------------------------------------------------ L0: entering

    def allocate(self, context: Context) -> None:
        if context.generation == self.generation:
            return
        if self.free > self.highest:
            self.generation += 1
            self.free = 1
            self.executed += 1
            self.drop("TAG_WRAP", "all", lambda *_: True)
        context.tag, self.free = self.free, self.free + 1
        context.generation = self.generation
        self.allocated += 1

    def enter(self, level: int) -> None:
        switched = self.entered not in (0, level)
        self.entered = level
        if not self.tagged:
            self.now = 1
            self.executed += 1
            self.drop("NO_TAGS", "all", lambda *_: True)
        elif self.shared:
            self._enter_shared(switched)
        elif self.policy == KVM:
            self._enter_kvm(level, switched)
        else:
            context = self.n1 if level == 1 else self.n2
            self.allocate(context)
            self.now = context.tag

    def _enter_shared(self, switched: bool) -> None:
        reason = "L1_L2_SWITCH" if switched else self.request
        self.request = ""
        by_asid = self.by_asid or not self.svm
        if reason and not by_asid:
            self.give_up(self.n1, reason)
        wrapped = self.generation
        self.allocate(self.n1)
        self.now = self.n1.tag
        if reason and by_asid:
            self.executed += 1
            if wrapped == self.generation or not self.svm:
                self.drop_tag(self.now, reason)

    def _enter_kvm(self, level: int, switched: bool) -> None:
        vpid = self.vpid_of_l2 if level == 2 else 1
        self.now = self.pair(vpid, 1 + self.table if level == 2 else 0)
        if switched and not self.vpid12:
            self.flush_vpid(1, "L1_WITHOUT_VPID")
        elif switched and level == 2 and self.vpid12 != self.last_vpid:
            self.last_vpid = self.vpid12
            self.flush_vpid(2, "TAG_RENEWED")
