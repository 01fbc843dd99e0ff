"""Scenarios as text: TOML, JSON and Python code. Knows the formats, not what a scenario means."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ScenarioError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read(source: str | Path, form: str) -> tuple[dict[str, Any], str]:
    """Parse a scenario in TOML or JSON.

    Parameters
    ----------
    source : str or Path
        A path, or the text itself when it is a string with a line break, ``=`` or ``{``.
    form : {"toml", "json"}

    Returns
    -------
    (dict, str)
        The values, and what to call the source in an error.
    """
    is_text = isinstance(source, str) and (not source.strip() or any(c in source for c in "\n={"))
    where = f"{form} text" if is_text else str(source)
    text = str(source) if is_text else _load(Path(source))
    try:
        values = tomllib.loads(text) if form == "toml" else json.loads(text)
    except ValueError as problem:
        raise ScenarioError(f"{where}: not {form.upper()}: {problem}", "mend that line") from None
    if not isinstance(values, dict):
        raise ScenarioError(f"{where}: not a scenario", "a table of settings is expected")
    return values, where


def _load(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise ScenarioError(f"{path}: cannot be read: {reason}", "check the path") from None


def toml(values: Mapping[str, Any]) -> str:
    """TOML text of a two-level mapping of strings, numbers and bools."""
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    lines = [_line(name, value) for name, value in values.items() if name not in tables]
    for name, table in tables.items():
        lines += ["", f"[{_key(name)}]", *(_line(key, value) for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any) -> str:
    return f"{_key(name)} = {_value(value)}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _string(value) if isinstance(value, str) else repr(value)


def code(values: Mapping[str, Any]) -> str:
    """Python that makes a scenario of these settings and runs it."""
    settings = "".join(f"    {name}={value!r},\n" for name, value in values.items())
    return f"import workbench as wb\n\nscenario = wb.Scenario(\n{settings})\nresult = wb.run(scenario)\n"
