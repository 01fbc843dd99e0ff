# @title   RDMSR and WRMSR in a loop
# @param iterations    16 5000 1 1000000000 operations : how many accesses
# @param work          17 100 0 1000000 instructions : plain instructions between two of them
# @param msr           18 0x1a0 0 0xffffffff number : which MSR; 0x4b564d00 lies outside of the permission maps, 0xc0000100 is let through by L1
# @param write_percent 19 50 0 100 percent : share of writes
#
# Inside its ranges the permission map decides whether an access exits, outside it always does.
# Writes put back the value read at the start.

.intel_syntax noprefix
.include "l2.inc"

        .text
        .globl  _start
_start:
        mov     r12, [L2_OWN + 0*8]
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
        mov     r15, [L2_OWN + 3*8]
        xor     r14d, r14d
        mov     ecx, [L2_OWN + 2*8]
        rdmsr
        mov     r8d, eax                    # the value that writes put back
        mov     r9d, edx
        xor     ebx, ebx                    # writes done
again:
        WORK
        mov     ecx, [L2_OWN + 2*8]
        WRITE_SHARE write
        rdmsr
        dec     r12
        jnz     again
        jmp     done
write:
        sub     r14, 100
        inc     rbx
        mov     eax, r8d
        mov     edx, r9d
        wrmsr
        dec     r12
        jnz     again
done:
        mov     rax, rbx
        FINISH
