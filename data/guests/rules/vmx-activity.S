# @title   Rules of VMX: activity states, CR3 targets, no VMCS shadowing for L2
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
.include "apic.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.activity

.set HLT_STATE,         1
.set SHUTDOWN_STATE,    2
.set SIPI_STATE,        3
.set PIN_NMI_EXITING,   1 << 3
.set PIN_TIMER,         1 << 6
.set EXIT_PREEMPTION_TIMER, 52
.set VMX_PREEMPTION_TIMER_VALUE, 0x482e
.set MSR_VMX_MISC,      0x485
.set MISC_CR3_TARGETS,  16
.set CPU2_SHADOW_VMCS,  1 << 14
.set VALID,             1 << 31
.set TYPE_NMI,          2 << 8
.set TYPE_EXCEPTION,    3 << 8
.set EXC_MC,            18
.set RFLAGS_IF,         1 << 9
.set VECTOR,            0x31
.set USER_CODE_RIGHTS,  0xa0fb
.set USER_DATA_RIGHTS,  0xc0f3

.macro XEN_HAS_NONE
DEVIATION "l0=xen", "Xen offers L1 no activity state but active"
.endm
.macro KVM_HAS_NO_SHUTDOWN
XEN_HAS_NONE
DEVIATION "l0=kvm", "KVM offers L1 no shutdown state"
.endm
.macro KVM_EMULATES_IT
ONLY_WITH "vmcs_shadowing=off"
DEVIATION "l0=kvm", "KVM offers L1 VMCS shadowing on any processor"
.endm
.macro STATE which
        SET     GUEST_ACTIVITY_STATE, \which
.endm
.macro INJECT info
        SET     VM_ENTRY_INTR_INFO_FIELD, VALID | (\info)
.endm
.macro EXTERNAL_EXITING
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR
.endm
# An interrupt of vector VECTOR is pending for L1.
.macro PEND
        APIC_ON
        WRITE_MSR X2APIC_SELF_IPI, VECTOR
.endm
# ... or comes after some time.
.macro PEND_LATER
        APIC_ON
        WRITE_MSR X2APIC_LVT_TIMER, VECTOR
        WRITE_MSR X2APIC_INITIAL_COUNT, 200000
.endm
.macro TIMER value
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_TIMER
        SET     VMX_PREEMPTION_TIMER_VALUE, \value
.endm
# L2 would write if it ran; it must not have.
.macro L2_SLEEPS
        L2      mov qword ptr [scratch], 1
.endm
.macro SLEPT
        CHECK   [scratch], 0
        CHECK_FIELD GUEST_RIP, [l2_first]
.endm

# ------------------------------------------------------------------ HLT: SDM vol. 3, 25.4.2 and 27.7.2

RULE hlt_holds_l2_until_an_interrupt, "L2 that enters in the HLT state executes nothing until an interrupt exits", "SDM vol. 3, 27.7.2"
XEN_HAS_NONE
        EXTERNAL_EXITING
        STATE   HLT_STATE
        PEND_LATER
        L2_SLEEPS
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXTERNAL_INTERRUPT
        SLEPT
RULE hlt_exits_for_what_is_pending, "An interrupt that waits at the entry ends HLT at once, with RFLAGS.IF = 0 too", "SDM vol. 3, 27.7.2"
        EXTERNAL_EXITING
        STATE   HLT_STATE
        PEND
        L2_SLEEPS
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXTERNAL_INTERRUPT
        SLEPT
RULE exit_saves_the_hlt_state, "An exit in the HLT state saves it", "SDM vol. 3, 28.3.4"
        EXTERNAL_EXITING
        STATE   HLT_STATE
        PEND
        L2_SLEEPS
        SLEPT
        CHECK_FIELD GUEST_ACTIVITY_STATE, HLT_STATE
