"""Random sequences of virtualization instructions, table edits and entries, checked at every step.

L1 edits its nested tables and L2's, its control structures, invalidates or forgets to, and enters L2,
which does the same to its own tables.  After every instruction the invariants hold (``watching``),
and no translation can be used that the manuals forbid.  A failure shrinks to a short listing.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tests.model.stepping import (
    FOLDER,
    MEMORY_MB,
    PAGES,
    PTES,
    ROOTS,
    SECOND_CR3,
    Machine,
    image,
)
from tests.model.watching import Watcher, play
from workbench import features, personality
from workbench.core import layout as lay
from workbench.errors import WorkbenchError
from workbench.machine import TABLES
from workbench.scenario import Scenario
from workbench.simulate import build

L2_PTES = lay.L2_BANK_N1P + PTES
EXAMPLES = {"non": 70, "son": 20, "sos": 20}
SLOW_EXAMPLES = {"non": 3000, "son": 300, "sos": 300}
"""By paging mode."""
page = st.sampled_from(PAGES)
root = st.sampled_from(ROOTS)
Step = st.SearchStrategy[tuple]


def call(name: str | tuple[str, ...], *operands) -> Step:
    """A call of a function, or of one of several; operands are numbers or strategies."""
    names = st.just(name) if isinstance(name, str) else st.sampled_from(name)
    given = [o if isinstance(o, st.SearchStrategy) else st.just(o) for o in operands]
    return st.tuples(names, *given)


def weighted(*groups: tuple[int, list[Step]]) -> Step:
    """One of the groups by weight, then one of its steps."""
    chances = [st.one_of(*steps) for weight, steps in groups for _ in range(weight)]
    return st.sampled_from(chances).flatmap(lambda chosen: chosen)


def nested_entry(backend: str) -> st.SearchStrategy[int]:
    """An entry of L1's nested table: a page of L2's memory, with rights, or nothing."""
    good, protected = (7, 5) if backend == "svm" else (0x37, 0x35)
    flags = st.sampled_from([good, good, protected, 0])
    return st.builds(lambda p, f: lay.L2_BANK_N1P + p | f if f else 0, page, flags)


def l2_entry(direct: bool) -> st.SearchStrategy[int]:
    """An entry of L2's own table: a page, with rights and perhaps global, or nothing."""
    base = lay.L2_BANK_N1P if direct else 0
    flags = st.sampled_from([7, 7, 0x107, 0x67, 5, 0x105, 0])
    return st.builds(lambda p, f: base + p | f if f else 0, page, flags)


def l2_root(direct: bool) -> st.SearchStrategy[int]:
    """One of L2's two roots, as L2 writes it into CR3."""
    base = lay.L2_BANK_N1P if direct else 0
    return st.sampled_from([base + TABLES, base + SECOND_CR3])


def edits(backend: str, direct: bool) -> list[Step]:
    """L1 writes into a nested table, where it has one, or into L2's own table."""
    place = st.builds(lambda r, p: r + 0x3000 + (p >> 9), root, page)
    edit = call("store64", place, nested_entry(backend))
    own = call("store64", page.map(lambda p: L2_PTES + (p >> 9)), l2_entry(direct))
    return [own] if direct else [edit, edit, own]


L1_OWN = [
    call(("load", "do_invlpg"), page.map(lambda p: lay.L2_BANK_N1P + p)),
    call(("reload_cr3", "hypercall")),
]


