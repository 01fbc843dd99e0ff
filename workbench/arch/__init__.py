"""Constants of the manuals, read from data/arch/*.csv once and exposed as ints."""

from __future__ import annotations

from . import msr, svm, vmcb, vmcs, vmx

__all__ = ["exit_code", "exit_name", "msr", "svm", "vmcb", "vmcs", "vmx"]


def exit_name(backend: str, index: int) -> str:
    """The manual's name of an exit by its place in the ledger's exit table."""
    return (svm if backend == "svm" else vmx).exit_name(index)


def exit_code(backend: str, index: int) -> int:
    """SVM EXITCODE or VMX basic exit reason of a place in the ledger's exit table."""
    return (svm if backend == "svm" else vmx).exit_code(index)
