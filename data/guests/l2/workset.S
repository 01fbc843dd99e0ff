# @title   A working set read at random, and page-table changes at a rate of their own
# @param accesses 16 20000 0 1000000000 accesses : accesses to random pages, after one to each page in order
# @param pages    17 256 1 8192 pages : 4 KB pages in the working set
# @param changes  18 1000 0 1000000 changes : page-table changes in a million accesses
# @param work     19 20 0 1000000 instructions : plain instructions between two accesses
# @param cpuid    20 0 0 1000000 exits : CPUIDs in a million accesses; each goes to L1
# @memory 0x200000 + 4096 * (20 + pages)
#
# A change gives the page that is accessed next another frame, as page migration and copy on write do:
# write the entry, INVLPG.  One frame is spare; it goes in and the old one becomes the spare.  With
# nested paging nothing of this exits, but a page of the set may miss in the TLB; a hypervisor that
# shadows the tables has two exits for each change.  RAX at the end: changes.

.intel_syntax noprefix
.include "l2.inc"
.set WINDOW,            0x80000000          # entry 2 of the PDPT
.set ENTRY_FLAGS,       3                   # present, writable
.set USED_FLAGS,        0x60                # accessed, dirty
.set PML4,              L2_WORKING_SET
.set PDPT,              PML4 + 0x1000
.set DIRECTORY,         PML4 + 0x2000
.set TABLES,            PML4 + 0x3000       # 16 page tables, one behind the other
.set TABLE_COUNT,       16
.set SPARE,             TABLES + 0x1000 * TABLE_COUNT
.set FRAMES,            SPARE + 0x1000

        .text
        .globl  _start
_start:
        mov     r8, [L2_OWN + 1*8]
        # the first gigabyte as in the space L2 started with
        mov     rax, cr3
        and     rax, -4096
        mov     rax, [rax]
        and     rax, -4096
        mov     rax, [rax]
        mov     [PDPT], rax
        mov     qword ptr [PML4], PDPT + ENTRY_FLAGS
        mov     qword ptr [PDPT + 2*8], DIRECTORY + ENTRY_FLAGS
        xor     ecx, ecx
        mov     eax, TABLES + ENTRY_FLAGS
table:  mov     [rcx*8 + DIRECTORY], rax
        add     rax, 0x1000
        inc     ecx
        cmp     ecx, TABLE_COUNT
        jb      table
        xor     ecx, ecx
        mov     eax, FRAMES + ENTRY_FLAGS
frame:  mov     [rcx*8 + TABLES], rax
        add     rax, 0x1000
        inc     rcx
        cmp     rcx, r8
        jb      frame
        mov     eax, PML4
        mov     cr3, rax

        # ---- each page once
        mov     edi, WINDOW
        mov     rcx, r8
first:  inc     qword ptr [rdi]
        add     rdi, 4096
        dec     rcx
        jnz     first

        # ---- pages drawn by a linear congruential generator (multiplier and increment: D. E. Knuth, MMIX)
        xor     ebp, ebp                    # changes made
        mov     r15, [L2_OWN + 0*8]
        test    r15, r15
        jz      done
        mov     r9, [L2_OWN + 2*8]
        xor     r10d, r10d                  # changes due, in millionths
        xor     esi, esi                    # CPUIDs due
        mov     r11d, 1
        mov     r12, 6364136223846793005
        mov     r14, 1442695040888963407
        mov     r13, [L2_OWN + 3*8]
        shr     r13, 1
        mov     ebx, SPARE + ENTRY_FLAGS
again:
        WORK
        imul    r11, r12
        add     r11, r14
        mov     rdx, r11
        shr     rdx, 32
        imul    rdx, r8
        shr     rdx, 32                     # 0 <= RDX < pages
        mov     rdi, rdx
        shl     rdi, 12
        mov     eax, WINDOW
        add     rdi, rax
        add     r10, r9
        cmp     r10, 1000000
        jb      access
        sub     r10, 1000000
        inc     rbp
        mov     rax, [rdx*8 + TABLES]
        mov     [rdx*8 + TABLES], rbx
        and     rax, ~USED_FLAGS
        mov     rbx, rax
        invlpg  [rdi]
access:
        inc     qword ptr [rdi]
        add     rsi, [L2_OWN + 4*8]
        cmp     rsi, 1000000
        jb      stay
        sub     rsi, 1000000
        push    rbx
        xor     eax, eax
        cpuid                               # changes RAX, RBX, RCX, RDX
        pop     rbx
stay:
        dec     r15
        jnz     again
done:
        mov     rax, rbp
        FINISH
