# @title   Rules of VMX: MSR lists, the preemption timer, page-modification logging
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.lists

.set VM_EXIT_MSR_STORE_ADDR, 0x2006
.set VM_EXIT_MSR_LOAD_ADDR, 0x2008
.set VM_ENTRY_MSR_LOAD_ADDR, 0x200a
.set PML_ADDRESS,       0x200e
.set MSR_LSTAR,         0xc0000082
.set MSR_CSTAR,         0xc0000083
.set MSR_FS_BASE,       0xc0000100
.set MSR_X2APIC_TPR,    0x808
.set EXIT_MSR_LOAD,     34
.set EXIT_PML_FULL,     62
.set PIN_TIMER,         1 << 6
.set EXIT_SAVE_TIMER,   1 << 22
.set CPU2_PML,          1 << 17
.set PAGE_1,            WINDOW + 0x1000

.macro READ_MSR number                      # to RBX
        mov     ecx, \number
        rdmsr
        shl     rdx, 32
        lea     rbx, [rax + rdx]
.endm
# Entry \n of a list in "page".
.macro ENTRY n, number, value
        mov     eax, \number
        mov     [page + 16*\n], rax
        mov     rax, \value
        mov     [page + 16*\n + 8], rax
.endm
.macro LIST address, count, entries
        SET_AT  \address, page
        SET     \count, \entries
.endm
.macro ENTRY_LIST entries
        LIST    VM_ENTRY_MSR_LOAD_ADDR, VM_ENTRY_MSR_LOAD_COUNT, \entries
.endm
# The entry fails at an entry of the list, counted from 1, and L2 does not run.
.macro LIST_FAILS entry
        L2      mov qword ptr [scratch], 1
        CHECK_FIELD VM_EXIT_REASON, ENTRY_FAILED | EXIT_MSR_LOAD
        QUALIFIED \entry
        CHECK   [scratch], 0
.endm

# ------------------------------------------------------------------ MSR lists: SDM vol. 3, 27.4, 28.4, 28.6

RULE entry_list_loads, "VM entry loads the MSRs of its list", "SDM vol. 3, 27.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_LSTAR, 0x123456789a
        ENTRY_LIST 1
        mov     ecx, MSR_LSTAR
        L2      rdmsr
        EXECUTED
        CHECK   [l2_rax], 0x3456789a
        CHECK   [l2_rdx], 0x12
RULE entry_list_loads_in_order, "The later of two entries for an MSR stays", "SDM vol. 3, 27.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_LSTAR, 0x1111
        ENTRY   1, MSR_LSTAR, 0x2222
        ENTRY_LIST 2
        mov     ecx, MSR_LSTAR
        L2      rdmsr
        EXECUTED
        CHECK   [l2_rax], 0x2222
RULE entry_list_reserved_bits_fail, "Bits 63:32 of an entry's first word must be 0: exit reason 34", "SDM vol. 3, 27.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_LSTAR, 0
        mov     dword ptr [page + 4], 1
        ENTRY_LIST 1
        LIST_FAILS 1
RULE entry_list_with_fs_base_fails, "FS_BASE may not be in a VM-entry list: exit reason 34", "SDM vol. 3, 27.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_FS_BASE, 0
        ENTRY_LIST 1
        LIST_FAILS 1
RULE entry_list_with_x2apic_fails, "A register of the x2APIC may not be in a VM-entry list", "SDM vol. 3, 27.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_X2APIC_TPR, 0
        ENTRY_LIST 1
        LIST_FAILS 1
RULE entry_list_with_a_bad_value_fails, "A value that WRMSR would refuse fails the entry", "SDM vol. 3, 27.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_LSTAR, 1 << 47
        ENTRY_LIST 1
        LIST_FAILS 1
RULE entry_list_with_an_unknown_msr_fails, "An MSR that does not exist fails the entry", "SDM vol. 3, 27.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, 0x1234, 0
        ENTRY_LIST 1
        LIST_FAILS 1
RULE entry_list_names_the_failing_entry, "The qualification is the number of the entry that failed, from 1", "SDM vol. 3, 27.8"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_LSTAR, 0x1111
        ENTRY   1, 0x1234, 0
        ENTRY_LIST 2
        LIST_FAILS 2
