# @title   Rules of VMX: the VMX instructions in VMX root operation
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.insn

.set NOT_MEMORY,    0x3ff00000              # neither L1's nor L2's
.set UNMAPPED,      0x100000000             # behind what L1's page tables map
.set BEYOND,        1 << 52                 # no physical address
.set NO_FIELD,      0x7ffe                  # encodings that no processor has
.set MSR_VMX_MISC,  0x485

# ------------------------------------------------------------------ #UD outside of VMX operation

.macro UD_OUTSIDE name, insn:vararg
RULE \name\()_outside_of_vmx_operation_is_ud, "\name raises #UD before VMXON and after VMXOFF", "SDM vol. 3, 31.3 (\name)"
        vmxoff
        CATCH   \insn
        CHECK   [exc_vector], EXC_UD
.endm
        UD_OUTSIDE vmclear, vmclear qword ptr [vmcs_address]
        UD_OUTSIDE vmptrld, vmptrld qword ptr [vmcs_address]
        UD_OUTSIDE vmptrst, vmptrst qword ptr [scratch]
        UD_OUTSIDE vmread, vmread rax, rcx
        UD_OUTSIDE vmwrite, vmwrite rax, rcx
        UD_OUTSIDE vmlaunch, vmlaunch
        UD_OUTSIDE vmresume, vmresume
        UD_OUTSIDE vmxoff, vmxoff
        UD_OUTSIDE invept, invept rax, [invept_descriptor]
        UD_OUTSIDE invvpid, invvpid rax, [invept_descriptor]
RULE vmcall_outside_of_vmx_operation_is_ud, "vmcall raises #UD outside of VMX operation", "SDM vol. 3, 31.3 (VMCALL)"
DEVIATION "vmcall_is_hypercall=on"
        vmxoff
        CATCH   vmcall
        CHECK   [exc_vector], EXC_UD

# ------------------------------------------------------------------ #GP at privilege level 3

.macro GP_AT_CPL3 name, insn:vararg
RULE \name\()_at_cpl3_is_gp, "\name raises #GP(0) at privilege level 3", "SDM vol. 3, 31.3 (\name)"
        CATCH_USER \insn
        CHECK   [exc_vector], EXC_GP
        CHECK   [exc_error], 0
.endm
        GP_AT_CPL3 vmclear, vmclear qword ptr [vmcs_address]
        GP_AT_CPL3 vmptrld, vmptrld qword ptr [vmcs_address]
        GP_AT_CPL3 vmptrst, vmptrst qword ptr [scratch]
        GP_AT_CPL3 vmread, vmread rax, rcx
        GP_AT_CPL3 vmwrite, vmwrite rax, rcx
        GP_AT_CPL3 vmlaunch, vmlaunch
        GP_AT_CPL3 vmresume, vmresume
        GP_AT_CPL3 vmxoff, vmxoff
        GP_AT_CPL3 vmxon, vmxon qword ptr [vmxon_address]
        GP_AT_CPL3 invept, invept rax, [invept_descriptor]
        GP_AT_CPL3 invvpid, invvpid rax, [invept_descriptor]

# ------------------------------------------------------------------ VMXON and VMXOFF

RULE vmxon_without_cr4_vmxe_is_ud, "VMXON raises #UD while CR4.VMXE is 0", "SDM vol. 3, 31.3 (VMXON)"
        vmxoff
        mov     rax, cr4
        and     eax, ~CR4_VMXE
        mov     cr4, rax
        CATCH   vmxon qword ptr [vmxon_address]
        CHECK   [exc_vector], EXC_UD
RULE vmxon_with_cr0_ne_clear_is_gp, "VMXON raises #GP when CR0 has a bit that VMX does not allow", "SDM vol. 3, 24.7 and 31.3 (VMXON)"
DEVIATION "vmxon_ignores_cr0=on"
        vmxoff
        mov     rax, cr0
        and     eax, ~CR0_NE
        mov     cr0, rax
        CATCH   vmxon qword ptr [vmxon_address]
        CHECK   [exc_vector], EXC_GP
RULE vmxon_succeeds, "VMXON of a proper region clears all status flags", "SDM vol. 3, 31.2"
        vmxoff
        call    set_status_flags
        VMX     vmxon qword ptr [vmxon_address]
        SUCCEEDED
