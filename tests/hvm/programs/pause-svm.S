# @title   L1 that intercepts PAUSE and lets L2 go on behind it
# @backend svm
# @param filter 16 0 0 4294967295 bits : pause filter, threshold in bits 15:0, count above

.intel_syntax noprefix
.include "l1.inc"
.include "svm.inc"
.include "svm-macros.inc"
.set LEAF_FLAGS, 7
.set INTERCEPT_PAUSE, 1 << 23
.set VMEXIT_PAUSE, 0x77

        .text
        .globl  _start
_start:
        SVM_ON
        call    build_permission_maps
        call    build_vmcb
        or      dword ptr [vmcb + VMCB_INTERCEPT_WORD3], INTERCEPT_PAUSE
        mov     eax, [L1_OWN + 0*8]
        mov     [vmcb + 0x3c], eax
resume:
        mov     eax, offset vmcb
        clgi
        vmload  rax
        vmrun   rax
        vmsave  rax
        stgi
        mov     eax, [vmcb + VMCB_EXIT_CODE]
        cmp     eax, VMEXIT_PAUSE
        jne     not_pause
        mov     rax, [vmcb + VMCB_NEXT_RIP]
        mov     [vmcb + VMCB_RIP], rax
        jmp     resume
not_pause:
.include "svm-map-or-stop.inc"
