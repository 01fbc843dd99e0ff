# @title   Rules of SVM: instructions that exit, and those that do not
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.exits

.macro EXITED_AT code
        CHECK   [vmcb + VMCB_EXIT_CODE], \code
.endm

# ------------------------------------------------------------------ intercepted: APM vol. 2, 15.9

RULE cpuid_exits, "CPUID of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_CPUID, cpuid
RULE hlt_exits, "HLT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_HLT, hlt
RULE rdtsc_exits, "RDTSC of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_RDTSC, rdtsc
RULE rdtscp_exits, "RDTSCP of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_RDTSCP, rdtscp
RULE rdpmc_exits, "RDPMC of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_RDPMC, rdpmc
RULE pause_exits, "PAUSE of L2 exits each time when its intercept is set and there is no filter", "APM vol. 2, 15.14.4"
        EXITS   VMEXIT_PAUSE, pause
RULE invd_exits, "INVD of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_INVD, invd
RULE wbinvd_exits, "WBINVD of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_WBINVD, wbinvd
RULE pushf_exits, "PUSHF of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_PUSHF, pushfq
RULE popf_exits, "POPF of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_POPF, popfq
RULE iret_exits, "IRET of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_IRET, iretq
RULE icebp_exits, "INT1 (ICEBP) of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_ICEBP, .byte 0xf1          # INT1
RULE monitor_exits, "MONITOR of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_MONITOR, monitor
RULE mwait_exits, "MWAIT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_MWAIT, mwait
RULE sidt_exits, "SIDT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_IDTR_READ, sidt [scratch]
        CHECK   [scratch], 0
RULE sgdt_exits, "SGDT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_GDTR_READ, sgdt [scratch]
RULE sldt_exits, "SLDT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_LDTR_READ, sldt eax
RULE str_exits, "STR of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_TR_READ, str eax
RULE lidt_exits, "LIDT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_IDTR_WRITE, lidt [idt_pointer]
RULE lgdt_exits, "LGDT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_GDTR_WRITE, lgdt [idt_pointer]
RULE lldt_exits, "LLDT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_LDTR_WRITE, lldt ax
RULE ltr_exits, "LTR of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_TR_WRITE, ltr ax
RULE vmload_exits, "VMLOAD of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_VMLOAD, vmload rax
RULE vmsave_exits, "VMSAVE of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_VMSAVE, vmsave rax
RULE stgi_exits, "STGI of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_STGI, stgi
RULE clgi_exits, "CLGI of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_CLGI, clgi
RULE skinit_exits, "SKINIT of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_SKINIT, skinit
RULE vmmcall_exits, "VMMCALL of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_VMMCALL, vmmcall
RULE invlpga_exits, "INVLPGA of L2 exits when its intercept is set", "APM vol. 2, 15.9"
        EXITS   VMEXIT_INVLPGA, invlpga rax, ecx
RULE vmrun_exits, "VMRUN of L2 always exits", "APM vol. 2, 15.5.1"
        L2      vmrun rax
        EXITED  VMEXIT_VMRUN
        INFO1   0

RULE invlpg_exits_with_its_address, "INVLPG exits with its linear address in EXITINFO1 (decode assists)", "APM vol. 2, 15.8.4"
        mov     rcx, 0x12345000
        INTERCEPT VMEXIT_INVLPG
        L2      invlpg [rcx + 8]
        EXITED  VMEXIT_INVLPG
        INFO1   0x12345008

RULE int_n_exits_with_its_vector, "INT n exits with its vector in EXITINFO1 (decode assists)", "APM vol. 2, 15.8.3"
        INTERCEPT VMEXIT_SWINT
        L2      int 0x25
        EXITED  VMEXIT_SWINT
        INFO1   0x25
        CHECK   [exc_vector], NO_EXCEPTION

RULE int3_is_no_software_interrupt, "The INTn intercept does not count for INT3, which raises #BP", "APM vol. 2, 15.13.4"
        INTERCEPT VMEXIT_SWINT
        RUN     l2_int3
        HALTED
        CHECK   [exc_vector], EXC_BP

RULE cpl3_faults_before_the_intercept, "A privileged instruction at level 3 raises #GP and does not exit", "APM vol. 2, 15.7"
        INTERCEPT VMEXIT_INVD
        RUN     l2_user_invd
        HALTED
        CHECK   [exc_vector], EXC_GP