RULE vmxon_leaves_no_current_vmcs, "After VMXON there is no current VMCS: VMPTRST stores all ones", "SDM vol. 3, 31.3 (VMXON)"
        vmxoff
        vmxon   qword ptr [vmxon_address]
        vmptrst qword ptr [scratch]
        CHECK   [scratch], -1
RULE vmxon_twice_fails, "VMXON in VMX root operation is VMfailValid 15", "SDM vol. 3, 31.4"
        VMX     vmxon qword ptr [vmxon_address]
        FAILED  15
RULE vmxon_twice_without_a_vmcs_fails, "VMXON in VMX root operation is VMfailInvalid without a current VMCS", "SDM vol. 3, 31.2"
        vmclear qword ptr [vmcs_address]
        VMX     vmxon qword ptr [vmxon_address]
        FAILED_INVALID
RULE vmxon_unaligned_fails, "VMXON of an address that is not page-aligned is VMfailInvalid", "SDM vol. 3, 31.3 (VMXON)"
        vmxoff
        add     qword ptr [vmxon_address], 8
        VMX     vmxon qword ptr [vmxon_address]
        FAILED_INVALID
RULE vmxon_beyond_physical_addresses_fails, "VMXON of an address beyond the physical ones is VMfailInvalid", "SDM vol. 3, 31.3 (VMXON)"
        vmxoff
        mov     byte ptr [vmxon_address + 6], 0x10
        VMX     vmxon qword ptr [vmxon_address]
        FAILED_INVALID
RULE vmxon_with_a_wrong_revision_fails, "VMXON of a region with another revision is VMfailInvalid", "SDM vol. 3, 31.3 (VMXON)"
        vmxoff
        xor     dword ptr [vmxon_region], 1
        VMX     vmxon qword ptr [vmxon_address]
        FAILED_INVALID
RULE vmxon_with_revision_bit_31_fails, "VMXON of a region whose bit 31 is set is VMfailInvalid", "SDM vol. 3, 25.11.5"
        vmxoff
        or      dword ptr [vmxon_region], 1 << 31
        VMX     vmxon qword ptr [vmxon_address]
        FAILED_INVALID
RULE vmxon_reads_its_operand, "VMXON whose operand is not mapped raises #PF", "SDM vol. 3, 31.3 (VMXON)"
        vmxoff
        mov     rbx, UNMAPPED
        CATCH   vmxon qword ptr [rbx + 8]
        CHECK   [exc_vector], EXC_PF
        mov     rbx, cr2
        CHECK   rbx, UNMAPPED + 8
RULE failed_vmxon_leaves_vmx_operation_off, "After a VMXON that failed VMX instructions still raise #UD", "SDM vol. 3, 31.3 (VMXON)"
        vmxoff
        xor     dword ptr [vmxon_region], 1
        vmxon   qword ptr [vmxon_address]
        CATCH   vmptrst qword ptr [scratch]
        CHECK   [exc_vector], EXC_UD
RULE vmxoff_succeeds, "VMXOFF clears all status flags", "SDM vol. 3, 31.3 (VMXOFF)"
        call    set_status_flags
        VMX     vmxoff
        SUCCEEDED
RULE vmxe_cannot_be_cleared_in_vmx_operation, "Clearing CR4.VMXE in VMX operation raises #GP", "SDM vol. 3, 24.8"
        mov     rbx, cr4
        and     ebx, ~CR4_VMXE
        CATCH   mov cr4, rbx
        CHECK   [exc_vector], EXC_GP
        mov     rbx, cr4
        CHECK_BITS rbx, CR4_VMXE, CR4_VMXE
RULE vmxe_can_be_cleared_after_vmxoff, "CR4.VMXE can be cleared outside of VMX operation", "SDM vol. 3, 24.7"
        vmxoff
        mov     rbx, cr4
        and     ebx, ~CR4_VMXE
        CATCH   mov cr4, rbx
        CHECK   [exc_vector], NO_EXCEPTION
        mov     rbx, cr4
        CHECK_BITS rbx, CR4_VMXE, 0
RULE vmxe_off_and_on_again, "After CR4.VMXE was off there is no VMX operation until VMXON, and then no current VMCS", "SDM vol. 3, 24.7"
        vmxoff
        mov     rbx, cr4
        and     ebx, ~CR4_VMXE
        mov     cr4, rbx
        or      ebx, CR4_VMXE
        mov     cr4, rbx
        CATCH   vmptrst qword ptr [scratch]
        CHECK   [exc_vector], EXC_UD
        vmxon   qword ptr [vmxon_address]
        vmptrst qword ptr [scratch]
        CHECK   [scratch], -1
