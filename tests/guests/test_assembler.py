"""The assembler: results, errors that say where, cache, and that nothing can hurt this process."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from workbench.errors import AssemblyError, GuestError
from workbench.guests import assembler
from workbench.guests.assembler import assemble, assemble_file
from workbench.guests.image import IMAGE_BASE

HELLO = """
.intel_syntax noprefix
        .globl _start
before: nop
_start: mov rax, offset table
        call routine
        jmp qword ptr [table + 8]
routine: ret
        .section .rodata
table:  .quad routine, _start
        .data
word:   .quad table + 8
        .bss
        .balign 4096
zeros:  .skip 100
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quad(image, address: int) -> int:
    return int.from_bytes(image.read(address, 8), "little")


def test_sections_are_linked_and_references_resolved():
    image = assemble(HELLO)
    at = image.symbols
    assert at["before"] == IMAGE_BASE and image.entry == at["_start"]
    assert quad(image, at["table"]) == at["routine"]
    assert quad(image, at["table"] + 8) == at["_start"]
    assert quad(image, at["word"]) == at["table"] + 8
    texts = [line.text for line in image.listing]
    assert texts[1].endswith(f"0x{at['table']:X}")
    assert "call" in texts[2] and f"{at['routine']:X}" in texts[2]
    assert image.end == at["zeros"] + 100


def test_writable_data_shares_no_page_with_code():
    image = assemble(HELLO)
    code_pages = {a >> 12 for a, b in image.code for a in (a, b - 1)}
    assert image.symbols["word"] >> 12 not in code_pages
    assert image.symbols["zeros"] % 4096 == 0


def test_listing_names_source_lines_also_inside_macros(tmp_path):
    (tmp_path / "m.inc").write_text(".macro TWICE\n nop\n ud2\n.endm\n")
    image = assemble('.include "m.inc"\n\nTWICE\n cpuid\n', "main", tmp_path)
    where = [(line.text, line.file.rsplit("/", 1)[-1], line.line) for line in image.listing]
    assert where == [("nop", "m.inc", 2), ("ud2", "m.inc", 3), ("cpuid", "main", 4)]


def test_both_syntaxes_give_the_same_bytes():
    intel = assemble(".intel_syntax noprefix\nvmread rcx, rax\nmov rbx, [rax + 8]\nvmrun rax")
    att = assemble("vmread %rax, %rcx\nmov 8(%rax), %rbx\nvmrun %rax")
    assert intel.segments == att.segments


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (".intel_syntax noprefix\nnop\nmov rax,\n", 3, "unknown token"),
        ("nop\nfrobnicate %rax\n", 2, "frobnicate"),
        (".macro M\n nop\n bad\n.endm\nnop\nM\n", 3, "bad"),
        (".rept 2\n bad\n.endr\n", 2, "bad"),
        ("nop\njmp nowhere\n", 2, "undefined symbol 'nowhere'"),
        ("nop\n.data\n.quad nowhere\n", 3, "undefined symbol 'nowhere'"),
        ('nop\n.include "gone.inc"\n', 2, "gone.inc"),
        ('nop\n.incbin "x"\n', 2, "incbin"),
        ("nop\n\0\n", 2, "NUL"),
        (".intel_syntax noprefix\nnop\nmov al, offset a\n.bss\na: .skip 8\n", 3, "does not fit"),
        (".macro R\nR\n.endm\nR\n", 2, "nested"),
    ],
)
def test_errors_name_file_line_and_text(tmp_path, text, line, words):
    source = tmp_path / "guest.S"
    source.write_text(text)
    with pytest.raises(AssemblyError, match=words) as caught:
        assemble_file(source)
    error = caught.value
    assert (error.file, error.line) == (str(source), line)
    assert f"{source}:{line}:" in str(error)
    assert error.source.strip("\0") in str(error)


def test_an_error_in_an_included_file_names_that_file(tmp_path):
    (tmp_path / "inner.inc").write_text("nop\nbad\n")
    (tmp_path / "main.S").write_text('nop\n.include "inner.inc"\n')
    with pytest.raises(AssemblyError) as caught:
        assemble_file(tmp_path / "main.S")
    assert caught.value.file.endswith("inner.inc") and caught.value.line == 2


def test_a_file_that_includes_itself_is_refused(tmp_path):
    (tmp_path / "loop.S").write_text('.include "loop.S"\n')
    with pytest.raises(AssemblyError, match="too deeply"):
        assemble_file(tmp_path / "loop.S")


def test_a_runaway_text_is_stopped():
    with pytest.raises(AssemblyError):
        assemble(".rept 2000000000\nnop\n.endr\n", timeout=2)


def test_nothing_to_run_is_an_error():
    with pytest.raises(AssemblyError, match="no instructions"):
        assemble("# nothing\n")


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(GuestError, match=r"gone\.S"):
        assemble_file(tmp_path / "gone.S")
    (tmp_path / "b.S").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(AssemblyError, match="not a text file"):
        assemble_file(tmp_path / "b.S")


def test_cache_is_used_and_a_damaged_entry_is_replaced(own_cache, monkeypatch):
    first = assemble(HELLO)
    (entry,) = (own_cache / "guests").glob("*.json")
    good = entry.read_bytes()
    for damage in (b"", b"rubbish", good[:-1], good.replace(b"segments", b"segmenty")):
        entry.write_bytes(damage)
        again = assemble(HELLO)
        assert (again.segments, again.symbols) == (first.segments, first.symbols)
        assert entry.read_bytes() == good
    monkeypatch.setattr(assembler, "_run_llvm", lambda *_: pytest.fail("not from the cache"))
    cached = assemble(HELLO)
    assert cached == first and cached.listing == first.listing
    start = time.perf_counter()
    assemble(HELLO)
    assert time.perf_counter() - start < 0.1


def test_without_a_writable_cache_it_still_works(own_cache, monkeypatch):
    monkeypatch.setattr(assembler, "write_atomically", lambda *_: (_ for _ in ()).throw(OSError()))
    assert assemble(HELLO).entry


def test_an_included_file_that_changes_is_noticed(tmp_path):
    (tmp_path / "n.inc").write_text("nop\n")
    before = assemble('.include "n.inc"\nhlt', folder=tmp_path)
    (tmp_path / "n.inc").write_text("nop\nnop\n")
    assert len(assemble('.include "n.inc"\nhlt', folder=tmp_path).listing) == 1 + len(
        before.listing
    )


def test_other_processors_use_clang_or_say_so(monkeypatch):
    monkeypatch.setattr(assembler.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(assembler.shutil, "which", lambda name: None)
    with pytest.raises(GuestError, match="clang"):
        assemble("nop # on arm\n")


def test_neither_numba_nor_llvm_is_loaded_into_this_process():
    code = ("import sys; from workbench.guests.assembler import assemble; assemble('nop');"
            "print(sorted({'numba', 'llvmlite'} & set(sys.modules)))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
