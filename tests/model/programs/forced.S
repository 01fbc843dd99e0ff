# @title   CPUID behind Xen's forced-emulation prefix
# @param iterations 16 50 1 1000000 operations : how many
#
# Returns in RAX how often the answer was not L1's.

.intel_syntax noprefix
.include "l2.inc"

        .text
        .globl  _start
_start:
        mov     r12, [L2_OWN + 0*8]
        xor     r8d, r8d
again:
        xor     eax, eax
        ud2
        .ascii  "xen"
        cpuid
        cmp     ecx, 0x20324c68             # "hL2 ", the end of L1's vendor string
        setne   cl
        movzx   ecx, cl
        add     r8, rcx
        dec     r12
        jnz     again
        mov     rax, r8
        FINISH
