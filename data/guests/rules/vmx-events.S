# @title   Rules of VMX: exceptions of L2, and events that L1 injects
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.events

.set VALID,         1 << 31
.set ERROR,         1 << 11
.set INTERRUPT,     0 << 8
.set NMI,           2 << 8
.set EXCEPTION,     3 << 8
.set SOFTWARE,      4 << 8
.set PRIVILEGED,    5 << 8                  # INT1
.set SOFTWARE_EXCEPTION, 6 << 8             # INT3, INTO
.set UNMAPPED,      0x100000000             # behind what L1's page tables map
.set PIN_NMI_EXITING, 1 << 3

# L2's first instruction has raised an exception that exits, before L2's handler saw it.
.macro RAISED info, error, qualification
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD GUEST_RIP, [l2_first]
        CHECK_FIELD VM_EXIT_INTR_INFO, VALID | \info
        CHECK_FIELD VM_EXIT_INTR_ERROR_CODE, \error
        QUALIFIED \qualification
        CHECK   [exc_vector], NO_EXCEPTION
.endm
.macro INJECT info, error=0, length=0
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | \info
        SET     VM_ENTRY_EXCEPTION_ERROR_CODE, \error
        SET     VM_ENTRY_INSTRUCTION_LEN, \length
.endm
.macro PF_FILTER bitmap, mask, match
        SET     EXCEPTION_BITMAP, \bitmap
        SET     PAGE_FAULT_ERROR_CODE_MASK, \mask
        SET     PAGE_FAULT_ERROR_CODE_MATCH, \match
.endm

# ------------------------------------------------------------------ exception bitmap: SDM vol. 3, 26.2

RULE de_exits, "#DE exits when its bit of the exception bitmap is set", "SDM vol. 3, 26.2"
        SET     EXCEPTION_BITMAP, 1 << EXC_DE
        xor     ecx, ecx
        L2      div ecx
        RAISED  EXCEPTION | EXC_DE, 0, 0
RULE ud_exits, "#UD exits when its bit is set", "SDM vol. 3, 26.2"
        SET     EXCEPTION_BITMAP, 1 << EXC_UD
        L2      ud2
        RAISED  EXCEPTION | EXC_UD, 0, 0
RULE gp_exits_with_its_error_code, "#GP exits with its error code", "SDM vol. 3, 28.2.2"
        SET     EXCEPTION_BITMAP, 1 << EXC_GP
        mov     ebx, 0x7c
        L2      mov ds, ebx
        RAISED  EXCEPTION | ERROR | EXC_GP, 0x7c, 0
RULE gp_of_an_emulated_instruction_exits, "A #GP that L0 raises for L2 obeys L1's bitmap", "nested L0: exceptions of instructions it emulates"
        SET     EXCEPTION_BITMAP, 1 << EXC_GP
        mov     ecx, 0x1234
        L2      rdmsr
        RAISED  EXCEPTION | ERROR | EXC_GP, 0, 0
RULE bp_exits_as_a_software_exception, "INT3 exits with type 6 and its length", "SDM vol. 3, 28.2.2 and 28.2.5"
DEVIATION "software_exceptions_kept_by_l0=on"
        SET     EXCEPTION_BITMAP, 1 << EXC_BP
        L2      int3
        RAISED  SOFTWARE_EXCEPTION | EXC_BP, 0, 0
        CHECK_FIELD VM_EXIT_INSTRUCTION_LEN, 1
RULE int1_exits_as_a_privileged_exception, "INT1 exits with type 5 and its length", "SDM vol. 3, 28.2.2 and 28.2.5"
DEVIATION "software_exceptions_kept_by_l0=on"
        SET     EXCEPTION_BITMAP, 1 << EXC_DB
        L2      .byte 0xf1
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD VM_EXIT_INTR_INFO, VALID | PRIVILEGED | EXC_DB
        CHECK_FIELD VM_EXIT_INSTRUCTION_LEN, 1
RULE other_exception_does_not_exit, "An exception whose bit is clear goes to L2", "SDM vol. 3, 26.2"
        SET     EXCEPTION_BITMAP, 1 << EXC_GP
        RUN     l2_ud2
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE int_n_does_not_exit, "INT n of a vector whose bit is set does not exit", "SDM vol. 3, 26.2"
        SET     EXCEPTION_BITMAP, 1 << EXC_UD
        RUN     l2_int6
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE df_exits, "#DF exits when its bit is set, with error code 0", "SDM vol. 3, 26.2"
        SET     EXCEPTION_BITMAP, 1 << 8
        SET     GUEST_IDTR_LIMIT, 0
        L2      ud2
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD VM_EXIT_INTR_INFO, VALID | EXCEPTION | ERROR | 8
        CHECK_FIELD VM_EXIT_INTR_ERROR_CODE, 0
