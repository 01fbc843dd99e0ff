# @title   Rules of SVM: what VMRUN, #VMEXIT, VMLOAD and VMSAVE switch, and what is announced
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.state

.set MSR_FS_BASE,       0xc0000100
.set MSR_GS_BASE,       0xc0000101
.set MSR_KERNEL_GS_BASE, 0xc0000102
.set MSR_LSTAR,         0xc0000082
.set MSR_SYSENTER_ESP,  0x175

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

# ------------------------------------------------------------------ VMLOAD and VMSAVE

.macro VMLOADS msr, offset
        mov     rax, 0x123456789a
        mov     [page + \offset], rax
        mov     eax, offset page
        vmload  rax
        READ_MSR \msr
        CHECK   rbx, 0x123456789a
        WRITE_MSR \msr, 0
.endm
.macro VMSAVES msr, offset
        WRITE_MSR \msr, 0x3456789abc
        mov     eax, offset page
        vmsave  rax
        WRITE_MSR \msr, 0
        CHECK   [page + \offset], 0x3456789abc
.endm
.macro BEFORE_VMLOAD                        # the page has L1's own state but for what is tested
        mov     eax, offset page
        vmsave  rax
.endm

RULE vmload_loads_fs_base, "VMLOAD loads FS base", "APM vol. 3, VMLOAD"
        BEFORE_VMLOAD
        VMLOADS MSR_FS_BASE, VMCB_FS + SEGMENT_BASE
RULE vmload_loads_gs_base, "VMLOAD loads GS base", "APM vol. 3, VMLOAD"
        BEFORE_VMLOAD
        VMLOADS MSR_GS_BASE, VMCB_GS + SEGMENT_BASE
RULE vmload_loads_kernel_gs_base, "VMLOAD loads KERNEL_GS_BASE", "APM vol. 3, VMLOAD"
        BEFORE_VMLOAD
        VMLOADS MSR_KERNEL_GS_BASE, VMCB_KERNEL_GS_BASE
RULE vmload_loads_lstar, "VMLOAD loads LSTAR", "APM vol. 3, VMLOAD"
        BEFORE_VMLOAD
        VMLOADS MSR_LSTAR, VMCB_LSTAR
RULE vmload_loads_sysenter_esp, "VMLOAD loads SYSENTER_ESP", "APM vol. 3, VMLOAD"
        BEFORE_VMLOAD
        VMLOADS MSR_SYSENTER_ESP, VMCB_SYSENTER_ESP
RULE vmload_loads_ldtr, "VMLOAD loads LDTR", "APM vol. 3, VMLOAD"
        BEFORE_VMLOAD
        mov     dword ptr [page + VMCB_LDTR], 0x00820048
        mov     eax, offset page
        vmload  rax
        sldt    ebx
        mov     dword ptr [page + VMCB_LDTR], 0
        vmload  rax
        CHECK   rbx, 0x48
RULE vmload_does_not_load_rsp, "VMLOAD leaves what VMRUN loads", "APM vol. 3, VMLOAD"
        BEFORE_VMLOAD
        mov     rbx, rsp
        mov     qword ptr [page + VMCB_RSP], 0x1234
        mov     eax, offset page
        vmload  rax
        CHECK   rbx, rsp
RULE vmsave_saves_fs_base, "VMSAVE saves FS base", "APM vol. 3, VMSAVE"
        VMSAVES MSR_FS_BASE, VMCB_FS + SEGMENT_BASE
RULE vmsave_saves_gs_base, "VMSAVE saves GS base", "APM vol. 3, VMSAVE"
        VMSAVES MSR_GS_BASE, VMCB_GS + SEGMENT_BASE
RULE vmsave_saves_kernel_gs_base, "VMSAVE saves KERNEL_GS_BASE", "APM vol. 3, VMSAVE"
        VMSAVES MSR_KERNEL_GS_BASE, VMCB_KERNEL_GS_BASE
RULE vmsave_saves_star, "VMSAVE saves STAR", "APM vol. 3, VMSAVE"
        VMSAVES 0xc0000081, VMCB_STAR
