# @title   Rules of VMX: external interrupts, NMIs, windows, blocking
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
.include "apic.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.interrupts

.set PIN_NMI_EXITING,   1 << 3
.set VALID,             1 << 31
.set TYPE_NMI,          2 << 8
.set RFLAGS_IF,         1 << 9
.set VECTOR,            0x31

# An interrupt of vector VECTOR is pending for L1.
.macro PEND
        APIC_ON
        WRITE_MSR X2APIC_SELF_IPI, VECTOR
.endm
# L1 takes what is pending: the vector in exc_vector, or none.
.macro TAKE
        mov     qword ptr [exc_vector], NO_EXCEPTION
        CATCH   call take_interrupts
.endm
.macro EXTERNAL_EXITING
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR
.endm
.macro L2_IF
        SET_BITS GUEST_RFLAGS, RFLAGS_IF
.endm

# ------------------------------------------------------------------ external interrupts: SDM vol. 3, 26.2

RULE external_interrupt_exits, "With external-interrupt exiting a pending interrupt exits before L2's next instruction", "SDM vol. 3, 26.2"
        EXTERNAL_EXITING
        PEND
        L2_IF
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXTERNAL_INTERRUPT
        CHECK_FIELD GUEST_RIP, [l2_first]
        CHECK   [exc_vector], NO_EXCEPTION
RULE external_interrupt_exits_with_if_clear, "External-interrupt exiting does not look at L2's RFLAGS.IF", "SDM vol. 3, 26.2"
        EXTERNAL_EXITING
        PEND
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXTERNAL_INTERRUPT
RULE exit_without_acknowledge_leaves_it_pending, "Without 'acknowledge interrupt on exit' there is no vector, and L1 takes the interrupt itself", "SDM vol. 3, 28.2.2"
        EXTERNAL_EXITING
        PEND
        L2      nop
        CHECK_FIELD_BITS VM_EXIT_INTR_INFO, VALID, 0
        TAKE
        CHECK   [exc_vector], VECTOR
RULE exit_with_acknowledge_gives_the_vector, "With 'acknowledge interrupt on exit' the interruption information has the vector", "SDM vol. 3, 28.2.2"
        EXTERNAL_EXITING
        SET_BITS VM_EXIT_CONTROLS, EXIT_CTL_ACK_INTR
        PEND
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXTERNAL_INTERRUPT
        CHECK_FIELD VM_EXIT_INTR_INFO, VALID | VECTOR
RULE exit_with_acknowledge_takes_it, "An interrupt that was acknowledged on exit does not come again", "SDM vol. 3, 28.2.2"
        EXTERNAL_EXITING
        SET_BITS VM_EXIT_CONTROLS, EXIT_CTL_ACK_INTR
        PEND
        L2      nop
        TAKE
        CHECK   [exc_vector], NO_EXCEPTION
RULE interrupt_not_intercepted_is_l2s, "Without external-interrupt exiting L2 takes the interrupt through its IDT", "SDM vol. 3, 26.2"
        PEND
        L2_IF
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
RULE interrupt_waits_for_l2s_flag, "Without external-interrupt exiting RFLAGS.IF = 0 of L2 holds the interrupt", "SDM vol. 3, 26.2"
        PEND
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
        TAKE
        CHECK   [exc_vector], VECTOR
RULE interrupt_comes_behind_sti, "An interrupt is taken one instruction behind STI", "SDM vol. 3, 26.2 and STI"
        PEND
        RUN     l2_sti
        HALTED
        CHECK   [exc_vector], VECTOR
        CHECK_AT [exc_rip], l2_behind_sti
RULE blocking_of_the_vmcs_holds_one_instruction, "Blocking by STI at VM entry holds an interrupt for one instruction", "SDM vol. 3, 25.4.2"
        PEND
        L2_IF
        SET     GUEST_INTERRUPTIBILITY_INFO, 1
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
        CHECK_AT [exc_rip], l2_waits + 1
RULE exit_leaves_the_flag_to_l1, "L1 goes on with RFLAGS.IF = 0 and takes no interrupt by itself", "SDM vol. 3, 28.5.3"
        EXTERNAL_EXITING
        PEND
        L2      nop
        nop
        nop
        CHECK   [exc_vector], NO_EXCEPTION
