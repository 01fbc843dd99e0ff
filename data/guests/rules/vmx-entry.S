# @title   Rules of VMX: what VM entry checks, in its order
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.entry

.set PIN_NMI_EXITING,       1 << 3
.set PIN_VIRTUAL_NMIS,      1 << 5
.set CPU_NMI_WINDOW,        1 << 22
.set CPU_TPR_SHADOW,        1 << 21
.set ENTRY_LOAD_DEBUG,      1 << 2
.set ENTRY_LOAD_PAT,        1 << 14
.set EXIT_LOAD_PAT,         1 << 19
.set VIRTUAL_APIC_PAGE,     0x2012
.set VM_ENTRY_MSR_LOAD_ADDR, 0x200a
.set VM_EXIT_MSR_LOAD_ADDR, 0x2008
.set GUEST_IA32_PAT,        0x2804
.set HOST_IA32_PAT,         0x2c00
.set BEYOND,                1 << 52
.set NOT_CANONICAL,         1 << 47
.set VALID,                 1 << 31
.set DELIVER_ERROR,         1 << 11
.set TYPE_NMI,              2 << 8
.set TYPE_EXCEPTION,        3 << 8
.set TYPE_SOFT_INT,         4 << 8

.macro RUNS
        L2      nop
        EXECUTED
.endm

RULE fresh_vmcs_runs, "The VMCS that every rule starts from passes all checks", "SDM vol. 3, 27.2 and 27.3"
        L2      mov qword ptr [scratch], 1
        EXECUTED
        CHECK   [scratch], 1

# ------------------------------------------------------------------ control fields: error 7

RULE pin_control_must_be_one, "A pin-based control that must be 1 is 0: error 7", "SDM vol. 3, 27.2.1.1"
        CLEAR_BITS PIN_BASED_VM_EXEC_CONTROL, 1 << 1
        REFUSED 7
RULE pin_control_must_be_zero, "A pin-based control that must be 0 is 1: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, 1 << 31
        REFUSED 7
RULE cpu_control_must_be_one, "A primary control that must be 1 is 0: error 7", "SDM vol. 3, 27.2.1.1"
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, 1 << 1
        REFUSED 7
RULE cpu_control_must_be_zero, "A primary control that must be 0 is 1: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, 1 << 0
        REFUSED 7
RULE secondary_control_must_be_zero, "A secondary control that must be 0 is 1: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS SECONDARY_VM_EXEC_CONTROL, 1 << 31
        REFUSED 7
RULE exit_control_must_be_one, "A VM-exit control that must be 1 is 0: error 7", "SDM vol. 3, 27.2.1.2"
        CLEAR_BITS VM_EXIT_CONTROLS, 1 << 0
        REFUSED 7
RULE exit_control_must_be_zero, "A VM-exit control that must be 0 is 1: error 7", "SDM vol. 3, 27.2.1.2"
        SET_BITS VM_EXIT_CONTROLS, 1 << 31
        REFUSED 7
RULE entry_control_must_be_one, "A VM-entry control that must be 1 is 0: error 7", "SDM vol. 3, 27.2.1.3"
        CLEAR_BITS VM_ENTRY_CONTROLS, 1 << 0
        REFUSED 7
RULE entry_control_must_be_zero, "A VM-entry control that must be 0 is 1: error 7", "SDM vol. 3, 27.2.1.3"
        SET_BITS VM_ENTRY_CONTROLS, 1 << 31
        REFUSED 7
RULE entry_to_smm_is_refused, "Outside of SMM the VM-entry control 'entry to SMM' must be 0", "SDM vol. 3, 27.2.1.3"
        SET_BITS VM_ENTRY_CONTROLS, 1 << 10
        REFUSED 7
RULE too_many_cr3_targets, "More CR3 targets than IA32_VMX_MISC offers: error 7", "SDM vol. 3, 27.2.1.1"
        SET     CR3_TARGET_COUNT, 5
        REFUSED 7