RULE l2_runs_after_another_vmxon, "A VMCS runs again after VMXOFF and VMXON", "SDM vol. 3, 25.1"
        L2      nop
        vmclear qword ptr [vmcs_address]
        vmxoff
        vmxon   qword ptr [vmxon_address]
        vmptrld qword ptr [vmcs_address]
        mov     qword ptr [launched], 0
        L2      nop
        EXECUTED
RULE ne_cannot_be_cleared_in_vmx_operation, "Clearing CR0.NE in VMX operation raises #GP", "SDM vol. 3, 24.8"
DEVIATION "cr0_ne_clearable=on"
        mov     rbx, cr0
        and     ebx, ~CR0_NE
        CATCH   mov cr0, rbx
        CHECK   [exc_vector], EXC_GP
RULE feature_control_is_locked, "A write to IA32_FEATURE_CONTROL raises #GP once its lock is set", "SDM vol. 3, 24.7"
        mov     ecx, MSR_FEATURE_CONTROL
        xor     eax, eax
        xor     edx, edx
        CATCH   wrmsr
        CHECK   [exc_vector], EXC_GP

# ------------------------------------------------------------------ VMCLEAR

RULE vmclear_succeeds, "VMCLEAR clears all status flags", "SDM vol. 3, 31.3 (VMCLEAR)"
        call    set_status_flags
        VMX     vmclear qword ptr [other_address]
        SUCCEEDED
RULE vmclear_unaligned_fails, "VMCLEAR of an address that is not page-aligned is VMfail 2", "SDM vol. 3, 31.4"
        add     qword ptr [other_address], 16
        VMX     vmclear qword ptr [other_address]
        FAILED  2
RULE vmclear_beyond_physical_addresses_fails, "VMCLEAR of an address beyond the physical ones is VMfail 2", "SDM vol. 3, 31.4"
        mov     byte ptr [other_address + 6], 0x10
        VMX     vmclear qword ptr [other_address]
        FAILED  2
RULE vmclear_of_the_vmxon_pointer_fails, "VMCLEAR of the VMXON region is VMfail 3", "SDM vol. 3, 31.4"
        VMX     vmclear qword ptr [vmxon_address]
        FAILED  3
RULE vmclear_without_a_vmcs_fails_without_number, "A VMCLEAR that fails is VMfailInvalid without a current VMCS", "SDM vol. 3, 31.2"
        vmclear qword ptr [vmcs_address]
        VMX     vmclear qword ptr [vmxon_address]
        FAILED_INVALID
RULE vmclear_of_the_current_vmcs_leaves_none, "VMCLEAR of the current VMCS leaves none current", "SDM vol. 3, 31.3 (VMCLEAR)"
        vmclear qword ptr [vmcs_address]
        vmptrst qword ptr [scratch]
        CHECK   [scratch], -1
RULE vmclear_of_another_vmcs_keeps_the_current_one, "VMCLEAR of another VMCS leaves the current one", "SDM vol. 3, 31.3 (VMCLEAR)"
        vmclear qword ptr [other_address]
        vmptrst qword ptr [scratch]
        CHECK_AT [scratch], vmcs
RULE vmclear_keeps_the_fields, "VMCLEAR writes the VMCS to memory: its fields come back with VMPTRLD", "SDM vol. 3, 25.11.1"
        SET     GUEST_RSP, 0x12345678
        vmclear qword ptr [vmcs_address]
        vmptrld qword ptr [vmcs_address]
        CHECK_FIELD GUEST_RSP, 0x12345678
RULE vmclear_ignores_the_revision, "VMCLEAR does not look at the revision", "SDM vol. 3, 31.3 (VMCLEAR)"
        mov     dword ptr [other_vmcs], 0
        VMX     vmclear qword ptr [other_address]
        SUCCEEDED
RULE vmclear_reads_its_operand, "VMCLEAR whose operand is not mapped raises #PF", "SDM vol. 3, 31.3 (VMCLEAR)"
        mov     rbx, UNMAPPED
        CATCH   vmclear qword ptr [rbx]
        CHECK   [exc_vector], EXC_PF
        CHECK   [exc_error], 0

