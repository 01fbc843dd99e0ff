# @title   Rules of VMX: VMCS shadowing that L1 gives L2
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.shadowing

# L1's L2 is a hypervisor: it reads and writes the VMCS at the link pointer (other_vmcs, a shadow
# VMCS) where the field's bit in L1's bitmaps is clear.  Both bitmaps start all clear.

.set CPU2_SHADOW_VMCS,  1 << 14
.set VMREAD_BITMAP,     0x2026
.set VMWRITE_BITMAP,    0x2028
.set SHADOW_INDICATOR,  1 << 31
.set GUEST_ES_LIMIT,    0x4800
.set UNKNOWN_FIELD,     0x7ffe
.set IN_SHADOW,         0x1122334455667788
.set VALUE,             0x0123456789abcdef
.set USER_CODE_RIGHTS,  0xa0fb
.set USER_DATA_RIGHTS,  0xc0f3

.macro XEN_HAS_NONE
DEVIATION "l0=xen", "Xen offers L1 no VMCS shadowing"
.endm
.macro SHADOWING
ONLY_WITH "vmcs_shadowing=on"
XEN_HAS_NONE
        call    shadowing
.endm
.macro EXIT_FOR bitmap, field
        or      byte ptr [\bitmap + (\field) / 8], 1 << ((\field) & 7)
.endm
# A field of the shadow VMCS, which becomes current for a moment.
.macro CHECK_SHADOW field, wanted
        vmclear qword ptr [vmcs_address]
        vmptrld qword ptr [other_address]
        CHECK_FIELD \field, \wanted
.endm

# ------------------------------------------------------------------ what is offered: SDM vol. 3, A.3.3 and 27.2.1.1

RULE shadowing_is_offered, "IA32_VMX_PROCBASED_CTLS2 allows VMCS shadowing", "SDM vol. 3, A.3.3"
ONLY_WITH "vmcs_shadowing=on"
XEN_HAS_NONE
        mov     ecx, MSR_VMX_PROCBASED_CTLS2
        rdmsr
        mov     ebx, edx
        and     ebx, CPU2_SHADOW_VMCS
        CHECK   rbx, CPU2_SHADOW_VMCS
RULE read_bitmap_must_be_aligned, "A VMREAD bitmap that is not on a page: error 7", "SDM vol. 3, 27.2.1.1"
ONLY_WITH "vmcs_shadowing=on"
        call    shadowing
        SET     VMREAD_BITMAP, 0x800
        REFUSED 7
RULE write_bitmap_must_be_aligned, "A VMWRITE bitmap that is not on a page: error 7", "SDM vol. 3, 27.2.1.1"
ONLY_WITH "vmcs_shadowing=on"
        call    shadowing
        SET     VMWRITE_BITMAP, 0x800
        REFUSED 7
RULE link_pointer_needs_a_shadow_vmcs, "With VMCS shadowing a link pointer to an ordinary VMCS fails the entry with qualification 4", "SDM vol. 3, 27.3.1.5"
ONLY_WITH "vmcs_shadowing=on"
        call    shadowing
        and     dword ptr [other_vmcs], ~SHADOW_INDICATOR
        INVALID_STATE 4
RULE link_pointer_needs_the_revision, "A link pointer to a region of another revision fails the entry with qualification 4", "SDM vol. 3, 27.3.1.5"
ONLY_WITH "vmcs_shadowing=on"
        call    shadowing
        inc     dword ptr [other_vmcs]
        INVALID_STATE 4

# ------------------------------------------------------------------ shadow VMCSs of L1: SDM vol. 3, 25.2 and 31.3

RULE shadow_vmcs_may_be_current, "VMPTRLD of a shadow VMCS succeeds where VMCS shadowing is offered", "SDM vol. 3, 31.3 (VMPTRLD)"
ONLY_WITH "vmcs_shadowing=on"
XEN_HAS_NONE
        or      dword ptr [other_vmcs], SHADOW_INDICATOR
        VMX     vmptrld qword ptr [other_address]
        SUCCEEDED
RULE shadow_vmcs_has_fields, "VMWRITE and VMREAD reach a current shadow VMCS", "SDM vol. 3, 25.2"
        SHADOWING
        CHECK_SHADOW GUEST_RSP, IN_SHADOW
