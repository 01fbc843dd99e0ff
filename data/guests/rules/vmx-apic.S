# @title   Rules of VMX: TPR shadow, APIC-access page, APIC-register virtualization, virtual interrupts
# @backend vmx
.intel_syntax noprefix
.include "vmx_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   vmx.apic

.set EXIT_TPR_BELOW_THRESHOLD, 43
.set EXIT_APIC_ACCESS,      44
.set EXIT_EOI_INDUCED,      45
.set EXIT_APIC_WRITE,       56
.set CPU2_APIC_ACCESSES,    1 << 0
.set EOI_EXIT_BITMAP1,      0x201e
.set UNUSED_BITS,           0x10
.set X2APIC_TPR,            0x808
.set X2APIC_EOI,            0x80b
.set X2APIC_SELF_IPI,       0x83f
.set RFLAGS_IF,             1 << 9
.set VECTOR,                0x31
# Registers in the virtual-APIC page.
.set VTPR,                  page + 0x80
.set VPPR,                  page + 0xa0
.set VISR_VECTOR,           page + 0x100 + (VECTOR >> 5)*16
.set VIRR_VECTOR,           page + 0x200 + (VECTOR >> 5)*16
.set VECTOR_BIT,            1 << (VECTOR & 31)
# The same through the APIC-access page.
.set ACCESS_ID,             WINDOW + 0x20
.set ACCESS_TPR,            WINDOW + 0x80
.set ACCESS_EOI,            WINDOW + 0xb0
.set ACCESS_ICR_HIGH,       WINDOW + 0x310
.set ACCESS_TIMER,          WINDOW + 0x380

.macro TPR_SHADOW vtpr=0, threshold=0
        ONLY_WITH "apicv=on"
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_TPR_SHADOW
        SET_AT  VIRTUAL_APIC_PAGE_ADDR, page
        SET     TPR_THRESHOLD, \threshold
        mov     dword ptr [VTPR], \vtpr
.endm
.macro SECONDARY mask
        SET_BITS SECONDARY_VM_EXEC_CONTROL, \mask
.endm
.macro ACCESS_PAGE
        SECONDARY CPU2_APIC_ACCESSES
        SET     APIC_ACCESS_ADDR, WINDOW
.endm
.macro VIRTUAL_INTERRUPTS status
        SECONDARY CPU2_VIRTUAL_INTERRUPTS
        SET_BITS PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR
        SET     GUEST_INTR_STATUS, \status
.endm
# VECTOR is requested: RVI and its bit of VIRR.
.macro REQUESTED
        VIRTUAL_INTERRUPTS VECTOR
        or      dword ptr [VIRR_VECTOR], VECTOR_BIT
.endm
.macro TRAPPED reason
        CHECK_FIELD VM_EXIT_REASON, \reason
        CHECK_FIELD GUEST_RIP, [l2_next]
.endm

# ------------------------------------------------------------------ TPR shadow: SDM vol. 3, 30.3

RULE cr8_reads_vtpr, "MOV from CR8 gives bits 7:4 of VTPR", "SDM vol. 3, 30.3"
        TPR_SHADOW 0x57
        L2      mov rbx, cr8
        EXECUTED
        CHECK   rbx, 5
RULE cr8_writes_vtpr, "MOV to CR8 writes bits 7:4 of VTPR and clears the others", "SDM vol. 3, 30.3"
        TPR_SHADOW 0xf
        mov     ebx, 7
        L2      mov cr8, rbx
        EXECUTED
        CHECK32 [VTPR], 0x70
RULE cr8_of_l2_is_not_l1s, "With a TPR shadow CR8 of L2 is not the TPR that L1 has", "SDM vol. 3, 26.3"
        TPR_SHADOW
        mov     ebx, 9
        L2      mov cr8, rbx
        mov     rbx, cr8
        CHECK   rbx, 0
RULE cr8_write_of_a_reserved_bit_is_gp, "MOV to CR8 of more than 4 bits raises #GP, with a TPR shadow too", "SDM vol. 3, 11.8.6"
        TPR_SHADOW 0x30
        RUN     l2_bad_cr8
        HALTED
        CHECK   [exc_vector], EXC_GP
        CHECK32 [VTPR], 0x30