RULE triple_fault_exits, "A fault while #DF is delivered is exit reason 2", "SDM vol. 3, 26.2"
        SET     GUEST_IDTR_LIMIT, 0
        L2      ud2
        CHECK_FIELD VM_EXIT_REASON, EXIT_TRIPLE_FAULT

# ------------------------------------------------------------------ #PF: SDM vol. 3, 26.2

RULE pf_exits_with_address_and_error, "#PF exits with its error code and the address as qualification", "SDM vol. 3, 28.2.1 and 28.2.2"
        PF_FILTER 1 << EXC_PF, 0, 0
        mov     rbx, UNMAPPED
        L2      mov rcx, [rbx + 8]
        RAISED  EXCEPTION | ERROR | EXC_PF, 0, UNMAPPED + 8
RULE pf_write_exits, "#PF of a write has bit 1 of the error code", "SDM vol. 3, 28.2.2"
        PF_FILTER 1 << EXC_PF, 0, 0
        mov     rbx, UNMAPPED
        L2      mov [rbx], rcx
        RAISED  EXCEPTION | ERROR | EXC_PF, 2, UNMAPPED
RULE pf_fetch_exits, "#PF of a fetch has bit 4 of the error code", "SDM vol. 3, 28.2.2"
        PF_FILTER 1 << EXC_PF, 0, 0
        mov     rbx, UNMAPPED
        L2      jmp rbx
        CHECK_FIELD VM_EXIT_INTR_ERROR_CODE, 0x10
        QUALIFIED UNMAPPED
RULE pf_exit_leaves_cr2_alone, "CR2 is not written by a #PF that exits", "SDM vol. 3, 28.1"
        PF_FILTER 1 << EXC_PF, 0, 0
        mov     ebx, 0x1111
        mov     cr2, rbx
        mov     rbx, UNMAPPED
        L2      mov rcx, [rbx]
        RAISED  EXCEPTION | ERROR | EXC_PF, 0, UNMAPPED
        mov     rbx, cr2
        CHECK   rbx, 0x1111
RULE pf_not_intercepted_writes_cr2, "A #PF that does not exit is L2's with its error code and CR2", "SDM vol. 3, 26.2"
        RUN     l2_page_fault
        HALTED
        CHECK   [exc_vector], EXC_PF
        mov     rbx, cr2
        CHECK   rbx, UNMAPPED
RULE pf_bit_set_and_match_exits, "Bit 14 set: an error code that matches exits", "SDM vol. 3, 26.2"
        PF_FILTER 1 << EXC_PF, 2, 2
        mov     rbx, UNMAPPED
        L2      mov [rbx], rcx
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
RULE pf_bit_set_and_no_match_does_not_exit, "Bit 14 set: an error code that does not match is L2's", "SDM vol. 3, 26.2"
        PF_FILTER 1 << EXC_PF, 2, 2
        RUN     l2_page_fault
        HALTED
        CHECK   [exc_vector], EXC_PF
RULE pf_bit_clear_and_match_does_not_exit, "Bit 14 clear: an error code that matches is L2's", "SDM vol. 3, 26.2"
        PF_FILTER 0, 2, 0
        RUN     l2_page_fault
        HALTED
        CHECK   [exc_vector], EXC_PF
RULE pf_bit_clear_and_no_match_exits, "Bit 14 clear: an error code that does not match exits", "SDM vol. 3, 26.2"
        PF_FILTER 0, 2, 2
        mov     rbx, UNMAPPED
        L2      mov rcx, [rbx]
        RAISED  EXCEPTION | ERROR | EXC_PF, 0, UNMAPPED

# ------------------------------------------------------------------ IDT vectoring: SDM vol. 3, 28.2.4

RULE fault_while_delivering_names_the_first_event, "An exit while an exception is delivered has it in the IDT-vectoring information", "SDM vol. 3, 28.2.4"
        SET     EXCEPTION_BITMAP, 1 << EXC_PF
        SET     GUEST_IDTR_BASE, UNMAPPED
        L2      ud2
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        QUALIFIED UNMAPPED + 16*EXC_UD
        CHECK_FIELD IDT_VECTORING_INFO_FIELD, VALID | EXCEPTION | EXC_UD
