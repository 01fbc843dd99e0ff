# @title   L2 edits L1's MSR permission map while it runs
# @backend svm
.intel_syntax noprefix
.include "../../../data/guests/rules/svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.edited

.set EFER_BIT,      0x80*2                  # of MSR 0xc0000080, in the map's second range
.set EFER_BYTE,     0x800 + EFER_BIT/8

# At VMRUN L2 may read EFER, as far as L1 is concerned; L0 intercepts it in any case.
RULE stale, "What L2 forbids itself behind VMRUN does not count before the next one", "a copy"
        INTERCEPT VMEXIT_MSR
        RUN     l2_forbid_and_read
        HALTED
        CHECK   [l2_rcx], MSR_EFER
        RUN     l2_read
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_MSR
RULE live, "What L2 forbids itself behind VMRUN counts at once", "no copy"
        INTERCEPT VMEXIT_MSR
        RUN     l2_forbid_and_read
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_MSR
        CHECK   [l2_rcx], MSR_EFER
RULES_END

l2_forbid_and_read:
        or      byte ptr [msrpm + EFER_BYTE], 1 << (EFER_BIT & 7)
l2_read:
        mov     ecx, MSR_EFER
        rdmsr
        hlt
