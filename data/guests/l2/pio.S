# @title   Port input and output in a loop
# @param iterations    16 5000 1 1000000000 operations : how many accesses
# @param work          17 100 0 1000000 instructions : plain instructions between two of them
# @param port          18 0x70 0 0xffff port : which port; 0x80 and 0xed are let through by L1
# @param write_percent 19 50 0 100 percent : share of OUT

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
        mov     edx, [L2_OWN + 2*8]
        xor     ebx, ebx                    # writes done
again:
        WORK
        WRITE_SHARE write
        in      al, dx
        dec     r12
        jnz     again
        jmp     done
write:
        sub     r14, 100
        inc     rbx
        mov     al, '.'
        out     dx, al
        dec     r12
        jnz     again
done:
        mov     rax, rbx
        FINISH
