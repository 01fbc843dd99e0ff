# @title   Spin-wait loops: PAUSE until a lock would be free
# @param iterations 16 200 1 1000000000 waits : how often L2 waits
# @param pauses     17 100 1 1000000000 instructions : PAUSEs per wait, a loop round each
# @param work       18 3000 1 1000000000 rounds : rounds of plain work between two waits
#
# What a contended spin lock costs L2.  A hypervisor that intercepts PAUSE gets an exit for each one,
# or, with a filter in the processor, for the long waits only.

.intel_syntax noprefix
.include "l2.inc"

        .text
        .globl  _start
_start:
        mov     r12, [L2_OWN + 0*8]
        xor     eax, eax
wait:
        mov     rcx, [L2_OWN + 1*8]
spin:
        pause
        dec     rcx
        jnz     spin
        mov     rcx, [L2_OWN + 2*8]
work:
        inc     rax
        dec     rcx
        jnz     work
        dec     r12
        jnz     wait
        FINISH
