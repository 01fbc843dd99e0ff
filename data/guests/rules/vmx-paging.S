# @title   Rules of VMX: EPT and its faults
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.paging

.set PAGE_1,        WINDOW + 0x1000
.set ENTRY_1,       WINDOW_ENTRY + 8
.set WINDOW_PD,     nested_pd + (WINDOW >> 21)*8
.set ACCESSED,      1 << 8
.set DIRTY,         1 << 9
.set READ, 1
.set WRITE, 2
.set EXECUTE, 4
# Exit qualification of an EPT violation: the access, the rights there were, the linear address.
.set Q_READ,        1 << 0
.set Q_WRITE,       1 << 1
.set Q_FETCH,       1 << 2
.set Q_READABLE,    1 << 3
.set Q_WRITABLE,    1 << 4
.set Q_EXECUTABLE,  1 << 5
.set Q_LINEAR,      1 << 7
.set Q_FINAL,       1 << 8
.set Q_BITS,        0x1bf                   # bit 6 and bits above 8 depend on other features

.macro VIOLATED info, address
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
        CHECK_FIELD GUEST_RIP, [l2_first]
        CHECK_FIELD_BITS EXIT_QUALIFICATION, Q_BITS, \info
        CHECK_FIELD GUEST_PHYSICAL_ADDRESS, \address
.endm
.macro MISCONFIGURED address
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_MISCONFIG
        CHECK_FIELD GUEST_RIP, [l2_first]
        CHECK_FIELD GUEST_PHYSICAL_ADDRESS, \address
.endm
.macro INVEPT_ALL
        mov     eax, INVEPT_ALL_CONTEXTS
        invept  rax, [invept_descriptor]
.endm

# ------------------------------------------------------------------ EPT violations: SDM vol. 3, 29.3.3.2

RULE read_of_an_absent_page, "A read of a page that is not present: read, no rights, final access", "SDM vol. 3, table 28-7"
        mov     qword ptr [ENTRY_1], 0
        L2      mov rbx, [PAGE_1 + 0x18]
        VIOLATED Q_READ | Q_LINEAR | Q_FINAL, PAGE_1 + 0x18
RULE write_to_an_absent_page, "A write to a page that is not present", "SDM vol. 3, table 28-7"
        mov     qword ptr [ENTRY_1], 0
        L2      mov [PAGE_1], rbx
        VIOLATED Q_WRITE | Q_LINEAR | Q_FINAL, PAGE_1
RULE fetch_from_an_absent_page, "A fetch from a page that is not present", "SDM vol. 3, table 28-7"
        mov     qword ptr [ENTRY_1], 0
        mov     qword ptr [l2_first], PAGE_1
        call    run_first
        VIOLATED Q_FETCH | Q_LINEAR | Q_FINAL, PAGE_1
RULE violation_gives_the_linear_address, "The guest linear address of an EPT violation is that of the access", "SDM vol. 3, 28.2.1"
        call    build_l2_tables
        SET_AT  GUEST_CR3, l2_root
        mov     qword ptr [WINDOW_ENTRY], 0
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx + 0x20]
        VIOLATED Q_READ | Q_LINEAR | Q_FINAL, WINDOW + 0x20
        mov     rbx, L2_PRIVATE + 0x20
        CHECK_FIELD GUEST_LINEAR_ADDRESS, rbx
RULE absent_directory, "A table that is not present at a higher level is the same", "SDM vol. 3, 29.3.3.2"
        mov     qword ptr [WINDOW_PD], 0
        L2      mov rbx, [PAGE_1]
        VIOLATED Q_READ | Q_LINEAR | Q_FINAL, PAGE_1
RULE address_beyond_the_table, "An address that no entry covers", "SDM vol. 3, 29.3.3.2"
        call    build_l2_tables
        SET_AT  GUEST_CR3, l2_root
        mov     rax, 0x4000000000 + 7
        mov     [L2_PRIVATE_ENTRY], rax
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        VIOLATED Q_READ | Q_LINEAR | Q_FINAL, 0x4000000000
RULE write_to_a_read_only_page, "A write to a page that may be read and executed says so", "SDM vol. 3, table 28-7"
        and     byte ptr [ENTRY_1], ~WRITE
        L2      mov [PAGE_1], rbx
        VIOLATED Q_WRITE | Q_READABLE | Q_EXECUTABLE | Q_LINEAR | Q_FINAL, PAGE_1
