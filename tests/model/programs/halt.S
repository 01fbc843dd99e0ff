# @title   HLT until an interrupt comes
# @param iterations 16 50 1 1000000 operations : how many HLTs
# @param vector     17 0x21 32 255 vector : the interrupt that ends each of them
#
# Returns in RAX how many interrupts came.  Ends with interrupts off.

.intel_syntax noprefix
.include "l2.inc"
.set IDT,       L2_WORKING_SET
.set SEL_CODE,  0x08
.set GATE_64,   0x8e00

        .text
        .globl  _start
_start:
        mov     rdi, [L2_OWN + 1*8]
        shl     edi, 4
        add     edi, IDT
        mov     eax, offset interrupt
        mov     [rdi], ax
        mov     word ptr [rdi + 2], SEL_CODE
        mov     word ptr [rdi + 4], GATE_64
        shr     eax, 16
        mov     [rdi + 6], ax
        lidt    [idt_pointer]
        xor     ebx, ebx
        mov     r12, [L2_OWN + 0*8]
        sti
        hlt                                 # in the interrupt shadow of STI
again:
        dec     r12
        jz      done
        hlt
        jmp     again
done:
        cli
        mov     rax, rbx
        FINISH
interrupt:
        inc     rbx
        iretq

        .data
idt_pointer:    .word   256*16 - 1
                .quad   IDT
