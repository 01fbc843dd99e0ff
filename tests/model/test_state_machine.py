"""Random sequences of virtualization instructions, table edits and entries, checked at every step.

L1 edits its nested tables and L2's, its control structures, invalidates or forgets to, and enters L2,
which does the same to its own tables.  After every instruction the invariants hold (``stepping``),
and no translation can be used that the manuals forbid.  A failure shrinks to a short listing.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tests.model.stepping import FOLDER, MEMORY_MB, PAGES, PTES, ROOTS, Machine, image, play
from workbench import features
from workbench.core import layout as lay
from workbench.errors import WorkbenchError
from workbench.scenario import Scenario

L2_PTES = lay.L2_BANK_N1P + PTES
SLOW_EXAMPLES, EXAMPLES = 3000, 250
page = st.sampled_from(PAGES)
root = st.sampled_from(ROOTS)


def nested_entry(backend: str) -> st.SearchStrategy[int]:
    """An entry of L1's nested table: a page of L2's memory, with rights, or nothing."""
    good, protected = (7, 5) if backend == "svm" else (0x37, 0x35)
    flags = st.sampled_from([good, good, protected, 0])
    return st.builds(lambda p, f: lay.L2_BANK_N1P + p | f if f else 0, page, flags)


l2_entry = st.builds(
    lambda p, f: p | f if f else 0, page, st.sampled_from([7, 7, 0x107, 5, 0x105, 0])
)


def edits(backend: str) -> list:
    """L1 writes into a nested table, or into L2's own table."""
    place = st.builds(lambda r, p: r + 0x3000 + (p >> 9), root, page)
    return [
        st.tuples(st.just("store64"), place, nested_entry(backend)),
        st.tuples(st.just("store64"), page.map(lambda p: L2_PTES + (p >> 9)), l2_entry),
        st.tuples(st.just("load"), page.map(lambda p: lay.L2_BANK_N1P + p)),
        st.tuples(st.just("do_invlpg"), page.map(lambda p: lay.L2_BANK_N1P + p)),
        st.tuples(st.just("reload_cr3")),
        st.tuples(st.just("hypercall")),
    ]


def svm_steps() -> st.SearchStrategy[tuple]:
    symbol = image("steps-svm").symbol
    vmcb = st.sampled_from([symbol("vmcb"), symbol("vmcb_b")])
    asid = st.integers(1, 3)

    def put(offset: int, size: int, value) -> st.SearchStrategy[tuple]:
        return st.tuples(st.just(f"store{size}"), vmcb.map(lambda v: v + offset), value)

    enter = st.tuples(st.just("enter_mapped"), vmcb)
    event = st.sampled_from([0, 0, 0x80000040, 0x80000306, 0x80000B0E, 0x80000202, 0x80000440])
    return st.one_of(
        enter, enter, enter,
        st.tuples(st.just("enter"), vmcb),
        *edits("svm"),
        put(0x5C, 8, st.sampled_from([0, 1, 3, 7])),
        put(0x5C, 8, st.sampled_from([1, 3, 7])),
        put(0x58, 32, asid),
        put(0xB0, 64, root),
        put(0xA8, 64, event),
        put(0xC0, 32, st.sampled_from([0, 0xFFFFFFFF])),
        put(0x00, 32, st.sampled_from([0, 0xFFFF])),
        put(0x08, 32, st.sampled_from([0, 1 << 6, 1 << 14])),
        put(0x570, 64, st.sampled_from([2, 0x202])),
        put(0x578, 64, st.just(image("steps-l2").symbol("script"))),
        put(0x4D0, 64, st.sampled_from([0x1D01, 0x0D01])),
        st.tuples(st.just("do_invlpga"), page, st.integers(0, 3)),
        st.tuples(st.just("do_invlpga"), page, asid),
        st.tuples(st.sampled_from(["do_clgi", "do_stgi", "svm_off_and_on"])),
        st.tuples(st.sampled_from(["do_vmload", "do_vmsave"]), vmcb),
    )  # fmt: skip


