# @title   Smallest complete L1 hypervisor for Intel VMX
# @backend vmx
# @param unmap_period 16 0 0 1000000000 exits : take pages of L2 away after so many L2 exits (0: never)
# @param unmap_pages  17 1 1 64 pages : how many pages each time, those mapped last
#
# It runs one L2 with EPT and handles what L2 causes: CPUID, MSRs, I/O, hypercalls, EPT violations,
# HLT, triple fault.  Read it from after_l2: down; that code runs once per L2 exit.
#
# On a VM exit the processor saves L2's RIP, RSP, RFLAGS, segments and control registers in the VMCS
# and loads L1's from there.  All other registers, RAX too, still hold L2's values: whatever L1
# changes it must put back before VMRESUME.
#
# The SYSCALL MSRs and KERNEL_GS_BASE are not in the VMCS.  L2 may use them (see the MSR bitmap);
# L1 does not, so it need not switch them.

.intel_syntax noprefix
.include "l1.inc"
.include "vmx.inc"
.include "virtual-cpu.inc"
.set LEAF_FLAGS, 0x37                       # EPT leaf: read, write, execute; write-back memory
.ifndef TWIN                                # twin-vmx.S is this program with several nested roots
.set INVEPT_KIND, INVEPT_SINGLE_CONTEXT
.endif

# Copy a VMCS field to a register; \scratch is changed.
.macro READ_FIELD to, field, scratch=rax
        mov     \scratch, \field
        vmread  \to, \scratch
.endm

# Set a VMCS field from a register other than RAX.
.macro WRITE_FIELD field, from
        mov     eax, \field
        vmwrite rax, \from
.endm

# Set a field of controls: the wanted ones, plus what capability MSR \msr demands, less what it
# forbids.  Ends the run when one of \needed is not to be had.
.macro CONTROLS field, msr, wanted, needed
        mov     ecx, \msr
        rdmsr                               # EAX: bits that must be 1; EDX: bits that may be 1
        mov     ebx, \wanted
        call    adjust_controls
        mov     edx, \needed
        call    need_controls
        WRITE_FIELD \field, rbx
.endm

# Back to L2, whose registers are all in place.
.macro RESUME_L2
.ifdef TWIN
        dec     qword ptr [switch_left]
        jnz     8f
        call    switch_root
8:
.endif
        vmresume
.endm

        .text
        .globl  _start
_start:
        # ---- firmware's switch: VMXON must be allowed, and the MSR locked
        mov     ecx, MSR_FEATURE_CONTROL
        rdmsr
        test    al, FEATURE_CONTROL_LOCK
        jnz     feature_locked
        or      eax, FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX
        wrmsr
feature_locked:
        mov     ebx, MSR_FEATURE_CONTROL    # RBX names what is missing
        test    al, FEATURE_CONTROL_VMX
        jz      unusable

        # ---- control registers as VMX wants them: bits fixed to 1, bits fixed to 0
        mov     rbx, cr0
        mov     r8d, MSR_VMX_CR0_FIXED0
        call    fix_control_register
        mov     cr0, rbx
        mov     rbx, cr4
        or      rbx, CR4_VMXE
        mov     r8d, MSR_VMX_CR4_FIXED0
        call    fix_control_register
        mov     cr4, rbx

        # ---- both regions start with the revision that the processor states
        mov     ecx, MSR_VMX_BASIC
        rdmsr
        mov     ebx, MSR_VMX_BASIC
        test    edx, VMX_BASIC_TRUE_CONTROLS
        jz      unusable
        and     eax, 0x7fffffff
        mov     [vmxon_region], eax
        mov     [vmcs], eax
        vmxon   qword ptr [vmxon_address]
        jbe     failed                      # CF or ZF: the instruction failed
        vmclear qword ptr [vmcs_address]
        jbe     failed
        vmptrld qword ptr [vmcs_address]
        jbe     failed

        call    build_permission_maps
        call    write_controls
        call    write_host_state
        call    write_guest_state

        # ---- count exits only if pages are to be taken away; a countdown from 0 never ends
        mov     rax, [L1_OWN + 0*8]
        test    rax, rax
        jz      period_set
        mov     rcx, [L1_OWN + 1*8]         # L2 must get more exits than it loses pages,
        inc     rcx                         # or it would never move on
