# @title   L2 of the state-machine tests: a list of calls, written into memory by the test
#
# Every function takes its operands in RDI and RSI.  An exception ends the function: the handler goes
# back to the list.  It may run twice, as two guests with a list and a position each: the stack tells
# them apart, it is in 64 KB of its own.

.intel_syntax noprefix
.include "l2.inc"
        .text
        .globl  _start
_start:
        lidt    [idt_pointer]
        sub     rsp, 0x1000
        jmp     script
fault:
        or      rsp, 0xffff
        sub     rsp, 0xfff + 8
        ret
interrupt:
        iretq

l2_load:
        mov     rax, [rdi]
        ret
l2_store:
        mov     [rdi], rsi
        ret
l2_call:
        call    rdi
        ret
l2_reload_cr3:
        mov     rax, cr3
at_l2_cr3:
        mov     cr3, rax
        ret
l2_set_cr3:
        mov     rax, rdi
at_l2_set_cr3:
        mov     cr3, rax
        ret
l2_invlpg:
at_l2_invlpg:
        invlpg  [rdi]
        ret
l2_invpcid:                                 # type, address; PCID 0
        mov     [descriptor + 8], rsi
at_l2_invpcid:
        invpcid rdi, [descriptor]
after_l2_invpcid:
        ret
l2_toggle_pge:
        mov     rax, cr4
        xor     eax, 0x80
at_l2_cr4:
        mov     cr4, rax
        ret
l2_set_tpr:
        mov     cr8, rdi
        mov     rax, cr8
        ret
l2_cpuid:
        xor     eax, eax
        cpuid
        ret
l2_hypercall:
        xor     eax, eax
        HYPERCALL
        ret
l2_out:
        out     0x40, al
        ret
l2_rdmsr:
        mov     ecx, 0x1234
        rdmsr
        ret
l2_ud:
        ud2
l2_int:
        int     0x40
        ret
l2_foreign:                                 # instructions that are L1's
        cmp     dword ptr [L2_HYPERCALL], 2
        je      7f
        mov     eax, 0x1000
        vmload  rax
        ret
7:      mov     eax, 0x4402
        vmread  rax, rax
        ret
l2_end:
        hlt
        jmp     l2_end

        .data
descriptor: .quad 0, 0
idt_pointer: .word 0xfff
        .quad   idt
        .bss
        .balign 4096
idt:    .skip   0x1000
script: .skip   0x4000
