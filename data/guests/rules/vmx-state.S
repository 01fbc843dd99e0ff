# @title   Rules of VMX: what VM entry loads, and what VM exit saves and loads
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.state

.set MSR_TSC,               0x10
.set MSR_SYSENTER_CS,       0x174
.set MSR_SYSENTER_ESP,      0x175
.set MSR_SYSENTER_EIP,      0x176
.set MSR_LSTAR,             0xc0000082
.set MSR_FS_BASE,           0xc0000100
.set MSR_GS_BASE,           0xc0000101
.set MSR_KERNEL_GS_BASE,    0xc0000102
.set MSR_PAT,               0x277
.set EXIT_SAVE_DEBUG,       1 << 2
.set EXIT_SAVE_PAT,         1 << 18
.set EXIT_LOAD_PAT,         1 << 19
.set ENTRY_LOAD_DEBUG,      1 << 2
.set ENTRY_LOAD_PAT,        1 << 14
.set GUEST_IA32_PAT,        0x2804
.set HOST_IA32_PAT,         0x2c00
.set CR4_TSD,               1 << 2
.set CPU2_ENABLE_RDTSCP,    1 << 3

.macro READ_MSR number                      # to RBX
        mov     ecx, \number
        rdmsr
        shl     rdx, 32
        lea     rbx, [rax + rdx]
.endm
.macro WRITE_MSR number, value
        mov     ecx, \number
        mov     rax, \value
        mov     rdx, rax
        shr     rdx, 32
        wrmsr
.endm
# What L2 finds in an MSR, in [l2_value].
.macro L2_READS_MSR number
        mov     ecx, \number
        mov     [scratch], rcx
        RUN     l2_reads_msr
        HALTED
.endm

# ------------------------------------------------------------------ VM entry loads the guest state: 27.3.2

RULE entry_loads_rsp, "L2 starts with the RSP of the guest-state area", "SDM vol. 3, 27.3.2.4"
        SET_AT  GUEST_RSP, l2_stack_end - 64
        L2      mov rbx, rsp
        EXECUTED
        CHECK_AT rbx, l2_stack_end - 64
RULE entry_loads_rflags, "L2 starts with the RFLAGS of the guest-state area", "SDM vol. 3, 27.3.2.4"
        SET     GUEST_RFLAGS, 0x403
        L2      pushfq
        EXECUTED
        CHECK   [l2_stack_end - 8], 0x403
RULE entry_loads_cr3, "L2 starts with the page tables of the guest-state area", "SDM vol. 3, 27.3.2.1"
        call    build_l2_tables
        SET_AT  GUEST_CR3, l2_root
        mov     qword ptr [WINDOW + 8], 0x1234
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx + 8]
        EXECUTED
        CHECK   rbx, 0x1234
RULE entry_loads_cr4, "L2 starts with the CR4 of the guest-state area", "SDM vol. 3, 27.3.2.1"
        SET_BITS GUEST_CR4, CR4_TSD
        L2      mov rbx, cr4
        EXECUTED
        CHECK_BITS rbx, CR4_TSD, CR4_TSD
RULE entry_loads_segment_bases, "L2 starts with the FS base of the guest-state area", "SDM vol. 3, 27.3.2.2"
        SET_AT  GUEST_FS_BASE, scratch
        mov     qword ptr [scratch + 16], 0x5151
        L2      mov rbx, fs:[16]
        EXECUTED
        CHECK   rbx, 0x5151
RULE entry_loads_selectors, "L2 starts with the selectors of the guest-state area", "SDM vol. 3, 27.3.2.2"
        SET     GUEST_ES_SELECTOR, 0x30
        L2      mov ebx, es
        EXECUTED
        CHECK   rbx, 0x30
RULE entry_loads_gdtr, "L2 starts with the GDTR of the guest-state area", "SDM vol. 3, 27.3.2.2"
        SET     GUEST_GDTR_BASE, 0x123000
        SET     GUEST_GDTR_LIMIT, 0x456
        L2      sgdt [scratch]
        EXECUTED
        CHECK   [scratch + 2], 0x123000
        CHECK_BITS [scratch], 0xffff, 0x456
RULE entry_loads_idtr, "L2 starts with the IDTR of the guest-state area", "SDM vol. 3, 27.3.2.2"
        SET     GUEST_IDTR_BASE, 0x321000
        L2      sidt [scratch]
        EXECUTED
        CHECK   [scratch + 2], 0x321000
