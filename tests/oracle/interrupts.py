"""Slow and obvious readings of Xen's interrupt checks and of the local APIC's priorities."""

from __future__ import annotations

from dataclasses import dataclass, field

NONE = "none"


@dataclass(frozen=True)
class Vcpu:
    """What decides whether an event is delivered: of the guest that runs, and of its nesting."""

    interrupt_flag: bool
    shadow: bool
    nmi_masked: bool
    tpr: int
    n2_guest: bool
    vmexit_pending: bool
    vmentry_pending: bool
    gif: bool = True
    vintrmask: bool = False
    rflagsif: bool = True
    delivery_interrupted: bool = False
    vmswitch_in_progress: bool = False
    event_injected: bool = False


def svm_nested(v: Vcpu, held: bool = True) -> str:
    """nsvm_intr_blocked; a VMRUN on its way blocks too.

    ``held``: what L1 masked with RFLAGS.IF holds this event, as it does with Xen even for an NMI.
    """
    if not v.gif:
        return "svm_gif"
    if v.n2_guest:
        if v.vintrmask and not v.rflagsif and held:
            return "rflags_ie"
        if v.delivery_interrupted and not v.vmexit_pending:
            return "shadow"
    return "rflags_ie" if v.vmexit_pending or v.vmentry_pending else NONE


def vmx_nested(v: Vcpu) -> str:
    """nvmx_intr_blocked."""
    if v.n2_guest:
        busy = v.vmexit_pending or v.vmswitch_in_progress or v.event_injected
        return "rflags_ie" if busy else NONE
    return "rflags_ie" if v.vmentry_pending else NONE


def blocked(v: Vcpu, nested: str, is_nmi: bool, vector: int) -> str:
    """hvm_interrupt_blocked."""
    if nested != NONE:
        return nested
    if not is_nmi and not v.interrupt_flag:
        return "rflags_ie"
    if v.shadow:
        return "shadow"
    if is_nmi:
        return "nmi_iret" if v.nmi_masked else NONE
    return "tpr" if v.tpr // 16 >= vector // 16 else NONE


@dataclass
class LocalApic:
    """Requested and in-service vectors as sets."""

    requested: set[int] = field(default_factory=set)
    in_service: set[int] = field(default_factory=set)
    tpr: int = 0

    def request(self, vector: int) -> None:
        self.requested.add(vector)

    def end_of_interrupt(self) -> None:
        if self.in_service:
            self.in_service.remove(max(self.in_service))

    @property
    def priority(self) -> int:
        """PPR (SDM vol. 3, 11.8.3.1)."""
        service = max(self.in_service, default=0)
        return self.tpr if self.tpr // 16 >= service // 16 else service // 16 * 16

    def deliver(self) -> int | None:
        """The processor is ready: the vector it takes, if any."""
        best = max(self.requested, default=0)
        if best // 16 <= self.priority // 16:
            return None
        self.requested.remove(best)
        self.in_service.add(best)
        return best
