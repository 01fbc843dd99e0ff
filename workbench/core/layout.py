"""The simulated machine as one record: processor, TLBs, nested state, ledger, decoded code.

Everything a kernel touches is a field of :data:`MACHINE` or lies in the RAM buffer it points to.
64-bit fields are signed (see ``jit``); 'address' always says in which space: ``va`` linear,
``gpa`` guest-physical of whoever runs, ``ma`` machine address, ``host`` address in this process.

Machine address space: one bank of RAM per gigabyte, so that every page size up to 1 GB can map it.

====================  ==========================================  =================================
machine address       what                                        seen by L1 at (n1p)
====================  ==========================================  =================================
0x0000_0000           L0's own: vmcx01, vmcx02, HAP and np2m      not mapped
                      tables, permission maps
0x4000_0000           L1's memory                                 0x0000_0000
0x8000_0000           the memory L1 gives to L2                   0x4000_0000 (L2 sees 0)
====================  ==========================================  =================================
"""

from __future__ import annotations

import numpy as np

from ..arch.vmcs import N_SLOTS
from .hvm.records import (
    KVM,
    MAX_NP2M,
    N_ROUTES,
    N_VMCB_COPIES,
    NESTED_VCPU,
    NP2M,
    NP2M_POOL_PAGES,
    SHADOW,
    SHADOW_PAGE,
    STATE,
    VMCB_COPY,
    WRITTEN_TABLE,
)
from .ledger import LEDGER, TIMELINE_ENTRY
from .mmu.records import FAST, LINES, MAX_RAM_PAGES, TLB, TLB_ENTRY, WALK, WALK_ENTRY
from .structs import struct

# ---------------------------------------------------------------- machine memory map

PAGE = 4096
BANK_SHIFT = 30
BANK_MASK = (1 << BANK_SHIFT) - 1
L1_BANK_MA = 1 << 30
L2_BANK_MA = 2 << 30
L2_BANK_N1P = 1 << 30
"""Where L1 finds, in its own physical space, the memory it is to give to L2."""
N_BANKS = 3
# ---------------------------------------------------------------- registers

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
REG_ZERO = 16
"""A register that always reads 0: the base, index or source of an operand that has none."""
REG_RIP = 17
"""As a base: the address of the next instruction (RIP-relative operands)."""
N_REGS = 18

ES, CS, SS, DS, FS, GS, LDTR, TR = range(8)

# ---------------------------------------------------------------- outcomes of kernel steps

ST_OK = 0
ST_FAULT = 1
"""An exception is pending in ``m.exc`` (vector, error code)."""
ST_VMEXIT = 2
"""A hardware exit is pending in ``m.exit``."""
ST_BRANCH = 3
"""RIP or the address space changed: find the next micro-op again."""
ST_HALT = 4
"""HLT with nothing that could wake the processor."""
ST_STOP = 5
"""The guest wrote the debug-exit port; its value is in ``m.stop_code``."""
ST_SHUTDOWN = 6
"""Triple fault outside of L2."""
ST_FATAL = 7
"""L0 gave up on L1 (Xen: domain_crash); why is in ``m.fatal``."""
ST_DECODE = 8
"""The code at ``m.decode_host`` must be decoded before the machine can go on."""
ST_EMULATED = 10
"""The instruction that L0 emulated with shadow paging has been executed."""
ST_REPEAT = 9
"""A repeated string instruction did a part of its work; run the same micro-op again."""

STATUS = ("ok", "fault", "vmexit", "branch", "halted", "stopped", "shutdown", "fatal", "decode")

