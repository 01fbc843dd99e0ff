"""Steps a machine made of calls (``stepping``) and checks it after every instruction.

What happened feeds the oracle of stale translations; the invariants of the model must hold, and
every translation that the running guest could use must be right or one that the manuals allow.
"""

from __future__ import annotations

import numpy as np

from tests.model.stepping import MASK64, PAGES, PTES, ROOTS, Machine
from tests.oracle import shadow
from tests.oracle.stale import Linear, Nested, Stale
from workbench.arch import vmcs
from workbench.core import layout as lay
from workbench.core.hvm import memory_map as mm
from workbench.core.hvm.p2m import LOGGED, TAKEN
from workbench.core.hvm.shadow.l0 import EMULATING
from workbench.core.ledger import EVENTS
from workbench.core.mmu.records import TR_DIRTY, TR_GLOBAL, TR_WRITE

VMCS12_SLOT = {name: getattr(vmcs, f"SLOT_{name}") for name in (
    "EPT_POINTER", "VIRTUAL_PROCESSOR_ID", "SECONDARY_VM_EXEC_CONTROL",
    "CPU_BASED_VM_EXEC_CONTROL", "VIRTUAL_APIC_PAGE_ADDR")}  # fmt: skip
ENABLE_VPID = 1 << 5
USE_TPR_SHADOW = 1 << 21
VMCB_CLEAN = 0xC0


