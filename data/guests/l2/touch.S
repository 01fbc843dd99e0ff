# @title   Touch memory: first touches, then walks over the working set
# @param pages   16 256 1 131072 pages : 4 KB pages in the working set
# @param passes  17 50 0 1000000 passes : walks over it after the first touch
# @param pattern 18 0 0 1 choice : 0 one page after the other, 1 random pages
# @param stride  19 1 1 4096 pages : distance between neighbouring pages of the set
# @memory 0x200000 + 4096 * pages * stride
#
# The first touch of a page costs a nested page fault (in L1's units of mapping); later ones cost TLB
# misses when the set is larger than the TLB, or when something flushed it.

.intel_syntax noprefix
.include "l2.inc"

        .text
        .globl  _start
_start:
        mov     r8, [L2_OWN + 0*8]          # pages
        mov     r9, [L2_OWN + 1*8]          # passes left
        mov     r10, [L2_OWN + 3*8]         # bytes from page to page
        shl     r10, 12

        # ---- first touch: write each page's number into it
        mov     rdi, L2_WORKING_SET
        xor     eax, eax
first:
        mov     [rdi], rax
        add     rdi, r10
        inc     rax
        cmp     rax, r8
        jb      first

        xor     ebx, ebx                    # sum of what the walks read
        test    r9, r9
        jz      done
        cmp     dword ptr [L2_OWN + 2*8], 1
        je      random

        # ---- strided: every page in order
pass:
        mov     rdi, L2_WORKING_SET
        mov     rcx, r8
step:
        add     rbx, [rdi]
        add     rdi, r10
        dec     rcx
        jnz     step
        dec     r9
        jnz     pass
        jmp     done

        # ---- random: as many accesses, pages drawn by a linear congruential generator
        # (multiplier and increment: D. E. Knuth, MMIX); the high half selects the page
random:
        mov     r11, 6364136223846793005
        mov     r14, 1442695040888963407
        mov     rax, 1
random_pass:
        mov     rcx, r8
random_step:
        imul    rax, r11
        add     rax, r14
        mov     rdx, rax
        shr     rdx, 32
        imul    rdx, r8
        shr     rdx, 32                     # 0 <= RDX < pages
        imul    rdx, r10
        add     rbx, [rdx + L2_WORKING_SET]
        dec     rcx
        jnz     random_step
        dec     r9
        jnz     random_pass
done:
        mov     rax, rbx
        FINISH