(
    FATAL_NONE, FATAL_UNHANDLED_EXIT, FATAL_BAD_VMCX01, FATAL_RECURSION, FATAL_N1P_UNMAPPED,
    FATAL_BAD_VMCX02, FATAL_NOT_64_BIT, FATAL_HOST_STOPPED,
) = range(8)  # fmt: skip
FATAL = ("", "exit that L0 does not handle", "vmcx01 failed its entry checks",
         "L0 kept exiting without progress", "L1 touched memory that it does not have",
         "vmcx02 failed its entry checks",
         "a guest outside of 64-bit mode, which is not modelled",
         "L0 stopped itself on an exit of L2 that it does not decode")  # fmt: skip

# ---------------------------------------------------------------- hardware back-end

BACKEND_NONE, BACKEND_SVM, BACKEND_VMX = range(3)

# ---------------------------------------------------------------- records

UOP = np.dtype(
    [
        ("op", "u2"),       # what to do: see cpu/ops.py
        ("lg", "u1"),       # operand size: log2 of bytes
        ("len", "u1"),      # instruction length in bytes
        ("dst", "u1"),      # register number, or index into gpr8/gpr16/gpr32 by operand size
        ("src", "u1"),
        ("base", "u1"),     # address registers, 64-bit numbers; REG_ZERO when absent
        ("index", "u1"),
        ("scale", "u1"),    # shift count
        ("seg", "u1"),      # FS, GS or 0xff when the base is zero (64-bit mode)
        ("asize", "u1"),    # 1 when the effective address is truncated to 32 bits
        ("rep", "u1"),      # 0, 1 rep/repe, 2 repne
        ("cond", "u1"),     # condition code 0..15 of jcc, setcc, cmovcc
        ("flags", "u1"),    # UF_*
        ("disp", "i4"),
        ("next", "i4"),     # micro-op index of the branch target in this page, -1 not yet known
        ("imm", "i8"),
        ("fetch", "i8"),    # first bytes of the instruction (for decode assists), little-endian
    ],
    align=True,
)  # fmt: skip

UF_DST_MEM = 1
"""The destination is the memory operand."""
UF_SRC_MEM = 2
"""The source is the memory operand."""
UF_SRC_IMM = 4
"""The source is ``imm``."""
UF_LOCK = 8

CPU = np.dtype(
    {
        "names": [
            "gpr", "gpr32", "gpr16", "gpr8",
            "rip", "lf_zero", "lf_sign", "lf_carry", "sysflags",
            "cr0", "cr2", "cr3", "cr4", "cr8", "efer",
            "dr", "seg_sel", "seg_base", "seg_limit", "seg_attr",
            "gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit",
            "cpl", "shadow", "star", "lstar", "cstar", "sfmask", "kernel_gs_base",
            "sysenter_cs", "sysenter_esp", "sysenter_eip", "pat", "tsc_aux", "tsc_adjust",
            "apic_base", "debugctl", "nmi_blocked",
        ],
        "formats": [
            ("i8", N_REGS), ("u4", N_REGS * 2), ("u2", N_REGS * 4), ("u1", N_REGS * 8),
            "i8", "i8", "i8", "i8", "i8",
            "i8", "i8", "i8", "i8", "i8", "i8",
            ("i8", 8), ("i8", 8), ("i8", 8), ("i8", 8), ("i8", 8),
            "i8", "i8", "i8", "i8",
            *["i8"] * 16,
        ],
        "offsets": [
            0, 0, 0, 0,
            144, 152, 160, 168, 176,
            184, 192, 200, 208, 216, 224,
            232, 296, 360, 424, 488,
            552, 560, 568, 576,
            *range(584, 584 + 16 * 8, 8),
        ],
    }
)  # fmt: skip
"""The processor as the running guest sees it.

``gpr32/16/8`` overlay ``gpr`` (little-endian): register r is ``gpr32[2*r]``, ``gpr16[4*r]``,
``gpr8[8*r]``; AH..BH are ``gpr8[8*r + 1]``.  Arithmetic flags are lazy (``cpu/flags.py``):
``lf_zero`` is zero when ZF is set; ``lf_sign`` has SF in bit 63 and PF as the parity of its low
byte; ``lf_carry`` has CF in bit 63, OF as bit 63 xor bit 62, AF in bit 3.  ``sysflags`` holds the
other RFLAGS bits.  ``seg_attr`` is in the VMX access-rights format (bit 16 = unusable).
``shadow``: 1 blocked by STI, 2 by MOV SS, for one instruction.
"""