# ------------------------------------------------------------------ VMPTRLD and VMPTRST

RULE vmptrld_succeeds, "VMPTRLD clears all status flags and makes the VMCS current", "SDM vol. 3, 31.3 (VMPTRLD)"
        call    set_status_flags
        VMX     vmptrld qword ptr [other_address]
        SUCCEEDED
        vmptrst qword ptr [scratch]
        CHECK_AT [scratch], other_vmcs
RULE vmptrld_unaligned_fails, "VMPTRLD of an address that is not page-aligned is VMfail 9", "SDM vol. 3, 31.4"
        add     qword ptr [other_address], 0x800
        VMX     vmptrld qword ptr [other_address]
        FAILED  9
RULE vmptrld_beyond_physical_addresses_fails, "VMPTRLD of an address beyond the physical ones is VMfail 9", "SDM vol. 3, 31.4"
        mov     byte ptr [other_address + 7], 1
        VMX     vmptrld qword ptr [other_address]
        FAILED  9
RULE vmptrld_of_the_vmxon_pointer_fails, "VMPTRLD of the VMXON region is VMfail 10", "SDM vol. 3, 31.4"
        VMX     vmptrld qword ptr [vmxon_address]
        FAILED  10
RULE vmptrld_with_a_wrong_revision_fails, "VMPTRLD of a region with another revision is VMfail 11", "SDM vol. 3, 31.4"
        inc     dword ptr [other_vmcs]
        VMX     vmptrld qword ptr [other_address]
        FAILED  11
RULE vmptrld_of_a_shadow_vmcs_fails, "VMPTRLD of a shadow VMCS is VMfail 11 where L1 has no VMCS shadowing", "SDM vol. 3, 31.3 (VMPTRLD)"
ONLY_WITH "vmcs_shadowing=off"
DEVIATION "l0=kvm", "KVM offers L1 VMCS shadowing on any processor"
        or      dword ptr [other_vmcs], 1 << 31
        VMX     vmptrld qword ptr [other_address]
        FAILED  11
RULE failed_vmptrld_keeps_the_current_vmcs, "A VMPTRLD that fails leaves the current VMCS", "SDM vol. 3, 31.3 (VMPTRLD)"
        inc     dword ptr [other_vmcs]
        vmptrld qword ptr [other_address]
        vmptrst qword ptr [scratch]
        CHECK_AT [scratch], vmcs
RULE vmptrld_without_a_vmcs_fails_without_number, "A VMPTRLD that fails is VMfailInvalid without a current VMCS", "SDM vol. 3, 31.2"
        vmclear qword ptr [vmcs_address]
        VMX     vmptrld qword ptr [vmxon_address]
        FAILED_INVALID
RULE vmptrld_reads_its_operand, "VMPTRLD whose operand is not mapped raises #PF", "SDM vol. 3, 31.3 (VMPTRLD)"
        mov     rbx, UNMAPPED
        CATCH   vmptrld qword ptr [rbx]
        CHECK   [exc_vector], EXC_PF
RULE each_vmcs_has_its_own_fields, "VMPTRLD brings back the fields of that VMCS", "SDM vol. 3, 25.1"
        SET     GUEST_RSP, 0x1111
        vmptrld qword ptr [other_address]
        SET     GUEST_RSP, 0x2222
        vmptrld qword ptr [vmcs_address]
        CHECK_FIELD GUEST_RSP, 0x1111
        vmptrld qword ptr [other_address]
        CHECK_FIELD GUEST_RSP, 0x2222
RULE vmptrst_stores_the_current_vmcs, "VMPTRST stores the address of the current VMCS and clears the status flags", "SDM vol. 3, 31.3 (VMPTRST)"
        call    set_status_flags
        VMX     vmptrst qword ptr [scratch]
        SUCCEEDED
        CHECK_AT [scratch], vmcs
RULE vmptrst_writes_its_operand, "VMPTRST to an address that is not mapped raises #PF for a write", "SDM vol. 3, 31.3 (VMPTRST)"
        mov     rbx, UNMAPPED
        CATCH   vmptrst qword ptr [rbx]
        CHECK   [exc_vector], EXC_PF
        CHECK   [exc_error], 2

# ------------------------------------------------------------------ VMREAD and VMWRITE