RULE hlt_ends_with_an_interrupt_of_l2, "Without external-interrupt exiting the interrupt goes through L2's IDT, and L2 runs", "SDM vol. 3, 25.4.2"
XEN_HAS_NONE
        STATE   HLT_STATE
        SET_BITS GUEST_RFLAGS, RFLAGS_IF
        PEND_LATER
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
        CHECK_AT [exc_rip], l2_waits
RULE hlt_ends_with_an_injection, "An injected NMI ends HLT", "SDM vol. 3, 27.7.2"
        STATE   HLT_STATE
        INJECT  TYPE_NMI | 2
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], 2
RULE exit_of_an_active_l2_saves_0, "Once L2 is active again an exit saves the active state", "SDM vol. 3, 28.3.4"
XEN_HAS_NONE
        STATE   HLT_STATE
        INJECT  TYPE_NMI | 2
        RUN     l2_waits
        CHECK   [exc_vector], 2
        CHECK_FIELD GUEST_ACTIVITY_STATE, 0
RULE hlt_takes_an_injected_debug_exception, "#DB is among what ends HLT by injection", "SDM vol. 3, 27.3.1.5"
        STATE   HLT_STATE
        INJECT  TYPE_EXCEPTION | EXC_DB
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_DB
RULE hlt_ends_with_the_preemption_timer, "The preemption timer counts down in the HLT state, and exits", "SDM vol. 3, 26.5.1"
XEN_HAS_NONE
        STATE   HLT_STATE
        TIMER   5000
        L2_SLEEPS
        CHECK_FIELD VM_EXIT_REASON, EXIT_PREEMPTION_TIMER
        SLEPT
        CHECK_FIELD GUEST_ACTIVITY_STATE, HLT_STATE
RULE hlt_ends_with_an_interrupt_window, "Interrupt-window exiting with RFLAGS.IF = 1 ends HLT", "SDM vol. 3, 26.2"
        STATE   HLT_STATE
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_INTR_WINDOW_EXITING
        SET_BITS GUEST_RFLAGS, RFLAGS_IF
        L2_SLEEPS
        CHECK_FIELD VM_EXIT_REASON, EXIT_INTERRUPT_WINDOW
        SLEPT
RULE hlt_of_l2_is_a_state, "L2 that has executed HLT without HLT exiting is in the HLT state at the next exit", "SDM vol. 3, 28.3.4"
XEN_HAS_NONE
        EXTERNAL_EXITING
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_HLT_EXITING
        PEND_LATER
        L2      hlt
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXTERNAL_INTERRUPT
        CHECK_FIELD GUEST_RIP, [l2_next]
        CHECK_FIELD GUEST_ACTIVITY_STATE, HLT_STATE
RULE resumed_hlt_goes_on, "L2 that was halted at its exit is halted when it is resumed", "SDM vol. 3, 27.7.2"
XEN_HAS_NONE
        EXTERNAL_EXITING
        SET_BITS VM_EXIT_CONTROLS, EXIT_CTL_ACK_INTR
        STATE   HLT_STATE
        PEND
        L2_SLEEPS
        WRITE_MSR X2APIC_EOI, 0
        WRITE_MSR X2APIC_LVT_TIMER, VECTOR + 1
        WRITE_MSR X2APIC_INITIAL_COUNT, 200000
        call    run_on
        CHECK_FIELD VM_EXIT_INTR_INFO, VALID | (VECTOR + 1)
        SLEPT

# ------------------------------------------------------------------ shutdown

RULE shutdown_ends_with_an_nmi, "In the shutdown state an NMI exits, and the exit saves the state", "SDM vol. 3, 25.4.2 and 28.3.4"
ONLY_WITH "nmi_cycles=3000000"
KVM_HAS_NO_SHUTDOWN
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_NMI_EXITING
        STATE   SHUTDOWN_STATE
        L2_SLEEPS
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        SLEPT
        CHECK_FIELD GUEST_ACTIVITY_STATE, SHUTDOWN_STATE