RULE write_after_a_read_of_a_read_only_page, "A cached translation does not grant the write", "SDM vol. 3, 29.4"
        and     byte ptr [ENTRY_1], ~WRITE
        L2      mov rbx, [PAGE_1]
        EXECUTED
        L2      mov [PAGE_1], rbx
        VIOLATED Q_WRITE | Q_READABLE | Q_EXECUTABLE | Q_LINEAR | Q_FINAL, PAGE_1
RULE write_below_a_read_only_directory, "The rights of all levels are combined", "SDM vol. 3, 29.3.3.2"
        and     byte ptr [WINDOW_PD], ~WRITE
        L2      mov [PAGE_1], rbx
        VIOLATED Q_WRITE | Q_READABLE | Q_EXECUTABLE | Q_LINEAR | Q_FINAL, PAGE_1
RULE write_is_not_excused_by_cr0_wp, "CR0.WP of L2 does not count for EPT's rights", "SDM vol. 3, 29.3.3.2"
        and     byte ptr [ENTRY_1], ~WRITE
        CLEAR_BITS GUEST_CR0, 1 << 16
        L2      mov [PAGE_1], rbx
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
RULE read_of_a_read_only_page, "A page without W may be read", "SDM vol. 3, 29.3.3.2"
        and     byte ptr [ENTRY_1], ~WRITE
        mov     qword ptr [PAGE_1], 0x4711
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 0x4711
RULE fetch_from_a_no_execute_page, "A fetch from a page without X", "SDM vol. 3, table 28-7"
        mov     byte ptr [PAGE_1], 0xf4
        and     byte ptr [ENTRY_1], ~EXECUTE
        mov     qword ptr [l2_first], PAGE_1
        call    run_first
        VIOLATED Q_FETCH | Q_READABLE | Q_WRITABLE | Q_LINEAR | Q_FINAL, PAGE_1
RULE fetch_from_a_page_with_all_rights, "A page with R, W and X may be executed", "SDM vol. 3, 29.3.3.2"
        mov     byte ptr [PAGE_1], 0xf4
        mov     qword ptr [l2_first], PAGE_1
        call    run_first
        CHECK_FIELD VM_EXIT_REASON, EXIT_HLT
        CHECK_FIELD GUEST_RIP, PAGE_1
RULE execute_only_page_runs, "A page with X alone may be executed where EPT offers it", "SDM vol. 3, 29.3.3.1 and A.10"
        mov     byte ptr [PAGE_1], 0xf4
        and     byte ptr [ENTRY_1], ~(READ | WRITE)
        mov     qword ptr [l2_first], PAGE_1
        call    run_first
        CHECK_FIELD VM_EXIT_REASON, EXIT_HLT
RULE read_of_an_execute_only_page, "A page with X alone cannot be read", "SDM vol. 3, 29.3.3.2"
        and     byte ptr [ENTRY_1], ~(READ | WRITE)
        L2      mov rbx, [PAGE_1]
        VIOLATED Q_READ | Q_EXECUTABLE | Q_LINEAR | Q_FINAL, PAGE_1
RULE walk_of_l2_tables_violates, "A violation on the way through L2's tables has bit 8 clear", "SDM vol. 3, table 28-7"
ONLY_WITH "ept_ad=off"
        call    build_l2_tables
        SET_AT  GUEST_CR3, l2_root
        mov     qword ptr [WINDOW_ENTRY + 5*8], 0
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        VIOLATED Q_READ | Q_LINEAR, L2_PRIVATE_ENTRY
RULE walk_of_l2_tables_with_dirty_bits_is_a_write, "With EPT's dirty flags a reference to L2's tables counts as a write", "SDM vol. 3, 29.3.3.2 and table 28-7"
ONLY_WITH "ept_ad=on"
        call    build_l2_tables
        SET_AT  GUEST_CR3, l2_root
        mov     qword ptr [WINDOW_ENTRY + 5*8], 0
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
        CHECK_FIELD_BITS EXIT_QUALIFICATION, Q_WRITE | Q_FETCH | Q_FINAL, Q_WRITE