RULE cpuid_exits_at_cpl3, "CPUID exits at level 3, and the VMCB says CPL 3", "APM vol. 2, 15.9"
        INTERCEPT VMEXIT_CPUID
        RUN     l2_user_cpuid
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_CPUID
        movzx   ebx, byte ptr [vmcb + VMCB_CPL]
        CHECK   rbx, 3

RULE rdtsc_with_tsd_faults_before_the_intercept, "RDTSC that CR4.TSD forbids raises #GP and does not exit", "APM vol. 2, 15.9"
        or      dword ptr [vmcb + VMCB_CR4], 4
        INTERCEPT VMEXIT_RDTSC
        RUN     l2_user_rdtsc
        HALTED
        CHECK   [exc_vector], EXC_GP

RULE exits_come_in_order, "After an exit L2 goes on where L1 puts its RIP", "APM vol. 2, 15.6"
        INTERCEPT VMEXIT_CPUID
        INTERCEPT VMEXIT_RDTSC
        RUN     l2_cpuid_rdtsc
        EXITED_AT VMEXIT_CPUID
        call    run_next
        EXITED_AT VMEXIT_RDTSC
        call    run_next
        HALTED

# ------------------------------------------------------------------ not intercepted

RULE cpuid_executes, "CPUID that L1 does not intercept is answered by L0", "APM vol. 2, 15.9"
        mov     qword ptr [vmcb + VMCB_RAX], 0
        L2      cpuid
        EXECUTED
        CHECK   rbx, 0x68747541             # "Auth"

RULE rdtsc_executes, "RDTSC of L2 executes when its intercept is clear", "APM vol. 2, 15.9"
        mov     rdx, -1
        L2      rdtsc
        EXECUTED
        CHECK   [l2_rdx], 0

RULE pause_executes, "PAUSE of L2 executes when its intercept is clear", "APM vol. 2, 15.9"
        L2      pause
        EXECUTED
RULE wbinvd_executes, "WBINVD of L2 executes when its intercept is clear", "APM vol. 2, 15.9"
        L2      wbinvd
        EXECUTED
RULE invlpg_executes, "INVLPG of L2 executes when its intercept is clear", "APM vol. 2, 15.9"
        L2      invlpg [scratch]
        EXECUTED
RULE pushf_executes, "PUSHF of L2 executes when its intercept is clear", "APM vol. 2, 15.9"
        L2      pushfq
        EXECUTED
        CHECK_AT [vmcb + VMCB_RSP], l2_stack_end - 8
RULE sidt_executes, "SIDT of L2 executes when its intercept is clear", "APM vol. 2, 15.9"
        L2      sidt [scratch]
        EXECUTED
        CHECK_BITS [scratch], 0xffff, 64*16 - 1
RULE str_executes, "STR of L2 executes when its intercept is clear", "APM vol. 2, 15.9"
        L2      str ebx
        EXECUTED
        CHECK   rbx, SEL_TSS
RULE int_n_executes, "INT n of L2 goes through its IDT when the intercept is clear", "APM vol. 2, 15.9"
        RUN     l2_int
        HALTED
        CHECK   [exc_vector], 0x25
RULE ud2_is_an_exception, "UD2 is no intercepted instruction but raises #UD", "APM vol. 2, 15.12.7"
        RUN     l2_ud2
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE monitor_without_support_is_ud, "MONITOR raises #UD where CPUID does not announce it", "APM vol. 3, MONITOR (CPUID 1 ECX.MONITOR = 0)"
        RUN     l2_monitor
        HALTED
        CHECK   [exc_vector], EXC_UD
RULE vmmcall_not_intercepted_is_ud, "VMMCALL raises #UD when its intercept is clear", "APM vol. 3, VMMCALL"
DEVIATION "vmmcall_always_to_l1=on"
        RUN     l2_vmmcall
        HALTED
        CHECK   [exc_vector], EXC_UD

# ------------------------------------------------------------------ control registers

.set BY_MOV, 1 << 63

RULE cr0_read_exits, "MOV from CR0 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_READ
        L2      mov rbx, cr0
        EXITED  VMEXIT_CR0_READ
        INFO1   BY_MOV | 3
