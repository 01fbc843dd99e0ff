"""What a figure was made from: kept with the figure, written into its file, read back from there.

A file carries one JSON object, ``{"workbench": version, "scenarios": {label: scenario}}``: in the
text chunk ``workbench`` of a PNG, in the Dublin Core description of an SVG, and, as base64 (a
PDF string has escapes of its own), among the keywords of a PDF.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from ..errors import ResultError
from ..provenance import workbench_version
from ..result import Result
from ..scenario import Scenario

_MARK = "workbench"
_DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
_ORIGINS: WeakKeyDictionary[Figure, str] = WeakKeyDictionary()


def remember(figure: Figure, pairs: Iterable[tuple[str, Result]]) -> None:
    """Keep the scenarios of labelled results with a figure."""
    scenarios = {label: result.scenario.to_dict() for label, result in pairs}
    _ORIGINS[figure] = json.dumps({_MARK: workbench_version(), "scenarios": scenarios})


def metadata(figure: Figure, form: str) -> dict[str, str]:
    """What the file of a figure says of its origin, as matplotlib's ``metadata`` wants it."""
    text = _ORIGINS.get(figure)
    if text is None:
        return {}
    if form == "pdf":
        return {"Keywords": f"{_MARK}:{base64.b64encode(text.encode()).decode()}"}
    return {"Description": text} if form == "svg" else {_MARK: text}


def scenarios_of(path: str | Path) -> dict[str, Scenario]:
    """The scenarios that a figure's file was made from.

    Parameters
    ----------
    path : str or Path
        A PNG, SVG or PDF that ``charts.save`` or ``workbench figures`` wrote.

    Returns
    -------
    dict of str to Scenario
        Label in the figure -> scenario.

    Raises
    ------
    ResultError
        No such file, or it says nothing of its origin.
    """
    path = Path(path)
    try:
        text = _READERS[path.suffix.lower()](path)
        found = json.loads(text)["scenarios"]
    except KeyError:
        hint = f"figures end in {', '.join(_READERS)}"
        raise ResultError(f"{path}: not a figure with its origin in it", hint) from None
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise ResultError(f"{path}: cannot read the figure: {reason}", "check the path") from None
    except (ValueError, LookupError, ElementTree.ParseError):
        hint = "only files that charts.save wrote say where they come from; other programs drop it"
        raise ResultError(f"{path}: does not say what it was made from", hint) from None
    return {
        label: Scenario.from_dict(values, f"{path}, {label}") for label, values in found.items()
    }


def _of_png(path: Path) -> str:
    try:
        with Image.open(path) as image:
            return str(image.info.get(_MARK, ""))
    except UnidentifiedImageError:
        return ""


def _of_svg(path: Path) -> str:
    found = ElementTree.parse(path).iter(_DESCRIPTION)
    return next((element.text or "" for element in found), "")


def _of_pdf(path: Path) -> str:
    found = re.search(rb"/Keywords \(workbench:([\w+/=]+)\)", path.read_bytes())
    try:
        return base64.b64decode(found[1]).decode() if found else ""
    except binascii.Error:
        return ""


_READERS = {".png": _of_png, ".svg": _of_svg, ".pdf": _of_pdf}