RULE cr8_load_exiting_comes_first, "CR8-load exiting exits whether there is a TPR shadow or not", "SDM vol. 3, 26.1.3"
        TPR_SHADOW 0x30
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_CR8_LOAD_EXITING
        L2      mov cr8, rbx
        EXITED  EXIT_CR_ACCESS
        CHECK32 [VTPR], 0x30
RULE write_below_the_threshold_exits, "A write that takes VTPR below the threshold exits behind the instruction", "SDM vol. 3, 30.1.2"
        TPR_SHADOW 0x40, 3
        mov     ebx, 2
        L2      mov cr8, rbx
        TRAPPED EXIT_TPR_BELOW_THRESHOLD
        QUALIFIED 0
        CHECK32 [VTPR], 0x20
RULE write_at_the_threshold_does_not_exit, "A write that takes VTPR to the threshold does not exit", "SDM vol. 3, 30.1.2"
        TPR_SHADOW 0x40, 3
        mov     ebx, 3
        L2      mov cr8, rbx
        EXECUTED
RULE threshold_needs_the_shadow, "Without a TPR shadow the threshold does not count", "SDM vol. 3, 25.6.8"
        SET     TPR_THRESHOLD, 15
        xor     ebx, ebx
        L2      mov cr8, rbx
        EXECUTED
RULE threshold_above_vtpr_is_refused, "A threshold above VTPR: error 7", "SDM vol. 3, 27.2.1.1"
        TPR_SHADOW 0x40, 5
        REFUSED 7
RULE threshold_reserved_bits_are_refused, "A threshold with one of bits 31:4: error 7", "SDM vol. 3, 27.2.1.1"
        TPR_SHADOW 0xf0, UNUSED_BITS
        REFUSED 7
RULE entry_below_the_threshold_exits, "With an APIC-access page VTPR below the threshold exits behind the entry", "SDM vol. 3, 27.7.7"
        TPR_SHADOW 0x40, 5
        ACCESS_PAGE
        L2      nop
        CHECK_FIELD VM_EXIT_REASON, EXIT_TPR_BELOW_THRESHOLD
        CHECK_FIELD GUEST_RIP, [l2_first]

# ------------------------------------------------------------------ APIC-access page: SDM vol. 3, 30.4

RULE read_of_the_page_exits, "A read of the APIC-access page exits with its offset", "SDM vol. 3, 30.4.2"
        TPR_SHADOW
        ACCESS_PAGE
        L2      mov eax, [ACCESS_ID]
        CHECK_FIELD VM_EXIT_REASON, EXIT_APIC_ACCESS
        CHECK_FIELD GUEST_RIP, [l2_first]
        QUALIFIED 0x20
RULE write_of_the_page_exits, "A write of the APIC-access page exits with its offset and access type 1", "SDM vol. 3, 30.4.3"
        TPR_SHADOW
        ACCESS_PAGE
        L2      mov [ACCESS_ICR_HIGH], eax
        CHECK_FIELD VM_EXIT_REASON, EXIT_APIC_ACCESS
        QUALIFIED 0x1310
RULE read_of_tpr_is_virtualized, "With a TPR shadow a read of TPR is served from the virtual-APIC page", "SDM vol. 3, 30.4.2"
        TPR_SHADOW 0x60
        ACCESS_PAGE
        L2      mov ebx, [ACCESS_TPR]
        EXECUTED
        CHECK   rbx, 0x60
RULE write_of_tpr_is_virtualized, "With a TPR shadow a write of TPR goes to the virtual-APIC page", "SDM vol. 3, 30.4.3"
        TPR_SHADOW
        ACCESS_PAGE
        mov     ebx, 0x52
        L2      mov [ACCESS_TPR], ebx
        EXECUTED
        CHECK32 [VTPR], 0x52
