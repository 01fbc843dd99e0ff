"""The interactive panel: a state without widgets (``state``), and its widgets (``view``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .view import Panel as Panel
    from .view import panel as panel


def __getattr__(name: str) -> Any:
    if name in ("Panel", "panel"):
        from . import view

        return getattr(view, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
