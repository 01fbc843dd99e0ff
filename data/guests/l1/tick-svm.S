# @title   L1 hypervisor that gives L2 a virtual APIC with a timer (AMD SVM)
# @backend svm
# @param unmap_period 16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages  17 1 1 64 pages : how many pages each time, those mapped last
#
# The minimal hypervisor (minimal-svm.S), which see, and for L2 a local APIC in x2APIC mode with one
# vector, the timer's, driven by L1's own timer.  L2's TPR and EOI are WRMSRs that exit; the tick is a
# virtual interrupt (V_IRQ with priority), which the processor holds back as V_TPR and L2's flag say.
# NMIs go on to L2: as virtual NMIs where there are any, else injected, with an intercept of IRET.

.intel_syntax noprefix
.set TICK, 1
.include "apic.inc"
.set OWN_VECTOR, 0x41                       # of L1's timer
.set TICK_VECTOR, 0x40                      # of L2's

.include "minimal-svm.S"

        .text
# Before the first entry.  L1 keeps its interrupts on: GIF holds them back around VMRUN.
give_virtual_apic:
        lidt    [idt_pointer]
        GATE    idt, 2, on_own_nmi
        GATE    idt, OWN_VECTOR, on_own_tick
        APIC_ON
        or      dword ptr [vmcb + VMCB_INTERCEPT_WORD3], INTERCEPT_INTR | INTERCEPT_NMI
        or      dword ptr [vmcb + VMCB_INT_CTL], (TICK_VECTOR >> 4) << INT_CTL_V_INTR_PRIO_SHIFT
        mov     dword ptr [vmcb + VMCB_INT_VECTOR], TICK_VECTOR
        mov     eax, CPUID_SVM_FEATURES
        cpuid
        test    edx, SVM_FEATURE_VNMI
        jz      no_virtual_nmi
        or      dword ptr [vmcb + VMCB_INT_CTL], INT_CTL_V_NMI_ENABLE
        mov     byte ptr [virtual_nmis], 1
no_virtual_nmi:
        sti
        ret

# After an exit other than CPUID: EAX = its code; RAX alone is free.
virtual_apic_exit:
        call    collect
        cmp     eax, VMEXIT_MSR
        je      apic_msr
        # an event that did not get through: again
        test    dword ptr [vmcb + VMCB_EXIT_INT_INFO], EVENT_VALID
        jz      nothing_lost
        push    rax
        mov     rax, [vmcb + VMCB_EXIT_INT_INFO]
        mov     [vmcb + VMCB_EVENT_INJ], rax
        pop     rax
nothing_lost:
        cmp     eax, VMEXIT_INTR
        je      resume                      # taken by on_own_tick as soon as GIF was set
        cmp     eax, VMEXIT_NMI
        je      resume
        cmp     eax, VMEXIT_IRET
        je      iret_of_nmi
        jmp     other_exits

# WRMSR of L2: registers of the local APIC; the timer's go on to L1's own timer.
apic_msr:
        test    byte ptr [vmcb + VMCB_EXIT_INFO_1], 1
        jz      other_exits
        cmp     ecx, X2APIC_TPR
        je      write_tpr
        cmp     ecx, X2APIC_EOI
        je      write_eoi
        cmp     ecx, X2APIC_LVT_TIMER
        je      write_timer
        cmp     ecx, X2APIC_INITIAL_COUNT
        je      write_own
        cmp     ecx, X2APIC_DIVIDE
        je      write_own
        jmp     other_exits
write_tpr:
        and     dword ptr [vmcb + VMCB_INT_CTL], ~INT_CTL_V_TPR
        mov     eax, [vmcb + VMCB_RAX]
        shr     eax, 4
        and     eax, INT_CTL_V_TPR
        or      [vmcb + VMCB_INT_CTL], eax
        jmp     advance
write_eoi:
        mov     byte ptr [in_service], 0
        jmp     advance
write_timer:
        mov     eax, [vmcb + VMCB_RAX]
        mov     al, OWN_VECTOR
        jmp     write_value
write_own:
        mov     eax, [vmcb + VMCB_RAX]
write_value:
        push    rdx
        xor     edx, edx
        wrmsr
        pop     rdx
        jmp     advance

iret_of_nmi:                                # L2 executes it now; the next NMI comes later than that
        and     dword ptr [vmcb + VMCB_INTERCEPT_WORD3], ~INTERCEPT_IRET
        mov     byte ptr [nmi_masked], 0
        mov     byte ptr [nmi_later], 1
        jmp     resume

# Has L2 taken the tick that it was offered?  The processor has cleared V_IRQ then.
collect:
        cmp     byte ptr [offered], 0
        je      1f
        test    dword ptr [vmcb + VMCB_INT_CTL], INT_CTL_V_IRQ
        jnz     1f
        mov     byte ptr [offered], 0
        mov     byte ptr [in_service], 1
1:      ret

# With GIF clear, before every entry; no register is changed.
offer_events:
        call    collect
        cmp     byte ptr [nmi_later], 0
        mov     byte ptr [nmi_later], 0
        jne     offer_tick
        cmp     byte ptr [nmi_requested], 0
        je      offer_tick
        cmp     byte ptr [virtual_nmis], 0
        jne     virtual_nmi
        cmp     byte ptr [nmi_masked], 0
        jne     offer_tick
        test    dword ptr [vmcb + VMCB_EVENT_INJ], EVENT_VALID
        jnz     offer_tick
        push    rax
        mov     eax, EVENT_NMI
        mov     [vmcb + VMCB_EVENT_INJ], rax
        pop     rax
        or      dword ptr [vmcb + VMCB_INTERCEPT_WORD3], INTERCEPT_IRET
        mov     byte ptr [nmi_masked], 1
        mov     byte ptr [nmi_requested], 0
        jmp     offer_tick
virtual_nmi:
        or      dword ptr [vmcb + VMCB_INT_CTL], INT_CTL_V_NMI
        mov     byte ptr [nmi_requested], 0
offer_tick:
        cmp     byte ptr [requested], 0
        je      1f
        cmp     byte ptr [offered], 0
        jne     1f
        cmp     byte ptr [in_service], 0
        jne     1f
        or      dword ptr [vmcb + VMCB_INT_CTL], INT_CTL_V_IRQ
        mov     byte ptr [offered], 1
        mov     byte ptr [requested], 0
1:      ret

on_own_tick:
        push    rax
        push    rcx
        push    rdx
        mov     byte ptr [requested], 1
        WRITE_MSR X2APIC_EOI, 0
        pop     rdx
        pop     rcx
        pop     rax
        iretq
on_own_nmi:
        mov     byte ptr [nmi_requested], 1
        iretq

        .data
idt_pointer:        .word   0xfff
                    .quad   idt
virtual_nmis:       .byte   0
requested:          .byte   0
offered:            .byte   0
in_service:         .byte   0
nmi_requested:      .byte   0
nmi_masked:         .byte   0
nmi_later:          .byte   0
        .bss
        .balign 4096
idt:                .skip   0x1000
