# @title   Rules of VMX: debug exceptions of L2
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.debug

.set VALID,         1 << 31
.set INTERRUPT,     0 << 8
.set EXCEPTION,     3 << 8
.set TF,            1 << 8
.set RF,            1 << 16
.set STEPPED,       1 << 14                 # BS of DR6, of qualifications, of pending exceptions
.set DETECTED,      1 << 13                 # BD, and DR7.GD
.set ENABLED,       1 << 12                 # pending exceptions: an enabled breakpoint was met
.set CPU_MONITOR_TRAP_FLAG, 1 << 27
.set EXIT_MONITOR_TRAP_FLAG, 37
.set BLOCKED_BY_MOV_SS, 2
.set ENTRY_LOAD_DEBUG_CONTROLS, 1 << 2

.macro DB_EXITS rip, qualification
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD VM_EXIT_INTR_INFO, VALID | EXCEPTION | EXC_DB
        CHECK_FIELD GUEST_RIP, \rip
        QUALIFIED \qualification
        CHECK_FIELD GUEST_PENDING_DBG_EXCEPTIONS, 0
        CHECK   [exc_vector], NO_EXCEPTION
.endm
.macro INTERCEPT_DB
        SET     EXCEPTION_BITMAP, 1 << EXC_DB
        xor     eax, eax
        mov     dr6, rax
.endm
.macro STEP
        SET     GUEST_RFLAGS, TF | 2
.endm

.macro DEBUG_CONTROL value
        SET     GUEST_DR7, 0x400 | \value
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG_CONTROLS
.endm

# ------------------------------------------------------------------ single step: SDM vol. 3, 19.3.1.4

RULE step_exits_behind_the_instruction, "With RFLAGS.TF a #DB that is intercepted exits behind the first instruction", "SDM vol. 3, 19.3.1.4 and 28.2.1"
        INTERCEPT_DB
        STEP
        L2      nop
        DB_EXITS [l2_next], STEPPED
RULE step_exit_leaves_dr6_alone, "A #DB that exits does not write DR6", "SDM vol. 3, 28.1"
        INTERCEPT_DB
        STEP
        L2      nop
        mov     rax, dr6
        CHECK   rax, 0xffff0ff0
RULE step_is_l2s_when_not_intercepted, "A #DB that is not intercepted goes to L2's handler, with BS in DR6", "SDM vol. 3, 19.3.1.4"
        xor     eax, eax
        mov     dr6, rax
        STEP
        L2      nop
        HALTED
        CHECK   [exc_vector], EXC_DB
        mov     rbx, [l2_next]
        CHECK   [exc_rip], rbx
        mov     rax, dr6
        CHECK   rax, 0xffff0ff0 | STEPPED
RULE exit_of_the_instruction_comes_before_its_trap, "An instruction that exits has not completed and does not trap", "SDM vol. 3, 26.1.3"
        INTERCEPT_DB
        STEP
        L2      cpuid
        EXITED  EXIT_CPUID
        CHECK_FIELD GUEST_PENDING_DBG_EXCEPTIONS, 0
RULE mov_ss_keeps_the_trap_pending, "An exit behind MOV SS has the single-step trap in the pending debug exceptions", "SDM vol. 3, 25.4.2"
        INTERCEPT_DB
        STEP
        mov     ebx, ss
        RUN     l2_mov_ss
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        CHECK_FIELD GUEST_PENDING_DBG_EXCEPTIONS, STEPPED
        CHECK_FIELD_BITS GUEST_INTERRUPTIBILITY_INFO, 3, BLOCKED_BY_MOV_SS
RULE trap_flag_exit_comes_before_the_trap, "The exit of the monitor trap flag comes first and leaves the trap pending", "SDM vol. 3, 26.5.2"
        INTERCEPT_DB
        STEP
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_MONITOR_TRAP_FLAG
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_MONITOR_TRAP_FLAG
        CHECK_FIELD GUEST_RIP, [l2_next]
        CHECK_FIELD GUEST_PENDING_DBG_EXCEPTIONS, STEPPED

# ------------------------------------------------------------------ pending at the entry: SDM vol. 3, 27.7.3

RULE pending_step_is_delivered, "A pending single-step trap is delivered before L2's first instruction", "SDM vol. 3, 27.7.3"
        INTERCEPT_DB
        SET     GUEST_PENDING_DBG_EXCEPTIONS, STEPPED
        L2      mov qword ptr [scratch], 1
        DB_EXITS [l2_first], STEPPED
        CHECK   [scratch], 0
RULE pending_breakpoint_is_delivered, "A pending breakpoint that was enabled is delivered with its number", "SDM vol. 3, 27.7.3"
        INTERCEPT_DB
        SET     GUEST_PENDING_DBG_EXCEPTIONS, ENABLED | 4
        L2      mov qword ptr [scratch], 1
        DB_EXITS [l2_first], 4
RULE pending_without_enable_is_not_delivered, "A breakpoint that was not enabled is not pending", "SDM vol. 3, 27.7.3"
        INTERCEPT_DB
        SET     GUEST_PENDING_DBG_EXCEPTIONS, 4
        L2      nop
        HALTED
