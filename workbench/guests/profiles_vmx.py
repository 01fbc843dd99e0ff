"""The generated L1 programs for VMX: one path per exit reason, written in READ and WRITE.

An exit executes the operations that all rows of the profile begin with, is told apart by its
reason, then executes the rest of its row.  The routines that the paths call are in
data/guests/include (profile-vmx.inc, emulate.inc and others).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from .profile_table import (
    COMMON_PARAMS,
    Op,
    Param,
    Profile,
    Row,
    code,
    comment,
    header,
    heading,
    instruction,
    optional_fields,
    row_comment,
)

VMRESUME = Op("I", "VMRESUME")
ADVANCE_NEEDS = ("GUEST_RIP", "VM_EXIT_INSTRUCTION_LEN", "GUEST_INTERRUPTIBILITY_INFO")
OWN_FIELDS = (
    "IDT_VECTORING_INFO_FIELD", "VM_ENTRY_INTR_INFO_FIELD", "GUEST_INTERRUPTIBILITY_INFO",
    "GUEST_RIP", "VM_EXIT_INSTRUCTION_LEN", "EXIT_QUALIFICATION", "GUEST_PHYSICAL_ADDRESS",
    "GUEST_RFLAGS", "CR0_READ_SHADOW", "GUEST_CR0", "CR4_READ_SHADOW", "GUEST_CR4", "GUEST_CR3",
    "CPU_BASED_VM_EXEC_CONTROL", "VM_EXIT_INTR_INFO", "VM_EXIT_REASON",
)  # fmt: skip
"""Fields that the included routines have a copy of, whether a row names them or not."""

SET_BEFORE_WRITE = {
    "HOST_CR0": "mov rax, cr0; mov [v_HOST_CR0], rax",
    "HOST_RSP": "mov [v_HOST_RSP], rsp",
    "VM_ENTRY_INTR_INFO_FIELD": "call choose_interrupt",
    "EPT_POINTER": "mov rax, [invept_descriptor]; mov [v_EPT_POINTER], rax",
}
"""How L1 comes by a value that it writes without having read it."""
INITIAL = {
    "VMX_PREEMPTION_TIMER_VALUE": 0xFFFF, "VIRTUAL_PROCESSOR_ID": 1, "TPR_THRESHOLD": 0,
    "EXCEPTION_BITMAP": 0, "HOST_FS_SELECTOR": "SEL_DATA", "HOST_GS_SELECTOR": "SEL_DATA",
    "HOST_FS_BASE": 0, "HOST_GS_BASE": 0,
}  # fmt: skip
"""Values that are written as they are."""


@dataclass(frozen=True)
class Path:
    """How L1 serves one kind of exit.

    Attributes
    ----------
    kind : str
        Label of the path.
    effect : str
        Routine called before the first VMWRITE: what the exit means for L2.
    advance : bool
        L2 goes on behind the instruction that exited.
    nearest : tuple of str
        Rows to follow where the table has none called ``kind``.
    when : str
        Jumps to ``{target}`` if this path is the one; empty: it is if no other is.
    then : str
        Called after the last VMWRITE.
    settle : tuple of str
        Routines called before the first, second, ... VMWRITE of the controls.
    """

    kind: str
    effect: str = ""
    advance: bool = False
    nearest: tuple[str, ...] = ()
    when: str = ""
    then: str = ""
    settle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exit:
    """An exit reason, the field (if any) that says which path it takes, and its paths."""

    reason: str
    paths: tuple[Path, ...]
    decided_by: str = ""
    prepare: str = ""


INSIDE_A_PATH = ("RDMSR-", "WRMSR-", "INVEPT", "INVVPID")
"""Instructions other than VMREAD and VMWRITE that a row may have before its VMRESUME."""

NOTHING_TO_FIX = "unknown_exit"
REFLECT_UD = "reflect_undefined"
FAST_MSRS = "mov eax, [l2_gpr + GPR_RCX]; cmp eax, MSR_TSC_DEADLINE; je {target}; cmp eax, MSR_X2APIC_ICR; je {target}"
EXITS = (
    Exit("EXIT_CPUID", (Path("cpuid", "emulate_cpuid", True),)),
    Exit("EXIT_IO_INSTRUCTION", (
        Path("io_userspace", "handle_io", True, when="cmp qword ptr [IO_USERSPACE], 0; jne {target}"),
        Path("io_inkernel", "handle_io", True))),
    Exit("EXIT_MSR_READ", (Path("msr_read", "emulate_rdmsr", True, ("msr_write", "cpuid")),)),
    Exit("EXIT_MSR_WRITE", (
        Path("msr_write_fastpath", "emulate_wrmsr", True, when=FAST_MSRS),
        Path("msr_write", "emulate_wrmsr", True, ("cpuid",)))),
    Exit("EXIT_EPT_VIOLATION", (Path("ept_violation", "handle_ept_violation"),)),
    Exit("EXIT_APIC_ACCESS", (
        Path("apic_access", "emulate_apic_access", then="inject_pending"),)),
    Exit("EXIT_VMCALL", (Path("hypercall", "emulate_hypercall", True, ("cpuid",)),)),
    Exit("EXIT_HLT", (Path("hlt", "handle_hlt", True),)),
    Exit("EXIT_CR_ACCESS", (
        Path("cr_access_cr0_write", "handle_cr0_write", True, when="cmp eax, 0; je {target}"),
        Path("cr_access_cr4_write", "handle_cr4_write", True, when="cmp eax, 4; je {target}"),
        Path("cr3_write_shadow_paging", "handle_cr3_write", True, when="cmp eax, 3; je {target}")),
        "EXIT_QUALIFICATION", "mov eax, [v_EXIT_QUALIFICATION]; and eax, CR_NUMBER_MASK"),
    Exit("EXIT_EPT_MISCONFIG", (
        Path("mmio_fast_ioeventfd", "ring_doorbell",
             when="mov rax, [v_GUEST_PHYSICAL_ADDRESS]; shr rax, 12; cmp rax, DOORBELL_PAGE; je {target}"),
        Path("mmio_ept_misconfig_emulated", "emulate_mmio")),
        "GUEST_PHYSICAL_ADDRESS"),
    Exit("EXIT_EXTERNAL_INTERRUPT", (Path("ext_interrupt", "take_host_interrupt"),)),
    Exit("EXIT_INTERRUPT_WINDOW", (
        Path("irq_window", settle=("close_window", "reopen_window"), then="inject_pending"),)),
    Exit("EXIT_PREEMPTION_TIMER", (Path("preemption_timer"),)),
    Exit("EXIT_EXCEPTION_NMI", (
        Path("exception", "handle_exception"),
        Path("exception_ud", REFLECT_UD,
             when="cmp byte ptr [v_VM_EXIT_INTR_INFO], VECTOR_UD; je {target}"),
        Path("exception_pf_shadow_paging", NOTHING_TO_FIX)),
        "VM_EXIT_INTR_INFO"),
)  # fmt: skip
CR4_LEFT_TO_L2 = "0x1078e"
"""PVI, TSD, DE, PGE, PCE, OSFXSR, OSXMMEXCPT, FSGSBASE: what KVM lets a guest change without exit
(kvm_cache_regs.h, KVM_POSSIBLE_CR4_GUEST_BITS and, with EPT, PGE)."""
FAST_KINDS = ("msr_write_fastpath", "preemption_timer", "irq_inject")
"""Paths that an optional operation 'per non-fastpath exit' does not belong to."""


class Writer:
    """Emits the operations of one row, with what has to happen between them."""

    def __init__(self, path: Path, known: Sequence[Op]):
        self.path = path
        self.known = {op.name for op in known}
        self.lines: list[str] = []
        self.settled = 0
        self.effect_done = False
        self.host_msrs: set[str] = set()

    def emit(self, op: Op) -> None:
        """One operation of the row."""
        if op.kind == "R":
            self.known.add(op.name)
            self.lines.append(instruction(f"READ {op.name}"))
            return
        self.bring_about()
        if op.kind == "I":
            self.lines += self.special(op.name)
        if op.kind == "W":
            self.lines += self.value(op.name)
            self.lines.append(instruction(f"WRITE {op.name}"))
            self.known.add(op.name)

    def bring_about(self) -> None:
        """The exit's meaning for L2, once."""
        if self.path.effect and not self.effect_done:
            if self.path.effect == NOTHING_TO_FIX:
                self.lines.append(
                    instruction(f"jmp {NOTHING_TO_FIX}", "this L1 has no shadow tables")
                )
            else:
                self.lines.append(instruction(f"call {self.path.effect}"))
        self.effect_done = True

    def special(self, name: str) -> list[str]:
        """RDMSR keeps the guest's value; the first WRMSR of an MSR brings L1's own, the next L2's."""
        verb, _, msr = name.partition("-")
        if verb == "WRMSR":
            whose = "GUEST" if msr in self.host_msrs else "HOST"
            self.host_msrs.add(msr)
            return [instruction(f"WRMSR_{whose} {msr}")]
        return [instruction(f"{verb}_GUEST {msr}".strip())]

    def value(self, field: str) -> list[str]:
        """Make the copy of ``field`` what it is to become."""
        path = self.path
        if field == "GUEST_RIP" and path.advance:
            missing = [name for name in ADVANCE_NEEDS if name not in self.known]
            if missing:
                raise ValueError(f"{path.kind}: RIP advances before {missing[0]} is read")
            return code("call step_over")
        if field == "CPU_BASED_VM_EXEC_CONTROL" and self.settled < len(path.settle):
            self.settled += 1
            return code(f"call {path.settle[self.settled - 1]}")
        if field == "VM_ENTRY_INTR_INFO_FIELD" and path.effect == REFLECT_UD:
            return []
        if field in SET_BEFORE_WRITE:
            return code(SET_BEFORE_WRITE[field])
        made = {"handle_cr0_write": ("CR0_READ_SHADOW", "GUEST_CR0"),
                "handle_cr4_write": ("CR4_READ_SHADOW", "GUEST_CR4"),
                "handle_cr3_write": ("GUEST_CR3",)}.get(path.effect, ())  # fmt: skip
        if field not in self.known and field not in made and field not in INITIAL:
            raise ValueError(f"{path.kind}: nothing says what to write to {field}")
        return []


