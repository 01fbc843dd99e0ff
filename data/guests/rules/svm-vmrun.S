# @title   Rules of SVM: who may execute VMRUN, and which VMCBs it refuses
# @backend svm
.intel_syntax noprefix
.include "svm_rules.inc"
# @param rule 16 0 0 1000 number : which rule of the file to check
RULES   svm.vmrun

# ------------------------------------------------------------------ the instruction itself

RULE vmrun_without_svme_is_ud, "VMRUN raises #UD while EFER.SVME is 0", "APM vol. 2, 15.4"
        call    clear_svme
        mov     eax, offset vmcb
        CATCH   vmrun rax
        CHECK   [exc_vector], EXC_UD

RULE vmrun_at_cpl3_is_gp, "VMRUN raises #GP(0) at level 3", "APM vol. 3, VMRUN"
        mov     eax, offset vmcb
        CATCH_USER vmrun rax
        CHECK   [exc_vector], EXC_GP
        CHECK   [exc_error], 0

RULE vmrun_unaligned_is_gp, "VMRUN of an address that is not page-aligned raises #GP", "APM vol. 3, VMRUN"
        mov     eax, offset vmcb + 8
        CATCH   vmrun rax
        CHECK   [exc_vector], EXC_GP

RULE vmrun_beyond_physical_addresses_is_gp, "VMRUN of an address beyond the physical ones raises #GP", "APM vol. 3, VMRUN"
        mov     rax, 1 << 52
        CATCH   vmrun rax
        CHECK   [exc_vector], EXC_GP

RULE vmrun_without_memory_is_gp, "VMRUN of an address without memory raises #GP, as Xen cannot map it", "nested L0"
        mov     eax, 0x3ff00000
        CATCH   vmrun rax
        CHECK   [exc_vector], EXC_GP

RULE clgi_without_svme_is_ud, "CLGI raises #UD while EFER.SVME is 0", "APM vol. 3, CLGI"
        call    clear_svme
        CATCH   clgi
        CHECK   [exc_vector], EXC_UD

RULE stgi_without_svme_is_ud, "STGI raises #UD while EFER.SVME is 0", "APM vol. 3, STGI"
DEVIATION "stgi_without_svme=on"
        call    clear_svme
        CATCH   stgi
        CHECK   [exc_vector], EXC_UD

RULE vmload_without_svme_is_ud, "VMLOAD raises #UD while EFER.SVME is 0", "APM vol. 3, VMLOAD"
        call    clear_svme
        mov     eax, offset page
        CATCH   vmload rax
        CHECK   [exc_vector], EXC_UD

RULE vmsave_without_svme_is_ud, "VMSAVE raises #UD while EFER.SVME is 0", "APM vol. 3, VMSAVE"
        call    clear_svme
        mov     eax, offset page
        CATCH   vmsave rax
        CHECK   [exc_vector], EXC_UD

RULE invlpga_without_svme_is_ud, "INVLPGA raises #UD while EFER.SVME is 0", "APM vol. 3, INVLPGA"
        call    clear_svme
        xor     eax, eax
        mov     ecx, 1
        CATCH   invlpga rax, ecx
        CHECK   [exc_vector], EXC_UD

RULE clgi_at_cpl3_is_gp, "CLGI raises #GP(0) at level 3", "APM vol. 3, CLGI"
        CATCH_USER clgi
        CHECK   [exc_vector], EXC_GP

RULE stgi_at_cpl3_is_gp, "STGI raises #GP(0) at level 3", "APM vol. 3, STGI"
        CATCH_USER stgi
        CHECK   [exc_vector], EXC_GP

RULE vmload_at_cpl3_is_gp, "VMLOAD raises #GP(0) at level 3", "APM vol. 3, VMLOAD"
        mov     eax, offset page
        CATCH_USER vmload rax
        CHECK   [exc_vector], EXC_GP

RULE vmsave_at_cpl3_is_gp, "VMSAVE raises #GP(0) at level 3", "APM vol. 3, VMSAVE"
        mov     eax, offset page
        CATCH_USER vmsave rax
        CHECK   [exc_vector], EXC_GP

