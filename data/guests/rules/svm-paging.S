# @title   Rules of SVM: nested paging and its faults
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.paging

.set PAGE_1, WINDOW + 0x1000
.set ENTRY_1, WINDOW_ENTRY + 8
.set NX, 1 << 63
.set ACCESSED, 0x20
.set DIRTY, 0x40

.macro FAULTED info, address
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NPF
        CHECK   [vmcb + VMCB_RIP], [l2_first]
        INFO1   \info
        INFO2   \address
.endm

RULE read_of_an_absent_page, "A read of a page that is not present has U and the final access in EXITINFO1, the address in EXITINFO2", "APM vol. 2, 15.25.6"
        mov     qword ptr [ENTRY_1], 0
        L2      mov rbx, [PAGE_1 + 0x18]
        FAULTED NPF_USER | NPF_FINAL, PAGE_1 + 0x18
RULE write_to_an_absent_page, "A write to a page that is not present has RW", "APM vol. 2, 15.25.6"
        mov     qword ptr [ENTRY_1], 0
        L2      mov [PAGE_1], rbx
        FAULTED NPF_USER | NPF_WRITE | NPF_FINAL, PAGE_1
RULE fetch_from_an_absent_page, "A fetch from a page that is not present has ID", "APM vol. 2, 15.25.6"
        mov     qword ptr [ENTRY_1], 0
        mov     qword ptr [l2_first], PAGE_1
        call    run_first
        FAULTED NPF_USER | NPF_FETCH | NPF_FINAL, PAGE_1
RULE absent_directory, "P is 0 whatever level is missing", "APM vol. 2, 15.25.6"
        mov     qword ptr [nested_pd + (WINDOW >> 21)*8], 0
        L2      mov rbx, [PAGE_1]
        FAULTED NPF_USER | NPF_FINAL, PAGE_1
RULE address_beyond_the_table, "An address that no entry covers is a nested page fault", "APM vol. 2, 15.25.6"
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        mov     rax, 0x4000000000 + 7
        mov     [L2_PRIVATE_ENTRY], rax
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        FAULTED NPF_USER | NPF_FINAL, 0x4000000000
RULE write_to_a_read_only_page, "A write to a read-only page has P and RW", "APM vol. 2, 15.25.6"
        and     byte ptr [ENTRY_1], ~2
        L2      mov [PAGE_1], rbx
        FAULTED NPF_PRESENT | NPF_WRITE | NPF_USER | NPF_FINAL, PAGE_1
RULE write_to_a_read_only_page_after_a_read, "A cached translation does not grant the write", "APM vol. 2, 15.25.5"
DEVIATION "l0=xen", "L2 has the rights of Xen's own table in a page that it has read (np2m_host_rights)"
        and     byte ptr [ENTRY_1], ~2
        L2      mov rbx, [PAGE_1]
        EXECUTED
        L2      mov [PAGE_1], rbx
        FAULTED NPF_PRESENT | NPF_WRITE | NPF_USER | NPF_FINAL, PAGE_1
RULE write_below_a_read_only_directory, "The rights of all levels are combined", "APM vol. 2, 15.25.5"
        and     byte ptr [nested_pd + (WINDOW >> 21)*8], ~2
        L2      mov [PAGE_1], rbx
        FAULTED NPF_PRESENT | NPF_WRITE | NPF_USER | NPF_FINAL, PAGE_1
RULE write_is_not_excused_by_cr0_wp, "CR0.WP of L2 does not count: nested accesses are user accesses", "APM vol. 2, 15.25.5"
        and     byte ptr [ENTRY_1], ~2
        and     dword ptr [vmcb + VMCB_CR0], ~(1 << 16)
        L2      mov [PAGE_1], rbx
        FAULTED NPF_PRESENT | NPF_WRITE | NPF_USER | NPF_FINAL, PAGE_1
RULE read_of_a_read_only_page, "A read-only page may be read", "APM vol. 2, 15.25.5"
        and     byte ptr [ENTRY_1], ~2
        mov     qword ptr [PAGE_1], 0x4711
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 0x4711
RULE fetch_from_a_no_execute_page, "A fetch from a no-execute page has P and ID", "APM vol. 2, 15.25.6"
        mov     byte ptr [PAGE_1], 0xf4
        or      dword ptr [ENTRY_1 + 4], 1 << 31
        mov     qword ptr [l2_first], PAGE_1
        call    run_first
        FAULTED NPF_PRESENT | NPF_FETCH | NPF_USER | NPF_FINAL, PAGE_1
RULE read_of_a_no_execute_page, "A no-execute page may be read", "APM vol. 2, 15.25.5"
        or      dword ptr [ENTRY_1 + 4], 1 << 31
        L2      mov rbx, [PAGE_1]
        EXECUTED
