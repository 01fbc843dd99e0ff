# @title   Rules of SVM: MSR and I/O permission maps
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.maps

.set MSR_STAR,      0xc0000081
.set MSR_SYSENTER,  0x174
.set RANGE_2,       0x800
.set RANGE_3,       0x1000

# ------------------------------------------------------------------ MSRs: APM vol. 2, 15.11

.macro FORBID_MSR range, number, bit        # bit 0: reads, 1: writes
        or      byte ptr [msrpm + \range + (\number)*2/8], 1 << (((\number)*2 & 7) + \bit)
.endm

RULE msr_read_exits, "The even bit of an MSR makes RDMSR exit with EXITINFO1 = 0", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_2, 0x81, 0
        mov     ecx, MSR_STAR
        INTERCEPT VMEXIT_MSR
        L2      rdmsr
        EXITED  VMEXIT_MSR
        INFO1   0
        CHECK   [l2_rcx], MSR_STAR
RULE msr_write_exits, "The odd bit of an MSR makes WRMSR exit with EXITINFO1 = 1", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_2, 0x81, 1
        mov     ecx, MSR_STAR
        INTERCEPT VMEXIT_MSR
        L2      wrmsr
        EXITED  VMEXIT_MSR
        INFO1   1
RULE msr_read_bit_lets_writes_pass, "The bit for reads lets WRMSR pass", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_2, 0x81, 0
        mov     ecx, MSR_STAR
        xor     edx, edx
        INTERCEPT VMEXIT_MSR
        L2      wrmsr
        EXECUTED
RULE msr_write_bit_lets_reads_pass, "The bit for writes lets RDMSR pass", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_2, 0x81, 1
        mov     ecx, MSR_STAR
        INTERCEPT VMEXIT_MSR
        L2      rdmsr
        EXECUTED
RULE msr_of_first_range_exits, "MSRs 0 to 1FFFh are in the map's first range", "APM vol. 2, 15.11"
        FORBID_MSR 0, MSR_SYSENTER, 0
        mov     ecx, MSR_SYSENTER
        INTERCEPT VMEXIT_MSR
        L2      rdmsr
        EXITED  VMEXIT_MSR
RULE msr_of_third_range_exits, "MSRs C0010000h to C0011FFFh are in the map's third range", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_3, 0x114, 0
        mov     ecx, MSR_VM_CR
        INTERCEPT VMEXIT_MSR
        L2      rdmsr
        EXITED  VMEXIT_MSR
RULE msr_out_of_range_exits, "An MSR outside of the ranges exits whatever the map says", "APM vol. 2, 15.11"
        mov     ecx, 0x40000000
        INTERCEPT VMEXIT_MSR
        L2      rdmsr
        EXITED  VMEXIT_MSR
        INFO1   0
RULE msr_neighbour_does_not_exit, "The bits of the neighbouring MSRs do not count", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_2, 0x82, 0
        FORBID_MSR RANGE_2, 0x80, 0
        mov     ecx, MSR_STAR
        INTERCEPT VMEXIT_MSR
        L2      rdmsr
        EXECUTED
RULE msr_map_without_intercept_is_not_read, "Without MSR_PROT the map does not count", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_2, 0x81, 0
        mov     ecx, MSR_STAR
        L2      rdmsr
        EXECUTED
RULE msr_map_address_ignores_low_bits, "Bits 11:0 of the map's address do not count", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_2, 0x81, 0
        or      dword ptr [vmcb + VMCB_MSRPM_BASE_PA], 0xfff
        mov     ecx, MSR_STAR
        INTERCEPT VMEXIT_MSR
        L2      rdmsr
        EXITED  VMEXIT_MSR
RULE msr_high_half_of_rcx_is_ignored, "Bits 63:32 of RCX do not count", "APM vol. 3, RDMSR"
        FORBID_MSR RANGE_2, 0x81, 0
        mov     rcx, 0xffffffffc0000081
        INTERCEPT VMEXIT_MSR
        L2      rdmsr
        EXITED  VMEXIT_MSR