class Watcher:
    """Steps a machine, keeps the oracle, checks the invariants."""

    def __init__(self, machine: Machine, forgiving: bool):
        self.machine, self.m, self.svm = machine, machine.m, machine.svm
        features = machine.scenario.all_features
        keeps_nested = forgiving and features["np2m_flush"] == "generation"
        self.stale = Stale(self.svm, keeps_nested, machine.direct)
        built = machine.built
        base = [built.bank_offset(i) >> 3 for i in range(3)]
        self.places = np.array(
            [base[2] + (PTES >> 3) + (p >> 12) for p in PAGES]
            + [base[1] + (r + 0x3000 >> 3) + (p >> 12) for r in ROOTS for p in PAGES]
        )
        self.seen = np.zeros(0, np.int64)
        self._edits()
        self.labels = {
            (1, machine.l1.symbols[n]): n for n in machine.l1.symbols if n.startswith("at_")
        } | {(2, machine.l2.symbols[n]): n for n in machine.l2.symbols if n.startswith("at_")}
        self.step_number = 0
        self.exits = self.live = -1
        clean = {machine.l1.symbols.get(name, 0) + VMCB_CLEAN for name in ("vmcb", "vmcb_b")}
        self.l1_is_honest = not any(clean & set(step[1:2]) for step in machine.l1_steps)

    # ------------------------------------------------------------ what happened

    def _linear(self, entry: int) -> Linear | None:
        if not entry & 1:
            return None
        return Linear(entry & 0xFFFFFFFFFF000, bool(entry & 2), bool(entry & 0x100))

    def _nested(self, entry: int) -> Nested | None:
        present = entry & 5 == 5 if self.svm else bool(entry & 1)
        return Nested(entry & 0xFFFFFFFFFF000, bool(entry & 2)) if present else None

    def _edits(self) -> None:
        """Entries of the tables that changed, whoever wrote them."""
        now = self.machine.built.words[self.places]
        if len(self.seen) and not (now != self.seen).any():
            return
        for i, value in enumerate(now):
            if len(self.seen) and value == self.seen[i]:
                continue
            entry = int(value) & MASK64
            if i < len(PAGES):
                self.stale.edit_linear(PAGES[i], self._linear(entry))
            else:
                root, page = divmod(i - len(PAGES), len(PAGES))
                self.stale.edit_nested(ROOTS[root], PAGES[page], self._nested(entry))
        self.seen = now

    def _vmcs12(self, name: str) -> int:
        page = self.machine.state("vmcx12_addr")
        return self.machine.word(1, page + vmcs.DATA_OFFSET + 8 * VMCS12_SLOT[name])

    def _note_entry(self, vmcb: int) -> None:
        if self.svm:
            word = self.machine.word
            asid, control = word(1, vmcb + 0x58) & 0xFFFFFFFF, self.control
            self.stale.root = 0 if self.machine.direct else word(1, vmcb + 0xB0) & ~0xFFF
            self.stale.space = asid
            self.stale.tlb_control(asid, control)
            self.stale.enter(asid, self.stale.root)
        else:
            has_vpid = self._vmcs12("SECONDARY_VM_EXEC_CONTROL") & ENABLE_VPID
            vpid = self._vmcs12("VIRTUAL_PROCESSOR_ID") & 0xFFFF if has_vpid else 0
            root = 0 if self.machine.direct else self._vmcs12("EPT_POINTER") & 0xFFFFFFFFFF000
            self.stale.enter(vpid, root)
            if vpid == 0:
                self.stale.without_vpid()

    def _note_instruction(self, label: str, rdi: int, rsi: int, rdx: int) -> None:
        stale = self.stale
        if label in ("at_l2_cr3", "at_l2_set_cr3"):
            stale.mov_cr3()
        elif label == "at_l2_cr4":
            stale.change_pge()
        elif label == "at_l2_invlpg":
            stale.invlpg(rdi)
        elif label == "at_l2_invpcid":
            if self.machine.rip == self.machine.l2.symbol("after_l2_invpcid"):  # else #UD, or #GP
                stale.invpcid(rdi, rsi)
        elif label == "at_invlpga":
            stale.invlpga(rdi, rsi & 0xFFFFFFFF)
        elif label == "at_invept" and not self._failed():
            stale.invept(rsi & 0xFFFFFFFFFF000 if rdi == 1 else None)
        elif label == "at_invvpid" and not self._failed():
            stale.invvpid(rdi, rsi, rdx)

    def _failed(self) -> bool:
        """CF or ZF after a VMX instruction."""
        c = self.m["cpu"]
        return int(c["lf_carry"][0]) < 0 or int(c["lf_zero"][0]) == 0

    def step(self) -> bool:
        """One instruction (or event, or exit with what L0 does about it); False at the end."""
        machine, led = self.machine, self.m["ledger"]
        level, rip = machine.level, machine.rip
        label = self.labels.get((level, rip))
        rdi, rsi, rdx = (machine.register(r) for r in (lay.RDI, lay.RSI, lay.RDX))
        vmcb = machine.register(lay.RAX)
        if label == "at_vmrun":
            self.control = machine.word(1, (vmcb & 0x3FFFFF) + 0x58) >> 32 & 0xFF
        before = int(led["virtual_entries"][0]), int(led["virtual_exits"][0])
        self.run_one()
        entries = int(led["virtual_entries"][0]) - before[0]
        exits = int(led["virtual_exits"][0]) - before[1]
        self._edits()
        if label and entries == 0 and machine.rip != rip and machine.level == level:
            self._note_instruction(label, rdi, rsi, rdx)
        if entries:
            self._note_entry(vmcb)
        if exits and not self.svm and self.stale.space == 0:
            self.stale.without_vpid()
        self.step_number += 1
        self.check(bool(label or entries or exits))
        return not self.machine.run.status

    def run_one(self) -> None:
        self.machine.run.advance(1)

    # ------------------------------------------------------------ invariants

    def check(self, thorough: bool) -> None:
        """The model's invariants; the expensive ones where something has changed."""
        m, state = self.m, self.machine.state
        level = int(m["level"][0])
        assert level in (1, 2)
        assert state("n2_guest") == (level == 2), "level and n2_guest"
        if self.machine.run.status or int(m["cpu"]["shadow"][0]) & EMULATING:
            return  # the end, or L0 is about to execute one instruction for the guest
        in_use = mm.VMCX02_MA if level == 2 else mm.VMCX01_MA
        assert m["hw"]["vmcx"][0] == in_use, "the control structure in use"
        assert not state("vmexit_pending"), "a virtual exit waits while a guest runs"
        assert not state("vmentry_pending"), "a virtual entry waits while a guest runs"
        if self.l1_is_honest:
            assert not m["stale_groups"][0], "L0 called a group of a VMCB clean that it had changed"
        live = int(m["tlb"]["live_all"][0])
        exits = int(m["ledger"]["counts"][0, :, EVENTS.index("HW_EXIT")].sum())
        if thorough or exits != self.exits:
            self.exits = exits
            self.check_counts(exits)
            self.check_tags()
            self.check_shadow(level)
            self.check_virtual_apic(level)
        if thorough or live != self.live or level == 2:
            self.live = live
            self.check_tlb(level)

    def check_counts(self, exits: int) -> None:
        led = self.m["ledger"]
        assert self.machine.count("HW_ENTRY") == exits + 1, "the first entry starts L1"
        assert int(led["exits"].sum()) == exits, "exits handled by L0 + reflected = all"
        assert int(led["exits"][0, 1, :, 1].sum()) == 0, "L1's exits are L0's"
        entries, left = int(led["virtual_entries"][0]), int(led["virtual_exits"][0])
        assert entries - left == self.machine.state("n2_guest"), "virtual entries and exits"
        prices, counts = led["price"][0], led["counts"][0]
        assert int((counts @ prices[: counts.shape[1]]).sum()) == int(led["time"][0]), "time"
        for event in ("VMREAD_SHADOWED", "VMWRITE_SHADOWED", "GIF_VIRTUALIZED",
                      "VMLOAD_VIRTUALIZED", "VMSAVE_VIRTUALIZED"):  # fmt: skip
            assert self.may_happen(event) or self.machine.count(event) == 0, event

    def may_happen(self, event: str) -> bool:
        feature = {"VMREAD": "vmcs_shadowing", "VMWRITE": "vmcs_shadowing", "GIF": "virtual_gif",
                   "VMLOAD": "virtual_vmload_vmsave", "VMSAVE": "virtual_vmload_vmsave"}  # fmt: skip
        return bool(self.machine.scenario.all_features.get(feature[event.split("_")[0]]))

    def check_tags(self) -> None:
        """L1 and L2 have different tags unless the policy shares them."""
        f, core, state = self.m["feat"], int(self.m["tag_core_generation"][0]), self.machine.state
        if f["l2_tag_policy"][0] in (lay.POLICY_OWN, lay.POLICY_XEN_2013) and f["tlb_tagging"][0]:
            if self.m["nv"]["n1_tag_generation"][0] == state("n2_tag_generation") == core:
                assert self.m["nv"]["n1_tag"][0] != state("n2_tag"), "two contexts with one tag"

    def _valid(self) -> np.ndarray:
        tlb = self.m["tlb"][0]
        e = tlb["entries"]
        e = e[(e["shift"] > 0) & (e["tag"] == int(self.m["hw"]["tag"][0]))]
        tag = int(self.m["hw"]["tag"][0])
        base = int(tlb["all_generation"]) << 32
        is_global = (e["rights"] & TR_GLOBAL) != 0
        current = np.where(
            is_global,
            base | int(tlb["global_generation"][tag]),
            base | int(tlb["tag_generation"][tag]),
        )
        return e[e["generation"] == current]

    def check_tlb(self, level: int) -> None:
        """Every cached translation that the running guest could use is right, or legally stale."""
        for e in self._valid():
            va, frame = int(e["page"]) << 12, int(e["frame"])
            writable = bool(e["rights"] & TR_WRITE and e["rights"] & TR_DIRTY)
            if level == 2 and va in PAGES:
                n1p = frame - lay.L2_BANK_MA + lay.L2_BANK_N1P
                assert self.stale.may_use(va, n1p, writable and self.rights_kept()), (
                    f"L2 could use {va:#x} -> n1p {n1p:#x} ({'rw' if writable else 'r'})"
                )
            elif level == 2:
                assert frame == lay.L2_BANK_MA + va, f"L2's page {va:#x} at {frame:#x}"
            else:
                n2p = va - lay.L2_BANK_N1P
                assert frame == (lay.L2_BANK_MA + n2p if n2p >= 0 else lay.L1_BANK_MA + va), (
                    f"L1's page {va:#x} at {frame:#x}"
                )
            self.check_host(frame, writable)
        if level == 2 and not self.machine.direct:
            self.check_np2m()

    def check_shadow(self, level: int) -> None:
        """L0's shadow is the running guest's tables and no more, and can be written by no guest."""
        s = self.m["sh"]
        if not s["active"][0]:
            return
        built = self.machine.built
        shadow.check(built, int(s["cr3"][0]) & MASK64, int(s["roots"][0, level - 1]))
        if self.machine.scenario.all_features["paging"] == "sos":
            assert int(self.m["hw"]["hap_root"][0]) == 0, "shadows, and a nested table"

    def check_virtual_apic(self, level: int) -> None:
        """The processor has L1's virtual-APIC page for L2 if L1 asks for what L0 lends, else none."""
        page = int(self.m["hw"]["vapic"][0])
        if self.svm or level == 1:
            assert page == -1, "a virtual APIC without TPR shadow"
            return
        asked = self._vmcs12("CPU_BASED_VM_EXEC_CONTROL") & USE_TPR_SHADOW
        asked = asked and self.machine.scenario.all_features["apicv"]
        n1p = self._vmcs12("VIRTUAL_APIC_PAGE_ADDR")
        assert page == (lay.L1_BANK_MA + n1p if asked else -1), "the virtual-APIC page"

    def rights_kept(self) -> bool:
        """Are the rights of L1's table in the nested p2m?"""
        return not self.machine.scenario.all_deviations.get("np2m_host_rights")

    def check_host(self, frame: int, writable: bool) -> None:
        """L0 has neither taken the page away nor, if it can be written, write-protected it."""
        n1p = (
            frame - lay.L1_BANK_MA
            if frame < lay.L2_BANK_MA
            else frame - lay.L2_BANK_MA + lay.L2_BANK_N1P
        )
        entry = self.l0_entry(n1p)
        assert not entry & TAKEN, f"L0 has taken n1p {n1p:#x} away"
        assert not (writable and entry & LOGGED), f"L0 logs writes to n1p {n1p:#x}"

    def l0_entry(self, n1p: int) -> int:
        table, shift = mm.HAP_TABLES_MA, 39
        while True:
            entry = self.machine.word(0, table + (n1p >> shift & 511) * 8)
            if shift == 12 or entry & 0x80:
                return entry
            table, shift = entry & 0xFFFFFFFFFF000, shift - 9

    def check_np2m(self) -> None:
        """The nested p2m in use is made of both tables, or legally stale."""
        root = int(self.m["hw"]["hap_root"][0]) & ~0xFFF
        pages = self._np2m_pages(root)
        for gpa, (ma, writable) in pages.items():
            n1p = ma - lay.L2_BANK_MA + lay.L2_BANK_N1P
            assert self.stale.may_nest(
                self.stale.root, gpa, n1p, writable and self.rights_kept()
            ), f"nested p2m: {gpa:#x} -> n1p {n1p:#x} ({'rw' if writable else 'r'})"
            self.check_host(ma, writable)

    def _np2m_pages(self, root: int) -> dict[int, tuple[int, bool]]:
        found = {}
        for gpa in PAGES:
            table, shift = root, 39
            while True:
                entry = self.machine.word(0, table + (gpa >> shift & 511) * 8)
                if not entry & 1:
                    break
                if shift == 12:
                    found[gpa] = entry & 0xFFFFFFFFFF000, bool(entry & 2)
                    break
                assert not entry & 0x80, "L1's tables map 4 KB pages"
                table, shift = entry & 0xFFFFFFFFFF000, shift - 9
        return found


