"""Which translations may still be cached: a slow and obvious reading of the manuals' rules.

A cached translation of L2 has a linear part (L2's own table: va -> gpa) and a nested part (L1's table:
gpa -> n1p).  For each part and context the oracle keeps every value that the tables have had since
the last invalidation that covers it; the processor may use any of them and no other.

VMX (SDM vol. 3, 29.4): linear part by VPID and EPT root, nested part by EPT root; an entry or exit
without VPID ends the linear part of VPID 0.  SVM (APM vol. 2, 15.16): both parts by ASID, whatever
nested root was used; TLB_CONTROL 1 ends all ASIDs, 3 the entering one, 7 that but for global pages;
INVLPGA one address of one ASID.  In both, MOV CR3 ends what is not global, a change of CR4.PGE
everything, INVLPG one address, of the running context.

``direct``: L1 gives L2 no nested table, and L2's own tables lead to L1-physical addresses.  There is
no nested part then, and on VMX the linear part goes by VPID alone, so that INVEPT ends nothing.

``tlb_control_keeps_nested``: Xen's deviation since 2017, where neither TLB_CONTROL nor a new
ASID empties the nested p2m of a root; then the nested part goes by root here, too, and nothing ends it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

Context = Hashable


@dataclass(frozen=True)
class Linear:
    """What L2's table says about a page."""

    gpa: int
    writable: bool
    is_global: bool


@dataclass(frozen=True)
class Nested:
    """What L1's table says about a page of L2."""

    n1p: int
    writable: bool


class Possible:
    """Values that a part may have, by context and page."""

    def __init__(self) -> None:
        self.kept: dict[Context, dict[int, set]] = {}

    def context(self, context: Context) -> dict[int, set]:
        return self.kept.setdefault(context, {})

    def add(self, context: Context, page: int, value: Hashable) -> None:
        self.context(context).setdefault(page, set()).add(value)

    def values(self, context: Context, page: int) -> set:
        return self.context(context).get(page, set()) - {None}


class Stale:
    """The tables' history, cut at each invalidation."""

    def __init__(self, svm: bool, tlb_control_keeps_nested: bool = False, direct: bool = False):
        self.svm, self.tlb_control_keeps_nested = svm, tlb_control_keeps_nested
        self.direct = direct
        self.linear_now: dict[int, Linear | None] = {}
        self.nested_now: dict[tuple[int, int], Nested | None] = {}
        self.linear, self.nested = Possible(), Possible()
        self.roots: dict[Context, set[int]] = {}
        self.space: Context = 0
        self.root = 0

    # ------------------------------------------------------------ contexts

    def linear_context(self, space: Context, root: int) -> Context:
        return space if self.svm else (space, root)

    def nested_context(self, space: Context, root: int) -> Context:
        return root if not self.svm or self.tlb_control_keeps_nested else space

    @property
    def running(self) -> tuple[Context, Context]:
        """Contexts of the running L2: linear and nested."""
        return (self.linear_context(self.space, self.root),
                self.nested_context(self.space, self.root))  # fmt: skip

    def enter(self, space: Context, root: int) -> None:
        """L2 runs with this ASID or VPID and this nested root."""
        self.space, self.root = space, root
        linear, nested = self.running
        self.roots.setdefault(nested, set()).add(root)
        for page, value in self.linear_now.items():
            self.linear.add(linear, page, value)
        for (table, page), value in self.nested_now.items():
            if table == root:
                self.nested.add(nested, page, value)

    # ------------------------------------------------------------ edits

    def edit_linear(self, page: int, value: Linear | None) -> None:
        self.linear_now[page] = value
        for context in self.linear.kept:
            self.linear.add(context, page, value)

    def edit_nested(self, root: int, page: int, value: Nested | None) -> None:
        self.nested_now[root, page] = value
        for context, roots in self.roots.items():
            if root in roots:
                self.nested.add(context, page, value)

    # ------------------------------------------------------------ invalidations

    def _end_linear(self, contexts: Iterable[Context], page: int | None, globals_too: bool) -> None:
        for context in contexts:
            for p, values in self.linear.context(context).items():
                if page in (None, p):
                    stay = {v for v in values if v and v.is_global and not globals_too}
                    self.linear.kept[context][p] = stay | {self.linear_now[p]}

    def _end_nested(self, contexts: Iterable[Context]) -> None:
        for context in contexts:
            last = {self.root} if self.svm and context == self.space else set()
            roots = self.roots[context] = last if self.svm else self.roots.get(context, set())
            self.nested.kept[context] = {}
            for (table, page), value in self.nested_now.items():
                if table in roots:
                    self.nested.add(context, page, value)

    def _linear_of(self, space: Context) -> list[Context]:
        """Every linear context of an ASID or VPID."""
        if self.svm:
            return [space]
        return [c for c in self.linear.kept if c[0] == space]

    # ---- L2's own
    def mov_cr3(self) -> None:
        self._end_linear(self._linear_of(self.space), None, False)

    def change_pge(self) -> None:
        self._end_linear(self._linear_of(self.space), None, True)

    def invlpg(self, page: int) -> None:
        self._end_linear(self._linear_of(self.space), page, True)

    def invpcid(self, kind: int, page: int) -> None:
        """Without CR4.PCIDE: types 0 one page, 1 and 3 everything, none of them global pages; 2 all."""
        self._end_linear(self._linear_of(self.space), page if kind == 0 else None, kind == 2)

    # ---- SVM
    def tlb_control(self, asid: int, control: int) -> None:
        """VMRUN with TLB_CONTROL, before L2 runs."""
        if control == 1:
            self._end_linear(list(self.linear.kept), None, True)
        elif control in (3, 7):
            self._end_linear([asid], None, control == 3)
        if control and not self.tlb_control_keeps_nested:
            self._end_nested(list(self.roots) if control == 1 else [asid])

    def invlpga(self, page: int, asid: int) -> None:
        self._end_linear([asid], page, True)

    # ---- VMX
    def without_vpid(self) -> None:
        """Entry to or exit of an L2 that has no VPID."""
        self._end_linear(self._linear_of(0), None, True)

    def invept(self, root: int | None) -> None:
        """One root, or all (None)."""
        if self.direct:
            return
        contexts = [c for c in self.linear.kept if root in (None, c[1])]
        self._end_linear(contexts, None, True)
        self._end_nested([c for c in self.roots if root in (None, c)])

    def invvpid(self, kind: int, vpid: int, page: int) -> None:
        """Types 0 one address, 1 one VPID, 2 all but 0, 3 one VPID without global pages."""
        if kind == 2:
            spaces = {c[0] for c in self.linear.kept} - {0}
        else:
            spaces = {vpid}
        for space in spaces:
            self._end_linear(self._linear_of(space), page if kind == 0 else None, kind != 3)

    # ------------------------------------------------------------ the question

    def may_use(self, page: int, n1p: int, writable: bool) -> bool:
        """May the running L2 use this translation of a page?"""
        linear, nested = self.running
        if self.direct:
            return any(
                v.gpa == n1p and (v.writable or not writable)
                for v in self.linear.values(linear, page)
            )
        return any(
            n.n1p == n1p and (not writable or (v.writable and n.writable))
            for v in self.linear.values(linear, page)
            for n in self.nested.values(nested, v.gpa)
        )

    def may_nest(self, root: int, gpa: int, n1p: int, writable: bool) -> bool:
        """May L0 (in a nested p2m) or the processor use this nested translation for the root?"""
        context = self.nested_context(self.space, root)
        return any(
            n.n1p == n1p and (n.writable or not writable) for n in self.nested.values(context, gpa)
        )