.ifdef TWIN
        imul    rcx, [L1_ROOTS]
.endif
        cmp     rax, rcx
        cmovb   rax, rcx
period_set:
        mov     [unmap_period], rax
        mov     [exits_left], rax

        vmlaunch
        jmp     failed                      # only reached when the processor refused

# ============================================================== the loop: once per L2 exit
after_l2:                                   # HOST_RIP: L2 has exited
        mov     [l2_rax], rax
        mov     [l2_rcx], rcx
        dec     qword ptr [exits_left]
        jz      take_pages_away
dispatch:
        mov     eax, VM_EXIT_REASON
        vmread  rcx, rax
        cmp     ecx, EXIT_CPUID
        jne     not_cpuid

handle_cpuid:                               # RAX, RBX, RCX, RDX all get new values
        mov     eax, GUEST_RIP              # go on behind the CPUID
        vmread  rbx, rax
        mov     ecx, VM_EXIT_INSTRUCTION_LEN
        vmread  rdx, rcx
        add     rbx, rdx
        vmwrite rax, rbx
        mov     eax, [l2_rax]               # the leaf
        mov     ecx, CPUID_LEAVES
        cmp     eax, ecx
        cmova   eax, ecx                    # beyond the last: the leaf of zeros
        shl     eax, 4
        mov     ebx, [cpuid_leaves + rax + 4]
        mov     ecx, [cpuid_leaves + rax + 8]
        mov     edx, [cpuid_leaves + rax + 12]
        mov     eax, [cpuid_leaves + rax]
        RESUME_L2
        jmp     failed
handle_cpuid_end:

# ============================================================== the other exits
not_cpuid:
        push    rdx
        push    rbx
        cmp     ecx, EXIT_MSR_READ
        je      handle_msr_read
        cmp     ecx, EXIT_MSR_WRITE
        je      handle_msr_write
        cmp     ecx, EXIT_IO_INSTRUCTION
        je      handle_io
        cmp     ecx, EXIT_VMCALL
        je      handle_hypercall
        cmp     ecx, EXIT_EPT_VIOLATION
        je      handle_ept_violation
        cmp     ecx, EXIT_HLT
        je      handle_hlt
        cmp     ecx, EXIT_TRIPLE_FAULT
        je      handle_shutdown
unknown_exit:
        READ_FIELD rbx, VM_EXIT_REASON
        mov     al, RESULT_UNKNOWN
        jmp     finish

advance:                                    # go on behind the instruction that exited
        mov     eax, GUEST_RIP
        vmread  rbx, rax
        mov     ecx, VM_EXIT_INSTRUCTION_LEN
        vmread  rdx, rcx
        add     rbx, rdx
        vmwrite rax, rbx
resume:
        pop     rbx
        pop     rdx
        mov     rcx, [l2_rcx]
        mov     rax, [l2_rax]
        RESUME_L2
        jmp     failed

# EBX = the virtual MSR numbered by L2's ECX, or 0.
find_msr:
        mov     ecx, [l2_rcx]
        mov     ebx, offset virtual_msrs
find_next_msr:
        cmp     ecx, [rbx]
        je      found_msr
        add     ebx, 16
        cmp     ebx, offset virtual_msrs_end
        jb      find_next_msr
        xor     ebx, ebx
found_msr:
        ret

# RDMSR: the value goes to EDX:EAX.
handle_msr_read:
        call    find_msr
        xor     eax, eax
        xor     edx, edx
        test    ebx, ebx
        jz      msr_value                   # unknown: zero
        mov     eax, [rbx + 8]
        mov     edx, [rbx + 12]
msr_value:
        mov     [l2_rax], rax
        mov     [rsp + 8], rdx              # L2's RDX, pushed above
        jmp     advance

