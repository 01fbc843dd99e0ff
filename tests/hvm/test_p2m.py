"""L0's table for L1: what is remembered of a look-up must not outlive a change of the entry."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench import simulate
from workbench.core import units
from workbench.core.layout import N_P2M_LEAVES

PAGE = 4096
L1_MA = 1 << 30


@pytest.fixture(params=["svm", "vmx"])
def table(request):
    """Units on the table of a machine whose L0 uses pages of 4 KB."""
    built = simulate.build(wb.Scenario(backend=request.param, features={"l0_page_size": "4k"}))

    def call(name, *args):
        return int(units.entry(name)(built.address, *args))

    call.changed = lambda: int(built.record["ledger"]["counts"][0].sum())
    return call


def test_a_page_taken_away_after_a_look_up_is_missing_and_then_given_back(table):
    for n1p in (0x5123, 0x5123 + N_P2M_LEAVES * PAGE):  # share what is remembered
        assert table("n1p_to_l0m", n1p) == table("p2m_query", n1p) == L1_MA + n1p
        assert table("p2m_withdraw", n1p, 0) == 1
        assert table("p2m_query", n1p) == -1
        before = table.changed()
        assert table("n1p_to_l0m", n1p) == L1_MA + n1p
        assert table.changed() == before + 1
        assert table("p2m_query", n1p) == L1_MA + n1p


def test_pages_that_share_what_is_remembered_are_told_apart(table):
    pages = [k * N_P2M_LEAVES * PAGE + 0x40 for k in range(5)]
    for n1p in [*pages, *reversed(pages), *pages]:
        assert table("n1p_to_l0m", n1p) == L1_MA + n1p
    assert table("p2m_withdraw", pages[2], 0) == 1
    assert [table("p2m_query", n1p) for n1p in pages] == [
        -1 if n1p == pages[2] else L1_MA + n1p for n1p in pages
    ]


def test_what_l1_does_not_have_is_never_remembered(table):
    for n1p in (1 << 45, 1 << 48, -1, 0x7000_0000_0000, 1 << 45):
        assert table("n1p_to_l0m", n1p) == table("p2m_query", n1p) == -1
