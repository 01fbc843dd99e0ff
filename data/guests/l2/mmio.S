# @title   Accesses to a register of a device in memory (MMIO), in a loop
# @param iterations    16 5000 1 1000000000 operations : how many accesses
# @param work          17 100 0 1000000 instructions : plain instructions between two of them
# @param address       18 0xfeb01000 0xc0000000 0xfffffff8 address : of the register; 0xfeb00000 is a doorbell of L1, 0xfee000b0 the end-of-interrupt register of a local APIC
# @param write_percent 19 50 0 100 percent : share of writes
#
# No memory is at the register, so each access exits.  The L1 program kvm-6.12 has a device and a
# doorbell (VMX), kvm-87 with apic_page=1 a local APIC; to others it is an access to nothing.

.intel_syntax noprefix
.include "l2.inc"
.set DIRECTORY,     L2_WORKING_SET          # a table for the fourth gigabyte
.set TABLE,         3                       # present, writable
.set MAPPED_LARGE,  0x83                    # and 2 MB at once

        .text
        .globl  _start
_start:
        # map 2 MB around the register one to one: PML4[0] -> PDPT[3] -> directory
        mov     rax, cr3
        and     rax, -4096
        mov     rax, [rax]
        and     rax, -4096
        mov     qword ptr [rax + 3*8], DIRECTORY + TABLE
        mov     ebx, [L2_OWN + 2*8]
        and     ebx, -4
        mov     ecx, ebx
        shr     ecx, 21
        and     ecx, 511
        mov     edx, ebx
        and     edx, -(1 << 21)
        or      rdx, MAPPED_LARGE
        mov     [DIRECTORY + rcx*8], rdx
        mov     r12, [L2_OWN + 0*8]
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
        mov     r15, [L2_OWN + 3*8]
        xor     r14d, r14d
        xor     r8d, r8d                    # writes done
again:
        WORK
        WRITE_SHARE write
        mov     eax, [rbx]
        dec     r12
        jnz     again
        jmp     done
write:
        sub     r14, 100
        inc     r8
        mov     [rbx], r12d
        dec     r12
        jnz     again
done:
        mov     rax, r8
        FINISH