RULE shadow_vmcs_cannot_be_entered, "VMLAUNCH with a shadow VMCS current is VMfailInvalid", "SDM vol. 3, 31.3 (VMLAUNCH/VMRESUME)"
        SHADOWING
        vmptrld qword ptr [other_address]
        VMX     vmlaunch
        FAILED_INVALID
RULE shadow_indicator_stays, "A shadow VMCS that was current remains one", "SDM vol. 3, 25.2"
ONLY_WITH "vmcs_shadowing=on"
        call    shadowing
        vmptrld qword ptr [other_address]
        vmptrld qword ptr [vmcs_address]
        vmclear qword ptr [other_address]
        CHECK_BITS [other_vmcs], SHADOW_INDICATOR, SHADOW_INDICATOR

# ------------------------------------------------------------------ VMREAD of L2: SDM vol. 3, 26.1.2

RULE vmread_of_a_clear_bit_does_not_exit, "VMREAD of a field whose bit is clear reads the shadow VMCS", "SDM vol. 3, 31.3 (VMREAD)"
        SHADOWING
        mov     eax, GUEST_RSP
        L2      vmread rbx, rax
        mov     [scratch], rbx
        EXECUTED
        CHECK   [scratch], IN_SHADOW
RULE vmread_of_a_set_bit_exits, "VMREAD of a field whose bit is set exits", "SDM vol. 3, 26.1.2"
        SHADOWING
        EXIT_FOR read_bitmap, GUEST_RSP
        mov     eax, GUEST_RSP
        L2      vmread rbx, rax
        EXITED  EXIT_VMREAD
RULE vmread_bits_are_of_one_field, "The bit of the next encoding does not matter", "SDM vol. 3, 25.6.21"
        SHADOWING
        EXIT_FOR read_bitmap, (GUEST_RSP + 1)
        EXIT_FOR read_bitmap, (GUEST_RSP - 2)
        mov     eax, GUEST_RSP
        L2      vmread rbx, rax
        EXECUTED
RULE vmread_of_many_bits_exits, "VMREAD of an encoding with a bit above 14 exits", "SDM vol. 3, 26.1.2"
        SHADOWING
        mov     eax, GUEST_RSP | 1 << 15
        L2      vmread rbx, rax
        EXITED  EXIT_VMREAD
RULE vmread_of_64_bits_exits, "Bits 63:32 of the encoding count, too", "SDM vol. 3, 26.1.2"
        SHADOWING
        movabs  rax, GUEST_RSP | 1 << 40
        L2      vmread rbx, rax
        EXITED  EXIT_VMREAD
RULE vmread_to_memory, "VMREAD of L2 stores 8 bytes into its memory", "SDM vol. 3, 31.3 (VMREAD)"
        SHADOWING
        mov     eax, GUEST_RSP
        L2      vmread [scratch], rax
        EXECUTED
        CHECK   [scratch], IN_SHADOW
RULE vmread_to_unmapped_memory_is_pf, "The destination of L2's VMREAD can fault", "SDM vol. 3, 31.3 (VMREAD)"
        SHADOWING
        SET     EXCEPTION_BITMAP, 1 << EXC_PF
        movabs  rbx, 0x100000000
        mov     eax, GUEST_RSP
        L2      vmread [rbx], rax
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD GUEST_RIP, [l2_first]
        QUALIFIED 0x100000000
RULE vmread_of_a_high_half, "The high half of a 64-bit field has a bit of its own, and reads bits 63:32", "SDM vol. 3, 25.6.21"
        SHADOWING
        EXIT_FOR read_bitmap, TSC_OFFSET
        mov     eax, TSC_OFFSET + 1
        L2      vmread rbx, rax
        mov     [scratch], rbx
        EXECUTED
        CHECK   [scratch], IN_SHADOW >> 32
RULE vmread_of_a_32_bit_field, "VMREAD clears what is above a narrow field", "SDM vol. 3, 31.3 (VMREAD)"
        SHADOWING
        mov     rbx, -1
        mov     eax, GUEST_ES_LIMIT
        L2      vmread rbx, rax
        mov     [scratch], rbx
        EXECUTED
        CHECK   [scratch], IN_SHADOW & 0xffffffff
RULE vmread_clears_the_status_flags, "VMREAD of L2 that succeeds clears the status flags", "SDM vol. 3, 31.2"
        SHADOWING
        mov     eax, GUEST_RSP
        RUN     l2_reads
        HALTED
        SUCCEEDED
