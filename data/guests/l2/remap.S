# @title   Page-table changes: pages of a window are mapped elsewhere, one after the other
# @param iterations 16 2000 1 1000000000 operations : how many changes
# @param work       17 100 0 1000000 instructions : plain instructions between two of them
# @param pages      18 16 1 512 pages : pages of the window, and as many to map there
# @param touches    19 1 0 1000 accesses : reads after each change, from the first page of the window on; at most pages
# @memory 0x200000 + 4096 * (4 + pages)
#
# As a kernel does for a page fault, copy on write or swapping: write the entry, INVLPG, use the page.
# With nested paging none of this exits.  A hypervisor that shadows the page tables has two exits for
# each change, INVLPG and the page fault that fills the shadow again.

.intel_syntax noprefix
.include "l2.inc"
.include "spaces.inc"

        .text
        .globl  _start
_start:
        mov     edi, L2_WORKING_SET
        mov     esi, 1
        mov     rdx, [L2_OWN + 2*8]
        call    build_spaces
        mov     eax, L2_WORKING_SET
        mov     cr3, rax
        mov     r12, [L2_OWN + 0*8]         # changes left
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
        mov     rdx, [L2_OWN + 2*8]
        mov     r14, [L2_OWN + 3*8]
        TOUCH_SPACE                         # every page once: what follows are changes only
        xor     r8d, r8d                    # page of the window
        mov     r9d, 1                      # page of memory that goes there
again:
        WORK
        inc     r9                          # never the one that is there
        cmp     r9, rdx
        jb      page_chosen
        xor     r9d, r9d
page_chosen:
        mov     rax, r9
        shl     rax, 12
        add     rax, L2_WORKING_SET + 0x4000 + ENTRY_FLAGS
        mov     [r8*8 + L2_WORKING_SET + 0x3000], rax
        mov     rdi, r8
        shl     rdi, 12
        mov     eax, SPACE_WINDOW
        add     rdi, rax
        invlpg  [rdi]
        inc     qword ptr [rdi]
        mov     rcx, r14
        jrcxz   touched
        mov     esi, SPACE_WINDOW           # then the pages from the start of the window on
touch:
        mov     rax, [rsi]
        add     rsi, 4096
        dec     rcx
        jnz     touch
touched:
        inc     r8
        cmp     r8, rdx
        jb      next
        xor     r8d, r8d
        inc     r9                          # another order each time round
next:
        dec     r12
        jnz     again
        mov     edi, SPACE_WINDOW
        mov     rax, [rdi]
        FINISH