RULE pending_ends_with_an_injected_interrupt, "An injected external interrupt ends what is pending", "SDM vol. 3, 27.7.3"
        INTERCEPT_DB
        SET     GUEST_PENDING_DBG_EXCEPTIONS, STEPPED
        SET     GUEST_RFLAGS, 0x202
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | INTERRUPT | 0x20
        L2      nop
        HALTED
        CHECK   [exc_vector], 0x20
RULE pending_waits_for_mov_ss, "Blocking by MOV SS holds a pending breakpoint back for an instruction", "SDM vol. 3, 27.7.3"
        INTERCEPT_DB
        SET     GUEST_INTERRUPTIBILITY_INFO, BLOCKED_BY_MOV_SS
        SET     GUEST_PENDING_DBG_EXCEPTIONS, ENABLED | 1
        L2      nop
        DB_EXITS [l2_next], 1

# ------------------------------------------------------------------ breakpoints and general detect: 19.2

RULE instruction_breakpoint_exits, "An instruction breakpoint exits before the instruction, with its number", "SDM vol. 3, 19.3.1.1 and 28.2.1"
        INTERCEPT_DB
        mov     ebx, offset l2_marked
        mov     dr2, rbx
        DEBUG_CONTROL 1 << 4
        RUN     l2_before_mark
        mov     ebx, offset l2_marked
        DB_EXITS rbx, 4
RULE data_breakpoint_exits, "A data breakpoint exits behind the access, with its number", "SDM vol. 3, 19.3.1.2 and 28.2.1"
        INTERCEPT_DB
        mov     ebx, offset scratch
        mov     dr1, rbx
        DEBUG_CONTROL 1 << 2 | 0x9 << 20
        L2      mov qword ptr [scratch], 1
        DB_EXITS [l2_next], 2
        CHECK   [scratch], 1
RULE host_is_not_debugged, "L1 runs with DR7 = 400h after an exit", "SDM vol. 3, 28.5.1"
        mov     ebx, offset scratch
        mov     dr1, rbx
        DEBUG_CONTROL 1 << 2 | 0x9 << 20
        L2      nop
        HALTED
        mov     qword ptr [scratch], 1
        CHECK   [exc_vector], NO_EXCEPTION
        mov     rax, dr7
        CHECK   rax, 0x400
RULE general_detect_exits, "General detect exits with BD, and leaves DR7.GD", "SDM vol. 3, 19.2.4 and 28.1"
        INTERCEPT_DB
        DEBUG_CONTROL DETECTED
        L2      mov rbx, dr0
        DB_EXITS [l2_first], DETECTED
        CHECK_FIELD_BITS GUEST_DR7, DETECTED, DETECTED
RULE mov_dr_exit_comes_before_general_detect, "MOV-DR exiting comes before general detect", "SDM vol. 3, 26.1.3"
        INTERCEPT_DB
        DEBUG_CONTROL DETECTED
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_MOV_DR_EXITING
        L2      mov rbx, dr0
        EXITED  EXIT_DR_ACCESS

# ------------------------------------------------------------------ RF: SDM vol. 3, 28.3.3 and 27.6.1.1

RULE fault_exit_saves_rf, "The exit of a fault saves RFLAGS with RF set", "SDM vol. 3, 28.3.3"
        SET     EXCEPTION_BITMAP, 1 << EXC_UD
        L2      ud2
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD_BITS GUEST_RFLAGS, RF, RF
RULE trap_exit_saves_no_rf, "The exit of a single-step trap saves RFLAGS with RF clear", "SDM vol. 3, 28.3.3"
        INTERCEPT_DB
        STEP
        L2      nop
        DB_EXITS [l2_next], STEPPED
        CHECK_FIELD_BITS GUEST_RFLAGS, RF, 0
RULE instruction_exit_saves_no_rf, "The exit of an instruction saves RFLAGS with RF clear", "SDM vol. 3, 28.3.3"
        L2      cpuid
        EXITED  EXIT_CPUID
        CHECK_FIELD_BITS GUEST_RFLAGS, RF, 0
RULE injected_fault_has_the_rf_of_the_guest, "The frame of an injected fault has RF as it is in the VMCS: clear", "SDM vol. 3, 27.6.1.1"
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | EXCEPTION | EXC_UD
        L2      nop
        CHECK   [exc_vector], EXC_UD
        mov     rax, [exc_rflags]
        and     eax, RF
        CHECK   rax, 0
RULE injected_fault_has_rf_when_the_guest_has, "The frame of an injected fault has RF as it is in the VMCS: set", "SDM vol. 3, 27.6.1.1"
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | EXCEPTION | EXC_UD
        SET     GUEST_RFLAGS, RF | 2
        L2      nop
        CHECK   [exc_vector], EXC_UD
        mov     rax, [exc_rflags]
        and     eax, RF
        CHECK   rax, RF
RULES_END

l2_mov_ss:
        mov     ss, ebx
        cpuid
        hlt
l2_before_mark:
        nop
l2_marked:
        nop
        hlt
