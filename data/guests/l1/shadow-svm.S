# @title   L1 hypervisor with shadow paging (AMD SVM)
# @backend svm
# @paging  non son sos
# @param unmap_period 16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages  17 1 1 64 pages : how many pages each time, those mapped last
#
# The minimal hypervisor (minimal-svm.S), which see, but without nested paging for L2: its page
# faults, CR3 and INVLPG exit, and L1 keeps shadow tables for it (include/shadow.inc).  Where the
# scenario's paging mode is nested on nested, it is the minimal hypervisor and nothing else.

.intel_syntax noprefix
.set SHADOW, 1
.include "minimal-svm.S"
.macro L2_RFLAGS
        mov     rax, [vmcb + VMCB_RFLAGS]
.endm
.include "shadow.inc"

.set INTERCEPT_CR0_READ,    1 << 0
.set INTERCEPT_CR3_READ,    1 << 3
.set INTERCEPT_CR4_READ,    1 << 4
.set INTERCEPT_CR3_WRITE,   1 << 19
.set INTERCEPT_PF,          1 << VECTOR_PF
.set INTERCEPT_INVLPG,      1 << 25
.set VMCB_EXCEPTIONS,       0x008           # intercepts of exceptions, one bit per vector
.set VMCB_CR2,              0x640
.set VMEXIT_CR0_READ,       0x00
.set VMEXIT_CR4_READ,       0x04
.set VMEXIT_PF,             0x4e
.set VMEXIT_INVLPG,         0x79
.set EVENT_EXCEPTION,       1 << 31 | 1 << 11 | 3 << 8      # valid, error code, exception
.set EVENT_EXCEPTION_TYPE,  3

        .text
# After build_vmcb: shadow paging in place of nested paging.
shadow_on:
        cmp     qword ptr [L1_SHADOW_PAGING], 0
        je      shadow_off
        call    start_registers
        mov     qword ptr [vmcb + VMCB_NESTED_CTL], 0
        mov     qword ptr [vmcb + VMCB_NESTED_CR3], 0
        mov     qword ptr [vmcb + VMCB_CR3], offset shadow_root
        or      dword ptr [vmcb + VMCB_INTERCEPT_WORD0], INTERCEPT_CR3_READ | INTERCEPT_CR4_READ | INTERCEPT_CR0_WRITE | INTERCEPT_CR3_WRITE | INTERCEPT_CR4_WRITE
        or      dword ptr [vmcb + VMCB_EXCEPTIONS], INTERCEPT_PF
        or      dword ptr [vmcb + VMCB_INTERCEPT_WORD3], INTERCEPT_INVLPG
shadow_off:
        ret

# The exits of shadow paging; EAX = exit code.  Comes back to shadow_none for any other.
shadow_exit:
        cmp     eax, VMEXIT_PF
        je      handle_page_fault
        cmp     eax, VMEXIT_INVLPG
        je      handle_invlpg
        cmp     eax, VMEXIT_CR4_WRITE
        ja      shadow_none
        cmp     eax, VMEXIT_CR0_WRITE
        jae     handle_register_write
        cmp     eax, VMEXIT_CR4_READ
        jbe     handle_register_read
        jmp     shadow_none

shadow_unknown:
        mov     rbx, [vmcb + VMCB_EXIT_CODE]
        mov     al, RESULT_UNKNOWN
        jmp     finish

# ============================================================== #PF
# EXITINFO1 = error code, EXITINFO2 = address.  L2 repeats the instruction, so RIP stays.
handle_page_fault:
        PUSH_REGISTERS
        mov     rax, [vmcb + VMCB_EXIT_INFO_2]
        mov     [fault_va], rax
        mov     rax, [vmcb + VMCB_EXIT_INFO_1]
        mov     [fault_error], rax
        call    resolve_fault
        test    eax, eax
        jnz     reflect_fault
        # an event whose delivery the fault interrupted is delivered again; INT n, INT3 and INTO are
        # executed again
        mov     rax, [vmcb + VMCB_EXIT_INT_INFO]
        bt      eax, EVENT_VALID_BIT
        jnc     shadow_done
        mov     ecx, eax
        shr     ecx, EVENT_TYPE_SHIFT
        and     ecx, EVENT_TYPE_MASK
        cmp     ecx, EVENT_SOFTWARE
        je      shadow_done
        cmp     ecx, EVENT_EXCEPTION_TYPE
        jne     deliver_event_again
        lea     edx, [rax - 3]
        and     edx, 0xff
        cmp     edx, 1
        jbe     shadow_done
deliver_event_again:
        mov     [vmcb + VMCB_EVENT_INJ], rax