# WRMSR: the value is in EDX:EAX.
handle_msr_write:
        call    find_msr
        test    ebx, ebx
        jz      advance                     # unknown: ignored
        mov     eax, [l2_rax]
        mov     [rbx + 8], eax
        mov     [rbx + 12], edx
        jmp     advance

# IN reads all ones.  OUT to the serial port goes on to L1's own serial port, others are ignored.
handle_io:
        READ_FIELD rcx, EXIT_QUALIFICATION
        test    cl, IO_STRING
        jnz     unknown_exit
        test    cl, IO_IN
        jnz     io_in
        shr     ecx, IO_PORT_SHIFT
        cmp     ecx, PORT_SERIAL
        jne     advance
        mov     al, [l2_rax]
        mov     edx, PORT_SERIAL
        out     dx, al
        jmp     advance
io_in:
        and     ecx, IO_SIZE_MASK
        cmp     ecx, 1
        je      io_in_word
        ja      io_in_double
        mov     byte ptr [l2_rax], -1
        jmp     advance
io_in_word:
        mov     word ptr [l2_rax], -1
        jmp     advance
io_in_double:
        mov     eax, -1                     # 32 bits: the upper half becomes zero
        mov     [l2_rax], rax
        jmp     advance

# Hypercall: RAX = 0 does nothing and returns 0; 1 prints the character in BL; others return -1.
handle_hypercall:
        mov     rax, [l2_rax]
        cmp     rax, 1
        ja      bad_hypercall
        jb      hypercall_done
        mov     eax, ebx
        mov     edx, PORT_SERIAL
        out     dx, al
hypercall_done:
        mov     qword ptr [l2_rax], 0
        jmp     advance
bad_hypercall:
        mov     qword ptr [l2_rax], -1
        jmp     advance

# EPT violation: L1's table does not map this n2p yet.  L2 then repeats the instruction, so RIP
# stays.
handle_ept_violation:
        READ_FIELD rbx, GUEST_PHYSICAL_ADDRESS
        cmp     rbx, [L1_L2_BYTES]
        jae     unknown_exit                # no memory there
        push    rsi
        push    rdi
        mov     rdi, rbx
        call    map_page
        pop     rdi
        pop     rsi
        jmp     resume

handle_hlt:
        mov     rbx, [l2_rax]
        mov     al, RESULT_FINISHED
        jmp     finish
handle_shutdown:
        mov     al, RESULT_SHUTDOWN
        jmp     finish
failed:                                     # a VMX instruction was refused; RBX = the error number
        READ_FIELD rbx, VM_INSTRUCTION_ERROR
unusable:
        mov     al, RESULT_UNUSABLE
finish:
        out     PORT_EXIT, al
        hlt
        jmp     finish

# ============================================================== taking pages away again
# As a hypervisor does that swaps or balloons: drop the page from the table, then see to it that no
# translation of it survives.
take_pages_away:
        mov     rax, [unmap_period]
        mov     [exits_left], rax
        push    rbx
        push    rsi
        mov     ebx, [L1_OWN + 1*8]
take_next:
        call    unmap_last
        cmp     rax, -1
        je      take_done
        mov     eax, INVEPT_KIND
        invept  rax, [invept_descriptor]
        dec     ebx
        jnz     take_next
take_done:
        pop     rsi
        pop     rbx
        jmp     dispatch

# ============================================================== set-up, once
# RBX = RBX with the bits that MSR R8D fixes to 1 set, and those that MSR R8D + 1 fixes to 0 cleared.
fix_control_register:
        mov     ecx, r8d
        rdmsr
        shl     rdx, 32
        or      rax, rdx
        or      rbx, rax
        lea     ecx, [r8 + 1]
        rdmsr
        shl     rdx, 32
        or      rax, rdx
        and     rbx, rax
        ret

# EBX = (wanted | must be one) & may be one.
adjust_controls:
        or      ebx, eax
        and     ebx, edx
        ret

# End the run unless EBX has all bits of EDX; ECX = the MSR that refused.
need_controls:
        mov     eax, ebx
        and     eax, edx
        cmp     eax, edx
        jne     control_missing
        ret
