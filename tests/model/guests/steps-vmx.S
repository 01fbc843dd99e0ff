# @title   L1 of the state-machine tests (Intel VMX): a list of calls, written into memory by the test
# @backend vmx
# @paging  non son sos
#
# Every function takes its operands in RDI, RSI and RDX.  An exception ends the function: the handler
# goes back to the list.  Without EPT L2 has L1-physical addresses in its own tables.

.intel_syntax noprefix
.include "l1.inc"
.include "vmx.inc"
.include "vmx-macros.inc"
.set FRAME, 0x8f000

        .text
        .globl  _start
_start:
        VMX_ON
        lidt    [idt_pointer]
        call    build_permission_maps
        call    write_all
        mov     eax, [vmcs]
        mov     [vmcs_b], eax
        vmclear qword ptr [vmcs_b_address]
        vmptrld qword ptr [vmcs_b_address]
        call    write_all
        mov     rbx, [L1_L2_RSP]
        sub     rbx, 0x10000
        WRITE_FIELD GUEST_RSP, rbx
        vmptrld qword ptr [vmcs_address]
ready:
        cmp     byte ptr [go], 0            # the test sets it
        je      ready
        mov     rsp, FRAME
        jmp     script
write_all:
        call    write_controls
        call    write_host_state
        call    write_guest_state
        mov     ebx, offset idt
        WRITE_FIELD HOST_IDTR_BASE, rbx
        mov     ebx, FRAME - 16
        WRITE_FIELD HOST_RSP, rbx
        cmp     qword ptr [L1_SHADOW_PAGING], 0
        je      nested
        mov     rbx, [L1_L2_CR3]
        add     rbx, [L1_L2_MEMORY]
        WRITE_FIELD GUEST_CR3, rbx
nested:
        ret
fault:
        mov     rsp, FRAME - 8
        ret
nmi:
        inc     qword ptr [nmis]
        iretq

load:
        mov     rax, [rdi]
        ret
store64:
        mov     [rdi], rsi
        ret
reload_cr3:
        mov     rax, cr3
        mov     cr3, rax
        ret
do_invlpg:
        invlpg  [rdi]
        ret
write_field:
        vmwrite rdi, rsi
        ret
read_field:
        vmread  rax, rdi
        ret
# toggle_controls: change bits of the primary (RDI) and of the secondary controls (RSI).
toggle_controls:
        READ_FIELD rbx, CPU_BASED_VM_EXEC_CONTROL
        xor     rbx, rdi
        WRITE_FIELD CPU_BASED_VM_EXEC_CONTROL, rbx
        READ_FIELD rbx, SECONDARY_VM_EXEC_CONTROL
        xor     rbx, rsi
        WRITE_FIELD SECONDARY_VM_EXEC_CONTROL, rbx
        ret
do_vmclear:
        mov     [operand], rdi
at_vmclear:
        vmclear qword ptr [operand]
        ret
do_vmptrld:
        mov     [operand], rdi
at_vmptrld:
        vmptrld qword ptr [operand]
        ret
do_vmptrst:
        vmptrst qword ptr [operand]
        ret
do_invept:
        mov     [operand], rsi
        mov     qword ptr [operand + 8], 0
at_invept:
        invept  rdi, [operand]
        ret
do_invvpid:
        mov     [operand], rsi
        mov     [operand + 8], rdx
at_invvpid:
        invvpid rdi, [operand]
        ret
vmx_off_and_on:
at_vmxoff:
        vmxoff
        vmxon   qword ptr [vmxon_address]
        ret
hypercall:
        vmcall
        ret

# enter: run L2 with the current VMCS until it exits once; step over the instruction that exited.
enter:
        call    run_l2
        ret
# enter_mapped: the same, but pages that L1's table does not map are mapped one to one, a few times.
enter_mapped:
        mov     dword ptr [tries], 8
1:      call    run_l2
        cmp     ecx, EXIT_EPT_VIOLATION
        jne     2f
        READ_FIELD rdx, EPT_POINTER
        and     rdx, ~0xfff
        READ_FIELD rsi, GUEST_PHYSICAL_ADDRESS
        mov     rdi, rsi
        shr     rdi, 12
        cmp     rdi, 1024
        jae     2f
        and     rsi, ~0xfff
        add     rsi, [L1_L2_MEMORY]
        or      rsi, 0x37
        mov     [rdx + 0x3000 + rdi*8], rsi
        dec     dword ptr [tries]
        jnz     1b
2:      ret

# A VMCS that was not launched is launched.
run_l2:
        mov     rbx, [l2_registers + 0*8]
        mov     rcx, [l2_registers + 1*8]
        mov     rdx, [l2_registers + 2*8]
        mov     rsi, [l2_registers + 3*8]
        mov     rdi, [l2_registers + 4*8]
        mov     rax, [l2_registers + 5*8]
at_vmresume:
        vmresume
at_vmlaunch:
        vmlaunch
        mov     ecx, -1
        ret
after_l2:                                   # RSP = FRAME - 16, as run_l2 found it
        mov     [l2_registers + 0*8], rbx
        mov     [l2_registers + 1*8], rcx
        mov     [l2_registers + 2*8], rdx
        mov     [l2_registers + 3*8], rsi
        mov     [l2_registers + 4*8], rdi
        mov     [l2_registers + 5*8], rax
        READ_FIELD rcx, VM_EXIT_REASON
        cmp     ecx, 9                      # below: events; above 47: EPT, or a failed entry
        jb      1f
        cmp     ecx, 48
        jae     1f
        READ_FIELD rbx, GUEST_RIP
        READ_FIELD rdx, VM_EXIT_INSTRUCTION_LEN
        add     rbx, rdx
        WRITE_FIELD GUEST_RIP, rbx
1:      ret

        .data
        .balign 16
operand: .quad  0, 0
go:     .quad   0
nmis:   .quad   0
tries:  .quad   0
vmcs_b_address: .quad vmcs_b
l2_registers: .skip 6 * 8
idt_pointer: .word 0xfff
        .quad   idt

.set nested_root, 0x200000
.include "vmx-setup.inc"
        .text
failed:
unusable:
        mov     al, RESULT_UNUSABLE
finish:
        out     PORT_EXIT, al
        hlt
        jmp     finish
        .bss
        .balign 4096
vmcs_b: .skip   0x1000
vapic:  .skip   0x1000
idt:    .skip   0x1000
script: .skip   0x4000
