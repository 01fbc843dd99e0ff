"""Figures as files and text. The same figure gives the same bytes, whenever it is written."""

from __future__ import annotations

import io
import os
import tempfile
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..errors import ResultError
from . import origin
from .style import RC

_CANVASES = {"png": FigureCanvasAgg, "svg": FigureCanvasSVG, "pdf": FigureCanvasPdf}
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def alt_text(figure: Figure) -> str:
    """What the figure shows, in words."""
    return str(figure.get_label())


def _render(
    figure: Figure, form: str, dpi: float | None = None, more: dict[str, str] | None = None
) -> bytes:
    buffer = io.BytesIO()
    dots = figure.dpi
    with mpl.rc_context(RC):  # not savefig: it draws twice
        try:
            figure.set_dpi(dpi or RC["savefig.dpi"])
            canvas = _CANVASES[form](figure)
            getattr(canvas, f"print_{form}")(buffer, metadata=_METADATA[form] | (more or {}))
        finally:
            figure.set_dpi(dots)
            FigureCanvasAgg(figure)
    data = buffer.getvalue()
    if form == "svg":  # role and label for a screen reader; matplotlib leaves both out
        spoken = f'<svg role="img" aria-label="{escape(alt_text(figure))}" '
        data = data.replace(b"<svg ", spoken.encode(), 1)
    return data


def to_svg(figure: Figure) -> str:
    """The figure as one ``<svg role="img" aria-label=...>`` element, to stand inside HTML."""
    text = _render(figure, "svg").decode()
    return text[text.index("<svg") :]


def to_png(figure: Figure, dpi: float | None = None) -> bytes:
    """The figure as PNG; ``dpi`` dots per inch, 200 by default."""
    return _render(figure, "png", dpi)


def save(figure: Figure, path: str | Path, dpi: float | None = None) -> Path:
    """Write a figure as PNG, SVG or PDF, by the name's ending; all or nothing.

    The file carries the scenarios it was made from (:func:`scenarios_of`).  ``dpi``: dots per inch
    of a PNG, and of what SVG and PDF hold as pictures; 200 by default.
    """
    path = Path(path)
    form = path.suffix.lower().lstrip(".")
    if form not in _CANVASES:
        hint = f"end the name with .{', .'.join(_CANVASES)}"
        raise ResultError(f"{path}: figures cannot be written as {path.suffix or 'that'!r}", hint)
    data = _render(figure, form, dpi, origin.metadata(figure, form))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, build = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(build, 0o644)
        os.replace(build, path)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise ResultError(f"{path}: cannot write the figure: {reason}", "check the path") from None
    return path
