# @title   Rules of VMX: MSR and I/O bitmaps
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.maps

.set MSR_STAR,      0xc0000081
.set MSR_SYSENTER,  0x174
.set READ_LOW,      0x000
.set READ_HIGH,     0x400
.set WRITE_LOW,     0x800
.set WRITE_HIGH,    0xc00

# ------------------------------------------------------------------ MSRs: SDM vol. 3, 25.6.9

.macro FORBID_MSR part, number
        or      byte ptr [msr_bitmap + \part + (\number)/8], 1 << ((\number) & 7)
.endm
# L2's RDMSR or WRMSR of an MSR exits.
.macro MSR_EXITS reason, number, insn
        mov     ecx, \number
        L2      \insn
        EXITED  \reason
        QUALIFIED 0
.endm

RULE msr_read_exits, "A set bit of the bitmap for high reads makes RDMSR exit", "SDM vol. 3, 25.6.9 and 26.1.3"
        FORBID_MSR READ_HIGH, 0x81
        MSR_EXITS EXIT_MSR_READ, MSR_STAR, rdmsr
        CHECK   [l2_rcx], MSR_STAR
RULE msr_write_exits, "A set bit of the bitmap for high writes makes WRMSR exit", "SDM vol. 3, 25.6.9 and 26.1.3"
        FORBID_MSR WRITE_HIGH, 0x81
        MSR_EXITS EXIT_MSR_WRITE, MSR_STAR, wrmsr
RULE low_msr_read_exits, "A set bit of the bitmap for low reads makes RDMSR exit", "SDM vol. 3, 25.6.9 and 26.1.3"
        FORBID_MSR READ_LOW, MSR_SYSENTER
        MSR_EXITS EXIT_MSR_READ, MSR_SYSENTER, rdmsr
RULE low_msr_write_exits, "A set bit of the bitmap for low writes makes WRMSR exit", "SDM vol. 3, 25.6.9 and 26.1.3"
        FORBID_MSR WRITE_LOW, MSR_SYSENTER
        MSR_EXITS EXIT_MSR_WRITE, MSR_SYSENTER, wrmsr
RULE msr_read_bit_lets_writes_pass, "The bit for reads lets WRMSR pass", "SDM vol. 3, 25.6.9"
        FORBID_MSR READ_HIGH, 0x81
        mov     ecx, MSR_STAR
        xor     edx, edx
        L2      wrmsr
        EXECUTED
RULE msr_write_bit_lets_reads_pass, "The bit for writes lets RDMSR pass", "SDM vol. 3, 25.6.9"
        FORBID_MSR WRITE_HIGH, 0x81
        mov     ecx, MSR_STAR
        L2      rdmsr
        EXECUTED
RULE msr_neighbours_do_not_count, "The bits of the neighbouring MSRs do not count", "SDM vol. 3, 25.6.9"
        FORBID_MSR READ_HIGH, 0x80
        FORBID_MSR READ_HIGH, 0x82
        FORBID_MSR READ_LOW, 0x81
        mov     ecx, MSR_STAR
        L2      rdmsr
        EXECUTED
RULE msr_0_is_the_first_bit, "MSR 0 is the first bit of the low bitmap", "SDM vol. 3, 25.6.9"
        FORBID_MSR READ_LOW, 0
        MSR_EXITS EXIT_MSR_READ, 0, rdmsr
RULE msr_1fff_is_the_last_low_bit, "MSR 1FFFh is the last bit of the low bitmap", "SDM vol. 3, 25.6.9"
        FORBID_MSR READ_LOW, 0x1fff
        MSR_EXITS EXIT_MSR_READ, 0x1fff, rdmsr
RULE msr_c0000000_is_the_first_high_bit, "MSR C0000000h is the first bit of the high bitmap", "SDM vol. 3, 25.6.9"
        FORBID_MSR WRITE_HIGH, 0
        MSR_EXITS EXIT_MSR_WRITE, 0xc0000000, wrmsr