RULE io_bitmap_a_must_be_aligned, "An I/O bitmap A that is not page-aligned: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS IO_BITMAP_A, 1
        REFUSED 7
RULE io_bitmap_b_must_be_aligned, "An I/O bitmap B that is not page-aligned: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS IO_BITMAP_B, 0x800
        REFUSED 7
RULE io_bitmap_must_be_a_physical_address, "An I/O bitmap beyond the physical addresses: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS IO_BITMAP_A, BEYOND
        REFUSED_BY_ANY_L0 7
RULE io_bitmaps_out_of_use_are_not_checked, "Without 'use I/O bitmaps' their addresses do not matter", "SDM vol. 3, 27.2.1.1"
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_USE_IO_BITMAPS
        SET_BITS IO_BITMAP_A, 1
        RUNS
RULE msr_bitmap_must_be_aligned, "An MSR bitmap that is not page-aligned: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS MSR_BITMAP, 8
        REFUSED 7
RULE msr_bitmap_must_be_a_physical_address, "An MSR bitmap beyond the physical addresses: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS MSR_BITMAP, BEYOND
        REFUSED_BY_ANY_L0 7
RULE msr_bitmap_out_of_use_is_not_checked, "Without 'use MSR bitmaps' its address does not matter", "SDM vol. 3, 27.2.1.1"
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_USE_MSR_BITMAPS
        SET_BITS MSR_BITMAP, 8
        RUNS
RULE virtual_apic_page_must_be_aligned, "A virtual-APIC page that is not aligned: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_TPR_SHADOW
        SET     VIRTUAL_APIC_PAGE, 8
        REFUSED 7
RULE nmi_window_needs_virtual_nmis, "NMI-window exiting without virtual NMIs: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_NMI_WINDOW
        REFUSED 7
RULE virtual_nmis_need_nmi_exiting, "Virtual NMIs without NMI exiting: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_VIRTUAL_NMIS
        REFUSED 7
RULE vpid_0_is_refused, "VPID 0 with 'enable VPID': error 7", "SDM vol. 3, 27.2.1.1"
ONLY_WITH "tlb_tagging=on"
ONLY_WITH "vpid_for_l1=on"
        SET     VIRTUAL_PROCESSOR_ID, 0
        REFUSED 7
RULE eptp_memory_type, "An EPTP with a memory type that is not UC or WB: error 7", "SDM vol. 3, 27.2.1.1"
        CLEAR_BITS EPT_POINTER, 7
        SET_BITS EPT_POINTER, 4
        REFUSED 7
RULE eptp_walk_length, "An EPTP with another walk length than 4: error 7", "SDM vol. 3, 27.2.1.1"
        CLEAR_BITS EPT_POINTER, 1 << 3
        REFUSED 7
RULE eptp_reserved_bits, "An EPTP with a reserved bit among 11:8: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS EPT_POINTER, 1 << 10
        REFUSED 7
RULE eptp_must_be_a_physical_address, "An EPTP beyond the physical addresses: error 7", "SDM vol. 3, 27.2.1.1"
        SET_BITS EPT_POINTER, BEYOND
        REFUSED 7
RULE eptp_accessed_dirty_needs_support, "EPTP bit 6 where EPT has no accessed and dirty flags: error 7", "SDM vol. 3, 27.2.1.1"
ONLY_WITH "ept_ad=off"
        SET_BITS EPT_POINTER, EPTP_ACCESSED_DIRTY
        REFUSED 7
RULE eptp_accessed_dirty_with_support, "EPTP bit 6 is allowed where EPT has accessed and dirty flags", "SDM vol. 3, 27.2.1.1"
ONLY_WITH "ept_ad=on"
        SET_BITS EPT_POINTER, EPTP_ACCESSED_DIRTY
        RUNS
RULE entry_msr_list_must_be_aligned, "A VM-entry MSR-load list that is not 16-byte aligned: error 7", "SDM vol. 3, 27.2.1.3"
        SET     VM_ENTRY_MSR_LOAD_COUNT, 1
        SET     VM_ENTRY_MSR_LOAD_ADDR, 8
        REFUSED 7
