"""Numbers of the micro-ops, in families of up to 16 (``op >> 4`` is the family).

The first five families are executed inline by the run loop and come in fixed operand sizes (but
CMPM and TESTM, which compare memory of any size with ``src + imm``); all others are generic: ``exec_<family>(m, u)`` looks at ``u.lg`` and ``u.flags``.

Operand conventions (fields of ``layout.UOP``)
----------------------------------------------
* ``lg``: operand size, log2 of bytes.  ``dst`` and ``src`` index the register overlay of that size
  (``gpr8``/``gpr16``/``gpr32``/``gpr``); ``REG_ZERO`` (scaled likewise) when absent.
* Memory operand: ``base``, ``index``, ``scale``, ``disp``, ``seg``, ``asize``; its address is
  ``operands.effective_address(m, u)``, valid inside a handler because the run loop keeps the
  address of the next instruction in ``gpr[REG_RIP]``.
* ``UF_DST_MEM`` / ``UF_SRC_MEM``: that operand is the memory operand. ``UF_SRC_IMM``: ``imm``.
* Fast ops take ``gpr[src] + imm`` as source, so one op serves registers and immediates.
* Direct branches: ``imm`` is the displacement from the next instruction.

Virtualization instructions (families VIRT_SVM, VIRT_VMX; ``lg`` is 3, registers 64-bit numbers)
------------------------------------------------------------------------------------------------
* VMRUN, VMLOAD, VMSAVE: address in RAX, ``asize`` = 1 when only EAX counts; INVLPGA: RAX and ECX.
* VMXON, VMCLEAR, VMPTRLD: ``UF_SRC_MEM``, a 64-bit pointer in memory; VMPTRST: ``UF_DST_MEM``.
* VMREAD: field encoding in register ``src``; destination is register ``dst`` or ``UF_DST_MEM``.
* VMWRITE: field encoding in register ``dst``; value is register ``src`` or ``UF_SRC_MEM``.
* INVEPT, INVVPID (and INVPCID): type in register ``dst``, descriptor is ``UF_SRC_MEM``.
"""

from __future__ import annotations

FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("FAST64", ("ADD64", "SUB64", "CMP64", "TEST64", "AND64", "OR64", "XOR64", "MOV64", "LOAD64",
                "STORE64", "LEA64", "INC64", "DEC64", "JMP", "NEXT", "CALL")),
    ("JCC", ("JO", "JNO", "JB", "JAE", "JE", "JNE", "JBE", "JA", "JS", "JNS", "JP", "JNP", "JL",
             "JGE", "JLE", "JG")),
    ("FAST32", ("ADD32", "SUB32", "CMP32", "TEST32", "AND32", "OR32", "XOR32", "MOV32", "LOAD32",
                "STORE32", "LEA32", "INC32", "DEC32", "LOAD8", "STORE8", "CMP8")),
    ("FASTMIX", ("PUSH64", "POP64", "RET", "SHL64", "SHR64", "SAR64", "ADD64M", "SUB64M", "CMP64M",
                 "AND64M", "OR64M", "XOR64M", "MOVZX8", "TEST8", "IMUL64", "NOP")),
    ("FASTMEM", ("ADD32M", "SUB32M", "CMP32M", "AND32M", "OR32M", "XOR32M", "CMPM", "TESTM")),
    ("ALU", ("ADD", "OR", "ADC", "SBB", "AND", "SUB", "XOR", "CMP", "TEST", "INC", "DEC", "NEG",
             "NOT", "XADD", "XCHG", "CMPXCHG")),
    ("MOVE", ("MOV", "MOVZX", "MOVSX", "LEA", "SETCC", "CMOVCC", "BSWAP", "CBW", "CWD",
              "MOV_FROM_OFFSET", "MOV_TO_OFFSET", "XLAT")),
    ("SHIFT", ("ROL", "ROR", "RCL", "RCR", "SHL", "SHR", "SAL", "SAR", "SHLD", "SHRD")),
    ("MULDIV", ("MUL", "IMUL", "IMUL2", "DIV", "IDIV")),
    ("BITS", ("BT", "BTS", "BTR", "BTC", "BSF", "BSR", "POPCNT", "TZCNT", "LZCNT", "CMPXCHG8B",
              "CMPXCHG16B")),
    ("STACK", ("PUSH", "POP", "PUSHF", "POPF", "ENTER", "LEAVE", "CALL_INDIRECT", "JMP_INDIRECT",
               "RET_IMM", "JRCXZ", "LOOP", "LOOPE", "LOOPNE", "PUSH_SEG", "POP_SEG")),
    ("FLAG", ("CMC", "STC", "CLC", "STD", "CLD", "LAHF", "SAHF", "CLI", "STI", "STRADDLE")),
    ("STRING", ("MOVS", "STOS", "CMPS", "SCAS", "LODS", "INS", "OUTS")),
    ("SYSTEM", ("CPUID", "HLT", "RDTSC", "RDTSCP", "RDMSR", "WRMSR", "IN", "OUT", "INVLPG",
                "WBINVD", "INVD", "RDPMC", "MONITOR", "MWAIT", "UD", "UNKNOWN")),
    ("CONTROL", ("INT", "INT3", "INT1", "IRET", "SYSCALL", "SYSRET", "SWAPGS", "FAR_RET",
                 "FAR_JMP", "FAR_CALL", "PAUSE", "RDPRU")),
    ("REGISTER", ("MOV_FROM_CR", "MOV_TO_CR", "MOV_FROM_DR", "MOV_TO_DR", "LMSW", "SMSW", "CLTS",
                  "MOV_FROM_SEG", "MOV_TO_SEG", "XSETBV", "XGETBV", "INVPCID")),
    ("TABLE", ("LGDT", "LIDT", "SGDT", "SIDT", "SLDT", "STR", "LLDT", "LTR", "LFS", "LGS", "LSS")),
    ("VIRT_SVM", ("VIRT_VMRUN", "VIRT_VMLOAD", "VIRT_VMSAVE", "VIRT_STGI", "VIRT_CLGI",
                  "VIRT_VMMCALL", "VIRT_INVLPGA", "VIRT_SKINIT")),
    ("VIRT_VMX", ("VIRT_VMXON", "VIRT_VMXOFF", "VIRT_VMCLEAR", "VIRT_VMPTRLD", "VIRT_VMPTRST",
                  "VIRT_VMREAD", "VIRT_VMWRITE", "VIRT_VMLAUNCH", "VIRT_VMRESUME", "VIRT_VMCALL",
                  "VIRT_VMFUNC", "VIRT_INVEPT", "VIRT_INVVPID")),
)  # fmt: skip
"""Every family with its members; ``FAMILY_<name>`` and ``<member>`` are module constants."""

OPS: dict[str, int] = {}
for _family, (_name, _members) in enumerate(FAMILIES):
    globals()[f"FAMILY_{_name}"] = _family
    for _index, _member in enumerate(_members):
        OPS[_member] = _family * 16 + _index
globals().update(OPS)

OP_NAMES = {number: name for name, number in OPS.items()}


def __getattr__(name: str) -> int:  # the constants made above, for type checkers
    raise AttributeError(f"no micro-op called {name}")