def svm_steps(direct: bool) -> Step:
    symbol = image("steps-svm").symbol
    vmcb = st.sampled_from([symbol("vmcb"), symbol("vmcb"), symbol("vmcb_b")])
    script = image("steps-l2").symbol("script")

    def put(offset: int, size: int, *values) -> Step:
        value = values[0] if len(values) == 1 else st.sampled_from(values)
        return call(f"store{size}", vmcb.map(lambda v: v + offset), value)

    control = put(0x5C, 8, 1, 3, 3, 7)
    invlpga = call("do_invlpga", page, st.integers(0, 2))
    return weighted(
        (6, [call("enter_mapped", vmcb)]),
        (1, [call("enter", vmcb)]),
        (5, edits("svm", direct)),
        (4, [control, control, invlpga]),
        (2, [put(0x58, 32, 1, 2, 3), put(0x550, 64, l2_root(direct)) if direct else put(0xB0, 64, root)]),
        (1, L1_OWN),
        (1, [
            put(0xA8, 64, 0, 0x80000040, 0x80000306, 0x80000B0E, 0x80000202, 0x80000440),
            put(0xC0, 32, 0, 0xFFFFFFFF), put(0x00, 32, 0, 0xFFFF), put(0x08, 32, 0, 1 << 6, 1 << 14),
            put(0x570, 64, 2, 0x202), put(0x578, 64, st.just(script)), put(0x4D0, 64, 0x1D01, 0xD01),
            call(("do_clgi", "do_stgi", "svm_off_and_on")), call(("do_vmload", "do_vmsave"), vmcb),
        ]),
    )  # fmt: skip


def vmx_steps(direct: bool) -> Step:
    symbol = image("steps-vmx").symbol
    region = st.sampled_from([symbol("vmcs"), symbol("vmcs_b")])
    eptp = root.map(lambda r: r | 0x1E)
    script = image("steps-l2").symbol("script")

    def put(field: int, *values) -> Step:
        value = values[0] if len(values) == 1 else st.sampled_from(values)
        return call("write_field", field, value)

    return weighted(
        (6, [call("enter_mapped")]),
        (1, [call("enter")]),
        (5, edits("vmx", direct)),
        (4, [
            call("do_invept", st.integers(1, 2), eptp), call("do_invept", st.integers(0, 3), eptp),
            call("do_invvpid", st.integers(0, 3), st.integers(1, 3), page),
            call("do_invvpid", st.integers(0, 4), st.integers(0, 3), page),
        ]),
        (2, [put(0x6802, l2_root(direct)) if direct else put(0x201A, eptp), put(0x0000, 1, 2), put(0x0000, 0, 3),
             put(0x401E, *((0, 0x20) if direct else (2, 0x22)))]),
        (1, L1_OWN),
        (1, [
            put(0x4016, 0, 0x80000040, 0x80000306, 0x80000B0E, 0x80000202), put(0x4004, 0, 1 << 6, 1 << 14),
            put(0x6820, 2, 0x202), put(0x681E, st.just(script)), put(0x6800, 0x80010033, 0),
            call(("do_vmclear", "do_vmptrld"), region), call("do_vmptrld", region),
            call("do_vmptrst"), call("vmx_off_and_on"),
            put(0x2012, st.just(symbol("vapic"))), put(0x401C, 0, 1, 8, 15), put(0x0810, 0, 0x40, 0x4000),
            call("toggle_controls", 1 << 21, st.sampled_from([0, 1 << 4, 1 << 8, 1 << 9])),
            call("read_field", st.sampled_from([0x4402, 0x681E, 0x1234])),
        ]),
    )  # fmt: skip


def l2_steps(direct: bool) -> Step:
    return weighted(
        (5, [
            call(("l2_load", "l2_load", "l2_call"), page),
            call("l2_store", page.map(lambda p: p + 8), 0xC3),
        ]),
        (2, [call("l2_store", page.map(lambda p: PTES + (p >> 9)), l2_entry(direct))]),
        (2, [call("l2_invlpg", page), call(("l2_reload_cr3", "l2_toggle_pge")),
             call("l2_set_cr3", l2_root(direct)), call("l2_invpcid", st.integers(0, 4), page)]),
        (3, [call(("l2_cpuid", "l2_hypercall"))]),
        (1, [call(("l2_out", "l2_rdmsr", "l2_ud", "l2_int", "l2_foreign")),
             call("l2_set_tpr", st.sampled_from([0, 1, 8, 15]))]),
    )  # fmt: skip


