"""Pages that the handler of a generated L1 program touches: they cost where the TLB lost them."""

import pytest

from tests.model.profile_loads import simulated
from workbench.core.ledger import CAUSES, EVENTS
from workbench.scenario import Scenario

PAGES = 17


def misses(backend, pages, count, **features):
    result = simulated(
        Scenario(backend=backend, l0="kvm", l1="kvm-6.12", l2="cpuid", features=features,
                 l1_params={"handler_pages": pages}, l2_params={"iterations": count, "work": 0})
    )  # fmt: skip
    return result.raw.counts[CAUSES.index("CPUID"), EVENTS.index("TLB_MISS")]


def per_cpuid(backend, pages, **features):
    """TLB misses of one CPUID in the steady state."""
    return (misses(backend, pages, 40, **features) - misses(backend, pages, 20, **features)) / 20


def test_a_flush_at_each_switch_makes_each_page_miss_once_per_exit():
    few = per_cpuid("svm", 0)
    # the lowest of them holds the program's parameters, which it reads anyway
    assert few + PAGES - 2 <= per_cpuid("svm", PAGES) <= few + PAGES


def test_with_tags_the_translations_are_still_there():
    assert per_cpuid("vmx", PAGES) == per_cpuid("vmx", 0)


def test_without_tags_they_are_lost_on_vmx_as_well():
    lost = per_cpuid("vmx", PAGES, tlb_tagging=False) - per_cpuid("vmx", 0, tlb_tagging=False)
    assert lost >= PAGES - 2


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_pages_end_with_the_memory(backend):
    scenario = Scenario(backend=backend, l1="kvm-6.12", l2="cpuid", l1_memory_mb=32,
                        l2_memory_mb=16, l1_params={"handler_pages": 24},
                        l2_params={"iterations": 3})  # fmt: skip
    assert simulated(scenario).operations.set_index("cause").loc["CPUID", "operations"] == 3
