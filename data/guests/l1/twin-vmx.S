# @title   L1 hypervisor with several nested roots for one L2 (Intel VMX)
# @backend vmx
# @param unmap_period  16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages   17 1 1 64 pages : how many pages each time, those mapped last
# @param roots         18 2 1 16 tables : nested tables that L2 runs under in turn, all with the same mapping
# @param switch_period 19 1 1 1000000000 exits : L2 exits from one table to the next
# @param own_tags      20 1 0 1 choice : 1 each table has a VPID of its own, 0 one for all
# @param write_protect 21 0 0 1 choice : 1 write-protect the pages instead of taking them away
#
# The minimal hypervisor (minimal-vmx.S), which see, but L2 runs under one of several nested tables,
# and every so many exits under the next: as for an L1 with several guests, or one that keeps views
# with different rights.  What L0 builds from these tables decides how often L2 faults.
# Each table is filled on demand by L2's faults under it.  That all share a VPID is legal: the
# processor tells translations of different EPT roots apart.

.intel_syntax noprefix
.set TWIN, 1
.set NESTED_ROOTS, 16
.set NESTED_TABLES, 1 + 1 + 120             # per root: enough for 240 MB of 4 KB pages
.include "l1.inc"
.include "vmx.inc"
.set L1_ROOTS,          L1_OWN + 2*8
.set L1_SWITCH_PERIOD,  L1_OWN + 3*8
.set L1_OWN_TAGS,       L1_OWN + 4*8
.set L1_WRITE_PROTECT,  L1_OWN + 5*8
.set INVEPT_KIND, INVEPT_ALL_CONTEXT                      # all contexts: the pages may be of any table

        .text
# The next table in turn.  All registers are L2's.
switch_root:
        push    rax
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
        shl     rcx, 12
        add     rcx, offset nested_root
        mov     [root_now], rcx
        mov     rax, [eptp]
        and     eax, 0xfff                  # what EPTP has besides the address
        or      rcx, rax
        mov     [eptp], rcx
        mov     eax, EPT_POINTER
        vmwrite rax, rcx
        cmp     qword ptr [L1_OWN_TAGS], 0
        je      tag_chosen
        cmp     qword ptr [L1_USE_VPID], 0
        je      tag_chosen
        mov     rcx, [root_index]
        inc     ecx
        mov     eax, VIRTUAL_PROCESSOR_ID
        vmwrite rax, rcx
tag_chosen:
        pop     rcx
        pop     rax
        ret

        .data
switch_left:    .quad   1                   # the first resumption already changes tables
root_index:     .quad   0

.include "minimal-vmx.S"