RULE msr_access_at_cpl3_is_gp, "RDMSR at level 3 raises #GP and does not exit", "APM vol. 2, 15.11"
        FORBID_MSR RANGE_2, 0x81, 0
        INTERCEPT VMEXIT_MSR
        RUN     l2_user_rdmsr
        HALTED
        CHECK   [exc_vector], EXC_GP
RULE unknown_msr_is_gp, "RDMSR of an MSR that does not exist raises #GP when it does not exit", "APM vol. 3, RDMSR"
        RUN     l2_unknown_msr
        HALTED
        CHECK   [exc_vector], EXC_GP
RULE msr_written_by_l2_reads_back, "An MSR that does not exit is written and read by L2", "APM vol. 2, 15.11"
        RUN     l2_star
        HALTED
        CHECK   [vmcb + VMCB_RAX], 0x11223344
        CHECK   [l2_rdx], 0x55667788
RULE efer_written_by_l2_is_in_the_vmcb, "EFER that L2 wrote is saved in the VMCB", "APM vol. 2, 15.5.1"
        mov     ecx, MSR_EFER
        mov     edx, 0
        mov     qword ptr [vmcb + VMCB_RAX], EFER_SVME | 0xd00
        L2      wrmsr
        EXECUTED
        CHECK   [vmcb + VMCB_EFER], EFER_SVME | 0xd00

# ------------------------------------------------------------------ ports: APM vol. 2, 15.10

.macro FORBID_PORT port
        or      byte ptr [iopm + (\port)/8], 1 << ((\port) & 7)
.endm

# \info: bits 15:0 of EXITINFO1.  The port is in DX.
.macro PORT_EXITS port, info, insn:vararg
        FORBID_PORT \port
        mov     edx, \port
        INTERCEPT VMEXIT_IOIO
        L2      \insn
        EXITED  VMEXIT_IOIO
        INFO1   (\port << 16) | \info
        INFO2   [l2_next]
.endm
.set IN_, 1
.set STR_, 4
.set REP_, 8
.set SZ8, 0x10
.set SZ16, 0x20
.set SZ32, 0x40
.set A32, 0x100
.set A64, 0x200

RULE in_byte_exits, "IN of a byte exits with SZ8, direction, address size and the port in EXITINFO1", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x60, IN_ | SZ8 | A64, in al, dx
RULE in_word_exits, "IN of a word exits with SZ16", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x60, IN_ | SZ16 | A64, in ax, dx
RULE in_dword_exits, "IN of a doubleword exits with SZ32", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x60, IN_ | SZ32 | A64, in eax, dx
RULE out_byte_exits, "OUT of a byte exits with SZ8 and direction 0", "APM vol. 2, 15.10.2"
        PORT_EXITS 0xcf8, SZ8 | A64, out dx, al
RULE out_word_exits, "OUT of a word exits with SZ16", "APM vol. 2, 15.10.2"
        PORT_EXITS 0xcf8, SZ16 | A64, out dx, ax
RULE out_dword_exits, "OUT of a doubleword exits with SZ32", "APM vol. 2, 15.10.2"
        PORT_EXITS 0xcf8, SZ32 | A64, out dx, eax
RULE in_immediate_exits, "IN with the port in the instruction exits like IN with DX", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x61, IN_ | SZ8 | A64, in al, 0x61
RULE out_immediate_exits, "OUT with the port in the instruction exits like OUT with DX", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x61, SZ32 | A64, out 0x61, eax
RULE ins_exits, "INS exits with STR and segment ES", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x60, IN_ | STR_ | SZ8 | A64, insb
RULE outs_exits, "OUTS exits with STR and segment DS", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x60, STR_ | SZ8 | A64 | 3 << 10, outsb
RULE rep_ins_exits, "REP INS exits with STR and REP before its first element", "APM vol. 2, 15.10.2"
        mov     ecx, 5
        PORT_EXITS 0x60, IN_ | STR_ | REP_ | SZ16 | A64, rep insw
        CHECK   [l2_rcx], 5
RULE rep_outs_exits, "REP OUTS exits with STR and REP", "APM vol. 2, 15.10.2"
        mov     ecx, 5
        PORT_EXITS 0x60, STR_ | REP_ | SZ32 | A64 | 3 << 10, rep outsd
