"""MSR numbers. The architectural ones are AMD APM vol. 2 appendix A / Intel SDM vol. 4 chapter 2;
VMX's come from vmx_msrs.csv and SVM's from svm_msrs.csv."""

from __future__ import annotations

from .table import rows, values

IA32_TSC = 0x10
IA32_APIC_BASE = 0x1B
IA32_TSC_ADJUST = 0x3B
IA32_SYSENTER_CS = 0x174
IA32_SYSENTER_ESP = 0x175
IA32_SYSENTER_EIP = 0x176
IA32_MISC_ENABLE = 0x1A0
IA32_DEBUGCTL = 0x1D9
IA32_PAT = 0x277
IA32_TSC_DEADLINE = 0x6E0
X2APIC_FIRST, X2APIC_LAST = 0x800, 0x8FF
IA32_MTRRCAP = 0xFE
IA32_MTRR_DEF_TYPE = 0x2FF
EFER = 0xC0000080
STAR = 0xC0000081
LSTAR = 0xC0000082
CSTAR = 0xC0000083
SFMASK = 0xC0000084
FS_BASE = 0xC0000100
GS_BASE = 0xC0000101
KERNEL_GS_BASE = 0xC0000102
TSC_AUX = 0xC0000103

globals().update({"VMX_" + k.removeprefix("VMX_"): v for k, v in values("vmx_msrs").items()})
IA32_FEATURE_CONTROL = values("vmx_msrs")["IA32_FEATURE_CONTROL"]
globals().update(
    {
        r["name"]: int(r["value"], 0)
        for r in rows("svm_msrs")
        if r["name"].startswith(("VM_", "SVM_", "TSC_"))
    }
)


def __getattr__(name: str) -> int:
    raise AttributeError(f"no MSR called {name}")
