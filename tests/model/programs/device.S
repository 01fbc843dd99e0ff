# @title   Reads and writes of a device's registers (MMIO)
# @param iterations 16 50 1 1000000 operations : how many accesses
# @param doorbell   17 0 0 1 switch : 1: only write to the doorbell
#
# Returns in RAX how many reads did not give back what was written.

.intel_syntax noprefix
.include "l2.inc"
.set PAGE,          0xfeb01000
.set DOORBELL,      0xfeb00000
.set DIRECTORY,     L2_WORKING_SET          # a table for the fourth gigabyte
.set MAPPED_LARGE,  0x83

        .text
        .globl  _start
_start:
        # map 2 MB around the device one to one: PML4[0] -> PDPT[3] -> directory
        mov     rax, cr3
        and     rax, -4096
        mov     rax, [rax]
        and     rax, -4096
        mov     qword ptr [rax + 3*8], DIRECTORY + 3
        mov     edi, 0xfea00000 + MAPPED_LARGE
        mov     [DIRECTORY + 0x1f5*8], rdi
        mov     r12, [L2_OWN + 0*8]
        xor     r8d, r8d
        xor     r10d, r10d
        mov     r9d, PAGE
        cmp     qword ptr [L2_OWN + 1*8], 0
        jne     ring
again:
        mov     rax, r12
        mov     [r9 + 0x18], rax            # 64 bits
        dec     r12
        jz      done
        mov     rcx, [r9 + 0x18]
        xor     rcx, rax
        or      r8, rcx
        dec     r12
        jz      done
        mov     [r9 + r10*4 + 0x218], r12d  # 32 bits, SIB
        dec     r12
        jz      done
        mov     edx, [r9 + 0x218]
        sub     edx, 1
        xor     edx, r12d
        or      r8, rdx
        dec     r12
        jnz     again
done:
        mov     rax, r8
        FINISH
ring:
        mov     r9d, DOORBELL
ring_again:
        mov     [r9], r12d
        dec     r12
        jnz     ring_again
        xor     eax, eax
        FINISH