RULE msr_c0001fff_is_the_last_bit, "MSR C0001FFFh is the last bit of the high bitmap", "SDM vol. 3, 25.6.9"
        FORBID_MSR WRITE_HIGH, 0x1fff
        MSR_EXITS EXIT_MSR_WRITE, 0xc0001fff, wrmsr
RULE msr_behind_the_low_range_exits, "MSR 2000h exits whatever the bitmaps say", "SDM vol. 3, 26.1.3"
        MSR_EXITS EXIT_MSR_READ, 0x2000, rdmsr
RULE msr_behind_the_high_range_exits, "MSR C0002000h exits whatever the bitmaps say", "SDM vol. 3, 26.1.3"
        MSR_EXITS EXIT_MSR_WRITE, 0xc0002000, wrmsr
RULE msr_between_the_ranges_exits, "MSR 40000000h exits whatever the bitmaps say", "SDM vol. 3, 26.1.3"
        MSR_EXITS EXIT_MSR_READ, 0x40000000, rdmsr
RULE msr_without_bitmaps_exits, "Without 'use MSR bitmaps' every RDMSR exits", "SDM vol. 3, 26.1.3"
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_USE_MSR_BITMAPS
        MSR_EXITS EXIT_MSR_READ, MSR_STAR, rdmsr
RULE msr_write_without_bitmaps_exits, "Without 'use MSR bitmaps' every WRMSR exits", "SDM vol. 3, 26.1.3"
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_USE_MSR_BITMAPS
        MSR_EXITS EXIT_MSR_WRITE, MSR_STAR, wrmsr
RULE msr_high_half_of_rcx_is_ignored, "Bits 63:32 of RCX do not count", "SDM vol. 2, RDMSR"
        FORBID_MSR READ_HIGH, 0x81
        MSR_EXITS EXIT_MSR_READ, 0xffffffffc0000081, rdmsr
RULE msr_at_cpl3_is_gp, "RDMSR at privilege level 3 raises #GP and does not exit", "SDM vol. 3, 26.1.1"
        FORBID_MSR READ_HIGH, 0x81
        mov     ecx, MSR_STAR
        RUN     l2_user_rdmsr
        HALTED
        CHECK   [exc_vector], EXC_GP
RULE unknown_msr_is_gp, "RDMSR of an MSR that does not exist raises #GP when it does not exit", "SDM vol. 2, RDMSR"
        RUN     l2_unknown_msr
        HALTED
        CHECK   [exc_vector], EXC_GP
RULE msr_bitmap_may_change_between_entries, "The bitmap is read at each access, or at least at each entry", "SDM vol. 3, 25.6.9"
        mov     ecx, MSR_STAR
        L2      rdmsr
        EXECUTED
        FORBID_MSR READ_HIGH, 0x81
        MSR_EXITS EXIT_MSR_READ, MSR_STAR, rdmsr
RULE msr_bitmap_at_another_address, "The bitmap lies where its field says", "SDM vol. 3, 25.6.9"
        SET_AT  MSR_BITMAP, page
        or      byte ptr [page + READ_HIGH + 0x81/8], 1 << 1
        MSR_EXITS EXIT_MSR_READ, MSR_STAR, rdmsr
RULE msr_written_by_l2_reads_back, "An MSR that does not exit is written and read by L2", "SDM vol. 3, 26.1.3"
        RUN     l2_star
        HALTED
        CHECK   [l2_rax], 0x11223344
        CHECK   [l2_rdx], 0x55667788

# ------------------------------------------------------------------ ports: SDM vol. 3, 25.6.4, table 28-5

.macro FORBID_PORT port
        or      byte ptr [io_bitmap_a + (\port)/8], 1 << ((\port) & 7)
.endm
.set IN_, 1 << 3
.set STR_, 1 << 4
.set REP_, 1 << 5
.set IMM_, 1 << 6

# The access exits with the qualification's bits 6:0 as given.  The port is in DX.
.macro PORT_EXITS port, info, insn:vararg
        mov     edx, \port
        L2      \insn
        EXITED  EXIT_IO_INSTRUCTION
        QUALIFIED (\port << 16) | \info
.endm

RULE in_byte_exits, "IN of a byte exits with size 0, direction 1 and the port", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x60
        PORT_EXITS 0x60, IN_ | 0, in al, dx