RULE supervisor_page_of_the_nested_table, "An entry without U faults with P, as nested accesses are user accesses", "APM vol. 2, 15.25.5"
        and     byte ptr [ENTRY_1], ~4
        L2      mov rbx, [PAGE_1]
        FAULTED NPF_PRESENT | NPF_USER | NPF_FINAL, PAGE_1
RULE reserved_bit_of_a_nested_entry, "A reserved bit in an entry has RSV", "APM vol. 2, 15.25.6"
        or      dword ptr [ENTRY_1 + 4], 1 << 19
        L2      mov rbx, [PAGE_1]
        FAULTED NPF_PRESENT | NPF_USER | 8 | NPF_FINAL, PAGE_1
RULE walk_of_l2_tables_faults, "A fault on the way through L2's tables has bit 33 and counts as a write", "APM vol. 2, 15.25.6"
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        mov     qword ptr [WINDOW_ENTRY + 5*8], 0
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        FAULTED NPF_USER | NPF_WRITE | NPF_TABLE, L2_PRIVATE_ENTRY
RULE walk_of_read_only_l2_tables_faults, "L2's tables must be writable, as references to them count as writes", "APM vol. 2, 15.25.6"
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        and     byte ptr [WINDOW_ENTRY + 5*8], ~2
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        FAULTED NPF_PRESENT | NPF_USER | NPF_WRITE | NPF_TABLE, L2_PRIVATE_ENTRY
RULE fault_of_l2_comes_before_the_nested_fault, "L2's own rights come before those of the nested table", "APM vol. 2, 15.25.6"
        INTERCEPT VMEXIT_EXCEPTION + EXC_PF
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        and     byte ptr [L2_PRIVATE_ENTRY], ~2
        mov     qword ptr [WINDOW_ENTRY], 0
        mov     rcx, L2_PRIVATE
        L2      mov [rcx], rbx
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_EXCEPTION + EXC_PF
        INFO1   3
RULE page_mapped_after_its_fault, "L2 goes on when L1 has mapped the page", "APM vol. 2, 15.25.6"
        mov     qword ptr [ENTRY_1], 0
        mov     qword ptr [PAGE_1], 0x815
        L2      mov rbx, [PAGE_1]
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NPF
        mov     qword ptr [ENTRY_1], PAGE_1 + LEAF_FLAGS
        call    run_on
        EXECUTED
        CHECK   rbx, 0x815
RULE page_elsewhere, "The nested table decides where a page of L2 is", "APM vol. 2, 15.25.5"
        mov     qword ptr [ENTRY_1], WINDOW + 0x3000 + LEAF_FLAGS
        mov     qword ptr [WINDOW + 0x3000], 0x999
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 0x999
RULE large_page_of_2_mb, "Bit 7 of a directory entry maps 2 MB", "APM vol. 2, 15.25.5"
        mov     qword ptr [nested_pd + (WINDOW >> 21)*8], WINDOW + 0x200000 + LEAF_FLAGS + 0x80
        mov     qword ptr [WINDOW + 0x200000 + 0x12340], 0x2222
        L2      mov rbx, [WINDOW + 0x12340]
        EXECUTED
        CHECK   rbx, 0x2222
RULE large_page_of_1_gb, "Bit 7 of a directory-pointer entry maps 1 GB", "APM vol. 2, 15.25.5"
        mov     qword ptr [nested_pdpt], LEAF_FLAGS + 0x80
        mov     qword ptr [PAGE_1], 0x1111
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 0x1111
RULE read_only_large_page, "A large page has rights of its own", "APM vol. 2, 15.25.5"
        mov     qword ptr [nested_pd + (WINDOW >> 21)*8], WINDOW + 0x80 + 5
        L2      mov [PAGE_1], rbx
        FAULTED NPF_PRESENT | NPF_WRITE | NPF_USER | NPF_FINAL, PAGE_1

# ------------------------------------------------------------------ accessed and dirty bits

RULE read_sets_accessed, "A read sets the accessed bit of every level and no dirty bit", "APM vol. 2, 15.25.7"
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK_BITS [ENTRY_1], ACCESSED | DIRTY, ACCESSED
        CHECK_BITS [nested_pd + (WINDOW >> 21)*8], ACCESSED, ACCESSED
        CHECK_BITS [nested_pdpt], ACCESSED, ACCESSED
        CHECK_BITS [nested_root], ACCESSED, ACCESSED
RULE write_sets_dirty, "A write sets the dirty bit of the leaf", "APM vol. 2, 15.25.7"
        L2      mov [PAGE_1], rbx
        EXECUTED
        CHECK_BITS [ENTRY_1], ACCESSED | DIRTY, ACCESSED | DIRTY