RULE exit_msr_list_must_be_a_physical_address, "A VM-exit MSR-load list beyond the physical addresses: error 7", "SDM vol. 3, 27.2.1.2"
        SET     VM_EXIT_MSR_LOAD_COUNT, 1
        SET     VM_EXIT_MSR_LOAD_ADDR, BEYOND
        REFUSED 7
RULE msr_list_of_no_entries_is_not_checked, "An MSR list of no entries may lie anywhere", "SDM vol. 3, 27.2.1.3"
        SET     VM_ENTRY_MSR_LOAD_ADDR, 8
        RUNS

# ------------------------------------------------------------------ event injection: error 7

.macro INJECT info, error=0, length=0
        SET     VM_ENTRY_INTR_INFO_FIELD, \info
        SET     VM_ENTRY_EXCEPTION_ERROR_CODE, \error
        SET     VM_ENTRY_INSTRUCTION_LEN, \length
.endm
RULE injection_of_type_1, "Interruption type 1 is reserved: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | 1 << 8 | 0x20
        REFUSED 7
RULE injection_of_type_7_with_a_vector, "Interruption type 7, a pending trap-flag exit, has vector 0: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | 7 << 8 | 1
        REFUSED 7
RULE injection_of_an_nmi_with_another_vector, "An NMI has vector 2: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | TYPE_NMI | 3
        REFUSED 7
RULE injection_of_an_exception_above_31, "A hardware exception has a vector up to 31: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | TYPE_EXCEPTION | 32
        REFUSED 7
RULE injection_of_an_error_code_for_ud, "An error code with an exception that has none: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | TYPE_EXCEPTION | DELIVER_ERROR | EXC_UD
        REFUSED 7
RULE injection_of_gp_without_error_code, "An exception that has an error code without one: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | TYPE_EXCEPTION | EXC_GP
        REFUSED 7
RULE injection_of_an_error_code_with_an_interrupt, "An error code with an external interrupt: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | DELIVER_ERROR | 13
        REFUSED 7
RULE injection_with_reserved_bits, "Bits 30:12 of the interruption information must be 0: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | 1 << 12 | TYPE_EXCEPTION | EXC_UD
        REFUSED 7
RULE injection_of_a_wide_error_code, "Bits 31:16 of the error code must be 0: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | TYPE_EXCEPTION | DELIVER_ERROR | EXC_GP, 1 << 16
        REFUSED 7
RULE injection_of_int_n_without_length, "A software interrupt with instruction length 0: error 7 (MISC bit 30 is 0)", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | TYPE_SOFT_INT | 0x30, 0, 0
        REFUSED 7
RULE injection_of_int_n_of_16_bytes, "A software interrupt with instruction length 16: error 7", "SDM vol. 3, 27.2.1.3"
        INJECT  VALID | TYPE_SOFT_INT | 0x30, 0, 16
        REFUSED 7
RULE injection_that_is_not_valid_is_not_checked, "Without the valid bit the interruption information does not matter", "SDM vol. 3, 27.2.1.3"
        INJECT  7 << 8 | 1 << 12
        RUNS

# ------------------------------------------------------------------ host state: error 8

RULE host_cr0_pe, "A host CR0 without PE: error 8", "SDM vol. 3, 27.2.2"
        CLEAR_BITS HOST_CR0, 1
        REFUSED 8
RULE host_cr0_ne, "A host CR0 without NE: error 8", "SDM vol. 3, 27.2.2"
        CLEAR_BITS HOST_CR0, CR0_NE
        REFUSED 8
RULE host_cr0_upper_half, "A host CR0 with a bit among 63:32: error 8", "SDM vol. 3, 27.2.2"
        SET_BITS HOST_CR0, 1 << 32
        REFUSED 8
RULE host_cr4_vmxe, "A host CR4 without VMXE: error 8", "SDM vol. 3, 27.2.2"
        CLEAR_BITS HOST_CR4, CR4_VMXE
        REFUSED 8
