"""APIC virtualization, virtual interrupts and virtual NMIs against their twins, on random states."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.arch import svm, vmcs, vmx
from workbench.core.hvm import memory_map as mm
from workbench.core.layout import ST_FAULT, ST_OK, ST_VMEXIT
from workbench.core.units import entry
from workbench.geometry import load_tlb_geometry
from workbench.machine import SimulatedMachine

from ..oracle import vapic as oracle

PAGE = 0x4000_2000
"""The virtual-APIC page, in L1's memory."""
FLAG = st.booleans()
VECTOR = st.integers(16, 255)
ICR_VALUES = st.one_of(
    st.integers(16, 255).map(lambda v: 1 << 18 | v),
    st.integers(0, (1 << 32) - 1),
    st.builds(lambda v, bit: (1 << 18 | v) ^ 1 << bit, st.integers(0, 255), st.integers(0, 31)),
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just(oracle.TPR), st.integers(0, 255)),
        st.tuples(st.just(oracle.EOI), st.just(0)),
        st.tuples(st.just(oracle.ICR), ICR_VALUES),
        st.tuples(st.sampled_from([oracle.ICR_HIGH, 0x320, 0x380, 0xF0]), st.integers(0, 1 << 31)),
        st.tuples(st.just(-1), st.just(0)),
    ),
    max_size=25,
)


@cache
def machine(backend: str) -> SimulatedMachine:
    made = SimulatedMachine(backend, 4 << 20, 4 << 20, load_tlb_geometry("Nehalem"))
    made.record["hw"]["guest"] = 1
    made.record["level"] = 2
    made.record["hw"]["vmcx"] = mm.VMCX02_MA
    return made


def word(made: SimulatedMachine, offset: int) -> int:
    at = made.bank_offset(1) + (PAGE & 0x3FFF_FFFF) + offset
    return int.from_bytes(made.ram[at : at + 4].tobytes(), "little")


def put(made: SimulatedMachine, offset: int, value: int) -> None:
    at = made.bank_offset(1) + (PAGE & 0x3FFF_FFFF) + offset
    made.ram[at : at + 4] = list((value & 0xFFFF_FFFF).to_bytes(4, "little"))


def put_vectors(made: SimulatedMachine, register: int, vectors: set[int]) -> None:
    for i in range(8):
        bits = sum(1 << (v & 31) for v in vectors if v >> 5 == i)
        put(made, register + 16 * i, bits)


def vectors_of(made: SimulatedMachine, register: int) -> set[int]:
    words = [word(made, register + 16 * i) for i in range(8)]
    return {32 * i + b for i, w in enumerate(words) for b in range(32) if w >> b & 1}


def load(made: SimulatedMachine, v: oracle.VirtualApic) -> None:
    """Enter with the state of the twin in the page and in the VMCS."""
    m, base = made.record, mm.VMCX02_MA // 8 + vmcs.DATA_OFFSET // 8
    put(made, 0x80, v.tpr)
    put_vectors(made, 0x200, v.requested)
    put_vectors(made, 0x100, v.in_service)
    made.words[base + vmcs.SLOT_VIRTUAL_APIC_PAGE_ADDR] = PAGE
    made.words[base + vmcs.SLOT_TPR_THRESHOLD] = v.threshold
    made.words[base + vmcs.SLOT_GUEST_INTR_STATUS] = v.rvi | v.svi << 8
    for i in range(4):
        bits = sum(1 << (e & 63) for e in v.eoi_exits if e >> 6 == i)
        made.words[base + vmcs.SLOT_EOI_EXIT_BITMAP0 + i] = bits - (bits >> 63 << 64)
    m["hw"]["proc"] = vmx.CPU_TPR_SHADOW | vmx.CPU_INTR_WINDOW_EXITING * v.window_exiting
    m["hw"]["proc2"] = vmx.CPU2_VIRTUAL_INTR_DELIVERY * v.delivery
    m["hw"]["apic_access"], m["hw"]["vint"] = 0x4000_3000, 0
    address = made.address
    entry("vapic_load")(address, int(m["ram"][0]) + mm.VMCX02_MA + vmcs.DATA_OFFSET)


def after_write(made: SimulatedMachine) -> tuple[int, int] | None:
    status = entry("vapic_after_write")(made.address)
    leave = made.record["exit"]
    assert status in (ST_OK, ST_VMEXIT)
    return (int(leave["code"][0]), int(leave["info1"][0])) if status == ST_VMEXIT else None


