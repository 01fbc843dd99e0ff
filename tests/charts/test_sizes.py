"""Sizes of figures: files have the width of their use, and letters the part of it that they need."""

import re

import pytest
from PIL import Image

import workbench as wb
from workbench import charts
from workbench.charts import sizes
from workbench.cli.figures import write_figures
from workbench.cli.main import main

WIDE = {"paper": (6.3, 8), "column": (3.4, 7), "projector": (7.5, 11)}


@pytest.mark.parametrize("size", WIDE)
def test_files_have_the_width_and_the_dots_of_their_use(size, tmp_path):
    few = wb.Scenario(l2_params={"iterations": 20})
    written = write_figures({"one": few}, tmp_path, ["png", "svg", "pdf"], size=size)
    assert len(written) == 3 * 4 + 1
    width, dots = WIDE[size][0], charts.SIZES[size].dots
    with Image.open(tmp_path / "cost.png") as image:
        assert image.width == pytest.approx(width * dots, abs=1)
    drawn = re.search(r'<svg [^>]*width="([\d.]+)pt"', (tmp_path / "cost.svg").read_text())
    assert float(drawn[1]) == pytest.approx(72 * width, abs=0.5)
    assert rf"/MediaBox [ 0 0 {72 * width:g}".encode() in (tmp_path / "cost.pdf").read_bytes()


def test_the_same_chart_has_larger_letters_for_a_projector(vmx_result):
    fonts = {
        size: charts.cost(vmx_result, size).axes[0].xaxis.label.get_fontsize() for size in WIDE
    }
    assert fonts == {size: points for size, (_, points) in WIDE.items()}


def test_small_print_is_as_wide_as_the_figure():
    words = "workbench " * 60
    lines = {size: sizes.wrapped(words, size).split("\n") for size in WIDE}
    assert len(lines["column"]) > len(lines["projector"]) > len(lines["paper"])


def test_panels_stand_below_each_other_in_a_column(svm_result):
    for size, columns in (("paper", 2), ("column", 1), ("projector", 2)):
        figure = charts.tlb_flushes(svm_result, size)
        assert figure.axes[0].get_subplotspec().get_gridspec().ncols == columns


def test_another_size_is_a_clear_error(svm_result, capsys):
    with pytest.raises(ValueError, match=r"sizes: panel, paper, column, projector"):
        charts.cost(svm_result, "wall")
    with pytest.raises(SystemExit):
        main(["figures", "--size", "wall"])
    assert "projector" in capsys.readouterr().err
