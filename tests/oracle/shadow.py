"""What a shadow page table may hold: the composition of guest walk and p2m, by slow obvious walks.

Works on the machine's RAM from outside of the kernel.  APM vol. 2, 5.3 (4-level tables); rights of a
shadow entry may be fewer than what guest's tables and p2m grant together, never more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from workbench.core import layout as lay

P, W, U, A, D, PS, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
RESERVED = ADDRESS & ~((1 << 40) - 1)
LEAF_KINDS = (1, 5)


class Machine:
    """Reads RAM by machine address, and L1's memory by L1-physical address."""

    def __init__(self, built):
        self.built = built
        self.record = built.record

    def word(self, ma: int) -> int:
        bank, offset = ma >> 30, ma & ((1 << 30) - 1)
        start = int(self.record["bank_base"][0, bank]) + offset
        return int(self.built.words[start >> 3]) & (1 << 64) - 1

    def frame(self, ma: int) -> int:
        return int(self.record["bank_base"][0, ma >> 30]) + (ma & ((1 << 30) - 1)) >> 12

    def p2m(self, n1p: int) -> int | None:
        """The fixed map of core/layout: two banks of memory."""
        bank = 1 + (n1p >> 30)
        if bank > 2 or n1p & ((1 << 30) - 1) >= int(self.record["bank_size"][0, bank]):
            return None
        return (bank << 30) | (n1p & ((1 << 30) - 1))

    def guest_walk(self, cr3: int, va: int) -> tuple[int, bool, bool, bool, bool] | None:
        """(machine address, writable, user, executable, dirty) by the guest's own tables, or None."""
        table = cr3 & ADDRESS
        write = user = execute = True
        for shift in (39, 30, 21, 12):
            at = self.p2m(table)
            if at is None:
                return None
            entry = self.word(at + (va >> shift & 511) * 8)
            large = shift > 12 and bool(entry & PS)
            if not entry & P or entry & RESERVED or (large and shift == 39):
                return None
            write, user = write and bool(entry & W), user and bool(entry & U)
            execute = execute and not entry & NX
            if large or shift == 12:
                mask = (1 << shift) - 1
                if large and entry & mask & ADDRESS & ~0x1000:
                    return None
                ma = self.p2m((entry & ADDRESS & ~mask) | (va & mask & ~0xFFF))
                return None if ma is None else (ma, write, user, execute, bool(entry & D))
            table = entry & ADDRESS
        return None

    # ------------------------------------------------------------ the shadow

    def shadow_ma(self, page: int) -> int:
        return int(self.record["np2m_pool"][0]) + page * lay.PAGE

    def pages(self) -> dict[int, tuple[int, int]]:
        """Shadow pages in use: number -> (frame, kind)."""
        s = self.record["sh"]
        used = s["pages"][0]
        return {
            p: (int(used["frame"][p]), int(used["kind"][p]))
            for p in range(1, int(s["top"][0]))
            if used["kind"][p]
        }

    def entries(self, page: int) -> Iterator[tuple[int, int]]:
        start = self.shadow_ma(page) >> 3  # the pool is in bank 0, at the start of RAM
        words = self.built.words[start : start + 512]
        for i in np.nonzero(words & P)[0]:
            yield int(i), int(words[i]) & (1 << 64) - 1

    def mappings(self, root: int) -> Iterator[tuple[int, int, bool, bool, bool]]:
        """(va, machine address, writable, user, executable) of everything the root maps."""
        todo = [(root, 39, 0, True, True, True)]
        while todo:
            page, shift, base, write, user, execute = todo.pop()
            for i, entry in self.entries(page):
                va = base | i << shift
                rights = (write and bool(entry & W), user and bool(entry & U),
                          execute and not entry & NX)  # fmt: skip
                if shift == 12:
                    yield va, entry & ADDRESS, *rights
                else:
                    child = (entry & ADDRESS) - int(self.record["np2m_pool"][0]) >> 12
                    todo.append((child, shift - 9, va, *rights))


def check(built, cr3: int, root: int) -> int:
    """All that must hold of the shadow of ``cr3``; returns how many pages it maps."""
    machine = Machine(built)
    found = 0
    for va, ma, write, user, execute in machine.mappings(root):
        expected = machine.guest_walk(cr3, va)
        assert expected is not None, f"{va:#x} is mapped, the guest's tables do not allow it"
        assert ma == expected[0], f"{va:#x} leads to {ma:#x}, not to {expected[0]:#x}"
        assert not write or (expected[1] and expected[4]), f"{va:#x} is writable"
        assert not user or expected[2], f"{va:#x} is open to ring 3"
        assert not execute or expected[3], f"{va:#x} can be executed"
        found += 1
    check_books(machine)
    return found


def check_books(machine: Machine) -> None:
    """References, write protection and the lists by frame say what the entries say."""
    s = machine.record["sh"]
    pages = machine.pages()
    tables = {frame for frame, kind in pages.values() if kind & 7 <= 4}
    references: Counter[int] = Counter()
    writable: Counter[int] = Counter()
    for page, (_, kind) in pages.items():
        for _, entry in machine.entries(page):
            if kind & 7 in LEAF_KINDS:
                if entry & W:
                    frame = machine.frame(entry & ADDRESS)
                    assert frame not in tables, "a shadowed table can be written"
                    writable[frame] += 1
            else:
                references[(entry & ADDRESS) - int(machine.record["np2m_pool"][0]) >> 12] += 1
    used = s["pages"][0]
    for page, (frame, kind) in pages.items():
        assert int(used["refs"][page]) == references[page] + int(used["pinned"][page])
        chain, at = [], int(s["head"][0, frame])
        while at:
            chain.append(at)
            at = int(used["next"][at])
        assert page in chain and len(set(chain)) == len(chain)
        assert [int(used["kind"][p]) for p in chain].count(kind) == 1
    assert set(references) <= set(pages), "an entry points to a page that is not in use"
    counted = s["writable"][0]
    assert int(counted.sum()) == sum(writable.values())
    assert all(int(counted[frame]) == n for frame, n in writable.items())