RULE vmread_without_a_vmcs_fails, "VMREAD without a current VMCS is VMfailInvalid", "SDM vol. 3, 31.3 (VMREAD)"
        vmclear qword ptr [vmcs_address]
        mov     eax, GUEST_RIP
        VMX     vmread rbx, rax
        FAILED_INVALID
RULE vmwrite_without_a_vmcs_fails, "VMWRITE without a current VMCS is VMfailInvalid", "SDM vol. 3, 31.3 (VMWRITE)"
        vmclear qword ptr [vmcs_address]
        mov     eax, GUEST_RIP
        VMX     vmwrite rax, rbx
        FAILED_INVALID
RULE vmread_of_an_unknown_field_fails, "VMREAD of an unsupported field is VMfail 12 and leaves its destination", "SDM vol. 3, 31.4"
        mov     eax, NO_FIELD
        mov     ebx, 0x1234
        VMX     vmread rbx, rax
        FAILED  12
        CHECK   rbx, 0x1234
RULE vmwrite_to_an_unknown_field_fails, "VMWRITE of an unsupported field is VMfail 12", "SDM vol. 3, 31.4"
        mov     eax, NO_FIELD
        VMX     vmwrite rax, rbx
        FAILED  12
RULE field_beyond_32_bits_is_unknown, "A field encoding with bits beyond 31 is unsupported", "SDM vol. 3, 31.3 (VMREAD)"
        mov     rax, 1 << 32 | GUEST_RIP
        VMX     vmread rbx, rax
        FAILED  12
RULE vmwrite_to_a_read_only_field_fails, "VMWRITE of an exit-information field is VMfail 13 where MISC bit 29 is 0", "SDM vol. 3, 31.4"
DEVIATION "l0=kvm", "KVM sets VMX_MISC bit 29 for L1"
DEVIATION "vmwrite_to_read_only_fields=on"
ONLY_WITH "vmcs_shadowing=off"
        mov     eax, VM_EXIT_REASON
        VMX     vmwrite rax, rbx
        FAILED  13
RULE vmwrite_to_a_read_only_field_with_misc_29, "VMWRITE may write any field where MISC bit 29 is 1", "SDM vol. 3, A.6"
ONLY_WITH "vmcs_shadowing=on"
        mov     ecx, MSR_VMX_MISC
        rdmsr
        mov     ebx, eax
        CHECK_BITS rbx, 1 << 29, 1 << 29
        mov     ebx, 0x77
        mov     eax, EXIT_QUALIFICATION
        VMX     vmwrite rax, rbx
        SUCCEEDED
        CHECK_FIELD EXIT_QUALIFICATION, 0x77
RULE vmread_clears_the_status_flags, "VMREAD that succeeds clears all status flags", "SDM vol. 3, 31.2"
        call    set_status_flags
        mov     eax, GUEST_RIP
        VMX     vmread rbx, rax
        SUCCEEDED
RULE vmwrite_clears_the_status_flags, "VMWRITE that succeeds clears all status flags", "SDM vol. 3, 31.2"
        call    set_status_flags
        mov     eax, GUEST_RIP
        VMX     vmwrite rax, rbx
        SUCCEEDED
RULE success_keeps_the_error_number, "An instruction that succeeds leaves the VM-instruction error", "SDM vol. 3, 31.2"
        vmclear qword ptr [vmxon_address]
        mov     eax, GUEST_RIP
        VMX     vmread rbx, rax
        SUCCEEDED
        CHECK_FIELD VM_INSTRUCTION_ERROR, 3
RULE vmwrite_of_a_16_bit_field, "A 16-bit field keeps bits 15:0 and reads with zeros above", "SDM vol. 3, 31.3 (VMREAD)"
        SET     GUEST_ES_SELECTOR, 0xfedcba9876543210
        CHECK_FIELD GUEST_ES_SELECTOR, 0x3210
RULE vmwrite_of_a_32_bit_field, "A 32-bit field keeps bits 31:0 and reads with zeros above", "SDM vol. 3, 31.3 (VMREAD)"
        SET     EXCEPTION_BITMAP, 0xfedcba9876543210
        CHECK_FIELD EXCEPTION_BITMAP, 0x76543210
