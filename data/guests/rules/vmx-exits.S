# @title   Rules of VMX: instructions that exit, and those that do not
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.exits

.macro CPU_CONTROL mask
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, \mask
.endm

# ------------------------------------------------------------------ always: SDM vol. 3, 26.1.2

RULE cpuid_exits, "CPUID of L2 always exits", "SDM vol. 3, 26.1.2"
        EXITS   EXIT_CPUID, cpuid
RULE invd_exits, "INVD of L2 always exits", "SDM vol. 3, 26.1.2"
        EXITS   EXIT_INVD, invd
RULE xsetbv_exits, "XSETBV of L2 always exits", "SDM vol. 3, 26.1.2"
        EXITS   EXIT_XSETBV, xsetbv
RULE vmcall_exits, "VMCALL of L2 always exits", "SDM vol. 3, 26.1.2"
        EXITS   EXIT_VMCALL, vmcall
RULE vmlaunch_exits, "VMLAUNCH of L2 always exits", "SDM vol. 3, 26.1.2"
        EXITS   EXIT_VMLAUNCH, vmlaunch
RULE vmresume_exits, "VMRESUME of L2 always exits", "SDM vol. 3, 26.1.2"
        EXITS   EXIT_VMRESUME, vmresume
RULE vmxoff_exits, "VMXOFF of L2 always exits", "SDM vol. 3, 26.1.2"
        EXITS   EXIT_VMXOFF, vmxoff
RULE vmptrld_exits_with_its_operand, "VMPTRLD of L2 always exits, with displacement and registers of its operand", "SDM vol. 3, 28.2.5 and table 28-13"
        mov     esi, offset scratch
        L2      vmptrld qword ptr [rsi + 0x10]
        EXITED  EXIT_VMPTRLD
        QUALIFIED 0x10
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0xfc38380, 2 << 7 | 3 << 15 | 1 << 22 | 6 << 23
RULE vmptrst_exits, "VMPTRST of L2 always exits", "SDM vol. 3, 26.1.2"
        L2      vmptrst qword ptr [rsi]
        EXITED  EXIT_VMPTRST
RULE vmclear_exits, "VMCLEAR of L2 always exits", "SDM vol. 3, 26.1.2"
        L2      vmclear qword ptr [rsi]
        EXITED  EXIT_VMCLEAR
RULE vmxon_exits, "VMXON of L2 always exits", "SDM vol. 3, 26.1.2"
        L2      vmxon qword ptr [rsi]
        EXITED  EXIT_VMXON
RULE vmread_exits_with_its_registers, "VMREAD of L2 exits with both registers in the instruction information", "SDM vol. 3, table 28-14"
        L2      vmread rdi, r9
        EXITED  EXIT_VMREAD
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0xf0000478, 7 << 3 | 1 << 10 | 9 << 28
RULE vmwrite_exits_with_its_registers, "VMWRITE of L2 exits with both registers in the instruction information", "SDM vol. 3, table 28-14"
        L2      vmwrite r10, rbx
        EXITED  EXIT_VMWRITE
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0xf0000478, 3 << 3 | 1 << 10 | 10 << 28
RULE vmread_to_memory_exits_with_its_operand, "VMREAD to memory exits with scale, base and index of its operand", "SDM vol. 3, table 28-14"
        L2      vmread [rbx + rcx*4 + 0x20], rdi
        EXITED  EXIT_VMREAD
        QUALIFIED 0x20
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0xfffff783, 2 | 2 << 7 | 3 << 15 | 1 << 18 | 3 << 23 | 7 << 28
RULE invept_exits_with_its_operands, "INVEPT of L2 exits with base register and type register", "SDM vol. 3, table 28-9"
        L2      invept rbp, [rcx]
        EXITED  EXIT_INVEPT
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0xff800000, 1 << 23 | 5 << 28
RULE invvpid_exits_with_its_operands, "INVVPID of L2 exits with base register and type register", "SDM vol. 3, table 28-9"
        L2      invvpid rdx, [rsi]
        EXITED  EXIT_INVVPID
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0xff800000, 6 << 23 | 2 << 28
RULE vmx_instruction_exits_at_cpl3, "VMCALL of L2 at level 3 exits: the exit comes before the privilege check", "SDM vol. 3, 26.1.1"
        RUN     l2_user_vmcall
        CHECK_FIELD VM_EXIT_REASON, EXIT_VMCALL
