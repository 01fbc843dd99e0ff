"""Charts: bars equal the tables, files are stable, nothing to show is said in words."""

import numpy as np
import pytest
from matplotlib.container import BarContainer
from synthetic import result

from workbench import charts
from workbench.charts import costs, exits, tlb
from workbench.charts.inputs import labelled
from workbench.charts.interrupts import delivery_rates, waiting
from workbench.core import layout
from workbench.errors import ResultError
from workbench.result import Result
from workbench.scenario import Scenario

CHARTS = {
    "exits": charts.exit_frequency,
    "cost": charts.cost,
    "tlb": charts.tlb_flushes,
    "interrupts": charts.interrupts,
}
EVERY = pytest.mark.parametrize("kind", list(CHARTS))


@pytest.fixture(scope="module")
def four():
    return [result(b, assisted=a) for b in ("svm", "vmx") for a in (False, True)]


@pytest.fixture(scope="module")
def idle():
    scenario = Scenario()
    return Result.from_machine(
        scenario, np.zeros(1, layout.MACHINE), scenario.preset, 0.0, "halted"
    )


def _widths(axes):
    bars = [c for c in axes.containers if isinstance(c, BarContainer)]
    return np.array([[patch.get_width() for patch in bar] for bar in bars])


def test_exit_bars_add_up_to_the_table(svm_result, vmx_result):
    figure = charts.exit_frequency({"A": svm_result, "B": vmx_result})
    for axes, found in zip(figure.axes, (svm_result, vmx_result), strict=True):
        table = exits.frequencies(found)
        drawn = dict(zip([t.get_text() for t in axes.get_yticklabels()],
                         _widths(axes).sum(axis=0), strict=True))  # fmt: skip
        assert drawn == pytest.approx(dict(table.sum(axis=1)))
        after_boot = found.exits[found.exits["cause"] != "BOOT"]
        assert sum(drawn.values()) == pytest.approx(after_boot["per_l2_kinstr"].sum())


def test_cost_bars_add_up_to_cycles_per_operation(svm_result, vmx_result):
    figure = charts.cost([svm_result, vmx_result])
    widths = _widths(figure.axes[0])
    for i, found in enumerate((svm_result, vmx_result)):
        row = found.summary().iloc[0]
        assert widths[:, i].sum() == pytest.approx(row["cycles_per_operation"])
        expected = costs.parts(found)["cycles"].drop("all")
        assert list(widths[:, i]) == pytest.approx(list(expected[expected > 0]))
    assert "operation" in figure.axes[0].get_xlabel()


def test_flush_bars_equal_the_table(svm_result):
    figure = charts.tlb_flushes(svm_result)
    rates = tlb.flush_rates(svm_result)
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    for axes, column in zip(figure.axes, ("flushes", "refills"), strict=True):
        assert list(_widths(axes)[0]) == pytest.approx(list(rates.loc[names, column]))


def test_a_program_without_exits_is_charted_per_thousand_instructions(svm_result, idle):
    assert costs.unit_for([svm_result]) == "operation"
    assert costs.unit_for([svm_result, idle]) == "kinstr"


@EVERY
@pytest.mark.parametrize("size", ["panel", "paper"])
def test_nothing_overlaps_the_edge_and_all_parts_are_there(kind, size, four):
    figure = CHARTS[kind](four, size=size)
    charts.to_png(figure, dpi=figure.dpi)
    width, height = figure.canvas.get_width_height()
    texts = [t for axes in figure.axes for t in [*axes.texts, axes.title, axes.xaxis.label]]
    texts += [
        figure._supxlabel,
        *(label for axes in figure.axes for label in axes.get_yticklabels()),
    ]
    for text in filter(lambda t: t.get_text(), texts):
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1, text.get_text()
        assert box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()
    title = figure.legends[0].get_title().get_text() if figure.legends else figure.get_suptitle()
    assert title and "scenario" in figure._supxlabel.get_text()
    assert all(axes.get_xlabel() for axes in figure.axes)


@EVERY
def test_bars_of_different_meaning_differ_in_hatch_or_lightness(kind, four):
    figure = CHARTS[kind](four)
    looks = set()
    for patch in figure.legends[0].get_patches():
        red, green, blue, _ = patch.get_facecolor()
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        looks.add((patch.get_hatch() or "", round(grey * 6)))
    assert len(looks) == len(figure.legends[0].get_patches())