RULE vmsave_saves_sysenter_esp, "VMSAVE saves SYSENTER_ESP", "APM vol. 3, VMSAVE"
        VMSAVES MSR_SYSENTER_ESP, VMCB_SYSENTER_ESP
RULE vmsave_saves_tr, "VMSAVE saves TR", "APM vol. 3, VMSAVE"
        mov     eax, offset page
        vmsave  rax
        CHECK   [page + VMCB_TR + SEGMENT_BASE], TSS
        CHECK_BITS [page + VMCB_TR], 0xffff, SEL_TSS
RULE vmload_unaligned_is_gp, "VMLOAD of an address that is not page-aligned raises #GP", "APM vol. 3, VMLOAD"
        mov     eax, offset page + 4
        CATCH   vmload rax
        CHECK   [exc_vector], EXC_GP
RULE vmsave_unaligned_is_gp, "VMSAVE to an address that is not page-aligned raises #GP", "APM vol. 3, VMSAVE"
        mov     eax, offset page + 4
        CATCH   vmsave rax
        CHECK   [exc_vector], EXC_GP
RULE vmload_beyond_physical_addresses_is_gp, "VMLOAD of an address beyond the physical ones raises #GP", "APM vol. 3, VMLOAD"
ONLY_WITH "virtual_vmload_vmsave=off"
        mov     rax, 1 << 52
        CATCH   vmload rax
        CHECK   [exc_vector], EXC_GP
RULE vmrun_leaves_fs_base_alone, "VMRUN does not load the FS base", "APM vol. 2, 15.5.1"
        WRITE_MSR MSR_FS_BASE, 0x1111
        mov     qword ptr [vmcb + VMCB_FS + SEGMENT_BASE], 0x2222
        RUN     l2_fs_base
        READ_MSR MSR_FS_BASE
        CHECK   [vmcb + VMCB_RAX], 0x1111
        CHECK   rbx, 0x1111
        WRITE_MSR MSR_FS_BASE, 0
RULE l2_changes_fs_base_for_l1, "#VMEXIT does not restore the FS base", "APM vol. 2, 15.5.1"
        WRITE_MSR MSR_FS_BASE, 0
        mov     ecx, MSR_FS_BASE
        xor     edx, edx
        mov     qword ptr [vmcb + VMCB_RAX], 0x5555
        L2      wrmsr
        READ_MSR MSR_FS_BASE
        CHECK   rbx, 0x5555
        WRITE_MSR MSR_FS_BASE, 0

# ------------------------------------------------------------------ #VMEXIT: APM vol. 2, 15.6

RULE exit_restores_rsp, "#VMEXIT restores L1's RSP and saves L2's", "APM vol. 2, 15.6"
        mov     rbx, rsp
        L2      mov rsp, 0x1230
        CHECK   rsp, rbx
        CHECK   [vmcb + VMCB_RSP], 0x1230
RULE exit_restores_rax, "#VMEXIT restores L1's RAX, the address of the VMCB, and saves L2's", "APM vol. 2, 15.6"
        mov     qword ptr [vmcb + VMCB_RIP], offset l2_rax
        mov     eax, offset vmcb
        vmrun   rax
        mov     rbx, rax
        stgi
        CHECK_AT rbx, vmcb
        CHECK   [vmcb + VMCB_RAX], 0x77
RULE exit_restores_rflags, "#VMEXIT restores L1's RFLAGS and saves L2's", "APM vol. 2, 15.6"
        mov     qword ptr [vmcb + VMCB_RIP], offset l2_flags
        mov     eax, offset vmcb
        clc
        vmrun   rax
        pushfq
        stgi
        pop     rbx
        CHECK_BITS rbx, 0x401, 0
        CHECK_BITS [vmcb + VMCB_RFLAGS], 0x401, 0x401
RULE exit_restores_cr0, "#VMEXIT restores L1's CR0", "APM vol. 2, 15.6"
        mov     ebx, CR0_GUEST ^ (1 << 16)
        L2      mov cr0, rbx
        mov     rbx, cr0
        CHECK   rbx, [l1_cr0]
