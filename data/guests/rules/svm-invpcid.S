# @title   Rules of SVM: INVPCID
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.invpcid
.include "invpcid.inc"

.set VMEXIT_INVPCID,    0xa2
.macro INTERCEPT_INVPCID
        or      dword ptr [vmcb + 0x14], 1 << 2
.endm

# ---- in L2

RULE invpcid_exits_with_its_operands, "INVPCID of L2 exits when its intercept is set, with the descriptor's linear address and the type", "APM vol. 2, 15.9; KVM, invpcid_interception"
DEVIATION "general3_not_merged=on"
        INTERCEPT_INVPCID
        mov     esi, offset scratch
        mov     ebx, 3
        L2      invpcid rbx, [rsi + 8]
        EXITED  VMEXIT_INVPCID
        CHECK_AT [vmcb + VMCB_EXIT_INFO_1], scratch+8
        INFO2   3
RULE invpcid_exits_before_its_operands_are_checked, "The intercept comes before the operands are read", "APM vol. 2, 15.7"
DEVIATION "general3_not_merged=on"
        INTERCEPT_INVPCID
        mov     rsi, L2_PRIVATE
        mov     ebx, 9
        L2      invpcid rbx, [rsi]
        EXITED  VMEXIT_INVPCID
        INFO2   9
RULE invpcid_executes, "Without its intercept INVPCID of L2 executes", "APM vol. 2, 15.9"
        mov     esi, offset scratch
        mov     ebx, 2
        L2      invpcid rbx, [rsi]
        EXECUTED
RULE invpcid_fault_before_the_exit, "The privilege check comes before the intercept", "APM vol. 2, 15.7"
        INTERCEPT_INVPCID
        RUN     l2_user_invpcid
        HALTED
        CHECK   [exc_vector], EXC_GP
RULES_END
.include "invpcid-end.inc"
