# @title   Rules of VMX: the capability MSRs, and what VM entry takes of what they say
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.capabilities

.set MSR_VMX_PINBASED,      0x481
.set MSR_VMX_PROCBASED,     0x482
.set MSR_VMX_EXIT,          0x483
.set MSR_VMX_ENTRY,         0x484
.set MSR_VMX_MISC,          0x485
.set MSR_VMX_VMCS_ENUM,     0x48a
.set MSR_VMX_VMFUNC,        0x491
.set PIN_DEFAULT1,          0x16            # appendix A: must be 1 without TRUE controls
.set CPU_DEFAULT1,          0x401e172
.set EXIT_DEFAULT1,         0x36dff
.set ENTRY_DEFAULT1,        0x11ff
.set CR3_EXITING,           3 << 15         # default1, but free in the TRUE capability MSR
.set CR0_PE_NE_PG,          0x80000021
.set BASIC_ADDRESS_32,      1 << (48 - 32)  # in EDX
.set BASIC_MEMORY_TYPE,     18              # in EDX
.set WRITE_BACK,            6

.macro MSR_TO_RBX number
        mov     ecx, \number
        rdmsr
        shl     rdx, 32
        lea     rbx, [rax + rdx]
.endm
# Bits of the first must be among those of the second.  Changes RAX, RCX, RDX.
.macro SUBSET first, second
        mov     rcx, \second
        not     rcx
        and     rcx, \first
        mov     [scratch], rcx
        CHECK   [scratch], 0
.endm
# Controls of an MSR: what must be 1 in R8, what may be 1 in R9.
.macro CONTROLS_OF number
        mov     ecx, \number
        rdmsr
        mov     r8d, eax
        mov     r9d, edx
.endm

# ------------------------------------------------------------------ what the MSRs say of each other: appendix A

.macro CONSISTENT name, plain, true, default1
RULE \name\()_controls_are_consistent, "A control of the group \name that must be 1 may be 1", "SDM vol. 3, A.2"
        CONTROLS_OF \plain
        SUBSET  r8, r9
        CONTROLS_OF \true
        SUBSET  r8, r9
RULE \name\()_default_controls_must_be_1, "Reserved controls of the group \name that are 1 by default must be 1", "SDM vol. 3, A.2"
        CONTROLS_OF \plain
        and     r8d, \default1
        CHECK   r8, \default1
RULE \name\()_true_controls_are_freer, "The TRUE capability MSR of the group \name demands no more, and allows the same", "SDM vol. 3, A.2"
        CONTROLS_OF \plain
        mov     r10d, r8d
        mov     r11d, r9d
        CONTROLS_OF \true
        SUBSET  r8, r10
        CHECK   r9, r11
.endm
        CONSISTENT pin, MSR_VMX_PINBASED, MSR_VMX_TRUE_PINBASED, PIN_DEFAULT1
        CONSISTENT cpu, MSR_VMX_PROCBASED, MSR_VMX_TRUE_PROCBASED, CPU_DEFAULT1
        CONSISTENT exit, MSR_VMX_EXIT, MSR_VMX_TRUE_EXIT, EXIT_DEFAULT1
        CONSISTENT entry, MSR_VMX_ENTRY, MSR_VMX_TRUE_ENTRY, ENTRY_DEFAULT1
RULE cr3_exiting_is_free, "The TRUE capability MSR lets CR3-load and CR3-store exiting be 0", "SDM vol. 3, A.3.2"
        CONTROLS_OF MSR_VMX_TRUE_PROCBASED
        and     r8d, CR3_EXITING
        CHECK   r8, 0
RULE secondary_controls_may_all_be_0, "No secondary control must be 1", "SDM vol. 3, A.3.3"
        CONTROLS_OF MSR_VMX_PROCBASED_CTLS2
        CHECK   r8, 0
RULE basic_names_a_revision, "Bit 31 of the VMCS revision is 0", "SDM vol. 3, A.1"
        MSR_TO_RBX MSR_VMX_BASIC
        shr     ebx, 31
        CHECK   rbx, 0
RULE basic_gives_the_region_size, "A VMCS region has 1 to 4096 bytes", "SDM vol. 3, A.1"
        MSR_TO_RBX MSR_VMX_BASIC
        shr     rbx, 32
        and     ebx, 0x1fff
        dec     ebx
        and     ebx, ~0xfff
        CHECK   rbx, 0
