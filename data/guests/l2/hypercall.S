# @title   Hypercalls in a loop
# @param iterations 16 5000 1 1000000000 operations : how many hypercalls
# @param work       17 100 0 1000000 instructions : plain instructions between two of them
# @param greeting   18 1 0 1 switch : 1 first says hello through L1's print hypercall
#
# The hypercall in the loop does nothing.

.intel_syntax noprefix
.include "l2.inc"

        .text
        .globl  _start
_start:
        cmp     dword ptr [L2_OWN + 2*8], 0
        je      printed
        mov     esi, offset message
print:
        movzx   ebx, byte ptr [rsi]         # BL = the character
        test    ebx, ebx
        jz      printed
        mov     eax, HYPERCALL_PRINT
        HYPERCALL
        inc     rsi
        jmp     print
printed:
        mov     r12, [L2_OWN + 0*8]
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
        xor     r8d, r8d                    # calls that L1 refused
        xor     r9d, r9d
again:
        WORK
        mov     eax, HYPERCALL_NOTHING
        HYPERCALL
        cmp     rax, 1                      # carry when RAX is 0
        sbb     r9, -1                      # so this counts the others
        dec     r12
        jnz     again
        mov     rax, r9
        FINISH

        .section .rodata
message:
        .asciz  "hello from L2\n"
