"""Figures of every experiment at every size: texts stay apart and inside. Runs them all, so slow."""

import sys
from pathlib import Path

import pytest

import workbench as wb
from workbench import charts

sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("charts", "measure")]

NAMES = sorted(path.stem for path in (wb.data_dir() / "experiments").glob("*.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_text_lies_on_another_or_leaves_the_figure(name):
    from test_look import overlaps

    outcome = wb.experiment(name)
    found = {
        (size, part): overlaps(figure)
        for size in charts.SIZES
        for part, figure in outcome.sized(size).items()
    }
    assert {place: texts for place, texts in found.items() if texts != ([], [])} == {}
