"""Next-RIP save, decode assists, the pause filter and the I/O maps: with them and without."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iced_x86 import Decoder, Register

from tests.hvm.test_svm_exits import PROBE
from tests.model.runs import BACKENDS, L2_PROGRAMS, SMALL, count, marginal, simulated
from tests.oracle import svm as oracle
from tests.oracle.svm_machine import SvmMachine
from workbench.core import layout
from workbench.core.hvm import memory_map
from workbench.core.ledger import EVENTS
from workbench.guests.assembler import assemble
from workbench.scenario import Scenario
from workbench.simulate import Run

VMCB01 = memory_map.VMCX01_MA


def counted(machine: SvmMachine, event: str) -> int:
    return int(machine.m["ledger"]["counts"][0][:, EVENTS.index(event)].sum())


# ---------------------------------------------------------------- L0 reads instructions

TABLES, CODE = 0x50000, 0x70000
"""L1's own page tables, and where its code is, both at linear = physical."""
NAMES = "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15".split()


def reader() -> SvmMachine:
    """A machine whose L1 has 4 KB page tables, so that L0 can walk them."""
    machine = SvmMachine(nrip_save=0, decode_assists=0)
    base = machine.l1(0)
    machine.table(base + TABLES, 0, TABLES + 0x1000 | 7)
    machine.table(base + TABLES + 0x1000, 0, TABLES + 0x2000 | 7)
    machine.table(base + TABLES + 0x2000, 0, TABLES + 0x3000 | 7)
    for page in range(256):
        machine.table(base + TABLES + 0x3000, page, page << 12 | 7)
    machine.m["cpu"]["cr3"] = TABLES
    return machine


def read(machine: SvmMachine, code: bytes, at: int = CODE) -> int:
    """L0 decodes ``code`` at L1's RIP; the length it finds."""
    machine.write(machine.l1(at), code)
    machine.m["cpu"]["rip"] = at
    machine.l1_exits(0x72, 0)
    return machine.call("l0_decode")


PREFIXES = st.lists(st.sampled_from([0x66, 0x64, 0x65, 0x2E, 0x3E, 0xF3, 0xF2]), max_size=3)
REX = st.one_of(st.none(), st.integers(0x40, 0x4F))
PLAIN = ["0fa2", "0f30", "0f32", "f4", "0f06", "0f08", "0f09", "f1", "6c", "6d", "6e", "6f", "ec",
         "ed", "ee", "ef", "e412", "e513", "e614", "e715", "cd80", "90",
         *(f"0f01{b:02x}" for b in range(0xD8, 0xE0)), "0f01c8", "0f01c9", "0f01f9"]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(prefixes=PREFIXES, rex=REX, opcode=st.sampled_from(PLAIN))
def test_lengths_agree_with_an_independent_decoder(prefixes, rex, opcode):
    code = bytes(prefixes) + (bytes([rex]) if rex else b"") + bytes.fromhex(opcode)
    expected = Decoder(64, code.ljust(15, b"\x90")).decode()
    if expected.is_invalid or expected.len != len(code):
        return
    assert read(reader(), code) == len(code)


@settings(max_examples=300, deadline=None)
@given(
    prefixes=st.sampled_from([b"", b"\x64", b"\x65", b"\x66"]),
    rex=REX,
    opcode=st.sampled_from(["0f01", "0f20", "0f22"]),
    modrm=st.integers(0, 255),
    sib=st.integers(0, 255),
    tail=st.binary(min_size=4, max_size=4),
    registers=st.lists(st.integers(0, (1 << 46) - 1), min_size=16, max_size=16),
)
def test_operands_agree_with_an_independent_decoder(
    prefixes, rex, opcode, modrm, sib, tail, registers
):
    if opcode != "0f01":
        modrm |= 0xC0
    elif modrm >= 0xC0 and modrm >> 3 & 7 not in (4, 6):
        return  # other instructions, of a fixed length
    code = prefixes + (bytes([rex]) if rex else b"") + bytes.fromhex(opcode)
    code += bytes([modrm, sib]) + tail
    expected = Decoder(64, code.ljust(15, b"\0"), ip=CODE).decode()
    if expected.is_invalid:
        return
    machine = reader()
    machine.m["cpu"]["gpr"][0][:16] = registers
    machine.m["cpu"]["seg_base"][0][[layout.FS, layout.GS]] = 0x1000, 0x2000
    assert read(machine, code) == expected.len
    insn = machine.m["insn"]
    memory = expected.op_kind(0) > 20 or "[" in str(expected)
    assert bool(insn["is_memory"][0]) == memory
    if memory:
        names = {number: name for name, number in vars(Register).items() if isinstance(number, int)}
        known = dict(zip(NAMES, registers, strict=True)) | {"FS": 0x1000, "GS": 0x2000}
        base, index = names[expected.memory_base], names[expected.memory_index]
        address = expected.memory_displacement + known.get(base, 0)  # RIP: already added
        address += known.get(index, 0) * expected.memory_index_scale
        address += known.get(names[expected.memory_segment], 0)
        assert int(insn["address"][0]) % (1 << 64) == address % (1 << 64)
    elif opcode == "0f01":
        assert insn["rm"][0] == modrm & 7 | (8 if rex and rex & 1 else 0)


