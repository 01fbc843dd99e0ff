"""The commands ``workbench sweep`` and ``workbench store``.

A study file says what to run, in TOML::

    scenario = "default_vmx"            # a shipped name, a file beside this one, or a table
    repeats = 3                         # optional: seeds per point

    [grid]                              # all combinations, or [[samples]], one table per point,
    "features.vmcs_shadowing" = [false, true]
    "l2_params.work" = [0, 100]

Instead of ``[grid]``, ``factorial = ["virtual_gif", "nrip_save"]`` or ``one_at_a_time = [...]``
name toggles of a design (or a table of settings with two values each).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ScenarioError, WorkbenchError, did_you_mean
from ..features import value_text
from ..measure.table_files import FORMATS, write_table
from .terminal import EXIT_ERROR, EXIT_GUEST, EXIT_OK, ProgressLine

if TYPE_CHECKING:
    import pandas as pd

    from ..scenario import Scenario
    from ..study.point_store import Entry, PointStore

KINDS = ("grid", "samples", "factorial", "one_at_a_time")
_SHOWN = ("exits_per_operation", "cycles_per_operation", "cycles_low_per_operation",
          "cycles_high_per_operation", "flushes")  # fmt: skip


# ---------------------------------------------------------------- sweep


def sweep(options: argparse.Namespace) -> int:
    """``workbench sweep``."""
    from ..study import runs as study

    content, base = read_study(options.file, options.changes)
    _check_out(options.out)
    kind = next(name for name in KINDS if name in content)
    repeats = content.get("repeats", 1) if options.repeats is None else options.repeats
    how: dict[str, Any] = {
        "executor": _executor(options.executor), "workers": options.workers,
        "store": False if options.no_store else options.store or True,
    }  # fmt: skip
    effects = None
    table: Any
    with ProgressLine(not options.quiet) as line:
        if kind in ("grid", "samples"):
            table = study.sweep(base, content[kind], repeats, progress=line.report, **how)
        else:
            design = study.factorial if kind == "factorial" else study.one_at_a_time
            effects = design(base, content[kind], options.measure, progress=line.report, **how)
            table = effects.table
    print(shown(table))
    if effects is not None:
        print(f"\nMain effects on {options.measure}\n{as_text(effects.main)}")
        if kind == "factorial":
            print("\n" + "\n".join(effects.sentences() or ["no toggle depends on another"]))
    if options.out is not None:
        write_table(table, options.out)
    return _judge(table)


def read_study(path: Path, changes: list[str]) -> tuple[dict[str, Any], Scenario]:
    """What a study file says, checked, and its base scenario.

    Raises
    ------
    ScenarioError
        No such file, a key that is unknown, missing or of the wrong kind.
    """
    from .. import scenario_text
    from . import run_commands as commands

    if path.suffix != ".toml":
        raise ScenarioError(f"{path} is no study file", "give a .toml file")
    content, where = scenario_text.read(path, "toml")
    known = ("scenario", "repeats", *KINDS)
    for key in content:
        if key not in known:
            raise ScenarioError(f"{where}: no key {key!r} in a study", did_you_mean(key, known))
    chosen = [name for name in KINDS if name in content]
    if len(chosen) != 1:
        what = " and ".join(chosen) or "nothing to run"
        raise ScenarioError(f"{where} has {what}", f"give one of: {', '.join(KINDS)}")
    given = content.get("scenario", {})
    if isinstance(given, str):
        beside = path.parent / given
        return content, commands.read_scenario(str(beside) if beside.is_file() else given, changes)
    return content, commands.changed(given, f"{where}, scenario", changes)


def _executor(name: str) -> Any:
    if "://" not in name:
        return name
    try:
        from distributed import Client
    except ImportError:
        hint = "install it with: pip install 'nested-hvm-workbench[cluster]'"
        raise WorkbenchError("dask.distributed is not installed", hint) from None
    try:
        return Client(name, timeout="10s")
    except (OSError, ValueError) as problem:
        raise WorkbenchError(
            f"no dask scheduler at {name}: {problem}", "check the address"
        ) from None


def shown(table: pd.DataFrame) -> str:
    """The settings and the main measures of a sweep's table as text."""
    names = [*table.settings, *(n for n in ("repeat", "seed", "status") if n in table)]
    measures = [name for name in _SHOWN if name in table]
    part = table[[*names, *measures]]
    part = part.rename(columns=lambda name: name.replace("_per_operation", "/op"))
    return as_text(part.rename(columns=lambda name: name.removeprefix("features.")))


