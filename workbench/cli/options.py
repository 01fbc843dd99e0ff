"""The options of every command of ``workbench``, and their help. What they do is elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

TOPICS = (
    "backends", "guests", "features", "deviations", "presets", "scenarios", "experiments",
)  # fmt: skip
_EPILOG = """\
exit codes: 0 done, 1 something given cannot be used, 2 wrong options, 3 a guest failed
(its tables are printed all the same), 130 interrupted

examples:
  workbench run default_svm
  workbench run default_vmx --set features.vmcs_shadowing=on --set l2_params.iterations=1000
  workbench sweep study.toml --out table.parquet
  workbench run my.toml --out runs/first --json > first.json
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of every command; ``parser`` of what they give is the command's own."""
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="Nested virtualization on a simulated x86 machine: run, count, price, chart.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (says, more, add_options) in _COMMANDS.items():
        text = f"{says[0].upper()}{says[1:]}. {more}"
        command = commands.add_parser(name, help=says, description=text)
        command.set_defaults(parser=command)
        add_options(command)
    return parser


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenario", metavar="SCENARIO", nargs="?",
        help="a .toml or .json file, or the name of a shipped scenario (see 'workbench list')",
    )  # fmt: skip
    parser.add_argument(
        "--from-figure", type=Path, metavar="FILE",
        help="the scenario that a figure was made from; SCENARIO is then its label in the figure, "
        "where there are several",
    )  # fmt: skip
    _changes(
        parser,
        "change one setting, e.g. backend=vmx, features.np2m_flush=eager, l2_params.iterations=500",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the result in a new directory"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DIR when it is a result")
    _quiet(parser)


def _lab(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", action="store_true", help="only the panel, served by Voilà")
    parser.add_argument("notebook", nargs="?", help="another notebook to open")


def _figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="experiments or files of your own, 'experiments' for all that are shipped, 'defaults' "
        "for the default figures and tables; without a name: everything",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), metavar="DIR",
        help="where the files go (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--formats", default="png,svg,pdf", metavar="LIST", help="of png, svg, pdf (default: all)"
    )
    parser.add_argument(
        "--size", default="paper", choices=("paper", "column", "projector", "panel"),
        help="where they are used: a page's text width (default), one of two columns, a slide, the "
        "browser",
    )  # fmt: skip
    _changes(parser, "what if: change one setting of every run, e.g. l0=kvm")


def _none(parser: argparse.ArgumentParser) -> None:
    """No options."""


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", nargs="?", choices=TOPICS, help="only this (default: all)")


def _cite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenario", nargs="?", metavar="SCENARIO",
        help="a scenario as for 'run', which is run, or the directory of a saved result; "
        "without one: every source there is",
    )  # fmt: skip
    parser.add_argument("--bibtex", action="store_true", help="as BibTeX entries")


def _rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern", nargs="?", default="", help="part of a rule's name, e.g. vmx.entry or *cr0*"
    )
    parser.add_argument("--list", action="store_true", help="only what the rules say")
    _changes(parser, "check them on a machine with this feature or number, e.g. vmcs_shadowing=on")
    parser.add_argument("--quiet", action="store_true", help="no progress while compiling")


def _calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", nargs="?", help="only this preset (default: all with rows)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="keep the fitted preset")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.csv")
    _quiet(parser)


def _record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--unfitted", action="store_true", help="presets without calibration")
    _quiet(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("only", nargs="*", metavar="NAME", help="names of single benchmarks")


def _sweep(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="the study file, .toml")
    _changes(parser, "change a setting of the base scenario")
    add("--out", type=Path, metavar="FILE", help="write the whole table: .csv, .parquet or .json")
    add("--measure", default="cycles_per_operation", metavar="COLUMN",
        help="what the effects of a design are on (default: %(default)s)")  # fmt: skip
    add("--repeats", type=int, metavar="N", help="seeds per point, as in the file")
    add("--executor", default="auto", metavar="WHO",
        help="auto, threads, processes, or the address of a dask scheduler, tcp://...")  # fmt: skip
    add("--workers", type=int, metavar="N", help="how many on this machine")
    add("--store", type=Path, metavar="DIR", help="where finished points are kept")
    add("--no-store", action="store_true", help="keep nothing, and run everything")
    _quiet(parser)


def _store(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("list", "verify", "prune"), help="list the entries; read every file and "
        "compare checksums; or delete what is damaged or of another version of the model")  # fmt: skip
    add("--store", type=Path, metavar="DIR", help="where (default: in the user's cache)")
    add("--all", action="store_true", help="prune: delete every entry")
    add("--dry-run", action="store_true", help="prune: only say what would be deleted")


def _changes(parser: argparse.ArgumentParser, says: str) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="changes",
        help=f"{says}; may be repeated",
    )  # fmt: skip


def _quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress on the terminal")


_COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": ("simulate a scenario and print its tables", "", _run),
    "lab": (
        "open JupyterLab on the first notebook",
        "Options that are not known here are handed to JupyterLab, e.g. --no-browser --port 8890.",
        _lab,
    ),
    "figures": ("write figures and tables, without a screen", "", _figures),
    "warmup": ("compile the core now, with a visible progress", "", _none),
    "doctor": ("versions, cache, CPU, and what is missing", "", _none),
    "list": (
        "back-ends, guests, features, deviations, presets, scenarios, experiments", "", _list
    ),
    "cite": ("the sources behind the cycles of a scenario or a saved result, or all", "", _cite),
    "rules": ("check the manuals' rules, each by an L1 program", "A line per rule.", _rules),
    "calibrate": (
        "fit software prices to published single-level rows",
        "The terms are those of data/published/terms.csv; no nested row is looked at.",
        _calibrate,
    ),
    "record": ("predicted against measured, for every published nested row", "", _record),
    "bench": ("run the benchmarks of a checkout", "", _bench),
    "sweep": (
        "run every point of a study file and print its table",
        "The file (TOML) has a scenario, one of [grid], [[samples]], factorial and one_at_a_time, "
        "and repeats. Finished points are kept and not run again; a sweep that was interrupted "
        "goes on where it was.",
        _sweep,
    ),
    "store": ("list, verify or prune the finished points of sweeps", "", _store),
}  # fmt: skip
"""Command -> its line of help, what its own page says besides, and what adds its options."""
