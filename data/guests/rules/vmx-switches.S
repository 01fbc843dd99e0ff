# @title   Rules of VMX: EFER, PAT, DEBUGCTL and DR7, which are switched only when a control says so
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.switches

.set MSR_DEBUGCTL,          0x1d9
.set MSR_PAT,               0x277
.set GUEST_IA32_PAT,        0x2804
.set HOST_IA32_PAT,         0x2c00
.set EXIT_SAVE_DEBUG,       1 << 2
.set EXIT_LOAD_PERF,        1 << 12
.set EXIT_SAVE_PAT,         1 << 18
.set EXIT_LOAD_PAT,         1 << 19
.set ENTRY_LOAD_DEBUG,      1 << 2
.set ENTRY_LOAD_PAT,        1 << 14
.set EFER_SCE,              1 << 0
.set EFER_NXE,              1 << 11
.set DEBUGCTL_LBR,          1 << 0
.set PAT_WRITE_BACK,        0x0606060606060606
.set PAT_WRITE_THROUGH,     0x0404040404040404

.macro READ_MSR number                      # to RBX
        mov     ecx, \number
        rdmsr
        shl     rdx, 32
        lea     rbx, [rax + rdx]
.endm
.macro WRITE_MSR number, value
        mov     ecx, \number
        mov     rax, \value
        mov     rdx, rax
        shr     rdx, 32
        wrmsr
.endm
.macro L2_READS_MSR number
        mov     dword ptr [scratch], \number
        RUN     l2_reads_msr
        HALTED
.endm
.macro L2_WRITES_MSR number, value
        mov     ecx, \number
        mov     rax, \value
        mov     rdx, rax
        shr     rdx, 32
        L2      wrmsr
        EXECUTED
.endm

# ------------------------------------------------------------------ EFER: SDM vol. 3, 27.3.2.1, 28.3.1, 28.5.1

RULE efer_not_loaded_is_l1s, "Without 'load IA32_EFER' at entry L2 starts with L1's EFER", "SDM vol. 3, 27.3.2.1"
        CLEAR_BITS VM_ENTRY_CONTROLS, ENTRY_CTL_LOAD_EFER
        CLEAR_BITS GUEST_IA32_EFER, EFER_SCE
        L2_READS_MSR MSR_EFER
        CHECK   [l2_value], EFER_LME_LMA_NXE_SCE
RULE efer_field_stays_when_not_loaded, "Without 'load IA32_EFER' and 'save IA32_EFER' the field stays", "SDM vol. 3, 28.3.1"
DEVIATION "saves_ignore_exit_controls=on"
        CLEAR_BITS VM_ENTRY_CONTROLS, ENTRY_CTL_LOAD_EFER
        CLEAR_BITS VM_EXIT_CONTROLS, EXIT_CTL_SAVE_EFER
        CLEAR_BITS GUEST_IA32_EFER, EFER_SCE
        L2      nop
        EXECUTED
        CHECK_FIELD GUEST_IA32_EFER, EFER_LME_LMA_NXE_SCE & ~EFER_SCE
RULE efer_saved_is_what_l2_had, "'Save IA32_EFER' saves the EFER that L2 had, though entry did not load it", "SDM vol. 3, 28.3.1"
        CLEAR_BITS VM_ENTRY_CONTROLS, ENTRY_CTL_LOAD_EFER
        CLEAR_BITS GUEST_IA32_EFER, EFER_SCE
        L2      nop
        EXECUTED
        CHECK_FIELD GUEST_IA32_EFER, EFER_LME_LMA_NXE_SCE
RULE efer_not_loaded_at_exit_stays, "Without 'load IA32_EFER' at exit L1 goes on with L2's EFER", "SDM vol. 3, 28.5.1"
        CLEAR_BITS VM_EXIT_CONTROLS, EXIT_CTL_LOAD_EFER
        CLEAR_BITS HOST_IA32_EFER, EFER_NXE
        L2_WRITES_MSR MSR_EFER, EFER_LME_LMA_NXE_SCE & ~EFER_SCE
        READ_MSR MSR_EFER
        CHECK   rbx, EFER_LME_LMA_NXE_SCE & ~EFER_SCE
RULE efer_host_field_is_not_written, "No exit writes the host EFER", "SDM vol. 3, 28.3"
        L2_WRITES_MSR MSR_EFER, EFER_LME_LMA_NXE_SCE & ~EFER_SCE
        CHECK_FIELD HOST_IA32_EFER, EFER_LME_LMA_NXE_SCE

# ------------------------------------------------------------------ PAT

RULE pat_not_loaded_is_l1s, "Without 'load IA32_PAT' at entry L2 starts with L1's PAT", "SDM vol. 3, 27.3.2.1"
        SET     GUEST_IA32_PAT, PAT_WRITE_BACK
        WRITE_MSR MSR_PAT, PAT_WRITE_THROUGH
        L2_READS_MSR MSR_PAT
        CHECK   [l2_value], PAT_WRITE_THROUGH
RULE pat_saved_only_when_told, "Without 'save IA32_PAT' the field stays", "SDM vol. 3, 28.3.1"
DEVIATION "saves_ignore_exit_controls=on"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT
        SET     GUEST_IA32_PAT, PAT_WRITE_BACK
        L2_WRITES_MSR MSR_PAT, PAT_WRITE_THROUGH
        CHECK_FIELD GUEST_IA32_PAT, PAT_WRITE_BACK