KEPT = {"l1_page_size": ("4k",), "paging": ()}
"""Values that the watcher's arithmetic depends on; the paging mode is the test's parameter."""


def _possible(backend: str, chosen: dict) -> bool:
    try:
        build(_scenario(backend, chosen, {}))
    except WorkbenchError:  # this L1 does not know the feature
        return False
    return True


@cache
def _values(backend: str) -> dict[str, list]:
    """Every feature of the catalogue, with the values that this L1 can run under."""
    return {
        f.id: [v for v in KEPT.get(f.id, f.values_on(backend)) if _possible(backend, {f.id: v})]
        for f in features.applicable(backend)
    }


def any_features(backend: str) -> st.SearchStrategy[dict]:
    """Every feature at its default or at any other value."""
    values = {name: st.sampled_from(v) for name, v in _values(backend).items() if v}
    return st.fixed_dictionaries({}, optional=values)


def check(backend: str, chosen: dict, l1: list[tuple], l2: list[tuple], sources: dict) -> None:
    try:
        machine = Machine(_scenario(backend, chosen, sources), l1, l2)
    except WorkbenchError:  # features that do not go together, or that this L1 knows nothing of
        reject()
    play(machine)


def _scenario(backend: str, chosen: dict, sources: dict) -> Scenario:
    return Scenario(
        backend=backend, l1=str(FOLDER / f"steps-{backend}.S"), l2=str(FOLDER / "steps-l2.S"),
        features=chosen, l1_memory_mb=MEMORY_MB, l2_memory_mb=MEMORY_MB, l2_page_size="4k",
        max_instructions=200_000, **sources,
    )  # fmt: skip


sources = st.fixed_dictionaries(
    {}, optional={
        "host_tick_cycles": st.sampled_from([10_000, 40_000]),
        "nmi_cycles": st.sampled_from([10_000, 50_000]),
        "asids": st.sampled_from([4, 6, 60]),
        "balloon_period": st.sampled_from([50, 51]),
        "l0": st.sampled_from(personality.L0S),
    },
)  # fmt: skip


def any_deviations(backend: str) -> st.SearchStrategy[dict]:
    """Every deviation as the personality has it, or on, or off."""
    return st.fixed_dictionaries(
        {}, optional={d.id: st.booleans() for d in personality.applicable(backend)}
    )


def several(steps: Step) -> st.SearchStrategy[list[tuple]]:
    """A few dozen steps (a single list would have six on average), that shrink to few."""
    part = st.lists(steps, max_size=15)
    return st.tuples(part, part, part, part, part).map(lambda parts: [s for p in parts for s in p])


def machine_test(backend: str, paging: str, examples: int):
    direct = paging != "non"
    steps = {"svm": svm_steps, "vmx": vmx_steps}[backend](direct)

    @settings(
        max_examples=examples, deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much,
        ],
    )  # fmt: skip
    @given(
        chosen=any_features(backend), l1=several(steps),
        l2=several(l2_steps(direct)), given_sources=sources, deviations=any_deviations(backend),
    )  # fmt: skip
    def test(chosen, l1, l2, given_sources, deviations):
        if direct:  # an L1 that shadows without them would read L2's instructions
            chosen = {n: v for n, v in chosen.items() if n not in ("nrip_save", "decode_assists")}
        chosen = {**chosen, "paging": paging}
        check(backend, chosen, l1, l2, {**given_sources, "deviations": deviations})

    return test


@pytest.mark.parametrize("paging", EXAMPLES)
@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_no_sequence_breaks_an_invariant(backend, paging):
    machine_test(backend, paging, EXAMPLES[paging])()


@pytest.mark.slow
@pytest.mark.parametrize("paging", EXAMPLES)
@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_thousands_of_sequences_break_no_invariant(backend, paging):
    machine_test(backend, paging, SLOW_EXAMPLES[paging])()


# ---------------------------------------------------------------- the watcher itself