RULE write_of_tpr_below_the_threshold_exits, "A virtualized write of TPR below the threshold exits behind the instruction", "SDM vol. 3, 30.4.3.2"
        TPR_SHADOW 0x60, 5
        ACCESS_PAGE
        mov     ebx, 0x20
        L2      mov [ACCESS_TPR], ebx
        TRAPPED EXIT_TPR_BELOW_THRESHOLD
RULE wide_read_of_tpr_exits, "A read of more than 32 bits is not virtualized", "SDM vol. 3, 30.4.2"
        TPR_SHADOW 0x60
        ACCESS_PAGE
        L2      mov rbx, [ACCESS_TPR]
        CHECK_FIELD VM_EXIT_REASON, EXIT_APIC_ACCESS
        QUALIFIED 0x80
RULE page_without_a_shadow_exits, "Without a TPR shadow every access to the APIC-access page exits", "SDM vol. 3, 30.4.2"
        ONLY_WITH "apicv=on"
        ACCESS_PAGE
        L2      mov ebx, [ACCESS_TPR]
        CHECK_FIELD VM_EXIT_REASON, EXIT_APIC_ACCESS
        QUALIFIED 0x80
RULE page_must_be_aligned, "An APIC-access page that is not aligned: error 7", "SDM vol. 3, 27.2.1.1"
        TPR_SHADOW
        ACCESS_PAGE
        SET     APIC_ACCESS_ADDR, WINDOW + 8
        REFUSED 7
RULE page_must_be_a_physical_address, "An APIC-access page beyond the physical addresses: error 7", "SDM vol. 3, 27.2.1.1"
        TPR_SHADOW
        ACCESS_PAGE
        SET     APIC_ACCESS_ADDR, 1 << 52
        REFUSED 7

# ------------------------------------------------------------------ APIC-register virtualization

RULE read_of_a_register_is_virtualized, "With APIC-register virtualization a read is served from the virtual-APIC page", "SDM vol. 3, 30.4.2"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        ACCESS_PAGE
        SECONDARY CPU2_APIC_REGISTERS
        mov     dword ptr [page + 0x20], 0x5000000
        L2      mov ebx, [ACCESS_ID]
        EXECUTED
        CHECK   rbx, 0x5000000
RULE write_of_a_register_exits_behind_it, "With APIC-register virtualization a write goes to the page and exits behind the instruction", "SDM vol. 3, 30.4.3.2"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        ACCESS_PAGE
        SECONDARY CPU2_APIC_REGISTERS
        mov     ebx, 0x1234
        L2      mov [ACCESS_TIMER], ebx
        TRAPPED EXIT_APIC_WRITE
        QUALIFIED 0x380
        CHECK32 [page + 0x380], 0x1234
RULE write_of_icr_high_does_not_exit, "With APIC-register virtualization a write of ICR's upper half keeps bits 31:24 and does not exit", "SDM vol. 3, 30.4.3.2"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        ACCESS_PAGE
        SECONDARY CPU2_APIC_REGISTERS
        mov     ebx, 0x5abcdef
        L2      mov [ACCESS_ICR_HIGH], ebx
        EXECUTED
        CHECK32 [page + 0x310], 0x5000000
RULE write_of_a_read_only_register_exits, "A write of a register that cannot be written exits before it", "SDM vol. 3, 30.4.3"
        TPR_SHADOW
        ACCESS_PAGE
        SECONDARY CPU2_APIC_REGISTERS
        L2      mov [WINDOW + 0x30], ebx
        CHECK_FIELD VM_EXIT_REASON, EXIT_APIC_ACCESS
        QUALIFIED 0x1030
RULE register_virtualization_needs_the_shadow, "APIC-register virtualization without a TPR shadow: error 7", "SDM vol. 3, 27.2.1.1"
        ONLY_WITH "apicv=on"
        SECONDARY CPU2_APIC_REGISTERS
        REFUSED 7

# ------------------------------------------------------------------ virtual x2APIC mode: SDM vol. 3, 30.5

RULE x2apic_tpr_reads_vtpr, "In virtual x2APIC mode RDMSR of TPR gives VTPR", "SDM vol. 3, 30.5"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW 0x73
        SECONDARY CPU2_X2APIC_MODE
        mov     ecx, X2APIC_TPR
        L2      rdmsr
        EXECUTED
        CHECK   [l2_rax], 0x73
