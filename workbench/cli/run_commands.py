"""What each command of ``workbench`` does; each takes the parsed options and returns an exit code.

Only standard output carries results; progress and remarks go to standard error.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ScenarioError, WorkbenchError, did_you_mean
from ..paths import data_dir
from . import study_commands
from .terminal import EXIT_ERROR, EXIT_GUEST, EXIT_OK, ProgressLine

if TYPE_CHECKING:
    import pandas as pd

    from ..result import Result
    from ..scenario import Scenario

TABLES = ("exits", "costs", "operations", "tlb", "fields")
"""Tables of a result that ``run --json`` contains, in this order."""
_GUEST_FAILED = ("shutdown", "fatal")


# ---------------------------------------------------------------- scenarios on the command line


def shipped_scenarios() -> dict[str, Path]:
    """Scenarios that come with the workbench: name -> file."""
    return {path.stem: path for path in sorted((data_dir() / "scenarios").glob("*.toml"))}


def read_scenario(name: str, changes: Iterable[str] = ()) -> Scenario:
    """The scenario of a file or a shipped name, with ``NAME=VALUE`` changes applied.

    Raises
    ------
    WorkbenchError
        No such file, not a scenario, or a change that cannot be used.
    """
    from .. import scenario_text

    path = shipped_scenarios().get(name, Path(name))
    if path.suffix not in (".toml", ".json"):
        if path.exists():
            raise ScenarioError(f"{path}: not a scenario file", "give a .toml or .json file")
        hint = did_you_mean(name, shipped_scenarios()) + " Or give a .toml or .json file."
        raise ScenarioError(f"no scenario called {name!r}", hint)
    return changed(*scenario_text.read(path, path.suffix[1:]), changes)


def changed(values: Mapping[str, Any], where: str, changes: Iterable[str]) -> Scenario:
    """The scenario of plain values with ``NAME=VALUE`` changes; an error names what is to blame."""
    from ..scenario import Scenario

    scenario = Scenario.from_dict(values, where)
    if not (changes := list(changes)):
        return scenario
    other = copy.deepcopy(dict(values))
    for change in changes:
        _apply(other, change)
    return Scenario.from_dict(other, f"--set {' '.join(changes)}")


def split_change(change: str) -> tuple[str, Any]:
    """Dotted name and value of a ``NAME=VALUE``."""
    name, equals, text = change.partition("=")
    if not equals or not name.strip():
        raise ScenarioError(f"--set {change}: not a change", "write NAME=VALUE")
    return name.strip(), _value(text.strip())


def _apply(values: dict[str, Any], change: str) -> None:
    name, value = split_change(change)
    head, dot, entry = name.partition(".")
    if not dot:
        values[head] = value
        return
    table = values.setdefault(head, {})
    if not isinstance(table, dict):
        raise ScenarioError(f"--set {change}: {head} has no entries", f"write {head}=VALUE")
    table[entry] = value


def _value(text: str) -> Any:
    """A TOML value; what is none, such as a bare word, is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


# ---------------------------------------------------------------- run


def run(options: argparse.Namespace) -> int:
    """``workbench run``."""
    from .. import simulate

    if options.from_figure is not None:
        scenario = _of_figure(options.from_figure, options.scenario, options.changes)
    elif options.scenario is None:
        hint = "give a file, a shipped name (see 'workbench list scenarios'), or --from-figure FILE"
        raise ScenarioError("nothing to run", hint)
    else:
        scenario = read_scenario(options.scenario, options.changes)
    if options.out is not None:
        check_new(options.out, options.overwrite)
    with ProgressLine(not options.quiet) as line:
        result = simulate.run(scenario, line.report)
    if options.out is not None:
        result.save(options.out, options.overwrite)
    print(as_json(result) if options.json else as_tables(result))
    return _judge(result)


def _of_figure(path: Path, label: str | None, changes: Iterable[str]) -> Scenario:
    from ..charts import scenarios_of

    found = scenarios_of(path)
    if label is None and len(found) == 1:
        label = next(iter(found))
    if label not in found:
        known = ", ".join(map(repr, found)) or "nothing with a scenario"
        problem = f"shows nothing called {label!r}" if label else f"shows {len(found)} scenarios"
        raise ScenarioError(f"{path} {problem}", f"say which: {known}")
    return changed(found[label].to_dict(), f"{path}, {label}", changes)


