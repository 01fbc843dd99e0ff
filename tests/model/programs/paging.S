# @param pcid 16 1 0 1 choice : 0 leaves the part with PCIDs out
#
# What page tables can do, one thing after the other, each leaving a trace in the log: remapping,
# missing and read-only pages, execute-disable, reserved bits, ring 3, CR0.WP, SMEP and SMAP, large
# pages and their splitting, address spaces with and without PCIDs, a fault during a fault's delivery.
# However L2's memory is translated, the log and all of the memory must come out the same.
#
# #PF handler: logs error code and CR2, then does as R15 says: 0 repairs the entry at R14 by writing
# R13 to it (and INVLPG); else goes on at R15.

.intel_syntax noprefix
.include "l2.inc"
.set TABLES,    0x400000                # PML4, PDPT, directory, table
.set WINDOW,    0x80000000              # linear address of the table's 512 pages
.set PTE0,      TABLES + 0x3000
.set PAGE_A,    0x410000
.set PAGE_B,    0x411000
.set LARGE,     0x600000                # two megabytes
.set RW,        3
.set RO,        1
.set USER,      4
.set DONE,      0x41

        .text
        .globl  _start
_start:
        mov     ebp, offset log
        # ---- IDT: #DF on a stack of its own, #PF, vector 0x41 callable from ring 3
        mov     eax, offset on_double_fault
        mov     edi, offset idt + 8*16
        mov     edx, 0x8e01
        call    set_gate
        mov     eax, offset on_page_fault
        mov     edi, offset idt + 14*16
        mov     edx, 0x8e00
        call    set_gate
        mov     eax, offset on_done
        mov     edi, offset idt + DONE*16
        mov     edx, 0xee00
        call    set_gate
        mov     eax, offset double_stack
        mov     [0x7000 + 0x24], rax        # IST 1 of the TSS
        lidt    [idt_pointer]
        # ---- tables: the first gigabyte as it is, WINDOW by a table of our own
        mov     rbx, cr3
        mov     [old_cr3], rbx
        and     rbx, -4096
        mov     rbx, [rbx]
        and     rbx, -4096
        mov     rbx, [rbx]
        and     rbx, ~USER                  # for the supervisor, so that SMEP and SMAP let it live
        mov     edi, TABLES
        call    make_space
        mov     eax, TABLES
        mov     cr3, rax

        # ---- 1. a page, its accessed and dirty bits, another page at the same address
        mov     esi, WINDOW
        mov     edi, PTE0
        mov     qword ptr [rdi], PAGE_A + RW
        mov     rax, [rsi]
        call    log_entry                   # accessed
        mov     dword ptr [rsi], 0x1111
        call    log_entry                   # and dirty
        mov     qword ptr [rdi], PAGE_B + RW
        invlpg  [rsi]
        mov     dword ptr [rsi + 8], 0x2222
        call    log_entry
        mov     eax, [PAGE_A]
        call    log_value
        # ---- 2. missing, for reading and for writing; the handler maps it
        mov     qword ptr [rdi], 0
        invlpg  [rsi]
        xor     r15d, r15d
        mov     r14, rdi
        mov     r13d, PAGE_A + RW
        mov     rax, [rsi]
        call    log_value
        mov     qword ptr [rdi], 0
        invlpg  [rsi]
        mov     dword ptr [rsi + 16], 0x3333
        call    log_entry
        # ---- 3. read-only: a write faults; not so with WP clear
        mov     qword ptr [rdi], PAGE_A + RO
        invlpg  [rsi]
        mov     rax, [rsi]
        mov     dword ptr [rsi + 24], 0x4444
        call    log_entry
        mov     qword ptr [rdi], PAGE_A + RO
        invlpg  [rsi]
        mov     rax, cr0
        btr     rax, 16
        mov     cr0, rax
        mov     dword ptr [rsi + 32], 0x5555
        call    log_entry
        mov     rax, [rsi + 32]
        call    log_value
        mov     rax, cr0
        call    log_value
        bts     rax, 16
        mov     cr0, rax
        mov     dword ptr [rsi + 40], 0x6666    # faults again
        call    log_entry
        # ---- 4. reserved bits, and no execution
        mov     rax, 1 << 45 | PAGE_A + RW
        mov     [rdi], rax
        invlpg  [rsi]
        mov     rax, [rsi]
        mov     dword ptr [rsi], 0xc3           # RET
        mov     rax, 1 << 63 | PAGE_A + RW
        mov     [rdi], rax
        invlpg  [rsi]
        mov     rax, [rsi]
        mov     r15d, offset not_executed
        mov     r12, rsp
        call    rsi
