# @title   Rules of SVM: VMCB clean bits
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.clean

.set CLEAN_INTERCEPTS, 1 << 0                     # clean bits: APM vol. 2, 15.15.3
.set CLEAN_MAPS, 1 << 1
.set CLEAN_ASID, 1 << 2
.set CLEAN_TPR, 1 << 3
.set CLEAN_NP, 1 << 4
.set CLEAN_CR, 1 << 5
.set CLEAN_DR, 1 << 6
.set CLEAN_DT, 1 << 7
.set CLEAN_SEG, 1 << 8
.set CLEAN_CR2, 1 << 9
.set CLEAN_LBR, 1 << 10
.set CLEAN_ALL, 0x7ff
.set CLEAN_NOTHING, 0
.set V_INTR_MASKING, 1 << 24
.set CR4_TSD,   1 << 2
.set MSR_STAR,  0xc0000081
.set STAR_BYTE, 0x800 + 0x81*2/8            # of a permission map
.set STAR_READ, 1 << 2
.set OTHER,     WINDOW + 0x200000

# L2 has run with the VMCB; L1 then says that it has changed nothing but the groups named.
.macro CHANGED groups
        ONLY_WITH "vmcb_clean_bits=on"
        L2      nop
        EXECUTED
        mov     dword ptr [vmcb + VMCB_CLEAN], CLEAN_ALL & ~(\groups)
.endm

# ------------------------------------------------------------------ what L1 calls changed is loaded

RULE changed_intercepts_count, "An intercept set with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_INTERCEPTS
        INTERCEPT VMEXIT_RDTSC
        L2      rdtsc
        EXITED  VMEXIT_RDTSC
RULE changed_tsc_offset_counts, "The TSC offset belongs to the intercepts", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_INTERCEPTS
        mov     dword ptr [vmcb + VMCB_TSC_OFFSET + 4], 1 << 16
        L2      rdtsc
        EXECUTED
        mov     ebx, [l2_rdx]
        shr     rbx, 16
        CHECK   rbx, 1
RULE changed_map_counts, "Another permission map with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        INTERCEPT VMEXIT_MSR
        CHANGED CLEAN_MAPS
        mov     qword ptr [vmcb + VMCB_MSRPM_BASE_PA], offset iopm
        mov     byte ptr [iopm + STAR_BYTE], STAR_READ
        mov     ecx, MSR_STAR
        L2      rdmsr
        EXITED  VMEXIT_MSR
RULE changed_bit_of_a_map_counts, "A bit set in the same permission map counts whatever the clean bits say", "APM vol. 2, 15.11"
        INTERCEPT VMEXIT_MSR
        CHANGED CLEAN_MAPS
        mov     byte ptr [msrpm + STAR_BYTE], STAR_READ
        mov     ecx, MSR_STAR
        L2      rdmsr
        EXITED  VMEXIT_MSR
RULE changed_asid_is_another_address_space, "L2 under another ASID sees its tables as they are now", "APM vol. 2, 15.15.3"
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        mov     qword ptr [WINDOW], 0x1111
        mov     qword ptr [WINDOW + 0x1000], 0x2222
        mov     rsi, L2_PRIVATE
        L2      mov rbx, [rsi]
        CHECK   rbx, 0x1111
        CHANGED CLEAN_ASID
        mov     byte ptr [vmcb + VMCB_TLB_CTL], 0
        mov     dword ptr [vmcb + VMCB_ASID], 2
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x1000 + 7
        mov     rsi, L2_PRIVATE
        L2      mov rbx, [rsi]
        CHECK   rbx, 0x2222
RULE changed_tpr_counts, "V_TPR changed with its clean bit cleared is CR8 of L2", "APM vol. 2, 15.15.3"
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING | 2
        CHANGED CLEAN_TPR
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_INTR_MASKING | 6
        L2      mov rbx, cr8
        EXECUTED
        CHECK   rbx, 6
RULE changed_nested_root_counts, "Another nested table with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        call    build_other_table
        mov     qword ptr [WINDOW], 0x1111
        mov     qword ptr [OTHER], 0x2222
        CHANGED CLEAN_NP
        mov     qword ptr [vmcb + VMCB_NESTED_CR3], offset l2_root
        mov     byte ptr [vmcb + VMCB_TLB_CTL], TLB_FLUSH_ASID
        L2      mov rbx, [WINDOW]
        EXECUTED
        CHECK   rbx, 0x2222
RULE changed_cr4_counts, "CR4 changed with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_CR
        or      dword ptr [vmcb + VMCB_CR4], CR4_TSD
        L2      mov rbx, cr4
        EXECUTED
        CHECK   rbx, CR4_GUEST | CR4_TSD
RULE changed_cr3_counts, "CR3 changed with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        call    build_l2_tables
        mov     qword ptr [WINDOW], 0x1111
        CHANGED CLEAN_CR
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        mov     rsi, L2_PRIVATE
        L2      mov rbx, [rsi]
        EXECUTED
        CHECK   rbx, 0x1111
RULE changed_efer_is_checked, "An EFER without SVME is refused when its clean bit is cleared", "APM vol. 2, 15.5.1"
        CHANGED CLEAN_CR
        mov     qword ptr [vmcb + VMCB_EFER], EFER_LME_LMA_NXE_SCE
        REFUSED
RULE changed_dr7_counts, "DR7 changed with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_DR
        mov     qword ptr [vmcb + VMCB_DR7], DR7_RESET | 2
        L2      mov rbx, dr7
        EXECUTED
        CHECK   rbx, DR7_RESET | 2
