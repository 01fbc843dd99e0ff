# @title   Writes of CR0 in a loop
# @param iterations 16 5000 1 1000000000 operations : how many writes
# @param work       17 100 0 1000000 instructions : plain instructions between two of them
#
# Each write turns CR0.AM over, which changes nothing for code in ring 0.  It is a bit that
# hypervisors own, unlike CR0.TS, which KVM leaves to a guest that has the FPU; so the write exits.

.intel_syntax noprefix
.include "l2.inc"
.set CR0_AM,            1 << 18

        .text
        .globl  _start
_start:
        mov     r12, [L2_OWN + 0*8]
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
        mov     rbx, cr0
again:
        WORK
        xor     ebx, CR0_AM
        mov     cr0, rbx
        dec     r12
        jnz     again
        mov     rax, [L2_OWN + 0*8]
        FINISH
