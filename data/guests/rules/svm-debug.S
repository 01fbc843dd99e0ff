# @title   Rules of SVM: debug exceptions of L2
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.debug

.set TF,            1 << 8
.set STEPPED,       1 << 14                 # DR6.BS
.set DETECTED,      1 << 13                 # DR6.BD, DR7.GD
.set DR6_RESET,     0xffff0ff0

.macro DB_EXITS rip, bits
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_DB
        CHECK   [vmcb + VMCB_RIP], \rip
        CHECK   [vmcb + VMCB_DR6], DR6_RESET | \bits
        INFO1   0
        INFO2   0
        CHECK   [exc_vector], NO_EXCEPTION
.endm

RULE step_exits_behind_the_instruction, "With RFLAGS.TF a #DB that is intercepted exits behind the first instruction, with BS in DR6", "APM vol. 2, 13.1.4 and 15.12.2"
        INTERCEPT VMEXIT_EXCEPTION + EXC_DB
        or      qword ptr [vmcb + VMCB_RFLAGS], TF
        L2      nop
        DB_EXITS [l2_next], STEPPED
RULE step_is_l2s_when_not_intercepted, "A #DB that is not intercepted goes to L2's handler", "APM vol. 2, 15.12"
        or      qword ptr [vmcb + VMCB_RFLAGS], TF
        L2      nop
        HALTED
        CHECK   [exc_vector], EXC_DB
        mov     rbx, [l2_next]
        CHECK   [exc_rip], rbx
        CHECK   [vmcb + VMCB_DR6], DR6_RESET | STEPPED
RULE exit_of_the_instruction_comes_before_its_trap, "An instruction that is intercepted has not completed and does not trap", "APM vol. 2, 15.7"
        INTERCEPT VMEXIT_EXCEPTION + EXC_DB
        INTERCEPT VMEXIT_CPUID
        or      qword ptr [vmcb + VMCB_RFLAGS], TF
        L2      cpuid
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_CPUID
        CHECK   [vmcb + VMCB_DR6], DR6_RESET
RULE instruction_breakpoint_exits, "An instruction breakpoint exits before the instruction", "APM vol. 2, 13.1.2 and 15.12.2"
        INTERCEPT VMEXIT_EXCEPTION + EXC_DB
        mov     ebx, offset l2_marked
        mov     dr2, rbx
        mov     qword ptr [vmcb + VMCB_DR7], 0x400 | 1 << 4
        RUN     l2_before_mark
        mov     ebx, offset l2_marked
        DB_EXITS rbx, 4
RULE data_breakpoint_exits, "A data breakpoint exits behind the access", "APM vol. 2, 13.1.2 and 15.12.2"
        INTERCEPT VMEXIT_EXCEPTION + EXC_DB
        mov     ebx, offset scratch
        mov     dr1, rbx
        mov     qword ptr [vmcb + VMCB_DR7], 0x400 | 1 << 2 | 0x9 << 20
        L2      mov qword ptr [scratch], 1
        DB_EXITS [l2_next], 2
        CHECK   [scratch], 1
RULE general_detect_exits, "General detect exits with BD in DR6 and DR7.GD clear, as a handler would see them", "APM vol. 2, 13.1.2 and 15.12.2"
        INTERCEPT VMEXIT_EXCEPTION + EXC_DB
        mov     qword ptr [vmcb + VMCB_DR7], 0x400 | DETECTED
        L2      mov rbx, dr0
        DB_EXITS [l2_first], DETECTED
        CHECK   [vmcb + VMCB_DR7], 0x400
RULE host_is_not_debugged, "L1 runs with DR7 = 400h after #VMEXIT", "APM vol. 2, 15.6"
        mov     ebx, offset scratch
        mov     dr1, rbx
        mov     qword ptr [vmcb + VMCB_DR7], 0x400 | 1 << 2 | 0x9 << 20
        L2      nop
        HALTED
        mov     qword ptr [scratch], 1
        CHECK   [exc_vector], NO_EXCEPTION
        mov     rax, dr7
        CHECK   rax, 0x400
RULE stepped_vmrun_traps_behind_the_exit, "With L1's RFLAGS.TF VMRUN traps behind #VMEXIT, before the next instruction", "APM vol. 2, 15.5.1"
DEVIATION "vmrun_step_trap_late=on"
        mov     qword ptr [vmcb + VMCB_RIP], offset l2_marked
        mov     eax, offset vmcb
        CATCH   call step_vmrun
        stgi
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_HLT
        CHECK   [exc_vector], EXC_DB
        CHECK_AT [exc_rip], behind_vmrun
        mov     rbx, dr6
        CHECK_BITS rbx, STEPPED, STEPPED
RULE stepped_vmrun_that_fails_traps, "A single-stepped VMRUN that ends with VMEXIT_INVALID traps, too", "APM vol. 2, 15.5.1"
DEVIATION "vmrun_step_trap_late=on"
        and     dword ptr [vmcb + VMCB_EFER], ~EFER_SVME
        mov     eax, offset vmcb
        CATCH   call step_vmrun
        stgi
        CHECK   [exc_vector], EXC_DB
        CHECK_AT [exc_rip], behind_vmrun
RULES_END

step_vmrun:
        pushfq
        or      qword ptr [rsp], TF
        popfq
        vmrun   rax
behind_vmrun:
        nop
        ret

l2_before_mark:
        nop
l2_marked:
        nop
        hlt
