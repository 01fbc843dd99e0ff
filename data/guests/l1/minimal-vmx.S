# @title   Smallest complete L1 hypervisor for Intel VMX
# @backend vmx
# @param unmap_period 16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages  17 1 1 64 pages : how many pages each time, those mapped last
#
# It runs one L2 with EPT and handles what L2 causes: CPUID, MSRs, I/O, hypercalls, EPT violations,
# HLT, triple fault.  Read it from after_l2: down; that code runs once per L2 exit.
#
# On a VM exit the processor saves L2's RIP, RSP, RFLAGS, segments and control registers in the VMCS
# and loads L1's from there.  All other registers, RAX too, still hold L2's values: whatever L1
# changes it must put back before VMRESUME.
#
# The SYSCALL MSRs and KERNEL_GS_BASE are not in the VMCS.  L2 may use them (see the MSR bitmap);
# L1 does not, so it need not switch them.

.intel_syntax noprefix
.include "l1.inc"
.include "vmx.inc"
.include "vmx-macros.inc"
.include "virtual-cpu.inc"
.set LEAF_FLAGS, 0x37                       # EPT leaf: read, write, execute; write-back memory
.ifndef TWIN                                # twin-vmx.S is this program with several nested roots
.set INVEPT_KIND, INVEPT_SINGLE_CONTEXT
.endif

# Back to L2, whose registers are all in place.
.macro RESUME_L2
.ifdef TWIN
        dec     qword ptr [switch_left]
        jnz     8f
        call    switch_root
8:
.endif
        vmresume
.endm

        .text
        .globl  _start
_start:
        VMX_ON
        call    build_permission_maps
        call    write_controls
        call    write_host_state
        call    write_guest_state
.ifdef SHADOW                               # shadow-vmx.S is this program with shadow paging
        call    shadow_on
.endif
.ifdef TICK                                 # tick-vmx.S is this program with a virtual APIC for L2
        call    give_virtual_apic
.endif

        # ---- count exits only if pages are to be taken away; a countdown from 0 never ends
        mov     rax, [L1_OWN + 0*8]
        test    rax, rax
        jz      period_set
        mov     rcx, [L1_OWN + 1*8]         # L2 must get more exits than it loses pages,
        inc     rcx                         # or it would never move on
.ifdef TWIN
        imul    rcx, [L1_ROOTS]
.endif
        cmp     rax, rcx
        cmovb   rax, rcx
period_set:
        mov     [unmap_period], rax
        mov     [exits_left], rax

        vmlaunch
        jmp     failed                      # only reached when the processor refused

# ============================================================== the loop: once per L2 exit
after_l2:                                   # HOST_RIP: L2 has exited
        mov     [l2_rax], rax
        mov     [l2_rcx], rcx
        dec     qword ptr [exits_left]
        jz      take_pages_away
dispatch:
        mov     eax, VM_EXIT_REASON
        vmread  rcx, rax
        cmp     ecx, EXIT_CPUID
        jne     not_cpuid

handle_cpuid:                               # RAX, RBX, RCX, RDX all get new values
        mov     eax, GUEST_RIP              # go on behind the CPUID
        vmread  rbx, rax
        mov     ecx, VM_EXIT_INSTRUCTION_LEN
        vmread  rdx, rcx
        add     rbx, rdx
        vmwrite rax, rbx
        mov     eax, [l2_rax]               # the leaf
        mov     ecx, CPUID_LEAVES
        cmp     eax, ecx
        cmova   eax, ecx                    # beyond the last: the leaf of zeros
        shl     eax, 4
        mov     ebx, [cpuid_leaves + rax + 4]
        mov     ecx, [cpuid_leaves + rax + 8]
        mov     edx, [cpuid_leaves + rax + 12]
        mov     eax, [cpuid_leaves + rax]
        RESUME_L2
        jmp     failed
handle_cpuid_end:

# ============================================================== the other exits
not_cpuid:
.ifdef SHADOW
        jmp     shadow_exit
shadow_none:
.endif
        push    rdx
        push    rbx
.ifdef TICK
        jmp     virtual_apic_exit           # what is not for the virtual APIC comes back
other_exits:
.endif
        cmp     ecx, EXIT_MSR_READ
        je      handle_msr_read
        cmp     ecx, EXIT_MSR_WRITE
        je      handle_msr_write
        cmp     ecx, EXIT_IO_INSTRUCTION
        je      handle_io
        cmp     ecx, EXIT_VMCALL
        je      handle_hypercall
        cmp     ecx, EXIT_EPT_VIOLATION
        je      handle_ept_violation
        cmp     ecx, EXIT_HLT
        je      handle_hlt
        cmp     ecx, EXIT_TRIPLE_FAULT
        je      handle_shutdown
unknown_exit:
        READ_FIELD rbx, VM_EXIT_REASON
        mov     al, RESULT_UNKNOWN
        jmp     finish