def check_new(place: Path, overwrite: bool) -> None:
    """Complain before a long run, not after it, when its result has no place to go."""
    if place.exists() and not overwrite:
        raise WorkbenchError(f"{place} exists already", "choose another name, or add --overwrite")


def _judge(result: Result) -> int:
    if result.status in _GUEST_FAILED:
        why = result.facts.get("fatal") or "the guest shut down (triple fault)"
        print(f"workbench: the run ended as {result.status}: {why}", file=sys.stderr)
        return EXIT_GUEST
    if result.facts.get("unknown_count"):
        unknown = result.facts["unknown"]
        print(f"workbench: unknown instruction {unknown}; the guest got #UD", file=sys.stderr)
    if result.status == "stopped" and result.stop_code != 0:
        print(f"workbench: the guest stopped with code {result.stop_code}", file=sys.stderr)
        return EXIT_GUEST
    return EXIT_OK


def as_json(result: Result) -> str:
    """Everything the tables of a result say, as JSON."""
    content: dict[str, Any] = {
        "scenario": result.scenario.resolved(),
        "status": result.status,
        "fingerprint": result.fingerprint(),
        "summary": _records(result.summary())[0],
    }
    content |= {name: _records(getattr(result, name)) for name in TABLES}
    content["provenance"] = dict(result.provenance)
    return json.dumps(content, indent=2, default=str)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.to_json(orient="records", double_precision=6))


def as_tables(result: Result) -> str:
    """The tables of a result for a terminal."""
    from ..charts import to_text

    bill = result.operations.rename(columns=lambda name: name.replace("_per_operation", "/op"))
    parts = [to_text(kind, result).rstrip() for kind in ("summary", "exits", "cost", "tlb")]
    parts.append("Bill per L2 operation\n" + text_table(bill))
    return "\n\n".join(parts)


def text_table(frame: pd.DataFrame) -> str:
    """A frame as aligned text."""
    if frame.empty:
        return "(none)"
    return frame.to_string(index=False, float_format=lambda number: f"{number:,.1f}")


# ---------------------------------------------------------------- lab, figures, bench


def checkout() -> Path:
    """The folder that this package lies in; of a checkout it holds notebooks and benchmarks."""
    return Path(__file__).resolve().parents[2]


def lab(options: argparse.Namespace) -> int:
    """``workbench lab``: JupyterLab, or with ``--app`` Voilà with the panel alone."""
    module = "voila" if options.app else "jupyterlab"
    if importlib.util.find_spec(module) is None:
        hint = "install it with: pip install 'nested-hvm-workbench[app]'"
        raise WorkbenchError(f"{module} is not installed", hint)
    default = checkout() / "notebooks" / ("app.ipynb" if options.app else "00_start.ipynb")
    notebook = Path(options.notebook) if options.notebook else default
    target = [str(notebook)] if notebook.exists() else []
    if options.notebook and not target:
        raise WorkbenchError(f"{notebook}: no such notebook", "give the path of an .ipynb file")
    if options.app and not target:
        raise WorkbenchError("notebooks/app.ipynb is not here", "run this in a checkout")
    if module == "jupyterlab" and target and not options.notebook:
        target.append(f"--ServerApp.root_dir={checkout()}")  # notebooks link to guests and data
    return subprocess.run([sys.executable, "-m", module, *target, *options.rest]).returncode


def figures(options: argparse.Namespace) -> int:
    """``workbench figures``."""
    from .figures import DEFAULTS, EXPERIMENTS, FORMATS, write_experiments, write_figures

    formats = [form.strip() for form in options.formats.split(",") if form.strip()]
    for form in formats:
        if form not in FORMATS:
            raise WorkbenchError(f"no format called {form!r}", did_you_mean(form, FORMATS))
    names = list(options.names) or [DEFAULTS, EXPERIMENTS]
    verdicts: list[str] = []
    changes = dict(map(split_change, options.changes))
    with ProgressLine() as line:
        written = []
        if DEFAULTS in names:
            names.remove(DEFAULTS)
            scenarios = {name: read_scenario(name, options.changes) for name in shipped_scenarios()}
            written += write_figures(scenarios, options.out, formats, line.report, options.size)
        written += write_experiments(
            names, options.out, formats, line.report, options.size, verdicts.append, changes
        )
    print("\n".join(map(str, [*written, *verdicts])))
    return EXIT_OK


