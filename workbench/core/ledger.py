"""What the kernel counts, and the helpers that count it.

``counts[cause, event]`` is the ledger: ``cause`` is the operation of L2 (or of L1, when no L2 exit
is being served) for which the machine is now working, ``event`` a micro-event with a price.
Simulated time is the same sum kept running: every counted event adds its price, in 1/1024 cycle,
to ``ledger.time``; so time always equals counts @ prices.

The tuples below are the one place where causes, events, flush reasons and scopes are numbered.
"""

from __future__ import annotations

import numpy as np

from .jit import inner
from .words import count_leading_zeros

CAUSES = (
    "BOOT", "RUN", "CPUID", "RDMSR", "WRMSR", "IO_IN", "IO_OUT", "HLT", "HYPERCALL",
    "NESTED_PAGE_FAULT", "CR_ACCESS", "DR_ACCESS", "EXCEPTION", "INVLPG", "RDTSC", "PAUSE",
    "WBINVD", "SHUTDOWN", "INTERRUPT", "INTERRUPT_WINDOW", "DESCRIPTOR_TABLE", "VMX_INSTRUCTION",
    "SVM_INSTRUCTION", "ENTRY_FAILURE", "APIC_ACCESS", "OTHER", "PAGE_FAULT",
)  # fmt: skip
"""Root causes. BOOT: before the first entry to L2. RUN: guest code itself, no exit in service."""

EVENTS = (
    # guest work
    "L1_INSTRUCTION", "L2_INSTRUCTION", "BARE_INSTRUCTION", "L1_COLD_INSTRUCTION",
    # hardware switches (physical layer)
    "HW_EXIT", "HW_ENTRY",
    # hardware assists that replaced an exit
    "VMREAD_SHADOWED", "VMWRITE_SHADOWED", "GIF_VIRTUALIZED", "VMLOAD_VIRTUALIZED",
    "VMSAVE_VIRTUALIZED", "PAUSE_FILTERED", "VMCB_GROUP_KEPT", "APIC_VIRTUALIZED",
    # what the processor does on the way in and out, or while a guest runs
    "HW_MSR_LOADED", "HW_MSR_STORED", "PML_ENTRY_LOGGED",
    # L0 software
    "L0_EXIT_DISPATCH", "L0_INSTRUCTION_EMULATED", "L0_GUEST_PAGE_MAPPED", "L0_BYTE_COPIED",
    "L0_MAP_BYTE_READ", "L0_MAP_BYTE_MERGED", "L0_VMREAD", "L0_VMWRITE", "L0_VMPTRLD",
    "L0_VMCLEAR", "L0_VMLOAD", "L0_VMSAVE", "L0_EVENT_INJECTED", "L0_TAG_ALLOCATED",
    "L0_NESTED_WALK_REFERENCE", "L0_NP2M_INSTALLED", "L0_NP2M_FLUSHED", "L0_NP2M_ENTRY_ZAPPED",
    "L0_FLUSH_EXECUTED", "L0_P2M_CHANGED", "L0_MSR_SWITCHED",
    "L0_GUEST_WALK_REFERENCE", "L0_SHADOW_PAGE_ALLOCATED", "L0_SHADOW_ENTRY_FILLED",
    "L0_SHADOW_ENTRY_SYNCED", "L0_GUEST_PTE_EMULATED",
    "L0_FIELD_GROUP_COPIED", "L0_SHADOW_VMCS_SYNCED", "L0_MSR_EMULATED", "L0_CR_EMULATED",
    "L0_DEVICE_EMULATED", "L0_HOST_INTERRUPT_HANDLED",
    "L0_VIRTUAL_ENTRY", "L0_VIRTUAL_EXIT", "L0_HOST_STATE_SWITCHED", "L0_BRANCH_BARRIER",
    # address translation by hardware
    "TLB1_HIT", "TLB2_HIT", "TLB_MISS", "TLB_EVICTION", "WALK_REFERENCE_GUEST",
    "WALK_REFERENCE_NESTED", "PSC_HIT", "NESTED_TLB_HIT", "PERMISSION_MAP_LOOKUP",
    # the same references by where they hit, in this order (mmu/lines.py)
    "WALK_FROM_L1_CACHE", "WALK_FROM_L2_CACHE", "WALK_FROM_LLC", "WALK_FROM_MEMORY",
    # a halted guest
    "IDLE_CYCLE",
)  # fmt: skip
"""Micro-events; each has a price (data/prices)."""

FLUSH_REASONS = (
    "CR3_WRITE", "CR_WRITE", "INVLPG", "INVPCID", "L1_L2_SWITCH", "NO_TAGS", "TAG_RENEWED",
    "TAG_WRAP", "TLB_CONTROL", "INVLPGA", "INVVPID", "INVEPT", "L1_WITHOUT_VPID", "NP2M_CHANGED",
    "NESTED_FAULT", "P2M_CHANGED", "SHADOW_CHANGED",
)  # fmt: skip
"""Why translations were dropped."""

FLUSH_SCOPES = ("all", "tag", "tag_nonglobal", "address")