RULE vmread_at_cpl3_is_gp, "At CPL 3 a VMREAD that does not exit is #GP(0)", "SDM vol. 3, 31.3 (VMREAD)"
        SHADOWING
        call    user_level
        SET     EXCEPTION_BITMAP, 1 << EXC_GP
        mov     eax, GUEST_RSP
        L2      vmread rbx, rax
        CHECK_FIELD VM_EXIT_REASON, EXIT_EXCEPTION_NMI
        CHECK_FIELD VM_EXIT_INTR_INFO, 1 << 31 | 1 << 11 | 3 << 8 | EXC_GP
        CHECK_FIELD GUEST_RIP, [l2_first]
RULE vmread_exit_comes_before_cpl, "At CPL 3 a VMREAD whose bit is set exits", "SDM vol. 3, 31.3 (VMREAD)"
        SHADOWING
        call    user_level
        EXIT_FOR read_bitmap, GUEST_RSP
        mov     eax, GUEST_RSP
        L2      vmread rbx, rax
        EXITED  EXIT_VMREAD
RULE vmread_without_a_shadow_vmcs_fails, "Without a link pointer VMREAD is VMfailInvalid in L2", "SDM vol. 3, 31.3 (VMREAD)"
        SHADOWING
        SET     VMCS_LINK_POINTER, -1
        mov     eax, GUEST_RSP
        RUN     l2_reads
        HALTED
        FAILED_INVALID
RULE vmread_of_an_unknown_field_fails, "VMREAD of no field is VMfailValid in L2, with error 12 in the shadow VMCS", "SDM vol. 3, 31.3 (VMREAD)"
DEVIATION "shadow_error_in_vmcs12=on", "KVM reports the error in L1's VMCS"
        SHADOWING
        mov     eax, UNKNOWN_FIELD
        RUN     l2_reads
        HALTED
        CHECK_BITS [vm_flags], CF_ZF_AND_OTHERS, 0x40
        CHECK_FIELD VM_INSTRUCTION_ERROR, 0
        CHECK_SHADOW VM_INSTRUCTION_ERROR, 12

# ------------------------------------------------------------------ VMWRITE of L2

RULE vmwrite_of_a_clear_bit_does_not_exit, "VMWRITE of a field whose bit is clear writes the shadow VMCS", "SDM vol. 3, 31.3 (VMWRITE)"
        SHADOWING
        movabs  rbx, VALUE
        mov     eax, GUEST_RSP
        L2      vmwrite rax, rbx
        EXECUTED
        CHECK_SHADOW GUEST_RSP, VALUE
RULE vmwrite_leaves_l1s_vmcs_alone, "VMWRITE of L2 does not change the current VMCS of L1", "SDM vol. 3, 31.3 (VMWRITE)"
        SHADOWING
        SET     TSC_OFFSET, 0x77
        movabs  rbx, VALUE
        mov     eax, TSC_OFFSET
        L2      vmwrite rax, rbx
        EXECUTED
        CHECK_FIELD TSC_OFFSET, 0x77
RULE vmwrite_of_a_set_bit_exits, "VMWRITE of a field whose bit is set exits", "SDM vol. 3, 26.1.2"
        SHADOWING
        EXIT_FOR write_bitmap, GUEST_RSP
        mov     eax, GUEST_RSP
        L2      vmwrite rax, rbx
        EXITED  EXIT_VMWRITE
RULE bitmaps_are_two, "The VMREAD bitmap does not concern VMWRITE", "SDM vol. 3, 25.6.21"
        SHADOWING
        EXIT_FOR read_bitmap, GUEST_RSP
        movabs  rbx, VALUE
        mov     eax, GUEST_RSP
        L2      vmwrite rax, rbx
        EXECUTED
        CHECK_SHADOW GUEST_RSP, VALUE
RULE vmwrite_bitmap_does_not_concern_vmread, "The VMWRITE bitmap does not concern VMREAD", "SDM vol. 3, 25.6.21"
        SHADOWING
        EXIT_FOR write_bitmap, GUEST_RSP
        mov     eax, GUEST_RSP
        L2      vmread rbx, rax
        EXECUTED