@settings(max_examples=300, deadline=None)
@given(
    requested=st.sets(VECTOR, max_size=4), in_service=st.sets(VECTOR, max_size=3),
    eoi_exits=st.sets(VECTOR, max_size=3), tpr=st.integers(0, 255),
    threshold=st.integers(0, 15), delivery=FLAG, window=FLAG, actions=ACTIONS,
)  # fmt: skip
def test_virtual_apic(requested, in_service, eoi_exits, tpr, threshold, delivery, window, actions):
    made = machine("vmx")
    twin = oracle.VirtualApic(
        tpr=tpr, requested=set(requested), in_service=set(in_service),
        rvi=max(requested, default=0), svi=max(in_service, default=0), threshold=threshold,
        eoi_exits=set(eoi_exits | in_service if tpr & 1 else eoi_exits), delivery=delivery,
        window_exiting=window,
    )  # fmt: skip
    load(made, twin)
    expected = twin.enter()
    assert (after_write(made) if not delivery else None) == expected
    hw = made.record["hw"]
    for offset, value in actions:
        if offset < 0:
            if twin.recognized:
                assert entry("vapic_deliver")(made.address) == ST_FAULT
                assert int(made.record["exc"]["vector"][0]) == twin.deliver()
            continue
        put(made, offset, value)
        made.record["irq"]["apic_write"] = 1 + offset
        assert after_write(made) == twin.write(offset, value)
        assert word(made, 0x80) == twin.tpr
        if delivery:
            found = (int(hw["rvi"][0]), int(hw["svi"][0]), word(made, 0xA0), bool(hw["vint"][0]))
            assert found == (twin.rvi, twin.svi, twin.ppr, twin.recognized)
            assert vectors_of(made, 0x200) == twin.requested
            assert vectors_of(made, 0x100) == twin.in_service


@pytest.mark.parametrize("bit", range(32))
def test_only_a_plain_self_ipi_is_virtualized(bit):
    made, twin = machine("vmx"), oracle.VirtualApic()
    load(made, twin)
    command = (1 << 18 | 0x61) ^ 1 << bit
    put(made, oracle.ICR, command)
    made.record["irq"]["apic_write"] = 1 + oracle.ICR
    assert after_write(made) == twin.write(oracle.ICR, command)
    assert vectors_of(made, 0x200) == twin.requested


@settings(max_examples=400, deadline=None)
@given(
    offset=st.one_of(st.integers(0, 4095), st.integers(0, 0x3F).map(lambda n: n * 16)),
    size=st.sampled_from([1, 2, 4, 8]), kind=st.sampled_from(["read", "write", "fetch"]),
    shadow=FLAG, registers=FLAG, delivery=FLAG, delivering=FLAG,
)  # fmt: skip
def test_apic_access_page(offset, size, kind, shadow, registers, delivery, delivering):
    made = machine("vmx")
    m = made.record
    m["hw"]["vapic"] = PAGE if shadow else -1
    m["hw"]["proc2"] = (
        vmx.CPU2_APIC_REGISTER_VIRT * registers | vmx.CPU2_VIRTUAL_INTR_DELIVERY * delivery
    )
    m["access_bytes"], m["delivering"], m["pending"] = size, delivering, 0
    m["irq"]["apic_write"] = 0
    write = kind == "write"
    host = entry("vapic_page_access")(made.address, offset, write, kind == "fetch")
    m["delivering"] = 0
    served = shadow and kind != "fetch" and not delivering
    if served and oracle.virtualized(offset, size, write, registers, delivery):
        page = int(m["ram"][0]) + made.bank_offset(1) + (PAGE & 0x3FFF_FFFF)
        assert host == page + offset and not m["pending"][0]
        assert int(m["irq"]["apic_write"][0]) == (1 + (offset & ~15) if write else 0)
        return
    access = 3 if delivering else {"read": 0, "write": 1, "fetch": 2}[kind]
    assert host == 0 and int(m["pending"][0]) == ST_VMEXIT
    assert int(m["exit"]["code"][0]) == vmx.EXIT_APIC_ACCESS
    assert int(m["exit"]["info1"][0]) == offset | access << 12


# ---------------------------------------------------------------- what the processor takes

SVM_STATES = st.builds(
    oracle.SvmEvents,
    **{f.name: FLAG for f in dataclasses.fields(oracle.SvmEvents) if f.type == "bool"},
    priority=st.integers(0, 15),
    tpr=st.integers(0, 15),
)
VMX_STATES = st.builds(oracle.VmxEvents, **{
    f.name: FLAG for f in dataclasses.fields(oracle.VmxEvents)
})  # fmt: skip