RULE host_cr4_reserved, "A host CR4 with a reserved bit: error 8", "SDM vol. 3, 27.2.2"
        SET_BITS HOST_CR4, 1 << 31
        REFUSED 8
RULE host_cr4_pae, "A 64-bit host without CR4.PAE: error 8", "SDM vol. 3, 27.2.4"
        CLEAR_BITS HOST_CR4, 1 << 5
        REFUSED 8
RULE host_cr3_beyond, "A host CR3 beyond the physical addresses: error 8", "SDM vol. 3, 27.2.2"
        SET_BITS HOST_CR3, 1 << 51
        REFUSED 8
RULE host_sysenter_esp, "A host SYSENTER_ESP that is not canonical: error 8", "SDM vol. 3, 27.2.2"
        SET     HOST_IA32_SYSENTER_ESP, NOT_CANONICAL
        REFUSED 8
RULE host_sysenter_eip, "A host SYSENTER_EIP that is not canonical: error 8", "SDM vol. 3, 27.2.2"
        SET     HOST_IA32_SYSENTER_EIP, NOT_CANONICAL
        REFUSED 8
RULE host_efer_reserved, "A host EFER with a reserved bit: error 8", "SDM vol. 3, 27.2.2"
        SET_BITS HOST_IA32_EFER, 1 << 1
        REFUSED 8
RULE host_efer_lma, "A host EFER whose LMA is not the host address-space size: error 8", "SDM vol. 3, 27.2.2"
        CLEAR_BITS HOST_IA32_EFER, 1 << 10
        REFUSED 8
RULE host_efer_not_loaded_is_not_checked, "Without 'load IA32_EFER' the host EFER does not matter", "SDM vol. 3, 27.2.2"
        CLEAR_BITS VM_EXIT_CONTROLS, EXIT_CTL_LOAD_EFER
        SET     HOST_IA32_EFER, -1
        RUNS
RULE host_address_space_size, "A 32-bit host in IA-32e mode: error 8", "SDM vol. 3, 27.2.4"
        CLEAR_BITS VM_EXIT_CONTROLS, EXIT_CTL_HOST_64
        REFUSED 8
RULE host_pat, "A host PAT with a memory type that does not exist: error 8", "SDM vol. 3, 27.2.2"
        SET_BITS VM_EXIT_CONTROLS, EXIT_LOAD_PAT
        SET     HOST_IA32_PAT, 0x0007040600070402
        REFUSED 8
.macro HOST_SELECTOR name, field
RULE host_\name\()_selector, "A host selector of \name with RPL or TI: error 8", "SDM vol. 3, 27.2.3"
        SET_BITS \field, 3
        REFUSED 8
        CLEAR_BITS \field, 3
        SET_BITS \field, 4
        REFUSED 8
.endm
        HOST_SELECTOR cs, HOST_CS_SELECTOR
        HOST_SELECTOR ss, HOST_SS_SELECTOR
        HOST_SELECTOR ds, HOST_DS_SELECTOR
        HOST_SELECTOR es, HOST_ES_SELECTOR
        HOST_SELECTOR fs, HOST_FS_SELECTOR
        HOST_SELECTOR gs, HOST_GS_SELECTOR
        HOST_SELECTOR tr, HOST_TR_SELECTOR
RULE host_cs_null, "A null host CS: error 8", "SDM vol. 3, 27.2.3"
        SET     HOST_CS_SELECTOR, 0
        REFUSED 8
RULE host_tr_null, "A null host TR: error 8", "SDM vol. 3, 27.2.3"
        SET     HOST_TR_SELECTOR, 0
        REFUSED 8
RULE host_ss_null_is_valid, "A 64-bit host may have a null SS", "SDM vol. 3, 27.2.3"
        SET     HOST_SS_SELECTOR, 0
        L2      nop
        mov     eax, SEL_DATA
        mov     ss, eax
        EXECUTED