RULE fault_of_l2_comes_before_the_violation, "L2's own rights come before EPT's of the final access", "SDM vol. 3, 29.3.3.2"
        SET     EXCEPTION_BITMAP, 1 << EXC_PF
        call    build_l2_tables
        SET_AT  GUEST_CR3, l2_root
        and     byte ptr [L2_PRIVATE_ENTRY], ~2
        mov     qword ptr [WINDOW_ENTRY], 0
        mov     rcx, L2_PRIVATE
        L2      mov [rcx], rbx
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD VM_EXIT_INTR_ERROR_CODE, 3
RULE page_mapped_after_its_violation, "L2 goes on when L1 has mapped the page", "SDM vol. 3, 29.4.3.1: a violation drops what was cached for it"
        mov     qword ptr [ENTRY_1], 0
        mov     qword ptr [PAGE_1], 0x815
        L2      mov rbx, [PAGE_1]
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
        mov     qword ptr [ENTRY_1], PAGE_1 + LEAF_FLAGS
        call    run_on
        EXECUTED
        CHECK   rbx, 0x815
RULE page_made_writable_after_its_violation, "L2 goes on when L1 has granted the write", "SDM vol. 3, 29.4.3.1"
        and     byte ptr [ENTRY_1], ~WRITE
        mov     ebx, 0x816
        L2      mov [PAGE_1], rbx
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
        or      byte ptr [ENTRY_1], WRITE
        call    run_on
        EXECUTED
        CHECK   [PAGE_1], 0x816
RULE page_elsewhere, "EPT decides where a page of L2 is", "SDM vol. 3, 29.3.2"
        mov     qword ptr [ENTRY_1], WINDOW + 0x3000 + LEAF_FLAGS
        mov     qword ptr [WINDOW + 0x3000], 0x999
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 0x999
RULE large_page_of_2_mb, "Bit 7 of a directory entry maps 2 MB", "SDM vol. 3, 29.3.2"
        mov     qword ptr [WINDOW_PD], WINDOW + 0x200000 + LEAF_FLAGS + 0x80
        mov     qword ptr [WINDOW + 0x200000 + 0x12340], 0x2222
        L2      mov rbx, [WINDOW + 0x12340]
        EXECUTED
        CHECK   rbx, 0x2222
RULE large_page_of_1_gb, "Bit 7 of a directory-pointer entry maps 1 GB", "SDM vol. 3, 29.3.2"
        mov     qword ptr [nested_pdpt], LEAF_FLAGS + 0x80
        mov     qword ptr [PAGE_1], 0x1111
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 0x1111
RULE read_only_large_page, "A large page has rights of its own", "SDM vol. 3, 29.3.3.2"
        mov     qword ptr [WINDOW_PD], WINDOW + 0xb5
        L2      mov [PAGE_1], rbx
        VIOLATED Q_WRITE | Q_READABLE | Q_EXECUTABLE | Q_LINEAR | Q_FINAL, PAGE_1

# ------------------------------------------------------------------ misconfigurations: SDM vol. 3, 29.3.3.1

RULE write_without_read, "An entry with W and without R is a misconfiguration", "SDM vol. 3, 29.3.3.1"
        and     byte ptr [ENTRY_1], ~READ
        L2      mov rbx, [PAGE_1 + 8]
        MISCONFIGURED PAGE_1 + 8
RULE write_alone, "An entry with W alone is a misconfiguration", "SDM vol. 3, 29.3.3.1"
        and     byte ptr [ENTRY_1], ~(READ | EXECUTE)
        L2      mov rbx, [PAGE_1]
        MISCONFIGURED PAGE_1
RULE reserved_memory_type, "A leaf with a memory type that does not exist is a misconfiguration", "SDM vol. 3, 29.3.3.1"
        and     byte ptr [ENTRY_1], ~(7 << 3)
        or      byte ptr [ENTRY_1], 2 << 3
        L2      mov rbx, [PAGE_1]
        MISCONFIGURED PAGE_1
RULE reserved_address_bit, "A leaf with an address beyond the physical ones is a misconfiguration", "SDM vol. 3, 29.3.3.1"
        or      dword ptr [ENTRY_1 + 4], 1 << 19
        L2      mov rbx, [PAGE_1]
        MISCONFIGURED PAGE_1
RULE reserved_bit_of_a_table_entry, "A table entry with one of bits 6:3 is a misconfiguration", "SDM vol. 3, 29.3.3.1"
        or      byte ptr [WINDOW_PD], 1 << 4
        L2      mov rbx, [PAGE_1]
        MISCONFIGURED PAGE_1
