"""Whose is an exit of L2? By the table of svm_exitcodes.csv, for each personality of L0.

The rule of each exit code is in ``m.route`` (svm_tables).  The intercept bits are those cached from
vmcb12 at VMRUN.  L1's I/O map is read from its memory at the exit; the MSR map, too, unless L0 has
kept a copy of it from VMRUN on (hvm/msr_map_copy.py): then it does not see who writes to it.
"""

from __future__ import annotations

from ....arch import deviations, svm, vmcb
from ...jit import inner, unit
from ...layout import RCX, Machine
from ...ledger import E_L0_BYTE_COPIED, E_L0_MAP_BYTE_READ, P_ROUTING, count, count_field
from ...mmu.physical import host_of
from ...words import ld32, ld64, lshr, st64
from ..memory_map import VMCX01_MA, VMCX02_MA
from ..msr_map_copy import copied_msr_bit, keeps_msr_map_copy
from ..nested_state import hap_enabled, icpt, iopm, msrpm, vintrmask, vmcx12
from ..nested_vcpu import HANDLED_BY_L0, REFLECT_TO_L1
from ..virtual_exit import record_exit
from .common import take_tpr_of_l2
from .current import read_gpr
from .maps import OUT_OF_RANGE, msrpm_position, svm_l1_map_bits
from .tables import R_BIT, R_EXCEPTION, R_IOIO, R_L1, R_MSR, R_PAGE_FAULT, code_index

CR0_TS_MP = 0xA


@inner
def l1_intercepts(m, position):
    """The intercept bit that L1 had in vmcb12 at VMRUN."""
    return lshr(icpt(m, lshr(position, 5)), position & 31) & 1


@inner
def _msr_to_l1(m):
    if not l1_intercepts(m, svm.INTERCEPT_MSR_PROT):
        return HANDLED_BY_L0
    position = msrpm_position(m.cpu.gpr[RCX])
    if position == OUT_OF_RANGE:
        return REFLECT_TO_L1
    if keeps_msr_map_copy(m):
        return copied_msr_bit(m, position + (m.exit.info1 & 1))
    count(m, E_L0_MAP_BYTE_READ, 1)
    return lshr(svm_l1_map_bits(m, msrpm(m), position), m.exit.info1 & 1) & 1


@inner
def _io_to_l1(m):
    if not l1_intercepts(m, svm.INTERCEPT_IOIO_PROT):
        return HANDLED_BY_L0
    info1 = m.exit.info1
    port = lshr(info1, 16) & 0xFFFF
    size = lshr(info1, 4) & 7
    count(m, E_L0_MAP_BYTE_READ, 2 if (port & 7) + size > 8 else 1)
    bits = svm_l1_map_bits(m, iopm(m), port) & ((1 << size) - 1)
    return REFLECT_TO_L1 if bits else HANDLED_BY_L0


@inner
def _decide(m, code):
    index = code_index(code)
    rule = m.route[index]
    if m.sh.active and code == svm.VMEXIT_EXCP_PF:
        return HANDLED_BY_L0  # L0 decides first whether it is its own shadow's
    if rule == R_BIT:
        return l1_intercepts(m, index)
    if rule == R_L1:
        return REFLECT_TO_L1
    if rule == R_MSR:
        return _msr_to_l1(m)
    if rule == R_IOIO:
        return _io_to_l1(m)
    if rule == R_PAGE_FAULT:
        if hap_enabled(m):
            return l1_intercepts(m, index)
        return REFLECT_TO_L1
    if rule == R_EXCEPTION:
        own = ld32(m.ram + VMCX01_MA + vmcb.INTERCEPT_WORD2)
        return HANDLED_BY_L0 if lshr(own, index & 31) & 1 else REFLECT_TO_L1
    return HANDLED_BY_L0


@inner
def _selective(m):
    """A CR0 write that L0 intercepts for itself: is it what L1's selective intercept waits for?

    Then it becomes the exit that L1 would have got.
    """
    e = m.exit
    if e.code != svm.VMEXIT_CR0_WRITE or l1_intercepts(m, svm.INTERCEPT_CR0_SEL_WRITE) == 0:
        return 0
    if m.feat.deviations & deviations.DEV_CR0_SEL_WRITE_MISSED:
        return 0
    h = m.ram + VMCX02_MA
    value = read_gpr(m, h, e.info1) if e.info1 < 0 else e.insn_info
    if (value ^ ld64(h + vmcb.CR0)) & ~CR0_TS_MP == 0:
        return 0
    e.code = svm.VMEXIT_CR0_SEL_WRITE
    return 1


@unit(Machine)
def svm_route(m):
    """1 when the exit of L2 in ``m.exit`` is for L1 (the virtual exit is prepared), else 0."""
    e = m.exit
    if m.feat.deviations & deviations.DEV_EXITINFO1_STORED_EARLY:
        st64(host_of(m, vmcx12(m)) + vmcb.EXIT_INFO_1, e.info1)
        count_field(m, vmcb.FIELD_EXIT_INFO_1, P_ROUTING, 1)
        count(m, E_L0_BYTE_COPIED, 8)
    if vintrmask(m) == 0 and m.feat.deviations & deviations.DEV_V_TPR_NOT_SYNCED == 0:
        take_tpr_of_l2(m)
    if _decide(m, e.code) == HANDLED_BY_L0 and _selective(m) == 0:
        return HANDLED_BY_L0
    record_exit(m, e.code, e.info1, e.info2)
    return REFLECT_TO_L1
