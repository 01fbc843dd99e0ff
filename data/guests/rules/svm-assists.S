# @title   Rules of SVM: the pause filter, next-RIP save, decode assists
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.assists

.set VMCB_PAUSE_THRESHOLD,  0x03c
.set VMCB_PAUSE_COUNT,      0x03e
.set FEATURE_NRIPS,         1 << 3
.set FEATURE_DECODE,        1 << 7
.set FEATURE_PAUSE,         1 << 10

.macro FEATURES                             # to RBX: CPUID 8000_000A EDX
        mov     eax, CPUID_SVM_FEATURES
        cpuid
        mov     ebx, edx
.endm

RULE pause_filter_is_announced, "CPUID 8000_000A EDX bit 10 announces the pause filter", "APM vol. 3, CPUID 8000_000A EDX"
ONLY_WITH "pause_filter=on"
        FEATURES
        CHECK_BITS rbx, FEATURE_PAUSE, FEATURE_PAUSE
RULE pause_filter_counts, "With a count of 5 PAUSEs execute until the counter is 0", "APM vol. 2, 15.14.4"
ONLY_WITH "pause_filter=on"
DEVIATION "pause_count_of_l0=on"
        INTERCEPT VMEXIT_PAUSE
        mov     word ptr [vmcb + VMCB_PAUSE_COUNT], 5
        xor     ebx, ebx
        RUN     l2_pauses
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_PAUSE
        CHECK   rbx, 5
RULE pause_count_of_0_exits_at_once, "With a count of 0 every PAUSE exits", "APM vol. 2, 15.14.4"
ONLY_WITH "pause_filter=on"
        INTERCEPT VMEXIT_PAUSE
        xor     ebx, ebx
        RUN     l2_pauses
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_PAUSE
        CHECK   rbx, 0
RULE pause_counter_starts_at_vmrun, "VMRUN loads the counter again", "APM vol. 2, 15.14.4"
ONLY_WITH "pause_filter=on"
DEVIATION "pause_count_of_l0=on"
        INTERCEPT VMEXIT_PAUSE
        mov     word ptr [vmcb + VMCB_PAUSE_COUNT], 5
        xor     ebx, ebx
        RUN     l2_pauses
        RUN     l2_pauses
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_PAUSE
        CHECK   rbx, 10
RULE pause_filter_without_intercept, "Without the PAUSE intercept the filter causes no exit to L1", "APM vol. 2, 15.14.4"
ONLY_WITH "pause_filter=on"
        mov     word ptr [vmcb + VMCB_PAUSE_COUNT], 5
        xor     ebx, ebx
        RUN     l2_pauses
        HALTED
        CHECK   rbx, 20
RULE pause_count_is_not_written_back, "#VMEXIT leaves the VMCB's count", "APM vol. 2, 15.14.4"
ONLY_WITH "pause_filter=on"
        INTERCEPT VMEXIT_PAUSE
        mov     word ptr [vmcb + VMCB_PAUSE_COUNT], 5
        RUN     l2_pauses
        CHECK_BITS [vmcb + VMCB_PAUSE_COUNT], 0xffff, 5
RULE without_next_rip_save, "Without the feature CPUID does not announce it and the field stays 0", "APM vol. 2, 15.7.1"
ONLY_WITH "nrip_save=off"
        FEATURES
        CHECK_BITS rbx, FEATURE_NRIPS, 0
        INTERCEPT VMEXIT_CPUID
        L2      cpuid
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_CPUID
        CHECK   [vmcb + VMCB_NEXT_RIP], 0
RULE without_decode_assists, "Without decode assists CPUID does not announce them and a CR access has no register", "APM vol. 2, 15.8"
ONLY_WITH "decode_assists=off"
        FEATURES
        CHECK_BITS rbx, FEATURE_DECODE, 0
        INTERCEPT VMEXIT_CR0_READ
        L2      mov rbx, cr0
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_CR0_READ
        INFO1   0
RULES_END

l2_pauses:                                  # RBX counts them
        mov     ecx, 20
1:      pause
        inc     ebx
        dec     ecx
        jnz     1b
        hlt