def attend(made: SimulatedMachine, interrupt_flag: bool, shadow: int) -> str:
    m = made.record
    m["cpu"]["sysflags"] = 2 | interrupt_flag << 9
    m["cpu"]["shadow"] = shadow
    m["irq"]["physical"] = m["irq"]["apic_write"] = 0
    m["ledger"]["blocked"], m["irq"]["blocked_reason"] = 0, 0
    status = entry("attend")(made.address)
    if status == ST_VMEXIT:
        return f"exit {int(m['exit']['code'][0])}"
    if status == ST_FAULT:
        return "nmi" if int(m["exc"]["kind"][0]) == 2 else "interrupt"
    return "none"


@settings(max_examples=400, deadline=None)
@given(s=SVM_STATES)
def test_svm_virtual_events(s):
    made = machine("svm")
    hw = made.record["hw"]
    bits = {
        svm.INT_CTL_V_IRQ: s.irq, svm.INT_CTL_V_GIF: s.gif, svm.INT_CTL_V_GIF_ENABLE: s.gif_virtual,
        svm.INT_CTL_V_IGN_TPR: s.ignore_tpr, svm.INT_CTL_V_NMI_PENDING: s.nmi_pending,
        svm.INT_CTL_V_NMI_BLOCKING: s.nmi_masked, svm.INT_CTL_V_NMI_ENABLE: s.nmi_enabled,
        svm.INT_CTL_V_INTR_MASKING: True,
    }  # fmt: skip
    before = sum(1 << bit for bit, on in bits.items() if on) | s.priority << 16
    hw["int_ctl"], hw["int_vector"] = before, 0x77
    hw["icpt"] = 0
    hw["icpt"][0, svm.INTERCEPT_VINTR >> 5] = s.vintr_intercept << (svm.INTERCEPT_VINTR & 31)
    made.record["cpu"]["cr8"] = s.tpr
    expected = oracle.svm_event(s)
    found = attend(made, s.interrupt_flag, int(s.shadow))
    assert found == expected.replace("vintr_exit", f"exit {svm.VMEXIT_VINTR}")
    after = int(hw["int_ctl"][0])
    if expected == "nmi":
        assert after == before & ~(1 << svm.INT_CTL_V_NMI_PENDING) | 1 << svm.INT_CTL_V_NMI_BLOCKING
    elif expected == "interrupt":
        assert after == before & ~(1 << svm.INT_CTL_V_IRQ)
        assert int(made.record["exc"]["vector"][0]) == 0x77
    else:
        assert after == before


@settings(max_examples=300, deadline=None)
@given(s=VMX_STATES)
def test_vmx_windows_and_virtual_interrupts(s):
    made = machine("vmx")
    m = made.record
    m["hw"]["vapic"] = PAGE
    m["hw"]["proc"] = (
        vmx.CPU_NMI_WINDOW_EXITING * s.nmi_window | vmx.CPU_INTR_WINDOW_EXITING * s.interrupt_window
    )
    m["hw"]["vint"], m["hw"]["rvi"] = s.recognized, 0x55
    m["cpu"]["nmi_blocked"] = s.nmi_blocked
    expected = oracle.vmx_event(s)
    found = attend(made, s.interrupt_flag, s.by_sti | s.by_mov_ss << 1)
    names = {"nmi_window": vmx.EXIT_NMI_WINDOW, "interrupt_window": vmx.EXIT_INTERRUPT_WINDOW}
    assert found == (f"exit {names[expected]}" if expected in names else expected)


@pytest.mark.parametrize("virtual", [False, True])
@pytest.mark.parametrize("exiting", [False, True])
def test_iret_unblocks_nmis_as_the_controls_say(virtual, exiting):
    """SDM vol. 3, 26.3: with NMI exiting alone IRET leaves the real blocking as it is."""
    from ..cpu.bare import Bare

    bare = Bare()
    bare.halt_handlers()
    frame = (0x100100, 0x08, 2, 0x300000, 0x10)
    for i, value in enumerate(frame):
        bare.write(0x2FFF00 + 8 * i, value.to_bytes(8, "little"))
    bare.write(0x100100, b"\xf4")
    bare.record["cpu"]["gpr"][0, 4] = 0x2FFF00
    bare.record["hw"]["guest"], bare.record["hw"]["backend"] = 1, 2
    bare.record["hw"]["pin"] = vmx.PIN_NMI_EXITING * exiting | vmx.PIN_VIRTUAL_NMIS * virtual
    bare.record["cpu"]["nmi_blocked"] = 1
    bare.execute(b"\x48\xcf")
    blocked = int(bare.record["cpu"]["nmi_blocked"][0])
    assert blocked == (exiting and not virtual)
