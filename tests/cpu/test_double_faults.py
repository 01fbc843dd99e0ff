"""Two events at once: which become a double fault, which a shutdown (SDM vol. 3, tables 6-4 and 6-5)."""

from __future__ import annotations

import struct

import pytest

from workbench.core import layout as lay
from workbench.core.units import entry

from .bare import CODE, HANDLERS, IDT, STACK, TSS, Bare

DF, TS, NP, SS, GP, PF, VE, CP = 8, 10, 11, 12, 13, 14, 20, 21
UNMAPPED = 64 << 20
CONTRIBUTORY, PAGE_FAULTS = {0, TS, NP, SS, GP, CP}, {PF, VE}
INTERRUPT, NMI, EXCEPTION, SOFTWARE = 0, 2, 3, 4


def expected(first: int, kind: int, second: int) -> str:
    if kind == EXCEPTION:
        if first == DF:
            return "shutdown"
        if first in CONTRIBUTORY and second in CONTRIBUTORY:
            return "double"
        if first in PAGE_FAULTS and second in CONTRIBUTORY | PAGE_FAULTS:
            return "double"
    return "serial"


@pytest.mark.parametrize("second", [NP, PF])
@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize(
    ("first", "kind"),
    [*((vector, EXCEPTION) for vector in range(32) if vector not in (2, 15)), (2, NMI),
     (0x50, INTERRUPT), (0x50, SOFTWARE), (PF, SOFTWARE), (GP, INTERRUPT)],
)  # fmt: skip
def test_a_fault_during_delivery(first, kind, second, injected):
    bare = Bare()
    bare.halt_handlers()
    bare.set(lay.RSP, STACK)
    bare.rip = CODE
    if second == NP:
        bare.write(IDT + 16 * first + 5, b"\x0e")
    else:
        bare.write(TSS + 0x24, struct.pack("<Q", UNMAPPED))
        bare.set_gate(first, HANDLERS + 16 * first, ist=1)
    event = bare.record["exc"]
    event["vector"], event["kind"], event["injected"] = first, kind, injected
    event["has_error"], event["error"], event["length"] = 0, 0, 0
    outcome = entry("deliver_event")(bare.machine.address)
    wanted = expected(first, kind, second)
    if first == second:  # whose own handler is out of order too
        wanted = "double"
    if wanted == "shutdown":
        assert outcome == lay.ST_SHUTDOWN
        return
    assert outcome == lay.ST_BRANCH
    assert bare.vector_taken() == (DF if wanted == "double" else second)