RULE pat_not_loaded_at_exit_stays, "Without 'load IA32_PAT' at exit L1 goes on with L2's PAT", "SDM vol. 3, 28.5.1"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT
        SET     GUEST_IA32_PAT, PAT_WRITE_BACK
        SET     HOST_IA32_PAT, PAT_RESET
        L2      nop
        EXECUTED
        READ_MSR MSR_PAT
        CHECK   rbx, PAT_WRITE_BACK
RULE pat_of_host_comes_back, "'Load IA32_PAT' at exit undoes what L2 wrote", "SDM vol. 3, 28.5.1"
        SET_BITS VM_EXIT_CONTROLS, EXIT_LOAD_PAT
        SET     HOST_IA32_PAT, PAT_RESET
        L2_WRITES_MSR MSR_PAT, PAT_WRITE_THROUGH
        READ_MSR MSR_PAT
        CHECK   rbx, PAT_RESET

# ------------------------------------------------------------------ DR7 and DEBUGCTL

RULE debugctl_is_loaded, "With 'load debug controls' L2 starts with the DEBUGCTL of the guest-state area", "SDM vol. 3, 27.3.2.1"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG
        SET     GUEST_IA32_DEBUGCTL, DEBUGCTL_LBR
        L2_READS_MSR MSR_DEBUGCTL
        CHECK   [l2_value], DEBUGCTL_LBR
RULE debugctl_not_loaded_is_l1s, "Without 'load debug controls' L2 starts with L1's DEBUGCTL", "SDM vol. 3, 27.3.2.1"
        CLEAR_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG
        SET     GUEST_IA32_DEBUGCTL, 0
        WRITE_MSR MSR_DEBUGCTL, DEBUGCTL_LBR
        L2_READS_MSR MSR_DEBUGCTL
        CHECK   [l2_value], DEBUGCTL_LBR
RULE debugctl_is_saved, "With 'save debug controls' the exit saves DEBUGCTL", "SDM vol. 3, 28.3.1"
        SET_BITS VM_EXIT_CONTROLS, EXIT_SAVE_DEBUG
        L2_WRITES_MSR MSR_DEBUGCTL, DEBUGCTL_LBR
        CHECK_FIELD GUEST_IA32_DEBUGCTL, DEBUGCTL_LBR
RULE debugctl_is_saved_only_when_told, "Without 'save debug controls' the field stays", "SDM vol. 3, 28.3.1"
DEVIATION "saves_ignore_exit_controls=on"
        CLEAR_BITS VM_EXIT_CONTROLS, EXIT_SAVE_DEBUG
        L2_WRITES_MSR MSR_DEBUGCTL, DEBUGCTL_LBR
        CHECK_FIELD GUEST_IA32_DEBUGCTL, 0
RULE debugctl_of_l1_is_cleared, "L1 goes on with DEBUGCTL = 0", "SDM vol. 3, 28.5.1"
        L2_WRITES_MSR MSR_DEBUGCTL, DEBUGCTL_LBR
        READ_MSR MSR_DEBUGCTL
        CHECK   rbx, 0
RULE debugctl_reserved_bits_are_refused, "A DEBUGCTL with a reserved bit fails the entry that loads it", "SDM vol. 3, 27.3.1.1"
        SET_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG
        SET     GUEST_IA32_DEBUGCTL, 1 << 40
        INVALID_STATE
RULE debugctl_not_loaded_is_not_checked, "A DEBUGCTL that entry does not load may hold anything", "SDM vol. 3, 27.3.1.1"
        CLEAR_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG
        SET     GUEST_IA32_DEBUGCTL, 1 << 40
        L2      nop
        EXECUTED
RULE dr7_not_loaded_is_l1s, "Without 'load debug controls' L2 starts with L1's DR7", "SDM vol. 3, 27.3.2.1"
        CLEAR_BITS VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG
        SET     GUEST_DR7, DR7_RESET | 1
        mov     ebx, DR7_RESET | 4
        mov     dr7, rbx
        L2      mov rbx, dr7
        EXECUTED
        CHECK   rbx, DR7_RESET | 4
RULE dr7_is_saved_only_when_told, "Without 'save debug controls' the field of DR7 stays", "SDM vol. 3, 28.3.1"
DEVIATION "saves_ignore_exit_controls=on"
        CLEAR_BITS VM_EXIT_CONTROLS, EXIT_SAVE_DEBUG
        mov     ebx, DR7_RESET | 1
        L2      mov dr7, rbx
        EXECUTED
        CHECK_FIELD GUEST_DR7, DR7_RESET
RULE dr0_to_dr6_are_not_switched, "DR0 to DR3 and DR6 are L2's as L1 left them, and the other way round", "SDM vol. 3, 28.5"
        mov     ebx, 0x1234
        mov     dr1, rbx
        L2      mov rbx, dr1
        CHECK   rbx, 0x1234
        mov     ebx, 0x5678
        L2      mov dr2, rbx
        mov     rbx, dr2
        CHECK   rbx, 0x5678

# ------------------------------------------------------------------ what is not there

RULE perf_global_ctrl_is_not_offered, "Without performance counters there is no 'load IA32_PERF_GLOBAL_CTRL', and setting it is error 7", "SDM vol. 3, A.4"
        mov     ecx, MSR_VMX_TRUE_EXIT
        rdmsr
        and     edx, EXIT_LOAD_PERF
        mov     ebx, edx
        CHECK   rbx, 0
        SET_BITS VM_EXIT_CONTROLS, EXIT_LOAD_PERF
        REFUSED 7
RULES_END

l2_reads_msr:
        mov     ecx, [scratch]
        rdmsr
        mov     [l2_value], eax
        mov     [l2_value + 4], edx
        hlt

        .data
        .balign 8
l2_value:
        .quad   0
        .text