def vmx_program(profile: Profile) -> str:
    """The L1 program of a VMX profile."""
    served = [(exit, _paths(profile, exit)) for exit in EXITS]
    served = [(exit, paths) for exit, paths in served if paths]
    head = _head([row for _, paths in served for _, row in paths])
    options = optional_fields(profile)
    lines = header(profile, _params(profile, options))
    lines += _settings(profile)
    lines += _includes(profile, head)
    lines += _start(profile)
    lines += _every_exit(head, [exit for exit, _ in served], profile)
    for exit, paths in served:
        lines += _exit(profile, exit, paths, head, options)
    if profile.has("irq_inject", "irq_window"):
        lines += _irq_inject(profile.rows.get("irq_inject"))
    lines += _entry(profile, options, head)
    lines += _data([row for _, paths in served for _, row in paths], profile, options)
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------ which paths


def _paths(profile: Profile, exit: Exit) -> list[tuple[Path, Row]]:
    """The paths that an exit may take, with the row that each follows."""
    chosen = []
    for path in exit.paths:
        for name in (path.kind, *path.nearest):
            if name in profile.rows:
                chosen.append((_adapted(profile, path), profile.rows[name]))
                break
    return chosen


def _adapted(profile: Profile, path: Path) -> Path:
    """The path with the routines that suit the profile's rows."""
    effect, then = path.effect, path.then
    if path.kind == "hlt" and not any(
        op == Op("R", "GUEST_RFLAGS") for op in profile.rows["hlt"].ops
    ):
        effect = "handle_hlt_blindly"
    elif path.kind == "ept_violation" and profile.has("mmio_ept_misconfig_emulated"):
        effect = "handle_ept_violation_or_device"
    elif path.kind == "ext_interrupt" and _acknowledges(profile):
        effect = "handle_acknowledged_interrupt"
        if profile.has("irq_inject"):
            effect, then = "", "pass_on_interrupt"
    elif path.kind == "irq_window" and not profile.has("irq_inject"):
        then = ""
    return Path(path.kind, effect, path.advance, path.nearest, path.when, then, path.settle)


