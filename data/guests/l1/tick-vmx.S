# @title   L1 hypervisor that gives L2 a virtual APIC with a timer (Intel VMX)
# @backend vmx
# @param unmap_period 16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages  17 1 1 64 pages : how many pages each time, those mapped last
#
# The minimal hypervisor (minimal-vmx.S), which see, and for L2 a local APIC in x2APIC mode with one
# vector, the timer's, driven by L1's own timer.  What the processor offers it uses: with
# virtual-interrupt delivery L2's TPR and EOI need no exit, and L1 only says that the vector is
# requested; without, L1 keeps TPR and the vector in service itself and waits for interrupt windows.
# NMIs go on to L2: with virtual NMIs as soon as L2 can take one, without at once.

.intel_syntax noprefix
.set TICK, 1
.include "apic.inc"
.set OWN_VECTOR, 0x41                       # of L1's timer
.set TICK_VECTOR, 0x40                      # of L2's
.set INJECT_TICK, 1 << 31 | TICK_VECTOR
.set INJECT_NMI, 1 << 31 | 2 << 8 | 2
.set BLOCKED_NOW, 3                         # by STI, by MOV SS
.set EXIT_NMI_WINDOW, 8
.set APIC_VIRTUALIZATION, 1 << 4 | 1 << 8 | 1 << 9

.include "minimal-vmx.S"

        .text
# Before the first entry.  Interrupts and NMIs end L2's run; the exit acknowledges interrupts.
give_virtual_apic:
        lidt    [idt_pointer]
        GATE    idt, 2, on_own_nmi
        mov     ebx, offset idt
        WRITE_FIELD HOST_IDTR_BASE, rbx
        APIC_ON
        mov     ecx, MSR_VMX_TRUE_PINBASED
        rdmsr
        mov     ebx, PIN_EXT_INTR_EXITING | PIN_NMI_EXITING | PIN_VIRTUAL_NMIS
        call    adjust_controls
        WRITE_FIELD PIN_BASED_VM_EXEC_CONTROL, rbx
        and     ebx, PIN_VIRTUAL_NMIS
        mov     [virtual_nmis], ebx
        READ_FIELD rbx, VM_EXIT_CONTROLS
        or      ebx, EXIT_CTL_ACK_INTERRUPT
        WRITE_FIELD VM_EXIT_CONTROLS, rbx
        # is the APIC virtualized?
        mov     ecx, MSR_VMX_PROCBASED_CTLS2
        rdmsr
        and     edx, APIC_VIRTUALIZATION
        cmp     edx, APIC_VIRTUALIZATION
        jne     by_software
        mov     byte ptr [by_processor], 1
        READ_FIELD rbx, SECONDARY_VM_EXEC_CONTROL
        or      ebx, APIC_VIRTUALIZATION
        WRITE_FIELD SECONDARY_VM_EXEC_CONTROL, rbx
        READ_FIELD rbx, CPU_BASED_VM_EXEC_CONTROL
        or      ebx, CPU_TPR_SHADOW
        WRITE_FIELD CPU_BASED_VM_EXEC_CONTROL, rbx
        mov     ebx, offset virtual_apic
        WRITE_FIELD VIRTUAL_APIC_PAGE_ADDR, rbx
        # L2 may write TPR (0x808), EOI (0x80b) and SELF_IPI (0x83f)
        and     byte ptr [msr_bitmap + 0x800 + 0x808/8], ~9
        and     byte ptr [msr_bitmap + 0x800 + 0x838/8], 0x7f
by_software:
        ret

# After an exit other than CPUID: ECX = its reason; RAX, RCX, RDX and RBX are free.
virtual_apic_exit:
        cmp     ecx, EXIT_MSR_WRITE
        je      apic_write
        # an event that did not get through: again
        READ_FIELD rbx, IDT_VECTORING_INFO_FIELD
        mov     byte ptr [busy], 0
        test    ebx, ebx
        jns     nothing_lost
        mov     byte ptr [busy], 1
        WRITE_FIELD VM_ENTRY_INTR_INFO_FIELD, rbx
nothing_lost:
        cmp     ecx, EXIT_EXTERNAL_INTERRUPT
        je      own_tick
        cmp     ecx, EXIT_INTERRUPT_WINDOW
        je      window_open
        cmp     ecx, EXIT_EXCEPTION_NMI
        je      nmi_came
        cmp     ecx, EXIT_NMI_WINDOW
        je      nmi_window_open
        jmp     other_exits

# WRMSR of L2: registers of the local APIC; the timer's go on to L1's own timer.
apic_write:
        mov     eax, [l2_rcx]
        cmp     eax, X2APIC_TPR
        je      write_tpr
        cmp     eax, X2APIC_EOI
        je      write_eoi
        cmp     eax, X2APIC_LVT_TIMER
        je      write_timer
        cmp     eax, X2APIC_INITIAL_COUNT
        je      write_own
        cmp     eax, X2APIC_DIVIDE
        je      write_own
        jmp     other_exits
