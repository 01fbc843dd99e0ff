# @title   Writes of CR0 or CR4
# @param iterations 16 50 1 1000000 operations : how many writes
# @param register   17 0 0 4 number : 0 CR0 (AM goes on and off), 4 CR4 (VME does)
# @param check      18 0 0 1 switch : 1: read each back
#
# Returns in RAX how often the register did not read as written.

.intel_syntax noprefix
.include "l2.inc"
.set CR0_AM,    1 << 18
.set CR4_VME,   1 << 0

        .text
        .globl  _start
_start:
        mov     r12, [L2_OWN + 0*8]
        xor     eax, eax
        cmp     qword ptr [L2_OWN + 1*8], 0
        mov     rbx, cr0
        je      again
        mov     rbx, cr4
        jmp     again_cr4
again:
        xor     rbx, CR0_AM
        mov     cr0, rbx
        cmp     qword ptr [L2_OWN + 2*8], 0
        je      next_cr0
        mov     rcx, cr0
        cmp     rcx, rbx
        setne   cl
        movzx   ecx, cl
        add     rax, rcx
next_cr0:
        dec     r12
        jnz     again
        FINISH
again_cr4:
        xor     rbx, CR4_VME
        mov     cr4, rbx
        cmp     qword ptr [L2_OWN + 2*8], 0
        je      next_cr4
        mov     rcx, cr4
        cmp     rcx, rbx
        setne   cl
        movzx   ecx, cl
        add     rax, rcx
next_cr4:
        dec     r12
        jnz     again_cr4
        FINISH