RULE x2apic_tpr_writes_vtpr, "In virtual x2APIC mode WRMSR of TPR goes to VTPR", "SDM vol. 3, 30.5"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        SECONDARY CPU2_X2APIC_MODE
        mov     ecx, X2APIC_TPR
        mov     eax, 0x24
        xor     edx, edx
        L2      wrmsr
        EXECUTED
        CHECK32 [VTPR], 0x24
RULE x2apic_tpr_of_9_bits_is_gp, "In virtual x2APIC mode WRMSR of TPR with a reserved bit raises #GP", "SDM vol. 3, 30.5"
        TPR_SHADOW 0x30
        SECONDARY CPU2_X2APIC_MODE
        RUN     l2_bad_tpr
        HALTED
        CHECK   [exc_vector], EXC_GP
        CHECK32 [VTPR], 0x30
RULE x2apic_mode_excludes_the_access_page, "Virtual x2APIC mode with an APIC-access page: error 7", "SDM vol. 3, 27.2.1.1"
        TPR_SHADOW
        ACCESS_PAGE
        SECONDARY CPU2_X2APIC_MODE
        REFUSED 7
RULE x2apic_mode_needs_the_shadow, "Virtual x2APIC mode without a TPR shadow: error 7", "SDM vol. 3, 27.2.1.1"
        ONLY_WITH "apicv=on"
        SECONDARY CPU2_X2APIC_MODE
        REFUSED 7

# ------------------------------------------------------------------ virtual interrupts: SDM vol. 3, 30.2

RULE requested_interrupt_is_delivered, "A virtual interrupt that is requested goes through L2's IDT", "SDM vol. 3, 30.2.2"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        REQUESTED
        RUN     l2_waits
        HALTED
        CHECK   [exc_vector], VECTOR
RULE delivery_moves_it_into_service, "Delivery takes the vector from VIRR to VISR, and from RVI to SVI", "SDM vol. 3, 30.2.2"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        REQUESTED
        RUN     l2_waits
        CHECK_FIELD GUEST_INTR_STATUS, VECTOR << 8
        CHECK32 [VISR_VECTOR], VECTOR_BIT
        CHECK32 [VIRR_VECTOR], 0
        CHECK32 [VPPR], VECTOR & 0xf0
RULE flag_holds_it, "RFLAGS.IF = 0 of L2 holds a virtual interrupt", "SDM vol. 3, 30.2.1"
        TPR_SHADOW
        REQUESTED
        L2      nop
        EXECUTED
        CHECK_FIELD GUEST_INTR_STATUS, VECTOR
RULE vtpr_holds_it, "VTPR of its class holds a virtual interrupt", "SDM vol. 3, 30.2.1"
        TPR_SHADOW 0x30
        REQUESTED
        RUN     l2_waits
        CHECK   [exc_vector], NO_EXCEPTION
RULE lower_vtpr_lets_it_come, "A virtual interrupt is delivered when L2 lowers its TPR", "SDM vol. 3, 30.1.2"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW 0x30
        REQUESTED
        RUN     l2_lowers_tpr
        CHECK   [exc_vector], VECTOR
RULE service_of_its_class_holds_it, "An interrupt of its class in service holds a virtual interrupt", "SDM vol. 3, 30.2.1"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        VIRTUAL_INTERRUPTS VECTOR | 0x3200
        or      dword ptr [VIRR_VECTOR], VECTOR_BIT
        RUN     l2_waits
        CHECK   [exc_vector], NO_EXCEPTION
        CHECK32 [VPPR], 0x30
RULE window_holds_it, "Interrupt-window exiting comes before a virtual interrupt", "SDM vol. 3, 30.2.1"
        TPR_SHADOW
        REQUESTED
        SET_BITS CPU_BASED_VM_EXEC_CONTROL, CPU_INTR_WINDOW
        RUN     l2_waits
        CHECK_FIELD VM_EXIT_REASON, EXIT_INTERRUPT_WINDOW
        CHECK   [exc_vector], NO_EXCEPTION