RULE entry_loads_tr, "L2 starts with the TR of the guest-state area", "SDM vol. 3, 27.3.2.2"
        SET     GUEST_TR_SELECTOR, 0x68
        L2      str ebx
        EXECUTED
        CHECK   rbx, 0x68
RULE entry_at_cpl3, "L2 starts at the privilege level of SS's DPL", "SDM vol. 3, 27.3.2.2"
        SET     GUEST_CS_SELECTOR, SEL_USER_CODE
        SET     GUEST_SS_SELECTOR, SEL_USER_DATA
        SET_BITS GUEST_CS_AR_BYTES, 3 << 5
        SET_BITS GUEST_SS_AR_BYTES, 3 << 5
        SET     EXCEPTION_BITMAP, 1 << EXC_GP
        L2      hlt
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
RULE entry_loads_sysenter_msrs, "L2 starts with the SYSENTER MSRs of the guest-state area", "SDM vol. 3, 27.3.2.1"
        SET     GUEST_SYSENTER_ESP, 0x1230
        L2_READS_MSR MSR_SYSENTER_ESP
        CHECK   [l2_value], 0x1230
RULE entry_loads_efer, "With 'load IA32_EFER' L2 starts with the EFER of the guest-state area", "SDM vol. 3, 27.3.2.1"
DEVIATION "efer_of_l2_from_l1=on"
        CLEAR_BITS GUEST_IA32_EFER, 1
        L2_READS_MSR MSR_EFER
        CHECK   [l2_value], EFER_LME_LMA_NXE_SCE & ~1
RULE entry_loads_pat, "With 'load IA32_PAT' L2 starts with the PAT of the guest-state area", "SDM vol. 3, 27.3.2.1"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT
        SET     GUEST_IA32_PAT, 0x0606060606060606
        L2_READS_MSR MSR_PAT
        CHECK   [l2_value], 0x0606060606060606
RULE entry_loads_dr7, "With 'load debug controls' L2 starts with the DR7 of the guest-state area", "SDM vol. 3, 27.3.2.1"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG
        SET     GUEST_DR7, DR7_RESET | 1
        L2      mov rbx, dr7
        EXECUTED
        CHECK   rbx, DR7_RESET | 1
RULE entry_leaves_other_msrs, "L2 finds MSRs without a field as L1 left them", "SDM vol. 3, 27.3.2.1"
        WRITE_MSR MSR_LSTAR, 0x123456789a
        L2_READS_MSR MSR_LSTAR
        CHECK   [l2_value], 0x123456789a
RULE entry_leaves_general_registers, "L2 finds the general registers as L1 left them", "SDM vol. 3, 27.3.2"
        mov     r13, 0x123456789a
        L2      mov rbx, r13
        EXECUTED
        CHECK   rbx, 0x123456789a
RULE entry_leaves_cr2, "L2 finds CR2 as L1 left it", "SDM vol. 3, 27.3.2"
        mov     ebx, 0x4321
        mov     cr2, rbx
        L2      mov rbx, cr2
        EXECUTED
        CHECK   rbx, 0x4321

# ------------------------------------------------------------------ VM exit saves the guest state: 28.3

RULE exit_saves_rsp, "The exit saves RSP", "SDM vol. 3, 28.3.3"
        L2      mov rsp, 0x1230
        CHECK_FIELD GUEST_RSP, 0x1230
RULE exit_saves_rflags, "The exit saves RFLAGS", "SDM vol. 3, 28.3.3"
        RUN     l2_flags
        CHECK_FIELD_BITS GUEST_RFLAGS, 0x401, 0x401
RULE exit_saves_cr0, "The exit saves CR0", "SDM vol. 3, 28.3.1"
        mov     ebx, CR0_GUEST | CR0_TS
        L2      mov cr0, rbx
        CHECK_FIELD_BITS GUEST_CR0, CR0_TS, CR0_TS
RULE exit_saves_cr3, "The exit saves CR3", "SDM vol. 3, 28.3.1"
        call    build_l2_tables
        mov     ebx, offset l2_root
        L2      mov cr3, rbx
        CHECK_FIELD_AT GUEST_CR3, l2_root
RULE exit_saves_cr4, "The exit saves CR4", "SDM vol. 3, 28.3.1"
        mov     ebx, CR4_GUEST | CR4_VMXE | CR4_TSD
        L2      mov cr4, rbx
        CHECK_FIELD GUEST_CR4, CR4_GUEST | CR4_VMXE | CR4_TSD
