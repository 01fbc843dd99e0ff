# @title   Runs L2 until its first exit that is no page to map, and stops there
# @backend svm
# @param word0      16 0 0 4294967295 bits : intercept words; VMRUN is always intercepted
# @param word1      17 0 0 4294967295 bits : as above
# @param word2      18 0 0 4294967295 bits : as above
# @param word3      19 0 0 4294967295 bits : as above
# @param word4      20 0 0 4294967295 bits : as above
# @param word5      21 0 0 4294967295 bits : as above
# @param int_ctl    22 0 0 4294967295 bits : V_INTR
# @param event_inj  23 0 0 4294967295 bits : EVENTINJ
# @param entry      24 1048576 0 4294967295 address : where L2 starts
# @param filter     25 0 0 4294967295 bits : pause filter, threshold in bits 15:0, count above
#
# The VMCB is left as the exit left it.

.intel_syntax noprefix
.include "l1.inc"
.include "svm.inc"
.include "svm-macros.inc"
.set LEAF_FLAGS, 7

        .text
        .globl  _start
_start:
        SVM_ON
        call    build_permission_maps
        call    build_vmcb
        mov     eax, [L1_OWN + 0*8]
        mov     [vmcb + 0x00], eax
        mov     eax, [L1_OWN + 1*8]
        mov     [vmcb + 0x04], eax
        mov     eax, [L1_OWN + 2*8]
        mov     [vmcb + 0x08], eax
        mov     eax, [L1_OWN + 3*8]
        mov     [vmcb + 0x0c], eax
        mov     eax, [L1_OWN + 4*8]
        or      eax, INTERCEPT_VMRUN
        mov     [vmcb + 0x10], eax
        mov     eax, [L1_OWN + 5*8]
        mov     [vmcb + 0x14], eax
        mov     eax, [L1_OWN + 6*8]
        or      [vmcb + VMCB_INT_CTL], eax
        mov     eax, [L1_OWN + 7*8]
        mov     [vmcb + VMCB_EVENT_INJ], eax
        mov     rax, [L1_OWN + 8*8]
        mov     [vmcb + VMCB_RIP], rax
        mov     eax, [L1_OWN + 9*8]
        mov     [vmcb + 0x3c], eax
resume:
        mov     eax, offset vmcb
        clgi
        vmload  rax
        vmrun   rax
        vmsave  rax
        stgi
        mov     eax, [vmcb + VMCB_EXIT_CODE]
.include "svm-map-or-stop.inc"
