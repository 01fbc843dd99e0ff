# @title   Rules of SVM: GIF, physical and virtual interrupts, NMIs, the interrupt shadow
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
.include "apic.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.interrupts

.set VMEXIT_INTR,       0x60
.set VMEXIT_NMI,        0x61
.set VMEXIT_VINTR,      0x64
.set VMCB_INT_VECTOR,   0x064
.set VMCB_INT_SHADOW,   0x068
.set V_IRQ,             1 << 8
.set V_IGN_TPR,         1 << 20
.set V_INTR_MASKING,    1 << 24
.set V_PRIO,            16                  # bit position
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
.macro L2_IF
        or      dword ptr [vmcb + VMCB_RFLAGS], RFLAGS_IF
.endm
.macro VIRTUAL_INTERRUPT control
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_IRQ | \control
        mov     byte ptr [vmcb + VMCB_INT_VECTOR], VECTOR
.endm

# ------------------------------------------------------------------ GIF: APM vol. 2, 15.17

RULE clgi_holds_interrupts, "While GIF is 0 an interrupt stays pending whatever RFLAGS.IF is", "APM vol. 2, 15.17"
        clgi
        PEND
        CATCH   call take_interrupts
        CHECK   [exc_vector], NO_EXCEPTION
        stgi
        TAKE
        CHECK   [exc_vector], VECTOR
RULE leaving_svm_sets_gif, "After EFER.SVME was off GIF is set: a pending interrupt comes", "nested L0: a reset sets GIF"
        clgi
        PEND
        mov     ecx, MSR_EFER
        mov     eax, EFER_LME_LMA_NXE_SCE
        xor     edx, edx
        wrmsr
        TAKE
        CHECK   [exc_vector], VECTOR
RULE stgi_lets_interrupts_in, "STGI with RFLAGS.IF = 1 lets a pending interrupt in", "APM vol. 2, 15.17"
        clgi
        PEND
        sti
        CATCH   call stgi_and_wait
        CHECK   [exc_vector], VECTOR
RULE exit_clears_gif, "#VMEXIT sets GIF to 0: L1 takes no interrupt before STGI", "APM vol. 2, 15.17"
        PEND
        mov     qword ptr [vmcb + VMCB_RIP], offset l2_halt
        mov     eax, offset vmcb
        CATCH   call vmrun_and_open
        CHECK   [exc_vector], NO_EXCEPTION
        stgi
        TAKE
        CHECK   [exc_vector], VECTOR
RULE vmrun_sets_gif, "VMRUN sets GIF to 1: an interrupt pending under GIF 0 reaches L2", "APM vol. 2, 15.5.1"
        PEND
        L2_IF
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR

# ------------------------------------------------------------------ physical interrupts: APM vol. 2, 15.13.1, 15.21

RULE intr_exits, "With the INTR intercept a pending interrupt exits before L2's next instruction", "APM vol. 2, 15.13.1"
        INTERCEPT VMEXIT_INTR
        PEND
        L2_IF
        L2      nop
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_INTR
        CHECK   [vmcb + VMCB_RIP], [l2_first]
        CHECK   [exc_vector], NO_EXCEPTION
RULE intr_exit_leaves_the_interrupt_pending, "After the exit L1 takes the interrupt itself", "APM vol. 2, 15.13.1: not acknowledged"
        INTERCEPT VMEXIT_INTR
        PEND
        L2_IF
        L2      nop
        TAKE
        CHECK   [exc_vector], VECTOR
RULE intr_not_intercepted_is_l2s, "Without the intercept L2 takes the interrupt through its own IDT", "APM vol. 2, 15.13.1"
        PEND
        L2_IF
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
RULE intr_waits_for_l2s_flag, "Without the intercept and V_INTR_MASKING, RFLAGS.IF = 0 of L2 holds the interrupt", "APM vol. 2, 15.21.1"
        PEND
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
        TAKE
        CHECK   [exc_vector], VECTOR
RULE masking_uses_l1s_flag, "With V_INTR_MASKING the RFLAGS.IF that L1 had decides, not L2's", "APM vol. 2, 15.21.1"
        INTERCEPT VMEXIT_INTR
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING
        PEND
        mov     qword ptr [vmcb + VMCB_RIP], offset l2_waits
        call    vmrun_with_if
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_INTR
        CHECK_AT [vmcb + VMCB_RIP], l2_waits
RULE masking_with_l1s_flag_clear, "With V_INTR_MASKING and RFLAGS.IF = 0 of L1 no interrupt exits, whatever L2's flag is", "APM vol. 2, 15.21.1"
        INTERCEPT VMEXIT_INTR
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING
        PEND
        L2_IF
        L2      nop
        EXECUTED