RULE vmwrite_of_a_64_bit_field, "A 64-bit field is written and read at once", "SDM vol. 3, 25.11.2"
        SET     TSC_OFFSET, 0xfedcba9876543210
        CHECK_FIELD TSC_OFFSET, 0xfedcba9876543210
RULE high_half_of_a_64_bit_field_reads, "The odd encoding of a 64-bit field reads its bits 63:32", "SDM vol. 3, 25.11.2"
        SET     TSC_OFFSET, 0xfedcba9876543210
        CHECK_FIELD TSC_OFFSET + 1, 0xfedcba98
RULE high_half_of_a_64_bit_field_writes, "The odd encoding of a 64-bit field writes its bits 63:32 alone", "SDM vol. 3, 25.11.2"
        SET     TSC_OFFSET, 0x1111111122222222
        SET     TSC_OFFSET + 1, 0x5555555533333333
        CHECK_FIELD TSC_OFFSET, 0x3333333322222222
RULE vmread_to_memory, "VMREAD stores 8 bytes to memory", "SDM vol. 3, 31.3 (VMREAD)"
        SET     GUEST_RSP, 0x123456789abc
        mov     ebx, GUEST_RSP
        mov     esi, offset scratch
        vmread  [rsi], rbx
        CHECK   [scratch], 0x123456789abc
RULE vmwrite_from_memory, "VMWRITE takes 8 bytes from memory", "SDM vol. 3, 31.3 (VMWRITE)"
        mov     rax, 0xabcdef012345
        mov     [scratch + 8], rax
        mov     ebx, GUEST_RSP
        mov     esi, offset scratch
        mov     edi, 1
        vmwrite rbx, [rsi + rdi*8]
        CHECK_FIELD GUEST_RSP, 0xabcdef012345
RULE vmread_to_unmapped_memory_is_pf, "VMREAD to an address that is not mapped raises #PF for a write", "SDM vol. 3, 31.3 (VMREAD)"
        mov     rbx, UNMAPPED
        mov     ecx, GUEST_RSP
        CATCH   vmread [rbx], rcx
        CHECK   [exc_vector], EXC_PF
        CHECK   [exc_error], 2
RULE vmread_of_every_register, "VMREAD reaches R8 to R15", "SDM vol. 3, 31.3 (VMREAD)"
        SET     GUEST_RSP, 0x4711
        mov     r9d, GUEST_RSP
        vmread  r14, r9
        CHECK   r14, 0x4711

# ------------------------------------------------------------------ VMLAUNCH and VMRESUME

RULE vmlaunch_without_a_vmcs_fails, "VMLAUNCH without a current VMCS is VMfailInvalid", "SDM vol. 3, 31.3 (VMLAUNCH)"
        vmclear qword ptr [vmcs_address]
        VMX     vmlaunch
        FAILED_INVALID
RULE vmresume_without_a_vmcs_fails, "VMRESUME without a current VMCS is VMfailInvalid", "SDM vol. 3, 31.3 (VMRESUME)"
        vmclear qword ptr [vmcs_address]
        VMX     vmresume
        FAILED_INVALID
RULE vmlaunch_of_a_launched_vmcs_fails, "VMLAUNCH of a VMCS that is not clear is VMfail 4", "SDM vol. 3, 31.4"
        L2      nop
        VMX     vmlaunch
        FAILED  4
RULE vmresume_of_a_clear_vmcs_fails, "VMRESUME of a VMCS that is not launched is VMfail 5", "SDM vol. 3, 31.4"
        VMX     vmresume
        FAILED  5
RULE vmclear_makes_the_launch_state_clear, "After VMCLEAR a VMCS must be launched again", "SDM vol. 3, 25.1"
        L2      nop
        vmclear qword ptr [vmcs_address]
        vmptrld qword ptr [vmcs_address]
        VMX     vmresume
        FAILED  5
RULE vmptrld_keeps_the_launch_state, "VMPTRLD of a launched VMCS leaves it launched", "SDM vol. 3, 25.1"
        L2      nop
        vmptrld qword ptr [other_address]
        vmptrld qword ptr [vmcs_address]
        VMX     vmlaunch
        FAILED  4
RULE vmlaunch_behind_mov_ss_fails, "VMLAUNCH while MOV SS blocks events is VMfail 26", "SDM vol. 3, 31.4"
        mov     eax, SEL_DATA
        mov     ss, eax
        VMX     vmlaunch
        FAILED  26
