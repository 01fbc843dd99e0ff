"""L2's virtual APIC under L1 ``tick``: what APIC virtualization and virtual NMIs save."""

from __future__ import annotations

import re
import shutil

import pytest

from workbench.guests import catalogue
from workbench.paths import data_dir
from workbench.scenario import Scenario
from workbench.simulate import Run

TICKS = 20
NMI = 1_000_000


def ticking(backend: str, l1: str = "tick", l2: str = "tick", features=None, **numbers):
    """Run L2 ``tick``; its result is in RBX of L1.  L0 offers L1 all that the processor has."""
    numbers.setdefault("l0", "manual")
    scenario = Scenario(
        backend=backend,
        l1=l1,
        l2=l2,
        features=features or {},
        max_instructions=30_000_000,
        **numbers,
    )
    running = Run(scenario)
    while running.advance():
        pass
    result = running.result()
    assert (result.status, result.stop_code) == ("stopped", 0)
    rbx = int(running.machine.record["cpu"]["gpr"][0, 3])
    return result, rbx & 0xFFFF_FFFF, rbx >> 32


def test_xen_offers_no_virtual_interrupts():
    off, on = (ticking("vmx", features={"apicv": state}, l0="xen")[0] for state in (False, True))
    assert exits(on, "MSR_WRITE") == exits(off, "MSR_WRITE")
    assert on.raw.event("APIC_VIRTUALIZED") == 0


def exits(result, name: str, level: str = "L2") -> int:
    frame = result.exits
    return int(frame[(frame.exit == name) & (frame.from_level == level)]["count"].sum())


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_l2_gets_every_tick(backend):
    result, ticks, _ = ticking(backend)
    assert ticks == TICKS
    # three accesses per tick, and the set-up
    name = {"svm": "MSR", "vmx": "MSR_WRITE"}[backend]
    assert 3 * TICKS <= exits(result, name) <= 3 * TICKS + 10
    assert int(result.raw.delivered[2, 0]) == TICKS


def test_apic_virtualization_takes_the_exits_of_tpr_and_eoi_away():
    off, ticks_off, _ = ticking("vmx")
    on, ticks_on, _ = ticking("vmx", features={"apicv": True})
    assert ticks_off == ticks_on == TICKS
    assert exits(off, "MSR_WRITE") - exits(on, "MSR_WRITE") == 3 * TICKS
    assert on.raw.exits.sum() < 0.6 * off.raw.exits.sum()
    assert on.raw.event("APIC_VIRTUALIZED") >= 4 * TICKS > off.raw.event("APIC_VIRTUALIZED") == 0
    assert on.cycles < off.cycles


@pytest.mark.parametrize("features", [{}, {"apicv": True}])
def test_vmx_l2_gets_nmis_and_ticks(features):
    for virtual_nmi in (False, True):
        result, ticks, nmis = ticking(
            "vmx", features={**features, "virtual_nmi": virtual_nmi}, nmi_cycles=NMI
        )
        assert ticks == TICKS
        assert nmis == int(result.raw.delivered[2, 1]) >= 3


def test_virtual_nmi_of_svm_needs_no_intercept_of_iret():
    off, _, nmis_off = ticking("svm", nmi_cycles=NMI)
    on, _, nmis_on = ticking("svm", features={"virtual_nmi": True}, nmi_cycles=NMI)
    assert nmis_off >= 4 and nmis_on >= 4
    assert exits(off, "IRET", "L1") >= 4 and exits(off, "IRET") >= 4
    assert exits(on, "IRET", "L1") == exits(on, "IRET") == 0
    assert on.raw.exits.sum() < off.raw.exits.sum()
    for result in (on, off):
        assert int(result.raw.delivered[1, 1]) >= 4


# ---------------------------------------------------------------- the APIC-access page

ACCESS_PAGE = 0x300000
"""Where L2 of these tests has its APIC (n2p); L1's APIC-access page is the memory behind it."""
PAGE_WRITE = """
        cmp     ecx, 56
        je      page_write
        cmp     ecx, 44
        jne     1f
        READ_FIELD rbx, EXIT_QUALIFICATION
        mov     al, 0x44
        jmp     finish
page_write:
        READ_FIELD rbx, EXIT_QUALIFICATION
        cmp     ebx, APIC_SVR
        je      resume
        mov     eax, [virtual_apic + rbx]
        cmp     ebx, APIC_LVT_TIMER
        jne     2f
        mov     al, OWN_VECTOR
2:      mov     ecx, ebx
        shr     ecx, 4
        add     ecx, 0x800
        xor     edx, edx
        wrmsr
        jmp     resume
1:
"""


def _sub(text: str, pattern: str, new: str, count: int = 1) -> str:
    changed, n = re.subn(pattern, lambda _: new, text, flags=re.M)
    assert n == count, (pattern, n)
    return changed


