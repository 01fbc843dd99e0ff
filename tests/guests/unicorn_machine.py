"""Guest programs on unicorn: an independent processor to run them on.

:class:`BareMachine` prepares memory as the loader does (boot ABI) and runs a program in long mode
with paging.  Instructions that would leave the guest go to ``on_special``; nothing else is modelled.
:class:`ScriptedHardware` runs an L1 program and plays the processor's virtualization extension from
a script of L2 exits, so that L1's handlers can be tested one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import unicorn
from iced_x86 import Decoder, Instruction, OpKind, Register
from unicorn import x86_const as x86

from workbench.arch import svm, vmcb, vmcs, vmx
from workbench.guests.catalogue import PARAMETER_PAGE
from workbench.guests.image import Image

MEMORY = 16 << 20
STACK = 0x90000
PAGE_TABLES = 0x10000
SPECIAL = {
    "cpuid", "rdmsr", "wrmsr", "in", "out", "hlt", "vmmcall", "vmcall", "clgi", "stgi", "vmload",
    "vmsave", "vmrun", "invlpga", "vmxon", "vmclear", "vmptrld", "vmread", "vmwrite", "vmlaunch",
    "vmresume", "invept",
}  # fmt: skip
REGISTERS = {
    "rax": x86.UC_X86_REG_RAX, "rbx": x86.UC_X86_REG_RBX, "rcx": x86.UC_X86_REG_RCX,
    "rdx": x86.UC_X86_REG_RDX, "rsi": x86.UC_X86_REG_RSI, "rdi": x86.UC_X86_REG_RDI,
    "rbp": x86.UC_X86_REG_RBP, "rsp": x86.UC_X86_REG_RSP, "rip": x86.UC_X86_REG_RIP,
    "rflags": x86.UC_X86_REG_RFLAGS, "cr0": x86.UC_X86_REG_CR0, "cr3": x86.UC_X86_REG_CR3,
    "cr4": x86.UC_X86_REG_CR4,
    **{f"r{i}": getattr(x86, f"UC_X86_REG_R{i}") for i in range(8, 16)},
}  # fmt: skip
MASK64 = (1 << 64) - 1


class BareMachine:
    """A program in unicorn's memory, ready to run from its entry."""

    def __init__(self, image: Image, parameters: bytes, blobs=()):
        self.image = image
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.mem_map(0, MEMORY)
        for address, content in [*image.segments, (PARAMETER_PAGE, parameters), *blobs]:
            self.uc.mem_write(address, content)
        self._enable_paging()
        self.specials: list[str] = []
        for line in image.listing:
            mnemonic = line.text.split()[0]
            if mnemonic in SPECIAL or (mnemonic == "mov" and line.text[4:6] == "cr"):
                insn = Decoder(64, line.code, ip=line.address).decode()
                self.uc.hook_add(unicorn.UC_HOOK_CODE, self._hook, insn, line.address, line.address)
        self.on_special = lambda machine, mnemonic, insn: None

    def _enable_paging(self) -> None:
        """One-to-one tables of 2 MB pages for the first 4 GB."""
        table = struct.pack("<Q", PAGE_TABLES + 0x1003)
        self.uc.mem_write(PAGE_TABLES, table)
        for i in range(4):
            self.uc.mem_write(PAGE_TABLES + 0x1000 + 8 * i,
                              struct.pack("<Q", PAGE_TABLES + 0x2003 + 0x1000 * i))  # fmt: skip
            entries = struct.pack("<512Q", *(((i << 30) + (j << 21)) | 0x83 for j in range(512)))
            self.uc.mem_write(PAGE_TABLES + 0x2000 + 0x1000 * i, entries)
        self["cr4"] = 0xA0
        self["cr3"] = PAGE_TABLES
        self["cr0"] = 0x80010033
        self["rsp"] = STACK

    def __getitem__(self, register: str) -> int:
        return self.uc.reg_read(REGISTERS[register])

    def __setitem__(self, register: str, value: int) -> None:
        self.uc.reg_write(REGISTERS[register], value & MASK64)

    def word(self, address: int) -> int:
        return struct.unpack("<Q", self.uc.mem_read(address, 8))[0]

    def set_word(self, address: int, value: int, size: int = 8) -> None:
        self.uc.mem_write(address, (value & MASK64).to_bytes(8, "little")[:size])

    def operand_address(self, insn: Instruction) -> int:
        base = 0 if insn.memory_base == Register.NONE else self[_name(insn.memory_base)]
        return base + insn.memory_displacement & MASK64

    def _hook(self, uc, address, size, insn: Instruction) -> None:
        mnemonic = f"{insn}".split()[0]
        self.specials.append(mnemonic)
        if mnemonic == "mov" and insn.op0_register == Register.CR3:
            return  # unicorn does this itself
        self["rip"] = address + insn.len  # unicorn does not know the length of some
        if mnemonic == "hlt":
            uc.emu_stop()
        elif mnemonic != "mov":
            self.on_special(self, mnemonic, insn)

    def run(self, max_instructions: int = 20_000_000) -> BareMachine:
        self.uc.emu_start(self.image.entry, 0, count=max_instructions)
        return self


