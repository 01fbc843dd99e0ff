"""A machine record prepared by hand for tests of the VMX part: L1's memory, maps and a VMCS12."""

from __future__ import annotations

import numpy as np

from workbench import nested_layouts
from workbench.arch import deviations, vmcs, vmx
from workbench.core import emit, jit, layout, units
from workbench.core.cpu import ops
from workbench.core.hvm import memory_map
from workbench.core.mmu.records import MAX_TLB1

L1_BYTES, L2_BYTES = 1 << 20, 1 << 20
VMXON12, VMCS12, MSR_BITMAP12, IO_BITMAP12, EPT12 = 0x20000, 0x21000, 0x22000, 0x23000, 0x30000
"""n1p of what L1 keeps in its memory; the second I/O bitmap follows the first."""
OPERAND = 0x28000
"""n1p (and linear address) of the memory operand of VMX instructions."""
L2_CR3 = 0x10000
CARRY, ZERO, STATUS = 1, 0x40, 0x8D5
_HAP = memory_map.HAP_TABLES_MA
_SEGMENTS = ("ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR")

GOOD_VMCS12: dict[str, int] = {
    "PIN_BASED_VM_EXEC_CONTROL": 0x16,
    "CPU_BASED_VM_EXEC_CONTROL": 0x04006172 | 1 << 7 | 1 << 25 | 1 << 28 | 1 << 31,
    "SECONDARY_VM_EXEC_CONTROL": 1 << 1,
    "VM_EXIT_CONTROLS": 0x36DFF | 1 << 9 | 1 << 20 | 1 << 21,
    "VM_ENTRY_CONTROLS": 0x11FF | 1 << 9 | 1 << 15,
    "IO_BITMAP_A": IO_BITMAP12,
    "IO_BITMAP_B": IO_BITMAP12 + 0x1000,
    "MSR_BITMAP": MSR_BITMAP12,
    "EPT_POINTER": EPT12 | 3 << 3 | 6,
    "VMCS_LINK_POINTER": -1,
    "CR0_GUEST_HOST_MASK": 0x20,
    "CR0_READ_SHADOW": 0x20,
    "CR4_GUEST_HOST_MASK": 0x2000,
    "HOST_CR0": 0x80010033,
    "HOST_CR3": 0x10000,
    "HOST_CR4": 0x2020,
    "HOST_IA32_EFER": 0xD01,
    "HOST_RSP": 0x8FF00,
    "HOST_RIP": 0x100ABC,
    "HOST_CS_SELECTOR": 0x08,
    "HOST_SS_SELECTOR": 0x10,
    "HOST_DS_SELECTOR": 0x10,
    "HOST_ES_SELECTOR": 0x10,
    "HOST_FS_SELECTOR": 0x10,
    "HOST_GS_SELECTOR": 0,
    "HOST_TR_SELECTOR": 0x28,
    "HOST_FS_BASE": 0x1234,
    "HOST_GS_BASE": 0x5678,
    "HOST_TR_BASE": 0x7000,
    "HOST_GDTR_BASE": 0x6000,
    "GUEST_CR0": 0x80010031 | 2,
    "GUEST_CR3": L2_CR3,
    "GUEST_CR4": 0x2020,
    "GUEST_IA32_EFER": 0xD01,
    "GUEST_RSP": 0x90000,
    "GUEST_RIP": 0x100000,
    "GUEST_RFLAGS": 2,
    "GUEST_DR7": 0x400,
    "GUEST_TR_SELECTOR": 0x28,
    "GUEST_TR_BASE": 0x7000,
    "GUEST_TR_LIMIT": 0x67,
    "GUEST_GDTR_BASE": 0x6000,
    "GUEST_GDTR_LIMIT": 0x37,
    "GUEST_CS_AR_BYTES": 0xA09B,
    "GUEST_TR_AR_BYTES": 0x8B,
    "GUEST_LDTR_AR_BYTES": 1 << 16,
    **{f"GUEST_{s}_AR_BYTES": 0xC093 for s in ("ES", "SS", "DS", "FS", "GS")},
    **{f"GUEST_{s}_LIMIT": 0xFFFFFFFF for s in _SEGMENTS[:6]},
}
"""A VMCS12 that passes every check; its bitmaps are all zero unless a test fills them."""


XEN = deviations.word(deviations.of("xen", "vmx"))
CAREFUL_XEN = XEN & ~(
    deviations.DEV_ENTRY_CHECKS_LEFT_TO_HARDWARE
    | deviations.DEV_VMWRITE_TO_READ_ONLY_FIELDS
    | deviations.DEV_INVVPID_OPERAND_IGNORED
    | deviations.DEV_EFER_OF_L2_FROM_L1
    | deviations.DEV_VMXON_IGNORES_CR0
)
"""Xen with the checks of the manual."""