not_executed:
        mov     rsp, r12
        xor     r15d, r15d
        mov     qword ptr [rdi], PAGE_A + RW
        invlpg  [rsi]
        call    rsi                             # now it does
        # ---- 5. ring 3: its own page, the supervisor's page
        mov     qword ptr [rdi + 8], PAGE_B + RW + USER
        mov     dword ptr [rsi + 0x1000], 0xc2ff48      # INC RDX ...
        mov     dword ptr [rsi + 0x1003], 0x06c748      # ... MOV QWORD PTR [RSI], imm32
        mov     dword ptr [rsi + 0x1006], 0x7777
        mov     dword ptr [rsi + 0x100a], DONE << 8 | 0xcd      # INT DONE
        or      qword ptr [TABLES], USER
        or      qword ptr [TABLES + 0x1000 + 2*8], USER
        or      qword ptr [TABLES + 0x2000], USER
        mov     rax, cr3
        mov     cr3, rax
        xor     r15d, r15d
        mov     r14, rdi
        mov     r13d, PAGE_A + RW + USER        # the handler opens the page to ring 3
        lea     rax, [rsi + 0x1000]
        mov     r12, rsp
        push    0x1b
        push    0
        push    2
        push    0x23
        push    rax
        iretq
on_done:
        mov     rsp, r12
        call    log_entry
        mov     rax, [rsi]
        call    log_value
        # ---- 6. SMEP and SMAP: the supervisor and pages of ring 3
        mov     rax, cr4
        mov     r11, rax
        or      eax, 1 << 20 | 1 << 21
        mov     cr4, rax
        mov     r15d, offset smep_held
        lea     rax, [rsi + 0x1000]
        jmp     rax
smep_held:
        mov     r15d, offset smap_held
        mov     rax, [rsi]
smap_held:
        pushfq
        bts     qword ptr [rsp], 18
        popfq                                   # AC lets it pass
        mov     rax, [rsi]
        call    log_value
        pushfq
        btr     qword ptr [rsp], 18
        popfq
        mov     cr4, r11
        mov     rax, cr4
        call    log_value
        # ---- 7. a large page, then the same memory in small pages and in another order
        mov     qword ptr [TABLES + 0x2000 + 8], LARGE + RW + 0x80
        mov     dword ptr [rsi + 0x200000], 0x8888
        mov     dword ptr [rsi + 0x201000], 0x9999
        mov     rax, [rsi + 0x3ff000]
        mov     rax, [TABLES + 0x2000 + 8]
        call    log_value
        mov     qword ptr [TABLES + 0x4000], LARGE + 0x1000 + RW
        mov     qword ptr [TABLES + 0x4000 + 8], LARGE + RW
        mov     qword ptr [TABLES + 0x2000 + 8], TABLES + 0x4000 + RW
        invlpg  [rsi + 0x200000]
        invlpg  [rsi + 0x201000]
        mov     eax, [rsi + 0x200000]
        call    log_value
        mov     eax, [rsi + 0x201000]
        call    log_value
        # ---- 8. a page table emptied, filled again and turned read-only one level up
        mov     qword ptr [TABLES + 0x2000], 0
        mov     rax, cr3
        mov     cr3, rax
        xor     r15d, r15d
        mov     r14d, TABLES + 0x2000
        mov     r13d, PTE0 + RO
        mov     rax, [rsi]
        call    log_value
        mov     r13d, PTE0 + RW
        mov     dword ptr [rsi], 0xaaaa
        mov     r14, rdi
        # ---- 9. global pages go with CR4.PGE
        mov     qword ptr [rdi], PAGE_A + RW + 0x100
        invlpg  [rsi]
        mov     eax, [rsi]
        mov     qword ptr [rdi], PAGE_B + RW + 0x100
        mov     rax, cr4
        btc     rax, 7
        mov     cr4, rax
        btc     rax, 7
        mov     cr4, rax
        mov     eax, [rsi]
        call    log_value
        mov     qword ptr [rdi], PAGE_B + RW    # a global one would outlive the switch of spaces
        invlpg  [rsi]
        # ---- 10. another space, and both with PCIDs
        mov     edi, TABLES + 0x5000
        call    make_space
        mov     edi, TABLES + 0x8000            # its page table
        mov     qword ptr [rdi], PAGE_A + RW
        mov     eax, TABLES + 0x5000
        mov     cr3, rax
        mov     eax, [rsi]
        call    log_value
        cmp     qword ptr [L2_OWN], 0
        je      no_pcids
        mov     rax, cr4
        or      eax, 1 << 17
        mov     cr4, rax
        mov     ecx, 8
