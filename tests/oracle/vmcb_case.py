"""One VMRUN of L1 on random control structures, with vmcb01, vmcb12 and vmcb02 before and after."""

from __future__ import annotations

from functools import cache

import numpy as np

from tests.oracle import svm
from tests.oracle.svm_machine import IOPM12, MSRPM12, VMCB12, SvmMachine
from workbench.arch import deviations
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.personality import L0S

VMCB01, VMCB02 = memory_map.VMCX01_MA, memory_map.VMCX02_MA
FREE = (
    "rip", "rsp", "rax", "cr2", "tsc_offset", "es", "ds", "gdtr", "idtr", "br_from", "br_to",
    "last_excp_from", "last_excp_to", "next_rip", "int_state", "int_vector", "exit_info_1",
    "exit_info_2", "pause_filter_thresh", "pause_filter_count", "event_inj_err",
)  # fmt: skip
VLS, GENERAL1 = 2, 3
PAUSE = 1 << 23


class VmcbCase:
    """``old``: vmcb02 before; ``v01``, ``v12``, ``v02``: pages when L2 is about to run."""

    def __init__(self, l0: str, seed: int):
        self.l0, self.random = l0, np.random.default_rng(seed)
        self.virtual_gif, self.vls, self.pause, self.nested, self.same, self.l1_if = (
            bool(b) for b in self.random.integers(0, 2, 6)
        )
        kvm = l0 == "kvm"
        self.machine = made = SvmMachine(
            l0=L0S.index(l0), deviations=deviations.word(deviations.of(l0, "svm")),
            virtual_gif=self.virtual_gif, virtual_vmload_vmsave=self.vls, pause_filter=self.pause,
            vmcb_clean_bits=1, l2_tag_policy=layout.POLICY_KVM if kvm else layout.POLICY_OWN,
        )  # fmt: skip
        made.call("choose_tag")  # L1's
        self._vmcb01()
        page = self.page12()
        self._old(page)
        made.m["cpu"]["sysflags"] = 2 | self.l1_if << 9
        made.state["hsave_pa"] = 0x5000
        made.state["last_vmcx12_addr"] = VMCB12 if self.same else -1
        words = [svm.get(page, f"intercept_word{k}") for k in range(6)]
        made.set_intercepts(*words[:5])  # as at the VMRUN before, if there was one
        made.m["nv"]["general3"] = words[5]
        self.msrpm12 = self.random.bytes(0x2000)
        self.iopm12 = self.random.bytes(0x3000)
        made.write(made.l1(MSRPM12), self.msrpm12)
        made.write(made.l1(IOPM12), self.iopm12)
        self.outcome = made.start_vmrun(page)
        self.v12 = page
        self.v01, self.v02 = made.page(VMCB01), made.page(VMCB02)
        made.call("choose_tag")
        self.entered = made.call("svm_hw_enter")
        self.run = made.page(VMCB02)

    def _number(self, size: int) -> int:
        return int.from_bytes(self.random.bytes(size), "little")

    def _vmcb01(self) -> None:
        """What L0 might have in L1's VMCB, beside what it needs."""
        page = bytearray(self.machine.page(VMCB01))
        for k in (0, 1, 2, GENERAL1, 5):
            word = f"intercept_word{k}"
            svm.put(page, word, svm.get(page, word) | self._number(4) & self._number(4))
        for name in ("tsc_offset", "g_pat", "dbgctl"):
            svm.put(page, name, self._number(8) if name != "g_pat" else 0x0606060606060606)
        self.machine.write(VMCB01, bytes(page))

    def page12(self) -> bytearray:
        """A legal vmcb12."""
        page = self.machine.good_vmcb12()
        for name in FREE:
            svm.put(page, name, self._number(svm.VMCB_FIELDS[name][1]))
        svm.put(page, "pause_filter_count", int(self.random.choice([0, 1, 2000, 5000])))
        svm.put(page, "pause_filter_thresh", int(self.random.choice([0, 1, 128, 5000])))
        for k in range(6):
            svm.put(page, f"intercept_word{k}", self._number(4) | (1 if k == 4 else 0))
        svm.put(page, "int_ctl", self._number(4) & 0x031F011F)
        svm.put(page, "tlb_ctl", int(self.random.choice([0, 1, 3, 7])))
        svm.put(page, "clean", self._number(2) & 0xFFF)
        svm.put(page, "nested_ctl", int(self.nested))
        svm.put(page, "virt_ext", self._number(1) & 3)
        svm.put(page, "dr7", 0x400 | self._number(1))
        return page

    def _old(self, page: bytes) -> None:
        """vmcb02 of an entry before; what L1 may call unchanged was sound."""
        old = bytearray(self.machine.page(VMCB02)[:0x400] + self.random.bytes(0x300) + bytes(0x900))
        for name in ("cs", "dr6", "dr7", "g_pat"):
            svm.put(old, name, svm.get(page, name))
        self.machine.write(VMCB02, bytes(old))
        self.old = bytes(old)

    # ------------------------------------------------------------ reading

    def l0_has(self, name: str) -> int:
        """A field of vmcb01."""
        return svm.get(self.v01, name)

    def l1_has(self, name: str) -> int:
        """A field of vmcb12, as L1 wrote it."""
        return svm.get(self.v12, name)

    def l2_has(self, name: str) -> int:
        """A field of vmcb02."""
        return svm.get(self.v02, name)

    def was(self, name: str) -> int:
        """A field of vmcb02 before."""
        return svm.get(self.old, name)

    def clean(self, group: str) -> bool:
        """Has L1 called a group unchanged, and does L0 believe it?"""
        return self.same and bool(self.l1_has("clean") >> svm.CLEAN_BIT[group] & 1)

    def has_vmcb12(self, *names: str) -> None:
        """vmcb02 has these fields from vmcb12."""
        for name in names:
            assert self.l2_has(name) == self.l1_has(name), name

    def unless_clean(self, group: str, *names: str) -> None:
        """These fields are vmcb12's, or left alone where L1 called them unchanged."""
        for name in names:
            expected = self.was(name) if self.clean(group) else self.l1_has(name)
            assert self.l2_has(name) == expected, name

    def map(self, name: str, size: int) -> bytes:
        """The permission map that vmcb02 points to."""
        return self.machine.page(self.l2_has(name) & ~0xFFF, size)


@cache
def vmcb_cases(l0: str) -> list[VmcbCase]:
    """Cases that every row of the merge table is checked on."""
    return [VmcbCase(l0, seed) for seed in range(24)]
