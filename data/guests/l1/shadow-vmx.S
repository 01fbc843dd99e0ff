# @title   L1 hypervisor with shadow paging (Intel VMX)
# @backend vmx
# @paging  non son sos
# @param unmap_period 16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages  17 1 1 64 pages : how many pages each time, those mapped last
#
# The minimal hypervisor (minimal-vmx.S), which see, but without EPT for L2: its page faults, CR3
# and INVLPG exit, and L1 keeps shadow tables for it (include/shadow.inc).  Where the scenario's paging
# mode is nested on nested, it is the minimal hypervisor and nothing else.

.intel_syntax noprefix
.set SHADOW, 1
.include "minimal-vmx.S"
.macro L2_RFLAGS
        push    rcx
        READ_FIELD rcx, GUEST_RFLAGS
        mov     rax, rcx
        pop     rcx
.endm
.include "shadow.inc"

.set EXIT_INVLPG,           14
.set CPU_SHADOWING,         1 << 9 | 1 << 15 | 1 << 16      # exits: INVLPG, MOV to CR3, MOV from CR3
.set EVENT_VALID_BIT,       31
.set EVENT_EXCEPTION,       1 << 31 | 1 << 11 | 3 << 8      # valid, error code, exception
.set EVENT_TYPE_SHIFT,      8
.set EVENT_TYPE_MASK,       7
.set EVENT_EXCEPTION_TYPE,  3
.set EVENT_HAS_LENGTH,      4               # types from here on are made by an instruction
.set EVENT_ERROR_BIT,       11
.set EVENT_NMI_UNBLOCKING_BIT, 12
.set INVVPID_ADDRESS,       0
.set INVVPID_SINGLE,        1

        .text
# After write_guest_state: shadow paging in place of EPT.
shadow_on:
        cmp     qword ptr [L1_SHADOW_PAGING], 0
        je      shadow_off
        call    start_registers
        CONTROLS CPU_BASED_VM_EXEC_CONTROL, MSR_VMX_TRUE_PROCBASED, CPU_HLT_EXITING | CPU_USE_IO_BITMAPS | CPU_USE_MSR_BITMAPS | CPU_SECONDARY_CONTROLS | CPU_SHADOWING, CPU_SHADOWING
        mov     ebx, offset shadow_root
        WRITE_FIELD GUEST_CR3, rbx
        mov     ebx, 1 << VECTOR_PF         # with mask and match 0: every page fault
        WRITE_FIELD EXCEPTION_BITMAP, rbx
        # what L2 may not change on its own; it reads its own values
        mov     ebx, CR0_WP | CR0_NE
        WRITE_FIELD CR0_GUEST_HOST_MASK, rbx
        mov     ebx, CR4_VMXE | CR4_TRANSLATION
        WRITE_FIELD CR4_GUEST_HOST_MASK, rbx
        or      dword ptr [l2_cr], CR0_NE
        jmp     load_registers
shadow_off:
        ret

# Control registers of L2 from its belief.
load_registers:
        mov     rbx, [l2_cr]
        WRITE_FIELD CR0_READ_SHADOW, rbx
        or      rbx, CR0_WP | CR0_NE
        WRITE_FIELD GUEST_CR0, rbx
        mov     rbx, [l2_cr + 4*8]
        WRITE_FIELD CR4_READ_SHADOW, rbx
        and     rbx, ~CR4_PCIDE             # PCIDs are L2's belief only
        or      rbx, CR4_VMXE
        WRITE_FIELD GUEST_CR4, rbx
        ret

# The exits of shadow paging; ECX = exit reason, L2's RAX and RCX are saved.  Comes back to
# shadow_none for any other.
shadow_exit:
        cmp     ecx, EXIT_EXCEPTION_NMI
        je      handle_page_fault
        cmp     ecx, EXIT_INVLPG
        je      handle_invlpg
        cmp     ecx, EXIT_CR_ACCESS
        jne     shadow_none
        jmp     handle_register

.macro ENTER_HANDLER
        mov     rax, [l2_rax]
        mov     rcx, [l2_rcx]
        PUSH_REGISTERS
.endm

shadow_unknown:
        READ_FIELD rbx, VM_EXIT_REASON
        mov     al, RESULT_UNKNOWN
        jmp     finish

# ============================================================== #PF
# Qualification = address.  L2 repeats the instruction, so RIP stays.
handle_page_fault:
        ENTER_HANDLER
        READ_FIELD rcx, EXIT_QUALIFICATION
        mov     [fault_va], rcx
        READ_FIELD rcx, VM_EXIT_INTR_ERROR_CODE
        mov     [fault_error], rcx
        call    resolve_fault
        mov     ebx, eax
        READ_FIELD rcx, IDT_VECTORING_INFO_FIELD
        test    ebx, ebx
        jnz     reflect_fault
        # an event whose delivery the fault interrupted is delivered again
        bt      ecx, EVENT_VALID_BIT
        jnc     shadow_done
        btr     ecx, EVENT_NMI_UNBLOCKING_BIT
        WRITE_FIELD VM_ENTRY_INTR_INFO_FIELD, rcx
        bt      ecx, EVENT_ERROR_BIT
        jnc     no_error_code
        READ_FIELD rdx, IDT_VECTORING_ERROR_CODE
        WRITE_FIELD VM_ENTRY_EXCEPTION_ERROR_CODE, rdx
