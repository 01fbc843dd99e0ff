"""The command ``workbench``: options, exit codes, and errors as one message without a traceback.

What each command does is in ``commands.py``; nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import WorkbenchError
from . import study_commands
from .terminal import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE

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
    """The options of every command."""
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="Nested virtualization on a simulated x86 machine: run, count, price, chart.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_run(commands)
    _add_simple(commands)
    study_commands.add_parsers(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="simulate a scenario and print its tables",
        description="Simulate a scenario and print its tables.",
    )
    run.add_argument(
        "scenario",
        metavar="SCENARIO",
        nargs="?",
        help="a .toml or .json file, or the name of a shipped scenario (see 'workbench list')",
    )
    run.add_argument(
        "--from-figure",
        type=Path,
        metavar="FILE",
        help="the scenario that a figure was made from; SCENARIO is then its label in the figure, "
        "where there are several",
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="change one setting, e.g. backend=vmx, features.np2m_flush=eager, "
        "l2_params.iterations=500; may be repeated",
    )
    run.add_argument("--json", action="store_true", help="print JSON instead of tables")
    run.add_argument("--out", type=Path, metavar="DIR", help="keep the result in a new directory")
    run.add_argument("--overwrite", action="store_true", help="replace DIR when it is a result")
    run.add_argument("--quiet", action="store_true", help="no progress on the terminal")


def _add_simple(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    lab = commands.add_parser(
        "lab",
        help="open JupyterLab on the first notebook",
        description="Open JupyterLab on notebooks/00_start.ipynb. Options that are not known here "
        "are handed to JupyterLab, e.g. --no-browser --port 8890.",
    )
    lab.add_argument("--app", action="store_true", help="only the panel, served by Voilà")
    lab.add_argument("notebook", nargs="?", help="another notebook to open")
    figures = commands.add_parser("figures", help="write figures and tables, without a screen")
    figures.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="experiments or files of your own, 'experiments' for all that are shipped, 'defaults' "
        "for the default figures and tables; without a name: everything",
    )
    figures.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    figures.add_argument(
        "--formats", default="png,svg,pdf", metavar="LIST", help="of png, svg, pdf (default: all)"
    )
    figures.add_argument(
        "--size",
        default="paper",
        choices=("paper", "column", "projector", "panel"),
        help="where they are used: a page's text width (default), one of two columns, a slide, the "
        "browser",
    )
    figures.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="what if: change one setting of every run, e.g. l0=kvm; may be repeated",
    )
    commands.add_parser("warmup", help="compile the core now, with a visible progress")
    commands.add_parser("doctor", help="versions, cache, CPU, and what is missing")
    listing = commands.add_parser(
        "list", help="back-ends, guests, features, deviations, presets, scenarios, experiments"
    )
    listing.add_argument(
        "topic",
        nargs="?",
        choices=(
            "backends",
            "guests",
            "features",
            "deviations",
            "presets",
            "scenarios",
            "experiments",
        ),
        help="only this",
    )
    cite = commands.add_parser(
        "cite", help="the sources behind the cycles of a scenario or a saved result, or all"
    )
    cite.add_argument("scenario", nargs="?", metavar="SCENARIO")
    cite.add_argument("--bibtex", action="store_true", help="as BibTeX entries")
    rules = commands.add_parser(
        "rules",
        help="check the manuals' rules, each by an L1 program",
        description="Run the L1 programs that check one rule of a manual each; a line per rule.",
    )
    rules.add_argument(
        "pattern", nargs="?", default="", help="part of a rule's name, e.g. vmx.entry or *cr0*"
    )
    rules.add_argument("--list", action="store_true", help="only what the rules say")
    rules.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="check them on a machine with this feature or number, e.g. vmcs_shadowing=on",
    )
    rules.add_argument("--quiet", action="store_true", help="no progress while compiling")
    _add_record(commands)
    bench = commands.add_parser("bench", help="run the benchmarks of a checkout")
    bench.add_argument("only", nargs="*", metavar="NAME", help="names of single benchmarks")


def _add_record(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="fit software prices to published single-level rows",
        description="Fit the software terms of data/published/terms.csv to single-level rows; "
        "no nested row is looked at.",
    )
    calibrate.add_argument("preset", nargs="?", help="only this preset (default: all with rows)")
    calibrate.add_argument("--out", type=Path, metavar="FILE.csv", help="keep the fitted preset")
    calibrate.add_argument("--overwrite", action="store_true", help="replace FILE.csv")
    record = commands.add_parser(
        "record",
        help="predicted against measured, for every published nested row",
        description="Predict every published nested row and print it beside what was measured.",
    )
    record.add_argument("--json", action="store_true", help="print JSON instead of a table")
    record.add_argument("--unfitted", action="store_true", help="presets without calibration")
    for parser in (calibrate, record):
        parser.add_argument("--quiet", action="store_true", help="no progress on the terminal")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = build_parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "lab":
        parser.error(f"unknown options: {' '.join(rest)}")
    if options.version:
        import workbench

        print(workbench.__version__)
        return EXIT_OK
    if options.command is None:
        parser.print_help()
        return EXIT_USAGE
    options.rest = rest
    return _guarded(options)


def _guarded(options: argparse.Namespace) -> int:
    from . import run_commands as commands

    try:
        return commands.COMMANDS[options.command](options)
    except WorkbenchError as problem:
        print(f"workbench: {problem.message}", file=sys.stderr)
        if problem.hint:
            print(f"  hint: {problem.hint}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("workbench: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