RULE mov_ss_comes_before_the_launch_state, "VMRESUME of a clear VMCS behind MOV SS is VMfail 26, not 5", "SDM vol. 3, 27.1"
        mov     eax, SEL_DATA
        mov     ss, eax
        VMX     vmresume
        FAILED  26
RULE failed_vmlaunch_leaves_the_vmcs_clear, "A VMLAUNCH that fails leaves the launch state clear", "SDM vol. 3, 27.7"
DEVIATION "entry_checks_left_to_hardware=on"
        SET     CR3_TARGET_COUNT, 5
        VMX     vmlaunch
        FAILED  7
        SET     CR3_TARGET_COUNT, 0
        VMX     vmresume
        FAILED  5

# ------------------------------------------------------------------ INVEPT, INVVPID, VMCALL

RULE invept_succeeds, "INVEPT of one context clears all status flags", "SDM vol. 3, 31.3 (INVEPT)"
        call    set_status_flags
        mov     eax, INVEPT_SINGLE_CONTEXT
        VMX     invept rax, [invept_descriptor]
        SUCCEEDED
RULE invept_type_0_fails, "INVEPT type 0 does not exist: VMfail 28", "SDM vol. 3, 31.4"
        xor     eax, eax
        VMX     invept rax, [invept_descriptor]
        FAILED  28
RULE invept_type_3_fails, "INVEPT type 3 does not exist: VMfail 28", "SDM vol. 3, 31.4"
        mov     eax, 3
        VMX     invept rax, [invept_descriptor]
        FAILED  28
RULE invept_type_uses_64_bits, "INVEPT looks at all 64 bits of its type", "SDM vol. 3, 31.3 (INVEPT)"
        mov     rax, 1 << 32 | INVEPT_SINGLE_CONTEXT
        VMX     invept rax, [invept_descriptor]
        FAILED  28
RULE invept_of_a_bad_eptp_fails, "INVEPT of one context fails for an EPTP that VM entry would refuse", "SDM vol. 3, 31.3 (INVEPT)"
DEVIATION "invept_operand_ignored=on"
        or      byte ptr [invept_descriptor], 7
        mov     eax, INVEPT_SINGLE_CONTEXT
        VMX     invept rax, [invept_descriptor]
        FAILED  28
RULE invept_all_contexts_ignores_the_eptp, "INVEPT of all contexts does not look at the EPTP", "SDM vol. 3, 31.3 (INVEPT)"
        or      byte ptr [invept_descriptor], 7
        mov     eax, INVEPT_ALL_CONTEXTS
        VMX     invept rax, [invept_descriptor]
        SUCCEEDED
RULE invept_reads_its_operand, "INVEPT whose descriptor is not mapped raises #PF", "SDM vol. 3, 31.3 (INVEPT)"
        mov     rbx, UNMAPPED
        mov     eax, INVEPT_ALL_CONTEXTS
        CATCH   invept rax, [rbx]
        CHECK   [exc_vector], EXC_PF

.macro DESCRIBE_VPID vpid, address=0
        mov     rax, \vpid
        mov     [scratch], rax
        mov     rax, \address
        mov     [scratch + 8], rax
.endm
.macro INVVPID type
        mov     rax, \type
        VMX     invvpid rax, [scratch]
.endm
RULE invvpid_succeeds, "INVVPID of one context clears all status flags", "SDM vol. 3, 31.3 (INVVPID)"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        DESCRIBE_VPID 1
        call    set_status_flags
        INVVPID 1
        SUCCEEDED
RULE invvpid_unknown_type_fails, "INVVPID type 4 does not exist: VMfail 28", "SDM vol. 3, 31.4"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        DESCRIBE_VPID 1
        INVVPID 4
        FAILED  28
RULE invvpid_of_vpid_0_fails, "INVVPID of one context fails for VPID 0", "SDM vol. 3, 31.3 (INVVPID)"
DEVIATION "invvpid_operand_ignored=on"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        DESCRIBE_VPID 0
        INVVPID 1
        FAILED  28
RULE invvpid_address_of_vpid_0_fails, "INVVPID of one address fails for VPID 0", "SDM vol. 3, 31.3 (INVVPID)"
DEVIATION "invvpid_operand_ignored=on"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        DESCRIBE_VPID 0, 0x1000
        INVVPID 0
        FAILED  28
