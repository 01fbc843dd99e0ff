"""Every error the workbench raises on bad input: one hierarchy, a message and what to do about it.

Not covered: programming errors inside the workbench itself; those stay ordinary exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorkbenchError(Exception):
    """Something the user gave cannot be used.

    Parameters
    ----------
    message : str
        What is wrong, naming the file, parameter or value.
    hint : str, optional
        What to do about it.
    """

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ScenarioError(WorkbenchError):
    """A scenario that cannot be simulated."""


class GuestError(WorkbenchError):
    """A guest program that cannot be found, loaded or given these parameters."""


class AssemblyError(GuestError):
    """Assembly text that LLVM does not accept.

    Attributes
    ----------
    file : str
        Where the text came from.
    line : int
        Line in that file, counted from 1; 0 when LLVM names none.
    source : str
        The text of that line.
    """

    def __init__(
        self, message: str, hint: str = "", file: str = "", line: int = 0, source: str = ""
    ):
        super().__init__(message, hint)
        self.file = file
        self.line = line
        self.source = source

    def __reduce__(self) -> tuple:
        return type(self), (self.message, self.hint, self.file, self.line, self.source)


class FeatureError(WorkbenchError):
    """A feature that does not exist, does not apply or contradicts another one."""


class ResultError(WorkbenchError):
    """A result that cannot be read or written."""


class PriceError(WorkbenchError):
    """A price preset or price that cannot be used."""


class SimulationError(WorkbenchError):
    """A simulation that could not be carried through."""


def one_line(problem: BaseException) -> str:
    """An error for a table: what is wrong, and what to do about it."""
    if isinstance(problem, WorkbenchError):
        return f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    return f"{type(problem).__name__}: {problem}"


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Hint for a wrong name: its close matches, else all that is known.

    Parameters
    ----------
    name : object
        What was given.
    known : iterable
        The names that exist.

    Returns
    -------
    str
        One sentence; empty when nothing is known.
    """
    names = sorted({str(k) for k in known})
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(names)}." if names else ""
