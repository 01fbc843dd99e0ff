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

RULE de_exits, "", "APM vol. 2, 15.12.1"
        INTERCEPT VMEXIT_EXCEPTION + EXC_DE
        xor     ecx, ecx
        L2      div ecx
        RAISED  EXC_DE, 0, 0
RULE bp_exits, "RIP at the INT3", "APM vol. 2, 15.12.4"
        INTERCEPT VMEXIT_EXCEPTION + EXC_BP
        L2      int3
        RAISED  EXC_BP, 0, 0
RULE ud_exits, "", "APM vol. 2, 15.12.7"
        INTERCEPT VMEXIT_EXCEPTION + EXC_UD
        L2      ud2
        RAISED  EXC_UD, 0, 0
RULE gp_exits_with_its_error_code, "", "APM vol. 2, 15.12.14"
        INTERCEPT VMEXIT_EXCEPTION + EXC_GP
        mov     ebx, 0x7c
        L2      mov ds, ebx
        RAISED  EXC_GP, 0x7c, 0
RULE gp_of_an_emulated_instruction_exits, "its own #GP for L2 obeys L1's intercept", "nested L0"
        INTERCEPT VMEXIT_EXCEPTION + EXC_GP
        mov     ecx, 0x1234
        L2      rdmsr
        RAISED  EXC_GP, 0, 0
RULE pf_read_exits, "error code and address", "APM vol. 2, 15.12.15"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rbx, UNMAPPED
        L2      mov rcx, [rbx + 8]
        RAISED  EXC_PF, 0, UNMAPPED + 8
RULE pf_write_exits, "", "APM vol. 2, 15.12.15"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rbx, UNMAPPED
        L2      mov [rbx], rcx
        RAISED  EXC_PF, 2, UNMAPPED
RULE pf_fetch_exits, "", "APM vol. 2, 15.12.15"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rbx, UNMAPPED
        L2      jmp rbx
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_PF
        INFO1   0x10
        INFO2   UNMAPPED
RULE pf_exit_leaves_cr2_alone, "the exit comes before CR2 is written", "APM vol. 2, 15.12.15"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     qword ptr [vmcb + VMCB_CR2], 0x1111
        mov     rbx, UNMAPPED
        L2      mov rcx, [rbx]
        RAISED  EXC_PF, 0, UNMAPPED
        CHECK   [vmcb + VMCB_CR2], 0x1111
RULE other_exception_does_not_exit, "", "APM vol. 2, 15.12"
        INTERCEPT VMEXIT_EXCEPTION + EXC_GP
        RUN     l2_ud2
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE pf_not_intercepted_writes_cr2, "", "APM vol. 2, 15.12.15"
        RUN     l2_page_fault
        HALTED
        CHECK   [exc_vector], EXC_PF
        CHECK   [exc_error], 0
        CHECK   [vmcb + VMCB_CR2], UNMAPPED
RULE fault_while_delivering_exits, "EXITINTINFO names the first event", "APM vol. 2, 15.7.2"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rax, UNMAPPED
        mov     [vmcb + VMCB_IDTR + SEGMENT_BASE], rax
        L2      ud2
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_PF
        INFO2   UNMAPPED + 16*EXC_UD
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO], VALID | EXCEPTION | EXC_UD
RULE int_n_fault_while_delivering_exits, "type 4", "APM vol. 2, 15.7.2"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        mov     rax, UNMAPPED
        mov     [vmcb + VMCB_IDTR + SEGMENT_BASE], rax
        L2      int 0x30
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_PF
        CHECK   [vmcb + VMCB_RIP], [l2_first]
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO], VALID | SOFTWARE | 0x30
RULE nested_fault_while_delivering_exits, "", "APM vol. 2, 15.7.2"
        mov     qword ptr [vmcb + VMCB_IDTR + SEGMENT_BASE], WINDOW
        mov     qword ptr [WINDOW_ENTRY], 0
        L2      ud2
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NPF
        INFO2   WINDOW + 16*EXC_UD
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO], VALID | EXCEPTION | EXC_UD
RULE no_event_means_no_exitintinfo, "", "APM vol. 2, 15.7.2"
        INTERCEPT VMEXIT_CPUID
        L2      cpuid
        EXITED  VMEXIT_CPUID
        CHECK_BITS [vmcb + VMCB_EXIT_INT_INFO], VALID, 0