EXCEPTION = np.dtype([("vector", "i8"), ("error", "i8"), ("has_error", "i8"), ("kind", "i8"),
                      ("length", "i8"), ("address", "i8"), ("injected", "i8")])  # fmt: skip
"""A pending event. ``kind`` as in EVENTINJ/interruption information: 0 interrupt, 2 NMI,
3 hardware exception, 4 software interrupt (INT n), 6 software exception (INT3);
``length`` is the instruction length of software events, else 0; ``address`` the faulting linear
address of a #PF, which reaches CR2 only when the fault is delivered, not when it is intercepted; ``injected``: by a hypervisor at entry
(not subject to intercepts)."""

GUEST_INSN = np.dtype(
    [
        ("bytes", "u1", (16,)),
        ("opcode", "i8"), ("rex", "i8"), ("lg", "i8"),
        ("reg", "i8"), ("rm", "i8"),
        ("is_memory", "i8"), ("address", "i8"), ("segment_base", "i8"),
    ]
)  # fmt: skip
"""An instruction of a guest's that L0 has read itself (hvm/svm/decode.py)."""

EXIT = np.dtype(
    [
        ("code", "i8"),          # SVM EXITCODE or VMX basic exit reason
        ("info1", "i8"),         # SVM EXITINFO1 or VMX exit qualification
        ("info2", "i8"),         # SVM EXITINFO2 or VMX guest-physical address
        ("linear", "i8"),        # VMX guest-linear address
        ("intr_info", "i8"),     # VMX exit interruption information
        ("intr_error", "i8"),
        ("insn_len", "i8"),
        ("insn_info", "i8"),     # VMX instruction information
        ("vectoring", "i8"),     # EXITINTINFO / IDT-vectoring information
        ("vectoring_error", "i8"),
        ("uop", "i8"),           # micro-op that caused it, -1 if none
        ("cause", "i8"),         # ledger cause that the exit starts
    ]
)  # fmt: skip
"""A hardware exit on its way from the processor to the control structure."""

HW = np.dtype(
    [
        ("backend", "i8"),       # BACKEND_*
        ("guest", "i8"),         # 1 while a guest runs (always, once L0 has started L1)
        ("vmcx", "i8"),          # ma of the VMCB / VMCS in use
        ("icpt", "i8", (6,)),    # SVM intercept words of the running guest
        ("iopm", "i8"), ("msrpm", "i8"),                   # SVM map base ma
        ("int_ctl", "i8"), ("int_vector", "i8"), ("virt_ext", "i8"),
        ("pin", "i8"), ("proc", "i8"), ("proc2", "i8"),    # VMX controls
        ("exit_ctl", "i8"), ("entry_ctl", "i8"), ("exc_bitmap", "i8"),
        ("pf_mask", "i8"), ("pf_match", "i8"),
        ("io_bitmap_a", "i8"), ("io_bitmap_b", "i8"), ("msr_bitmap", "i8"),
        ("vmread_bitmap", "i8"), ("vmwrite_bitmap", "i8"), ("link_pointer", "i8"),
        ("cr0_mask", "i8"), ("cr0_shadow", "i8"), ("cr4_mask", "i8"), ("cr4_shadow", "i8"),
        ("cr3_targets", "i8", (4,)), ("cr3_target_count", "i8"),
        ("hap_root", "i8"),      # ma of the nested table in use, 0 = none (NPT nCR3 / EPTP)
        ("ept_ad", "i8"),        # EPTP bit 6: accessed and dirty bits of EPT
        ("tag", "i8"),           # ASID / VPID of the running guest
        ("tag_span", "i8"),      # tags per VPID when a tag stands for VPID and EPT root, else 0
        ("tlb_control", "i8"),   # SVM: TLB_CONTROL of the next VMRUN, and why L0 asks for it (F_*)
        ("tlb_reason", "i8"),
        ("tsc_offset", "i8"),
        ("pause_filter", "i8"), ("pause_threshold", "i8"),  # SVM pause filter: count, cycles
        ("pause_left", "i8"), ("pause_last", "i8"),         # counter; ledger time of the last PAUSE
        ("gif", "i8"),
        ("timer_deadline", "i8"),  # VMX-preemption timer: ledger time at which it runs out, 0 = off
        ("mtf", "i8"), ("mtf_from", "i8"),  # monitor trap flag: MTF_*, m.steps when it was armed
        ("pml", "i8"), ("pml_address", "i8"), ("pml_index", "i8"),  # page-modification log
        ("apic_access", "i8"),   # VMX: ma of the APIC-access page, -1 none
        ("vapic", "i8"),         # ma of the virtual-APIC page while there is a TPR shadow, -1 none
        ("tpr_threshold", "i8"),
        ("rvi", "i8"), ("svi", "i8"),    # guest interrupt status
        ("vint", "i8"),          # a virtual interrupt is recognized
        ("eoi_exit", "i8", (4,)),
    ]
)  # fmt: skip
"""What the processor keeps from the control structure it entered with."""