def _acknowledges(profile: Profile) -> bool:
    """Does an external interrupt's exit take the vector (it is then read)?"""
    row = profile.rows.get("ext_interrupt")
    return row is not None and Op("R", "VM_EXIT_INTR_INFO") in row.ops


def _head(served: Sequence[Row]) -> tuple[Op, ...]:
    """Operations that all rows begin with; the exit reason is among them."""
    columns = zip(*(row.ops for row in served), strict=False)
    head = tuple(ops[0] for ops in takewhile(lambda ops: len(set(ops)) == 1, columns))
    if Op("R", "VM_EXIT_REASON") not in head:
        raise ValueError("the rows differ before the exit reason is read")
    return head


def _params(profile: Profile, options: dict[Op, str]) -> list[Param]:
    params = list(COMMON_PARAMS)
    if profile.has("io_userspace"):
        text = "1: port accesses are handled by a process in user space, not in the kernel"
        params.append(Param("io_userspace", 0, 1, "switch", text))
    if profile.has("cr3_write_shadow_paging"):
        params.append(Param("cr3_exits", 0, 1, "switch", "1: L2's writes of CR3 exit"))
    if profile.has("exception"):
        text = '1: UD2 and the letters "xen" in L2 make L1 emulate the CPUID behind them'
        params.append(Param("forced_emulation", 0, 1, "switch", text))
    if profile.has("exception_ud"):
        text = "1: #UD of L2 exits, to see whether it is an instruction that KVM emulates"
        params.append(Param("ud_exits", 0, 1, "switch", text))
    if profile.has("apic_access"):
        text = "1: L2's local APIC at 0xfee00000 is an APIC-access page; needs features.apicv"
        params.append(Param("apic_page", 0, 1, "switch", text))
    for op, when in options.items():
        name = "VMREAD" if op.kind == "R" else "VMWRITE"
        text = f"1: also {name} {op.name}; really {when}"
        params.append(Param(f"with_{op.name.lower()}", 0, 1, "switch", text))
    return params