RULE shutdown_does_not_see_interrupts, "In the shutdown state an interrupt waits; the preemption timer exits", "SDM vol. 3, 25.4.2 and 26.5.1"
KVM_HAS_NO_SHUTDOWN
        PEND
        SET_BITS GUEST_RFLAGS, RFLAGS_IF
        STATE   SHUTDOWN_STATE
        TIMER   5000
        L2_SLEEPS
        CHECK_FIELD VM_EXIT_REASON, EXIT_PREEMPTION_TIMER
        SLEPT
        CHECK   [exc_vector], NO_EXCEPTION
RULE shutdown_takes_an_injected_machine_check, "#MC is among what ends shutdown by injection", "SDM vol. 3, 27.3.1.5"
DEVIATION "l0=kvm", "KVM offers L1 no shutdown state"
        STATE   SHUTDOWN_STATE
        INJECT  TYPE_EXCEPTION | EXC_MC
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], EXC_MC

# ------------------------------------------------------------------ checks: SDM vol. 3, 27.3.1.5

.macro USER_LEVEL
        SET     GUEST_CS_SELECTOR, SEL_USER_CODE
        SET     GUEST_SS_SELECTOR, SEL_USER_DATA
        SET     GUEST_CS_AR_BYTES, USER_CODE_RIGHTS
        SET     GUEST_SS_AR_BYTES, USER_DATA_RIGHTS
.endm
RULE user_level_alone_may_enter, "The set-up of the next rule enters in the active state", "SDM vol. 3, 27.3.1.5"
        USER_LEVEL
        L2      cpuid
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
RULE hlt_needs_level_0, "HLT with a DPL of SS above 0 fails the entry", "SDM vol. 3, 27.3.1.5"
        USER_LEVEL
        STATE   HLT_STATE
        INVALID_STATE
RULE hlt_needs_no_blocking_by_sti, "HLT with blocking by STI fails the entry", "SDM vol. 3, 27.3.1.5"
        SET_BITS GUEST_RFLAGS, RFLAGS_IF
        SET     GUEST_INTERRUPTIBILITY_INFO, 1
        STATE   HLT_STATE
        INVALID_STATE
RULE hlt_needs_no_blocking_by_mov_ss, "HLT with blocking by MOV SS fails the entry", "SDM vol. 3, 27.3.1.5"
        SET     GUEST_INTERRUPTIBILITY_INFO, 2
        STATE   HLT_STATE
        INVALID_STATE
RULE hlt_refuses_other_exceptions, "HLT with an injected #UD fails the entry", "SDM vol. 3, 27.3.1.5"
        STATE   HLT_STATE
        INJECT  TYPE_EXCEPTION | EXC_UD
        INVALID_STATE
RULE shutdown_refuses_interrupts, "Shutdown with an injected interrupt fails the entry", "SDM vol. 3, 27.3.1.5"
        SET_BITS GUEST_RFLAGS, RFLAGS_IF
        STATE   SHUTDOWN_STATE
        INJECT  VECTOR
        INVALID_STATE
RULE wait_for_sipi_refuses_events, "Wait-for-SIPI with an injected NMI fails the entry", "SDM vol. 3, 27.3.1.5"
        STATE   SIPI_STATE
        INJECT  TYPE_NMI | 2
        INVALID_STATE
RULE unknown_state_is_refused, "An activity state beyond wait-for-SIPI fails the entry", "SDM vol. 3, 27.3.1.5"
        STATE   4
        INVALID_STATE

# ------------------------------------------------------------------ CR3 targets: SDM vol. 3, 25.6.7 and 26.1.3

.macro NO_TARGETS
DEVIATION "l0=xen", "Xen offers L1 no CR3 targets"
DEVIATION "l0=kvm", "KVM offers L1 no CR3 targets"
.endm
.macro KVM_REFUSES_TARGETS
DEVIATION "l0=kvm", "KVM offers L1 no CR3 targets"
.endm
.macro TARGET place, count
        call    build_l2_tables
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_CR3_LOAD_EXITING
        SET     CR3_TARGET_COUNT, \count
        SET_AT  CR3_TARGET_VALUE0 + 2*\place, l2_root
        mov     ebx, offset l2_root