RULE triple_fault_is_shutdown, "", "APM vol. 2, 15.14.3"
        mov     dword ptr [vmcb + VMCB_IDTR + SEGMENT_LIMIT], 0
        L2      ud2
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_SHUTDOWN
RULE double_fault_exits, "", "APM vol. 2, 15.12.9"
        INTERCEPT VMEXIT_EXCEPTION + 8
        mov     dword ptr [vmcb + VMCB_IDTR + SEGMENT_LIMIT], 0
        L2      div dword ptr [vmcb + VMCB_IDTR + SEGMENT_LIMIT]
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + 8
        INFO1   0

# ------------------------------------------------------------------ EVENTINJ: APM vol. 2, 15.20

RULE injected_exception_is_delivered, "", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
        CHECK_AT [exc_rip], l2_waits
        CHECK   [exc_error], 0
RULE injected_error_code_is_pushed, "EV", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | ERROR | EXC_GP
        mov     dword ptr [vmcb + VMCB_EVENT_INJ_ERR], 0xabc8
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_GP
        CHECK   [exc_error], 0xabc8
RULE injected_pf_takes_cr2_of_the_vmcb, "L1 writes CR2", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | ERROR | EXC_PF
        mov     dword ptr [vmcb + VMCB_EVENT_INJ_ERR], 6
        mov     qword ptr [vmcb + VMCB_CR2], 0x7777000
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_PF
        CHECK   [exc_error], 6
        CHECK   [vmcb + VMCB_CR2], 0x7777000
RULE injected_exception_is_not_intercepted, "", "APM vol. 2, 15.20"
        INTERCEPT VMEXIT_EXCEPTION + EXC_UD
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE injected_interrupt_is_delivered, "type 0, whatever RFLAGS.IF", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | 0x31
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x31
RULE injected_nmi_is_delivered, "type 2", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | 2 << 8 | 2
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 2
RULE injected_software_interrupt_returns_to_next_rip, "type 4 and nRIP", "APM vol. 2, 15.20"
        RUN     l2_int                      # so that L0 has its tables for IDT and stack
        HALTED
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | SOFTWARE | 0x32
        mov     qword ptr [vmcb + VMCB_NEXT_RIP], offset l2_waits + 1
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x32
        CHECK_AT [exc_rip], l2_waits + 1
RULE injected_software_interrupt_survives_a_fault_of_l0, "", "APM vol. 2, 15.20"
DEVIATION "", "Xen takes it for an INT n that L2 executes again (hvm_event_needs_reinjection)"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | SOFTWARE | 0x32
        mov     qword ptr [vmcb + VMCB_NEXT_RIP], offset l2_waits + 1
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x32
RULE injection_happens_once, "V is cleared", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK_BITS [vmcb + VMCB_EVENT_INJ], VALID, 0
RULE injection_interrupted_by_a_nested_fault, "EXITINTINFO has the event", "APM vol. 2, 15.20"
        mov     qword ptr [vmcb + VMCB_IDTR + SEGMENT_BASE], WINDOW
        mov     qword ptr [WINDOW_ENTRY], 0
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | EXCEPTION | ERROR | EXC_GP
        mov     dword ptr [vmcb + VMCB_EVENT_INJ_ERR], 0x18
        RUN     l2_waits
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NPF
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO], VALID | EXCEPTION | ERROR | EXC_GP
        CHECK32 [vmcb + VMCB_EXIT_INT_INFO_ERR], 0x18
RULE injected_into_an_empty_idt_is_shutdown, "", "APM vol. 2, 15.20 and 15.14.3"
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
