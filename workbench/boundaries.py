"""What the model leaves out, in the README's words, for the panel.

An installed package carries the README beside its data, as a checkout does.
"""

from __future__ import annotations

from functools import cache

from .paths import data_dir

_HEADING = "\n## What is not modelled\n"


@cache
def not_modelled() -> tuple[str, ...]:
    """One paragraph for each thing that is left out, with names of settings in backquotes."""
    text = (data_dir().parent / "README.md").read_text(encoding="utf-8")
    part = text.partition(_HEADING)[2].partition("\n## ")[0]
    return tuple(" ".join(item.split()) for item in part.split("\n- ") if item.strip())
