"""One virtual entry of L1 on random control structures: vmcs01, vmcs12 and vmcs02 afterwards."""

from __future__ import annotations

from functools import cache

import numpy as np

from tests.oracle import vmx as oracle
from tests.oracle.vmx_machine import (
    EPT12,
    GOOD_VMCS12,
    IO_BITMAP12,
    MSR_BITMAP12,
    VmxMachine,
)
from workbench.arch import deviations, vmcs
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.hvm.vmx import kvm as vmx_kvm
from workbench.core.ledger import EVENTS
from workbench.personality import L0S

CONTROLS = (
    "PIN_BASED_VM_EXEC_CONTROL", "CPU_BASED_VM_EXEC_CONTROL", "SECONDARY_VM_EXEC_CONTROL",
    "VM_EXIT_CONTROLS", "VM_ENTRY_CONTROLS", "EXCEPTION_BITMAP",
)  # fmt: skip
GUEST_COPY = tuple(
    vmcs.field_name(i) for i, g in enumerate(vmcs.column("xen_vvmx_group")) if g == "guest_copy"
)
REGISTERS = (
    "CR0_GUEST_HOST_MASK", "CR0_READ_SHADOW", "CR4_GUEST_HOST_MASK", "CR4_READ_SHADOW",
    "GUEST_CR0", "GUEST_CR3", "GUEST_CR4", "GUEST_RSP", "GUEST_RIP", "TSC_OFFSET",
)  # fmt: skip
NARROW = ("PAGE_FAULT_ERROR_CODE_MASK", "PAGE_FAULT_ERROR_CODE_MATCH", "TPR_THRESHOLD",
          "VM_ENTRY_EXCEPTION_ERROR_CODE", "VM_ENTRY_INSTRUCTION_LEN")  # fmt: skip
VAPIC12, APIC_ACCESS12, MSR_LIST12 = 0x25000, 0x26000, 0x27000
LISTED_MSR, LISTED_VALUE = 0xC0000102, 0x5555_0000  # KERNEL_GS_BASE