RULE eoi_ends_service, "EOI clears VISR and SVI and does not exit when its bit of the EOI-exit bitmap is clear", "SDM vol. 3, 30.1.4"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        ACCESS_PAGE
        VIRTUAL_INTERRUPTS VECTOR << 8
        or      dword ptr [VISR_VECTOR], VECTOR_BIT
        xor     ebx, ebx
        L2      mov [ACCESS_EOI], ebx
        EXECUTED
        CHECK_FIELD GUEST_INTR_STATUS, 0
        CHECK32 [VISR_VECTOR], 0
RULE eoi_exits_by_its_bitmap, "EOI of a vector whose bit of the EOI-exit bitmap is set exits behind the instruction", "SDM vol. 3, 30.1.4"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        ACCESS_PAGE
        VIRTUAL_INTERRUPTS VECTOR << 8
        or      dword ptr [VISR_VECTOR], VECTOR_BIT
        SET     EOI_EXIT_BITMAP0, 1 << VECTOR
        L2      mov [ACCESS_EOI], ebx
        TRAPPED EXIT_EOI_INDUCED
        QUALIFIED VECTOR
RULE eoi_brings_the_next, "EOI lets a requested interrupt of a lower class come", "SDM vol. 3, 30.1.4"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        SECONDARY CPU2_X2APIC_MODE
        VIRTUAL_INTERRUPTS VECTOR | 0x4100
        or      dword ptr [VIRR_VECTOR], VECTOR_BIT
        or      dword ptr [page + 0x120], 2
        RUN     l2_eoi
        CHECK   [exc_vector], VECTOR
        CHECK_FIELD GUEST_INTR_STATUS, VECTOR << 8
RULE self_ipi_requests, "A self-IPI in virtual x2APIC mode is a virtual interrupt and does not exit", "SDM vol. 3, 30.1.5"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW
        SECONDARY CPU2_X2APIC_MODE
        VIRTUAL_INTERRUPTS 0
        RUN     l2_self_ipi
        HALTED
        CHECK   [exc_vector], VECTOR
RULE virtual_interrupts_need_interrupt_exiting, "Virtual-interrupt delivery without external-interrupt exiting: error 7", "SDM vol. 3, 27.2.1.1"
        TPR_SHADOW
        SECONDARY CPU2_VIRTUAL_INTERRUPTS
        REFUSED 7
RULE virtual_interrupts_need_the_shadow, "Virtual-interrupt delivery without a TPR shadow: error 7", "SDM vol. 3, 27.2.1.1"
        ONLY_WITH "apicv=on"
        VIRTUAL_INTERRUPTS 0
        REFUSED 7
RULE threshold_is_ignored_with_virtual_interrupts, "With virtual-interrupt delivery the threshold does not count", "SDM vol. 3, 30.1.2"
DEVIATION "l0=xen", "Xen offers L1 the TPR shadow and the APIC-access page alone"
        TPR_SHADOW 0x40, 5
        VIRTUAL_INTERRUPTS 0
        xor     ebx, ebx
        L2      mov cr8, rbx
        EXECUTED
RULES_END

# ------------------------------------------------------------------ code of L2

l2_waits:
        sti
        nop
        nop
        hlt
l2_lowers_tpr:
        sti
        nop
        xor     ebx, ebx
        mov     cr8, rbx
        nop
        ud2
l2_bad_cr8:
        mov     ebx, 0x10
        CATCH   mov cr8, rbx
        hlt
l2_bad_tpr:
        mov     ecx, X2APIC_TPR
        mov     eax, 0x100
        xor     edx, edx
        CATCH   wrmsr
        hlt
l2_eoi: sti
        mov     ecx, X2APIC_EOI
        xor     eax, eax
        xor     edx, edx
        wrmsr
        nop
        ud2
l2_self_ipi:
        sti
        mov     ecx, X2APIC_SELF_IPI
        mov     eax, VECTOR
        xor     edx, edx
        wrmsr
        nop
        ud2
