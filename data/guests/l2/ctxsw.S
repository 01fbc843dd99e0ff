# @title   Context switches: CR3 goes round among address spaces
# @param spaces   16 8 1 1024 spaces : how many address spaces
# @param pages    17 16 1 512 pages : pages touched after each switch
# @param switches 18 3000 1 1000000000 operations : how many switches
# @param pcid     19 0 0 1 switch : 1 gives every space a PCID, so that switching keeps translations
# @memory 0x200000 + 4096 * (4 + pages) * spaces
#
# With nested paging MOV to CR3 does not exit.  Its cost is what it drops from the TLB.

.intel_syntax noprefix
.include "l2.inc"
.include "spaces.inc"
.set CR4_PCIDE,         1 << 17
.set CR3_NO_FLUSH_BIT,  63

        .text
        .globl  _start
_start:
        mov     edi, L2_WORKING_SET
        mov     rsi, [L2_OWN + 0*8]
        mov     rdx, [L2_OWN + 1*8]
        call    build_spaces
        mov     r8, rax                     # from space to space

        xor     r10d, r10d                  # added to CR3: nothing, or PCID and no-flush bit
        xor     r11d, r11d                  # added per space
        cmp     qword ptr [L2_OWN + 3*8], 0
        je      start
        mov     rax, cr4
        or      rax, CR4_PCIDE
        mov     cr4, rax
        bts     r10, CR3_NO_FLUSH_BIT
        inc     r10                         # PCIDs from 1
        mov     r11d, 1
start:
        mov     r12, [L2_OWN + 2*8]         # switches left
        mov     rdx, [L2_OWN + 1*8]
rewind:
        mov     r9d, L2_WORKING_SET         # PML4 of the next space
        add     r9, r10
        mov     r14, [L2_OWN + 0*8]         # spaces until the first comes again
switch:
        mov     cr3, r9
        TOUCH_SPACE
        add     r9, r8
        add     r9, r11
        dec     r12
        jz      done
        dec     r14
        jnz     switch
        jmp     rewind
done:
        mov     edi, SPACE_WINDOW
        mov     rax, [rdi]                  # how often the last space was touched
        FINISH