RULE masking_keeps_interrupts_from_l2, "With V_INTR_MASKING and RFLAGS.IF = 0 of L1 L2 gets no physical interrupt", "APM vol. 2, 15.21.1"
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING
        PEND
        L2_IF
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
RULE intr_exit_comes_at_the_next_boundary, "Interrupts that L2 lets in exit between two of its instructions", "APM vol. 2, 15.13.1"
        INTERCEPT VMEXIT_INTR
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING
        PEND
        mov     qword ptr [vmcb + VMCB_RIP], offset l2_waits
        call    vmrun_with_if
        CHECK_BITS [vmcb + VMCB_EXIT_INT_INFO], 1 << 31, 0

# ------------------------------------------------------------------ virtual interrupts: APM vol. 2, 15.21.4

RULE v_irq_is_taken, "V_IRQ with RFLAGS.IF = 1 is taken through L2's IDT with V_INTR_VECTOR", "APM vol. 2, 15.21.4"
        VIRTUAL_INTERRUPT V_IGN_TPR
        L2_IF
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
        CHECK_AT [exc_rip], l2_waits
RULE v_irq_is_cleared_when_taken, "V_IRQ is 0 in the VMCB when L2 has taken it", "APM vol. 2, 15.21.4"
        VIRTUAL_INTERRUPT V_IGN_TPR
        L2_IF
        RUN     l2_waits
        HALTED
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_IRQ, 0
RULE v_irq_waits_for_l2s_flag, "V_IRQ with RFLAGS.IF = 0 is not taken and stays", "APM vol. 2, 15.21.4"
        VIRTUAL_INTERRUPT V_IGN_TPR
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_IRQ, V_IRQ
RULE v_irq_is_taken_after_sti, "V_IRQ is taken one instruction behind STI", "APM vol. 2, 15.21.4 and 15.21.5"
        VIRTUAL_INTERRUPT V_IGN_TPR
        RUN     l2_sti
        HALTED
        CHECK   [exc_vector], VECTOR
        CHECK_AT [exc_rip], l2_behind_sti
RULE v_irq_below_v_tpr_is_held, "V_IRQ is not taken while V_INTR_PRIO is not above V_TPR", "APM vol. 2, 15.21.4"
        VIRTUAL_INTERRUPT (3 << V_PRIO | 3)
        L2_IF
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
RULE v_irq_above_v_tpr_is_taken, "V_IRQ is taken when V_INTR_PRIO is above V_TPR", "APM vol. 2, 15.21.4"
        VIRTUAL_INTERRUPT (4 << V_PRIO | 3)
        L2_IF
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
RULE v_ign_tpr_ignores_v_tpr, "With V_IGN_TPR the V_TPR does not count", "APM vol. 2, 15.21.4"
        VIRTUAL_INTERRUPT (V_IGN_TPR | 1 << V_PRIO | 15)
        L2_IF
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
RULE vintr_exits, "With the VINTR intercept the exit comes before the vector is taken", "APM vol. 2, 15.13.5"
        INTERCEPT VMEXIT_VINTR
        VIRTUAL_INTERRUPT V_IGN_TPR
        L2_IF
        L2      nop
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_VINTR
        CHECK   [vmcb + VMCB_RIP], [l2_first]
        CHECK   [exc_vector], NO_EXCEPTION
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_IRQ, V_IRQ
RULE vintr_waits_for_l2s_flag, "The VINTR exit comes only when L2 would take the interrupt", "APM vol. 2, 15.13.5"
        INTERCEPT VMEXIT_VINTR
        VIRTUAL_INTERRUPT V_IGN_TPR
        L2      nop
        EXECUTED
RULE vintr_exits_behind_sti, "The VINTR exit comes one instruction behind STI", "APM vol. 2, 15.13.5 and 15.21.5"
        INTERCEPT VMEXIT_VINTR
        VIRTUAL_INTERRUPT V_IGN_TPR
        RUN     l2_sti
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_VINTR
        CHECK_AT [vmcb + VMCB_RIP], l2_behind_sti
RULE vintr_without_v_irq, "Without V_IRQ there is no VINTR exit", "APM vol. 2, 15.13.5"
        INTERCEPT VMEXIT_VINTR
        L2_IF
        L2      nop
        EXECUTED
RULE eventinj_comes_before_v_irq, "An injected event is delivered before the virtual interrupt", "APM vol. 2, 15.20"
        VIRTUAL_INTERRUPT V_IGN_TPR
        L2_IF
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], 1 << 31 | 3 << 8 | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_IRQ, V_IRQ
RULE cr8_of_l2_is_v_tpr, "With V_INTR_MASKING CR8 of L2 is V_TPR", "APM vol. 2, 15.21.2"
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING | 5
        L2      mov rbx, cr8
        EXECUTED
        CHECK   rbx, 5
RULE cr8_written_by_l2_is_in_v_tpr, "With V_INTR_MASKING the exit saves CR8 of L2 in V_TPR", "APM vol. 2, 15.21.2"
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING
        mov     ebx, 9
        L2      mov cr8, rbx
        EXECUTED
        CHECK_BITS [vmcb + VMCB_INT_CTL], 0xff, 9
