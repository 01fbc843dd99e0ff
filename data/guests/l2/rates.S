# @title   MSR accesses and exits to L1, each at a rate of its own
# @param iterations 16 2000 1 1000000000 rounds : how many rounds; each ends with one CPUID
# @param work       17 100 0 1000000 instructions : plain instructions in a round
# @param accesses   18 100 0 1000000 accesses : how many times an MSR is read in 100 rounds
# @param msr        19 0xc0000100 0 0xffffffff number : which MSR; 0xc0000100 and 0xc0000102 are let through by L1
#
# CPUID always goes to L1, so a round is one switch from L2 to L1 and back.  Whether an access exits is
# up to the permission map.

.intel_syntax noprefix
.include "l2.inc"

        .text
        .globl  _start
_start:
        mov     r12, [L2_OWN + 0*8]         # rounds left
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
        xor     r14d, r14d                  # accesses due, in hundredths
        xor     r15d, r15d                  # accesses made
again:
        WORK
        add     r14, [L2_OWN + 2*8]
        mov     ecx, [L2_OWN + 3*8]
read:
        cmp     r14, 100
        jb      leave
        sub     r14, 100
        inc     r15
        rdmsr                               # changes RAX, RDX
        jmp     read
leave:
        xor     eax, eax
        xor     ecx, ecx
        cpuid                               # changes RAX, RBX, RCX, RDX
        dec     r12
        jnz     again
        mov     rax, r15
        FINISH
