"""Slow, obvious readings of the SVM rules, written from the manual's and the tables' text."""

from __future__ import annotations

from workbench.arch.table import rows

VMCB_FIELDS = {
    row["name"]: (int(row["offset"], 0), int(row["size"])) for row in rows("vmcb_fields")
}
CLEAN_BIT = {"tpr": 3, "np": 4, "dr": 6, "dt": 7, "seg": 8, "lbr": 10}


def get(page: bytes | bytearray, name: str) -> int:
    """A field of a VMCB page as an unsigned number."""
    offset, size = VMCB_FIELDS[name]
    return int.from_bytes(page[offset : offset + size], "little")


def put(page: bytearray, name: str, value: int) -> None:
    """Write a field of a VMCB page."""
    offset, size = VMCB_FIELDS[name]
    page[offset : offset + size] = (value % (1 << (8 * size))).to_bytes(size, "little")


# ---------------------------------------------------------------- permission maps


def msr_intercepted(msrpm: bytes, number: int, write: bool) -> bool:
    """APM vol. 2, 15.11: two bits per MSR in one of three 2 KB ranges; no range means exit."""
    for first, offset in ((0, 0), (0xC0000000, 0x800), (0xC0010000, 0x1000)):
        if first <= number <= first + 0x1FFF:
            bit = 2 * (number - first) + (1 if write else 0)
            return bool(msrpm[offset + bit // 8] & (1 << bit % 8))
    return True


def io_intercepted(iopm: bytes, port: int, size: int) -> bool:
    """APM vol. 2, 15.10: one bit per port; any set bit of the access's bytes exits."""
    return any(iopm[p // 8] & (1 << p % 8) for p in range(port, port + size))


def merged_msrpm(l0: bytes, l1: bytes) -> bytes:
    """The map that L2 runs with."""
    return bytes(a | b for a, b in zip(l0, l1, strict=True))


# ---------------------------------------------------------------- routing


def goes_to_l1(
    name: str, intercepts: list[int], hap: bool, msr: tuple[bytes, int, bool] | None,
    io: tuple[bytes, int, int] | None,
) -> bool:  # fmt: skip
    """Does L2's exit ``name`` (without VMEXIT_) go to L1? Xen, nestedsvm_check_intercepts.

    ``intercepts`` are L1's five words, ``msr`` = (map, number, write), ``io`` = (map, port, size).
    """
    if name in ("INTR", "NMI", "NPF"):
        return False
    if name in ("VMMCALL", "INVALID"):
        return True
    if name == "EXCP_PF" and not hap:
        return True
    alias = {"IOIO": "IOIO_PROT", "MSR": "MSR_PROT", "SHUTDOWN": "SHUTDOWN_EVT",
             "MWAIT_COND": "MWAIT_CONDITIONAL"}  # fmt: skip
    row = next((r for r in rows("svm_intercepts") if r["name"] == alias.get(name, name)), None)
    if row is None or not xen_decodes(name):
        return False
    if not intercepts[int(row["word"])] >> int(row["bit"]) & 1:
        return False
    if name == "MSR":
        assert msr is not None
        return msr_intercepted(*msr)
    if name == "IOIO":
        assert io is not None
        return io_intercepted(*io)
    return True


def xen_decodes(name: str) -> bool:
    """Codes that Xen knows; for the others its host would stop."""
    row = next(r for r in rows("svm_exitcodes") if r["name"] == f"VMEXIT_{name}")
    return not row["xen_L2_exit_goes_to"].startswith("BUG")


# ---------------------------------------------------------------- vmcb02 and vmcb12


def merge_vmcb02(
    vmcb01: bytes, vmcb12: bytes, vmcb02: bytes, same_vmcb12: bool, virtual_gif: bool
) -> bytearray:
    """vmcb02 after VMRUN, but for maps and nested table (vmcb02_merge.csv, column xen)."""
    out = bytearray(vmcb02)
    clean = get(vmcb12, "clean") if same_vmcb12 else 0

    def is_clean(group: str) -> bool:
        return bool(clean >> CLEAN_BIT[group] & 1)

    def take(*names: str) -> None:
        for name in names:
            put(out, name, get(vmcb12, name))

    if not is_clean("tpr"):
        control = get(vmcb12, "int_ctl") | 1 << 24
        if not virtual_gif:
            control &= ~(1 << 9 | 1 << 25)
        put(out, "int_ctl", control)
        take("int_vector")
    for word in range(5):
        name = f"intercept_word{word}"
        put(out, name, get(vmcb01, name) | get(vmcb12, name))
    if not get(out, "int_ctl") >> 25 & 1:
        put(out, "intercept_word4", get(out, "intercept_word4") | 3 << 4)
    put(out, "pause_filter_thresh", get(vmcb01, "pause_filter_thresh"))
    put(out, "pause_filter_count", get(vmcb01, "pause_filter_count"))
    put(out, "tsc_offset", get(vmcb01, "tsc_offset") + get(vmcb12, "tsc_offset"))
    put(out, "virt_ext", get(vmcb01, "virt_ext") | get(vmcb12, "virt_ext"))
    put(out, "clean", 0)
    put(out, "nested_ctl", 1)
    take("int_state", "exit_code", "exit_info_1", "exit_info_2", "exit_int_info",
         "exit_int_info_err", "event_inj", "event_inj_err", "next_rip")  # fmt: skip
    if not is_clean("seg"):
        take("es", "cs", "ss", "ds", "cpl")
    if not is_clean("dt"):
        take("gdtr", "idtr")
    if not is_clean("dr"):
        take("dr6", "dr7")
    if not is_clean("np"):
        take("g_pat")
    if not is_clean("lbr"):
        take("dbgctl", "br_from", "br_to", "last_excp_from", "last_excp_to")
    put(out, "efer", get(vmcb12, "efer") | 1 << 12)
    take("cr0", "cr2", "cr3", "cr4", "rflags", "rip", "rsp", "rax")
    return out


WRITTEN_BACK = (
    "int_vector", "int_state", "next_rip", "insn_len", "insn_bytes", "es", "cs", "ss", "ds",
    "gdtr", "idtr", "cpl", "cr4", "cr3", "cr0", "cr2", "dr7", "dr6", "rflags", "rip", "rsp",
    "rax", "g_pat", "dbgctl", "br_from", "br_to", "last_excp_from", "last_excp_to",
)  # fmt: skip


def write_back(vmcb02: bytes, vmcb12: bytes, code: int, info1: int, info2: int) -> bytearray:
    """vmcb12 after a virtual exit, given both at the time of the hardware exit."""
    out = bytearray(vmcb12)
    for name in WRITTEN_BACK:
        put(out, name, get(vmcb02, name))
    masked = get(vmcb12, "int_ctl") & 1 << 24
    put(out, "int_ctl", get(vmcb02, "int_ctl") & ~(1 << 24) | masked)
    put(out, "exit_code", code)
    put(out, "exit_info_1", info1)
    put(out, "exit_info_2", info2)
    source = "event_inj" if get(vmcb02, "event_inj") >> 31 & 1 else "exit_int_info"
    put(out, "exit_int_info", get(vmcb02, source))
    put(out, "exit_int_info_err", get(vmcb02, source + "_err"))
    put(out, "event_inj", 0)
    put(out, "event_inj_err", 0)
    put(out, "tlb_ctl", 0)
    put(out, "nested_ctl", get(vmcb12, "nested_ctl") & 1)
    return out
