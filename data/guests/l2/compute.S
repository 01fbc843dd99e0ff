# @title   Arithmetic, loads, stores and branches; no exits
# @param iterations 16 300000 1 1000000000000 rounds : rounds of twelve or thirteen instructions
# @param pages      17 16 1 65536 pages : 4 KB pages of data, rounded down to a power of two
# @memory 0x200000 + 4096 * pages
#
# What L2 costs when it needs nobody.  Each round reads and writes one word of the data and branches
# on a bit of it.

.intel_syntax noprefix
.include "l2.inc"

        .text
        .globl  _start
_start:
        mov     r12, [L2_OWN + 0*8]
        # R8 = mask of an aligned byte offset within the data
        mov     rax, [L2_OWN + 1*8]
        bsr     rcx, rax
        mov     r8d, 4096
        shl     r8, cl
        sub     r8, 8
        mov     r9, 6364136223846793005     # the generator of touch.S
        mov     r10, 1442695040888963407
        mov     rax, 1
        xor     ebx, ebx
round:
        imul    rax, r9
        add     rax, r10
        mov     rdx, rax
        shr     rdx, 33
        and     rdx, r8                     # a word of the data
        mov     rsi, [rdx + L2_WORKING_SET]
        xor     rsi, rax
        mov     [rdx + L2_WORKING_SET], rsi
        test    esi, 0x10000
        jz      even
        add     rbx, rsi
even:
        dec     r12
        jnz     round
        mov     rax, rbx
        FINISH
