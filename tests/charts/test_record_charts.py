"""Charts of the record: what they draw is what the table says."""

import math

import pandas as pd
import pytest

from workbench import charts
from workbench.errors import ResultError

ROWS = pd.DataFrame({
    "id": ["one", "two", "three"], "processor": ["Nehalem"] * 3, "predicted": [50e3, 20e3, math.nan],
    "low": [40e3, 10e3, math.nan], "high": [60e3, 30e3, math.nan],
    "measured": [55e3, 40e3, math.nan], "error": [50 / 55 - 1, -0.5, math.nan],
    "counted": [True, False, False], "scenario": ["a", "b", ""],
})  # fmt: skip
TREND = pd.DataFrame({
    "processor": ["Nehalem", "Zen 3"], "assist": ["none", "vGIF"],
    "single": [2500.0, 2000.0], "single_low": [2000.0, 1500.0], "single_high": [3000.0, 2500.0],
    "nested": [50e3, 10e3], "nested_low": [40e3, 8e3], "nested_high": [60e3, 12e3],
    "measured_single": [2505.0, math.nan], "measured_nested": [58e3, math.nan],
})  # fmt: skip
DEPTH = pd.DataFrame({
    "level": [1, 2, 3], "cycles": [1e3, 2e4, 4e5], "exits": [1.0, 10.0, 100.0],
    "ratio": [math.nan, 20, 20], "simulated": [1e3, 2e4, math.nan],
})  # fmt: skip


@pytest.mark.parametrize("size", ["panel", "paper"])
def test_predictions_show_each_row_with_a_prediction(size):
    figure = charts.predictions(ROWS, size)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["one  (Nehalem)", "two  (Nehalem)"]
    said = charts.alt_text(figure)
    assert "one: predicted 50k, measured 55k (-9%)" in said and "three" not in said
    figure_without = charts.predictions(ROWS.iloc[2:], size)
    assert "No row" in charts.alt_text(figure_without)


def test_the_trend_and_the_depth_say_their_numbers():
    assert "Nehalem: 2.5k single-level, 50k nested" in charts.alt_text(charts.trend(TREND))
    assert charts.depth(DEPTH).axes[0].lines, "one table needs no label"
    figure = charts.depth({"KVM": DEPTH})
    assert "KVM: L1 1k, L2 20k, L3 400k" in charts.alt_text(figure)
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log"]


def test_the_same_table_gives_the_same_bytes():
    assert charts.to_svg(charts.predictions(ROWS)) == charts.to_svg(charts.predictions(ROWS))


def test_another_table_is_a_clear_error():
    for draw in (charts.predictions, charts.trend):
        with pytest.raises(ResultError, match="has no column"):
            draw(DEPTH)