@pytest.fixture
def page_programs(tmp_path):
    guests = data_dir() / "guests"
    l1 = (guests / "l1/tick-vmx.S").read_text()
    l1 = _sub(
        l1, r"^\.set APIC_VIRTUALIZATION, .*", ".set APIC_VIRTUALIZATION, 1 | 1 << 8 | 1 << 9"
    )
    field = "        WRITE_FIELD VIRTUAL_APIC_PAGE_ADDR, rbx\n"
    extra = (
        f"        mov rbx, [L1_L2_MEMORY]\n        add rbx, {ACCESS_PAGE}\n"
        "        WRITE_FIELD APIC_ACCESS_ADDR, rbx\n"
    )
    l1 = _sub(l1, re.escape(field), field + extra)
    l1 = _sub(l1, r"^virtual_apic_exit:\n", "virtual_apic_exit:\n" + PAGE_WRITE)
    l2 = (guests / "l2/tick.S").read_text()
    for name, register in {
        "TPR": "APIC_TPR", "EOI": "APIC_EOI", "LVT_TIMER": "APIC_LVT_TIMER",
    }.items():  # fmt: skip
        l2 = re.sub(
            rf"WRITE_MSR X2APIC_{name}, (.*)",
            rf"mov dword ptr [{ACCESS_PAGE} + {register}], \1",
            l2,
        )
    l2 = _sub(l2, "        APIC_ON\n", f"        mov dword ptr [{ACCESS_PAGE} + APIC_SVR], 0x1ff\n"
                                        f"        mov dword ptr [{ACCESS_PAGE} + APIC_DIVIDE], 11\n")  # fmt: skip
    count = f"mov dword ptr [{ACCESS_PAGE} + APIC_INITIAL_COUNT], eax"
    l2 = _sub(l2, r"mov     ecx, X2APIC_INITIAL_COUNT\n(.*\n)(.*\n)        wrmsr",
              f"mov     eax, [L2_OWN + 1*8]\n        {count}")  # fmt: skip
    shutil.copy(guests / "l1/minimal-vmx.S", tmp_path)
    (tmp_path / "page-vmx.S").write_text(l1)
    (tmp_path / "page.S").write_text(l2)
    return tmp_path / "page-vmx.S", tmp_path / "page.S"


def test_apic_access_page_with_virtual_interrupts(page_programs):
    l1, l2 = map(str, page_programs)
    result, ticks, _ = ticking("vmx", l1, l2, {"apicv": True})
    assert ticks == TICKS
    # written once each: SVR, divide configuration, timer's vector, its count
    assert exits(result, "APIC_WRITE") == 4
    assert exits(result, "APIC_ACCESS") == 0
    assert int(result.raw.delivered[2, 0]) == TICKS


def test_a_register_that_is_not_virtualized_exits_with_its_offset(page_programs):
    l1, l2 = page_programs
    text = l2.read_text().replace("        sti\n", f"        mov eax, [{ACCESS_PAGE} + 0x390]\n")
    l2.write_text(text)
    scenario = Scenario(
        backend="vmx", l0="manual", l1=str(l1), l2=str(l2), features={"apicv": True}
    )
    running = Run(scenario)
    while running.advance():
        pass
    assert running.result().stop_code == 0x44
    assert int(running.machine.record["cpu"]["gpr"][0, 3]) == 0x390  # read, offset 390
    assert exits(running.result(), "APIC_ACCESS") == 1


# ---------------------------------------------------------------- more ticks than there is time


def storm(backend: str, period: int, **features) -> tuple[Run, int]:
    """L2 ``tick`` that wants to stop after ten ticks; the run, and how many it took."""
    scenario = Scenario(
        backend=backend, l0="manual", l1="tick", l2="tick", l2_params={"ticks": 10, "period": period},
        features=features, max_instructions=2_000_000,
    )  # fmt: skip
    running = Run(scenario)
    while running.advance():
        pass
    ticks = catalogue.find(2, "tick", backend).image().symbols["ticks"]
    return running, int(running.machine.words[running.machine.bank_offset(2) + ticks >> 3])


KINDS = [("svm", {}), ("vmx", {}), ("vmx", {"apicv": True})]


@pytest.mark.parametrize(("backend", "features"), KINDS)
def test_with_enough_time_between_two_ticks_l2_stops_after_ten(backend, features):
    running, ticks = storm(backend, 200_000, **features)
    assert (running.status, ticks) == ("stopped", 10)


@pytest.mark.parametrize("backend", ["svm", "vmx"])
def test_a_period_shorter_than_the_cost_of_a_tick_leaves_l2s_loop_no_instruction(backend):
    """A consequence of the costs: IRET is followed by the tick that is already pending."""
    running, ticks = storm(backend, 50_000)
    assert running.status == "limit"
    assert ticks > 1000, "ten are long over, and the loop has not looked"
    assert running.result().cycles / ticks > 50_000, "cycles that a tick takes"


@pytest.mark.parametrize(("backend", "features"), [KINDS[0], KINDS[2]])
def test_a_period_shorter_than_l1s_own_work_leaves_l2_no_instruction(backend, features):
    """L1's next timer interrupt is pending at its VM entry at the latest, and ends it at once."""
    running, ticks = storm(backend, 10_000, **features)
    facts = running.result().facts
    assert (running.status, ticks) == ("limit", 0)
    assert facts["l1_instructions"] > 1_000_000 > 300 > facts["l2_instructions"]