RULE exit_saves_segments, "The exit saves selector and access rights of a segment that L2 loaded", "SDM vol. 3, 28.3.2"
        mov     ebx, SEL_USER_DATA
        L2      mov es, ebx
        CHECK_FIELD GUEST_ES_SELECTOR, SEL_USER_DATA
        CHECK_FIELD_BITS GUEST_ES_AR_BYTES, 0xff, 0xf3
RULE exit_saves_a_null_segment_as_unusable, "A null segment is saved as unusable", "SDM vol. 3, 28.3.2"
        xor     ebx, ebx
        L2      mov es, ebx
        CHECK_FIELD GUEST_ES_SELECTOR, 0
        CHECK_FIELD_BITS GUEST_ES_AR_BYTES, AR_UNUSABLE, AR_UNUSABLE
RULE exit_saves_gdtr, "The exit saves GDTR", "SDM vol. 3, 28.3.2"
        L2      lgdt [other_table]
        CHECK_FIELD GUEST_GDTR_BASE, 0x123456
        CHECK_FIELD GUEST_GDTR_LIMIT, 0x777
RULE exit_saves_idtr, "The exit saves IDTR", "SDM vol. 3, 28.3.2"
        L2      lidt [other_table]
        CHECK_FIELD GUEST_IDTR_BASE, 0x123456
        CHECK_FIELD GUEST_IDTR_LIMIT, 0x777
RULE exit_saves_sysenter_msrs, "The exit saves the SYSENTER MSRs", "SDM vol. 3, 28.3.1"
        mov     ecx, MSR_SYSENTER_EIP
        mov     eax, 0x4560
        xor     edx, edx
        L2      wrmsr
        EXECUTED
        CHECK_FIELD GUEST_SYSENTER_EIP, 0x4560
RULE exit_saves_efer, "With 'save IA32_EFER' the exit saves EFER", "SDM vol. 3, 28.3.1"
        mov     ecx, MSR_EFER
        mov     eax, EFER_LME_LMA_NXE_SCE & ~1
        xor     edx, edx
        L2      wrmsr
        EXECUTED
        CHECK_FIELD GUEST_IA32_EFER, EFER_LME_LMA_NXE_SCE & ~1
RULE exit_saves_efer_only_when_told, "Without 'save IA32_EFER' the field stays", "SDM vol. 3, 28.3.1"
DEVIATION "saves_ignore_exit_controls=on"
        CLEAR_BITS VM_EXIT_CONTROLS, EXIT_CTL_SAVE_EFER
        mov     ecx, MSR_EFER
        mov     eax, EFER_LME_LMA_NXE_SCE & ~1
        xor     edx, edx
        L2      wrmsr
        EXECUTED
        CHECK_FIELD GUEST_IA32_EFER, EFER_LME_LMA_NXE_SCE
RULE exit_saves_dr7, "With 'save debug controls' the exit saves DR7", "SDM vol. 3, 28.3.1"
        SET_BITS VM_EXIT_CONTROLS, EXIT_SAVE_DEBUG
        mov     ebx, DR7_RESET | 1
        L2      mov dr7, rbx
        EXECUTED
        CHECK_FIELD GUEST_DR7, DR7_RESET | 1
RULE exit_saves_pat, "With 'save IA32_PAT' the exit saves the PAT", "SDM vol. 3, 28.3.1"
        SET_BITS VM_EXIT_CONTROLS, EXIT_SAVE_PAT
        mov     ecx, MSR_PAT
        mov     eax, 0x06060606
        mov     edx, eax
        L2      wrmsr
        EXECUTED
        CHECK_FIELD GUEST_IA32_PAT, 0x0606060606060606
RULE exit_saves_a_pat_that_l2_never_wrote, "With 'save IA32_PAT' and 'load IA32_PAT' the field keeps L2's value", "SDM vol. 3, 28.3.1"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT
        SET_BITS VM_EXIT_CONTROLS, EXIT_SAVE_PAT
        SET     GUEST_IA32_PAT, 0x0606060606060606
        L2      nop
        EXECUTED
        CHECK_FIELD GUEST_IA32_PAT, 0x0606060606060606
