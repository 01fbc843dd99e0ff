"""Names of the catalogues as people write them: ``virtual_gif`` is Virtual GIF.

Charts and panel call toggles and events alike; code, files and the command use the names as they are.
"""

from __future__ import annotations

import re

from . import features
from .personality import L0_TITLES

_SPELLED = {
    "ad": "A/D", "io": "I/O", "nrip": "Next-RIP", "tlb": "TLB", "np2m": "NP2M", "msr": "MSR",
    "gif": "GIF", "vmload": "VMLOAD", "vmsave": "VMSAVE", "vmcs": "VMCS", "vmcb": "VMCB",
    "vpid": "VPID", "asid": "ASID", "nmi": "NMI", "apicv": "APICv", "p2m": "P2M", "ept": "EPT",
    "hw": "HW", "vmread": "VMREAD", "vmwrite": "VMWRITE", "cpuid": "CPUID", "pcid": "PCID",
    "hap": "HAP", "psc": "PSC", "pml": "PML", "pause": "PAUSE", "vmexit": "VM exit",
    "vmclear": "VMCLEAR", "vmptrld": "VMPTRLD", "vmrun": "VMRUN", "cr": "CR", "mmio": "MMIO",
    "l0": "L0", "l1": "L1", "l2": "L2", "llc": "LLC", "apic": "APIC", "pte": "PTE", "tlb1": "TLB1", "tlb2": "TLB2",
    "irq": "IRQ", "cr3": "CR3", "ud": "#UD", "tpr": "TPR", "pio": "PIO", "vmx": "VMX", "intr": "interrupt",
    "asids": "ASIDs", "mips": "MIPS", "rip": "RIP",
}  # fmt: skip
"""Words of names as the manuals spell them."""


def label_of(name: str) -> str:
    """A name of the catalogue as people write it: ``virtual_gif`` -> ``Virtual GIF``."""
    text = " ".join(_SPELLED.get(word, word) for word in name.lower().split("_"))
    return text[:1].upper() + text[1:]


def spelled(text: str) -> str:
    """A text of the catalogue with toggles and L0 as the panel calls them.

    A toggle of one word is told from a plain word where the text begins with it.
    """
    known = features.catalogue()
    text = re.sub(
        r"^[a-z0-9]+\b|\b[a-z0-9]+(?:_[a-z0-9]+)+\b",
        lambda found: label_of(found[0]) if found[0] in known else found[0],
        text,
    )
    return re.sub(
        r"\bl0 is (\w+)", lambda found: f"L0 is {L0_TITLES.get(found[1], found[1])}", text
    )
