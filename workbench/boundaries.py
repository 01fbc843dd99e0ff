"""What the model leaves out: the same text in the README and in the panel."""

from __future__ import annotations

from functools import cache

from .paths import data_dir


@cache
def not_modelled() -> tuple[str, ...]:
    """One paragraph for each thing that is left out, with names of settings in backquotes."""
    text = (data_dir() / "not_modelled.md").read_text(encoding="utf-8")
    return tuple(" ".join(part.split()) for part in f"\n{text}".split("\n- ") if part.strip())
