"""The default figures and tables, written without a screen: what ``make figures`` makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import charts, questions, simulate
from ..measure.table_files import write_table
from ..paths import write_atomically

if TYPE_CHECKING:
    from ..scenario import Scenario

DEFAULTS, EXPERIMENTS = "defaults", "experiments"
"""Names for the default figures, and for every experiment."""
FORMATS = ("png", "svg", "pdf")
FIGURES = {
    "exit_frequency": (charts.exit_frequency, "exits"),
    "cost": (charts.cost, "cost"),
    "tlb_flushes": (charts.tlb_flushes, "tlb"),
}
"""File name -> chart and the plain-text table that says the same."""


def write_figures(
    scenarios: Mapping[str, Scenario],
    folder: Path,
    formats: Sequence[str] = FORMATS,
    progress: simulate.ProgressCallback | None = None,
    size: str = "paper",
) -> list[Path]:
    """Run each scenario once and chart them side by side.

    Parameters
    ----------
    scenarios : mapping
        Label -> scenario.
    folder : Path
        Where the files go; created when missing.
    formats : sequence of str
        Of :data:`FORMATS`.
    progress : callable, optional
        See :func:`workbench.simulate.run`.
    size : str
        Of ``charts.SIZES``: where the figures are used.

    Returns
    -------
    list of Path
        The files written.
    """
    results = {
        label.replace("_", " "): simulate.run(scenario, progress)
        for label, scenario in scenarios.items()
    }
    written = []
    for name, (chart, table) in FIGURES.items():
        for form in formats:
            path = folder / f"{name}.{form}"
            written.append(charts.save(chart(results, size), path, charts.SIZES[size].dots))
        written.append(_text(folder / f"{name}.txt", charts.to_text(table, results)))
    written.append(_text(folder / "summary.txt", charts.to_text("summary", results)))
    return written


def write_experiments(
    names: Sequence[str],
    folder: Path,
    formats: Sequence[str] = FORMATS,
    progress: simulate.ProgressCallback | None = None,
    size: str = "paper",
    tell: Callable[[str], None] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Run experiments by name, or all for ``experiments``; write figures, data and a text of each.

    Files begin with the experiment's name; further figures and frames add their own.  ``tell`` gets
    the verdict of each in words; ``changes`` are made to what stays the same in them.
    """
    every = list(questions.experiments()["name"]) if EXPERIMENTS in names else list(names)
    written = []
    for chosen in [questions.find(name) for name in every]:
        outcome = questions.run(chosen.changed(changes or {}), progress)
        for name, figure in outcome.sized(size).items():
            stem = "-".join(filter(None, (chosen.name, name)))
            for form in formats:
                path = folder / f"{stem}.{form}"
                written.append(charts.save(figure, path, charts.SIZES[size].dots))
        for name, frame in outcome.frames.items():
            stem = chosen.name if name == questions.MAIN else f"{chosen.name}-{name}"
            for form in ("csv", "parquet"):
                written.append(write_table(frame, folder / f"{stem}.{form}"))
        written.append(_text(folder / f"{chosen.name}.txt", outcome.text))
        if tell is not None:
            tell(f"{chosen.name}: {outcome.said}")
    return written


def _text(path: Path, content: str) -> Path:
    write_atomically(path, content.encode())
    return path