# ------------------------------------------------------------------------ the parts of a program


def _settings(profile: Profile) -> list[str]:
    cr0 = "~CR0_TS" if profile.has("cr_access_cr0_write") else "CR0_NE"
    cr4 = f"~{CR4_LEFT_TO_L2}" if profile.has("cr_access_cr4_write") else "CR4_VMXE"
    apic = [".set HAS_APIC_PAGE, 1"] if profile.has("apic_access") else []
    return [
        *apic,
        '.include "vmx.inc"',
        f".set CR0_OWNED, {cr0}",
        f".set CR4_OWNED, {cr4}",
        f".set ACKNOWLEDGE, {'EXIT_CTL_ACK_INTR' if _acknowledges(profile) else 0}",
        ".set LEAF_FLAGS, 0x37                       # EPT leaf: read, write, execute; write-back",
    ]


def _includes(profile: Profile, head: Sequence[Op]) -> list[str]:
    """Routines that the profile needs; all before the text that uses their constants."""
    wanted = {
        "vmx-macros.inc": True,
        "virtual-cpu.inc": True,
        "emulate.inc": True,
        "nested-map.inc": True,
        "profile-vmx.inc": True,
        "vmx-setup.inc": True,
        "host-interrupts.inc": True,
        "vectoring.inc": Op("R", "IDT_VECTORING_INFO_FIELD") in head,
        "irq-window.inc": profile.has("irq_inject", "irq_window"),
        "l2-memory.inc": profile.has(
            "mmio_ept_misconfig_emulated", "exception", "exception_ud", "apic_access"
        ),
        "apic-access.inc": profile.has("apic_access"),
        "forced-emulation.inc": profile.has("exception"),
        "reflect-undefined.inc": profile.has("exception_ud"),
    }
    return [f'.include "{name}"' for name, needed in wanted.items() if needed]