RULE in_word_exits, "IN of a word exits with size 1", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x60
        PORT_EXITS 0x60, IN_ | 1, in ax, dx
RULE in_dword_exits, "IN of a doubleword exits with size 3", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x60
        PORT_EXITS 0x60, IN_ | 3, in eax, dx
RULE out_byte_exits, "OUT of a byte exits with size 0 and direction 0", "SDM vol. 3, table 28-5"
        FORBID_PORT 0xcf8
        PORT_EXITS 0xcf8, 0, out dx, al
RULE out_word_exits, "OUT of a word exits with size 1", "SDM vol. 3, table 28-5"
        FORBID_PORT 0xcf8
        PORT_EXITS 0xcf8, 1, out dx, ax
RULE out_dword_exits, "OUT of a doubleword exits with size 3", "SDM vol. 3, table 28-5"
        FORBID_PORT 0xcf8
        PORT_EXITS 0xcf8, 3, out dx, eax
RULE in_immediate_exits, "IN with the port in the instruction exits with bit 6", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x61
        PORT_EXITS 0x61, IN_ | IMM_, in al, 0x61
RULE out_immediate_exits, "OUT with the port in the instruction exits with bit 6", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x61
        PORT_EXITS 0x61, IMM_ | 3, out 0x61, eax
RULE ins_exits, "INS exits with bit 4", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x60
        mov     edi, offset scratch
        PORT_EXITS 0x60, IN_ | STR_, insb
RULE outs_exits, "OUTS exits with bit 4", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x60
        mov     esi, offset scratch
        PORT_EXITS 0x60, STR_, outsb
RULE rep_ins_exits, "REP INS exits with bits 4 and 5 before its first element", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x60
        mov     edi, offset scratch
        mov     ecx, 5
        PORT_EXITS 0x60, IN_ | STR_ | REP_ | 1, rep insw
        CHECK   [l2_rcx], 5
RULE rep_outs_exits, "REP OUTS exits with bits 4 and 5", "SDM vol. 3, table 28-5"
        FORBID_PORT 0x60
        mov     esi, offset scratch
        mov     ecx, 5
        PORT_EXITS 0x60, STR_ | REP_ | 3, rep outsd
RULE ins_gives_its_linear_address, "An exit of INS saves the linear address of its operand", "SDM vol. 3, 28.2.1"
        FORBID_PORT 0x60
        mov     edi, offset scratch
        PORT_EXITS 0x60, IN_ | STR_, insb
        CHECK_FIELD_AT GUEST_LINEAR_ADDRESS, scratch
RULE outs_gives_its_segment, "An exit of OUTS saves address size and segment in the instruction information", "SDM vol. 3, table 28-8"
        FORBID_PORT 0x60
        mov     esi, offset scratch
        PORT_EXITS 0x60, STR_, outsb
        CHECK_FIELD_BITS VMX_INSTRUCTION_INFO, 7 << 7 | 7 << 15, 2 << 7 | 3 << 15
RULE port_7fff_is_the_last_bit_of_a, "Port 7FFFh is the last bit of bitmap A", "SDM vol. 3, 25.6.4"
        or      byte ptr [io_bitmap_a + 0xfff], 0x80
        PORT_EXITS 0x7fff, IN_, in al, dx
RULE port_8000_is_the_first_bit_of_b, "Port 8000h is the first bit of bitmap B", "SDM vol. 3, 25.6.4"
        or      byte ptr [io_bitmap_b], 1
        PORT_EXITS 0x8000, IN_, in al, dx
RULE port_ffff_is_the_last_bit_of_b, "Port FFFFh is the last bit of bitmap B", "SDM vol. 3, 25.6.4"
        or      byte ptr [io_bitmap_b + 0xfff], 0x80
        PORT_EXITS 0xffff, IN_, in al, dx
RULE bitmap_b_lies_where_its_field_says, "Bitmap B need not follow bitmap A", "SDM vol. 3, 25.6.4"
        SET_AT  IO_BITMAP_B, page
        or      byte ptr [page], 1
        PORT_EXITS 0x8000, IN_, in al, dx
