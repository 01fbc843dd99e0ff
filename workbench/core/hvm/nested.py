"""The generic part of nested HVM: from a hardware exit back to a hardware entry.

The hardware leaves a guest (physical layer), L0 decides whose exit it is and serves it or passes
it to L1, and the hardware enters L1 or L2 again.  The back-ends do the same ten operations on their
own control structures: hw_exit, hw_enter (physical layer), route, handle, enter_n2, exit_n2,
initialise (L0's software).  As in Xen, an exit handler only requests an entry to L2 or an exit to
L1 (``vmentry_pending``, ``vmexit_pending``); the switch happens before the next hardware entry.
With ``vmexit_delivery`` = immediate the exit to L1 happens here as soon as a step has asked for it.
"""

from __future__ import annotations

from ...arch import vmx
from ..cpu.nmi import V_NMI_READY, V_NMI_STATE
from ..cpu.sources import idle, schedule
from ..jit import inner, unit
from ..layout import (
    BACKEND_SVM,
    FATAL_BAD_VMCX01,
    FATAL_BAD_VMCX02,
    FATAL_NONE,
    L0_KVM,
    ST_BRANCH,
    ST_EMULATED,
    ST_FATAL,
    ST_FAULT,
    ST_HALT,
    ST_OK,
    ST_REPEAT,
    ST_SHUTDOWN,
    ST_VMEXIT,
    Machine,
)
from ..ledger import (
    AT_HW_ENTRY,
    AT_INTERRUPT,
    AT_L2_EXIT_TO_L1,
    AT_P2M_CHANGE,
    AT_VMENTRY,
    C_BOOT,
    C_RUN,
    E_HW_ENTRY,
    E_HW_EXIT,
    E_L0_EXIT_DISPATCH,
    E_L0_INSTRUCTION_EMULATED,
    E_L0_VMLOAD,
    E_L0_VMSAVE,
    TL_HW_ENTRY,
    TL_HW_EXIT,
    TL_VIRTUAL_ENTRY,
    TL_VIRTUAL_EXIT,
    count,
    count_cold_steps,
    fold_steps,
    note_l1_takes_over,
)
from ..mmu.access import fold_hits
from ..mmu.generation import new_context
from ..structs import i64
from ..timeline import record
from .nested_state import (
    at_event,
    hap_enabled,
    is_n2_guest,
    set_vmentry_pending,
    set_vmexit_pending,
    vmentry_pending,
    vmexit_pending,
)
from .nested_vcpu import REFLECT_TO_L1
from .np2m import np2m_select
from .p2m_script import p2m_scripted_change
from .shadow.pages import shadow_drop_all
from .shadow.switch import shadow_after_exit, shadow_before_entry
from .shadow.vmx import vmx_shadow_inject
from .state_events import begin_event, keep_event
from .svm.clean import all_clean
from .svm.common import svm_inject
from .svm.hw import svm_hw_enter, svm_hw_exit, svm_store_guest
from .svm.intr import V_IRQ, svm_intr_assist
from .svm.l0 import svm_enter_n2, svm_exit_n2, svm_handle, svm_route, svm_set_hap_root
from .svm.tables import code_index
from .tags import tag_for_entry, tags_after_n2_exit
from .virtual_exit import ASKED, ask_exit, exit_asked, recall_vmx_exit
from .vmx.activity import vmx_wait_inactive
from .vmx.hw import vmx_hw_enter, vmx_hw_exit, vmx_store_guest
from .vmx.intr import vmx_intr_assist
from .vmx.l0 import (
    vmx_enter_n2,
    vmx_exit_n2,
    vmx_handle,
    vmx_route,
    vmx_set_hap_root,
    vmx_set_vpid,
)
from .vmx.timer import is_timed

WINDOWS = vmx.CPU_INTR_WINDOW_EXITING | vmx.CPU_NMI_WINDOW_EXITING
"""VMX controls that make the processor watch for the guest to become interruptible."""
MAX_WAITS = 64
"""Events in a row that neither wake an inactive L2 nor are exits for L1."""

# ---------------------------------------------------------------- recording


@inner
def exit_place(m, code):
    """Place of an exit code in the ledger's exit table."""
    return code_index(code) if m.hw.backend == BACKEND_SVM else code & 0x7F


@inner
def _begin_cause(m):
    """An exit of L2 starts a new root cause; L1's exits while it serves one belong to that."""
    led = m.ledger
    if m.level == 2 or led.cause == C_RUN:
        led.cause = m.exit.cause


@inner
def _end_cause(m):
    """L2 runs again (or L1, when it has never started an L2 since boot)."""
    led = m.ledger
    if m.level == 2 or (led.virtual_entries == 0 and led.cause != C_BOOT):
        led.cause = C_RUN


# ---------------------------------------------------------------- back-ends


@inner
def _hw_exit(m):
    if m.hw.backend == BACKEND_SVM:
        svm_hw_exit(m)
        if m.feat.vmcb_clean_bits:
            all_clean(m.ram + m.hw.vmcx)
    else:
        vmx_hw_exit(m)