RULE invvpid_all_contexts_takes_vpid_0, "INVVPID of all contexts does not look at the VPID", "SDM vol. 3, 31.3 (INVVPID)"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        DESCRIBE_VPID 0
        INVVPID 2
        SUCCEEDED
RULE invvpid_reserved_bits_fail, "INVVPID fails when bits 63:16 of its descriptor are not 0", "SDM vol. 3, 31.3 (INVVPID)"
DEVIATION "invvpid_operand_ignored=on"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        DESCRIBE_VPID 0x10001
        INVVPID 2
        FAILED  28
RULE invvpid_address_must_be_canonical, "INVVPID of one address fails for an address that is not canonical", "SDM vol. 3, 31.3 (INVVPID)"
DEVIATION "invvpid_operand_ignored=on"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        DESCRIBE_VPID 1, 1 << 47
        INVVPID 0
        FAILED  28
RULE invvpid_reads_its_operand, "INVVPID whose descriptor is not mapped raises #PF", "SDM vol. 3, 31.3 (INVVPID)"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        mov     rbx, UNMAPPED
        mov     eax, 2
        CATCH   invvpid rax, [rbx]
        CHECK   [exc_vector], EXC_PF
RULE vmcall_in_root_operation_fails, "VMCALL in VMX root operation is VMfail 1", "SDM vol. 3, 31.4"
DEVIATION "vmcall_is_hypercall=on"
        VMX     vmcall
        FAILED  1
RULE svm_instructions_of_l1_are_ud, "The instructions of SVM raise #UD on this processor", "SDM vol. 2, appendix A"
        CATCH   vmmcall
        CHECK   [exc_vector], EXC_UD
        CATCH   clgi
        CHECK   [exc_vector], EXC_UD
        CATCH   vmrun rax
        CHECK   [exc_vector], EXC_UD

# ------------------------------------------------------------------ what is announced

.macro READ_MSR number                      # to RBX
        mov     ecx, \number
        rdmsr
        shl     rdx, 32
        lea     rbx, [rax + rdx]
.endm
RULE cpuid_announces_vmx, "CPUID 1 ECX bit 5 says that there is VMX", "SDM vol. 3, 24.6"
        mov     eax, 1
        cpuid
        mov     ebx, ecx
        CHECK_BITS rbx, 1 << 5, 1 << 5
RULE basic_msr_has_a_31_bit_revision, "Bit 31 of IA32_VMX_BASIC is 0", "SDM vol. 3, A.1"
        READ_MSR MSR_VMX_BASIC
        CHECK_BITS rbx, 1 << 31, 0
RULE basic_msr_region_fits_a_page, "IA32_VMX_BASIC gives a region size from 1 to 4096", "SDM vol. 3, A.1"
        READ_MSR MSR_VMX_BASIC
        shr     rbx, 32
        and     ebx, 0x1fff
        dec     ebx
        shr     ebx, 12
        CHECK   rbx, 0
RULE capability_msrs_cannot_be_written, "A write to a VMX capability MSR raises #GP", "SDM vol. 3, appendix A"
        READ_MSR MSR_VMX_BASIC
        CATCH   wrmsr
        CHECK   [exc_vector], EXC_GP
RULE must_be_one_controls_may_be_one, "A control that must be 1 is one that may be 1", "SDM vol. 3, A.2"
        READ_MSR MSR_VMX_TRUE_PROCBASED
        mov     rdx, rbx
        shr     rdx, 32
        not     edx
        and     ebx, edx
        CHECK   rbx, 0
RULE cr0_obeys_the_fixed_bits, "CR0 in VMX operation has the bits of IA32_VMX_CR0_FIXED0", "SDM vol. 3, A.7"
        READ_MSR MSR_VMX_CR0_FIXED0
        mov     rsi, cr0
        CHECK_BITS rsi, rbx, rbx
RULE cr4_obeys_the_fixed_bits, "CR4 in VMX operation has the bits of IA32_VMX_CR4_FIXED0", "SDM vol. 3, A.8"
        READ_MSR MSR_VMX_CR4_FIXED0
        mov     rsi, cr4
        CHECK_BITS rsi, rbx, rbx
RULES_END

# CF, PF, AF, ZF, SF and OF := 1.
set_status_flags:
        push    CF_ZF_AND_OTHERS | 2
        popfq
        ret