RULE changed_gdtr_counts, "GDTR changed with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_DT
        mov     dword ptr [vmcb + VMCB_GDTR + SEGMENT_LIMIT], 0x27
        L2      sgdt [scratch]
        EXECUTED
        CHECK_BITS [scratch], 0xffff, 0x27
RULE changed_segment_counts, "DS changed with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_SEG
        mov     word ptr [vmcb + VMCB_DS], 0
        L2      mov ebx, ds
        EXECUTED
        CHECK   rbx, 0
RULE changed_cpl_counts, "CPL belongs to the segments", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_SEG
        mov     byte ptr [vmcb + VMCB_CPL], 3
        INTERCEPT VMEXIT_CPUID
        and     dword ptr [vmcb + VMCB_CLEAN], ~CLEAN_INTERCEPTS
        L2      cpuid
        EXITED  VMEXIT_CPUID
        CHECK_BITS [vmcb + VMCB_CPL], 0xff, 3
RULE changed_cr2_counts, "CR2 changed with its clean bit cleared counts", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_CR2
        mov     qword ptr [vmcb + VMCB_CR2], 0x7777
        L2      mov rbx, cr2
        EXECUTED
        CHECK   rbx, 0x7777

# ------------------------------------------------------------------ what belongs to no group

RULE registers_belong_to_no_group, "RAX and RSP are loaded whatever the clean bits say", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_NOTHING
        mov     qword ptr [vmcb + VMCB_RAX], 0x1234
        mov     qword ptr [vmcb + VMCB_RSP], offset user_stack_end
        L2      lea rbx, [rax + rsp]
        EXECUTED
        mov     ecx, offset user_stack_end + 0x1234
        CHECK   rbx, rcx
RULE flags_belong_to_no_group, "RFLAGS are loaded whatever the clean bits say", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_NOTHING
        or      dword ptr [vmcb + VMCB_RFLAGS], 1
        L2      setc bl
        EXECUTED
        and     ebx, 0xff
        CHECK   rbx, 1
RULE injection_belongs_to_no_group, "An event is injected whatever the clean bits say", "APM vol. 2, 15.15.3"
        CHANGED CLEAN_NOTHING
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], 1 << 31 | 3 << 8 | EXC_UD
        L2      nop
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE flush_belongs_to_no_group, "TLB_CONTROL flushes whatever the clean bits say", "APM vol. 2, 15.16.2"
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        mov     qword ptr [WINDOW], 0x1111
        mov     qword ptr [WINDOW + 0x1000], 0x2222
        mov     rsi, L2_PRIVATE
        L2      mov rbx, [rsi]
        CHECK   rbx, 0x1111
        CHANGED CLEAN_NOTHING
        mov     byte ptr [vmcb + VMCB_TLB_CTL], TLB_FLUSH_ASID
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x1000 + 7
        mov     rsi, L2_PRIVATE
        L2      mov rbx, [rsi]
        CHECK   rbx, 0x2222

# ------------------------------------------------------------------ what the processor itself changes

RULE state_of_the_exit_goes_on, "State that L2 changed is there when L1 says that it changed nothing", "APM vol. 2, 15.15.2"
        mov     rbx, 0x123456789abc
        L2      mov cr2, rbx
        CHANGED CLEAN_NOTHING
        L2      mov rcx, cr2
        CHECK   [l2_rcx], 0x123456789abc
RULE cr4_of_the_exit_goes_on, "CR4 that L2 changed is there when L1 says that it changed nothing", "APM vol. 2, 15.15.2"
        mov     ebx, CR4_GUEST | CR4_TSD
        L2      mov cr4, rbx
        CHANGED CLEAN_NOTHING
        L2      mov rcx, cr4
        CHECK   [l2_rcx], CR4_GUEST | CR4_TSD
RULE segment_of_the_exit_goes_on, "A segment that L2 loaded is there when L1 says that it changed nothing", "APM vol. 2, 15.15.2"
        mov     ebx, SEL_USER_DATA
        L2      mov ds, ebx
        CHANGED CLEAN_NOTHING
        L2      mov ecx, ds
        CHECK   [l2_rcx], SEL_USER_DATA
RULE exit_leaves_the_clean_bits, "#VMEXIT does not change the clean bits in the VMCB", "APM vol. 2, 15.15.1"
        CHANGED CLEAN_DR
        L2      nop
        CHECK32 [vmcb + VMCB_CLEAN], CLEAN_ALL & ~CLEAN_DR
RULE another_vmcb_is_loaded_whole, "The clean bits of a VMCB that the processor has not used do not count", "APM vol. 2, 15.15.1"
        CHANGED CLEAN_NOTHING
        mov     esi, offset vmcb
        mov     edi, offset page
        mov     ecx, 0x1000 / 8
        rep     movsq
        mov     qword ptr [page + VMCB_CR2], 0x5555
        mov     qword ptr [page + VMCB_RIP], offset l2_reads_cr2
        mov     qword ptr [in_l2], 1
        mov     eax, offset page
        clgi
        vmrun   rax
        stgi
        mov     qword ptr [in_l2], 0
        CHECK   [page + VMCB_EXIT_CODE], VMEXIT_HLT
        CHECK   rbx, 0x5555
RULES_END

# A nested table of its own at l2_root: as the other, but for the window, which is elsewhere.
build_other_table:
        mov     qword ptr [l2_root], offset l2_pdpt + NESTED_TABLE
        mov     qword ptr [l2_pdpt], offset l2_pd + NESTED_TABLE
        mov     esi, offset nested_pd
        mov     edi, offset l2_pd
        mov     ecx, 32
        rep     movsq
        mov     eax, OTHER | LEAF_FLAGS | 0x80
        mov     [l2_pd + (WINDOW >> 21)*8], rax
        ret

l2_reads_cr2:
        mov     rbx, cr2
        hlt