RULE large_bit_of_the_root, "Bit 7 of a PML4 entry is reserved", "SDM vol. 3, 29.3.3.1"
        or      byte ptr [nested_root], 0x80
        L2      mov rbx, [PAGE_1]
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_MISCONFIG
RULE large_page_that_is_not_aligned, "A 2 MB page with a bit among 20:12 is a misconfiguration", "SDM vol. 3, 29.3.3.1"
        mov     qword ptr [WINDOW_PD], WINDOW + 0x1000 + LEAF_FLAGS + 0x80
        L2      mov rbx, [PAGE_1]
        MISCONFIGURED PAGE_1
RULE entry_that_is_not_present_may_hold_anything, "An entry with bits 2:0 clear is a violation, whatever the others are", "SDM vol. 3, 29.3.2"
        mov     qword ptr [ENTRY_1], -8
        L2      mov rbx, [PAGE_1]
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
RULE misconfiguration_comes_before_rights, "An entry that is misconfigured and lacks the right is a misconfiguration", "SDM vol. 3, 29.3.3.3"
        and     byte ptr [ENTRY_1], ~(WRITE | 7 << 3)
        or      byte ptr [ENTRY_1], 2 << 3
        L2      mov [PAGE_1], rbx
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_MISCONFIG
RULE corrected_entry_runs, "L2 goes on when L1 has corrected the entry", "SDM vol. 3, 29.3.3.1"
        and     byte ptr [ENTRY_1], ~READ
        L2      mov rbx, [PAGE_1]
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_MISCONFIG
        or      byte ptr [ENTRY_1], READ
        call    run_on
        EXECUTED

# ------------------------------------------------------------------ accessed and dirty flags: SDM vol. 3, 29.3.5

RULE read_sets_accessed, "A read sets the accessed flag of every level and no dirty flag", "SDM vol. 3, 29.3.5"
DEVIATION "l0=xen", "Xen offers L1 no accessed and dirty flags of EPT"
ONLY_WITH "ept_ad=on"
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK_BITS [ENTRY_1], ACCESSED | DIRTY, ACCESSED
        CHECK_BITS [WINDOW_PD], ACCESSED, ACCESSED
        CHECK_BITS [nested_root], ACCESSED, ACCESSED
RULE write_sets_dirty, "A write sets the dirty flag of the leaf", "SDM vol. 3, 29.3.5"
DEVIATION "l0=xen", "Xen offers L1 no accessed and dirty flags of EPT"
ONLY_WITH "ept_ad=on"
        L2      mov [PAGE_1], rbx
        EXECUTED
        CHECK_BITS [ENTRY_1], ACCESSED | DIRTY, ACCESSED | DIRTY
RULE write_after_a_read_sets_dirty, "A write to a page that was only read sets its dirty flag", "SDM vol. 3, 29.3.5"
DEVIATION "l0=xen", "Xen offers L1 no accessed and dirty flags of EPT"
ONLY_WITH "ept_ad=on"
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK_BITS [ENTRY_1], DIRTY, 0
        L2      mov [PAGE_1], rbx
        EXECUTED
        CHECK_BITS [ENTRY_1], DIRTY, DIRTY
RULE untouched_page_stays_clean, "A page that L2 does not touch keeps its flags clear", "SDM vol. 3, 29.3.5"
ONLY_WITH "ept_ad=on"
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK_BITS [ENTRY_1 + 8], ACCESSED | DIRTY, 0
RULE flags_stay_clear_without_eptp_bit_6, "Without EPTP bit 6 the processor sets no flag", "SDM vol. 3, 29.3.5"
ONLY_WITH "ept_ad=off"
        L2      mov [PAGE_1], rbx
        EXECUTED
        CHECK_BITS [ENTRY_1], ACCESSED | DIRTY, 0
RULE refused_write_sets_nothing_dirty, "A write that is a violation sets no dirty flag", "SDM vol. 3, 29.3.5"
ONLY_WITH "ept_ad=on"
        and     byte ptr [ENTRY_1], ~WRITE
        L2      mov [PAGE_1], rbx
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
        CHECK_BITS [ENTRY_1], DIRTY, 0

# ------------------------------------------------------------------ invalidation: SDM vol. 3, 29.4.3