RULE second_byte_of_an_access_counts, "A set bit of any byte of the access makes it exit", "SDM vol. 3, 26.1.3"
        FORBID_PORT 0x61
        PORT_EXITS 0x60, IN_ | 1, in ax, dx
RULE fourth_byte_across_a_byte_of_the_map_counts, "The bits of an access may lie in two bytes of the bitmap", "SDM vol. 3, 26.1.3"
        FORBID_PORT 0x68
        PORT_EXITS 0x65, IN_ | 3, in eax, dx
RULE access_across_both_bitmaps, "An access across port 8000h looks into both bitmaps", "SDM vol. 3, 26.1.3"
        or      byte ptr [io_bitmap_b], 1
        PORT_EXITS 0x7fff, IN_ | 1, in ax, dx
RULE access_that_wraps_exits, "An access that wraps around port FFFFh exits whatever the bitmaps say", "SDM vol. 3, 26.1.3"
        PORT_EXITS 0xffff, IN_ | 1, in ax, dx
RULE neighbouring_ports_do_not_count, "The bits beside the access do not count", "SDM vol. 3, 26.1.3"
        FORBID_PORT 0x62
        FORBID_PORT 0x5f
        mov     edx, 0x60
        L2      in ax, dx
        EXECUTED
RULE unconditional_exiting, "Without bitmaps 'unconditional I/O exiting' makes every access exit", "SDM vol. 3, 26.1.3"
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_USE_IO_BITMAPS
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_UNCOND_IO_EXITING
        PORT_EXITS 0x60, IN_, in al, dx
RULE bitmaps_override_unconditional_exiting, "With bitmaps 'unconditional I/O exiting' does not count", "SDM vol. 3, 25.6.2"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_UNCOND_IO_EXITING
        mov     edx, 0x60
        L2      in al, dx
        EXECUTED
RULE neither_bitmaps_nor_unconditional, "Without both controls no access exits", "SDM vol. 3, 26.1.3"
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_USE_IO_BITMAPS
        FORBID_PORT 0x60
        mov     edx, 0x60
        L2      in al, dx
        EXECUTED
RULE port_of_l0_is_read_by_l0, "What L1 does not intercept L0's device answers", "nested L0: I/O that L1 does not want"
        mov     edx, 0x3fd
        mov     eax, 0x1100
        L2      in al, dx
        EXECUTED
        CHECK   [l2_rax], 0x1160
RULE in_dword_clears_the_upper_half, "IN of a doubleword clears bits 63:32 of RAX", "SDM vol. 2, IN"
        mov     edx, 0x60
        mov     rax, -1
        L2      in eax, dx
        EXECUTED
        CHECK   [l2_rax], 0xffffffff
RULE repeated_outs_by_l0_ends, "A REP OUTS that L0 emulates goes through all its elements", "nested L0: string I/O that L1 does not want"
        mov     ecx, 3
        mov     edx, 0x60
        mov     rsi, offset scratch
        L2      rep outsb
        EXECUTED
        CHECK   [l2_rcx], 0
        CHECK_AT rsi, scratch + 3
RULE outs_of_l0_that_violates_ept, "A REP OUTS that L0 emulates from a page that L1 has not mapped is an EPT violation for L1", "nested L0: string I/O that L1 does not want"
        mov     qword ptr [WINDOW_ENTRY + 8], 0
        mov     edx, 0x60
        mov     rsi, WINDOW + 0x1000
        L2      outsb
        CHECK_FIELD VM_EXIT_REASON, EXIT_EPT_VIOLATION
        CHECK_FIELD GUEST_PHYSICAL_ADDRESS, WINDOW + 0x1000
        CHECK_FIELD GUEST_RIP, [l2_first]
RULE port_at_cpl3_is_gp, "IN that the TSS's bitmap forbids raises #GP and does not exit", "SDM vol. 3, 26.1.1"
        FORBID_PORT 0x60
        RUN     l2_user_in
        HALTED
        CHECK   [exc_vector], EXC_GP
RULES_END

.include "maps-code.inc"