def _start(profile: Profile) -> list[str]:
    lines = ["", "        .text", "        .globl  _start", "_start:", "        VMX_ON"]
    lines += code("call build_permission_maps; call write_controls")
    lines += code("call write_host_state; call write_guest_state")
    lines += [instruction("xor r9d, r9d", "controls beyond minimal's")]
    if profile.has("cr3_write_shadow_paging"):
        lines += code("cmp qword ptr [CR3_EXITS], 0; je cr3_is_free; mov r9d, CPU_CR3_LOAD_EXITING")
        lines.append("cr3_is_free:")
    lines += code("call write_profile_controls")
    if profile.has("apic_access"):
        lines += code("cmp qword ptr [APIC_PAGE], 0; je no_apic_page; call give_apic_page")
        lines.append("no_apic_page:")
    for kind, switch in (("exception", "FORCED_EMULATION"), ("exception_ud", "UD_EXITS")):
        if profile.has(kind):
            lines += code(f"mov rbx, [{switch}]; shl rbx, VECTOR_UD")
            lines += code("WRITE_FIELD EXCEPTION_BITMAP, rbx")
    lines += [instruction("vmlaunch"), instruction("jmp failed", "the processor refused")]
    return lines


def _every_exit(head: Sequence[Op], served: Sequence[Exit], profile: Profile) -> list[str]:
    lines = heading("once per L2 exit")
    lines += ["after_l2:                                   # HOST_RIP: L2 has exited"]
    lines += [*code("mov [l2_gpr + GPR_RAX], rax"), "        SAVE_REGISTERS"]
    lines += comment("---- what every row of the table begins with")
    writer = Writer(Path("every exit"), ())
    for op in head:
        writer.emit(op)
    lines += writer.lines
    lines += ["after_head:", *code("call [handler_rest]; mov eax, [v_VM_EXIT_REASON]")]
    for exit in served:
        lines += code(f"cmp eax, {exit.reason}; je {_label(exit)}")
    lines += code("cmp eax, EXIT_TRIPLE_FAULT; je handle_shutdown")
    if "hlt" in profile.rows and Op("R", "GUEST_RFLAGS") not in profile.rows["hlt"].ops:
        lines += code("cmp eax, ENTRY_REFUSED; je finished_at_hlt")
    return [*lines, *code("jmp unknown_exit")]


def _label(exit: Exit) -> str:
    return "on_" + exit.reason.removeprefix("EXIT_").lower()


def _exit(
    profile: Profile,
    exit: Exit,
    paths: Sequence[tuple[Path, Row]],
    head: Sequence[Op],
    options: dict[Op, str],
) -> list[str]:
    """All paths of one exit reason."""
    shared = list(head)
    lines = [*heading(exit.reason), f"{_label(exit)}:"]
    decider = Op("R", exit.decided_by)
    if exit.decided_by and decider not in shared:
        shared.append(decider)
        lines += code(f"READ {exit.decided_by}")
    lines += code(exit.prepare)
    if len(paths) > 1 or exit.decided_by:
        for path, _ in paths:
            lines += code((path.when or "jmp {target}").format(target=f"exit_{path.kind}"))
        if paths[-1][0].when:
            lines += code("jmp unknown_exit")
    for path, row in paths:
        if list(row.ops[: len(shared)]) != shared:
            raise ValueError(f"{profile.name}: row {row.exit_kind} does not read "
                             f"{exit.decided_by} first")  # fmt: skip
        lines += _path(path, row, shared, options)
    return lines