RULE cpuid_exits_at_cpl3, "CPUID of L2 at level 3 exits, and the guest state says level 3", "SDM vol. 3, 26.1.2"
        RUN     l2_user_cpuid
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        CHECK_FIELD GUEST_CS_SELECTOR, SEL_USER_CODE
        CHECK_FIELD_BITS GUEST_SS_AR_BYTES, 0x60, 0x60
RULE vmfunc_without_support_is_ud, "VMFUNC raises #UD while its control is 0", "SDM vol. 3, 26.5.6.1"
        RUN     l2_vmfunc
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE svm_instructions_are_ud, "The instructions of SVM raise #UD in L2", "SDM vol. 2"
        RUN     l2_vmmcall
        HALTED
        CHECK   [exc_vector], EXC_UD

# ------------------------------------------------------------------ by control: SDM vol. 3, 26.1.3

RULE hlt_exits, "HLT of L2 exits when its control is set", "SDM vol. 3, 26.1.3"
        EXITS   EXIT_HLT, hlt
RULE rdtsc_exits, "RDTSC of L2 exits when its control is set", "SDM vol. 3, 26.1.3"
        CPU_CONTROL CPU_RDTSC_EXITING
        EXITS   EXIT_RDTSC, rdtsc
RULE rdpmc_exits, "RDPMC of L2 exits when its control is set", "SDM vol. 3, 26.1.3"
        CPU_CONTROL CPU_RDPMC_EXITING
        EXITS   EXIT_RDPMC, rdpmc
RULE pause_exits, "PAUSE of L2 exits when its control is set", "SDM vol. 3, 26.1.3"
        CPU_CONTROL CPU_PAUSE_EXITING
        EXITS   EXIT_PAUSE, pause
RULE monitor_exits, "MONITOR of L2 exits when its control is set", "SDM vol. 3, 26.1.3"
        CPU_CONTROL CPU_MONITOR_EXITING
        EXITS   EXIT_MONITOR, monitor
RULE mwait_exits, "MWAIT of L2 exits when its control is set", "SDM vol. 3, 26.1.3"
        CPU_CONTROL CPU_MWAIT_EXITING
        EXITS   EXIT_MWAIT, mwait
RULE invlpg_exits_with_its_address, "INVLPG exits with its linear address as qualification", "SDM vol. 3, 28.2.1"
        CPU_CONTROL CPU_INVLPG_EXITING
        mov     esi, 0x12345000
        L2      invlpg [rsi + 8]
        EXITED  EXIT_INVLPG
        QUALIFIED 0x12345008
RULE sgdt_exits, "SGDT of L2 exits with descriptor-table exiting and is named in the instruction information", "SDM vol. 3, 26.1.3; table 28-10"
        call    descriptor_exiting
        mov     esi, offset scratch
        L2      sgdt [rsi + 8]
        EXITED  EXIT_GDTR_IDTR
        QUALIFIED 8
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0x3fc38380, 2 << 7 | 3 << 15 | 1 << 22 | 6 << 23
RULE sidt_exits, "SIDT of L2 exits with descriptor-table exiting and is named in the instruction information", "SDM vol. 3, 26.1.3; table 28-10"
        call    descriptor_exiting
        L2      sidt [rsi]
        EXITED  EXIT_GDTR_IDTR
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 3 << 28, 1 << 28
RULE lgdt_exits, "LGDT of L2 exits with descriptor-table exiting and is named in the instruction information", "SDM vol. 3, 26.1.3; table 28-10"
        call    descriptor_exiting
        L2      lgdt [rsi]
        EXITED  EXIT_GDTR_IDTR
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 3 << 28, 2 << 28
RULE lidt_exits, "LIDT of L2 exits with descriptor-table exiting and is named in the instruction information", "SDM vol. 3, 26.1.3; table 28-10"
        call    descriptor_exiting
        L2      lidt [rsi]
        EXITED  EXIT_GDTR_IDTR
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 3 << 28, 3 << 28
RULE sldt_exits, "SLDT of L2 exits with descriptor-table exiting and is named in the instruction information", "SDM vol. 3, 26.1.3; table 28-11"
        call    descriptor_exiting
        L2      sldt ebx
        EXITED  EXIT_LDTR_TR
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0x30000478, 3 << 3 | 1 << 10
RULE str_exits, "STR of L2 exits with descriptor-table exiting and is named in the instruction information", "SDM vol. 3, 26.1.3; table 28-11"
        call    descriptor_exiting
        L2      str rdi
        EXITED  EXIT_LDTR_TR
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0x30000478, 1 << 28 | 7 << 3 | 1 << 10
RULE lldt_exits, "LLDT of L2 exits with descriptor-table exiting and is named in the instruction information", "SDM vol. 3, 26.1.3; table 28-11"
        call    descriptor_exiting
        L2      lldt si
        EXITED  EXIT_LDTR_TR
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 0x30000478, 2 << 28 | 6 << 3 | 1 << 10
RULE ltr_exits, "LTR of L2 exits with descriptor-table exiting and is named in the instruction information", "SDM vol. 3, 26.1.3; table 28-11"
        call    descriptor_exiting
        L2      ltr word ptr [rbx + 4]
        EXITED  EXIT_LDTR_TR
        QUALIFIED 4
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 3 << 28 | 15 << 23 | 1 << 10, 3 << 28 | 3 << 23
RULE rdtscp_not_enabled_is_ud, "RDTSCP raises #UD while 'enable RDTSCP' is 0", "SDM vol. 3, 26.3"
DEVIATION "instructions_of_l0_for_l2=on"
        RUN     l2_rdtscp
        HALTED
        CHECK   [exc_vector], EXC_UD

