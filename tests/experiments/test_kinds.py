"""Kinds of charts that experiments use: what is drawn equals the frame, and the bytes are stable."""

import pandas as pd
import pytest
from matplotlib.container import BarContainer

from workbench import charts
from workbench.charts.kinds import KINDS

LABELS = charts.Labels("T", "rate", "work", "cycles", "note")
ROWS = pd.DataFrame(
    {
        "panel": "SVM",
        "x": [1, 1, 2, 2, 3, 3],
        "x_end": [2, 2, 3, 3, 4, 4],
        "y": ["a", "b"] * 3,
        "series": ["old", "new"] * 3,
        "value": [10, 8, 11, 9, 12, 13],
        "low": [9, 7, 10, 8, 11, 12],
        "high": [11, 9, 12, 10, 13, 14],
    }
)
OLD, NEW = [10, 11, 12], [8, 9, 13]


def drawn(kind, frame=ROWS, **more):
    return charts.experiment(frame, kind, LABELS, [], **more).axes[0]


def bars(axes):
    boxes = [box for box in axes.containers if isinstance(box, BarContainer)]
    return [[bar.get_height() for bar in box] for box in boxes]


def test_lines_equal_the_frame():
    axes = drawn("lines")
    assert [list(line.get_ydata()) for line in axes.lines] == [OLD, NEW]
    assert axes.get_xlabel() == "rate" and axes.get_ylabel() == "cycles"


def test_bars_equal_the_frame_and_whiskers_its_bounds():
    axes = drawn("bars")
    assert bars(axes) == [OLD, NEW]
    (whiskers, *_) = [c for c in axes.collections if len(c.get_segments()) == 3]
    ends = [[float(end) for end in segment[:, 1]] for segment in whiskers.get_segments()]
    assert ends == [[9, 11], [10, 12], [11, 13]]


def test_stacked_bars_stand_on_each_other_and_say_the_sum():
    axes = drawn("stacked")
    assert bars(axes) == [OLD, NEW]
    assert [bar.get_y() for bar in axes.containers[1]] == OLD
    assert [text.get_text() for text in axes.texts] == ["18.0", "20.0", "25.0"]


def test_a_distribution_rises_from_bin_to_bin_with_its_percentiles_marked():
    frame = pd.DataFrame({"panel": "SVM", "series": "old", "x": [64, 80, 128],
                          "x_end": [80, 96, 160], "value": [20.0, 60.0, 100.0]})  # fmt: skip
    axes = drawn("distribution", frame)
    curve = next(line for line in axes.lines if line.get_label() == "old")
    assert curve.get_xdata().tolist() == [64, 80, 80, 96, 128, 160]
    assert curve.get_ydata().tolist() == [0, 20, 20, 60, 60, 100]
    marks = [line.get_xydata()[0] for line in axes.lines if line.get_marker() != "None"]
    assert [y for _, y in marks] == [50, 95, 99]
    assert [x for x, _ in marks] == pytest.approx([92, 156, 159.2])


def test_a_heat_map_prints_its_values_and_hatches_marks():
    axes = drawn("heat", ROWS.assign(mark=["unused", *[""] * 5]))
    assert axes.images[0].get_array().tolist() == [OLD, NEW]
    assert [text.get_text() for text in axes.texts] == ["10", "8", "11", "9", "12", "13"]
    assert [patch.get_hatch() for patch in axes.patches] == ["xxxx"]
    assert axes.get_xlabel() == "rate" and axes.get_ylabel() == "work"


def test_small_numbers_of_a_heat_map_stay_short():
    axes = drawn("heat", ROWS.assign(value=[0.001, 0.027, 0.5, 3.14159, 1400, 0], mark=""))
    assert [text.get_text() for text in axes.texts] == ["≈0", "0.03", "0.50", "3.1", "1.4k"]


def test_groups_of_rows_are_parted_and_named():
    axes = drawn("heat", ROWS.assign(group=["one", "two"] * 3, mark=""))
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.5, 0.5]]
    assert [text.get_text() for text in axes.texts][-2:] == ["one", "two"]


def test_a_heat_map_of_gains_parts_at_zero_and_shows_the_crossover():
    frame = ROWS.assign(value=[-20, 30, 0, 4, 5, 6], mark="")
    line = pd.DataFrame({"panel": ["SVM"], "x": [1.5], "low": [1.25], "high": [3], "y": ["a"]})
    axes = drawn("heat", frame, crossings=line)
    assert axes.images[0].norm.vmin == -axes.images[0].norm.vmax == -30
    assert axes.texts[0].get_text() == "-20" and axes.texts[1].get_text() == "+30"
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[place, -0.5], [place, 0.5]] for place in (0.25, 2.0, 0.5)
    ]


def test_a_panel_for_each_value_of_the_column():
    frame = pd.concat([ROWS, ROWS.assign(panel="VMX", value=1)])
    figure = charts.experiment(frame, "lines", LABELS, [])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["SVM", "VMX"]
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_frame_gives_the_same_bytes(kind):
    first, second = (charts.to_svg(charts.experiment(ROWS, kind, LABELS, [])) for _ in range(2))
    assert first == second
