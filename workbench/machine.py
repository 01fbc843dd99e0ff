"""Build one simulated computer: RAM, L0's tables for L1, boot tables, processor state.

This is the firmware and the domain builder in one: it writes real page tables, descriptor tables
and images into the RAM buffer and puts the processor into 64-bit mode (memory map: core/layout.py).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np

from . import nested_layouts
from .arch.deviations import word as deviation_word
from .core import emit
from .core import layout as lay
from .core.cpu.apic import LVT_MASKED
from .core.cpu.apic_registers import N_LVT, RESET_DFR, RESET_SVR
from .core.cpu.sources import FAR_BUDGET
from .core.hvm import memory_map as mm
from .core.hvm.p2m import EPT_WRITE_BACK
from .core.ledger import TIME_SCALE
from .core.mmu.records import MAX_CACHE_LINES, MAX_TLB1
from .core.mmu.walk import PTE_A, PTE_D, PTE_P, PTE_PS, PTE_U, PTE_W
from .core.units import entry
from .geometry import TlbGeometry, load_cache_geometry

GDT, TSS, PARAMETERS, TABLES, STACK, IMAGE = 0x6000, 0x7000, 0x8000, 0x10000, 0x90000, 0x100000
"""Where the loader puts things, in the physical space of L1 and of L2 alike."""

CODE64, DATA, USER_DATA, USER_CODE64, TSS_SELECTOR = 0x08, 0x10, 0x1B, 0x23, 0x28
AR_CODE64, AR_DATA, AR_TSS, AR_LDT, AR_UNUSABLE = 0xA09B, 0xC093, 0x8B, 0x82, 1 << 16
NO_IO_MAP = 0x68
"""I/O-map base at the TSS's limit: ring 3 may use no port."""
CR0_BOOT = 0x80010033
CR4_BOOT = 0x20
EFER_BOOT = 0xD01
PAT_RESET = 0x0007040600070406
PAGE_SHIFTS = {"4k": 12, "2m": 21, "1g": 30}
BACKENDS = {"none": lay.BACKEND_NONE, "svm": lay.BACKEND_SVM, "vmx": lay.BACKEND_VMX}
L0S = {"xen": lay.L0_XEN, "kvm": lay.L0_KVM, "manual": lay.L0_MANUAL}
MAX_TAG = {"none": 1, "svm": 63, "vmx": 65535}
"""Highest tag: ASIDs 1..63 (the 64 of the first SVM processors), VPIDs are 16 bits wide."""

_TABLE_BITS = PTE_P | PTE_W | PTE_U
_SWITCHES = (
    "tlb_tagging",
    "paging_structure_caches",
    "walk_caches",
    "virtual_gif",
    "virtual_vmload_vmsave",
    "vmcs_shadowing",
    "vpid_for_l1",
    "ept_ad",
    "nrip_save",
    "decode_assists",
    "pause_filter",
    "vmcb_clean_bits",
    "flush_by_asid",
    "pml",
    "full_vmcs_switch",
    "apicv",
    "virtual_nmi",
)
_POLICIES = ("own", "shared_flush", "xen_2013", "kvm")
_NP2M_FLUSHES = ("lazy", "eager", "generation")
_P2M_EVENTS = ("none", "balloon", "log_dirty")
_MSR_MAPS = ("merged", "intercept_all", "none")
_BARRIERS = ("off", "vmcs_switch", "virtual_exit")
_IO_MAPS = ("xen", "merged", "intercept_all")


def _zeroed(size: int) -> np.ndarray:
    """So many zero bytes that cost nothing until they are touched.

    ``np.zeros`` clears memory that it had before; of a machine's megabytes a run touches few.
    """
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