# ------------------------------------------------------------------ without the control

RULE rdtsc_executes, "RDTSC of L2 executes when its control is clear", "SDM vol. 3, 26.1.3"
        mov     rdx, -1
        L2      rdtsc
        EXECUTED
        CHECK   [l2_rdx], 0
RULE pause_executes, "PAUSE of L2 executes when its control is clear", "SDM vol. 3, 26.1.3"
        L2      pause
        EXECUTED
RULE wbinvd_executes, "WBINVD of L2 executes when its control is clear", "SDM vol. 3, 26.1.3"
        L2      wbinvd
        EXECUTED
RULE invlpg_executes, "INVLPG of L2 executes when its control is clear", "SDM vol. 3, 26.1.3"
        L2      invlpg [scratch]
        EXECUTED
RULE sidt_executes, "SIDT of L2 executes when its control is clear", "SDM vol. 3, 26.1.3"
        L2      sidt [scratch]
        EXECUTED
        CHECK_BITS [scratch], 0xffff, 64*16 - 1
RULE str_executes, "STR of L2 executes when its control is clear", "SDM vol. 3, 26.1.3"
        L2      str ebx
        EXECUTED
        CHECK   rbx, SEL_TSS
RULE monitor_without_support_is_ud, "MONITOR raises #UD where CPUID does not announce it", "SDM vol. 2, MONITOR (CPUID 1 ECX.MONITOR = 0)"
        RUN     l2_monitor
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE pushf_and_popf_execute, "PUSHF and POPF never exit", "SDM vol. 3, 26.1"
        RUN     l2_flags
        HALTED
RULE int_n_executes, "INT n never exits, whatever the exception bitmap says", "SDM vol. 3, 26.2"
        SET     EXCEPTION_BITMAP, -1
        RUN     l2_int
        HALTED
        CHECK   [exc_vector], 0x25
RULE cpl3_faults_before_the_exit, "INVD at level 3 raises #GP and does not exit", "SDM vol. 3, 26.1.1"
        RUN     l2_user_invd
        HALTED
        CHECK   [exc_vector], EXC_GP
RULE exits_come_in_order, "After an exit L2 goes on where L1 puts its RIP", "SDM vol. 3, 27.1"
        CPU_CONTROL CPU_RDTSC_EXITING
        RUN     l2_cpuid_rdtsc
        CHECK_FIELD VM_EXIT_REASON, EXIT_CPUID
        call    run_next
        CHECK_FIELD VM_EXIT_REASON, EXIT_RDTSC
        call    run_next
        HALTED

# ------------------------------------------------------------------ control registers: 26.1.3, table 28-3