RULE fault_while_delivering_an_error_code, "The IDT-vectoring error code is that of the first event", "SDM vol. 3, 28.2.4"
        SET     EXCEPTION_BITMAP, 1 << EXC_PF
        SET     GUEST_IDTR_BASE, UNMAPPED
        mov     ebx, 0x7c
        L2      mov ds, ebx
        CHECK_FIELD IDT_VECTORING_INFO_FIELD, VALID | EXCEPTION | ERROR | EXC_GP
        CHECK_FIELD IDT_VECTORING_ERROR_CODE, 0x7c
RULE int_n_fault_while_delivering, "INT n that exits while it is delivered has type 4 and its length", "SDM vol. 3, 28.2.4 and 28.2.5"
        SET     EXCEPTION_BITMAP, 1 << EXC_PF
        SET     GUEST_IDTR_BASE, UNMAPPED
        L2      int 0x30
        CHECK_FIELD IDT_VECTORING_INFO_FIELD, VALID | SOFTWARE | 0x30
        CHECK_FIELD VM_EXIT_INSTRUCTION_LEN, 2
        CHECK_FIELD GUEST_RIP, [l2_first]
RULE int3_fault_while_delivering, "INT3 that exits while it is delivered has type 6", "SDM vol. 3, 28.2.4"
        SET     EXCEPTION_BITMAP, 1 << EXC_PF
        SET     GUEST_IDTR_BASE, UNMAPPED
        L2      int3
        CHECK_FIELD IDT_VECTORING_INFO_FIELD, VALID | SOFTWARE_EXCEPTION | EXC_BP
RULE ept_violation_while_delivering, "An EPT violation while an exception is delivered names it", "SDM vol. 3, 28.2.4"
        SET     GUEST_IDTR_BASE, WINDOW
        mov     qword ptr [WINDOW_ENTRY], 0
        L2      ud2
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
        CHECK_FIELD GUEST_PHYSICAL_ADDRESS, WINDOW + 16*EXC_UD
        CHECK_FIELD IDT_VECTORING_INFO_FIELD, VALID | EXCEPTION | EXC_UD
RULE no_event_no_vectoring, "Without a delivery the IDT-vectoring information is not valid", "SDM vol. 3, 28.2.4"
        L2      cpuid
        EXITED  EXIT_CPUID
        CHECK_FIELD_BITS IDT_VECTORING_INFO_FIELD, VALID, 0
RULE triple_fault_has_no_vectoring, "A triple fault leaves the IDT-vectoring information not valid", "SDM vol. 3, 28.2.4"
        SET     GUEST_IDTR_LIMIT, 0
        L2      ud2
        CHECK_FIELD VM_EXIT_REASON, EXIT_TRIPLE_FAULT
        CHECK_FIELD_BITS IDT_VECTORING_INFO_FIELD, VALID, 0
RULE df_exit_has_no_vectoring, "A #DF that exits leaves the IDT-vectoring information not valid", "SDM vol. 3, 28.2.4"
        SET     EXCEPTION_BITMAP, 1 << 8
        SET     GUEST_IDTR_LIMIT, 0
        L2      ud2
        CHECK_FIELD_BITS VM_EXIT_INTR_INFO, 0xff, 8
        CHECK_FIELD_BITS IDT_VECTORING_INFO_FIELD, VALID, 0
RULE no_exception_no_intr_info, "An exit for another reason has no valid interruption information", "SDM vol. 3, 28.2.2"
        L2      cpuid
        EXITED  EXIT_CPUID
        CHECK_FIELD_BITS VM_EXIT_INTR_INFO, VALID, 0

# ------------------------------------------------------------------ injection: SDM vol. 3, 27.6.1

RULE injected_exception_is_delivered, "An injected exception goes through L2's IDT before its first instruction", "SDM vol. 3, 27.6.1"
        INJECT  EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
        CHECK_AT [exc_rip], l2_waits
RULE injected_exception_has_its_error_code, "The VM-entry exception error code is pushed", "SDM vol. 3, 27.6.1"
        INJECT  EXCEPTION | ERROR | EXC_GP, 0x1238
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_GP
        CHECK   [exc_error], 0x1238
RULE injected_page_fault_leaves_cr2, "Injecting #PF does not write CR2", "SDM vol. 3, 27.6.1"
        mov     ebx, 0x5555
        mov     cr2, rbx
        INJECT  EXCEPTION | ERROR | EXC_PF, 2
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_PF
        mov     rbx, cr2
        CHECK   rbx, 0x5555