RULE cr8_of_l1_is_left_alone, "With V_INTR_MASKING CR8 of L2 does not change L1's", "APM vol. 2, 15.21.2"
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING
        mov     ebx, 9
        L2      mov cr8, rbx
        mov     rbx, cr8
        CHECK   rbx, 0

# ------------------------------------------------------------------ interrupt shadow: APM vol. 2, 15.21.5

RULE shadow_of_the_vmcb_holds_one_instruction, "INTERRUPT_SHADOW = 1 at VMRUN holds interrupts for one instruction", "APM vol. 2, 15.21.5"
        VIRTUAL_INTERRUPT V_IGN_TPR
        L2_IF
        mov     byte ptr [vmcb + VMCB_INT_SHADOW], 1
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
        CHECK_AT [exc_rip], l2_waits + 1
RULE exit_behind_sti_saves_the_shadow, "An exit right behind STI saves INTERRUPT_SHADOW = 1", "APM vol. 2, 15.21.5"
        INTERCEPT VMEXIT_CPUID
        RUN     l2_sti_cpuid
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_CPUID
        CHECK_BITS [vmcb + VMCB_INT_SHADOW], 1, 1
RULE exit_behind_mov_ss_saves_the_shadow, "An exit right behind MOV SS saves INTERRUPT_SHADOW = 1", "APM vol. 2, 15.21.5"
        INTERCEPT VMEXIT_CPUID
        RUN     l2_mov_ss_cpuid
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_CPUID
        CHECK_BITS [vmcb + VMCB_INT_SHADOW], 1, 1
RULE exit_later_saves_no_shadow, "An exit two instructions behind STI saves INTERRUPT_SHADOW = 0", "APM vol. 2, 15.21.5"
        mov     byte ptr [vmcb + VMCB_INT_SHADOW], 1
        L2      nop
        EXECUTED
        CHECK_BITS [vmcb + VMCB_INT_SHADOW], 1, 0

# ------------------------------------------------------------------ NMI: APM vol. 2, 15.13.2

# Run L2 until an NMI ends it; what L1 takes behind STGI is in exc_vector.
.macro RUN_UNTIL_NMI
        mov     qword ptr [l2_first], offset l2_forever
        CATCH   call run_and_wait
        mov     qword ptr [in_l2], 0
.endm

RULE nmi_exits, "With the NMI intercept an NMI exits", "APM vol. 2, 15.13.2"
ONLY_WITH "nmi_cycles=2000000"
        INTERCEPT VMEXIT_NMI
        RUN_UNTIL_NMI
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NMI
RULE nmi_exit_leaves_the_nmi_pending, "After the exit L1 takes the NMI itself when it sets GIF", "APM vol. 2, 15.13.2"
ONLY_WITH "nmi_cycles=2000000"
        INTERCEPT VMEXIT_NMI
        RUN_UNTIL_NMI
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NMI
        CHECK   [exc_vector], 2
RULE nmi_not_intercepted_is_l2s, "Without the intercept an NMI goes through L2's IDT", "APM vol. 2, 15.13.2"
ONLY_WITH "nmi_cycles=2000000"
        RUN     l2_forever
        HALTED
        CHECK   [exc_vector], 2
RULE nmi_ignores_masking, "V_INTR_MASKING and RFLAGS.IF do not hold an NMI", "APM vol. 2, 15.21.1"
DEVIATION "nmi_held_with_interrupts=on"
ONLY_WITH "nmi_cycles=2000000"
        INTERCEPT VMEXIT_NMI
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING
        RUN_UNTIL_NMI
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NMI
RULES_END

take_interrupts:
        sti
        nop
        nop
        cli
        ret
# With virtual GIF L0 hears of STGI at the next exit only.
run_and_wait:
        call    run_first
        in      al, 0x60
        nop
        ret
stgi_and_wait:
        stgi
        nop
        nop
        cli
        ret
vmrun_and_open:
        clgi
        vmrun   rax
        sti
        nop
        nop
        cli
        ret
# VMRUN with RFLAGS.IF = 1 of L1.
vmrun_with_if:
        mov     qword ptr [in_l2], 1
        mov     eax, offset vmcb
        clgi
        sti
        vmrun   rax
        cli
        stgi
        mov     qword ptr [in_l2], 0
        ret

# The handler of an interrupt stops L2.
l2_waits:
        nop
        nop
l2_halt:
        hlt
l2_sti: sti
        nop
l2_behind_sti:
        nop
        hlt
l2_sti_cpuid:
        sti
        cpuid
        hlt
l2_mov_ss_cpuid:
        mov     eax, SEL_DATA
        mov     ss, eax
        cpuid
        hlt
l2_forever:                                 # each turn costs an exit to L0
        in      al, 0x60
        jmp     l2_forever