RULE cr3_load_exits, "MOV to CR3 exits with the general register in the qualification", "SDM vol. 3, table 28-3"
        CPU_CONTROL CPU_CR3_LOAD_EXITING
        L2      mov cr3, rsi
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 3 | 6 << 8
RULE cr3_store_exits, "MOV from CR3 exits with access type 1", "SDM vol. 3, table 28-3"
        CPU_CONTROL CPU_CR3_STORE_EXITING
        L2      mov r11, cr3
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 3 | 1 << 4 | 11 << 8
RULE cr8_load_exits, "MOV to CR8 exits with CR8-load exiting", "SDM vol. 3, table 28-3"
        CPU_CONTROL CPU_CR8_LOAD_EXITING
        L2      mov cr8, rbx
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 8 | 3 << 8
RULE cr8_store_exits, "MOV from CR8 exits with CR8-store exiting", "SDM vol. 3, table 28-3"
        CPU_CONTROL CPU_CR8_STORE_EXITING
        L2      mov rcx, cr8
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 8 | 1 << 4 | 1 << 8
RULE cr0_write_to_an_owned_bit_exits, "A write of CR0 that differs from the read shadow in an owned bit exits", "SDM vol. 3, 26.1.3"
        SET     CR0_GUEST_HOST_MASK, CR0_TS
        SET     CR0_READ_SHADOW, 0
        mov     ebx, CR0_GUEST | CR0_TS
        L2      mov cr0, rbx
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 3 << 8
RULE cr0_write_as_the_shadow_does_not_exit, "A write of CR0 that agrees with the read shadow in all owned bits does not exit, and leaves them", "SDM vol. 3, 26.1.3"
        SET     CR0_GUEST_HOST_MASK, CR0_TS
        SET     CR0_READ_SHADOW, CR0_TS
        mov     ebx, CR0_GUEST | CR0_TS | CR0_NE
        L2      mov cr0, rbx
        EXECUTED
        CHECK_FIELD_BITS GUEST_CR0, CR0_TS, 0
RULE cr0_write_to_own_bits_executes, "A write of CR0 to bits that L1 does not own executes", "SDM vol. 3, 26.1.3"
        mov     ebx, CR0_GUEST | CR0_TS
        L2      mov cr0, rbx
        EXECUTED
        CHECK_FIELD_BITS GUEST_CR0, CR0_TS, CR0_TS
RULE cr0_reads_the_shadow_in_owned_bits, "MOV from CR0 gives owned bits from the read shadow", "SDM vol. 3, 26.3"
        SET     CR0_GUEST_HOST_MASK, CR0_TS | 1 << 16
        SET     CR0_READ_SHADOW, CR0_TS
        L2      mov rbx, cr0
        EXECUTED
        CHECK_BITS rbx, CR0_TS | 1 << 16 | 1, CR0_TS | 1
RULE smsw_reads_the_shadow, "SMSW gives owned bits from the read shadow", "SDM vol. 3, 26.3"
        SET     CR0_GUEST_HOST_MASK, CR0_TS
        SET     CR0_READ_SHADOW, CR0_TS
        L2      smsw ebx
        EXECUTED
        CHECK_BITS rbx, CR0_TS, CR0_TS
RULE cr4_write_to_an_owned_bit_exits, "A write of CR4 that differs from the read shadow in an owned bit exits", "SDM vol. 3, 26.1.3"
        SET     CR4_GUEST_HOST_MASK, 4
        SET     CR4_READ_SHADOW, 0
        mov     ebx, CR4_GUEST | 4
        L2      mov cr4, rbx
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 4 | 3 << 8
RULE cr4_write_to_own_bits_executes, "A write of CR4 to bits that L1 does not own executes", "SDM vol. 3, 26.1.3"
        mov     ebx, CR4_GUEST | CR4_VMXE | 4
        L2      mov cr4, rbx
        EXECUTED
        CHECK_FIELD_BITS GUEST_CR4, 4, 4
RULE cr4_reads_the_shadow_in_owned_bits, "MOV from CR4 gives owned bits from the read shadow", "SDM vol. 3, 26.3"
        SET     CR4_GUEST_HOST_MASK, CR4_VMXE | 4
        SET     CR4_READ_SHADOW, 4
        L2      mov rbx, cr4
        EXECUTED
        CHECK   rbx, CR4_GUEST | 4
RULE clts_exits, "CLTS exits when TS is owned and set in the read shadow", "SDM vol. 3, table 28-3"
        SET     CR0_GUEST_HOST_MASK, CR0_TS
        SET     CR0_READ_SHADOW, CR0_TS
        L2      clts
        EXITED  EXIT_CR_ACCESS
        QUALIFIED 2 << 4
RULE clts_with_a_clear_shadow_does_not_exit, "CLTS does not exit when TS is clear in the read shadow", "SDM vol. 3, 26.1.3"
        SET     CR0_GUEST_HOST_MASK, CR0_TS
        SET     CR0_READ_SHADOW, 0
        L2      clts
        EXECUTED