def _path(path: Path, row: Row, shared: Sequence[Op], options: dict[Op, str]) -> list[str]:
    before = [op.name for op in row.ops[:-1] if op.kind == "I"]
    if row.ops[-1] != VMRESUME or any(not name.startswith(INSIDE_A_PATH) for name in before):
        raise ValueError(f"row {row.exit_kind} does not end in its only VMRESUME")
    lines = [*row_comment(row, path.kind), f"exit_{path.kind}:"]
    if path.kind not in FAST_KINDS:
        for op, when in options.items():
            if "exit" in when:
                lines += _option(op, path.kind)
    writer = Writer(path, shared)
    for op in row.ops[len(shared) : -1]:
        writer.emit(op)
    writer.bring_about()
    lines += writer.lines
    if path.then:
        lines += code(f"call {path.then}")
    lines.append(instruction("jmp enter_l2", "I:VMRESUME"))
    return [*lines, f"exit_{path.kind}_end:"]


def _option(op: Op, place: str) -> list[str]:
    """An optional operation, behind its switch."""
    skip = f"no_{op.name.lower()}_{place}"
    lines = code(f"cmp qword ptr [WITH_{op.name}], 0; je {skip}")
    if op.kind == "W":
        lines += code(SET_BEFORE_WRITE.get(op.name, ""))
    verb = "READ" if op.kind == "R" else "WRITE"
    return [*lines, *code(f"{verb} {op.name}"), f"{skip}:"]


def _irq_inject(row: Row | None) -> list[str]:
    """A routine of its own: it adds to the exit that brought the interrupt."""
    if row is None:
        return ["", *comment("The table does not say how an interrupt goes in: none does."),
                "irq_inject:", instruction("ret")]  # fmt: skip
    lines = [*row_comment(row, "irq_inject"), "irq_inject:"]
    writer = Writer(Path("irq_inject", "check_interruptible"), ())
    for op in row.ops:
        writer.emit(op)
    return [*lines, *writer.lines, instruction("ret"), "irq_inject_end:"]


def _entry(profile: Profile, options: dict[Op, str], head: Sequence[Op]) -> list[str]:
    lines = [*heading("back into L2"), "enter_l2:"]
    for op, when in options.items():
        if "exit" not in when:
            lines += _option(op, "entry")
    lines += [*code("dec qword ptr [exits_left]; jz take_pages_away"), "enter_now:"]
    if Op("R", "IDT_VECTORING_INFO_FIELD") in head:
        lines += code(
            "bt dword ptr [v_IDT_VECTORING_INFO_FIELD], EVENT_VALID_BIT; jc deliver_again"
        )
    lines += ["enter_loaded:", "        LOAD_REGISTERS", *code("mov rax, [l2_gpr + GPR_RAX]")]
    return [*lines, instruction("vmresume"), "entered:", instruction("jmp failed")]


def _data(served: Sequence[Row], profile: Profile, options: dict[Op, str]) -> list[str]:
    """L1's copies of the fields."""
    used = [*served, *(profile.rows[k] for k in ("irq_inject",) if k in profile.rows)]
    names = [op.name for row in used for op in row.ops if op.kind != "I"]
    names += [*OWN_FIELDS, *(op.name for op in options)]
    lines = ["", "        .data", "        .balign 64", *comment("L1's copies of fields")]
    for name in dict.fromkeys(names):
        lines.append(f"{f'v_{name}:':<39} .quad   {INITIAL.get(name, 0)}")
    for name in dict.fromkeys(_msrs(used)):
        lines += [f"{f'{whose}_{name}:':<39} .quad   0" for whose in ("guest", "host")]
    return lines


def _msrs(rows: Sequence[Row]) -> list[str]:
    """MSRs that L1 switches between its own values and L2's."""
    return [op.name.partition("-")[2] for row in rows for op in row.ops if "MSR-" in op.name]
