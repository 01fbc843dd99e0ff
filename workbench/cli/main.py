"""The command ``workbench``: exit codes, and errors as one message without a traceback.

The options are in ``options.py``, what each command does in ``run_commands.py`` and
``study_commands.py``; nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..errors import WorkbenchError
from .options import build_parser
from .terminal import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = build_parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "lab":
        options.parser.error(f"not understood: {' '.join(rest)}")
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