no_error_code:
        mov     edx, ecx
        shr     ecx, EVENT_TYPE_SHIFT
        and     ecx, EVENT_TYPE_MASK
        cmp     dl, VECTOR_DF
        je      not_a_fault
        cmp     ecx, EVENT_EXCEPTION_TYPE
        je      shadow_done
not_a_fault:
        call    drop_resume_flag
        cmp     ecx, EVENT_HAS_LENGTH
        jb      shadow_done
        READ_FIELD rdx, VM_EXIT_INSTRUCTION_LEN
        WRITE_FIELD VM_ENTRY_INSTRUCTION_LEN, rdx
shadow_done:
        cmp     byte ptr [flush_all], 0
        je      shadow_resume
        mov     byte ptr [flush_all], 0
        cmp     qword ptr [L1_USE_VPID], 0  # without VPID every entry drops everything
        je      shadow_resume
        mov     eax, INVVPID_SINGLE
        invvpid rax, [invvpid_descriptor]
shadow_resume:
        POP_REGISTERS
        RESUME_L2
        jmp     failed

# The fault goes to L2; during the delivery of another #PF it becomes a double fault, during
# that of a double fault the end.  ECX = IDT-vectoring information.
reflect_fault:
        mov     rax, [fault_va]
        mov     cr2, rax                    # CR2 is not in the VMCS
        mov     edx, VECTOR_PF
        bt      ecx, EVENT_VALID_BIT
        jnc     inject_exception
        mov     eax, ecx
        shr     eax, EVENT_TYPE_SHIFT
        and     eax, EVENT_TYPE_MASK
        cmp     eax, EVENT_EXCEPTION_TYPE
        jne     inject_exception
        cmp     cl, VECTOR_DF
        je      handle_shutdown
        cmp     cl, VECTOR_PF
        jne     inject_exception
        call    drop_resume_flag
        mov     edx, VECTOR_DF
        mov     dword ptr [fault_error], 0
# Exception EDX with the error code [fault_error] into L2.
inject_exception:
        or      edx, EVENT_EXCEPTION
        WRITE_FIELD VM_ENTRY_INTR_INFO_FIELD, rdx
        mov     ebx, [fault_error]
        WRITE_FIELD VM_ENTRY_EXCEPTION_ERROR_CODE, rbx
        jmp     shadow_done

# The exit has saved RF for the fault; the frame of another event is without it. RAX, RBX are lost.
drop_resume_flag:
        READ_FIELD rbx, GUEST_RFLAGS
        btr     ebx, RFLAGS_RF_BIT
        WRITE_FIELD GUEST_RFLAGS, rbx
        ret

# ============================================================== INVLPG and control registers
handle_invlpg:
        ENTER_HANDLER
        READ_FIELD rdi, EXIT_QUALIFICATION
        call    drop_address
        mov     rax, rdi
        call    invalidate_address
shadow_advance:
        READ_FIELD rbx, GUEST_RIP
        READ_FIELD rdx, VM_EXIT_INSTRUCTION_LEN
        add     rbx, rdx
        WRITE_FIELD GUEST_RIP, rbx
        jmp     shadow_done

# Drop L2's translation of its address RAX; without VPID every entry drops everything.
invalidate_address:
        cmp     qword ptr [L1_USE_VPID], 0
        je      address_invalid
        mov     [invvpid_descriptor + 8], rax
        mov     eax, INVVPID_ADDRESS
        invvpid rax, [invvpid_descriptor]
address_invalid:
        ret
# The same for a page that was taken away from L2 (unmap_period).
forget_address:
        call    invalidate_address
        jmp     page_taken

# MOV to CR0, CR3, CR4 or from CR3.  Qualification: register in bits 3:0, 0 = write and 1 = read in
# bits 5:4, general register in bits 11:8.
handle_register:
        ENTER_HANDLER
        READ_FIELD rbx, EXIT_QUALIFICATION
        READ_FIELD rcx, GUEST_RSP
        mov     [rbp + 4*8], rcx
        mov     ecx, ebx
        and     ecx, 15
        mov     edx, ebx
        shr     edx, 8
        and     edx, 15
        shr     ebx, 4
        and     ebx, 3
        jz      write_register
        dec     ebx
        jnz     shadow_unknown              # CLTS, LMSW: not with these masks
        mov     rbx, [l2_cr + rcx*8]
        mov     [rbp + rdx*8], rbx
        cmp     edx, 4
        jne     shadow_advance
        WRITE_FIELD GUEST_RSP, rbx
        jmp     shadow_advance
write_register:
        mov     rdi, [rbp + rdx*8]
        call    write_l2_register
        mov     edx, VECTOR_GP
        mov     dword ptr [fault_error], 0
        test    eax, eax
        jnz     inject_exception
        call    load_registers
        jmp     shadow_advance

        .data
        .balign 16
invvpid_descriptor:     .quad   1, 0        # VPID, linear address
