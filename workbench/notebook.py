"""Figures in notebooks: the last line of a cell shows a chart, with its alternative text."""

from __future__ import annotations

import sys


def show_figures() -> None:
    """Let IPython show a matplotlib Figure as accessible SVG; does nothing outside of IPython."""
    if "IPython" not in sys.modules:
        return
    from IPython.core.getipython import get_ipython
    from matplotlib.figure import Figure

    from .charts import to_svg

    shell = get_ipython()
    if shell is not None and shell.display_formatter is not None:
        shell.display_formatter.formatters["text/html"].for_type(Figure, to_svg)
