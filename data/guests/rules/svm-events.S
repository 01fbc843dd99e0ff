# @title   Rules of SVM: exceptions of L2, and events that L1 injects
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.events

.set VALID, 1 << 31
.set ERROR, 1 << 11
.set EXCEPTION, 3 << 8
.set SOFTWARE, 4 << 8
.set RF, 1 << 16
.set UNMAPPED, 0x100000000                  # behind what L1's page tables map

# An intercepted exception: RIP at the instruction, no next RIP but for INT3.
.macro RAISED vector, error, address
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + \vector
        CHECK   [vmcb + VMCB_RIP], [l2_first]
        INFO1   \error
        INFO2   \address
        CHECK   [exc_vector], NO_EXCEPTION
.endm

# ------------------------------------------------------------------ intercepts: APM vol. 2, 15.12

RULE de_exits, "#DE of L2 exits when its bit of the exception intercepts is set", "APM vol. 2, 15.12.1"
        INTERCEPT VMEXIT_EXCEPTION + EXC_DE
        xor     ecx, ecx
        L2      div ecx
        RAISED  EXC_DE, 0, 0
RULE bp_exits, "INT3 of L2 exits with RIP at the INT3", "APM vol. 2, 15.12.4"
        INTERCEPT VMEXIT_EXCEPTION + EXC_BP
        L2      int3
        RAISED  EXC_BP, 0, 0
RULE ud_exits, "#UD of L2 exits when its bit is set", "APM vol. 2, 15.12.7"
        INTERCEPT VMEXIT_EXCEPTION + EXC_UD
        L2      ud2
        RAISED  EXC_UD, 0, 0
RULE gp_exits_with_its_error_code, "#GP of L2 exits with its error code in EXITINFO1", "APM vol. 2, 15.12.14"
        INTERCEPT VMEXIT_EXCEPTION + EXC_GP
        mov     ebx, 0x7c
        L2      mov ds, ebx
        RAISED  EXC_GP, 0x7c, 0
RULE gp_of_an_emulated_instruction_exits, "A #GP that L0 raises for an instruction it emulates obeys L1's intercept", "nested L0"
        INTERCEPT VMEXIT_EXCEPTION + EXC_GP
        mov     ecx, 0x1234
        L2      rdmsr
        RAISED  EXC_GP, 0, 0
RULE pf_read_exits, "#PF of L2 exits with its error code in EXITINFO1 and the address in EXITINFO2", "APM vol. 2, 15.12.15"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rbx, UNMAPPED
        L2      mov rcx, [rbx + 8]
        RAISED  EXC_PF, 0, UNMAPPED + 8
RULE pf_write_exits, "#PF of a write exits with bit 1 of the error code", "APM vol. 2, 15.12.15"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rbx, UNMAPPED
        L2      mov [rbx], rcx
        RAISED  EXC_PF, 2, UNMAPPED
RULE pf_fetch_exits, "#PF of a fetch exits with bit 4 of the error code", "APM vol. 2, 15.12.15"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rbx, UNMAPPED
        L2      jmp rbx
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_PF
        INFO1   0x10
        INFO2   UNMAPPED
RULE pf_exit_leaves_cr2_alone, "A #PF that exits does not write CR2", "APM vol. 2, 15.12.15"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     qword ptr [vmcb + VMCB_CR2], 0x1111
        mov     rbx, UNMAPPED
        L2      mov rcx, [rbx]
        RAISED  EXC_PF, 0, UNMAPPED
        CHECK   [vmcb + VMCB_CR2], 0x1111
RULE other_exception_does_not_exit, "An exception whose bit is clear goes to L2", "APM vol. 2, 15.12"
        INTERCEPT VMEXIT_EXCEPTION + EXC_GP
        RUN     l2_ud2
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE pf_not_intercepted_writes_cr2, "A #PF that does not exit is L2's, with its error code and CR2", "APM vol. 2, 15.12.15"
        RUN     l2_page_fault
        HALTED
        CHECK   [exc_vector], EXC_PF
        CHECK   [exc_error], 0
        CHECK   [vmcb + VMCB_CR2], UNMAPPED
RULE fault_while_delivering_exits, "An exit while an exception is delivered has that exception in EXITINTINFO", "APM vol. 2, 15.7.2"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rax, UNMAPPED
        mov     [vmcb + VMCB_IDTR + SEGMENT_BASE], rax
        L2      ud2
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_PF
        INFO2   UNMAPPED + 16*EXC_UD
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO], VALID | EXCEPTION | EXC_UD
RULE int_n_fault_while_delivering_exits, "An exit while INT n is delivered has type 4 in EXITINTINFO and RIP at the INT n", "APM vol. 2, 15.7.2"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rax, UNMAPPED
        mov     [vmcb + VMCB_IDTR + SEGMENT_BASE], rax
        L2      int 0x30
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_PF
        CHECK   [vmcb + VMCB_RIP], [l2_first]
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO], VALID | SOFTWARE | 0x30
RULE nested_fault_while_delivering_exits, "A nested page fault while an exception is delivered has it in EXITINTINFO", "APM vol. 2, 15.7.2"
        mov     qword ptr [vmcb + VMCB_IDTR + SEGMENT_BASE], WINDOW
        mov     qword ptr [WINDOW_ENTRY], 0
        L2      ud2
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NPF
        INFO2   WINDOW + 16*EXC_UD
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO], VALID | EXCEPTION | EXC_UD
RULE no_event_means_no_exitintinfo, "Without a delivery EXITINTINFO is not valid", "APM vol. 2, 15.7.2"
        INTERCEPT VMEXIT_CPUID
        L2      cpuid
        EXITED  VMEXIT_CPUID
        CHECK_BITS [vmcb + VMCB_EXIT_INT_INFO], VALID, 0
