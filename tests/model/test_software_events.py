"""Events that software costs are composed of: counted where the work is done, and nowhere else."""

from __future__ import annotations

import pytest

from tests.model.runs import BACKENDS, SMALL, marginal, simulated
from workbench.core.ledger import COLD_STEPS
from workbench.scenario import Scenario
from workbench.simulate import run

PLACES = ("WALK_FROM_L1_CACHE", "WALK_FROM_L2_CACHE", "WALK_FROM_LLC", "WALK_FROM_MEMORY")


def single(backend, l2):
    """The L2 program as L0's own guest; it ends with HLT."""
    return run(Scenario(backend=backend, l1="none", l2=l2, l2_params=SMALL[l2]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("caches", [True, False])
def test_walk_references_are_those_of_all_places(backend, caches):
    found = simulated(backend, "touch", walk_caches=caches)
    guest, nested = (found.raw.event(f"WALK_REFERENCE_{table}") for table in ("GUEST", "NESTED"))
    places = [found.raw.event(place) for place in PLACES]
    assert sum(places) == guest + nested
    assert found.raw.refill_walks.sum() == found.raw.refill_references.sum()
    if not caches:
        assert places == [0, guest + nested, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_instructions_of_a_short_handler_are_all_cold(backend):
    found = simulated(backend, "cpuid")
    assert marginal(backend, "L1_COLD_INSTRUCTION") == marginal(backend, "L1_INSTRUCTION") > 0
    assert found.raw.event("L1_COLD_INSTRUCTION") <= COLD_STEPS * found.facts["virtual_exits"]


def test_a_long_handler_is_cold_at_its_beginning_only():
    found = simulated("vmx", "cpuid", l1="kvm-6.12", l1_params={"handler_work": 5000})
    cold = found.raw.event("L1_COLD_INSTRUCTION")
    assert cold == COLD_STEPS * (found.facts["virtual_entries"] - 1)
    assert found.raw.event("L1_INSTRUCTION") > 4 * cold


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_guest_without_a_hypervisor_in_between_has_no_cold_handler(backend):
    assert single(backend, "cpuid").raw.event("L1_COLD_INSTRUCTION") == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("l2", "event"), [("msr", "L0_MSR_EMULATED"), ("pio", "L0_DEVICE_EMULATED")]
)
def test_emulation_of_msrs_and_devices_is_counted_per_operation(backend, l2, event):
    one, cpuid = single(backend, l2), single(backend, "cpuid")
    assert one.raw.event(event) >= 50 > cpuid.raw.event(event)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_host_tick_is_one_interrupt_that_l0_handles(backend):
    found = simulated(backend, "cpuid", numbers={"host_tick_cycles": 20_000})
    ticks = found.raw.event("L0_HOST_INTERRUPT_HANDLED")
    assert 0 < ticks <= found.facts["host_ticks"]
    assert simulated(backend, "cpuid").raw.event("L0_HOST_INTERRUPT_HANDLED") == 0


def test_shadow_vmcs_synchronisations_are_counted_with_their_instructions():
    numbers = {"l0": "kvm"}
    plain = simulated("vmx", "cpuid", numbers=numbers)
    shadowed = simulated("vmx", "cpuid", numbers=numbers, vmcs_shadowing=True)
    assert plain.raw.event("L0_SHADOW_VMCS_SYNCED") == 0
    synced = shadowed.raw.event("L0_SHADOW_VMCS_SYNCED")
    assert synced >= shadowed.facts["virtual_exits"] * 2
    loads = shadowed.raw.event("L0_VMPTRLD") - plain.raw.event("L0_VMPTRLD")
    assert loads == 2 * synced


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_of_fields_are_counted_per_copy(backend):
    assert marginal(backend, "L0_FIELD_GROUP_COPIED") >= 3