.endm
RULE there_are_four_cr3_targets, "IA32_VMX_MISC offers four CR3-target values", "SDM vol. 3, A.6"
NO_TARGETS
        mov     ecx, MSR_VMX_MISC
        rdmsr
        shr     eax, MISC_CR3_TARGETS
        and     eax, 0x1ff
        mov     ebx, eax
        CHECK   rbx, 4
.macro EACH_TARGET name, place
RULE \name\()_cr3_target_does_not_exit, "With CR3-load exiting the \name target value is loaded without an exit", "SDM vol. 3, 26.1.3"
NO_TARGETS
        TARGET  \place, \place + 1
        L2      mov cr3, rbx
        EXECUTED
        CHECK_FIELD_AT GUEST_CR3, l2_root
.endm
        EACH_TARGET first, 0
        EACH_TARGET second, 1
        EACH_TARGET third, 2
        EACH_TARGET fourth, 3
RULE cr3_target_behind_the_count_exits, "A target value that the count leaves out exits", "SDM vol. 3, 26.1.3"
KVM_REFUSES_TARGETS
        TARGET  3, 3
        L2      mov cr3, rbx
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 3 << 8 | 3
RULE other_cr3_value_exits, "A value that is no target exits, and CR3 stays", "SDM vol. 3, 26.1.3"
KVM_REFUSES_TARGETS
        TARGET  0, 4
        mov     ebx, L1_TABLES
        L2      mov cr3, rbx
        EXITED  EXIT_CR_ACCESS
        CHECK_FIELD GUEST_CR3, L1_TABLES
RULE cr3_target_does_not_matter_for_reads, "CR3-store exiting exits though CR3 holds a target value", "SDM vol. 3, 26.1.3"
KVM_REFUSES_TARGETS
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING
        SET     CR3_TARGET_COUNT, 1
        SET     CR3_TARGET_VALUE0, L1_TABLES
        L2      mov rdx, cr3
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 2 << 8 | 1 << 4 | 3

# ------------------------------------------------------------------ VMCS shadowing for L2: SDM vol. 3, 25.6.2 and 26.1.2

RULE vmcs_shadowing_is_not_offered, "A processor without VMCS shadowing offers L1 none for L2", "SDM vol. 3, A.3.3"
KVM_EMULATES_IT
        mov     ecx, MSR_VMX_PROCBASED_CTLS2
        rdmsr
        mov     ebx, edx
        and     ebx, CPU2_SHADOW_VMCS
        CHECK   rbx, 0
RULE vmcs_shadowing_is_refused, "The control that IA32_VMX_PROCBASED_CTLS2 does not allow: error 7", "SDM vol. 3, 27.2.1.1"
KVM_EMULATES_IT
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_SHADOW_VMCS
        REFUSED 7
RULE link_pointer_without_shadowing_names_no_shadow, "Without VMCS shadowing a link pointer to a shadow VMCS fails the entry with qualification 4", "SDM vol. 3, 27.3.1.5"
        mov     eax, [vmcs]
        or      eax, 1 << 31
        mov     [other_vmcs], eax
        mov     rcx, [other_address]
        mov     eax, VMCS_LINK_POINTER
        vmwrite rax, rcx
        INVALID_STATE 4
RULE vmread_of_l2_exits, "Without VMCS shadowing VMREAD of L2 exits", "SDM vol. 3, 26.1.2"
        mov     eax, GUEST_RIP
        L2      vmread rbx, rax
        EXITED  EXIT_VMREAD
RULE vmwrite_of_l2_exits, "Without VMCS shadowing VMWRITE of L2 exits", "SDM vol. 3, 26.1.2"
        mov     eax, GUEST_RIP
        L2      vmwrite rax, rbx
        EXITED  EXIT_VMWRITE
RULES_END

# The handler of an event stops L2.
l2_waits:
        nop
        nop
        hlt
