"""Slow readings of column kvm of vmcb02_merge.csv: vmcb02 as KVM builds it, byte by byte.

Not compared: addresses of maps and of the nested table, and exit information, which KVM does not
set and the next exit overwrites.
"""

from __future__ import annotations

from .svm import CLEAN_BIT, get, put

EXIT_FIELDS = ("exit_code", "exit_info_1", "exit_info_2", "exit_int_info", "exit_int_info_err")
CR8_WRITE, VINTR, VMMCALL, VMLOAD_VMSAVE, STGI_CLGI = 1 << 24, 1 << 4, 2, 3 << 2, 3 << 4
V_TPR, V_IRQ, V_PRIO, V_IGN_TPR, V_INTR_MASKING = 0xF, 1 << 8, 0xF << 16, 1 << 20, 1 << 24
V_GIF = 1 << 9 | 1 << 25


def intercepts(vmcb01: bytes, vmcb12: bytes, vls: bool, virtual_gif: bool) -> list[int]:
    """The six words: L0's OR L1's, then the special cases of recalc_intercepts."""
    own = [get(vmcb01, f"intercept_word{k}") for k in range(6)]
    l1 = [get(vmcb12, f"intercept_word{k}") for k in range(6)]
    if get(vmcb12, "int_ctl") & V_INTR_MASKING and not get(vmcb01, "rflags") >> 9 & 1:
        own[3] &= ~VINTR
    own[4] &= ~VMMCALL
    words = [a | b for a, b in zip(own, l1, strict=True)]
    if get(vmcb12, "int_ctl") & V_INTR_MASKING:
        words[0] &= ~CR8_WRITE
    if not vls:
        words[4] |= VMLOAD_VMSAVE
    if not (virtual_gif and get(vmcb12, "int_ctl") & 1 << 25):
        words[4] |= STGI_CLGI
    return words


def merge_vmcb02(
    vmcb01: bytes, vmcb12: bytes, vmcb02: bytes, same: bool, virtual_gif: bool, vls: bool
) -> bytearray:
    """vmcb02 after VMRUN under KVM; ``vls``: the processor has virtual VMLOAD/VMSAVE."""
    out = bytearray(vmcb02)
    clean = get(vmcb12, "clean") if same else 0
    vls = vls and bool(get(vmcb12, "nested_ctl") & 1) and bool(get(vmcb12, "virt_ext") & 2)
    lbr = get(vmcb12, "virt_ext") & 1

    def take(*names: str, source: bytes = vmcb12) -> None:
        for name in names:
            put(out, name, get(source, name))

    for k, word in enumerate(intercepts(vmcb01, vmcb12, vls, virtual_gif)):
        put(out, f"intercept_word{k}", word)
    bits = V_TPR | V_IRQ | V_PRIO | V_IGN_TPR | (V_GIF if virtual_gif else 0)
    put(out, "int_ctl", get(vmcb12, "int_ctl") & bits | V_INTR_MASKING)
    put(out, "tsc_offset", get(vmcb01, "tsc_offset") + get(vmcb12, "tsc_offset"))
    put(out, "virt_ext", lbr | (2 if vls else 0))
    put(out, "clean", 0)
    take("int_vector", "int_state", "event_inj", "event_inj_err", "next_rip")
    take("pause_filter_thresh", "pause_filter_count", "nested_ctl", source=vmcb01)
    for group, names in (("seg", ("es", "cs", "ss", "ds", "cpl")), ("dt", ("gdtr", "idtr"))):
        if not clean >> CLEAN_BIT[group] & 1:
            take(*names)
    if not clean >> CLEAN_BIT["dr"] & 1:
        put(out, "dr6", get(vmcb12, "dr6") | 0xFFFF0FF0)
        put(out, "dr7", get(vmcb12, "dr7") | 0x400)
    take("g_pat", source=vmcb01)
    if lbr:
        take("dbgctl", "br_from", "br_to", "last_excp_from", "last_excp_to")
    else:
        take("dbgctl", source=vmcb01)
    put(out, "efer", get(vmcb12, "efer") | 1 << 12)
    take("cr0", "cr2", "cr3", "cr4", "rflags", "rip", "rsp", "rax")
    return out