control_missing:
        mov     ebx, ecx
        jmp     unusable

# Permission maps: a set bit makes L2 exit.  Everything exits but what is cleared here.
build_permission_maps:
        mov     rdi, offset msr_bitmap
        mov     rax, -1
        mov     ecx, 3 * 4096 / 8
        rep     stosq
        # MSR bitmap: reads of 0..0x1fff, reads of 0xc0000000..0xc0001fff, then writes of both
        mov     byte ptr [msr_bitmap + 0x000 + 0x174/8], 0x8f   # SYSENTER_CS, _ESP, _EIP
        mov     byte ptr [msr_bitmap + 0x800 + 0x174/8], 0x8f
        mov     byte ptr [msr_bitmap + 0x400 + 0x80/8], 0xe1    # STAR, LSTAR, CSTAR, SFMASK
        mov     byte ptr [msr_bitmap + 0xc00 + 0x80/8], 0xe1
        mov     byte ptr [msr_bitmap + 0x400 + 0x100/8], 0xf8   # FS_BASE, GS_BASE, KERNEL_GS_BASE
        mov     byte ptr [msr_bitmap + 0xc00 + 0x100/8], 0xf8
        # I/O ports: one bit each; as Xen, L1 lets these two through
        mov     byte ptr [io_bitmap_a + 0x80/8], 0xfe           # 0x80, POST code
        mov     byte ptr [io_bitmap_a + 0xed/8], 0xdf           # 0xed, delay
        ret

# What makes L2 exit, and what entry and exit switch.
write_controls:
        CONTROLS PIN_BASED_VM_EXEC_CONTROL, MSR_VMX_TRUE_PINBASED, 0, 0
        CONTROLS CPU_BASED_VM_EXEC_CONTROL, MSR_VMX_TRUE_PROCBASED, CPU_HLT_EXITING | CPU_USE_IO_BITMAPS | CPU_USE_MSR_BITMAPS | CPU_SECONDARY_CONTROLS, CPU_HLT_EXITING | CPU_USE_IO_BITMAPS | CPU_USE_MSR_BITMAPS | CPU_SECONDARY_CONTROLS
        CONTROLS VM_EXIT_CONTROLS, MSR_VMX_TRUE_EXIT, EXIT_CTL_HOST_64 | EXIT_CTL_SAVE_EFER | EXIT_CTL_LOAD_EFER, EXIT_CTL_HOST_64
        CONTROLS VM_ENTRY_CONTROLS, MSR_VMX_TRUE_ENTRY, ENTRY_CTL_IA32E_MODE | ENTRY_CTL_LOAD_EFER, ENTRY_CTL_IA32E_MODE
        # secondary controls: EPT always, VPID if the scenario wants it
        mov     ecx, MSR_VMX_PROCBASED_CTLS2
        rdmsr
        mov     ebx, CPU2_ENABLE_EPT
        cmp     qword ptr [L1_USE_VPID], 0
        je      no_vpid
        or      ebx, CPU2_ENABLE_VPID
no_vpid:
        call    adjust_controls
        mov     edx, CPU2_ENABLE_EPT
        call    need_controls
        WRITE_FIELD SECONDARY_VM_EXEC_CONTROL, rbx
        test    ebx, CPU2_ENABLE_VPID
        jz      no_vpid_number
        mov     ebx, 1
        WRITE_FIELD VIRTUAL_PROCESSOR_ID, rbx
no_vpid_number:
        # accessed and dirty bits in L1's table, where EPT has them
        mov     ecx, MSR_VMX_EPT_VPID_CAP
        rdmsr
        test    eax, EPT_CAP_ACCESSED_DIRTY
        jz      no_accessed_dirty
        or      qword ptr [eptp], EPTP_ACCESSED_DIRTY