@lru_cache(maxsize=16)
def _page_tables(
    root: int, ranges: tuple[tuple[int, int, int], ...], shift: int, table_bits: int, leaf_bits: int
) -> np.ndarray:
    """The words of 4-level tables that begin at ``root``; see :meth:`SimulatedMachine.map_range`."""
    large = PTE_PS if shift > 12 else 0
    step = 1 << shift
    tables: dict[int, np.ndarray] = {root: np.zeros(512, np.int64)}
    for source, target, size in ranges:
        for start in range(0, size, step * 512):
            address = source + start
            table, level = root, 39
            while level > shift:
                slot = (address >> level) & 511
                if tables[table][slot] == 0:
                    free = root + len(tables) * lay.PAGE
                    tables[free] = np.zeros(512, np.int64)
                    tables[table][slot] = free | table_bits
                table, level = int(tables[table][slot]) & ~0xFFF, level - 9
            n = min(512, -(-(size - start) // step))
            first = (address >> shift) & 511
            tables[table][first : first + n] = (
                np.arange(target + start, target + start + n * step, step) | leaf_bits | large
            )
    words = np.concatenate(list(tables.values()))
    words.flags.writeable = False
    return words


class SimulatedMachine:
    """One computer: ``record`` (shape (1,), dtype layout.MACHINE) and ``ram`` (bytes).

    Without a back-end it is a bare machine: its memory is bank 0 and nothing is virtualized.
    """

    def __init__(self, backend: str, l1_bytes: int, l2_bytes: int, geometry: TlbGeometry):
        self.backend = backend
        self.record = _zeroed(lay.MACHINE.itemsize).view(lay.MACHINE)
        sizes = (mm.BANK0_BYTES, l1_bytes, l2_bytes) if backend != "none" else (l1_bytes, 0, 0)
        self.ram = _zeroed(sum(sizes) + lay.PAGE)
        self.words = self.ram[: sum(sizes)].view(np.int64)
        m = self.record
        m["ram"] = self.ram.ctypes.data
        m["ram_size"] = sum(sizes)
        m["bank_size"][0] = sizes
        m["bank_base"][0] = np.cumsum((0, *sizes[:-1]))
        m["hw"]["backend"] = BACKENDS[backend]
        m["feat"]["max_tag"] = MAX_TAG[backend]
        m["feat"]["paging_structure_caches"] = 1
        m["tlb"]["fast_read"] = m["tlb"]["fast_write"] = -1
        m["code_page"] = m["code_context"] = -1
        m["nv"]["np2m_base"] = -1
        m["irq"]["budget"] = FAR_BUDGET
        m["apic"]["svr"], m["apic"]["dfr"] = RESET_SVR, RESET_DFR
        m["apic"]["lvt"][0, :N_LVT] = LVT_MASKED
        m["hw"]["apic_access"] = m["hw"]["vapic"] = -1
        m["tag_core_generation"] = m["tag_next"] = 1
        self._set_geometry(geometry)
        nested_layouts.install(m)
        self.state = nested_layouts.NestedState(m, self.ram)

    @property
    def address(self) -> int:
        """Address of the machine record, as the kernels take it."""
        start, ram = self.record.ctypes.data, self.ram.ctypes.data
        emit.CHECKED_RANGES[:] = ram, ram + self.ram.nbytes, start, start + self.record.nbytes
        return start

    def _set_geometry(self, g: TlbGeometry) -> None:
        t = self.record["tlb"]
        t["base"][0] = (0, MAX_TLB1, 2 * MAX_TLB1)
        t["ways"][0] = (g.ways1, max(g.ways1_large, 1), g.ways2)
        t["sets"][0] = (g.sets1, g.sets1_large, g.sets2)
        t["large_in_l2"] = g.large_in_l2
        c, room = self.record["lines"], np.cumsum((0, *MAX_CACHE_LINES))
        for level, (sets, ways) in enumerate(load_cache_geometry(g.core)):
            c["base"][0, level], c["sets"][0, level], c["ways"][0, level] = room[level], sets, ways

    # ------------------------------------------------------------ memory

    def bank_offset(self, bank: int) -> int:
        """Offset in ``ram`` of a bank of the machine address space."""
        return int(self.record["bank_base"][0, bank])

    def write(self, bank: int, address: int, data: bytes) -> None:
        """Copy bytes to an address of bank 1 (L1-physical) or bank 2 (L2-physical)."""
        size = int(self.record["bank_size"][0, bank])
        if address < 0 or address + len(data) > size:
            raise ValueError(
                f"{len(data)} bytes at {address:#x} do not fit into {size >> 20} MB of memory"
            )
        start = self.bank_offset(bank) + address
        self.ram[start : start + len(data)] = np.frombuffer(data, np.uint8)

    def map_range(
        self,
        bank: int,
        root: int,
        ranges: Iterable[tuple[int, int, int]],
        shift: int,
        table_bits: int,
        leaf_bits: int,
    ) -> int:
        """Build 4-level tables at ``root`` in ``bank``; returns the address after the last one.

        ``ranges`` are (from, to, bytes); entries point to addresses in the bank's own space.
        """
        tables = _page_tables(root, tuple(ranges), shift, table_bits, leaf_bits)
        start = (self.bank_offset(bank) + root) >> 3
        self.words[start : start + len(tables)] = tables
        return root + tables.nbytes

    # ------------------------------------------------------------ boot

    def build_boot_environment(self, bank: int, table_bytes: int, shift: int) -> None:
        """Identity page tables, GDT and TSS for the guest of a bank (1 = L1, 2 = L2)."""
        self.map_range(bank, TABLES, [(0, 0, table_bytes)], shift, _TABLE_BITS, _TABLE_BITS)
        tss = struct.pack("<Q", 0x0000_8B00_0000_0067 | (TSS & 0xFFFFFF) << 16)
        gdt = struct.pack(
            "<5Q",
            0,
            0x00AF_9B00_0000_FFFF,
            0x00CF_9300_0000_FFFF,
            0x00CF_F300_0000_FFFF,
            0x00AF_FB00_0000_FFFF,
        )
        self.write(bank, GDT, gdt + tss + bytes(8))
        self.write(bank, TSS, struct.pack("<IQ90xH", 0, STACK, NO_IO_MAP))

    def set_boot_processor(self, rip: int, level: int) -> None:
        """Long mode, CPL 0, interrupts off, as the loader hands over."""
        m = self.record
        c = m["cpu"]
        c["rip"] = rip
        c["gpr"][0, lay.RSP] = STACK
        c["cr0"], c["cr3"], c["cr4"], c["efer"] = CR0_BOOT, TABLES, CR4_BOOT, EFER_BOOT
        c["pat"] = PAT_RESET
        c["apic_base"] = 0xFEE00900
        c["sysflags"] = 2
        c["lf_zero"] = 1
        c["seg_sel"][0] = (DATA, CODE64, DATA, DATA, 0, 0, 0, TSS_SELECTOR)
        c["seg_attr"][0] = (
            AR_DATA, AR_CODE64, AR_DATA, AR_DATA, AR_DATA, AR_DATA, AR_LDT | AR_UNUSABLE, AR_TSS,
        )  # fmt: skip
        c["seg_limit"][0] = (0xFFFFFFFF,) * 6 + (0, 0x67)
        c["seg_base"][0, lay.TR] = TSS
        c["gdtr_base"], c["gdtr_limit"] = GDT, 0x37
        c["dr"][0, 6], c["dr"][0, 7] = 0xFFFF0FF0, 0x400
        m["level"] = level

    def set_features(self, features: Mapping[str, object]) -> None:
        """Put resolved toggles (features.resolve) into the record; unknown ones are L1's business."""
        f = self.record["feat"]
        f["l2_tag_policy"] = _POLICIES.index(str(features["l2_tag_policy"]))
        f["np2m_flush"] = _NP2M_FLUSHES.index(str(features["np2m_flush"]))
        f["np2m_tables"] = int(str(features["np2m_tables"]))
        f["p2m_event"] = _P2M_EVENTS.index(str(features["l0_p2m_event"]))
        f["vmexit_immediate"] = str(features["vmexit_delivery"]) == "immediate"
        f["msr_map"] = _MSR_MAPS.index(str(features["msr_map"]))
        f["msr_switch"] = features.get("msr_switch") == "lists"
        f["branch_barrier"] = _BARRIERS.index(str(features.get("branch_barrier", "off")))
        f["io_map"] = _IO_MAPS.index(str(features["io_map"]))
        f["l0_page_shift"] = PAGE_SHIFTS[str(features["l0_page_size"])]
        for name in _SWITCHES:
            f[name] = bool(features.get(name, False))
        self.record["sh"]["active"] = features["paging"] == "sos"
        nested_layouts.install(self.record, str(features["state_layout"]))
        f["vpid_for_l1"] &= f["tlb_tagging"]  # without tags of its own L0 has none to lend

    def set_l0(self, l0: str, deviations: Mapping[str, bool]) -> None:
        """Whose way of nested HVM L0 has, and which deviations (personality.resolve) it shows."""
        f = self.record["feat"]
        f["l0"] = L0S[l0]
        f["deviations"] = deviation_word(name for name, on in deviations.items() if on)

    def set_event_sources(self, host_tick_cycles: int, nmi_cycles: int) -> None:
        """Scripted sources: L0's own tick and NMIs for L1, by their periods; 0 switches one off."""
        irq = self.record["irq"]
        irq["host_period"], irq["host_next"] = host_tick_cycles, host_tick_cycles * TIME_SCALE
        irq["nmi_period"], irq["nmi_next"] = nmi_cycles, nmi_cycles * TIME_SCALE
        irq["active"] = irq["attention"] = bool(host_tick_cycles or nmi_cycles)

    def set_numbers(self, asids: int, balloon_period: int) -> None:
        """How many tags the processor has (0: as many as it really has), exits between two changes
        of L0's table; after :meth:`set_features`."""
        m = self.record
        if asids:
            m["feat"]["max_tag"] = asids - 1
        if m["feat"]["p2m_event"][0]:
            m["p2m_period"] = m["p2m_countdown"] = balloon_period

    def build_l1_memory(self) -> None:
        """n1p_to_l0m: the nested table that L0 runs L1 with, at the page size of the features."""
        m = self.record
        shift = int(m["feat"]["l0_page_shift"][0])
        l1_bytes, l2_bytes = (int(n) for n in m["bank_size"][0, 1:])
        ranges = [(0, lay.L1_BANK_MA, l1_bytes), (lay.L2_BANK_N1P, lay.L2_BANK_MA, l2_bytes)]
        if self.backend == "svm":
            table, leaf = _TABLE_BITS, _TABLE_BITS | PTE_A | PTE_D
        else:
            table, leaf = 7, 7 | EPT_WRITE_BACK
        end = self.map_range(0, mm.HAP_TABLES_MA, ranges, shift, table, leaf)
        if end > mm.HAP_TABLES_END_MA:
            raise ValueError("the guest's memory is too large for L0's tables")
        m["l1_hap_root"] = mm.HAP_TABLES_MA
        m["np2m_pool"] = m["np2m_pool_next"] = mm.NP2M_POOL_MA
        m["np2m_pool_end"] = mm.BANK0_BYTES
        m["sh"]["top"] = 1
        m["sh"]["limit"] = (mm.BANK0_BYTES - mm.NP2M_POOL_MA) // lay.PAGE

    def start_l1(self) -> int:
        """L0 sets up vmcx01 and enters L1; returns the outcome of the hardware entry."""
        m = self.record
        m["hw"]["guest"] = 1
        m["level"] = 1
        entry(f"{self.backend}_initialise")(self.address)
        return entry("enter_guest")(self.address)
