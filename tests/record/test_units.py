"""Unit costs in the fit, and the legs that their events are counted by."""

import dataclasses

import numpy as np
import pytest

import workbench as wb
from workbench.core.ledger import CAUSES, EVENTS
from workbench.errors import PriceError, ResultError
from workbench.prices import load_preset
from workbench.record import calibration, published
from workbench.record.legs import leg_counts
from workbench.tables import data_table

KVM = {
    "backend": "vmx", "l0": "kvm", "l1": "kvm-6.12", "l2": "cpuid",
    "l2_params": {"iterations": 20, "work": 0},
}  # fmt: skip
VMRESUME = {
    "linux-msrmerge-vmresume": {"vmcs_shadowing": True, "full_vmcs_switch": True},
    "hyperturtle-vmresume": {"vmcs_shadowing": True},
}
"""Unit costs of an emulated VMRESUME, and what L0 does in it."""


def all_units():
    names = published.presets_with_units()
    return {unit.id: (unit, name) for name in names for unit in published.units(name)}


@pytest.mark.parametrize("name", VMRESUME)
def test_the_events_of_a_vmresume_are_those_that_the_kernel_counts(name):
    unit, preset = all_units()[name]
    scenario = wb.Scenario(features=VMRESUME[name], prices=preset, **KVM)
    counted = leg_counts(scenario, "entry_leg", "CPUID")
    assert_counted(unit, counted, preset)


@pytest.mark.parametrize(
    ("name", "leg"), [("svm-vmrun-zen", "entry_leg"), ("svm-vmexit-zen", "exit_leg")]
)
def test_the_events_of_a_virtual_switch_are_those_that_the_kernel_counts(name, leg):
    unit, _ = all_units()[name]
    assists = {"virtual_gif": True, "virtual_vmload_vmsave": True}
    scenario = wb.Scenario(features=assists, prices="zen", **(KVM | {"backend": "svm"}))
    assert_counted(unit, leg_counts(scenario, leg, "CPUID"), "zen")


def test_without_assists_the_instructions_around_vmrun_belong_to_the_figures():
    """A CPUID of KVM's guest has one VMLOAD more than the program that was measured."""
    units = all_units()
    vmload = {"HW_EXIT": 1, "HW_ENTRY": 1, "L0_EXIT_DISPATCH": 1, "L0_INSTRUCTION_EMULATED": 1,
              "L0_GUEST_PAGE_MAPPED": 1, "L0_VMLOAD": 3, "L0_VMSAVE": 1}  # fmt: skip
    whole = per_operation({"backend": "svm", "prices": "piledriver"})
    both = [units[f"svm-{leg}-piledriver"][0].events for leg in ("vmrun", "vmexit")]
    for event in {*both[0], *both[1]}:
        listed = sum(part.get(event, 0) for part in (*both, vmload))
        assert whole[EVENTS.index(event)] == listed, event


def test_the_events_of_a_vmwrite_are_those_that_the_kernel_counts():
    unit, preset = all_units()["hyperturtle-vmwrite"]
    scenario = wb.Scenario(prices=preset, **KVM)
    legs = sum(leg_counts(scenario, leg, "CPUID") for leg in ("exit_leg", "entry_leg"))
    between = per_operation({"prices": preset}) - legs
    exits = between[EVENTS.index("HW_EXIT")]
    assert exits == 7
    assert_counted(
        unit, np.where(np.arange(len(between)) < len(EVENTS), between / exits, 0), preset
    )


def per_operation(changes):
    """Events of a CPUID: what twenty more of them add to a run, guest instructions left out."""
    runs = [
        wb.run(wb.Scenario(**(KVM | changes | {"l2_params": {"iterations": n, "work": 0}})))
        for n in (20, 40)
    ]
    short, long = (result.raw.counts[CAUSES.index("CPUID")] for result in runs)
    counts = (long - short) / 20
    counts[[i for i, name in enumerate(EVENTS) if name.endswith("_INSTRUCTION")]] = 0
    return counts


def assert_counted(unit, counted, preset):
    """The unit lists what was counted, less the hardware's part and events without a price."""
    found = {event: n for event, n in zip(EVENTS, counted, strict=False) if n}
    hardware = {"HW_EXIT", "HW_ENTRY"} - set(unit.events)
    listed = set(unit.events) | hardware | {"L0_SHADOW_VMCS_SYNCED"}
    free = {e for e in found if not load_preset(preset).price(e)}
    assert set(found) - listed <= free | {"PERMISSION_MAP_LOOKUP"}
    assert {e: found[e] for e in unit.events} == unit.events


def test_legs_add_up_to_the_operation():
    scenario = wb.Scenario(features={"vmcs_shadowing": True}, prices="cascadelake", **KVM)
    legs = [leg_counts(scenario, kind, "CPUID") for kind in ("exit_leg", "entry_leg")]
    whole = wb.run(scenario).raw.counts[CAUSES.index("CPUID")] / 20
    for event in ("HW_EXIT", "HW_ENTRY", "L0_VMREAD", "L0_VMWRITE", "L0_VIRTUAL_ENTRY"):
        place = EVENTS.index(event)
        assert legs[0][place] + legs[1][place] == pytest.approx(whole[place], rel=0.05)
    software = leg_counts(scenario, "handling_leg", "CPUID")
    assert software[EVENTS.index("HW_EXIT")] == 0 and (software <= legs[0]).all()


def test_what_is_no_leg_is_said():
    scenario = wb.Scenario(**KVM)
    with pytest.raises(ResultError, match="no leg called"):
        leg_counts(scenario, "arm", "CPUID")
    with pytest.raises(ResultError, match="0 legs of RDMSR"):
        leg_counts(scenario, "exit_leg", "RDMSR")


def test_units_are_single_level_figures_of_known_events():
    rows = {row["id"]: row for row in data_table("published/published").rows}
    found = all_units()
    assert len(found) == len(data_table("published/units").rows)
    for unit, _ in found.values():
        assert float(rows[unit.id]["single_level"]) > 0
        assert set(unit.events) <= set(EVENTS) and unit.measured > 0


def test_a_unit_decides_its_term():
    one = calibration.fit(load_preset("skylake"), [], np.zeros((0, 96)), published.units("skylake"))
    dear = [
        dataclasses.replace(u, measured=2 * u.measured) if u.id == "kvm-ibpb-saved" else u
        for u in published.units("skylake")
    ]
    two = calibration.fit(load_preset("skylake"), [], np.zeros((0, 96)), dear)
    price = "L0_BRANCH_BARRIER"
    assert two.preset.price(price) == pytest.approx(2 * one.preset.price(price), rel=0.01)
    assert "kvm-ibpb-saved" in one.terms.set_index("term").loc["branch barrier", "rows"]


def test_an_event_that_does_not_exist_is_a_clear_error():
    unit = dataclasses.replace(published.units("skylake")[0], events={"L0_VMRAED": 1.0})
    with pytest.raises(PriceError, match="no event called 'L0_VMRAED'"):
        calibration.fit(load_preset("skylake"), [], np.zeros((0, 96)), [unit])
