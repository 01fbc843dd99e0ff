"""Questions of a design discussion as experiments: what is run, what is claimed, what came out.

An experiment is a file of ``data/experiments`` (:mod:`.spec`).  Its claim says that one alternative
of a setting is better (its measure is lower) than another; the verdict is computed from the runs
and holds at all prices within their bounds (:mod:`.verdict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..simulate import ProgressCallback
from .outcome import Outcome
from .runs import frame, run_all
from .spec import MAIN, Experiment, files, find, load
from .verdict import calls, crossovers, judge
from .words import MAIL_COLUMNS

__all__ = [
    "MAIL_COLUMNS", "MAIN", "Experiment", "Outcome", "calls", "crossovers", "experiment", "experiments",
    "find", "judge", "load", "run",
]  # fmt: skip


def experiments() -> pd.DataFrame:
    """The experiments: name, title, answers, question, claim, claim_of.

    ``answers`` says which of the eight questions (``data/questions.csv``) it answers, and which
    claims of the review of 2010; ``claim_of`` whose its claim is.
    """
    found = [load(path) for path in files().values()]
    columns = ["name", "title", "answers", "question", "claim", "claim_of"]
    rows = [(e.name, e.title, e.questions, e.question, e.claim, e.claim_of) for e in found]
    return pd.DataFrame(rows, columns=columns)


def experiment(
    name: str,
    progress: ProgressCallback | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Outcome:
    """Run an experiment: an :class:`Outcome` with frame, verdict, figures and text.

    Parameters
    ----------
    name : str
        A shipped experiment, or the path of a TOML file of one's own.
    changes : mapping, optional
        What if: settings by dotted name that all runs get, such as ``{"l0": "kvm"}``.

    Raises
    ------
    WorkbenchError
        No such experiment, its file has a mistake, or a point cannot be run.
    """
    return run(find(name).changed(changes or {}), progress)


def run(spec: Experiment, progress: ProgressCallback | None = None) -> Outcome:
    """Run every point of an experiment and judge the claim; errors as for :func:`experiment`."""
    runs = run_all(spec, progress)
    return Outcome(spec, runs, frame(spec, runs))