RULE basic_allows_wide_addresses, "On a 64-bit processor VMX addresses are not limited to 32 bits", "SDM vol. 3, A.1"
        MSR_TO_RBX MSR_VMX_BASIC
        shr     rbx, 32
        and     ebx, BASIC_ADDRESS_32
        CHECK   rbx, 0
RULE basic_memory_type, "VMCS regions are write-back memory", "SDM vol. 3, A.1"
        MSR_TO_RBX MSR_VMX_BASIC
        shr     rbx, 32 + BASIC_MEMORY_TYPE
        and     ebx, 15
        CHECK   rbx, WRITE_BACK
RULE cr0_fixed_bits_are_consistent, "A bit of CR0 that must be 1 may be 1", "SDM vol. 3, A.7"
        MSR_TO_RBX MSR_VMX_CR0_FIXED0
        mov     r8, rbx
        MSR_TO_RBX MSR_VMX_CR0_FIXED1
        SUBSET  r8, rbx
RULE cr0_fixed_bits_are_pe_ne_pg, "VMX operation demands PE, NE and PG of CR0", "SDM vol. 3, 24.8"
DEVIATION "l0=xen", "Xen gives PE and PG alone as fixed (nvmx_msr_read_intercept)"
        MSR_TO_RBX MSR_VMX_CR0_FIXED0
        mov     ecx, CR0_PE_NE_PG
        mov     r8, rcx
        SUBSET  r8, rbx
RULE cr4_fixed_bits_are_consistent, "A bit of CR4 that must be 1 may be 1", "SDM vol. 3, A.8"
        MSR_TO_RBX MSR_VMX_CR4_FIXED0
        mov     r8, rbx
        MSR_TO_RBX MSR_VMX_CR4_FIXED1
        SUBSET  r8, rbx
RULE cr4_vmxe_must_be_1, "VMX operation demands VMXE of CR4", "SDM vol. 3, 24.8"
        MSR_TO_RBX MSR_VMX_CR4_FIXED0
        and     ebx, CR4_VMXE
        CHECK   rbx, CR4_VMXE
RULE l1_runs_with_the_fixed_bits, "L1's own CR0 and CR4 obey the fixed bits", "SDM vol. 3, 24.8"
        MSR_TO_RBX MSR_VMX_CR0_FIXED0
        mov     r8, cr0
        SUBSET  rbx, r8
        MSR_TO_RBX MSR_VMX_CR4_FIXED1
        mov     r8, cr4
        SUBSET  r8, rbx
RULE highest_index_is_told, "VMX_VMCS_ENUM gives the highest index of a field: at least that of HOST_RIP", "SDM vol. 3, A.9"
        MSR_TO_RBX MSR_VMX_VMCS_ENUM
        shr     rbx, 1
        and     ebx, 0x1ff
        mov     ecx, HOST_RIP
        shr     ecx, 1
        and     ecx, 0x1ff
        sub     rbx, rcx
        shr     rbx, 63
        CHECK   rbx, 0
RULE cannot_be_written, "A capability MSR cannot be written", "SDM vol. 3, appendix A"
        MSR_TO_RBX MSR_VMX_BASIC
        mov     ecx, MSR_VMX_BASIC
        CATCH   wrmsr
        CHECK   [exc_vector], EXC_GP
RULE feature_control_is_locked, "IA32_FEATURE_CONTROL that is locked cannot be written", "SDM vol. 3, 24.7"
        mov     ecx, MSR_FEATURE_CONTROL
        rdmsr
        CATCH   wrmsr
        CHECK   [exc_vector], EXC_GP
RULE vmfunc_without_its_control_does_not_exist, "Without 'enable VM functions' there is no IA32_VMX_VMFUNC", "SDM vol. 3, A.11"
        CONTROLS_OF MSR_VMX_PROCBASED_CTLS2
        and     r9d, 1 << 13
        CHECK   r9, 0
        mov     ecx, MSR_VMX_VMFUNC
        CATCH   rdmsr
        CHECK   [exc_vector], EXC_GP

# ------------------------------------------------------------------ VM entry holds L1 to them: SDM vol. 3, 27.2.1

# Every control that may be 1 and every one that must not be: R12 counts bits of the field in which
# the entry does otherwise than the MSR says.  \fixed: bits that other checks couple.
.macro EACH_BIT name, field, true, coupled
RULE \name\()_entry_takes_each_bit_as_told, "VM entry refuses exactly those bits of the group \name that its MSR forbids", "SDM vol. 3, 27.2.1"
DEVIATION "entry_checks_left_to_hardware=on"
        READ_FIELD r15, \field
        CONTROLS_OF \true
        xor     r12d, r12d
        mov     r13d, 31