@inner
def _hw_enter(m):
    return svm_hw_enter(m) if m.hw.backend == BACKEND_SVM else vmx_hw_enter(m)


@inner
def _route(m):
    return svm_route(m) if m.hw.backend == BACKEND_SVM else vmx_route(m)


@inner
def _handle(m):
    return svm_handle(m) if m.hw.backend == BACKEND_SVM else vmx_handle(m)


@inner
def _enter_n2(m):
    return svm_enter_n2(m) if m.hw.backend == BACKEND_SVM else vmx_enter_n2(m)


@inner
def _exit_n2(m):
    return svm_exit_n2(m) if m.hw.backend == BACKEND_SVM else vmx_exit_n2(m)


@inner
def _intr_assist(m):
    """Deliver interrupts and NMIs that wait, or arrange for an exit when they can be."""
    if m.hw.backend == BACKEND_SVM:
        svm_intr_assist(m)
    else:
        vmx_intr_assist(m)


@inner
def _count_entry_and_exit_path(m):
    """What L0 executes around every hardware exit of its own, whatever it was.

    KVM under SVM: VMSAVE of the guest's segments and system-call MSRs, VMLOAD of its own; VMLOAD of
    the guest's before VMRUN (l1_profiles.csv, kvm-6.12).  Xen moves them at context switches only.
    """
    count(m, E_L0_EXIT_DISPATCH, 1)
    if m.feat.l0 == L0_KVM and m.hw.backend == BACKEND_SVM:
        count(m, E_L0_VMSAVE, 1)
        count(m, E_L0_VMLOAD, 2)


@inner
def _watch(m):
    """Must the processor look for a virtual interrupt, window or trap of the entered guest?"""
    if m.debug.armed:
        return 1
    if m.hw.backend == BACKEND_SVM:
        nmi = m.hw.int_ctl & V_NMI_STATE == V_NMI_READY
        return 1 if nmi or m.hw.int_ctl & V_IRQ or m.irq.physical else 0
    return 1 if m.hw.proc & WINDOWS or m.hw.vint or m.irq.apic_write or is_timed(m) else 0


@unit(Machine)
def _choose_np2m(m):
    """L2's nested p2m was emptied, or marked to be: choose again (Xen, nvmx_eptp_update)."""
    root = np2m_select(m, m.nv.np2m_base)
    if m.hw.backend == BACKEND_SVM:
        svm_set_hap_root(m, root)
    else:
        vmx_set_hap_root(m, root)
    return 0


# ---------------------------------------------------------------- entering


@inner
def _leave(m):
    """Carry out the virtual exit that was asked for."""
    at_event(m, AT_L2_EXIT_TO_L1)
    if m.hw.backend != BACKEND_SVM:
        recall_vmx_exit(m)
    code = m.exit.code
    _exit_n2(m)
    if m.vexit[ASKED]:
        m.vexit[ASKED] = 0
    else:
        set_vmexit_pending(m, 0)
    set_vmentry_pending(m, 0)
    m.ledger.virtual_exits += 1
    note_l1_takes_over(m)
    record(m, TL_VIRTUAL_EXIT, code, 0, 2, 1)


@inner
def _enter(m):
    """Carry out the virtual entry that was asked for."""
    at_event(m, AT_VMENTRY)
    set_vmentry_pending(m, 0)
    count_cold_steps(m)
    _enter_n2(m)  # one that fails its checks is an entry and an exit, on both back-ends
    m.ledger.virtual_entries += 1
    record(m, TL_VIRTUAL_ENTRY, 0, 0, 1, 2)
    if m.level == 1:  # refused before vmcb02 was current: no exit is left to be carried out
        m.ledger.virtual_exits += 1
        note_l1_takes_over(m)
        record(m, TL_VIRTUAL_EXIT, m.exit.code, 0, 2, 1)


@inner
def _assist(m):
    at_event(m, AT_INTERRUPT)
    _intr_assist(m)


@inner
def _note_address_space(m):
    """The fast path must not survive a change of what decides about accesses."""
    cpu = m.cpu
    level = m.level
    if (
        m.entered[level, 0] != cpu.cr0
        or m.entered[level, 1] != cpu.cr3
        or m.entered[level, 2] != cpu.cr4
        or m.entered[level, 3] != cpu.efer
        or m.entered[level, 4] != m.hw.tag
    ):
        m.entered[level, 0] = cpu.cr0
        m.entered[level, 1] = cpu.cr3
        m.entered[level, 2] = cpu.cr4
        m.entered[level, 3] = cpu.efer
        m.entered[level, 4] = m.hw.tag
        new_context(m)


@unit(Machine)
def _wait_inactive(m):
    """L2 is in another activity state than active: nothing runs until an event comes.

    ST_OK when L2 is active again or has exited to L1, ST_HALT when no event will come.
    """
    for _ in range(MAX_WAITS):
        if vmx_wait_inactive(m) != ST_OK:
            return ST_HALT
        if m.nv.activity == 0:
            return ST_OK
        _assist(m)
        if exit_asked(m):
            _leave(m)
            return ST_OK
    return ST_HALT


