# @title   L1 of the state-machine tests (AMD SVM): a list of calls, written into memory by the test
# @backend svm
# @paging  non son sos
#
# Every function takes its operands in RDI and RSI.  An exception ends the function: the handler goes
# back to the list.  Without nested paging L2 has L1-physical addresses in its own tables.

.intel_syntax noprefix
.include "l1.inc"
.include "svm.inc"
.include "svm-macros.inc"
.set FRAME, 0x8f000

        .text
        .globl  _start
_start:
        SVM_ON
        lidt    [idt_pointer]
        call    build_permission_maps
        call    build_vmcb
        cmp     qword ptr [L1_SHADOW_PAGING], 0
        je      nested
        mov     qword ptr [vmcb + VMCB_NESTED_CTL], 0
        mov     qword ptr [vmcb + VMCB_NESTED_CR3], 0
        mov     rax, [L1_L2_CR3]
        add     rax, [L1_L2_MEMORY]
        mov     [vmcb + VMCB_CR3], rax
nested:
        mov     esi, offset vmcb
        mov     edi, offset vmcb_b
        mov     ecx, 4096 / 8
        rep     movsq
        mov     dword ptr [vmcb_b + VMCB_ASID], 2
        sub     qword ptr [vmcb_b + VMCB_RSP], 0x10000
ready:
        cmp     byte ptr [go], 0            # the test sets it
        je      ready
        mov     rsp, FRAME
        jmp     script
fault:
        mov     rsp, FRAME - 8
        ret
nmi:
        inc     qword ptr [nmis]
        iretq

load:
        mov     rax, [rdi]
        ret
store64:
        mov     [rdi], rsi
        ret
store32:
        mov     [rdi], esi
        ret
store8:
        mov     [rdi], sil
        ret
reload_cr3:
        mov     rax, cr3
        mov     cr3, rax
        ret
do_invlpg:
        invlpg  [rdi]
        ret
do_invlpga:
        mov     rax, rdi
        mov     ecx, esi
at_invlpga:
        invlpga rax, ecx
        ret
do_clgi:
        clgi
        ret
do_stgi:
        stgi
        ret
do_vmload:
        mov     rax, rdi
        vmload  rax
        ret
do_vmsave:
        mov     rax, rdi
        vmsave  rax
        ret
svm_off_and_on:
        mov     ecx, MSR_EFER
        rdmsr
        and     eax, ~EFER_SVME
at_svm_off:
        wrmsr
        or      eax, EFER_SVME
        wrmsr
        ret
hypercall:
        vmmcall
        ret

# enter: run L2 with the VMCB in RDI until it exits once; step over the instruction that exited.
enter:
        call    run_l2
        ret
# enter_mapped: the same, but pages that L1's table does not map are mapped one to one, a few times.
enter_mapped:
        mov     dword ptr [tries], 8
1:      call    run_l2
        cmp     ecx, VMEXIT_NPF
        jne     2f
        mov     rdx, [rax + VMCB_NESTED_CR3]
        mov     rsi, [rax + VMCB_EXIT_INFO_2]
        mov     rdi, rsi
        shr     rdi, 12
        cmp     rdi, 1024
        jae     2f
        and     rsi, ~0xfff
        add     rsi, [L1_L2_MEMORY]
        or      rsi, 7
        mov     [rdx + 0x3000 + rdi*8], rsi
        mov     rdi, rax
        dec     dword ptr [tries]
        jnz     1b
2:      ret

run_l2:
        mov     [vmcb_now], rdi
        mov     rbx, [l2_registers + 0*8]
        mov     rcx, [l2_registers + 1*8]
        mov     rdx, [l2_registers + 2*8]
        mov     rsi, [l2_registers + 3*8]
        mov     rdi, [l2_registers + 4*8]
        mov     rax, [vmcb_now]
at_vmrun:
        vmrun   rax
        mov     [l2_registers + 0*8], rbx
        mov     [l2_registers + 1*8], rcx
        mov     [l2_registers + 2*8], rdx
        mov     [l2_registers + 3*8], rsi
        mov     [l2_registers + 4*8], rdi
        stgi
        mov     rax, [vmcb_now]
        mov     ecx, [rax + VMCB_EXIT_CODE]
        cmp     ecx, 0x65
        jb      1f
        cmp     ecx, VMEXIT_SHUTDOWN
        je      1f
        cmp     ecx, 0x8f
        ja      1f
        mov     rdx, [rax + VMCB_NEXT_RIP]
        test    rdx, rdx
        jz      1f
        mov     [rax + VMCB_RIP], rdx
1:      ret

        .data
        .balign 8
go:     .quad   0
nmis:   .quad   0
tries:  .quad   0
vmcb_now: .quad 0
l2_registers: .skip 5 * 8
idt_pointer: .word 0xfff
        .quad   idt

.include "svm-setup.inc"
        .text
unusable:
        mov     al, RESULT_UNUSABLE
finish:
        out     PORT_EXIT, al
        hlt
        jmp     finish
        .bss
        .balign 4096
vmcb_b: .skip   0x1000
idt:    .skip   0x1000
script: .skip   0x4000
.set nested_root, 0x200000
