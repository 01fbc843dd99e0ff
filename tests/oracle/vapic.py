"""A slow and obvious reading of APIC virtualization (SDM vol. 3, chapter 30) and of SVM's virtual events."""

from __future__ import annotations

from dataclasses import dataclass, field

TPR_BELOW_THRESHOLD, EOI_INDUCED, APIC_WRITE = 43, 45, 56
TPR, EOI, ICR, ICR_HIGH = 0x80, 0xB0, 0x300, 0x310


@dataclass
class VirtualApic:
    """The virtual-APIC page as sets, and the guest interrupt status."""

    tpr: int = 0
    requested: set[int] = field(default_factory=set)
    in_service: set[int] = field(default_factory=set)
    rvi: int = 0
    svi: int = 0
    ppr: int = 0
    recognized: bool = False
    threshold: int = 0
    eoi_exits: set[int] = field(default_factory=set)
    delivery: bool = True
    window_exiting: bool = False

    def ppr_virtualization(self) -> None:
        """30.1.3."""
        self.ppr = self.tpr if self.tpr // 16 >= self.svi // 16 else self.svi // 16 * 16

    def evaluate(self) -> None:
        """30.2.1."""
        self.recognized = not self.window_exiting and self.rvi // 16 > self.ppr // 16

    def enter(self) -> tuple[int, int] | None:
        """VM entry; the exit that may come at once (27.7.7), with virtualized APIC accesses."""
        if self.delivery:
            self.ppr_virtualization()
            self.evaluate()
            return None
        return self._threshold()

    def _threshold(self) -> tuple[int, int] | None:
        return (TPR_BELOW_THRESHOLD, 0) if self.tpr // 16 < self.threshold else None

    def write(self, offset: int, value: int) -> tuple[int, int] | None:
        """A write to the page was virtualized: exit (reason, qualification), or None (30.4.3.2)."""
        if offset == TPR:
            self.tpr = value & 0xFF
            if not self.delivery:
                return self._threshold()
            self.ppr_virtualization()
            self.evaluate()
            return None
        if offset == EOI and self.delivery:
            vector = self.svi
            self.in_service.discard(vector)
            self.svi = max(self.in_service, default=0)
            self.ppr_virtualization()
            if vector in self.eoi_exits:
                return EOI_INDUCED, vector
            self.evaluate()
            return None
        if offset == ICR and self.delivery and self._is_self_ipi(value):
            vector = value & 0xFF
            self.requested.add(vector)
            self.rvi = max(self.rvi, vector)
            self.evaluate()
            return None
        return None if offset == ICR_HIGH else (APIC_WRITE, offset)

    @staticmethod
    def _is_self_ipi(command: int) -> bool:
        reserved = command >> 20 or command >> 16 & 3 or command >> 12 & 3
        fixed = command >> 8 & 7 == 0
        edge, to_self = command >> 15 & 1 == 0, command >> 18 & 3 == 1
        level = command >> 14 & 1
        legal = not reserved and fixed and edge and to_self
        return legal and command >> 4 & 15 != 0 and level in (0, 1)

    def deliver(self) -> int:
        """30.2.2."""
        vector = self.rvi
        self.in_service.add(vector)
        self.svi = vector
        self.ppr = vector // 16 * 16
        self.requested.discard(vector)
        self.rvi = max(self.requested, default=0)
        self.recognized = False
        return vector


_REGISTER_WRITES = {
    0x020, 0x080, 0x0B0, 0x0D0, 0x0E0, 0x0F0, 0x280, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350,
    0x360, 0x370, 0x380, 0x3E0,
}  # fmt: skip
_REGISTER_READS = _REGISTER_WRITES | {0x030} | set(range(0x100, 0x280, 0x10))


def virtualized(offset: int, size: int, write: bool, registers: bool, delivery: bool) -> bool:
    """Is an access to the APIC-access page served from the page (30.4.2, 30.4.3)?"""
    register, place = offset & ~15, offset & 15
    if place + size > 4:
        return False
    if registers:
        return register in (_REGISTER_WRITES if write else _REGISTER_READS)
    if delivery:
        return register in (0x080, 0x0B0, 0x300)
    return register == 0x080


@dataclass(frozen=True)
class SvmEvents:
    """What decides about V_NMI and V_IRQ (APM vol. 2, 15.21.4, 15.21.10, 15.33.2)."""

    interrupt_flag: bool
    shadow: bool
    gif_virtual: bool
    gif: bool
    irq: bool
    priority: int
    tpr: int
    ignore_tpr: bool
    vintr_intercept: bool
    nmi_enabled: bool
    nmi_pending: bool
    nmi_masked: bool


def svm_event(s: SvmEvents) -> str:
    """``nmi``, ``vintr_exit``, ``interrupt`` or ``none``."""
    if s.shadow or (s.gif_virtual and not s.gif):
        return "none"
    if s.nmi_enabled and s.nmi_pending and not s.nmi_masked:
        return "nmi"
    if not s.irq or not s.interrupt_flag or not (s.ignore_tpr or s.priority > s.tpr):
        return "none"
    return "vintr_exit" if s.vintr_intercept else "interrupt"


@dataclass(frozen=True)
class VmxEvents:
    """What decides about windows and virtual interrupts (26.2, 30.2.2)."""

    interrupt_flag: bool
    by_sti: bool
    by_mov_ss: bool
    nmi_blocked: bool
    nmi_window: bool
    interrupt_window: bool
    recognized: bool


def vmx_event(s: VmxEvents) -> str:
    """``nmi_window``, ``interrupt_window``, ``interrupt`` or ``none``."""
    if s.nmi_window and not s.nmi_blocked and not s.by_mov_ss:
        return "nmi_window"
    open_ = s.interrupt_flag and not s.by_sti and not s.by_mov_ss
    if s.interrupt_window and open_:
        return "interrupt_window"
    return "interrupt" if s.recognized and open_ else "none"