APIC = np.dtype(
    [
        ("tpr", "i8"), ("svr", "i8"), ("icr", "i8"), ("divide", "i8"),
        ("ldr", "i8"), ("dfr", "i8"),    # xAPIC mode only
        ("esr", "i8"), ("errors", "i8"), # error status as last latched, and errors since then
        ("lvt", "i8", (8,)),             # timer, thermal, counters, LINT0, LINT1, error
        ("irr", "i8", (4,)), ("isr", "i8", (4,)),
        ("initial", "i8"),               # initial count of the timer
        ("deadline", "i8"),              # ledger time at which the timer fires, 0 = not armed
        ("tsc_deadline", "i8"),
        ("raised", "i8", (256,)),        # ledger time at which each vector was requested
    ]
)  # fmt: skip
"""A local APIC: that of the bare machine, or the one that L0 emulates for L1 (cpu/apic.py)."""

INTERRUPTS = np.dtype(
    [
        ("active", "i8"),                # 1 once any source of events has been switched on
        ("attention", "i8"),             # look for events before the next instruction
        ("budget", "i8"),                # steps until the run loop looks again
        ("host_period", "i8"), ("host_next", "i8"),  # L0's own tick: cycles, ledger time
        ("nmi_period", "i8"), ("nmi_next", "i8"),
        ("physical", "i8"),              # PHYS_*: signals at the processor, not yet taken
        ("nmi_pending", "i8"),           # an NMI waits for the guest of level 0 or 1
        ("nmi_raised", "i8"),            # ledger time at which it came
        ("apic_write", "i8"),            # 1 + offset of a virtualized APIC write to emulate, 0 none
        ("window", "i8"),                # SVM: VMCBs (1 = 01, 2 = 02) that hold a V_IRQ of L0's
        ("nested_deadline", "i8"),       # VMX: ledger time of L0's timer for vmcs12's, 0 = off
        ("blocked_reason", "i8"),        # 1 + BLOCK_* of the event that waits now, 0 none
        ("blocked_since", "i8"),
    ]
)  # fmt: skip
"""Sources of external interrupts and NMIs, and what waits for delivery."""
PHYS_TICK, PHYS_TIMER, PHYS_NMI = 1, 2, 4