RULE exit_saves_blocking_by_sti, "An exit right behind STI saves blocking by STI", "SDM vol. 3, 28.3.4"
        RUN     l2_sti_cpuid
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        CHECK_FIELD_BITS GUEST_INTERRUPTIBILITY_INFO, 3, 1
RULE exit_saves_blocking_by_mov_ss, "An exit right behind MOV SS saves blocking by MOV SS", "SDM vol. 3, 28.3.4"
        RUN     l2_mov_ss_cpuid
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        CHECK_FIELD_BITS GUEST_INTERRUPTIBILITY_INFO, 3, 2
RULE exit_saves_no_blocking_later, "Blocking ends with the instruction behind STI", "SDM vol. 3, 28.3.4"
        RUN     l2_sti_nop_cpuid
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        CHECK_FIELD_BITS GUEST_INTERRUPTIBILITY_INFO, 3, 0
RULE exit_clears_the_injection, "The exit clears the valid bit of the VM-entry interruption information", "SDM vol. 3, 28.2.5"
        SET     VM_ENTRY_INTR_INFO_FIELD, 1 << 31 | 3 << 8 | EXC_UD
        RUN     l2_waits
        HALTED
        CHECK_FIELD_BITS VM_ENTRY_INTR_INFO_FIELD, 1 << 31, 0

# ------------------------------------------------------------------ VM exit loads the host state: 28.5

RULE exit_loads_rsp, "L1 goes on with the host RSP", "SDM vol. 3, 28.5.3"
        mov     rbx, rsp
        L2      mov rsp, 0x1230
        CHECK   rsp, rbx
RULE exit_loads_rflags, "L1 goes on with RFLAGS = 2", "SDM vol. 3, 28.5.3"
        SET_AT  HOST_RIP, after_exit
        SET_AT  GUEST_RIP, l2_flags
        mov     eax, HOST_RSP
        vmwrite rax, rsp
        stc
        vmlaunch
after_exit:
        pushfq
        pop     rbx
        CHECK   rbx, 2
RULE exit_loads_cr0, "L1 goes on with the host CR0", "SDM vol. 3, 28.5.1"
        mov     ebx, CR0_GUEST | CR0_TS
        L2      mov cr0, rbx
        mov     rbx, cr0
        CHECK   rbx, [l1_cr0]
RULE exit_loads_cr3, "L1 goes on with the host CR3", "SDM vol. 3, 28.5.1"
        call    build_l2_tables
        mov     ebx, offset l2_root
        L2      mov cr3, rbx
        mov     rbx, cr3
        CHECK   rbx, L1_TABLES
RULE exit_loads_another_cr3, "The host CR3 need not be the one that L1 had", "SDM vol. 3, 28.5.1"
        call    build_l2_tables
        SET_AT  HOST_CR3, l2_root
        L2      nop
        mov     rbx, cr3
        CHECK_AT rbx, l2_root
RULE exit_loads_cr4, "L1 goes on with the host CR4", "SDM vol. 3, 28.5.1"
        mov     ebx, CR4_GUEST | CR4_VMXE | CR4_TSD
        L2      mov cr4, rbx
        mov     rbx, cr4
        CHECK   rbx, [l1_cr4]
RULE exit_loads_efer, "With 'load IA32_EFER' L1 goes on with the host EFER", "SDM vol. 3, 28.5.1"
        CLEAR_BITS HOST_IA32_EFER, 1
        L2      nop
        READ_MSR MSR_EFER
        CHECK   rbx, EFER_LME_LMA_NXE_SCE & ~1
RULE exit_restores_efer, "L2's EFER does not stay for L1", "SDM vol. 3, 28.5.1"
        mov     ecx, MSR_EFER
        mov     eax, EFER_LME_LMA_NXE_SCE & ~1
        xor     edx, edx
        L2      wrmsr
        READ_MSR MSR_EFER
        CHECK   rbx, EFER_LME_LMA_NXE_SCE
RULE exit_loads_pat, "With 'load IA32_PAT' L1 goes on with the host PAT", "SDM vol. 3, 28.5.1"
        SET_BITS VM_EXIT_CONTROLS, EXIT_LOAD_PAT
        SET     HOST_IA32_PAT, 0x0404040404040404
        L2      nop
        READ_MSR MSR_PAT
        CHECK   rbx, 0x0404040404040404
RULE exit_loads_dr7, "L1 goes on with DR7 = 400h", "SDM vol. 3, 28.5.1"
        mov     ebx, DR7_RESET | 2
        mov     dr7, rbx
        L2      nop
        mov     rbx, dr7
        CHECK   rbx, DR7_RESET
