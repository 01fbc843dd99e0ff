# @title   Undefined instructions in a loop
# @param iterations 16 5000 1 1000000000 operations : how many
# @param work       17 100 0 1000000 instructions : plain instructions between two of them
#
# Each UD2 raises #UD, whose handler steps over it.  A hypervisor that looks for instructions to
# emulate, as KVM does, gets an exit first and gives the exception back.

.intel_syntax noprefix
.include "l2.inc"
.include "apic.inc"
.set VECTOR_UD,         6
.set UD2_BYTES,         2

        .text
        .globl  _start
_start:
        lidt    [idt_pointer]
        GATE    idt, VECTOR_UD, on_undefined
        mov     r12, [L2_OWN + 0*8]
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
        xor     ebx, ebx
again:
        WORK
        ud2
        dec     r12
        jnz     again
        mov     rax, rbx                    # how many the handler saw
        FINISH

on_undefined:
        inc     rbx
        add     qword ptr [rsp], UD2_BYTES
        iretq

        .data
idt_pointer: .word 0xfff
        .quad   idt
        .bss
        .balign 16
idt:    .skip   0x1000