DEBUG = np.dtype(
    [
        ("armed", "i8"),    # DEBUG_*
        ("pending", "i8"),  # traps not yet delivered, as in the VMCS field of that name
        ("met", "i8"),      # data breakpoints that the instruction under way has met
        ("step", "i8"),     # it began with TF set
        ("resume", "i8"),   # it began with RF set
        ("mark", "i8"),     # instructions completed before it
        ("data", "i8"),     # data breakpoints are enabled: accesses take the slow path
        ("image", "i8"),    # RF, if the frame that is being pushed has it set
    ]
)  # fmt: skip
"""Single-step and breakpoint traps (cpu/debug.py)."""
DEBUG_OFF, DEBUG_ON, DEBUG_SPENT = range(3)
"""Spent: nothing to look for any more, but the next VM exit has a field to clear."""

FEATURES = np.dtype(
    [
        ("tlb_tagging", "i8"),
        ("l2_tag_policy", "i8"),       # POLICY_*
        ("np2m_flush", "i8"),          # NP2M_*
        ("np2m_tables", "i8"),         # how many nested p2m tables L0 keeps, 1..MAX_NP2M
        ("p2m_event", "i8"),           # P2M_EVENT_*
        ("ept_ad", "i8"),
        ("flush_by_asid", "i8"),
        ("msr_map", "i8"),             # MSR_MAP_*
        ("io_map", "i8"),              # IO_MAP_*
        ("virtual_gif", "i8"),
        ("virtual_vmload_vmsave", "i8"),
        ("nrip_save", "i8"), ("decode_assists", "i8"), ("pause_filter", "i8"),
        ("vmcb_clean_bits", "i8"),
        ("vmcs_shadowing", "i8"),
        ("vmexit_immediate", "i8"),    # virtual exits are not deferred
        ("vpid_for_l1", "i8"),
        ("paging_structure_caches", "i8"),
        ("walk_caches", "i8"),
        ("apicv", "i8"),
        ("virtual_nmi", "i8"),
        ("l0_page_shift", "i8"),       # 12, 21 or 30
        ("msr_switch", "i8"),          # 1: VMX MSR areas, 0: on demand
        ("pml", "i8"),
        ("full_vmcs_switch", "i8"),
        ("branch_barrier", "i8"),      # BARRIER_*
        ("max_tag", "i8"),
        ("l0", "i8"),                  # L0_*: whose way of nested HVM
        ("deviations", "i8"),          # arch/deviations: what L0 does otherwise than the manuals
    ]
)  # fmt: skip
N_FEATURES = FEATURES.itemsize // 8
L0_XEN, L0_KVM, L0_MANUAL = range(3)
"""Personalities of L0; MANUAL works as Xen does, without Xen's deviations."""
POLICY_OWN, POLICY_SHARED_FLUSH, POLICY_XEN_2013, POLICY_KVM = range(4)
NP2M_LAZY, NP2M_EAGER, NP2M_GENERATION = range(3)
P2M_EVENT_NONE, P2M_EVENT_BALLOON, P2M_EVENT_LOG_DIRTY = range(3)
MSR_MAP_MERGED, MSR_MAP_INTERCEPT_ALL, MSR_MAP_NONE = range(3)
IO_MAP_XEN, IO_MAP_MERGED, IO_MAP_INTERCEPT_ALL = range(3)
BARRIER_OFF, BARRIER_VMCS_SWITCH, BARRIER_VIRTUAL_EXIT = range(3)

MAX_UOPS = 1 << 16
CODE_SLOTS = 256
SERIAL_LENGTH = 1 << 16

CODE = np.dtype(
    [
        ("uops", UOP, (MAX_UOPS,)),
        ("map", "i4", (CODE_SLOTS, PAGE)),       # byte offset -> micro-op; -1 none, -2 inside one
        ("slot_of_page", "i2", (MAX_RAM_PAGES,)),  # RAM page -> slot + 1; 0 = no decoded code
        ("page_of_slot", "i8", (CODE_SLOTS,)),
        ("epoch", "i8"),                          # changes whenever decoded code is dropped
        ("invalidations", "i8"),
    ],
    align=True,
)  # fmt: skip

