"""Child process of the assembler: assembly text on stdin, ELF object on stdout.

Run by path, never imported: LLVM ends the process at the first syntax error, after it wrote
``error: <inline asm>:LINE:COLUMN: message`` to stderr.
"""

import contextlib
import sys

TRIPLE = "x86_64-unknown-none-elf"
MEMORY_BYTES = 1 << 30
PLAIN = set(range(32, 127)) - set(b'"\\')


def limit_resources() -> None:
    """A runaway .rept must not take the machine with it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # Unix only

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def quote(line: bytes) -> str:
    return "".join(chr(c) if c in PLAIN else f"\\{c:02x}" for c in line)


def main() -> None:
    limit_resources()
    import llvmlite.binding as llvm

    text = sys.stdin.buffer.read()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()
    body = "\n".join(f'module asm "{quote(line)}"' for line in text.split(b"\n"))
    module = llvm.parse_assembly(f'target triple = "{TRIPLE}"\n{body}\n')
    target = llvm.Target.from_triple(TRIPLE)
    machine = target.create_target_machine(reloc="static", codemodel="small")
    sys.stdout.buffer.write(machine.emit_object(module))


if __name__ == "__main__":
    main()