RULE exit_loads_sysenter_msrs, "L1 goes on with the SYSENTER MSRs of the host-state area", "SDM vol. 3, 28.5.1"
        SET     HOST_IA32_SYSENTER_CS, 0x40
        SET     HOST_IA32_SYSENTER_ESP, 0x5550
        L2      nop
        READ_MSR MSR_SYSENTER_ESP
        CHECK   rbx, 0x5550
        READ_MSR MSR_SYSENTER_CS
        CHECK   rbx, 0x40
RULE exit_loads_fs_and_gs_base, "L1 goes on with the FS and GS base of the host-state area", "SDM vol. 3, 28.5.2"
        SET     HOST_FS_BASE, 0x12345678
        SET     HOST_GS_BASE, 0x23456789
        L2      nop
        READ_MSR MSR_FS_BASE
        CHECK   rbx, 0x12345678
        READ_MSR MSR_GS_BASE
        CHECK   rbx, 0x23456789
RULE exit_loads_gdtr, "L1 goes on with the GDTR base of the host-state area and limit 65535", "SDM vol. 3, 28.5.2"
        L2      lgdt [other_table]
        sgdt    [scratch]
        CHECK   [scratch + 2], GDT
        CHECK_BITS [scratch], 0xffff, 0xffff
RULE exit_loads_idtr, "L1 goes on with the IDTR base of the host-state area and limit 65535", "SDM vol. 3, 28.5.2"
        L2      lidt [other_table]
        sidt    [scratch]
        CHECK_AT [scratch + 2], idt
        CHECK_BITS [scratch], 0xffff, 0xffff
RULE exit_loads_selectors, "L1 goes on with the selectors of the host-state area", "SDM vol. 3, 28.5.2"
        SET     HOST_ES_SELECTOR, 0
        L2      nop
        mov     ebx, es
        CHECK   rbx, 0
        mov     ebx, cs
        CHECK   rbx, SEL_CODE
        str     ebx
        CHECK   rbx, SEL_TSS
RULE exit_makes_ldtr_unusable, "L1 goes on with a null LDTR", "SDM vol. 3, 28.5.2"
        L2      nop
        sldt    ebx
        CHECK   rbx, 0
RULE exit_goes_to_cpl0, "L1 goes on at level 0 though L2 was at level 3", "SDM vol. 3, 28.5.2"
        RUN     l2_user_cpuid
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        CATCH   invd
        CHECK   [exc_vector], NO_EXCEPTION
RULE exit_goes_to_the_host_rip, "L1 goes on at the host RIP", "SDM vol. 3, 28.5.3"
        SET_AT  HOST_RIP, elsewhere
        SET_AT  GUEST_RIP, l2_halt
        mov     eax, HOST_RSP
        vmwrite rax, rsp
        xor     ebx, ebx
        vmlaunch
        jmp     not_elsewhere
elsewhere:
        mov     ebx, 1
not_elsewhere:
        CHECK   rbx, 1
RULE exit_leaves_general_registers, "L1 finds the general registers as L2 left them", "SDM vol. 3, 28.5"
        L2      mov r13, 0x4242
        CHECK   r13, 0x4242
RULE exit_leaves_cr2, "L1 finds CR2 as L2 left it", "SDM vol. 3, 28.5"
        mov     ebx, 0x1111
        mov     cr2, rbx
        mov     ebx, 0x777
        L2      mov cr2, rbx
        mov     rbx, cr2
        CHECK   rbx, 0x777
RULE exit_leaves_other_msrs, "L1 finds MSRs without a field as L2 left them", "SDM vol. 3, 28.5"
        mov     ecx, MSR_KERNEL_GS_BASE
        mov     eax, 0x5550
        xor     edx, edx
        L2      wrmsr
        EXECUTED
        READ_MSR MSR_KERNEL_GS_BASE
        CHECK   rbx, 0x5550
RULE exit_ends_blocking_by_sti, "L1 goes on without blocking by STI or MOV SS", "SDM vol. 3, 28.5.5"
        RUN     l2_mov_ss_cpuid
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        SET     GUEST_INTERRUPTIBILITY_INFO, 0
        RUN     l2_halt
        CHECK   [entry_flags], 0
        HALTED
RULE exit_keeps_the_vmcs_current, "After the exit the same VMCS is current", "SDM vol. 3, 28.1"
        L2      nop
        vmptrst qword ptr [scratch]
        CHECK_AT [scratch], vmcs