no_accessed_dirty:
        mov     rbx, [eptp]
        WRITE_FIELD EPT_POINTER, rbx
        # L2 never sees or changes CR4.VMXE, which VMX needs set, nor CR0.NE
        mov     ebx, CR0_NE
        WRITE_FIELD CR0_GUEST_HOST_MASK, rbx
        WRITE_FIELD CR0_READ_SHADOW, rbx
        mov     ebx, CR4_VMXE
        WRITE_FIELD CR4_GUEST_HOST_MASK, rbx
        mov     esi, offset control_fields
        mov     edi, offset control_fields_end
        jmp     write_table

# What the processor loads on every exit: L1 as it is now, continuing at after_l2.
write_host_state:
        mov     rbx, cr0
        WRITE_FIELD HOST_CR0, rbx
        mov     rbx, cr3
        WRITE_FIELD HOST_CR3, rbx
        mov     rbx, cr4
        WRITE_FIELD HOST_CR4, rbx
        mov     ecx, MSR_EFER
        rdmsr
        shl     rdx, 32
        lea     rbx, [rax + rdx]
        WRITE_FIELD HOST_IA32_EFER, rbx
        lea     rbx, [rsp + 8]              # without this call's return address
        WRITE_FIELD HOST_RSP, rbx
        mov     esi, offset host_fields
        mov     edi, offset host_fields_end
        jmp     write_table

# L2 starts as L1 did: 64-bit mode, flat segments, its own page tables.
write_guest_state:
        mov     ebx, CR0_GUEST
        mov     r8d, MSR_VMX_CR0_FIXED0
        call    fix_control_register
        WRITE_FIELD GUEST_CR0, rbx
        mov     ebx, CR4_GUEST
        mov     r8d, MSR_VMX_CR4_FIXED0
        call    fix_control_register
        WRITE_FIELD GUEST_CR4, rbx
        mov     rbx, [L1_L2_CR3]
        WRITE_FIELD GUEST_CR3, rbx
        mov     rbx, [L1_L2_RSP]
        WRITE_FIELD GUEST_RSP, rbx
        mov     rbx, [L1_L2_ENTRY]
        WRITE_FIELD GUEST_RIP, rbx
        mov     esi, offset guest_fields
        mov     edi, offset guest_fields_end
# write_table: VMWRITE the pairs (field, value) from RSI up to RDI.
write_table:
        mov     rax, [rsi]
        mov     rbx, [rsi + 8]
        vmwrite rax, rbx
        jbe     failed
        add     rsi, 16
        cmp     rsi, rdi
        jb      write_table
        ret

        .section .rodata
        .balign 16
control_fields:
        .quad   IO_BITMAP_A, io_bitmap_a
        .quad   IO_BITMAP_B, io_bitmap_b
        .quad   MSR_BITMAP, msr_bitmap
        .quad   VMCS_LINK_POINTER, -1
        .quad   CR4_READ_SHADOW, 0
        .quad   EXCEPTION_BITMAP, 0
        .quad   PAGE_FAULT_ERROR_CODE_MASK, 0
        .quad   PAGE_FAULT_ERROR_CODE_MATCH, 0
        .quad   CR3_TARGET_COUNT, 0
        .quad   VM_EXIT_MSR_STORE_COUNT, 0
        .quad   VM_EXIT_MSR_LOAD_COUNT, 0
        .quad   VM_ENTRY_MSR_LOAD_COUNT, 0
        .quad   VM_ENTRY_INTR_INFO_FIELD, 0
control_fields_end:
host_fields:
        .quad   HOST_RIP, after_l2
        .quad   HOST_CS_SELECTOR, SEL_CODE
        .quad   HOST_SS_SELECTOR, SEL_DATA
        .quad   HOST_DS_SELECTOR, SEL_DATA
        .quad   HOST_ES_SELECTOR, SEL_DATA
        .quad   HOST_FS_SELECTOR, SEL_DATA
        .quad   HOST_GS_SELECTOR, SEL_DATA
        .quad   HOST_TR_SELECTOR, SEL_TSS
        .quad   HOST_FS_BASE, 0
        .quad   HOST_GS_BASE, 0
        .quad   HOST_TR_BASE, TSS
        .quad   HOST_GDTR_BASE, GDT
        .quad   HOST_IDTR_BASE, 0
        .quad   HOST_IA32_SYSENTER_CS, 0
        .quad   HOST_IA32_SYSENTER_ESP, 0
        .quad   HOST_IA32_SYSENTER_EIP, 0