RULE vmwrite_from_memory, "VMWRITE of L2 takes 8 bytes of its memory", "SDM vol. 3, 31.3 (VMWRITE)"
        SHADOWING
        movabs  rcx, VALUE
        mov     [scratch], rcx
        mov     eax, GUEST_RSP
        L2      vmwrite rax, [scratch]
        EXECUTED
        CHECK_SHADOW GUEST_RSP, VALUE
RULE vmwrite_of_a_high_half, "VMWRITE of the high half leaves the low half", "SDM vol. 3, 25.12.2"
        SHADOWING
        mov     ebx, 0x99
        mov     eax, TSC_OFFSET + 1
        L2      vmwrite rax, rbx
        EXECUTED
        CHECK_SHADOW TSC_OFFSET, (0x99 << 32 | IN_SHADOW & 0xffffffff)
RULE vmwrite_is_read_back, "VMREAD of L2 finds what its VMWRITE wrote, in the same run and the next", "SDM vol. 3, 31.3 (VMREAD)"
        SHADOWING
        movabs  rbx, VALUE
        mov     eax, GUEST_RSP
        RUN     l2_writes_and_reads
        mov     [scratch], rdx
        HALTED
        CHECK   [scratch], VALUE
        mov     eax, GUEST_RSP
        L2      vmread rbx, rax
        mov     [scratch], rbx
        EXECUTED
        CHECK   [scratch], VALUE
RULE vmwrite_of_an_exit_field, "Exit information can be written where VMX_MISC bit 29 says so", "SDM vol. 3, A.6"
        SHADOWING
        mov     ebx, 48
        mov     eax, VM_EXIT_REASON
        L2      vmwrite rax, rbx
        EXECUTED
        CHECK_SHADOW VM_EXIT_REASON, 48

# ------------------------------------------------------------------ around it

RULE other_vmx_instructions_exit, "VMCS shadowing lets no other VMX instruction pass", "SDM vol. 3, 26.1.2"
        SHADOWING
        L2      vmptrst qword ptr [scratch]
        EXITED  EXIT_VMPTRST
RULE shadowing_needs_secondary_controls, "Without activated secondary controls every VMREAD exits", "SDM vol. 3, 25.6.2"
        SHADOWING
        CLEAR_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_SECONDARY_CONTROLS
        SET     VMCS_LINK_POINTER, -1
        mov     eax, GUEST_RSP
        L2      vmread rbx, rax
        EXITED  EXIT_VMREAD
RULE exit_leaves_the_link_pointer, "An exit of L2 does not change the VMCS link pointer", "SDM vol. 3, 28.3"
        SHADOWING
        L2      nop
        EXECUTED
        CHECK_FIELD_AT VMCS_LINK_POINTER, other_vmcs
RULES_END

# ------------------------------------------------------------------ L1's words

shadowing:
        mov     rdi, offset read_bitmap     # and the VMWRITE bitmap behind it
        xor     eax, eax
        mov     ecx, 2 * 0x1000 / 8
        rep     stosq
        or      dword ptr [other_vmcs], SHADOW_INDICATOR
        vmptrld qword ptr [other_address]
        SET     GUEST_RSP, IN_SHADOW
        SET     TSC_OFFSET, IN_SHADOW
        SET     GUEST_ES_LIMIT, IN_SHADOW
        SET     VM_INSTRUCTION_ERROR, 0
        vmptrld qword ptr [vmcs_address]
        vmclear qword ptr [other_address]
        SET     VM_INSTRUCTION_ERROR, 0
        SET_BITS SECONDARY_VM_EXEC_CONTROL, CPU2_SHADOW_VMCS
        SET_AT  VMREAD_BITMAP, read_bitmap
        SET_AT  VMWRITE_BITMAP, write_bitmap
        SET_AT  VMCS_LINK_POINTER, other_vmcs
        ret
user_level:
        SET     GUEST_CS_SELECTOR, SEL_USER_CODE
        SET     GUEST_CS_AR_BYTES, USER_CODE_RIGHTS
        SET     GUEST_SS_SELECTOR, SEL_USER_DATA
        SET     GUEST_SS_AR_BYTES, USER_DATA_RIGHTS
        ret

# ------------------------------------------------------------------ code of L2

l2_reads:
        VMX     vmread rbx, rax
        hlt
l2_writes_and_reads:
        vmwrite rax, rbx
        vmread  rdx, rax
        hlt

        .bss
        .balign 4096
read_bitmap:    .skip   0x1000
write_bitmap:   .skip   0x1000
        .text