def test_code_across_a_page_and_code_that_is_not_mapped():
    machine = reader()
    assert read(machine, bytes.fromhex("0fa2"), CODE + 0xFFF) == 2
    pages = counted(machine, "L0_GUEST_PAGE_MAPPED")
    assert read(machine, bytes.fromhex("0fa2"), CODE) == 2
    assert counted(machine, "L0_GUEST_PAGE_MAPPED") - pages == 5, "four tables and the code"
    machine.m["cpu"]["rip"] = 0x40_0000_0000
    machine.l1_exits(0x72, 0)
    assert machine.call("l0_decode") == 0


def test_any_bytes_as_instruction_stay_inside():
    machine = reader()
    import random

    rng = random.Random(1)
    for _ in range(400):
        length = read(machine, rng.randbytes(15), CODE + rng.randrange(0x2000))
        assert 0 <= length <= 15


# ---------------------------------------------------------------- emulation with and without

CONTROL_REGISTERS = """
.intel_syntax noprefix
.include "l1.inc"
        .text
        .globl  _start
_start:
        mov     rbx, cr0
        smsw    rcx
        smsw    edx
        mov     r8d, 0x11112222
        smsw    r8w
        smsw    word ptr [out + 4]
        mov     r9d, ebx
        or      r9d, 2
        lmsw    r9w
        mov     r10, cr0
        mov     word ptr [out], 8
        lmsw    word ptr [out]
        mov     r11, cr0
        clts
        mov     r12, cr0
        mov     r13, cr4
        or      r13, 8
        mov     cr4, r13
        mov     r14, cr4
        xor     eax, eax
        out     PORT_EXIT, al
        hlt
        .data
        .balign 8
out:    .quad   0
"""


def control_registers(tmp_path, **features) -> tuple[list[int], Run]:
    path = tmp_path / "registers-svm.S"
    path.write_text("# @title Control registers\n# @backend svm\n" + CONTROL_REGISTERS)
    running = Run(Scenario(backend="svm", l1=str(path), l2="cpuid", features=features))
    while running.advance():
        pass
    assert running.status == "stopped"
    gpr = running.machine.record["cpu"]["gpr"][0]
    at = running.machine.bank_offset(1) + assemble(CONTROL_REGISTERS).symbols["out"]
    stored = int.from_bytes(bytes(running.machine.ram[at + 4 : at + 6]), "little")
    return [int(value) for value in gpr[[1, 2, 3, *range(8, 15)]]] + [stored], running


@pytest.mark.parametrize("nrip_save", [True, False])
@pytest.mark.parametrize("decode_assists", [True, False])
def test_l0_emulates_every_access_to_cr0_and_cr4(tmp_path, nrip_save, decode_assists):
    values, running = control_registers(
        tmp_path, nrip_save=nrip_save, decode_assists=decode_assists
    )
    cr0 = 0x80010033
    rcx, rdx, rbx, r8, _, r10, r11, r12, r13, r14, stored = values
    assert (rbx, rcx, rdx, r8, stored) == (cr0, cr0, cr0, 0x11110033, 0x33)
    assert (r10, r11, r12) == (cr0 | 2, (cr0 & ~0xF) | 9, (cr0 & ~0xF) | 1)
    assert r14 == r13 == 0x28
    assert (
        running.result().exits.exit.isin(["CR0_READ", "CR0_WRITE", "CR4_READ", "CR4_WRITE"]).any()
    )