RULE write_after_a_read_sets_dirty, "A write to a page that was only read sets its dirty bit", "APM vol. 2, 15.25.7"
DEVIATION "l0=xen", "L2 has the rights of Xen's own table in a page that it has read (np2m_host_rights)"
        L2      mov rbx, [PAGE_1]
        EXECUTED
        L2      mov [PAGE_1], rbx
        EXECUTED
        CHECK_BITS [ENTRY_1], ACCESSED | DIRTY, ACCESSED | DIRTY
RULE untouched_page_stays_clean, "A page that L2 does not touch keeps its bits clear", "APM vol. 2, 15.25.7"
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK_BITS [ENTRY_1 + 8], ACCESSED | DIRTY, 0
RULE refused_write_sets_nothing_dirty, "A write that faults sets no dirty bit", "APM vol. 2, 15.25.7"
        and     byte ptr [ENTRY_1], ~2
        L2      mov [PAGE_1], rbx
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NPF
        CHECK_BITS [ENTRY_1], DIRTY, 0

# ------------------------------------------------------------------ invalidation

RULE tlb_control_flush_asid, "TLB_CONTROL 3 makes a changed mapping visible", "APM vol. 2, 15.16.1"
DEVIATION "np2m_flush=generation", "Xen since 2017 forgets its choice of table only: VMRUN finds it again with all it holds (np2m_flush)"
        mov     qword ptr [PAGE_1], 0x1
        mov     qword ptr [WINDOW + 0x3000], 0x3
        L2      mov rbx, [PAGE_1]
        CHECK   rbx, 1
        mov     qword ptr [ENTRY_1], WINDOW + 0x3000 + LEAF_FLAGS
        mov     byte ptr [vmcb + VMCB_TLB_CTL], 3
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 3
RULE tlb_control_flush_all, "TLB_CONTROL 1 makes a changed mapping visible", "APM vol. 2, 15.16.1"
DEVIATION "np2m_flush=generation", "Xen since 2017 forgets its choice of table only: VMRUN finds it again with all it holds (np2m_flush)"
        mov     qword ptr [PAGE_1], 0x1
        mov     qword ptr [WINDOW + 0x3000], 0x3
        L2      mov rbx, [PAGE_1]
        mov     qword ptr [ENTRY_1], WINDOW + 0x3000 + LEAF_FLAGS
        mov     byte ptr [vmcb + VMCB_TLB_CTL], 1
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 3
RULE new_asid_starts_empty, "A new ASID has no translations of the old one", "APM vol. 2, 15.16"
DEVIATION "np2m_flush=generation", "Xen since 2017 forgets its choice of table only: VMRUN finds it again with all it holds (np2m_flush)"
        mov     qword ptr [PAGE_1], 0x1
        mov     qword ptr [WINDOW + 0x3000], 0x3
        L2      mov rbx, [PAGE_1]
        mov     qword ptr [ENTRY_1], WINDOW + 0x3000 + LEAF_FLAGS
        inc     dword ptr [vmcb + VMCB_ASID]
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 3
RULE leaving_svm_drops_what_was_built, "After EFER.SVME was off L2 finds the nested table as it is then", "nested L0: a reset drops n2p_to_l0m and L2's tag"
        mov     qword ptr [PAGE_1], 0x1
        mov     qword ptr [WINDOW + 0x3000], 0x3
        L2      mov rbx, [PAGE_1]
        mov     qword ptr [ENTRY_1], WINDOW + 0x3000 + LEAF_FLAGS
        mov     ecx, MSR_EFER
        mov     eax, EFER_LME_LMA_NXE_SCE
        xor     edx, edx
        wrmsr
        mov     eax, EFER_SVME | EFER_LME_LMA_NXE_SCE
        wrmsr
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 3
RULE invlpga_drops_a_translation, "INVLPGA of L1 makes a change of L2's tables visible", "APM vol. 2, 15.16.3"
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        mov     qword ptr [WINDOW], 0x1
        mov     qword ptr [WINDOW + 0x3000], 0x3
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        EXECUTED
        CHECK   rbx, 1
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x3000 + 7
        mov     rax, L2_PRIVATE
        mov     ecx, 1
        invlpga rax, ecx
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        EXECUTED
        CHECK   rbx, 3
RULE invlpg_of_l2_drops_a_translation, "INVLPG of L2 makes a change of its tables visible", "APM vol. 3, INVLPG"
        call    build_l2_tables
        mov     qword ptr [vmcb + VMCB_CR3], offset l2_root
        mov     qword ptr [WINDOW], 0x1
        mov     qword ptr [WINDOW + 0x3000], 0x3
        RUN     l2_remaps
        HALTED
        CHECK   rbx, 3
RULES_END

l2_remaps:
        mov     rcx, L2_PRIVATE
        mov     rbx, [rcx]
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x3000 + 7
        invlpg  [rcx]
        mov     rbx, [rcx]
        hlt