N_CHECKED_VMCS = 4
CHECKED_VMCS = np.dtype(
    [
        ("passed", "i8"),                         # the rest of the record holds
        ("features", "i8", (N_FEATURES,)), ("shadow_paging", "i8"),
        ("words", "i8", (N_SLOTS,)),
    ],
    align=True,
)  # fmt: skip
"""The fields of a VMCS, and what else its checks looked at, when they all held (hvm/vmx/checked)."""

N_P2M_LEAVES = 16
P2M_LEAF = np.dtype(
    [
        ("key", "i8"),                            # page of L1's + 1, 0 none
        ("address", "i8"),                        # ma of the entry of n1p_to_l0m that maps it
        ("shift", "i8"), ("rights", "i8"),        # its size; what the levels above it grant
    ],
    align=True,
)  # fmt: skip
"""Where L0 found an entry of its own table for L1 (hvm/p2m)."""

MACHINE = np.dtype(
    [
        ("cpu", CPU),
        ("exc", EXCEPTION),
        ("exit", EXIT),
        ("insn", GUEST_INSN),
        ("hw", HW),
        ("state", STATE),
        ("nv", NESTED_VCPU),
        ("feat", FEATURES),
        ("apic", APIC),
        ("irq", INTERRUPTS),
        ("debug", DEBUG),
        ("ram", "i8"),                            # host address of the RAM buffer
        ("ram_size", "i8"),
        ("bank_base", "i8", (N_BANKS,)),          # offset of each bank in the buffer
        ("bank_size", "i8", (N_BANKS,)),
        ("level", "i8"),                          # 0 bare machine, 1 L1, 2 L2
        ("walk", WALK),
        ("device", "i8"),                         # ma of an access that a device is to answer
        ("access_bytes", "i8"),                   # size of the access being translated
        ("pending", "i8"),                        # ST_FAULT or ST_VMEXIT set by a failed access
        ("steps", "i8"),                          # instructions retired, all levels
        ("level_steps", "i8", (3,)),
        ("folded_steps", "i8", (3,)),             # of those, already in the ledger
        ("code_page", "i8"),                      # va page of the code being run, -1 = look up
        ("code_slot", "i8"),                      # its slot in code.map, -1 none
        ("code_host", "i8"),                      # RAM offset of that page
        ("code_context", "i8"),
        ("decode_host", "i8"),                    # offset in RAM of code to decode
        ("decode_next", "i8"),                    # RAM offset of the following page, -1 unknown
        ("result", "i8"),                         # value of the last msr_read
        ("gate_target", "i8"),                    # handler address of the IDT gate last read
        ("cpuid", "i8", (4,)),                    # eax, ebx, ecx, edx of the last cpuid_leaf
        ("np_present", "i8"), ("np_rights", "i8"),  # what np2m_fault found in L1's table
        ("np_clean", "i8"),                       # 1: dirty bits are in use and the page's is clear
        ("delivering", "i8"),                     # nesting of exception delivery
        ("stop_code", "i8"),
        ("fatal", "i8"), ("fatal_code", "i8"),
        ("vmcb_copies", VMCB_COPY, (N_VMCB_COPIES,)),
        ("vmcb_place", "i8"), ("vmcb_clock", "i8"),  # copy in use; counts VMRUNs
        ("vmrun_rip", "i8"),                      # L1's RIP at its last VMRUN
        ("stale_groups", "i8"),                   # clean-bit groups that VMRUN found changed all the same
        ("check", "i8"),                          # the check that refused an entry last, 0 none
        ("checks_failed", "i8"),                  # entries refused
        ("vmx_abort", "i8"),                      # VMX-abort indicator, 0 none
        ("nmi_unblocked", "i8"),                  # an IRET that did not complete unblocked NMIs
        ("unknown_count", "i8"), ("unknown_rip", "i8"), ("unknown_bytes", "i8"),
        ("kvm", KVM),
        ("route", "i8", (N_ROUTES,)),             # rule for each exit of L2 (hvm/*_route.py)
        ("np2m", NP2M, (MAX_NP2M,)),
        ("np2m_clock", "i8"),                     # counts choices of a table
        ("np2m_pool", "i8"), ("np2m_pool_next", "i8"), ("np2m_pool_end", "i8"),  # ma of free pages
        ("np2m_free", "i8"),                      # ma of the first page given back, 0 none
        ("np2m_next", "i8", (NP2M_POOL_PAGES,)),  # next page in the list that a pool page is in
        ("np2m_last_n1p", "i8"),                  # page of L1's entered last into a nested p2m
        ("p2m_period", "i8"), ("p2m_countdown", "i8"), ("p2m_turn", "i8"),  # scripted changes
        ("l1_hap_root", "i8"),                    # ma of n1p_to_l0m
        ("merged_msrpm", "i8"), ("merged_iopm", "i8"),  # ma of L0's own maps (see hvm/memory_map)
        ("vexit", "i8", (4,)),                    # virtual exit to carry out at once (virtual_exit.py)
        ("tag_core_generation", "i8"), ("tag_next", "i8"),
        ("vmcs_work", "i8", (4,)),                # VMCS accesses of L0 not yet in the ledger
        ("entered_level", "i8"),                  # level of the last hardware entry
        ("entered", "i8", (3, 5)),                # CR0, CR3, CR4, EFER, tag of the last entry per level
        ("serial_count", "i8"),
        ("serial", "u1", (SERIAL_LENGTH,)),
        ("bounce", "u1", (64,)),
        ("ledger", LEDGER),
        ("tlb", TLB),
        ("lines", LINES),
        ("code", CODE),
        ("sh", SHADOW),
        ("checked", CHECKED_VMCS, (N_CHECKED_VMCS,)),
        ("p2m_leaves", P2M_LEAF, (N_P2M_LEAVES,)),
        ("tlb_hint", "i2", (FAST,)),              # 1 + place in TLB1 where a page was found last, 0 none
    ],
    align=True,
)  # fmt: skip
"""The whole machine: one element is one simulated computer with one processor."""

