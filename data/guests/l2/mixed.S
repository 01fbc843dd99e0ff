# @title   A mixture of all operations, replayed from a table
# @param iterations       16 5000 1 1000000000 operations : operations to run; the table is repeated as needed
# @param work             17 100 0 1000000 instructions : plain instructions between two of them
# @param pages            18 128 1 65536 pages : working set of the touch operation
# @param spaces           19 4 1 256 spaces : address spaces of the context switch operation
# @param space_pages      20 8 1 512 pages : pages touched after a context switch
# @param table_entries    21 1024 1 32000 entries : length of the table
# @param weight_cpuid     22 10 0 1000000 weight : share of CPUID
# @param weight_msr       23 20 0 1000000 weight : share of MSR accesses
# @param weight_pio       24 20 0 1000000 weight : share of port accesses
# @param weight_hypercall 25 10 0 1000000 weight : share of hypercalls
# @param weight_touch     26 30 0 1000000 weight : share of memory touches
# @param weight_ctxsw     27 5 0 1000000 weight : share of context switches
# @param weight_compute   28 5 0 1000000 weight : share of arithmetic
# @param write_percent    29 50 0 100 percent : share of writes among MSR and port accesses
# @param msr              30 0x1a0 0 0xffffffff number : which MSR
# @param port             31 0x70 0 0xffff port : which port
# @param compute_rounds   32 200 1 1000000 rounds : length of one arithmetic operation
# @memory 0x200000 + 4096 * (pages + (4 + space_pages) * spaces)
#
# The table at L2_TABLE: first its number of entries (8 bytes, then 8 unused), then per operation a
# kind and an argument of 8 bytes each.  The loader makes it from the weights and the scenario's
# seed, or from a recorded trace.

.intel_syntax noprefix
.include "l2.inc"
.include "spaces.inc"
.set KINDS,             9

        .text
        .globl  _start
_start:
        mov     r8, [L2_OWN + 2*8]
        shl     r8, 12
        add     r8, L2_WORKING_SET          # R8 = first address space, behind the working set
        mov     rdi, r8
        mov     rsi, [L2_OWN + 3*8]
        mov     rdx, [L2_OWN + 4*8]
        call    build_spaces
        mov     r9, rax                     # R9 = from space to space

        mov     r12, [L2_OWN + 0*8]         # operations left
        mov     r13, [L2_OWN + 1*8]
        shr     r13, 1
rewind:
        mov     r15, [L2_TABLE]             # entries until the table starts again
        mov     ebp, L2_TABLE
again:
        WORK
        add     rbp, 16
        mov     rax, [rbp]                  # kind
        mov     rdi, [rbp + 8]              # argument
        cmp     rax, KINDS
        jae     next                        # unknown: nothing
        jmp     qword ptr [operations + rax*8]

do_cpuid:                                   # argument: leaf
        mov     eax, edi
        xor     ecx, ecx
        cpuid
        jmp     next
do_rdmsr:                                   # argument: number
        mov     ecx, edi
        rdmsr
        jmp     next
do_wrmsr:
        mov     ecx, edi
        xor     eax, eax
        xor     edx, edx
        wrmsr
        jmp     next
do_in:                                      # argument: port
        mov     edx, edi
        in      al, dx
        jmp     next
do_out:
        mov     edx, edi
        mov     al, '.'
        out     dx, al
        jmp     next
do_hypercall:                               # argument: operation
        mov     rax, rdi
        HYPERCALL
        jmp     next
do_touch:                                   # argument: page of the working set
        shl     rdi, 12
        inc     qword ptr [rdi + L2_WORKING_SET]
        jmp     next
do_ctxsw:                                   # argument: space
        imul    rdi, r9
        add     rdi, r8
        mov     cr3, rdi
        mov     rdx, [L2_OWN + 4*8]
        TOUCH_SPACE
        jmp     next
do_compute:                                 # argument: rounds
        imul    rax, rdi
        add     rax, rdi
        dec     rdi
        jnz     do_compute
next:
        dec     r12
        jz      done
        dec     r15
        jnz     again
        jmp     rewind
done:
        mov     rax, [L2_OWN + 0*8]
        FINISH

        .section .rodata
        .balign 8
operations:
        .quad   do_cpuid, do_rdmsr, do_wrmsr, do_in, do_out
        .quad   do_hypercall, do_touch, do_ctxsw, do_compute