RULE guest_state_comes_before_the_list, "A bad guest state is exit reason 33, whatever the list holds", "SDM vol. 3, 27.3 and 27.4"
        ENTRY   0, 0x1234, 0
        ENTRY_LIST 1
        SET     GUEST_RFLAGS, 0
        INVALID_STATE
RULE exit_list_stores, "VM exit stores the MSRs of its store list", "SDM vol. 3, 28.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_CSTAR, 0
        LIST    VM_EXIT_MSR_STORE_ADDR, VM_EXIT_MSR_STORE_COUNT, 1
        mov     ecx, MSR_CSTAR
        mov     eax, 0x777
        xor     edx, edx
        L2      wrmsr
        EXECUTED
        CHECK   [page + 8], 0x777
        CHECK   [page], MSR_CSTAR
RULE exit_list_loads, "VM exit loads the MSRs of its load list for L1", "SDM vol. 3, 28.6"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_CSTAR, 0x888
        LIST    VM_EXIT_MSR_LOAD_ADDR, VM_EXIT_MSR_LOAD_COUNT, 1
        L2      nop
        EXECUTED
        READ_MSR MSR_CSTAR
        CHECK   rbx, 0x888
RULE one_list_to_store_and_to_load, "A list that is stored at exit and loaded at entry keeps L2's MSR apart from L1's", "SDM vol. 3, 27.4 and 28.4"
DEVIATION "msr_areas_ignored=on"
        ENTRY   0, MSR_CSTAR, 0x111
        ENTRY_LIST 1
        LIST    VM_EXIT_MSR_STORE_ADDR, VM_EXIT_MSR_STORE_COUNT, 1
        RUN     l2_counts_cstar
        mov     ecx, MSR_CSTAR
        xor     eax, eax
        xor     edx, edx
        wrmsr
        RUN     l2_counts_cstar
        CHECK   [page + 8], 0x113
RULE list_of_a_failed_entry_is_not_stored, "An entry that fails for the guest state stores no MSR", "SDM vol. 3, 27.8"
        ENTRY   0, MSR_CSTAR, 0x5a5a
        LIST    VM_EXIT_MSR_STORE_ADDR, VM_EXIT_MSR_STORE_COUNT, 1
        SET     GUEST_RFLAGS, 0
        INVALID_STATE
        CHECK   [page + 8], 0x5a5a

# ------------------------------------------------------------------ preemption timer: SDM vol. 3, 26.5.1

.macro TIMER value
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_TIMER
        SET     VMX_PREEMPTION_TIMER_VALUE, \value
.endm
RULE timer_of_0_exits_at_once, "A preemption timer of 0 exits before L2's first instruction", "SDM vol. 3, 27.7.4"
        TIMER   0
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_PREEMPTION_TIMER
        CHECK_FIELD GUEST_RIP, [l2_first]
RULE timer_ends_a_loop, "The preemption timer counts down while L2 runs, and exits at 0", "SDM vol. 3, 26.5.1"
        TIMER   1000
        RUN     l2_forever
        CHECK_FIELD VM_EXIT_REASON, EXIT_PREEMPTION_TIMER
        CHECK_FIELD_AT GUEST_RIP, l2_forever
RULE timer_needs_its_control, "Without 'activate VMX-preemption timer' its value does not matter", "SDM vol. 3, 26.5.1"
        SET     VMX_PREEMPTION_TIMER_VALUE, 0
        L2      nop
        EXECUTED
RULE timer_has_no_interruption_information, "A timer exit has no valid interruption information", "SDM vol. 3, 28.2.2"
        TIMER   0
        L2      nop
        CHECK_FIELD_BITS VM_EXIT_INTR_INFO, 1 << 31, 0
RULE exit_saves_the_timer, "With 'save VMX-preemption timer value' an exit saves what is left", "SDM vol. 3, 28.3"
        TIMER   0x1000000
        SET_BITS VM_EXIT_CONTROLS, EXIT_SAVE_TIMER
        RUN     l2_pauses
        HALTED
        mov     eax, VMX_PREEMPTION_TIMER_VALUE
        vmread  rbx, rax
        mov     ecx, 0x1000000
        sub     rcx, rbx
        dec     rcx                         # something is gone, but not much
        shr     rcx, 16
        CHECK   rcx, 0
