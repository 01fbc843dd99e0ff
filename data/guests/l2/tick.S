# @title   A guest that lives on its timer: task priority and end of interrupt, tick by tick
# @param ticks   16 20 1 1000000 ticks : stop after so many
# @param period  17 300000 1000 1000000000 cycles : between two ticks
# @param rounds  18 3000000 1 1000000000 rounds : stop after so many rounds of the loop at the latest
# @param cpuid   19 0 0 1000000000 rounds : execute CPUID after so many rounds on average, 0 for never
#
# Its local APIC is in x2APIC mode.  Each tick raises the task priority, works a little, lowers the
# priority again and ends the interrupt: three accesses, each of which leaves to L1 unless the
# processor virtualizes the APIC.  NMIs are counted.  RAX at the end: ticks, and NMIs in the upper half.
# With CPUIDs in the loop ticks meet L0 and L1 at work, too, not L2 alone; they come at random, so that
# the ticks do not fall into step with them.
#
# A nested tick costs about 100,000 cycles on SVM and 165,000 on VMX, with APIC virtualization about
# 50,000.  With a shorter period the next tick is always pending: the loop below gets no instruction
# between two handlers and never sees that it is time to stop, and with one below L1's own work for a
# timer interrupt (about 30,000 cycles on SVM) L2 does not run at all.  So would real processors.

.intel_syntax noprefix
.include "l2.inc"
.include "apic.inc"
.set TICK_VECTOR, 0x40
.set BUSY, 0x50                             # a priority above the timer's

        .text
        .globl  _start
_start:
        lidt    [idt_pointer]
        GATE    idt, 2, on_nmi
        GATE    idt, TICK_VECTOR, on_tick
        APIC_ON
        WRITE_MSR X2APIC_LVT_TIMER, TICK_VECTOR | LVT_PERIODIC
        mov     ecx, X2APIC_INITIAL_COUNT
        mov     eax, [L2_OWN + 1*8]
        xor     edx, edx
        wrmsr
        mov     rbx, [L2_OWN + 0*8]
        mov     rsi, [L2_OWN + 2*8]
        mov     r8, [L2_OWN + 3*8]
        test    r8, r8
        jnz     with_exits
        sti
wait:   cmp     [ticks], rbx
        jae     enough
        dec     rsi
        jnz     wait
        jmp     enough

with_exits:
        mov     r9, rbx                     # CPUID changes RBX
        # a linear congruential generator (multiplier and increment: D. E. Knuth, MMIX)
        mov     r12, 6364136223846793005
        mov     r13, 1442695040888963407
        mov     r11d, 1
        sti
draw:   imul    r11, r12
        add     r11, r13
        mov     r10, r11
        shr     r10, 32
        imul    r10, r8
        shr     r10, 31                     # 0 <= R10 < 2 * R8: rounds until the next one
        inc     r10
busy:   cmp     [ticks], r9
        jae     enough
        dec     r10
        jz      exit
        dec     rsi
        jnz     busy
        jmp     enough
exit:   xor     eax, eax
        cpuid
        jmp     draw
enough:
        cli
        mov     eax, [nmis]
        shl     rax, 32
        or      rax, [ticks]
        FINISH

on_tick:
        push    rax
        push    rcx
        push    rdx
        WRITE_MSR X2APIC_TPR, BUSY
        inc     qword ptr [ticks]
        mov     ecx, 50
1:      dec     ecx
        jnz     1b
        WRITE_MSR X2APIC_EOI, 0
        WRITE_MSR X2APIC_TPR, 0
        pop     rdx
        pop     rcx
        pop     rax
        iretq
on_nmi:
        inc     dword ptr [nmis]
        iretq

        .data
idt_pointer: .word 0xfff
        .quad   idt
        .balign 8
ticks:  .quad   0
nmis:   .long   0
        .bss
        .balign 16
idt:    .skip   0x1000