def _name(register: int) -> str:
    names = {getattr(Register, n.upper()): n for n in REGISTERS if hasattr(Register, n.upper())}
    for n in ("a", "b", "c", "d"):
        names[getattr(Register, f"E{n.upper()}X")] = f"r{n}x"
    return names[register]


class ScriptedHardware:
    """Run an L1 program against a script of L2 exits.

    Each step of ``script`` is a function; it is called when L1 enters L2, may look at what L1 left
    (``rip``, ``rax``, registers) and then makes the next exit with ``exit_cpuid()`` and the like.
    """

    L2_RIP = 0x123000

    def __init__(self, backend: str, image: Image, parameters: bytes, script):
        self.backend = backend
        self.machine = BareMachine(image, parameters)
        self.machine.on_special = self._special
        self.script = list(script)
        self.entries = 0
        self.result: int | None = None
        self.serial = b""
        self.invalidations: list[tuple[int, int]] = []
        self.traps: list[str] = []
        self.fields: dict[int, int] = {}
        self.msrs = {
            0x3A: 0, 0x480: (1 << 55) | 0x11E5, 0xC0000080: 0xD01,
            0x486: 0x80000021, 0x487: MASK64, 0x488: 0x2000, 0x489: 0x3727FF,
            0x48D: 0xFF_0000_0016, 0x48E: 0xFFF9FFFE_04006172, 0x48F: 0xFFFFFF_00036DFB,
            0x490: 0xFFFF_000011FB, 0x48B: 0xFF_00000000,
        }  # fmt: skip

    def run(self) -> ScriptedHardware:
        self.machine.run()
        return self

    # ------------------------------------------------------------ what L1 sees of L2
    @property
    def rip(self) -> int:
        if self.backend == "svm":
            return self.machine.word(self.vmcb + vmcb.RIP)
        return self.fields[vmcs.GUEST_RIP]

    @property
    def rax(self) -> int:
        return self.machine.word(self.vmcb + vmcb.RAX) if self.backend == "svm" else self["rax"]

    def __getitem__(self, register: str) -> int:
        return self.machine[register]

    @property
    def vmcb(self) -> int:
        return self.machine.image.symbols["vmcb"]

    @property
    def nested_root(self) -> int:
        return self.machine.image.symbols["nested_root"]

    def translate(self, n2p: int) -> int | None:
        """Walk L1's nested table; the n1p, or None when not mapped."""
        table = self.nested_root
        for shift in (39, 30, 21, 12):
            entry = self.machine.word(table + 8 * (n2p >> shift & 511))
            if not entry & 7:
                return None
            if shift == 12 or entry & 0x80:
                page = entry & ~0xFFF & ((1 << 52) - 1) & -(1 << shift)
                return page | n2p & (1 << shift) - 1
            table = entry & 0xFFFFFFFFFF000
        return None

    # ------------------------------------------------------------ exits
    def exit(self, svm_code: int, vmx_reason: int, length: int, *, info1=0, info2=0,
             qualification=0, gpa=0, **registers: int) -> None:  # fmt: skip
        rax = registers.pop("rax", 0)
        for name, value in registers.items():
            self.machine[name] = value
        if self.backend == "svm":
            for field, value in ((vmcb.EXIT_CODE, svm_code), (vmcb.EXIT_INFO_1, info1),
                                 (vmcb.EXIT_INFO_2, info2), (vmcb.RAX, rax),
                                 (vmcb.RIP, self.L2_RIP),
                                 (vmcb.NEXT_RIP, self.L2_RIP + length)):  # fmt: skip
                self.machine.set_word(self.vmcb + field, value)
            self.machine["rax"] = self.vmcb
        else:
            self.fields |= {
                vmcs.VM_EXIT_REASON: vmx_reason, vmcs.EXIT_QUALIFICATION: qualification,
                vmcs.GUEST_PHYSICAL_ADDRESS: gpa, vmcs.GUEST_RIP: self.L2_RIP,
                vmcs.VM_EXIT_INSTRUCTION_LEN: length,
            }  # fmt: skip
            self.machine["rax"] = rax
            self.machine["rsp"] = self.fields[vmcs.HOST_RSP]
            self.machine["rip"] = self.fields[vmcs.HOST_RIP]

    def exit_cpuid(self, leaf: int) -> None:
        self.exit(svm.VMEXIT_CPUID, vmx.EXIT_CPUID, 2, rax=leaf, rbx=5, rcx=6, rdx=7)

    def exit_rdmsr(self, number: int) -> None:
        self.exit(svm.VMEXIT_MSR, vmx.EXIT_MSR_READ, 2, rax=-1, rdx=-1, rcx=number, rbx=77)

    def exit_wrmsr(self, number: int, value: int) -> None:
        self.exit(svm.VMEXIT_MSR, vmx.EXIT_MSR_WRITE, 2, info1=1, rcx=number, rbx=77,
                  rax=value & 0xFFFFFFFF, rdx=value >> 32)  # fmt: skip

    def exit_io(self, port: int, size: int, is_in: bool, rax: int, string: bool = False) -> None:
        info1 = port << 16 | size << 4 | string << 2 | is_in
        qualification = port << 16 | string << 4 | is_in << 3 | size - 1
        self.exit(svm.VMEXIT_IOIO, vmx.EXIT_IO_INSTRUCTION, 1, info1=info1,
                  info2=self.L2_RIP + 1, qualification=qualification, rax=rax, rdx=port, rcx=8,
                  rbx=77)  # fmt: skip

    def exit_hypercall(self, number: int, argument: int = 0) -> None:
        self.exit(svm.VMEXIT_VMMCALL, vmx.EXIT_VMCALL, 3, rax=number, rbx=argument, rcx=8, rdx=9)

    def exit_nested_fault(self, n2p: int) -> None:
        registers = {r: 100 + i for i, r in enumerate(("rbx", "rcx", "rdx", "rsi", "rdi"))}
        self.exit(svm.VMEXIT_NPF, vmx.EXIT_EPT_VIOLATION, 0, info1=0x100000004, info2=n2p,
                  gpa=n2p, qualification=0x181, rax=99, **registers)  # fmt: skip

    def exit_hlt(self, rax: int = 0) -> None:
        self.exit(svm.VMEXIT_HLT, vmx.EXIT_HLT, 1, rax=rax)

    def exit_shutdown(self) -> None:
        self.exit(svm.VMEXIT_SHUTDOWN, vmx.EXIT_TRIPLE_FAULT, 0)

    def exit_other(self) -> None:
        self.exit(svm.VMEXIT_RDTSC, vmx.EXIT_RDTSC, 2)

    # ------------------------------------------------------------ L1's special instructions
    def _special(self, machine: BareMachine, mnemonic: str, insn: Instruction) -> None:
        if mnemonic in ("vmrun", "vmlaunch", "vmresume"):
            self.traps.append(mnemonic)
            self.entries += 1
            if not self.script:
                raise AssertionError("L1 entered L2 after the end of the script")
            return self.script.pop(0)(self)
        if mnemonic == "cpuid":
            machine["rdx"] = 0xFFFFFFFF
        elif mnemonic == "rdmsr":
            value = self.msrs.get(machine["rcx"], 0)
            machine["rax"], machine["rdx"] = value & 0xFFFFFFFF, value >> 32
        elif mnemonic == "wrmsr":
            self.msrs[machine["rcx"]] = machine["rdx"] << 32 | machine["rax"]
        elif mnemonic == "out":
            self._out(machine, insn)
        elif mnemonic == "invlpga":
            self.invalidations.append((machine["rax"], machine["rcx"]))
        elif mnemonic == "invept":
            eptp = machine.word(machine.operand_address(insn))
            self.invalidations.append((eptp, machine[_name(insn.op0_register)]))
        elif mnemonic in ("vmread", "vmwrite"):
            self._vmcs_access(machine, mnemonic, insn)
        elif mnemonic in ("vmxon", "vmclear", "vmptrld"):
            region = machine.word(machine.operand_address(insn))
            assert region % 4096 == 0 and machine.word(region) & 0xFFFFFFFF == 0x11E5
            machine["rflags"] = 2
        else:
            self.traps.append(mnemonic)
        return None

    def _vmcs_access(self, machine: BareMachine, mnemonic: str, insn: Instruction) -> None:
        assert insn.op0_kind == insn.op1_kind == OpKind.REGISTER
        first, second = _name(insn.op0_register), _name(insn.op1_register)
        self.traps.append(mnemonic)
        machine["rflags"] = 2
        if mnemonic == "vmread":
            machine[first] = self.fields[machine[second]]
        else:
            self.fields[machine[first]] = machine[second]

    def _out(self, machine: BareMachine, insn: Instruction) -> None:
        port = insn.immediate8 if insn.op0_kind == OpKind.IMMEDIATE8 else machine["rdx"] & 0xFFFF
        if port == 0xF4:
            self.result = machine["rax"] & 0xFF
            machine.uc.emu_stop()
        elif port == 0x3F8:
            self.serial += bytes([machine["rax"] & 0xFF])


Step = Callable[[ScriptedHardware], None]


def faults_in_turn(pages: list[int], finish: Step) -> tuple[list[list[bool]], list[Step]]:
    """Steps in which L2 faults on one page after the other, and which pages were mapped before each."""
    mapped: list[list[bool]] = []

    def look(hw: ScriptedHardware) -> None:
        mapped.append([hw.translate(page) is not None for page in pages])

    def fault(page: int) -> Step:
        def step(hw: ScriptedHardware) -> None:
            look(hw)
            hw.exit_nested_fault(page)

        return step

    def last(hw: ScriptedHardware) -> None:
        look(hw)
        finish(hw)

    return mapped, [*map(fault, pages), last]
