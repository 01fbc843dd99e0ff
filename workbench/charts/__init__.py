"""Figures and plain-text tables of results; the model is never run here.

Every chart takes one Result, a list, or a dict label -> Result, and returns a
``matplotlib.figure.Figure`` that belongs to nobody (no pyplot, nothing stays in memory).
"""

from __future__ import annotations

from .anatomy import step_table, timeline
from .costs import cost
from .differences import differences
from .effects import effects
from .exits import exit_frequency
from .experiment import Labels, experiment
from .interrupts import interrupts
from .origin import scenarios_of
from .output import alt_text, save, to_png, to_svg
from .record import depth, predictions, trend
from .sizes import SIZES
from .text import to_text
from .tlb import tlb_flushes
from .tornado import toggle_tornado, tornado

__all__ = [
    "Labels", "SIZES", "alt_text", "cost", "depth", "differences", "effects", "exit_frequency", "experiment",
    "interrupts",
    "predictions", "save", "scenarios_of", "step_table", "timeline", "tlb_flushes", "to_png",
    "to_svg", "to_text", "toggle_tornado", "tornado", "trend",
]  # fmt: skip