shadow_done:
        cmp     byte ptr [flush_all], 0
        je      nothing_to_flush
        mov     byte ptr [flush_all], 0
        mov     byte ptr [vmcb + VMCB_TLB_CTL], TLB_FLUSH_ASID
nothing_to_flush:
        POP_REGISTERS
        jmp     resume

# The fault goes to L2; during the delivery of another #PF it becomes a double fault, during that of
# a double fault the end.
reflect_fault:
        mov     rax, [fault_va]
        mov     [vmcb + VMCB_CR2], rax
        mov     edx, VECTOR_PF
        mov     rax, [vmcb + VMCB_EXIT_INT_INFO]
        bt      eax, EVENT_VALID_BIT
        jnc     inject_exception
        mov     ecx, eax
        shr     ecx, EVENT_TYPE_SHIFT
        and     ecx, EVENT_TYPE_MASK
        cmp     ecx, EVENT_EXCEPTION_TYPE
        jne     inject_exception
        cmp     al, VECTOR_DF
        je      handle_shutdown
        cmp     al, VECTOR_PF
        jne     inject_exception
        mov     edx, VECTOR_DF
        mov     dword ptr [fault_error], 0
# Exception EDX with the error code [fault_error] into L2.
inject_exception:
        or      edx, EVENT_EXCEPTION
        mov     [vmcb + VMCB_EVENT_INJ], edx
        mov     eax, [fault_error]
        mov     [vmcb + VMCB_EVENT_INJ_ERR], eax
        jmp     shadow_done

# ============================================================== INVLPG and control registers
handle_invlpg:
        PUSH_REGISTERS
        mov     rdi, [vmcb + VMCB_EXIT_INFO_1]
        call    drop_address
        mov     rax, rdi
        mov     ecx, [vmcb + VMCB_ASID]
        invlpga rax, ecx
shadow_advance:
        mov     rax, [vmcb + VMCB_NEXT_RIP]
        mov     [vmcb + VMCB_RIP], rax
        jmp     shadow_done

# MOV to CR0, CR3 or CR4, or CLTS.  EXITINFO1: bit 63 if by MOV, general register in bits 3:0.
handle_register_write:
        PUSH_REGISTERS
        mov     rax, [vmcb + VMCB_RAX]
        mov     [rbp], rax
        mov     rax, [vmcb + VMCB_RSP]
        mov     [rbp + 4*8], rax
        mov     rax, [vmcb + VMCB_EXIT_INFO_1]
        bt      rax, CR_BY_MOV_BIT
        jnc     clear_task_switched
        and     eax, CR_REGISTER_MASK
        mov     rdi, [rbp + rax*8]
        mov     ecx, [vmcb + VMCB_EXIT_CODE]
        sub     ecx, VMEXIT_CR0_WRITE
        call    write_l2_register
        mov     edx, VECTOR_GP
        mov     dword ptr [fault_error], 0
        test    eax, eax
        jnz     inject_exception
load_registers:
        # WP is always set for real, so L2 may read CR0 directly only while it has it set, too
        mov     rax, [l2_cr]
        and     dword ptr [vmcb + VMCB_INTERCEPT_WORD0], ~INTERCEPT_CR0_READ
        test    eax, CR0_WP
        jnz     wp_set
        or      dword ptr [vmcb + VMCB_INTERCEPT_WORD0], INTERCEPT_CR0_READ
        or      eax, CR0_WP
wp_set:
        mov     [vmcb + VMCB_CR0], rax
        mov     rax, [l2_cr + 4*8]
        and     rax, ~CR4_PCIDE             # PCIDs are L2's belief only
        mov     [vmcb + VMCB_CR4], rax
        jmp     shadow_advance
clear_task_switched:                        # CLTS is two bytes long, LMSW three or more
        mov     rax, [vmcb + VMCB_NEXT_RIP]
        sub     rax, [vmcb + VMCB_RIP]
        cmp     rax, CLTS_BYTES
        jne     shadow_unknown
        and     qword ptr [l2_cr], ~CR0_TS
        jmp     load_registers

handle_register_read:
        PUSH_REGISTERS
        mov     rax, [vmcb + VMCB_EXIT_INFO_1]
        bt      rax, CR_BY_MOV_BIT
        jnc     shadow_unknown              # SMSW
        and     eax, CR_REGISTER_MASK
        mov     ecx, [vmcb + VMCB_EXIT_CODE]
        mov     rdx, [l2_cr + rcx*8]
        test    eax, eax
        jz      read_to_rax
        cmp     eax, 4
        je      read_to_rsp
        mov     [rbp + rax*8], rdx
        jmp     shadow_advance
read_to_rax:
        mov     [vmcb + VMCB_RAX], rdx
        jmp     shadow_advance
read_to_rsp:
        mov     [vmcb + VMCB_RSP], rdx
        jmp     shadow_advance
