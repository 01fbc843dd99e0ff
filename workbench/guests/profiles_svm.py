"""The generated L1 programs for SVM: one round of instructions around VMRUN, the same for each exit.

The VMCB is memory, so only the instructions of the round can exit to L0.  Reading a row around its
VMRUN: VMLOAD before it loads L2's registers, VMSAVE behind it saves them, VMLOAD behind it loads
L1's own, VMSAVE before it saves L1's own.
"""

from __future__ import annotations

from collections.abc import Sequence

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
)

RUN = Op("I", "VMRUN")
REST = "FS, GS, TR, LDTR and the system-call registers"

INCLUDES = ("svm", "svm-macros", "virtual-cpu", "emulate", "nested-map", "profile-svm", "svm-setup",
            "host-interrupts")  # fmt: skip

EXITS = (
    ("VMEXIT_CPUID", "cpuid", "emulate_cpuid", "step_over"),
    ("VMEXIT_IOIO", "io", "handle_io", "step_over"),
    ("VMEXIT_MSR", "msr", "handle_msr", "step_over"),
    ("VMEXIT_NPF", "npf", "handle_nested_page_fault", "run_l2"),
    ("VMEXIT_VMMCALL", "hypercall", "emulate_hypercall", "step_over"),
    ("VMEXIT_HLT", "hlt", "handle_hlt", "step_over"),
    ("VMEXIT_CR0_WRITE", "cr0_access", "handle_cr_access", "step_over"),
    ("VMEXIT_CR4_WRITE", "cr4_access", "handle_cr_access", "step_over"),
    ("VMEXIT_INTR", "ext_interrupt", "take_host_interrupt", "run_l2"),
)
"""Exit code, label, what it means for L2, and where L2 goes on."""


def svm_program(profile: Profile) -> str:
    """The L1 program of an SVM profile."""
    row = _the_round(profile)
    switches = _switches(row)
    params = list(COMMON_PARAMS)
    if switches:
        text = "1: every round as if another vCPU of L1 had run in between (" + " ".join(
            map(str, switches)) + " besides)"  # fmt: skip
        params.append(Param("vcpu_switches", 0, 1, "switch", text))
    lines = header(profile, params)
    lines.append(".set LEAF_FLAGS, 7                          # NPT leaf: present, writable, user")
    lines += [f'.include "{name}.inc"' for name in INCLUDES]
    lines += ["", "        .text", "        .globl  _start", "_start:", "        SVM_ON"]
    lines += code("call build_permission_maps; call build_vmcb; call build_profile_vmcb")
    lines += _round(row, switches)
    lines += _dispatch(profile)
    return "\n".join(lines) + "\n"


def _the_round(profile: Profile) -> Row:
    """The row that stands for all: what surrounds VMRUN cannot depend on the exit to come."""
    first, *others = profile.rows.values()
    for row in others:
        if row.ops != first.ops:
            raise ValueError(f"{profile.name}: rows {first.exit_kind} and {row.exit_kind} differ")
    if first.ops.count(RUN) != 1 or any(op.kind != "I" for op in first.ops):
        raise ValueError(f"{profile.name}: a row is one round of instructions around VMRUN")
    return first


def _switches(row: Row) -> list[Op]:
    """Optional VMLOADs and VMSAVEs of a vCPU switch, saves first."""
    named = {word.strip("+;,") for word in row.optional.replace("/", " ").split()}
    found = [Op("I", name) for name in ("VMSAVE", "VMLOAD") if f"I:{name}" in named]
    return found


def _round(row: Row, switches: Sequence[Op]) -> list[str]:
    lines = heading("once per L2 exit")
    lines += ["run_l2:", *code("dec qword ptr [exits_left]; jz take_pages_away"), "run_now:"]
    lines += code("mov rax, [l2_gpr + GPR_RAX]; mov [vmcb + VMCB_RAX], rax")
    lines.append("        LOAD_REGISTERS")
    if switches:
        lines += _vcpu_switch(switches)
    lines += comment(f"---- all rows of the profile say this ({row.confidence}): {row.notes}")
    lines.append("round:")
    for place, op in enumerate(row.ops):
        lines += _instruction(op, behind=place > row.ops.index(RUN))
    lines += ["round_end:", "        SAVE_REGISTERS"]
    lines += code("mov rax, [vmcb + VMCB_RAX]; mov [l2_gpr + GPR_RAX], rax")
    lines += code("mov byte ptr [vmcb + VMCB_TLB_CTL], TLB_DO_NOTHING")
    lines += code("mov dword ptr [vmcb + VMCB_CLEAN], CLEAN_ALL")
    return lines


def _instruction(op: Op, behind: bool) -> list[str]:
    """One instruction of the round, with the address it works on."""
    name = op.name.lower()
    if op == RUN:
        return [*code("mov eax, offset vmcb"), instruction("vmrun rax", "I:VMRUN  L2 runs")]
    if name in ("clgi", "stgi"):
        return [instruction(name, f"{op}")]
    if name not in ("vmload", "vmsave"):
        raise ValueError(f"no program knows {op} in a round of SVM")
    of_l2 = (name == "vmload") != behind
    lines = code(f"mov eax, offset {'vmcb' if of_l2 else 'host_state'}")
    return [*lines, instruction(f"{name} rax", f"{op}  {'L2' if of_l2 else 'L1'}'s own")]


def _vcpu_switch(switches: Sequence[Op]) -> list[str]:
    """Optional: what a switch to another vCPU of L1 and back adds."""
    both = len(switches) == 2
    lines = code("cmp qword ptr [VCPU_SWITCHES], 0; je same_vcpu")
    lines += code(f"mov eax, offset {'vmcb' if both else 'host_state'}")
    lines += [instruction(f"{op.name.lower()} rax", f"{op}  optional") for op in switches]
    return [*lines, "same_vcpu:"]


def _dispatch(profile: Profile) -> list[str]:
    lines = code("mov eax, [vmcb + VMCB_EXIT_INT_INFO]; bt eax, EVENT_VALID_BIT; jc deliver_again")
    lines += ["dispatch:", *code("call [handler_rest]; mov eax, [vmcb + VMCB_EXIT_CODE]")]
    for exit, kind, _, _ in EXITS:
        lines += code(f"cmp eax, {exit}; je exit_{kind}")
    lines += code("cmp eax, VMEXIT_SHUTDOWN; je handle_shutdown; jmp unknown_exit")
    lines += heading("each kind of exit")
    lines += comment(f"Nothing here exits to L0: fields of the VMCB are memory. {REST} of L2 are "
                     "where the round left them.")  # fmt: skip
    for _, kind, effect, on in EXITS:
        lines += [f"exit_{kind}:", *code(f"call {effect}; jmp {on}")]
    return lines