RULE injected_exception_is_not_intercepted, "The exception bitmap does not count for an injected exception", "SDM vol. 3, 27.6.1.2"
        SET     EXCEPTION_BITMAP, 1 << EXC_UD
        INJECT  EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE injected_interrupt_is_delivered, "An injected external interrupt goes through L2's IDT", "SDM vol. 3, 27.6.1"
        SET_BITS GUEST_RFLAGS, 1 << 9
        INJECT  INTERRUPT | 0x31
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x31
RULE injected_interrupt_is_not_intercepted, "External-interrupt exiting does not count for an injected one", "SDM vol. 3, 27.6.1.2"
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR
        SET_BITS GUEST_RFLAGS, 1 << 9
        INJECT  INTERRUPT | 0x31
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x31
RULE injected_nmi_is_delivered, "An injected NMI goes through L2's IDT", "SDM vol. 3, 27.6.1"
        INJECT  NMI | 2
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 2
RULE injected_nmi_is_not_intercepted, "NMI exiting does not count for an injected NMI", "SDM vol. 3, 27.6.1.2"
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_NMI_EXITING
        INJECT  NMI | 2
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 2
RULE injected_nmi_blocks_nmis, "After an injected NMI blocking by NMI is in effect", "SDM vol. 3, 27.6.1 and 28.3.4"
        INJECT  NMI | 2
        RUN     l2_waits
        HALTED
        CHECK_FIELD_BITS GUEST_INTERRUPTIBILITY_INFO, 8, 8
RULE injected_int_n_returns_behind_it, "An injected INT n pushes RIP plus the instruction length", "SDM vol. 3, 27.6.1.1"
        INJECT  SOFTWARE | 0x32, 0, 1
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 0x32
        CHECK_AT [exc_rip], l2_waits + 1
RULE injected_int3_returns_behind_it, "An injected software exception pushes RIP plus the instruction length", "SDM vol. 3, 27.6.1.1"
        INJECT  SOFTWARE_EXCEPTION | EXC_BP, 0, 1
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_BP
        CHECK_AT [exc_rip], l2_waits + 1
RULE injection_happens_once, "The valid bit is clear after the exit, and the next entry injects nothing", "SDM vol. 3, 28.2.5"
        INJECT  EXCEPTION | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK_FIELD_BITS VM_ENTRY_INTR_INFO_FIELD, VALID, 0
        mov     qword ptr [exc_vector], NO_EXCEPTION
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
RULE injection_interrupted_by_an_ept_violation, "An EPT violation while an event is injected has it in the IDT-vectoring information", "SDM vol. 3, 28.2.4"
        SET     GUEST_IDTR_BASE, WINDOW
        mov     qword ptr [WINDOW_ENTRY], 0
        INJECT  EXCEPTION | ERROR | EXC_GP, 0x18
        RUN     l2_waits
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
        CHECK_FIELD IDT_VECTORING_INFO_FIELD, VALID | EXCEPTION | ERROR | EXC_GP
        CHECK_FIELD IDT_VECTORING_ERROR_CODE, 0x18
RULE fault_of_an_injected_event_is_intercepted, "A fault while an injected event is delivered obeys the exception bitmap", "SDM vol. 3, 27.6.1.2"
        SET     EXCEPTION_BITMAP, 1 << EXC_PF
        SET     GUEST_IDTR_BASE, UNMAPPED
        INJECT  EXCEPTION | EXC_UD
        RUN     l2_waits
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD VM_EXIT_INTR_INFO, VALID | EXCEPTION | ERROR | EXC_PF
        CHECK_FIELD IDT_VECTORING_INFO_FIELD, VALID | EXCEPTION | EXC_UD
RULE injected_into_an_empty_idt_is_a_triple_fault, "An injected exception that cannot be delivered ends in a triple fault", "SDM vol. 3, 27.6.1.2"
        SET     GUEST_IDTR_LIMIT, 0
        INJECT  EXCEPTION | EXC_UD
        RUN     l2_waits
        CHECK_FIELD VM_EXIT_REASON, EXIT_TRIPLE_FAULT
RULES_END

# The handler of an injected event stops L2.
l2_waits:
        nop
        hlt
l2_ud2: CATCH   ud2
        hlt
l2_int6:
        CATCH   int 6
        hlt
l2_page_fault:
        mov     rbx, UNMAPPED
        CATCH   mov rcx, [rbx]
        hlt
