# @title   Rules of SVM: virtual NMIs and virtual GIF of L2
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.virtual

.set VMEXIT_NMI,        0x61
.set VMEXIT_CLGI,       0x85
.set V_IRQ,             1 << 8
.set V_GIF,             1 << 9
.set V_NMI,             1 << 11
.set V_NMI_MASK,        1 << 12
.set V_IGN_TPR,         1 << 20
.set V_GIF_ENABLE,      1 << 25
.set V_NMI_ENABLE,      1 << 26
.set VALID,             1 << 31
.set TYPE_NMI,          2 << 8
.set RFLAGS_IF,         1 << 9
.set VECTOR,            0x31
.set NMI,               2

.macro VIRTUAL_NMI bits
ONLY_WITH "virtual_nmi=on"
        INTERCEPT VMEXIT_NMI
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_NMI_ENABLE | \bits
.endm
.macro VIRTUAL_GIF bits
ONLY_WITH "virtual_gif=on"
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_GIF_ENABLE | \bits
.endm
.macro TAKEN_AT label
        HALTED
        CHECK   [exc_vector], NMI
        CHECK_AT [exc_rip], \label
.endm

# ------------------------------------------------------------------ virtual NMIs: APM vol. 2, 15.21.10

RULE v_nmi_is_taken, "A pending virtual NMI is taken through L2's IDT, whatever RFLAGS.IF is", "APM vol. 2, 15.21.10"
        VIRTUAL_NMI V_NMI
        RUN     l2_nops
        TAKEN_AT l2_nops
RULE taken_v_nmi_masks_itself, "A taken virtual NMI is no longer pending, and masks others", "APM vol. 2, 15.21.10"
        VIRTUAL_NMI V_NMI
        RUN     l2_nops
        HALTED
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_NMI | V_NMI_MASK, V_NMI_MASK
RULE masked_v_nmi_waits, "While V_NMI_MASK is set a virtual NMI stays pending", "APM vol. 2, 15.21.10"
        VIRTUAL_NMI V_NMI | V_NMI_MASK
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_NMI | V_NMI_MASK, V_NMI | V_NMI_MASK
RULE iret_unmasks_v_nmi, "IRET of L2 clears V_NMI_MASK", "APM vol. 2, 15.21.10"
        VIRTUAL_NMI V_NMI_MASK
        RUN     l2_iret
        HALTED
        CHECK   [exc_vector], NO_EXCEPTION
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_NMI_MASK, 0
RULE v_nmi_is_taken_behind_iret, "A virtual NMI that waits is taken behind L2's IRET", "APM vol. 2, 15.21.10"
        VIRTUAL_NMI V_NMI | V_NMI_MASK
        RUN     l2_iret
        TAKEN_AT l2_behind_iret
RULE v_nmi_waits_for_the_shadow, "An interrupt shadow holds a virtual NMI for one instruction", "APM vol. 2, 15.21.5"
        VIRTUAL_NMI V_NMI
        mov     dword ptr [vmcb + VMCB_INT_STATE], 1
        RUN     l2_nops
        TAKEN_AT l2_second
RULE injected_nmi_masks, "An NMI by EVENTINJ masks virtual NMIs", "APM vol. 2, 15.21.10"
        VIRTUAL_NMI 0
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], VALID | TYPE_NMI | NMI
        RUN     l2_nops
        TAKEN_AT l2_nops
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_NMI_MASK, V_NMI_MASK
RULE v_nmi_needs_its_enable_bit, "Without V_NMI_ENABLE a pending virtual NMI is not taken", "APM vol. 2, 15.21.10"
ONLY_WITH "virtual_nmi=on"
        INTERCEPT VMEXIT_NMI
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_NMI
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
RULE v_nmi_needs_the_intercept, "VMRUN with virtual NMIs and without the NMI intercept is VMEXIT_INVALID", "APM vol. 2, 15.21.10"
ONLY_WITH "virtual_nmi=on"
DEVIATION "vmrun_checks_incomplete=on"
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_NMI_ENABLE
        REFUSED

# ------------------------------------------------------------------ virtual GIF: APM vol. 2, 15.33.2

RULE clgi_clears_v_gif, "CLGI of L2 clears V_GIF without an exit", "APM vol. 2, 15.33.2"
        VIRTUAL_GIF V_GIF
        L2      clgi
        EXECUTED
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_GIF, 0
RULE stgi_sets_v_gif, "STGI of L2 sets V_GIF without an exit", "APM vol. 2, 15.33.2"
        VIRTUAL_GIF 0
        L2      stgi
        EXECUTED
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_GIF, V_GIF
RULE intercepted_clgi_exits, "With virtual GIF an intercepted CLGI exits all the same", "APM vol. 2, 15.33.2"
        VIRTUAL_GIF V_GIF
        INTERCEPT VMEXIT_CLGI
        L2      clgi
        EXITED  VMEXIT_CLGI
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_GIF, V_GIF
RULE v_gif_clear_holds_v_irq, "While V_GIF is 0 a virtual interrupt waits", "APM vol. 2, 15.33.2"
        VIRTUAL_GIF (V_IRQ | V_IGN_TPR)
        mov     byte ptr [vmcb + VMCB_INT_VECTOR], VECTOR
        or      dword ptr [vmcb + VMCB_RFLAGS], RFLAGS_IF
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
        CHECK_BITS [vmcb + VMCB_INT_CTL], V_IRQ, V_IRQ
RULE v_irq_is_taken_behind_stgi, "A virtual interrupt that waits is taken behind L2's STGI", "APM vol. 2, 15.33.2"
        VIRTUAL_GIF (V_IRQ | V_IGN_TPR)
        mov     byte ptr [vmcb + VMCB_INT_VECTOR], VECTOR
        or      dword ptr [vmcb + VMCB_RFLAGS], RFLAGS_IF
        RUN     l2_stgi
        HALTED
        CHECK   [exc_vector], VECTOR
        CHECK_AT [exc_rip], l2_behind_stgi
RULE v_gif_clear_holds_v_nmi, "While V_GIF is 0 a virtual NMI waits", "APM vol. 2, 15.33.2"
ONLY_WITH "virtual_gif=on"
        VIRTUAL_NMI (V_NMI | V_GIF_ENABLE)
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION
RULE gif_of_l1_is_apart, "CLGI of L2 leaves L1's GIF alone", "APM vol. 2, 15.33.2"
        VIRTUAL_GIF V_GIF
        L2      clgi
        EXECUTED
        or      dword ptr [vmcb + VMCB_RFLAGS], RFLAGS_IF
        mov     dword ptr [vmcb + VMCB_INT_CTL], V_IRQ | V_IGN_TPR
        mov     byte ptr [vmcb + VMCB_INT_VECTOR], VECTOR
        RUN     l2_nops
        HALTED
        CHECK   [exc_vector], VECTOR
RULES_END

l2_nops:
        nop
l2_second:
        nop
        hlt
l2_stgi:
        nop
        stgi
l2_behind_stgi:
        nop
        hlt
l2_iret:
        mov     eax, ss
        mov     rcx, rsp
        push    rax
        push    rcx
        pushfq
        mov     eax, cs
        push    rax
        push    offset l2_behind_iret
        iretq
l2_behind_iret:
        nop
        hlt
