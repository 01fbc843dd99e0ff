"""Slow reading of what VMRUN demands of a VMCB: APM vol. 2, 15.5.1, 15.20 and 15.25.4."""

from __future__ import annotations

from .svm import get


def bits(value: int, low: int, high: int) -> int:
    """Bits ``high:low``."""
    return value >> low & (1 << high - low + 1) - 1


def broken(page: bytes) -> set[str]:
    """Names (svm_vmrun_checks.csv) of the rules that a VMCB breaks; the text is the manual's order."""
    efer, cr0, cr3, cr4 = (get(page, name) for name in ("efer", "cr0", "cr3", "cr4"))
    found = set()
    # "EFER.SVME is zero"
    if not bits(efer, 12, 12):
        found.add("SVME")
    # "CR0.CD is zero and CR0.NW is set"
    if not bits(cr0, 30, 30) and bits(cr0, 29, 29):
        found.add("CD_NW")
    # "CR0[63:32] are not zero"
    if bits(cr0, 32, 63):
        found.add("CR0_HIGH")
    # "Any MBZ bit of CR3 is set", of CR4: all but VME..OSXMMEXCPT, PCIDE, FSGSBASE, OSXSAVE,
    # SMEP, SMAP
    if bits(cr3, 52, 63):
        found.add("CR3")
    known = {*range(11), 16, 17, 18, 20, 21}
    if any(cr4 >> n & 1 for n in range(64) if n not in known):
        found.add("CR4")
    # "DR6[63:32] are not zero", DR7
    if bits(get(page, "dr6"), 32, 63):
        found.add("DR6")
    if bits(get(page, "dr7"), 32, 63):
        found.add("DR7")
    # "Any MBZ bit of EFER is set": SCE 0, LME 8, LMA 10 .. TCE 15 exist
    if bits(efer, 1, 7) or bits(efer, 9, 9) or bits(efer, 16, 63):
        found.add("EFER")
    found |= broken_mode(page, bool(bits(efer, 8, 8) and bits(cr0, 31, 31)))
    # "The VMRUN intercept bit is clear"
    if not bits(get(page, "intercept_word4"), 0, 0):
        found.add("VMRUN_INTERCEPT")
    # "The MSR or IOIO intercept tables extend to a physical address that is greater than or equal
    # to the maximum supported physical address"; the low 12 bits of the bases are ignored
    for name, size in (("msrpm", 2), ("iopm", 3)):
        page_number = get(page, f"{name}_base_pa") >> 12
        if page_number + size > 1 << 28:
            found.add(name.upper())
    # "ASID is equal to zero"
    if get(page, "asid") == 0:
        found.add("ASID")
    # 15.20: "reserved values of TYPE", "a vector that does not correspond to an exception"
    event = get(page, "event_inj")
    if bits(event, 31, 31):
        kind, vector = bits(event, 8, 10), bits(event, 0, 7)
        if kind not in (0, 2, 3, 4):
            found.add("EVENT_TYPE")
        elif kind == 3 and vector not in {*range(32)} - {2}:
            found.add("EVENT_VECTOR")
    # 15.21.10: V_NMI_ENABLE without the NMI intercept
    if bits(get(page, "int_ctl"), 26, 26) and not bits(get(page, "intercept_word3"), 1, 1):
        found.add("V_NMI")
    # 15.25.4: "Any MBZ bit of nCR3 is set", "any G_PAT.PA field has an unsupported type"
    if get(page, "nested_ctl") & 1:
        if bits(get(page, "nested_cr3"), 52, 63):
            found.add("NCR3")
        fields = [bits(get(page, "g_pat"), 8 * n, 8 * n + 7) for n in range(8)]
        if any(field not in (0, 1, 4, 5, 6, 7) for field in fields):
            found.add("G_PAT")
    return found


def broken_mode(page: bytes, long_mode: bool) -> set[str]:
    """What EFER.LME with CR0.PG asks for, and that this machine has no other mode."""
    code_l, code_d = bits(get(page, "cs"), 25, 25), bits(get(page, "cs"), 26, 26)
    if not long_mode:
        return {"MODE"}
    found = set()
    if not bits(get(page, "cr4"), 5, 5):
        found.add("LME_PAE")
    elif code_l and code_d:
        found.add("CS_L_D")
    if not bits(get(page, "cr0"), 0, 0):
        found.add("LME_PE")
    if not code_l or code_d:
        found.add("MODE")
    return found
