# @title   L1 hypervisor with several nested roots for one L2 (AMD SVM)
# @backend svm
# @param unmap_period  16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages   17 1 1 64 pages : how many pages each time, those mapped last
# @param roots         18 2 1 16 tables : nested tables that L2 runs under in turn, all with the same mapping
# @param switch_period 19 1 1 1000000000 exits : L2 exits from one table to the next
# @param own_tags      20 1 0 1 choice : 1 each table has an ASID of its own, 0 one for all
# @param write_protect 21 0 0 1 choice : 1 write-protect the pages instead of taking them away
#
# The minimal hypervisor (minimal-svm.S), which see, but L2 runs under one of several nested tables,
# and every so many exits under the next: as for an L1 with several guests, or one that keeps views
# with different rights.  What L0 builds from these tables decides how often L2 faults.
# Each table is filled on demand by L2's faults under it.  That all share an ASID is legal because
# all map the same.

.intel_syntax noprefix
.set TWIN, 1
.set NESTED_ROOTS, 16
.set NESTED_TABLES, 1 + 1 + 120             # per root: enough for 240 MB of 4 KB pages
.include "l1.inc"
.include "svm.inc"
.set L1_ROOTS,          L1_OWN + 2*8
.set L1_SWITCH_PERIOD,  L1_OWN + 3*8
.set L1_OWN_TAGS,       L1_OWN + 4*8
.set L1_WRITE_PROTECT,  L1_OWN + 5*8
.set FLUSH_KIND, TLB_FLUSH_ALL                       # TLB_CONTROL: all ASIDs, the pages may be of any table

        .text
# The next table in turn.  RAX is free, the rest is L2's.
switch_root:
        push    rcx
        mov     rax, [L1_SWITCH_PERIOD]
        mov     [switch_left], rax
        mov     rcx, [root_index]
        inc     rcx
        cmp     rcx, [L1_ROOTS]
        jb      root_chosen
        xor     ecx, ecx
root_chosen:
        mov     [root_index], rcx
        mov     rax, rcx
        shl     rax, 12
        add     rax, offset nested_root
        mov     [root_now], rax
        mov     [vmcb + VMCB_NESTED_CR3], rax
        and     dword ptr [vmcb + VMCB_CLEAN], ~(CLEAN_NP | CLEAN_ASID)
        cmp     qword ptr [L1_OWN_TAGS], 0
        je      tag_chosen
        inc     ecx
        mov     [vmcb + VMCB_ASID], ecx
tag_chosen:
        pop     rcx
        jmp     switched

        .data
switch_left:    .quad   1                   # the first entry already changes tables
root_index:     .quad   0

.include "minimal-svm.S"