RULE cr3_read_exits, "MOV from CR3 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_READ + 3
        L2      mov r12, cr3
        EXITED  VMEXIT_CR0_READ + 3
        INFO1   BY_MOV | 12
RULE cr4_read_exits, "MOV from CR4 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_READ + 4
        L2      mov rax, cr4
        EXITED  VMEXIT_CR0_READ + 4
        INFO1   BY_MOV
RULE cr2_read_exits, "MOV from CR2 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_READ + 2
        L2      mov rsi, cr2
        EXITED  VMEXIT_CR0_READ + 2
        INFO1   BY_MOV | 6
RULE cr8_read_exits, "MOV from CR8 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_READ + 8
        L2      mov rdi, cr8
        EXITED  VMEXIT_CR0_READ + 8
        INFO1   BY_MOV | 7
RULE cr0_write_exits, "MOV to CR0 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_WRITE
        L2      mov cr0, rcx
        EXITED  VMEXIT_CR0_WRITE
        INFO1   BY_MOV | 1
RULE cr2_write_exits, "MOV to CR2 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_WRITE + 2
        L2      mov cr2, r9
        EXITED  VMEXIT_CR0_WRITE + 2
        INFO1   BY_MOV | 9
RULE cr3_write_exits, "MOV to CR3 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_WRITE + 3
        L2      mov cr3, rdx
        EXITED  VMEXIT_CR0_WRITE + 3
        INFO1   BY_MOV | 2
        CHECK   [vmcb + VMCB_CR3], L1_TABLES
RULE cr4_write_exits, "MOV to CR4 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR4_WRITE
        L2      mov cr4, r15
        EXITED  VMEXIT_CR4_WRITE
        INFO1   BY_MOV | 15
RULE cr8_write_exits, "MOV to CR8 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_WRITE + 8
        L2      mov cr8, rbx
        EXITED  VMEXIT_CR0_WRITE + 8
        INFO1   BY_MOV | 3
RULE clts_exits_as_cr0_write, "CLTS exits as a write of CR0 with bit 63 of EXITINFO1 clear", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_WRITE
        L2      clts
        EXITED  VMEXIT_CR0_WRITE
        INFO1   0
RULE lmsw_exits_as_cr0_write, "LMSW exits as a write of CR0 with bit 63 of EXITINFO1 clear", "APM vol. 2, 15.8.1"
        INTERCEPT VMEXIT_CR0_WRITE
        L2      lmsw bx
        EXITED  VMEXIT_CR0_WRITE
        INFO1   0
RULE smsw_exits_as_cr0_read, "SMSW exits as a read of CR0", "APM vol. 2, 15.9"
        INTERCEPT VMEXIT_CR0_READ
        L2      smsw ebx
        EXITED  VMEXIT_CR0_READ
        INFO1   0
RULE selective_cr0_write_exits, "The selective intercept exits for a change of another bit than TS and MP", "APM vol. 2, 15.9"
DEVIATION "cr0_sel_write_missed=on"
        INTERCEPT VMEXIT_CR0_SEL_WRITE
        mov     ebx, CR0_GUEST ^ (1 << 16)
        L2      mov cr0, rbx
        EXITED  VMEXIT_CR0_SEL_WRITE
        INFO1   BY_MOV | 3
RULE selective_cr0_write_passes_ts, "The selective intercept lets a change of TS pass", "APM vol. 2, 15.9"
        INTERCEPT VMEXIT_CR0_SEL_WRITE
        mov     ebx, CR0_GUEST ^ CR0_TS
        L2      mov cr0, rbx
        EXECUTED
        CHECK   [vmcb + VMCB_CR0], CR0_GUEST ^ CR0_TS
RULE selective_cr0_write_passes_clts, "The selective intercept lets CLTS pass", "APM vol. 2, 15.9"
        INTERCEPT VMEXIT_CR0_SEL_WRITE
        or      dword ptr [vmcb + VMCB_CR0], CR0_TS
        L2      clts
        EXECUTED
        CHECK   [vmcb + VMCB_CR0], CR0_GUEST
