# @title   Interrupts that have to wait: each is requested with interrupts off, then let in
# @param iterations    16 5000 1 1000000000 operations : how many interrupts
# @param work          17 100 0 1000000 instructions : plain instructions between request and STI
#
# The guest writes an interrupt to itself into the command register of its local APIC (in xAPIC mode)
# while it holds interrupts off.  Whoever emulates that APIC has to wait for the interrupt window.
# Needs an L1 that has a local APIC in memory for it: kvm-87 with apic_page=1 and the feature apicv.
# RAX at the end: interrupts taken.

.intel_syntax noprefix
.include "l2.inc"
.include "apic.inc"
.set OWN_VECTOR,    0x51
.set ICR_SELF,      1 << 18                 # destination shorthand
.set DIRECTORY,     L2_WORKING_SET          # a table for the fourth gigabyte
.set TABLE,         3                       # present, writable
.set MAPPED_LARGE,  0x83                    # and 2 MB at once

        .text
        .globl  _start
_start:
        lidt    [idt_pointer]
        GATE    idt, OWN_VECTOR, on_interrupt
        # map the page of the APIC one to one: PML4[0] -> PDPT[3] -> directory
        mov     rax, cr3
        and     rax, -4096
        mov     rax, [rax]
        and     rax, -4096
        mov     qword ptr [rax + 3*8], DIRECTORY + TABLE
        mov     edx, XAPIC + MAPPED_LARGE
        mov     [DIRECTORY + 8*((XAPIC >> 21) & 511)], rdx
        mov     r12, [L2_OWN + 0*8]
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
        mov     ebx, XAPIC + APIC_ICR
        mov     eax, ICR_SELF + OWN_VECTOR
        xor     r8d, r8d
again:
        mov     [rbx], eax
        WORK
        sti
        nop                                 # STI holds interrupts off for one instruction
        cli
        dec     r12
        jnz     again
        mov     rax, r8
        FINISH

on_interrupt:
        inc     r8
        iretq

        .data
idt_pointer: .word 0xfff
        .quad   idt
        .bss
        .balign 16
idt:    .skip   0x1000
