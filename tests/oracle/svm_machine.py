"""A machine record prepared by hand for tests of the SVM part: L1's memory, maps and a VMCB12."""

from __future__ import annotations

import numpy as np

from workbench import nested_layouts
from workbench.arch import deviations
from workbench.core import emit, jit, layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.svm import intercepts, l0  # noqa: F401  (register the units)

from . import svm as oracle

L1_BYTES, L2_BYTES = 1 << 20, 1 << 20
VMCB12, MSRPM12, IOPM12 = 0x20000, 0x22000, 0x24000
"""n1p of what L1 keeps in its memory."""
HAP_ROOT = memory_map.HAP_TABLES_MA
INTERCEPT_FIELDS = ("icpt_cr", "icpt_dr", "icpt_exceptions", "icpt_general1", "icpt_general2")
L2_CR3, L2_NCR3 = 0x10000, 0x30000


XEN = deviations.word(deviations.of("xen", "svm"))
CAREFUL_XEN = XEN & ~(
    deviations.DEV_VMRUN_CHECKS_INCOMPLETE
    | deviations.DEV_NP2M_HOST_RIGHTS
    | deviations.DEV_VM_CR_READ_ONLY
)
"""Xen with the checks and rights of the manual."""


class SvmMachine:
    """Machine with L0's tables for L1 as two 1 GB pages, and SVM initialised, EFER.SVME set.

    L0 is Xen, with the manual's checks unless ``deviations`` says otherwise.
    """

    def __init__(self, layout_name: str = nested_layouts.DEFAULT_LAYOUT, **features: int):
        jit.load_units()
        self.m = np.zeros(1, layout.MACHINE)
        sizes = (memory_map.BANK0_BYTES, L1_BYTES, L2_BYTES)
        self.ram = np.zeros(sum(sizes) + layout.PAGE, np.uint8)
        m = self.m
        m["ram"] = self.ram.ctypes.data
        m["ram_size"] = sum(sizes)
        m["bank_size"] = sizes
        m["bank_base"] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.base = tuple(int(b) for b in m["bank_base"][0])
        self.table(HAP_ROOT, 0, HAP_ROOT + 0x1000 | 7)
        self.table(HAP_ROOT + 0x1000, 0, layout.L1_BANK_MA | 0x87)
        self.table(HAP_ROOT + 0x1000, 1, layout.L2_BANK_MA | 0x87)
        m["l1_hap_root"] = HAP_ROOT
        m["np2m_pool"] = m["np2m_pool_next"] = memory_map.NP2M_POOL_MA
        m["np2m_pool_end"] = memory_map.BANK0_BYTES
        m["hw"]["backend"] = layout.BACKEND_SVM
        m["hw"]["guest"] = 1
        m["hw"]["tag"] = 1
        m["level"] = 1
        m["tag_core_generation"] = m["tag_next"] = 1
        m["feat"]["tlb_tagging"] = 1
        m["feat"]["max_tag"] = 63
        m["feat"]["flush_by_asid"] = m["feat"]["nrip_save"] = m["feat"]["decode_assists"] = 1
        m["feat"]["deviations"] = CAREFUL_XEN
        for name, value in features.items():
            m["feat"][name] = value
        nested_layouts.install(m, layout_name)
        self.state = nested_layouts.NestedState(m, self.ram)
        self.boot_cpu()
        self.call("svm_initialise")
        self.call("svm_set_efer", int(m["nv"]["guest_efer"][0]) | 1 << 12)
        assert self.call("svm_hw_enter") == layout.ST_OK

    def give_msr_map(self, n1p: int) -> None:
        """L1's MSR map is at ``n1p`` at VMRUN; L0 copies it, or remembers where it is."""
        if self.keeps_msr_map:
            self.call("copy_msr_map", n1p, 0x2000)
        else:
            self.state["msrpm"] = n1p

    @property
    def keeps_msr_map(self) -> bool:
        """Does L0 keep a copy of L1's MSR map, in a layout with such a field?"""
        return int(self.m["feat"]["l0"][0]) != layout.L0_KVM

    def set_intercepts(self, *words: int) -> None:
        """What L0 remembers of the five intercept words of vmcb12."""
        for name, word in zip(INTERCEPT_FIELDS, words, strict=True):
            self.state[name] = word

    def boot_cpu(self) -> None:
        c = self.m["cpu"]
        c["cr0"], c["cr4"], c["efer"], c["cr3"] = 0x80000011, 0x20, 0x500, 0x10000
        c["rip"], c["sysflags"], c["pat"] = 0x100000, 2, 0x0007040600070406
        c["gpr"][0][layout.RSP] = 0x90000
        c["lf_zero"] = c["lf_sign"] = 1
        c["dr"][0][6], c["dr"][0][7] = 0xFFFF0FF0, 0x400
        c["seg_attr"][0][:] = 0xC093
        c["seg_attr"][0][layout.CS] = 0xA09B
        c["seg_limit"][0][:] = 0xFFFFFFFF

    def call(self, name: str, *args: int) -> int:
        """Run a unit on this machine; with bounds checking on, every access must be inside it."""
        start = self.m.ctypes.data
        ram = self.ram.ctypes.data
        emit.CHECKED_RANGES[:] = ram, ram + self.ram.nbytes, start, start + self.m.nbytes
        before = int(emit.OUT_OF_RANGE[0])
        result = int(jit.UNITS[name].entry()(start, *args))
        assert emit.OUT_OF_RANGE[0] == before, f"{name} left the machine's memory"
        return result

    def table(self, ma: int, index: int, entry: int) -> None:
        self.ram[ma : ma + 4096].view(np.int64)[index] = entry

    def page(self, offset: int, length: int = 4096) -> bytes:
        """Bytes of RAM at a buffer offset."""
        return bytes(self.ram[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.ram[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def l1(self, n1p: int) -> int:
        """Buffer offset of an address of L1's."""
        return self.base[1] + n1p

    def field(self, ma: int, name: str) -> int:
        """Field of a VMCB in bank 0."""
        return oracle.get(self.page(ma), name)

    def good_vmcb12(self) -> bytearray:
        """A VMCB12 that passes every check and intercepts CPUID and VMRUN."""
        page = bytearray(4096)
        values = {
            "intercept_word3": 1 << 18, "intercept_word4": 1, "asid": 1, "nested_ctl": 1,
            "nested_cr3": L2_NCR3, "msrpm_base_pa": MSRPM12, "iopm_base_pa": IOPM12,
            "efer": 0x1500, "cr0": 0x80000011, "cr4": 0x20, "cr3": L2_CR3, "rip": 0x100000,
            "rsp": 0x90000, "rflags": 2, "dr6": 0xFFFF0FF0, "dr7": 0x400, "rax": 0x1234,
            "g_pat": 0x0007040600070406,
        }  # fmt: skip
        for name, value in values.items():
            oracle.put(page, name, value)
        for name in ("es", "ss", "ds"):
            oracle.put(page, name, 0x10 | 0xC93 << 16 | 0xFFFFFFFF << 32)
        oracle.put(page, "cs", 8 | 0xA9B << 16 | 0xFFFFFFFF << 32)
        return page

    def start_vmrun(self, vmcb12: bytes) -> int:
        """L1 executes VMRUN on ``vmcb12``: exit, handler, virtual entry; outcome of the entry."""
        self.write(self.l1(VMCB12), vmcb12)
        self.m["cpu"]["gpr"][0][0] = VMCB12
        self.l1_exits(0x80, 3)
        self.call("svm_handle")
        assert self.state["vmentry_pending"] == 1
        self.state["vmentry_pending"] = 0
        return self.call("svm_enter_n2")

    def l1_exits(self, code: int, length: int = 0, info1: int = 0, info2: int = 0) -> None:
        """A hardware exit with ``code`` by whoever runs."""
        x = self.m["exit"]
        x["code"], x["insn_len"], x["info1"], x["info2"] = code, length, info1, info2
        self.call("svm_hw_exit")