@pytest.mark.parametrize("l1", ["minimal", "kvm-6.12", "xen-4.2x", "virtualbox-7"])
@pytest.mark.parametrize("l2", L2_PROGRAMS)
def test_guests_do_the_same_without_assists(l1, l2):
    plain = simulated("svm", l2, SMALL[l2], l1=l1)
    bare = simulated("svm", l2, SMALL[l2], l1=l1, nrip_save=False, decode_assists=False)
    for fact in ("l2_instructions", "virtual_entries", "virtual_exits"):
        assert bare.facts[fact] == plain.facts[fact]
    assert bare.serial == plain.serial
    assert count(bare, "HW_EXIT") == count(plain, "HW_EXIT")
    assert count(bare, "L0_GUEST_PAGE_MAPPED") > count(plain, "L0_GUEST_PAGE_MAPPED")


def test_each_instruction_that_l0_emulates_for_l1_costs_a_fetch():
    """CLGI, VMLOAD, VMRUN, VMSAVE, STGI: four table pages and the code's, and 15 bytes, each."""
    pages = marginal("svm", "L0_GUEST_PAGE_MAPPED", nrip_save=False)
    assert pages - marginal("svm", "L0_GUEST_PAGE_MAPPED") == 5 * 4  # L1 has 2 MB pages
    copied = marginal("svm", "L0_BYTE_COPIED", nrip_save=False)
    assert copied - marginal("svm", "L0_BYTE_COPIED") == 5 * 15


def test_decode_assists_spare_l0_the_fetch_of_a_cr_access(tmp_path):
    _, with_assists = control_registers(tmp_path)
    _, without = control_registers(tmp_path, decode_assists=False)
    pages = [count(run.result(), "L0_GUEST_PAGE_MAPPED") for run in (with_assists, without)]
    moves = 5  # MOV from CR0 (3 times), from CR4 and to CR4 ... of nine accesses
    assert pages[1] - pages[0] >= 4 * moves


# ---------------------------------------------------------------- pause filter


def pauses(filter_word: int, params: dict, **features) -> int:
    """PAUSE exits that L1 gets when it intercepts PAUSE with the given threshold and count."""
    scenario = Scenario(
        backend="svm", l1=str(PROBE.with_name("pause-svm.S")),
        l1_params={"filter": filter_word}, l2="spin", l2_params=params, features=features,
    )  # fmt: skip
    running = Run(scenario)
    while running.advance():
        pass
    assert running.status == "stopped"
    exits = running.result().exits
    rows = exits[(exits.exit == "PAUSE") & (exits.from_level == "L2")]
    assert set(rows.handled_by) <= {"L1"}
    return int(rows["count"].sum())


SPIN = {"iterations": 6, "pauses": 50, "work": 3000}


