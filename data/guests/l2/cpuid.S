# @title   CPUID in a loop: the plainest exit
# @param iterations 16 5000 1 1000000000 operations : how many CPUIDs
# @param work       17 100 0 1000000 instructions : plain instructions between two of them
# @param leaf       18 0 0 0xffffffff leaf : CPUID leaf to ask for
#
# CPUID always exits on VMX, and on SVM whenever the hypervisor asks for it, as they all do.

.intel_syntax noprefix
.include "l2.inc"

        .text
        .globl  _start
_start:
        mov     r12, [L2_OWN + 0*8]         # operations left
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
again:
        WORK
        mov     eax, [L2_OWN + 2*8]
        xor     ecx, ecx
        cpuid                               # changes RAX, RBX, RCX, RDX
        dec     r12
        jnz     again
        mov     rax, [L2_OWN + 0*8]
        FINISH