next_switch:
        mov     eax, TABLES + 1
        bts     rax, 63
        mov     cr3, rax
        add     dword ptr [rsi], 3
        mov     eax, TABLES + 0x5000 + 2
        bts     rax, 63
        mov     cr3, rax
        add     dword ptr [rsi], 5
        dec     ecx
        jnz     next_switch
        mov     rax, cr3
        call    log_value
        mov     eax, [rsi]
        call    log_value
        mov     eax, TABLES + 0x5000
        mov     cr3, rax
        mov     rax, cr4
        btr     rax, 17
        mov     cr4, rax
        call    log_value
no_pcids:
        # ---- 11. a fault whose frame cannot be pushed: #DF on IST 1, which logs and ends
        mov     qword ptr [rdi], 0
        invlpg  [rsi]
        lea     rsp, [rsi + 0x800]
        mov     rax, [rsi]
on_double_fault:
        mov     eax, 0xdf
        call    log_value
        pop     rax                             # its error code, 0
        call    log_value
        mov     rax, [old_cr3]
        mov     cr3, rax
        # ---- the sum of the log
        xor     eax, eax
        mov     ecx, offset log
sum:    add     rax, [rcx]
        rol     rax, 1
        add     ecx, 8
        cmp     rcx, rbp
        jb      sum
        FINISH

on_page_fault:
        push    rax
        mov     rax, [rsp + 8]
        call    log_value
        mov     rax, cr2
        call    log_value
        test    r15, r15
        jz      repair
        mov     [rsp + 16], r15
        jmp     go_on
repair:
        mov     [r14], r13
        mov     rax, cr2
        invlpg  [rax]
go_on:
        pop     rax
        add     rsp, 8
        iretq

# Four tables at RDI: PML4, PDPT (entry 0 = RBX), directory, page table for WINDOW.  Changes RAX, R10.
make_space:
        lea     rax, [rdi + 0x1000 + RW]
        mov     [rdi], rax
        mov     [rdi + 0x1000], rbx
        add     rax, 0x1000
        mov     [rdi + 0x1010], rax
        add     rax, 0x1000
        mov     [rdi + 0x2000], rax
        ret
log_entry:
        mov     rax, [rdi]
log_value:
        mov     [rbp], rax
        add     rbp, 8
        ret
set_gate:
        mov     [rdi], ax
        mov     word ptr [rdi + 2], 8
        mov     [rdi + 4], edx
        mov     ecx, eax
        and     ecx, 0xffff0000
        and     edx, 0xffff
        or      ecx, edx
        mov     [rdi + 4], ecx
        ret

        .data
        .balign 8
old_cr3:        .quad   0
idt_pointer:    .word   256*16 - 1
                .quad   idt
        .bss
        .balign 4096
idt:            .skip   4096
                .skip   4096
double_stack:
log:            .skip   8192