host_fields_end:
guest_fields:
        .quad   GUEST_CS_SELECTOR, SEL_CODE
        .quad   GUEST_CS_BASE, 0
        .quad   GUEST_CS_LIMIT, 0xffffffff
        .quad   GUEST_CS_AR_BYTES, 0xa09b   # 64-bit code, CPL 0
        .quad   GUEST_SS_SELECTOR, SEL_DATA
        .quad   GUEST_SS_BASE, 0
        .quad   GUEST_SS_LIMIT, 0xffffffff
        .quad   GUEST_SS_AR_BYTES, 0xc093
        .quad   GUEST_DS_SELECTOR, SEL_DATA
        .quad   GUEST_DS_BASE, 0
        .quad   GUEST_DS_LIMIT, 0xffffffff
        .quad   GUEST_DS_AR_BYTES, 0xc093
        .quad   GUEST_ES_SELECTOR, SEL_DATA
        .quad   GUEST_ES_BASE, 0
        .quad   GUEST_ES_LIMIT, 0xffffffff
        .quad   GUEST_ES_AR_BYTES, 0xc093
        .quad   GUEST_FS_SELECTOR, SEL_DATA
        .quad   GUEST_FS_BASE, 0
        .quad   GUEST_FS_LIMIT, 0xffffffff
        .quad   GUEST_FS_AR_BYTES, 0xc093
        .quad   GUEST_GS_SELECTOR, SEL_DATA
        .quad   GUEST_GS_BASE, 0
        .quad   GUEST_GS_LIMIT, 0xffffffff
        .quad   GUEST_GS_AR_BYTES, 0xc093
        .quad   GUEST_LDTR_SELECTOR, 0
        .quad   GUEST_LDTR_BASE, 0
        .quad   GUEST_LDTR_LIMIT, 0
        .quad   GUEST_LDTR_AR_BYTES, AR_UNUSABLE
        .quad   GUEST_TR_SELECTOR, SEL_TSS
        .quad   GUEST_TR_BASE, TSS
        .quad   GUEST_TR_LIMIT, TSS_LIMIT
        .quad   GUEST_TR_AR_BYTES, 0x8b     # busy 64-bit TSS
        .quad   GUEST_GDTR_BASE, GDT
        .quad   GUEST_GDTR_LIMIT, GDT_LIMIT
        .quad   GUEST_IDTR_BASE, 0
        .quad   GUEST_IDTR_LIMIT, 0
        .quad   GUEST_IA32_EFER, EFER_LME_LMA_NXE_SCE
        .quad   GUEST_IA32_DEBUGCTL, 0
        .quad   GUEST_DR7, DR7_RESET
        .quad   GUEST_RFLAGS, RFLAGS_RESET
        .quad   GUEST_PENDING_DBG_EXCEPTIONS, 0
        .quad   GUEST_INTERRUPTIBILITY_INFO, 0
        .quad   GUEST_ACTIVITY_STATE, 0
        .quad   GUEST_SYSENTER_CS, 0
        .quad   GUEST_SYSENTER_ESP, 0
        .quad   GUEST_SYSENTER_EIP, 0
guest_fields_end:

        .data
        .balign 64
exits_left:         .quad   0
unmap_period:       .quad   0
l2_rax:             .quad   0               # L2's registers while L1 works
l2_rcx:             .quad   0
vmxon_address:      .quad   vmxon_region
vmcs_address:       .quad   vmcs
        .balign 16
invept_descriptor:                          # EPTP, 0
eptp:               .quad   nested_root + EPTP_4_LEVELS_WRITE_BACK, 0

        .bss
        .balign 4096
vmxon_region:       .skip   0x1000
vmcs:               .skip   0x1000
msr_bitmap:         .skip   0x1000
io_bitmap_a:        .skip   0x1000          # directly behind: filled together
io_bitmap_b:        .skip   0x1000

.include "nested-map.inc"