def left_to_hardware(machine: Machine) -> bool:
    """Did L0 end L1 because the processor refused what L0 had not checked, as Xen does?"""
    ended = machine.run.status == "fatal" and int(machine.m["fatal"][0]) == lay.FATAL_BAD_VMCX02
    return ended and machine.scenario.all_deviations.get("entry_checks_left_to_hardware", False)


def play(machine: Machine, limit: int = 3_000, forgiving: bool = True) -> Watcher:
    """Run the lists, checking after every instruction; the message has the lists.

    ``forgiving``: the deviations of L0 that the features ask for are no failures.
    L2 may lose its way (L1 resets its RIP in the middle of a function): then ``limit`` ends it.
    """
    watcher = Watcher(machine, forgiving)
    try:
        while watcher.step() and watcher.step_number < limit:
            pass
        if machine.run.status not in ("", "stopped", "shutdown") and not left_to_hardware(machine):
            m = machine.m
            raise AssertionError(
                f"ended {machine.run.status}: {lay.FATAL[int(m['fatal'][0])]} "
                f"{int(m['fatal_code'][0]):#x}"
            )
    except AssertionError as error:
        where = f"step {watcher.step_number}, level {machine.level}, rip {machine.rip:#x}"
        raise AssertionError(f"{error} ({where}){machine}") from None
    return watcher
