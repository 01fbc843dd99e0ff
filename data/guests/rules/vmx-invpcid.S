# @title   Rules of VMX: INVPCID
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.invpcid
.include "invpcid.inc"

.set EXIT_INVPCID,          58
.set CPU2_ENABLE_INVPCID,   1 << 12

# ---- in L2

RULE invpcid_may_be_enabled, "'Enable INVPCID' can be set where INVPCID exists", "SDM vol. 3, A.3.3"
DEVIATION "l0=xen", "Xen does not offer the control to L1 (nvmx_msr_read_intercept)"
        mov     ecx, MSR_VMX_PROCBASED_CTLS2
        rdmsr
        and     edx, CPU2_ENABLE_INVPCID
        CHECK   rdx, CPU2_ENABLE_INVPCID
RULE invpcid_exits_with_its_operands, "INVPCID of L2 exits when it is enabled and INVLPG exits, with displacement and registers of its operands", "SDM vol. 3, 26.1.3 and table 28-9"
DEVIATION "l0=xen", "Xen has no handler for exit 58 of L2 and ends the domain (nvmx_n2_vmexit_handler)"
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_ENABLE_INVPCID
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_INVLPG_EXITING
        mov     esi, offset scratch
        mov     ebx, 2
        L2      invpcid rbx, [rsi + 8]
        EXITED  EXIT_INVPCID
        QUALIFIED 8
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0xffc38380, 2 << 7 | 3 << 15 | 1 << 22 | 6 << 23 | 3 << 28
RULE invpcid_exits_before_its_operands_are_checked, "The exit comes before the operands are read", "SDM vol. 3, 26.1.1"
DEVIATION "l0=xen", "Xen has no handler for exit 58 of L2 and ends the domain (nvmx_n2_vmexit_handler)"
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_ENABLE_INVPCID
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_INVLPG_EXITING
        mov     rsi, L2_PRIVATE
        mov     ebx, 9
        L2      invpcid rbx, [rsi]
        EXITED  EXIT_INVPCID
RULE invpcid_executes, "INVPCID of L2 executes when it is enabled and INVLPG does not exit", "SDM vol. 3, 26.1.3"
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_ENABLE_INVPCID
        mov     esi, offset scratch
        mov     ebx, 2
        L2      invpcid rbx, [rsi]
        EXECUTED
RULE invpcid_not_enabled_is_ud, "INVPCID raises #UD while 'enable INVPCID' is 0", "SDM vol. 3, 26.3"
DEVIATION "l0=xen", "Xen ORs its own secondary controls into vmcs02 (load_shadow_control)"
        RUN     l2_invpcid
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE invpcid_not_enabled_does_not_exit, "INVPCID that is not enabled does not exit, though INVLPG does", "SDM vol. 3, 26.1.3"
DEVIATION "l0=xen", "Xen has no handler for exit 58 of L2 and ends the domain (nvmx_n2_vmexit_handler)"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_INVLPG_EXITING
        RUN     l2_invpcid
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE invpcid_ud_comes_first, "#UD of an INVPCID that is not enabled comes before the privilege check", "SDM vol. 3, 26.3"
DEVIATION "l0=xen", "Xen ORs its own secondary controls into vmcs02 (load_shadow_control)"
        RUN     l2_user_invpcid
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE invpcid_fault_before_the_exit, "The privilege check comes before the exit", "SDM vol. 3, 26.1.1"
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_ENABLE_INVPCID
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_INVLPG_EXITING
        RUN     l2_user_invpcid
        HALTED
        CHECK   [exc_vector], EXC_GP
RULES_END
.include "invpcid-end.inc"