.macro HOST_BASE name, field
RULE host_\name\()_not_canonical, "A host base of \name that is not canonical: error 8", "SDM vol. 3, 27.2.3"
        SET     \field, NOT_CANONICAL
        REFUSED 8
.endm
        HOST_BASE fs, HOST_FS_BASE
        HOST_BASE gs, HOST_GS_BASE
        HOST_BASE tr, HOST_TR_BASE
        HOST_BASE gdtr, HOST_GDTR_BASE
        HOST_BASE idtr, HOST_IDTR_BASE
RULE host_rip_not_canonical, "A host RIP that is not canonical: error 8", "SDM vol. 3, 27.2.4"
        SET     HOST_RIP, NOT_CANONICAL
        REFUSED 8

# ------------------------------------------------------------------ order

RULE launch_state_is_checked_before_controls, "VMRESUME of a clear VMCS with bad controls is error 5", "SDM vol. 3, 27.1"
        SET     CR3_TARGET_COUNT, 5
        VMX     vmresume
        FAILED  5
RULE controls_are_checked_before_guest_state, "Bad controls and a bad guest state: error 7", "SDM vol. 3, 27.2 and 27.3"
        SET     CR3_TARGET_COUNT, 5
        SET     GUEST_RFLAGS, 0
        REFUSED 7
RULE host_state_is_checked_before_guest_state, "A bad host state and a bad guest state: error 8", "SDM vol. 3, 27.2 and 27.3"
        SET     HOST_TR_SELECTOR, 0
        SET     GUEST_RFLAGS, 0
        REFUSED 8
RULE refused_entry_leaves_exit_fields, "An entry that is refused leaves the exit reason of before", "SDM vol. 3, 27.2"
        L2      cpuid
        EXITED  EXIT_CPUID
        SET     CR3_TARGET_COUNT, 5
        REFUSED 7
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
RULE corrected_vmcs_runs, "A VMCS that was refused runs when it is corrected", "SDM vol. 3, 27.2"
        SET     CR3_TARGET_COUNT, 5
        REFUSED 7
        SET     CR3_TARGET_COUNT, 0
        RUNS

# ------------------------------------------------------------------ guest state: exit reason 33

RULE guest_cr0_pe, "A guest CR0 without PE fails the entry", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS GUEST_CR0, 1
        INVALID_STATE
RULE guest_cr0_pg, "An IA-32e guest without paging fails the entry", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS GUEST_CR0, 1 << 31
        INVALID_STATE
RULE guest_cr0_ne, "A guest CR0 without NE fails the entry", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS GUEST_CR0, CR0_NE
        INVALID_STATE
RULE guest_cr4_vmxe, "A guest CR4 without VMXE fails the entry", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS GUEST_CR4, CR4_VMXE
        INVALID_STATE
RULE guest_cr4_reserved, "A guest CR4 with a reserved bit fails the entry", "SDM vol. 3, 27.3.1.1"
        SET_BITS GUEST_CR4, 1 << 31
        INVALID_STATE
RULE guest_cr4_pae, "An IA-32e guest without CR4.PAE fails the entry", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS GUEST_CR4, 1 << 5
        INVALID_STATE
RULE guest_cr3_beyond, "A guest CR3 beyond the physical addresses fails the entry", "SDM vol. 3, 27.3.1.1"
        SET_BITS GUEST_CR3, 1 << 51
        INVALID_STATE
RULE guest_dr7_upper_half, "A guest DR7 with a bit among 63:32 fails the entry", "SDM vol. 3, 27.3.1.1"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG
        SET_BITS GUEST_DR7, 1 << 32
        INVALID_STATE
RULE guest_sysenter_esp, "A guest SYSENTER_ESP that is not canonical fails the entry", "SDM vol. 3, 27.3.1.1"
        SET     GUEST_SYSENTER_ESP, NOT_CANONICAL
        INVALID_STATE
RULE guest_sysenter_eip, "A guest SYSENTER_EIP that is not canonical fails the entry", "SDM vol. 3, 27.3.1.1"
        SET     GUEST_SYSENTER_EIP, NOT_CANONICAL
        INVALID_STATE