class VmcsCase:
    """The machine ``machine`` right after a virtual entry, before the hardware's."""

    def __init__(self, l0: str, seed: int):
        self.l0, self.random = l0, np.random.default_rng(seed)
        self.apicv, self.shadowing = (bool(b) for b in self.random.integers(0, 2, 2))
        kvm = l0 == "kvm"
        self.machine = made = VmxMachine(
            l0=L0S.index(l0), deviations=deviations.word(deviations.of(l0, "vmx")),
            apicv=self.apicv, vmcs_shadowing=self.shadowing,
            l2_tag_policy=layout.POLICY_KVM if kvm else layout.POLICY_OWN,
        )  # fmt: skip
        made.enter_vmx_operation()
        made.call("choose_tag")
        self._vmcs01()
        self.given = self._vmcs12()
        for page in (MSR_BITMAP12, IO_BITMAP12, IO_BITMAP12 + 0x1000):
            made.page(made.l1(page))[:] = self.random.integers(0, 256, 4096)
        made.words(made.l1(MSR_LIST12))[:2] = LISTED_MSR, LISTED_VALUE
        for name, value in self.given.items():
            self._write(name, value)
        self.before = self._counts()
        made.state["n2_guest"] = made.state["vmexit_pending"] = 0
        made.call("vmx_enter_n2")
        self.after = self._counts()

    def _number(self, bits: int) -> int:
        return int.from_bytes(self.random.bytes(bits // 8), "little")

    def _counts(self) -> dict[str, int]:
        counts = self.machine.m["ledger"]["counts"][0].sum(axis=0)
        return {event: int(counts[i]) for i, event in enumerate(EVENTS)}

    def happened(self, event: str) -> int:
        """How often in the virtual entry."""
        return self.after[event] - self.before[event]

    def _write(self, name: str, value: int) -> None:
        """A field of vmcs12, wherever L0 keeps it."""
        made = self.machine
        made.put(12, name, value)
        if self.l0 != "kvm":
            return
        for base in (memory_map.KVM_VMCS12_MA, memory_map.KVM_SHADOW_MA):
            slot = getattr(vmcs, f"SLOT_{name}")
            if base == memory_map.KVM_VMCS12_MA or slot in vmx_kvm.SHADOW_RW:
                signed = value - (1 << 64) if value >> 63 else value
                made.words(base)[vmcs.DATA_OFFSET // 8 + slot] = signed

    def _vmcs01(self) -> None:
        """What L0 might have in L1's VMCS, beside what it needs."""
        for name in CONTROLS:
            if name != "EXCEPTION_BITMAP":
                own = self.machine.get(1, name)
                self.machine.put(1, name, own | self._number(32) & self._number(32))
        self.machine.put(1, "EXCEPTION_BITMAP", self._number(32))
        self.machine.put(1, "TSC_OFFSET", self._number(64))

    def _vmcs12(self) -> dict[str, int]:
        fields = {name: self._number(32) for name in (*CONTROLS, *NARROW)}
        fields |= {name: self._number(64) for name in REGISTERS}
        for name in GUEST_COPY:
            width = vmcs.column("width")[getattr(vmcs, f"SLOT_{name}")]
            fields[name] = self._number(64 if width == "natural" else int(width))
        fields |= {
            "IO_BITMAP_A": IO_BITMAP12, "IO_BITMAP_B": IO_BITMAP12 + 0x1000,
            "MSR_BITMAP": MSR_BITMAP12, "VIRTUAL_APIC_PAGE_ADDR": VAPIC12,
            "APIC_ACCESS_ADDR": APIC_ACCESS12, "EPT_POINTER": EPT12 | 3 << 3 | 6,
            "VIRTUAL_PROCESSOR_ID": int(self.random.choice([1, 2, 77])),
            "VMCS_LINK_POINTER": (1 << 64) - 1, "VM_ENTRY_INTR_INFO_FIELD": self._number(32),
            "VM_ENTRY_MSR_LOAD_COUNT": 1, "VM_ENTRY_MSR_LOAD_ADDR": MSR_LIST12,
        }  # fmt: skip
        if self.random.integers(0, 2):  # a state that passes the checks, so that L2 does run
            for name in (*REGISTERS, *GUEST_COPY, "VM_ENTRY_INTR_INFO_FIELD"):
                fields[name] = GOOD_VMCS12.get(name, 0) % (1 << 64)
            fields["VM_ENTRY_CONTROLS"] = GOOD_VMCS12["VM_ENTRY_CONTROLS"]
        return fields

    # ------------------------------------------------------------ reading

    def l0_has(self, name: str) -> int:
        """A field of vmcs01."""
        return self.machine.get(1, name)

    def l1_has(self, name: str) -> int:
        """A field of vmcs12, as L1 wrote it."""
        return self.given[name]

    def l2_has(self, name: str) -> int:
        """A field of vmcs02."""
        return self.machine.get(2, name)

    def asked(self, group: str, name: str) -> bool:
        """Has L1 a control in effect?"""
        return oracle.control(self.given, group, name)

    def controls(self) -> tuple[dict[str, int], dict[str, int]]:
        """Control words of vmcs01 and vmcs12."""
        return {n: self.l0_has(n) for n in CONTROLS}, self.given

    def bitmap(self, n1p: int, pages: int = 1) -> bytes:
        """A map in L1's memory."""
        at = self.machine.l1(n1p)
        return bytes(self.machine.ram[at : at + 4096 * pages])

    def used(self, ma: int, pages: int = 1) -> bytes:
        """A map in L0's memory."""
        return bytes(self.machine.ram[ma : ma + 4096 * pages])

    def failed(self) -> bool:
        """Did the virtual entry end with an exit to L1 at once?"""
        return bool(self.machine.state["vmexit_pending"])


@cache
def vmcs_cases(l0: str) -> list[VmcsCase]:
    """Cases that every row of the merge table is checked on."""
    return [VmcsCase(l0, seed) for seed in range(24)]