advance:                                    # go on behind the instruction that exited
        mov     eax, GUEST_RIP
        vmread  rbx, rax
        mov     ecx, VM_EXIT_INSTRUCTION_LEN
        vmread  rdx, rcx
        add     rbx, rdx
        vmwrite rax, rbx
resume:
        pop     rbx
        pop     rdx
        mov     rcx, [l2_rcx]
        mov     rax, [l2_rax]
        RESUME_L2
        jmp     failed

# EBX = the virtual MSR numbered by L2's ECX, or 0.
find_msr:
        mov     ecx, [l2_rcx]
        mov     ebx, offset virtual_msrs
find_next_msr:
        cmp     ecx, [rbx]
        je      found_msr
        add     ebx, 16
        cmp     ebx, offset virtual_msrs_end
        jb      find_next_msr
        xor     ebx, ebx
found_msr:
        ret

# RDMSR: the value goes to EDX:EAX.
handle_msr_read:
        call    find_msr
        xor     eax, eax
        xor     edx, edx
        test    ebx, ebx
        jz      msr_value                   # unknown: zero
        mov     eax, [rbx + 8]
        mov     edx, [rbx + 12]
msr_value:
        mov     [l2_rax], rax
        mov     [rsp + 8], rdx              # L2's RDX, pushed above
        jmp     advance

# WRMSR: the value is in EDX:EAX.
handle_msr_write:
        call    find_msr
        test    ebx, ebx
        jz      advance                     # unknown: ignored
        mov     eax, [l2_rax]
        mov     [rbx + 8], eax
        mov     [rbx + 12], edx
        jmp     advance

# IN reads all ones.  OUT to the serial port goes on to L1's own serial port, others are ignored.
handle_io:
        READ_FIELD rcx, EXIT_QUALIFICATION
        test    cl, IO_STRING
        jnz     unknown_exit
        test    cl, IO_IN
        jnz     io_in
        shr     ecx, IO_PORT_SHIFT
        cmp     ecx, PORT_SERIAL
        jne     advance
        mov     al, [l2_rax]
        mov     edx, PORT_SERIAL
        out     dx, al
        jmp     advance
io_in:
        and     ecx, IO_SIZE_MASK
        cmp     ecx, 1
        je      io_in_word
        ja      io_in_double
        mov     byte ptr [l2_rax], -1
        jmp     advance
io_in_word:
        mov     word ptr [l2_rax], -1
        jmp     advance
io_in_double:
        mov     eax, -1                     # 32 bits: the upper half becomes zero
        mov     [l2_rax], rax
        jmp     advance

# Hypercall: RAX = 0 does nothing and returns 0; 1 prints the character in BL; others return -1.
handle_hypercall:
        mov     rax, [l2_rax]
        cmp     rax, 1
        ja      bad_hypercall
        jb      hypercall_done
        mov     eax, ebx
        mov     edx, PORT_SERIAL
        out     dx, al
hypercall_done:
        mov     qword ptr [l2_rax], 0
        jmp     advance
bad_hypercall:
        mov     qword ptr [l2_rax], -1
        jmp     advance

# EPT violation: L1's table does not map this n2p yet.  L2 then repeats the instruction, so RIP
# stays.
handle_ept_violation:
        READ_FIELD rbx, GUEST_PHYSICAL_ADDRESS
        cmp     rbx, [L1_L2_BYTES]
        jae     unknown_exit                # no memory there
        push    rsi
        push    rdi
        mov     rdi, rbx
        call    map_page
        pop     rdi
        pop     rsi
        jmp     resume

handle_hlt:
        mov     rbx, [l2_rax]
        mov     al, RESULT_FINISHED
        jmp     finish
handle_shutdown:
        mov     al, RESULT_SHUTDOWN
        jmp     finish
failed:                                     # a VMX instruction was refused; RBX = the error number
        READ_FIELD rbx, VM_INSTRUCTION_ERROR
unusable:
        mov     al, RESULT_UNUSABLE
finish:
        out     PORT_EXIT, al
        hlt
        jmp     finish

# ============================================================== taking pages away again
# As a hypervisor does that swaps or balloons: drop the page from the table, then see to it that no
# translation of it survives.
take_pages_away:
        mov     rax, [unmap_period]
        mov     [exits_left], rax
        push    rbx
        push    rsi
        mov     ebx, [L1_OWN + 1*8]
take_next:
        call    unmap_last
        cmp     rax, -1
        je      take_done
.ifdef SHADOW
        cmp     qword ptr [L1_SHADOW_PAGING], 0
        jne     forget_address
.endif
        mov     eax, INVEPT_KIND
        invept  rax, [invept_descriptor]
page_taken:
        dec     ebx
        jnz     take_next
take_done:
        pop     rsi
        pop     rbx
        jmp     dispatch

        .data
        .balign 64
exits_left:         .quad   0
unmap_period:       .quad   0
l2_rax:             .quad   0               # L2's registers while L1 works
l2_rcx:             .quad   0

.include "vmx-setup.inc"
.include "nested-map.inc"