RULE guest_pat, "A guest PAT with a memory type that does not exist fails the entry", "SDM vol. 3, 27.3.1.1"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT
        SET     GUEST_IA32_PAT, 0x0007040600070402
        INVALID_STATE
RULE guest_efer_reserved, "A guest EFER with a reserved bit fails the entry", "SDM vol. 3, 27.3.1.1"
        SET_BITS GUEST_IA32_EFER, 1 << 1
        INVALID_STATE
RULE guest_efer_lma, "A guest EFER whose LMA is not 'IA-32e mode guest' fails the entry", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS GUEST_IA32_EFER, 1 << 10
        INVALID_STATE
RULE guest_efer_lme, "A guest EFER whose LME differs from LMA with paging fails the entry", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS GUEST_IA32_EFER, 1 << 8
        INVALID_STATE
RULE guest_efer_not_loaded_is_not_checked, "Without 'load IA32_EFER' the guest EFER does not matter", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS VM_ENTRY_CONTROLS, ENTRY_CTL_LOAD_EFER
        SET     GUEST_IA32_EFER, -1
        RUNS

.macro GUEST_AR name, says, field, clear, set
RULE guest_\name, "\says fails the entry", "SDM vol. 3, 27.3.1.2"
        CLEAR_BITS \field, \clear
        SET_BITS \field, \set
        INVALID_STATE
.endm
        GUEST_AR cs_type, "A CS that is a data segment", GUEST_CS_AR_BYTES, 8, 0
        GUEST_AR cs_not_accessed, "A CS that is not accessed", GUEST_CS_AR_BYTES, 1, 0
        GUEST_AR cs_system, "A CS that is a system segment", GUEST_CS_AR_BYTES, 1 << 4, 0
        GUEST_AR cs_not_present, "A CS that is not present", GUEST_CS_AR_BYTES, 1 << 7, 0
        GUEST_AR cs_l_and_db, "A CS with L and D", GUEST_CS_AR_BYTES, 0, 1 << 14
        GUEST_AR cs_reserved, "A CS with reserved access rights", GUEST_CS_AR_BYTES, 0, 1 << 8
DEVIATION "access_rights_cut=on"
        GUEST_AR cs_dpl, "A nonconforming CS whose DPL is not that of SS", GUEST_CS_AR_BYTES, 0, 3 << 5
        GUEST_AR ss_type, "An SS that is a read-only segment", GUEST_SS_AR_BYTES, 2, 0
        GUEST_AR ss_not_present, "An SS that is not present", GUEST_SS_AR_BYTES, 1 << 7, 0
        GUEST_AR ss_reserved, "An SS with reserved access rights", GUEST_SS_AR_BYTES, 0, 1 << 17
DEVIATION "access_rights_cut=on"
        GUEST_AR ds_system, "A DS that is a system segment", GUEST_DS_AR_BYTES, 1 << 4, 0
        GUEST_AR ds_not_accessed, "A DS that is not accessed", GUEST_DS_AR_BYTES, 1, 0
        GUEST_AR es_not_present, "An ES that is not present", GUEST_ES_AR_BYTES, 1 << 7, 0
        GUEST_AR fs_reserved, "An FS with reserved access rights", GUEST_FS_AR_BYTES, 0, 1 << 9
DEVIATION "access_rights_cut=on"
        GUEST_AR gs_not_present, "A GS that is not present", GUEST_GS_AR_BYTES, 1 << 7, 0
        GUEST_AR tr_not_busy, "A TR that is an available TSS", GUEST_TR_AR_BYTES, 2, 0
        GUEST_AR tr_unusable, "A TR that is unusable", GUEST_TR_AR_BYTES, 0, AR_UNUSABLE
        GUEST_AR tr_not_present, "A TR that is not present", GUEST_TR_AR_BYTES, 1 << 7, 0
        GUEST_AR tr_code, "A TR that is no system segment", GUEST_TR_AR_BYTES, 0, 1 << 4
