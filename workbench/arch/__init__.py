"""Constants of the manuals, read from data/arch/*.csv once and exposed as ints."""

from __future__ import annotations

from . import msr, svm, vmcb, vmcs, vmx

__all__ = [
    "check_name",
    "check_text",
    "exit_code",
    "exit_name",
    "msr",
    "svm",
    "vmcb",
    "vmcs",
    "vmx",
]


def exit_name(backend: str, index: int) -> str:
    """The manual's name of an exit by its place in the ledger's exit table."""
    return (svm if backend == "svm" else vmx).exit_name(index)


def exit_code(backend: str, index: int) -> int:
    """SVM EXITCODE or VMX basic exit reason of a place in the ledger's exit table."""
    return (svm if backend == "svm" else vmx).exit_code(index)


def check_name(backend: str, number: int) -> str:
    """Name of a check that a control structure has to pass when a guest is entered."""
    return (svm if backend == "svm" else vmx).check_name(number)


def check_text(backend: str, number: int) -> str:
    """What such a check demands, and how the entry fails; empty for no check."""
    return (svm if backend == "svm" else vmx).check_text(number)