@unit(Machine)
def enter_guest(m):
    """L0 is done: switch if requested, choose the tag, and enter L1 or L2."""
    # 1. interrupts, then the pending virtual exit or entry; a virtual entry that fails its checks
    # may ask for an exit, and so may an interrupt that waited for the switch
    if m.irq.active:
        _assist(m)
        if m.vexit[ASKED]:
            _leave(m)
            _assist(m)
    at_event(m, AT_HW_ENTRY)
    leave = vmexit_pending(m)
    if leave or vmentry_pending(m):
        if leave:
            _leave(m)
        else:
            _enter(m)
        if m.irq.active and exit_asked(m) == 0:
            _assist(m)
        if exit_asked(m):
            _leave(m)
        at_event(m, AT_HW_ENTRY)
    if m.nv.activity and _wait_inactive(m) != ST_OK:
        return ST_HALT
    # 2. L2 may not run on a nested p2m that was emptied, or marked to be
    if m.nv.stale_np2m and is_n2_guest(m) and hap_enabled(m):
        _choose_np2m(m)
    if m.sh.active:
        if shadow_before_entry(m) != ST_OK:
            return ST_FATAL
    # 3. tag and flushes
    tag_for_entry(m)
    if m.hw.backend != BACKEND_SVM:
        vmx_set_vpid(m)
    # 4. the hardware entry
    count(m, E_HW_ENTRY, 1)
    outcome = _hw_enter(m)
    record(m, TL_HW_ENTRY, 0, 0, 0, m.level)
    _end_cause(m)
    if outcome < 0:
        if m.vmx_abort:
            return ST_SHUTDOWN
        if m.fatal == FATAL_NONE:
            m.fatal = FATAL_BAD_VMCX02 if is_n2_guest(m) else FATAL_BAD_VMCX01
            m.fatal_code = m.check
        return ST_FATAL
    _note_address_space(m)
    m.irq.attention = _watch(m)
    schedule(m)
    return ST_FAULT if outcome == ST_FAULT else ST_BRANCH


# ---------------------------------------------------------------- leaving


@unit(Machine)
def l0_exit(m):
    """Serve the hardware exit in ``m.exit`` and enter a guest again.

    Returns ST_BRANCH, ST_FAULT (an event to deliver), or why the machine stops.
    """
    level = m.level
    fold_steps(m)
    fold_hits(m)
    # 1. the physical exit, and L0's common entry path
    _begin_cause(m)
    code = m.exit.code
    place = exit_place(m, code)
    begin_event(m, level, place)
    record(m, TL_HW_EXIT, code, m.exit.info1, level, 0)
    _hw_exit(m)
    if m.sh.active:
        shadow_after_exit(m)
    count(m, E_HW_EXIT, 1)
    _count_entry_and_exit_path(m)
    # 2. whose exit is it
    outcome = ST_OK
    handler = 0
    if is_n2_guest(m):
        tags_after_n2_exit(m)
        if _route(m) == REFLECT_TO_L1:
            if m.hw.backend != BACKEND_SVM:
                ask_exit(m)
            handler = 1
        else:
            keep_event(m)
            outcome = _handle(m)
            handler = exit_asked(m)
    else:
        outcome = _handle(m)
    m.ledger.exits[level, place, handler, m.ledger.cause] += 1
    if m.vexit[ASKED]:
        _leave(m)
    if outcome == ST_HALT and m.irq.active and idle(m):
        outcome = ST_OK
    if outcome != ST_OK:
        return outcome
    if m.sh.emulating:
        return ST_BRANCH
    # 3. what L0 does for reasons of its own
    if m.p2m_countdown:
        m.p2m_countdown -= 1
        if m.p2m_countdown == 0:
            at_event(m, AT_P2M_CHANGE)
            p2m_scripted_change(m)
    return enter_guest(m)


# ---------------------------------------------------------------- emulating one instruction


@inner
def _store_guest(m):
    """The state after the emulated instruction goes where the next entry takes it from."""
    if m.hw.backend == BACKEND_SVM:
        svm_store_guest(m)
    else:
        vmx_store_guest(m)


@unit(Machine, i64)
def l0_emulated(m, status):
    """The instruction that L0 executed for the guest (``shadow_emulate``) ended with ``status``."""
    m.sh.emulating = 0
    m.cpu.shadow = 0
    m.pending = 0
    fold_steps(m)
    fold_hits(m)
    if status == ST_FAULT:
        if m.hw.backend == BACKEND_SVM:
            svm_inject(m, m.exc.vector, m.exc.error, m.exc.has_error)
        else:
            vmx_shadow_inject(m)
    elif status == ST_VMEXIT:
        shadow_drop_all(m)  # not a plain store: let the guest do it itself
    elif status == ST_EMULATED or status == ST_REPEAT:
        count(m, E_L0_INSTRUCTION_EMULATED, 1)
        _store_guest(m)
    else:
        return status
    return enter_guest(m)
