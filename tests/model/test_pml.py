"""Page-modification logging as L1 uses it: entries of its log and exits when it is full."""

from __future__ import annotations

from tests.model.runs import simulated

PAGES = 1200


def run(pml: bool, ept_ad: bool = True, l0: str = "manual", **features: bool):
    return simulated(
        "vmx", "touch", {"pages": PAGES, "passes": 2}, ept_ad=ept_ad, pml=pml,
        numbers={"l2_page_size": "4k", "l0": l0}, **features,
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


def test_kvm_offers_the_log_with_vmcs_shadowing_too():
    """The index that L0 moves reaches L1 with the shadow VMCS at the next virtual exit."""
    for shadowing in (False, True):
        off, on = (run(pml, l0="kvm", vmcs_shadowing=shadowing) for pml in (False, True))
        assert full_logs(on) - full_logs(off) >= PAGES // 512, shadowing
        assert on.serial == off.serial


def test_xen_offers_no_log():
    assert run(True, l0="xen").fingerprint() == run(False, l0="xen").fingerprint()
