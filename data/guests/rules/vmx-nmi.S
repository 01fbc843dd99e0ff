# @title   Rules of VMX: virtual NMIs, NMI windows and what IRET does
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.nmi

.set EXIT_NMI_WINDOW,   8
.set BLOCK_NMI,         1 << 3
.set VALID,             1 << 31
.set TYPE_NMI,          2 << 8
.set NMI,               2

# Xen does not offer the control, but has it in vmcs02 for itself and lets it pass.
.macro VIRTUAL_NMIS
ONLY_WITH "virtual_nmi=on"
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS
.endm
.macro BLOCKED
        SET     GUEST_INTERRUPTIBILITY_INFO, BLOCK_NMI
.endm
.macro WINDOW_EXITING
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_NMI_WINDOW
.endm
.macro CHECK_BLOCKED wanted
        CHECK_FIELD_BITS GUEST_INTERRUPTIBILITY_INFO, BLOCK_NMI, \wanted
.endm

# ------------------------------------------------------------------ blocking: SDM vol. 3, 25.4.2 and 26.3

RULE injected_nmi_blocks, "An injected NMI leaves virtual NMIs blocked", "SDM vol. 3, 27.6.1"
        VIRTUAL_NMIS
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | TYPE_NMI | NMI
        RUN     l2_nops
        HALTED
        CHECK   [exc_vector], NMI
        CHECK_BLOCKED BLOCK_NMI
RULE blocking_survives_an_exit, "An exit saves the blocking of virtual NMIs, and the next entry goes on with it", "SDM vol. 3, 28.3.4"
        VIRTUAL_NMIS
        BLOCKED
        L2      cpuid
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        CHECK_BLOCKED BLOCK_NMI
        call    run_next
        HALTED
        CHECK_BLOCKED BLOCK_NMI
RULE iret_unblocks, "IRET of L2 ends the blocking of virtual NMIs", "SDM vol. 3, 26.3"
        VIRTUAL_NMIS
        BLOCKED
        RUN     l2_iret
        HALTED
        CHECK_BLOCKED 0
RULE injection_while_blocked_fails, "Injecting an NMI while virtual NMIs are blocked fails the entry", "SDM vol. 3, 27.3.1.5"
ONLY_WITH "virtual_nmi=on"
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS
        BLOCKED
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | TYPE_NMI | NMI
        INVALID_STATE

# ------------------------------------------------------------------ windows: SDM vol. 3, 26.2

RULE window_exits_at_once, "NMI-window exiting exits before the first instruction where virtual NMIs are not blocked", "SDM vol. 3, 26.2"
        VIRTUAL_NMIS
        WINDOW_EXITING
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_NMI_WINDOW
        CHECK_FIELD GUEST_RIP, [l2_first]
RULE window_waits_for_iret, "The NMI window opens behind L2's IRET", "SDM vol. 3, 26.2"
        VIRTUAL_NMIS
        WINDOW_EXITING
        BLOCKED
        RUN     l2_iret
        CHECK_FIELD VM_EXIT_REASON, EXIT_NMI_WINDOW
        CHECK_FIELD_AT GUEST_RIP, l2_behind_iret
        CHECK_BLOCKED 0
RULE window_waits_for_mov_ss, "Blocking by MOV SS holds the NMI window back for an instruction", "SDM vol. 3, 26.2"
        VIRTUAL_NMIS
        WINDOW_EXITING
        SET     GUEST_INTERRUPTIBILITY_INFO, 2
        RUN     l2_nops
        CHECK_FIELD VM_EXIT_REASON, EXIT_NMI_WINDOW
        CHECK_FIELD_AT GUEST_RIP, l2_second
RULE window_comes_behind_an_injection, "An injected event is delivered before the NMI window exits", "SDM vol. 3, 27.7.6"
        VIRTUAL_NMIS
        WINDOW_EXITING
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | 3 << 8 | EXC_UD
        RUN     l2_nops
        CHECK_FIELD VM_EXIT_REASON, EXIT_NMI_WINDOW
        CHECK_FIELD_BITS VM_ENTRY_INTR_INFO_FIELD, VALID, 0
RULE window_stays_shut_behind_an_injected_nmi, "With an injected NMI the window stays shut until IRET", "SDM vol. 3, 27.7.6"
        VIRTUAL_NMIS
        WINDOW_EXITING
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | TYPE_NMI | NMI
        RUN     l2_nops
        HALTED
        CHECK   [exc_vector], NMI
RULE window_does_not_look_at_the_flag, "RFLAGS.IF = 0 does not hold the NMI window back", "SDM vol. 3, 26.2"
        VIRTUAL_NMIS
        WINDOW_EXITING
        CLEAR_BITS GUEST_RFLAGS, 1 << 9
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_NMI_WINDOW
RULES_END

# ------------------------------------------------------------------ code of L2

l2_nops:
        nop
l2_second:
        nop
        hlt
l2_iret:
        mov     eax, ss
        mov     rcx, rsp
        push    rax
        push    rcx
        pushfq
        mov     eax, cs
        push    rax
        push    offset l2_behind_iret
        iretq
l2_behind_iret:
        nop
        hlt