RULE exit_restores_cr3, "#VMEXIT restores L1's CR3", "APM vol. 2, 15.6"
        call    build_l2_tables
        mov     ebx, offset l2_root
        L2      mov cr3, rbx
        mov     rbx, cr3
        CHECK   rbx, L1_TABLES
RULE exit_restores_cr4, "#VMEXIT restores L1's CR4", "APM vol. 2, 15.6"
        mov     ebx, CR4_GUEST | 4
        L2      mov cr4, rbx
        mov     rbx, cr4
        CHECK   rbx, [l1_cr4]
RULE exit_restores_efer, "#VMEXIT restores L1's EFER", "APM vol. 2, 15.6"
        mov     ecx, MSR_EFER
        xor     edx, edx
        mov     qword ptr [vmcb + VMCB_RAX], EFER_SVME | 0xd00
        L2      wrmsr
        READ_MSR MSR_EFER
        CHECK   rbx, EFER_SVME | EFER_LME_LMA_NXE_SCE
RULE exit_disables_breakpoints, "#VMEXIT sets DR7 to disable all breakpoints", "APM vol. 2, 15.6"
        mov     ebx, DR7_RESET | 2
        mov     dr7, rbx
        L2      nop
        mov     rbx, dr7
        CHECK   rbx, DR7_RESET
RULE exit_restores_idtr, "#VMEXIT restores L1's IDTR and saves L2's", "APM vol. 2, 15.6"
        L2      lidt [other_idt]
        EXECUTED
        sidt    [scratch]
        CHECK_AT [scratch + 2], idt
        CHECK   [vmcb + VMCB_IDTR + SEGMENT_BASE], 0x123456
        CHECK_BITS [vmcb + VMCB_IDTR], 0xffff << 32, 0x777 << 32
RULE exit_restores_cs_and_cpl, "#VMEXIT restores L1's CS at level 0 and saves L2's", "APM vol. 2, 15.6"
        INTERCEPT VMEXIT_CPUID
        RUN     l2_user_cpuid
        mov     ebx, cs
        CHECK   rbx, SEL_CODE
        CHECK_BITS [vmcb + VMCB_CS], 0xffff, SEL_USER_CODE
        CATCH   invd
        CHECK   [exc_vector], NO_EXCEPTION
RULE exit_leaves_other_registers, "L1 finds the other general registers as L2 left them", "APM vol. 2, 15.6"
        L2      mov r13, 0x4242
        CHECK   r13, 0x4242
RULE exit_keeps_the_asid, "#VMEXIT does not write the ASID back", "APM vol. 2, 15.6"
        mov     dword ptr [vmcb + VMCB_ASID], 7
        L2      nop
        CHECK32 [vmcb + VMCB_ASID], 7
RULE exit_keeps_intercepts, "#VMEXIT does not write the intercepts back", "APM vol. 2, 15.6"
        mov     ebx, [vmcb + VMCB_INTERCEPT_WORD3]
        mov     [scratch], rbx
        L2      nop
        CHECK32 [vmcb + VMCB_INTERCEPT_WORD3], [scratch]
RULE exit_keeps_the_nested_root, "#VMEXIT does not write nCR3 and the maps' addresses back", "APM vol. 2, 15.6"
        L2      nop
        CHECK_AT [vmcb + VMCB_NESTED_CR3], nested_root
        CHECK_AT [vmcb + VMCB_MSRPM_BASE_PA], msrpm
        CHECK_AT [vmcb + VMCB_IOPM_BASE_PA], iopm
RULE exit_keeps_tlb_control, "The processor does not change TLB_CONTROL", "APM vol. 2, 15.16.1"
DEVIATION "tlb_control_cleared=on"
        L2      nop
        movzx   ebx, byte ptr [vmcb + VMCB_TLB_CTL]
        CHECK   rbx, TLB_FLUSH_ASID
RULE l2_starts_with_the_rflags_of_the_vmcb, "L2 starts with the RFLAGS of the VMCB", "APM vol. 2, 15.5.1"
        mov     qword ptr [vmcb + VMCB_RFLAGS], 0x403
        L2      pushfq
        CHECK   [l2_stack_end - 8], 0x403