def bench(options: argparse.Namespace) -> int:
    """``workbench bench``."""
    folder = checkout() / "benchmarks"
    found = {path.stem: path for path in sorted(folder.glob("bench_*.py"))}
    if not found:
        raise WorkbenchError("no benchmarks here", "run this in a checkout of the project")
    known = {name.removeprefix("bench_"): path for name, path in found.items()}
    for name in options.only:
        if name not in known:
            raise WorkbenchError(f"no benchmark called {name!r}", did_you_mean(name, known))
    chosen = options.only or list(known)
    return max(subprocess.run([sys.executable, str(known[n])]).returncode for n in chosen)


# ---------------------------------------------------------------- warmup, doctor, list, cite


def warmup(options: argparse.Namespace) -> int:
    """``workbench warmup``."""
    from .. import simulate
    from ..core import units

    warm = units.is_warm()
    with ProgressLine() as line:
        simulate.prepare(line.report)
    print("the core was compiled already" if warm else "the core is compiled")
    return EXIT_OK


def doctor(options: argparse.Namespace) -> int:
    """``workbench doctor``."""
    from .doctor import examine

    findings = examine()
    print("\n".join(str(finding) for finding in findings))
    return (
        EXIT_ERROR
        if any(finding.required and not finding.good for finding in findings)
        else EXIT_OK
    )


def listing(options: argparse.Namespace) -> int:
    """``workbench list``."""
    from .listing import TOPICS

    topics = [options.topic] if options.topic else list(TOPICS)
    print("\n\n".join(TOPICS[topic]() for topic in topics))
    return EXIT_OK


def cite(options: argparse.Namespace) -> int:
    """``workbench cite``."""
    from .listing import all_sources, sources_text

    keys = _counted(options.scenario).sources if options.scenario else all_sources()
    print(sources_text(keys, options.bibtex))
    return EXIT_OK


def _counted(name: str) -> Result:
    """A saved result, or the run of a scenario: only counts tell which prices were used."""
    from .. import simulate
    from ..result import Result

    if Path(name).is_dir():
        return Result.load(name)
    with ProgressLine(True) as line:
        return simulate.run(read_scenario(name), line.report)


# ---------------------------------------------------------------- rules


def rules(options: argparse.Namespace) -> int:
    """``workbench rules``: list the rules of the manuals, or check them one by one."""
    from .. import simulate
    from . import rules as suite

    chosen = suite.matching(options.pattern)
    if options.list:
        for rule in chosen:
            print(f"{rule.name}\n    {rule.says} ({rule.source})")
        return EXIT_OK
    with ProgressLine(not options.quiet) as line:
        simulate.prepare(line.report)
    tally = dict.fromkeys(suite.OUTCOMES, 0)
    settings = suite.parse_settings(options.changes)
    for rule in chosen:
        verdict = suite.check(rule, settings)
        tally[verdict.outcome] += 1
        print(verdict.line, flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in tally.items()))
    return EXIT_GUEST if tally["FAIL"] else EXIT_OK


# ---------------------------------------------------------------- how good the model is


def calibrate(options: argparse.Namespace) -> int:
    """``workbench calibrate``: fit the software terms of presets to single-level rows."""
    from ..record.calibration import calibrate as fit
    from ..record.calibration import presets_with_rows

    if options.out is not None and options.preset is None:
        hint = f"name one of: {', '.join(presets_with_rows())}"
        raise WorkbenchError("--out takes one preset, and none is named", hint)
    if options.out is not None:
        check_new(options.out, options.overwrite)
    names = [options.preset] if options.preset else presets_with_rows()
    with ProgressLine(not options.quiet) as line:
        found = [fit(name, progress=line.report) for name in names]
    print("\n\n".join(each.to_text() for each in found))
    if options.out is not None:
        print(f"\nwritten to {found[0].save(options.out)}")
    return EXIT_OK


def record(options: argparse.Namespace) -> int:
    """``workbench record``: what the model predicts for published nested rows, and what was measured."""
    from ..record.predictions import as_text, predictions

    with ProgressLine(not options.quiet) as line:
        table = predictions(fitted=not options.unfitted, progress=line.report)
    print(json.dumps(_records(table), indent=2) if options.json else as_text(table))
    return EXIT_OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "lab": lab,
    "figures": figures,
    "warmup": warmup,
    "doctor": doctor,
    "list": listing,
    "cite": cite,
    "bench": bench,
    "rules": rules,
    "calibrate": calibrate,
    "record": record,
    **study_commands.COMMANDS,
}