RULE guest_ldtr_type, "A usable LDTR that is no LDT fails the entry", "SDM vol. 3, 27.3.1.2"
        SET     GUEST_LDTR_AR_BYTES, 0x83
        INVALID_STATE
RULE guest_ds_unusable_is_valid, "An unusable DS may have any access rights", "SDM vol. 3, 27.3.1.2"
        SET     GUEST_DS_AR_BYTES, AR_UNUSABLE
        RUNS
RULE guest_cs_granularity, "A CS limit above 1 MB without G fails the entry", "SDM vol. 3, 27.3.1.2"
        CLEAR_BITS GUEST_CS_AR_BYTES, 1 << 15
        INVALID_STATE
RULE guest_tr_ti, "A TR selector into the LDT fails the entry", "SDM vol. 3, 27.3.1.2"
        SET_BITS GUEST_TR_SELECTOR, 4
        INVALID_STATE
RULE guest_ss_rpl, "An SS whose RPL is not that of CS fails the entry", "SDM vol. 3, 27.3.1.2"
        SET_BITS GUEST_SS_SELECTOR, 3
        INVALID_STATE
.macro GUEST_BASE name, field
RULE guest_\name\()_not_canonical, "A guest base of \name that is not canonical fails the entry", "SDM vol. 3, 27.3.1.2 and 27.3.1.3"
        SET     \field, NOT_CANONICAL
        INVALID_STATE
.endm
        GUEST_BASE fs, GUEST_FS_BASE
        GUEST_BASE gs, GUEST_GS_BASE
        GUEST_BASE tr, GUEST_TR_BASE
        GUEST_BASE gdtr, GUEST_GDTR_BASE
        GUEST_BASE idtr, GUEST_IDTR_BASE
RULE guest_gdtr_limit, "A GDTR limit above 65535 fails the entry", "SDM vol. 3, 27.3.1.3"
        SET     GUEST_GDTR_LIMIT, 0x10000
        INVALID_STATE
RULE guest_idtr_limit, "An IDTR limit above 65535 fails the entry", "SDM vol. 3, 27.3.1.3"
        SET     GUEST_IDTR_LIMIT, 0x10000
        INVALID_STATE
RULE guest_rip_upper_bits, "A guest RIP whose bits 63:48 are not all the same fails the entry", "SDM vol. 3, 27.3.1.4"
DEVIATION "entry_checks_left_to_hardware=on"
        SET     GUEST_RIP, 1 << 48
        call    run_on
        CHECK_FIELD VM_EXIT_REASON, ENTRY_FAILED | EXIT_INVALID_STATE
RULE guest_rip_need_not_be_canonical, "A guest RIP that is not canonical in bit 47 alone enters, and the fetch raises #GP", "SDM vol. 3, 27.3.1.4"
        SET     EXCEPTION_BITMAP, 1 << EXC_GP
        SET     GUEST_RIP, NOT_CANONICAL
        call    run_on
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD GUEST_RIP, NOT_CANONICAL
RULE guest_rflags_bit_1, "A guest RFLAGS without bit 1 fails the entry", "SDM vol. 3, 27.3.1.4"
        SET     GUEST_RFLAGS, 0
        INVALID_STATE
RULE guest_rflags_reserved, "A guest RFLAGS with a reserved bit fails the entry", "SDM vol. 3, 27.3.1.4"
        SET_BITS GUEST_RFLAGS, 1 << 15
        INVALID_STATE
RULE guest_rflags_upper_half, "A guest RFLAGS with a bit among 63:22 fails the entry", "SDM vol. 3, 27.3.1.4"
        SET_BITS GUEST_RFLAGS, 1 << 40
        INVALID_STATE
RULE guest_rflags_vm, "Virtual-8086 mode in an IA-32e guest fails the entry", "SDM vol. 3, 27.3.1.4"
        SET_BITS GUEST_RFLAGS, 1 << 17
        INVALID_STATE
