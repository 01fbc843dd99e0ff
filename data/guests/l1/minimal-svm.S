# @title   Smallest complete L1 hypervisor for AMD SVM
# @backend svm
# @param unmap_period 16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages  17 1 1 64 pages : how many pages each time, those mapped last
#
# It runs one L2 with nested paging and handles what L2 causes: CPUID, MSRs, I/O, hypercalls, nested
# page faults, HLT, shutdown.  Read it from resume: down; that loop runs once per L2 exit.
#
# On #VMEXIT the processor has saved L2's RAX, RSP, RIP and RFLAGS in the VMCB and reloaded L1's.
# All other registers still hold L2's values.  So L1 may use RAX freely; whatever else it changes it
# must put back.
#
# VMLOAD and VMSAVE move what VMRUN does not (FS, GS, TR, LDTR, the SYSCALL and SYSENTER registers).
# L1 itself needs none of these, so it never loads its own back.

.intel_syntax noprefix
.include "l1.inc"
.include "svm.inc"
.include "svm-macros.inc"
.include "virtual-cpu.inc"
.set LEAF_FLAGS, 7                          # NPT leaf: present, writable, user
.ifndef TWIN                                # twin-svm.S is this program with several nested roots
.set FLUSH_KIND, TLB_FLUSH_ASID
.endif

        .text
        .globl  _start
_start:
        SVM_ON
        call    build_permission_maps
        call    build_vmcb
.ifdef SHADOW                               # shadow-svm.S is this program with shadow paging
        call    shadow_on
.endif
.ifdef TICK                                 # tick-svm.S is this program with a virtual APIC for L2
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

# ============================================================== the loop: once per L2 exit
resume:
.ifdef TWIN
        dec     qword ptr [switch_left]
        jz      switch_root
switched:
.endif
        mov     eax, offset vmcb
        clgi                                # no interrupt may come between here and L2
.ifdef TICK
        call    offer_events
.endif
        vmload  rax                         # the rest of L2's state
        vmrun   rax                         # L2 runs until something makes it exit
        vmsave  rax
.ifndef SHADOW                              # which changes registers of L2 at most exits
        mov     dword ptr [rax + VMCB_CLEAN], CLEAN_ALL     # nothing is changed but RIP and RAX
.endif
        stgi
.ifdef SHADOW
        mov     byte ptr [vmcb + VMCB_TLB_CTL], TLB_DO_NOTHING
.endif
        dec     qword ptr [exits_left]
        jz      exits_over
dispatch:
        mov     eax, [vmcb + VMCB_EXIT_CODE]
        cmp     eax, VMEXIT_CPUID
        jne     not_cpuid

handle_cpuid:
        mov     eax, [vmcb + VMCB_RAX]      # the leaf
        mov     ecx, CPUID_LEAVES
        cmp     eax, ecx
        cmova   eax, ecx                    # beyond the last: the leaf of zeros
        shl     eax, 4
        mov     ebx, [cpuid_leaves + rax + 4]
        mov     ecx, [cpuid_leaves + rax + 8]
        mov     edx, [cpuid_leaves + rax + 12]
        mov     eax, [cpuid_leaves + rax]
        mov     [vmcb + VMCB_RAX], rax
advance:                                    # go on behind the instruction that exited
        mov     rax, [vmcb + VMCB_NEXT_RIP]
        test    rax, rax
        jz      next_rip_unknown            # the processor does not save it
next_rip_known:
        mov     [vmcb + VMCB_RIP], rax
        jmp     resume
handle_cpuid_end:

# ============================================================== the other exits
not_cpuid:
.ifdef SHADOW
        jmp     shadow_exit
shadow_none:
.endif
.ifdef TICK
        jmp     virtual_apic_exit           # what is not for the virtual APIC comes back
other_exits:
.endif
        cmp     eax, VMEXIT_MSR
        je      handle_msr
        cmp     eax, VMEXIT_IOIO
        je      handle_io
        cmp     eax, VMEXIT_VMMCALL
        je      handle_hypercall
        cmp     eax, VMEXIT_NPF
        je      handle_nested_page_fault
        cmp     eax, VMEXIT_HLT
        je      handle_hlt
        cmp     eax, VMEXIT_SHUTDOWN
        je      handle_shutdown
unknown_exit:
        mov     rbx, [vmcb + VMCB_EXIT_CODE]
        mov     al, RESULT_UNKNOWN
        jmp     finish

.include "svm-next-rip.inc"

# RDMSR (EXITINFO1 = 0) and WRMSR (1): the number is in ECX, the value in EDX:EAX.
handle_msr:
        mov     eax, offset virtual_msrs
find_msr:
        cmp     ecx, [rax]
        je      found_msr
        add     eax, 16
        cmp     eax, offset virtual_msrs_end
        jb      find_msr
        test    byte ptr [vmcb + VMCB_EXIT_INFO_1], 1
        jnz     advance                     # write to an unknown MSR: ignored
        xor     edx, edx                    # read: zero
        mov     [vmcb + VMCB_RAX], rdx
        jmp     advance