RULE expired_timer_saves_0, "A timer exit saves 0", "SDM vol. 3, 28.3"
        TIMER   1000
        SET_BITS VM_EXIT_CONTROLS, EXIT_SAVE_TIMER
        RUN     l2_forever
        CHECK_FIELD VM_EXIT_REASON, EXIT_PREEMPTION_TIMER
        CHECK_FIELD VMX_PREEMPTION_TIMER_VALUE, 0
RULE exit_leaves_the_timer, "Without 'save VMX-preemption timer value' the field stays", "SDM vol. 3, 28.3"
        TIMER   0x1000000
        L2      nop
        EXECUTED
        CHECK_FIELD VMX_PREEMPTION_TIMER_VALUE, 0x1000000
RULE saved_timer_needs_the_timer, "'Save VMX-preemption timer value' without the timer: error 7", "SDM vol. 3, 27.2.1.2"
        SET_BITS VM_EXIT_CONTROLS, EXIT_SAVE_TIMER
        REFUSED 7

# ------------------------------------------------------------------ page-modification log: SDM vol. 3, 29.3.6

# L2 has read page 1: its own tables, whose references count as writes, are dirty already.
.macro LOGGING index
        SET_BITS EPT_POINTER, EPTP_ACCESSED_DIRTY
        L2      mov rbx, [PAGE_1]
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_PML
        SET_AT  PML_ADDRESS, page
        SET     GUEST_PML_INDEX, \index
.endm
RULE write_is_logged, "A write that sets a dirty flag puts the page's address into the log and takes 1 from the index", "SDM vol. 3, 29.3.6"
DEVIATION "l0=xen", "Xen offers L1 no accessed and dirty flags of EPT"
ONLY_WITH "pml=on"
ONLY_WITH "ept_ad=on"
        LOGGING 511
        L2      mov [PAGE_1 + 8], rbx
        CHECK_FIELD VM_EXIT_REASON, EXIT_HLT
        CHECK   [page + 511*8], PAGE_1
        CHECK_FIELD GUEST_PML_INDEX, 510
RULE read_is_not_logged, "A read is not logged", "SDM vol. 3, 29.3.6"
ONLY_WITH "pml=on"
ONLY_WITH "ept_ad=on"
        LOGGING 511
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK_FIELD GUEST_PML_INDEX, 511
RULE second_write_is_not_logged, "A write to a page that is dirty already is not logged", "SDM vol. 3, 29.3.6"
DEVIATION "l0=xen", "Xen offers L1 no accessed and dirty flags of EPT"
ONLY_WITH "pml=on"
ONLY_WITH "ept_ad=on"
        LOGGING 511
        L2      mov [PAGE_1], rbx
        L2      mov [PAGE_1 + 8], rbx
        EXECUTED
        CHECK_FIELD GUEST_PML_INDEX, 510
RULE full_log_exits, "A write that would be logged exits when the index is outside of 0 to 511", "SDM vol. 3, 29.3.6"
DEVIATION "l0=xen", "Xen offers L1 no accessed and dirty flags of EPT"
ONLY_WITH "pml=on"
ONLY_WITH "ept_ad=on"
        LOGGING 0xffff
        L2      mov [PAGE_1], rbx
        CHECK_FIELD VM_EXIT_REASON, EXIT_PML_FULL
        CHECK_FIELD GUEST_RIP, [l2_first]
RULE log_must_be_aligned, "A log that is not page-aligned: error 7", "SDM vol. 3, 27.2.1.1"
ONLY_WITH "pml=on"
ONLY_WITH "ept_ad=on"
        LOGGING 511
        SET_BITS PML_ADDRESS, 8
        REFUSED 7
RULES_END

l2_counts_cstar:
        mov     ecx, MSR_CSTAR
        rdmsr
        inc     eax
        wrmsr
        hlt
l2_forever:
        jmp     l2_forever
l2_pauses:
        mov     ecx, 200
1:      pause
        dec     ecx
        jnz     1b
        hlt
