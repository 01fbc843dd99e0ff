"""Programs generated from the table of L1 profiles: their text, and their handlers on unicorn."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
from unicorn_machine import ScriptedHardware, faults_in_turn

from workbench.arch import svm, vmcs, vmx
from workbench.arch.table import rows
from workbench.guests import assembler
from workbench.guests.catalogue import find, l1_guests, param_page, validate_params
from workbench.guests.profiles import Op, Profile, Row, main, profiles, source
from workbench.paths import data_dir

PROFILES = {(p.name, p.backend): p for p in profiles()}
EACH = pytest.mark.parametrize("key", PROFILES, ids="-".join)
VMX_ROWS = [(p, row) for p in profiles() if p.backend == "vmx" for row in p.rows.values()]
L2_MEMORY = 0x40000000


# ------------------------------------------------------------------ the table


def test_counts_of_the_table_are_those_of_its_operations():
    for row in rows("l1_profiles"):
        kinds = [text.partition(":")[0] for text in row["ops"].split()]
        counted = [kinds.count(kind) for kind in "RWI"]
        stated = [int(row[name]) for name in ("n_vmread", "n_vmwrite", "n_insn")]
        assert counted == stated, row
        assert int(row["n_trap_noshadow"]) == len(kinds), row


def test_traps_left_with_kvm_as_l0_are_those_of_fields_that_it_does_not_shadow():
    shadowed = {r["name"]: r["kvm_shadowed"] for r in rows("vmcs_fields")}

    def traps(op: Op) -> bool:
        return op.kind == "I" or ("W" not in shadowed[op.name] if op.kind == "W"
                                  else not shadowed[op.name])  # fmt: skip

    for row in rows("l1_profiles"):
        if row["backend"] == "VMX":
            ops = PROFILES[row["profile"], "vmx"].rows[row["exit_kind"]].ops
            assert int(row["n_trap_kvm_shadow"]) == sum(map(traps, ops)), row


# ------------------------------------------------------------------ the text


def written_ops(text: str, start: str, stop: str) -> list[Op]:
    """READs and WRITEs between two labels, those behind a switch left out."""
    part = text.split(f"\n{start}:")[1].split(f"\n{stop}:")[0]
    part = re.sub(r"cmp +qword ptr \[WITH_.*?\nno_\w+:", "", part, flags=re.DOTALL)
    found = re.findall(r"^ +(READ|WRITE|RDMSR|WRMSR|INV\w+?)(?:_GUEST|_HOST)?(?: +(\w+))?(?: |$)", part,
                       re.MULTILINE)  # fmt: skip
    return [Op(verb[0], name) if verb in ("READ", "WRITE") else
            Op("I", f"{verb}-{name}".rstrip("-")) for verb, name in found]  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "row"), VMX_ROWS, ids=[f"{p.name}-{r.exit_kind}" for p, r in VMX_ROWS]
)
def test_every_row_has_a_path_with_its_operations_in_order(profile: Profile, row: Row):
    text = source(profile)
    if row.exit_kind == "ept_zap_flush":
        assert row.ops == (Op("I", "INVEPT"),)
        names = find(1, profile.name, "vmx").image().listing_between("take_pages_away", "finished")
        assert [line.mnemonic for line in names].count("invept") == 1
        return
    if row.exit_kind == "irq_inject":
        assert tuple(written_ops(text, "irq_inject", "irq_inject_end")) == row.ops
        return
    label = f"exit_{row.exit_kind}"
    own = written_ops(text, label, f"{label}_end")
    head = written_ops(text, "after_l2", "after_head")
    decided = row.ops[len(head) : len(row.ops) - len(own) - 1]  # read before the path forks
    assert (*head, *decided, *own, Op("I", "VMRESUME")) == row.ops
    deciders = ("EXIT_QUALIFICATION", "GUEST_PHYSICAL_ADDRESS", "VM_EXIT_INTR_INFO")
    assert decided in ((), *((Op("R", name),) for name in deciders))


@pytest.mark.parametrize("name", ["kvm-6.12", "xen-4.2x", "virtualbox-7"])
def test_the_round_of_svm_is_the_row(name):
    image = find(1, name, "svm").image()
    lines = image.listing_between("round", "round_end")
    executed = [line.mnemonic.upper() for line in lines if line.mnemonic != "mov"]
    assert executed == [op.name for op in PROFILES[name, "svm"].rows["cpuid"].ops]


@pytest.mark.parametrize("guest", l1_guests(), ids=lambda g: f"{g.name}-{g.backends[0]}")
def test_constants_are_set_before_they_are_used(guest):
    # used earlier, a constant would silently become the address of a memory operand
    path = data_dir() / "guests" / "l1" / guest.path.name
    lines = assembler._expand(path, guest.text or path.read_text(), 0)
    later = {m[1] for m in (re.match(r"\.set (\w+),", line.text) for line in lines) if m}
    in_macro = False
    for line in lines:
        text = line.text.partition("#")[0]
        in_macro = (in_macro or text.startswith(".macro")) and not text.startswith(".endm")
        defined = re.match(r"\.set (\w+),", text)
        if defined:
            later.discard(defined[1])
        elif not in_macro and not text.startswith((".ifdef", ".ifndef")):
            assert not later & set(re.findall(r"\w+", text)), line


def test_a_program_can_be_printed(capsys):
    main(["xen-4.2x", "svm"])
    assert capsys.readouterr().out == source(PROFILES["xen-4.2x", "svm"])
    with pytest.raises(SystemExit, match=r"kvm-2.6.35 vmx"):
        main(["kvm-2.6.35", "svm"])


# ------------------------------------------------------------------ rows that make no program


def changed(key: tuple[str, str], **ops: str) -> Profile:
    """A profile with some rows replaced."""
    before = PROFILES[key]
    made = {kind: Row(kind, tuple(Op(*o.split(":")) for o in text.split()), "", "", "test")
            for kind, text in ops.items()}  # fmt: skip
    return Profile(before.name, before.backend, {**before.rows, **made})


@pytest.mark.parametrize(
    ("key", "row", "words"),
    [
        (("kvm-6.12", "vmx"), "R:VM_EXIT_REASON R:IDT_VECTORING_INFO_FIELD W:GUEST_RIP I:VMRESUME",
         "RIP advances before GUEST_RIP is read"),
        (("kvm-6.12", "vmx"), "R:VM_EXIT_REASON R:IDT_VECTORING_INFO_FIELD W:GUEST_CR3 I:VMRESUME",
         "nothing says what to write to GUEST_CR3"),
        (("kvm-6.12", "vmx"), "R:VM_EXIT_REASON R:IDT_VECTORING_INFO_FIELD", "VMRESUME"),
        (("kvm-6.12", "vmx"), "R:GUEST_RIP R:VM_EXIT_REASON I:VMRESUME", "exit reason"),
        (("xen-4.2x", "svm"), "I:CLGI I:VMRUN", "differ"),
    ],
)  # fmt: skip
def test_a_row_that_no_program_can_follow_is_refused(key, row, words):
    with pytest.raises(ValueError, match=words):
        source(changed(key, cpuid=row))


# ------------------------------------------------------------------ handlers, one by one


def run(key: tuple[str, str], *script, shift: int = 12, **params: int) -> ScriptedHardware:
    name, backend = key
    guest = find(1, name, backend)
    reserved = {0: 0x100000, 1: 0x10000, 2: 0x90000, 3: L2_MEMORY, 4: 16 << 20, 5: shift, 6: 1}
    page = param_page(guest, validate_params(guest, {"handler_work": 3, **params}), reserved)
    hw = ScriptedHardware(backend, guest.image(), page, script)
    hw.fields = defaultdict(int, hw.fields)
    return hw.run()


def finish(hw: ScriptedHardware) -> None:
    hw.exit_hlt()


@EACH
def test_set_up_is_complete(key):
    def look(hw):
        assert hw.rip == 0x100000
        if key[1] == "vmx":
            written = set(hw.fields)
            guest = {getattr(vmcs, n) for n in ("GUEST_CS_AR_BYTES", "GUEST_CR3", "HOST_RIP",
                     "EPT_POINTER", "VMCS_LINK_POINTER", "HOST_IDTR_BASE")}  # fmt: skip
            assert guest <= written
            assert hw.fields[vmcs.PIN_BASED_VM_EXEC_CONTROL] & vmx.PIN_EXT_INTR
            owned = hw.fields[vmcs.CR0_GUEST_HOST_MASK]
            assert owned & 0x20 and not owned & 8, "NE is L1's, TS is L2's"
        finish(hw)

    assert run(key, look).result == 0


@EACH
def test_cpuid_gives_l1s_answer_and_keeps_the_other_registers(key):
    def start(hw):
        hw.exit_cpuid(0)
        hw.machine["r9"], hw.machine["rsi"] = 0x99, 0x55

    def check(hw):
        vendor = b"".join(hw[r].to_bytes(4, "little") for r in ("rbx", "rdx", "rcx"))
        assert (vendor, hw.rax, hw.rip) == (b"WorkbenchL2 ", 1, hw.L2_RIP + 2)
        assert (hw["r9"], hw["rsi"]) == (0x99, 0x55)
        finish(hw)

    assert run(key, start, check).result == 0


@EACH
def test_msrs_keep_what_is_written(key):
    def check(hw):
        assert (hw.rax, hw["rdx"], hw["rcx"]) == (0x55667788, 0x11223344, 0x4B564D00)
        hw.exit_rdmsr(0x999)

    def unknown(hw):
        assert (hw.rax, hw["rdx"], hw.rip) == (0, 0, hw.L2_RIP + 2)
        finish(hw)

    def write(hw):
        return hw.exit_wrmsr(0x4B564D00, 0x1122334455667788)

    def read(hw):
        return hw.exit_rdmsr(0x4B564D00)

    assert run(key, write, read, check, unknown).result == 0


@EACH
@pytest.mark.parametrize(
    ("size", "expected"), [(1, 0x11223344556677FF), (2, 0x112233445566FFFF), (4, 0xFFFFFFFF)]
)
def test_port_input_reads_all_ones(key, size, expected):
    def check(hw):
        assert (hw.rax, hw.rip) == (expected, hw.L2_RIP + 1)
        finish(hw)

    def start(hw):
        return hw.exit_io(0x70, size, True, 0x1122334455667788)

    assert run(key, start, check).result == 0


@EACH
def test_output_and_hypercalls(key):
    returned = []

    def then(number, argument=0):
        def step(hw):
            returned.append(hw.rax)
            hw.exit_hypercall(number, argument)

        return step

    def last(hw):
        returned.append(hw.rax)
        finish(hw)

    hw = run(key, lambda hw: hw.exit_io(0x3F8, 1, False, ord("A")), then(0), then(1, ord("x")),
             then(7), last)  # fmt: skip
    assert returned == [ord("A"), 0, 0, (1 << 64) - 1]
    assert hw.serial == b"Ax"


@EACH
@pytest.mark.parametrize("shift", [12, 21])
def test_nested_page_fault_maps_a_page(key, shift):
    n2p = 0x654321

    def check(hw):
        assert (hw.rip, hw.rax) == (hw.L2_RIP, 99)
        assert [hw[r] for r in ("rbx", "rcx", "rdx", "rsi", "rdi")] == [100, 101, 102, 103, 104]
        assert hw.translate(n2p) == L2_MEMORY + n2p
        finish(hw)

    assert run(key, lambda hw: hw.exit_nested_fault(n2p), check, shift=shift).result == 0


@EACH
def test_fault_outside_of_memory_ends_the_run_or_is_a_device(key):
    seen = []

    def look(hw):
        seen.append(hw.translate(1 << 30))
        finish(hw)

    hw = run(key, lambda hw: hw.exit_nested_fault(1 << 30), look)
    if key == ("kvm-6.12", "vmx"):
        assert hw.result == 0 and hw.machine.word(hw.nested_root) & 7 == 7
    else:
        assert (hw.result, seen) == (3, [])


@EACH
def test_an_event_that_an_exit_interrupted_is_delivered_again(key):
    event = 0x80000B0E  # page fault with error code

    def interrupted(hw):
        hw.exit_nested_fault(0x5000)
        if key[1] == "svm":
            hw.machine.set_word(hw.vmcb + 0x88, event | 2 << 32)
        else:
            hw.fields[vmcs.IDT_VECTORING_INFO_FIELD] = event
            hw.fields[vmcs.IDT_VECTORING_ERROR_CODE] = 2

    def check(hw):
        if key[1] == "svm":
            assert hw.machine.word(hw.vmcb + 0xA8) == event | 2 << 32
            hw.machine.set_word(hw.vmcb + 0x88, 0)
        elif key[0] != "virtualbox-7":  # its rows do not read the field
            assert hw.fields[vmcs.VM_ENTRY_INTR_INFO_FIELD] == event
            assert hw.fields[vmcs.VM_ENTRY_EXCEPTION_ERROR_CODE] == 2
        hw.fields[vmcs.IDT_VECTORING_INFO_FIELD] = 0
        finish(hw)

    assert run(key, interrupted, check).result == 0


@EACH
def test_results(key):
    hw = run(key, lambda hw: hw.exit_hlt(0x1234))
    assert (hw.result, hw["rbx"]) == (0, 0x1234)
    assert run(key, lambda hw: hw.exit_shutdown()).result == 2
    hw = run(key, lambda hw: hw.exit_other())
    assert (hw.result, hw["rbx"]) == (3, svm.VMEXIT_RDTSC if key[1] == "svm" else vmx.EXIT_RDTSC)
    assert run(key, lambda hw: hw.exit_io(0x70, 1, True, 0, string=True)).result == 3


@EACH
def test_pages_are_taken_away_after_the_period(key):
    pages = [0x200000 + 0x1000 * i for i in range(5)]
    mapped, steps = faults_in_turn(pages, finish)
    hw = run(key, *steps, unmap_period=4, unmap_pages=2)
    assert hw.result == 0
    gone = mapped[3 if key[1] == "svm" else 4]  # SVM counts the first entry too
    assert sum(gone) < sum(mapped[2 if key[1] == "svm" else 3])
    if key[1] == "vmx":
        assert hw.invalidations == [(hw.nested_root | 0x1E, 1)]


# ------------------------------------------------------------------ exits that the machine has not


def traps_of(key: tuple[str, str], reason: int, **given) -> tuple[ScriptedHardware, list[str]]:
    """One exit of a VMX reason: what L1 executes for it, the VMRESUME included."""
    marks = []

    def start(hw):
        marks.append(len(hw.traps))
        hw.fields[vmcs.GUEST_RFLAGS] = given.get("rflags", 0x202)
        hw.exit(0, reason, 0)

    def last(hw):
        marks.append(len(hw.traps))
        hw.fields[vmcs.GUEST_RFLAGS] = 2  # with interrupts on, HLT would not be the end
        finish(hw)

    hw = run(key, start, last, irq_vector=given.get("irq_vector", 0))
    assert hw.result == 0
    return hw, hw.traps[marks[0] : marks[1]]


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        *((n, "ext_interrupt", vmx.EXIT_EXTERNAL_INTERRUPT) for n, b in PROFILES if b == "vmx"),
        ("kvm-6.12", "irq_window", vmx.EXIT_INTERRUPT_WINDOW),
        ("kvm-2.6.35", "irq_window", vmx.EXIT_INTERRUPT_WINDOW),
        ("kvm-6.12", "preemption_timer", vmx.EXIT_PREEMPTION_TIMER),
    ],
)
def test_paths_of_events_execute_their_row(name, kind, reason):
    _, traps = traps_of((name, "vmx"), reason)
    row = PROFILES[name, "vmx"].rows[kind]
    names = {"R": "vmread", "W": "vmwrite", "I": "vmresume"}
    assert traps == [names[op.kind] for op in row.ops]


def test_an_interrupt_is_passed_on_at_once_or_when_l2_can_take_it():
    kvm = ("kvm-6.12", "vmx")
    injected = PROFILES[kvm].rows["irq_inject"].ops
    hw, traps = traps_of(kvm, vmx.EXIT_EXTERNAL_INTERRUPT, irq_vector=0x30)
    assert len(traps) == len(PROFILES[kvm].rows["ext_interrupt"].ops) + len(injected)
    assert hw.fields[vmcs.VM_ENTRY_INTR_INFO_FIELD] == 0x80000030

    def interrupt(hw):
        hw.fields[vmcs.GUEST_RFLAGS] = 2
        hw.exit(0, vmx.EXIT_EXTERNAL_INTERRUPT, 0)

    def held_back(hw):
        assert hw.fields[vmcs.VM_ENTRY_INTR_INFO_FIELD] == 0
        assert hw.fields[vmcs.CPU_BASED_VM_EXEC_CONTROL] & vmx.CPU_INTR_WINDOW_EXITING
        hw.fields[vmcs.GUEST_RFLAGS] = 0x202
        hw.exit(0, vmx.EXIT_INTERRUPT_WINDOW, 0)

    def taken(hw):
        assert hw.fields[vmcs.VM_ENTRY_INTR_INFO_FIELD] == 0x80000030
        assert not hw.fields[vmcs.CPU_BASED_VM_EXEC_CONTROL] & vmx.CPU_INTR_WINDOW_EXITING
        hw.fields[vmcs.GUEST_RFLAGS] = 2
        finish(hw)

    assert run(kvm, interrupt, held_back, taken, irq_vector=0x30).result == 0


@pytest.mark.parametrize("name", ["kvm-6.12", "xen-4.2x", "virtualbox-7"])
def test_svm_goes_on_after_an_interrupt_of_l1(name):
    def check(hw):
        assert hw.rip == hw.L2_RIP
        finish(hw)

    def interrupt(hw):
        return hw.exit(svm.VMEXIT_INTR, 0, 0)

    assert run((name, "svm"), interrupt, check).result == 0