.Lbit\@:
        mov     ecx, \coupled
        bt      ecx, r13d
        jc      .Lnext\@
        mov     rbx, r15
        btc     rbx, r13
        WRITE_FIELD \field, rbx
        # told: R14 = 1 when the MSR forbids the word
        mov     eax, r8d
        mov     ecx, ebx
        not     ecx
        and     eax, ecx                    # must be 1 and is not
        mov     edx, r9d
        not     edx
        and     edx, ebx                    # is 1 and may not
        or      eax, edx
        xor     r14d, r14d
        test    eax, eax
        setnz   r14b
        # seen: RBX = 1 when the entry is refused
        mov     qword ptr [l2_first], offset l2_halts
        mov     qword ptr [entry_flags], 0
        push    r8
        push    r9
        call    run_first
        pop     r9
        pop     r8
        xor     ebx, ebx
        test    byte ptr [entry_flags], 0x40
        setnz   bl
        xor     ebx, r14d
        add     r12d, ebx
.Lnext\@:
        dec     r13d
        jns     .Lbit\@
        WRITE_FIELD \field, r15
        CHECK   r12, 0
.endm
# Coupled bits: what another rule of the manual forbids alone, and what lets L2 not come to its HLT.
        EACH_BIT pin, PIN_BASED_VM_EXEC_CONTROL, MSR_VMX_TRUE_PINBASED, 1 << 5 | 1 << 6 | 1 << 7
        EACH_BIT cpu, CPU_BASED_VM_EXEC_CONTROL, MSR_VMX_TRUE_PROCBASED, 1 << 7 | 1 << 17 | 1 << 21 | 1 << 22 | 1 << 27 | 1 << 31
        EACH_BIT exit, VM_EXIT_CONTROLS, MSR_VMX_TRUE_EXIT, 1 << 9 | 1 << 21 | 1 << 22
        EACH_BIT entry, VM_ENTRY_CONTROLS, MSR_VMX_TRUE_ENTRY, 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15

RULE cr3_targets_as_told, "VM entry takes as many CR3 targets as IA32_VMX_MISC says", "SDM vol. 3, 27.2.1.1 and A.6"
        MSR_TO_RBX MSR_VMX_MISC
        shr     rbx, 16
        and     ebx, 0x1ff
        WRITE_FIELD CR3_TARGET_COUNT, rbx
        L2      nop
        EXECUTED
RULE cr3_targets_beyond_are_refused, "One CR3 target more than IA32_VMX_MISC says: error 7", "SDM vol. 3, 27.2.1.1 and A.6"
        MSR_TO_RBX MSR_VMX_MISC
        shr     rbx, 16
        and     ebx, 0x1ff
        inc     ebx
        WRITE_FIELD CR3_TARGET_COUNT, rbx
        REFUSED 7
RULE cr3_value_without_count_exits, "A CR3 target beyond the count does not count: loading its value exits", "SDM vol. 3, 26.1.3"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_CR3_LOAD_EXITING
        SET     CR3_TARGET_VALUE0, L1_TABLES
        mov     ebx, L1_TABLES
        L2      mov cr3, rbx
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 3 << 8 | 3
# An injected #MC lets L2 out of each of these states.
.macro STATE_AS_TOLD name, state, bit
RULE activity_\name\()_as_told, "VM entry takes the activity state \name only where IA32_VMX_MISC has it", "SDM vol. 3, 27.3.1.5 and A.6"
DEVIATION "l0=xen", "Xen does not look at the activity state (entry_checks_left_to_hardware)"
        MSR_TO_RBX MSR_VMX_MISC
        shr     rbx, \bit
        and     ebx, 1
        mov     [scratch + 8], rbx
        SET     GUEST_ACTIVITY_STATE, \state
        SET     VM_ENTRY_INTR_INFO_FIELD, 1 << 31 | 3 << 8 | 18
        RUN     l2_halts
        xor     ebx, ebx
        cmp     qword ptr [exc_vector], 18
        sete    bl
        CHECK   rbx, [scratch + 8]
.endm
        STATE_AS_TOLD hlt, 1, 6
        STATE_AS_TOLD shutdown, 2, 7
RULES_END
l2_halts:
        hlt