FIELD_PHASES = ("L1_ACCESS", "ENTRY", "EXIT", "ROUTING", "EMULATION")
"""When a field of vmcx12 was touched: by L1's own instruction, or by L0 while it ..."""

STATE_FIELDS = (
    # which guest runs, and what is on its way
    "n2_guest", "vmexit_pending", "vmentry_pending", "vmswitch_in_progress",
    # vmcx12 and the control structures of L0's own
    "vmcx12", "vmcx12_addr", "n1_vmcx", "n2_vmcx", "last_vmcx12_addr",
    # nested paging and tags
    "guest_cr3", "host_cr3", "hap_enabled", "guest_tag", "flushp2m", "n2p_to_l0m",
    "n2_tag", "n2_tag_generation",
    # interrupts, and the virtual exit to deliver
    "gif", "rflagsif", "vintrmask", "exitcode", "exitinfo1", "exitinfo2",
    # L1's intercepts and permission maps
    "icpt_cr", "icpt_dr", "icpt_exceptions", "icpt_general1", "icpt_general2",
    "msrpm", "iopm", "merged_msrpm",
    # L1 itself
    "host_save", "hsave_pa", "vmxon_addr",
    # what only the patch of 2010 has
    "vmcx12_size", "vmcx12_max_addr", "arch", "arch_size", "msrpm_size", "merged_msrpm_size",
)  # fmt: skip
"""Fields of the per-vcpu nested state (data/nested_layouts.csv says where each layout has them)."""

STATE_EVENTS = (
    "RESET", "VMENTRY", "L2_EXIT_ROUTED", "L2_EXIT_KEPT", "L2_EXIT_TO_L1", "NESTED_PAGE_FAULT",
    "INTERRUPT", "L2_CR3_WRITE", "INVALIDATION", "L1_EXIT", "HW_ENTRY", "P2M_CHANGE",
)  # fmt: skip
"""What L0 does when it touches nested state. VMENTRY: emulating VMRUN, VMLAUNCH or VMRESUME;
L2_EXIT_ROUTED: whose exit is it; L2_EXIT_TO_L1: the virtual exit; INVALIDATION: INVLPGA, INVEPT,
INVVPID; L1_EXIT: any other exit of L1; HW_ENTRY: choosing the tag before a hardware entry."""

BLOCK_REASONS = ("shadow", "rflags_ie", "tpr", "nmi_iret", "svm_gif")
"""Why an interrupt or NMI cannot be delivered now (Xen, enum hvm_intblk)."""

N_CAUSES, N_EVENTS = 32, 96
N_BLOCK_REASONS = 8
N_LATENCY_BINS = 256
"""A power of two.  Bin 0: less than one cycle; bin 1 + 4*k + q: quarter q of 2**k up to 2**(k+1) cycles."""
N_REASONS, N_SCOPES = 32, 4
N_EXIT_CODES = 192
N_FIELDS, N_PHASES = 256, 8
N_STATE, N_STATE_EVENTS = 64, 16
TIMELINE_LENGTH = 1 << 14
COLD_STEPS = 1024
"""Instructions of L1 after an exit of L2 that run with cold caches and TLB: about the length of the
handler that turtles-l1-slower (data/published) was measured on; later ones find things warm."""
TIME_SCALE = 1024
"""Sub-units of a cycle in ``ledger.time`` and in ``ledger.price``."""

TIMELINE_ENTRY = np.dtype(
    [("step", "i8"), ("time", "i8"), ("code", "i8"), ("info", "i8"), ("rip", "i8"),
     ("from_level", "u1"), ("to_level", "u1"), ("kind", "u1"), ("cause", "u1")], align=True,
)  # fmt: skip
(
    TL_HW_EXIT,
    TL_HW_ENTRY,
    TL_VIRTUAL_EXIT,
    TL_VIRTUAL_ENTRY,
    TL_FIELD_READ,
    TL_FIELD_WRITE,
    TL_FLUSH,
    TL_ENTRY_REFUSED,
) = range(8)
TIMELINE_KINDS = ("hw_exit", "hw_entry", "virtual_exit", "virtual_entry", "field_read",
                  "field_write", "flush", "entry_refused")  # fmt: skip