FIRST, SECOND = PAGES[:2]
TAKEN_AWAY_BY_TLB_CONTROL = [
    ("enter_mapped", "vmcb", 0),
    ("store64", "", ROOTS[0] + 0x3000 + (FIRST >> 9), lay.L2_BANK_N1P + SECOND | 7),
    ("store8", "vmcb", 0x5C, 3),
    ("enter_mapped", "vmcb", 0),
]


@pytest.mark.parametrize("l0", personality.L0S)
def test_a_refused_vmrun_is_an_entry_and_an_exit(l0):
    vmcb = image("steps-svm").symbol("vmcb")
    without_svme = [("store64", vmcb + 0x4D0, 0xD01), ("enter_mapped", vmcb)]
    machine = Machine(_scenario("svm", {}, {"l0": l0}), without_svme, [])
    play(machine)
    ledger = machine.m["ledger"]
    assert int(machine.m["checks_failed"][0]) == 1
    assert int(ledger["virtual_entries"][0]) == int(ledger["virtual_exits"][0]) == 1


@pytest.mark.parametrize("policy", ["lazy", "eager", "generation"])
def test_the_watcher_sees_what_xen_has_left_reachable_since_2017(policy):
    symbol = image("steps-svm").symbol
    l1 = [
        (name, (symbol(base) if base else 0) + offset, *operands)
        for name, base, offset, *operands in TAKEN_AWAY_BY_TLB_CONTROL
    ]
    l2 = [("l2_load", FIRST), ("l2_cpuid",), ("l2_load", FIRST), ("l2_cpuid",)]
    machine = Machine(_scenario("svm", {"np2m_flush": policy}, {}), l1, l2)
    if policy == "generation":
        with pytest.raises(AssertionError, match="nested p2m: 0x200000 -> n1p 0x40200000"):
            play(machine, forgiving=False)
    else:
        play(machine, forgiving=False)


@pytest.mark.parametrize("other_roots", [True, False])
def test_mov_cr3_of_l2_concerns_its_vpid_with_every_ept_root(other_roots):
    def eptp(index: int) -> tuple:
        return ("write_field", 0x201A, ROOTS[index] | 0x1E)

    l1 = [("enter_mapped",), eptp(1), ("enter_mapped",), eptp(0), ("enter_mapped",)]
    l2 = [
        ("l2_load", FIRST), ("l2_cpuid",),
        ("l2_store", PTES + (FIRST >> 9), SECOND | 7), ("l2_reload_cr3",), ("l2_cpuid",),
        ("l2_load", FIRST), ("l2_cpuid",),
    ]  # fmt: skip
    machine = Machine(_scenario("vmx", {"l2_tag_policy": "kvm"}, {}), l1, l2)
    if other_roots:
        play(machine)
        return
    machine.m["hw"]["tag_span"] = 0  # a processor that forgets about the other roots
    with pytest.raises(AssertionError, match="L2 could use 0x200000 -> n1p 0x40200000"):
        play(machine)


@pytest.mark.parametrize("paging", ["son", "sos"])
@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_the_watcher_sees_what_no_table_of_l2_says_any_more(backend, paging):
    enter = ("enter_mapped", image("steps-svm").symbol("vmcb")) if backend == "svm" else ("enter",)
    l2 = [("l2_load", FIRST), ("l2_cpuid",)]
    machine = Machine(_scenario(backend, {"paging": paging}, {}), [enter], l2)
    watcher = Watcher(machine, forgiving=True)
    while machine.rip != machine.l2.symbol("l2_cpuid") or machine.level == 1:
        assert watcher.step()
    watcher.check(True)
    if paging == "sos":  # a write that L0 has not noticed
        machine.built.write(2, PTES + (FIRST >> 9), bytes(8))
        with pytest.raises(AssertionError, match="is mapped, the guest's tables do not allow it"):
            watcher.check_shadow(2)
    else:  # an INVLPG that the processor has not noticed
        watcher.stale.edit_linear(FIRST, None)
        watcher.stale.invlpg(FIRST)
        with pytest.raises(AssertionError, match="L2 could use 0x200000"):
            watcher.check(True)