def as_text(frame: pd.DataFrame) -> str:
    """A frame as aligned text; on and off as people write them."""
    words = {True: "on", False: "off"}
    said = frame.apply(lambda cells: cells.map(lambda v: words[v] if isinstance(v, bool) else v))
    return said.to_string(index=False, na_rep="-", float_format=lambda number: f"{number:,.2f}")


def _check_out(path: Path | None) -> None:
    if path is not None and path.suffix not in FORMATS:
        hint = f"end the name with {', '.join(FORMATS)}"
        raise WorkbenchError(
            f"{path}: a table cannot be written as {path.suffix or 'that'!r}", hint
        )


def _judge(table: pd.DataFrame) -> int:
    failed = table.failed
    for row in failed.itertuples():
        print(f"workbench: {row.point or 'the base'}: {row.error or row.status}", file=sys.stderr)
    if len(failed):
        print(f"workbench: {len(failed)} of {len(table)} points failed", file=sys.stderr)
    return EXIT_GUEST if len(failed) else EXIT_OK


# ---------------------------------------------------------------- store


def store(options: argparse.Namespace) -> int:
    """``workbench store``."""
    from ..study.point_store import PointStore

    place = PointStore(options.store)
    if options.store is not None and not place.folder.is_dir():
        raise WorkbenchError(f"{place.folder}: no such folder", "give the store of a sweep")
    actions = {"list": _list, "verify": _verify, "prune": _prune}
    return actions[options.action](place, options)


def _list(place: PointStore, options: argparse.Namespace) -> int:
    count = size = 0
    for entry in place.entries():
        count, size = count + 1, size + entry.size
        print(f"{entry.key[:12]}  {entry.created[:16]:<16}  {entry.status:<8}  {_what(entry)}")
    print(f"{count} points, {size / 1e6:,.1f} MB in {place.folder}")
    return EXIT_OK


def _what(entry: Entry) -> str:
    """What an entry is of, in a few words."""
    from ..scenario import Scenario

    if entry.problem:
        return entry.problem
    of = Scenario.restore(entry.scenario)
    settings = {**of.l1_params, **of.l2_params, **of.features, **of.deviations}
    words = [of.backend, of.l1, of.l2, *(f"{k}={value_text(v)}" for k, v in settings.items())]
    stale = "" if entry.is_current else "  (of another version of the model)"
    return " ".join(words) + stale


def _verify(place: PointStore, options: argparse.Namespace) -> int:
    bad = count = 0
    for entry in place.entries(check=True):
        count += 1
        if entry.problem:
            bad += 1
            print(f"{entry.key[:12]}  {entry.problem}")
    print(f"{count} points, {bad} damaged, in {place.folder}")
    return EXIT_ERROR if bad else EXIT_OK


def _prune(place: PointStore, options: argparse.Namespace) -> int:
    began = time.monotonic()
    count = 0
    for entry in place.entries(check=True):
        if options.all or entry.problem or not entry.is_current:
            count += 1
            if not options.dry_run:
                place.remove(entry.key)
    left = place.leftovers()
    for file in left:
        if not options.dry_run:
            file.unlink(missing_ok=True)
    verb = "would delete" if options.dry_run else "deleted"
    seconds = time.monotonic() - began
    print(f"{verb} {count} points and {len(left)} leftover files in {seconds:.1f} s")
    return EXIT_OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"sweep": sweep, "store": store}
