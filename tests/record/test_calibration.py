"""Calibration: sees single-level figures only, stays within bounds, and finds the minimum."""

import dataclasses

import numpy as np
import pytest

from workbench.core.ledger import EVENTS, N_EVENTS
from workbench.errors import PriceError, ResultError
from workbench.prices import load_preset
from workbench.record import calibration, published
from workbench.record.calibration import bounded_least_squares, calibrate, fit
from workbench.tables import Table, data_table


@pytest.fixture(scope="module")
def nehalem(tmp_path_factory):
    from workbench.study.point_store import PointStore

    return calibrate("nehalem", store=PointStore(tmp_path_factory.mktemp("points")))


def _table_with(monkeypatch, change):
    """Let ``published`` read changed tables; ``change`` gets name and row, and returns a row."""

    def read(name):
        table = data_table(name)
        return Table(table.meta, table.columns, tuple(change(name, dict(r)) for r in table.rows))

    monkeypatch.setattr(published, "data_table", read)


def test_nested_figures_do_not_reach_the_fit(monkeypatch, nehalem, tmp_path):
    from workbench.study.point_store import PointStore

    def spoil(name, row):
        if name == "published/published" and row["nested"]:
            row["nested"] = "1"
        return row

    _table_with(monkeypatch, spoil)
    again = calibrate("nehalem", store=PointStore(tmp_path))
    assert again.preset.hash == nehalem.preset.hash


def test_a_single_level_figure_does_reach_it(monkeypatch, nehalem, tmp_path):
    from workbench.study.point_store import PointStore

    def change(name, row):
        if row["id"] == "turtles-rdmsr" and name == "published/published":
            row["single_level"] = "6000"
        return row

    _table_with(monkeypatch, change)
    again = calibrate("nehalem", store=PointStore(tmp_path))
    gained = again.preset.price("L0_MSR_EMULATED") - nehalem.preset.price("L0_MSR_EMULATED")
    assert gained == pytest.approx(6000 - 4647, rel=0.01)


def test_a_nested_row_is_refused():
    case = next(c for c in published.nested() if c.represented)
    for trick in (case, dataclasses.replace(case, fit=True)):
        with pytest.raises(PriceError, match="must not be fitted"):
            fit(load_preset("nehalem"), [trick], np.ones((1, N_EVENTS)))


def test_a_nested_or_recalled_row_cannot_be_marked_for_the_fit(monkeypatch):
    def mark(name, row):
        if name == "published/scenarios" and row["level"] == "nested" and row["measure"]:
            row["fit"] = "y"
        return row

    _table_with(monkeypatch, mark)
    with pytest.raises(ResultError, match="fit = y"):
        published.nested()


def test_only_named_terms_change(nehalem):
    before, after = load_preset("nehalem").frame, nehalem.preset.frame
    changed = set(before["event"][before["value"] != after["value"]])
    named = {event for term in calibration.terms() for event in term.events}
    assert changed and changed <= named
    rows = after[after["event"].isin(changed)]
    assert (rows["kind"] == "derived").all() and rows["note"].str.contains("turtles-").all()


def test_the_rows_of_the_fit_come_out_close(nehalem):
    assert (nehalem.rows["residual"].abs() < 0.02).all()
    assert nehalem.terms["factor"].between(nehalem.terms["low"], nehalem.terms["high"]).all()


def test_a_saved_preset_can_be_loaded(nehalem, tmp_path):
    path = nehalem.save(tmp_path / "mine.csv")
    assert load_preset(str(path)).hash == nehalem.preset.hash
    with pytest.raises(PriceError, match=r"\.csv"):
        nehalem.save(tmp_path / "mine.txt")


def test_a_preset_without_rows_is_a_clear_error(monkeypatch):
    def strip(name, row):
        if name == "published/units":
            row["prices"] = row["prices"].replace("zen2", "")
        return row

    _table_with(monkeypatch, strip)
    with pytest.raises(PriceError, match="no single-level rows"):
        calibrate("zen2")


def test_every_term_is_of_events_that_exist():
    for term in calibration.terms():
        assert set(term.events) <= set(EVENTS) and 0 <= term.low < 1 < term.high


@pytest.mark.parametrize("seed", range(8))
def test_bounded_least_squares_cannot_be_improved_within_the_bounds(seed):
    draw = np.random.default_rng(seed)
    matrix, target = draw.normal(size=(7, 4)), draw.normal(size=7)
    low, high = np.full(4, -0.3), np.full(4, 0.4)
    x = bounded_least_squares(matrix, target, low, high)
    slope = matrix.T @ (matrix @ x - target)
    assert ((x >= low) & (x <= high)).all()
    assert (np.abs(slope[(x > low) & (x < high)]) < 1e-6).all()  # flat where it is free
    assert (slope[x == low] >= -1e-6).all() and (slope[x == high] <= 1e-6).all()  # else uphill