@EVERY
def test_files_are_the_same_bytes_every_time(kind, svm_result, tmp_path):
    for form in ("svg", "png", "pdf"):
        paths = [charts.save(CHARTS[kind](svm_result), tmp_path / f"{i}.{form}") for i in (1, 2)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    figure = CHARTS[kind](svm_result)
    assert charts.to_svg(figure) == charts.to_svg(figure)


@EVERY
def test_the_svg_carries_its_alternative_text(kind, svm_result):
    figure = CHARTS[kind]({'a <b> & "c"': svm_result})
    text = charts.to_svg(figure)
    assert text.startswith('<svg role="img" aria-label="') and text.rstrip().endswith("</svg>")
    assert "<date>" not in text.lower()
    from xml.etree import ElementTree

    assert ElementTree.fromstring(text).get("aria-label") == charts.alt_text(figure)


@EVERY
def test_nothing_to_show_is_said(kind, idle):
    figure = CHARTS[kind](idle)
    assert "Nothing to show" in charts.alt_text(figure)
    assert charts.to_png(figure, dpi=50)
    if kind != "cost":
        assert "nothing to show" in charts.to_text(kind, idle)


@EVERY
def test_a_result_without_counts_beside_one_with_counts(kind, svm_result, idle):
    figure = CHARTS[kind]({"busy": svm_result, "idle": idle})
    assert charts.to_png(figure, dpi=50)
    assert charts.to_text(kind, {"busy": svm_result, "idle": idle})


@pytest.mark.parametrize("kind", ["exits", "cost", "tlb", "summary"])
@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_text_tables_fit_in_a_mail(kind, number, four):
    chosen = (four * 2)[:number]
    text = charts.to_text(kind, chosen)
    assert max(map(len, text.splitlines())) <= 72
    assert text.count(four[0].provenance["scenario_hash"][:12]) >= 1


def test_the_text_of_the_exits_adds_up(svm_result):
    last = [
        line for line in charts.to_text("exits", svm_result).splitlines() if line.startswith("all")
    ]
    assert float(last[0].split()[-1].replace(",", "")) == pytest.approx(7100 / 6, abs=0.06)


def test_labels_say_what_differs(four):
    assert [label for label, _ in labelled(four)] == [
        "SVM", "SVM, virtual_gif on, virtual_vmload_vmsave on",
        "VMX, vmcs_shadowing off", "VMX, vmcs_shadowing on",
    ]  # fmt: skip
    assert [label for label, _ in labelled([four[0], four[0]])] == ["SVM (1)", "SVM (2)"]
    assert [label for label, _ in labelled([four[0], four[2]])] == ["SVM", "VMX"]
    with pytest.raises(TypeError, match="takes Results"):
        labelled(["x"])
    with pytest.raises(ValueError, match="at least one"):
        labelled([])


@pytest.mark.parametrize(("name", "said"), [("f.gif", "png"), ("f", "png")])
def test_unknown_file_kinds_are_errors(name, said, svm_result, tmp_path):
    with pytest.raises(ResultError, match=said):
        charts.save(charts.cost(svm_result), tmp_path / name)


def test_an_unwritable_path_is_an_error(svm_result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot write"):
        charts.save(charts.cost(svm_result), tmp_path / "file" / "f.png")


def test_unknown_tables_get_close_matches(svm_result):
    with pytest.raises(ResultError, match="cost"):
        charts.to_text("costs", svm_result)


def test_pyplot_is_never_used():
    import subprocess
    import sys

    code = "import workbench.charts, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_interrupt_bars_equal_the_tables(svm_result):
    figure = charts.interrupts(svm_result)
    left, right = figure.axes
    waits, rates = waiting(svm_result), delivery_rates(svm_result)
    assert _widths(left)[0] == pytest.approx(waits.to_numpy())
    assert _widths(right)[0] == pytest.approx(rates.to_numpy())
    total = svm_result.facts["simulated_cycles"]
    assert waits["svm_gif"] == pytest.approx(100 * 100 * 800 / total)
    assert rates.to_dict() == pytest.approx({"L1 interrupt": 1e8 / total, "L1 nmi": 1e6 / total})
    assert "blocked rflags_ie" in charts.alt_text(figure)


def test_latency_bins_and_their_mean(svm_result):
    frame = svm_result.latency
    assert frame.to_dict("records") == [
        {"level": "L1", "kind": "interrupt", "from_cycles": 768, "below_cycles": 896,
         "count": 100, "share": 1.0},
        {"level": "L1", "kind": "nmi", "from_cycles": 0, "below_cycles": 1, "count": 1,
         "share": 1.0},
    ]  # fmt: skip
    assert svm_result.deliveries["latency_cycles"].tolist() == [800, 0]
