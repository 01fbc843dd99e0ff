"""The experiment on layouts of nested state: its frames say what the runs counted."""

import pytest

import workbench as wb
from workbench.questions.runs import Run
from workbench.questions.state_layouts import fields, forgets, sizes

LAYOUTS = ("generic-2010", "minimal-2010", "merged-2011")


@pytest.fixture(scope="module")
def runs():
    found = []
    for backend in ("svm", "vmx"):
        for layout in LAYOUTS:
            scenario = wb.Scenario(backend=backend, l2="cpuid", l2_params={"iterations": 100},
                                   features={"state_layout": layout}, timeline=0)  # fmt: skip
            found.append(Run(backend, ("cpuid",), layout, wb.run(scenario)))
    return found


def test_cells_are_what_the_patch_s_layout_counted(runs):
    frame = fields(runs)
    for backend in ("svm", "vmx"):
        (result,) = [r.result for r in runs if (r.backend, r.alternative) == (backend, LAYOUTS[0])]
        cell = frame.query("panel == @backend.upper() and y == 'nh_guestmode'").set_index("x")
        seen = result.fields.query("place == 'generic' and field == 'n2_guest'").set_index("event")
        made = seen.at["VMENTRY", "reads"] + seen.at["VMENTRY", "writes"]
        share = made / result.facts["virtual_exits"]
        assert cell.at["virtual entry", "value"] == pytest.approx(share)


def test_a_field_is_unused_exactly_when_no_event_but_the_reset_reads_it(runs):
    frame = fields(runs)
    for (_, _), rows in frame.groupby(["panel", "y"]):
        assert (rows["reads"].sum() == 0) == (rows["mark"] == "unused").all()
        assert (rows["mark"] == "unused").any() == (rows["mark"] == "unused").all()
    unused = set(frame.query("mark == 'unused' and panel == 'VMX'")["y"])
    assert {
        "nh_vm_guestcr3",
        "nh_hostsave",
        "nh_gif",
    } <= unused  # C2; VMX has no use for the others
    used = set(frame.query("mark != 'unused' and panel == 'SVM'")["y"])
    assert {"nh_guest_asid", "nh_hostsave"} <= used


def test_rows_stand_by_their_status_in_the_review(runs):
    for _, rows in fields(runs).groupby("panel"):
        order = list(dict.fromkeys(rows["group"]))
        assert order == ["consensus", "neutral", "disputed"]


def test_sizes_are_those_of_the_tables(runs):
    frame = sizes(runs).set_index(["panel", "x", "series"])["value"]
    totals = wb.layout_totals().set_index(["layout", "backend"])
    for layout in LAYOUTS:
        for backend in ("svm", "vmx"):
            assert (
                frame[("bytes per vcpu", layout, backend.upper())]
                == totals.loc[(layout, backend)]["bytes"]
            )
            hot = frame[("cache lines of the hot path", layout, backend.upper())]
            assert 1 <= hot <= totals.loc[(layout, backend)]["lines"]


def test_only_the_layout_without_the_last_tag_renews_it_at_every_entry(runs):
    renewed = forgets(runs).query("panel == 'tags renewed'").set_index(["x", "series"])["value"]
    for series in ("SVM", "VMX"):
        assert renewed[("minimal-2010", series)] == pytest.approx(1, abs=0.05)
        assert renewed[("merged-2011", series)] < 0.05