RULE l2_at_cpl3, "L2 starts at the CPL of the VMCB", "APM vol. 2, 15.5.1"
        SEGMENT VMCB_CS, SEL_USER_CODE, 0xafb, -1, 0
        SEGMENT VMCB_SS, SEL_USER_DATA, 0xcf3, -1, 0
        mov     byte ptr [vmcb + VMCB_CPL], 3
        INTERCEPT VMEXIT_EXCEPTION + EXC_GP
        L2      invd
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_GP
RULE l2_with_other_page_tables, "L2 starts with the CR3 of the VMCB", "APM vol. 2, 15.5.1"
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        mov     qword ptr [WINDOW + 8], 0x1234
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx + 8]
        EXECUTED
        CHECK   rbx, 0x1234
RULE two_vmcbs_do_not_mix, "Each VMCB has its own state", "APM vol. 2, 15.5"
        mov     qword ptr [vmcb + VMCB_RIP], offset l2_rax
        mov     esi, offset vmcb
        mov     edi, offset page
        mov     ecx, 0x1000 / 8
        rep     movsq
        mov     dword ptr [page + VMCB_ASID], 2
        mov     qword ptr [page + VMCB_RIP], offset l2_halt
        mov     qword ptr [page + VMCB_RAX], 0x88
        call    run_on
        mov     eax, offset page
        vmrun   rax
        stgi
        CHECK   [vmcb + VMCB_RAX], 0x77
        CHECK   [page + VMCB_RAX], 0x88
        CHECK_AT [page + VMCB_RIP], l2_halt

# ------------------------------------------------------------------ time, MSRs, CPUID

RULE tsc_offset_is_added, "RDTSC of L2 gives the TSC plus TSC_OFFSET, and L1's has no offset", "APM vol. 2, 15.5.1"
        mov     rbx, 1 << 48
        mov     [vmcb + VMCB_TSC_OFFSET], rbx
        rdtsc
        L2      rdtsc
        EXECUTED
        mov     ebx, [l2_rdx]
        shr     rbx, 16
        CHECK   rbx, 1
        rdtsc
        shr     rdx, 16
        mov     rbx, rdx
        CHECK   rbx, 0
RULE tsc_offset_is_added_for_rdmsr, "RDMSR of the TSC is offset too", "APM vol. 2, 15.5.1"
        mov     rbx, 1 << 48
        mov     [vmcb + VMCB_TSC_OFFSET], rbx
        mov     ecx, 0x10
        L2      rdmsr
        EXECUTED
        mov     ebx, [l2_rdx]
        shr     rbx, 16
        CHECK   rbx, 1
RULE hsave_pa_reads_back, "VM_HSAVE_PA holds a page-aligned address", "APM vol. 2, 15.30.4"
        WRITE_MSR MSR_VM_HSAVE_PA, 0x123000
        READ_MSR MSR_VM_HSAVE_PA
        CHECK   rbx, 0x123000
RULE hsave_pa_unaligned_is_gp, "An address in VM_HSAVE_PA that is not page-aligned raises #GP", "APM vol. 2, 15.30.4"
        mov     ecx, MSR_VM_HSAVE_PA
        mov     eax, 0x123008
        xor     edx, edx
        CATCH   wrmsr
        CHECK   [exc_vector], EXC_GP
RULE hsave_pa_beyond_physical_addresses_is_gp, "An address in VM_HSAVE_PA beyond the physical ones raises #GP", "APM vol. 2, 15.30.4"
        mov     ecx, MSR_VM_HSAVE_PA
        xor     eax, eax
        mov     edx, 1 << 20
        CATCH   wrmsr
        CHECK   [exc_vector], EXC_GP
RULE vm_cr_says_svm_is_enabled, "VM_CR.SVMDIS is 0", "APM vol. 2, 15.30.1"
        READ_MSR MSR_VM_CR
        CHECK_BITS rbx, 0x10, 0
RULE efer_svme_reads_back, "EFER.SVME can be set", "APM vol. 2, 15.4"
        READ_MSR MSR_EFER
        CHECK_BITS rbx, EFER_SVME, EFER_SVME