RULE guest_if_clear_with_an_interrupt, "Injecting an external interrupt with RFLAGS.IF = 0 fails the entry", "SDM vol. 3, 27.3.1.4"
        INJECT  VALID | 0x31
        INVALID_STATE
RULE guest_activity_unknown, "An activity state above 3 fails the entry", "SDM vol. 3, 27.3.1.5"
        SET     GUEST_ACTIVITY_STATE, 4
        INVALID_STATE
RULE guest_interruptibility_reserved, "A reserved bit of the interruptibility state fails the entry", "SDM vol. 3, 27.3.1.5"
        SET     GUEST_INTERRUPTIBILITY_INFO, 1 << 5
        INVALID_STATE
RULE guest_blocked_by_sti_and_mov_ss, "Blocking by STI and by MOV SS at once fails the entry", "SDM vol. 3, 27.3.1.5"
        SET_BITS GUEST_RFLAGS, 1 << 9
        SET     GUEST_INTERRUPTIBILITY_INFO, 3
        INVALID_STATE
RULE guest_blocked_by_sti_with_if_clear, "Blocking by STI with RFLAGS.IF = 0 fails the entry", "SDM vol. 3, 27.3.1.5"
        SET     GUEST_INTERRUPTIBILITY_INFO, 1
        INVALID_STATE
RULE guest_blocked_with_an_interrupt, "Injecting an external interrupt while STI blocks fails the entry", "SDM vol. 3, 27.3.1.5"
        SET_BITS GUEST_RFLAGS, 1 << 9
        SET     GUEST_INTERRUPTIBILITY_INFO, 1
        INJECT  VALID | 0x31
        INVALID_STATE
RULE guest_blocked_with_an_nmi, "Injecting an NMI while MOV SS blocks fails the entry", "SDM vol. 3, 27.3.1.5"
DEVIATION "entry_checks_left_to_hardware=on"
        SET     GUEST_INTERRUPTIBILITY_INFO, 2
        INJECT  VALID | TYPE_NMI | 2
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, ENTRY_FAILED | EXIT_INVALID_STATE
RULE guest_pending_debug_reserved, "A reserved bit of the pending debug exceptions fails the entry", "SDM vol. 3, 27.3.1.5"
        SET     GUEST_PENDING_DBG_EXCEPTIONS, 1 << 5
        INVALID_STATE
RULE guest_link_pointer_unaligned, "A VMCS link pointer that is not page-aligned fails the entry with qualification 4", "SDM vol. 3, 27.3.1.5 and 27.8"
        SET     VMCS_LINK_POINTER, 8
        INVALID_STATE 4
RULE failed_entry_loads_the_host, "An entry that fails for the guest state goes on at the host RIP with the host's flags", "SDM vol. 3, 27.8"
DEVIATION "entry_checks_left_to_hardware=on"
        SET     GUEST_RFLAGS, 0
        mov     rbx, rsp
        L2      nop
        CHECK   rbx, rsp
        CHECK   [entry_flags], 0
        mov     rbx, cr3
        CHECK   rbx, L1_TABLES
RULE failed_entry_leaves_the_vmcs_clear, "An entry that fails for the guest state leaves the launch state clear", "SDM vol. 3, 27.8"
        SET     GUEST_RFLAGS, 0
        INVALID_STATE
        VMX     vmresume
        FAILED  5
RULE failed_entry_leaves_the_guest_state, "An entry that fails for the guest state does not write the guest-state area", "SDM vol. 3, 27.8"
        SET     GUEST_RFLAGS, 0
        SET     GUEST_RSP, 0x123456
        INVALID_STATE
        CHECK_FIELD GUEST_RFLAGS, 0
        CHECK_FIELD GUEST_RSP, 0x123456
RULE failed_entry_then_a_good_one, "After a failed entry a corrected guest state runs", "SDM vol. 3, 27.8"
        SET     GUEST_RFLAGS, 0
        INVALID_STATE
        SET     GUEST_RFLAGS, RFLAGS_RESET
        RUNS
RULES_END