found_msr:
        test    byte ptr [vmcb + VMCB_EXIT_INFO_1], 1
        jnz     write_msr
        mov     edx, [rax + 12]
        mov     eax, [rax + 8]
        mov     [vmcb + VMCB_RAX], rax
        jmp     advance
write_msr:
        mov     [rax + 12], edx
        push    rcx
        mov     ecx, [vmcb + VMCB_RAX]
        mov     [rax + 8], ecx
        pop     rcx
        jmp     advance

# IN reads all ones.  OUT to the serial port goes on to L1's own serial port, others are ignored.
handle_io:
        mov     eax, [vmcb + VMCB_EXIT_INFO_1]
        test    al, IOIO_STRING
        jnz     unknown_exit
        test    al, IOIO_IN
        jnz     io_in
        shr     eax, IOIO_PORT_SHIFT
        cmp     eax, PORT_SERIAL
        jne     advance
        mov     al, [vmcb + VMCB_RAX]
        push    rdx
        mov     edx, PORT_SERIAL
        out     dx, al
        pop     rdx
        jmp     advance
io_in:
        test    al, IOIO_BYTE
        jnz     io_in_byte
        test    al, IOIO_WORD
        jnz     io_in_word
        mov     eax, -1                     # 32 bits: the upper half becomes zero
        mov     [vmcb + VMCB_RAX], rax
        jmp     advance
io_in_byte:
        mov     byte ptr [vmcb + VMCB_RAX], -1
        jmp     advance
io_in_word:
        mov     word ptr [vmcb + VMCB_RAX], -1
        jmp     advance

# Hypercall: RAX = 0 does nothing and returns 0; 1 prints the character in BL; others return -1.
handle_hypercall:
        mov     rax, [vmcb + VMCB_RAX]
        cmp     rax, 1
        ja      bad_hypercall
        jb      hypercall_done
        push    rdx
        mov     eax, ebx
        mov     edx, PORT_SERIAL
        out     dx, al
        pop     rdx
hypercall_done:
        mov     qword ptr [vmcb + VMCB_RAX], 0
        jmp     advance
bad_hypercall:
        mov     qword ptr [vmcb + VMCB_RAX], -1
        jmp     advance

# Nested page fault: EXITINFO2 = the n2p that L1's table does not map yet.  L2 then repeats the
# instruction, so RIP stays.
handle_nested_page_fault:
        mov     rax, [vmcb + VMCB_EXIT_INFO_2]
        cmp     rax, [L1_L2_BYTES]
        jae     unknown_exit                # no memory there
        push    rcx
        push    rdx
        push    rsi
        push    rdi
        mov     rdi, rax
        call    map_page
        pop     rdi
        pop     rsi
        pop     rdx
        pop     rcx
        jmp     resume

handle_hlt:
        mov     rbx, [vmcb + VMCB_RAX]
        mov     al, RESULT_FINISHED
        jmp     finish
handle_shutdown:
        mov     al, RESULT_SHUTDOWN
        jmp     finish
unusable:
        mov     al, RESULT_UNUSABLE
finish:
        out     PORT_EXIT, al
        hlt
        jmp     finish

# ============================================================== taking pages away again
# As a hypervisor does that swaps or balloons: drop the page from the table, then see to it that no
# translation of it survives.  INVLPGA drops what L2's own addresses had; TLB_CONTROL makes the next
# VMRUN drop the rest.  It must act once only, so the exit after that comes here too.
exits_over:
        cmp     qword ptr [flush_ordered], 0
        jne     flush_done
        push    rbx
        push    rcx
        push    rsi
        mov     ebx, [L1_OWN + 1*8]
take_next:
        call    unmap_last
        cmp     rax, -1
        je      take_done
        mov     ecx, [vmcb + VMCB_ASID]
        invlpga rax, ecx                    # L2 maps its memory one to one: linear = n2p
        dec     ebx
        jnz     take_next
take_done:
        pop     rsi
        pop     rcx
        pop     rbx
        mov     byte ptr [vmcb + VMCB_TLB_CTL], FLUSH_KIND
        mov     qword ptr [flush_ordered], 1
        mov     qword ptr [exits_left], 1
        jmp     dispatch
flush_done:
        mov     byte ptr [vmcb + VMCB_TLB_CTL], TLB_DO_NOTHING
        mov     qword ptr [flush_ordered], 0
        mov     rax, [unmap_period]
        dec     rax                         # this exit counts
        mov     [exits_left], rax
        jmp     dispatch

        .data
exits_left:     .quad   0
unmap_period:   .quad   0
flush_ordered:  .quad   0                   # 1 while TLB_CONTROL asks for a flush

.include "svm-setup.inc"
.include "nested-map.inc"