RULE controls_are_not_written_by_an_exit, "An exit does not change the control fields", "SDM vol. 3, 28.3"
        SET     EXCEPTION_BITMAP, 0x40
        L2      nop
        CHECK_FIELD EXCEPTION_BITMAP, 0x40
        CHECK_FIELD_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_HLT_EXITING | CPU_RDTSC_EXITING, CPU_HLT_EXITING
RULE two_vmcss_run_in_turn, "Two VMCSs keep their own guest state", "SDM vol. 3, 25.1"
        RUN     l2_flags
        mov     rsi, offset vmcs_address
        vmclear qword ptr [vmcs_address]
        mov     esi, offset vmcs            # a copy, as the region is implementation-specific data
        mov     edi, offset other_vmcs
        mov     ecx, 0x1000 / 8
        rep     movsq
        vmptrld qword ptr [other_address]
        SET_AT  GUEST_RIP, l2_halt
        SET     GUEST_RFLAGS, RFLAGS_RESET
        mov     qword ptr [launched], 0
        call    run_on
        CHECK_FIELD_BITS GUEST_RFLAGS, 0x401, 0
        vmptrld qword ptr [vmcs_address]
        CHECK_FIELD_BITS GUEST_RFLAGS, 0x401, 0x401

# ------------------------------------------------------------------ time

RULE tsc_offset_is_added, "With 'use TSC offsetting' RDTSC of L2 gives the TSC plus the offset", "SDM vol. 3, 26.3"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_TSC_OFFSETTING
        SET     TSC_OFFSET, 1 << 48
        L2      rdtsc
        EXECUTED
        mov     ebx, [l2_rdx]
        shr     rbx, 16
        CHECK   rbx, 1
RULE tsc_offset_is_added_for_rdmsr, "With 'use TSC offsetting' RDMSR of the TSC is offset too", "SDM vol. 3, 26.3"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_TSC_OFFSETTING
        SET     TSC_OFFSET, 1 << 48
        mov     ecx, MSR_TSC
        L2      rdmsr
        EXECUTED
        mov     ebx, [l2_rdx]
        shr     rbx, 16
        CHECK   rbx, 1
RULE tsc_offset_is_added_for_rdtscp, "With 'use TSC offsetting' RDTSCP is offset too", "SDM vol. 3, 26.3"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_TSC_OFFSETTING
        call    enable_rdtscp
        SET     TSC_OFFSET, 1 << 48
        L2      rdtscp
        EXECUTED
        mov     ebx, [l2_rdx]
        shr     rbx, 16
        CHECK   rbx, 1
RULE tsc_offset_needs_its_control, "Without 'use TSC offsetting' the offset does not count", "SDM vol. 3, 26.3"
        SET     TSC_OFFSET, 1 << 48
        L2      rdtsc
        EXECUTED
        mov     ebx, [l2_rdx]
        shr     rbx, 16
        CHECK   rbx, 0
RULE tsc_of_l1_has_no_offset, "The TSC offset of L2 does not show in L1", "SDM vol. 3, 26.3"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_TSC_OFFSETTING
        SET     TSC_OFFSET, 1 << 48
        L2      nop
        rdtsc
        shr     edx, 16
        mov     ebx, edx
        CHECK   rbx, 0
RULES_END

# Where L1 may enable RDTSCP it must; else L0 does.
enable_rdtscp:
        mov     ecx, MSR_VMX_PROCBASED_CTLS2
        rdmsr
        and     edx, CPU2_ENABLE_RDTSCP
        mov     ebx, edx
        SET_BITS SECONDARY_VM_EXEC_CONTROL, rbx
        ret

l2_reads_msr:
        mov     ecx, [scratch]
        rdmsr
        mov     [l2_value], eax
        mov     [l2_value + 4], edx
        hlt
l2_flags:
        stc
        std
l2_halt:
        hlt
l2_sti_cpuid:
        sti
        cpuid
l2_sti_nop_cpuid:
        sti
        nop
        cpuid
l2_mov_ss_cpuid:
        mov     eax, SEL_DATA
        mov     ss, eax
        cpuid
        hlt
l2_waits:
        nop
        hlt
l2_user_cpuid:
        CATCH_USER cpuid
        hlt

        .data
        .balign 8
l2_value:
        .quad   0
other_table:
        .word   0x777
        .quad   0x123456
        .text
