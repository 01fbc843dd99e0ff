"""Loading ELF executables and flat binaries, good and bad."""

from __future__ import annotations

import io
import pickle
import random
import struct

import pytest

from workbench.errors import GuestError
from workbench.guests.assembler import assemble
from workbench.guests.image import IMAGE_BASE, Image
from workbench.guests.load import load_image

CODE = bytes.fromhex("0fa2f4")  # cpuid; hlt


def elf(**change) -> bytes:
    """A minimal static executable; keyword arguments replace header fields."""
    f = dict(ident_class=2, kind=2, machine=62, entry=IMAGE_BASE, vaddr=IMAGE_BASE, flags=5,
             filesz=len(CODE), memsz=0x2000, p_type=1, offset=120) | change  # fmt: skip
    header = (
        b"\x7fELF"
        + bytes([f["ident_class"], 1, 1])
        + bytes(9)
        + struct.pack(
            "<HHIQQQIHHHHHH", f["kind"], f["machine"], 1, f["entry"], 64, 0, 0, 64, 56, 1, 0, 0, 0
        )
    )
    program = struct.pack("<IIQQQQQQ", f["p_type"], f["flags"], f["offset"], f["vaddr"],
                          f["vaddr"], f["filesz"], f["memsz"], 0x1000)  # fmt: skip
    return header + program + CODE


def load(tmp_path, content: bytes, name: str = "guest.elf") -> Image:
    (tmp_path / name).write_bytes(content)
    return load_image(tmp_path / name)


def test_static_executable(tmp_path):
    image = load(tmp_path, elf())
    assert (image.entry, image.segments) == (IMAGE_BASE, ((IMAGE_BASE, CODE),))
    assert image.end == IMAGE_BASE + 0x2000
    assert [line.text for line in image.listing] == ["cpuid", "hlt"]


def test_flat_binary(tmp_path):
    image = load(tmp_path, CODE, "guest.bin")
    assert (image.entry, image.segments) == (IMAGE_BASE, ((IMAGE_BASE, CODE),))


def test_assembly_by_path(tmp_path):
    assert load(tmp_path, b"cpuid\nhlt\n", "guest.S").segments == ((IMAGE_BASE, CODE),)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": 3}, "not a static executable"),
        ({"p_type": 3}, "not a static executable"),
        ({"machine": 183}, "AARCH64"),
        ({"p_type": 4}, "no loadable segment"),
        ({"vaddr": 0x1000, "entry": 0x1000}, "outside"),
        ({"vaddr": 0xFFFFFFFF80000000, "entry": 0xFFFFFFFF80000000}, "outside"),
        ({"memsz": 1 << 40}, "outside"),
        ({"entry": 0x500000}, "entry"),
        ({"flags": 6}, "entry"),
        ({"filesz": 0x1000}, "ends inside"),
        ({"offset": 1 << 62}, "ends inside"),
    ],
)
def test_unusable_executables_say_why(tmp_path, change, words):
    with pytest.raises(GuestError, match=words) as caught:
        load(tmp_path, elf(**change))
    assert "guest.elf" in caught.value.message and caught.value.hint


def test_other_files_say_why(tmp_path):
    with pytest.raises(GuestError, match="neither"):
        load(tmp_path, b"hello", "guest.txt")
    with pytest.raises(GuestError, match="empty"):
        load(tmp_path, b"", "guest.bin")
    with pytest.raises(GuestError, match="cannot be read"):
        load_image(tmp_path / "gone.elf")
    with pytest.raises(GuestError, match="cannot be read"):
        load_image(tmp_path)


def test_damaged_executables_never_raise_anything_else(tmp_path):
    draw = random.Random(1)
    good = elf()
    for _ in range(400):
        bad = bytearray(good[: draw.choice([len(good), draw.randrange(5, len(good))])])
        for _ in range(draw.randrange(1, 6)):
            bad[draw.randrange(4, len(bad))] = draw.randrange(256)
        try:
            image = load(tmp_path, bytes(bad))
        except GuestError:
            continue
        assert image.segments is not None


def test_relocatable_objects_are_linked(tmp_path):
    from elftools.elf.elffile import ELFFile

    from workbench.guests import assembler

    text = ".globl _start\n_start: call f\nf: ret\n"
    content = assembler._run_llvm(assembler._expand(tmp_path / "x.S", text, 0), 30)
    assert ELFFile(io.BytesIO(content))["e_type"] == "ET_REL"
    assert load(tmp_path, content, "x.o").segments == assemble(text).segments


def test_images_are_immutable_and_travel_between_processes():
    image = assemble("_start: nop\n")
    with pytest.raises(TypeError):
        image.symbols["_start"] = 0
    with pytest.raises(AttributeError):
        image.entry = 0
    copy = pickle.loads(pickle.dumps(image))
    assert copy == image and copy.listing == image.listing


def test_missing_label_is_a_clear_error():
    with pytest.raises(GuestError, match="no label 'there'"):
        assemble("here: nop\n").symbol("there")
