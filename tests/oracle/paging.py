"""Slow and obvious page walks: one- and two-dimensional, from the manuals' tables.

APM vol. 2, 5.3-5.6 (4-level paging, page-fault error code), 15.25 (nested paging); SDM vol. 3, 29.3
(EPT).  Works on a plain list of 64-bit words as memory; addresses are machine addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

P, W, U, A, D, PS, NX = 1 << 0, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
WIDTH = 40


class PageFault(Exception):
    def __init__(self, error: int):
        self.error = error


class NestedFault(Exception):
    def __init__(self, gpa: int, in_table: bool):
        self.gpa, self.in_table = gpa, in_table


@dataclass
class Walker:
    """Memory and the registers that decide about a walk."""

    memory: dict[int, int]
    cr3: int
    nested_root: int = 0
    nested_format: str = "npt"
    write_protect: bool = True
    no_execute: bool = True
    guest_references: int = 0
    nested_references: int = 0

    def nested(self, gpa: int, write: bool, fetch: bool, in_table: bool) -> tuple[int, int]:
        """(machine address, page shift) of a guest-physical address."""
        if self.nested_root == 0:
            return gpa, 30
        table = self.nested_root & ADDRESS
        readable = writable = executable = True
        for shift in (39, 30, 21, 12):
            entry = self.memory.get(table + ((gpa >> shift) & 511) * 8, 0)
            self.nested_references += 1
            if self.nested_format == "npt":
                if not entry & P or not entry & U:
                    raise NestedFault(gpa, in_table)
                writable = writable and bool(entry & W)
                executable = executable and not entry & NX
            else:
                if entry & 7 == 0:
                    raise NestedFault(gpa, in_table)
                if entry & 3 == 2:  # misconfigured
                    raise NestedFault(gpa, in_table)
                readable = readable and bool(entry & 1)
                writable = writable and bool(entry & 2)
                executable = executable and bool(entry & 4)
            if shift == 12 or (shift < 39 and entry & PS):
                break
            table = entry & ADDRESS
        if (write and not writable) or not (executable if fetch else readable):
            raise NestedFault(gpa, in_table)
        mask = (1 << shift) - 1
        return (entry & ADDRESS & ~mask) | (gpa & mask), shift

    def walk(self, va: int, write: bool, fetch: bool, user: bool) -> tuple[int, int]:
        """(machine address, size shift of the combined translation) of a linear address."""
        table_write = self.nested_format == "npt"
        writable = for_user = executable = True
        code = (2 if write else 0) | (4 if user else 0)
        if fetch and self.no_execute:
            code |= 16
        gpa_of_table = self.cr3 & ADDRESS
        for shift in (39, 30, 21, 12):
            entry_gpa = gpa_of_table + ((va >> shift) & 511) * 8
            address, _ = self.nested(entry_gpa, table_write, False, True)
            entry = self.memory.get(address, 0)
            self.guest_references += 1
            if not entry & P:
                raise PageFault(code)
            leaf = shift == 12 or (shift < 39 and bool(entry & PS))
            if self._reserved(entry, shift, leaf):
                raise PageFault(code | 1 | 8)
            writable = writable and bool(entry & W)
            for_user = for_user and bool(entry & U)
            executable = executable and not entry & NX
            if leaf:
                break
            if not entry & A:
                self._must_be_writable(entry_gpa)
            gpa_of_table = entry & ADDRESS
        denied = (
            (user and not for_user)
            or (fetch and not executable)
            or (write and not writable and (user or self.write_protect))
        )
        if denied:
            raise PageFault(code | 1)
        mask = (1 << shift) - 1
        gpa = (entry & ADDRESS & ~mask) | (va & mask)
        ma, nested_shift = self.nested(gpa, write, fetch, False)
        if not entry & A or (write and not entry & D):
            self._must_be_writable(entry_gpa)
        return ma, min(shift, nested_shift)

    def _must_be_writable(self, gpa: int) -> None:
        """Setting an accessed or dirty bit is a write by the hardware, without new references."""
        before = self.nested_references
        self.nested(gpa, True, False, True)
        self.nested_references = before

    def _reserved(self, entry: int, shift: int, leaf: bool) -> bool:
        if entry & ADDRESS & ~((1 << WIDTH) - 1):
            return True
        if shift == 39 and entry & PS:
            return True
        if leaf and shift > 12 and entry & ADDRESS & ((1 << shift) - 1) & ~0x1000:
            return True
        return bool(entry & NX) and not self.no_execute