RULE clts_executes, "CLTS clears TS when L1 does not own it", "SDM vol. 3, 26.3"
        SET_BITS GUEST_CR0, CR0_TS
        L2      clts
        EXECUTED
        CHECK_FIELD_BITS GUEST_CR0, CR0_TS, 0
RULE lmsw_exits, "LMSW that changes an owned bit exits with its source in bits 31:16", "SDM vol. 3, table 28-3"
        SET     CR0_GUEST_HOST_MASK, CR0_TS
        SET     CR0_READ_SHADOW, 0
        mov     ebx, 0x12349
        L2      lmsw bx
        EXITED  EXIT_CR_ACCESS
        CHECK_FIELD_BITS EXIT_QUALIFICATION, 0xf007f, 9 << 16 | 3 << 4
RULE lmsw_gives_all_16_bits, "The source of LMSW in the qualification has all its 16 bits", "SDM vol. 3, table 28-3"
        SET     CR0_GUEST_HOST_MASK, CR0_TS
        SET     CR0_READ_SHADOW, 0
        mov     ebx, 0x2348
        L2      lmsw bx
        CHECK_FIELD_BITS EXIT_QUALIFICATION, 0xffff0000, 0x2348 << 16
RULE lmsw_without_owned_bits_executes, "LMSW executes when L1 owns none of the bits it changes", "SDM vol. 3, 26.1.3"
        SET     CR0_GUEST_HOST_MASK, 1 << 16
        mov     ebx, 9
        L2      lmsw bx
        EXECUTED
        CHECK_FIELD_BITS GUEST_CR0, 15, 9
RULE cr3_load_executes, "MOV to CR3 executes without CR3-load exiting", "SDM vol. 3, 26.1.3"
        call    build_l2_tables
        mov     ebx, offset l2_root
        L2      mov cr3, rbx
        EXECUTED
        CHECK_FIELD_AT GUEST_CR3, l2_root
RULE cr2_never_exits, "MOV to CR2 never exits", "SDM vol. 3, 26.1"
        mov     ebx, 0x777
        L2      mov cr2, rbx
        EXECUTED
        mov     rbx, cr2
        CHECK   rbx, 0x777
RULE bad_cr4_write_is_gp, "A write of a reserved bit of CR4 raises #GP in L2", "SDM vol. 3, 26.3"
        mov     rbx, 1 << 31 | CR4_GUEST | CR4_VMXE
        RUN     l2_write_cr4
        HALTED
        CHECK   [exc_vector], EXC_GP

# ------------------------------------------------------------------ debug registers

RULE dr_write_exits, "MOV to a debug register exits with both registers in the qualification", "SDM vol. 3, table 28-4"
        CPU_CONTROL CPU_MOV_DR_EXITING
        L2      mov dr3, rbx
        EXITED  EXIT_DR_ACCESS
        QUALIFIED 3 | 3 << 8
RULE dr_read_exits, "MOV from a debug register exits with direction 1", "SDM vol. 3, table 28-4"
        CPU_CONTROL CPU_MOV_DR_EXITING
        L2      mov r12, dr7
        EXITED  EXIT_DR_ACCESS
        QUALIFIED 7 | 1 << 4 | 12 << 8
RULE dr_accesses_execute, "Debug registers are L2's own without MOV-DR exiting", "SDM vol. 3, 26.1.3"
        mov     rbx, 0x1234
        RUN     l2_write_dr1
        HALTED
        CHECK   [l2_rcx], 0x1234
RULES_END

descriptor_exiting:
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_DESC
        ret

.macro USER_CODE insn:vararg
        CATCH_USER \insn
        hlt
.endm
l2_user_vmcall: USER_CODE vmcall
l2_user_cpuid:  USER_CODE cpuid
l2_user_invd:   USER_CODE invd
l2_vmfunc:
        CATCH   vmfunc
        hlt
l2_vmmcall:
        CATCH   vmmcall
        hlt
l2_rdtscp:
        CATCH   rdtscp
        hlt
l2_monitor:
        CATCH   monitor
        hlt
l2_flags:
        pushfq
        popfq
        hlt
l2_int: CATCH   int 0x25
        hlt
l2_cpuid_rdtsc:
        cpuid
        rdtsc
        hlt
l2_write_cr4:
        CATCH   mov cr4, rbx
        hlt
l2_write_dr1:
        mov     dr1, rbx
        mov     rcx, dr1
        hlt