RULE plain_cr0_write_intercept_comes_first, "With both CR0 intercepts the plain one gives the exit code", "APM vol. 2, 15.9"
        INTERCEPT VMEXIT_CR0_SEL_WRITE
        INTERCEPT VMEXIT_CR0_WRITE
        xor     ebx, ebx
        L2      mov cr0, rbx
        EXITED  VMEXIT_CR0_WRITE
RULE cr0_write_executes, "MOV to CR0 executes when no intercept is set, and the exit saves CR0", "APM vol. 2, 15.8.1"
        mov     ebx, CR0_GUEST ^ (1 << 16)
        L2      mov cr0, rbx
        EXECUTED
        CHECK   [vmcb + VMCB_CR0], CR0_GUEST ^ (1 << 16)
RULE cr3_write_executes, "MOV to CR3 executes when its intercept is clear, and the exit saves CR3", "APM vol. 2, 15.8.1"
        call    build_l2_tables
        mov     ebx, offset l2_root
        L2      mov cr3, rbx
        EXECUTED
        CHECK_AT [vmcb + VMCB_CR3], l2_root
RULE cr4_write_executes, "MOV to CR4 executes when its intercept is clear, and the exit saves CR4", "APM vol. 2, 15.8.1"
        mov     ebx, CR4_GUEST | 4
        L2      mov cr4, rbx
        EXECUTED
        CHECK   [vmcb + VMCB_CR4], CR4_GUEST | 4
RULE cr2_write_executes, "MOV to CR2 executes when its intercept is clear, and the exit saves CR2", "APM vol. 2, 15.8.1"
        mov     rbx, 0x123456789
        L2      mov cr2, rbx
        EXECUTED
        CHECK   [vmcb + VMCB_CR2], 0x123456789
RULE bad_cr4_write_is_gp, "A write of a reserved bit of CR4 raises #GP in L2", "APM vol. 2, 15.8.1"
        mov     rbx, 1 << 31 | CR4_GUEST
        RUN     l2_write_cr4
        HALTED
        CHECK   [exc_vector], EXC_GP
        CHECK   [vmcb + VMCB_CR4], CR4_GUEST

# ------------------------------------------------------------------ debug registers

RULE dr0_read_exits, "MOV from DR0 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.2"
        INTERCEPT VMEXIT_DR0_READ
        L2      mov rbx, dr0
        EXITED  VMEXIT_DR0_READ
        INFO1   3
RULE dr3_write_exits, "MOV to DR3 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.2"
        INTERCEPT VMEXIT_DR0_WRITE + 3
        L2      mov dr3, r14
        EXITED  VMEXIT_DR0_WRITE + 3
        INFO1   14
RULE dr7_read_exits, "MOV from DR7 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.2"
        INTERCEPT VMEXIT_DR0_READ + 7
        L2      mov rcx, dr7
        EXITED  VMEXIT_DR0_READ + 7
        INFO1   1
RULE dr7_write_exits, "MOV to DR7 exits with the general register in EXITINFO1", "APM vol. 2, 15.8.2"
        INTERCEPT VMEXIT_DR0_WRITE + 7
        L2      mov dr7, rdx
        EXITED  VMEXIT_DR0_WRITE + 7
        INFO1   2
RULE dr_accesses_execute, "Debug registers are L2's own when no intercept is set", "APM vol. 2, 15.8.2"
        mov     rbx, 0x1234
        RUN     l2_write_dr1
        HALTED
        CHECK   [l2_rcx], 0x1234
RULES_END

# ------------------------------------------------------------------ code of L2

.macro USER_CODE insn:vararg
        CATCH_USER \insn
        hlt
.endm
l2_user_invd:   USER_CODE invd
l2_user_cpuid:  USER_CODE cpuid
l2_user_rdtsc:  USER_CODE rdtsc
l2_cpuid_rdtsc: cpuid
        rdtsc
        hlt
l2_int: CATCH   int 0x25
        hlt
l2_ud2: CATCH   ud2
        hlt
l2_int3:
        CATCH   int3
        hlt
l2_monitor:
        CATCH   monitor
        hlt
l2_vmmcall:
        CATCH   vmmcall
        hlt
l2_write_cr4:
        CATCH   mov cr4, rbx
        hlt
l2_write_dr1:
        mov     dr1, rbx
        mov     rcx, dr1
        hlt