Uop = struct("Uop", UOP)
Cpu = struct("Cpu", CPU)
Exception_ = struct("Exception", EXCEPTION)
Exit = struct("Exit", EXIT)
GuestInsn = struct("GuestInsn", GUEST_INSN)
Hw = struct("Hw", HW)
State = struct("State", STATE)
NestedVcpu = struct("NestedVcpu", NESTED_VCPU)
Np2m = struct("Np2m", NP2M)
VmcbCopy = struct("VmcbCopy", VMCB_COPY)
Kvm = struct("Kvm", KVM)
Features = struct("Features", FEATURES)
Apic = struct("Apic", APIC)
Interrupts = struct("Interrupts", INTERRUPTS)
Debug = struct("Debug", DEBUG)
TlbEntry = struct("TlbEntry", TLB_ENTRY)
WalkEntry = struct("WalkEntry", WALK_ENTRY)
Walk = struct("Walk", WALK)
Tlb = struct("Tlb", TLB)
Lines = struct("Lines", LINES)
TimelineEntry = struct("TimelineEntry", TIMELINE_ENTRY)
Ledger = struct("Ledger", LEDGER)
Code = struct("Code", CODE)
ShadowPage = struct("ShadowPage", SHADOW_PAGE)
WrittenTable = struct("WrittenTable", WRITTEN_TABLE)
Shadow = struct("Shadow", SHADOW)
CheckedVmcs = struct("CheckedVmcs", CHECKED_VMCS)
P2mLeaf = struct("P2mLeaf", P2M_LEAF)
Machine = struct("Machine", MACHINE)
