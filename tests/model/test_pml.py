"""Page-modification logging as L1 uses it: entries of its log and exits when it is full."""

from __future__ import annotations

from tests.model.runs import simulated

PAGES = 1200


def run(pml: bool, ept_ad: bool = True):
    return simulated(
        "vmx", "touch", {"pages": PAGES, "passes": 2}, ept_ad=ept_ad, pml=pml,
        numbers={"l2_page_size": "4k"},
    )  # fmt: skip


def full_logs(result) -> int:
    return int(result.exits.query("exit == 'EPT_VIOLATION' and handled_by == 'L1'")["count"].sum())


def test_a_full_log_is_an_exit_per_512_pages_that_became_dirty():
    off, on, without = run(False), run(True), run(True, ept_ad=False)
    for result in (off, without):
        assert not {"GUEST_PML_INDEX", "PML_ADDRESS"} & set(result.fields["field"])
    written = on.fields.query("field == 'GUEST_PML_INDEX' and event == 'EMULATION'")["writes"]
    dirtied = int(written.sum())
    assert dirtied >= PAGES
    assert full_logs(on) - full_logs(off) == dirtied // 512
    assert on.stop_code == off.stop_code == 0