RULE invlpga_at_cpl3_is_gp, "INVLPGA raises #GP(0) at level 3", "APM vol. 3, INVLPGA"
        xor     eax, eax
        CATCH_USER invlpga rax, ecx
        CHECK   [exc_vector], EXC_GP

RULE vmx_instructions_are_ud, "The instructions of VMX raise #UD on this processor", "APM vol. 3, appendix D"
        CATCH   vmcall
        CHECK   [exc_vector], EXC_UD
        CATCH   vmxoff
        CHECK   [exc_vector], EXC_UD
        CATCH   vmlaunch
        CHECK   [exc_vector], EXC_UD
        CATCH   vmread rax, rcx
        CHECK   [exc_vector], EXC_UD

RULE skinit_without_support_is_ud, "SKINIT raises #UD where CPUID does not announce it", "APM vol. 3, SKINIT (CPUID 8000_0001 ECX.SKINIT = 0)"
        CATCH   skinit
        CHECK   [exc_vector], EXC_UD

# ------------------------------------------------------------------ consistency checks

RULE fresh_vmcb_runs, "The VMCB that every rule starts from passes all checks", "APM vol. 2, 15.5"
        L2      mov qword ptr [scratch], 1
        EXECUTED
        CHECK   [scratch], 1

RULE efer_svme_clear_is_invalid, "A VMCB whose EFER.SVME is 0 is refused", "APM vol. 2, 15.5.1"
        and     dword ptr [vmcb + VMCB_EFER], ~EFER_SVME
        REFUSED

RULE cr0_nw_without_cd_is_invalid, "CR0 with NW and without CD is refused", "APM vol. 2, 15.5.1"
        or      dword ptr [vmcb + VMCB_CR0], 1 << 29
        REFUSED

RULE cr0_nw_with_cd_is_valid, "CR0 with NW and CD is allowed", "APM vol. 2, 15.5.1"
        or      dword ptr [vmcb + VMCB_CR0], 3 << 29
        L2      nop
        EXECUTED

RULE cr0_upper_half_is_invalid, "CR0 with a bit among 63:32 is refused", "APM vol. 2, 15.5.1"
        mov     dword ptr [vmcb + VMCB_CR0 + 4], 1
        REFUSED

RULE cr3_reserved_bits_are_invalid, "CR3 with a reserved bit is refused", "APM vol. 2, 15.5.1"
        or      dword ptr [vmcb + VMCB_CR3 + 4], 1 << 31
        REFUSED

RULE cr4_reserved_bits_are_invalid, "CR4 with a reserved bit is refused", "APM vol. 2, 15.5.1"
        or      dword ptr [vmcb + VMCB_CR4], 1 << 31
        REFUSED

RULE cr4_upper_half_is_invalid, "CR4 with a bit among 63:32 is refused", "APM vol. 2, 15.5.1"
        mov     dword ptr [vmcb + VMCB_CR4 + 4], 1
        REFUSED

RULE dr6_upper_half_is_invalid, "DR6 with a bit among 63:32 is refused", "APM vol. 2, 15.5.1"
        mov     dword ptr [vmcb + VMCB_DR6 + 4], 1
        REFUSED

RULE dr7_upper_half_is_invalid, "DR7 with a bit among 63:32 is refused", "APM vol. 2, 15.5.1"
        mov     dword ptr [vmcb + VMCB_DR7 + 4], 1
        REFUSED

RULE efer_reserved_bits_are_invalid, "EFER with a bit among 63:32 is refused", "APM vol. 2, 15.5.1"
        mov     dword ptr [vmcb + VMCB_EFER + 4], 1
        REFUSED

RULE efer_low_reserved_bits_are_invalid, "EFER with one of the reserved bits 7:1 is refused", "APM vol. 2, 15.5.1 and 3.1.7"
        or      dword ptr [vmcb + VMCB_EFER], 2
        REFUSED

RULE long_mode_without_pae_is_invalid, "EFER.LME with paging and without CR4.PAE is refused", "APM vol. 2, 15.5.1"
        and     dword ptr [vmcb + VMCB_CR4], ~(1 << 5)
        REFUSED

RULE long_mode_without_pe_is_invalid, "EFER.LME with paging and without CR0.PE is refused", "APM vol. 2, 15.5.1"
        and     dword ptr [vmcb + VMCB_CR0], ~1
        REFUSED