write_tpr:
        mov     al, [l2_rax]
        mov     [tpr], al
        jmp     apic_written
write_eoi:
        mov     byte ptr [in_service], 0
apic_written:
        mov     byte ptr [busy], 0
        call    step_over
        jmp     offer
write_timer:
        mov     eax, [l2_rax]
        mov     al, OWN_VECTOR
        mov     ecx, X2APIC_LVT_TIMER
        jmp     write_value
write_own:
        mov     ecx, eax
        mov     eax, [l2_rax]
write_value:
        xor     edx, edx
        wrmsr
        call    step_over
        jmp     resume

step_over:                                  # the instruction that exited
        READ_FIELD rbx, GUEST_RIP
        READ_FIELD rdx, VM_EXIT_INSTRUCTION_LEN
        add     rbx, rdx
        WRITE_FIELD GUEST_RIP, rbx
        ret

# L1's timer: the exit has acknowledged it.
own_tick:
        WRITE_MSR X2APIC_EOI, 0
        cmp     byte ptr [by_processor], 0
        jne     request
        mov     byte ptr [requested], 1
        jmp     offer
request:                                    # the vector in VIRR, and in RVI
        or      dword ptr [virtual_apic + APIC_IRR + 16 * (TICK_VECTOR / 32)], 1 << (TICK_VECTOR & 31)
        READ_FIELD rbx, GUEST_INTR_STATUS
        mov     bl, TICK_VECTOR
        WRITE_FIELD GUEST_INTR_STATUS, rbx
        jmp     resume

window_open:
        READ_FIELD rbx, CPU_BASED_VM_EXEC_CONTROL
        and     ebx, ~CPU_INTR_WINDOW
        WRITE_FIELD CPU_BASED_VM_EXEC_CONTROL, rbx
        cmp     byte ptr [nmi_waits], 0
        jne     inject_nmi
# Inject the tick if L2 can take it, or ask to be told when.
offer:
        cmp     byte ptr [requested], 0
        je      resume
        cmp     byte ptr [in_service], 0
        jne     resume                      # EOI comes here
        mov     al, [tpr]
        shr     al, 4
        cmp     al, TICK_VECTOR >> 4
        jae     resume                      # and so does a lower TPR
        cmp     byte ptr [busy], 0
        jne     ask_for_window
        READ_FIELD rbx, GUEST_RFLAGS
        test    ebx, 1 << 9
        jz      ask_for_window
        READ_FIELD rbx, GUEST_INTERRUPTIBILITY_INFO
        test    bl, BLOCKED_NOW
        jnz     ask_for_window
        mov     byte ptr [requested], 0
        mov     byte ptr [in_service], 1
        mov     ebx, INJECT_TICK
        WRITE_FIELD VM_ENTRY_INTR_INFO_FIELD, rbx
        jmp     resume
ask_for_window:
        mov     ebx, CPU_INTR_WINDOW
        jmp     ask

nmi_window_open:
        READ_FIELD rbx, CPU_BASED_VM_EXEC_CONTROL
        and     ebx, ~CPU_NMI_WINDOW
        WRITE_FIELD CPU_BASED_VM_EXEC_CONTROL, rbx
nmi_came:
        cmp     dword ptr [virtual_nmis], 0
        je      no_virtual_nmis
        READ_FIELD rbx, GUEST_INTERRUPTIBILITY_INFO
        test    bl, BLOCKING_BY_NMI | BLOCKED_NOW
        jnz     nmi_window
        cmp     byte ptr [busy], 0
        je      inject_nmi
nmi_window:
        mov     ebx, CPU_NMI_WINDOW
ask:                                        # for the window in EBX
        READ_FIELD rdx, CPU_BASED_VM_EXEC_CONTROL
        or      edx, ebx
        WRITE_FIELD CPU_BASED_VM_EXEC_CONTROL, rdx
        jmp     resume
no_virtual_nmis:                            # nobody says when an NMI may come: at once
        cmp     byte ptr [busy], 0
        je      inject_nmi
        mov     byte ptr [nmi_waits], 1
        jmp     ask_for_window
inject_nmi:
        mov     byte ptr [nmi_waits], 0
        mov     ebx, INJECT_NMI
        WRITE_FIELD VM_ENTRY_INTR_INFO_FIELD, rbx
        jmp     resume

on_own_nmi:                                 # while L1 itself ran
        iretq

        .data
idt_pointer:        .word   0xfff
                    .quad   idt
        .balign 8
virtual_nmis:       .long   0
by_processor:       .byte   0
busy:               .byte   0               # the entry injects an event again
nmi_waits:          .byte   0
requested:          .byte   0
in_service:         .byte   0
tpr:                .byte   0
        .bss
        .balign 4096
virtual_apic:       .skip   0x1000
idt:                .skip   0x1000