RULE masked_by_l1s_tpr, "An interrupt that L1's TPR holds does not exit", "SDM vol. 3, 11.8.3"
        EXTERNAL_EXITING
        PEND
        mov     ebx, 15
        mov     cr8, rbx
        L2      nop
        EXECUTED

# ------------------------------------------------------------------ interrupt window: SDM vol. 3, 26.2

.macro WINDOW_EXITING
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_INTR_WINDOW_EXITING
.endm
RULE window_exits_at_once, "Interrupt-window exiting with RFLAGS.IF = 1 exits before the first instruction", "SDM vol. 3, 26.2"
        WINDOW_EXITING
        L2_IF
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_INTERRUPT_WINDOW
        CHECK_FIELD GUEST_RIP, [l2_first]
RULE window_waits_for_the_flag, "Interrupt-window exiting does not exit while RFLAGS.IF = 0", "SDM vol. 3, 26.2"
        WINDOW_EXITING
        L2      nop
        EXECUTED
RULE window_exits_behind_sti, "The window opens one instruction behind STI", "SDM vol. 3, 26.2"
        WINDOW_EXITING
        RUN     l2_sti
        CHECK_FIELD VM_EXIT_REASON, EXIT_INTERRUPT_WINDOW
        CHECK_FIELD_AT GUEST_RIP, l2_behind_sti
RULE window_waits_for_mov_ss, "Blocking by MOV SS at VM entry holds the window for one instruction", "SDM vol. 3, 26.2"
        WINDOW_EXITING
        L2_IF
        SET     GUEST_INTERRUPTIBILITY_INFO, 2
        RUN     l2_waits
        CHECK_FIELD VM_EXIT_REASON, EXIT_INTERRUPT_WINDOW
        CHECK_FIELD_AT GUEST_RIP, l2_waits + 1
RULE window_comes_behind_an_injection, "An injected event is delivered before the window exits", "SDM vol. 3, 27.7.5"
        WINDOW_EXITING
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | 3 << 8 | EXC_UD
        L2_IF
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE window_has_no_interruption_information, "An interrupt-window exit has no valid interruption information", "SDM vol. 3, 28.2.2"
        WINDOW_EXITING
        L2_IF
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_INTERRUPT_WINDOW
        CHECK_FIELD_BITS VM_EXIT_INTR_INFO, VALID, 0

# ------------------------------------------------------------------ NMI: SDM vol. 3, 26.2

RULE nmi_exits, "With NMI exiting an NMI is exit reason 0 with type 2", "SDM vol. 3, 26.2 and 28.2.2"
ONLY_WITH "nmi_cycles=3000000"
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_NMI_EXITING
        RUN     l2_forever
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD VM_EXIT_INTR_INFO, VALID | TYPE_NMI | 2
        CHECK   [exc_vector], NO_EXCEPTION
RULE nmi_exit_ignores_the_exception_bitmap, "NMI exiting, not bit 2 of the exception bitmap, decides about an NMI", "SDM vol. 3, 26.2"
ONLY_WITH "nmi_cycles=3000000"
        SET     EXCEPTION_BITMAP, 4
        RUN     l2_forever
        HALTED
        CHECK   [exc_vector], 2
RULE nmi_not_intercepted_is_l2s, "Without NMI exiting an NMI goes through L2's IDT", "SDM vol. 3, 26.2"
ONLY_WITH "nmi_cycles=3000000"
        RUN     l2_forever
        HALTED
        CHECK   [exc_vector], 2

# ------------------------------------------------------------------ CR8

RULE cr8_without_exiting_is_l1s_tpr, "Without a TPR shadow CR8 of L2 is the TPR that L1 has", "SDM vol. 3, 26.3"
        mov     ebx, 6
        mov     cr8, rbx
        L2      mov rbx, cr8
        EXECUTED
        CHECK   rbx, 6
RULE cr8_written_by_l2_is_l1s_tpr, "Without a TPR shadow a write of CR8 by L2 is L1's TPR", "SDM vol. 3, 26.3"
        mov     ebx, 7
        L2      mov cr8, rbx
        EXECUTED
        mov     rbx, cr8
        CHECK   rbx, 7
RULES_END

take_interrupts:
        sti
        nop
        nop
        cli
        ret

# The handler of an interrupt stops L2.
l2_waits:
        nop
        nop
        hlt
l2_sti: sti
        nop
l2_behind_sti:
        nop
        hlt
l2_forever:                                 # each turn costs an exit to L0
        in      al, 0x60
        jmp     l2_forever