RULE cs_l_and_d_is_invalid, "EFER.LME with paging, PAE, CS.L and CS.D is refused", "APM vol. 2, 15.5.1"
        or      word ptr [vmcb + VMCB_CS + SEGMENT_ATTRIBUTES], 0x400
        REFUSED

RULE vmrun_not_intercepted_is_invalid, "A VMCB that does not intercept VMRUN is refused", "APM vol. 2, 15.5.1"
        and     dword ptr [vmcb + VMCB_INTERCEPT_WORD4], ~INTERCEPT_VMRUN
        REFUSED

RULE asid_0_is_invalid, "ASID 0 is refused", "APM vol. 2, 15.5.1"
DEVIATION "vmrun_checks_incomplete=on"
        mov     dword ptr [vmcb + VMCB_ASID], 0
        REFUSED

RULE msrpm_beyond_physical_addresses_is_invalid, "An MSR map beyond the physical addresses is refused", "APM vol. 2, 15.5.1"
DEVIATION "vmrun_checks_incomplete=on"
        mov     dword ptr [vmcb + VMCB_MSRPM_BASE_PA + 4], 1 << 20
        REFUSED

RULE iopm_beyond_physical_addresses_is_invalid, "An I/O map beyond the physical addresses is refused", "APM vol. 2, 15.5.1"
DEVIATION "vmrun_checks_incomplete=on"
        mov     dword ptr [vmcb + VMCB_IOPM_BASE_PA + 4], 1 << 20
        REFUSED

RULE nested_cr3_reserved_bits_are_invalid, "nCR3 with a reserved bit is refused", "APM vol. 2, 15.25.3"
DEVIATION "vmrun_checks_incomplete=on"
        mov     dword ptr [vmcb + VMCB_NESTED_CR3 + 4], 1 << 31
        REFUSED

RULE eventinj_reserved_type_is_invalid, "EVENTINJ of a reserved type is refused", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], 1 << 31 | 1 << 8 | 0x20
        REFUSED
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], 1 << 31 | 5 << 8 | 0x20
        REFUSED
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], 1 << 31 | 7 << 8 | 0x20
        REFUSED

RULE eventinj_exception_2_is_invalid, "EVENTINJ of exception 2 is refused, as NMI has a type of its own", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], 1 << 31 | 3 << 8 | 2
        REFUSED

RULE eventinj_exception_above_31_is_invalid, "EVENTINJ of an exception above 31 is refused", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], 1 << 31 | 3 << 8 | 32
        REFUSED

RULE eventinj_without_valid_bit_is_ignored, "EVENTINJ without its valid bit does not matter", "APM vol. 2, 15.20"
        mov     dword ptr [vmcb + VMCB_EVENT_INJ], 7 << 8 | 0x20
        L2      nop
        EXECUTED
        CHECK   [exc_vector], NO_EXCEPTION

RULE invalid_exit_code_has_64_bits, "The exit code of a refused VMRUN is -1 in all 64 bits", "APM vol. 2, appendix C"
DEVIATION "vmrun_checks_incomplete=on"
        mov     dword ptr [vmcb + VMCB_ASID], 0
        REFUSED
        CHECK32 [vmcb + VMCB_EXIT_CODE + 4], -1

RULE l1_goes_on_behind_a_refused_vmrun, "L1 goes on behind a refused VMRUN with its registers", "APM vol. 2, 15.5.1"
        mov     dword ptr [vmcb + VMCB_ASID], 0
        mov     rbx, 0x1234567890
        mov     rbp, rsp
        call    run_on
        CHECK   rbx, 0x1234567890
        CHECK   rsp, rbp

RULE a_corrected_vmcb_runs, "A VMCB that was refused runs when it is corrected", "APM vol. 2, 15.5.1"
DEVIATION "vmrun_checks_incomplete=on"
        mov     dword ptr [vmcb + VMCB_ASID], 0
        REFUSED
        mov     dword ptr [vmcb + VMCB_ASID], 1
        L2      nop
        EXECUTED
RULES_END

clear_svme:
        mov     ecx, MSR_EFER
        mov     eax, EFER_LME_LMA_NXE_SCE
        xor     edx, edx
        wrmsr
        ret