def vmx_steps() -> st.SearchStrategy[tuple]:
    symbol = image("steps-vmx").symbol
    region = st.sampled_from([symbol("vmcs"), symbol("vmcs_b"), symbol("vmcs_b")])
    eptp = root.map(lambda r: r | 0x1E)

    def put(field: int, value) -> st.SearchStrategy[tuple]:
        return st.tuples(st.just("write_field"), st.just(field), value)

    enter = st.tuples(st.just("enter_mapped"))
    event = st.sampled_from([0, 0x80000040, 0x80000306, 0x80000B0E, 0x80000202])
    return st.one_of(
        enter, enter, enter,
        st.tuples(st.just("enter")),
        *edits("vmx"),
        put(0x201A, eptp),
        put(0x201A, eptp),
        put(0x0000, st.integers(0, 3)),
        put(0x0000, st.integers(1, 3)),
        put(0x401E, st.sampled_from([2, 0x22])),
        put(0x4016, event),
        put(0x4004, st.sampled_from([0, 1 << 6, 1 << 14])),
        put(0x6820, st.sampled_from([2, 0x202])),
        put(0x681E, st.just(image("steps-l2").symbol("script"))),
        put(0x6800, st.sampled_from([0x80010033, 0])),
        put(0x6C16, st.just(symbol("after_l2"))),
        st.tuples(st.just("do_invept"), st.integers(0, 3), eptp),
        st.tuples(st.just("do_invept"), st.integers(1, 2), eptp),
        st.tuples(st.just("do_invvpid"), st.integers(0, 4), st.integers(0, 3), page),
        st.tuples(st.just("do_invvpid"), st.integers(0, 3), st.integers(1, 3), page),
        st.tuples(st.sampled_from(["do_vmclear", "do_vmptrld"]), region),
        st.tuples(st.just("do_vmptrst")),
        st.tuples(st.just("read_field"), st.sampled_from([0x4402, 0x681E, 0x1234])),
        st.tuples(st.just("vmx_off_and_on")),
    )  # fmt: skip


l2_steps = st.one_of(
    st.tuples(st.sampled_from(["l2_load", "l2_call", "l2_invlpg"]), page),
    st.tuples(st.sampled_from(["l2_load", "l2_call"]), page),
    st.tuples(st.just("l2_store"), page.map(lambda p: p + 8), st.just(0xC3)),
    st.tuples(st.just("l2_store"), page.map(lambda p: PTES + (p >> 9)), l2_entry),
    st.tuples(
        st.sampled_from(
            ["l2_reload_cr3", "l2_toggle_pge", "l2_cpuid", "l2_hypercall", "l2_out", "l2_rdmsr",
             "l2_ud", "l2_int", "l2_foreign"]
        )
    ),
    st.tuples(st.sampled_from(["l2_cpuid", "l2_hypercall", "l2_reload_cr3"])),
)  # fmt: skip


KEPT = {"l0_page_size": ("4k",), "l1_page_size": ("4k",)}
"""Values that the watcher's arithmetic depends on."""


def any_features(backend: str) -> st.SearchStrategy[dict]:
    """Every feature of the catalogue at a default or any other value."""
    return st.fixed_dictionaries(
        {}, optional={
            f.id: st.sampled_from(KEPT.get(f.id, f.values_on(backend)))
            for f in features.applicable(backend)
        },
    )  # fmt: skip


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
    },
)  # fmt: skip


def machine_test(backend: str, examples: int):
    steps = {"svm": svm_steps, "vmx": vmx_steps}[backend]()

    @settings(
        max_examples=examples, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(
        chosen=any_features(backend), l1=st.lists(steps, min_size=1, max_size=30),
        l2=st.lists(l2_steps, max_size=30), given_sources=sources,
    )  # fmt: skip
    def test(chosen, l1, l2, given_sources):
        check(backend, chosen, l1, l2, given_sources)

    return test


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_no_sequence_breaks_an_invariant(backend):
    machine_test(backend, EXAMPLES)()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_thousands_of_sequences_break_no_invariant(backend):
    machine_test(backend, SLOW_EXAMPLES)()