# Page 1 holds 1 and page 3 holds 3; L2 has read page 1; then the table maps it to page 3.
.macro REMAP
        mov     qword ptr [PAGE_1], 1
        mov     qword ptr [WINDOW + 0x3000], 3
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 1
        mov     qword ptr [ENTRY_1], WINDOW + 0x3000 + LEAF_FLAGS
.endm
.macro SEES_PAGE_3
        L2      mov rbx, [PAGE_1]
        EXECUTED
        CHECK   rbx, 3
.endm
RULE invept_single_context, "INVEPT of the EPTP makes a changed mapping visible", "SDM vol. 3, 29.4.3.1"
        REMAP
        mov     eax, INVEPT_SINGLE_CONTEXT
        invept  rax, [invept_descriptor]
        SEES_PAGE_3
RULE invept_all_contexts, "INVEPT of all contexts makes a changed mapping visible", "SDM vol. 3, 29.4.3.1"
        REMAP
        INVEPT_ALL
        SEES_PAGE_3
RULE taken_page_is_gone_after_invept, "After INVEPT a page that L1 took away is a violation", "SDM vol. 3, 29.4.3.1"
        REMAP
        mov     qword ptr [ENTRY_1], 0
        INVEPT_ALL
        L2      mov rbx, [PAGE_1]
        VIOLATED Q_READ | Q_LINEAR | Q_FINAL, PAGE_1
RULE another_eptp_has_its_own_mappings, "Another EPTP gives L2 other pages", "SDM vol. 3, 29.4.2"
        REMAP
        mov     esi, offset nested_root
        mov     edi, offset page
        mov     ecx, 0x1000 / 8
        rep     movsq
        SET_AT  EPT_POINTER, page + EPTP_4_LEVELS_WRITE_BACK
        SEES_PAGE_3
.macro PRIVATE_PAGE
        call    build_l2_tables
        SET_AT  GUEST_CR3, l2_root
        mov     qword ptr [WINDOW], 1
        mov     qword ptr [WINDOW + 0x3000], 3
.endm
.macro SEES_PRIVATE wanted
        mov     rcx, L2_PRIVATE
        L2      mov rbx, [rcx]
        EXECUTED
        CHECK   rbx, \wanted
.endm
RULE invvpid_single_context, "INVVPID of the VPID makes a change of L2's tables visible", "SDM vol. 3, 29.4.3.1"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        PRIVATE_PAGE
        SEES_PRIVATE 1
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x3000 + 7
        mov     qword ptr [scratch], 1
        mov     qword ptr [scratch + 8], 0
        mov     eax, 1
        invvpid rax, [scratch]
        SEES_PRIVATE 3
RULE invvpid_address, "INVVPID of one address makes its change visible", "SDM vol. 3, 29.4.3.1"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        PRIVATE_PAGE
        SEES_PRIVATE 1
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x3000 + 7
        mov     rax, L2_PRIVATE
        mov     qword ptr [scratch], 1
        mov     [scratch + 8], rax
        xor     eax, eax
        invvpid rax, [scratch]
        SEES_PRIVATE 3
RULE invlpg_of_l2, "INVLPG of L2 makes a change of its tables visible", "SDM vol. 2, INVLPG"
        PRIVATE_PAGE
        RUN     l2_remaps
        HALTED
        CHECK   rbx, 3
RULE mov_to_cr3_of_l2, "MOV to CR3 of L2 makes a change of its tables visible", "SDM vol. 3, 4.10.4.1"
        PRIVATE_PAGE
        RUN     l2_reloads_cr3
        HALTED
        CHECK   rbx, 3
RULE entry_without_vpid_flushes, "Without a VPID an entry drops L2's linear translations", "SDM vol. 3, 29.4.3.1"
        CLEAR_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_ENABLE_VPID
        PRIVATE_PAGE
        SEES_PRIVATE 1
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x3000 + 7
        SEES_PRIVATE 3
RULES_END

l2_remaps:
        mov     rcx, L2_PRIVATE
        mov     rbx, [rcx]
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x3000 + 7
        invlpg  [rcx]
        mov     rbx, [rcx]
        hlt
l2_reloads_cr3:
        mov     rcx, L2_PRIVATE
        mov     rbx, [rcx]
        mov     qword ptr [L2_PRIVATE_ENTRY], WINDOW + 0x3000 + 7
        mov     rax, cr3
        mov     cr3, rax
        mov     rbx, [rcx]
        hlt