RULE efer_reserved_bit_is_gp, "A reserved bit of EFER raises #GP", "APM vol. 2, 3.1.7"
        mov     ecx, MSR_EFER
        mov     eax, EFER_SVME | EFER_LME_LMA_NXE_SCE | 2
        xor     edx, edx
        CATCH   wrmsr
        CHECK   [exc_vector], EXC_GP
RULE cpuid_announces_svm, "CPUID 8000_0001 ECX bit 2 says that there is SVM", "APM vol. 3, CPUID 8000_0001 ECX"
        mov     eax, 0x80000001
        cpuid
        mov     ebx, ecx
        CHECK_BITS rbx, 4, 4
RULE cpuid_svm_revision, "CPUID 8000_000A EAX gives the SVM revision", "APM vol. 3, CPUID 8000_000A EAX"
        mov     eax, CPUID_SVM_FEATURES
        cpuid
        movzx   ebx, al
        CHECK   rbx, 1
RULE cpuid_says_how_many_asids, "CPUID 8000_000A EBX gives at least two ASIDs", "APM vol. 3, CPUID 8000_000A EBX"
        mov     eax, CPUID_SVM_FEATURES
        cpuid
        xor     eax, eax
        cmp     ebx, 2
        setae   al
        mov     ebx, eax
        CHECK   rbx, 1
RULE cpuid_svm_features, "CPUID 8000_000A EDX announces NP, NRIPS, FlushByAsid and DecodeAssists", "APM vol. 3, CPUID 8000_000A EDX"
DEVIATION "l0=xen", "Xen shows L1 fewer features in CPUID 8000_000A"
        mov     eax, CPUID_SVM_FEATURES
        cpuid
        mov     ebx, edx
        CHECK_BITS rbx, 0xc9, 0xc9
RULE cpuid_virtual_gif, "CPUID 8000_000A EDX announces virtual GIF", "APM vol. 3, CPUID 8000_000A EDX"
DEVIATION "l0=xen", "Xen shows L1 fewer features in CPUID 8000_000A"
ONLY_WITH "virtual_gif=on"
        mov     eax, CPUID_SVM_FEATURES
        cpuid
        mov     ebx, edx
        CHECK_BITS rbx, 1 << 16, 1 << 16
RULE cpuid_virtual_vmload_vmsave, "CPUID 8000_000A EDX announces virtual VMLOAD and VMSAVE", "APM vol. 3, CPUID 8000_000A EDX"
DEVIATION "l0=xen", "Xen shows L1 fewer features in CPUID 8000_000A"
ONLY_WITH "virtual_vmload_vmsave=on"
        mov     eax, CPUID_SVM_FEATURES
        cpuid
        mov     ebx, edx
        CHECK_BITS rbx, 1 << 15, 1 << 15
RULE leaving_svm_keeps_hsave_pa, "VM_HSAVE_PA keeps its value while EFER.SVME is off", "APM vol. 2, 15.30.4"
DEVIATION "hsave_pa_reset=on"
        mov     ecx, MSR_EFER
        mov     eax, EFER_LME_LMA_NXE_SCE
        xor     edx, edx
        wrmsr
        mov     ecx, MSR_VM_HSAVE_PA
        rdmsr
        shl     rdx, 32
        or      rax, rdx
        mov     rbx, rax
        CHECK_AT rbx, host_save
RULE leaving_svm_forgets_nothing_of_l1, "L2 runs after EFER.SVME was off and on again", "APM vol. 2, 15.4"
        mov     ecx, MSR_EFER
        mov     eax, EFER_LME_LMA_NXE_SCE
        xor     edx, edx
        wrmsr
        mov     eax, EFER_SVME | EFER_LME_LMA_NXE_SCE
        wrmsr
        L2      nop
        EXECUTED
RULES_END

l2_fs_base:
        mov     ecx, MSR_FS_BASE
        rdmsr
        hlt
l2_rax: mov     eax, 0x77
l2_halt:
        hlt
l2_flags:
        stc
        std
        hlt
l2_user_cpuid:
        CATCH_USER cpuid
        hlt

        .data
other_idt:
        .word   0x777
        .quad   0x123456
        .text