RULE triple_fault_is_shutdown, "A triple fault of L2 is the exit SHUTDOWN", "APM vol. 2, 15.14.3"
        mov     dword ptr [vmcb + VMCB_IDTR + SEGMENT_LIMIT], 0
        L2      ud2
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_SHUTDOWN
RULE double_fault_exits, "#DF of L2 exits when its bit is set", "APM vol. 2, 15.12.9"
        INTERCEPT VMEXIT_EXCEPTION + 8
        mov     dword ptr [vmcb + VMCB_IDTR + SEGMENT_LIMIT], 0
        L2      div dword ptr [vmcb + VMCB_IDTR + SEGMENT_LIMIT]
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + 8
        INFO1   0

# ------------------------------------------------------------------ EVENTINJ: APM vol. 2, 15.20

RULE injected_exception_is_delivered, "An injected exception goes through L2's IDT before its first instruction", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
        CHECK_AT [exc_rip], l2_waits
        CHECK   [exc_error], 0
RULE injected_fault_has_rf, "The frame of an injected fault has RF set, as of one that occurred in the guest", "APM vol. 2, 15.20 and 13.1.1"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
        mov     rax, [exc_rflags]
        and     eax, RF
        CHECK   rax, RF
RULE injected_error_code_is_pushed, "EVENTINJ with EV pushes its error code", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | ERROR | EXC_GP
        mov     dword ptr [vmcb + VMCB_EVENT_INJ_ERR], 0xabc8
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_GP
        CHECK   [exc_error], 0xabc8
RULE injected_pf_takes_cr2_of_the_vmcb, "An injected #PF does not write CR2: L2 finds the one of the VMCB", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | ERROR | EXC_PF
        mov     dword ptr [vmcb + VMCB_EVENT_INJ_ERR], 6
        mov     qword ptr [vmcb + VMCB_CR2], 0x7777000
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_PF
        CHECK   [exc_error], 6
        CHECK   [vmcb + VMCB_CR2], 0x7777000
RULE injected_exception_is_not_intercepted, "The exception intercepts do not count for an injected exception", "APM vol. 2, 15.20"
        INTERCEPT VMEXIT_EXCEPTION + EXC_UD
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE injected_interrupt_is_delivered, "An injected interrupt (type 0) is delivered whatever RFLAGS.IF is", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | 0x31
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x31
RULE injected_nmi_is_delivered, "An injected NMI (type 2) goes through L2's IDT", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | 2 << 8 | 2
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 2
RULE injected_software_interrupt_returns_to_next_rip, "An injected software interrupt (type 4) pushes the VMCB's next RIP", "APM vol. 2, 15.20"
        RUN     l2_int                      # so that L0 has its tables for IDT and stack
        HALTED
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | SOFTWARE | 0x32
        mov     qword ptr [vmcb + VMCB_NEXT_RIP], offset l2_waits + 1
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x32
        CHECK_AT [exc_rip], l2_waits + 1
RULE injected_software_interrupt_survives_a_fault_of_l0, "An injected software interrupt is delivered though L0 must first map what the delivery touches", "APM vol. 2, 15.20"
DEVIATION "injected_int_n_lost=on"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | SOFTWARE | 0x32
        mov     qword ptr [vmcb + VMCB_NEXT_RIP], offset l2_waits + 1
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x32
RULE injection_happens_once, "The exit clears the valid bit of EVENTINJ", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK_BITS [vmcb + VMCB_EVENT_INJ], VALID, 0
RULE injection_interrupted_by_a_nested_fault, "A nested page fault while an event is injected has it in EXITINTINFO", "APM vol. 2, 15.20"
        mov     qword ptr [vmcb + VMCB_IDTR + SEGMENT_BASE], WINDOW
        mov     qword ptr [WINDOW_ENTRY], 0
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | ERROR | EXC_GP
        mov     dword ptr [vmcb + VMCB_EVENT_INJ_ERR], 0x18
        RUN     l2_waits
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NPF
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO], VALID | EXCEPTION | ERROR | EXC_GP
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO_ERR], 0x18
RULE injected_into_an_empty_idt_is_shutdown, "An injected exception that cannot be delivered ends in SHUTDOWN", "APM vol. 2, 15.20 and 15.14.3"
        mov     dword ptr [vmcb + VMCB_IDTR + SEGMENT_LIMIT], 0
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | EXC_UD
        RUN     l2_waits
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_SHUTDOWN
RULES_END

# The handler of an injected event stops L2.
l2_waits:
        nop
        hlt
l2_int: CATCH   int 0x33
        hlt
l2_ud2: CATCH   ud2
        hlt
l2_page_fault:
        mov     rbx, UNMAPPED
        CATCH   mov rcx, [rbx]
        hlt