class VmxMachine:
    """Machine with L0's tables for L1 as two 1 GB pages, VMX initialised, L1 running.

    L0 is Xen, with the manual's checks unless ``deviations`` says otherwise.
    """

    def __init__(self, layout_name: str = nested_layouts.DEFAULT_LAYOUT, **features: int):
        units.load()
        self.m = m = np.zeros(1, layout.MACHINE)
        sizes = (memory_map.BANK0_BYTES, L1_BYTES, L2_BYTES)
        self.ram = np.zeros(sum(sizes) + layout.PAGE, np.uint8)
        m["ram"] = self.ram.ctypes.data
        m["ram_size"] = sum(sizes)
        m["bank_size"] = sizes
        m["bank_base"] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.base = tuple(int(b) for b in m["bank_base"][0])
        self.words(_HAP)[0] = _HAP + 0x1000 | 7
        self.words(_HAP + 0x1000)[:2] = (layout.L1_BANK_MA | 0xB7, layout.L2_BANK_MA | 0xB7)
        self.words(self.l1(0x10000))[0] = 0x11000 | 0x27
        self.words(self.l1(0x11000))[:2] = (0xE7, 0x40000000 | 0xE7)
        m["l1_hap_root"] = _HAP
        m["np2m_pool"] = m["np2m_pool_next"] = memory_map.NP2M_POOL_MA
        m["np2m_pool_end"] = memory_map.BANK0_BYTES
        m["tlb"]["base"] = (0, MAX_TLB1, 2 * MAX_TLB1)
        m["tlb"]["sets"], m["tlb"]["ways"] = (16, 8, 64), (4, 4, 4)
        m["tlb"]["fast_read"] = m["tlb"]["fast_write"] = -1
        m["hw"]["backend"] = layout.BACKEND_VMX
        m["hw"]["tag"] = 1
        m["nv"]["np2m_base"] = -1
        m["tag_core_generation"] = m["tag_next"] = 1
        m["feat"]["tlb_tagging"] = m["feat"]["vpid_for_l1"] = 1
        m["feat"]["max_tag"] = 65535
        m["feat"]["deviations"] = CAREFUL_XEN
        for name, value in features.items():
            m["feat"][name] = value
        nested_layouts.install(m, layout_name)
        self.state = nested_layouts.NestedState(m, self.ram)
        self._boot_cpu()
        self.call("vmx_initialise")
        assert self.call("vmx_hw_enter") == layout.ST_OK

    def _boot_cpu(self) -> None:
        c = self.m["cpu"]
        c["cr0"], c["cr4"], c["efer"], c["cr3"] = 0x80010033, 0x20, 0xD01, 0x10000
        c["rip"], c["sysflags"], c["pat"] = 0x100000, 2, 0x0007040600070406
        c["gpr"][0][layout.RSP] = 0x90000
        c["lf_zero"] = c["lf_sign"] = 1
        c["dr"][0][6], c["dr"][0][7] = 0xFFFF0FF0, 0x400
        c["seg_attr"][0][:] = (0xC093, 0xA09B, 0xC093, 0xC093, 0xC093, 0xC093, 1 << 16, 0x8B)
        c["seg_sel"][0][:] = (0x10, 8, 0x10, 0x10, 0, 0, 0, 0x28)
        c["seg_limit"][0][:] = (0xFFFFFFFF,) * 6 + (0, 0x67)
        c["gdtr_base"], c["gdtr_limit"] = 0x6000, 0x37

    # ------------------------------------------------------------ memory

    def call(self, name: str, *args: int) -> int:
        """Run a unit on this machine; with bounds checking on, every access must be inside it."""
        start = self.m.ctypes.data
        ram = self.ram.ctypes.data
        emit.CHECKED_RANGES[:] = ram, ram + self.ram.nbytes, start, start + self.m.nbytes
        before = int(emit.OUT_OF_RANGE[0])
        result = int(jit.UNITS[name].entry()(start, *args))
        assert emit.OUT_OF_RANGE[0] == before, f"{name} left the machine's memory"
        return result

    def page(self, offset: int) -> np.ndarray:
        """The 4 KB page at a buffer offset, as bytes that can be written."""
        return self.ram[offset : offset + 4096]

    def words(self, offset: int) -> np.ndarray:
        """The page at a buffer offset as 64-bit words."""
        return self.page(offset).view(np.int64)

    def l1(self, n1p: int) -> int:
        """Buffer offset of an address of L1's."""
        return self.base[1] + n1p

    def get(self, which: int, name: str) -> int:
        """Field of vmcs01 (1), vmcs02 (2) or vmcs12 (12), unsigned."""
        return int(self._slots(which)[getattr(vmcs, f"SLOT_{name}")]) & (1 << 64) - 1

    def put(self, which: int, name: str, value: int) -> None:
        """Set a field of a VMCS."""
        value &= (1 << 64) - 1
        signed = value - (1 << 64) if value >> 63 else value
        self._slots(which)[getattr(vmcs, f"SLOT_{name}")] = signed

    def _slots(self, which: int) -> np.ndarray:
        offset = {1: memory_map.VMCX01_MA, 2: memory_map.VMCX02_MA, 12: self.l1(VMCS12)}[which]
        return self.words(offset)[vmcs.DATA_OFFSET // 8 :]

    # ------------------------------------------------------------ doing things

    @property
    def gpr(self) -> np.ndarray:
        """General registers of whoever runs."""
        return self.m["cpu"]["gpr"][0]

    def uop(self, op: int, **fields: int) -> np.ndarray:
        """A micro-op without memory operand unless ``fields`` say otherwise."""
        made = np.zeros(1, layout.UOP)
        made["op"], made["lg"], made["len"], made["seg"] = op, 3, 3, 0xFF
        made["base"] = made["index"] = layout.REG_ZERO
        for name, value in fields.items():
            made[name] = value
        return made

    def execute(self, name: str, **fields: int) -> int:
        """The processor meets a VMX instruction of the running guest; outcome of the handler."""
        made = self.uop(ops.OPS[f"VIRT_{name}"], **fields)
        self.gpr[layout.REG_RIP] = int(self.m["cpu"]["rip"][0]) + 3
        return self.call("vmx_virt_instruction", made.ctypes.data)

    def l1_executes(self, name: str, **fields: int) -> int:
        """L1 executes a VMX instruction: exit, L0's emulation, entry; outcome of the entry."""
        status = self.execute(name, **fields)
        if status != layout.ST_VMEXIT:
            return status
        self.call("vmx_hw_exit")
        assert self.call("vmx_handle") == layout.ST_OK
        if self.state["vmentry_pending"]:
            return layout.ST_OK
        return self.call("vmx_hw_enter")

    def l1_uses_pointer(self, name: str, pointer: int) -> int:
        """VMXON, VMCLEAR, VMPTRLD of ``pointer``: the status flags it leaves."""
        self.words(self.l1(OPERAND))[0] = pointer
        assert self.l1_executes(name, flags=layout.UF_SRC_MEM, disp=OPERAND) == layout.ST_OK
        return self.flags

    @property
    def flags(self) -> int:
        """Status flags of L1 after its last instruction (from vmcs01)."""
        return self.get(1, "GUEST_RFLAGS") & STATUS

    def hardware_exit(self, reason: int, **info: int) -> None:
        """The processor leaves the running guest."""
        x = self.m["exit"]
        for name in layout.EXIT.names:
            x[name] = info.get(name, 0)
        x["code"] = reason
        self.call("vmx_hw_exit")

    def enter_vmx_operation(self) -> None:
        """L1 sets CR4.VMXE, enters VMX operation and has VMCS12 current, zeroed."""
        self.gpr[0] = 0x2020
        self.hardware_exit(vmx.EXIT_CR_ACCESS, info1=4, insn_len=3)
        assert self.call("vmx_handle") == layout.ST_OK
        assert self.call("vmx_hw_enter") == layout.ST_OK
        for region in (VMXON12, VMCS12):
            self.page(self.l1(region)).view(np.uint32)[0] = vmcs.REVISION
        assert self.l1_uses_pointer("VMXON", VMXON12) == 0
        assert self.l1_uses_pointer("VMCLEAR", VMCS12) == 0
        assert self.l1_uses_pointer("VMPTRLD", VMCS12) == 0

    def fill_vmcs12(self, **changes: int) -> None:
        """A good VMCS12 with ``changes``."""
        for name, value in {**GOOD_VMCS12, **changes}.items():
            self.put(12, name, value)

    def launch(self, **changes: int) -> int:
        """L1 launches L2 with a good VMCS12 with ``changes``: outcome of the virtual entry."""
        self.enter_vmx_operation()
        self.fill_vmcs12(**changes)
        assert self.l1_executes("VMLAUNCH") == layout.ST_OK
        assert self.state["vmentry_pending"] == 1, "the launch was refused"
        self.state["vmentry_pending"] = 0
        return self.call("vmx_enter_n2")