RULE outs_with_segment_exits, "OUTS with a segment prefix exits with that segment", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x60, STR_ | SZ8 | A64 | 4 << 10, .byte 0x64, 0x6e
RULE outs_with_32_bit_address_exits, "OUTS with an address-size prefix exits with A32", "APM vol. 2, 15.10.2"
        PORT_EXITS 0x60, STR_ | SZ8 | A32 | 3 << 10, .byte 0x67, 0x6e
RULE port_0xffff_exits, "Port FFFFh is the last bit of the map's second page", "APM vol. 2, 15.10.1"
        PORT_EXITS 0xffff, IN_ | SZ8 | A64, in al, dx
RULE second_byte_of_an_access_counts, "A set bit of any byte of the access makes it exit", "APM vol. 2, 15.10.1"
        FORBID_PORT 0x61
        mov     edx, 0x60
        INTERCEPT VMEXIT_IOIO
        L2      in ax, dx
        EXITED  VMEXIT_IOIO
        INFO1   0x60 << 16 | IN_ | SZ16 | A64
RULE fourth_byte_across_a_byte_of_the_map_counts, "The bits of an access may lie in two bytes of the map", "APM vol. 2, 15.10.1"
        FORBID_PORT 0x68
        mov     edx, 0x65
        INTERCEPT VMEXIT_IOIO
        L2      in eax, dx
        EXITED  VMEXIT_IOIO
RULE access_behind_port_0xffff_counts, "An access that goes past port FFFFh looks into the map's third page", "APM vol. 2, 15.10.1"
        FORBID_PORT 0x10000
        mov     edx, 0xffff
        INTERCEPT VMEXIT_IOIO
        L2      in ax, dx
        EXITED  VMEXIT_IOIO
RULE neighbouring_port_does_not_exit, "The bits beside the access do not count", "APM vol. 2, 15.10.1"
        FORBID_PORT 0x62
        FORBID_PORT 0x5f
        mov     edx, 0x60
        INTERCEPT VMEXIT_IOIO
        L2      in ax, dx
        EXECUTED
RULE port_map_without_intercept_is_not_read, "Without IOIO_PROT the map does not count", "APM vol. 2, 15.10"
        FORBID_PORT 0x60
        mov     edx, 0x60
        L2      in al, dx
        EXECUTED
RULE port_of_l0_is_read_by_l0, "What L1 does not intercept L0's device answers", "nested L0"
        mov     edx, 0x3fd
        mov     qword ptr [vmcb + VMCB_RAX], 0x1100
        L2      in al, dx
        EXECUTED
        CHECK   [vmcb + VMCB_RAX], 0x1160
RULE in_dword_clears_the_upper_half, "IN of a doubleword clears bits 63:32 of RAX", "APM vol. 3, IN"
        mov     edx, 0x60
        mov     qword ptr [vmcb + VMCB_RAX], -1
        L2      in eax, dx
        EXECUTED
        CHECK   [vmcb + VMCB_RAX], 0xffffffff
RULE repeated_outs_by_l0_ends, "A REP OUTS that L0 emulates goes through all its elements", "nested L0"
        mov     ecx, 3
        mov     edx, 0x60
        mov     rsi, offset scratch
        L2      rep outsb
        EXECUTED
        CHECK   [l2_rcx], 0
        CHECK_AT rsi, scratch + 3
RULE outs_of_l0_that_faults, "An OUTS that L0 emulates from a page that L1 has not mapped is a nested page fault for L1", "nested L0: string I/O that L1 does not want"
        mov     qword ptr [WINDOW_ENTRY + 8], 0
        mov     edx, 0x60
        mov     rsi, WINDOW + 0x1000
        L2      outsb
        CHECK   [vmcb + VMCB_EXIT_CODE], VMEXIT_NPF
        INFO2   WINDOW + 0x1000
        CHECK   [vmcb + VMCB_RIP], [l2_first]
RULE port_at_cpl3_is_gp, "IN that the TSS's map and IOPL forbid raises #GP and does not exit", "APM vol. 2, 15.10"
        FORBID_PORT 0x60
        INTERCEPT VMEXIT_IOIO
        RUN     l2_user_in
        HALTED
        CHECK   [exc_vector], EXC_GP
RULES_END

.include "maps-code.inc"
