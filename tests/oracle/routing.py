"""Who gets an exit of L2 under each L0: slow readings of the exit tables and of the manuals."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from workbench.arch.table import rows

from . import svm, vmx

SVM_ROWS = {r["name"].removeprefix("VMEXIT_"): r for r in rows("svm_exitcodes")}
VMX_ROWS = {r["name"]: r for r in rows("vmx_exit_reasons")}


def svm_exit_is_for_l1(
    l0: str, on: Collection[str], name: str, words: Sequence[int], own_exceptions: int, hap: bool,
    msr: tuple[bytes, int, bool], io: tuple[bytes, int, int],
) -> bool:  # fmt: skip
    """Does #VMEXIT ``name`` of L2 go to L1?

    ``on``: ids of the deviations of L0; ``words``: the six intercept words that L1 wrote;
    ``own_exceptions``: the exceptions that L0 intercepts for itself.
    """
    row = SVM_ROWS[name]
    code = int(row["value"], 0)
    if "undecoded_exit_stops_host" in on and row["xen_L2_exit_goes_to"].startswith("BUG"):
        return False
    if "vmmcall_always_to_l1" in on and name == "VMMCALL":
        return True
    if name in ("INTR", "NMI", "NPF"):
        return False
    if name == "INVALID":
        return True
    if l0 == "kvm" and name.startswith("EXCP_"):
        return not own_exceptions >> (code - 0x40) & 1
    if name == "EXCP_PF" and not hap:
        return True
    if code >= 0x400:
        return False
    if not words[code // 32] >> code % 32 & 1:
        return False
    if name == "MSR":
        return svm.msr_intercepted(*msr)
    if name == "IOIO":
        return svm.io_intercepted(*io)
    return True


_ALSO_BY_CONTROL = {
    "WBINVD": ("sec", "WBINVD_EXITING"), "RDRAND": ("sec", "RDRAND_EXITING"),
    "RDSEED": ("sec", "RDSEED_EXITING"), "ENCLS": ("sec", "ENCLS_EXITING"),
    "PML_FULL": ("sec", "ENABLE_PML"), "XSAVES": ("sec", "ENABLE_XSAVES"),
    "XRSTORS": ("sec", "ENABLE_XSAVES"), "UMWAIT": ("sec", "ENABLE_USR_WAIT_PAUSE"),
    "TPAUSE": ("sec", "ENABLE_USR_WAIT_PAUSE"), "DR_ACCESS": ("cpu", "MOV_DR_EXITING"),
}  # fmt: skip
_NEVER_L1 = {"EXTERNAL_INTERRUPT", "EPT_VIOLATION", "EPT_MISCONFIG", "MCE_DURING_VMENTRY",
             "BUS_LOCK", "NOTIFY"}  # fmt: skip


def vmx_exit_is_for_l1(
    on: Collection[str], name: str, fields: vmx.Fields, intr_info: int, dirty_debug: bool
) -> bool:
    """Does the VM exit ``name`` of L2 go to L1?  Not for CR, I/O and MSR exits, VMREAD and VMWRITE."""
    crashes = "domain_crash" in VMX_ROWS[name]["xen_L2_exit_goes_to"]
    if "unlisted_reason_ends_domain" in on and crashes:
        return False
    if "wbinvd_kept_by_l0" in on and name == "WBINVD":
        return False
    if name in _NEVER_L1:
        return False
    if "event_behind_entry" in on and name == "PREEMPTION_TIMER":
        return False  # it may be L0's own: its handler looks
    if name == "EXCEPTION_NMI":
        kind, vector = intr_info >> 8 & 7, intr_info & 31
        if kind == 3 and vector == 14:
            return True  # it comes only because L1 asked for it
        software = kind in (5, 6) and "software_exceptions_kept_by_l0" not in on
        return (kind == 3 or software) and bool(fields["EXCEPTION_BITMAP"] >> vector & 1)
    if name == "INVPCID":
        enabled = vmx.control(fields, "sec", "ENABLE_INVPCID")
        return enabled and vmx.control(fields, "cpu", "INVLPG_EXITING")
    if name == "DR_ACCESS" and "mov_dr_after_l0" in on and not dirty_debug:
        return False
    which = {**vmx._BY_CONTROL, **_ALSO_BY_CONTROL}.get(name)
    return vmx.control(fields, *which) if which else True
