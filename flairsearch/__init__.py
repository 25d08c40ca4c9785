"""flairsearch: type a sentence, get the photos and the place in each photo.

Public are the names below, and nothing else; the README has the map of the rooms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flairsearch.core.errors import FlairSearchError
    from flairsearch.core.filters import Scope
    from flairsearch.core.query import Example, Terms
    from flairsearch.core.reports import Report
    from flairsearch.core.types import Hit, Region
    from flairsearch.engine import Engine
    from flairsearch.model.flair import FLAIR, load_model

__all__ = [
    "FLAIR",
    "Engine",
    "Example",
    "FlairSearchError",
    "Hit",
    "Region",
    "Report",
    "Scope",
    "Terms",
    "load_model",
]
__version__ = "0.1.0"

_HOMES = {
    "Engine": "engine",
    "Example": "core.query",
    "FlairSearchError": "core.errors",
    "FLAIR": "model.flair",
    "load_model": "model.flair",
    "Report": "core.reports",
    "Scope": "core.filters",
    "Terms": "core.query",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `flairsearch --help` must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'flairsearch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"flairsearch.{_HOMES.get(name, 'core.types')}"), name)
