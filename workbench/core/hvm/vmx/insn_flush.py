"""INVEPT and INVVPID of L1.

Xen drops all of L2's translations at any INVVPID, KVM one address where that is asked for.  That Xen
checks neither INVVPID's operand nor INVEPT's EPT pointer is a deviation each.
"""

from __future__ import annotations

from ....arch import deviations, vmcs, vmx
from ...cpu.exceptions import UD
from ...jit import inner
from ...layout import POLICY_KVM
from ...ledger import E_L0_FLUSH_EXECUTED, F_INVEPT, F_INVVPID, count
from ...words import lshr
from ..np2m import np2m_invalidate_all, np2m_invalidate_root
from ..tags import N2, has_fixed_vpids, tags_invvpid_address, tags_renew
from .check_controls import eptp_wrong
from .check_util import L1_VIEW
from .checks import not_canonical
from .common import inject_exception
from .insn_results import fail, finish, load_operand, operand_address, operand_fault
from .operands import second_register
from .vmcs import vmread

INVEPT_SINGLE, INVEPT_ALL = 1, 2
INVVPID_ADDRESS, INVVPID_ALL, INVVPID_NON_GLOBAL = 0, 2, 3


@inner
def _eptp_refused(m, eptp):
    """INVEPT of one context fails for an EPT pointer that a VM entry would refuse."""
    if m.feat.deviations & deviations.DEV_INVEPT_OPERAND_IGNORED:
        return False
    return eptp_wrong(m, L1_VIEW, eptp) != 0


@inner
def emulate_invept(m):
    """INVEPT: one nested p2m, or all of them."""
    if m.sh.active:
        return inject_exception(m, UD, 0, 0)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    va = operand_address(m)
    eptp = load_operand(m, va)
    if m.pending == 0:
        load_operand(m, va + 8)
    if m.pending:
        return operand_fault(m)
    kind = m.cpu.gpr[second_register(info)]
    if kind == INVEPT_SINGLE and not _eptp_refused(m, eptp):
        np2m_invalidate_root(m, eptp, F_INVEPT)
    elif kind == INVEPT_ALL:
        np2m_invalidate_all(m, F_INVEPT)
        if not has_fixed_vpids(m):  # KVM flushes each root that it drops, Xen all in one go
            count(m, E_L0_FLUSH_EXECUTED, 1)
    else:
        return fail(m, vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID)
    return finish(m, 0)


@inner
def _invvpid_wrong(m, kind, vpid, address):
    """The operand's checks; Xen does not offer type 3 (retaining globals), KVM does."""
    highest = INVVPID_NON_GLOBAL if m.feat.l2_tag_policy == POLICY_KVM else INVVPID_ALL
    if kind < INVVPID_ADDRESS or kind > highest:
        return True
    if m.feat.deviations & deviations.DEV_INVVPID_OPERAND_IGNORED:
        return False
    if lshr(vpid, 16):
        return True
    if kind != INVVPID_ALL and vpid == 0:
        return True
    return kind == INVVPID_ADDRESS and not_canonical(address)


@inner
def emulate_invvpid(m):
    """INVVPID: translations of L2."""
    if m.feat.vpid_for_l1 == 0:
        return inject_exception(m, UD, 0, 0)
    info = vmread(m, vmcs.SLOT_VMX_INSTRUCTION_INFO)
    va = operand_address(m)
    vpid = load_operand(m, va)
    address = 0
    if m.pending == 0:
        address = load_operand(m, va + 8)
    if m.pending:
        return operand_fault(m)
    kind = m.cpu.gpr[second_register(info)]
    if _invvpid_wrong(m, kind, vpid, address):
        return fail(m, vmx.ERROR_INVALID_OPERAND_TO_INVEPT_INVVPID)
    # one address in KVM; else, and in Xen always, all of L2's translations go
    if kind == INVVPID_ADDRESS and has_fixed_vpids(m):
        tags_invvpid_address(m, address, F_INVVPID)
    else:
        tags_renew(m, N2, F_INVVPID)
    return finish(m, 0)