def test_the_filter_lets_through_count_pauses_of_a_tight_loop():
    everyone = 6 * 50
    assert pauses(0, SPIN) == everyone
    assert pauses(10 << 16, SPIN) == everyone, "a processor without the filter"
    assert pauses(0, SPIN, pause_filter=True) == everyone, "a count of 0 filters nothing"
    # 10 pass, the next one exits; VMRUN loads the counter again: one exit per 11 PAUSEs
    assert pauses(10 << 16, SPIN | {"work": 1}, pause_filter=True) == everyone // 11
    # the work between two waits is longer than L0's threshold of 1000 cycles: each wait starts anew
    assert pauses(10 << 16, SPIN, pause_filter=True) == 6 * (50 // 11)
    assert pauses(60 << 16, SPIN, pause_filter=True) == 0


def test_l0_filters_pause_for_itself():
    off, on = (simulated("svm", "spin", pause_filter=value) for value in (False, True))
    assert count(off, "PAUSE_FILTERED") == 0
    made = SMALL["spin"]["iterations"] * SMALL["spin"]["pauses"]
    assert count(on, "PAUSE_FILTERED") == made
    long = {"iterations": 2, "pauses": 9000, "work": 10}
    result = simulated("svm", "spin", long, pause_filter=True)
    exits = result.exits[result.exits.exit == "PAUSE"]
    assert exits["count"].sum() == 2 * 9000 // 4001
    assert set(exits.handled_by) == {"L0"}


def test_merged_count_is_the_smaller_one_if_l1_wants_pause():
    for intercepts, l1_count, expected in ((1, 100, 100), (1, 9000, 4000), (0, 100, 4000)):
        machine = SvmMachine(pause_filter=1)
        page = machine.good_vmcb12()
        oracle.put(page, "intercept_word3", (1 << 23) * intercepts | 1 << 18)
        oracle.put(page, "pause_filter_count", l1_count)
        machine.start_vmrun(page)
        assert machine.field(memory_map.VMCX02_MA, "pause_filter_count") == expected
        assert machine.field(memory_map.VMCX02_MA, "pause_filter_thresh") == 1000


# ---------------------------------------------------------------- I/O maps


@pytest.mark.parametrize("backend", BACKENDS)
def test_io_map_merged_costs_bytes_and_changes_no_exit(backend):
    xen, merged, everything = (
        simulated(backend, "pio", io_map=value) for value in ("xen", "merged", "intercept_all")
    )
    size = 3 * 4096 if backend == "svm" else 2 * 4096
    entries = xen.facts["virtual_entries"]
    assert count(merged, "L0_MAP_BYTE_MERGED") - count(xen, "L0_MAP_BYTE_MERGED") == size * entries
    assert (
        count(merged, "L0_MAP_BYTE_READ") - count(xen, "L0_MAP_BYTE_READ") == (size - 2) * entries
    )
    assert count(merged, "HW_EXIT") == count(xen, "HW_EXIT")
    assert count(everything, "L0_MAP_BYTE_READ") < count(xen, "L0_MAP_BYTE_READ")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("port", [0x80, 0xED])
def test_with_every_port_intercepted_the_delay_ports_exit_too(backend, port, tmp_path):
    path = tmp_path / "delay.S"
    path.write_text(
        '# @title Delay port\n.intel_syntax noprefix\n.include "l2.inc"\n.text\n'
        f".globl _start\n_start: mov ecx, 30\nagain: out {port}, al\ndec ecx\njnz again\nFINISH\n"
    )
    name = "IOIO" if backend == "svm" else "IO_INSTRUCTION"
    seen = {}
    for value in ("xen", "merged", "intercept_all"):
        result = simulated(backend, str(path), {}, io_map=value)
        exits = result.exits[(result.exits.exit == name) & (result.exits.from_level == "L2")]
        seen[value] = {row.handled_by: int(row.count_) for row in
                       exits.rename(columns={"count": "count_"}).itertuples()}  # fmt: skip
    assert seen["xen"] == seen["merged"] == {}
    assert seen["intercept_all"] == {"L0": 30}


# ---------------------------------------------------------------- TLB_CONTROL


@pytest.mark.parametrize(
    ("control", "left"),
    [(0, {1: (1, 1), 2: (1, 1)}), (1, {1: (0, 0), 2: (0, 0)}), (3, {1: (0, 0), 2: (1, 1)}),
     (7, {1: (0, 1), 2: (1, 1)})],
)  # fmt: skip
def test_tlb_control_drops_what_the_manual_says(control, left):
    """15.16.1: 0 nothing, 1 everything, 3 this ASID, 7 this ASID but for global pages."""
    machine = SvmMachine()
    t = machine.m["tlb"]
    for tag in (1, 2):
        t["live"][0][tag] = t["live_global"][0][tag] = 1
    t["live_all"], t["live_top"] = 4, 2
    machine.m["hw"]["tag"], machine.m["hw"]["tlb_control"] = 1, control
    machine.l1_exits(0x72, 2)
    assert machine.call("svm_hw_enter") == layout.ST_OK
    for tag, (private, shared) in left.items():
        assert (t["live"][0][tag], t["live_global"][0][tag]) == (private, shared)
    assert machine.m["hw"]["tlb_control"][0] == 0
    assert machine.field(VMCB01, "tlb_ctl") == control