LEDGER = np.dtype(
    [
        ("cause", "i8"),
        ("time", "i8"),                                    # 1/1024 cycle
        ("price", "i8", (N_EVENTS,)),                      # 1/1024 cycle per event
        ("counts", "i8", (N_CAUSES, N_EVENTS)),
        ("exits", "i8", (3, N_EXIT_CODES, 2, N_CAUSES)),   # from level, code index, handler 0=L0 1=L1, cause
        ("flushes", "i8", (N_REASONS, N_SCOPES)),
        ("dropped", "i8", (N_REASONS, N_SCOPES)),
        ("refills", "i8", (N_REASONS,)),
        ("refill_references", "i8", (N_REASONS,)),
        ("refill_walks", "i8", (N_CAUSES, 4)),             # the same by cause: first to last cache, memory
        ("fields", "i8", (N_FIELDS, N_PHASES * 2)),
        ("state", "i8", (N_STATE_EVENTS, N_STATE * 2)),    # event, field of the nested state * 2 + write
        ("timeline", TIMELINE_ENTRY, (TIMELINE_LENGTH,)),
        ("timeline_next", "i8"),
        ("timeline_limit", "i8"),                          # stop recording after so many entries
        ("virtual_entries", "i8"), ("virtual_exits", "i8"),
        ("blocked", "i8", (N_BLOCK_REASONS,)),             # deliveries that had to wait, by reason
        ("blocked_time", "i8", (N_BLOCK_REASONS,)),        # and how long, in 1/1024 cycle
        ("delivered", "i8", (3, 2)),                       # level, 0 interrupt 1 NMI
        ("latency", "i8", (3, 2, N_LATENCY_BINS)),         # the same, by time from raise to taking
        ("latency_time", "i8", (3, 2)),                    # its sum, in 1/1024 cycle
        ("host_ticks", "i8"),
        ("l1_steps", "i8"),                                # of L1 when it took over from L2; 0: not since
        ("clock_used", "i8"),                              # 1: time reached a guest, or decided something
    ],
    align=True,
)  # fmt: skip


globals().update({f"C_{n}": i for i, n in enumerate(CAUSES)})
globals().update({f"E_{n}": i for i, n in enumerate(EVENTS)})
globals().update({f"F_{n}": i for i, n in enumerate(FLUSH_REASONS)})
globals().update({f"S_{n.upper()}": i for i, n in enumerate(FLUSH_SCOPES)})
globals().update({f"P_{n}": i for i, n in enumerate(FIELD_PHASES)})
globals().update({f"NS_{n.upper()}": i for i, n in enumerate(STATE_FIELDS)})
globals().update({f"AT_{n}": i for i, n in enumerate(STATE_EVENTS)})
globals().update({f"BLOCK_{n.upper()}": i for i, n in enumerate(BLOCK_REASONS)})


E_BARE_INSTRUCTION = EVENTS.index("BARE_INSTRUCTION")
E_L1_INSTRUCTION = EVENTS.index("L1_INSTRUCTION")
E_L2_INSTRUCTION = EVENTS.index("L2_INSTRUCTION")
E_L1_COLD_INSTRUCTION = EVENTS.index("L1_COLD_INSTRUCTION")
E_L0_BYTE_COPIED = EVENTS.index("L0_BYTE_COPIED")
E_L0_FIELD_GROUP_COPIED = EVENTS.index("L0_FIELD_GROUP_COPIED")


def __getattr__(name: str) -> int:  # the constants made above, for type checkers
    raise AttributeError(name)


@inner
def count(m, event, n):
    """Count ``n`` micro-events under the current root cause."""
    led = m.ledger
    led.counts[led.cause, event] += n
    led.time += n * led.price[event]


@inner
def count_copy(m, n):
    """A group of fields, ``n`` bytes in all, is copied at once."""
    count(m, E_L0_FIELD_GROUP_COPIED, 1)
    count(m, E_L0_BYTE_COPIED, n)


@inner
def note_l1_takes_over(m):
    """L2 has exited to L1, whose code and data other levels have driven out of the caches."""
    m.ledger.l1_steps = m.level_steps[1]


@inner
def count_cold_steps(m):
    """L1 lets L2 run: of its instructions since then, the first ones ran with cold caches."""
    if m.ledger.l1_steps:
        steps = m.level_steps[1] - m.ledger.l1_steps
        count(m, E_L1_COLD_INSTRUCTION, steps if steps < COLD_STEPS else COLD_STEPS)
        m.ledger.l1_steps = 0


@inner
def _latency_bin(cycles):
    """Place of a latency in the histogram: four bins for each power of two."""
    if cycles <= 0:
        return 0
    octave = 63 - count_leading_zeros(cycles)
    quarter = (cycles >> (octave - 2) if octave >= 2 else cycles << (2 - octave)) & 3
    return (1 + 4 * octave + quarter) & (N_LATENCY_BINS - 1)


@inner
def note_latency(m, level, kind, raised):
    """An event raised at ledger time ``raised`` is taken; ``kind`` 0 interrupt, 1 NMI."""
    led = m.ledger
    waited = led.time - raised
    waited = 0 if waited < 0 else waited
    led.latency[level, kind, _latency_bin(waited >> 10)] += 1
    led.latency_time[level, kind] += waited


@inner
def count_field(m, field, phase, write):
    """Count one access to field number ``field`` of vmcx12 (VMCS slot or VMCB field number)."""
    m.ledger.fields[field, phase * 2 + write] += 1


@inner
def fold_steps(m):
    """Move the instructions retired since the last call into the ledger, under the current cause."""
    for level in range(3):
        fresh = m.level_steps[level] - m.folded_steps[level]
        if fresh:
            event = E_BARE_INSTRUCTION
            if level == 1:
                event = E_L1_INSTRUCTION
            elif level == 2:
                event = E_L2_INSTRUCTION
            count(m, event, fresh)
            m.folded_steps[level] = m.level_steps[level]
