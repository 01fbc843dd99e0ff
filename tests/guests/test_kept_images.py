"""Images kept in memory: made once, and made again as soon as one of their files changes."""

import os

import pytest

from workbench.guests import catalogue, kept_images
from workbench.guests.assembler import includes
from workbench.guests.kept_images import image_of

LONG_AGO = 1_000_000_000


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(kept_images, "_KEPT", {})
    monkeypatch.setattr(kept_images, "SETTLED_SECONDS", -1.0)  # files here are brand-new


@pytest.fixture
def program(tmp_path):
    (tmp_path / "value.inc").write_text("mov eax, 1\n")
    path = tmp_path / "own.S"
    path.write_text('.intel_syntax noprefix\n.include "value.inc"\nhlt\n')
    return catalogue.read_guest(path, 2, str(path))


def test_the_same_program_is_the_same_image(program):
    assert program.image() is program.image()
    generated = catalogue.find(1, "kvm-6.12", "vmx")
    assert generated.image() is generated.image()


def test_another_text_in_an_included_file_is_another_image(program):
    before = program.image().segments
    (program.path.parent / "value.inc").write_text("mov eax, 2\n")
    assert program.image().segments != before


def test_a_file_that_takes_the_place_of_an_included_one_is_seen(program, tmp_path):
    program.path.write_text('.intel_syntax noprefix\n.include "l2.inc"\nhlt\n')
    program.image()
    (tmp_path / "l2.inc").write_text("nop\nnop\n")
    assert len(program.image().listing) == 3


def test_a_file_of_the_same_size_and_time_is_still_another(program):
    inside = program.path.parent / "value.inc"
    os.utime(inside, (LONG_AGO, LONG_AGO))
    before = program.image().segments
    inside.write_text("mov eax, 7\n")
    os.utime(inside, (LONG_AGO, LONG_AGO))
    assert program.image().segments != before


def test_a_file_that_was_just_written_is_not_trusted(program, monkeypatch):
    monkeypatch.setattr(kept_images, "SETTLED_SECONDS", 3600.0)
    assert program.image() is not program.image()


def test_a_deleted_program_is_missed(program):
    program.image()
    program.path.unlink()
    with pytest.raises(Exception, match="cannot be read"):
        program.image()


def test_no_more_images_are_kept_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_images, "MAX_KEPT", 3)
    image = catalogue.find(2, "cpuid", "svm").image()
    for i in range(10):
        image_of(tmp_path / str(i), "text", lambda: image, list)
    assert len(kept_images._KEPT) <= 3


def test_includes_are_found_through_includes_even_in_a_circle(tmp_path):
    (tmp_path / "a.inc").write_text('.include "b.inc"\n')
    (tmp_path / "b.inc").write_text('.include "a.inc"\n.include "gone.inc"\n')
    found = includes('.include "a.inc"\n', tmp_path)
    assert {p.name for p in found} == {"a.inc", "b.inc", "gone.inc"}
    assert tmp_path / "gone.inc" in found
